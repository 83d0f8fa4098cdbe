"""Draws have the covariance and the tails they claim; intervals are theirs in closed form."""

import numpy as np
import polars as pl
import pytest
from planted_study import frame, planted, record

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Estimates, draws, estimates, estimates_over_units
from sclitmus.stats.intervals import half_width, intervals
from sclitmus.stats.replicates import replicates

RNG = rng_for(0, "tests of draws")


def joint_of(deviations: list[list[float]], **given: object) -> Estimates:
    n = len(deviations)
    fields: dict[str, object] = {
        "methods": tuple("abcdefgh"[:n]),
        "value": np.zeros(n),
        "deviations": np.array(deviations),
        "df": 1e6,
        "seed_sd": np.zeros(n),
        "seed_df": np.ones(n),
    }
    return Estimates(**(fields | given))  # type: ignore[arg-type]


def test_draws_have_the_covariance_of_the_deviations() -> None:
    joint = joint_of([[0.3, -0.1, 0.2], [0.1, 0.1, -0.2]], value=np.array([0.5, 0.7]))
    scores = joint.draw(RNG, 200_000).scores
    np.testing.assert_allclose(scores.mean(axis=1), [0.5, 0.7], atol=1e-12)  # mirrored: exact
    np.testing.assert_allclose(np.cov(scores), joint.deviations @ joint.deviations.T, atol=2e-3)


def test_pivots_have_the_tails_of_students_t() -> None:
    joint = joint_of([[0.3, -0.1, 0.2], [0.1, 0.1, -0.2]], df=4.0)
    t = joint.draw(RNG, 200_000).pivots([0], [1])[0]
    # Student's t on 4 degrees of freedom: 2.776 at 97.5%, 2.132 at 95%.
    np.testing.assert_allclose(np.quantile(t, [0.95, 0.975]), [2.132, 2.776], rtol=0.02)


def test_pivots_with_seeds_have_the_tails_of_behrens_and_fisher() -> None:
    # Equal variances by two components with 6 degrees of freedom each: 2.435 at 97.5%
    # (Fisher and Yates, Statistical Tables, table VI: 45 degrees).
    joint = joint_of(
        [[0.1], [0.0]], df=6.0, seed_sd=np.array([0.1, 0.0]), seed_df=np.array([6.0, 1.0])
    )
    t = joint.draw(RNG, 200_000).pivots([0], [1])[0]
    assert np.quantile(t, 0.975) == pytest.approx(2.435, rel=0.015)


def test_methods_that_move_as_one_have_no_error_between_them() -> None:
    joint = joint_of([[0.3, -0.1], [0.3, -0.1]])
    assert joint.differences([0], [1])[1] == 0
    assert (joint.draw(RNG, 100).pivots([0], [1]) == 0).all()


def test_means_over_units_have_the_usual_standard_error() -> None:
    values = RNG.normal(size=(2, 7))
    joint = estimates_over_units(values, ("a", "b"))
    difference, sd = joint.differences([0], [1])
    gap = values[0] - values[1]
    assert difference[0] == pytest.approx(gap.mean())
    assert sd[0] == pytest.approx(gap.std(ddof=1) / np.sqrt(7))
    assert joint.df == 6


def test_draws_by_name_come_from_the_records() -> None:
    study = planted({"model": 0.5, "pca": 0.6}, shared=0.02, own=0.0)
    names, scores = draws(
        study["records"], study["weights"], "d", "cell_types", "avg_bio", RNG, 4000
    )
    assert names == ("model", "pca")
    assert scores.shape == (2, 4000)
    np.testing.assert_allclose(scores.mean(axis=1), [0.5, 0.6])
    # All error is shared, so the difference has none: this is what pairing buys.
    assert np.ptp(scores[1] - scores[0]) < 1e-12
    assert scores[0].std() > 0.01


def test_draws_without_half_samples_are_empty_not_wrong() -> None:
    study = planted({"model": 0.5, "pca": 0.6}, n_splits=0)
    names, scores = draws(study["records"], study["weights"], "d", "cell_types", "avg_bio", RNG, 10)
    assert names == ()
    assert scores.shape == (0, 10)


def test_estimates_are_of_whole_datasets_only() -> None:
    study = planted({"model": 0.5, "pca": 0.6})
    by_type = study["records"].with_columns(unit=pl.lit("type:B cell"))
    source = replicates(pl.concat([study["records"], by_type]), study["weights"])
    assert list(estimates(source)) == [("d", "cell_types", "avg_bio")]


def test_half_width_by_hand() -> None:
    def width(*parts: tuple[float, float]) -> float:
        variances, dfs = zip(*((np.array([v]), np.array([df])) for v, df in parts), strict=True)
        return float(half_width(variances, dfs, 0.95)[0])

    # t(19) = 2.0930, t(1) = 12.706.
    assert width((0.04, 19.0)) == pytest.approx(2.0930 * 0.2, rel=1e-4)
    mixed = (0.03 * 2.0930 + 0.01 * 12.7062) / 0.04 * 0.2
    assert width((0.03, 19.0), (0.01, 1.0)) == pytest.approx(mixed, rel=1e-4)
    assert width((0.0, 19.0), (0.0, 1.0)) == 0.0
    assert np.isnan(width((np.nan, 19.0), (0.01, 1.0)))


def test_intervals_say_how_they_were_had() -> None:
    study = planted({"scvi": 0.62, "pca": 0.6}, n_seeds=3)
    got = intervals(replicates(study["records"], study["weights"]), study["metrics"])
    row = got.row(0, named=True)
    assert row["how"] == "20 half-samples, 3 seeds"
    assert row["value"] == pytest.approx(0.6)
    assert row["low"] < 0.6 < row["high"]
    assert row["value"] - row["low"] == pytest.approx(row["high"] - row["value"])


def test_intervals_beyond_the_bounds_are_shown_and_marked() -> None:
    study = planted({"pca": 0.99, "scvi": 0.5}, shared=0.02)
    got = intervals(replicates(study["records"], study["weights"]), study["metrics"])
    pca, scvi = got.iter_rows(named=True)
    assert pca["high"] > 1.0  # not clipped
    assert pca["beyond_bounds"]
    assert not scvi["beyond_bounds"]


def test_types_have_intervals_of_their_own() -> None:
    study = planted({"model": 0.5, "pca": 0.6})
    by_type = study["records"].with_columns(unit=pl.lit("type:B cell"), value=pl.col("value") + 0.1)
    records = pl.concat([study["records"], by_type])
    got = intervals(replicates(records, study["weights"]), study["metrics"])
    value = dict(got.filter(pl.col("method") == "pca").select("unit", "value").iter_rows())
    assert value == pytest.approx({"dataset": 0.6, "type:B cell": 0.7})
    assert got["low"].is_not_null().all()


def test_numbers_that_are_not_there_have_a_row_with_the_reason() -> None:
    rows = [
        record("pca", 0.5),
        record("scvi", None, status="failed", note="loss is NaN"),
        record("harmony", None, status="not_applicable", note="one batch"),
        record("model", 0.5),
        record("model", None, seed=1, status="failed", note="out of memory"),
    ]
    study = planted({"pca": 0.5})
    got = intervals(replicates(frame(rows), study["weights"]), study["metrics"])
    rows_by = {row["method"]: row for row in got.to_dicts()}
    assert rows_by["scvi"]["status"] == "failed"
    assert rows_by["scvi"]["reason"] == "loss is NaN"
    assert rows_by["harmony"]["status"] == "not_applicable"
    assert rows_by["harmony"]["value"] is None
    assert rows_by["pca"]["low"] is None
    assert rows_by["pca"]["reason"] == "no half-samples were scored"
    assert rows_by["model"]["reason"].endswith("1 of 2 seeds have no score: out of memory")
