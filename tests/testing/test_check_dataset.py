"""Each way a dataset can be broken is found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset
from sclitmus.data.simulate import simulate
from sclitmus.testing import check_dataset

CELLS = simulate(30, 12)


def with_count(value: float) -> Dataset:
    counts = CELLS.counts.copy()
    counts.data[5] = value
    return replace(CELLS, store=counts)


def without_counts(row: int) -> Dataset:
    counts = sparse.lil_matrix(CELLS.counts)
    counts[row] = 0
    return replace(CELLS, store=sparse.csr_matrix(counts))


def codes(values: list[int], names: tuple[str, ...]) -> Dataset:
    column = Categories(np.array(values * 10, dtype=np.int32), names)
    return replace(CELLS, roles={"label": column})


def changed() -> Dataset:
    cells = replace(CELLS, store=CELLS.counts.copy())
    _ = cells.content_hash
    cells.counts.data[0] += 1
    return cells


def test_simulated_and_supplied() -> None:
    report = check_dataset(CELLS)
    assert report.ok, report
    assert report["embeddings"].status == "skipped"
    z = np.zeros((30, 2), dtype=np.float32)
    assert check_dataset(replace(CELLS, embeddings={"mine": z})).ok


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (lambda: with_count(np.nan), "counts"),
        (lambda: with_count(-1), "counts"),
        (lambda: with_count(0.5), "counts"),
        (lambda: without_counts(3), "counts"),
        (lambda: replace(CELLS, store=CELLS.counts.tocsc()), "counts"),
        (lambda: replace(CELLS, store=CELLS.counts.toarray()), "counts"),
        (lambda: replace(CELLS, cells=("a",) * 30), "cells"),
        (lambda: replace(CELLS, genes=replace(CELLS.genes, ensembl=())), "genes"),
        (lambda: codes([0, 1, 3], ("a", "b", "c")), "roles"),
        (lambda: codes([0, 0, 1], ("a", "b", "unused")), "roles"),
        (lambda: codes([0, -2, 1], ("a", "b")), "roles"),
        (lambda: replace(CELLS, embeddings={"z": np.zeros((30, 2))}), "embeddings"),
        (lambda: replace(CELLS, embeddings={"z": np.zeros((29, 2), np.float32)}), "embeddings"),
        (
            lambda: replace(CELLS, embeddings={"z": np.full((30, 2), np.inf, np.float32)}),
            "embeddings",
        ),
        (lambda: replace(CELLS, id="my data!"), "id"),
        (changed, "content_hash"),
    ],
)
def test_each_breach_is_found(make: Callable[[], Dataset], broken: str) -> None:
    report = check_dataset(make())
    assert broken in {check.id for check in report.failed}, report
