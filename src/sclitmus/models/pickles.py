"""What a pickle may mention, and what stands in for the rest: nothing that does anything."""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_MULTIARRAY: Any = np._core.multiarray
_NUMERIC: Any = np._core.numeric
NUMPY: dict[
    str, Any
] = {  # by which numpy writes scalars and arrays, up to protocol 4 and from 5 on
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "numpy._core.multiarray.scalar": _MULTIARRAY.scalar,
    "numpy._core.multiarray._reconstruct": _MULTIARRAY._reconstruct,
    "numpy._core.numeric._frombuffer": _NUMERIC._frombuffer,
}


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)  # how protocol 2 writes bytes


PLAIN: dict[str, Any] = NUMPY | {
    "collections.OrderedDict": dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytes": bytes,
    "_codecs.encode": _encode,
}


def current(name: str) -> str:
    """Return today's name of a type; numpy 1 and Python 2 (protocols below 3) had others."""
    name = name.replace("numpy.core.", "numpy._core.", 1)
    return name.replace("__builtin__.", "builtins.", 1)


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, containers and numpy arrays, and refuses any other type by its name.

    Parameters
    ----------
    allowed
        Further types by "module.name", with what to make of each.
    """

    def __init__(self, file: io.BytesIO, allowed: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(file)
        self._known = PLAIN | {current(full): make for full, make in allowed.items()}

    def find_class(self, module: str, name: str) -> Any:
        full = current(f"{module}.{name}")
        if full not in self._known:
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        return self._known[full]


def stand_in(name: str) -> tuple[Any, str]:
    """Return a type that holds what it is given and does nothing, and the name it stands in for."""
    module, _, short = name.rpartition(".")

    class Inert:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.args, self.kwargs = args, kwargs

        def __setstate__(self, state: Any) -> None:
            self.state = state

    Inert.__name__ = Inert.__qualname__ = short
    Inert.__module__ = module
    return Inert, name


def stand_ins_for(path: Path) -> list[Any]:
    """Return stand-ins for the types a torch file mentions: themselves where they are plain."""
    plain = NUMPY | {"collections.defaultdict": lambda *_: {}, "builtins.bytes": bytes}
    mentioned = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    kinds = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")]
    named = [
        (plain[current(name)], name) if current(name) in plain else stand_in(name)
        for name in mentioned
    ]
    return named + kinds
