"""The command line as a user meets it: real processes, real files, every exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import polars as pl
import pytest

from sclitmus.core.record import RECORD_COLUMNS
from sclitmus.data.simulate import simulate

QUICK = ("--no-references", "--no-umap", "--methods", "pca,random_projection", "--jobs", "2")


def sclitmus(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sclitmus", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 240 simulated cells with four types in two batches, names that bite."""
    data = simulate(n_cells=240, n_genes=120, seed=3)
    label = np.array(data.roles["label"].names)[data.roles["label"].codes].astype(object)
    label[label == label[0]] = "<script>alert(1)</script>"
    table = anndata.AnnData(data.counts)
    table.obs_names = list(data.cells)
    table.var_names = list(data.genes.symbol)
    table.obs["cell type"] = label
    table.obs["lane"] = np.array(data.roles["batch"].names)[data.roles["batch"].codes]
    path = tmp_path_factory.mktemp("cells") / "my cells.h5ad"
    table.write_h5ad(path)
    np.save(path.parent / "mine.npy", np.random.default_rng(0).normal(size=(240, 8)))
    return path


@pytest.fixture(scope="module")
def finished(cells: Path) -> Path:
    """The folder of a run with an embedding brought along."""
    out = cells.parent / "out"
    done = sclitmus(
        *("run", cells, "--label", "cell type", "--batch", "lane"),
        *("--embedding", f"mine={cells.parent / 'mine.npy'}", *QUICK, "--out", out),
        cwd=cells.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    return out


def test_run_writes_report_records_and_verdict(finished: Path) -> None:
    records = pl.read_parquet(finished / "records.parquet")
    assert tuple(records.columns) == RECORD_COLUMNS
    assert set(records["method"]) == {"pca", "random_projection", "mine"}
    assert set(records["task"]) == {"cell_types", "integration"}
    assert set(records["status"]) <= {"ok", "not_applicable"}
    values = records.filter(pl.col("status") == "ok")["value"]
    assert values.is_finite().all()
    verdict = json.loads((finished / "verdict.json").read_text())
    mine = [v for v in verdict["verdicts"] if v["method"] == "mine"]
    # Pure noise: not better than a random projection, whatever the task.
    assert {v["verdict"] for v in mine} == {"below the floor"}
    html = (finished / "report.html").read_text()
    assert "<script>alert(1)</script>" not in html


def test_a_second_run_computes_nothing(finished: Path, cells: Path) -> None:
    before = pl.read_parquet(finished / "records.parquet")
    done = sclitmus(
        *("run", cells, "--label", "cell type", "--batch", "lane"),
        *("--embedding", f"mine={cells.parent / 'mine.npy'}", *QUICK, "--out", finished),
        cwd=cells.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "0 trials to run" in done.stderr
    assert pl.read_parquet(finished / "records.parquet").equals(before)


def test_dry_run_runs_nothing_and_says_what_would_run(cells: Path, tmp_path: Path) -> None:
    done = sclitmus(
        "run", cells, "--label", "cell type", "--dry-run", "--out", tmp_path / "o", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "harmony" in done.stdout
    assert "not applicable" in done.stdout
    assert "batch" in done.stdout  # why Harmony does not apply
    assert not (tmp_path / "o").exists()


def test_report_again_with_tables_and_figures(finished: Path, tmp_path: Path) -> None:
    done = sclitmus(
        *("report", finished, "--out", tmp_path / "again.html"),
        *("--tables", tmp_path / "t", "--figures", tmp_path / "f"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").stat().st_size > 10_000
    suffixes = {path.suffix for path in (tmp_path / "t").iterdir()}
    assert suffixes == {".csv", ".parquet", ".tex"}
    assert any(path.read_text().startswith("<svg") for path in (tmp_path / "f").iterdir())


def test_compare_joins_runs_on_the_same_cells(finished: Path, cells: Path, tmp_path: Path) -> None:
    done = sclitmus(
        *("run", cells, "--label", "cell type", "--batch", "lane", "--no-references"),
        *("--no-umap", "--methods", "hvg", "--out", tmp_path / "hvg"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = sclitmus("compare", finished, tmp_path / "hvg", "--out", tmp_path / "both", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    methods = set(pl.read_parquet(tmp_path / "both" / "records.parquet")["method"])
    assert methods == {"pca", "random_projection", "mine", "hvg"}


def test_compare_refuses_runs_on_other_cells(finished: Path, tmp_path: Path) -> None:
    data = simulate(n_cells=60, n_genes=50, seed=4)
    table = anndata.AnnData(data.counts)
    table.obs_names = list(data.cells)
    table.obs["cell type"] = np.array(data.roles["label"].names)[data.roles["label"].codes]
    table.write_h5ad(tmp_path / "my cells.h5ad")
    done = sclitmus(
        *("run", "my cells.h5ad", "--label", "cell type", "--no-references", "--no-umap"),
        *("--methods", "pca", "--out", "other"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = sclitmus("compare", finished, "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "needed:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "absent.h5ad", "--label", "x"), "absent.h5ad"),
        (("run", "CELLS", "--label", "cell_type"), "cell type"),
        (("run", "CELLS"), "--label"),
        (("run", "CELLS", "--label", "cell type", "--methods", "pcaa"), "pca"),
        (("run", "CELLS", "--label", "cell type", "--tasks", "celltypes"), "cell_types"),
        (("run", "CELLS", "--label", "cell type", "--embedding", "mine"), "NAME=FILE"),
        (("run", "CELLS", "--label", "cell type", "--embedding", "m=absent.npy"), "absent.npy"),
        (("report", "."), "run"),
        (("run", "pbmc68k_reducd"), "pbmc68k_reduced"),
    ],
)
def test_bad_input_is_explained_without_a_traceback(
    arguments: tuple[str, ...], words: str, cells: Path, tmp_path: Path
) -> None:
    done = sclitmus(*(str(cells) if a == "CELLS" else a for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert "needed:" in done.stderr
    assert "remedy:" in done.stderr


def test_a_failing_method_fails_alone(cells: Path, tmp_path: Path) -> None:
    done = sclitmus(
        *("run", cells, "--label", "cell type", *QUICK, "--out", "o"),
        *("--command", f"broken={sys.executable} -c 'raise SystemExit(3)' {{input}} {{output}}"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert "broken" in done.stderr
    records = pl.read_parquet(tmp_path / "o" / "records.parquet")
    by_method = dict(records.group_by("method").agg(pl.col("status").unique()).iter_rows())
    assert by_method["broken"] == ["failed"]
    assert "ok" in by_method["pca"]
    assert (tmp_path / "o" / "report.html").exists()


@pytest.mark.parametrize("what", ["methods", "tasks", "metrics", "datasets"])
def test_list_prints_one_id_per_line_first(what: str, tmp_path: Path) -> None:
    from sclitmus import catalog

    done = sclitmus("list", what, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = [line.split()[0] for line in done.stdout.splitlines()]
    assert first == list(getattr(catalog, what)())


def test_check_runs_the_conformance_kit(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from sclitmus.core.method import MethodCard\n"
        "class Mine:\n"
        "    card = MethodCard(id='mine', kind='foundation', part='contender', title='Mine')\n"
        "    def fit(self, train, rng): return self\n"
        "    def embed(self, cells): return np.ones((3, 2), dtype=np.float32)\n"
    )
    good = sclitmus("check", "pca", cwd=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    bad = sclitmus("check", "mine:Mine", cwd=tmp_path)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "remedy:" in bad.stdout


# Tasks that learn labels, asked for in a study file, and the files of their splits.

LEARN = """
seeds = [0]
projections = false
references = false
methods = ["majority", "nearest_centroid"]
{more}

[[datasets]]
path = "{path}"
id = "mine"
label = "cell type"
roles = {{ group = "lane" }}

[[tasks]]
id = "{task}"
params = {params}
"""
FEW = "{ shots = [1, 2], draws = 2, fractions = [] }"


def study_file(folder: Path, cells: Path, params: str = FEW, **given: str) -> Path:
    given = {"task": "annotation", "more": ""} | given
    path = folder / "study.toml"
    path.write_text(LEARN.format(path=cells, params=params, **given))
    return path


def test_a_task_with_settings_runs_from_a_study_file(cells: Path, tmp_path: Path) -> None:
    study = study_file(tmp_path, cells)
    done = sclitmus("run", study, "--out", "o", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = pl.read_parquet(tmp_path / "o" / "records.parquet")
    assert set(records["task"]) == {"annotation"}
    assert set(records["method"]) == {"majority", "nearest_centroid"}
    settings = {m.partition(".")[2] for m in records["metric"] if m.startswith("macro_f1")}
    assert settings == {"k1", "k2", "few", "all"}
    full = records.filter(split="all", unit="dataset", metric="macro_f1.all")
    value = dict(full.select("method", "value").iter_rows())
    assert value["nearest_centroid"] > 0.9 > 0.3 > value["majority"]
    assert (tmp_path / "o" / "report.html").exists()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("{ shot = [1] }", "shot"),
        ("{ shots = 4 }", "annotation"),
        ("{ draws = 0 }", "draws 0"),
        ("{ draws = 2.5 }", "draws 2.5"),
        ('{ shots = ["one"] }', "shots"),
        ("{ shots = [1, 1] }", "(1, 1)"),
    ],
)
def test_wrong_settings_of_a_task_are_explained(
    params: str, words: str, cells: Path, tmp_path: Path
) -> None:
    study = study_file(tmp_path, cells, params)
    done = sclitmus("run", study, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert "remedy:" in done.stderr


def test_a_task_that_needs_a_group_says_how_to_give_one(cells: Path, tmp_path: Path) -> None:
    done = sclitmus(
        *("run", cells, "--label", "cell type", "--tasks", "transfer", "--dry-run"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "--group COLUMN" in done.stdout
    assert "0 to run" in done.stdout


def test_exported_splits_are_those_of_the_run(cells: Path, tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    done = sclitmus(
        *("splits", "export", cells, "--task", "transfer"),
        *("--label", "cell type", "--group", "lane", "--out", file),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 splits of 240 cells: {file}\n"
    run = ("run", cells, "--label", "cell type", "--group", "lane", "--tasks", "transfer")
    run += ("--no-references", "--methods", "nearest_centroid", "--out", "o")
    first = sclitmus(*run, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = sclitmus(*run, "--splits", file, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "0 trials to run" in again.stderr  # the very same splits


def test_splits_of_ones_own_are_imported_and_used(cells: Path, tmp_path: Path) -> None:
    rows = [f"mine,{('train', 'test')[i % 2]},cell-{i},group:odd" for i in range(240)]
    (tmp_path / "mine.csv").write_text("\n".join(["split,part,cell,held_out", *rows]))
    about = ("--task", "transfer", "--label", "cell type", "--group", "lane")
    done = sclitmus(
        "splits", "import", "mine.csv", cells, *about, "--out", "mine.tsv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = sclitmus(
        *("run", cells, "--label", "cell type", "--group", "lane", "--tasks", "transfer"),
        *("--no-references", "--methods", "nearest_centroid", "--out", "o"),
        *("--splits", "mine.tsv"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    records = pl.read_parquet(tmp_path / "o" / "records.parquet")
    units = records.filter(metric="accuracy", split="all")["unit"]
    assert set(units) == {"dataset", "group:odd"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("export", "CELLS", "--task", "cell_types"), "learns nothing from labels"),
        (("export", "CELLS", "--task", "transfer"), "--group COLUMN"),
        (("export", "CELLS", "--task", "anotation"), "did you mean"),
        (("import", "TABLE", "CELLS", "--task", "annotation"), "the setting ''"),
        (("import", "absent.csv", "CELLS", "--task", "annotation"), "absent.csv"),
    ],
)
def test_splits_that_cannot_be_had_are_explained(
    command: tuple[str, ...], words: str, cells: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("split,part,cell\ns,train,cell-0\ns,train,cell-1\ns,test,cell-2\n")
    named = {"CELLS": str(cells), "TABLE": str(table)}
    done = sclitmus(
        *("splits", *(named.get(word, word) for word in command)),
        *("--label", "cell type", "--out", tmp_path / "s.csv"),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert not (tmp_path / "s.csv").exists()


def test_a_file_of_splits_for_other_data_is_refused(cells: Path, tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    rows = ["s,train,cell-0,other,annotation,all", "s,test,cell-2,other,annotation,all"]
    table.write_text("\n".join(["split,part,cell,dataset,task,setting", *rows]))
    study = study_file(tmp_path, cells, more='splits = ["s.csv"]')
    done = sclitmus("run", study, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "splits of 'other'" in done.stderr
    assert "Traceback" not in done.stderr
