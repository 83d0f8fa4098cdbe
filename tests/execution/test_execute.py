import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy import Toy, ToyTask, toy_dataset, toy_study

from sclitmus.core.record import RECORD_COLUMNS
from sclitmus.errors import StoreError
from sclitmus.execution.events import (
    DamageFound,
    Event,
    JobFinished,
    JobProgress,
    JobStarted,
    Planned,
    Progress,
)
from sclitmus.execution.execute import PRELOAD_LIGHT, execute
from sclitmus.execution.plan import plan
from sclitmus.execution.result import RunResult, load_result
from sclitmus.execution.store import Store


def run(study: Any, out: Path, **options: Any) -> RunResult:
    return execute(study, out, **{"jobs": 2, "preload": PRELOAD_LIGHT} | options)


def statuses(result: RunResult) -> dict[str, str]:
    frame = result.records.filter(split="all", metric="mean")
    return dict(zip(frame["method"], frame["status"], strict=True))


def test_records_are_what_the_task_computes(tmp_path: Path) -> None:
    data = toy_dataset()
    result = run(
        toy_study(Toy(), ToyTask and Toy(id="b", kind="noise", deterministic=False)), tmp_path
    )
    assert result.exit_status == 0
    assert tuple(result.records.columns) == RECORD_COLUMNS
    assert result.records.equals(pl.read_parquet(tmp_path / "records.parquet"))
    mine = result.records.filter(method="toy", split="all", metric="mean")
    # The task adds less than 1e-3 of its own random stream.
    expected = data.counts.toarray()[:, :3].mean()
    assert mine["value"].item() == pytest.approx(expected, abs=1.1e-3)
    assert (mine["value"] > expected).item()
    assert result.records["split"].unique().sort().to_list() == ["all", "half-0", "half-1"]
    assert result.records["unit"].unique().sort().to_list() == [
        "dataset",
        "type:0",
        "type:1",
        "type:2",
    ]
    assert set(result.records["study"]) == {"toy study"}
    assert (result.records["peak_rss_mb"] > 10).all()
    assert result.splits.rows() == [
        ("toy", "means", "all", 0, 12),
        ("toy", "means", "half-0", 0, 6),
        ("toy", "means", "half-1", 0, 6),
    ]
    assert result.replicates.rows() == [
        ("toy", "means", "half-0", "units", 1.0, 0),
        ("toy", "means", "half-1", "units", 1.0, 0),
    ]


FAILURES = {
    "raise": "RuntimeError: no weights <today>",
    "killed": "killed by signal 9 (SIGKILL); probably out of memory",
    "segfault": "killed by signal 11 (SIGSEGV); a crash in compiled code",
    "exit": "SystemExit: 3",
    "short": "MethodError: short gave an array of shape (11, 3)",
    "flat": "MethodError: flat gave an array of shape (12,)",
    "nan": "MethodError: nan gave NaN or infinite values in 1 of 12 cells, the first at row 1",
    "text": "MethodError: text gave an array of shape (12, 3) and type <U",
    "labels": "MethodError: labels asked for the labels that it is scored on",
    "peek": "KeyError: 'label'",
}


def test_one_failing_method_stops_no_other(tmp_path: Path) -> None:
    broken = [Toy(id=kind, kind=kind) for kind in FAILURES]
    well = [
        Toy(id="refuse", kind="refuse"),
        Toy(id="scribble", kind="scribble"),  # on its own copy of the counts
        Toy(id="plain"),
        Toy(id="oracle", kind="labels", sees_labels=True),
    ]
    events: list[Event] = []
    result = run(toy_study(*broken, *well), tmp_path, on_event=events.append)
    assert result.exit_status == 1
    assert statuses(result) == {
        **dict.fromkeys(FAILURES, "failed"),
        "refuse": "not_applicable",
        "scribble": "ok",
        "plain": "ok",
        "oracle": "ok",
    }
    for method, note in FAILURES.items():
        rows = result.records.filter(method=method)
        assert rows.height == 2  # one per metric
        assert all(found.startswith(note) for found in rows["note"]), (method, rows["note"])
        assert rows["value"].is_null().all()
    same = [result.records.filter(method=m)["value"].to_list() for m in ("scribble", "plain")]
    assert same[0] == same[1]
    logs = {e.method: e.log for e in events if isinstance(e, JobFinished)}
    assert "no weights <today>" in logs["raise"].read_text()
    assert "Segmentation fault" in logs["segfault"].read_text()
    assert not logs["plain"].exists()  # it printed nothing


@pytest.mark.parametrize(
    ("kind", "status", "note"),
    [
        ("raise", "failed", "ZeroDivisionError: nothing to divide by"),
        ("silent", "failed", "TaskError: silent gave no score for spread"),
    ],
)
def test_a_failing_task_stops_no_other(tmp_path: Path, kind: str, status: str, note: str) -> None:
    result = run(toy_study(Toy(), tasks=(ToyTask(id=kind, kind=kind), ToyTask())), tmp_path)
    assert result.exit_status == 1
    rows = result.records.filter(task=kind)
    assert rows["status"].unique().to_list() == [status]
    assert rows["note"][0].startswith(note)
    assert set(result.records.filter(task="means")["status"]) == {"ok"}


def test_nan_is_a_failure_of_one_number(tmp_path: Path) -> None:
    result = run(toy_study(Toy(), tasks=(ToyTask(kind="nan"),)), tmp_path)
    assert result.exit_status == 1
    mean = result.records.filter(metric="mean", split="all")
    assert mean.select("value", "status", "note").row(0) == (None, "failed", "the metric gave nan")
    assert set(result.records.filter(metric="spread")["status"]) == {"ok"}


def test_a_half_may_be_not_applicable(tmp_path: Path) -> None:
    result = run(toy_study(Toy(), tasks=(ToyTask(kind="refuse half"),)), tmp_path)
    assert result.exit_status == 0
    by_split = dict(result.records.filter(metric="mean").select("split", "status").iter_rows())
    assert by_split == {"all": "ok", "half-0": "ok", "half-1": "not_applicable"}


def calls(trace: Path) -> list[str]:
    return sorted(path.name.rpartition(" ")[0] for path in trace.iterdir())


def test_a_second_run_does_nothing_and_a_change_does_what_it_must(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    out = tmp_path / "out"
    method, task = Toy(trace=str(trace)), ToyTask(trace=str(trace))
    first = run(toy_study(method, tasks=(task,)), out)
    scored = ["means all", "means half-0", "means half-1"]
    assert calls(trace) == [*scored, "toy"]

    events: list[Event] = []
    again = run(toy_study(method, tasks=(task,)), out, on_event=events.append)
    assert calls(trace) == [*scored, "toy"]
    assert again.records.equals(first.records)  # what the embedding cost included
    assert not [e for e in events if isinstance(e, JobStarted)]

    run(toy_study(method, tasks=(replace(task, version=2),)), out)
    assert calls(trace) == sorted([*scored, *scored, "toy"])
    run(toy_study(method, Toy(id="new"), tasks=(task,)), out)
    assert calls(trace).count("toy") == 1


def test_a_failure_is_tried_again_unless_told_not_to(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    study = toy_study(Toy(kind="raise", trace=str(trace)), Toy(id="dead", kind="killed"))
    first = run(study, tmp_path / "out")
    kept = run(study, tmp_path / "out", retry_failed=False)
    assert len(calls(trace)) == 1
    assert kept.exit_status == 1
    assert kept.records.equals(first.records)
    run(study, tmp_path / "out")
    assert len(calls(trace)) == 2


@pytest.mark.parametrize(
    ("stage", "harm"),
    [
        *(
            (stage, harm)
            for stage in ("embedding", "scores")
            for harm in ("flip", "cut", "manifest")
        ),
        ("projection", "flip"),  # umap-learn takes seconds to import
    ],
)
def test_a_damaged_artifact_is_made_again(tmp_path: Path, stage: str, harm: str) -> None:
    study = toy_study(Toy(), projections=stage == "projection")
    first = run(study, tmp_path)
    folder = tmp_path / "store" / stage
    found = list(folder.rglob("*.manifest.json" if harm == "manifest" else "*.[np]*[yt]"))
    assert len(found) == 1
    good = found[0].read_bytes()
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1 :]
    found[0].write_bytes(good[:-3] if harm == "cut" else flipped)
    events: list[Event] = []
    again = run(study, tmp_path, on_event=events.append)
    assert (
        next(e.stage for e in events if isinstance(e, DamageFound))
        == {
            "embedding": "embed",
            "scores": "score",
            "projection": "project",
        }[stage]
    )
    ignored = ("seconds", "peak_rss_mb")
    assert again.records.drop(ignored).equals(first.records.drop(ignored))
    assert again.projections.equals(first.projections)
    assert plan(study, Store.open(tmp_path / "store")).count("run") == 0


def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    events: list[Event] = []
    run(toy_study(Toy(seconds=0.05), Toy(id="b")), tmp_path, on_event=events.append, jobs=1)
    assert isinstance(events[0], Planned)
    mine = [e for e in events if isinstance(e, JobStarted | JobProgress | JobFinished)]
    assert {type(e).__name__ for e in mine if e.method == "toy"} == {
        "JobStarted",
        "JobProgress",
        "JobFinished",
    }
    progress = [e for e in events if isinstance(e, Progress)]
    assert (progress[0].done, progress[0].eta_seconds) == (0, None)
    assert (progress[-1].done, progress[-1].total, progress[-1].running) == (4, 4, 0)
    assert progress[-1].eta_seconds == 0
    assert progress[1].eta_seconds is not None
    assert progress[1].eta_seconds > 0


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    data = replace(toy_dataset(), columns={"label": "cell_type", "batch": "chip"})
    result = run(toy_study(Toy(), datasets=(data,), projections=True), tmp_path)
    read = load_result(tmp_path)
    for name in ("records", "splits", "replicates", "projections", "cells"):
        assert getattr(read, name).equals(getattr(result, name)), name
    for name in ("methods_frame", "tasks_frame", "metrics_frame"):
        assert getattr(read, name)().equals(getattr(result, name)()), name
    assert (read.methods, read.tasks) == (result.methods, result.tasks)
    assert read.datasets == result.datasets
    assert read.plan == result.plan
    assert read.exit_status == 0
    assert read.environment["packages"]["numpy"] == np.__version__
    assert result.cells.filter(row=1).row(0) == ("toy", 1, "type 1", "batch 1")
    assert result.projections.height == 12
    assert result.notes == ()


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished run"):
        load_result(tmp_path)
    run(toy_study(Toy()), tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"study": 1}))
    with pytest.raises(StoreError, match="damaged"):
        load_result(tmp_path)


def test_a_map_that_cannot_be_drawn_fails_nothing(tmp_path: Path) -> None:
    data = toy_dataset(n_cells=4)
    result = run(toy_study(Toy(), datasets=(data,), projections=True), tmp_path)
    assert result.exit_status == 0
    assert result.projections.height == 0
    note = {"dataset": "toy", "method": "toy", "note": "a map needs 5 cells; there are 4"}
    assert result.notes == (note,)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        run(toy_study(Toy()), out)
        filler = out / "filler"
        free = os.statvfs(out)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
        with pytest.raises(StoreError, match="full"):
            run(toy_study(Toy(), Toy(id="b")), out)
        filler.unlink()
        result = run(toy_study(Toy(), Toy(id="b")), out)
        assert statuses(result) == {"toy": "ok", "b": "ok"}
        assert result.plan.count("cached") == 2
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_an_interrupt_ends_the_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    study = toy_study(Toy(id="quick"), Toy(id="slow", seconds=60))
    threads_before = threading.active_count()

    def interrupt(event: Event) -> None:
        if isinstance(event, JobFinished):
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, on_event=interrupt)
    assert time.monotonic() - begin < 50
    assert threading.active_count() == threads_before
    statuses = {t.method: t.status for t in plan(study, Store.open(tmp_path / "store")).trials}
    assert statuses == {"quick": "cached", "slow": "run"}
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


SCRIPT = """
import sys
from toy import Toy, toy_study
from sclitmus.execution.execute import execute, PRELOAD_LIGHT

class Mine(Toy):  # of __main__, and no guard against being run again by the workers
    def embed(self, cells):
        return super().embed(cells) * 2

result = execute(toy_study(Mine(), Toy(id="b")), sys.argv[1], preload=PRELOAD_LIGHT)
sys.stdout.write(f"status {result.exit_status}")
"""


def test_a_plain_script_with_a_class_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert said.stdout == "status 0", said.stderr
    means = load_result(tmp_path / "out").records.filter(split="all", metric="mean")["value"]
    assert means[0] == pytest.approx(2 * means[1], rel=1e-2)


def test_workers_share_the_cores_and_see_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCLITMUS_TEST", "seen")

    class Asks(Toy):
        def embed(self, cells: Any) -> Any:
            threads = float(os.environ["OMP_NUM_THREADS"])
            seen = os.environ.get("SCLITMUS_TEST") == "seen"
            return np.full((cells.n_cells, 1), threads if seen else np.nan)

    class Means(ToyTask):
        def score(self, outcome: Any) -> Any:
            return [replace(s, value=float(outcome.answer.mean())) for s in super().score(outcome)]

    result = run(toy_study(Asks(), tasks=(Means(),)), tmp_path, jobs=2)
    expected = max(1, (os.cpu_count() or 1) // 2)
    assert result.records["value"][0] == pytest.approx(expected, abs=1.1e-3)


def test_a_worker_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("Mine()", "Mine(seconds=600, trace=sys.argv[2])"))
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    trace = tmp_path / "trace"
    trace.mkdir()
    command = [sys.executable, str(script), str(tmp_path / "out"), str(trace)]
    parent = subprocess.Popen(command, env=environ)
    while not list(trace.iterdir()):
        assert parent.poll() is None
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    store = Store(tmp_path / "out" / "store")
    embed = next(iter((tmp_path / "out" / "store" / "locks").iterdir()))
    waited = []
    with store.lock(embed.stem, on_wait=lambda: waited.append(1)):  # free once the worker is gone
        pass
    Store.open(tmp_path / "out" / "store")
    assert list((tmp_path / "out" / "store" / "scratch").iterdir()) == []
