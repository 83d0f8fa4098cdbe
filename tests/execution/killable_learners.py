"""A study of methods that learn labels, in a process of its own: ``python … OUT``."""

import sys
from pathlib import Path
from typing import Any

from toy_learners import QUICK, Learns, labelled

from sclitmus.execution.events import Event, JobProgress, Planned
from sclitmus.execution.execute import PRELOAD_LIGHT, execute
from sclitmus.execution.resolve import resolve
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study


def study(trace: str = "") -> Any:
    methods = (
        Learns(id="plain", seconds=0.1, trace=trace),
        Learns(id="noise", kind="noise", deterministic=False, seconds=0.02, trace=trace),
        Learns(id="breaks", kind="raise", few=4, trace=trace),
    )
    return resolve(
        Study(
            "toy study",
            (DatasetSpec(dataset=labelled("one")),),
            tuple(MethodSpec(object=method) for method in methods),
            (QUICK,),
            seeds=(0, 1),
            projections=False,
            references=False,
        )
    )


def announce(event: Event) -> None:
    if isinstance(event, Planned | JobProgress):
        sys.stdout.write(f"{type(event).__name__}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    trace = sys.argv[2] if len(sys.argv) > 2 else ""
    result = execute(study(trace), out, jobs=2, on_event=announce, preload=PRELOAD_LIGHT)
    sys.exit(result.exit_status)
