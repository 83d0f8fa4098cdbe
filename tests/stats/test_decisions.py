"""Each verdict is given where it should be, and says so in words."""

import json

import polars as pl
import pytest
from planted_study import frame, planted, record

from sclitmus.stats.analysis import Analysis, analyse
from sclitmus.stats.decisions import SCHEMA, VERDICTS, judge
from sclitmus.stats.pooled import POOLED
from sclitmus.stats.sentences import why

FLOORS = {"random_projection": 0.3, "random_embedding": 0.1}


def run(study: dict[str, pl.DataFrame]) -> Analysis:
    return analyse(**study, n_draws=4000)


def verdict(study: dict[str, pl.DataFrame], method: str = "model", dataset: str = "d") -> dict:  # type: ignore[type-arg]
    rows = run(study).verdicts.filter(pl.col("method") == method, pl.col("dataset") == dataset)
    return rows.row(0, named=True)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.75, "clears the bar"),
        (0.62, "on the bar"),
        (0.40, "below the bar"),
        (0.25, "below the floor"),
        (0.301, "below the floor"),  # no better than the floor, though not worse
        (0.632, "cannot say"),  # may be better by more than the margin, may be the same
    ],
)
def test_each_verdict(score: float, expected: str) -> None:
    assert (
        verdict(planted({"model": score, "pca": 0.5, "scvi": 0.62} | FLOORS))["verdict"] == expected
    )


def test_order_of_the_rules() -> None:
    def effect(difference: float, p: float, high: float, equivalent: bool) -> dict[str, object]:
        return {
            "difference": difference,
            "p_holm": p,
            "high": high,
            "margin": 0.02,
            "equivalent": equivalent,
        }

    above_floor = effect(0.2, 0.001, 0.3, False)
    # A difference shown to be smaller than the margin does not matter, significant or not.
    assert judge(effect(0.01, 0.001, 0.012, True), above_floor) == "on the bar"
    # Significantly above the floor, if only by a little, is not below it.
    assert (
        judge(effect(-0.3, 0.001, -0.2, False), effect(0.01, 0.001, 0.012, True)) == "below the bar"
    )
    # A wide interval that reaches far above the floor proves nothing about the floor.
    assert (
        judge(effect(-0.3, 0.001, -0.2, False), effect(-0.01, 0.8, 0.1, False)) == "below the bar"
    )
    assert judge(effect(-0.01, 0.6, 0.1, False), effect(-0.01, 0.8, 0.1, False)) == "cannot say"
    assert judge(None, above_floor) == "cannot say"
    assert judge(None, None) == "cannot say"


def test_sentence_below_the_bar() -> None:
    row = verdict(planted({"model": 0.41, "pca": 0.5, "scvi": 0.62} | FLOORS))
    assert row["sentence"].startswith("MyModel is below the bar: AvgBIO 0.41 [0.")
    assert "against 0.62 for scVI, the best simple method (difference −0.21 [−0." in row["sentence"]


def test_sentence_below_the_floor_says_worse_than_random() -> None:
    row = verdict(planted({"model": 0.2, "pca": 0.5, "scvi": 0.62} | FLOORS))
    assert "worse than a random projection at 0.30 (difference −0.10" in row["sentence"]
    assert row["floor_verdict"] == "below the floor"


def test_sentence_cannot_say_gives_the_detectable_difference() -> None:
    row = verdict(planted({"model": 0.60, "pca": 0.62}, own=0.05))
    assert row["verdict"] == "cannot say"
    assert row["mde"] > 0.1
    assert f"{row['mde']:.2f}" in row["sentence"]


def test_simple_methods_are_judged_among_themselves_and_against_the_floor() -> None:
    row = verdict(planted({"pca": 0.5, "scvi": 0.62} | FLOORS), method="scvi")
    assert row["verdict"] == "clears the bar"
    assert row["bar"] == "pca"
    assert "the only other simple method" in row["sentence"]
    assert "It clears the floor, a random projection at 0.30" in row["sentence"]


def test_missing_failed_and_not_applicable_are_three_things() -> None:
    study = planted({"model": 0.5, "other": 0.5, "pca": 0.6, "scvi": 0.62})
    kept = study["records"].filter(~pl.col("method").is_in(["model", "other", "scvi"]))
    study["records"] = pl.concat(
        [
            kept,
            frame(
                [
                    record("other", None, status="failed", note="out of memory"),
                    record("scvi", None, status="not_applicable", note="needs a batch"),
                ]
            ),
        ]
    )
    rows = {row["method"]: row for row in run(study).verdicts.to_dicts()}
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {"model": "missing", "other": "failed", "scvi": "not_applicable", "pca": "ok"}
    assert rows["model"]["why"] == "it did not run: there is no record of it"
    assert rows["other"]["why"] == "it failed: out of memory"
    assert rows["scvi"]["why"] == "not applicable: needs a batch"
    assert rows["pca"]["why"] == "no other simple method was scored on the same half-samples"
    assert all(row["verdict"] == "cannot say" for row in rows.values())
    assert all(row["score"] is None for name, row in rows.items() if name != "pca")


def test_without_half_samples_there_is_no_verdict_but_the_score() -> None:
    row = verdict(planted({"model": 0.9, "pca": 0.2}, n_splits=0))
    assert row["verdict"] == "cannot say"
    assert row["why"] == "there is no interval: no half-samples were scored"
    assert row["score"] == pytest.approx(0.9)


def test_one_seed_of_a_stochastic_method_is_noted() -> None:
    one = verdict(planted({"model": 0.5, "pca": 0.4, "scvi": 0.62}))
    three = verdict(planted({"model": 0.5, "pca": 0.4, "scvi": 0.62}, n_seeds=3))
    assert one["note"] == "variation of scVI over seeds was not measured: one seed ran"
    assert three["note"] == ""


def test_lost_seeds_are_counted() -> None:
    study = planted({"model": 0.5, "pca": 0.6})
    lost = record("model", None, seed=1, status="failed", note="loss is NaN")
    study["records"] = pl.concat([study["records"], frame([lost])])
    assert verdict(study)["note"] == "1 of 2 seeds have no score: loss is NaN"


def test_holm_is_named_where_it_decides() -> None:
    study = planted({"model": 0.6, "other": 0.6, "pca": 0.5})
    row = verdict(study) | {"verdict": "cannot say", "reason": "", "p": 0.03, "p_holm": 0.06}
    row |= {"metric_title": "AvgBIO", "bar_title": "PCA", "floor_title": None}
    assert why(row) == "p = 0.030 alone, but 0.060 among the 2 compared (Holm)"


def test_few_datasets_do_not_generalise() -> None:
    study = planted({"model": 0.5, "pca": 0.6}, datasets=["d1", "d2", "d3"])
    row = verdict(study, dataset=POOLED)
    assert row["verdict"] == "cannot say"
    assert row["why"] == "too few datasets to generalise: 3, at least 5 are needed"
    assert row["difference"] == pytest.approx(-0.1)
    assert "on average over 3 datasets" in row["sentence"]


def test_enough_datasets_generalise() -> None:
    parts = [planted({"model": 0.5 + 0.01 * i, "pca": 0.7}, datasets=[f"d{i}"]) for i in range(6)]
    study = parts[0] | {
        name: pl.concat([part[name] for part in parts]) for name in ("records", "weights")
    }
    row = verdict(study, dataset=POOLED)
    assert row["verdict"] == "below the bar"
    assert row["n_datasets"] == 6
    assert row["score"] == pytest.approx(0.525)
    assert row["bar_score"] == pytest.approx(0.7)


def test_lower_is_better_gives_the_same_verdict_and_true_scores() -> None:
    row = verdict(planted({"model": 0.3, "pca": 0.6}, direction="lower"))
    assert row["verdict"] == "clears the bar"
    assert row["bar_score"] == pytest.approx(0.6)
    assert row["difference"] == pytest.approx(0.3)


def test_every_judged_method_has_one_row_per_dataset() -> None:
    study = planted(
        {"model": 0.5, "pca": 0.6, "scvi": 0.62, "label_oracle": 1.0, "label_canary": 0.9} | FLOORS,
        datasets=["d1", "d2"],
    )
    got = run(study).verdicts
    assert got.schema == pl.Schema(SCHEMA)
    assert len(got) == 3 * 4  # two datasets and their mean; model, two bars, canary
    assert got["part"].to_list()[:4] == ["contender", "bar", "bar", "canary"]
    assert set(got["verdict"]) <= set(VERDICTS)


def test_verdicts_are_json_without_nan() -> None:
    study = planted({"model": 0.5, "pca": 0.6} | FLOORS)
    text = run(study).verdicts.write_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)[0]["method"] == "model"


def test_no_records_at_all_is_an_empty_analysis() -> None:
    study = planted({"model": 0.5, "pca": 0.6})
    empty = {name: study[name].clear() for name in ("records", "weights")}
    got = run(study | empty)
    assert got.verdicts.is_empty()
    assert got.intervals.is_empty()
    assert got.ranks.is_empty()
