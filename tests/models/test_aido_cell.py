"""AIDO.Cell beside the numbers that the official program gave for the same small checkpoints.

The fixture holds two checkpoints of random weights in the official layout (36 genes, 16 dimensions,
2 layers): "whole", with the head for expression, layer norms and no biases; "encoder", without it,
with RMS norms and biases. Besides, counts of 5 cells in 30 of the genes and 5 others, what enters
the official network, its last hidden states, and the embeddings that the official program wrote.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import WeightsError
from sclitmus.models import frozen
from sclitmus.models.aido_cell import AIDOCell, Config, Network
from sclitmus.models.card import ModelCard, WeightFile, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.inference import Compute, embed_cells
from sclitmus.models.tokens import on_device
from sclitmus.models.weights import Weights
from sclitmus.models.xtrimogene import GENE_LIST, gene_list

FIXTURE = Path(__file__).parent / "fixtures" / "aido_cell"
CHECKPOINT = "pytorch_model.bin"
FILES = (CHECKPOINT, "config.json", GENE_LIST)
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "normalization_type": "LayerNorm",
    "bin_num": 10,
}
KINDS = ("whole", "encoder")


def small_card(**settings: Any) -> ModelCard:
    """The card for the fixture: its gene list is not the published one, so no checksum."""
    files = tuple(WeightFile(name) for name in FILES)
    return replace(model_card("aido_cell_3m"), config=SMALL | settings, files=files)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "expected.npz"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def folder_of(kind: str, tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(FIXTURE / kind / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    return folder_of(kind, tmp_path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return folder_of("whole", tmp_path)


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return cells_of(official["counts"], official["genes"].tolist())


def port_of(folder: Path, behaviour: Any = "fixed", **settings: Any) -> AIDOCell:
    return AIDOCell.load(Weights(small_card(**settings), folder), behaviour)


def embedded(port: AIDOCell, cells: Dataset) -> np.ndarray:
    return embed_cells(port, cells, port.space.match(cells.genes), Compute("cpu"))


def tokens_of(port: AIDOCell, cells: Dataset) -> Any:
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(0))


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_what_enters_the_network_is_that_of_the_official_code(
    whole: Path, cells: Dataset, official: dict[str, np.ndarray], behaviour: str
) -> None:
    port = port_of(whole, behaviour)
    tokens = tokens_of(port, cells)
    entered: list[np.ndarray] = []
    port.network.gene_embedding.register_forward_pre_hook(
        lambda _, given: entered.append(given[0].numpy())
    )
    with torch.inference_mode():
        port.cells(on_device(tokens, "cpu"))
    assert np.abs(np.stack(entered) - official["values"]).max() <= 1e-6
    assert (np.stack(entered)[[0, 1, 3], -1] > 5).tolist() == [False, False, True]
    assert np.array_equal(tokens.cells["measured"][2], official["measured"] == 1)


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_embeddings_are_those_of_the_official_program(
    folder: Path, kind: str, cells: Dataset, official: dict[str, np.ndarray], behaviour: str
) -> None:
    assert np.abs(embedded(port_of(folder, behaviour), cells) - official[kind]).max() <= 1e-5


def test_without_depth_tokens_it_is_the_mean_over_measured_genes(
    folder: Path, kind: str, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    z = embedded(port_of(folder, depth_tokens=False), cells)
    expected = official[f"{kind}_states"][:, :-2][:, official["measured"] == 1].mean(1)
    assert np.abs(z - expected).max() <= 1e-5


def test_gene_states_are_those_of_the_official_class(
    folder: Path, kind: str, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    port = port_of(folder)
    tokens = tokens_of(port, cells)
    with torch.inference_mode():
        states = port.gene_states(on_device(tokens, "cpu")).numpy()
    cell = np.repeat(np.arange(cells.n_cells), tokens.lengths)
    expected = official[f"{kind}_states"][cell, tokens.columns["gene"]]
    assert np.abs(states - expected).max() <= 1e-5


def test_the_public_loader_gives_the_same(
    whole: Path,
    cells: Dataset,
    official: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen, "model_card", lambda _: small_card())
    target = "sclitmus.models.aido_cell:AIDOCell"
    model = FrozenModel("aido_cell_3m", target, whole, "official", device="cpu")
    model = model.fit(cells, np.random.default_rng(0))
    assert np.abs(model.embed(cells) - official["whole"]).max() <= 1e-5
    static = model.gene_vectors()
    table = torch.load(whole / CHECKPOINT, weights_only=True)["bert.position_embedding.weight"]
    assert np.array_equal(static.vectors, table[:36].numpy())
    assert static.names == gene_list(whole / GENE_LIST)
    vectors = model.gene_vectors(cells.take(np.array([0])))  # one count of one gene
    assert (np.isfinite(vectors.vectors).all(1)).sum() == 1


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


def test_a_measured_gene_counts_even_where_it_is_zero(whole: Path) -> None:
    names = list(gene_list(whole / GENE_LIST))
    counts = np.array([[3.0, 5.0, 0.0]])
    port = port_of(whole)
    two, three = cells_of(counts[:, :2], names[:2]), cells_of(counts, names[:3])
    assert np.abs(embedded(port, two) - embedded(port, three)).max() > 1e-3


def test_columns_of_one_gene(whole: Path) -> None:
    a, b = gene_list(whole / GENE_LIST)[:2]
    twice = cells_of(np.array([[2.0, 5.0, 1.0]]), [a, a, b])
    summed = cells_of(np.array([[7.0, 1.0]]), [a, b])
    first = cells_of(np.array([[2.0, 1.0]]), [a, b])
    fixed, original = port_of(whole), port_of(whole, "official")
    assert np.array_equal(embedded(fixed, twice), embedded(fixed, summed))
    assert np.array_equal(embedded(original, twice), embedded(original, first))


def test_cells_at_the_edge(folder: Path) -> None:
    counts = np.zeros((3, 37))
    counts[0, 3] = 1  # a single gene
    counts[1, 36] = 9  # no gene that the model knows: zeros and depth tokens
    counts[2] = 2  # all genes
    port = port_of(folder)
    cells = cells_of(counts, [*gene_list(folder / GENE_LIST), "OTHER"])
    assert tokens_of(port, cells).lengths.tolist() == [1, 0, 36]
    z = embedded(port, cells)
    assert np.isfinite(z).all()
    assert len(np.unique(z.round(5), axis=0)) == 3
    assert np.abs(embedded(port, cells.take(np.array([1])))[0] - z[1]).max() < 2e-6


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        state = torch.load(folder / CHECKPOINT, weights_only=True)
        change(state)
        torch.save(state, folder / CHECKPOINT)

    return apply


def configured(**changes: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {name: value for name, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return apply


UP = "encoder.layer.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed(lambda t: t.pop(f"bert.{UP}")), f"missing: {UP}"),
        (changed(lambda t: t.update({"bert.new": torch.zeros(1)})), "unexpected: new"),
        (
            changed(lambda t: t.update({f"bert.{UP}": torch.zeros(20, 15)})),
            r"up_proj.weight is \(20, 15\), needed \(20, 16\)",
        ),
        (configured(add_linear_bias=True), "missing: .*bias"),
        (configured(normalization_type="RMSNorm"), "unexpected: .*bias"),
        (configured(num_hidden_layers=1), "unexpected: encoder.layer.1"),
        (configured(hidden_size=None), "lacks hidden_size"),
        (configured(position_embedding_type="rope"), "says position_embedding_type 'rope'"),
        (lambda f: (f / "config.json").write_text("<html>"), "is no JSON"),
        (lambda f: (f / CHECKPOINT).write_bytes(b"<html>"), "is a web page"),
        (
            lambda f: (f / CHECKPOINT).write_bytes(
                (FIXTURE / "whole" / CHECKPOINT).read_bytes()[:9999]
            ),
            r"\(9999 bytes\) cannot be read",
        ),
        (lambda f: (f / CHECKPOINT).unlink(), f"there is no {CHECKPOINT}"),
        (
            lambda f: (f / GENE_LIST).write_text("gene_name\tindex\nA\t0\nB\t1\n"),
            f"vectors for 36 genes, but {GENE_LIST} names 2",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    whole: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(whole)
    with pytest.raises(WeightsError, match=said):
        port_of(whole)


def file_size(config: Config) -> float:
    """Megabytes of pytorch_model.bin.

    It holds the network, the vectors of masked genes and of padding, and the head that predicts
    expression (d x d + d, a norm, d + 1), besides some 36 kB of names and places.
    """
    with torch.device("meta"):
        network = Network(config, 19_264)
    d = config.hidden_size
    n = sum(p.numel() for p in network.parameters()) + 2 * d + (d * d + d) + 2 * d + (d + 1)
    return (n * 4 + 36_000) / 1e6


def test_the_published_sizes() -> None:
    """14.6 MB (3M) and 44.3 MB (10M) are the sizes of the files on the pages of the weights."""
    small, medium = (
        Config.of(model_card(id).config, "the card") for id in ("aido_cell_3m", "aido_cell_10m")
    )
    assert round(file_size(small), 1) == 14.6
    assert round(file_size(medium), 1) == 44.3
    # config.json is not at hand; this is why the card says that there are no biases.
    assert round(file_size(replace(medium, add_linear_bias=True)), 1) == 44.4


def test_the_largest_has_the_published_size() -> None:
    """100 million parameters, as its page says."""
    config = Config.of(model_card("aido_cell_100m").config, "the card")
    with torch.device("meta"):
        network = Network(config, 19_264)
    n = sum(p.numel() for p in network.parameters())
    assert round(n / 1e6) == 99  # 99.4 million, and 0.4 million of the head
    assert model_card("aido_cell_100m").parameters == 100_000_000


def test_random_weights_need_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frozen, "model_card", lambda _: small_card())
    cells = simulate(n_cells=30, n_genes=80)
    made = [
        FrozenModel(
            "aido_cell_3m",
            "sclitmus.models.aido_cell:AIDOCell",
            tmp_path,
            random_init=True,
            init_seed=seed,
            device="cpu",
        )
        .fit(cells, np.random.default_rng(0))
        .embed(cells)
        for seed in (0, 0, 1)
    ]
    assert made[0].shape == (30, 16)
    assert np.isfinite(made[0]).all()
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0.01


def test_random_weights_are_drawn_as_the_original_draws_them() -> None:
    genes = simulate(n_cells=5, n_genes=200).genes
    port = AIDOCell.build(SMALL | {"add_linear_bias": True}, genes, None, "fixed", 0)
    parameters = dict(port.network.named_parameters())
    assert abs(float(parameters["position_embedding.weight"].std()) - 0.02) < 0.001
    assert parameters["encoder.layer.0.attention.self.query.bias"].abs().max() == 0
    assert parameters["encoder.layer.0.ln.weight"].unique().tolist() == [1.0]


def test_random_weights_read_the_published_genes_where_they_are_at_hand(whole: Path) -> None:
    genes = simulate(n_cells=5, n_genes=20).genes
    port = AIDOCell.build(SMALL, genes, Weights(small_card(), whole), "fixed", 0)
    assert port.space.names == gene_list(whole / GENE_LIST)
