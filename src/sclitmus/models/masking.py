"""Which tokens of a cell are hidden from the network that has to predict them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from sclitmus.models.tokens import Tokens


def hide(
    tokens: Tokens,
    eligible: Bool[np.ndarray, "n_tokens"],
    share: Sequence[float],
    rng: np.random.Generator,
    whole: Literal["down", "up"] = "down",
) -> Bool[np.ndarray, "n_tokens"]:
    """Choose a share of the eligible tokens of each cell at random.

    Parameters
    ----------
    share
        Of several, each cell draws one.
    whole
        Whether the number is rounded ``"down"`` or ``"up"``. At least one token is chosen, unless
        it would be the cell's only one.
    """
    cell = np.repeat(np.arange(tokens.n_cells), tokens.lengths)
    n = np.bincount(cell[eligible], minlength=tokens.n_cells)
    wanted = np.asarray(share)[rng.integers(len(share), size=tokens.n_cells)] * n
    wanted = np.ceil(wanted) if whole == "up" else np.floor(wanted)
    wanted = np.where(n > 1, np.clip(wanted, 1, n), 0)
    keys = rng.random(len(cell))
    keys[~eligible] = 2.0  # behind all others
    order = np.lexsort((keys, cell))
    rank = np.empty(len(cell), dtype=np.int64)
    rank[order] = np.arange(len(cell)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
    out: np.ndarray = eligible & (rank < wanted[cell])
    return out


def with_columns(tokens: Tokens, **columns: np.ndarray) -> Tokens:
    """Return the tokens with some of their columns exchanged, or more of them."""
    return replace(tokens, columns={**tokens.columns, **columns})


def cells_of(tokens: Tokens) -> Int64[np.ndarray, "n_tokens"]:
    """Return the number of the cell that each token is of."""
    return np.repeat(np.arange(tokens.n_cells), tokens.lengths)
