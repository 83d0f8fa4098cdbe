"""A study in a process of its own, to be killed: ``python killable.py OUT``."""

import sys
from pathlib import Path

from toy import Toy, ToyTask, toy_dataset, toy_study

from sclitmus.run.execute import PRELOAD_LIGHT, execute

SLOW = 0.03  # seconds in each embed, so that a kill often meets one


def study():
    methods = [
        Toy(id=f"m{i}", kind=kind, seconds=SLOW, deterministic=kind != "noise")
        for i, kind in enumerate(["counts", "noise", "scribble", "raise", "print", "refuse"])
    ]
    return toy_study(
        *methods,
        tasks=(ToyTask(), ToyTask(id="again", kind="refuse half")),
        datasets=(toy_dataset("one"), toy_dataset("three", batch=False)),
        seeds=(0, 1),
    )


if __name__ == "__main__":
    sys.exit(execute(study(), Path(sys.argv[1]), jobs=2, preload=PRELOAD_LIGHT).exit_status)
