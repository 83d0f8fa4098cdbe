"""Any single-cell file → Dataset: find the raw counts, name cells and genes, say what was done."""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sclitmus.core.dataset import Categories, Dataset, DatasetCard, Genes, Note
from sclitmus.data.annotations import read_obs
from sclitmus.data.cells import cell_ids, repeated
from sclitmus.data.choose import choose
from sclitmus.data.embeddings import Rows, load_embedding
from sclitmus.data.genes import expression_columns, recognise
from sclitmus.data.load import Loaded, load
from sclitmus.data.roles import categories, merge_roles
from sclitmus.data.source import Place, Source, readable
from sclitmus.data.stored import stamp
from sclitmus.data.wording import as_text
from sclitmus.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


def read(
    source: "str | Path | AnnData",
    *,
    label: str | None = None,
    batch: str | None = None,
    donor: str | None = None,
    roles: Mapping[str, str] | None = None,
    counts: str | None = None,
    organism: str | None = None,
    invert_lognorm: bool = False,
    embeddings: Mapping[str, str | Path | npt.NDArray[Any]] | None = None,
    obs: Path | str | pd.DataFrame | None = None,
    id: str | None = None,
    backed: bool | None = None,
) -> Dataset:
    """Read raw counts with the obs columns that play a role. docs/data.md states every behaviour.

    Parameters
    ----------
    source
        An .h5ad, an AnnData .zarr, a 10x .h5 or .mtx folder, a .loom, or an AnnData object, which
        is never written into. The order of its rows is kept.
    label, batch, donor
        obs columns with the cell types, the batches and the donors.
    roles
        Further roles, as role → obs column.
    counts
        Where the raw counts are: ``"X"``, ``"layers:NAME"`` or ``"raw"``. By default they are
        looked for, in the order of `choose.ORDER`, and the first place that holds some is taken.
    organism
        ``"human"``, ``"mouse"`` …; by default told by the gene names.
    invert_lognorm
        Turn log-normalised values back into counts, if every cell inverts to whole numbers.
    embeddings
        Ready-made embeddings by name: an array or .npy in the order of the source's rows, a
        .parquet or .csv keyed by cell id, or ``"obsm:KEY"``.
    obs
        A table of cell annotations keyed by cell id (csv, tsv, parquet, or a data frame), added
        to those of the source; a column both have is taken from here.
    id
        Short name of the dataset; by default the file's name without its suffix.
    backed
        Whether to leave the counts on disk and read them when they are needed; by default, if
        they would take more than `load.MEMORY_LIMIT` of memory. The file must not change then.

    Raises
    ------
    DataError
        If the file cannot be read, holds no raw counts or no cells, or a named column, embedding
        or place is not there or cannot be what it is meant to be.
    """
    wanted = merge_roles(roles or {}, {"label": label, "batch": batch, "donor": donor})
    with _opened(source) as (found, reading):
        with reading:
            chosen = choose(found, counts, invert_lognorm)
        _refuse_unfit(found, chosen.place)
        kept_genes, genes, gene_notes = _genes(chosen.place.var, organism)
        with reading:
            loaded = load(found, chosen, kept_genes, backed)
        notes = [*found.notes, *chosen.notes, *loaded.notes, *gene_notes]
        table = _obs(found, obs, notes)
        kept = _cells_with_counts(loaded, found, notes)
        matrix: Any = loaded.counts
        if len(kept) < len(table):
            matrix, table = matrix.take(kept), table.iloc[kept]
        cells, id_notes = cell_ids(table.index)
        notes += id_notes
        notes += repeated(loaded.hashes[kept])
        columns: dict[str, Categories] = {}
        for role, column in wanted.items():
            columns[role], role_notes = categories(table, role, column)
            notes += role_notes
        rows = Rows(kept, len(found.obs), tuple(as_text(name) for name in table.index))
        ready: dict[str, npt.NDArray[np.float32]] = {}
        for name, given in (embeddings or {}).items():
            with reading:
                ready[name], embedding_notes = load_embedding(name, given, rows, found.obsm)
            notes += embedding_notes
    return Dataset(
        id=id or _default_id(source),
        store=matrix,
        genes=genes,
        cells=cells,
        roles=columns,
        columns=wanted,
        embeddings=ready,
        card=_card(found, genes),
        notes=tuple(notes),
        source_rows=kept,
        n_source=len(found.obs),
    )


@contextmanager
def _opened(
    source: "str | Path | AnnData",
) -> Iterator[tuple[Source, AbstractContextManager[None]]]:
    """Open the source; also give what explains errors of reading from it later on."""
    if isinstance(source, (str, Path)):
        from sclitmus.data.detect import open_path

        path = Path(source)
        before = stamp(path) if path.is_file() else None
        with ExitStack() as stack:
            with readable(path):
                found = stack.enter_context(open_path(path))
            yield replace(found, path=path, stamp=before), _Readable(path)
        return
    from sclitmus.data.annotated import from_memory

    yield from_memory(source), nullcontext()


class _Readable(AbstractContextManager[None]):
    """`readable`, to be entered any number of times."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self._inner = readable(self.path)
        self._inner.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._inner.__exit__(*error)


def _default_id(source: "str | Path | AnnData") -> str:
    if not isinstance(source, (str, Path)):
        return "adata"
    path = Path(source).resolve()
    return path.name if path.is_dir() and path.suffix != ".zarr" else path.stem


def _refuse_unfit(found: Source, place: Place) -> None:
    n_cells, n_genes = place.matrix.shape
    if n_cells == 0 or n_genes == 0:
        raise DataError(
            f"{found.name} has {n_cells} cells and {n_genes} genes in {place.where}",
            "at least one cell and one gene",
            "check how the file was filtered before it was written",
        )
    if n_cells != len(found.obs) or n_genes != len(place.var):
        raise DataError(
            f"{place.where} of {found.name} is {n_cells} x {n_genes}, but there are "
            f"{len(found.obs)} rows in obs and {len(place.var)} in var",
            "one row of counts per cell and one column per gene",
            "write the file again; its tables do not belong to its matrix",
        )


def _genes(
    var: pd.DataFrame, organism: str | None
) -> tuple[npt.NDArray[np.int64] | None, Genes, tuple[Note, ...]]:
    """Find the columns that are genes, None if all are, and name them."""
    keep, note = expression_columns(var)
    columns = None
    if keep is not None:
        columns = np.flatnonzero(keep)
        var = var.iloc[columns]
    genes, notes = recognise(var, organism)
    return columns, genes, notes if note is None else (note, *notes)


def _obs(found: Source, given: Path | str | pd.DataFrame | None, notes: list[Note]) -> pd.DataFrame:
    if given is None:
        return found.obs
    added, added_notes = read_obs(given, [as_text(name) for name in found.obs.index])
    notes += added_notes
    both = [column for column in found.obs.columns if column in added.columns]
    rest = found.obs.drop(columns=both)
    added.index = rest.index
    return pd.concat([rest, added], axis=1)


def _cells_with_counts(loaded: Loaded, found: Source, notes: list[Note]) -> npt.NDArray[np.int64]:
    n_rows = len(loaded.lengths)
    kept = np.flatnonzero(loaded.lengths).astype(np.int64)
    empty = n_rows - len(kept)
    if not len(kept):
        raise DataError(
            f"none of the {n_rows} cells of {found.name} has a single count",
            "at least one cell with counts",
            "check that the counts were written; name their place with --counts if it is another",
        )
    if empty:
        text = f"{empty} of {n_rows} cells have no counts at all and were left out"
        notes.append(Note("empty_cells", text, empty))
    return kept


def _card(found: Source, genes: Genes) -> DatasetCard:
    about = found.about
    ids = re.findall(r"\bGSE\d{3,}\b", " ".join(about.values()))
    return DatasetCard(
        title=about.get("title", ""),
        source=about.get("source", ""),
        licence=about.get("licence", ""),
        doi=about.get("doi", ""),
        organism=genes.organism,
        corpora=tuple(dict.fromkeys(ids)),
    )
