"""A number carries its scale: what a metric is called, which way is better, its bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A scoring function with its scale.

    Attributes
    ----------
    id
        Name in records, unique in the catalogue.
    compute
        The function behind the number. Zero-shot tasks call it with a
        `metrics.suite.ScoredEmbedding`: it returns a float, or ``{unit: float}`` where the score
        is one per type, donor or perturbation, or raises `NotApplicable`. Tasks about labels
        call it with arrays, as its own docstring says. NaN is recorded as a failure, never as 0.
    direction
        Which way is better.
    bounds
        Smallest and largest value possible.
    chance
        Expected value for an embedding that knows nothing, or None where it depends on the data
        (the measured floor says it then).
    side
        ``types`` (are types kept?), ``batches`` (are batches mixed?) or ``both``.
    unit
        What the value is about: ``dataset``, or ``type`` for one value per type.
    version
        Raised by hand when the definition changes; values of different versions never mix.
    compat
        Whether ``compat="scib"`` has its own definition.
    """

    id: str
    compute: Callable[..., Any]
    title: str
    summary: str
    bounds: tuple[float, float]
    direction: Literal["higher", "lower"] = "higher"
    chance: float | None = None
    side: Literal["types", "batches", "both"] = "types"
    unit: Literal["dataset", "type", "donor", "group", "pair", "bin", "perturbation"] = "dataset"
    version: str = "1"
    doi: str = ""
    compat: bool = False
