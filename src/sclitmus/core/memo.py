"""How a costly result that several processes need is made by one of them only.

A task asks for it by a key that says all it depends on, without knowing whether anyone keeps it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

Make = Callable[[], np.ndarray]
Keeper = Callable[[str, Make], np.ndarray]

_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


def remembered(key: str, make: Make) -> np.ndarray:
    """Return what is kept under `key`, or make it."""
    keeper = _keeper.get()
    return make() if keeper is None else keeper(key, make)


@contextmanager
def kept_by(keeper: Keeper) -> Iterator[None]:
    """Let `keeper` find, or make and keep, what is asked for inside."""
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)
