"""Methods that learn labels in a run: answers kept, scored once, failures named, nothing leaked."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from killable_learners import study as killable_study
from toy import Toy, ToyTask
from toy_learners import QUICK, SPLITS, Learns, fitted_on, labelled

from sclitmus.core.metric import Metric
from sclitmus.core.record import RECORD_COLUMNS
from sclitmus.core.task import TaskCard
from sclitmus.data.splits import splits_table, write_splits
from sclitmus.errors import DataError, StudyError
from sclitmus.execution.answering import Given, Learner, ask
from sclitmus.execution.events import DamageFound, Event, JobProgress
from sclitmus.execution.execute import PRELOAD_LIGHT, execute
from sclitmus.execution.identity import Fingerprint
from sclitmus.execution.plan import plan, splits_of
from sclitmus.execution.resolve import Chosen, resolve
from sclitmus.execution.result import RunResult
from sclitmus.execution.store import Store
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.novel_types import NovelTypes
from sclitmus.tasks.transfer import Transfer


def run(study: Any, out: Path, **options: Any) -> RunResult:
    return execute(study, out, **{"jobs": 2, "preload": PRELOAD_LIGHT} | options)


def asked(*methods: Any, tasks: tuple[Any, ...] = (QUICK,), **given: Any) -> Any:
    """Study these methods alone, without the references of the tasks."""
    datasets = given.pop("datasets", (labelled(),))
    return resolve(
        Study(
            "toy study",
            tuple(DatasetSpec(dataset=d) for d in datasets),
            tuple(MethodSpec(object=m) for m in methods),
            tasks,
            given.pop("seeds", (0,)),
            projections=False,
            references=False,
            **given,
        )
    )


def comparable(result: RunResult | Path) -> pl.DataFrame:
    path = result / "records.parquet" if isinstance(result, Path) else None
    records = result.records if isinstance(result, RunResult) else pl.read_parquet(path or "")
    # The key of a user's object holds its settings, of which the folder for traces is one.
    return records.drop("seconds", "peak_rss_mb", "key")


def of(result: RunResult, metric: str, method: str = "learns") -> dict[str, Any]:
    rows = result.records.filter(metric=metric, method=method, split="all", unit="dataset")
    assert rows.height == 1
    return rows.row(0, named=True)


def test_records_are_what_the_task_computes(tmp_path: Path) -> None:
    result = run(asked(Learns()), tmp_path)
    assert result.exit_status == 0
    assert tuple(result.records.columns) == RECORD_COLUMNS
    assert set(result.records["metric"]) == set(QUICK.metrics)
    assert set(result.records["status"]) == {"ok"}
    assert of(result, "macro_f1.all")["value"] == 1  # six more counts tell the types apart
    assert of(result, "macro_f1.all")["seconds"] > 0
    assert of(result, "macro_f1.all")["peak_rss_mb"] > 10
    assert set(result.records["split"]) == {"all", *result.replicates["split"]}
    sources = dict(result.replicates.group_by("source").len().iter_rows())
    assert sources == {"units": 20, "draws": 2}
    assert result.splits["split"].to_list() == list(SPLITS)
    n_train = dict(result.splits.select("split", "n_train").iter_rows())
    assert n_train == {"k1-01": 3, "k1-02": 3, "k2-01": 6, "k2-02": 6, "all": 33}


def test_annotators_and_embedders_stand_in_one_study(tmp_path: Path) -> None:
    result = run(asked(Learns(), Toy(id="embeds"), tasks=(ToyTask(), QUICK)), tmp_path)
    assert result.exit_status == 0
    status = dict(
        result.records.filter(split="all", unit="dataset")
        .filter(pl.col("metric").is_in(["mean", "macro_f1.all"]))
        .select(pl.concat_str("method", "task", separator=" "), "status")
        .iter_rows()
    )
    assert status == {
        "learns means": "not_applicable",
        "learns annotation": "ok",
        "embeds means": "ok",
        "embeds annotation": "ok",  # by the probe
    }
    note = result.records.filter(method="learns", task="means")["note"].unique().to_list()
    assert note == ["it names cells and gives no embedding of them"]
    assert of(result, "macro_f1.all", "embeds")["value"] > 0.8


def test_an_annotator_without_a_question_about_labels_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    result = run(asked(Learns(trace=str(trace)), tasks=(ToyTask(),)), tmp_path / "out")
    assert result.exit_status == 0
    assert set(result.records["status"]) == {"not_applicable"}
    assert not fitted_on(trace)


FAILURES = {
    "raise": "RuntimeError: it did not converge",
    "nan": "MethodError: predict_scores gave NaN or infinite values for 1 of",
    "killed": "killed by signal 9 (SIGKILL); probably out of memory",
}


def test_one_failing_method_stops_no_other(tmp_path: Path) -> None:
    broken = [Learns(id=kind, kind=kind) for kind in FAILURES]
    refuse = Learns(id="refuse", kind="refuse")
    result = run(asked(*broken, refuse, Learns()), tmp_path)
    assert result.exit_status == 1
    for kind, note in FAILURES.items():
        rows = result.records.filter(method=kind)
        assert set(rows["metric"]) == set(QUICK.metrics)
        assert set(rows["status"]) == {"failed"}
        assert rows["value"].is_null().all()
        assert all(note in found for found in rows["note"]), (kind, rows["note"][0])
    refused = result.records.filter(method="refuse")
    assert set(refused["status"]) == {"not_applicable"}
    assert set(refused["note"]) == {"it needs more cells"}
    assert of(result, "macro_f1.all")["status"] == "ok"


def test_a_failed_split_fails_what_is_averaged_with_it_and_no_more(tmp_path: Path) -> None:
    result = run(asked(Learns(kind="raise", few=4)), tmp_path)
    assert result.exit_status == 1
    k1 = of(result, "macro_f1.k1")
    assert (k1["status"], k1["value"]) == ("failed", None)
    assert k1["note"] == "2 of 2 splits: RuntimeError: it did not converge"
    assert of(result, "macro_f1.few")["status"] == "failed"
    assert of(result, "macro_f1.k2")["status"] == "ok"
    assert of(result, "macro_f1.all")["value"] == 1


def test_what_failed_is_tried_again_and_what_did_not_is_not(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    study = asked(Learns(kind="raise", few=4, trace=str(trace)))
    first = run(study, tmp_path / "out")
    assert sorted(fitted_on(trace)) == [3, 3, 6, 6, 33]
    second = run(study, tmp_path / "out")
    assert sorted(fitted_on(trace)) == [3, 3, 3, 3, 6, 6, 33]
    assert comparable(second).equals(comparable(first))


def test_a_second_run_learns_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    study = asked(Learns(kind="remarks", trace=str(trace)))
    first = run(study, tmp_path / "out")
    second = run(study, tmp_path / "out")
    assert len(fitted_on(trace)) == 5
    assert second.records.equals(first.records)
    assert second.notes == first.notes
    assert {t.status for t in second.plan.trials} == {"cached"}


def test_labels_are_not_seen_at_prediction(tmp_path: Path) -> None:
    result = run(asked(Learns(kind="peek")), tmp_path)
    assert not (result.records["status"] == "ok").any()
    assert all("no label column" in note for note in result.records["note"])


def test_remarks_are_counted_over_the_splits(tmp_path: Path) -> None:
    result = run(asked(Learns(kind="remarks")), tmp_path)
    said = [n["note"] for n in result.notes if n["method"] == "learns"]
    assert said == ["annotation: C = 1e4 is the edge of the grid (on 5 of 5 splits)"]


def test_seeds_repeat_only_what_is_random(tmp_path: Path) -> None:
    noise = Learns(id="noise", kind="noise", deterministic=False)
    result = run(asked(Learns(), noise, seeds=(0, 3)), tmp_path)
    values = {
        method: result.records.filter(method=method, metric="macro_f1.few", split="all")["value"]
        for method in ("learns", "noise")
    }
    assert len(values["learns"]) == 1
    assert len(values["noise"]) == len(set(values["noise"])) == 2
    again = run(asked(noise, seeds=(3,)), tmp_path / "other")
    assert (
        again.records.filter(metric="macro_f1.few", split="all")["value"][0] == values["noise"][1]
    )


def test_an_embedding_that_differs_by_seed_is_probed_for_each(tmp_path: Path) -> None:
    embeds = Toy(id="embeds", kind="noise", deterministic=False)
    result = run(asked(embeds, seeds=(0, 1)), tmp_path)
    value = result.records.filter(metric="macro_f1.all", split="all", unit="dataset")["value"]
    assert len(set(value)) == 2


def test_one_process_and_two_give_the_same_records(tmp_path: Path) -> None:
    study = killable_study()
    results = [run(study, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    assert comparable(results[0]).equals(comparable(results[1]))
    assert results[0].replicates.equals(results[1].replicates)


def test_progress_is_told_split_by_split(tmp_path: Path) -> None:
    events: list[Event] = []
    run(asked(Learns()), tmp_path, on_event=events.append)
    told = [(e.done, e.total) for e in events if isinstance(e, JobProgress)]
    assert told == [(i, 5) for i in range(5)]


def start(out: Path, trace: Path) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("killable_learners.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(trace)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_run_goes_on_behind_the_last_answer(tmp_path: Path) -> None:
    quiet = run(killable_study(), tmp_path / "quiet")
    trace, out = tmp_path / "trace", tmp_path / "out"
    trace.mkdir()
    for n_words in (6, 9):
        process = start(out, trace)
        assert process.stdout is not None
        words = [process.stdout.readline() for _ in range(n_words)]
        assert words[0] == "Planned\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not (out / "records.parquet").exists()
    process = start(out, trace)
    process.communicate()
    assert process.returncode == 1  # "breaks" does
    assert comparable(out).equals(comparable(quiet))
    # 5 splits of "plain", 5 of each seed of "noise". What was under way when the run was killed
    # is made again: at most one split per process and kill. All of it again would be 15 more each.
    assert 15 <= len(fitted_on(trace, "plain")) + len(fitted_on(trace, "noise")) <= 15 + 2 * 2


def test_two_runs_at_once_share_the_work(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace", tmp_path / "out"
    trace.mkdir()
    both = [start(out, trace), start(out, trace)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [1, 1]
    quiet = run(killable_study(), tmp_path / "quiet")
    assert comparable(out).equals(comparable(quiet))
    assert len(fitted_on(trace, "plain")) == 5
    assert len(fitted_on(trace, "noise")) == 10


def test_a_damaged_answer_is_made_again_and_no_other(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace", tmp_path / "out"
    trace.mkdir()
    study = asked(Learns(trace=str(trace)))
    first = run(study, out)
    answers = sorted((out / "store" / "answer").rglob("*.npz"))
    assert len(answers) == 5
    answers[0].write_bytes(answers[0].read_bytes()[:-7])
    scores = next((out / "store" / "scores").rglob("*.parquet"))
    scores.write_bytes(b"x" * scores.stat().st_size)
    events: list[Event] = []
    second = run(study, out, on_event=events.append)
    assert [e.stage for e in events if isinstance(e, DamageFound)] == ["score"]
    assert len(fitted_on(trace)) == 6
    assert comparable(second).equals(comparable(first))


# What a change of the code of a task costs: asked in this process, as plugins' tasks are, by name.


@dataclass(frozen=True)
class Bumped(Annotation):
    """The task after somebody raised a version by hand."""

    metric_version: str = "1"
    card_version: int = 1

    @property
    def card(self) -> TaskCard:
        return replace(super().card, version=self.card_version)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        table = super().metrics
        return {id: replace(metric, version=self.metric_version) for id, metric in table.items()}


def given_by(store: Path, trace: Path, learner: Learner | None = None, **versions: Any) -> Given:
    task = Bumped(shots=(1, 2), draws=2, fractions=(), **versions)
    fingerprint = Fingerprint(labelled())
    keys = [split.key for split in splits_of(task, fingerprint)]
    mine = learner or Learner(Learns(trace=str(trace)), "mark", 0)
    return ask(mine, fingerprint, Chosen(task), keys, Store.open(store), lambda done, of: None)


def test_a_new_definition_of_a_metric_is_scored_without_learning(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    first = given_by(tmp_path / "s", trace)
    assert len(fitted_on(trace)) == 5
    same = given_by(tmp_path / "s", trace)
    assert same == first
    second = given_by(tmp_path / "s", trace, metric_version="2")
    assert len(fitted_on(trace)) == 5, "the answers were there"
    assert isinstance(second.scored, tuple)
    assert {s.metric_version for s in second.scored if s.metric != "confusion"} == {"2"}
    # Time and memory are those of learning, whenever that was.
    assert second.seconds == pytest.approx(first.seconds)


def test_a_new_version_of_the_task_is_learned_anew(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    given_by(tmp_path / "s", trace)
    given_by(tmp_path / "s", trace, card_version=2)
    assert len(fitted_on(trace)) == 10


def test_an_embedding_is_known_by_its_bytes(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)
    found = given_by(tmp_path / "s", tmp_path, Learner(z, "sha of z", 0))
    other = given_by(tmp_path / "s", tmp_path, Learner(z[::-1].copy(), "sha of another", 0))
    assert isinstance(found.scored, tuple)
    assert found.scored != other.scored


def test_splits_other_than_those_planned_are_refused(tmp_path: Path) -> None:
    task = Annotation(shots=(1,), draws=2, fractions=())
    mine = Learner(Learns(), "mark", 0)
    got = ask(
        mine, Fingerprint(labelled()), Chosen(task), ["other"], Store.open(tmp_path), lambda d, t: 0
    )
    assert not isinstance(got.scored, tuple)
    assert "other splits" in got.scored.note


# Splits that are given instead of drawn.


def export(path: Path, task: Any, change: Any = lambda table: table) -> Path:
    data = labelled(group=["x", "y"] * 24)
    splits = task.splits(data, np.random.default_rng(7))
    write_splits(path, change(splits_table(data, task.card.id, splits)))
    return path


def test_given_splits_are_learned_from_and_tested(tmp_path: Path) -> None:
    path = export(tmp_path / "s.csv", QUICK)
    drawn = run(asked(Learns()), tmp_path / "drawn")
    given = run(asked(Learns(), splits=(path,)), tmp_path / "given")
    keys = [{s.key for s in result.plan.splits} for result in (drawn, given)]
    assert not keys[0] & keys[1]
    expected = QUICK.splits(labelled(), np.random.default_rng(7))
    assert keys[1] == {s.key for s in expected}
    assert of(given, "macro_f1.all")["value"] == 1


def test_files_are_for_the_task_and_the_dataset_that_they_name(tmp_path: Path) -> None:
    path = export(tmp_path / "s.csv", QUICK)
    data = tuple(labelled(name, group=["x", "y"] * 24) for name in ("toy", "other"))
    study = asked(Learns(), tasks=(QUICK, Transfer()), datasets=data, splits=(path,))
    expected = {s.key for s in QUICK.splits(data[0], np.random.default_rng(7))}
    found: dict[tuple[str, str], set[str]] = {}
    for split in plan(study).splits:
        found.setdefault((split.dataset, split.task), set()).add(split.key)
    assert found["toy", "annotation"] == expected
    assert found["other", "annotation"] != expected
    assert {len(found[name, "transfer"]) for name in ("toy", "other")} == {2}


def without(*names: str) -> Any:
    return lambda table: table.drop(*names)


def renamed(**values: str) -> Any:
    return lambda table: table.drop("hash").with_columns(
        *(pl.lit(value).alias(name) for name, value in values.items())
    )


@pytest.mark.parametrize(
    ("task", "change", "error", "words"),
    [
        (QUICK, renamed(dataset="another"), StudyError, "splits of 'another'"),
        (QUICK, renamed(task="transfer"), StudyError, "for 'transfer'"),
        (QUICK, without("task", "dataset"), StudyError, "splits import"),
        (QUICK, renamed(setting=""), DataError, "the setting ''"),
        (QUICK, renamed(setting="k99"), DataError, "'k1', 'k2', 'all'"),
        (QUICK, renamed(held_out="group:x"), DataError, "held_out empty"),
        (Transfer(), renamed(held_out=""), DataError, "held_out group:NAME"),
        (NovelTypes(), renamed(held_out="group:x"), DataError, "held_out type:NAME"),
    ],
)
def test_given_splits_that_would_be_scored_by_nobody_are_refused(
    task: Any, change: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = export(tmp_path / "s.csv", task, change)
    with pytest.raises(error, match=words):
        plan(
            asked(
                Learns(),
                tasks=(task,),
                datasets=(labelled(group=["x", "y"] * 24),),
                splits=(path,),
            )
        )


def test_two_files_for_the_same_question_are_refused(tmp_path: Path) -> None:
    paths = tuple(export(tmp_path / name, QUICK) for name in ("a.csv", "b.csv"))
    with pytest.raises(StudyError, match="annotation on toy"):
        asked(Learns(), splits=paths)


def test_another_meaning_of_the_same_cells_is_scored_anew(tmp_path: Path) -> None:
    first = export(tmp_path / "a.csv", QUICK)
    table = pl.read_csv(first, infer_schema=False).drop("hash")
    swap = {"k1": "k2", "k2": "k1", "all": "all"}
    swapped = table.with_columns(pl.col("setting").replace_strict(swap))
    write_splits(tmp_path / "b.csv", swapped)
    breaks = Learns(kind="raise", few=4)  # on the splits of one cell per type
    results = [
        run(asked(breaks, splits=(tmp_path / name,)), tmp_path / "out")
        for name in ("a.csv", "b.csv")
    ]
    status = [[of(r, f"macro_f1.k{k}")["status"] for k in (1, 2)] for r in results]
    assert status == [["failed", "ok"], ["ok", "failed"]]
