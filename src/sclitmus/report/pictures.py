"""Pictures of a dataset's cells, method by method."""

from dataclasses import dataclass

from sclitmus.execution.result import DatasetInfo
from sclitmus.report import scatter
from sclitmus.report.cards import PARTS
from sclitmus.report.content import Projection, ReportData


@dataclass(frozen=True)
class Panel:
    """One picture: its address and the numbers that name its groups."""

    title: str
    uri: str
    numbers: tuple[tuple[int, float, float], ...]
    alt: str


@dataclass(frozen=True)
class Pictures:
    """All pictures of a dataset, method by method, with the legends they share."""

    kind: str
    caption: str
    types: scatter.Legend
    batches: scatter.Legend
    rows: tuple[tuple[str, str, tuple[Panel, ...]], ...]


def pictures(data: ReportData, info: DatasetInfo) -> Pictures | None:
    """Draw every method's cells by type and by batch; the same colours throughout a dataset."""
    projection = data.projections.get(info.id)
    if projection is None or not projection.xy:
        return None
    types, batches = scatter.legend(projection.label), scatter.legend(projection.batch)
    n_drawn = len(next(iter(projection.xy.values())))
    shown = f"{n_drawn:,} of {projection.n_total:,}" if n_drawn < projection.n_total else "all"
    rows = []
    for method in (m for m in data.cards if m in projection.xy):
        panels = _panels(projection, method, data.names[method], types, batches)
        rows.append((data.names[method], PARTS[data.cards[method].part], panels))
    caption = (
        f"{projection.kind} of {shown} cells. A picture, not evidence: distances between groups "
        "and the sizes of groups mean little; the scores are computed in the full embedding."
    )
    return Pictures(projection.kind, caption, types, batches, tuple(rows))


def _panels(
    projection: Projection,
    method: str,
    name: str,
    types: scatter.Legend,
    batches: scatter.Legend,
) -> tuple[Panel, ...]:
    xy = projection.xy[method]
    panels = []
    for title, column, colours in (
        ("by type", projection.label, types),
        ("by batch", projection.batch, batches),
    ):
        if column is None:
            continue
        uri = scatter.data_uri(scatter.draw(xy, column, colours), "image/png")
        numbers = scatter.anchors(xy, column, colours) if title == "by type" else ()
        alt = f"{projection.kind} of {name}, cells coloured {title}"
        panels.append(Panel(title, uri, numbers, alt))
    if not panels:
        uri = scatter.data_uri(scatter.draw(xy, None, types), "image/png")
        panels.append(Panel("all cells", uri, (), f"{projection.kind} of {name}"))
    return tuple(panels)
