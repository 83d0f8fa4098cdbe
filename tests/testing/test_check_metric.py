"""A metric that lies about its scale, or rewards the wrong thing, is found."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sclitmus.core.metric import Metric
from sclitmus.metrics.suite import METRICS, ScoredEmbedding
from sclitmus.testing import check_metric


def metric(compute: Callable[[Any], Any], **fields: Any) -> Metric:
    declared = {"title": "Mine", "summary": "Mine.", "bounds": (0.0, 1.0)} | fields
    return Metric(id="mine", compute=compute, **declared)


def separation(e: ScoredEmbedding) -> float:
    """Share of the variance that lies between types."""
    centre = e.z.mean(axis=0)
    between = sum(
        (e.label == code).sum() * ((e.z[e.label == code].mean(axis=0) - centre) ** 2).sum()
        for code in np.unique(e.label)
    )
    return float(between / ((e.z - centre) ** 2).sum())


@pytest.mark.parametrize(
    "id", ["asw", "purity", "ilisi", "bras", "pcr", "relations", "isolated_labels"]
)
def test_metrics_that_come_with_the_package(id: str) -> None:
    report = check_metric(METRICS[id])
    assert report.ok, report
    assert report["values"].status == "passed"


def test_a_user_s_metric_passes_and_its_value_for_noise_is_measured() -> None:
    report = check_metric(metric(separation, chance=0.0))
    assert report.ok, report
    # Of noise in 240 cells, 3 of 239 degrees of freedom lie between four types.
    assert report["noise"].value == pytest.approx(3 / 239, abs=0.02)
    assert report["rotation"].value == pytest.approx(0, abs=1e-5)
    assert report["cell_order"].value == pytest.approx(0, abs=1e-5)


def test_dependence_on_the_axes_is_measured() -> None:
    first = check_metric(metric(lambda e: float(e.z[:, 0].mean()), bounds=(-9.0, 9.0)))["rotation"]
    assert first.value is not None
    assert first.value > 0.1


draws = itertools.count()


@pytest.mark.parametrize(
    ("broken", "compute", "fields"),
    [
        ("values", lambda e: float("nan"), {}),
        ("bounds", lambda e: 1.5 + separation(e), {}),
        ("bounds", lambda e: {"dataset": 0.5, "type:a": -0.1}, {}),
        ("repeatable", lambda e: 1 / (2 + next(draws)), {}),
        ("right_way", separation, {"direction": "lower"}),
        ("right_way", lambda e: 1 - separation(e), {}),
        ("declared", separation, {"bounds": (1.0, 0.0)}),
        ("declared", separation, {"chance": 2.0}),
        ("declared", separation, {"title": ""}),
        ("declared", separation, {"direction": "up"}),
    ],
)
def test_each_breach_is_found(
    broken: str, compute: Callable[[Any], Any], fields: dict[str, Any]
) -> None:
    report = check_metric(metric(compute, **fields))
    assert broken in {check.id for check in report.failed}, report
