"""Each way in which what learns labels may break the contract is found, by name."""

import threading
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pytest

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.novel_types import NovelTypes
from sclitmus.tasks.transfer import Transfer
from sclitmus.testing import check_method, check_task

CARD = MethodCard("mine", "baseline", "bar", "Mine")


@dataclass(frozen=True)
class Mine:
    """Nearest mean of log counts: a method that keeps the contract."""

    card: MethodCard = CARD
    means: np.ndarray | None = None

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        z, codes = self.log(train), train.role("label").codes
        means = np.stack([z[codes == c].mean(axis=0) for c in range(codes.max() + 1)])
        return replace(self, means=means)

    def predict_scores(self, cells: Dataset) -> Any:
        assert self.means is not None
        return -np.square(self.log(cells)[:, None] - self.means[None]).sum(axis=2)

    def log(self, cells: Dataset) -> np.ndarray:
        return np.asarray(np.log1p(cells.counts.toarray().astype(np.float64)))


def test_a_user_s_class_passes() -> None:
    report = check_method(Mine())
    assert report.ok, report
    assert report["predict"].value is not None
    assert report["predict"].value > 0.9
    assert report["few_cells"].seen == "one cell per class: works; one class: works"
    ids = [check.id for check in report]
    assert len(set(ids)) == len(ids)


class AColumnTooFew(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        return super().predict_scores(cells)[:, 1:]


class ACellTooFew(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        return super().predict_scores(cells)[:-1]


class Labels(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        return super().predict_scores(cells).argmax(axis=1)


class WholeNumbers(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        return super().predict_scores(cells).astype(int)


class HoldsNaN(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        z = super().predict_scores(cells)
        z[3, 1] = np.nan
        return z


class LogOfZero(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        z = super().predict_scores(cells)
        with np.errstate(divide="ignore"):
            return np.log(z == z.max(axis=1, keepdims=True))


class SortsCells(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        z = super().predict_scores(cells)
        return z[np.argsort(z[:, 0])]


class ScalesByTheBatch(Mine):
    """Its scores do not care about the order of the cells, but about which there are."""

    def log(self, cells: Dataset) -> np.ndarray:
        z = super().log(cells)
        return np.asarray(z - z.mean(axis=0))


class Squeezes(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        return np.squeeze(super().predict_scores(cells))


class Clock(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        fitted = super().fit(train, rng)
        assert fitted.means is not None
        shift = np.random.default_rng().normal(size=fitted.means.shape)
        return replace(fitted, means=fitted.means + shift)


class ReturnsItself(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        object.__setattr__(self, "means", super().fit(train, rng).means)
        return self


class ChangesItselfAndReturnsACopy(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        fitted = super().fit(train, rng)
        object.__setattr__(self, "means", fitted.means)
        return fitted


class KeepsSomethingOnItself(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        object.__setattr__(self, "seen", train.n_cells)
        return super().fit(train, rng)


class WritesIntoTheTrainingCells(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        np.log1p(train.counts.data, out=train.counts.data)
        return super().fit(train, rng)


class WritesIntoTheCells(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        z = super().predict_scores(cells)
        np.log1p(cells.counts.data, out=cells.counts.data)
        return z


class SortsTheNames(Mine):
    """Columns in the order of the sorted names, which the classes need not be in."""

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        fitted = super().fit(train, rng)
        assert fitted.means is not None
        return replace(fitted, means=fitted.means[np.argsort(train.role("label").names)])


class AsksForLabels(Mine):
    def predict_scores(self, cells: Dataset) -> Any:
        cells.roles["label"]
        return super().predict_scores(cells)


class NaNForFewCells(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        fitted = super().fit(train, rng)
        assert fitted.means is not None
        spread = 0.0 if train.n_cells <= len(fitted.means) else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return replace(fitted, means=fitted.means * spread / spread)


class RaisesForFewCells(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        if train.n_cells < 10:
            raise ValueError("n_splits=5 cannot be greater than the number of members")
        return super().fit(train, rng)


@dataclass(frozen=True)
class NotPicklable(Mine):
    lock: Any = field(default_factory=threading.Lock)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (AColumnTooFew(), "predict"),
        (ACellTooFew(), "predict"),
        (Labels(), "predict"),
        (WholeNumbers(), "predict"),
        (HoldsNaN(), "predict"),
        (LogOfZero(), "predict"),
        (AsksForLabels(), "predict"),
        (SortsCells(), "row_order"),
        (ScalesByTheBatch(), "one_cell"),
        (Squeezes(), "one_cell"),
        (Clock(), "repeatable"),
        (ReturnsItself(), "not_changed"),
        (ChangesItselfAndReturnsACopy(), "not_changed"),
        (KeepsSomethingOnItself(), "not_changed"),
        (WritesIntoTheTrainingCells(), "not_changed"),
        (WritesIntoTheCells(), "not_changed"),
        (SortsTheNames(), "class_names"),
        (NaNForFewCells(), "few_cells"),
        (RaisesForFewCells(), "few_cells"),
        (NotPicklable(), "pickles"),
        (Mine(replace(CARD, id="../mine")), "card"),
        (Mine(replace(CARD, sees_labels=True)), "card"),
        (Mine, "protocol"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_breach_is_found(method: Any, broken: str) -> None:
    report = check_method(method)
    assert broken in {check.id for check in report.failed}, report


class Refuses(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        if len(train.role("label").names) < 2:
            raise NotApplicable("one class")
        return super().fit(train, rng)


def test_what_refuses_one_class_passes_and_says_so() -> None:
    report = check_method(Refuses())
    assert report.ok, report
    assert report["few_cells"].seen == "one cell per class: works; one class: one class"


def test_a_method_that_refuses_all_of_it_was_not_checked() -> None:
    report = check_method(Refuses(), simulate(n_cells=60, n_types=1))
    assert [check.id for check in report.failed] == ["predict"]
    assert report["row_order"].status == "skipped"


TASKS = [
    Annotation(shots=(1, 2), draws=2, fractions=(0.5,), repeats=2),
    Annotation(shots=(), fractions=()),
    NovelTypes(most=2),
]


@pytest.mark.parametrize("task", TASKS, ids=["annotation", "all cells", "novel_types"])
def test_the_tasks_that_learn_labels_pass(task: Any) -> None:
    report = check_task(task, simulate(n_cells=60, n_genes=40, n_types=3, donors=2))
    assert report.ok, report
    assert report["floor_and_ceiling"].value is not None
    assert report["floor_and_ceiling"].value > 0.3
    assert report["replicates"].status == "passed"


def test_transfer_passes_on_cells_with_groups() -> None:
    cells = simulate(n_cells=60, n_genes=40, n_types=3, n_batches=3)
    cells = replace(cells, roles={**cells.roles, "group": cells.role("batch")})
    report = check_task(Transfer(), cells)
    assert report.ok, report


class NamesNoDraws(Annotation):
    def replicates(self, *given: Any) -> Any:
        return tuple(one for one in super().replicates(*given) if one.source == "units")


class ForgetsASetting(Annotation):
    def score(self, *given: Any) -> Any:
        return [row for row in super().score(*given) if row.metric != "macro_f1.k1"]


class LearnsWhatItTests(Annotation):
    def splits(self, *given: Any) -> Any:
        return tuple(replace(split, test=split.train) for split in super().splits(*given))


@pytest.mark.parametrize(
    ("make", "broken"),
    [(NamesNoDraws, "replicates"), (ForgetsASetting, "scores"), (LearnsWhatItTests, "splits")],
)
def test_each_breach_of_such_a_task_is_found(make: Any, broken: str) -> None:
    task = make(shots=(1,), draws=2, fractions=())
    report = check_task(task, simulate(n_cells=60, n_genes=40, n_types=3))
    assert broken in {check.id for check in report.failed}, report
