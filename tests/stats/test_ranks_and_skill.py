"""Ranks are intervals, ties are groups, and skill knows its scale."""

import numpy as np
import polars as pl
import pytest
from planted_study import planted

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Estimates, estimates
from sclitmus.stats.pooled import POOLED
from sclitmus.stats.ranks import rank, ranks
from sclitmus.stats.replicates import replicates
from sclitmus.stats.skill import skill

RNG = rng_for(0, "tests of ranks")


def independent(value: list[float], se: float = 0.01) -> Estimates:
    n = len(value)
    names = tuple(f"m{i}" for i in range(n))
    deviations = np.kron(np.eye(n), RNG.choice([-1, 1], (1, 20)) * se / np.sqrt(20))
    return Estimates(names, np.array(value), deviations, 19.0, np.zeros(n), np.ones(n))


def run(study: dict[str, pl.DataFrame]) -> pl.DataFrame:
    source = replicates(study["records"], study["weights"])
    return ranks(source, estimates(source), study["methods"], study["tasks"], study["metrics"])


def run_skill(study: dict[str, pl.DataFrame]) -> dict[str, dict[str, object]]:
    joint = estimates(replicates(study["records"], study["weights"]))
    return {
        row["method"]: row for row in skill(joint, study["methods"], study["metrics"]).to_dicts()
    }


def test_methods_far_apart_have_their_ranks() -> None:
    got = rank(independent([0.1, 0.9, 0.5]).draw(RNG, 4000))
    assert got.rank.tolist() == got.low.tolist() == got.high.tolist() == [3, 1, 2]
    assert got.group.tolist() == [3, 1, 2]
    assert got.p_best.tolist() == [0, 1, 0]


def test_methods_that_tie_share_their_ranks() -> None:
    got = rank(independent([0.900, 0.901, 0.1, 0.101]).draw(RNG, 4000))
    assert got.rank.tolist() == [2, 1, 4, 3]
    assert got.low.tolist() == [1, 1, 3, 3]
    assert got.high.tolist() == [2, 2, 4, 4]
    assert got.group.tolist() == [1, 1, 2, 2]
    assert got.p_best.sum() == pytest.approx(1.0)


def test_a_chain_of_near_methods_is_not_one_tie() -> None:
    # Each cannot be told from the next (1.4 se of the difference), the ends can (7 se).
    got = rank(independent([0.1, 0.08, 0.06, 0.04, 0.02, 0.0]).draw(RNG, 4000))
    assert got.group[0] == 1
    assert got.group[-1] > 1
    assert got.low[-1] > 1
    assert (np.diff(got.low) >= 0).all()


def test_equal_constant_methods_tie_and_unequal_ones_do_not() -> None:
    deviations = np.tile(RNG.normal(0, 0.1, (1, 20)), (3, 1))
    joint = Estimates(
        ("a", "b", "c"), np.array([0.5, 0.5, 0.4]), deviations, 19.0, np.zeros(3), np.ones(3)
    )
    got = rank(joint.draw(RNG, 1000))
    assert got.low.tolist() == [1, 1, 3]
    assert got.high.tolist() == [2, 2, 3]
    assert got.p_best.tolist() == [0.5, 0.5, 0.0]


def test_blocks_of_pairs_do_not_matter() -> None:
    # 40 methods have 780 pairs, many blocks: two groups far apart stay two groups.
    got = rank(independent([0.9] * 20 + [0.1] * 20).draw(RNG, 1000))
    assert got.low.tolist() == [1] * 20 + [21] * 20
    assert got.high.tolist() == [20] * 20 + [40] * 20


def test_methods_that_see_the_labels_are_not_ranked() -> None:
    got = run(planted({"model": 0.5, "pca": 0.6, "label_oracle": 1.0, "label_canary": 0.9}))
    assert got["method"].to_list() == ["pca", "model"]


def test_lower_is_better_reverses_ranks_and_keeps_scores() -> None:
    got = run(planted({"model": 0.5, "pca": 0.6}, direction="lower"))
    assert got["method"].to_list() == ["model", "pca"]
    assert got["score"].to_list() == pytest.approx([0.5, 0.6])


def test_ranks_over_datasets_need_enough_of_them() -> None:
    few = run(planted({"model": 0.5, "pca": 0.6}, datasets=[f"d{i}" for i in range(4)]))
    many = run(planted({"model": 0.5, "pca": 0.6}, datasets=[f"d{i}" for i in range(5)]))
    assert POOLED not in few["dataset"].to_list()
    pooled = many.filter(pl.col("dataset") == POOLED)
    assert pooled["method"].to_list() == ["pca", "model"]
    assert pooled["score"].to_list() == pytest.approx([0.6, 0.5])


def test_skill_by_hand() -> None:
    study = planted(
        {"model": 0.5, "random_projection": 0.2, "random_embedding": 0.1, "label_oracle": 1.0}
    )
    got = run_skill(study)
    assert got["model"]["floor"] == "random_projection"
    assert got["model"]["skill"] == pytest.approx((0.5 - 0.2) / (1.0 - 0.2))
    assert got["model"]["low"] < got["model"]["skill"] < got["model"]["high"]  # type: ignore[operator]
    assert got["random_embedding"]["skill"] == pytest.approx(-0.125)
    assert (got["label_oracle"]["low"], got["label_oracle"]["high"]) == (1.0, 1.0)


def test_skill_is_the_same_whichever_way_the_metric_runs() -> None:
    up = run_skill(planted({"model": 0.5, "random_projection": 0.2, "label_oracle": 1.0}))
    down = run_skill(
        planted({"model": 0.5, "random_projection": 0.8, "label_oracle": 0.0}, direction="lower")
    )
    assert up["model"]["skill"] == pytest.approx(0.375)
    assert down["model"]["skill"] == pytest.approx(0.375)
    assert down["model"]["floor_score"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"model": 0.5, "label_oracle": 1.0}, "no floor was scored"),
        ({"model": 0.5}, "no floor and no ceiling was scored"),
        ({"model": 0.5, "random_projection": 0.4, "label_oracle": 0.4}, "no scale"),
        ({"model": 0.5, "random_projection": 0.4, "label_oracle": 0.402}, "no scale"),
    ],
)
def test_skill_without_a_scale_is_not_defined(scores: dict[str, float], reason: str) -> None:
    got = run_skill(planted(scores))["model"]
    assert got["skill"] is None
    assert reason in str(got["reason"])
