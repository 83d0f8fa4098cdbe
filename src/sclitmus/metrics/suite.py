"""Every zero-shot metric on one page, with its scale, and how it is had from an embedding."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float64

from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.errors import NotApplicable
from sclitmus.metrics import relations, silhouette, variance
from sclitmus.metrics.clustering import ari, nmi
from sclitmus.metrics.scored import N_GRAPH_NEIGHBOURS, N_KBET_NEIGHBOURS, ScoredEmbedding
from sclitmus.metrics.scoring import measure, scores_of

__all__ = ["METRICS", "ScoredEmbedding", "score_all"]

_SCIB = "10.1038/s41592-021-01336-8"  # Luecken et al. 2022
_BRAS = "10.1038/s41587-025-02743-4"  # Rautenstrauch & Ohler 2025
_AVG_BIO = "10.1038/s41592-024-02201-0"  # scGPT, which named the average
_KBET = "10.1038/s41592-018-0254-1"  # Büttner et al. 2019, also PCR
_LISI = "10.1038/s41592-019-0619-0"  # Korsunsky et al. 2019
_CILISI = "10.1038/s41467-024-45240-z"  # Andreatta et al. 2024
_SCGRAPH = "10.1038/s41587-025-02702-z"  # Wang et al. 2025


# ---- how each simple metric is had from an embedding


def _asw(e: ScoredEmbedding) -> dict[str, float]:
    per_type = _by_type(e, (e.silhouettes.label + 1) / 2)
    return {"dataset": silhouette.asw(e.silhouettes)} | per_type


def _batch_asw(e: ScoredEmbedding) -> dict[str, float]:
    value = silhouette.batch_asw(_with_batches(e).silhouettes, e.label)
    return {"dataset": value} | _by_type(e, 1 - np.abs(e.silhouettes.batch))


def _isolated_labels(e: ScoredEmbedding) -> float:
    return silhouette.isolated_labels(e.silhouettes, e.types, e.batches, compat=_compat(e))


def _purity(e: ScoredEmbedding) -> dict[str, float]:
    from sclitmus.metrics.neighbours import label_purity

    per_type = _by_type(e, label_purity(e.neighbours.first(N_GRAPH_NEIGHBOURS), e.types))
    return {"dataset": sum(per_type.values()) / len(per_type)} | per_type


def _relations(e: ScoredEmbedding) -> dict[str, float]:
    profiles = relations.relation_profiles(e.z, e.types, e.batch, e.unintegrated)
    per_type = {f"type:{e.type_name(code)}": value for code, value in profiles.items()}
    return {"dataset": sum(per_type.values()) / len(per_type)} | per_type


def _pcr_comparison(e: ScoredEmbedding) -> float:
    return variance.pcr_comparison(e.unintegrated, e.z, e.batches, compat=_compat(e))


def _clisi(e: ScoredEmbedding) -> float:
    from sclitmus.metrics.lisi import clisi_score

    return clisi_score(e.lisis[0], len(np.unique(e.types)))


def _ilisi(e: ScoredEmbedding) -> float:
    from sclitmus.metrics.lisi import ilisi_score

    n_batches = len(np.unique(e.batches))
    return ilisi_score(e.lisis[1], n_batches)


def _cilisi(e: ScoredEmbedding) -> dict[str, float]:
    from sclitmus.metrics.lisi import MIN_CELLS, cilisi_cells

    cells = cilisi_cells(e.z, e.label, e.batches, seed=e.seed)
    if not np.isfinite(cells).any():
        raise NotApplicable(f"no type has two batches and at least {MIN_CELLS} cells")
    return {"dataset": float(np.nanmean(cells))} | _by_type(e, cells)


def _kbet(e: ScoredEmbedding) -> dict[str, float]:
    from sclitmus.metrics.kbet import MIN_CELLS, kbet_scores

    nearby = e.neighbours.first(N_KBET_NEIGHBOURS)
    per_type = _named(e, kbet_scores(nearby, e.label, e.batches, compat=e.compat == "scib"))
    if not per_type:
        raise NotApplicable(f"no type has two batches and at least {MIN_CELLS} cells")
    return {"dataset": sum(per_type.values()) / len(per_type)} | per_type


def _graph_connectivity(e: ScoredEmbedding) -> float:
    from sclitmus.metrics.neighbours import graph_connectivity

    graph = e.neighbours.first(N_GRAPH_NEIGHBOURS)
    return graph_connectivity(graph, e.label, compat=e.compat == "scib")


def _compat(e: ScoredEmbedding) -> Literal["", "scib"]:
    return "scib" if e.compat else ""


def _with_batches(e: ScoredEmbedding) -> ScoredEmbedding:
    _ = e.batches  # raises where there are none
    return e


def _by_type(e: ScoredEmbedding, cells: Float64[np.ndarray, "n_cells"]) -> dict[str, float]:
    """Return the mean over the cells of each type that has a value."""
    from sclitmus.metrics.neighbours import label_means

    return _named(e, label_means(cells, e.label))


def _named(e: ScoredEmbedding, by_code: Float64[np.ndarray, "n_labels"]) -> dict[str, float]:
    values = enumerate(by_code.tolist())
    return {f"type:{e.type_name(code)}": value for code, value in values if not math.isnan(value)}


def _composite(id: str) -> Callable[[ScoredEmbedding], float]:
    def value(e: ScoredEmbedding) -> float:
        measure(e, {id: METRICS[id]}, METRICS)
        if e.measured[id].absent:
            raise NotApplicable(e.measured[id].absent)
        return e.measured[id].values["dataset"]

    return value


# ---- the table

_TYPES: tuple[Metric, ...] = (
    Metric(
        "avg_bio",
        _composite("avg_bio"),
        title="AvgBIO (oracle resolution)",
        summary="mean of NMI, ARI and ASW; the clustering resolution is chosen with the labels",
        bounds=(-1 / 6, 1),
        doi=_AVG_BIO,
    ),
    Metric(
        "avg_bio_fixed",
        _composite("avg_bio_fixed"),
        title="AvgBIO (fixed resolution)",
        summary="mean of NMI, ARI and ASW at Leiden resolution 1, chosen without the labels",
        bounds=(-1 / 6, 1),
        doi=_AVG_BIO,
    ),
    Metric(
        "nmi",
        lambda e: nmi(e.types, e.clusters),
        title="NMI",
        summary="information shared by the labels and Leiden clusters at resolution 1",
        bounds=(0, 1),
        doi=_SCIB,
    ),
    Metric(
        "ari",
        lambda e: ari(e.types, e.clusters),
        title="ARI",
        summary="pairs of cells on which labels and Leiden clusters at resolution 1 agree",
        bounds=(-0.5, 1),
        chance=0.0,
        doi=_SCIB,
    ),
    Metric(
        "nmi_oracle",
        lambda e: nmi(e.types, e.oracle_clusters),
        title="NMI (oracle resolution)",
        summary="largest NMI over ten Leiden resolutions",
        bounds=(0, 1),
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "ari_oracle",
        lambda e: ari(e.types, e.oracle_clusters),
        title="ARI (oracle resolution)",
        summary="ARI at the Leiden resolution of largest NMI",
        bounds=(-0.5, 1),
        chance=0.0,
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "nmi_kmeans",
        lambda e: nmi(e.types, e.kmeans_clusters),
        title="NMI (k-means)",
        summary="NMI of labels and k-means clusters, as many clusters as labels",
        bounds=(0, 1),
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "ari_kmeans",
        lambda e: ari(e.types, e.kmeans_clusters),
        title="ARI (k-means)",
        summary="ARI of labels and k-means clusters, as many clusters as labels",
        bounds=(-0.5, 1),
        chance=0.0,
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "asw",
        _asw,
        title="Cell-type ASW",
        summary="mean silhouette of cells by label, from [-1, 1] to [0, 1]",
        bounds=(0, 1),
        chance=0.5,
        doi=_SCIB,
    ),
    Metric(
        "isolated_labels",
        _isolated_labels,
        title="Isolated labels",
        summary="ASW of the labels found in the fewest batches",
        bounds=(0, 1),
        chance=0.5,
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "clisi",
        _clisi,
        title="cLISI",
        summary="median over cells of how few labels are among 90 neighbours",
        bounds=(0, 1),
        doi=_LISI,
    ),
    Metric(
        "purity",
        _purity,
        title="Label purity",
        summary="share of a cell's 14 nearest neighbours with its label, each type counting alike",
        bounds=(0, 1),
    ),
    Metric(
        "relations",
        _relations,
        title="Relations of types",
        summary="are types as near to each other as in the data before?",
        bounds=(-1, 1),
        chance=0.0,
        doi=_SCGRAPH,
    ),
)

_BATCHES: tuple[Metric, ...] = (
    Metric(
        "mixing",
        _composite("mixing"),
        title="Mixing",
        summary="mean of BRAS and CiLISI: are the batches of one type mixed?",
        bounds=(0, 1),
        side="batches",
        doi=_BRAS,
    ),
    Metric(
        "bras",
        lambda e: silhouette.bras(e.z, e.label, e.batches),
        title="BRAS",
        summary="cosine silhouette of batches within types, against all other batches",
        bounds=(0, 1),
        chance=1.0,
        side="batches",
        doi=_BRAS,
    ),
    Metric(
        "cilisi",
        _cilisi,
        title="CiLISI",
        summary="iLISI within each type",
        bounds=(0, 1),
        side="batches",
        doi=_CILISI,
    ),
    Metric(
        "ilisi",
        _ilisi,
        title="iLISI",
        summary="median over cells of how many batches are among 90 neighbours",
        bounds=(0, 1),
        side="batches",
        doi=_LISI,
    ),
    Metric(
        "kbet",
        _kbet,
        title="kBET",
        summary="share of cells whose neighbours of one type have that type's mix of batches",
        bounds=(0, 1),
        side="batches",
        doi=_KBET,
    ),
    Metric(
        "batch_asw",
        _batch_asw,
        title="Batch ASW",
        summary="one less the size of the silhouette of batches within types, nearest other batch",
        bounds=(0, 1),
        chance=1.0,
        side="batches",
        doi=_SCIB,
    ),
    Metric(
        "pcr",
        lambda e: variance.pcr(e.z, e.batches),
        title="PCR (raw)",
        summary="share of the embedding's variance that the batches explain",
        bounds=(0, 1),
        direction="lower",
        chance=0.0,
        side="batches",
        doi=_KBET,
    ),
    Metric(
        "pcr_comparison",
        _pcr_comparison,
        title="PCR comparison",
        summary="share of the batches' variance that is gone, compared with the data before",
        bounds=(-math.inf, 1),
        chance=1.0,
        side="batches",
        doi=_SCIB,
        compat=True,
    ),
    Metric(
        "graph_connectivity",
        _graph_connectivity,
        title="Graph connectivity",
        summary="share of a type's cells in its largest connected piece of the neighbour graph",
        bounds=(0, 1),
        side="batches",
        doi=_SCIB,
        compat=True,
    ),
)

_BOTH: tuple[Metric, ...] = (
    Metric(
        "conservation",
        _composite("conservation"),
        title="Conservation",
        summary="AvgBIO under the name of its side: are the types kept?",
        bounds=(-1 / 6, 1),
        doi=_AVG_BIO,
    ),
    Metric(
        "integration",
        _composite("integration"),
        title="Integration",
        summary="harmonic mean of mixing and conservation: low where either is",
        bounds=(-1 / 6, 1),
        side="both",
    ),
    Metric(
        "overall_scib",
        _composite("overall_scib"),
        title="scIB total",
        summary="0.6 x mean of scib-metrics' type scores + 0.4 x mean of its batch scores",
        bounds=(-math.inf, 1),
        side="both",
        doi=_SCIB,
        compat=True,
    ),
)

METRICS: Mapping[str, Metric] = {metric.id: metric for metric in (*_TYPES, *_BATCHES, *_BOTH)}


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
        metrics = METRICS
    wanted = metrics if isinstance(metrics, Mapping) else {id: METRICS[id] for id in metrics}
    measure(embedding, wanted, METRICS)
    return [
        score
        for id, metric in wanted.items()
        for score in scores_of(metric, embedding.measured[id])
    ]
