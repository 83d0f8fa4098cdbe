"""Calls in processes of their own: one that crashes, leaks or is killed takes no other with it.

Not `concurrent.futures`: there a killed worker breaks the whole pool, and workers are used
again, so that peak memory is no longer that of one call.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sclitmus.core.record import Absent
from sclitmus.errors import StoreError
from sclitmus.execution.attempt import attempt

GRACE = 5.0  # seconds a process may take to leave once it has answered


@dataclass(frozen=True)
class Call:
    """A function with its arguments, for one process.

    `function` is called with `arguments` and a callable that sends progress to this process.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path  # takes what the process prints
    threads: int
    tag: Any = None  # for the caller


@dataclass(frozen=True)
class Started:
    """The process of a call was started."""

    call: Call


@dataclass(frozen=True)
class Said:
    """A call sent word of its progress."""

    call: Call
    word: Any


@dataclass(frozen=True)
class Returned:
    """A call came back with a value."""

    call: Call
    value: Any
    seconds: float


@dataclass(frozen=True)
class Broke:
    """A call ended without a value: it raised, or its process died."""

    call: Call
    note: str
    seconds: float


Happening = Started | Said | Returned | Broke


def each_in_its_own_process(
    calls: Iterable[Call], at_once: int, preload: Sequence[str] = ()
) -> Iterator[Happening]:
    """Run calls, at most `at_once` at a time, and yield what happens, in the order it does.

    `calls` is drawn from only when a process can be started. Closing the iterator, or an
    exception such as Ctrl-C, kills what still runs.

    Parameters
    ----------
    preload
        Modules that each process would import; they are imported once, where the platform can
        fork processes from a server that has done so.

    Raises
    ------
    StoreError
        If a call raised one: every other would meet the same.
    """
    context = _context(preload)
    queue = iter(calls)
    running: list[_Running] = []
    try:
        while True:
            while len(running) < at_once and (call := next(queue, None)) is not None:
                process = attempt(partial(_start, call, context))
                if isinstance(process, Absent):  # a user's object that does not pickle
                    yield Broke(call, f"cannot be sent to a process: {process.note}", 0.0)
                    continue
                running.append(process)
                yield Started(call)
            if not running:
                return
            wait([end for one in running for end in one.ends()], timeout=1.0)
            for one in list(running):
                yield from one.hear()
                if one.over():
                    running.remove(one)
                    yield one.end()
    finally:
        for one in running:
            one.kill()


@dataclass
class _Running:
    """A process at work. The only thing here that changes."""

    call: Call
    process: BaseProcess
    connection: Connection
    begin: float = field(default_factory=time.monotonic)
    answer: tuple[str, Any] | None = None
    answered_at: float = 0.0
    closed: bool = False

    def ends(self) -> list[Connection | int]:
        """What becomes readable when there is something to hear."""
        return [self.process.sentinel] if self.closed else [self.process.sentinel, self.connection]

    def hear(self) -> Iterator[Said]:
        try:
            while not self.closed and self.connection.poll():
                kind, word = self.connection.recv()
                if kind == "said":
                    yield Said(self.call, word)
                else:
                    self.answer, self.answered_at = (kind, word), time.monotonic()
        except (EOFError, OSError):
            self.closed = True

    def over(self) -> bool:
        if self.process.exitcode is not None:
            return self.closed or not self.connection.poll()
        return self.answer is not None and time.monotonic() > self.answered_at + GRACE

    def end(self) -> Returned | Broke:
        seconds = time.monotonic() - self.begin
        exitcode = self.process.exitcode
        self.kill()
        match self.answer:
            case ("returned", value):
                return Returned(self.call, value, seconds)
            case ("store error", (seen, needed, remedy)):
                raise StoreError(seen, needed, remedy)
            case ("raised", note):
                return Broke(self.call, note, seconds)
        return Broke(self.call, _epitaph(exitcode), seconds)

    def kill(self) -> None:
        """End the process and whatever it started."""
        if self.process.pid is not None:
            _end_family(self.process.pid)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()
        self.connection.close()


def _context(preload: Sequence[str]) -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    return context


def _start(call: Call, context: BaseContext) -> _Running:
    import cloudpickle

    payload = cloudpickle.dumps((call.function, call.arguments))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    arguments = (payload, theirs, str(call.log), call.threads, dict(os.environ))
    process = context.Process(target=_live, args=arguments)  # type: ignore[attr-defined]  # typeshed has it on each context only
    with _without_main_script():
        process.start()
    theirs.close()
    return _Running(call, process, ours)


@contextlib.contextmanager
def _without_main_script() -> Iterator[None]:
    """Keep multiprocessing from running the user's script again in each process.

    It does so to find what was pickled by reference to `__main__`; cloudpickle sends those
    things by value, so a script needs no ``if __name__ == "__main__"``.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _live(
    payload: bytes, connection: Connection, log: str, threads: int, environ: Mapping[str, str]
) -> None:
    """Be the process: quiet, with its share of cores, gone when its parent is."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C goes to the parent alone, which then ends this whole group
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _print_to(Path(log))
    os.environ.clear()  # a fork server's environment is that of its first use
    os.environ.update(environ)
    limit_threads(threads)
    try:
        value = attempt(lambda: _call(payload, connection))
        if isinstance(value, Absent):
            connection.send(("raised", value.note))
        else:
            connection.send(("returned", value))
    except StoreError as error:
        connection.send(("store error", (error.seen, error.needed, error.remedy)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.close()


def _call(payload: bytes, connection: Connection) -> Any:
    import cloudpickle

    function, arguments = cloudpickle.loads(payload)
    return function(*arguments, lambda word: connection.send(("said", word)))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    _end_family(os.getpid())
    os._exit(1)


def _end_family(pid: int) -> None:
    """Kill what a process has started, wherever it lives, and its process group with itself."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # each leads a group: what lost its parent is in it


def _print_to(log: Path) -> None:
    # Python's own streams, and those of C libraries, which know the descriptors only.
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
    faulthandler.enable(sys.stderr)


def limit_threads(n: int) -> None:
    """Let numerical libraries of this process use `n` threads, loaded yet or not."""
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB"):
        os.environ[f"{library}_NUM_THREADS"] = str(n)
    os.environ["POLARS_MAX_THREADS"] = str(n)
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=n)
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


def _epitaph(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name if -exitcode in list(signal.Signals) else ""
        why = {"SIGKILL": "; probably out of memory", "SIGSEGV": "; a crash in compiled code"}
        return f"killed by signal {-exitcode} ({name}){why.get(name, '')}"
    return f"the process ended with status {exitcode} and no answer"
