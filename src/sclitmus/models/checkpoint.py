"""Published checkpoint files → tensors → a network, with every key accounted for.

Nothing of a file is executed: torch files are read with ``weights_only=True``, other pickles by
an unpickler that knows a few harmless types. Tensors are memory-mapped. A network is filled
completely or not at all.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sclitmus.errors import WeightsError

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, lightning
EXAMPLES = 5


@dataclass(frozen=True)
class LoadReport:
    """What became of each key of a checkpoint.

    Attributes
    ----------
    loaded
        Number of tensors in the network that were filled.
    renamed
        Key in the file → name in the network, where they differ.
    unused
        Key in the file → why the network has no place for it.
    """

    loaded: int
    renamed: Mapping[str, str]
    unused: Mapping[str, str]


def read_torch(path: Path, inert: Iterable[str] = ()) -> Any:
    """Read a file written by ``torch.save``: tensors memory-mapped where the format allows it.

    Parameters
    ----------
    inert
        Types ("module.Name") that the file may mention and that are not needed: they are read as
        objects that hold what they were given and do nothing.

    Raises
    ------
    WeightsError
        If it is no such file, is cut short, or holds other objects than data.
    """
    refuse_foreign(path)
    stand_ins = [_inert(name) for name in inert]
    try:
        with torch.serialization.safe_globals(stand_ins):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):  # written before torch 1.6: no zip to map
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _inert(name: str) -> tuple[Any, str]:
    module, _, short = name.rpartition(".")

    class Inert:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.args, self.kwargs = args, kwargs

        def __setstate__(self, state: Any) -> None:
            self.state = state

    Inert.__name__ = Inert.__qualname__ = short
    Inert.__module__ = module
    return Inert, name


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a .safetensors file, memory-mapped.

    Raises
    ------
    WeightsError
        If it is no such file or is cut short.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_foreign(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors


def read_pickle(path: Path, allowed: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Read a pickle of plain data: numbers, texts, lists, dictionaries, numpy scalars and arrays.

    Parameters
    ----------
    allowed
        Further types by "module.name", with what to make of each.

    Raises
    ------
    WeightsError
        If it is no pickle, is cut short, or names any other type.
    """
    refuse_foreign(path)
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), allowed or {}).load()
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        raise _unreadable(path, error) from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, allowed: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        known: dict[str, Any] = {
            "numpy.dtype": np.dtype,
            "numpy.ndarray": np.ndarray,
            "collections.OrderedDict": dict,
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "_codecs.encode": _codecs_encode,
        }
        full = f"{module}.{name}"
        if full in self._allowed:
            return self._allowed[full]
        if full in known:
            return known[full]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "scalar",
            "_reconstruct",
        ):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        raise WeightsError(
            f"the pickle refers to {full}",
            "numbers, texts, lists, dictionaries and numpy arrays only: nothing that runs",
            "get the file from the official source again; do not open it with pickle",
        )


def _codecs_encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)  # how protocol 2 writes bytes


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is evidently something else: empty, a web page, a pointer, an archive.

    Raises
    ------
    WeightsError
        If so.
    """
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    kind = ""
    if not head:
        kind = "an empty file"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        kind = "a web page (a host's error or consent page saved under this name)"
    elif head.startswith(b"version https://git-lfs"):
        kind = "a Git LFS pointer, not the file it points to"
    elif head.startswith(b"\x1f\x8b"):
        kind = "a gzip archive"
    if kind:
        raise WeightsError(
            f"{path} is {kind}", "the published file itself", "download or unpack it again"
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    said = str(error).strip().splitlines()
    reason = said[0] if said else type(error).__name__
    size = path.stat().st_size
    whole = zipfile.is_zipfile(path)
    cut = "" if whole else "; it may have been cut short"
    return WeightsError(
        f"{path} ({size} bytes) cannot be read: {reason}{cut}",
        "a whole checkpoint file as published",
        "compare its size with the published one and download it again",
    )


def tensors_of(state: Any, path: Path, *keys: str) -> dict[str, torch.Tensor]:
    """Return the tensors in what a file held, found under `keys` one after another.

    Parameters
    ----------
    keys
        For example ``"model_state_dict"``; a key that is not there is an error.

    Raises
    ------
    WeightsError
        If there are none.
    """
    for key in keys:
        if not isinstance(state, Mapping) or key not in state:
            raise WeightsError(
                f"{path} has no {key!r}; {_described(state)}",
                f"a checkpoint with {' → '.join(keys)}",
                "check that this is the model's own checkpoint",
            )
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"{path} holds no plain table of tensors; {_described(state)}",
            "a state dict",
            "check that this is the model's own checkpoint",
        )
    return dict(state)


def _described(state: Any) -> str:
    if not isinstance(state, Mapping):
        return f"it holds a {type(state).__name__}"
    names = [str(name) for name in state]
    more = ", …" if len(names) > EXAMPLES else ""
    return f"it has {', '.join(names[:EXAMPLES]) or 'nothing'}{more}"


def without_prefix(
    tensors: Mapping[str, torch.Tensor], prefixes: Iterable[str] = PREFIXES
) -> dict[str, torch.Tensor]:
    """Strip the prefixes that wrappers put before every key."""
    stripped = dict(tensors)
    again = True
    while again:
        again = False
        for prefix in prefixes:
            if stripped and all(name.startswith(prefix) for name in stripped):
                stripped = {name.removeprefix(prefix): t for name, t in stripped.items()}
                again = True
    return stripped


def fill(
    network: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: Path,
    *,
    rename: Mapping[str, str] | None = None,
    unused: Mapping[str, str] | None = None,
) -> LoadReport:
    """Put the tensors of a checkpoint into a network, in float32, all of them or none.

    Parameters
    ----------
    network
        Made on the meta device, or anywhere: its tensors are replaced.
    rename
        Regular expression over a whole key → the name in the network (may use ``\\1``).
    unused
        Regular expression over a whole key → why this network has no place for it.

    Raises
    ------
    WeightsError
        If a tensor of the network is missing in the file, one of the file is neither used nor
        listed as unused, or a shape differs. Names the keys.
    """
    ready: dict[str, torch.Tensor] = {}
    renamed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for key, tensor in tensors.items():
        name = _renamed(key, rename or {})
        if name != key:
            renamed[key] = name
        reason = next((why for p, why in (unused or {}).items() if re.fullmatch(p, key)), None)
        if reason is not None:
            left_out[key] = reason
        else:
            ready[name] = tensor.float() if tensor.is_floating_point() else tensor
    expected = network.state_dict()
    missing = [name for name in expected if name not in ready]
    unexpected = [name for name in ready if name not in expected]
    reshaped = [
        f"{name} is {tuple(ready[name].shape)}, needed {tuple(expected[name].shape)}"
        for name in expected
        if name in ready and ready[name].shape != expected[name].shape
    ]
    faults = [
        f"{what}: {', '.join(names[:EXAMPLES])}" + (f" and {len(names) - EXAMPLES} more" * (len(names) > EXAMPLES))
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shape", reshaped))
        if names
    ]
    if faults:
        raise WeightsError(
            f"{source} does not fit {type(network).__name__}: {'; '.join(faults)}",
            f"exactly the {len(expected)} tensors of the network",
            "check that checkpoint, configuration and dictionaries belong to the same model",
        )
    network.load_state_dict(ready, strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return LoadReport(len(ready), renamed, left_out)


def _renamed(key: str, rename: Mapping[str, str]) -> str:
    for pattern, name in rename.items():
        key, n = re.subn(f"^(?:{pattern})$", name, key)
        if n:
            return key
    return key
