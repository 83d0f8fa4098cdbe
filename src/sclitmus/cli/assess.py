"""`demo` and `run`: from data to a verdict."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from sclitmus.cli.app import DEFAULTS, OK, SOME_FAILED, Files, Models, Pairs, app
from sclitmus.cli.results import print_verdict
from sclitmus.errors import SclitmusError


@app.command
def demo(*, out: Path = Path("sclitmus-demo"), jobs: int | None = None) -> int:
    """Run the whole way on 700 real blood cells that come with scanpy; no weights, no download.

    Parameters
    ----------
    out
        Folder for the report and the tables.
    jobs
        Trials run at the same time; by default one per core.
    """
    return run("pbmc68k_reduced", out=out, jobs=jobs)


@app.command
def run(
    data: str,
    /,
    *,
    label: str | None = None,
    batch: str | None = None,
    donor: str | None = None,
    group: str | None = None,
    lineage: str | None = None,
    methods: str = "",
    tasks: str = "",
    seeds: int = 1,
    embedding: Pairs = [],  # noqa: B006 - cyclopts reads the default, nothing appends to it
    command: Pairs = [],  # noqa: B006
    out: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    references: Annotated[bool, Parameter(negative="--no-references")] = True,
    umap: Annotated[bool, Parameter(negative="--no-umap")] = True,
    counts: str | None = None,
    obs: Path | None = None,
    organism: str | None = None,
    invert_lognorm: bool = False,
    compat: Literal["", "scib"] = "",
    splits: Files = [],  # noqa: B006
    models: Models = DEFAULTS,
) -> int:
    """Assess methods on a dataset, or run a study file, and write report.html.

    Exit status: 0 when every trial succeeded or does not apply, 1 when some trial failed (the
    report is written all the same), 2 when the input cannot be used.

    Parameters
    ----------
    data
        A .h5ad, .zarr, 10x .h5, .loom or .mtx folder; a study (.toml); or the id of a bundled
        dataset (`sclitmus list datasets`).
    label
        obs column with the cell types.
    batch
        obs column with the batches.
    donor
        obs column with the donors; with six or more, intervals are about other donors, and
        labels are never learned from a donor that is tested.
    group
        obs column whose groups task transfer holds out in turn: organ, study, technology.
    lineage
        obs column with coarse types, by which novel_types tells near types from far ones.
    methods
        Comma-separated ids, or module:Class of your own, beside the references that always run.
    tasks
        Comma-separated ids; by default the zero-shot ones whose columns are given.
    seeds
        Repetitions of every method that is not deterministic.
    embedding
        NAME=FILE (.npy in the order of the cells, or parquet/csv keyed by cell id) or
        NAME=obsm:KEY; may be given several times.
    command
        NAME=COMMAND LINE with {input} (a counts.h5ad) and {output} (an embedding.npy to write);
        may be given several times.
    out
        Folder for report.html, records.parquet, verdict.json and the store of what was computed.
    jobs
        Trials run at the same time; by default one per core.
    dry_run
        Print what would run, what does not apply and why, and what it would cost; run nothing.
    references
        --no-references leaves out the simple methods and controls; then there is no verdict.
    umap
        --no-umap draws no maps.
    counts
        Where the raw counts are: X, raw, or layers:NAME; by default they are looked for.
    obs
        A csv, tsv or parquet of cell annotations keyed by cell id, for formats that hold none.
    organism
        human, mouse, …; by default recognised by the gene names.
    invert_lognorm
        Turn log-normalised values back into counts, where that is exact.
    compat
        "scib" scores as scib-metrics 0.5.10 does, for comparison with older tables.
    splits
        A file of `sclitmus splits`: learn from and test the cells that it names.
    """
    from sclitmus import api

    study = api.study(
        data,
        label=label,
        batch=batch,
        donor=donor,
        roles={k: v for k, v in {"group": group, "lineage": lineage}.items() if v},
        methods=_names(methods),
        tasks=_names(tasks),
        seeds=seeds,
        embeddings=dict(_pair(text, "--embedding", "NAME=FILE") for text in embedding),
        commands=dict(_pair(text, "--command", "NAME=COMMAND LINE") for text in command),
        references=references,
        projections=umap,
        counts=counts,
        obs=obs,
        organism=organism,
        invert_lognorm=invert_lognorm,
        compat=compat,
        splits=splits,
        compute=asdict(models),
    )
    folder = out or Path(f"sclitmus-{study.name}")
    if dry_run:
        _print_plan(api.plan(study, folder), jobs)
        return OK
    for notice in api.licence_notices(study):
        print(notice, file=sys.stderr)
    from sclitmus.progress import watch

    with watch(sys.stderr) as on_event:
        results = api.execute(study, folder, jobs=jobs, on_event=on_event)
    results.write()
    print_verdict(results)
    return SOME_FAILED if results.n_failed else OK


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name.strip() and sign and value.strip()):
        raise SclitmusError(
            f"{option} {text!r}", f"{option} {form}", f"for example {option} mymodel=emb.npy"
        )
    return name.strip(), value.strip()


def _print_plan(plan: Any, jobs: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = plan.rows()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, justify="right" if name in {"seed", "seconds", "MB"} else "left")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console = Console()
    console.print(table)
    workers = _jobs(jobs)
    console.print(
        f"\n{plan.count('run')} to run, {plan.count('cached')} done before, "
        f"{plan.count('not_applicable')} not applicable; about {plan.est_seconds(workers):.0f} s "
        f"and {plan.est_mb(workers):.0f} MB with {workers} at a time",
        highlight=False,
    )


def _jobs(jobs: int | None) -> int:
    from sclitmus.api import default_jobs

    return jobs or default_jobs()
