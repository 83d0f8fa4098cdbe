"""Published checkpoint files → tensors → a network, with every key accounted for.

Nothing of a file is executed: torch files are read with ``weights_only=True``, other pickles by
an unpickler that knows a few harmless types. Tensors are memory-mapped. A network is filled
completely or not at all.
"""

import io
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sclitmus.errors import WeightsError
from sclitmus.models.pickles import PlainUnpickler, stand_in, stand_ins_for
from sclitmus.models.weights import HEAD_BYTES, foreign

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, lightning
EXAMPLES = 5
ZIP = b"PK\x03\x04"
ADVICE = re.compile(r"Weights only load failed|weights_only|https?://")  # torch's, not on the file

# What a damaged pickle makes its reader raise, as met in fuzzing: it calls what the bytes say.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)


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


def read_torch(path: Path, inert: Iterable[str] | Literal["any"] = ()) -> Any:
    """Read a file written by ``torch.save``: tensors memory-mapped where the format allows it.

    Parameters
    ----------
    inert
        Types ("module.Name") that the file may mention and that are not needed: they are read as
        objects that hold what they were given and do nothing. ``"any"``: whatever the file
        mentions beside tensors, plain containers and numpy arrays.

    Raises
    ------
    WeightsError
        If it is no such file, is cut short, or holds other objects than data.
    """
    refuse_foreign(path)
    try:
        stand_ins = stand_ins_for(path) if inert == "any" else [stand_in(name) for name in inert]
        with torch.serialization.safe_globals(stand_ins):
            # The format of before torch 1.6 is no zip: nothing in it can be mapped.
            mmap = _head(path).startswith(ZIP)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except DAMAGE as error:
        raise _unreadable(path, error) from error


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
    except (SafetensorError, ValueError, RuntimeError, KeyError, OSError) as error:
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
        return PlainUnpickler(io.BytesIO(path.read_bytes()), allowed or {}).load()
    except DAMAGE as error:
        raise _unreadable(path, error) from error


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is evidently something else: empty, a web page, a pointer, an archive.

    Raises
    ------
    WeightsError
        If so.
    """
    try:
        kind = foreign(_head(path))
    except OSError as error:  # not there, a folder, or not to be read
        raise WeightsError(
            f"{path} cannot be opened: {error.strerror or error}",
            "a readable file",
            "check the path and its permissions",
        ) from error
    if kind:
        raise WeightsError(
            f"{path} is {kind}", "the published file itself", "download or unpack it again"
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """Say in one sentence why a file cannot be read; torch's own texts advise to run its code."""
    named = re.search(r"(?:GLOBAL |type |class |function )([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and named:
        return WeightsError(
            f"{path} refers to {named[1]}, which is not data",
            "tensors, numbers, texts, lists and dictionaries only: nothing that runs",
            "get the file from the official source again; do not open it in another way",
        )
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) cannot be read{_guess(path)}: {_reason(error)}",
        "a whole checkpoint file as published",
        "compare its size with the published one, delete it, and download it again",
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _reason(error: Exception) -> str:
    """The line of an error's text that says what is wrong with the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = [line for line in lines if not ADVICE.search(line)]
    reason = chosen[0] if chosen else type(error).__name__
    return reason.removeprefix("WeightsUnpickler error: ").partition(". This is an internal")[0]


def _guess(path: Path) -> str:
    """Say what an unreadable file may be."""
    head = _head(path)
    if head.startswith(ZIP):
        try:
            names = zipfile.ZipFile(path).namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return "; it is damaged or cut short"
        torch_made = any(name.endswith("data.pkl") for name in names)
        return "" if torch_made else "; it is a zip archive of something else, to be unpacked"
    if head[8:9] == b"{":
        return "; it looks like a .safetensors file, perhaps cut short"
    if tarfile.is_tarfile(path):
        return "; it is a tar archive, to be unpacked"
    return "; it may have been cut short"


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
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(
            f"{path} holds no table of tensors; {_described(state)}",
            "a state dict",
            "check that this is the model's own checkpoint",
        )
    others = [
        f"{name!r} is a {type(value).__name__}"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise WeightsError(
            f"{path} holds other things than tensors: {_some(others)}; {_described(state)}",
            "a state dict: names and tensors",
            "check that this is the model's own checkpoint",
        )
    return dict(state)


def _described(state: Any) -> str:
    if not isinstance(state, Mapping):
        return f"it holds a {type(state).__name__}"
    return f"it has {_some([str(name) for name in state]) or 'nothing'}"


def _some(names: list[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


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
    came_from: dict[str, str] = {}
    renamed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    doubled: list[str] = []
    for key, tensor in tensors.items():
        reason = next((why for p, why in (unused or {}).items() if re.fullmatch(p, key)), None)
        if reason is not None:
            left_out[key] = reason
            continue
        name = _renamed(key, rename or {})
        if name in ready:
            doubled.append(f"{came_from[name]} and {key} both are {name}")
        if name != key:
            renamed[key] = name
        ready[name], came_from[name] = tensor, key
    expected = network.state_dict(keep_vars=True)
    tied = _tied(expected)
    for name, first in tied.items():  # a file may hold what is shared only once
        for absent, other in ((name, first), (first, name)):
            if absent not in ready and other in ready:
                ready[absent] = ready[other]
    both = [name for name in expected if name in ready]
    _refuse(
        network,
        source,
        {
            "missing": [name for name in expected if name not in ready],
            "unexpected": [name for name in ready if name not in expected],
            "twice": doubled,
            "shape": [
                f"{name} is {tuple(ready[name].shape)}, needed {tuple(expected[name].shape)}"
                for name in both
                if ready[name].shape != expected[name].shape
            ],
            "type": [
                f"{name} is {ready[name].dtype}, needed {expected[name].dtype}"
                for name in both
                if ready[name].is_floating_point() != expected[name].is_floating_point()
            ],
            "different although the network shares them": [
                f"{first} and {name}"
                for name, first in tied.items()
                if name in ready and first in ready and not _same(ready[name], ready[first])
            ],
        },
    )
    for name, tensor in ready.items():
        if tensor.is_floating_point():
            tensor = tensor.float()
        ready[name] = tensor.contiguous()
    for name, first in tied.items():
        ready[name] = ready[first]
    network.load_state_dict(ready, strict=True, assign=True)
    for name, first in tied.items():  # `assign` made two parameters of it
        setattr(*_place(network, name), getattr(*_place(network, first)))
    network.requires_grad_(False).eval()
    return LoadReport(len(expected), renamed, left_out)


def _refuse(network: torch.nn.Module, source: Path, faults: Mapping[str, list[str]]) -> None:
    found = [f"{what}: {_some(names)}" for what, names in faults.items() if names]
    if found:
        raise WeightsError(
            f"{source} does not fit {type(network).__name__}: {'; '.join(found)}",
            f"exactly the {len(network.state_dict())} tensors of the network",
            "check that checkpoint, configuration and dictionaries belong to the same model",
        )


def _tied(state: Mapping[str, Any]) -> dict[str, str]:
    """Return name → the first name of the same tensor, for tensors that have several."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in state.items():
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))


def _place(network: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    module, _, attribute = name.rpartition(".")
    return network.get_submodule(module), attribute


def _renamed(key: str, rename: Mapping[str, str]) -> str:
    for pattern, name in rename.items():
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(name)
    return key
