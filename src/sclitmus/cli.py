"""The command line: what `sclitmus --help` lists. The only module that prints."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from sclitmus import __version__
from sclitmus.errors import NotApplicable, SclitmusError

if TYPE_CHECKING:
    from sclitmus.models.weights import Weights
    from sclitmus.results import Results

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


def main() -> None:
    """Run the command line; what the user can mend is printed without a traceback."""
    sys.path.insert(0, str(Path.cwd()))  # so that `--methods mymodule:MyModel` is found here
    try:
        code = app()
    except SclitmusError as error:
        print(f"sclitmus: {error}", file=sys.stderr)
        code = BAD_INPUT
    except NotApplicable as absence:
        print(f"sclitmus: not applicable: {absence.reason}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("sclitmus: interrupted; run the same command again to go on", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # `sclitmus list methods | head -1`
        sys.stderr.close()
        code = OK
    sys.exit(code if isinstance(code, int) else OK)


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


@app.command(name="list")
def list_(what: Literal["methods", "tasks", "metrics", "datasets"], /) -> None:
    """Print what there is, one id per line first, with what it does.

    Parameters
    ----------
    what
        Which table.
    """
    from sclitmus import catalog

    if what == "methods":
        rows = [_method_row(id) for id in catalog.methods()]
    elif what == "tasks":
        rows = [(id, catalog.load_task(id).card.question) for id in catalog.tasks()]
    elif what == "metrics":
        rows = [
            (m.id, f"{m.title}; {m.direction} is better, {m.bounds[0]:g} to {m.bounds[1]:g}")
            for m in catalog.metrics().values()
        ]
    else:
        rows = [(id, target) for id, target in catalog.datasets().items()]
    width = max((len(id) for id, _ in rows), default=0)
    for id, text in rows:
        print(f"{id:<{width}}  {text}")


def _method_row(id: str) -> tuple[str, str]:
    from sclitmus import catalog

    try:
        card = catalog.load_method(id).card
    except SclitmusError as error:  # a plugin that does not load must not hide the others
        return id, f"cannot be loaded: {error.seen}"
    settings = " ".join(f"{name}={value}" for name, value in card.params.items())
    terms = " (non-commercial)" if card.non_commercial else ""
    text = f"{card.kind.replace('_', ' ')}: {card.title}{terms}"
    return id, f"{text} [{settings}]" if settings else text


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
def run(
    data: str,
    /,
    *,
    label: str | None = None,
    batch: str | None = None,
    donor: str | None = None,
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
        obs column with the donors; with six or more, intervals are about other donors.
    methods
        Comma-separated ids, or module:Class of your own, beside the references that always run.
    tasks
        Comma-separated ids; by default all whose columns are given.
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
    """
    from sclitmus import api

    study = api.study(
        data,
        label=label,
        batch=batch,
        donor=donor,
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
    _print_verdict(results)
    return SOME_FAILED if results.n_failed else OK


@app.command
def report(
    folder: Path,
    /,
    *,
    out: Path | None = None,
    figures: Path | None = None,
    tables: Path | None = None,
    format: Literal["svg", "png"] = "svg",
) -> int:
    """Write the report of a finished run again, or its figures and tables; runs nothing.

    Parameters
    ----------
    folder
        The --out folder of a run.
    out
        The HTML file; by default FOLDER/report.html.
    figures
        Folder to write every figure to, as svg or png.
    tables
        Folder to write the verdict, scores and differences to, as CSV, parquet and LaTeX.
    format
        Format of the figures.
    """
    from sclitmus import api

    results = api.load(folder)
    print(results.report(out or folder / "report.html"))
    for path in results.figures(figures, format) if figures else ():
        print(path)
    for path in results.tables(tables) if tables else ():
        print(path)
    return OK


@app.command
def compare(*folders: Path, out: Path | None = None) -> int:
    """Judge the methods of several runs together, as if they had been one.

    The runs must have scored the same cells of the same data, which is checked.

    Parameters
    ----------
    folders
        The --out folders of two or more runs.
    out
        Folder for the joint report.html, records.parquet and verdict.json.
    """
    from sclitmus import api

    results = api.compare(folders, out)
    if out is not None:
        results.write()
    _print_verdict(results)
    return SOME_FAILED if results.n_failed else OK


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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name.strip() and sign and value.strip()):
        raise SclitmusError(
            f"{option} {text!r}", f"{option} {form}", f"for example {option} mymodel=emb.npy"
        )
    return name.strip(), value.strip()


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


def _print_verdict(results: "Results") -> None:
    """Print the verdicts in words, what failed and why, and last the path of the report."""
    for sentence in results.sentences():
        print(f"- {sentence}")
    for line in results.failures():
        print(f"! {line}", file=sys.stderr)
    if results.report_path is not None:
        print(f"\nreport: {results.report_path}")


if __name__ == "__main__":
    main()
