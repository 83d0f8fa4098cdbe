"""How a learning rate changes while a network is trained."""

import math
from dataclasses import dataclass
from typing import Literal

CYCLE = 15  # epochs of scBERT's first cycle; each next one's descent is twice as long …
RISE = 5  # … behind as many epochs of warm-up, of each cycle …
PEAK = 0.9  # … and its peak lower by this factor
FLOOR = 0.01  # of the learning rate, where a cycle begins and ends
WARMUP_SHARE = 0.1  # of all steps: warm-up of a short training is no longer


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate.

    Parameters
    ----------
    kind
        ``"constant"``. ``"decay"``: times `gamma` after every epoch. ``"linear"``: up over `warmup`
        steps, or a tenth of all steps where that is less, and down to 0 at the last one.
        ``"cycles"``: per epoch, up in 5 from a hundredth and down a cosine in 10, then again, as
        scBERT has it.
    """

    kind: Literal["constant", "decay", "linear", "cycles"] = "constant"
    gamma: float = 1.0
    warmup: int = 0

    def factor(self, step: int, n_steps: int, n_total: int) -> float:
        """Return the factor at a step (from 0), with `n_steps` per epoch and `n_total` in all."""
        if self.kind == "decay":
            return float(self.gamma ** (step // n_steps))
        if self.kind == "linear":
            warmup = min(self.warmup, math.ceil(WARMUP_SHARE * n_total))
            if step < warmup:
                return step / warmup
            return (n_total - step) / max(1, n_total - warmup)
        if self.kind == "cycles":
            return _cycles(step // n_steps)
        return 1.0


def _cycles(epoch: int) -> float:
    length, peak = CYCLE, 1.0
    while epoch >= length:
        epoch -= length
        length = 2 * (length - RISE) + RISE
        peak *= PEAK
    if epoch < RISE:
        return FLOOR + (peak - FLOOR) * epoch / RISE
    turn = math.pi * (epoch - RISE) / (length - RISE)
    return FLOOR + (peak - FLOOR) * (1 + math.cos(turn)) / 2
