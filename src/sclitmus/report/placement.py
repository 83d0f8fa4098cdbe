"""Names beside points, each where it covers the fewest points and names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

Align = Literal["left", "center", "right"]

# To the right, the left, above, below, then the corners: where a reader looks first.
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))

_ALIGN: Mapping[int, Align] = {1: "left", 0: "center", -1: "right"}


@dataclass(frozen=True)
class Label:
    """Where a name goes: pixel position of its anchor and how it is aligned to it."""

    x: float
    y: float
    align: Align


def place_labels(
    x: Float64[np.ndarray, "n"],
    y: Float64[np.ndarray, "n"],
    widths: Float64[np.ndarray, "n"],
    box: tuple[float, float],
    height: float = 13.0,
) -> tuple[Label, ...]:
    """Choose a place for each name, greedily from the most crowded point on.

    Parameters
    ----------
    x, y
        Points in pixels, y downwards.
    widths
        Width of each name in pixels.
    box
        Width and height of the plot; a name outside it is the last resort.
    height
        Height of a line in pixels.
    """
    n = len(x)
    crowd = ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 < 60**2).sum(axis=1)
    taken: list[tuple[float, float, float, float]] = []
    places: dict[int, Label] = {}
    for i in np.argsort(-crowd, kind="stable").tolist():
        best: tuple[float, Label, tuple[float, float, float, float]] | None = None
        for step, distance in enumerate((9.0, 20.0, 34.0)):
            for rank, (right, down) in enumerate(_DIRECTIONS):
                ax, ay = x[i] + right * distance, y[i] + down * distance
                left = ax - widths[i] * {1: 0.0, 0: 0.5, -1: 1.0}[right]
                area = (left, ay - height / 2, left + widths[i], ay + height / 2)
                cost = (
                    sum(_overlap(area, other) for other in taken)
                    + sum(120.0 for j in range(n) if j != i and _inside(x[j], y[j], area))
                    + 4.0 * _outside(area, box)
                    + 40.0 * step
                    + rank
                )
                if best is None or cost < best[0]:
                    best = (cost, Label(float(ax), float(ay), _ALIGN[right]), area)
        assert best is not None
        places[i] = best[1]
        taken.append(best[2])
    return tuple(places[i] for i in range(n))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _inside(x: float, y: float, area: tuple[float, ...]) -> bool:
    return area[0] - 4 < x < area[2] + 4 and area[1] - 3 < y < area[3] + 3


def _outside(area: tuple[float, ...], box: tuple[float, float]) -> float:
    over = max(-area[0], 0) + max(area[2] - box[0], 0)
    return 20.0 * (over + max(-area[1], 0) + max(area[3] - box[1], 0))


def spread(
    y: Float64[np.ndarray, "n"], gap: float, low: float, high: float
) -> Float64[np.ndarray, "n"]:
    """Move heights apart until any two are a `gap` away, keeping their order and staying near.

    Parameters
    ----------
    y
        Heights in pixels.
    gap
        Least distance of two; less where so many do not fit between `low` and `high`.
    low, high
        Where the first and the last may be.
    """
    n = len(y)
    if n < 2:
        return np.asarray(np.clip(y, low, high), dtype=np.float64)
    gap = min(gap, (high - low) / (n - 1))
    order = np.argsort(y, kind="stable")
    steps = gap * np.arange(n)
    # Least squares under y[i + 1] - y[i] >= gap is isotonic regression of what is left of y.
    blocks: list[tuple[float, int]] = []
    for value in (y[order] - steps).tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            before, n_before = blocks.pop()
            mean = (mean * size + before * n_before) / (size + n_before)
            size += n_before
        blocks.append((mean, size))
    level = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    placed = np.empty(n)
    placed[order] = np.clip(level, low, high - steps[-1]) + steps
    return placed
