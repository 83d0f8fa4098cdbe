"""The records of a run, in the plan's order, from what the processes said and what is stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from sclitmus.core.record import Absent, Record
from sclitmus.execution.answering import Given, given_before
from sclitmus.execution.plan import Plan, Trial
from sclitmus.execution.projection import projected_rows, read_projections
from sclitmus.execution.resolve import Resolved
from sclitmus.execution.result import (
    PROJECTION_SCHEMA,
    STABILITY_SCHEMA,
    RunResult,
    cells_frame,
    dataset_infos,
    published_frame,
    records_frame,
    replicates_frame,
    splits_frame,
)
from sclitmus.execution.scoring import without_scores
from sclitmus.execution.store import Artifact, Missing, Store
from sclitmus.execution.worker import JobResult, of_embedding, of_learning

Answered = tuple[Trial, tuple[Trial, ...], JobResult]  # embedding, its scores, what came of them


def assemble(
    resolved: Resolved,
    plan: Plan,
    results: Mapping[Trial, JobResult],
    notes: Sequence[Mapping[str, str]],
    store: Store,
    environment: Mapping[str, Any],
) -> RunResult:
    """Put together what a run has found out.

    Parameters
    ----------
    results
        By embedding trial, of the jobs that ran just now; the others are in the store.
    notes
        Why maps could not be drawn.
    """
    answers = [
        (embed, scores, results.get(embed) or _from_store(embed, scores, store))
        for embed, scores in plan.jobs()
    ]
    records = list(_records(resolved, answers))
    maps, cells, map_notes = _maps(resolved, plan, store)
    return RunResult(
        study=resolved.study.name,
        records=records_frame(records),
        splits=splits_frame(plan),
        replicates=replicates_frame(plan),
        projections=maps,
        cells=cells,
        notes=(*_remarks(answers), *map_notes, *notes),
        stability=_stability(answers),
        published=published_frame(resolved.study),
        methods=tuple(chosen.object.card for chosen in resolved.methods),
        tasks=tuple(chosen.object.card for chosen in resolved.tasks),
        metrics=tuple(
            {m.id: m for c in resolved.tasks for m in c.object.metrics.values()}.values()
        ),
        datasets=dataset_infos(resolved),
        plan=plan,
        environment=environment,
        exit_status=1 if any(record.status == "failed" for record in records) else 0,
    )


def _records(resolved: Resolved, answers: Sequence[Answered]) -> Iterator[Record]:
    tasks = {chosen.object.card.id: chosen.object for chosen in resolved.tasks}
    cards = {c.id: c for c in (chosen.object.card for chosen in resolved.methods)}
    for embed, scores, result in answers:
        for trial in scores:
            answer = result.answers.get(trial.task) or _unasked(trial)
            if isinstance(answer, Absent):
                answer = without_scores(tasks[trial.task], answer)
            for score in answer:
                yield Record(
                    study=resolved.study.name,
                    dataset=trial.dataset,
                    task=trial.task,
                    method=trial.method,
                    behaviour=cards[trial.method].behaviour,
                    metric=score.metric,
                    metric_version=score.metric_version,
                    seed=trial.seed,
                    split=score.split,
                    unit=score.unit,
                    value=score.value,
                    status=score.status,
                    note=score.note,
                    seconds=result.seconds,
                    peak_rss_mb=result.peak_rss_mb,
                    key=embed.key,
                )


def _from_store(embed: Trial, scores: Sequence[Trial], store: Store) -> JobResult:
    given: dict[str, Given] = {}
    for trial in scores:
        if trial.status == "cached":
            found = store.find("scores", trial.key)
            given[trial.task] = (
                # Whole when the plan was made a moment ago: someone is at the files.
                Given(Absent("failed", f"stored scores were lost while running: {found.reason}"))
                if isinstance(found, Missing)
                else given_before(found)
            )
    if embed.stage == "learn":
        return of_learning(given)
    embedding = store.find("embedding", embed.key)
    return of_embedding(embedding.meta if isinstance(embedding, Artifact) else {}, given)


def _remarks(answers: Sequence[Answered]) -> Iterator[dict[str, str]]:
    """Yield what each method remarked about each dataset, once for all seeds."""
    said = dict.fromkeys(
        (trial.dataset, trial.method, text)
        for trial, _, result in answers
        for text in result.remarks
    )
    for dataset, method, text in said:
        yield {"dataset": dataset, "method": method, "note": text}


def _stability(answers: Sequence[Answered]) -> pl.DataFrame:
    rows = [
        {"dataset": trial.dataset, "method": trial.method, "seed": trial.seed} | asdict(effect)
        for trial, _, result in answers
        for effect in result.stability
    ]
    return pl.DataFrame(rows, schema=STABILITY_SCHEMA)


def _unasked(trial: Trial) -> Absent:
    return Absent("not_applicable" if trial.status == "not_applicable" else "failed", trial.reason)


def _maps(
    resolved: Resolved, plan: Plan, store: Store
) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, str]]]:
    keys = {(t.dataset, t.method, t.seed): t.key for t in plan.trials if t.stage == "embed"}
    rows_of = {}
    parts = [pl.DataFrame(schema=PROJECTION_SCHEMA)]
    notes = []
    for fingerprint in resolved.datasets:
        dataset = fingerprint.dataset.id
        rows = projected_rows(fingerprint.dataset.n_cells)
        drawn = [t for t in plan.trials if t.stage == "project" and t.dataset == dataset]
        if not drawn:
            continue
        if len(rows) < fingerprint.dataset.n_cells:
            text = f"maps show {len(rows):,} of {fingerprint.dataset.n_cells:,} cells, drawn once"
            notes.append({"dataset": dataset, "method": "", "note": text})
        rows_of[dataset] = rows
        maps = read_projections(store, [keys[t.dataset, t.method, t.seed] for t in drawn])
        for trial, xy in zip(drawn, maps, strict=True):
            if xy is not None:
                columns = {
                    "dataset": np.full(len(rows), dataset),
                    "method": np.full(len(rows), trial.method),
                    "row": rows,
                    "x": xy[:, 0],
                    "y": xy[:, 1],
                }
                parts.append(pl.DataFrame(columns, schema=PROJECTION_SCHEMA))
    return pl.concat(parts), cells_frame(resolved, rows_of), notes
