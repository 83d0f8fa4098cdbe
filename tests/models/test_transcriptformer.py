"""TranscriptFormer beside the numbers that the official class gave for the same small checkpoint.

The fixture holds a folder in the official layout with random weights (32 dimensions, 3 layers, 60
genes, 31 tokens), counts, and what the official code made of them: tokens, states, embeddings.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import frozen
from sclitmus.models.card import model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.tokens import Tokens, on_device
from sclitmus.models.transcriptformer import (
    QUERIES,
    TABLE,
    Attention,
    Config,
    Network,
    TranscriptFormer,
)

FIXTURE = Path(__file__).parent / "fixtures" / "transcriptformer"
WEIGHTS, VOCABULARY = "model_weights.pt", "vocabs/homo_sapiens_gene.h5"
FIRST = "gene_embeddings.mlp.layers.0.weight"
Official = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def official() -> Official:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocabs").mkdir()
    for name in ("config.json", WEIGHTS, VOCABULARY):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(("",) * len(names), tuple(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: Official) -> Dataset:
    return cells_of(official["counts"], official["names"].tolist())


def turned(cells: Dataset) -> Dataset:
    """The same cells with their genes in another order."""
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    names = [cells.genes.ensembl[i] for i in columns]
    return cells_of(cells.counts.toarray()[:, columns], names)


def fitted(folder: Path, cells: Dataset, behaviour: str, **settings: object) -> FrozenModel:
    port = "sclitmus.models.transcriptformer:TranscriptFormer"
    model = FrozenModel("transcriptformer_sapiens", port, folder, behaviour, **settings)  # type: ignore[arg-type]
    return model.fit(cells, np.random.default_rng(0))


def port_of(model: FrozenModel) -> TranscriptFormer:
    assert isinstance(model.loaded, TranscriptFormer)
    return model.loaded


def tokens_of(model: FrozenModel, cells: Dataset) -> Tokens:
    port = port_of(model)
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(0))


def test_official_tokens_and_embeddings_are_those_of_the_official_code(
    folder: Path, cells: Dataset, official: Official
) -> None:
    model = fitted(folder, cells, "official")
    tokens = tokens_of(model, cells)
    assert tokens.lengths.tolist() == official["lengths"].tolist()
    assert np.array_equal(tokens.columns["row"], official["rows"])
    assert np.array_equal(tokens.columns["count"], official["values"])
    assert np.abs(model.embed(cells) - official["cells"]).max() <= 1e-5
    with torch.inference_mode():
        states = port_of(model).gene_states(on_device(tokens.take(np.arange(3)), "cpu"))
    assert np.abs(states.numpy() - official["states"]).max() <= 1e-5


def test_static_gene_vectors_are_what_the_network_reads(
    folder: Path, cells: Dataset, official: Official
) -> None:
    vectors = fitted(folder, cells, "fixed").gene_vectors()
    with h5py.File(folder / VOCABULARY) as file:
        names = [name.decode() for name in file["keys"][:]]
    assert list(vectors.names) == names
    assert vectors.kind == "ensembl"
    assert np.abs(vectors.vectors - official["table"][7:]).max() <= 1e-6


def test_a_gene_is_paired_with_the_state_before_it_or_with_its_own(
    folder: Path, cells: Dataset
) -> None:
    small = cells.take(np.array([3, 5]))
    official, fixed = (fitted(folder, small, kind) for kind in ("official", "fixed"))
    tokens = tokens_of(official, small)
    # The second cell has a gene more than fits behind [START]: the last state predicts it.
    assert (tokens.columns["gene"] < 0).tolist() == [*[False] * 4, True, *[False] * 31]
    assert np.array_equal(tokens.columns["gene"][:4], tokens.columns["row"][1:5])
    tokens = tokens_of(fixed, small)
    own = tokens.columns["gene"] >= 0
    assert np.flatnonzero(~own).tolist() == [0, 5]  # [START]
    assert np.array_equal(tokens.columns["gene"][own], tokens.columns["row"][own])
    assert np.isfinite(fixed.gene_vectors(small).vectors).all(axis=1).sum() >= 30


def test_fixed_depends_on_the_cell_alone(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells, "fixed")
    z = model.embed(cells)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(model.embed(cells.take(order)) - z[order]).max() < 2e-6
    for i in (0, 1, 2, 5):
        assert np.abs(model.embed(cells.take(np.array([i])))[0] - z[i]).max() < 2e-6
    assert np.abs(model.embed(turned(cells)) - z).max() < 2e-6


def test_official_depends_on_the_order_of_the_columns(folder: Path, cells: Dataset) -> None:
    model = fitted(folder, cells, "official")
    change = np.abs(model.embed(turned(cells)) - model.embed(cells)).max(axis=1)
    assert change[[0, 2, 4, 5]].min() > 1e-3
    assert change[[1, 6]].max() < 2e-6  # one gene, and none


def test_cells_of_one_gene_of_none_and_of_too_many(folder: Path, cells: Dataset) -> None:
    for behaviour in ("official", "fixed"):
        model = fitted(folder, cells, behaviour)
        assert tokens_of(model, cells).lengths[[1, 2, 4, 5, 6]].tolist() == [2, 31, 31, 31, 1]
        assert np.isfinite(model.embed(cells)).all()


def test_attention_in_pieces_is_attention_as_a_whole() -> None:
    torch.manual_seed(0)
    config = Config(16, 16, 2, 1, 700, "gelu", False, False, 10, 1e-6)
    attention = Attention(config)
    for linear in attention.linears:
        torch.nn.init.normal_(linear.weight, std=0.5)
    lengths = [3, 2 * QUERIES + 57]
    x, logs = torch.randn(sum(lengths), 16), torch.rand(sum(lengths)) * 4
    with torch.inference_mode():
        found = attention(x, logs, [0, 3, sum(lengths)])
        for a, b in ((0, 3), (3, sum(lengths))):
            q, k, v = (f(x[a:b]).view(b - a, 2, 8).transpose(0, 1) for f in attention.linears[:3])
            scores = 10 * torch.tanh((q @ k.mT / 8**0.5 + logs[a:b]) / 10)
            scores = scores.masked_fill(torch.ones(b - a, b - a).triu(1).bool(), float("-inf"))
            whole = attention.linears[3]((scores.softmax(2) @ v).transpose(0, 1).reshape(b - a, 16))
            assert torch.allclose(found[a:b], whole, atol=1e-5)


def test_too_few_known_genes_stop_it(folder: Path, cells: Dataset) -> None:
    names = [f"ENSG77{i:09d}" for i in range(cells.n_genes - 3)] + list(cells.genes.ensembl[-3:])
    with pytest.raises(NotApplicable, match="knows too few of these genes by their Ensembl ids"):
        fitted(folder, cells_of(cells.counts.toarray(), names), "fixed")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"transformer_encoder.encoder_layers.2.norm2.bias": None}, "missing: .*2.norm2.bias"),
        ({"adapter.weight": torch.zeros(2)}, r"unexpected: adapter\.weight"),
        ({FIRST: torch.zeros(32, 2)}, r"layers\.0\.weight is \(32, 2\)"),
        ({TABLE: None}, r"missing: gene_embeddings\.embedding\.weight"),
        ({TABLE: torch.zeros(66, 20)}, "vectors for 66 tokens, but .* name 67"),
    ],
)
def test_a_key_too_few_too_many_or_of_another_shape_is_named(
    folder: Path, cells: Dataset, changed: dict[str, torch.Tensor | None], said: str
) -> None:
    state = torch.load(folder / WEIGHTS, weights_only=True) | changed
    torch.save(
        {key: tensor for key, tensor in state.items() if tensor is not None}, folder / WEIGHTS
    )
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells, "fixed")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (WEIGHTS, b"<!DOCTYPE html><html>", "is a web page"),
        (WEIGHTS, None, "cut short"),
        (VOCABULARY, None, "homo_sapiens_gene.h5 cannot be read"),
        (VOCABULARY, b"", "is an empty file"),
        ("config.json", b'{"model": {"model_config": {}}}', "does not describe the network"),
        ("config.json", b'{"model"', "config.json cannot be read"),
    ],
)
def test_another_file_under_its_name_is_refused(
    folder: Path, cells: Dataset, name: str, content: bytes | None, said: str
) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells, "fixed")


def test_a_model_that_reads_zeros_is_refused(folder: Path, cells: Dataset) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["data_config"]["pad_zeros"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="pad_zeros False"):
        fitted(folder, cells, "fixed")


def test_random_weights_need_no_files_and_follow_their_seed(
    folder: Path, cells: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    small = replace(model_card("transcriptformer_sapiens"), config=model | {"token_dim": 20})
    monkeypatch.setattr(frozen, "model_card", lambda id: small)

    def embed(data: Dataset, seed: int, folder: Path = Path("/nowhere")) -> np.ndarray:
        return fitted(folder, data, "fixed", random_init=True, init_seed=seed).embed(data)

    z = embed(cells, 0)
    assert np.array_equal(embed(cells, 0), z)
    assert np.abs(embed(cells, 1) - z).max() > 1e-3
    assert np.abs(embed(turned(cells), 0) - z).max() < 2e-6
    # With the files at hand it reads the published proteins.
    published = torch.load(folder / WEIGHTS, weights_only=True)
    port = port_of(fitted(folder, cells, "fixed", random_init=True))
    weights = port.network.state_dict()
    assert torch.equal(weights[TABLE], published[TABLE])
    layer = "transformer_encoder.encoder_layers.0.linear1.weight"
    assert not torch.equal(weights[layer], published[layer])


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    # README: 368 million trained and 61 million frozen, 23,829 genes in the vocabulary.
    card = model_card("transcriptformer_sapiens")
    config = Config.of(card.config, "the card")
    n, d, hidden = 23_829 + len(config.special_tokens), 2048, 2048
    with torch.device("meta"):
        network = Network(config, n, card.config["token_dim"])
    total = sum(p.numel() for p in network.parameters())
    layer = 4 * d * d + 2 * d * hidden + 4 * d
    proteins = 2560 * d + d + 2 * d + d * d + d
    assert total == n * 2560 + proteins + 12 * layer
    # What is not loaded: heads for the next gene and its count, vectors of 40 assays.
    next_gene = d * d + d + 2 * d + d * n + n
    count = n + 2 * d * (d // 2) + 3 * (d // 2) + d // 2 + 1
    trained = total - n * 2560 + next_gene + count + 40 * d
    assert trained // 1e6 == 368
    assert round(23_829 * 2560 / 1e6) == 61
