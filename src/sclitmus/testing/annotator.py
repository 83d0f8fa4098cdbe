"""Does a method that learns labels keep the contract of `core.method.Annotator`?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from sclitmus.core.dataset import Categories, Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.rng import rng_for
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import ContractError, Finding, Measured
from sclitmus.testing.trial import TOLERANCE


@dataclass(frozen=True)
class LabelTrial:
    """An annotator, and cells of which every other one is learned from."""

    method: Annotator
    dataset: Dataset
    seed: int

    @property
    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.dataset.role("label").codes >= 0)

    @cached_property
    def train(self) -> Dataset:
        return self.dataset.take(self.rows[::2])

    @cached_property
    def others(self) -> Dataset:
        return self.dataset.take(self.rows[1::2])

    @property
    def hidden(self) -> Dataset:
        return self.others.without("label")

    def fit(self, train: Dataset) -> Annotator:
        return self.method.fit(train, rng_for(self.seed, "check", self.method.card.id))

    @cached_property
    def fitted(self) -> Annotator:
        return self.fit(self.train)

    @cached_property
    def scores(self) -> Float64[np.ndarray, "n_cells n_classes"]:
        return np.asarray(self.fitted.predict_scores(self.hidden))


def predict(trial: LabelTrial) -> Finding:
    """Scores of the right shape, finite; how often they name the right type is measured."""
    wanted = (trial.hidden.n_cells, len(trial.train.role("label").names))
    found = trial.scores
    if found.shape != wanted or found.dtype.kind != "f":
        raise ContractError(
            f"predict_scores gave shape {found.shape} of {found.dtype}",
            f"{wanted}, real: a row per cell, a column per class",
            "order the columns as train.role('label').names",
        )
    bad = int((~np.isfinite(found)).any(axis=1).sum())
    if bad:
        raise ContractError(
            f"{bad} rows hold NaN or infinity", "finite logits", "give log(0) a floor"
        )
    names = trial.train.role("label").names
    truth = [trial.others.role("label").names[c] for c in trial.others.role("label").codes]
    right = np.mean([names[i] == t for i, t in zip(found.argmax(axis=1), truth, strict=True)])
    return Measured(float(right), f"{right:.0%} of the other cells called right")


def _row_order(trial: LabelTrial) -> Finding:
    order = np.random.default_rng(0).permutation(trial.hidden.n_cells)
    z = np.asarray(trial.fitted.predict_scores(trial.hidden.take(order)))
    off = _difference(z, trial.scores[order], trial)
    if off:
        raise ContractError(
            f"scoring shuffled cells does not shuffle the scores: {off}",
            "scores that depend on the cell alone",
            "do not sort or group cells, nor scale by statistics of the cells at hand",
        )
    return ""


def _one_cell(trial: LabelTrial) -> Finding:
    z = np.asarray(trial.fitted.predict_scores(trial.hidden.take(np.array([0]))))
    if z.shape != (1, trial.scores.shape[1]):
        raise ContractError(f"one cell gave shape {z.shape}", "(1, n_classes)", "do not squeeze")
    off = _difference(z, trial.scores[:1], trial)
    if off:
        raise ContractError(
            f"a cell by itself has other scores than among the others: {off}",
            "scores that depend on the cell alone",
            "do not scale by statistics of the cells at hand; keep those of the training cells",
        )
    return ""


def _difference(a: np.ndarray, b: np.ndarray, trial: LabelTrial) -> str:
    """Say how far scores differ; empty if rounding explains it."""
    off = float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else np.inf
    near = off <= TOLERANCE * max(1.0, float(np.abs(trial.scores).max()))
    return "" if near else f"off by {off:.2g}"


def _repeatable(trial: LabelTrial) -> Finding:
    again = np.asarray(trial.fit(trial.train).predict_scores(trial.hidden))
    if not np.array_equal(again, trial.scores):
        off = np.abs(again - trial.scores).max()
        raise ContractError(
            f"the same cells and rng gave other scores, off by {off:.2g}",
            "equal rng, equal scores",
            "draw all randomness from the rng of fit",
        )
    return ""


def _not_changed(trial: LabelTrial) -> Finding:
    method, cells = trial.method, (trial.train, trial.others)
    before = [replace(one).content_hash for one in cells]
    settings = dict(vars(method))
    method.fit(trial.train, rng_for(0, "check")).predict_scores(trial.hidden)
    # On other cells than before, so that what it keeps of them is seen to change.
    fitted = method.fit(trial.train.take(np.arange(trial.train.n_cells // 2)), rng_for(0, "check"))
    if [replace(one).content_hash for one in cells] != before:
        raise ContractError("cells are not the same after use", "cells never written into", "copy")
    now = {k: v for k, v in vars(method).items() if k in settings or not hasattr(type(method), k)}
    kept = now.keys() == settings.keys() and all(now[k] is v for k, v in settings.items())
    if fitted is method or not kept:
        raise ContractError(
            "fit changed the very method it was called on",
            "a fitted copy: one method is fitted on every split",
            "return dataclasses.replace(self, learned=…)",
        )
    return ""


def _number_names(trial: LabelTrial) -> Finding:
    label = trial.train.role("label")
    # Falling, so that columns in the order of sorted names are found.
    n = len(label.names)
    numbers = Categories(label.codes, tuple(f"{n - i:04d}" for i in range(n)))
    cells = replace(trial.train, roles={**trial.train.roles, "label": numbers})
    off = _difference(
        np.asarray(trial.fit(cells).predict_scores(trial.hidden)), trial.scores, trial
    )
    if off:
        raise ContractError(
            f"classes of other names gave other scores, {off}",
            "scores that do not depend on what the classes are called",
            "use label.codes, whose order is that of label.names",
        )
    return ""


def _few(trial: LabelTrial) -> Finding:
    label = trial.train.role("label").codes
    first = np.array([np.flatnonzero(label == code)[0] for code in np.unique(label)])
    said = []
    for what, rows in (("one cell per class", np.sort(first)), ("one class", first[:1])):
        try:
            z = np.asarray(trial.fit(trial.train.take(rows)).predict_scores(trial.hidden))
        except NotApplicable as absence:
            said.append(f"{what}: {absence.reason}")
            continue
        if not np.isfinite(z).all() or z.shape != (trial.hidden.n_cells, len(rows)):
            raise ContractError(
                f"{what} gave shape {z.shape}, or not finite numbers",
                "finite scores, or NotApplicable",
                'raise NotApplicable("why")',
            )
        said.append(f"{what}: works")
    return "; ".join(said)


CHECKS: Mapping[str, Callable[[LabelTrial], Finding]] = {
    "row_order": _row_order,
    "one_cell": _one_cell,
    "repeatable": _repeatable,
    "not_changed": _not_changed,
    "class_names": _number_names,
    "few_cells": _few,
}
