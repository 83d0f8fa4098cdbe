"""Write golden/relations.npz: inputs, and scGraph's scores of them (scgraph-eval 0.1.2).

Run by hand, never by the tests: ``pip install --no-deps scgraph-eval==0.1.2``, then
``python tests/metrics/make_golden_relations.py``.
"""

import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scgraph import scGraph

GOLDEN = Path(__file__).parent / "golden" / "relations.npz"
N_TYPES = 7


def main() -> None:
    rng = np.random.default_rng(20250102)
    # Type 5 has 9 cells (too few), type 6 is in the last batch only; the fourth batch is too
    # small for scGraph.
    batch = np.repeat(np.arange(4), (130, 120, 110, 40)).astype(np.int32)
    label = rng.integers(0, 5, len(batch)).astype(np.int32)
    label[rng.choice(len(batch), 9, replace=False)] = 5
    label[250:285] = 6
    profile = rng.gamma(1.0, 1.5, size=(N_TYPES, 24)) + 0.3
    counts = rng.poisson(profile[label] * rng.uniform(0.7, 1.4, size=(4, 24))[batch])
    before = np.log1p(counts).astype(np.float32)
    close = before @ rng.normal(size=(24, 5))
    drifted = 4 * rng.normal(size=(N_TYPES, 5))[label] + rng.normal(size=(len(batch), 5))
    embeddings = {"close": close.astype(np.float32), "drifted": drifted.astype(np.float32)}

    obs = pd.DataFrame(
        {"label": [f"t{code}" for code in label], "batch": [f"b{code}" for code in batch]},
        index=[str(i) for i in range(len(batch))],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        anndata.AnnData(before, obs=obs, obsm=embeddings).write_h5ad(path)
        scores = scGraph(str(path), "batch", "label", only_umap=False).main()
    values = {f"{name}/score": scores.loc[name, "Corr-Weighted"] for name in embeddings}
    np.savez_compressed(GOLDEN, label=label, batch=batch, before=before, **embeddings, **values)


if __name__ == "__main__":
    main()
