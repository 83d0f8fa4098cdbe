"""`list`: what there is."""

from typing import Literal

from sclitmus.cli.app import app
from sclitmus.errors import SclitmusError


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
