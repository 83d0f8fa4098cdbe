"""Curves with their names at the end, so that no legend is needed to tell them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sclitmus.report.colours import LIGHT
from sclitmus.report.marks import (
    TEXT,
    chart_of,
    colour_by_role,
    in_focus,
    points_by_role,
    short,
    tooltip,
)
from sclitmus.report.placement import spread

if TYPE_CHECKING:
    import altair as alt

LINE = 14.0
"""Height of a name in pixels."""

_LETTER = 6.6  # pixels, of the names' font
_SIZES = {"contender": 50, "bar": 22, "control": 16}
_WIDTHS = {"contender": 2.5, "bar": 1.2, "control": 1.0}
_BANDS = {"contender": 0.16, "bar": 0.05, "control": 0.05}
_DASHES: tuple[list[float], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


@dataclass(frozen=True)
class Curve:
    """A method's curve: points from left to right.

    Attributes
    ----------
    mark
        Name and role, as in `marks.marked`.
    points
        x, y, the ends of y's interval or None, and the piece of the curve: no line joins two.
    says
        What each point says when it is pointed at.
    """

    mark: dict[str, str]
    points: tuple[tuple[float, float, float | None, float | None, int], ...]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """Where the curves are drawn: ranges of the axes, and the size in pixels."""

    across: tuple[float, float]
    up: tuple[float, float]
    width: int
    height: int


def room_for(names: Sequence[str], across: tuple[float, float], width: int) -> tuple[float, float]:
    """Widen a range to the right, so that names at the curves' ends stand inside the plot."""
    pixels = 26 + _LETTER * max((len(short(name)) for name in names), default=0)
    low, high = across
    return low, low + (high - low) * width / max(width - pixels, width / 3)


def named_curves(
    curves: Sequence[Curve], frame: Frame, x_look: Mapping[str, Any], y_look: Mapping[str, Any]
) -> list["alt.Chart"]:
    """Bands, lines, points and names, models under test on top.

    Parameters
    ----------
    x_look, y_look
        Title, scale and axis, with the ranges of `frame` as the scales' domains.
    """
    import altair as alt

    x_axis, y_axis = alt.X("x:Q", **x_look), alt.Y("y:Q", **y_look)
    layers: list[alt.Chart] = []
    for role in ("control", "bar", "contender"):
        mine = [curve for curve in curves if curve.mark["role"] == role]
        rows = [row for curve in mine for row in _rows(curve)]
        detail = ["name:N", "piece:N"]
        banded = [row for row in rows if row["low"] is not None]
        if banded:
            layers.append(
                chart_of(banded)
                .mark_area(clip=True)
                .encode(
                    x=x_axis,
                    y=alt.Y("low:Q", **y_look),
                    y2="high:Q",
                    detail=detail,
                    color=colour_by_role(),
                    opacity=in_focus(_BANDS[role], _BANDS[role] / 4),
                )
            )
        # Models under test differ by their dashes too; the others are told by their names alone.
        strands = [[curve] for curve in mine] if role == "contender" else [mine] if mine else []
        for i, strand in enumerate(strands):
            layers.append(
                chart_of([row for curve in strand for row in _rows(curve)])
                .mark_line(strokeWidth=_WIDTHS[role], strokeDash=_DASHES[i % len(_DASHES)])
                .encode(
                    x=x_axis,
                    y=y_axis,
                    detail=detail,
                    color=colour_by_role(),
                    opacity=in_focus(1.0 if role == "contender" else 0.75),
                )
            )
        if rows:
            base = chart_of(rows).encode(x=x_axis, y=y_axis, **tooltip("says"))
            layers.append(points_by_role(base, _SIZES[role]))
    return [*layers, *_names(curves, frame, x_axis, y_axis)]


def _names(
    curves: Sequence[Curve], frame: Frame, x_axis: "alt.X", y_axis: "alt.Y"
) -> list["alt.Chart"]:
    ends = [(curve, curve.points[-1]) for curve in curves if curve.points]
    if not ends:
        return []
    low, high = frame.up
    scale = frame.height / (high - low)
    wanted = np.array([(high - y) * scale for _, (_, y, *_) in ends])
    placed = spread(wanted, LINE, LINE / 2, frame.height - LINE / 2)
    last = max(x for _, (x, *_) in ends)
    pixel = (frame.across[1] - frame.across[0]) / frame.width
    names, leaders = [], []
    for (curve, (x, y, *_)), at in zip(ends, placed.tolist(), strict=True):
        height, name = high - at / scale, curve.mark["name"]
        names.append({**curve.mark, "says": short(name), "x": last + 18 * pixel, "y": height})
        leaders += [
            {**curve.mark, "x": x + 5 * pixel, "y": y, "place": 0},
            {**curve.mark, "x": last + 15 * pixel, "y": height, "place": 1},
        ]
    layers = [
        chart_of(leaders)
        .mark_line(strokeWidth=0.7, color=LIGHT["control"])
        .encode(x=x_axis, y=y_axis, detail="name:N", order="place:O", opacity=in_focus(0.8))
    ]
    for role, ink in TEXT.items():
        mine = [row for row in names if row["role"] == role]
        if mine:
            weight: Any = "bold" if role == "contender" else "normal"
            layers.append(
                chart_of(mine)
                .mark_text(
                    align="left",
                    baseline="middle",
                    fontSize=12,
                    fontWeight=weight,
                    color=LIGHT[ink],
                )
                .encode(x=x_axis, y=y_axis, text="says:N", opacity=in_focus(1.0))
            )
    return layers


def _rows(curve: Curve) -> list[dict[str, Any]]:
    return [
        {**curve.mark, "x": x, "y": y, "low": low, "high": high, "piece": piece, "says": says}
        for (x, y, low, high, piece), says in zip(curve.points, curve.says, strict=True)
    ]
