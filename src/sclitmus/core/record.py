"""One row per number, and the frame columns every later stage agrees on."""

from dataclasses import dataclass
from typing import Literal

Unfinished = Literal["not_applicable", "failed"]
Status = Literal["ok"] | Unfinished


@dataclass(frozen=True)
class Absent:
    """Why there is no result: the question makes no sense here, or it should have worked."""

    status: Unfinished
    note: str


@dataclass(frozen=True)
class Score:
    """What a task returns for one metric: the number, or why there is none.

    Attributes
    ----------
    metric, metric_version
        Which number.
    value
        The number; None unless `status` is ``ok``.
    unit
        ``dataset``, or what the number is about: ``type:B cell``, ``group:rectum``.
    split
        ``all``, or the replicate that it is the score of; see `core.split.Replicate`.
    status, note
        ``not_applicable`` (the question makes no sense here), ``failed`` (it should have
        worked), and the reason in words. A note on an ``ok`` score says how it was had, for
        example from subsamples.
    """

    metric: str
    metric_version: str
    value: float | None
    unit: str = "dataset"
    status: Status = "ok"
    note: str = ""
    split: str = "all"


@dataclass(frozen=True)
class Record:
    """A score with all that is needed to know where it came from. One row of ``records.parquet``.

    `seconds` and `peak_rss_mb` are those of making the method's embedding, the same on each
    row of a trial; `key` is the store's key of the trial.
    """

    study: str
    dataset: str
    task: str
    method: str
    behaviour: str
    metric: str
    metric_version: str
    seed: int
    split: str
    unit: str
    value: float | None
    status: Status
    note: str
    seconds: float | None
    peak_rss_mb: float | None
    key: str


RECORD_COLUMNS: tuple[str, ...] = tuple(Record.__dataclass_fields__)
