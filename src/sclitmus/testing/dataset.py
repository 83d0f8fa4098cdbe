"""Does a dataset keep the contract of `core.dataset.Dataset`?"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Dataset
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import ID, ContractError, Finding, Report, run_checks


def check_dataset(dataset: Dataset) -> Report:
    """Check a dataset that did not come from `sclitmus.read`, which checks its own.

    Time and memory grow with the number of counts; nothing is made dense.
    """
    return Report(f"dataset {dataset.id}", run_checks(_CHECKS, dataset))


def _id(dataset: Dataset) -> Finding:
    if not ID.fullmatch(dataset.id):
        raise ContractError(
            f"id {dataset.id!r}", "letters, digits and _ . @ + - only, at most 64", "rename it"
        )
    return dataset.id


def _counts(dataset: Dataset) -> Finding:
    counts = dataset.counts
    if not sparse.issparse(counts) or counts.format != "csr":
        raise ContractError(
            f"counts are a {type(counts).__name__}", "a SciPy CSR matrix", "sparse.csr_matrix(x)"
        )
    data = counts.data
    faults = {
        "not finite": int((~np.isfinite(data)).sum()),
        "negative": int((data < 0).sum()),
        "not whole": int((data != np.round(data)).sum()),
    }
    wrong = [f"{n} values {what}" for what, n in faults.items() if n]
    if wrong:
        raise ContractError(", ".join(wrong), "raw counts", "give counts as they were counted")
    empty = int((np.asarray(counts.sum(axis=1)).ravel() == 0).sum())
    if empty:
        raise ContractError(
            f"{empty} cells without a count", "at least one count", "drop these cells"
        )
    return f"{counts.shape[0]} cells, {counts.shape[1]} genes"


def _cells(dataset: Dataset) -> Finding:
    n = len(set(dataset.cells))
    if len(dataset.cells) != dataset.n_cells or n != dataset.n_cells:
        raise ContractError(
            f"{len(dataset.cells)} cell ids, {n} different, for {dataset.n_cells} cells",
            "one id per cell, no two alike",
            "number them if they have no names",
        )
    return ""


def _genes(dataset: Dataset) -> Finding:
    lengths = {len(dataset.genes.symbol), len(dataset.genes.ensembl), dataset.n_genes}
    if len(lengths) != 1:
        raise ContractError(
            f"{len(dataset.genes.symbol)} symbols and {len(dataset.genes.ensembl)} Ensembl ids "
            f"for {dataset.n_genes} columns",
            "one of each per column, empty where unknown",
            'fill with "" what is not known',
        )
    named = sum(
        1 for s, e in zip(dataset.genes.symbol, dataset.genes.ensembl, strict=True) if s or e
    )
    return f"{named} of {dataset.n_genes} genes have a name"


def _roles(dataset: Dataset) -> Finding:
    for name, column in dataset.roles.items():
        codes = column.codes
        if codes.dtype != np.int32 or codes.shape != (dataset.n_cells,):
            raise ContractError(
                f"role {name!r}: codes are {codes.dtype} of shape {codes.shape}",
                f"int32 of shape ({dataset.n_cells},)",
                "make the column with Categories.of(values)",
            )
        used = set(np.unique(codes[codes >= 0]).tolist())
        if codes.min(initial=0) < -1 or used != set(range(len(column.names))):
            raise ContractError(
                f"role {name!r}: {len(used)} codes in use for {len(column.names)} names",
                "a cell for every name, a name for every code, -1 where missing",
                "make the column with Categories.of(values)",
            )
    return ", ".join(f"{name}: {len(c.names)}" for name, c in dataset.roles.items()) or "no roles"


def _embeddings(dataset: Dataset) -> Finding:
    if not dataset.embeddings:
        raise NotApplicable("there are none")
    for name, z in dataset.embeddings.items():
        if z.dtype != np.float32 or z.ndim != 2 or len(z) != dataset.n_cells:
            raise ContractError(
                f"embedding {name!r} is {z.dtype} of shape {z.shape}",
                f"float32 of shape ({dataset.n_cells}, d)",
                "one row per cell; z.astype(np.float32)",
            )
        if not np.isfinite(z).all():
            raise ContractError(
                f"embedding {name!r} holds NaN or infinity", "finite numbers", "mend it"
            )
    return ", ".join(dataset.embeddings)


def _take(dataset: Dataset) -> Finding:
    rows = np.arange(dataset.n_cells)[::-1][: min(dataset.n_cells, 100)]
    part = dataset.take(rows)
    same = abs(part.counts - dataset.counts[rows]).max() == 0
    if not same or part.cells != tuple(dataset.cells[i] for i in rows):
        raise ContractError(
            "take(rows) gave other cells", "the rows asked for, in that order", "inherit take"
        )
    return ""


def _hash(dataset: Dataset) -> Finding:
    if replace(dataset).content_hash != dataset.content_hash:
        raise ContractError(
            "the content hash is not what the content hashes to",
            "a dataset that is not changed once it is made",
            "make a new one with dataclasses.replace",
        )
    return dataset.content_hash


_CHECKS: Mapping[str, Callable[[Dataset], Finding]] = {
    "id": _id,
    "counts": _counts,
    "cells": _cells,
    "genes": _genes,
    "roles": _roles,
    "embeddings": _embeddings,
    "take": _take,
    "content_hash": _hash,
}
