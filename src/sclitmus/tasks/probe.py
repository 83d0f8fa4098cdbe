"""What a method predicts on a split: an annotator by itself, an embedding by the probe.

The probe is the same for every embedding: multinomial logistic regression with an L2 penalty, its
strength chosen as for the regression on genes that stands beside it. The embedding is centred and
divided by one number, so that its own geometry stays and a penalty means the same for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.split import Split
from sclitmus.errors import MethodError
from sclitmus.learning.logistic import Tuned, fit_tuned

GROUPING = ("group", "donor")  # roles whose units tuning keeps whole, the first there is


@dataclass(frozen=True)
class Prediction:
    """What was predicted for the test and the validation cells of a split.

    Attributes
    ----------
    classes
        Codes of the dataset's labels that were learned, ascending: the columns of the scores.
    test, validation
        Logits.
    features
        Of train, test and validation cells by part, in the space in which the method measures
        distances; None if it has none.
    remarks
        What a reader must know.
    """

    classes: Int64[np.ndarray, "n_classes"]
    test: Float32[np.ndarray, "n_test n_classes"]
    validation: Float32[np.ndarray, "n_validation n_classes"]
    features: Mapping[str, Float64[np.ndarray, "n d"]] | None
    remarks: tuple[str, ...]


def predict(
    method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
    dataset: Dataset,
    split: Split,
    rng: np.random.Generator,
) -> Prediction:
    """Learn from a split's training cells and predict the others, whose labels are hidden.

    Raises
    ------
    MethodError
        If the method gives no finite score per cell and class.
    """
    train = dataset.take(split.train)
    label = train.role("label")
    names = {name: code for code, name in enumerate(dataset.role("label").names)}
    classes = np.array([names[name] for name in label.names], dtype=np.int64)
    learned = _learned(method, dataset, split, train, rng)
    hidden = {part: getattr(split, part) for part in ("test", "validation")}
    logits = {
        part: _checked(learned.scores(rows), len(rows), len(classes))
        for part, rows in hidden.items()
    }
    features = None
    if len(split.validation):  # distances are asked for where thresholds are
        parts = {part: learned.features(rows) for part, rows in hidden.items()}
        parts["train"] = learned.features(split.train)
        if all(part is not None for part in parts.values()):
            features = {name: np.asarray(z, dtype=np.float64) for name, z in parts.items()}
    return Prediction(classes, **logits, features=features, remarks=learned.remarks())


def _learned(
    method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
    dataset: Dataset,
    split: Split,
    train: Dataset,
    rng: np.random.Generator,
) -> "_Fitted | _Probe":
    if isinstance(method, np.ndarray):
        x = method[split.train].astype(np.float64)
        centre = x.mean(axis=0)
        spread = float(np.sqrt(np.square(x - centre).mean())) or 1.0
        role = next((role for role in GROUPING if role in train.roles), None)
        groups = None if role is None else train.roles[role].codes
        label = train.role("label")
        tuned = fit_tuned(
            (x - centre) / spread, label.codes.astype(np.int64), len(label.names), groups, rng
        )
        return _Probe(method, centre, spread, tuned)
    return _Fitted(method.fit(train, rng), dataset.without("label", "lineage"))


@dataclass(frozen=True)
class _Fitted:
    """A fitted annotator and all cells, without their labels and what goes with these."""

    annotator: Annotator
    cells: Dataset

    def scores(self, rows: Int64[np.ndarray, "n"]) -> np.ndarray | None:
        return self.annotator.predict_scores(self.cells.take(rows)) if len(rows) else None

    def features(self, rows: Int64[np.ndarray, "n"]) -> np.ndarray | None:
        features = getattr(self.annotator, "features", None)
        return features(self.cells.take(rows)) if callable(features) and len(rows) else None

    def remarks(self) -> tuple[str, ...]:
        remarks = getattr(self.annotator, "remarks", None)
        return tuple(remarks(self.cells)) if callable(remarks) else ()


@dataclass(frozen=True)
class _Probe:
    """A logistic regression on an embedding."""

    z: Float32[np.ndarray, "n_cells d"]
    centre: Float64[np.ndarray, "d"]
    spread: float
    tuned: Tuned

    def scores(self, rows: Int64[np.ndarray, "n"]) -> np.ndarray | None:
        return self.tuned.scores(self.features(rows)) if len(rows) else None

    def features(self, rows: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n d"]:
        return np.asarray((self.z[rows] - self.centre) / self.spread, dtype=np.float64)

    def remarks(self) -> tuple[str, ...]:
        return self.tuned.remarks


def _checked(
    scores: np.ndarray | None, n_cells: int, n_classes: int
) -> Float32[np.ndarray, "n_cells n_classes"]:
    if scores is None:
        return np.empty((0, n_classes), dtype=np.float32)
    found = np.asarray(scores)
    if found.shape != (n_cells, n_classes) or found.dtype.kind not in "fiu":
        raise MethodError(
            f"predict_scores gave an array of shape {found.shape} and type {found.dtype}",
            f"real logits of shape ({n_cells}, {n_classes}): a row per cell, a column per class",
            "order the columns as the names of the training cells' label role",
        )
    bad = int((~np.isfinite(found).all(axis=1)).sum())
    if bad:
        raise MethodError(
            f"predict_scores gave NaN or infinite values for {bad} of {n_cells} cells",
            "finite logits; a class that is ruled out has a large negative one",
            "give log-probabilities with a floor in place of log(0)",
        )
    return found.astype(np.float32)
