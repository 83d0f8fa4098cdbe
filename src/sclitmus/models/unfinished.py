"""What the finished blocks of an interrupted run gave, so that the next run goes on from there."""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

ENVIRONMENT = "SCLITMUS_CACHE"
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,  # a zip of a version that does not exist
    zipfile.BadZipFile,
    zlib.error,
)


def cache_home() -> Path:
    """Folder of what may be deleted at any time: $SCLITMUS_CACHE, or ~/.cache/sclitmus."""
    given = os.environ.get(ENVIRONMENT)
    return Path(given) if given else Path.home() / ".cache" / "sclitmus"


class Unfinished:
    """Blocks of one embedding, each a file, with the state of the random stream behind it.

    Where the folder cannot be written, nothing is kept and nothing fails.

    Parameters
    ----------
    identity
        Everything that the embedding depends on: cells, model, settings, random stream, blocks.
    """

    def __init__(self, *identity: str) -> None:
        digest = hashlib.blake2b("\x1f".join(identity).encode(), digest_size=16).hexdigest()
        self.folder = cache_home() / "unfinished" / digest

    def find(self, block: int) -> tuple[Float32[np.ndarray, "n_rows d"], Mapping[str, Any]] | None:
        """Return what a block gave and the state behind it, if it was finished and is whole."""
        try:
            with np.load(self.folder / f"{block:06d}.npz", allow_pickle=False) as file:
                return file["z"], json.loads(str(file["state"]))
        except DAMAGE:
            return None

    def keep(
        self, block: int, z: Float32[np.ndarray, "n_rows d"], state: Mapping[str, Any]
    ) -> None:
        """Write a finished block, whole or not at all."""
        target = self.folder / f"{block:06d}.npz"
        written = target.with_name(f"{target.stem}.{os.getpid()}.new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with written.open("wb") as file:
                np.savez(file, z=z, state=np.array(json.dumps(state)))
            written.replace(target)
        except OSError:  # a full or read-only disk costs the resuming, not the run
            with suppress(OSError):
                written.unlink()

    def drop(self) -> None:
        """Forget all blocks: the embedding is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stream_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return all that the next draws of a stream depend on."""
    seeds = rng.bit_generator.seed_seq
    spawned = getattr(seeds, "n_children_spawned", 0)
    return {"bits": _plain(rng.bit_generator.state), "spawned": spawned}


def set_stream(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put a stream, made of the same seed, into the state of another moment."""
    rng.bit_generator.state = state["bits"]
    seeds = rng.bit_generator.seed_seq
    behind = state["spawned"] - getattr(seeds, "n_children_spawned", 0)
    if behind > 0:
        seeds.spawn(behind)  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return int(value) if isinstance(value, np.integer) else value
