"""Shows what runs: live bars on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from sclitmus.execution.events import (
    DamageFound,
    Event,
    JobFinished,
    JobProgress,
    JobStarted,
    Planned,
    Progress,
)

if TYPE_CHECKING:
    from sclitmus.models.partial import OnProgress as OnDownload

OnEvent = Callable[[Event], None]
SECONDS_BETWEEN_LINES = 30  # of a log without a terminal, while a job runs
MARKS = {"ok": "done", "not_applicable": "does not apply", "failed": "FAILED"}


@contextmanager
def watch(stream: TextIO = sys.stderr) -> Iterator[OnEvent]:
    """Yield a function that shows each event of a run on `stream`."""
    if stream.isatty():
        with _bars(stream) as on_event:
            yield on_event
    else:
        yield _line_log(stream)


class Pace:
    """How fast one job goes through its cells."""

    def __init__(self) -> None:
        self._activity = ""
        self._begin = (0.0, 0)

    def left(self, event: JobProgress) -> str:
        """Say what a job does, at which pace, and how long it still takes."""
        now = time.monotonic()
        if event.activity != self._activity:
            self._activity, self._begin = event.activity, (now, event.done)
        began, first = self._begin
        if event.activity != "embedding" or event.done == first or now == began:
            return event.activity
        pace = (event.done - first) / (now - began)
        return (
            f"embedding, {pace:,.1f} cells/s, about {(event.total - event.done) / pace:.0f} s left"
        )


def _line_log(stream: TextIO) -> OnEvent:
    begin = time.monotonic()
    paces: dict[tuple[str, str, int], Pace] = {}
    spoke = begin
    last = Progress(done=0, total=0, running=0, eta_seconds=None)

    def on_event(event: Event) -> None:
        nonlocal last, spoke
        if isinstance(event, Progress):
            last = event
            return
        text = _sentence(event)
        if isinstance(event, JobProgress):
            left = paces.setdefault((event.dataset, event.method, event.seed), Pace()).left(event)
            if time.monotonic() - spoke >= SECONDS_BETWEEN_LINES and event.total > 1:
                text = f"{event.dataset} × {event.method}: {event.done:,}/{event.total:,} {left}"
        if text:
            spoke = time.monotonic()
        if text:
            left = f", about {last.eta_seconds:.0f} s left" if last.eta_seconds else ""
            done = f" {last.done}/{last.total}{left}" if last.total else ""
            print(f"[{time.monotonic() - begin:6.1f} s{done}] {text}", file=stream, flush=True)

    return on_event


def _sentence(event: Event) -> str:
    if isinstance(event, Planned):
        plan = event.plan
        return (
            f"{plan.count('run')} trials to run, {plan.count('cached')} done before, "
            f"{plan.count('not_applicable')} not applicable; {event.jobs} at a time"
        )
    if isinstance(event, JobFinished):
        note = f": {event.note}" if event.note and event.status != "ok" else ""
        return (
            f"{event.dataset} × {event.method} (seed {event.seed}) "
            f"{MARKS[event.status]} in {event.seconds:.1f} s{note}"
        )
    if isinstance(event, DamageFound):
        return f"stored {event.stage} of {event.method} is made again: {event.reason}"
    return ""


@contextmanager
def cells_bar(stream: TextIO = sys.stderr) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how many cells of one embedding are done."""
    pace, spoke = Pace(), time.monotonic()

    def on_progress(activity: str, done: int, total: int) -> None:
        nonlocal spoke
        left = pace.left(JobProgress("", "", 0, "embedding", done, total))
        text = f"{done:,}/{total:,} cells, {left}"
        if stream.isatty():
            print(f"\r\x1b[2K{text}", end="", file=stream, flush=True)
        elif time.monotonic() - spoke >= SECONDS_BETWEEN_LINES:
            spoke = time.monotonic()
            print(text, file=stream, flush=True)

    yield on_progress
    if stream.isatty():
        print(file=stream)


@contextmanager
def _bars(stream: TextIO) -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(file=stream)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        whole = bars.add_task("trials", total=None, left="")
        rows: dict[tuple[str, str, int], int] = {}
        paces: dict[tuple[str, str, int], Pace] = {}

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                left = f"about {event.eta_seconds:.0f} s left" if event.eta_seconds else ""
                bars.update(whole, completed=event.done, total=event.total, left=left)
            elif isinstance(event, JobStarted):
                key = (event.dataset, event.method, event.seed)
                name = escape(f"{event.dataset} × {event.method}")
                rows[key] = bars.add_task(name, total=None, left="")
            elif isinstance(event, JobProgress):
                key = (event.dataset, event.method, event.seed)
                left = paces.setdefault(key, Pace()).left(event)
                if key in rows:
                    bars.update(rows[key], completed=event.done, total=event.total, left=left)  # type: ignore[arg-type]
            elif isinstance(event, JobFinished):
                row = rows.pop((event.dataset, event.method, event.seed), None)
                if row is not None:
                    bars.remove_task(row)  # type: ignore[arg-type]
            text = _sentence(event)
            if text:
                console.print(text, markup=False, highlight=False)

        yield on_event


@contextmanager
def download_bars(stream: TextIO = sys.stderr) -> "Iterator[OnDownload]":
    """Yield a function that shows how far each file is: bars on a terminal, else lines."""
    if not stream.isatty():
        yield _download_lines(stream)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    name, bar = TextColumn("{task.description}"), BarColumn(bar_width=24)
    speed = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(file=stream)
    with Bars(name, bar, *speed, console=console) as bars:
        rows: dict[str, Any] = {}

        def on_progress(now: Any) -> None:
            if now.note:
                console.print(f"{now.name}: {now.note}", markup=False, highlight=False)
            if now.done:
                if now.name not in rows:
                    rows[now.name] = bars.add_task(escape(now.name), total=None)
                bars.update(rows[now.name], completed=now.done, total=now.total or None)

        yield on_progress


def _download_lines(stream: TextIO, seconds: float = 10.0) -> "OnDownload":
    said = 0.0

    def on_progress(now: Any) -> None:
        nonlocal said
        ended = now.total and now.done == now.total
        if not (now.note or ended or time.monotonic() - said > seconds):
            return
        said = time.monotonic()
        of = f" of {size_in_words(now.total)}" if now.total else ""
        far = f" {size_in_words(now.done)}{of}" if now.done else ""
        note = f" {now.note}" if now.note else ""
        print(f"{now.name}:{far}{note}", file=stream, flush=True)

    return on_progress


def size_in_words(n_bytes: int) -> str:
    """Return ``417.6 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"
