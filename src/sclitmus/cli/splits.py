"""`splits export` and `splits import`: which cells are learned from, as files."""

from pathlib import Path

from cyclopts import App

from sclitmus.cli.app import OK, app

splits_app = App(
    name="splits", help="Which cells are learned from, and which are tested: as files."
)
app.command(splits_app)


@splits_app.command(name="export")
def export_splits(
    data: str,
    /,
    *,
    task: str,
    out: Path,
    label: str | None = None,
    donor: str | None = None,
    group: str | None = None,
    lineage: str | None = None,
) -> int:
    """Write the splits that a task draws on a dataset, by cell ids with a hash.

    Parameters
    ----------
    data, label, donor, group, lineage
        As for `sclitmus run`.
    task
        annotation, transfer or novel_types.
    out
        .parquet, .csv or .tsv. Use it with `sclitmus run --splits`.
    """
    return _splits(data, out, task, {"label": label, "donor": donor}, group, lineage)


@splits_app.command(name="import")
def import_splits(
    table: Path,
    data: str,
    /,
    *,
    task: str,
    out: Path,
    label: str | None = None,
    donor: str | None = None,
    group: str | None = None,
    lineage: str | None = None,
) -> int:
    """Check splits of your own against a dataset and write them as `run --splits` reads them.

    Parameters
    ----------
    table
        .csv, .tsv or .parquet with the columns split, part (train, validation, test) and cell;
        and setting and held_out, where the task has several.
    data, label, donor, group, lineage
        As for `sclitmus run`.
    task
        The task that they are for.
    out
        .parquet, .csv or .tsv.
    """
    return _splits(data, out, task, {"label": label, "donor": donor}, group, lineage, table)


def _splits(
    data: str,
    out: Path,
    task: str,
    named: dict[str, str | None],
    group: str | None,
    lineage: str | None,
    table: Path | None = None,
) -> int:
    from sclitmus import api

    roles = {k: v for k, v in {"group": group, "lineage": lineage}.items() if v}
    frame = api.export_splits(data, out, task=task, table=table, roles=roles, **named)
    print(f"{frame['split'].n_unique()} splits of {frame['cell'].n_unique()} cells: {out}")
    return OK
