"""What a model reads of some cells: a list of tokens per cell, of any length, end to end.

Nothing is padded. The tokens of all cells lie in one array per column (gene id, value …) and
`offsets` says where each cell begins, as in a CSR matrix. The linear layers of a network then do
no work for padding, and a cell's result cannot depend on the length of its neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class Tokens:
    """Tokens of consecutive cells.

    Attributes
    ----------
    offsets
        Cell i has the tokens ``offsets[i]:offsets[i + 1]``.
    columns
        What is known of each token, by name: arrays of length ``offsets[-1]``. Every port has
        ``gene``: the row of the token's gene in `Port.genes`, -1 for a special token.
    cells
        What is known of each cell as a whole (its depth, say): arrays of length n_cells.
    """

    offsets: Int64[np.ndarray, "n_cells_plus_1"]
    columns: Mapping[str, np.ndarray]
    cells: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, "n_cells"]:
        """Number of tokens of each cell."""
        return np.diff(self.offsets)

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "Tokens":
        """Keep these cells, in the order given."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Position of each kept token: its cell's start, plus how far into the cell it is.
        into = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        at = np.repeat(self.offsets[:-1][rows], lengths) + into
        return Tokens(
            offsets,
            {name: column[at] for name, column in self.columns.items()},
            {name: column[rows] for name, column in self.cells.items()},
        )


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Put the cells of several parts one behind the other."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([part.offsets[-1] for part in parts])
    starts = [0, *ends[:-1].tolist()]
    offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
    first = parts[0]
    return Tokens(
        np.concatenate([[0], *offsets]).astype(np.int64),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        {name: np.concatenate([part.cells[name] for part in parts]) for name in first.cells},
    )


@dataclass(frozen=True)
class Batch:
    """Tokens of the cells that pass through the network together, as tensors on its device."""

    offsets: Sequence[int]  # plain integers: read on the host without waiting for a GPU
    columns: Mapping[str, Any]
    cells: Mapping[str, Any]

    @property
    def n_cells(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> list[int]:
        return [b - a for a, b in zip(self.offsets, self.offsets[1:], strict=False)]


def on_device(tokens: Tokens, device: Any) -> Batch:
    """Make tensors of these tokens: integers as int64, numbers as float32.

    Parameters
    ----------
    device
        A ``torch.device`` or its name.
    """
    import torch

    def tensor(values: np.ndarray) -> Any:
        kinds: dict[str, type] = {"i": np.int64, "u": np.int64, "f": np.float32}
        kind = kinds.get(values.dtype.kind)  # None: as it is
        made = torch.from_numpy(np.ascontiguousarray(values, dtype=kind))
        return made.to(device, non_blocking=True)

    return Batch(
        tokens.offsets.tolist(),
        {name: tensor(column) for name, column in tokens.columns.items()},
        {name: tensor(column) for name, column in tokens.cells.items()},
    )
