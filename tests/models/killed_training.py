"""A fine-tuning that kills its own process with signal 9 at a given step: see test_fine_tuned."""

import os
import signal
import sys

import numpy as np
import torch
from test_fine_tuned import SHORT, load, simulated

from sclitmus.core import activity


def deadly(what: str, done: int, total: int) -> None:
    if what == "training" and done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with activity.heard_by(deadly):
        load("scgpt@random_init@full", **SHORT).fit(simulated(), np.random.default_rng(5))
