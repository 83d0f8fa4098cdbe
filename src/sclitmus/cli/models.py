"""`fetch`, `embed` and `check`: single models and methods."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sclitmus.cli.app import DEFAULTS, OK, SOME_FAILED, Models, app
from sclitmus.errors import SclitmusError

if TYPE_CHECKING:
    from sclitmus.models.weights import Weights


@app.command
def fetch(
    model: str,
    /,
    *,
    into: Path | None = None,
    optional: bool = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False,
) -> int:
    """Bring the published weights of a foundation model from where its authors put them.

    Shows licence, size and source, and asks before it begins. A download that broke off goes on
    where it stopped. Prints the paths of the files.

    Parameters
    ----------
    model
        Its id, see `sclitmus list methods`; dashes and underscores are alike.
    into
        Folder with a folder per model; by default $SCLITMUS_WEIGHTS or ~/.cache/sclitmus/weights.
        Give the same to `sclitmus run --weights`.
    optional
        Bring the files too that the model can do without.
    yes
        Accept the licence and begin without being asked.
    """
    # Not by way of api: this way the notice is there at once.
    from sclitmus.models import fetch as fetching
    from sclitmus.progress import download_bars

    weights = fetching.weights_in(model, into)
    with download_bars(sys.stderr) as on_progress:
        absent = fetching.wanted(weights, optional, on_progress)
    _print_notice(weights, absent)
    if any(file.url for file in absent) and not yes:
        _require_consent(weights)
    with download_bars(sys.stderr) as on_progress:
        paths = fetching.fetch(model, into=into, optional=optional, on_progress=on_progress)
    for path in paths:
        print(path)
    return OK


@app.command
def embed(
    data: str,
    method: str,
    /,
    *,
    out: Path,
    models: Models = DEFAULTS,
    seed: int = 0,
    counts: str | None = None,
    organism: str | None = None,
    invert_lognorm: bool = False,
) -> int:
    """Write the embedding of every cell to a file; an interrupted call goes on where it stopped.

    Parameters
    ----------
    data
        A .h5ad, .zarr, 10x .h5, .loom or .mtx folder, of any size; or the id of a bundled dataset.
    method
        An id of `sclitmus list methods` (also ID@official, ID@random_init), or module:Class.
    out
        .npy (rows in the order of the source), .parquet (keyed by cell id), or .h5ad (a copy of the
        source with the embedding in obsm).
    seed
        Of the random numbers of a method that draws some.
    counts, organism, invert_lognorm
        As for `sclitmus run`.
    """
    from sclitmus import api
    from sclitmus.progress import cells_bar

    def on_start(fitted: Any, remarks: tuple[str, ...]) -> None:
        for line in (*api.notices(fitted.card), *remarks):
            print(line, file=sys.stderr)

    with cells_bar(sys.stderr) as on_progress:
        api.embed(
            data,
            method,
            out=out,
            seed=seed,
            on_start=on_start,
            on_progress=on_progress,
            compute=asdict(models),
            counts=counts,
            organism=organism,
            invert_lognorm=invert_lognorm,
        )
    print(out)
    return OK


@app.command
def check(
    target: str,
    /,
    *,
    label: str | None = None,
    batch: str | None = None,
    data: str = "pbmc68k_reduced",
    models: Models = DEFAULTS,
) -> int:
    """Check a method against the contract, or a data file before a run.

    Of a foundation model it measures, for both behaviours, what an embedding depends on besides the
    cell: its batch-mates, padding, the order of cells and genes, chance.

    Parameters
    ----------
    target
        The id of a method, module:Class of your own, or a data file.
    label, batch
        obs columns, when a data file is checked.
    data
        Cells on which a foundation model is measured.
    """
    from sclitmus import api, catalog

    if target.partition("@")[0] in catalog.MODELS:
        for behaviour, lines in api.stability_lines(target, data, asdict(models)).items():
            print(f"{target}, {behaviour}")
            for line in lines:
                print(f"  {line}")
        return OK
    checks = api.check(target, label=label, batch=batch)
    for item in checks:
        print(item)
    return SOME_FAILED if any(not item.ok for item in checks) else OK


def _print_notice(weights: "Weights", absent: list[Any]) -> None:
    """Say what would be fetched, from where, and on which terms."""
    from sclitmus.progress import size_in_words

    card = weights.card
    lines = [
        f"{card.id}: {card.title}",
        f"  licence  {card.licence}",
        f"  source   {card.source}",
        f"  folder   {weights.folder}",
    ]
    if card.non_commercial:
        lines.append("  NOTE     for non-commercial use only, by the licence of the weights")
    for file in absent:
        size = size_in_words(file.size) if file.size else "size not published"
        lines.append(f"  to fetch {file.name} ({size}) from {file.url}")
        if not file.url:
            lines[-1] = f"  by hand  {file.name}: {file.how or f'see {card.source}'}"
    if not absent:
        lines.append("  all files are there")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _require_consent(weights: "Weights") -> None:
    if not sys.stdin.isatty():
        raise SclitmusError(
            "nobody can be asked: the input is no terminal",
            f"consent to the licence of {weights.card.title} ({weights.card.licence})",
            "run it with --yes",
        )
    print("Accept the licence and fetch? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SclitmusError("nothing was fetched", "consent to the licence", "answer y, or --yes")
