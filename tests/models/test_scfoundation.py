"""scFoundation beside the numbers that the official program gave for the same small checkpoint.

The fixture holds three versions of random weights in the official layout (40 genes, 16 dimensions,
2 + 2 layers), counts of 7 cells in 33 of the genes and 5 others, the tokens the official code makes
of them, and what its program wrote for five settings.
"""

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
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models import frozen
from sclitmus.models.card import ModelCard, WeightFile, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.gene_space import entries_by_row
from sclitmus.models.inference import Compute, Passes, embed_cells
from sclitmus.models.scfoundation import (
    CHECKPOINT,
    DECODER,
    UNUSED,
    Config,
    Network,
    ScFoundation,
    Settings,
)
from sclitmus.models.tokens import on_device
from sclitmus.models.weights import Weights
from sclitmus.models.xtrimogene import GENE_LIST, SoftBins, gene_list

FIXTURE = Path(__file__).parent / "fixtures" / "scfoundation"
SMALL = {
    "bin_num": 10,
    "bin_alpha": 1.0,
    "encoder": {"module_type": "transformer", "hidden_dim": 16, "depth": 2, "heads": 4},
    "decoder": {
        "module_type": "performer",
        "hidden_dim": 12,
        "depth": 2,
        "heads": 2,
        "dim_head": 8,
    },
}


def small_card(**settings: Any) -> ModelCard:
    """The card for the fixture: its gene list is not the published one, so no checksum."""
    card = model_card("scfoundation")
    files = (WeightFile(CHECKPOINT), WeightFile(GENE_LIST))
    reading = {"version": "cell", "pool": "all", "tgthighres": "t4", "gene_batch": 1}
    return replace(card, config=SMALL | reading | settings, files=files)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "expected.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (CHECKPOINT, GENE_LIST):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return cells_of(official["counts"], official["genes"].tolist())


def port_of(folder: Path, behaviour: Any = "fixed", **settings: Any) -> ScFoundation:
    return ScFoundation.load(Weights(small_card(**settings), folder), behaviour)


def embedded(port: ScFoundation, cells: Dataset) -> np.ndarray:
    return embed_cells(port, cells, port.space.match(cells.genes), Compute("cpu"))


def tokens_of(port: ScFoundation, cells: Dataset) -> Any:
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(0))


def gene_states(port: ScFoundation, cells: Dataset) -> np.ndarray:
    """Vectors of all genes of each cell, (n_cells, n_genes, d)."""
    batch = on_device(tokens_of(port, cells), "cpu")
    with torch.inference_mode():
        parts = [part for part, _ in port._decoded(batch)]
    return torch.cat(parts).numpy()[:, : len(port.space.names)]


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_tokens_are_those_of_the_official_code(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray], behaviour: str
) -> None:
    tokens = tokens_of(port_of(folder, behaviour), cells)
    assert tokens.lengths.tolist() == official["token_lengths"].tolist()
    assert np.array_equal(tokens.columns["row"], official["token_rows"])
    assert np.array_equal(tokens.columns["value"], official["token_values"].astype(np.float32))
    assert (tokens.columns["gene"] == -1).sum() == 2 * cells.n_cells


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("cell_all_t4", {}),
        ("rde_max_a1", {"version": "rde", "pool": "max", "tgthighres": "a1"}),
        ("cell_all_f10", {"tgthighres": "f10"}),
    ],
)
def test_embeddings_are_those_of_the_official_program(
    folder: Path,
    cells: Dataset,
    official: dict[str, np.ndarray],
    behaviour: str,
    label: str,
    settings: dict[str, Any],
) -> None:
    z = embedded(port_of(folder, behaviour, **settings), cells)
    assert z.shape == official[label].shape
    assert np.abs(z - official[label]).max() <= 1e-5


def test_the_public_loader_gives_the_same(
    folder: Path,
    cells: Dataset,
    official: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen, "model_card", lambda _: small_card())
    target = "sclitmus.models.scfoundation:ScFoundation"
    model = FrozenModel("scfoundation", target, folder, "official", device="cpu")
    model = model.fit(cells, np.random.default_rng(0))
    assert np.abs(model.embed(cells) - official["cell_all_t4"]).max() <= 1e-5
    other = replace(
        model, config={"version": "rde", "pool": "max", "tgthighres": "a1"}, loaded=None
    ).fit(cells, np.random.default_rng(0))
    assert np.abs(other.embed(cells) - official["rde_max_a1"]).max() <= 1e-5
    static = model.gene_vectors()
    assert static.names == gene_list(folder / GENE_LIST)
    assert static.vectors.shape == (40, 16)
    vectors = model.gene_vectors(cells)
    expressed = entries_by_row(cells.counts, model.match(cells.genes).lookup, 40)
    row = int(expressed[1][0])
    having = [i for i in range(7) if row in expressed[1][expressed[0][i] : expressed[0][i + 1]]]
    assert np.abs(vectors.vectors[row] - official["gene"][having, row].mean(0)).max() <= 1e-5
    assert np.isnan(np.delete(vectors.vectors, np.unique(expressed[1]), axis=0)).all()


def test_gene_vectors_are_those_of_the_official_program(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    for behaviour in ("official", "fixed"):
        found = gene_states(port_of(folder, behaviour), cells)
        assert np.abs(found - official["gene"]).max() <= 1e-5
    port = port_of(folder)
    part, states = next(Passes(port, Compute("cpu")).each(tokens_of(port, cells), port.gene_states))
    gene, longest = part.columns["gene"], int(np.argmax(official["token_lengths"]))
    first = np.arange(part.offsets[1] - 2)  # longest first; without T and S
    assert np.abs(states[first] - official["gene"][longest, gene[first]]).max() <= 1e-5


def test_cells_decoded_together_share_a_maximum_in_official_behaviour_only(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    port = port_of(folder, "official", gene_batch=7)
    assert port.together == 7
    assert np.abs(gene_states(port, cells) - official["gene_batch"]).max() <= 1e-5
    assert np.abs(official["gene_batch"] - official["gene"]).max() > 1e-2  # the fault is visible
    fixed = port_of(folder, "fixed", gene_batch=7)
    assert np.abs(gene_states(fixed, cells) - official["gene"]).max() <= 1e-5
    assert np.abs(embedded(port, cells) - official["cell_all_t4"]).max() <= 1e-5


def test_fixed_depends_on_the_cell_alone(folder: Path, cells: Dataset) -> None:
    port = port_of(folder)
    z, states = embedded(port, cells), gene_states(port, cells)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(embedded(port, cells.take(order)) - z[order]).max() < 2e-6
    for i in range(cells.n_cells):
        one = cells.take(np.array([i]))
        assert np.abs(embedded(port, one)[0] - z[i]).max() < 2e-6
        assert np.abs(gene_states(port, one)[0] - states[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    turned = cells_of(cells.counts.toarray()[:, columns], [cells.genes.symbol[i] for i in columns])
    assert np.array_equal(embedded(port, turned), z)


def test_columns_of_one_gene(folder: Path, official: dict[str, np.ndarray]) -> None:
    name = official["genes"][0]
    twice = cells_of(np.array([[2.0, 5.0, 1.0]]), [name, name, "GENE01"])
    swapped = cells_of(np.array([[5.0, 2.0, 1.0]]), [name, name, "GENE01"])
    summed = cells_of(np.array([[7.0, 1.0]]), [name, "GENE01"])
    first = cells_of(np.array([[2.0, 1.0]]), [name, "GENE01"])
    fixed, original = port_of(folder), port_of(folder, "official")
    assert np.array_equal(embedded(fixed, twice), embedded(fixed, summed))
    assert np.array_equal(embedded(fixed, swapped), embedded(fixed, summed))
    assert np.array_equal(embedded(original, twice), embedded(original, first))


@pytest.mark.parametrize("pool", ["all", "max"])
def test_cells_at_the_edge(folder: Path, pool: str) -> None:
    names = list(gene_list(FIXTURE / GENE_LIST))
    counts = np.zeros((4, 41))
    counts[0, 3] = 1  # a single count: S is 0
    counts[1, 3] = 9  # a single gene
    counts[2, 40] = 9  # no gene that the model knows
    counts[3] = 2  # all genes
    port = port_of(folder, pool=pool)
    cells = cells_of(counts, [*names, "OTHER"])
    tokens = tokens_of(port, cells)
    assert tokens.lengths.tolist() == [3, 3, 2, 42]
    assert tokens.columns["value"][[1, 2]].tolist() == [4.0, 0.0]  # T, S
    z = embedded(port, cells)
    assert np.isfinite(z).all()
    assert np.isfinite(gene_states(port, cells)).all()
    assert len(np.unique(z.round(4), axis=0)) == 4


def test_what_the_decoder_reads_is_computed_once_per_value(folder: Path) -> None:
    bins = SoftBins(16, 10, 1.0)
    values = torch.tensor([0.5, 2.0, 0.5, 0.0])
    seen: list[int] = []
    bins.mlp.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    out = bins(values)
    assert seen == [3]
    assert torch.equal(out[0], out[2])
    # The definition: a softmax over bins of h + W h, h the rectified line.
    h = torch.nn.functional.leaky_relu(2.0 * bins.mlp.weight[:, 0] + bins.mlp.bias, 0.1)
    weights = torch.softmax(h + bins.mlp2.weight @ h + bins.mlp2.bias, 0)
    assert torch.allclose(out[1], weights @ bins.emb.weight, atol=1e-6)


@pytest.mark.parametrize("setting", ["", "4", "x4", "t", "f-1", "f0"])
def test_an_unknown_depth_is_refused(setting: str) -> None:
    with pytest.raises(MethodError, match="tgthighres"):
        Settings.of({"tgthighres": setting})


@pytest.mark.parametrize("settings", [{"version": "gene"}, {"pool": "mean"}])
def test_unknown_settings_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(MethodError, match="version cell or rde, pool all or max"):
        Settings.of(settings)


def test_depths_aimed_at() -> None:
    totals = np.array([100.0, 1000.0])
    assert Settings(tgthighres="t4.5").target(totals).tolist() == [4.5, 4.5]
    assert np.allclose(Settings(tgthighres="f10").target(totals), [3, 4])
    assert np.allclose(Settings(tgthighres="a1").target(totals), [3, 4])


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        versions = torch.load(folder / CHECKPOINT, weights_only=True)
        change(versions)
        torch.save(versions, folder / CHECKPOINT)

    return apply


def tensors(versions: dict[str, Any], version: str = "gene") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = versions[version]["state_dict"]
    return state


ENCODER = "model.encoder.transformer_encoder.1.linear1.weight"
TO_Q = "model.decoder.performer.net.layers.0.0.fn.to_q.weight"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed(lambda v: tensors(v).pop(TO_Q)), "missing: decoder.performer.net.layers.0.0"),
        (changed(lambda v: tensors(v, "cell").pop(ENCODER)), "missing: encoder.transformer_enc"),
        (
            changed(lambda v: tensors(v).update({"model.new": torch.zeros(1)})),
            "unexpected: new",
        ),
        (
            changed(lambda v: tensors(v).update({ENCODER: torch.zeros(64, 15)})),
            r"linear1.weight is \(64, 15\), needed \(64, 16\)",
        ),
        (changed(lambda v: v.pop("gene")), "no 'gene'; it has cell, rde"),
        (changed(lambda v: v["cell"].pop("state_dict")), "no 'state_dict'"),
        (changed(lambda v: v["gene"].pop("config")), "no configuration of its version 'gene'"),
        (
            changed(
                lambda v: v["gene"]["config"]["model_config"]["mae_autobin"]["encoder"].pop("heads")
            ),
            "lacks encoder.heads",
        ),
        (
            changed(
                lambda v: v["gene"]["config"]["model_config"]["mae_autobin"]["decoder"].update(
                    module_type="gau"
                )
            ),
            "transformer and gau",
        ),
        (lambda f: (f / CHECKPOINT).write_bytes(b"<!DOCTYPE html><html>"), "is a web page"),
        (
            lambda f: (f / CHECKPOINT).write_bytes((FIXTURE / CHECKPOINT).read_bytes()[:9999]),
            r"\(9999 bytes\) cannot be read",
        ),
        (lambda f: torch.save([1, 2], f / CHECKPOINT), "holds a list"),
        (lambda f: (f / CHECKPOINT).unlink(), f"there is no {CHECKPOINT}"),
        (
            lambda f: (f / GENE_LIST).write_text("gene_name\tindex\nA\t0\nB\t1\n"),
            f"vectors for 40 genes, but {GENE_LIST} names 2",
        ),
        (lambda f: (f / GENE_LIST).write_text("A\nB\n"), "is no list of genes"),
        (lambda f: (f / GENE_LIST).write_text("gene_name\tindex\nA\t1\n"), "is no list of genes"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    folder: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(folder)
    with pytest.raises(WeightsError, match=said):
        port_of(folder)


def test_the_published_size() -> None:
    """119,252,285 parameters of the official class, with the configuration its program prints.

    Three tensors of that class have no place here: vectors of masked genes and of padding (768
    each) and the layer that predicts expression (512 + 1).
    """
    config = Config.of(model_card("scfoundation").config, "the card")
    with torch.device("meta"):
        network = Network(config, 19_264, decodes=True)
    n = sum(p.numel() for p in network.parameters())
    assert n + 2 * 768 + 513 == model_card("scfoundation").parameters == 119_252_285
    assert set(UNUSED | DECODER) > set(UNUSED)


def test_random_weights_need_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frozen, "model_card", lambda _: small_card())
    cells = simulate(n_cells=30, n_genes=80)
    made = [
        FrozenModel(
            "scfoundation",
            "sclitmus.models.scfoundation:ScFoundation",
            tmp_path,
            random_init=True,
            init_seed=seed,
            device="cpu",
        )
        .fit(cells, np.random.default_rng(0))
        .embed(cells)
        for seed in (0, 0, 1)
    ]
    assert made[0].shape == (30, 64)
    assert np.isfinite(made[0]).all()
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0.1


def test_random_weights_read_the_published_genes_where_they_are_at_hand(folder: Path) -> None:
    genes = simulate(n_cells=5, n_genes=20).genes
    port = ScFoundation.build(SMALL, genes, Weights(small_card(), folder), "fixed", 0)
    assert port.space.names == gene_list(folder / GENE_LIST)
