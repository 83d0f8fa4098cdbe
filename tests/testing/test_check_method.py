"""Each way to break the contract is found, by name; a method that keeps it passes."""

import random
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

from sclitmus.baselines.harmony import Harmony
from sclitmus.baselines.hvg import HVG
from sclitmus.baselines.label_canary import LabelCanary
from sclitmus.baselines.label_oracle import LabelOracle
from sclitmus.baselines.pca import PCA
from sclitmus.baselines.random_embedding import RandomEmbedding
from sclitmus.baselines.random_projection import RandomProjection
from sclitmus.baselines.scvi import ScVI
from sclitmus.baselines.supplied import Supplied
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.data.simulate import simulate
from sclitmus.testing import Check, Report, check_method


@pytest.mark.parametrize(
    "method",
    [
        RandomEmbedding(),
        RandomProjection(),
        HVG(),
        PCA(),
        Harmony(),
        LabelOracle(),
        LabelCanary(max_epochs=10),
        ScVI(max_epochs=1, accelerator="cpu"),
    ],
    ids=lambda method: method.card.id,
)
def test_the_methods_that_come_with_the_package(method: Any) -> None:
    report = check_method(method)
    assert report.ok, report
    assert report["embed"].status == "passed"


CARD = MethodCard("mine", "foundation", "contender", "Mine")


@dataclass
class Mine:
    """Log counts of the first genes: a method that keeps the contract."""

    card: MethodCard = CARD

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        return self

    def embed(self, cells: Dataset) -> Any:
        return np.log1p(cells.counts[:, :10].toarray())


def test_a_user_s_class_passes() -> None:
    report = check_method(Mine())
    assert report.ok, report
    assert report["batch_mates"].value == 0


class Float64(Mine):
    def embed(self, cells: Dataset) -> Any:
        return super().embed(cells).astype(np.float64)


class DropsCells(Mine):
    def embed(self, cells: Dataset) -> Any:
        return super().embed(cells)[:-1]


class HoldsNaN(Mine):
    def embed(self, cells: Dataset) -> Any:
        z = super().embed(cells)
        z[4, 0] = np.nan
        return z


class SortsCells(Mine):
    def embed(self, cells: Dataset) -> Any:
        return super().embed(cells)[np.argsort(np.asarray(cells.counts.sum(axis=1)).ravel())]


class WritesCounts(Mine):
    def embed(self, cells: Dataset) -> Any:
        np.log1p(cells.counts.data, out=cells.counts.data)
        return cells.counts[:, :10].toarray()


class UsesGlobalSeed(Mine):
    def embed(self, cells: Dataset) -> Any:
        np.random.seed(0)  # noqa: NPY002
        return super().embed(cells)


class UsesPythonsRandom(Mine):
    def embed(self, cells: Dataset) -> Any:
        random.random()
        return super().embed(cells)


class Clock(Mine):
    def embed(self, cells: Dataset) -> Any:
        z = super().embed(cells)
        return z + np.random.default_rng().normal(size=z.shape[1]).astype(np.float32)


@dataclass
class Drawn(Mine):
    shift: float = 0.0

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        return replace(self, shift=float(rng.normal()))

    def embed(self, cells: Dataset) -> Any:
        z = super().embed(cells)
        return z + np.float32(self.shift) * np.arange(10, dtype=np.float32)


@dataclass
class FitChangesSelf(Drawn):
    n_fits: int = 0

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        self.n_fits += 1
        self.shift = float(self.n_fits)
        return self


class PeeksAtLabels(Mine):
    def embed(self, cells: Dataset) -> Any:
        z = super().embed(cells)
        if "label" in cells.roles:
            z[:, 0] += cells.roles["label"].codes
        return z


class LeavesFiles(Mine):
    def embed(self, cells: Dataset) -> Any:
        Path(f"lightning_logs_{random.SystemRandom().random()}").touch()
        return super().embed(cells)


class Squeezes(Mine):
    def embed(self, cells: Dataset) -> Any:
        return super().embed(cells).squeeze()


class CrashesOnFewCells(Mine):
    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        TruncatedSVD(3).fit(train.counts[:, : train.n_cells])
        return self


@dataclass
class NotPicklable(Mine):
    lock: Any = field(default_factory=threading.Lock)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (Float64(), "embed"),
        (DropsCells(), "embed"),
        (HoldsNaN(), "embed"),
        (SortsCells(), "row_order"),
        (WritesCounts(), "dataset_unchanged"),
        (UsesGlobalSeed(), "global_state"),
        (UsesPythonsRandom(), "global_state"),
        (Clock(), "same_seed"),
        (Drawn(), "other_seed"),
        (Mine(replace(CARD, deterministic=False)), "other_seed"),
        (FitChangesSelf(), "same_seed"),
        (PeeksAtLabels(), "labels_unseen"),
        (Mine(replace(CARD, needs=("batch",))), "needs"),
        (LeavesFiles(), "no_files"),
        (Squeezes(), "one_cell"),
        (CrashesOnFewCells(), "tiny_data"),
        (NotPicklable(), "pickles"),
        (Mine(replace(CARD, id="../mine")), "card"),
        (Mine(replace(CARD, kind="magic")), "card"),  # type: ignore[arg-type]
        (Mine(replace(CARD, sees_labels=True)), "card"),
        (Mine(replace(CARD, params={"layers": [1, 2]})), "card"),  # type: ignore[dict-item]
        (Mine(replace(CARD, title="")), "card"),
        (Mine, "protocol"),
        (object(), "protocol"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_breach_is_found(
    method: Any, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = check_method(method)
    assert not report.ok
    assert broken in {check.id for check in report.failed}, report
    found = report[broken]
    assert found.seen
    assert found.needed
    assert found.remedy


def test_dependence_on_batch_mates_is_measured_not_judged() -> None:
    class Centred(Mine):
        def embed(self, cells: Dataset) -> Any:
            z = super().embed(cells)
            return z - z.mean(axis=0)

    report = check_method(Centred())
    assert report.ok, report
    assert report["batch_mates"].status == "measured"
    assert report["batch_mates"].value is not None
    assert report["batch_mates"].value > 0.1


def test_gene_order_is_measured_by_distances() -> None:
    assert check_method(HVG())["gene_order"].value == pytest.approx(0, abs=1e-6)
    report = check_method(Mine())  # the first ten genes are other genes when shuffled
    assert report["gene_order"].value is not None
    assert report["gene_order"].value > 0.1


def test_a_method_that_does_not_apply_was_not_checked() -> None:
    report = check_method(Supplied("mine"))
    assert not report.ok
    assert [check.id for check in report.failed] == ["embed"]
    assert "no embedding named" in report["embed"].seen
    assert report["row_order"].status == "skipped"
    cells = replace(simulate(40, 20), embeddings={"mine": np.eye(40, 3, dtype=np.float32)})
    assert check_method(Supplied("mine"), cells).ok


def test_large_data_are_thinned_evenly() -> None:
    seen: list[int] = []

    class Counts(Mine):
        def embed(self, cells: Dataset) -> Any:
            seen.append(cells.n_cells)
            return super().embed(cells)

    assert check_method(Counts(), simulate(1000, 20)).ok
    assert max(seen) == 150


def test_report_reads_as_text() -> None:
    report = Report(
        "method mine",
        (Check("card", "passed"), Check("embed", "failed", "3 rows", "4 rows", "add one")),
    )
    assert str(report) == (
        "method mine: 1 check failed\n"
        "passed    card\n"
        "failed    embed: 3 rows\n"
        "          needed: 4 rows\n"
        "          remedy: add one"
    )
    assert len(report) == 2
    assert [check.ok for check in report] == [True, False]
