"""Run a study: plan it, do what is not done, and put the records together in the plan's order.

Every method runs in a process of its own, so none stops another; a killed run loses at most the
trials in flight, and the next one goes on from the store.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclitmus.core.record import Absent
from sclitmus.execution import projection, worker
from sclitmus.execution.assemble import assemble
from sclitmus.execution.clock import Clock
from sclitmus.execution.events import (
    DamageFound,
    Event,
    JobFinished,
    JobProgress,
    JobStarted,
    Planned,
    Worst,
    ignore,
)
from sclitmus.execution.plan import Plan, Trial, plan
from sclitmus.execution.processes import (
    Broke,
    Call,
    Returned,
    Said,
    Started,
    each_in_its_own_process,
)
from sclitmus.execution.projection import Drawing
from sclitmus.execution.provenance import environment
from sclitmus.execution.resolve import Resolved, resolve
from sclitmus.execution.result import RunResult
from sclitmus.execution.scratch import Shelf
from sclitmus.execution.store import Artifact, Store, explain
from sclitmus.execution.study import Study
from sclitmus.execution.worker import Job, JobResult

# Imported once, in the fork server: what every worker needs …
PRELOAD_LIGHT = ("sclitmus.execution.worker", "cloudpickle", "filelock", "psutil", "threadpoolctl")
# … and what scoring needs, and most baselines. Not polars: it starts threads when imported, and
# a process must not be forked from one that has any.
PRELOAD = (
    *PRELOAD_LIGHT,
    "sclitmus.metrics.suite",
    "igraph",
    "numba",
    "scipy.sparse.linalg",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.decomposition",
)
Jobs = list[tuple[Trial, tuple[Trial, ...]]]  # an embedding, and what scores it
Tag = tuple[Trial, ...]  # the trials that a call takes care of


def execute(
    study: Study | Resolved,
    out: Path | str,
    *,
    jobs: int = 1,
    on_event: Callable[[Event], object] = ignore,
    retry_failed: bool = True,
    preload: tuple[str, ...] = PRELOAD,
) -> RunResult:
    """Run a study and write its records to `out`.

    Parameters
    ----------
    out
        Folder of the results and of the store; what is in the store already is not run again.
    jobs
        Number of processes at work at once; the cores are shared among them.
    on_event
        Told what happens, from the calling thread.
    retry_failed
        Whether trials that failed in an earlier run are tried again.
    preload
        Modules that most trials import; see `processes.each_in_its_own_process`.

    Raises
    ------
    StudyError, DataError, MethodError, TaskError
        If the study cannot be resolved; nothing has run then.
    StoreError
        If results cannot be written; what is finished stays, and the same call goes on from it.
    """
    out = Path(out).absolute()
    begin = time.monotonic()
    resolved = resolve(study) if isinstance(study, Study) else study
    about = environment(resolved.study.seeds, jobs)
    store = Store.open(out / "store")
    todo = plan(resolved, store, retry_failed=retry_failed)
    on_event(Planned(todo, jobs))
    for trial in todo.trials:
        if trial.status == "run" and trial.reason:
            on_event(DamageFound(trial.dataset, trial.method, trial.stage, trial.reason))
    run = _Run(resolved, store, out / "logs", jobs, preload, on_event, Clock(todo, jobs))
    run.make_log_folder()
    results = run.embed_and_score(todo)
    notes = run.draw(todo)
    about["seconds"] = round(time.monotonic() - begin, 1)
    result = assemble(resolved, todo, results, notes, store, about)
    result.save(out)
    return result


@dataclass(frozen=True)
class _Run:
    """A run under way: what it works on, where, and whom it tells."""

    resolved: Resolved
    store: Store
    logs: Path
    jobs: int
    preload: tuple[str, ...]
    on_event: Callable[[Event], object]
    clock: Clock

    def make_log_folder(self) -> None:
        try:
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            explain(error, self.logs)

    def embed_and_score(self, todo: Plan) -> dict[Trial, JobResult]:
        """Do the jobs that have anything left to do; return what came of each."""
        due = [(e, s) for e, s in todo.jobs() if any(t.status == "run" for t in (e, *s))]
        results = {}
        with self.store.scratch() as folder:
            shelf = Shelf.of(folder, self.resolved.datasets, [e.dataset for e, _ in due])
            for call, result, seconds in self._outcomes(self._calls(due, todo, shelf)):
                embed, *scores = call.tag
                if isinstance(result, str):  # the process broke
                    absent = Absent("failed", result)
                    result = JobResult(None, None, {t.task: absent for t in scores})
                    for task in ("", *(t.task for t in scores)):
                        worker.remember(self.store, embed.key, task, absent)
                results[embed] = result
                shelf.release(embed.dataset)
                self._finished(call, _worst(result), seconds)
        return results

    def draw(self, todo: Plan) -> list[dict[str, str]]:
        """Draw the maps that are due; return notes on those that could not be."""
        notes = []
        for call, result, seconds in self._outcomes(self._drawings(todo)):
            drawing: Drawing = call.arguments[0]
            said = [result] * len(drawing.methods) if isinstance(result, str) else result
            for method, note in zip(drawing.methods, said, strict=True):
                if note:
                    notes.append({"dataset": drawing.dataset, "method": method, "note": note})
            worst = Absent("failed", " / ".join(filter(None, said))) if any(said) else None
            self._finished(call, worst, seconds)
        return notes

    def _calls(self, due: Jobs, todo: Plan, shelf: Shelf) -> Iterator[Call]:
        order = {f.dataset.id: i for i, f in enumerate(self.resolved.datasets)}
        methods = {chosen.object.card.id: chosen for chosen in self.resolved.methods}
        tasks = {chosen.object.card.id: chosen for chosen in self.resolved.tasks}
        keys: dict[tuple[str, str], tuple[str, ...]] = {}
        for split in todo.splits:
            place = (split.dataset, split.task)
            keys[place] = (*keys.get(place, ()), split.key)

        def precedence(job: tuple[Trial, tuple[Trial, ...]]) -> tuple[int, float]:
            # One dataset after the other, so that few are on the shelf at once; in each the
            # longest job first, so that the last to end is a short one.
            return order[job[0].dataset], -sum(t.est_seconds for t in (job[0], *job[1]))

        for embed, scores in sorted(due, key=precedence):
            asked = tuple(t for t in scores if t.status in ("run", "cached"))
            job = Job(
                store=self.store.root,
                dataset=shelf.take(embed.dataset),
                dataset_id=embed.dataset,
                method=methods[embed.method],
                seed=embed.seed,
                key=embed.key,
                tasks=tuple((tasks[t.task], keys[t.dataset, t.task]) for t in asked),
            )
            log = f"{embed.dataset}-{embed.method}-{embed.seed}-{embed.key[:6]}"
            yield self._call(worker.do, job, log, (embed, *asked))

    def _drawings(self, todo: Plan) -> Iterator[Call]:
        made = {(t.dataset, t.method, t.seed): t.key for t in todo.trials if t.stage == "embed"}
        due = [t for t in todo.trials if t.stage == "project" and t.status == "run"]
        due = [
            t
            for t in due
            if isinstance(self.store.find("embedding", made[t.dataset, t.method, t.seed]), Artifact)
        ]
        for dataset in dict.fromkeys(t.dataset for t in due):
            trials = [t for t in due if t.dataset == dataset]
            for part in range(min(self.jobs, len(trials))):
                mine = trials[part :: self.jobs]
                keys = tuple(made[t.dataset, t.method, t.seed] for t in mine)
                names = tuple(t.method for t in mine)
                drawing = Drawing(self.store.root, dataset, names, keys)
                yield self._call(projection.draw, drawing, f"{dataset}-maps-{part}", tuple(mine))

    def _call(self, function: Callable[..., Any], argument: object, log: str, tag: Tag) -> Call:
        name = re.sub(r"[^\w.-]+", "_", log)[:150]
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        return Call(function, (argument,), self.logs / f"{name}.log", threads, tag)

    def _outcomes(self, calls: Iterable[Call]) -> Iterator[tuple[Call, Any, float]]:
        """Yield each call with its value, or with a text saying how its process broke."""
        for happening in each_in_its_own_process(calls, self.jobs, self.preload):
            call, trials = happening.call, happening.call.tag
            name = _name(trials)
            match happening:
                case Started():
                    self.on_event(JobStarted(*name))
                    self.on_event(self.clock.start())
                case Said(_, (activity, done, total)):
                    self.on_event(JobProgress(*name, activity, done, total))
                case Returned(_, value, seconds):
                    yield call, value, seconds
                case Broke(_, note, seconds):
                    yield call, note, seconds

    def _finished(self, call: Call, absent: Absent | None, seconds: float) -> None:
        status: Worst = "ok" if absent is None else absent.status
        note = "" if absent is None else absent.note
        with suppress(OSError):
            if call.log.stat().st_size == 0:
                call.log.unlink()
        self.on_event(JobFinished(*_name(call.tag), status, note, call.log, seconds))
        self.on_event(self.clock.finish(call.tag, seconds))


def _name(trials: Tag) -> tuple[str, str, int]:
    first = trials[0]
    return first.dataset, "maps" if first.stage == "project" else first.method, first.seed


def _worst(result: JobResult) -> Absent | None:
    absent = [a for a in result.answers.values() if isinstance(a, Absent)]
    for rows in result.answers.values():
        if not isinstance(rows, Absent):
            failed = [score for score in rows if score.status == "failed"]
            absent += [Absent("failed", f"{s.metric}: {s.note}") for s in failed[:1]]
    failures = [a for a in absent if a.status == "failed"]
    return next(iter(failures or absent), None)
