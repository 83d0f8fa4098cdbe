"""Pretrainings of seconds, also in a process of its own: ``python … ARCH OUT KILL_AFTER``."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from planted_corpus import planted

from sclitmus.models.masked_course import Epoch
from sclitmus.models.pretraining import pretrain
from sclitmus.models.pretraining_settings import Settings

SMALL: dict[str, dict[str, Any]] = {
    "scgpt": {
        "model": {"embsize": 16, "nheads": 2, "d_hid": 16, "nlayers": 2},
        "training": {"lr": 5e-3, "schedule": "constant", "gamma": 1.0},
    },
    "geneformer": {
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        },
        "training": {"lr": 5e-3, "schedule": "constant", "warmup": 0, "weight_decay": 0.0},
    },
    "scbert": {
        "model": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8},
        "objective": {"gene_vectors": "trained"},
        "training": {"lr": 1e-2, "schedule": "constant", "clip": 1.0},
    },
}


def settings(arch: str, epochs: int, **changes: dict[str, Any]) -> Settings:
    """Return the settings of a small model; `changes` are of its tables."""
    tables = {name: dict(table) for name, table in SMALL[arch].items()}
    tables["training"] |= {"epochs": epochs, "batch_cells": 16}
    tables["validation"] = {"share": 0.25, "warn_after": 2}
    tables["corpus"] = {"block_cells": 32, "window_blocks": 3}
    for name, table in changes.items():
        tables[name] = {**tables.get(name, {}), **table}
    return Settings.of(arch, tables)


def killing(epoch: Epoch) -> None:
    """Die as by kill -9 once so many epochs are over; see `__main__`."""
    if epoch.number > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    pretrain(
        [planted(96, 30)], settings(sys.argv[1], 4), Path(sys.argv[2]), seed=3, device="cpu",
        on_epoch=killing,
    )  # fmt: skip
