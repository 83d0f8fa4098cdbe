"""What one process does: make a method's embedding of a dataset, and score it with every task."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from sclitmus.core import activity, memo
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator, CellEmbedder
from sclitmus.core.record import Absent
from sclitmus.core.rng import rng_for
from sclitmus.core.task import LabelTask
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.execution import scratch
from sclitmus.execution.answering import Given, Learner, ask
from sclitmus.execution.attempt import attempt, failure
from sclitmus.execution.identity import LABEL_ROLE, Fingerprint, digest, failure_key, seen_by
from sclitmus.execution.memory import peak_rss_mb
from sclitmus.execution.resolve import Chosen
from sclitmus.execution.scoring import Scored, score_embedding
from sclitmus.execution.stability import Effect, stability, to_json
from sclitmus.execution.store import Artifact, Missing, Store, npy, whole

Word = tuple[str, int, int]  # activity, done, total: see events.JobProgress


@dataclass(frozen=True)
class Job:
    """A method on a dataset with a seed.

    Attributes
    ----------
    key
        Of the embedding.
    tasks
        The tasks that apply, each with the keys of the splits that the plan drew.
    """

    store: Path
    dataset: Path
    dataset_id: str
    method: Chosen
    seed: int
    key: str
    tasks: tuple[tuple[Chosen, tuple[str, ...]], ...]


@dataclass(frozen=True)
class JobResult:
    """What came of a job: what the embedding cost, and each task's scores or why there are none.

    `remarks` are what the method said of these cells (how many of the genes it knows, say);
    `stability` is what its embedding depends on besides the cell, of foundation models.
    """

    seconds: float | None
    peak_rss_mb: float | None
    answers: Mapping[str, Scored]
    remarks: tuple[str, ...] = ()
    stability: tuple[Effect, ...] = ()


def do(job: Job, say: Callable[[Word], object]) -> JobResult:
    """Do a job, or find it done by another process.

    Raises
    ------
    StoreError
        If results cannot be written. Whatever a method or a task raises is in the result.
    """
    store = Store(job.store)
    with (
        store.lock(job.key, on_wait=lambda: say(("waiting", 0, 1))),
        activity.heard_by(lambda *word: say(word)),
        memo.kept_by(lambda key, make: _shared(store, key, make)),
    ):
        fingerprint = scratch.load(job.dataset)
        if isinstance(job.method.object, Annotator):
            return _learn(job, fingerprint, store, say)
        made: Artifact | Missing | Absent = store.find("embedding", job.key)
        if isinstance(made, Missing):
            say(("embedding", 0, 1))
            made = _embedding(job, fingerprint.dataset)
        if isinstance(made, Absent):
            remember(store, job.key, "", made)
            return JobResult(None, None, {c.object.card.id: made for c, _ in job.tasks})
        remember(store, job.key, "", None)
        given = _score(job, made, fingerprint, store, say)
        _remember_all(store, job.key, given)
    return of_embedding(made.meta, given)


def _shared(store: Store, key: str, make: memo.Make) -> np.ndarray:
    """Find what another process made, or make it while the others wait."""
    key = digest("shared", key)
    with store.lock(key):
        found = store.find("shared", key)
        if isinstance(found, Missing):
            found = store.put("shared", key, npy(make()))
    array: np.ndarray = np.load(found.path, allow_pickle=False)
    return array


def of_embedding(meta: Mapping[str, Any], given: Mapping[str, Given]) -> JobResult:
    """Put what is stored beside an embedding together with its scores."""
    return JobResult(
        meta.get("seconds"),
        meta.get("peak_rss_mb"),
        {task: one.scored for task, one in given.items()},
        (*meta.get("remarks", ()), *_said(given)),
        tuple(Effect(**effect) for effect in meta.get("stability", ())),
    )


def of_learning(given: Mapping[str, Given]) -> JobResult:
    """Put together what came of the tasks of a method that learns labels."""
    return JobResult(
        sum(one.seconds for one in given.values()) if given else None,
        max((one.peak_rss_mb for one in given.values()), default=None),
        {task: one.scored for task, one in given.items()},
        _said(given),
    )


def _said(given: Mapping[str, Given]) -> tuple[str, ...]:
    return tuple(f"{task}: {remark}" for task, one in given.items() for remark in one.remarks)


def _learn(
    job: Job, fingerprint: Fingerprint, store: Store, say: Callable[[Word], object]
) -> JobResult:
    card = job.method.object.card
    seed = 0 if card.deterministic else job.seed
    learner = Learner(job.method.object, job.key, seed)
    given = {
        chosen.object.card.id: ask(learner, fingerprint, chosen, planned, store, _progress(say))
        for chosen, planned in job.tasks
    }
    _remember_all(store, job.key, given)
    return of_learning(given)


def _score(
    job: Job,
    made: Artifact,
    fingerprint: Fingerprint,
    store: Store,
    say: Callable[[Word], object],
) -> dict[str, Given]:
    """Score an embedding: as it is, and by what a probe learns from it."""
    z = np.asarray(np.load(made.path, mmap_mode="c", allow_pickle=False))
    as_it_is = [pair for pair in job.tasks if not isinstance(pair[0].object, LabelTask)]
    told = _progress(say)
    scored = score_embedding(z, made.sha256, fingerprint, as_it_is, store, told)
    given = {task: Given(scores) for task, scores in scored.items()}
    for chosen, planned in job.tasks:
        if isinstance(chosen.object, LabelTask):
            learner = Learner(z, made.sha256, 0)
            id = chosen.object.card.id
            given[id] = ask(learner, fingerprint, chosen, planned, store, told)
    return given


def _progress(say: Callable[[Word], object]) -> Callable[[int, int], object]:
    return lambda done, total: say(("scoring", done, total))


def _remember_all(store: Store, key: str, given: Mapping[str, Given]) -> None:
    for task, one in given.items():
        remember(store, key, task, one.scored if isinstance(one.scored, Absent) else None)


def remember(store: Store, key: str, task: str, absent: Absent | None) -> None:
    """Note that a trial failed, for a run that is told not to try it again; or that it did not."""
    key = failure_key(key, task)
    if absent is not None and absent.status == "failed":
        store.put("failure", key, whole(b"{}"), {"note": absent.note})
    else:
        store.drop("failure", key)


def _embedding(job: Job, dataset: Dataset) -> Artifact | Absent:
    """Run the method and store what it gives, or say why it gives nothing."""
    method: CellEmbedder = job.method.object
    card = method.card
    cells = seen_by(card, dataset)
    # The stream's name leaves out the data, so that a further obs column changes no draw.
    rng = rng_for(0 if card.deterministic else job.seed, "embed", card.id)
    begin = time.perf_counter()

    def embed() -> tuple[CellEmbedder, Float32[np.ndarray, "n_cells d"]]:
        fitted = method.fit(cells, rng)
        return fitted, checked(fitted.embed(cells), cells.n_cells, card.id)

    made = attempt(embed)
    if isinstance(made, Absent):
        peeked = made.note == _refusal_of_labels(cells) and LABEL_ROLE in dataset.roles
        return failure(_peeked(card.id)) if peeked else made
    fitted, z = made
    meta = {
        "seconds": time.perf_counter() - begin,
        "peak_rss_mb": peak_rss_mb(),
        "method": card.fingerprint,
        "dataset": job.dataset_id,
        "seed": job.seed,
        "shape": list(z.shape),
        "remarks": _remarks(fitted, cells),
        "stability": _stability(fitted, cells),
    }
    return Store(job.store).put("embedding", job.key, npy(z), meta)


def _remarks(fitted: CellEmbedder, cells: Dataset) -> list[str]:
    remarks = getattr(fitted, "remarks", None)  # most methods have nothing to remark
    said = attempt(lambda: tuple(remarks(cells))) if callable(remarks) else ()
    return [] if isinstance(said, Absent) else list(said)


def _stability(fitted: CellEmbedder, cells: Dataset) -> list[dict[str, Any]]:
    """Measure what a foundation model's embedding depends on besides the cell."""
    if fitted.card.kind != "foundation":
        return []
    effects = attempt(lambda: stability(fitted, cells))
    return [] if isinstance(effects, Absent) else to_json(effects)


def checked(z: Any, n_cells: int, method: str) -> Float32[np.ndarray, "n_cells d"]:
    """Return an embedding as float32, or say how it breaks the contract.

    Raises
    ------
    MethodError
        If it is not a finite real matrix with one row per cell.
    """
    if hasattr(z, "detach"):  # a torch tensor, on whatever device
        z = z.detach().cpu()
    if hasattr(z, "toarray"):  # a scipy matrix
        z = z.toarray()
    z = np.asarray(z)
    remedy = "return one row of finite numbers per cell, in the cells' order, from embed()"
    if z.dtype.kind not in "fiub" or z.ndim != 2 or z.shape[0] != n_cells or z.shape[1] < 1:
        raise MethodError(
            f"{method} gave an array of shape {z.shape} and type {z.dtype}",
            f"a real matrix of shape ({n_cells}, d) with d of 1 or more",
            remedy,
        )
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        rows: np.ndarray = np.ascontiguousarray(z, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise MethodError(
            f"{method} gave NaN or infinite values in {len(bad)} of {n_cells} cells, "
            f"the first at row {bad[0]}",
            "finite values within the range of float32",
            remedy,
        )
    return rows


def _refusal_of_labels(cells: Dataset) -> str:
    try:
        cells.role(LABEL_ROLE)
    except NotApplicable as refusal:
        return refusal.reason
    return ""


def _peeked(method: str) -> MethodError:
    return MethodError(
        f"{method} asked for the labels that it is scored on",
        "an embedding made without them",
        "use no labels; only a control may, whose card says sees_labels=True",
    )
