"""Errors a user can act on: each says what was seen, what is needed, and the remedy."""


class SclitmusError(Exception):
    """Base of every error that is the user's to fix; the CLI prints it without a traceback.

    Parameters
    ----------
    seen
        What was found, with the offending value, file or name.
    needed
        What the program needs instead.
    remedy
        What the user can do about it, as an instruction.
    """

    def __init__(self, seen: str, needed: str, remedy: str) -> None:
        super().__init__(seen, needed, remedy)
        self.seen = seen
        self.needed = needed
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.seen}\n  needed: {self.needed}\n  remedy: {self.remedy}"


class DataError(SclitmusError):
    """The dataset, or a file it is read from, cannot be used as it is."""


class MethodError(SclitmusError):
    """A method breaks the contract of `core.method`, or cannot be loaded."""


class WeightsError(SclitmusError):
    """A checkpoint, or a file that belongs to it, is not what the model needs."""


class TaskError(SclitmusError):
    """A task breaks the contract of `core.task`."""


class StudyError(SclitmusError):
    """A study names something that does not exist or does not fit together."""


class StoreError(SclitmusError):
    """The result store cannot be read or written (full disk, no permission, foreign version)."""


class NotApplicable(Exception):  # noqa: N818 - it is no error
    """A question has no answer for this data or method; the reason is recorded, nothing failed.

    Raised by tasks, methods and metrics; `execution.execute` turns it into records whose status is
    ``not_applicable``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
