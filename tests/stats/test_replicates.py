"""Records are reduced to exactly the values and deviations that the definition says."""

import numpy as np
import polars as pl
import pytest
from planted_study import frame, planted, record

from sclitmus.errors import StudyError
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
    straight = replicates(study["records"], study["splits"])
    shuffled = replicates(
        study["records"].sample(fraction=1.0, shuffle=True, seed=1), study["splits"].reverse()
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
