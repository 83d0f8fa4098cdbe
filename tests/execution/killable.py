"""A study in a process of its own, to be killed: ``python killable.py OUT``."""

import sys
from pathlib import Path
from typing import Any

from toy import Toy, ToyTask, toy_dataset, toy_study

from sclitmus.execution.events import Event, Planned
from sclitmus.execution.execute import PRELOAD_LIGHT, execute

KINDS = ("counts", "noise", "scribble", "raise", "refuse")


def study() -> Any:
    methods = [
        Toy(id=f"m{i}", kind=kind, seconds=0.05, deterministic=kind != "noise")
        for i, kind in enumerate(KINDS)
    ]
    return toy_study(
        *methods,
        tasks=(ToyTask(), ToyTask(id="again", kind="refuse half")),
        datasets=(toy_dataset("one"), toy_dataset("three", batch=False)),
        seeds=(0, 1),
    )


def announce(event: Event) -> None:
    if isinstance(event, Planned):
        sys.stdout.write("planned\n")
        sys.stdout.flush()


if __name__ == "__main__":
    result = execute(study(), Path(sys.argv[1]), jobs=2, on_event=announce, preload=PRELOAD_LIGHT)
    sys.exit(result.exit_status)
