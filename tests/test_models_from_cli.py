"""Foundation models as a user meets them: `embed`, `run`, `check`, with small checkpoints."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import polars as pl
import pytest

from sclitmus.data.simulate import simulate

FIXTURE = Path(__file__).parent / "models" / "fixtures" / "scgpt"


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "COLUMNS": "200",
        "SCLITMUS_WEIGHTS": str(folder / "weights"),
        "SCLITMUS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def sclitmus(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sclitmus", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(cwd),
    )


def write_cells(path: Path, n_cells: int) -> None:
    data = simulate(n_cells=n_cells, n_genes=66, seed=3)
    counts = data.counts.tolil()
    counts[5] = 0  # an empty droplet
    table = anndata.AnnData(counts.tocsr().astype(np.float32))
    table.obs_names = [f"cell {i}" for i in range(n_cells)]
    table.var_names = [f"GENE{i}" if i < 60 else f"UNKNOWN{i}" for i in range(66)]
    for role in ("label", "batch"):
        column = data.roles[role]
        table.obs[role] = np.array(column.names)[column.codes]
    table.write_h5ad(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights at hand for scgpt, and cells."""
    (tmp_path / "weights").mkdir()
    shutil.copytree(FIXTURE, tmp_path / "weights" / "scgpt")
    write_cells(tmp_path / "cells.h5ad", 120)
    return tmp_path


def test_embed_writes_what_run_reads(folder: Path) -> None:
    done = sclitmus("embed", "cells.h5ad", "scgpt", "--out", "z.npy", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "z.npy\n"
    assert "60 of 66 genes are among the model's" in done.stderr
    assert "UNKNOWN60" in done.stderr
    z = np.load(folder / "z.npy")
    assert z.shape == (120, 32)
    assert np.isnan(z[5]).all()  # the empty droplet; rows are those of the file
    assert np.isfinite(np.delete(z, 5, axis=0)).all()
    for out in ("z.parquet", "z.h5ad"):
        assert sclitmus("embed", "cells.h5ad", "scgpt", "--out", out, cwd=folder).returncode == 0
    table = pl.read_parquet(folder / "z.parquet")
    assert table.columns[:2] == ["cell", "d0"]
    assert "cell 5" not in table["cell"]
    assert np.array_equal(table.drop("cell").to_numpy(), np.delete(z, 5, axis=0))
    copy = anndata.read_h5ad(folder / "z.h5ad")
    assert np.array_equal(copy.obsm["X_scgpt"], z, equal_nan=True)
    with h5py.File(folder / "cells.h5ad") as source:
        assert list(source["obsm"]) == []  # never written into
    ran = sclitmus(
        *("run", "cells.h5ad", "--label", "label", "--batch", "batch", "--no-references"),
        *("--embedding", "a=z.npy", "--embedding", "b=z.parquet", "--no-umap", "--out", "o"),
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr
    scores = pl.read_parquet(folder / "o" / "records.parquet").filter(pl.col("status") == "ok")
    by = scores.pivot(on="method", index=["task", "metric", "split", "unit"], values="value")
    assert by["a"].equals(by["b"])


def test_run_sets_a_model_beside_its_untrained_twin_and_says_what_it_depends_on(
    folder: Path,
) -> None:
    done = sclitmus(
        *("run", "cells.h5ad", "--label", "label", "--batch", "batch", "--methods", "scgpt"),
        *("--no-umap", "--out", "o"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    records = pl.read_parquet(folder / "o" / "records.parquet")
    assert {"scgpt", "scgpt@random_init", "pca"} <= set(records["method"])
    assert records.filter(pl.col("method") == "scgpt")["behaviour"].unique().to_list() == ["fixed"]
    stability = pl.read_parquet(folder / "o" / "stability.parquet")
    assert set(stability["method"]) == {"scgpt"}
    alone = stability.filter(pl.col("change") == "each cell alone")
    assert alone["largest"].item() < 1e-4
    assert stability.filter(pl.col("change").str.contains("missing"))["mean"].item() > 0.01
    page = (folder / "o" / "report.html").read_text()
    assert "one very long cell beside them" in page
    assert "60 of 66 genes are among the model" in page


def test_without_weights_a_model_does_not_apply_and_the_rest_runs(folder: Path) -> None:
    shutil.rmtree(folder / "weights" / "scgpt")
    done = sclitmus(
        *("run", "cells.h5ad", "--label", "label", "--methods", "scgpt,pca", "--no-references"),
        *("--no-umap", "--out", "o"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    records = pl.read_parquet(folder / "o" / "records.parquet")
    assert set(records["method"]) == {"scgpt", "pca"}  # no twin of what did not run
    mine = records.filter(pl.col("method") == "scgpt")
    assert set(mine["status"]) == {"not_applicable"}
    assert "get them with: sclitmus fetch scgpt" in mine["note"][0]
    embed = sclitmus("embed", "cells.h5ad", "scgpt", "--out", "z.npy", cwd=folder)
    assert embed.returncode == 2
    assert "sclitmus fetch scgpt" in embed.stderr
    assert not (folder / "z.npy").exists()


def test_weights_can_lie_anywhere(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    (folder / "weights" / "scgpt").rename(elsewhere)
    done = sclitmus(
        *("embed", "cells.h5ad", "scgpt", "--weights", elsewhere, "--out", "z.npy"), cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_targets_that_cannot_be_written_are_refused_before_the_work(folder: Path) -> None:
    for out, said in (
        ("z.txt", "one of .npy, .parquet, .h5ad"),
        ("nowhere/z.npy", "there is no folder nowhere"),
        ("cells.h5ad", "is the source itself"),
    ):
        done = sclitmus("embed", "cells.h5ad", "scgpt", "--out", out, cwd=folder)
        assert done.returncode == 2
        assert said in done.stderr


def test_check_prints_a_stability_table_for_both_behaviours(folder: Path) -> None:
    done = sclitmus("check", "scgpt", "--data", "cells.h5ad", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "scgpt, official" in done.stdout
    assert "scgpt, fixed" in done.stdout
    assert done.stdout.count("another seed") == 2


def test_a_killed_embedding_goes_on_where_it_stopped(folder: Path) -> None:
    write_cells(folder / "many.h5ad", 12_000)
    arguments = ("embed", "many.h5ad", "scgpt", "--out", "z.npy")
    process = subprocess.Popen(
        [sys.executable, "-m", "sclitmus", *arguments], cwd=folder, env=environment(folder)
    )
    blocks = folder / "cache" / "unfinished"
    give_up = time.monotonic() + 120
    while len(list(blocks.rglob("*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "z.npy").exists()
    kept = {path: path.stat().st_mtime_ns for path in blocks.rglob("*.npz")}
    assert len(kept) >= 2
    done = sclitmus(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list(blocks.rglob("*.npz"))
    resumed = np.load(folder / "z.npy")
    assert sclitmus(*arguments[:-1], "whole.npy", cwd=folder).returncode == 0
    assert np.array_equal(resumed, np.load(folder / "whole.npy"), equal_nan=True)
