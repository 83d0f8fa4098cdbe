"""Does a method take its randomness from where it is told, and from there only?"""

import pickle
import random
import sys
from collections.abc import Callable, Mapping

import numpy as np

from sclitmus.testing.report import ContractError, Finding
from sclitmus.testing.trial import TOLERANCE, Trial


def _same_seed(trial: Trial) -> Finding:
    trial.fit(trial.visible, trial.seed + 1)  # what went before must not matter
    off = trial.difference(trial.fit_embed(trial.visible), trial.z)
    if off <= TOLERANCE:
        return "" if off == 0 else f"equal within {off:.1g} standard deviations"
    raise ContractError(
        f"the same seed gave another embedding, off by {off:.2g} standard deviations",
        "equal rng, equal embedding",
        "take all randomness from rng, seed torch from it inside fork_rng, and do not change "
        "self in fit",
    )


def _other_seed(trial: Trial) -> Finding:
    z = trial.fit_embed(trial.visible, trial.seed + 1)
    if trial.card.deterministic and trial.difference(z, trial.z) > TOLERANCE:
        raise ContractError(
            "another seed gave another embedding, and the card says deterministic=True",
            "deterministic=False, so that seeds are run and shown apart",
            "set deterministic=False on the card",
        )
    if not trial.card.deterministic and np.array_equal(z, trial.z):
        raise ContractError(
            "another seed gave the same embedding, and the card says deterministic=False",
            "deterministic=True, or every seed of a study runs for nothing",
            "set deterministic=True on the card, or use rng",
        )
    return "no effect" if trial.card.deterministic else "another embedding, as the card says"


def _global_state(trial: Trial) -> Finding:
    torch = sys.modules.get("torch")
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what is watched
    torchs = None if torch is None else torch.get_rng_state()
    try:
        # A state of our own: a method that always seeds alike would leave its own as it found it.
        random.seed(20251)
        np.random.seed(20251)  # noqa: NPY002
        if torch is not None:
            torch.manual_seed(20251)
        before = _global_generators()
        trial.fit_embed(trial.visible)
        after = _global_generators()
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(torchs)
    changed = [name for name, state in before.items() if after[name] != state]
    if changed:
        raise ContractError(
            f"fit or embed used the global random state of {', '.join(changed)}",
            "randomness from rng only: a global seed makes a result depend on what ran before",
            "use rng; for torch, seed inside torch.random.fork_rng()",
        )
    return ""


def _global_generators() -> dict[str, bytes]:
    states = {
        "random": pickle.dumps(random.getstate()),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
    }
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states


CHECKS: Mapping[str, Callable[[Trial], Finding]] = {
    "same_seed": _same_seed,
    "other_seed": _other_seed,
    "global_state": _global_state,
}
