"""CellPLM beside the numbers that the official pipeline gave for the same small checkpoint.

The fixture holds a checkpoint of random weights in the official layout (32 dimensions, 2 layers, 4
clusters, 60 genes), the counts of 40 cells in two batches, and embeddings: with the cluster drawn
from numpy streams of seed 7 and 8 in place of torch's, and with equal noise, which is the likeliest
cluster.
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

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import cellplm
from sclitmus.models.card import ModelCard, model_card
from sclitmus.models.cellplm import CHECKPOINT, CONFIG, CellPLM, Config, Network, _flow
from sclitmus.models.frozen import FrozenModel

FIXTURE = Path(__file__).parent / "fixtures" / "cellplm"


@pytest.fixture(autouse=True)
def small_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go of the published checksum of config.json: the fixture has its own."""

    def card(id: str) -> ModelCard:
        published = model_card(id)
        return replace(published, files=tuple(replace(f, sha256="") for f in published.files))

    monkeypatch.setattr("sclitmus.models.frozen.model_card", card)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (CONFIG, CHECKPOINT):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return dataset(official["counts"], official["genes"].tolist(), official["batch"].tolist())


def dataset(counts: np.ndarray, ids: list[str], batch: list[str | None] | None) -> Dataset:
    genes = Genes(("",) * len(ids), tuple(ids), "human")
    roles = {} if batch is None else {"batch": Categories.of(batch)}
    names = tuple(f"c{i}" for i in range(len(counts)))
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, names, roles=roles)


def fitted(
    folder: Path | None, cells: Dataset, behaviour: Any = "fixed", seed: int = 0, **more: Any
) -> FrozenModel:
    model = FrozenModel("cellplm", "sclitmus.models.cellplm:CellPLM", folder, behaviour, **more)
    return model.fit(cells, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("behaviour", "batches", "seed", "expected"),
    [
        ("official", True, 7, "official"),
        ("official", True, 8, "official_seed8"),
        ("official", False, 7, "official_nobatch"),
        ("fixed", True, 0, "argmax"),
        ("fixed", False, 0, "argmax_nobatch"),
    ],
)
def test_embeddings_are_those_of_the_official_pipeline(
    behaviour: str,
    batches: bool,
    seed: int,
    expected: str,
    folder: Path,
    cells: Dataset,
    official: dict[str, np.ndarray],
) -> None:
    given = cells if batches else cells.without("batch")
    z = fitted(folder, given, behaviour, seed).embed(given)
    assert np.abs(z - official[expected]).max() <= 1e-5


def test_the_official_numbers_are_apart(official: dict[str, np.ndarray]) -> None:
    # Else the test above could not tell them from each other.
    assert np.abs(official["official"] - official["official_seed8"]).max() > 0.1
    assert np.abs(official["official"] - official["argmax"]).max() > 0.1
    assert np.abs(official["argmax"] - official["argmax_nobatch"]).max() > 0.1


def test_fixed_draws_nothing_and_does_not_mind_the_order_of_cells_and_genes(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    model = fitted(folder, cells)
    z = model.embed(cells)
    assert np.array_equal(fitted(folder, cells, seed=9).embed(cells), z)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(model.embed(cells.take(order)) - z[order]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    ids = [cells.genes.ensembl[i] for i in columns]
    turned = dataset(official["counts"][:, columns], ids, official["batch"].tolist())
    assert np.abs(fitted(folder, turned).embed(turned) - z).max() < 2e-6


def test_an_embedding_depends_on_the_cells_of_its_batch_and_on_no_others(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    model = fitted(folder, cells)
    z = model.embed(cells)
    b1 = np.flatnonzero(official["batch"] == "b1")
    assert np.abs(model.embed(cells.take(b1)) - z[b1]).max() < 2e-6  # without the other batch
    alone = model.embed(cells.take(b1[:1]))[0]
    half = model.embed(cells.take(b1[: len(b1) // 2]))[0]
    # This is the model, not a fault: cells are its tokens, the batch its sentence.
    assert np.abs(alone - z[b1[0]]).max() > 1e-2
    assert np.abs(half - z[b1[0]]).max() > 1e-3


def sets(port: CellPLM, cells: Dataset) -> list[list[str]]:
    parts = port.partition(cells)
    assert parts is not None
    return [[cells.cells[i] for i in rows] for rows in parts]


def test_sets_are_batches_in_the_order_of_their_names(folder: Path, cells: Dataset) -> None:
    batch: list[str | None] = ["z", "a", None, "z", "a", "a"]
    few = dataset(cells.counts[:6].toarray(), list(cells.genes.ensembl), batch)
    for behaviour in ("official", "fixed"):
        port = fitted(folder, few, behaviour).loaded
        assert isinstance(port, CellPLM)
        assert sets(port, few) == [["c1", "c4", "c5"], ["c0", "c3"], ["c2"]]
        assert sets(port, few.without("batch")) == [[f"c{i}" for i in range(6)]]


def test_a_large_set_is_divided(
    folder: Path, cells: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellplm, "MAX_SET", 16)
    one = cells.without("batch")
    port = fitted(folder, one, "official").loaded
    assert isinstance(port, CellPLM)
    names = [f"c{i}" for i in range(40)]
    assert sets(port, one) == [names[:16], names[16:32], names[32:]]
    port = replace(port, behaviour="fixed")
    parts = sets(port, one)
    assert [len(part) for part in parts] == [14, 13, 13]
    assert sorted(name for part in parts for name in part) == sorted(names)
    order = np.random.default_rng(0).permutation(40)  # the same sets in any order of the file
    assert {frozenset(part) for part in sets(port, one.take(order))} == set(map(frozenset, parts))
    assert np.isfinite(fitted(folder, one).embed(one)).all()


def test_flow_attention_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    n, d, eps = 7, 3, 1e-6
    q, k = 1 / (1 + np.exp(-rng.normal(size=(2, n, d))))
    v = rng.normal(size=(n, d))
    into = 1 / ((q + eps) @ (k.sum(0) + eps))
    out = 1 / ((k + eps) @ (q.sum(0) + eps))
    sink = (q + eps) @ ((k * out[:, None]).sum(0) + eps)
    source = np.clip((k + eps) @ ((q * into[:, None]).sum(0) + eps), -1, 1)
    share = np.exp(source) / np.exp(source).sum() * n
    expected = np.zeros((n, d))
    for i in range(n):
        for j in range(n):
            expected[i] += (q[i] * into[i]) @ k[j] * v[j] * share[j]
        expected[i] /= 1 + np.exp(-sink[i])
    found = _flow(*(torch.from_numpy(x)[None] for x in (q, k, v)))[0].numpy()
    assert np.abs(found - expected).max() < 1e-12


def test_gene_vectors_are_the_table(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells)
    vectors = model.gene_vectors()
    table = torch.load(FIXTURE / CHECKPOINT)["model_state_dict"]["embedder.feat_enc.emb"]
    assert vectors.kind == "ensembl"
    assert vectors.names[0] == "ENSG00000000001"
    assert np.array_equal(vectors.vectors, table.numpy())
    with pytest.raises(NotApplicable, match="tokens of CellPLM are cells"):
        model.gene_vectors(cells)


def test_poor_cells(folder: Path, cells: Dataset, official: dict[str, np.ndarray]) -> None:
    # Cell 5 has one gene, cell 6 none that the model knows; the original takes both.
    z = fitted(folder, cells).embed(cells)
    assert np.count_nonzero(official["counts"][5]) == 1
    assert np.abs(z[[5, 6]] - official["argmax"][[5, 6]]).max() <= 1e-5
    assert np.abs(z[5] - z[6]).max() > 1e-3
    assert np.isfinite(fitted(folder, cells).embed(cells.take(np.array([6])))).all()


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(FIXTURE / CHECKPOINT)
    change(state["model_state_dict"])
    torch.save(state, folder / CHECKPOINT)


MU = "latent.layers.1.inference.inference_qzyx.2.mu.weight"
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda t: t.pop(MU), f"missing: {MU}"),
    "unexpected": (lambda t: t.update(more=torch.zeros(2)), "unexpected: more"),
    "shape": (lambda t: t.update({MU: torch.zeros(3, 512)}), r"mu\.weight is \(3, 512\), needed"),
    "genes": (
        lambda t: t.update({"embedder.feat_enc.emb": torch.zeros(59, 32)}),
        r"vectors for 59 genes.*names 60",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    fault: str, folder: Path, cells: Dataset
) -> None:
    change, said = FAULTS[fault]
    changed(folder, change)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>choose a folder</html>", "web page"),
        (b"", "empty"),
        ((FIXTURE / CHECKPOINT).read_bytes()[:100_000], "cut short"),
    ],
)
def test_another_file_is_refused(content: bytes, said: str, folder: Path, cells: Dataset) -> None:
    (folder / CHECKPOINT).write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells)


def test_a_checkpoint_of_another_kind_is_refused(folder: Path, cells: Dataset) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}}, folder / CHECKPOINT)
    with pytest.raises(WeightsError, match=r"no 'model_state_dict'; it has state_dict"):
        fitted(folder, cells)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"enc_mod": "performer"}, "enc_mod 'performer'"),
        ({"latent_mod": "vae"}, "latent_mod 'vae'"),
        ({"enc_hid": None}, "no enc_hid"),
        ({"gene_list": None}, "no gene_list"),
        ({"gene_list": ["A", "B"]}, "60 genes.*names 2"),
        ({"enc_layers": 3}, r"missing: encoder\.layers\.2"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    change: dict[str, Any], said: str, folder: Path, cells: Dataset
) -> None:
    table = json.loads((folder / CONFIG).read_text()) | change
    table = {name: value for name, value in table.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(table))
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells)
    (folder / CONFIG).write_text("{not json")
    (folder / "checksums.json").unlink(missing_ok=True)  # the file changes
    with pytest.raises(WeightsError, match="no JSON"):
        fitted(folder, cells)


def test_random_weights_need_no_file_and_follow_the_seed(tmp_path: Path) -> None:
    cells = simulate(n_cells=12, n_genes=30)  # has symbols only
    z = fitted(tmp_path, cells, random_init=True).embed(cells)
    assert z.shape == (12, 512)  # the published size
    assert np.array_equal(fitted(tmp_path, cells, random_init=True).embed(cells), z)
    other = fitted(tmp_path, cells, random_init=True, init_seed=1).embed(cells)
    assert np.abs(other - z).max() > 1e-2


def test_random_weights_take_the_genes_of_a_config_at_hand(folder: Path, cells: Dataset) -> None:
    port = fitted(folder, cells, random_init=True).loaded
    assert port is not None
    assert len(port.space.names) == 60


def test_size_is_that_of_the_official_class() -> None:
    """The published name says 85M; the official class of the published configuration has less.

    It has 82,402,543 numbers, counted at commit b59ee76: 16,575,199 decode, 10,241,024 encode
    positions in a tissue, 2,048 are a norm that is never called, and 262,656 and 17,408 belong to
    the latent variance and to the clusters' prior. What is left is the encoder.
    """
    with torch.device("meta"):
        network = Network(Config.of(model_card("cellplm").config, "card"), 19_374)
    unused = 16_575_199 + 10_241_024 + 2_048 + 262_656 + 17_408
    assert sum(p.numel() for p in network.parameters()) == 82_402_543 - unused
