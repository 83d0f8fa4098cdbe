"""What an embedding depends on besides the cell, of methods that depend on known things."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pytest

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.data.simulate import simulate
from sclitmus.execution.stability import CHANGES, Effect, lines, stability


@dataclass
class Depends:
    """Sums of a cell's counts over four groups of genes, plus what it should not depend on."""

    on: str = ""
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def card(self) -> MethodCard:
        return MethodCard("depends", "supplied", "contender", "Depends")

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        return replace(self, rng=rng)

    def embed(self, cells: Dataset) -> np.ndarray:
        names = np.array([int(name.removeprefix("GENE")) for name in cells.genes.symbol])
        groups = np.eye(4)[names % 4]
        if self.on == "columns":
            groups = np.eye(4)[np.arange(cells.n_genes) % 4]
        z = np.asarray(cells.counts @ groups)
        if self.on == "seed":
            z = z + self.rng.normal(size=z.shape) * 10
        if self.on == "batch-mates":
            z = z - z.mean(axis=0)
        if self.on == "longest":
            z = z + z.sum(axis=1).max()
        if self.on == "order":
            z = z + np.arange(len(z))[:, None]
        return z.astype(np.float32)


def effects_of(on: str) -> dict[str, Effect]:
    cells = simulate(n_cells=60, n_genes=80)
    symbols = tuple(f"GENE{i}" for i in range(80))
    cells = replace(cells, genes=replace(cells.genes, symbol=symbols))
    return {effect.change: effect for effect in stability(Depends(on), cells)}


MISSING = next(change for change in CHANGES if "missing" in change)


def moved(effects: dict[str, Effect]) -> set[str]:
    found = {change for change, e in effects.items() if e.mean is not None and e.mean > 1e-6}
    return found - {MISSING}


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("", set()),
        ("columns", {"order of the gene columns"}),
        (
            "seed",
            {"another seed", "each cell alone", "7 cells at a time", "order of the cells"},
        ),
        (
            "batch-mates",
            {"each cell alone", "7 cells at a time", "one very long cell beside them"},
        ),
        ("longest", {"each cell alone", "7 cells at a time", "one very long cell beside them"}),
        ("order", {"each cell alone", "7 cells at a time", "order of the cells"}),
    ],
)
def test_what_it_depends_on_is_found_and_nothing_else(on: str, expected: set[str]) -> None:
    assert moved(effects_of(on)) == expected


def test_missing_genes_move_every_method() -> None:
    effect = effects_of("")[MISSING]
    assert effect.mean is not None
    assert 0 < effect.mean < 1


def test_a_method_without_differences_has_no_scale() -> None:
    @dataclass
    class Constant(Depends):
        def embed(self, cells: Dataset) -> np.ndarray:
            return np.zeros((cells.n_cells, 2), dtype=np.float32)

    effects = stability(Constant(), simulate(n_cells=10, n_genes=20))
    assert {effect.note for effect in effects} == {"all cells have the same embedding"}
    assert all(effect.mean is None for effect in effects)
    assert "all cells have the same embedding" in "\n".join(lines(effects))
