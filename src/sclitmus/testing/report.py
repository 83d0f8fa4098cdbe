"""What a conformance check found, and how it is run."""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from sclitmus.errors import NotApplicable, SclitmusError

Subject = TypeVar("Subject")

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")  # safe as file name, option and column


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes
    ----------
    id
        Name of the check; stable between versions.
    status
        ``passed``; ``failed``: the contract is broken; ``measured``: there is no right answer,
        `value` says how it is; ``skipped``: it makes no sense here, `seen` says why.
    seen
        What was found.
    needed, remedy
        Of a failed check: what the contract asks for, and what to do.
    value
        The number a ``measured`` check found.
    """

    id: str
    status: Literal["passed", "failed", "measured", "skipped"]
    seen: str = ""
    needed: str = ""
    remedy: str = ""
    value: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the contract holds as far as this check can tell."""
        return self.status != "failed"

    def __str__(self) -> str:
        line = (
            f"{self.status:<8}  {self.id}: {self.seen}"
            if self.seen
            else f"{self.status:<8}  {self.id}"
        )
        if self.ok:
            return line
        return f"{line}\n          needed: {self.needed}\n          remedy: {self.remedy}"


@dataclass(frozen=True)
class Report:
    """All checks of one subject, in the order they ran."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __getitem__(self, id: str) -> Check:
        return next(check for check in self.checks if check.id == id)

    def __str__(self) -> str:
        n = len(self.failed)
        verdict = f"{n} check{'s' * (n > 1)} failed" if n else "meets the contract"
        return "\n".join([f"{self.subject}: {verdict}", *map(str, self.checks)])


class ContractError(SclitmusError):
    """The contract is broken: what a check raises."""


@dataclass(frozen=True)
class Measured:
    """A number that a check reports without judging it."""

    value: float
    seen: str


Finding = str | Measured


def run_checks(
    checks: Mapping[str, Callable[[Subject], Finding]], subject: Subject
) -> tuple[Check, ...]:
    """Run each check; one that fails does not stop the others."""
    return tuple(run_check(id, check, subject) for id, check in checks.items())


def run_check(id: str, check: Callable[[Subject], Finding], subject: Subject) -> Check:
    """Run a check: it returns what it saw, raises `ContractError`, or says `NotApplicable`."""
    try:
        finding = check(subject)
    except NotApplicable as absence:
        return Check(id, "skipped", absence.reason)
    except SclitmusError as error:
        return Check(id, "failed", error.seen, error.needed, error.remedy)
    except Exception as error:  # noqa: BLE001 - the code under test is foreign: what it raises is the finding
        return Check(id, "failed", _described(error), "no exception", "see the line named above")
    if isinstance(finding, Measured):
        return Check(id, "measured", finding.seen, value=finding.value)
    return Check(id, "passed", finding)


def must_apply(check: Check, what: str, remedy: str) -> Check:
    """Turn "not applicable" into a failure, where without it nothing can be checked."""
    if check.status != "skipped":
        return check
    return replace(check, status="failed", needed=what, remedy=remedy)


def _described(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
