"""Tiny methods that learn labels, and cells for them: fast, and importable by the workers."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable
from sclitmus.tasks.annotation import Annotation

QUICK = Annotation(shots=(1, 2), draws=2, fractions=(), repeats=1)
SPLITS = ("k1-01", "k1-02", "k2-01", "k2-02", "all")


def labelled(id: str = "toy", n_cells: int = 48, label: bool = True, **roles: Any) -> Dataset:
    """Cells of three types, each with a gene of its own."""
    rng = np.random.default_rng(len(id))
    types = np.arange(n_cells) % 3
    counts = rng.poisson(1.0, size=(n_cells, 6)) + 6 * np.eye(3, 6, dtype=int)[types] + 1
    given = {"label": [f"type {t}" for t in types]} if label else {}
    return Dataset(
        id,
        sparse.csr_matrix(counts.astype(np.float32)),
        Genes(tuple("ABCDEF"), ("",) * 6, "unknown"),
        tuple(f"cell {i}" for i in range(n_cells)),
        {name: Categories.of(values) for name, values in (given | roles).items()},
    )


@dataclass(frozen=True)
class Learns:
    """Nearest mean of counts, which does what its `kind` says."""

    id: str = "learns"
    kind: str = ""
    deterministic: bool = True
    needs: tuple[str, ...] = ()
    few: int = 0  # training cells below which it breaks; 0: always
    seconds: float = 0.0
    trace: str = ""  # a folder: each call of fit leaves a file there
    means: np.ndarray | None = None

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id=self.id,
            kind="baseline",
            part="bar",
            title=self.id,
            needs=self.needs,
            deterministic=self.deterministic,
            params={"kind": self.kind},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        if self.trace:
            Path(self.trace, f"{self.id} {train.n_cells} {time.time_ns()}").touch()
        time.sleep(self.seconds)
        breaks = not self.few or train.n_cells < self.few
        match self.kind if breaks else "":
            case "raise":
                raise RuntimeError("it did not converge")
            case "refuse":
                raise NotApplicable("it needs more cells")
            case "killed":
                os.kill(os.getpid(), 9)
        counts, codes = train.counts.toarray(), train.role("label").codes
        means = np.stack([counts[codes == c].mean(axis=0) for c in range(codes.max() + 1)])
        if self.kind == "noise":
            means = means + rng.normal(0, 5, size=means.shape)
        return replace(self, means=means)

    def predict_scores(self, cells: Dataset) -> np.ndarray:
        assert self.means is not None
        counts = cells.counts.toarray()
        z = -np.square(counts[:, None] - self.means[None]).sum(axis=2)
        if self.kind == "nan":
            z[0] = np.nan
        if self.kind == "peek":
            z[np.arange(len(z)), cells.role("label").codes] += 99
        return np.asarray(z)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        return ("C = 1e4 is the edge of the grid",) if self.kind == "remarks" else ()


def fitted_on(trace: Path, id: str = "") -> list[int]:
    """Numbers of training cells of the fits, in the order in which they were made."""
    files = sorted((p.name.rsplit(" ", 2) for p in trace.iterdir()), key=lambda part: part[2])
    return [int(n) for name, n, _ in files if not id or name == id]
