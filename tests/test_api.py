"""What a notebook meets: data in memory, a class of its own, results that come back."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest

import sclitmus
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.data.simulate import simulate
from sclitmus.errors import StudyError

QUICK = {"references": False, "projections": False, "jobs": 2}


class Planted:
    """Knows nothing but the first genes; stands for a user's model."""

    card = MethodCard(id="planted", kind="foundation", part="contender", title="Planted")

    def fit(self, train: Dataset, rng: np.random.Generator) -> "Planted":
        return self

    def embed(self, cells: Dataset) -> np.ndarray:
        return np.log1p(cells.counts[:, :20].toarray())


@pytest.fixture(scope="module")
def cells() -> Dataset:
    return simulate(n_cells=200, n_genes=100, seed=1)


@pytest.fixture(scope="module")
def results(cells: Dataset, tmp_path_factory: pytest.TempPathFactory) -> sclitmus.Results:
    out = tmp_path_factory.mktemp("api")
    methods = [Planted(), "pca", "random_projection"]
    return sclitmus.run(cells, methods=methods, out=out, **QUICK)


def test_a_class_is_assessed_beside_the_catalogue(results: sclitmus.Results) -> None:
    verdict = results.verdict()
    assert set(verdict["method"]) >= {"planted", "pca"}
    assert results.n_failed == 0
    assert len(results.sentences()) == 2  # one contender, two tasks
    assert "planted" in results._repr_html_().lower()


def test_results_come_back_from_their_folder(results: sclitmus.Results) -> None:
    assert results.folder is not None
    again = sclitmus.load(results.folder)
    assert again.to_frame().equals(results.to_frame())
    assert again.verdict().equals(results.verdict())


def test_the_report_is_one_file_and_the_same_twice(
    results: sclitmus.Results, tmp_path: Path
) -> None:
    pages = [results.report(tmp_path / name).read_text() for name in ("a.html", "b.html")]
    # Vega numbers its clip paths on from drawing to drawing.
    first, second = (re.sub(r"clip\d+", "clip", page) for page in pages)
    assert first == second


def test_an_anndata_is_not_written_into(cells: Dataset, tmp_path: Path) -> None:
    table = anndata.AnnData(cells.counts.copy())
    label = cells.role("label")
    table.obs["type"] = np.array(label.names)[label.codes]
    before = table.copy()
    sclitmus.run(table, label="type", methods=["pca"], out=tmp_path, **QUICK)
    assert (table.X != before.X).nnz == 0
    assert list(table.obs.columns) == list(before.obs.columns)
    assert table.uns == before.uns
    assert not table.obsm.keys()


def test_columns_for_settled_data_are_refused(cells: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="settled"):
        sclitmus.run(cells, label="cell_type", out=tmp_path)


def test_an_array_of_the_wrong_length_is_refused(cells: Dataset, tmp_path: Path) -> None:
    with pytest.raises(sclitmus.errors.DataError, match="199"):
        sclitmus.run(cells, embeddings={"mine": np.zeros((199, 3))}, out=tmp_path, **QUICK)


def test_two_seeds_repeat_only_what_is_random(cells: Dataset, tmp_path: Path) -> None:
    methods = ["pca", "random_embedding"]
    frame = sclitmus.run(cells, methods=methods, seeds=2, out=tmp_path, **QUICK).to_frame()
    seeds = {m: set(frame.filter(frame["method"] == m)["seed"]) for m in methods}
    assert seeds == {"pca": {0}, "random_embedding": {0, 1}}


def test_scib_definitions_are_another_version_of_the_metric(cells: Dataset, tmp_path: Path) -> None:
    run = {"methods": ["pca"], "out": tmp_path, **QUICK}
    ours = sclitmus.run(cells, **run).to_frame()
    theirs = sclitmus.run(cells, compat="scib", **run).to_frame()
    versions = [set(f.filter(f["metric"] == "kbet")["metric_version"]) for f in (ours, theirs)]
    assert not versions[0] & versions[1]
