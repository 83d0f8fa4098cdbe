"""Every zero-shot metric on one page, with its scale, and how it is had from an embedding.

`METRICS` is the table. `score_all` turns an embedding into scores: absence is a score with a
reason, NaN is a failure, and where a metric's cost grows faster than the number of cells, more
than `ScoredEmbedding.max_exact` cells are scored by subsamples, which the score's note says.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.errors import NotApplicable
from sclitmus.metrics import kbet, lisi, neighbours, relations, silhouette, variance
from sclitmus.metrics.clustering import ari, nmi
from sclitmus.metrics.scored import ScoredEmbedding

__all__ = ["COMPOSITES", "METRICS", "SUPERLINEAR", "Composite", "ScoredEmbedding", "score_all"]

_SCIB = "10.1038/s41592-021-01336-8"  # Luecken et al. 2022
_BRAS = "10.1038/s41587-025-02743-4"  # Rautenstrauch & Ohler 2025
_AVG_BIO = "10.1038/s41592-024-02201-0"  # scGPT, which named the average
_KBET = "10.1038/s41592-018-0254-1"  # Büttner et al. 2019, also PCR
_LISI = "10.1038/s41592-019-0619-0"  # Harmony


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


# ---- how each simple metric is had


def _by_type(
    embedding: ScoredEmbedding, cells: Float64[np.ndarray, "n_cells"]
) -> dict[str, float]:
    """Return the mean over the cells of each type that has a value."""
    seen = np.isfinite(cells)
    sums = np.bincount(embedding.label[seen], weights=cells[seen])
    counts = np.bincount(embedding.label[seen])
    return {
        f"type:{embedding.type_name(code)}": float(sums[code] / counts[code])
        for code in np.flatnonzero(counts).tolist()
    }


# ---- scoring


@dataclass(frozen=True)
class _Measured:
    """A metric's value per unit, or why it has none."""

    values: Mapping[str, float]
    note: str = ""
    absent: str = ""


def score_all(
    embedding: ScoredEmbedding, metrics: Mapping[str, Metric] | Iterable[str] | None = None
) -> list[Score]:
    """Score an embedding by each metric, in the order given.

    Parameters
    ----------
    metrics
        Metrics by id, or ids in `METRICS`; all of `METRICS` if None.

    Returns
    -------
    list of Score
        One per metric and unit: ``dataset`` first, then ``type:NAME`` where a score per type is
        natural. A metric without an answer for these data is one score of status
        ``not_applicable`` with the reason; a value that is not finite is ``failed``.
    """
    if metrics is None:
        wanted: Mapping[str, Metric] = METRICS
    elif isinstance(metrics, Mapping):
        wanted = metrics
    else:
        wanted = {id: METRICS[id] for id in metrics}
    measured = _measure(embedding, wanted)
    return [score for id, metric in wanted.items() for score in _scores(metric, measured[id])]


def _measure(
    embedding: ScoredEmbedding, wanted: Mapping[str, Metric]
) -> Mapping[str, _Measured]:
    simple = {id: metric for id, metric in wanted.items() if id not in COMPOSITES}
    simple |= {id: METRICS[id] for id in _simple_parts(wanted)}
    drawn = {id for id in simple if embedding.is_drawn and id in SUPERLINEAR}
    measured = {id: _once(embedding, simple[id]) for id in simple if id not in drawn}
    measured |= _over_draws(embedding, [simple[id] for id in simple if id in drawn])
    for id, composite in COMPOSITES.items():  # listed after the composites they are made of
        if all(part in measured for part in composite.parts):
            measured[id] = _combined(composite, measured)
    return measured
