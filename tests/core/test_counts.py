"""A dataset over counts that are elsewhere asks for them only when it must."""

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import numpy as np
import pytest
from scipy import sparse

from sclitmus.core.counts import InMemory, hash_of
from sclitmus.core.dataset import Categories, Dataset, Genes

X = sparse.csr_matrix(np.array([[3, 0, 1], [0, 2, 0], [1, 1, 70_000]], dtype=np.float32))
REST = {
    "genes": Genes(("A", "B", ""), ("", "", "ENSG00000000003"), "human"),
    "cells": ("c\n0", "c1", "c2"),
    "roles": {"label": Categories.of(["T", None, "B"])},
    "embeddings": {"e": np.arange(6, dtype=np.float32).reshape(3, 2)},
}
# What the three cells hashed to before counts could be anywhere else than in memory.
GOLDEN = "5a49d52f579e239bc3b06b88df20e2f8"


@dataclass
class Elsewhere:
    """Counts that note when they are read."""

    matrix: sparse.csr_matrix
    reads: list[str] = field(default_factory=list)

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def nnz(self):
        return self.matrix.nnz

    def blocks(self, n):
        for start in range(0, self.shape[0], n):
            self.reads.append("block")
            yield self.matrix[start : start + n]

    def take(self, rows):
        return Elsewhere(self.matrix[rows], self.reads)

    def load(self):
        self.reads.append("all")
        return self.matrix

    def hashed(self):
        self.reads.append("hash")
        return InMemory(self.matrix).hashed()


def test_a_matrix_is_held_as_it_is():
    for dataset in (Dataset("x", X, **REST), Dataset(id="x", store=X, **REST)):
        assert dataset.counts is X
        assert dataset.store is X
        assert (dataset.n_cells, dataset.n_genes, dataset.nnz) == (3, 3, 6)
    with pytest.raises(FrozenInstanceError):
        dataset.id = "y"
    with pytest.raises(AttributeError):
        dataset.counts = X


def test_the_hash_is_what_it_always_was():
    assert Dataset("x", X, **REST).content_hash == GOLDEN
    assert Dataset("x", Elsewhere(X), **REST).content_hash == GOLDEN
    wide = sparse.csr_matrix((X.data.astype(float), X.indices.astype(np.int64), X.indptr), X.shape)
    assert Dataset("x", wide, **REST).content_hash == GOLDEN


def test_the_hash_of_pieces_is_that_of_the_whole():
    pieces = hash_of((3, 3), X.indptr, (6, np.split(X.indices, [1, 4])), (6, [X.data[:0], X.data]))
    assert pieces.digest() == InMemory(X).hashed().digest()
    other = X.copy()
    other.data[0] += 1
    assert InMemory(other).hashed().digest() != pieces.digest()


def test_nothing_is_read_until_it_is_asked_for():
    counts = Elsewhere(X)
    dataset = Dataset("x", counts, **REST)
    hidden = replace(dataset.without("label"), embeddings={}, id="y")
    part = hidden.take(np.array([2, 0]))
    assert (hidden.n_cells, part.n_cells, part.n_genes, part.nnz) == (3, 2, 3, 5)
    assert part.cells == ("c2", "c\n0")
    assert hidden.store is counts
    assert counts.reads == []
    assert [block.shape[0] for block in dataset.blocks(2)] == [2, 1]
    assert counts.reads == ["block", "block"]
    assert np.array_equal(part.counts.toarray(), X.toarray()[[2, 0]])
    assert counts.reads[2:] == ["all"]


@pytest.mark.parametrize("counts", [X, Elsewhere(X)])
def test_counts_are_replaced(counts):
    dataset = Dataset("x", counts, **REST)
    doubled = replace(dataset, store=X * 2, roles={})
    assert np.array_equal(doubled.counts.toarray(), X.toarray() * 2)
    assert np.array_equal(dataset.counts.toarray(), X.toarray())
    assert doubled.cells == dataset.cells
    assert doubled.content_hash != dataset.content_hash
    again = replace(doubled, store=counts, roles=dataset.roles)
    assert again.content_hash == dataset.content_hash


def test_a_pickle_is_the_same():
    dataset = Dataset("x", X, **REST)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.content_hash == dataset.content_hash
    assert np.array_equal(again.counts.toarray(), X.toarray())
