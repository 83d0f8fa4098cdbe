"""scGPT beside the numbers that the official class gave for the same small checkpoint.

The fixture holds a checkpoint of random weights in the official layout (32 dimensions, 3 layers, 60
genes, at most 41 tokens), counts, and what the official code made of them: tokens with the same
random stream, hidden states, embeddings.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import scgpt
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.gene_space import known_entries
from sclitmus.models.inference import Passes
from sclitmus.models.scgpt import Config, Network, ScGPT, binned

FIXTURE = Path(__file__).parent / "fixtures" / "scgpt"


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("best_model.pt", "args.json", "vocab.json"):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


def cells_of(counts: np.ndarray, names: list[str]) -> Dataset:
    genes = Genes(tuple(names), ("",) * len(names), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


@pytest.fixture
def cells(official: dict[str, np.ndarray]) -> Dataset:
    return cells_of(official["counts"], list(official["names"]))


def fitted(folder: Path, cells: Dataset, behaviour: str, seed: int = 7) -> FrozenModel:
    model = FrozenModel("scgpt", "sclitmus.models.scgpt:ScGPT", folder, behaviour)  # type: ignore[arg-type]
    return model.fit(cells, np.random.default_rng(seed))


def test_official_tokens_and_embeddings_are_those_of_the_official_code(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    model = fitted(folder, cells, "official")
    port = model.loaded
    assert isinstance(port, ScGPT)
    tokens = port.tokenise(
        cells.counts, port.space.match(cells.genes).lookup, np.random.default_rng(7)
    )
    assert tokens.lengths.tolist() == official["lengths"].tolist()
    rows = np.where(tokens.columns["gene"] < 0, port.cls, tokens.columns["gene"])
    assert np.array_equal(rows, official["tokens"][0])
    assert np.array_equal(tokens.columns["value"], official["tokens"][1])
    z = model.embed(cells)
    assert np.abs(z - official["cells"]).max() <= 1e-5
    states = Passes(port, model._compute()).each(tokens.take(np.arange(8)), port.gene_states)
    found = np.concatenate([s for _, s in states])
    in_order = np.argsort(-tokens.lengths[:8], kind="stable")  # longest first
    rows = np.concatenate([np.arange(tokens.offsets[i], tokens.offsets[i + 1]) for i in in_order])
    known = rows < len(official["states"])
    assert np.abs(found[known] - official["states"][rows[known]]).max() <= 1e-5


def test_static_gene_vectors_are_the_normalised_rows(
    folder: Path, cells: Dataset, official: dict[str, np.ndarray]
) -> None:
    vectors = fitted(folder, cells, "fixed").gene_vectors()
    assert vectors.names[:2] == ("GENE0", "GENE1")
    assert len(vectors.names) == 60  # no special tokens
    assert np.abs(vectors.vectors - official["table"][:60]).max() <= 1e-6


def test_contextual_gene_vectors_average_over_the_cells_that_express_a_gene(
    folder: Path, cells: Dataset
) -> None:
    model = fitted(folder, cells, "fixed")
    one = cells.take(np.array([0]))  # expresses GENE3 alone
    vectors = model.gene_vectors(one)
    row = vectors.names.index("GENE3")
    assert np.isfinite(vectors.vectors[row]).all()
    assert np.isnan(np.delete(vectors.vectors, row, axis=0)).all()
    both = model.gene_vectors(cells.take(np.array([0, 0])))
    assert np.allclose(both.vectors[row], vectors.vectors[row], atol=1e-6)


def test_fixed_depends_on_the_cell_alone(folder: Path, cells: Dataset) -> None:
    z = fitted(folder, cells, "fixed", seed=1).embed(cells)
    again = fitted(folder, cells, "fixed", seed=2)
    assert np.array_equal(again.embed(cells), z)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(again.embed(cells.take(order)) - z[order]).max() < 2e-6
    for i in (0, 1, 5):
        assert np.abs(again.embed(cells.take(np.array([i])))[0] - z[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(cells.n_genes)
    turned = cells_of(cells.counts.toarray()[:, columns], [cells.genes.symbol[i] for i in columns])
    assert np.abs(fitted(folder, turned, "fixed").embed(turned) - z).max() < 2e-6


def test_official_depends_on_the_random_stream(folder: Path, cells: Dataset) -> None:
    a = fitted(folder, cells, "official", seed=1).embed(cells)
    b = fitted(folder, cells, "official", seed=2).embed(cells)
    assert np.abs(a - b).max() > 1e-3


def official_bins(row: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The definition, by numpy: scGPT's value binning of non-zero values."""
    edges = np.quantile(row, np.linspace(0, 1, 50))
    left, right = np.digitize(row, edges), np.digitize(row, edges, right=True)
    return np.ceil(u * (right - left) + left)


@pytest.mark.parametrize("kind", ["counts", "large", "fractions", "one value", "two cells"])
def test_bins_equal_the_definition(kind: str) -> None:
    rng = np.random.default_rng(3)
    rows = [rng.negative_binomial(1, 0.2, n) + 1 for n in (1, 2, 49, 50, 51, 700, 3000)]
    if kind == "large":
        rows = [row * 1000 for row in rows]
    if kind == "fractions":
        rows = [np.log1p(row) / 3 for row in rows]
    if kind == "one value":
        rows = [np.full(200, 3)]
    rows = [row.astype(np.float32) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    u = rng.random(offsets[-1])
    found = binned(offsets, np.concatenate(rows), u, 51)
    expected = np.concatenate(
        [official_bins(row, u[a:b]) for row, a, b in zip(rows, offsets, offsets[1:], strict=False)]
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["counts", "large", "fractions"])
def test_the_fast_tokeniser_equals_its_steps(kind: str) -> None:
    rng = np.random.default_rng(5)
    dense = rng.negative_binomial(0.4, 0.1, (60, 90)).astype(np.float32)
    dense[3] = 0
    dense[4, :2] = [7, 7]
    dense = {"counts": dense, "large": dense * 3000, "fractions": np.log1p(dense)}[kind]
    counts = sparse.csr_matrix(dense.astype(np.float32))
    counts.data[::17] = 0  # stored zeros
    lookup = rng.permutation(np.concatenate([np.arange(80), np.full(10, -1)])).astype(np.int32)
    offsets, rows, values = known_entries(counts, lookup)
    bins = binned(offsets, values, np.full(1, 0.5), 51)
    for room in (1, 30, 1000):
        kept = scgpt._own_subsets(offsets, rows, values, bins, room)
        expected = scgpt._behind_cls(*kept, np.float32(-2))
        found = scgpt._fixed_tokens(
            counts.indptr, counts.indices, counts.data, lookup, np.float32(-2), 51, room
        )
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b)


def test_a_cell_without_known_genes_is_its_cls_token_alone(folder: Path, cells: Dataset) -> None:
    counts = cells.counts.toarray()
    counts[2] = 0
    counts[2, list(cells.genes.symbol).index("UNKNOWN3")] = 9
    z = fitted(folder, cells, "fixed").embed(cells_of(counts, list(cells.genes.symbol)))
    assert np.isfinite(z).all()
    assert np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)


def test_too_few_known_genes_stop_it_unless_told_otherwise(folder: Path, cells: Dataset) -> None:
    names = [f"Gene{i}" for i in range(60)] + [f"GENE{i}" for i in range(10)]
    other = cells_of(cells.counts.toarray(), names)
    with pytest.raises(NotApplicable, match=r"10 of 70 genes are among the model's .* Gene0"):
        fitted(folder, other, "fixed")
    model = FrozenModel("scgpt", "sclitmus.models.scgpt:ScGPT", folder, min_matched=0.1)
    assert model.fit(other, np.random.default_rng(0)).embed(other).shape == (24, 32)


def test_missing_weights_are_not_applicable_and_say_how_to_get_them(
    tmp_path: Path, cells: Dataset
) -> None:
    with pytest.raises(NotApplicable, match=r"best_model\.pt.*sclitmus fetch scgpt"):
        fitted(tmp_path / "nowhere", cells, "fixed")


def test_a_key_too_few_too_many_or_of_another_shape_is_named(folder: Path, cells: Dataset) -> None:
    path = folder / "best_model.pt"
    state = torch.load(path, weights_only=True)
    lost = dict(state)
    del lost["transformer_encoder.layers.2.norm2.bias"]
    torch.save(lost, path)
    (folder / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"missing: transformer_encoder\.layers\.2\.norm2\.bias"):
        fitted(folder, cells, "fixed")
    torch.save(state | {"adapter.weight": torch.zeros(2)}, path)
    (folder / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"unexpected: adapter\.weight"):
        fitted(folder, cells, "fixed")
    torch.save(state | {"value_encoder.linear1.weight": torch.zeros(32, 2)}, path)
    (folder / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"value_encoder\.linear1\.weight is \(32, 2\)"):
        fitted(folder, cells, "fixed")


def test_a_vocabulary_of_another_model_is_refused(folder: Path, cells: Dataset) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary["GENE59"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(WeightsError, match=r"vectors for 63 genes, but vocab\.json names 62"):
        fitted(folder, cells, "fixed")


def test_random_weights_need_no_files_and_follow_their_seed(cells: Dataset) -> None:
    def embed(seed: int) -> np.ndarray:
        model = FrozenModel(
            "scgpt", "sclitmus.models.scgpt:ScGPT", "/nowhere", random_init=True, init_seed=seed
        )
        few = cells.take(np.arange(3))
        return model.fit(few, np.random.default_rng(0)).embed(few)

    assert np.array_equal(embed(0), embed(0))
    assert np.abs(embed(0) - embed(1)).max() > 1e-3


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    # 51.86 million in the official class, heads included: models' dossier; the encoder with its
    # gene table is what is loaded here.
    with torch.device("meta"):
        network = Network(Config(), 60_697)
    table = 60_697 * 512
    layer = 4 * 512 * 512 + 4 * 512 + 2 * (512 * 512 + 512) + 4 * 512
    values = 2 * 512 + 512 * 512 + 512 + 2 * 512
    expected = table + 2 * 512 + values + 12 * layer
    assert sum(p.numel() for p in network.parameters()) == expected
    # The heads that are not loaded: decoder, classifier of one class, mvc_decoder.
    expression = 2 * (512 * 512 + 512) + 513
    classes = 2 * (512 * 512 + 512 + 1024) + 513
    from_cell = 512 * 512 + 512 + 512 * 512
    assert round((expected + expression + classes + from_cell) / 1e6, 2) == 51.86
