"""UCE beside the numbers that the official code gave for the same small checkpoint.

The fixture holds random weights under the official names (16 dimensions, 2 layers; the unused
``binary_decoder`` by its shapes only), a made-up genome of eight species, counts of a human and a
mouse data set, and what the official code made of them in batches of five: tokens with the same
random stream, states, embeddings.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import frozen
from sclitmus.models.card import ModelCard, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.tokens import Tokens, on_device
from sclitmus.models.uce import CHROM_END, CLS, TABLE, UCE, Config, Network, Positions
from sclitmus.models.uce_genome import SPECIES

FIXTURE = Path(__file__).parent / "fixtures" / "uce"
LAYOUT = json.loads((FIXTURE / "layout.json").read_text())
CHECKPOINT, OFFSETS = "4layer_model.torch", "species_offsets.pkl"
Official = dict[str, np.ndarray]
Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def official() -> Official:
    return dict(np.load(FIXTURE / "official.npz"))


def published_tensors() -> dict[str, torch.Tensor]:
    kept = np.load(FIXTURE / "checkpoint.npz")
    return {
        name: torch.from_numpy(kept[name].astype(np.float32))
        if name in kept
        else torch.zeros(()).expand(shape)
        for name, shape in LAYOUT["shapes"].items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(
        tensors: dict[str, torch.Tensor] | None = None,
        offsets: dict[str, int] | None = None,
        species: tuple[str, ...] = ("human", "mouse"),
    ) -> Path:
        torch.save(tensors or published_tensors(), tmp_path / CHECKPOINT)
        (tmp_path / OFFSETS).write_bytes(pickle.dumps(offsets or LAYOUT["offsets"]))
        (tmp_path / "species_chrom.csv").write_bytes((FIXTURE / "species_chrom.csv").read_bytes())
        (tmp_path / "protein_embeddings").mkdir(exist_ok=True)
        for kind in species:
            vectors = {name: torch.zeros(12) for name in LAYOUT["genes"][kind]}
            torch.save(vectors, tmp_path / "protein_embeddings" / SPECIES[kind])
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The published card with the sizes of the small checkpoint."""
    small = replace(model_card("uce_4l"), config=LAYOUT["config"])
    monkeypatch.setattr(frozen, "model_card", lambda id: small)
    return small


def cells_of(counts: np.ndarray, names: list[str], organism: str = "human") -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), organism)
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


def cells(official: Official, organism: str = "human") -> Dataset:
    names = official[f"{organism}_names"].tolist()
    return cells_of(official[f"{organism}_counts"], names, organism)


def fitted(
    folder: Path, cells: Dataset, behaviour: str, seed: int = 7, **settings: object
) -> FrozenModel:
    model = FrozenModel("uce_4l", "sclitmus.models.uce:UCE", folder, behaviour, **settings)  # type: ignore[arg-type]
    return model.fit(cells, np.random.default_rng(seed))


def port_of(model: FrozenModel) -> UCE:
    assert isinstance(model.loaded, UCE)
    return model.loaded


def tokens_of(model: FrozenModel, cells: Dataset, seed: int = 7) -> Tokens:
    port = port_of(model)
    lookup = port.space.match(cells.genes).lookup
    return port.tokenise(cells.counts, lookup, np.random.default_rng(seed))


@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_official_tokens_and_embeddings_are_those_of_the_official_code(
    folder: Folder, official: Official, organism: str
) -> None:
    data = cells(official, organism)
    model = fitted(folder(), data, "official")
    tokens = tokens_of(model, data)
    assert tokens.lengths.tolist() == official[f"{organism}_lengths"].tolist()
    assert np.array_equal(tokens.columns["token"], official[f"{organism}_tokens"])
    assert np.abs(model.embed(data) - official[f"{organism}_cells"]).max() <= 1e-5
    first = on_device(tokens.take(np.arange(5)), "cpu")
    with torch.inference_mode():
        states = port_of(model).gene_states(first)
    assert len(states) == first.offsets[-1]  # padding is left out again
    expected = official[f"{organism}_states"]
    assert np.abs(states[: len(expected)].numpy() - expected).max() <= 1e-5


def test_static_gene_vectors_are_the_proteins_through_the_layer_that_reads_them(
    folder: Folder, official: Official
) -> None:
    vectors = fitted(folder(), cells(official), "fixed").gene_vectors()
    human, mouse = LAYOUT["genes"]["human"], LAYOUT["genes"]["mouse"]
    assert vectors.names[:60] == tuple(name.upper() for name in human)
    assert vectors.names[60:] == tuple(f"mouse:{name.upper()}" for name in mouse)
    expected = np.concatenate([official["human_table"], official["mouse_table"]])
    assert np.abs(vectors.vectors - expected).max() <= 1e-6


def test_contextual_gene_vectors_are_of_the_genes_drawn(folder: Folder, official: Official) -> None:
    data = cells(official)
    model = fitted(folder(), data, "fixed")
    one = data.take(np.array([1]))  # has a single gene
    vectors = model.gene_vectors(one)
    row = vectors.names.index(data.genes.symbol[3].upper())
    assert np.isfinite(vectors.vectors[row]).all()
    assert np.isnan(np.delete(vectors.vectors, row, axis=0)).all()


def test_fixed_depends_on_the_cell_alone(folder: Folder, official: Official) -> None:
    data = cells(official)
    place = folder()
    z = fitted(place, data, "fixed", seed=1).embed(data)
    model = fitted(place, data, "fixed", seed=2)
    assert np.array_equal(model.embed(data), z)
    order = np.random.default_rng(0).permutation(data.n_cells)
    assert np.abs(model.embed(data.take(order)) - z[order]).max() < 2e-6
    for i in (0, 1, 2, 5):
        assert np.abs(model.embed(data.take(np.array([i])))[0] - z[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(data.n_genes)
    turned = cells_of(data.counts.toarray()[:, columns], [data.genes.symbol[i] for i in columns])
    assert np.abs(fitted(place, turned, "fixed").embed(turned) - z).max() < 2e-6
    assert np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)


def test_official_depends_on_the_longest_cell_of_the_batch_and_on_the_stream(
    folder: Folder, official: Official
) -> None:
    place = folder()
    # The cell of one gene is shorter than its batch-mates, and its tokens are always the same.
    data = cells(official)
    together = fitted(place, data, "official", seed=1).embed(data)
    alone = data.take(np.array([1]))
    assert np.abs(fitted(place, alone, "official").embed(alone)[0] - together[1]).max() > 1e-3
    other = fitted(place, data, "official", seed=2).embed(data)
    assert np.abs(other - together)[[0, 2, 4]].max(axis=1).min() > 1e-3
    assert np.abs(other - together)[1].max() < 2e-6


def test_fixed_takes_each_gene_as_often_as_its_weight_says(
    folder: Folder, official: Official
) -> None:
    data = cells(official)
    model = fitted(folder(), data, "fixed")
    tokens = tokens_of(model, data)
    port = port_of(model)
    n = port.config.sample_size
    lookup = port.space.match(data.genes).lookup
    counts = np.log1p(data.counts.toarray()[:, lookup >= 0])
    weights = np.zeros((data.n_cells, len(port.space.names)))
    weights[:, lookup[lookup >= 0]] = counts / counts.sum(axis=1, keepdims=True)
    for i in range(data.n_cells):
        a, b = tokens.offsets[i], tokens.offsets[i + 1]
        gene, token = tokens.columns["gene"][a:b], tokens.columns["token"][a:b]
        assert np.abs(np.bincount(gene[gene >= 0], minlength=100) - n * weights[i]).max() < 1
        assert token[0] == CLS
        assert (token == CHROM_END).sum() == (token >= port.config.chrom_offset).sum()
        genome = port.genome
        places = list(
            zip(genome.chrom[gene[gene >= 0]], genome.start[gene[gene >= 0]], strict=True)
        )
        assert places == sorted(places)
        opened = token[np.flatnonzero(token >= port.config.chrom_offset)]
        assert opened.tolist() == sorted({int(c) + port.config.chrom_offset for c, _ in places})


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_a_cell_without_known_genes_is_its_cls_token_alone(
    folder: Folder, official: Official, behaviour: str
) -> None:
    data = cells(official)
    counts = data.counts.toarray()
    counts[2] = 0
    counts[2, data.genes.symbol.index("UNKNOWN3")] = 9
    changed = cells_of(counts, list(data.genes.symbol))
    model = fitted(folder(), changed, behaviour)
    tokens = tokens_of(model, changed)
    assert tokens.lengths[2] == 1
    z = model.embed(changed)
    assert len(z) == changed.n_cells
    assert np.isfinite(z).all()


def test_a_sentence_ends_where_the_positions_do(folder: Folder, official: Official) -> None:
    data = cells(official)
    for behaviour in ("official", "fixed"):
        model = fitted(folder(), data, behaviour)
        port = port_of(model)
        tight = replace(port, config=replace(port.config, sample_size=100))
        tokens = tokens_of(replace(model, loaded=tight), data)
        assert tokens.lengths.max() <= port.config.pad_length
        assert np.isfinite(replace(model, loaded=tight).embed(data)).all()


def test_a_species_has_its_own_tokens(folder: Folder, official: Official) -> None:
    names = [name for name in LAYOUT["genes"]["human"] if name.startswith("GENE")][:20]
    counts = np.ones((1, len(names)))
    place = folder()
    human = cells_of(counts, names, "human")
    mouse = cells_of(counts, names, "mouse")
    model = fitted(place, human, "fixed", min_matched=0.1)
    space = port_of(model).space
    assert (space.match(human.genes).lookup >= 0).all()
    matched = space.match(mouse.genes)
    assert ((matched.lookup < 0) | (matched.lookup >= 60)).all()  # GENE3 is a gene of both
    assert 0 < matched.n_matched < 20
    assert matched.n_model == 40
    assert not any("mouse:" in name for name in matched.examples)
    lost = folder(species=("human",))
    (lost / "protein_embeddings" / SPECIES["mouse"]).unlink()
    with pytest.raises(NotApplicable, match=r"genes of mouse: protein_embeddings/Mus_musculus"):
        fitted(lost, mouse, "fixed")
    rat = cells_of(counts, names, "rat")
    with pytest.raises(NotApplicable, match="genes of rat: it was not made for them"):
        fitted(lost, rat, "fixed")


def test_each_token_is_encoded_once(folder: Folder, official: Official) -> None:
    data = cells(official)
    model = fitted(folder(), data, "fixed")
    model.embed(data)
    table = port_of(model).table
    used = np.unique(tokens_of(model, data).columns["token"])
    assert table.encoded is not None
    assert len(table.encoded) == len(used)
    model.embed(data)
    assert len(table.encoded) == len(used)


def test_the_positions_are_those_of_the_checkpoint() -> None:
    assert torch.allclose(Positions(16, 72).pe, published_tensors()["pos_encoder.pe"], atol=1e-6)


def test_a_missing_key_is_named(folder: Folder, official: Official) -> None:
    data = cells(official)
    tensors = published_tensors()
    lost = {name: t for name, t in tensors.items() if name != "decoder.2.1.bias"}
    with pytest.raises(WeightsError, match=r"missing: decoder\.2\.1\.bias"):
        fitted(folder(lost), data, "fixed")


def test_an_unknown_key_is_named(folder: Folder, official: Official) -> None:
    tensors = published_tensors() | {"adapter.weight": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"unexpected: adapter\.weight"):
        fitted(folder(tensors), cells(official), "fixed")


def test_a_tensor_of_another_shape_is_named(folder: Folder, official: Official) -> None:
    tensors = published_tensors() | {"encoder.0.weight": torch.zeros(16, 13)}
    with pytest.raises(WeightsError, match=r"encoder\.0\.weight is \(16, 13\)"):
        fitted(folder(tensors), cells(official), "fixed")


def test_weights_without_the_token_table_are_refused(folder: Folder, official: Official) -> None:
    tensors = published_tensors()
    del tensors[TABLE]
    with pytest.raises(WeightsError, match=r"has no pe_embedding\.weight"):
        fitted(folder(tensors), cells(official), "fixed")


def test_more_layers_than_the_card_says_are_refused(folder: Folder, official: Official) -> None:
    tensors = published_tensors()
    more = {
        name.replace("layers.1.", "layers.2."): tensor
        for name, tensor in tensors.items()
        if "layers.1." in name
    }
    with pytest.raises(WeightsError, match=r"unexpected: transformer_encoder\.layers\.2\."):
        fitted(folder(tensors | more), cells(official), "fixed")


def test_files_that_do_not_belong_together_are_refused(folder: Folder, official: Official) -> None:
    offsets = LAYOUT["offsets"] | {"mouse_lemur": LAYOUT["offsets"]["human"] + 50}
    with pytest.raises(WeightsError, match=r"names 60 genes, but .* leaves room for 50 of human"):
        fitted(folder(offsets=offsets), cells(official), "fixed")


def test_fewer_chromosome_tokens_than_chromosomes_are_refused(
    folder: Folder, official: Official
) -> None:
    tensors = published_tensors()
    tensors[TABLE] = tensors[TABLE][:-8]
    with pytest.raises(WeightsError, match=r"species_chrom.csv names \d+ chromosomes"):
        fitted(folder(tensors), cells(official), "fixed")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (CHECKPOINT, b"<!DOCTYPE html><html>", "is a web page"),
        (CHECKPOINT, None, "cut short"),
        ("species_chrom.csv", b"<html></html>", "is a web page"),
        ("species_chrom.csv", b"gene,place\nA,1\n", "species_chrom.csv cannot be read: 'species'"),
        (OFFSETS, pickle.dumps([1, 2]), "no table of the first token of each species"),
        (f"protein_embeddings/{SPECIES['human']}", b"\x1f\x8b\x08\x00", "is a gzip archive"),
    ],
)
def test_another_file_under_its_name_is_refused(
    folder: Folder, official: Official, name: str, content: bytes | None, said: str
) -> None:
    place = folder()
    path = place / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(WeightsError, match=said):
        fitted(place, cells(official), "fixed")


def test_random_weights_need_no_files_and_follow_their_seed(official: Official) -> None:
    data = cells(official)

    def embed(cells: Dataset, seed: int) -> np.ndarray:
        model = fitted(Path("/nowhere"), cells, "fixed", random_init=True, init_seed=seed)
        return model.embed(cells)

    z = embed(data, 0)
    assert np.array_equal(embed(data, 0), z)
    assert np.abs(embed(data, 1) - z).max() > 1e-3
    columns = np.random.default_rng(1).permutation(data.n_genes)
    turned = cells_of(data.counts.toarray()[:, columns], [data.genes.symbol[i] for i in columns])
    assert np.abs(embed(turned, 0) - z).max() < 2e-6


def test_random_weights_read_the_published_proteins_where_they_are_at_hand(
    folder: Folder, official: Official
) -> None:
    data = cells(official)
    model = fitted(folder(), data, "fixed", random_init=True)
    assert torch.equal(port_of(model).table.raw, published_tensors()[TABLE])
    weight = port_of(model).network.state_dict()["decoder.0.0.weight"]
    assert not torch.equal(weight, published_tensors()["decoder.0.0.weight"])


@pytest.mark.parametrize(("id", "layers"), [("uce_4l", 4), ("uce_33l", 33)])
def test_the_full_size_has_the_published_number_of_parameters(id: str, layers: int) -> None:
    published = model_card(id)
    with torch.device("meta"):
        network = Network(Config(**published.config))
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()
    }
    assert published.config["nlayers"] == layers
    d, hidden = 1280, 5120
    layer = 4 * d * d + 4 * d + 2 * d * hidden + hidden + d + 4 * d
    assert counts["transformer_encoder"] == layers * layer
    assert counts["encoder"] == counts["gene_embedding_layer"] == 5120 * d + 3 * d
    if layers == 33:
        # "650 million", the authors' model card; the layers alone, which is what the number is of.
        assert round(counts["transformer_encoder"], -7) == published.parameters
