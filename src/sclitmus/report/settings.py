"""How much was learned from, read from the name of a metric: ``macro_f1.k4``, ``macro_f1.p50``."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sclitmus.report.text import joined

_ORDER = ("shots", "share", "all")


@dataclass(frozen=True)
class Amount:
    """How many training cells a setting has.

    Attributes
    ----------
    name
        ``k4``, ``p50`` or ``all``, as it stands behind the dot of a metric.
    kind
        ``shots``: cells per type; ``share``: percent of the training cells; ``all`` of them.
    number
        Of cells per type, or percent.
    """

    name: str
    kind: Literal["shots", "share", "all"]
    number: float

    @property
    def place(self) -> tuple[int, float]:
        """Sorts from few cells to all."""
        return _ORDER.index(self.kind), self.number


def amount_of(setting: str) -> Amount | None:
    """Read a setting; None if it says something else."""
    if setting == "all":
        return Amount(setting, "all", 100.0)
    found = re.fullmatch(r"([kp])(\d+(?:\.\d+)?)", setting)
    if found is None:
        return None
    return Amount(setting, "shots" if found[1] == "k" else "share", float(found[2]))


def amounts(settings: Iterable[str]) -> list[Amount]:
    """Return those settings that say how much was learned from, from few cells to all."""
    found = (amount_of(setting) for setting in settings)
    return sorted((a for a in found if a is not None), key=lambda a: a.place)


def in_words(settings: Sequence[Amount]) -> str:
    """Return ``4 and 8 cells per type, 10% of the training cells and all training cells``."""
    shots = [f"{a.number:g}" for a in settings if a.kind == "shots"]
    shares = [f"{a.number:g}%" for a in settings if a.kind == "share"]
    parts = []
    if shots:
        parts.append(f"{joined(shots)} {'cell' if shots == ['1'] else 'cells'} per type")
    if shares:
        parts.append(f"{joined(shares)} of the training cells")
    if any(a.kind == "all" for a in settings):
        parts.append("all training cells")
    return joined(parts)
