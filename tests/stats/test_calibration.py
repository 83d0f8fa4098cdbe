"""The promises hold in simulated studies: coverage, false verdicts, power, ranks.

The simulations are those of ``benchmarks/calibration.py``, which makes the table of
docs/design/statistics.md. Few repetitions here, 2000 when slow tests are asked for; the limits
are 4 standard errors of the simulation either way, and the seed is fixed.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration.py"
FAST = (
    "coverage",
    "donors",
    "seeds",
    "null",
    "power",
    "equivalence",
    "floor",
    "holm",
    "ranks",
    "pooling",
    "skill",
)


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def broken(calibration: ModuleType, name: str, reps: int) -> list[str]:
    lines = calibration.EXPERIMENTS[name](reps, np.random.default_rng(20260101))
    return [f"{x.what}: {x.rate:.3f}, wanted {x.wanted}" for x in lines if not x.holds()]


@pytest.mark.parametrize("name", FAST)
def test_promises_hold_in_a_few_studies(calibration: ModuleType, name: str) -> None:
    assert broken(calibration, name, reps=100) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, "zero_shot", "headline"])
def test_promises_hold_in_many_studies(calibration: ModuleType, name: str) -> None:
    assert broken(calibration, name, reps=2000) == []


def test_the_check_itself_can_fail(calibration: ModuleType) -> None:
    line = calibration.Line
    assert not line("coverage", "0.95", 0.80, 100).holds()
    assert not line("coverage", "≥ 0.95", 0.80, 100).holds()
    assert line("coverage", "≥ 0.95", 1.0, 100).holds()
    assert not line("errors", "≤ 0.025", 0.15, 100).holds()
    assert line("errors", "≤ 0.025", 0.0, 100).holds()


def test_what_is_not_used_is_worse(calibration: ModuleType) -> None:
    """Why the verdict does not rest on percentiles: they fail where rivals are equal."""
    null = calibration.null(100, np.random.default_rng(1))
    naive = [x.rate for x in null if "5 bars" in x.what and "(not used)" in x.what]
    assert min(naive) > 0.10
    ranks = calibration.ranking(50, np.random.default_rng(1))
    assert next(x.rate for x in ranks if "8 equal" in x.what and "(not used)" in x.what) < 0.2


def test_half_samples_measure_the_spread_of_a_neighbour_score(calibration: ModuleType) -> None:
    """A score that is no mean over cells, on the half-samples that the tasks draw."""
    rng = np.random.default_rng(3)

    def purity(cells: np.ndarray) -> np.ndarray:
        return np.array([calibration.label_purity(cells[:, 1:7], cells[:, 0].astype(int))])

    studies = []
    for _ in range(60):
        cells = calibration.embedded_cells(rng, 300)
        studies.append(calibration.study(cells, purity, rng, label=cells[:, 0].astype(int)))
    values = np.array([joint.value[0] for joint in studies])
    ends = np.array([calibration.interval(joint) for joint in studies])
    covered = (ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])
    se = np.sqrt(np.mean([(joint.deviations[0] ** 2).sum() for joint in studies]))
    assert covered.mean() >= 0.85
    assert 0.75 < se / values.std(ddof=1) < 1.35
