"""Where the raw counts are: the first place that holds some, or why none does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sclitmus.core.dataset import Note
from sclitmus.data.counts import WORDS, CountsKind, Finding, classify
from sclitmus.data.lognorm import Refused
from sclitmus.data.source import Place, Source
from sclitmus.data.wording import as_text, did_you_mean, listed, shown
from sclitmus.errors import DataError

# Where counts are looked for by themselves. Layers called spliced, unspliced, ambiguous or
# corrected also hold whole numbers, but not all counts of a cell: they are read only by name.
ORDER = (
    "X",
    "layers:counts",
    "layers:raw_counts",
    "layers:count",
    "layers:raw",
    "layers:umi",
    "raw",
)

REMEDY: dict[CountsKind, str] = {
    "log_normalised": "store the raw counts in layers['counts'] before normalising; or add "
    "--invert-lognorm, which takes log1p(counts per target) back where that is exact",
    "normalised": "store the raw counts in layers['counts'] before normalising",
    "scaled": "store the raw counts in layers['counts'] before scaling, or keep them in adata.raw",
    "fractional": "if these are expected counts (RSEM, kallisto, SoupX), decide to round them and "
    "store the rounded counts in layers['counts']",
    "nan": "find where the missing values come from; a count is never missing, it is 0",
    "infinite": "find where the infinite values come from, usually a division by an empty cell",
    "too_large": "these are no UMI or read counts per gene and cell; check the units",
    "not_numeric": "store the counts as numbers",
}


@dataclass(frozen=True)
class Chosen:
    """The place of the raw counts; nothing of it is loaded yet.

    Attributes
    ----------
    place
        The matrix with its genes.
    nnz
        Number of values that are not zero.
    inverted
        The values are log-normalised and are to be turned back into counts.
    notes
        Where the counts were found, and what is odd about them.
    """

    place: Place
    nnz: int
    inverted: bool = False
    notes: tuple[Note, ...] = ()


def choose(source: Source, counts: str | None = None, invert_lognorm: bool = False) -> Chosen:
    """Find raw counts in the place named, else in the first of `ORDER` that holds some.

    Raises
    ------
    DataError
        If the place does not exist, or none holds raw counts.
    """
    places = _places(source, counts)
    findings = []
    for place in places:
        finding = classify(place.matrix)
        if finding.kind == "counts":
            notes = _remarks(source, place, finding, invert_lognorm)
            return Chosen(place, finding.nnz, notes=notes)
        findings.append(finding)
    if invert_lognorm:
        for place, finding in zip(places, findings, strict=True):
            if finding.kind == "log_normalised":  # known from the first block that shows it
                nnz = sum(int(np.count_nonzero(block)) for block in place.matrix.values())
                return Chosen(place, nnz, inverted=True)
    raise _refusal(source, places, findings, counts)


def _places(source: Source, counts: str | None) -> list[Place]:
    by_name = {place.where: place for place in source.places}
    if counts is None:
        return [by_name[where] for where in ORDER if where in by_name]
    if counts not in by_name:
        raise DataError(
            f"{source.name} has no {shown(counts)!r} to read counts from",
            f"one of: {listed(by_name, 20) or '(it holds no matrix at all)'}",
            f"{did_you_mean(counts, list(by_name))}say --counts X, --counts raw or "
            "--counts layers:NAME",
        )
    return [by_name[counts]]


def _remarks(
    source: Source, place: Place, finding: Finding, invert_lognorm: bool
) -> tuple[Note, ...]:
    notes = [Note("counts", f"raw counts were read from {place.where}")]
    if invert_lognorm:
        text = f"nothing was inverted: {place.where} holds raw counts"
        notes.append(Note("inverted", text))
    if finding.largest == 1.0:
        text = f"all counts in {place.where} are 0 or 1: detection, not counts?"
        notes.append(Note("binary", text))
    if place.matrix.dtype == np.float16 and finding.largest > 2048:
        text = f"{place.where} is stored as float16, which rounds counts above 2048"
        notes.append(Note("float16", text))
    n_genes = place.matrix.shape[1]
    wider = [p for p in source.places if p.where == "raw" and p.matrix.shape[1] > n_genes]
    if wider and place.where != "raw":
        text = (
            f"raw has {wider[0].matrix.shape[1]} genes, {place.where} only {n_genes}; "
            "--counts raw reads those, if they are counts"
        )
        notes.append(Note("counts", text))
    return tuple(notes)


def too_large(source: Source, place: Place, largest: float) -> DataError:
    """Return the error of counts that are too large only after duplicates were summed."""
    return _refusal(source, [place], [Finding("too_large", largest)], place.where)


def not_exact(source: Source, place: Place, refused: Refused) -> DataError:
    """Return the error of log-normalised values that do not invert."""
    if np.isnan(refused.count):
        why = "some values are negative or not finite"
    else:
        cell, gene = _at(source, place, refused.row, refused.column)
        why = f"{gene} in cell {cell} would be {refused.count:.4g} counts"
    return DataError(
        f"{place.where} of {source.name} cannot be inverted to counts: {why}",
        "log1p(counts / total * target), natural logarithm, of which every cell inverts to whole "
        "numbers",
        "give the raw counts; log2, size factors of several cells, batch correction, smoothing and "
        "imputation cannot be undone",
    )


def _refusal(
    source: Source, places: Sequence[Place], findings: Sequence[Finding], counts: str | None
) -> DataError:
    seen = "; ".join(
        f"{place.where} holds {_described(source, place, finding)}"
        for place, finding in zip(places, findings, strict=True)
    )
    others = [p.where for p in source.places if p not in places] if counts is None else []
    also = f"; or name one of these with --counts: {listed(others, 8)}" if others else ""
    kinds = [finding.kind for finding in findings]
    # The kind nearest to counts says best what can be done.
    nearest = min(kinds, key=list(REMEDY).index, default=None)
    remedy = REMEDY[nearest] if nearest else "write the counts into X or layers['counts']"
    return DataError(
        f"{source.name} has no raw counts: {seen or 'no matrix is where they are looked for'}",
        f"whole numbers, 0 or more, in {counts or ', '.join(ORDER)}",
        remedy + also,
    )


def _described(source: Source, place: Place, finding: Finding) -> str:
    if finding.value is None:
        return WORDS[finding.kind]
    if finding.row < 0:
        return f"{WORDS[finding.kind]} ({finding.value:.6g})"
    cell, gene = _at(source, place, finding.row, finding.column)
    return f"{WORDS[finding.kind]} ({finding.value:.6g} for {gene} in cell {cell})"


def _at(source: Source, place: Place, row: int, column: int) -> tuple[str, str]:
    """Names of a cell and a gene, or their numbers where the tables are too short."""
    return _entry(source.obs.index, row), _entry(place.var.index, column)


def _entry(index: "pd.Index | npt.NDArray[np.object_]", position: int) -> str:
    return shown(as_text(index[position])) if 0 <= position < len(index) else f"number {position}"
