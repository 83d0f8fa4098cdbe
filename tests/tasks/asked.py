"""A method put through a task without the machinery of runs, and its scores by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Split
from sclitmus.core.task import Answer, LabelTask
from sclitmus.execution.attempt import attempt


def stream() -> np.random.Generator:
    return np.random.default_rng(5)


def answers_of(
    task: LabelTask, method: Any, data: Dataset, splits: Sequence[Split]
) -> list[Answer | Absent]:
    found: list[Answer | Absent] = []
    for split in splits:
        made = attempt(lambda split=split: task.answer(method, data, split, stream()))
        found.append(made if isinstance(made, Absent) else made[0])
    return found


def asked(task: LabelTask, method: Any, data: Dataset) -> list[Score]:
    splits = task.splits(data, np.random.default_rng(0))
    return task.score(data, splits, answers_of(task, method, data, splits), stream())


def values(rows: Sequence[Score], split: str = "all") -> dict[tuple[str, str], float | None]:
    """(metric, unit) -> value."""
    found = {(row.metric, row.unit): row.value for row in rows if row.split == split}
    assert len(found) == sum(row.split == split for row in rows), "a number was scored twice"
    return found


def row_of(rows: Sequence[Score], metric: str, unit: str = "dataset", split: str = "all") -> Score:
    found = [r for r in rows if (r.metric, r.unit, r.split) == (metric, unit, split)]
    assert len(found) == 1, (metric, unit, split, len(found))
    return found[0]


def said(classes: Sequence[int], calls: Sequence[int]) -> Answer:
    """Return the answer of a method that calls the test cells these codes."""
    place = {code: i for i, code in enumerate(classes)}
    logits = np.zeros((len(calls), len(classes)), dtype=np.float32)
    logits[np.arange(len(calls)), [place[code] for code in calls]] = 1
    return {"classes": np.array(classes, dtype=np.int64), "test": logits}
