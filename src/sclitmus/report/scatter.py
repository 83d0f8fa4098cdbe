"""Pictures of cells in two dimensions: one small PNG a panel, whatever the number of cells.

Drawn straight into an array of palette codes: a hundred thousand cells take tens of
milliseconds and about 60 kB, where a vector drawing would take seconds and megabytes.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sclitmus.core.dataset import Categories
from sclitmus.core.rng import rng_for
from sclitmus.report.colours import CATEGORIES, OTHER

PIXELS = 560
"""Side of a panel: at least twice what it takes on a page, so the browser smooths the edges."""


@dataclass(frozen=True)
class Legend:
    """Which colour each name has: the commonest get their own, the rest share one.

    Attributes
    ----------
    entries
        (name, colour, number of cells), commonest first.
    others
        How many names share the last colour, and how many cells those have.
    colour_of
        Code of the name -> position in the palette; the last position is `OTHER`.
    """

    entries: tuple[tuple[str, str, int], ...]
    others: tuple[int, int]
    colour_of: Int64[np.ndarray, "n_names"]


def legend(column: Categories | None) -> Legend:
    """Give colours to names by how common they are; the same for every panel of a dataset."""
    if column is None:
        return Legend((), (0, 0), np.zeros(0, dtype=np.int64))
    counts = column.counts
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    own, rest = order[: len(CATEGORIES)], order[len(CATEGORIES) :]
    colour_of = np.full(len(counts), len(CATEGORIES), dtype=np.int64)
    colour_of[own] = np.arange(len(own))
    entries = tuple(
        (column.names[i], CATEGORIES[k], int(counts[i])) for k, i in enumerate(own.tolist())
    )
    return Legend(entries, (len(rest), int(counts[rest].sum())), colour_of)


@dataclass(frozen=True)
class Frame:
    """Cells placed on a panel: pixel positions of those that can be drawn.

    Attributes
    ----------
    drawn
        Which cells have finite coordinates.
    column, row
        Pixel of each drawn cell.
    """

    drawn: Bool[np.ndarray, "n_cells"]
    column: Int64[np.ndarray, "n_drawn"]
    row: Int64[np.ndarray, "n_drawn"]


def place(xy: Float64[np.ndarray, "n_cells 2"], pixels: int = PIXELS) -> Frame:
    """Fit the cells into a square; a stray cell in a thousand is moved to the edge, not lost."""
    drawn = np.isfinite(xy).all(axis=1)
    points = np.asarray(xy[drawn], dtype=np.float64)
    if len(points) == 0:
        return Frame(drawn, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    centre, half = (low + high) / 2, max(float(np.max(high - low)) / 2, 1e-12)
    margin = 0.04
    unit = np.clip((points - centre) / half, -1, 1) * (0.5 - margin) + 0.5
    position = np.round(unit * (pixels - 1)).astype(np.int64)
    return Frame(drawn, position[:, 0], pixels - 1 - position[:, 1])


def radius(n_cells: int) -> float:
    """Pixels: 5.5 for 700 cells, 2.8 for 5,000, 1 for 100,000; so that ink grows with cells."""
    return float(np.clip(5.5 * (700 / max(n_cells, 1)) ** 0.34, 1.0, 7.0))


def draw(
    xy: Float64[np.ndarray, "n_cells 2"],
    column: Categories | None,
    colours: Legend,
    pixels: int = PIXELS,
) -> bytes:
    """Draw one panel as a PNG with a transparent ground.

    Cells are drawn in a random order that is the same for every panel: drawn by type or by
    batch, the last one would hide the others. Only cells without a colour of their own go below.

    Parameters
    ----------
    xy
        Coordinates; rows that are not finite are left out.
    column
        Names to colour by; None, or a missing name, is drawn in the colour of "other".
    colours
        From `legend(column)`.
    """
    from PIL import Image

    frame = place(xy, pixels)
    n_drawn = len(frame.column)
    other, ground = len(CATEGORIES), len(CATEGORIES) + 1
    if column is None:
        shade = np.full(n_drawn, other, dtype=np.int64)
    else:
        codes = column.codes[frame.drawn]
        shade = np.where(codes >= 0, np.append(colours.colour_of, other)[codes], other)

    order = rng_for(0, "drawing order").permutation(n_drawn)
    order = order[np.argsort(shade[order] != other, kind="stable")]
    r = radius(n_drawn)
    reach = int(np.floor(r))
    dx, dy = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    inside = dx**2 + dy**2 <= r**2
    x = np.clip(frame.column[order, None] + dx[inside], 0, pixels - 1)
    y = np.clip(frame.row[order, None] + dy[inside], 0, pixels - 1)
    canvas = np.full(pixels * pixels, ground, dtype=np.uint8)
    # Where a pixel comes twice numpy keeps the last, so the whole disc of a later cell is on top.
    canvas[(y * pixels + x).ravel()] = np.repeat(shade[order], int(inside.sum())).astype(np.uint8)

    image = Image.fromarray(canvas.reshape(pixels, pixels), mode="P")
    palette = (*CATEGORIES, OTHER, "#ffffff")  # the last is the ground, which is not shown
    image.putpalette([int(colour[i : i + 2], 16) for colour in palette for i in (1, 3, 5)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=ground, compress_level=9)
    return buffer.getvalue()


def anchors(
    xy: Float64[np.ndarray, "n_cells 2"], column: Categories, colours: Legend
) -> tuple[tuple[int, float, float], ...]:
    """Return where each named colour's number goes: (position in the legend, x, y in 0…1).

    The place is the cell nearest to the median of its name, so the number lies on its cells
    even where those form a ring. A number that would cover that of a commoner name is left out.
    """
    frame = place(xy)
    codes = column.codes[frame.drawn]
    found: list[tuple[int, float, float]] = []
    for position, (name, _, _) in enumerate(colours.entries):
        mine = np.flatnonzero(codes == column.names.index(name))
        if len(mine) == 0:
            continue
        x, y = frame.column[mine], frame.row[mine]
        nearest = int(np.argmin((x - np.median(x)) ** 2 + (y - np.median(y)) ** 2))
        at = (position, float(x[nearest]) / PIXELS, float(y[nearest]) / PIXELS)
        if all(abs(at[1] - left) > 0.05 or abs(at[2] - top) > 0.045 for _, left, top in found):
            found.append(at)
    return tuple(found)


def data_uri(content: bytes, media_type: str) -> str:
    """Return the bytes as an address that needs no file and no network."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
