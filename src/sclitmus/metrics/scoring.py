"""From an embedding and metrics to scores: composites, subsamples, absence.

Absence is a score with a reason, NaN is a failure. Where a metric's cost grows faster than the
number of cells, more than `ScoredEmbedding.max_exact` cells are scored by subsamples, the same
for every method, and the note of the score says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.errors import NotApplicable
from sclitmus.metrics.scored import Measured, ScoredEmbedding


@dataclass(frozen=True)
class Composite:
    """A metric made from the values of others; not applicable where one of them is not."""

    parts: tuple[str, ...]
    combine: Callable[[Mapping[str, float]], float]


def _mean_of(*parts: str) -> Composite:
    return Composite(parts, lambda value: sum(value[part] for part in parts) / len(parts))


def _harmonic(value: Mapping[str, float]) -> float:
    mixing, conservation = value["mixing"], value["conservation"]
    if min(mixing, conservation) <= 0:  # its limit at 0; below 0 there is no harmonic mean
        return min(mixing, conservation)
    return 2 * mixing * conservation / (mixing + conservation)


_SCIB_TYPES = ("isolated_labels", "nmi_kmeans", "ari_kmeans", "asw", "clisi")
_SCIB_BATCHES = ("bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison")

COMPOSITES: Mapping[str, Composite] = {
    "avg_bio": _mean_of("nmi_oracle", "ari_oracle", "asw"),
    "avg_bio_fixed": _mean_of("nmi", "ari", "asw"),
    "conservation": _mean_of("avg_bio"),
    "mixing": _mean_of("bras", "cilisi"),
    "integration": Composite(("mixing", "conservation"), _harmonic),
    "overall_scib": Composite(
        (*_SCIB_TYPES, *_SCIB_BATCHES),
        lambda value: (
            0.6 * sum(value[part] for part in _SCIB_TYPES) / len(_SCIB_TYPES)
            + 0.4 * sum(value[part] for part in _SCIB_BATCHES) / len(_SCIB_BATCHES)
        ),
    ),
}

# Time grows faster than the number of cells: all pairs, eigenvectors, clustering.
SUPERLINEAR = frozenset(
    {
        *("nmi", "ari", "nmi_oracle", "ari_oracle", "nmi_kmeans", "ari_kmeans"),
        *("asw", "isolated_labels", "batch_asw", "kbet", "cilisi"),
    }
)


_FROM_NEIGHBOURS = frozenset({"ilisi", "clisi", "graph_connectivity", "purity"})


def measure(
    embedding: ScoredEmbedding, wanted: Mapping[str, Metric], table: Mapping[str, Metric]
) -> None:
    """Put what is wanted, and what that is made of, into `embedding.measured`.

    Parameters
    ----------
    table
        Where the parts of composites are looked up.
    """
    simple = dict(wanted)
    for id in wanted:
        simple |= {part: table[part] for part in _parts(id)}
    simple = {
        id: metric
        for id, metric in simple.items()
        if id not in COMPOSITES and id not in embedding.measured
    }
    drawn = [simple[id] for id in simple if embedding.is_drawn and id in SUPERLINEAR]
    embedding.measured.update(_over_draws(embedding, drawn))
    for id, metric in simple.items():
        if id not in embedding.measured:
            embedding.measured[id] = _once(embedding, metric)
    for id, composite in COMPOSITES.items():  # in an order in which parts come first
        if all(part in embedding.measured for part in composite.parts):
            embedding.measured[id] = _combined(composite, embedding.measured)


def _parts(id: str) -> list[str]:
    """Return what a composite rests on, at any depth."""
    parts = COMPOSITES[id].parts if id in COMPOSITES else ()
    return [*parts, *(deeper for part in parts for deeper in _parts(part))]


def _once(embedding: ScoredEmbedding, metric: Metric) -> Measured:
    try:
        found = metric.compute(embedding)
    except NotApplicable as absent:
        return Measured({}, absent=absent.reason)
    values = dict(found) if isinstance(found, Mapping) else {"dataset": float(found)}
    approximate = metric.id in _FROM_NEIGHBOURS and not embedding.neighbours.exact
    return Measured(values, note="from approximate neighbours" if approximate else "")


def _over_draws(embedding: ScoredEmbedding, metrics: list[Metric]) -> dict[str, Measured]:
    """Score each subsample by every metric before the next is drawn, then take means."""
    if not metrics:
        return {}
    draws: dict[str, list[Measured]] = {metric.id: [] for metric in metrics}
    n_drawn = 0
    for draw in embedding.draws():
        n_drawn = draw.n_cells
        for metric in metrics:
            draws[metric.id].append(_once(draw, metric))
    return {id: _mean_of_draws(found, n_drawn, embedding.n_cells) for id, found in draws.items()}


def _mean_of_draws(draws: list[Measured], n_drawn: int, n_cells: int) -> Measured:
    present = [draw for draw in draws if not draw.absent]
    if not present:
        return draws[0]
    by_unit: dict[str, list[float]] = {}
    for draw in present:
        for unit, value in draw.values.items():
            by_unit.setdefault(unit, []).append(value)
    means = {unit: float(np.mean(values)) for unit, values in by_unit.items()}
    values = by_unit.get("dataset", [])
    sd = f"; sd of one draw {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    note = f"mean of {len(present)} subsamples of {n_drawn:,} of {n_cells:,} cells{sd}"
    return Measured(means, note=note)


def _combined(composite: Composite, measured: Mapping[str, Measured]) -> Measured:
    parts = {part: measured[part] for part in composite.parts}
    reasons = [f"{part}: {found.absent}" for part, found in parts.items() if found.absent]
    if reasons:
        return Measured({}, absent="; ".join(reasons))
    value = composite.combine({part: found.values["dataset"] for part, found in parts.items()})
    drawn = [part for part, found in parts.items() if found.note]
    return Measured({"dataset": value}, note=f"see notes of {', '.join(drawn)}" if drawn else "")


def scores_of(metric: Metric, measured: Measured) -> list[Score]:
    """Turn what was measured into one score per unit, or one that says why there is none."""
    if measured.absent:
        return [
            Score(metric.id, metric.version, None, status="not_applicable", note=measured.absent)
        ]
    scores = []
    for unit, value in measured.values.items():
        if math.isfinite(value):
            score = Score(metric.id, metric.version, float(value), unit, note=measured.note)
        else:
            score = Score(metric.id, metric.version, None, unit, "failed", f"the value is {value}")
        scores.append(score)
    return scores
