"""A dataset: raw counts, genes, the columns that play a role, and what was noticed on reading."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int32, Int64
from scipy import sparse

from sclitmus.core.counts import Counts, InMemory
from sclitmus.errors import NotApplicable


@dataclass(frozen=True)
class Categories:
    """A column of names, stored as codes.

    Attributes
    ----------
    codes
        Position of each cell's name in `names`; -1 where the name is missing.
    names
        The names in use, sorted; an unused category of the source is not among them.
    """

    codes: Int32[np.ndarray, "n_cells"]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: "np.ndarray | list[str | None]") -> "Categories":
        """Make codes from names; None, NaN and the empty string are missing."""
        strings = [_name(value) for value in values]
        names = tuple(sorted({s for s in strings if s is not None}))
        position: dict[str | None, int] = {name: code for code, name in enumerate(names)}
        position[None] = -1
        codes = np.fromiter((position[s] for s in strings), dtype=np.int32, count=len(strings))
        return cls(codes, names)

    @property
    def counts(self) -> Int64[np.ndarray, "n_names"]:
        """Number of cells of each name."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names)).astype(np.int64)

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "Categories":
        """Keep these rows, and only the names that still occur."""
        codes = self.codes[rows]
        used = np.unique(codes[codes >= 0])
        renumber = np.full(len(self.names) + 1, -1, dtype=np.int32)
        renumber[used] = np.arange(len(used), dtype=np.int32)
        return Categories(renumber[codes], tuple(self.names[i] for i in used))


def _name(value: object) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return None
    return str(value)


@dataclass(frozen=True)
class Genes:
    """Gene names of the columns; an empty string where a kind of name is unknown."""

    symbol: tuple[str, ...]
    ensembl: tuple[str, ...]
    organism: str  # "human", "mouse", … or "unknown"

    def __len__(self) -> int:
        return len(self.symbol)


@dataclass(frozen=True)
class Note:
    """Something the reader of a report must know: cells dropped, names duplicated."""

    kind: str
    text: str
    count: int = 0


@dataclass(frozen=True)
class DatasetCard:
    """Where the data come from and what may be done with them."""

    title: str = ""
    source: str = ""
    licence: str = ""
    doi: str = ""
    organism: str = "unknown"
    label_quality: str = ""  # "gold", "silver", "author", … as the source says
    corpora: tuple[str, ...] = ()  # public ids (GEO, CELLxGENE …), for overlap with pretraining


@dataclass(frozen=True)
class Dataset:
    """Raw counts of cells with the columns that play a role. Never changed after it is made.

    Attributes
    ----------
    id
        Short name, used in records and file names.
    store
        Raw counts, cells x genes: finite, whole, not negative; no empty row. A CSR matrix, or what
        reads one from elsewhere as it is needed (`core.counts.Counts`). Read it by `counts` or,
        in bounded memory, by `blocks`.
    genes
        Names of the columns.
    cells
        Cell ids, unique.
    roles
        Role ("label", "batch", "donor", "group", "condition", "perturbation") -> its column.
    columns
        The obs column's name each role was read from, for the report.
    embeddings
        Ready-made embeddings by name, float32 ``(n_cells, d)``, row i is cell i.
    card, notes
        Source and licence; what was noticed on reading.
    source_rows, n_source
        Row of each kept cell in the source, and how many rows the source has, so that an
        embedding made from the same file can be aligned by position.
    """

    id: str
    store: Counts | sparse.csr_matrix
    genes: Genes
    cells: tuple[str, ...]
    roles: Mapping[str, Categories] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, Float32[np.ndarray, "n_cells d"]] = field(default_factory=dict)
    card: DatasetCard = DatasetCard()
    notes: tuple[Note, ...] = ()
    source_rows: Int64[np.ndarray, "n_cells"] | None = None
    n_source: int | None = None

    @cached_property
    def _counts(self) -> Counts:
        if isinstance(self.store, sparse.spmatrix | sparse.sparray | np.ndarray):
            return InMemory(self.store)
        return self.store

    @property
    def counts(self) -> sparse.csr_matrix:
        """All raw counts. Those stored elsewhere are read into memory, once, when asked for."""
        return self._counts.load()

    @property
    def n_cells(self) -> int:
        return self._counts.shape[0]

    @property
    def n_genes(self) -> int:
        return self._counts.shape[1]

    @property
    def nnz(self) -> int:
        """Number of counts that are not zero."""
        return self._counts.nnz

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        """Yield the counts as consecutive blocks of at most `n` cells.

        Memory is bounded by a block, wherever the counts are.
        """
        return self._counts.blocks(n)

    def role(self, name: str) -> Categories:
        """Return the column that plays `name`, or say that none does.

        Raises
        ------
        NotApplicable
            If the dataset has no such role.
        """
        if name not in self.roles:
            raise NotApplicable(f"the dataset has no {name} column; give one with --{name} COLUMN")
        return self.roles[name]

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "Dataset":
        """Keep these rows (all genes), in the order given. Stored counts are not read."""
        source_rows = np.arange(self.n_cells) if self.source_rows is None else self.source_rows
        return replace(
            self,
            store=self._counts.take(rows),
            cells=tuple(self.cells[i] for i in rows),
            roles={name: column.take(rows) for name, column in self.roles.items()},
            embeddings={name: z[rows] for name, z in self.embeddings.items()},
            source_rows=source_rows[rows],
            n_source=self.n_cells if self.n_source is None else self.n_source,
        )

    def without(self, *roles: str) -> "Dataset":
        """Hide these roles, so that a method that must not see them cannot."""
        return replace(self, roles={k: v for k, v in self.roles.items() if k not in roles})

    @property
    def content_hash(self) -> str:
        """Hash of everything a method or a task can see: counts, gene names, roles, cell ids."""
        cached: str | None = self.__dict__.get("_content_hash")
        if cached is None:
            cached = self._hash()
            object.__setattr__(self, "_content_hash", cached)
        return cached

    def _hash(self) -> str:
        digest = self._counts.hashed()

        def add(name: str, data: bytes) -> None:
            digest.update(f"{name}:{len(data)}:".encode())
            digest.update(data)

        def add_names(name: str, names: tuple[str, ...]) -> None:
            # Each with its length: a name may itself hold a line break.
            add(name, "".join(f"{len(n)}:{n}" for n in names).encode())

        add("organism", self.genes.organism.encode())
        add_names("symbol", self.genes.symbol)
        add_names("ensembl", self.genes.ensembl)
        add_names("cells", self.cells)
        for name in sorted(self.roles):
            column = self.roles[name]
            add(name, column.codes.tobytes())
            add_names(name, column.names)
        for name in sorted(self.embeddings):
            add(f"embedding {name}", np.ascontiguousarray(self.embeddings[name]).tobytes())
        return digest.hexdigest()
