"""Several runs as one, where they scored the same cells, so that their methods can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import polars as pl

from sclitmus.errors import StudyError
from sclitmus.execution.plan import Plan
from sclitmus.execution.result import RunResult


def merge(runs: Mapping[str, RunResult]) -> RunResult:
    """Put runs together; what two runs share is taken from the first.

    Parameters
    ----------
    runs
        Folder -> what was read from it, in the order in which they were named.

    Raises
    ------
    StudyError
        If there are fewer than two, or two scored a task of one dataset on different cells: a
        difference between their methods would not be paired.
    """
    if len(runs) < 2:
        raise StudyError(
            f"{len(runs)} run given: {', '.join(runs) or 'none'}",
            "two runs or more",
            "name their --out folders: sclitmus compare FOLDER FOLDER",
        )
    _refuse_other_cells(runs)
    results = list(runs.values())
    first = results[0]
    return replace(
        first,
        study=" + ".join(dict.fromkeys(run.study for run in results)),
        records=_without_repeats(
            (run.records for run in results), ["dataset", "task", "method", "seed"]
        ),
        splits=_unique((run.splits for run in results), ["dataset", "task", "split"]),
        replicates=_unique((run.replicates for run in results), ["dataset", "task", "split"]),
        projections=_without_repeats((run.projections for run in results), ["dataset", "method"]),
        cells=_unique((run.cells for run in results), ["dataset", "row"]),
        stability=_without_repeats(
            (run.stability for run in results), ["dataset", "method", "seed"]
        ),
        published=pl.concat(run.published for run in results).unique(maintain_order=True),
        notes=tuple(note for run in results for note in run.notes),
        methods=_by_id(run.methods for run in results),
        tasks=_by_id(run.tasks for run in results),
        metrics=_by_id(run.metrics for run in results),
        datasets=_by_id(run.datasets for run in results),
        plan=Plan(
            tuple(trial for run in results for trial in run.plan.trials),
            tuple(dict.fromkeys(split for run in results for split in run.plan.splits)),
            tuple(dict.fromkeys(one for run in results for one in run.plan.replicates)),
        ),
        environment=dict(first.environment) | {"merged from": list(runs)},
        exit_status=max(run.exit_status for run in results),
    )


def _refuse_other_cells(runs: Mapping[str, RunResult]) -> None:
    seen: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for folder, run in runs.items():
        for (dataset, task), keys in _splits_by_question(run).items():
            there, expected = seen.setdefault((dataset, task), (folder, keys))
            if keys != expected:
                raise StudyError(
                    f"{there} and {folder} scored {task} on different cells of {dataset!r}",
                    "the same data, labels and splits in every run that is compared",
                    "run both with one file and the same --label, --batch and --donor",
                )


def _splits_by_question(run: RunResult) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for split in run.plan.splits:
        found.setdefault((split.dataset, split.task), []).append(split.key)
    return found


def _without_repeats(frames: Iterable[pl.DataFrame], key: list[str]) -> pl.DataFrame:
    """Stack frames, leaving out of each the trials that an earlier one has."""
    stacked: pl.DataFrame | None = None
    for frame in frames:
        fresh = frame if stacked is None else frame.join(stacked, on=key, how="anti")
        stacked = fresh if stacked is None else pl.concat([stacked, fresh])
    assert stacked is not None
    return stacked


def _unique(frames: Iterable[pl.DataFrame], key: list[str]) -> pl.DataFrame:
    return pl.concat(frames, how="diagonal").unique(key, keep="first", maintain_order=True)


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Thing = TypeVar("Thing", bound=_Named)


def _by_id(groups: Iterable[Sequence[Thing]]) -> tuple[Thing, ...]:
    found: dict[str, Thing] = {}
    for group in groups:
        for thing in group:
            found.setdefault(thing.id, thing)
    return tuple(found.values())
