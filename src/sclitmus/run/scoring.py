"""An embedding and the tasks' questions in, rows of scores out."""

import io
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Score, Status
from sclitmus.core.rng import rng_for
from sclitmus.core.split import Split
from sclitmus.core.task import Task
from sclitmus.errors import NotApplicable, StoreError, TaskError
from sclitmus.run.identity import Fingerprint, scores_key
from sclitmus.run.plan import splits_of
from sclitmus.run.processes import summary
from sclitmus.run.resolve import Chosen
from sclitmus.run.store import Artifact, Store


@dataclass(frozen=True)
class ScoreRow:
    """A score with the name of its split."""

    split: str
    score: Score


@dataclass(frozen=True)
class Absent:
    """Why there are no scores at all."""

    status: Status
    note: str


Answer = tuple[ScoreRow, ...] | Absent


def score_embedding(
    z: Float32[np.ndarray, "n_cells d"],
    embedding_sha256: str,
    fingerprint: Fingerprint,
    tasks: Sequence[tuple[Chosen, tuple[str, ...]]],
    store: Store,
    say: Callable[[int, int], object],
) -> dict[str, Answer]:
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
    answers: dict[str, Answer] = {}
    keys: dict[str, str] = {}
    rows: dict[str, list[ScoreRow]] = {}
    asked: dict[str, tuple[Split, list[Task]]] = {}
    for chosen, planned in tasks:
        task: Task = chosen.object
        id = task.card.id
        key = scores_key(embedding_sha256, fingerprint, task, chosen.code, planned)
        found = store.find("scores", key)
        if isinstance(found, Artifact):
            answers[id] = read_scores(found)
            continue
        try:
            splits = splits_of(task, fingerprint)
            _must_be(planned, splits, id)
        except Exception as error:
            answers[id] = _failure(error)
            continue
        keys[id], rows[id] = key, []
        for split in splits:
            asked.setdefault(split.key, (split, []))[1].append(task)
    for i, (split, askers) in enumerate(asked.values()):
        say(i, len(asked))
        for task in askers:
            id = task.card.id
            if id not in answers:  # else it failed on an earlier split
                try:
                    rows[id] += _score(task, fingerprint.dataset, split, z)
                except Exception as error:
                    answers[id] = _failure(error)
    for id, scored in rows.items():
        if id not in answers:
            answers[id] = tuple(scored)
            if all(row.score.status != "failed" for row in scored):
                store.put("scores", keys[id], lambda sink, s=scored: sink.write(_parquet(s)))
    return answers


def rows_without_scores(task: Task, absent: Absent) -> tuple[ScoreRow, ...]:
    """Say of each metric of a task why it has no value."""
    return tuple(
        ScoreRow("all", Score(m.id, m.version, None, "dataset", absent.status, absent.note))
        for m in task.metrics.values()
    )


def read_scores(artifact: Artifact) -> tuple[ScoreRow, ...]:
    """Read stored scores back, as they were."""
    import polars as pl

    frame = pl.read_parquet(io.BytesIO(artifact.path.read_bytes()))
    return tuple(ScoreRow(row.pop("split"), Score(**row)) for row in frame.to_dicts())


def _parquet(rows: Sequence[ScoreRow]) -> bytes:
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
    frame = pl.DataFrame([{"split": r.split, **asdict(r.score)} for r in rows], schema=schema)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _score(
    task: Task, dataset: Dataset, split: Split, z: Float32[np.ndarray, "n_cells d"]
) -> tuple[ScoreRow, ...]:
    try:
        rng = rng_for(0, "run", task.card.id, split.key)  # the same for every method and seed
        scores = task.score(task.run(z, dataset, split, rng))
    except NotApplicable as refusal:
        absent = rows_without_scores(task, Absent("not_applicable", refusal.reason))
        return tuple(replace(row, split=split.name) for row in absent)
    unanswered = task.metrics.keys() - {score.metric for score in scores}
    if unanswered:
        raise TaskError(
            f"{task.card.id} gave no score for {', '.join(sorted(unanswered))}",
            "a score, or a reason why not, for each of its metrics",
            "return a Score with status not_applicable and a note from score()",
        )
    return tuple(ScoreRow(split.name, _finite(score)) for score in scores)


def _finite(score: Score) -> Score:
    if score.status != "ok" or (score.value is not None and math.isfinite(score.value)):
        return score
    return replace(score, value=None, status="failed", note=f"the metric gave {score.value}")


def _must_be(planned: Sequence[str], drawn: Sequence[Split], task: str) -> None:
    if tuple(split.key for split in drawn) != tuple(planned):
        raise TaskError(
            f"{task} drew other splits than a moment ago from the same random stream",
            "splits that depend on the dataset and the stream alone",
            "draw all randomness in splits() from its rng",
        )


def _failure(error: Exception) -> Absent:
    if isinstance(error, StoreError):
        raise error
    if isinstance(error, NotApplicable):
        return Absent("not_applicable", error.reason)
    traceback.print_exc()
    return Absent("failed", summary(error))
