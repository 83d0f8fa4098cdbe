"""An embedding and the tasks' questions in, rows of scores out."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Absent, Score
from sclitmus.core.rng import rng_for
from sclitmus.core.split import Split
from sclitmus.core.task import Task, ZeroShotTask
from sclitmus.errors import TaskError
from sclitmus.execution.attempt import attempt
from sclitmus.execution.identity import Fingerprint, scores_key
from sclitmus.execution.plan import splits_of
from sclitmus.execution.resolve import Chosen
from sclitmus.execution.store import Artifact, Store, whole

Scored = tuple[Score, ...] | Absent


def score_embedding(
    z: Float32[np.ndarray, "n_cells d"],
    embedding_sha256: str,
    fingerprint: Fingerprint,
    tasks: Sequence[tuple[Chosen, tuple[str, ...]]],
    store: Store,
    say: Callable[[int, int], object],
) -> dict[str, Scored]:
    """Score an embedding with each task, or read its scores where the store has them.

    Goes split by split, and through the tasks within a split, so that tasks which score the
    same cells can share a neighbour graph. What went well throughout is stored.

    Parameters
    ----------
    tasks
        Each with the keys of the splits that were planned.
    say
        Called with how many splits are done, of how many.
    """
    answers: dict[str, Scored] = {}
    keys: dict[str, str] = {}
    rows: dict[str, list[Score]] = {}
    asked: dict[str, tuple[Split, list[ZeroShotTask]]] = {}
    for chosen, planned in tasks:
        task: ZeroShotTask = chosen.object
        id = task.card.id
        key = scores_key(embedding_sha256, fingerprint, task, chosen.code, planned)
        found = store.find("scores", key)
        if isinstance(found, Artifact):
            answers[id] = read_scores(found)
            continue
        splits = attempt(partial(splits_as_planned, task, fingerprint, planned))
        if isinstance(splits, Absent):
            answers[id] = splits
            continue
        keys[id], rows[id] = key, []
        for split in splits:
            asked.setdefault(split.key, (split, []))[1].append(task)
    for i, (split, askers) in enumerate(asked.values()):
        say(i, len(asked))
        for task in askers:
            id = task.card.id
            if id in answers:  # it failed on an earlier split
                continue
            scored = attempt(partial(_score, task, fingerprint.dataset, split, z))
            if not isinstance(scored, Absent):
                rows[id] += scored
            elif scored.status == "failed":
                answers[id] = scored
            else:
                absent = without_scores(task, scored)
                rows[id] += [replace(row, split=split.name) for row in absent]
    for id in rows.keys() - answers.keys():
        answers[id] = tuple(rows[id])
        keep_scores(store, keys[id], rows[id], {})
    return answers


def without_scores(task: Task, absent: Absent) -> tuple[Score, ...]:
    """Say of each metric of a task why it has no value."""
    return tuple(
        Score(m.id, m.version, None, "dataset", absent.status, absent.note)
        for m in task.metrics.values()
    )


def keep_scores(store: Store, key: str, scores: Sequence[Score], meta: Mapping[str, Any]) -> None:
    """Store scores among which none failed: what failed is tried again."""
    if all(score.status != "failed" for score in scores):
        store.put("scores", key, whole(_parquet(scores)), meta)


def read_scores(artifact: Artifact) -> tuple[Score, ...]:
    """Read stored scores back, as they were."""
    import polars as pl

    frame = pl.read_parquet(io.BytesIO(artifact.path.read_bytes()))
    return tuple(Score(**row) for row in frame.to_dicts())


def _parquet(scores: Sequence[Score]) -> bytes:
    import polars as pl

    schema = {
        "split": pl.String,
        "metric": pl.String,
        "metric_version": pl.String,
        "value": pl.Float64,
        "unit": pl.String,
        "status": pl.String,
        "note": pl.String,
    }
    frame = pl.DataFrame([asdict(score) for score in scores], schema=schema)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _score(
    task: ZeroShotTask, dataset: Dataset, split: Split, z: Float32[np.ndarray, "n_cells d"]
) -> tuple[Score, ...]:
    rng = rng_for(0, "run", task.card.id, split.key)  # the same for every method and seed
    scores = task.score(task.run(z, dataset, split, rng))
    return tuple(replace(score, split=split.name) for score in complete(task, scores))


def complete(task: Task, scores: Sequence[Score]) -> tuple[Score, ...]:
    """Return scores among which no NaN calls itself a value.

    Raises
    ------
    TaskError
        If a metric of the task has neither a score nor a reason why not.
    """
    unanswered = task.metrics.keys() - {score.metric for score in scores}
    if unanswered:
        raise TaskError(
            f"{task.card.id} gave no score for {', '.join(sorted(unanswered))}",
            "a score, or a reason why not, for each of its metrics",
            "return a Score with status not_applicable and a note from score()",
        )
    return tuple(_finite(score) for score in scores)


def _finite(score: Score) -> Score:
    if score.status != "ok" or (score.value is not None and math.isfinite(score.value)):
        return score
    return replace(score, value=None, status="failed", note=f"the metric gave {score.value}")


def splits_as_planned(
    task: Task, fingerprint: Fingerprint, planned: Sequence[str]
) -> tuple[Split, ...]:
    """Draw a task's splits again, and make sure that they are those of the plan."""
    drawn = splits_of(task, fingerprint)
    if tuple(split.key for split in drawn) != tuple(planned):
        raise TaskError(
            f"{task.card.id} drew other splits than a moment ago from the same random stream",
            "splits that depend on the dataset and the stream alone",
            "draw all randomness in splits() from its rng",
        )
    return drawn
