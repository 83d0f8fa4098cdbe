"""An embedding the user brought: a file or an obsm key, read together with the dataset."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable


@dataclass(frozen=True)
class Supplied:
    """Rows of ``dataset.embeddings[name]``; nothing is computed.

    Parameters
    ----------
    name
        Name it was given with ``--embedding NAME=FILE``; also the method's id.
    """

    name: str

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id=self.name,
            kind="supplied",
            part="contender",
            title=self.name,
            summary="An embedding supplied by the user.",
            params={"name": self.name},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Return itself; there is nothing to learn."""
        self._in(train)
        return self

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Return the supplied rows of these cells.

        Raises
        ------
        NotApplicable
            If the dataset has no embedding of that name.
        """
        return self._in(cells).astype(np.float32)  # a copy: the dataset's own stays its own

    def _in(self, dataset: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        if self.name not in dataset.embeddings:
            there = ", ".join(sorted(dataset.embeddings)) or "none"
            raise NotApplicable(
                f"dataset {dataset.id} has no embedding named {self.name!r}; it has: {there}"
            )
        return dataset.embeddings[self.name]
