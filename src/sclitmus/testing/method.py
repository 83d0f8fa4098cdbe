"""Does a method keep its contract, `core.method.CellEmbedder` or `Annotator`? Measured."""

from collections.abc import Callable, Mapping
from typing import TypeVar, get_args

import numpy as np

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import CellEmbedder, Kind, Method, MethodCard, Part
from sclitmus.testing import annotator, dependence, embedding, randomness
from sclitmus.testing.annotator import LabelTrial
from sclitmus.testing.report import (
    ID,
    Check,
    ContractError,
    Finding,
    Report,
    must_apply,
    run_check,
    run_checks,
)
from sclitmus.testing.trial import Trial

MAX_CELLS = 150
_CHECKS = {**embedding.CHECKS, **randomness.CHECKS, **dependence.CHECKS}


def check_method(method: Method, dataset: Dataset | None = None, *, seed: int = 0) -> Report:
    """Check a method on a small dataset. It is fitted about a dozen times.

    Parameters
    ----------
    method
        Not fitted.
    dataset
        Cells to check it on, of which at most 150, evenly spaced, are taken; simulated cells of
        three types and two batches if None. Give real ones to a model that knows genes by name.
    seed
        Of the method's random streams.
    """
    subject = f"method {getattr(getattr(method, 'card', None), 'id', type(method).__name__)}"
    protocol = run_check("protocol", _protocol, method)
    if not protocol.ok:
        return Report(subject, (protocol,))
    checks = [protocol, run_check("card", _card, method)]
    if isinstance(method, CellEmbedder):
        checks += _performed(
            "embed", embedding.embed, Trial(method, _cells(dataset), seed), _CHECKS
        )
    else:
        trial = LabelTrial(method, _cells(dataset), seed)
        checks += _performed("predict", annotator.predict, trial, annotator.CHECKS)
    # Last: to unpickle a class made in a notebook or a test replaces what its functions refer to.
    checks.append(run_check("pickles", _pickles, method))
    return Report(subject, tuple(checks))


T = TypeVar("T")


def _performed(
    id: str,
    first: Callable[[T], Finding],
    trial: T,
    rest: Mapping[str, Callable[[T], Finding]],
) -> list[Check]:
    """Run the check without which the others have nothing to look at, then those."""
    done = must_apply(
        run_check(id, first, trial),
        "a dataset to which the method applies",
        "give cells that it knows: check_method(method, dataset)",
    )
    if done.ok:
        return [done, *run_checks(rest, trial)]
    return [done, *(Check(name, "skipped", f"{id} failed") for name in rest)]


def _cells(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        from sclitmus.data.simulate import simulate

        return simulate(n_cells=120, n_genes=200, n_types=3, n_batches=2)
    if dataset.n_cells <= MAX_CELLS:
        return dataset
    return dataset.take(np.linspace(0, dataset.n_cells - 1, MAX_CELLS).astype(np.int64))


def _protocol(method: Method) -> Finding:
    does = "predict_scores" if hasattr(method, "predict_scores") else "embed"
    missing = [name for name in ("card", "fit", does) if not hasattr(method, name)]
    if missing or isinstance(method, type):
        raise ContractError(
            f"{method!r} is a class" if isinstance(method, type) else f"no {', '.join(missing)}",
            "an object with card, fit(train, rng), and embed(cells) or predict_scores(cells)",
            "see docs/methods.md; give an object, MyModel(), not the class",
        )
    return ""


def _card(method: Method) -> Finding:
    card = method.card
    if not isinstance(card, MethodCard):
        raise ContractError(
            f"card is a {type(card).__name__}", "a MethodCard", "return a MethodCard"
        )
    faults = []
    if not ID.fullmatch(card.id):
        faults.append(f"id {card.id!r}: letters, digits and _ . @ + - only, at most 64")
    if card.kind not in get_args(Kind):
        faults.append(f"kind {card.kind!r}: one of {', '.join(get_args(Kind))}")
    if card.part not in get_args(Part):
        faults.append(f"part {card.part!r}: one of {', '.join(get_args(Part))}")
    if not card.title:
        faults.append("title is empty")
    if card.sees_labels and card.kind != "control":
        faults.append(f"sees_labels is True and kind is {card.kind!r}: only controls see labels")
    for name, value in card.params.items():
        if not isinstance(value, str | int | float | bool | None):
            faults.append(f"params[{name!r}] is a {type(value).__name__}: text or a number")
    if method.card != card:
        faults.append("card differs from one look to the next")
    if faults:
        needed = "a card as core.method.MethodCard describes"
        raise ContractError("; ".join(faults), needed, "mend the card")
    return f"{card.id}, {card.kind}, {card.part}"


def _pickles(method: Method) -> Finding:
    import cloudpickle

    fingerprint = cloudpickle.loads(cloudpickle.dumps(method)).card.fingerprint
    if fingerprint != method.card.fingerprint:
        raise ContractError(
            f"after pickling the card's fingerprint is {fingerprint}",
            method.card.fingerprint,
            "keep every setting in the object",
        )
    return ""
