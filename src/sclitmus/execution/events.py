"""What a run reports while it runs. Nothing is printed here: the CLI and notebooks do that."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sclitmus.execution.plan import Plan

Worst = Literal["ok", "not_applicable", "failed"]
Activity = Literal["waiting", "embedding", "scoring", "projecting"]


@dataclass(frozen=True)
class Planned:
    """The plan is made; nothing has run."""

    plan: Plan
    jobs: int


@dataclass(frozen=True)
class JobStarted:
    """A process was started for a method on a dataset; maps of a dataset come as one job."""

    dataset: str
    method: str
    seed: int


@dataclass(frozen=True)
class JobProgress:
    """A running job got further; ``waiting`` is for another process that does the same."""

    dataset: str
    method: str
    seed: int
    activity: Activity
    done: int
    total: int


@dataclass(frozen=True)
class JobFinished:
    """A job is over: the worst status of its trials, and the file of what it printed, if any."""

    dataset: str
    method: str
    seed: int
    status: Worst
    note: str
    log: Path
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far the run is. `eta_seconds` is None until something has been measured."""

    done: int
    total: int
    running: int
    eta_seconds: float | None


@dataclass(frozen=True)
class DamageFound:
    """A stored result was damaged and is made again."""

    dataset: str
    method: str
    stage: str
    reason: str


Event = Planned | JobStarted | JobProgress | JobFinished | Progress | DamageFound


def ignore(event: Event) -> None:
    """Do nothing with an event."""
