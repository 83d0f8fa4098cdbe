"""STATE SE beside the numbers that the official class gave for the same small checkpoint.

The fixture holds a folder in the official layout, its checkpoint written by lightning with random
weights (16 dimensions, 3 layers, 60 genes, 24 tokens), counts of a data set with more and of one
with fewer known genes than a cell has tokens, and what the official code made of them: tokens with
the same random stream, states, embeddings; once with its random downsampling.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import frozen
from sclitmus.models.card import model_card
from sclitmus.models.checkpoint import read_torch, tensors_of
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.state_se import Config, Network, StateSE
from sclitmus.models.tokens import Tokens, on_device

FIXTURE = Path(__file__).parent / "fixtures" / "state_se"
CHECKPOINT, PROTEINS = "se600m_epoch16.ckpt", "protein_embeddings.pt"
N_TOKENS = 25  # CLS, 23 genes, the data set
Official = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def official() -> Official:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (CHECKPOINT, PROTEINS, "config.yaml"):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


def cells(official: Official, kind: str = "wide") -> Dataset:
    return cells_of(official[f"{kind}_counts"], official[f"{kind}_names"].tolist())


def turned(data: Dataset) -> Dataset:
    """The same cells with their genes in another order."""
    columns = np.random.default_rng(1).permutation(data.n_genes)
    names = [data.genes.symbol[i] for i in columns]
    return cells_of(data.counts.toarray()[:, columns], names)


def fitted(
    folder: Path, cells: Dataset, behaviour: str, seed: int = 7, **settings: object
) -> FrozenModel:
    port = "sclitmus.models.state_se:StateSE"
    settings = {"min_matched": 0.1} | settings
    model = FrozenModel("state_se_600m", port, folder, behaviour, **settings)  # type: ignore[arg-type]
    return model.fit(cells, np.random.default_rng(seed))


def port_of(model: FrozenModel) -> StateSE:
    assert isinstance(model.loaded, StateSE)
    return model.loaded


def tokens_of(model: FrozenModel, cells: Dataset, seed: int = 7) -> Tokens:
    port = port_of(model)
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(seed))


def official_tensors() -> dict[str, torch.Tensor]:
    path = FIXTURE / CHECKPOINT
    return tensors_of(read_torch(path, "any"), path, "state_dict")


@pytest.mark.parametrize(("kind", "num_downsample"), [("wide", 1), ("narrow", 1), ("down", 2)])
def test_official_tokens_and_embeddings_are_those_of_the_official_code(
    folder: Path, official: Official, kind: str, num_downsample: int
) -> None:
    text = yaml.safe_load((folder / "config.yaml").read_text())
    text["model"]["num_downsample"] = num_downsample
    (folder / "config.yaml").write_text(yaml.safe_dump(text))
    data = cells(official, kind)
    model = fitted(folder, data, "official")
    tokens = tokens_of(model, data)
    assert set(tokens.lengths.tolist()) == {N_TOKENS}
    rows = tokens.columns["row"].reshape(-1, N_TOKENS)
    counts = tokens.columns["count"].reshape(-1, N_TOKENS)
    assert np.array_equal(rows[:, 1:-1], official[f"{kind}_rows"][:, 1:])
    assert np.abs(counts[:, :-1] - official[f"{kind}_values"]).max() <= 1e-6
    assert (counts[:, -1] == 0).all()
    assert np.abs(model.embed(data) - official[f"{kind}_cells"]).max() <= 1e-5
    with torch.inference_mode():
        states = port_of(model).gene_states(on_device(tokens.take(np.arange(2)), "cpu"))
    expected = official[f"{kind}_states"].reshape(2 * N_TOKENS, -1)
    assert np.abs(states.numpy() - expected).max() <= 1e-5


def test_an_embedding_is_a_unit_vector_and_ten_numbers_more(
    folder: Path, official: Official
) -> None:
    data = cells(official)
    z = fitted(folder, data, "fixed").embed(data)
    assert z.shape == (data.n_cells, 16 + 10)
    assert np.allclose(np.linalg.norm(z[:, :16], axis=1), 1, atol=1e-5)


def test_static_gene_vectors_are_those_the_original_gives(folder: Path, official: Official) -> None:
    vectors = fitted(folder, cells(official), "fixed").gene_vectors()
    assert list(vectors.names) == official["symbols"].tolist()
    assert np.abs(vectors.vectors - official["table"]).max() <= 1e-5


def test_contextual_gene_vectors_are_of_the_genes_read(folder: Path, official: Official) -> None:
    data = cells(official, "narrow").take(np.array([1]))
    vectors = fitted(folder, data, "fixed").gene_vectors(data)
    finite = np.isfinite(vectors.vectors).all(axis=1)
    assert finite.sum() == 17  # all of the dataset's genes: it fills up with those not expressed
    assert {vectors.names[i] for i in np.flatnonzero(finite)} <= set(data.genes.symbol)


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_fixed_depends_on_the_cell_alone(folder: Path, official: Official, kind: str) -> None:
    data = cells(official, kind)
    z = fitted(folder, data, "fixed", seed=1).embed(data)
    model = fitted(folder, data, "fixed", seed=2)
    assert np.array_equal(model.embed(data), z)
    order = np.random.default_rng(0).permutation(data.n_cells)
    assert np.abs(model.embed(data.take(order)) - z[order]).max() < 2e-6
    for i in (0, 1, 2, 5):
        assert np.abs(model.embed(data.take(np.array([i])))[0] - z[i]).max() < 2e-6
    other = turned(data)
    assert np.abs(fitted(folder, other, "fixed").embed(other) - z).max() < 2e-6


def test_official_depends_on_the_stream_and_on_the_fourth_gene(
    folder: Path, official: Official
) -> None:
    data = cells(official)
    a = fitted(folder, data, "official", seed=1).embed(data)
    b = fitted(folder, data, "official", seed=2).embed(data)
    change = np.abs(a - b).max(axis=1)
    assert change[2] < 2e-6  # expresses more genes than are read, with no ties at the limit
    assert np.delete(change, 2).min() > 1e-3
    tokens = tokens_of(fitted(folder, data, "official"), data)
    space = port_of(fitted(folder, data, "fixed")).space
    known = np.flatnonzero(space.match(data.genes).lookup >= 0)
    fourth = data.counts.toarray()[:, known[3]] > 0
    assert fourth.any()
    assert ((tokens.columns["count"][::N_TOKENS] > 0)[[1, 2, 3]] == fourth[[1, 2, 3]]).all()


def test_fixed_takes_the_highest_counts_and_fills_up_with_genes_not_expressed(
    folder: Path, official: Official
) -> None:
    data = cells(official)
    model = fitted(folder, data, "fixed")
    tokens = tokens_of(model, data)
    port = port_of(model)
    lookup = port.space.match(data.genes).lookup
    counts = np.zeros((data.n_cells, 60))
    counts[:, lookup[lookup >= 0]] = data.counts.toarray()[:, lookup >= 0]
    for i in range(data.n_cells):
        part = slice(tokens.offsets[i] + 1, tokens.offsets[i + 1] - 1)
        rows, read = tokens.columns["row"][part], tokens.columns["count"][part]
        assert len(rows) == len(set(rows.tolist())) == 23
        assert set(rows.tolist()) <= set(lookup.tolist())
        chosen = np.sort(counts[i, rows])[::-1]
        assert np.array_equal(chosen, np.sort(counts[i])[::-1][:23])
        weights = np.log1p(counts[i, rows]) / max(np.log1p(counts[i]).sum(), 1e-9)
        assert np.allclose(read, 100 * weights, atol=1e-4)
    assert (tokens.columns["count"][tokens.columns["row"] >= 60] == 0).all()  # CLS, data set


def test_the_original_takes_shallow_cells_for_logarithms(folder: Path, official: Official) -> None:
    data = cells(official)
    shallow, deep = fitted(folder, data, "official"), fitted(folder, data, "fixed")
    a, b = tokens_of(shallow, data), tokens_of(deep, data)

    def largest(tokens: Tokens, cell: int) -> float:
        return float(tokens.columns["count"][cell * N_TOKENS + 1 : (cell + 1) * N_TOKENS].max())

    assert data.counts[0].max() <= 2
    assert largest(a, 0) > 1.05 * largest(b, 0)  # no second logarithm
    assert abs(largest(a, 2) - largest(b, 2)) < 1e-4
    assert abs(largest(a, 4) - largest(b, 4)) < 1e-4


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_every_gene_expressed_and_nothing_to_fill_up_with(
    folder: Path, official: Official, behaviour: str
) -> None:
    data = cells(official, "narrow")
    full = cells_of(np.full((2, data.n_genes), 3), list(data.genes.symbol))
    model = fitted(folder, full, behaviour)
    assert tokens_of(model, full).lengths.tolist() == [19, 19]
    assert np.isfinite(model.embed(full)).all()


def test_too_few_known_genes_stop_it(folder: Path, official: Official) -> None:
    data = cells(official)
    names = [name.lower() for name in data.genes.symbol]  # case counts
    with pytest.raises(NotApplicable, match="knows too few of these genes by their symbols"):
        fitted(folder, cells_of(data.counts.toarray(), names), "fixed", min_matched=0.5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"transformer_encoder.layers.2.norm2.bias": None}, r"missing: .*2\.norm2\.bias"),
        ({"adapter.weight": torch.zeros(2)}, r"unexpected: adapter\.weight"),
        ({"encoder.0.weight": torch.zeros(16, 11)}, r"encoder\.0\.weight is \(16, 11\)"),
        ({"dataset_token": None}, "missing: dataset_token"),
    ],
)
def test_a_key_too_few_too_many_or_of_another_shape_is_named(
    folder: Path, official: Official, changed: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = official_tensors() | changed
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    torch.save({"state_dict": kept}, folder / CHECKPOINT)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells(official), "fixed")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (CHECKPOINT, b"<!DOCTYPE html><html>", "is a web page"),
        (CHECKPOINT, None, "cut short"),
        (PROTEINS, None, "cut short"),
        ("config.yaml", b"model: {emsize: 4}", "does not describe the network"),
        ("config.yaml", b"model: [", "config.yaml cannot be read"),
        ("config.yaml", b"just words", "does not describe the network"),
    ],
)
def test_another_file_under_its_name_is_refused(
    folder: Path, official: Official, name: str, content: bytes | None, said: str
) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells(official), "fixed")


def test_weights_alone_are_no_lightning_checkpoint(folder: Path, official: Official) -> None:
    torch.save(official_tensors(), folder / CHECKPOINT)
    with pytest.raises(WeightsError, match="has no 'state_dict'"):
        fitted(folder, cells(official), "fixed")


def test_a_model_without_the_token_of_the_data_set_is_refused(
    folder: Path, official: Official
) -> None:
    text = yaml.safe_load((folder / "config.yaml").read_text())
    text["model"]["dataset_correction"] = False
    (folder / "config.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(WeightsError, match="dataset_correction False"):
        fitted(folder, cells(official), "fixed")


def test_vectors_of_different_lengths_are_refused(folder: Path, official: Official) -> None:
    vectors = torch.load(folder / PROTEINS, weights_only=True)
    vectors["GENE0"] = torch.zeros(11)
    torch.save(vectors, folder / PROTEINS)
    with pytest.raises(WeightsError, match="vectors of different lengths"):
        fitted(folder, cells(official), "fixed")


def test_random_weights_need_no_files_and_follow_their_seed(
    folder: Path, official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = yaml.safe_load((folder / "config.yaml").read_text())
    small = replace(model_card("state_se_600m"), config=text)
    monkeypatch.setattr(frozen, "model_card", lambda id: small)
    data = cells(official)

    def embed(cells: Dataset, seed: int) -> np.ndarray:
        model = fitted(Path("/nowhere"), cells, "fixed", random_init=True, init_seed=seed)
        return model.embed(cells)

    z = embed(data, 0)
    assert np.array_equal(embed(data, 0), z)
    assert np.abs(embed(data, 1) - z).max() > 1e-3
    assert np.abs(embed(turned(data), 0) - z).max() < 2e-6
    # With the files at hand it reads the published proteins.
    port = port_of(fitted(folder, data, "fixed", random_init=True))
    vectors = torch.load(folder / PROTEINS, weights_only=True)
    table = port.network.state_dict()["pe_embedding.weight"]
    assert torch.equal(table, torch.stack(list(vectors.values())))
    assert not torch.equal(port.network.cls_token, official_tensors()["cls_token"])


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    # "SE-600M"; without the frozen proteins, with the two parts that are not loaded here.
    config = Config.of(model_card("state_se_600m").config, "the card")
    with torch.device("meta"):
        network = Network(config, 19_790)
    d, hidden, token, out = 2048, 2048, 5120, 2048
    learned = sum(p.numel() for p in network.parameters()) - 19_790 * token
    layer = 4 * d * d + 4 * d + 2 * d * hidden + hidden + d + 4 * d
    skip = 4 * d * d + 2 * d + d + 2 * d
    counts = 10 * d + 2 * 512 + 10 * 512 + 10
    reader = token * d + d + 2 * d
    others = 2 * token + 10 * (out + 1)
    assert learned == 16 * layer + skip + d * out + out + counts + reader + others
    wide = d + out + 11  # gene, cell, depth and data set
    expression = 2 * (4 * wide * wide + 2 * wide + wide + 2 * wide) + wide + 1
    datasets = out * d + d + 2 * d + 14_420 * (d + 1)
    assert round((learned + expression + datasets) / 1e6) == 603
