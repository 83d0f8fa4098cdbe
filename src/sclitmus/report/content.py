"""What a report is made of: frames, cards and projections. Nothing here computes a score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float32

from sclitmus.core.dataset import Categories
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.core.task import TaskCard
from sclitmus.execution.result import STABILITY_SCHEMA, DatasetInfo
from sclitmus.stats.analysis import Analysis


@dataclass(frozen=True)
class Projection:
    """Two-dimensional pictures of one dataset, the same cells for every method.

    Attributes
    ----------
    xy
        Method -> coordinates, one row per drawn cell.
    label, batch
        Names of the drawn cells, or None where the dataset has no such column.
    n_total
        How many cells the dataset has; the drawn ones may be a sample.
    kind
        What the coordinates are.
    """

    xy: Mapping[str, Float32[np.ndarray, "n_cells 2"]]
    label: Categories | None
    batch: Categories | None
    n_total: int
    kind: str = "UMAP"


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    study
        Title of the page.
    records, splits
        What the run wrote: columns `core.record.RECORD_COLUMNS`; dataset, task, split, weight.
    analysis
        The statistics of these records.
    methods, tasks, metrics, datasets
        Cards, in the order in which the page shows them.
    projections
        Dataset -> its pictures.
    stability
        dataset, method, seed, change, mean, largest, note: see `execution.stability`.
    notes
        dataset, method, note: what a method remarked about a dataset; about maps, of all methods.
    provenance
        What ran where: versions, machine, command, hashes; values may be nested.
    """

    study: str
    records: pl.DataFrame
    splits: pl.DataFrame
    analysis: Analysis
    methods: tuple[MethodCard, ...]
    tasks: tuple[TaskCard, ...]
    metrics: tuple[Metric, ...]
    datasets: tuple[DatasetInfo, ...]
    projections: Mapping[str, Projection] = field(default_factory=dict)
    stability: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=STABILITY_SCHEMA))
    notes: tuple[Mapping[str, str], ...] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def cards(self) -> Mapping[str, MethodCard]:
        """Method -> card, also for methods that have records but came without one."""
        cards = {card.id: card for card in self.methods}
        for method in self.records["method"].unique().sort():
            cards.setdefault(method, MethodCard(method, "supplied", "contender", method))
        return cards

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Method -> the name the page shows: its title, with the id where titles collide."""
        titles = [card.title or card.id for card in self.cards.values()]
        return {
            card.id: title if titles.count(title) == 1 else f"{title} ({card.id})"
            for card, title in zip(self.cards.values(), titles, strict=True)
        }

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """Methods that are judged."""
        return tuple(card.id for card in self.cards.values() if card.part == "contender")

    @cached_property
    def cost(self) -> pl.DataFrame:
        """Median seconds and peak memory of making each embedding: dataset, method, both.

        `seconds` and `peak_rss_mb` stand on every record of a trial, so each trial counts once.
        """
        return (
            self.records.group_by("dataset", "method", "seed", maintain_order=True)
            .agg(pl.col("seconds", "peak_rss_mb").max())
            .group_by("dataset", "method", maintain_order=True)
            .agg(pl.col("seconds", "peak_rss_mb").median())
            .filter(pl.col("seconds").is_not_null() | pl.col("peak_rss_mb").is_not_null())
        )

    def metric(self, metric: str) -> Metric | None:
        """Return the metric's scale, or None where the study has none by that id."""
        return next((m for m in self.metrics if m.id == metric), None)

    def scores(self, dataset: str, task: str, metric: str) -> pl.DataFrame:
        """Return the dataset-level summaries of one metric, best first, missing values last."""
        metric_card = self.metric(metric)
        lower_is_better = metric_card is not None and metric_card.direction == "lower"
        rows = self.analysis.intervals.filter(
            pl.col("dataset") == dataset,
            pl.col("task") == task,
            pl.col("metric") == metric,
            pl.col("unit") == "dataset",
        )
        return rows.sort("value", descending=not lower_is_better, nulls_last=True)
