"""kill -9 at random moments, and two runs at once: the results are those of a quiet run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
from killable import study

from sclitmus.execution.execute import PRELOAD_LIGHT, execute
from sclitmus.execution.plan import plan
from sclitmus.execution.store import Store

N_KILLS = 20


def start(out: Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("killable.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(out)], stdout=subprocess.PIPE, text=True
    )


def comparable(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "records.parquet").drop("seconds", "peak_rss_mb")


def assert_store_is_clean(out: Path) -> None:
    store = Store.open(out / "store")
    assert list((out / "store" / "tmp").iterdir()) == []
    assert list((out / "store" / "scratch").iterdir()) == []
    statuses = {t.status for t in plan(study(), store).trials if t.method not in ("m3", "m4")}
    assert statuses == {"cached"}


def test_twenty_kills_change_no_record(tmp_path: Path) -> None:
    quiet = execute(study(), tmp_path / "quiet", jobs=2, preload=PRELOAD_LIGHT)
    expected = quiet.records.drop("seconds", "peak_rss_mb")
    assert expected["status"].unique().sort().to_list() == ["failed", "not_applicable", "ok"]
    chance = random.Random(20)
    out = tmp_path / "killed"
    kills = unfinished = 0
    while kills < N_KILLS:
        process = start(out)
        assert process.stdout is not None
        assert process.stdout.readline() == "planned\n"
        # Up to about the time that a run takes, so that kills meet its beginning, middle and end.
        time.sleep(chance.uniform(0, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:  # it was faster: look, and begin anew
            assert comparable(out).equals(expected)
            shutil.rmtree(out)
            continue
        kills += 1
        unfinished += not (out / "records.parquet").exists()
    assert unfinished > N_KILLS // 2
    process = start(out)
    process.communicate()
    assert process.returncode == 1  # m3 fails
    assert comparable(out).equals(expected)
    assert_store_is_clean(out)


def test_two_runs_at_once_share_the_work(tmp_path: Path) -> None:
    out = tmp_path / "shared"
    both = [start(out), start(out)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [1, 1]
    quiet = execute(study(), tmp_path / "quiet", jobs=2, preload=PRELOAD_LIGHT)
    assert comparable(out).equals(quiet.records.drop("seconds", "peak_rss_mb"))
    assert_store_is_clean(out)
