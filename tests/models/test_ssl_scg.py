"""SSL in single-cell genomics beside the numbers that the official class gave.

The fixture holds a Lightning checkpoint of the official MLPAutoEncoder with random weights (50
genes, encoder 24-24-16-16-8), its genes, counts, and what the official code made of them: inputs
and embeddings.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.card import ModelCard, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.port import Behaviour
from sclitmus.models.ssl_scg import SSL, Network

FIXTURE = Path(__file__).parent / "fixtures" / "ssl_scg"
PORT = "sclitmus.models.ssl_scg:SSL"
UNITS = [24, 24, 16, 16, 8]


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def small(id: str) -> ModelCard:
        return replace(model_card(id), config={"units": UNITS})

    monkeypatch.setattr("sclitmus.models.frozen.model_card", small)
    for name in ("RandomMask.ckpt", "var.parquet"):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


def cells_of(counts: np.ndarray, ensembl: list[str], symbol: list[str] | None = None) -> Dataset:
    genes = Genes(tuple(symbol or [""] * len(ensembl)), tuple(ensembl), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return cells_of(official["counts"], official["names"].tolist())


def fitted(folder: Path, cells: Dataset, behaviour: Behaviour = "fixed") -> FrozenModel:
    model = FrozenModel("ssl_scg", PORT, folder, behaviour)
    return model.fit(cells, np.random.default_rng(0))


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_inputs_and_embeddings_are_those_of_the_official_code(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray], behaviour: Behaviour
) -> None:
    model = fitted(folder, cells, behaviour)
    port = model.loaded
    assert isinstance(port, SSL)
    lookup = port.space.match(cells.genes).lookup
    tokens = port.tokenise(cells.counts, lookup, np.random.default_rng(0))
    read = tokens.cells["x"]
    assert np.abs(read - official["inputs"]).max() <= 2e-6  # log counts up to 9.2
    assert np.array_equal(read > 0, official["inputs"] > 0)
    assert np.abs(model.embed(cells) - official["cells"]).max() <= 1e-5


def test_it_depends_on_the_cell_alone(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells)
    z = model.embed(cells)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(model.embed(cells.take(order)) - z[order]).max() < 1e-5
    for i in (0, 1, 5):
        assert np.abs(model.embed(cells.take(np.array([i])))[0] - z[i]).max() < 1e-5
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    names = [cells.genes.ensembl[i] for i in columns]
    turned = cells_of(cells.counts.toarray()[:, columns], names)
    assert np.abs(fitted(folder, turned).embed(turned) - z).max() < 1e-5


def test_columns_of_one_gene_are_added_up_and_symbols_stand_in(folder: Path) -> None:
    ids = [f"ENSG{i:011d}" for i in range(1, 51)]
    counts = np.random.default_rng(3).integers(0, 6, (4, 50))
    whole = cells_of(counts, ids)
    z = fitted(folder, whole).embed(whole)
    halves = np.concatenate([counts // 2, counts - counts // 2], axis=1)
    split = cells_of(halves, ids + [""] * 50, [""] * 50 + [f"GENE{i}" for i in range(50)])
    assert np.abs(fitted(folder, split).embed(split) - z).max() < 1e-5


def test_a_cell_without_known_genes_is_what_the_official_code_makes_of_no_counts(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    empty = cells.take(np.array([1]))
    assert official["inputs"][1].max() == 0
    z = fitted(folder, cells).embed(empty)
    assert np.abs(z[0] - official["cells"][1]).max() <= 1e-5


def test_it_has_no_gene_vectors(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells)
    for given in (None, cells):
        with pytest.raises(NotApplicable, match="no vectors of genes"):
            model.gene_vectors(given)


def test_missing_weights_are_not_applicable_and_say_how_to_get_them(
    folder: Path, cells: Dataset
) -> None:
    (folder / "RandomMask.ckpt").unlink()
    with pytest.raises(NotApplicable, match=r"RandomMask\.ckpt.*sclitmus fetch ssl_scg"):
        fitted(folder, cells)


def test_a_key_too_few_too_many_or_of_another_shape_is_named(folder: Path, cells: Dataset) -> None:
    path = folder / "RandomMask.ckpt"
    file = torch.load(FIXTURE / "RandomMask.ckpt", weights_only=False)
    state = file["state_dict"]
    changes = {
        r"missing: encoder\.12\.bias": {k: v for k, v in state.items() if k != "encoder.12.bias"},
        r"unexpected: byol\.weight": state | {"byol.weight": torch.zeros(2)},
        r"encoder\.3\.weight is \(24, 23\)": state | {"encoder.3.weight": torch.zeros(24, 23)},
        "reads 49 genes, but var.parquet names 50": state
        | {"encoder.0.weight": torch.zeros(24, 49)},
    }
    for said, changed in changes.items():
        torch.save(file | {"state_dict": changed}, path)
        (folder / "checksums.json").unlink(missing_ok=True)
        with pytest.raises(WeightsError, match=said):
            fitted(folder, cells)
    torch.save(state, path)
    (folder / "checksums.json").unlink()
    with pytest.raises(WeightsError, match="no 'state_dict'"):
        fitted(folder, cells)


def test_a_cut_off_or_foreign_file_is_refused(folder: Path, cells: Dataset) -> None:
    for name in ("RandomMask.ckpt", "var.parquet"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match=f"{name}.* cannot be read"):
            fitted(folder, cells)
        path.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
        (folder / "checksums.json").unlink()
        with pytest.raises(WeightsError, match="a web page"):
            fitted(folder, cells)
        path.write_bytes(whole)
        (folder / "checksums.json").unlink(missing_ok=True)
    pl.DataFrame({"gene": ["A"]}).write_parquet(folder / "var.parquet")
    (folder / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match="feature_id"):
        fitted(folder, cells)


def test_random_weights_need_no_files_and_follow_their_seed() -> None:
    few = simulate(3, 60)

    def embed(seed: int) -> np.ndarray:
        model = FrozenModel("ssl_scg", PORT, "/nowhere", random_init=True, init_seed=seed)
        return model.fit(few, np.random.default_rng(0)).embed(few)

    assert embed(0).shape == (3, 64)
    assert np.array_equal(embed(0), embed(0))
    assert np.abs(embed(0) - embed(1)).max() > 1e-3


def test_the_full_size_is_that_of_the_published_units() -> None:
    # No number of parameters is published; 19,331 genes and these units are (docs of scTab, scripts
    # of the model).
    with torch.device("meta"):
        network = Network(19_331, model_card("ssl_scg").config["units"])
    first, rest = 19_331 * 512 + 512, 512 * 513 + 256 * 513 + 256 * 257 + 64 * 257
    assert sum(p.numel() for p in network.parameters()) == first + rest == 10_374_208
