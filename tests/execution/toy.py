"""Tiny datasets, methods and tasks: fast, and importable by the workers."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.core.split import Split
from sclitmus.core.task import Outcome, TaskCard
from sclitmus.errors import NotApplicable
from sclitmus.execution.resolve import resolve
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study


def toy_dataset(id: str = "toy", n_cells: int = 12, batch: bool = True) -> Dataset:
    rng = np.random.default_rng(len(id))
    counts = sparse.csr_matrix(rng.poisson(2.0, size=(n_cells, 6)).astype(np.float32) + 1)
    roles = {"label": Categories.of([f"type {i % 3}" for i in range(n_cells)])}
    if batch:
        roles["batch"] = Categories.of([f"batch {i % 2}" for i in range(n_cells)])
    genes = Genes(tuple("ABCDEF"), ("",) * 6, "unknown")
    return Dataset(id, counts, genes, tuple(f"cell {i}" for i in range(n_cells)), roles)


@dataclass
class Toy:
    """A method that does what its `kind` says."""

    id: str = "toy"
    kind: str = "counts"
    seconds: float = 0.0
    deterministic: bool = True
    sees_labels: bool = False
    needs: tuple[str, ...] = ()
    trace: str = ""  # a folder: each call of embed leaves a file there

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id=self.id,
            kind="control" if self.sees_labels else "baseline",
            part="bar",
            title=self.id,
            needs=self.needs,
            sees_labels=self.sees_labels,
            deterministic=self.deterministic,
            params={"kind": self.kind},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> "Toy":
        self.rng = rng
        return self

    def embed(self, cells: Dataset) -> Any:
        if self.trace:
            Path(self.trace, f"{self.id} {time.time_ns()}").touch()
        time.sleep(self.seconds)
        z = cells.counts.toarray()[:, :3]
        match self.kind:
            case "noise":
                return self.rng.normal(size=(cells.n_cells, 3))
            case "raise":
                raise RuntimeError("no weights <today>")
            case "refuse":
                raise NotApplicable("this method cannot do so few cells")
            case "killed":
                os.kill(os.getpid(), 9)
            case "exit":
                raise SystemExit(3)
            case "segfault":
                os.kill(os.getpid(), 11)
            case "short":
                return z[:-1]
            case "flat":
                return z[:, 0]
            case "nan":
                z[1, 1] = np.nan
            case "text":
                return z.astype(str)
            case "labels":
                return np.eye(3)[cells.role("label").codes]
            case "peek":
                return np.eye(3)[cells.roles["label"].codes]
            case "scribble":
                cells.counts.data[:] = 0
                return z + cells.counts.toarray()[:, :3]
            case "print":
                sys.stdout.write("hello from a method\n")
        return z


def _mean(answer: Any) -> float:
    return float(answer.mean())


MEAN = Metric("mean", _mean, "Mean", "Mean of the embedding.", (0.0, 1.0))
PER_TYPE = Metric("spread", _mean, "Spread", "Per type.", (0.0, 1.0), unit="type")


@dataclass
class ToyTask:
    """Means of the embedding over all cells and over two halves; `kind` says what goes wrong."""

    id: str = "means"
    kind: str = ""
    needs: tuple[str, ...] = ("label",)
    references: tuple[str, ...] = ()
    version: int = 1
    trace: str = ""

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            self.id, "What?", "mean", (), self.references, self.needs, version=self.version
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"mean": MEAN, "spread": PER_TYPE}

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        if dataset.n_cells < 4:
            raise NotApplicable("too few cells to halve")
        nothing = np.empty(0, dtype=np.int64)
        halves = [
            np.sort(rng.choice(dataset.n_cells, dataset.n_cells // 2, replace=False))
            for _ in range(2)
        ]
        return (
            Split("all", np.arange(dataset.n_cells), nothing),
            *(Split(f"half-{i}", rows, nothing, weight=1.0) for i, rows in enumerate(halves)),
        )

    def run(self, embedding: Any, dataset: Dataset, split: Split, rng: Any) -> Outcome:
        if self.trace:
            Path(self.trace, f"{self.id} {split.name} {time.time_ns()}").touch()
        if self.kind == "raise" and split.name == "half-1":
            raise ZeroDivisionError("nothing to divide by")
        if self.kind == "refuse half" and split.name == "half-1":
            raise NotApplicable("only one batch in this half")
        return Outcome(split, embedding[split.test] + 1e-3 * rng.random())

    def score(self, outcome: Outcome) -> list[Score]:
        value = float("nan") if self.kind == "nan" else _mean(outcome.answer)
        scores = [Score("mean", "1", value)]
        if self.kind != "silent":
            types = enumerate(outcome.answer.mean(axis=0))
            scores += [Score("spread", "1", float(v), f"type:{i}") for i, v in types]
        return scores


def toy_study(
    *methods: Any,
    tasks: tuple[Any, ...] = (ToyTask(),),
    datasets: tuple[Dataset, ...] | None = None,
    seeds: tuple[int, ...] = (0,),
    projections: bool = False,
) -> Any:
    return resolve(
        Study(
            "toy study",
            tuple(DatasetSpec(dataset=d) for d in (datasets or (toy_dataset(),))),
            tuple(MethodSpec(object=m) for m in methods),
            tasks,
            seeds,
            projections,
        )
    )
