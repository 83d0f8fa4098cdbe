"""`pretrain`: a model from scratch, on cells of one's own."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from sclitmus.cli.app import OK, Files, app

CLEAR = "\x1b[2K"  # the line of a terminal


@app.command
def pretrain(
    *,
    arch: Literal["scgpt", "geneformer", "scbert"],
    data: Annotated[list[Path], Parameter(negative=(), consume_multiple=True)],
    config: Path,
    out: Path,
    seed: int = 0,
    without: Files = [],  # noqa: B006 - cyclopts reads the default, nothing appends to it
    device: str | None = None,
    precision: str | None = None,
    organism: str | None = None,
) -> int:
    """Train a model to predict hidden genes, beside what the mean of each gene predicts.

    Writes the model as its authors publish theirs, so that it runs like a published one: sclitmus
    run CELLS --methods scgpt --weights OUT. A killed call goes on when it is made again.

    Parameters
    ----------
    arch
        Which model's network, way of reading a cell, and objective.
    data
        Files of raw counts (.h5ad, .zarr, …), or folders with some; they may be larger than memory.
    config
        A .toml file; studies/pretrain has examples, docs/pretraining.md every setting.
    out
        Folder of its own for the model, and training.json, with losses, averages and verdict.
    seed
        Of weights, held-out cells, order and hidden genes.
    without
        Files that the model will be assessed on: cells that are also in them, by their counts, are
        not trained on. May be given several times.
    device
        cpu, cuda or cuda:N; by default a GPU where there is one.
    precision
        float32, bfloat16 or float16; by default bfloat16 on a GPU and float32 elsewhere.
    organism
        human, mouse, …; by default recognised by the gene names.
    """
    from sclitmus import api

    made = api.pretrain(
        arch,
        data,
        config=config,
        out=out,
        seed=seed,
        without=without,
        device=device or "auto",
        precision=precision or "auto",
        organism=organism,
        on_progress=_print_progress,
        on_epoch=_print_epoch,
    )
    _print_results(made.record)
    print(f"\n{made.verdict}\n{out}")
    return OK


def _print_progress(activity: str, done: int, total: int) -> None:
    """Show on one line of a terminal what is done; a log has the epochs."""
    if sys.stderr.isatty():
        print(f"\r{CLEAR}{activity} {done:,}/{total:,}", end="", file=sys.stderr, flush=True)


def _print_epoch(epoch: Any) -> None:
    measured = "  ".join(f"{name} {value:.4g}" for name, value in epoch.validation.items())
    against = f"  {epoch.skill}" if epoch.skill is not None else ""
    start = f"\r{CLEAR}" if sys.stderr.isatty() else ""
    line = f"{start}epoch {epoch.number}  trained {epoch.loss:.4g}  held out {measured}{against}"
    print(line, file=sys.stderr, flush=True)


def _print_results(record: Any) -> None:
    """Print the measures of model and averages as a table."""
    results = record["validation"]
    rows = {"model": results["model"], **results["averages"]}
    measures = [name for name in results["model"] if name != "loss"]
    width = max(map(len, rows))
    print(" " * width, *(f"{name:>14}" for name in measures))
    for name, values in rows.items():
        cells = (f"{values[m]:14.4f}" if m in values else " " * 14 for m in measures)
        print(f"{name:<{width}}", *cells)
