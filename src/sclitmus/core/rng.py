"""Randomness by name: the same (seed, names) always gives the same stream, on every machine.

A global seed makes a result depend on what ran before it. A named stream does not: adding a
method, a task or a split leaves every other stream as it was, and two methods that ask for the
same name get the same draws, which is what makes comparisons paired.
"""

import hashlib

import numpy as np


def rng_for(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random stream called `names` under `seed`.

    Parameters
    ----------
    seed
        The study's seed for this repetition, 0 or greater.
    names
        What the stream is for, for example ``("split", dataset_hash, "half-03")``.
    """
    text = "\x1f".join(str(name) for name in names)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence([seed, *map(int, words)]))
