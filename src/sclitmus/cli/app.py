"""The application that the verbs are added to, and what several of them take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from sclitmus import __version__

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="sclitmus",
    help="A litmus test for single-cell foundation models: does the model beat what is simple, "
    "on your data, and how sure are we?",
    version=__version__,
    default_parameter=Parameter(negative=()),
)

Names = Annotated[str, Parameter(help="Comma-separated ids.")]
Pairs = Annotated[list[str], Parameter(negative=(), consume_multiple=False)]
Files = Annotated[list[Path], Parameter(negative=(), consume_multiple=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Models:
    """How foundation models run.

    Parameters
    ----------
    weights
        Folder with the published files of a foundation model, or with one folder per model.
    device
        cpu, cuda or cuda:N; by default a GPU where there is one.
    precision
        float32, bfloat16 or float16; by default bfloat16 on a GPU and float32 elsewhere.
    batch_tokens
        Tokens that pass through a network at once; by default found.
    min_matched
        Smallest share of the genes that a foundation model must know, by default 0.5.
    """

    weights: Path | None = None
    device: str | None = None
    precision: str | None = None
    batch_tokens: int | None = None
    min_matched: float | None = None


DEFAULTS = Models()
