"""Records are reduced to exactly the values and deviations that the definition says."""

import numpy as np
import polars as pl
import pytest
from planted_study import frame, planted, record

from sclitmus.errors import StudyError
from sclitmus.stats.draws import estimates
from sclitmus.stats.replicates import replicates


def splits_of(weights: list[float], n_units: int | None = None) -> pl.DataFrame:
    rows = [{"dataset": "d", "task": "cell_types", "split": "all", "weight": 0.0}]
    rows += [
        {"dataset": "d", "task": "cell_types", "split": f"half-{i:02d}", "weight": weight}
        for i, weight in enumerate(weights)
    ]
    frame = pl.DataFrame(rows)
    return frame if n_units is None else frame.with_columns(n_units=pl.lit(n_units))


def halves(method: str, values: list[float], **given: object) -> list[dict[str, object]]:
    return [record(method, value, split=f"half-{i:02d}", **given) for i, value in enumerate(values)]


def test_deviations_are_those_of_the_jackknife_by_hand() -> None:
    # Half-samples of 3 of 9 units: weight 3 / 6. Mean 0.5, deviations -0.1, 0, 0.1:
    # variance (0.01 + 0 + 0.01) / 2 = 0.01, times 0.5 = 0.005. The full score plays no part.
    records = frame([record("pca", 0.9), *halves("pca", [0.4, 0.5, 0.6])])
    got = replicates(records, splits_of([0.5] * 3))
    row = got.summary.row(0, named=True)
    assert row["value"] == 0.9
    assert row["sampling_sd"] == pytest.approx(np.sqrt(0.005))
    assert row["sampling_df"] == 2
    assert row["n_splits"] == 3
    assert got.deviations["deviation"].to_list() == pytest.approx([-0.05, 0.0, 0.05])


def test_seeds_are_averaged_and_their_spread_is_of_the_mean() -> None:
    rows = [record("scvi", value, seed=seed) for seed, value in enumerate([0.5, 0.6, 0.7])]
    for seed in range(3):
        rows += halves("scvi", [0.4 + 0.1 * seed, 0.6 + 0.1 * seed], seed=seed)
    row = replicates(frame(rows), splits_of([1.0, 1.0])).summary.row(0, named=True)
    assert row["value"] == pytest.approx(0.6)
    assert row["seed_sd"] == pytest.approx(0.1 / np.sqrt(3))
    assert row["seed_df"] == 2
    # Means over seeds of the two halves: 0.5 and 0.7; the spread between seeds is not in it.
    assert row["sampling_sd"] == pytest.approx(np.sqrt(0.02))


def test_few_donors_bound_the_degrees_of_freedom() -> None:
    records = frame([record("pca", 0.5), *halves("pca", list(np.linspace(0.4, 0.6, 20)))])
    known = replicates(records, splits_of([1.0] * 20, n_units=6)).summary["sampling_df"][0]
    assert known == pytest.approx(1 / (1 / 19 + 1 / 5 + 2 / 95))
    unknown = replicates(records, splits_of([1.0] * 20, n_units=0)).summary["sampling_df"][0]
    assert unknown == 19


def test_half_sample_that_hardly_any_method_has_counts_for_none() -> None:
    rows = []
    for method in ("a", "b", "c"):
        rows += [record(method, 0.5), *halves(method, [0.4, 0.5, 0.6])]
    rows = [r for r in rows if r["split"] != "half-02" or r["method"] == "a"]
    summary = replicates(frame(rows), splits_of([1.0] * 3)).summary
    assert summary["n_splits"].to_list() == [2, 2, 2]
    assert summary["reason"].to_list() == ["", "", ""]


def test_half_sample_that_one_method_lacks_is_its_own_gap() -> None:
    rows = []
    for method in ("a", "b", "c"):
        rows += [record(method, 0.5), *halves(method, [0.4, 0.5, 0.6])]
    rows = [r for r in rows if r["split"] != "half-02" or r["method"] != "a"]
    summary = replicates(frame(rows), splits_of([1.0] * 3)).summary
    assert summary["n_splits"].to_list() == [0, 3, 3]
    assert summary["sampling_sd"].is_null().to_list() == [True, False, False]
    assert summary["reason"][0] == "1 of 3 half-samples have no score"


@pytest.mark.parametrize(
    ("n", "reason"),
    [
        (0, "no half-samples were scored"),
        (1, "only one half-sample was scored; an interval needs at least 2"),
    ],
)
def test_too_few_half_samples_give_no_error_estimate(n: int, reason: str) -> None:
    records = frame([record("pca", 0.5), *halves("pca", [0.5] * n)])
    row = replicates(records, splits_of([1.0] * n)).summary.row(0, named=True)
    assert row["sampling_sd"] is None
    assert row["reason"] == reason


def test_nan_is_a_failure_and_never_a_zero() -> None:
    rows = [record("pca", float("nan")), record("scvi", 0.6), record("scvi", float("nan"), seed=1)]
    summary = replicates(frame(rows), splits_of([])).summary
    pca, scvi = summary.iter_rows(named=True)
    assert (pca["status"], pca["value"]) == ("failed", None)
    assert pca["reason"] == "the value is not a finite number"
    assert (scvi["value"], scvi["n_seeds"], scvi["n_lost_seeds"]) == (0.6, 1, 1)


def test_order_of_the_records_does_not_matter() -> None:
    study = planted({"model": 0.5, "pca": 0.6, "scvi": 0.62}, n_seeds=3)
    straight = replicates(study["records"], study["weights"])
    shuffled = replicates(
        study["records"].sample(fraction=1.0, shuffle=True, seed=1), study["weights"].reverse()
    )
    assert straight.summary.equals(shuffled.summary)
    assert straight.deviations.equals(shuffled.deviations)


def test_numbers_recorded_twice_are_refused() -> None:
    with pytest.raises(StudyError, match="recorded more than once"):
        replicates(frame([record("pca", 0.5), record("pca", 0.6)]), splits_of([]))


def test_versions_of_a_metric_are_not_mixed() -> None:
    rows = [record("pca", 0.5), record("scvi", 0.6, metric_version="2")]
    with pytest.raises(StudyError, match="versions 1, 2"):
        replicates(frame(rows), splits_of([]))


def sources(halves: list[float], draws: int, n_units: int = 0) -> pl.DataFrame:
    """Weights of so many half-samples, and of draws, each a draw's share of their mean."""
    names = [(f"half-{i:02d}", "units", w) for i, w in enumerate(halves)]
    names += [(f"draw-{i + 1}-of-{draws}", "draws", 1 / draws) for i in range(draws)]
    rows = [
        {"dataset": "d", "task": "cell_types", "split": name, "source": source, "weight": weight}
        for name, source, weight in names
    ]
    n = pl.when(pl.col("source") == "units").then(n_units).otherwise(0)
    return pl.DataFrame(rows).with_columns(n_units=n.cast(pl.Int64))


def drawn(method: str, values: list[float], **given: object) -> list[dict[str, object]]:
    n = len(values)
    return [
        record(method, value, split=f"draw-{i + 1}-of-{n}", **given)
        for i, value in enumerate(values)
    ]


def test_the_variances_of_halves_and_of_draws_add_up_by_hand() -> None:
    # Halves: mean 0.5, variance 0.01, weight 1. Draws: mean 0.7, variance (0.04 + 0 + 0.04) / 2
    # = 0.04, of which their mean has a third. Each source has a mean of its own.
    rows = [record("pca", 0.7), *halves("pca", [0.4, 0.5, 0.6]), *drawn("pca", [0.5, 0.7, 0.9])]
    got = replicates(frame(rows), sources([1.0] * 3, 3))
    row = got.summary.row(0, named=True)
    assert row["value"] == 0.7
    assert row["sampling_sd"] == pytest.approx(np.sqrt(0.01 + 0.04 / 3))
    assert row["n_splits"] == 6
    # Satterthwaite: (u + d)² / (u² / 2 + d² / 2) with u = 0.01, d = 0.04 / 3.
    u, d = 0.01, 0.04 / 3
    assert row["sampling_df"] == pytest.approx((u + d) ** 2 / (u**2 / 2 + d**2 / 2))
    by_source = {
        source: part["deviation"].pow(2).sum()
        for (source,), part in got.deviations.group_by(["source"])
    }
    assert by_source == {"units": pytest.approx(u), "draws": pytest.approx(d)}


def test_degrees_of_freedom_are_those_of_the_larger_source() -> None:
    wide, narrow = [0.3, 0.5, 0.7, 0.5], [0.5, 0.5001, 0.5, 0.4999]
    of_draws = frame([record("pca", 0.5), *halves("pca", narrow), *drawn("pca", wide)])
    of_units = frame([record("pca", 0.5), *halves("pca", wide), *drawn("pca", narrow)])
    weights = sources([1.0] * 4, 4, 6)
    df = [replicates(r, weights).summary["sampling_df"][0] for r in (of_draws, of_units)]
    # Draws: 4 - 1. Units: 4 halves of 6 donors.
    assert df[0] == pytest.approx(3, rel=1e-4)
    assert df[1] == pytest.approx(1 / (1 / 3 + 1 / 5 + 2 / 15), rel=1e-4)


def test_draws_alike_add_nothing() -> None:
    rows = [record("pca", 0.5), *halves("pca", [0.4, 0.5, 0.6])]
    alone = replicates(frame(rows), sources([1.0] * 3, 2)).summary.row(0, named=True)
    same = frame([*rows, *drawn("pca", [0.5, 0.5])])
    row = replicates(same, sources([1.0] * 3, 2)).summary.row(0, named=True)
    assert row["sampling_sd"] == pytest.approx(alone["sampling_sd"])
    assert row["sampling_df"] == pytest.approx(alone["sampling_df"])


def test_scores_without_draws_stand_beside_scores_with_them() -> None:
    rows = []
    for metric in ("few", "all"):
        rows += [record("pca", 0.5, metric=metric)]
        rows += halves("pca", [0.4, 0.5, 0.6], metric=metric)
    rows += drawn("pca", [0.3, 0.5, 0.7], metric="few")
    summary = replicates(frame(rows), sources([1.0] * 3, 3)).summary
    sd = dict(summary.select("metric", "sampling_sd").iter_rows())
    assert sd["all"] == pytest.approx(0.1)
    assert sd["few"] == pytest.approx(np.sqrt(0.01 + 0.04 / 3))
    assert summary["reason"].to_list() == ["", ""]


@pytest.mark.parametrize(("n", "reason"), [(0, "no half-samples"), (1, "only one half-sample")])
def test_draws_alone_are_not_the_whole_error(n: int, reason: str) -> None:
    # Which cells were tested is not known to matter or not: an interval would be too narrow.
    rows = [record("pca", 0.5), *halves("pca", [0.5] * n), *drawn("pca", [0.4, 0.5, 0.6])]
    row = replicates(frame(rows), sources([1.0] * n, 3)).summary.row(0, named=True)
    assert row["sampling_sd"] is None
    assert row["reason"].startswith(reason)


def test_a_method_that_lacks_a_draw_has_no_error_estimate() -> None:
    rows = []
    for method in ("a", "b", "c"):
        rows += [record(method, 0.5), *halves(method, [0.4, 0.6]), *drawn(method, [0.4, 0.6])]
    rows = [r for r in rows if (r["method"], r["split"]) != ("a", "draw-2-of-2")]
    summary = replicates(frame(rows), sources([1.0] * 2, 2)).summary
    assert summary["sampling_sd"].is_null().to_list() == [True, False, False]
    assert summary["reason"][0] == "1 of 4 half-samples have no score"


def test_draws_shared_by_methods_cancel_in_their_difference() -> None:
    # Both methods move alike from draw to draw: the difference has the halves' error alone.
    rows = []
    for method, shift in (("a", 0.0), ("b", 0.1)):
        rows += [record(method, 0.5 + shift)]
        rows += drawn(method, [0.2 + shift, 0.5 + shift, 0.8 + shift])
    rows += [*halves("a", [0.49, 0.51]), *halves("b", [0.61, 0.59])]
    joint = estimates(replicates(frame(rows), sources([1.0] * 2, 3)))["d", "cell_types", "avg_bio"]
    difference, sd = joint.differences([1], [0])
    assert difference[0] == pytest.approx(0.1)
    # Deviations of the halves: -0.01, 0.01 and 0.01, -0.01; of their difference 0.02 twice.
    assert sd[0] == pytest.approx(np.sqrt(2 * 0.02**2))
