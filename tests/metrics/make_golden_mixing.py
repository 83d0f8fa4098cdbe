"""Make `golden/mixing.npz` with scib-metrics 0.5.10 and umap-learn: run by hand, never by tests.

``python tests/metrics/make_golden_mixing.py`` in an environment with the ``bench`` extra.
Neighbours are scikit-learn's exact ones, so that the values do not depend on pynndescent's
search (inside kBET's diffusion space they still do).
"""

from pathlib import Path

import jax
import numpy as np
import scib_metrics
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.neighbors import NearestNeighbors

GOLDEN = Path(__file__).parent / "golden" / "mixing.npz"


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """700 cells: types that mix, hardly mix, have one batch, are tiny, or lie in two pieces."""
    rng = np.random.default_rng(7)
    sizes = np.array([14, 180, 160, 120, 8, 30, 188])
    label = np.repeat(np.arange(7), sizes).astype(np.int32)
    batch = rng.integers(0, 4, len(label)).astype(np.int32)
    batch[label == 3] = 2  # one batch only
    centre = rng.normal(scale=2.0, size=(7, 8))
    shift = rng.normal(size=(4, 8))
    strength = np.array([0.0, 0.1, 0.6, 0.0, 0.0, 0.0, 0.05])[label]
    z = centre[label] + strength[:, None] * shift[batch] + rng.normal(size=(len(label), 8))
    second = np.flatnonzero(label == 6)[:60]
    z[second] += 40.0  # the last type lies in two pieces, 60 and 128 cells
    order = rng.permutation(len(label))
    return z[order].astype(np.float32), label[order], batch[order]


def main() -> None:
    z, label, batch = cells()
    found = NearestNeighbors(n_neighbors=90, algorithm="brute").fit(z.astype(np.float64))
    distances, indices = found.kneighbors(z.astype(np.float64))
    assert (indices[:, 0] == np.arange(len(z))).all()
    near = NeighborsResults(
        indices=indices.astype(np.int32), distances=distances.astype(np.float32)
    )
    golden = {"z": z, "label": label, "batch": batch, "indices": indices[:, :30].astype(np.int16)}
    for name, codes in (("batch", batch), ("label", label)):
        golden[f"lisi_{name}"] = scib_metrics.lisi_knn(near, codes)
        golden[f"lisi_{name}_perplexity_10"] = scib_metrics.lisi_knn(
            near.subset_neighbors(50), codes, perplexity=10
        )
    golden["ilisi"] = scib_metrics.ilisi_knn(near, batch)
    golden["clisi"] = scib_metrics.clisi_knn(near, label)
    graph = near.subset_neighbors(15)
    golden["graph_connectivity"] = scib_metrics.graph_connectivity(graph, label)
    connectivities = graph.knn_graph_connectivities.tocoo()
    golden["connectivities_row"] = connectivities.row.astype(np.int16)
    golden["connectivities_column"] = connectivities.col.astype(np.int16)
    golden["connectivities"] = connectivities.data.astype(np.float32)
    fifty = near.subset_neighbors(50)
    # With the tiny type first (as given) its 13 dimensions are passed on to all others.
    score, table = scib_metrics.kbet_per_label(fifty, batch, label, return_df=True)
    golden["kbet"], golden["kbet_types"] = score, table["kBET"].to_numpy()
    # With the types in the opposite order only the last ones are affected.
    score, table = scib_metrics.kbet_per_label(fifty, batch, 6 - label, return_df=True)
    golden["kbet_reversed"], golden["kbet_reversed_types"] = score, table["kBET"].to_numpy()
    # Noise in 500 dimensions: distances vary little, and float32 weights underflow.
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(150, 500))
    codes = rng.integers(0, 4, 150).astype(np.int32)
    found = NearestNeighbors(n_neighbors=60, algorithm="brute").fit(noise)
    distances, indices = found.kneighbors(noise)
    near = NeighborsResults(
        indices=indices.astype(np.int32), distances=distances.astype(np.float32)
    )
    golden["noise_indices"] = indices.astype(np.int16)
    golden["noise_distances"] = near.distances
    golden["noise_codes"] = codes
    golden["noise_lisi_float32"] = scib_metrics.lisi_knn(near, codes)
    with jax.enable_x64(True):
        near.distances = near.distances.astype(np.float64)
        golden["noise_lisi_float64"] = np.asarray(scib_metrics.lisi_knn(near, codes))
    np.savez_compressed(GOLDEN, **golden)
    print(GOLDEN.stat().st_size, {k: v for k, v in golden.items() if np.size(v) < 10})  # noqa: T201


if __name__ == "__main__":
    main()
