"""Differences: paired, direction-aware, honest about the best of several."""

import numpy as np
import polars as pl
import pytest
from planted_study import planted

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Estimates, estimates
from sclitmus.stats.effects import SCHEMA, compare, effects, holm
from sclitmus.stats.pooled import POOLED, pooled_effects
from sclitmus.stats.replicates import replicates

RNG = rng_for(0, "tests of effects")


def estimates_of(value: list[float], deviations: np.ndarray, df: float = 19.0) -> Estimates:
    n = len(value)
    names = tuple(f"m{i}" for i in range(n))
    return Estimates(names, np.array(value), deviations, df, np.zeros(n), np.ones(n))


def run(study: dict[str, pl.DataFrame], **given: int) -> pl.DataFrame:
    joint = estimates(replicates(study["records"], study["weights"]))
    return effects(joint, study["methods"], study["tasks"], study["metrics"], **given)


def pick(frame: pl.DataFrame, method: str, against: str, reference: str) -> dict[str, object]:
    rows = frame.filter(
        pl.col("method") == method,
        pl.col("against") == against,
        pl.col("reference") == reference,
    )
    return rows.row(0, named=True)


def test_one_rival_is_the_paired_t_test() -> None:
    deviations = RNG.normal(0, 0.01, (2, 20))
    joint = estimates_of([0.65, 0.60], deviations)
    got = compare(joint.draw(RNG, 400_000), 0, [1])
    se = np.sqrt(((deviations[0] - deviations[1]) ** 2).sum())
    # t(19): 97.5% 2.0930, 95% 1.7291, 80% 0.8610.
    assert got.sd == pytest.approx(se)
    assert got.low == pytest.approx(0.05 - 2.0930 * se, abs=0.02 * se)
    assert got.high == pytest.approx(0.05 + 2.0930 * se, abs=0.02 * se)
    assert got.inner_low == pytest.approx(0.05 - 1.7291 * se, abs=0.02 * se)
    assert got.mde == pytest.approx((2.0930 + 0.8610) * se, rel=0.01)


def test_p_agrees_with_students_t() -> None:
    se = 0.01
    joint = estimates_of([0.02, 0.0], np.array([[se], [0.0]]))
    # Two-sided p of t = 2 on 19 degrees of freedom is 0.0600.
    assert compare(joint.draw(RNG, 400_000), 0, [1]).p == pytest.approx(0.0600, abs=0.002)


def test_the_best_rival_needs_all_beaten_and_one_not_reached() -> None:
    joint = estimates_of([0.60, 0.50, 0.58, 0.10], 0.01 * np.eye(4))
    drawn = joint.draw(RNG, 100_000)
    best = compare(drawn, 0, [1, 2, 3])
    singles = [compare(drawn, 0, [i]) for i in (1, 2, 3)]
    assert best.rival == 1  # row 2, the second of the rivals
    assert best.difference == pytest.approx(0.02)
    assert best.low == pytest.approx(min(s.low for s in singles))
    assert best.high > min(s.high for s in singles)  # all upper ends at once: wider
    assert best.p > 0.05


def test_p_and_interval_agree_for_the_best_of_several() -> None:
    for gap in np.linspace(-0.06, 0.06, 25):
        joint = estimates_of([gap, 0.0, -0.004, -0.02], RNG.normal(0, 0.004, (4, 20)))
        got = compare(joint.draw(RNG, 4000), 0, [1, 2, 3])
        excludes = got.low > 0 or got.high < 0
        assert excludes == (got.p <= 0.05) or abs(got.p - 0.05) < 0.003


def test_lower_is_better_turns_the_sign() -> None:
    higher = run(planted({"model": 0.5, "pca": 0.6}, direction="higher"))
    lower = run(planted({"model": 0.5, "pca": 0.6}, direction="lower"))
    assert pick(higher, "model", "best bar", "pca")["difference"] == pytest.approx(-0.1)
    assert pick(lower, "model", "best bar", "pca")["difference"] == pytest.approx(0.1)


def test_every_judged_method_meets_every_bar_and_floor() -> None:
    got = run(
        planted(
            {
                "model": 0.5,
                "other": 0.4,
                "pca": 0.6,
                "scvi": 0.62,
                "random_projection": 0.3,
                "random_embedding": 0.1,
                "label_oracle": 1.0,
                "label_canary": 0.9,
            }
        )
    )
    assert got.schema == pl.Schema(SCHEMA)
    pairs = got.group_by("method").len().sort("method")
    # Contenders and canary: 2 bars + best + 2 floors + best. A bar: 1 other bar + best + 3.
    assert dict(pairs.iter_rows()) == {
        "label_canary": 6,
        "model": 6,
        "other": 6,
        "pca": 5,
        "scvi": 5,
    }
    best = pick(got, "model", "best bar", "scvi")
    assert (best["n_references"], best["n_family"]) == (2, 2)
    assert best["family"] == "2 differences of contenders to best bar, avg_bio of cell_types on d"


def test_identical_methods_are_equivalent_and_not_different() -> None:
    study = planted({"model": 0.6, "pca": 0.6}, own=0.0)
    row = pick(run(study), "model", "best bar", "pca")
    assert (row["difference"], row["low"], row["high"], row["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert row["equivalent"]


def test_only_the_headline_has_a_margin() -> None:
    study = planted({"model": 0.6, "pca": 0.6})
    study["tasks"] = study["tasks"].with_columns(headline=pl.lit("another"))
    assert run(study)["equivalent"].is_null().all()


def test_the_same_seed_gives_the_same_frame() -> None:
    study = planted({"model": 0.55, "other": 0.5, "pca": 0.6, "scvi": 0.58})
    assert run(study, seed=3).equals(run(study, seed=3))
    assert not run(study, seed=3).equals(run(study, seed=4))


def test_a_method_added_leaves_differences_of_the_others_as_they_were() -> None:
    small = planted({"model": 0.55, "pca": 0.6})
    large = planted({"model": 0.55, "pca": 0.6, "other": 0.1})
    a, b = (pick(run(study), "model", "bar", "pca") for study in (small, large))
    assert a["difference"] == b["difference"]
    assert a["sd"] == pytest.approx(b["sd"])
    assert b["p_holm"] >= b["p"]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_pooled_difference_is_a_t_interval_over_datasets() -> None:
    gaps = [0.02, 0.05, -0.01, 0.03, 0.04, 0.02]
    parts = [
        planted({"model": 0.5 + gap, "pca": 0.5}, datasets=[f"d{i}"]) for i, gap in enumerate(gaps)
    ]
    study = parts[0] | {
        name: pl.concat([part[name] for part in parts]) for name in ("records", "weights")
    }
    source = replicates(study["records"], study["weights"])
    got = pooled_effects(
        source, study["methods"], study["tasks"], study["metrics"], n_draws=200_000
    )
    row = pick(got, "model", "best bar", "pca")
    se = np.std(gaps, ddof=1) / np.sqrt(6)
    assert row["dataset"] == POOLED
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert row["low"] == pytest.approx(np.mean(gaps) - 2.5706 * se, rel=0.03)  # t(5)
    assert row["n_datasets"] == 6


def test_pooled_difference_over_few_datasets_has_no_interval() -> None:
    study = planted({"model": 0.5, "pca": 0.6}, datasets=["d1", "d2", "d3"])
    source = replicates(study["records"], study["weights"])
    row = pick(
        pooled_effects(source, study["methods"], study["tasks"], study["metrics"]),
        "model",
        "best bar",
        "pca",
    )
    assert row["difference"] == pytest.approx(-0.1)
    assert row["low"] is None
    assert row["p_holm"] is None


def test_one_dataset_is_not_pooled() -> None:
    study = planted({"model": 0.5, "pca": 0.6})
    source = replicates(study["records"], study["weights"])
    got = pooled_effects(source, study["methods"], study["tasks"], study["metrics"])
    assert got.is_empty()
    assert got.schema == pl.Schema(SCHEMA)


def with_twins(study: dict[str, pl.DataFrame], **twin: str) -> dict[str, pl.DataFrame]:
    names = [twin.get(method, "") for method in study["methods"]["method"]]
    methods = study["methods"].with_columns(pl.Series("twin", names, dtype=pl.String))
    return study | {"methods": methods}


def test_a_method_is_compared_with_its_untrained_twin() -> None:
    study = planted({"model": 0.62, "other": 0.55, "pca": 0.6, "random_embedding": 0.2})
    got = run(with_twins(study, model="other"))
    row = pick(got, "model", "twin", "other")
    assert row["difference"] == pytest.approx(0.07)
    assert row["n_references"] == 1
    assert row["margin"] == 0.02
    low, high = row["low"], row["high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low < 0.07 < high
    # Paired: the error is that of the difference, and as for any single rival.
    joint = estimates(replicates(study["records"], study["weights"]))["d", "cell_types", "avg_bio"]
    one, other = joint.methods.index("model"), joint.methods.index("other")
    assert row["sd"] == pytest.approx(joint.differences([one], [other])[1][0])
    # One comparison is a family of its own, with nothing to correct for.
    assert row["n_family"] == 1
    assert row["p_holm"] == row["p"]
    assert got.filter(against="twin").height == 1


def test_twins_of_several_methods_are_one_family() -> None:
    study = planted({"model": 0.62, "other": 0.55, "pca": 0.6})
    got = run(with_twins(study, model="pca", other="pca")).filter(against="twin")
    assert got["n_family"].to_list() == [2, 2]
    assert (got["p_holm"] >= got["p"]).all()


def test_a_twin_that_did_not_run_or_has_no_error_is_not_compared() -> None:
    study = planted({"model": 0.62, "other": 0.55, "pca": 0.6})
    assert run(with_twins(study, model="gone")).filter(against="twin").is_empty()
    assert run(study).filter(against="twin").is_empty()
    lost = with_twins(study, model="other")
    records = study["records"].filter(~((pl.col("method") == "other") & (pl.col("split") != "all")))
    assert run(lost | {"records": records}).filter(against="twin").is_empty()


def test_a_twin_changes_no_other_comparison() -> None:
    study = planted({"model": 0.62, "other": 0.55, "pca": 0.6, "random_embedding": 0.2})
    got = run(with_twins(study, model="other")).filter(pl.col("against") != "twin")
    assert got.equals(run(study))
