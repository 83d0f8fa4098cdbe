"""scBERT beside the numbers that the official class gave for the same small checkpoint.

The fixture holds random weights in the official layout (60 genes, 12 dimensions, 2 layers), with
the states of optimiser and scheduler beside them; counts of 9 cells in 50 of the genes and 6
others; the tokens that the official preprocessing makes of them, with the arithmetic of scanpy
1.7.2; and the last hidden states of one cell at a time and of three at a time.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models import frozen
from sclitmus.models.card import ModelCard, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.inference import Compute, embed_cells
from sclitmus.models.scbert import (
    CHECKPOINT,
    REFERENCE,
    Config,
    Network,
    ScBERT,
    bins_of,
    rounded_bins,
)
from sclitmus.models.tokens import on_device
from sclitmus.models.weights import Weights

FIXTURE = Path(__file__).parent / "fixtures" / "scbert"
SMALL = {"dim": 12, "depth": 2, "heads": 3, "dim_head": 8, "num_tokens": 7}


def small_card(**settings: Any) -> ModelCard:
    return replace(model_card("scbert"), config=SMALL | settings)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "expected.npz"))


def write_reference(path: Path, names: list[str]) -> None:
    """An .h5ad file with nothing but var names, laid out as anndata does."""
    with h5py.File(path, "w") as file:
        var = file.create_group("var")
        var.attrs["_index"] = "_index"
        var["_index"] = names


@pytest.fixture
def folder(tmp_path: Path, official: dict[str, np.ndarray]) -> Path:
    shutil.copy(FIXTURE / CHECKPOINT, tmp_path / CHECKPOINT)
    write_reference(tmp_path / REFERENCE, official["names"].tolist())
    return tmp_path


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return cells_of(official["counts"], official["genes"].tolist())


def port_of(folder: Path, behaviour: Any = "fixed", **settings: Any) -> ScBERT:
    return ScBERT.load(Weights(small_card(**settings), folder), behaviour)


def embedded(port: ScBERT, cells: Dataset) -> np.ndarray:
    return embed_cells(port, cells, port.space.match(cells.genes), Compute("cpu"))


def tokens_of(port: ScBERT, cells: Dataset) -> Any:
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(0))


def states(port: ScBERT, cells: Dataset) -> np.ndarray:
    """Last hidden states of all tokens, (n_cells, length, d)."""
    tokens = tokens_of(port, cells)
    n = port.together or cells.n_cells
    groups = [np.arange(first, first + n) for first in range(0, cells.n_cells, n)]
    with torch.inference_mode():
        batches = [on_device(tokens.take(rows), "cpu") for rows in groups]
        parts = [part for batch in batches for part, _ in port._states(batch)]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_tokens_are_those_of_the_official_code(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray], behaviour: str
) -> None:
    tokens = tokens_of(port_of(folder, behaviour), cells)
    dense = np.zeros_like(official["tokens"])  # the last column is the token without a gene
    cell = np.repeat(np.arange(cells.n_cells), tokens.lengths)
    dense[cell, tokens.columns["gene"]] = tokens.columns["bin"]
    assert np.array_equal(dense, official["tokens"])
    assert set(np.unique(dense)) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_one_cell_at_a_time_is_as_the_official_prediction(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray], behaviour: str
) -> None:
    port = port_of(folder, behaviour)
    assert port.together is None
    assert np.abs(states(port, cells) - official["one"]).max() <= 1e-5
    assert np.abs(embedded(port, cells) - official["one"][:, :-1].mean(1)).max() <= 1e-5
    last = port_of(folder, behaviour, pool="last")
    assert np.abs(embedded(last, cells) - official["one"][:, -1]).max() <= 1e-5


def test_three_at_a_time_share_a_maximum_in_official_behaviour_only(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    port = port_of(folder, "official", batch=3)
    assert port.together == 3
    assert np.abs(states(port, cells) - official["three"]).max() <= 1e-5
    assert np.abs(embedded(port, cells) - official["three"][:, :-1].mean(1)).max() <= 1e-5
    assert np.abs(official["three"] - official["one"]).max() > 1e-2  # the fault is visible
    fixed = port_of(folder, "fixed", batch=3)
    assert np.abs(states(fixed, cells) - official["one"]).max() <= 1e-5


def test_the_public_loader_gives_the_same(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    target = "sclitmus.models.scbert:ScBERT"
    model = FrozenModel("scbert", target, folder, "official", device="cpu")
    model = model.fit(cells, np.random.default_rng(0))
    assert np.abs(model.embed(cells) - official["one"][:, :-1].mean(1)).max() <= 1e-5
    static = model.gene_vectors()
    assert static.names == tuple(official["names"])
    gene2vec = torch.load(FIXTURE / CHECKPOINT, weights_only=False)["model_state_dict"]
    assert np.allclose(static.vectors, gene2vec["pos_emb.emb.weight"][:-1], atol=1e-6)
    vectors = model.gene_vectors(cells)
    row = int(np.flatnonzero(official["tokens"][0])[0])
    column = official["genes"].tolist().index(official["names"][row])
    having = official["counts"][:, column] > 0
    assert np.abs(vectors.vectors[row] - official["one"][having, row].mean(0)).max() <= 1e-5


def test_fixed_depends_on_the_cell_alone(folder: Path, cells: Dataset) -> None:
    port = port_of(folder)
    z = embedded(port, cells)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(embedded(port, cells.take(order)) - z[order]).max() < 2e-6
    for i in range(cells.n_cells):
        assert np.abs(embedded(port, cells.take(np.array([i])))[0] - z[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    turned = cells_of(cells.counts.toarray()[:, columns], [cells.genes.symbol[i] for i in columns])
    assert np.array_equal(embedded(port, turned), z)


def test_columns_of_one_gene(folder: Path, official: dict[str, np.ndarray]) -> None:
    a, b = official["names"][:2]
    twice = cells_of(np.array([[0.0, 3000.0, 7000.0]]), [a, a, b])
    summed = cells_of(np.array([[3000.0, 7000.0]]), [a, b])
    first = cells_of(np.array([[0.0, 7000.0]]), [a, b])
    fixed, original = port_of(folder), port_of(folder, "official")
    assert np.array_equal(embedded(fixed, twice), embedded(fixed, summed))
    assert np.array_equal(embedded(original, twice), embedded(original, first))


def test_bins_are_levels_of_counts_per_ten_thousand() -> None:
    # A cell of 20,000 counts: per 10,000 they are 0.5, 1, 1.5, 3, 7, 15, 31 and the rest.
    counts = np.array([1, 2, 3, 6, 14, 30, 62, 20_000 - 118, 5], dtype=np.float32)
    offsets = np.array([0, 8, 8, 9])  # then a cell without counts, and one of five
    for bins in (bins_of, rounded_bins):
        assert bins(offsets, counts, 5).tolist() == [0, 1, 1, 2, 3, 4, 5, 5, 5]
        assert bins(offsets, counts, 3).tolist() == [0, 1, 1, 2, 3, 3, 3, 3, 3]


def test_rounding_does_not_change_bins() -> None:
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(0.5, 0.02, 400_000).astype(np.float32)
    offsets = np.sort(np.r_[0, rng.integers(0, len(counts), 300), len(counts)])
    assert np.array_equal(bins_of(offsets, counts, 5), rounded_bins(offsets, counts, 5))


def test_cells_at_the_edge(folder: Path, official: dict[str, np.ndarray]) -> None:
    counts = np.zeros((4, 61))
    counts[0, 3] = 1  # a single gene
    counts[1, 60] = 9  # no gene that the model knows: all bins are 0
    counts[2] = 2  # all genes
    counts[3, 4] = 1
    cells = cells_of(counts, [*official["names"], "OTHER"])
    port = port_of(folder)
    assert tokens_of(port, cells).lengths.tolist() == [1, 0, 60, 1]
    z = embedded(port, cells)
    assert np.isfinite(z).all()
    assert len(np.unique(z.round(5), axis=0)) == 4
    assert np.abs(embedded(port, cells.take(np.array([1])))[0] - z[1]).max() < 2e-6


@pytest.mark.parametrize("setting", ["cls", "max"])
def test_an_unknown_pool_is_refused(folder: Path, setting: str) -> None:
    with pytest.raises(MethodError, match="mean or last"):
        port_of(folder, pool=setting)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        whole = torch.load(folder / CHECKPOINT, weights_only=False)
        change(whole["model_state_dict"])
        torch.save(whole, folder / CHECKPOINT)

    return apply


TO_Q = "performer.net.layers.1.0.fn.to_q.weight"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed(lambda t: t.pop(TO_Q)), f"missing: {TO_Q}"),
        (changed(lambda t: t.pop("token_emb.weight")), "no matrix token_emb.weight"),
        (changed(lambda t: t.update({"new": torch.zeros(1)})), "unexpected: new"),
        (
            changed(lambda t: t.update({TO_Q: torch.zeros(24, 11)})),
            r"to_q.weight is \(24, 11\), needed \(24, 12\)",
        ),
        (lambda f: (f / CHECKPOINT).write_bytes(b"<html>"), "is a web page"),
        (
            lambda f: (f / CHECKPOINT).write_bytes((FIXTURE / CHECKPOINT).read_bytes()[:9999]),
            r"\(9999 bytes\) cannot be read",
        ),
        (lambda f: torch.save({"weights": 1}, f / CHECKPOINT), "no 'model_state_dict'"),
        (lambda f: (f / REFERENCE).unlink(), f"there is no {REFERENCE}"),
        (
            lambda f: write_reference(f / REFERENCE, ["A", "B"]),
            f"vectors for 60 genes, but {REFERENCE} names 2",
        ),
        (lambda f: (f / REFERENCE).write_bytes(b"<html>"), "is a web page"),
        (lambda f: (f / REFERENCE).write_bytes(b"A\nB\n"), "no gene names that could be read"),
        (lambda f: h5py.File(f / REFERENCE, "w").close(), "no gene names that could be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    folder: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(folder)
    with pytest.raises(WeightsError, match=said):
        port_of(folder)


def test_gene_names_of_an_old_file(folder: Path, official: dict[str, np.ndarray]) -> None:
    names = official["names"].tolist()
    with h5py.File(folder / REFERENCE, "w") as file:  # as before anndata 0.7
        file["var"] = np.array(
            [(name.encode(), 1) for name in names], [("index", "S9"), ("n", "i4")]
        )
    assert port_of(folder).space.names == tuple(names)


def test_the_published_size() -> None:
    """8,388,607 parameters of the official class, 1,407 of them of the head for masked bins."""
    card = model_card("scbert")
    config = Config(**{k: v for k, v in card.config.items() if k in Config.__dataclass_fields__})
    with torch.device("meta"):
        network = Network(config, 16_906)
    n = sum(p.numel() for p in network.parameters())
    assert n + 1407 == card.parameters == 8_388_607
    assert network.get_buffer(
        "performer.net.layers.5.0.fn.fast_attention.projection_matrix"
    ).shape == (266, 64)


def test_random_weights_need_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frozen, "model_card", lambda _: small_card())
    cells = simulate(n_cells=30, n_genes=80)
    made = [
        FrozenModel(
            "scbert",
            "sclitmus.models.scbert:ScBERT",
            tmp_path,
            random_init=True,
            init_seed=seed,
            device="cpu",
        )
        .fit(cells, np.random.default_rng(0))
        .embed(cells)
        for seed in (0, 0, 1)
    ]
    assert made[0].shape == (30, 12)
    assert np.isfinite(made[0]).all()
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0.1


def test_random_weights_read_the_published_genes_where_they_are_at_hand(
    folder: Path, official: dict[str, np.ndarray]
) -> None:
    genes = simulate(n_cells=5, n_genes=20).genes
    port = ScBERT.build(SMALL, genes, Weights(small_card(), folder), "fixed", 0)
    assert port.space.names == tuple(official["names"])
