"""The order in which cells are read, what is held out, and what one pass tells of the genes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_corpus import made, planted
from scipy import sparse

from sclitmus.core.counts import InMemory
from sclitmus.core.dataset import Genes
from sclitmus.errors import MethodError
from sclitmus.models.corpus import Corpus, Waited, ahead, divided
from sclitmus.models.gene_survey import chosen, gene_names, read_list, survey
from sclitmus.models.tokens import Tokens


def corpus_of(sizes: list[int], block: int, window: int, seed: int = 0) -> Corpus:
    sources = tuple(planted(n, 5, seed=i, id=f"s{i}") for i, n in enumerate(sizes))
    rows = tuple(np.arange(n) for n in sizes)
    none = tuple(np.empty(0, dtype=np.int64) for _ in sizes)
    return Corpus(sources, rows, none, block, window, seed)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 5))
def test_a_pass_covers_each_cell_once_and_can_be_entered_anywhere(
    sizes: list[int], block: int, window: int
) -> None:
    corpus = corpus_of(sizes, block, window)
    cells = [cell for part in corpus.windows(0) for cell in part.cells]
    assert sorted(cells) == [(s, r) for s, n in enumerate(sizes) for r in range(n)]
    for start in {0, 1, len(cells) // 2, len(cells) - 1}:
        later = [cell for part in corpus.windows(0, start) for cell in part.cells]
        assert later == cells[start:]


def test_the_order_follows_from_seed_and_pass_and_mixes_sources() -> None:
    corpus = corpus_of([64, 64], block=8, window=4)

    def order(corpus: Corpus, number: int) -> list[tuple[int, int]]:
        return [cell for part in corpus.windows(number) for cell in part.cells]

    assert order(corpus, 0) == order(corpus_of([64, 64], 8, 4), 0)
    assert order(corpus, 0) != order(corpus, 1)
    assert order(corpus, 0) != order(corpus_of([64, 64], 8, 4, seed=1), 0)
    first = next(corpus.windows(0))
    assert {source for source, _ in first.blocks} == {0, 1}
    assert (np.diff(first.order) != 1).any()  # cells are shuffled across blocks too
    assert len(first.order) == 32


def number_of(source: int, counts: sparse.csr_matrix) -> Tokens:
    """One token per cell, which tells which cell it is: its first count."""
    cells = np.asarray(counts[:, 0].todense()).ravel().astype(np.int32)
    return Tokens(np.arange(len(cells) + 1), {"gene": cells})


def numbered(n: int, first: int = 0) -> np.ndarray:
    return np.column_stack([np.arange(first + 1, first + n + 1), np.ones(n)])


def test_batches_are_one_stream_whatever_their_size_and_go_on_from_anywhere() -> None:
    sources = (made(numbered(23), "a"), made(numbered(18, 100), "b"))
    rows = (np.arange(0, 23, 2), np.arange(18))
    corpus = Corpus(sources, rows, rows, 4, 3, seed=5)

    def stream(size: int, n: int, start: int = 0) -> list[int]:
        parts = islice(corpus.batches(number_of, size, start), n)
        return [int(x) for part in parts for x in part.columns["gene"]]

    assert corpus.n_train == 30
    both = stream(7, 9)  # two passes and a bit
    assert sorted(both[:30]) == sorted(both[30:60])
    assert sorted(both[:30]) == sorted([*range(1, 24, 2), *range(101, 119)])
    assert both[:30] != both[30:60]
    assert stream(3, 20) == both[:60]
    assert stream(7, 2, start=35) == both[35:49]


@dataclass(frozen=True, eq=False)
class Watched(InMemory):
    """Counts that note how many cells are asked for at once."""

    asked: list[int] = field(default_factory=list)

    def take(self, rows: np.ndarray) -> InMemory:
        self.asked.append(len(rows))
        return InMemory(self.matrix[rows])

    def load(self) -> sparse.csr_matrix:
        raise AssertionError("all counts were asked for at once")

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        raise AssertionError("not these cells")


def test_no_more_than_a_block_is_read_at_once() -> None:
    data = planted(200, 10)
    watched = Watched(data.counts)
    corpus = divided([replace(data, store=watched)], 0.1, "cell", 0, 16, 4)
    list(islice(corpus.batches(number_of, 10, 0), 40))
    list(corpus.blocks("held"))
    survey(corpus, gene_names(corpus.sources, "symbol"))
    assert max(watched.asked) <= 16


def test_held_out_cells_are_a_share_and_never_trained_on() -> None:
    sources = [planted(120, 5, id="a"), planted(80, 5, seed=1, id="b")]
    corpus = divided(sources, 0.1, "cell", 3, 16, 4)
    assert (corpus.n_train, corpus.n_held) == (180, 20)
    for train, held, n in zip(corpus.train, corpus.held, (120, 80), strict=True):
        assert sorted([*train, *held]) == list(range(n))
        assert (np.diff(train) > 0).all()
    again = divided(sources, 0.1, "cell", 3, 16, 4)
    assert all(np.array_equal(a, b) for a, b in zip(corpus.held, again.held, strict=True))
    fewer = divided(sources, 0.1, "cell", 3, 16, 4, most_held=5)
    assert (fewer.n_train, fewer.n_held) == (180, 5)


def test_whole_files_or_donors_are_held_out() -> None:
    sources = [planted(40, 5, seed=i, id=f"s{i}") for i in range(4)]
    files = divided(sources, 0.25, "file", 1, 16, 4)
    assert sorted(map(len, files.held)) == [0, 0, 0, 40]
    donors = divided(sources, 0.2, "group", 1, 16, 4)
    own = [{source.role("group").names[c] for c in source.role("group").codes[rows]}
           for source, rows in zip(sources, donors.held, strict=True)]  # fmt: skip
    assert len(set.union(*own)) == 2  # of 8 donors, the same in every file
    trained = [{source.role("group").names[c] for c in source.role("group").codes[rows]}
               for source, rows in zip(sources, donors.train, strict=True)]  # fmt: skip
    assert not set.union(*own) & set.union(*trained)
    with pytest.raises(MethodError, match="a single file"):
        divided(sources[:1], 0.1, "file", 0, 16, 4)
    with pytest.raises(MethodError, match="all held out"):
        divided([planted(1, 5)], 0.5, "cell", 0, 16, 4)


def test_the_next_item_is_made_ahead_and_errors_come_through() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for i in range(3):
            begun.append(i)
            yield i
        raise ValueError("broken")

    made_ahead = ahead(items())
    assert next(made_ahead) == 0
    waited = Waited(made_ahead)
    assert [next(waited), next(waited)] == [1, 2]
    assert waited.seconds >= 0
    with pytest.raises(ValueError, match="broken"):
        next(waited)
    assert begun == [0, 1, 2]


def test_a_survey_counts_cells_medians_and_variance_of_the_training_cells() -> None:
    data = planted(300, 40, seed=2)
    corpus = divided([data], 0.2, "cell", 0, 64, 2)
    genes = gene_names(corpus.sources, "ensembl")
    seen = survey(corpus, genes)
    x = np.asarray(data.counts[corpus.train[0]].todense(), dtype=np.float64)
    scaled = x / x.sum(axis=1, keepdims=True) * 1e4
    np.testing.assert_array_equal(seen.n_cells, (x > 0).sum(axis=0))
    np.testing.assert_allclose(seen.variance, np.log1p(scaled).var(axis=0), rtol=1e-6)
    # Of an even number of values the median may be any value between the middle two.
    low, high = (
        np.array([np.quantile(column[column > 0], 0.5, method=end) for column in scaled.T])
        for end in ("lower", "higher")
    )
    assert (seen.median >= 0.97 * low).all()
    assert (seen.median <= 1.03 * high).all()


def test_genes_of_several_files_are_matched_by_either_name() -> None:
    both = made(np.ones((3, 3)), "both")  # G0 G1 G2
    symbols = made(np.ones((2, 3)), "symbols", first=1)  # G1 G2 G3 by symbol alone
    symbols = replace(symbols, genes=Genes(("g1", "G2", "G3"), ("",) * 3, "human"))
    by_id = gene_names((both, symbols), "ensembl")
    assert by_id.names == ("ENSG00000000000", "ENSG00000000001", "ENSG00000000002", "G3")
    assert by_id.lookup[1].tolist() == [1, 2, 3]
    assert by_id.symbols == {f"G{i}": f"ENSG{i:011d}" for i in range(3)}
    by_symbol = gene_names((both, symbols), "symbol")
    assert by_symbol.names == ("G0", "G1", "G2", "g1", "G3")  # symbols are case-sensitive
    with pytest.raises(MethodError, match="human and mouse"):
        gene_names((both, replace(symbols, genes=Genes(("a",) * 3, ("",) * 3, "mouse"))), "symbol")
    with pytest.raises(MethodError, match="no gene has a name"):
        gene_names((replace(both, genes=Genes(("",) * 3, ("",) * 3, "human")),), "symbol")


def test_genes_are_chosen_by_cells_by_list_and_by_variance() -> None:
    counts = np.array([[9, 1, 0, 0], [1, 1, 0, 2], [9, 1, 1, 0], [1, 1, 0, 2]])
    source = made(counts)
    corpus = Corpus((source,), (np.arange(4),), (np.empty(0, np.int64),), 2, 2, 0)
    genes = gene_names(corpus.sources, "symbol")
    seen = survey(corpus, genes)
    assert chosen(genes, seen, 0) == ("G0", "G1", "G2", "G3")
    assert chosen(genes, seen, 2) == ("G0", "G1", "G3")
    assert chosen(genes, seen, 1, most=2) == ("G2", "G3")
    assert chosen(genes, seen, 1, listed=["G3", "nobody", "G0", "G3"]) == ("G3", "G0")
    with pytest.raises(MethodError, match="among those listed"):
        chosen(genes, seen, 1, listed=["nobody"])
    by_id = gene_names(corpus.sources, "ensembl")
    listed = ["ENSG00000000003", "g1"]  # one by its id, one by its symbol
    assert chosen(by_id, seen, 1, listed=listed) == ("ENSG00000000003", "ENSG00000000001")


def test_a_list_of_genes_is_read_from_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "genes.txt"
    path.write_text("CD3D 1\n\nCD8A\n")
    assert read_list(str(path)) == ["CD3D", "CD8A"]
    path.write_text("\n")
    with pytest.raises(MethodError, match="is empty"):
        read_list(str(path))
    with pytest.raises(MethodError, match="cannot be read"):
        read_list(str(tmp_path / "nothing.txt"))
