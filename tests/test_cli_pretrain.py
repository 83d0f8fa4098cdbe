"""The verb `pretrain`, from files to a model that runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from sclitmus.cli import pretrain as verb

CONFIG = """
[model]
embsize = 16
nheads = 2
d_hid = 16
nlayers = 1
[training]
epochs = 2
batch_cells = 16
"""


def write(path: Path, counts: np.ndarray) -> Path:
    import anndata
    import pandas as pd

    n_cells, n_genes = counts.shape
    obs = pd.DataFrame(index=[f"{path.stem}-{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    anndata.AnnData(sparse.csr_matrix(counts), obs, var).write_h5ad(path)
    return path


def test_it_trains_prints_and_leaves_a_model_that_embeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sclitmus import api

    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)
    counts = np.random.default_rng(0).poisson(2.0, (120, 40)).astype(np.float32)
    files = [write(tmp_path / "one.h5ad", counts[:60]), write(tmp_path / "two.h5ad", counts[60:])]
    tested = write(tmp_path / "tested.h5ad", counts[55:70])
    out = tmp_path / "scgpt"
    arguments: dict[str, Any] = {"arch": "scgpt", "data": files, "config": config, "out": out}
    assert verb.pretrain(**arguments, without=[tested], device="cpu") == 0
    said = capsys.readouterr()
    assert said.err.count("held out") == 2
    assert "gene_mean" in said.out
    assert "mean of each gene" in said.out
    record = json.loads((out / "training.json").read_text())
    assert [(source["id"], source["cells"]) for source in record["data"]] == [
        ("one", 55),
        ("two", 50),
    ]
    api.embed(files[0], "scgpt", out=tmp_path / "z.npy", compute={"weights": tmp_path})
    assert np.load(tmp_path / "z.npy").shape == (60, 16)
