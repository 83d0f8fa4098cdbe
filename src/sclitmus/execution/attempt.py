"""The one place where everything is caught: what a method or a task raises becomes a value."""

import traceback
from collections.abc import Callable
from typing import TypeVar

from sclitmus.core.record import Absent
from sclitmus.errors import NotApplicable, StoreError

T = TypeVar("T")


def attempt(action: Callable[[], T]) -> T | Absent:
    """Return what `action` returns, or why it did not; a traceback goes to standard error.

    Raises
    ------
    StoreError
        If that is what `action` raised: everything else would meet it too.
    """
    try:
        return action()
    except NotApplicable as refusal:
        return Absent("not_applicable", refusal.reason)
    except StoreError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of others; it may even exit()
        traceback.print_exc()
        return failure(error)


def failure(error: BaseException) -> Absent:
    """Name an exception and what it says, in one paragraph."""
    return Absent("failed", f"{type(error).__name__}: {error}"[:2000])
