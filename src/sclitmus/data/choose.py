"""Where the raw counts are: the first place that holds some, or why none does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from sclitmus.core.dataset import Note
from sclitmus.data.counts import LARGEST_COUNT, WORDS, CountsKind, Finding, classify
from sclitmus.data.lognorm import TOTAL_COLUMNS, Refused, invert
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
    """Raw counts, with the genes of the place they were found in."""

    where: str
    matrix: sparse.csr_matrix
    var: pd.DataFrame
    notes: tuple[Note, ...]


def choose(source: Source, counts: str | None = None, invert_lognorm: bool = False) -> Chosen:
    """Load raw counts from the place named, else from the first in `ORDER` that holds some.

    Raises
    ------
    DataError
        If the place does not exist, none holds raw counts, or inverting them is not exact.
    """
    places = _places(source, counts)
    findings = []
    for place in places:
        finding = classify(place.matrix)
        if finding.kind == "counts":
            return _loaded(source, place, finding, invert_lognorm)
        findings.append(finding)
    if invert_lognorm:
        for place, finding in zip(places, findings, strict=True):
            if finding.kind == "log_normalised":
                return _inverted(source, place)
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


def _loaded(source: Source, place: Place, finding: Finding, invert_lognorm: bool) -> Chosen:
    matrix = place.matrix.load()
    if matrix.nnz and float(matrix.data.max()) > LARGEST_COUNT:  # duplicates were summed
        finding = Finding("too_large", float(matrix.data.max()))
        raise _refusal(source, [place], [finding], place.where)
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
    wider = [p for p in source.places if p.where == "raw" and p.matrix.shape[1] > matrix.shape[1]]
    if wider and place.where != "raw":
        text = (
            f"raw has {wider[0].matrix.shape[1]} genes, {place.where} only {matrix.shape[1]}; "
            "--counts raw reads those, if they are counts"
        )
        notes.append(Note("counts", text))
    return Chosen(place.where, matrix, place.var, tuple(notes))


def _inverted(source: Source, place: Place) -> Chosen:
    values = place.matrix.load(np.float64 if place.matrix.dtype == np.float64 else np.float32)
    totals = {
        name: pd.to_numeric(source.obs[name], errors="coerce").to_numpy(dtype=np.float64)
        for name in TOTAL_COLUMNS
        if name in source.obs.columns and values.shape[0] == len(source.obs)
    }
    if not np.isfinite(values.data).all() or (values.data < 0).any():
        raise _not_exact(source, place, "some values are negative or not finite")
    found = invert(values, totals)
    if isinstance(found, Refused):
        cell, gene = _at(source, place, found.row, found.column)
        raise _not_exact(source, place, f"{gene} in cell {cell} would be {found.count:.4g} counts")
    text = (
        f"counts were had back exactly from the log-normalised values in {place.where}, {found.how}"
    )
    if found.unchecked:
        text += f"; in {found.unchecked} cells all values are equal, so nothing could check that"
    return Chosen(
        place.where, found.counts, place.var, (Note("inverted", text, found.counts.shape[0]),)
    )


def _not_exact(source: Source, place: Place, why: str) -> DataError:
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
