"""A method that learns labels, asked on every split of a task; its answers kept, then scored."""

import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.record import Absent
from sclitmus.core.rng import rng_for
from sclitmus.core.split import Split
from sclitmus.core.task import Answer, LabelTask
from sclitmus.execution.attempt import attempt
from sclitmus.execution.identity import Fingerprint, answer_key, scores_key
from sclitmus.execution.memory import peak_rss_mb
from sclitmus.execution.plan import replicate_stream
from sclitmus.execution.resolve import Chosen
from sclitmus.execution.scoring import Scored, complete, keep_scores, read_scores, splits_as_planned
from sclitmus.execution.store import Artifact, Store, whole


@dataclass(frozen=True)
class Learner:
    """What learns labels: an annotator, or an embedding of all cells that a probe will read.

    Attributes
    ----------
    mark
        What its answers depend on: the key of the annotator, the checksum of the embedding.
    seed
        Of this repetition; 0 for what is deterministic.
    """

    method: Float32[np.ndarray, "n_cells d"] | Annotator
    mark: str
    seed: int


@dataclass(frozen=True)
class Given:
    """What came of one task: its scores or why there are none, the time it took, the remarks."""

    scored: Scored
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    peak_rss_mb: float = 0.0


def ask(
    learner: Learner,
    fingerprint: Fingerprint,
    chosen: Chosen,
    planned: Sequence[str],
    store: Store,
    say: Callable[[int, int], object],
) -> Given:
    """Ask one task's question on all of its splits and score the answers.

    Each answer is stored when it is there, so that a run that was stopped goes on behind the last,
    and a change of the scoring trains nothing again.

    Parameters
    ----------
    planned
        Keys of the splits that were planned.
    say
        Called with how many splits are done, of how many.
    """
    task: LabelTask = chosen.object
    key = scores_key(learner.mark, fingerprint, task, chosen.code, planned)
    found = store.find("scores", key)
    if isinstance(found, Artifact):
        return given_before(found)
    splits = attempt(partial(splits_as_planned, task, fingerprint, planned))
    if isinstance(splits, Absent):
        return Given(splits)
    cells = replace(fingerprint.dataset, embeddings={})
    answers: list[Answer | Absent] = []
    seconds, remarks = 0.0, Counter[str]()
    for i, split in enumerate(splits):
        say(i, len(splits))
        at = answer_key(learner.mark, fingerprint, task, chosen.code, split)
        answer, meta = _answer(learner, task, cells, split, at, store)
        answers.append(answer)
        seconds += float(meta.get("seconds", 0.0))
        remarks.update(meta.get("remarks", ()))
    absent = [answer for answer in answers if isinstance(answer, Absent)]
    if len(absent) == len(answers):
        failed = [answer for answer in absent if answer.status == "failed"]
        return Given((failed or absent)[0], seconds)
    rng = replicate_stream(fingerprint)
    scored = attempt(lambda: complete(task, task.score(cells, splits, answers, rng)))
    given = Given(scored, seconds, _counted(remarks, len(splits)), peak_rss_mb())
    if not isinstance(scored, Absent):
        meta = {name: getattr(given, name) for name in ("seconds", "remarks", "peak_rss_mb")}
        keep_scores(store, key, scored, meta)
    return given


def given_before(scores: Artifact) -> Given:
    """Read back what came of a task that was asked earlier."""
    meta = scores.meta
    remarks = tuple(meta.get("remarks", ()))
    seconds, peak = (float(meta.get(name, 0.0)) for name in ("seconds", "peak_rss_mb"))
    return Given(read_scores(scores), seconds, remarks, peak)


def _answer(
    learner: Learner, task: LabelTask, cells: Dataset, split: Split, key: str, store: Store
) -> tuple[Answer | Absent, Mapping[str, Any]]:
    found = store.find("answer", key)
    if isinstance(found, Artifact):
        with np.load(io.BytesIO(found.path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays), found.meta
    begin = time.perf_counter()
    # The same stream for every method, so that two arms of an ablation start alike.
    rng = rng_for(learner.seed, "answer", task.card.id, split.key)
    made = attempt(partial(task.answer, learner.method, cells, split, rng))
    if isinstance(made, Absent):
        return made, {}
    answer, remarks = made
    meta = {"seconds": time.perf_counter() - begin, "remarks": list(remarks), "split": split.name}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **answer)
    store.put("answer", key, whole(buffer.getvalue()), meta)
    return answer, meta


def _counted(remarks: Counter[str], n_splits: int) -> tuple[str, ...]:
    return tuple(
        remark if n_splits == 1 else f"{remark} (on {n} of {n_splits} splits)"
        for remark, n in remarks.most_common()
    )
