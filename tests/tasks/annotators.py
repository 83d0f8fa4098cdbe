"""Small methods that learn labels, each with one trait that a task must cope with."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable


def cells_of(label: Any, counts: Any = None, genes: tuple[str, ...] = (), **roles: Any) -> Dataset:
    """Make a dataset of these labels and roles; without counts, of one gene that says nothing."""
    n = len(label)
    table = np.ones((n, 1)) if counts is None else np.asarray(counts)
    names = genes or tuple(f"g{i}" for i in range(table.shape[1]))
    columns = {"label": label, **roles}
    return Dataset(
        "planted",
        sparse.csr_matrix(table.astype(np.float32)),
        Genes(names, ("",) * len(names), "unknown"),
        tuple(f"cell {i}" for i in range(n)),
        {name: Categories.of(list(values)) for name, values in columns.items()},
    )


@dataclass(frozen=True)
class Reads:
    """Finds its logits in the counts: that of class "a" is the count of gene "a", scaled."""

    id: str = "reads"
    scale: float = 1.0
    columns: tuple[int, ...] = ()

    @property
    def card(self) -> MethodCard:
        params = {"scale": self.scale}
        return MethodCard(self.id, "baseline", "bar", self.id, params=params)

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        at = train.genes.symbol.index
        return replace(self, columns=tuple(at(name) for name in train.role("label").names))

    def predict_scores(self, cells: Dataset) -> np.ndarray:
        return self.scale * cells.counts.toarray()[:, list(self.columns)].astype(np.float64)


@dataclass(frozen=True)
class Centroid:
    """Minus the squared distance to the mean of each class, of log counts."""

    id: str = "centroid"
    scale: float = 1.0
    means: np.ndarray | None = None

    @property
    def card(self) -> MethodCard:
        params = {"scale": self.scale}
        return MethodCard(self.id, "baseline", "bar", self.id, params=params)

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        z, label = self.features(train), train.role("label")
        means = [z[label.codes == code].mean(axis=0) for code in range(len(label.names))]
        return replace(self, means=np.stack(means))

    def predict_scores(self, cells: Dataset) -> np.ndarray:
        assert self.means is not None
        apart = self.features(cells)[:, None, :] - self.means[None, :, :]
        return np.asarray(-self.scale * np.square(apart).sum(axis=2))

    def features(self, cells: Dataset) -> np.ndarray:
        return np.log1p(cells.counts.toarray().astype(np.float64))


@dataclass(frozen=True)
class Always(Reads):
    """Calls every cell the first class that it learned."""

    id: str = "always"

    def predict_scores(self, cells: Dataset) -> np.ndarray:
        z = np.zeros((cells.n_cells, len(self.columns)))
        z[:, 0] = self.scale
        return z


@dataclass(frozen=True)
class Faulty(Reads):
    """Breaks on splits of fewer training cells than `below`, in the way that `kind` says."""

    id: str = "faulty"
    kind: str = "raise"
    below: int = 10**9

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        breaks = train.n_cells < self.below
        if breaks and self.kind == "raise":
            raise RuntimeError("the solver did not converge")
        if breaks and self.kind == "refuse":
            raise NotApplicable("it needs more cells to learn from")
        return replace(super().fit(train, rng), kind=self.kind if breaks else "")

    def predict_scores(self, cells: Dataset) -> np.ndarray:
        z = super().predict_scores(cells)
        match self.kind:
            case "nan":
                z[0, 0] = np.nan
            case "inf":
                z[0, 0] = -np.inf
            case "short":
                z = z[:-1]
            case "one column less":
                z = z[:, 1:]
            case "text":
                z = z.astype(str)
            case "peek":
                z[np.arange(cells.n_cells), cells.role("label").codes] = 99
            case "lineage":
                cells.role("lineage")
        return z


@dataclass(frozen=True)
class Listens(Reads):
    """Keeps a note of what it was given to learn from, as a remark."""

    id: str = "listens"
    heard: str = ""

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        names = ",".join(train.role("label").names)
        heard = f"{train.n_cells} cells of {names}; roles {','.join(sorted(train.roles))}"
        return replace(super().fit(train, rng), heard=heard)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        return (self.heard,)
