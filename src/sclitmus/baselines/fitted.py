"""The two ways a fitted method can be called wrongly, each with its remedy."""

from typing import TypeVar

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError

State = TypeVar("State")


def require_fitted(state: State | None, method: str) -> State:
    """Return what `fit` learned, or say that it was never called.

    Raises
    ------
    MethodError
        If `state` is None.
    """
    if state is None:
        raise MethodError(
            f"{method} was asked about cells before it was fitted",
            "a fitted method",
            "ask what fit returns: fitted = method.fit(train, rng)",
        )
    return state


def require_same_genes(fitted_on: Genes, cells: Dataset, method: str) -> None:
    """Refuse cells whose columns are not those the method was fitted on.

    Raises
    ------
    MethodError
        If number, names or order of the genes differ.
    """
    if cells.genes is fitted_on or cells.genes == fitted_on:
        return
    raise MethodError(
        f"{method} was fitted on {len(fitted_on)} genes and got {cells.n_genes} genes, "
        "not the same or not in the same order",
        "the genes it was fitted on, in their order",
        "ask about cells of the dataset it was fitted on",
    )
