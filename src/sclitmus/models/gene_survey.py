"""Which genes a corpus has, and what one pass over its training cells tells of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numba import njit

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError
from sclitmus.models.corpus import Corpus

TARGET = 10_000  # counts per cell to which expression is scaled
STEPS = 32  # of a doubling of expression: a median is right within 2 %
LOWEST, HIGHEST = -8, 14  # powers of two that the steps span: 0.004 to 16,384 of 10,000


@dataclass(frozen=True)
class GeneNames:
    """The genes of all sources under one set of names.

    Attributes
    ----------
    names
        In the order in which they first occur; of symbols, or of Ensembl ids with the symbol where
        a gene has no id.
    lookup
        Name of each column of each source; -1 for a column without one.
    symbols
        Symbol -> name, for those that have both.
    """

    names: tuple[str, ...]
    lookup: tuple[Int32[np.ndarray, "n_genes"], ...]
    symbols: dict[str, str]


def gene_names(sources: Sequence[Dataset], kind: Literal["symbol", "ensembl"]) -> GeneNames:
    """Find one name for each gene.

    Raises
    ------
    MethodError
        If the sources are of several organisms, or no gene has a name.
    """
    organisms = {source.genes.organism for source in sources} - {"unknown"}
    if len(organisms) > 1:
        raise MethodError(
            f"a corpus of {' and '.join(sorted(organisms))}",
            "one organism: genes are matched by their names",
            "pretrain on each apart",
        )
    ids: dict[str, str] = {}
    for source in sources:
        for symbol, id in zip(source.genes.symbol, source.genes.ensembl, strict=True):
            if symbol and id:
                ids.setdefault(symbol.upper(), id.upper())
    rows: dict[str, int] = {}
    lookups = []
    for source in sources:
        own = [_name(source.genes, column, kind, ids) for column in range(source.n_genes)]
        lookups.append(
            np.array([rows.setdefault(x, len(rows)) if x else -1 for x in own], dtype=np.int32)
        )
    if not rows:
        raise MethodError("no gene has a name", "gene symbols or Ensembl ids", "name them in var")
    symbols = {symbol: id for symbol, id in ids.items() if id in rows}
    return GeneNames(tuple(rows), tuple(lookups), symbols)


def _name(genes: Genes, column: int, kind: str, ids: dict[str, str]) -> str:
    symbol, id = genes.symbol[column], genes.ensembl[column]
    if kind == "symbol":
        return symbol
    return (id or ids.get(symbol.upper(), symbol)).upper()


@dataclass(frozen=True)
class GeneSurvey:
    """What the training cells show of each gene of `GeneNames`.

    Attributes
    ----------
    n_cells
        With a count of it.
    variance
        Of log(1 + counts per 10,000) over all training cells.
    median
        Of its counts per 10,000 over the cells that have some; NaN for none. From a histogram, to
        2 %.
    """

    n_cells: Int64[np.ndarray, "n_names"]
    variance: Float64[np.ndarray, "n_names"]
    median: Float64[np.ndarray, "n_names"]


def survey(corpus: Corpus, genes: GeneNames) -> GeneSurvey:
    """Pass once over the training cells, in memory bounded by a block of them."""
    n_names = len(genes.names)
    sums, squares = np.zeros(n_names), np.zeros(n_names)
    steps = np.zeros((n_names, STEPS * (HIGHEST - LOWEST)), dtype=np.int32)
    for source, counts in corpus.blocks("train"):
        data = counts.data.astype(np.float32, copy=False)
        _add(counts.indptr, counts.indices, data, genes.lookup[source], sums, squares, steps)
    n_cells = steps.sum(axis=1, dtype=np.int64)
    mean = sums / corpus.n_train
    return GeneSurvey(n_cells, squares / corpus.n_train - mean**2, _medians(steps, n_cells))


@njit(cache=True, nogil=True)
def _add(indptr, indices, data, lookup, sums, squares, steps):  # type: ignore[no-untyped-def]
    last = steps.shape[1] - 1
    for cell in range(len(indptr) - 1):
        total = 0.0
        for at in range(indptr[cell], indptr[cell + 1]):
            total += data[at]
        for at in range(indptr[cell], indptr[cell + 1]):
            name = lookup[indices[at]]
            if name < 0 or data[at] == 0:
                continue
            value = data[at] / total * TARGET
            logged = np.log1p(value)
            sums[name] += logged
            squares[name] += logged * logged
            step = int(np.floor((np.log2(value) - LOWEST) * STEPS))
            steps[name, min(max(step, 0), last)] += 1


def _medians(
    steps: Int32[np.ndarray, "n_names n_steps"], n_cells: Int64[np.ndarray, "n_names"]
) -> Float64[np.ndarray, "n_names"]:
    """Return the value below which half of each row lies, the step it is in spread evenly."""
    upto = np.cumsum(steps, axis=1)
    half = n_cells / 2
    step = (upto < half[:, None]).sum(axis=1).clip(max=steps.shape[1] - 1)
    row = np.arange(len(steps))
    inside = steps[row, step]
    with np.errstate(invalid="ignore", divide="ignore"):
        into = (half - (upto[row, step] - inside)) / inside
    medians: np.ndarray = 2.0 ** (LOWEST + (step + into) / STEPS)
    medians[n_cells == 0] = np.nan
    return medians


def chosen(
    genes: GeneNames,
    seen: GeneSurvey,
    min_cells: int,
    most: int = 0,
    listed: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Choose the genes that a model is to know.

    Parameters
    ----------
    min_cells
        Training cells that must have a count of it.
    most
        Only so many, those of the largest variance, in the order of the corpus; 0 takes all.
    listed
        Only these, in their order.

    Raises
    ------
    MethodError
        If none is left.
    """
    fine = seen.n_cells >= max(1, min_cells)
    if listed is not None:
        row = {name: i for i, name in enumerate(genes.names)}
        wanted = [
            genes.symbols.get(name.upper(), name) if name not in row else name for name in listed
        ]
        at = np.array([row[x] for x in dict.fromkeys(wanted) if x in row], dtype=np.int64)
        at = at[fine[at]]
    else:
        at = np.flatnonzero(fine)
    if most and len(at) > most:
        best = np.argsort(-seen.variance[at], kind="stable")[:most]
        at = at[np.sort(best)]
    if not len(at):
        among = " among those listed" if listed is not None else ""
        raise MethodError(
            f"no gene{among} has counts in {min_cells} training cells",
            "genes to learn",
            "set genes.min_cells lower, or check the names in the list",
        )
    return tuple(genes.names[i] for i in at)


def read_list(path: str) -> list[str]:
    """Read a file with a gene name at the beginning of each line.

    Raises
    ------
    MethodError
        If it cannot be read or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MethodError(
            f"{path} cannot be read: {error}", "a text file, a gene name per line", "check it"
        ) from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise MethodError(f"{path} is empty", "a gene name per line", "check it")
    return names
