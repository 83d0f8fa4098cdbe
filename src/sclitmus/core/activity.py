"""How a long call tells whoever listens how far it is, without knowing who that is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], object]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def say(activity: str, done: int, total: int) -> None:
    """Report that `done` of `total` units (cells) of an activity are finished."""
    listener = _listener.get()
    if listener is not None:
        listener(activity, done, total)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Send what is said inside to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
