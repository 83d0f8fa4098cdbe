"""Which of the evaluated data a model has seen in pretraining: a warning beside its score."""

from sclitmus.core.method import MethodCard
from sclitmus.execution.result import DatasetInfo


def overlap(method: MethodCard, dataset: DatasetInfo) -> tuple[str, ...]:
    """Return the public ids that a method's pretraining data and a dataset share."""
    known = {name.casefold() for name in method.corpora}
    return tuple(name for name in dataset.card.corpora if name.casefold() in known)


def flattered(method: MethodCard, dataset: DatasetInfo) -> str:
    """Say that a method has seen these cells before, and what that may do."""
    shared = ", ".join(overlap(method, dataset))
    return (
        f"{method.title} was pretrained on {shared}, which {dataset.id} is part of: its score "
        "there may be flattered"
    )
