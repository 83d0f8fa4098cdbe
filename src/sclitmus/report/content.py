"""What a report is made of: frames, cards and projections. Nothing here computes a score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float32

from sclitmus.core.dataset import Categories
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.core.task import TaskCard
from sclitmus.execution.result import PUBLISHED_SCHEMA, STABILITY_SCHEMA, DatasetInfo
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
        What the run wrote: columns `core.record.RECORD_COLUMNS`; dataset, task, split, n_train,
        n_test.
    analysis
        The statistics of these records.
    methods, tasks, metrics, datasets
        Cards, in the order in which the page shows them.
    projections
        Dataset -> its pictures.
    published
        dataset, task, metric, method, value, spread, source, note: figures of others.
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
    published: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PUBLISHED_SCHEMA))
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

    @cached_property
    def under_test(self) -> tuple[str, ...]:
        """Methods that are judged, without the untrained twins that stand beside them."""
        twins = {self.cards[method].twin for method in self.contenders}
        return tuple(method for method in self.contenders if method not in twins)

    @cached_property
    def label_tasks(self) -> tuple[str, ...]:
        """Tasks in which labels are learned and predicted."""
        return tuple(task.id for task in self.tasks if task.protocol == "Annotator")

    def role_of(self, method: str) -> Literal["contender", "bar", "control"]:
        """Return what a method looks like on the page: floor, ceiling and canary are controls."""
        part = self.cards[method].part
        return part if part in ("contender", "bar") else "control"

    def headline(self, task: str) -> str:
        """Return the metric that a task is judged by."""
        return next((card.headline for card in self.tasks if card.id == task), "")

    def title(self, metric: str) -> str:
        """Return the name of a metric with its direction, where lower is better."""
        card = self.metric(metric)
        if card is None:
            return metric
        return card.title if card.direction == "higher" else f"{card.title} (lower is better)"

    def metric(self, metric: str) -> Metric | None:
        """Return the metric's scale, or None where the study has none by that id."""
        return next((m for m in self.metrics if m.id == metric), None)

    def lower_is_better(self, metric: str) -> bool:
        """Say which way a metric runs."""
        card = self.metric(metric)
        return card is not None and card.direction == "lower"

    def scores(self, dataset: str, task: str, metric: str) -> pl.DataFrame:
        """Return the dataset-level summaries of one metric, best first, missing values last."""
        rows = self._intervals.get((dataset, task, metric, "dataset"))
        rows = self.analysis.intervals.clear() if rows is None else rows
        return rows.sort("value", descending=not self.lower_is_better(metric), nulls_last=True)

    def units(self, dataset: str, task: str, metric: str, kind: str) -> pl.DataFrame:
        """Return the values of one metric for units of one kind, with the unit's own name.

        Columns of the intervals, and name: for ``type:B cell`` of kind ``type`` it is ``B cell``.
        """
        rows = self._intervals.get((dataset, task, metric, kind))
        rows = self.analysis.intervals.clear() if rows is None else rows
        return rows.with_columns(name=pl.col("unit").str.strip_prefix(f"{kind}:")).drop_nulls(
            "value"
        )

    def scored(self, dataset: str, task: str, kind: str = "dataset") -> list[str]:
        """Return the metrics that have a value for units of one kind."""
        return [
            metric
            for (d, t, metric, k), rows in self._intervals.items()
            if (d, t, k) == (dataset, task, kind) and rows["value"].is_not_null().any()
        ]

    def leaders(self, dataset: str, task: str, part: str) -> list[str]:
        """Return the methods of one part that have a headline score, best first."""
        ranked = self.scores(dataset, task, self.headline(task)).drop_nulls("value")["method"]
        return [method for method in ranked if self.cards[method].part == part]

    @cached_property
    def _intervals(self) -> Mapping[tuple[str, str, str, str], pl.DataFrame]:
        """Intervals by dataset, task, metric and kind of unit: looked up for every table cell."""
        kinds = self.analysis.intervals.with_columns(
            kind=pl.col("unit").str.splitn(":", 2).struct.field("field_0")
        )
        keys = ["dataset", "task", "metric", "kind"]
        parts = kinds.partition_by(keys, as_dict=True, include_key=True, maintain_order=True)
        return {
            (str(d), str(t), str(m), str(k)): rows.drop("kind")
            for (d, t, m, k), rows in parts.items()
        }
