"""scPRINT beside the numbers that the official class gave for the same small checkpoint.

The fixture holds a lightning checkpoint of random weights in the official layout (16 dimensions, 2
layers, 70 human and 20 mouse genes), counts of 24 cells of which 40 genes each are read, and what
the official collator and class made of them: genes drawn from a numpy stream, states, embeddings;
for both normalisations.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import WeightsError
from sclitmus.models import scprint
from sclitmus.models.card import model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.inference import Passes
from sclitmus.models.scprint import FILE, Config, Network, ScPRINT
from sclitmus.models.tokens import Tokens

FIXTURE = Path(__file__).parent / "fixtures" / "scprint"
N_SPECIAL = 8  # depth, the plain one, six classes


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(FIXTURE / FILE, tmp_path / FILE)
    return tmp_path


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return dataset(official["counts"], official["genes"].tolist())


@pytest.fixture
def forty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scprint, "MAX_GENES", 40)  # as the official code was told


def dataset(counts: np.ndarray, ids: list[str]) -> Dataset:
    genes = Genes(("",) * len(ids), tuple(ids), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


def fitted(
    folder: Path | None, cells: Dataset, behaviour: Any = "fixed", seed: int = 5, **more: Any
) -> FrozenModel:
    port = "sclitmus.models.scprint:ScPRINT"
    model = FrozenModel("scprint_medium", port, folder, behaviour, **more)
    return model.fit(cells, np.random.default_rng(seed))


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The folder with the checkpoint after `change`; our own file, so it may be opened in full."""
    state = torch.load(FIXTURE / FILE, weights_only=False)
    change(state)
    torch.save(state, folder / FILE)
    return folder


def hyper(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state["hyper_parameters"].update(values)


def tokens_of(model: FrozenModel, cells: Dataset, seed: int = 5) -> Tokens:
    port = model.loaded
    assert isinstance(port, ScPRINT)
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(seed))


def genes_of(model: FrozenModel, cells: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows and normalised counts of the gene tokens, (n_cells, n_genes)."""
    tokens = tokens_of(model, cells)
    columns = (tokens.columns[name].reshape(cells.n_cells, -1) for name in ("row", "value"))
    rows, values = (column[:, N_SPECIAL:] for column in columns)
    return rows, values


@pytest.mark.parametrize("normalization", ["sum", "log"])
@pytest.mark.usefixtures("forty")
def test_official_tokens_states_and_embeddings_are_those_of_the_official_code(
    normalization: str, folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    model = fitted(changed(folder, hyper(normalization=normalization)), cells, "official")
    rows, values = genes_of(model, cells)
    assert np.array_equal(rows, official[f"{normalization}_genes"])
    counts = official[f"{normalization}_x"]
    expected = (
        counts / counts.sum(1, keepdims=True) if normalization == "sum" else np.log2(1 + counts)
    )
    assert np.abs(values - expected).max() < 1e-6
    z = model.embed(cells)
    assert np.abs(z - official[f"{normalization}_z"]).max() <= 1e-5
    assert model.loaded is not None
    few = tokens_of(model, cells).take(np.arange(4))
    states = np.concatenate(
        [s for _, s in Passes(model.loaded, model._compute()).each(few, model.loaded.gene_states)]
    ).reshape(4, N_SPECIAL + 40, -1)
    assert np.abs(states[:, N_SPECIAL:] - official[f"{normalization}_gene_states"]).max() <= 1e-5


@pytest.mark.usefixtures("forty")
def test_official_draws_genes(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    z = fitted(folder, cells, "official", seed=6).embed(cells)
    assert np.abs(z - official["sum_z"]).max() > 1e-2
    assert np.abs(official["sum_z"] - official["log_z"]).max() > 1e-4  # the two are told apart


@pytest.mark.usefixtures("forty")
def test_fixed_depends_on_the_cell_alone(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    z = fitted(folder, cells, seed=1).embed(cells)
    model = fitted(folder, cells, seed=2)
    assert np.array_equal(model.embed(cells), z)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(model.embed(cells.take(order)) - z[order]).max() < 2e-6
    for i in (0, 2, 3):
        assert np.abs(model.embed(cells.take(np.array([i])))[0] - z[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    turned = dataset(official["counts"][:, columns], [cells.genes.ensembl[i] for i in columns])
    assert np.abs(fitted(folder, turned).embed(turned) - z).max() < 2e-6
    # A gene without a count may as well not be there.
    seen = np.flatnonzero(official["counts"][0])
    lean = dataset(official["counts"][:1, seen], [cells.genes.ensembl[i] for i in seen])
    assert np.abs(fitted(folder, lean, min_matched=0).embed(lean)[0] - z[0]).max() < 2e-6


def test_fixed_keeps_the_most_expressed_genes_and_fills_up_in_one_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scprint, "MAX_GENES", 6)
    ids = [f"ENSG{i:011d}" for i in range(1, 71)]
    counts = np.zeros((3, 70))
    counts[0, [3, 9, 20, 30]] = [5, 1, 2, 1]  # fewer than fit
    counts[1, 10:20] = [1, 9, 1, 8, 1, 7, 1, 6, 1, 1]  # more than fit, with ties
    counts[2, 60] = 1
    model = fitted(folder, dataset(counts, ids))
    port = model.loaded
    assert isinstance(port, ScPRINT)
    rows, values = genes_of(model, dataset(counts, ids))
    order = [row for row in port.fillers if row < 70]  # human genes only
    assert sorted(order) == list(range(70))
    assert rows[0].tolist() == [3, 9, 20, 30, *[r for r in order if r not in (3, 9, 20, 30)][:2]]
    assert np.allclose(values[0], [5 / 9, 1 / 9, 2 / 9, 1 / 9, 0, 0])
    ties = [row for row in order if row in (10, 12, 14, 16, 18, 19)][:2]
    assert rows[1].tolist() == sorted([11, 13, 15, 17, *ties])
    assert rows[2].tolist() == [60, *[r for r in order if r != 60][:5]]
    tokens = tokens_of(model, dataset(counts, ids))
    gene = tokens.columns["gene"].reshape(3, -1)[:, N_SPECIAL:]
    assert gene[0].tolist() == [3, 9, 20, 30, -1, -1]  # fillers are in no gene's mean
    assert np.allclose(tokens.cells["depth"], np.log2(1 + counts.sum(1)))


def test_cells_are_given_genes_of_one_species(folder: Path) -> None:
    ids = [f"ENSMUSG{i:011d}" for i in range(1, 21)] + ["ENSG00000000001"]
    counts = np.random.default_rng(0).poisson(0.5, (5, 21)) + np.eye(5, 21)
    counts[:, 20] = 50
    for behaviour in ("official", "fixed"):
        rows, _ = genes_of(fitted(folder, dataset(counts, ids), behaviour), dataset(counts, ids))
        assert [sorted(cell) for cell in rows.tolist()] == [list(range(70, 90))] * 5


@pytest.mark.usefixtures("forty")
def test_poor_cells(folder: Path, cells: Dataset, official: dict[str, np.ndarray]) -> None:
    counts = official["counts"].copy()
    unknown = [int(id[4:]) > 100 for id in cells.genes.ensembl]  # ENSG…900 and on
    counts[0, np.logical_not(unknown)] = 0
    counts[0, np.flatnonzero(unknown)[0]] = 7  # no gene that the model knows
    given = dataset(counts, list(cells.genes.ensembl))
    z = fitted(folder, given).embed(given)
    assert np.isfinite(z).all()
    assert np.abs(z[1:] - fitted(folder, cells).embed(cells)[1:]).max() < 2e-6
    # The original divides such a cell's counts by their sum, 0.
    as_published = fitted(folder, given, "official").embed(given)
    assert np.isnan(as_published[0]).all()
    assert np.isfinite(as_published[1:]).all()


@pytest.mark.usefixtures("forty")
def test_gene_vectors(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells)
    static = model.gene_vectors()
    table = torch.load(FIXTURE / FILE, weights_only=False)["state_dict"]
    assert np.array_equal(static.vectors, table["gene_encoder.embeddings.weight"].numpy())
    assert len(static.names) == 90
    one = cells.take(np.array([2]))  # expresses a single gene
    contextual = model.gene_vectors(one).vectors
    assert np.isfinite(contextual).all(axis=1).sum() == 1


PROJECTION = "transformer.blocks.1.mlp.fc1.weight"
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda s: s["state_dict"].pop(PROJECTION), f"missing: {PROJECTION}"),
    "unexpected": (
        lambda s: s["state_dict"].update(more=torch.zeros(1)),
        "unexpected: more",
    ),
    "shape": (
        lambda s: s["state_dict"].update({PROJECTION: torch.zeros(3, 16)}),
        r"fc1\.weight is \(3, 16\), needed \(64, 16\)",
    ),
    "genes": (
        lambda s: s["hyper_parameters"]["genes"].pop(),
        r"gene_encoder\.embeddings\.weight is \(90, 16\), needed \(89, 16\)",
    ),
    "no genes": (lambda s: s["hyper_parameters"].pop("genes"), "no hyper_parameters with genes"),
    "no sizes": (lambda s: s["hyper_parameters"].pop("nhead"), "lacks nhead"),
    "classes": (hyper(classes={"sex_ontology_term_id": 2}), "has no class cell_type"),
    "version 2": (hyper(cell_specific_blocks=True), "cell_specific_blocks True"),
    "compressed": (hyper(compress_class_dim={"sex_ontology_term_id": 2}), "compress_class_dim"),
    "normalization": (hyper(normalization="rank"), "normalization 'rank'"),
    "another": (lambda s: s.pop("hyper_parameters"), "no hyper_parameters"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    fault: str, folder: Path, cells: Dataset
) -> None:
    change, said = FAULTS[fault]
    with pytest.raises(WeightsError, match=said):
        fitted(changed(folder, change), cells)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html>", "web page"),
        (b"", "empty"),
        ((FIXTURE / FILE).read_bytes()[:50_000], "cut short"),
    ],
)
def test_another_file_is_refused(content: bytes, said: str, folder: Path, cells: Dataset) -> None:
    (folder / FILE).write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells)


@pytest.mark.usefixtures("forty")
def test_layouts_of_earlier_versions_load(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    def older(state: dict[str, Any]) -> None:
        tensors, table = state["state_dict"], state["hyper_parameters"]
        # Until version 1.6: the singular, a table of class sizes, no normalisation said.
        tensors["gene_encoder.embedding.weight"] = tensors.pop("gene_encoder.embeddings.weight")
        table["classes"] = dict.fromkeys(table["classes"], 2)
        for name in ("normalization", "depth_atinput", "cell_specific_blocks", "attn_bias"):
            table.pop(name)
        tensors["pos_encoder.pe"] = tensors["pos_encoder.pe"].squeeze(1)
        table["transformer"] = Path("unknown types are no trouble")

    z = fitted(changed(folder, older), cells, "official").embed(cells)
    assert np.abs(z - official["sum_z"]).max() <= 1e-5


def test_random_weights_need_no_file_and_follow_the_seed(tmp_path: Path) -> None:
    cells = simulate(n_cells=6, n_genes=40)  # has symbols only
    z = fitted(tmp_path, cells, random_init=True).embed(cells)
    assert z.shape == (6, 256)  # the published width
    assert np.array_equal(fitted(tmp_path, cells, random_init=True).embed(cells), z)
    other = fitted(tmp_path, cells, random_init=True, init_seed=1).embed(cells)
    assert np.abs(other - z).max() > 1e-2


def test_random_weights_take_genes_and_places_of_a_checkpoint_at_hand(
    folder: Path, cells: Dataset
) -> None:
    drawn = fitted(folder, cells, random_init=True).loaded
    loaded = fitted(folder, cells).loaded
    assert isinstance(drawn, ScPRINT)
    assert isinstance(loaded, ScPRINT)
    assert drawn.space == loaded.space
    places, given = (
        dict(port.network.named_buffers())["pos_encoder.pe"] for port in (drawn, loaded)
    )
    assert np.abs(places.numpy() - given.numpy()).max() < 1e-5
    table = [port.gene_table() for port in (drawn, loaded)]
    assert np.abs(table[0] - table[1]).max() > 0.1


def test_size_is_that_of_the_official_class() -> None:
    """17,462,016: the official class at d 256, 8 layers, 4 heads, six classes and 43,000 genes.

    Counted at commit 4acc1a4 for gene_encoder, expr_encoder, depth_encoder, class_encoder and
    transformer. The CZI model page gives 43,000 genes; a number for this size is not published.
    """
    config = {**model_card("scprint_medium").config, "gene_pos_enc": range(1, 43_001)}
    with torch.device("meta"):
        network = Network(Config.of(config, "card"), 43_000)
    assert sum(p.numel() for p in network.parameters()) == 17_462_016
