"""Types never learned: scores by hand, near and far, confidence that means something or not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from annotators import Always, Centroid, Faulty, Reads, cells_of
from asked import answers_of, asked, row_of, stream, values
from planted import near_and_far, told_by_logits
from scipy.special import softmax
from sklearn.metrics import log_loss, roc_auc_score

from sclitmus.core.split import Split
from sclitmus.errors import TaskError
from sclitmus.metrics import calibration
from sclitmus.tasks.distance_of_types import near_types
from sclitmus.tasks.novel_types import NovelTypes
from sclitmus.tasks.open_set_metrics import METRICS, NOT_MEASURED

A, B, NOVEL = 0, 1, 2


def by_hand(**changed: Any) -> tuple[Any, list[Split], list[Any]]:
    """Four known cells and two of the type "new"; two validation cells."""
    counts = [[i, 1] for i in range(10)]
    data = cells_of(["a", "b", "a", "b", "a", "a", "b", "b", "new", "new"], counts)
    split = Split(
        "without new",
        np.arange(4, 10),
        np.array([0, 1]),
        validation=np.array([2, 3]),
        held_out="type:new",
    )
    answer = {
        "classes": np.array([A, B]),
        # Sure and right, sure and wrong (an a called b), unsure and right, right; new: 1 unsure.
        "test": np.array([[4, 0], [0, 3], [0, 1], [0, 2], [0.5, 0], [2.5, 0]], dtype=np.float32),
        "validation": np.array([[3, 0], [0, 1.5]], dtype=np.float32),
        "temperature": np.array([2.0]),
    }
    return data, [split], [answer | changed]


def test_scores_are_those_by_hand() -> None:
    data, splits, answers = by_hand()
    rows = NovelTypes().score(data, splits, answers, stream())
    got = values(rows)
    # Surest last: gaps of the knowns 4 3 1 2, of the new 0.5 2.5. Of 8 pairs of a known and a new
    # cell the new one looks newer in 4 (0.5 under all) + 2 (2.5 under 4 and 3) = 6.
    for unit in ("dataset", "type:new"):
        assert got["auroc.max_softmax", unit] == pytest.approx(6 / 8)
        assert got["auroc.margin", unit] == pytest.approx(6 / 8)
        assert got["auroc.entropy", unit] == pytest.approx(6 / 8)
        # The wrongly called one (3) counts for nothing: 4 above both, 1 and 2 above one each.
        assert got["oscr.max_softmax", unit] == pytest.approx(4 / 8)
        # 95% of four knowns are all of them, to a gap of 1: the new 2.5 is accepted with them.
        assert got["fpr95.max_softmax", unit] == pytest.approx(1 / 2)
    # 5% of two validation cells is none: the threshold is at the least sure of them, a gap of 1.5.
    assert got["known_accuracy", "dataset"] == pytest.approx(2 / 4)  # 4 and 2; 3 is wrong
    assert got["known_rejected", "dataset"] == pytest.approx(1 / 4)
    assert got["novel_recall", "dataset"] == pytest.approx(1 / 2)
    assert got["novel_precision", "dataset"] == pytest.approx(1 / 2)
    assert got["jaccard", "dataset"] == pytest.approx(1 / 3)  # one of two new, one known rejected


def test_confidence_is_judged_on_the_known_cells_alone() -> None:
    data, splits, answers = by_hand()
    got = values(NovelTypes().score(data, splits, answers, stream()))
    truth, logits = [0, 0, 1, 1], answers[0]["test"][:4].astype(float)
    for suffix, t in (("", 1.0), (".scaled", 2.0)):
        p = softmax(logits / t, axis=1)
        assert got[f"nll{suffix}", "dataset"] == pytest.approx(log_loss(truth, p))
        onehot = np.eye(2)[truth]
        brier = np.square(p - onehot).sum(axis=1).mean()
        assert got[f"brier{suffix}", "dataset"] == pytest.approx(brier)
    # At 15 bins the first two, 0.98 and 0.95, share the last; one of the two is wrong.
    sure = softmax(logits, axis=1).max(axis=1)
    gap = (2 * abs(sure[:2].mean() - 1 / 2) + (1 - sure[2]) + (1 - sure[3])) / 4
    assert got["ece", "dataset"] == pytest.approx(gap)
    # Scaled, 0.88, 0.82, 0.62 and 0.73 are each in a bin of its own; the second is wrong.
    sure = softmax(logits / 2, axis=1).max(axis=1)
    gap = np.abs(sure - np.array([1, 0, 1, 1])).mean()
    assert got["ece.scaled", "dataset"] == pytest.approx(gap)
    # Surest first: right, wrong, right, right. Risks 0, 1/2, 1/3, 1/4.
    assert got["aurc", "dataset"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert got["risk", "coverage:0.50"] == pytest.approx(1 / 2)
    assert got["risk", "coverage:1.00"] == pytest.approx(1 / 4)


def test_the_reliability_table_is_the_one_behind_the_error() -> None:
    data = told_by_logits(400)
    # Confidences on the edges of bins (0.6 is 9/15) must fall on the same side in both.
    rng = np.random.default_rng(0)
    p = rng.choice([0.6, 0.8, 2 / 3, 0.95], size=400)
    truth = data.role("label").codes.astype(np.int64)
    test = np.flatnonzero(truth < 2)
    novel = np.flatnonzero(truth == 2)
    train, test = test[:20], test[20:]
    split = Split("s", np.sort(np.r_[test, novel]), train, held_out="type:c")
    logits = np.log(np.c_[p, 1 - p])[split.test]
    answer = {
        "classes": np.array([0, 1]),
        "test": logits,
        "validation": np.empty((0, 2)),
        "temperature": np.empty(0),
    }
    rows = NovelTypes().score(data, [split], [answer], stream())
    got = values(rows)
    bins = [u for (m, u) in got if m == "bin_cells"]
    cells = np.array([got["bin_cells", u] for u in bins], dtype=float)
    gap = [abs(got["bin_confidence", u] - got["bin_accuracy", u]) for u in bins]  # type: ignore[operator]
    assert cells.sum() == len(test)
    assert got["ece", "dataset"] == pytest.approx(cells @ gap / cells.sum())
    known = calibration.softmax(np.log(np.c_[p, 1 - p])[test])
    table = calibration.reliability(known, truth[test])
    assert list(cells) == list(table.count)


def test_a_far_type_is_recognised_and_a_near_one_less() -> None:
    data = near_and_far()
    # By distance the types are halved, so that one of the four siblings counts as far.
    for cells, least in ((data, 0.95), (data.without("lineage"), 0.8)):
        got = values(asked(NovelTypes(), Centroid(scale=0.1), cells))
        far, near = got["auroc_far", "dataset"], got["auroc_near", "dataset"]
        assert far is not None
        assert near is not None
        assert far > least
        assert near < far - 0.3
        assert got["auroc.knn_distance", "type:m"] > 0.95  # type: ignore[operator]
        assert got["auroc.knn_distance", "type:t1"] < got["auroc.knn_distance", "type:m"]  # type: ignore[operator]


def test_a_lineage_without_its_types_is_far() -> None:
    data = near_and_far()
    splits = NovelTypes().splits(data, stream())
    expected = {f"type:{name}": "near" for name in ("t1", "t2", "b1", "b2")}
    expected |= {"type:m": "far", "type:n": "far", "lineage:t": "far", "lineage:b": "far"}
    assert near_types(data, splits) == expected
    got = values(asked(NovelTypes(), Centroid(scale=0.1), data))
    assert ("auroc.max_softmax", "lineage:t") in got
    means = [got["auroc.max_softmax", f"type:{n}"] for n in ("t1", "t2", "b1", "b2", "m", "n")]
    assert got["auroc.max_softmax", "dataset"] == pytest.approx(np.mean(means))  # type: ignore[arg-type]
    assert got["auroc_near", "dataset"] == pytest.approx(np.mean(means[:4]))  # type: ignore[arg-type]


def test_types_of_unknown_lineage_are_no_relatives_of_each_other() -> None:
    data = near_and_far()
    lineage = data.role("lineage")
    known = [lineage.names[c] if lineage.names[c] in "tb" else "" for c in lineage.codes]
    label = [data.role("label").names[c] for c in data.role("label").codes]
    cells = cells_of(label, data.counts.toarray(), lineage=known)
    kin = near_types(cells, NovelTypes().splits(cells, stream()))
    assert kin["type:m"] == kin["type:n"] == "far"
    assert kin["type:t1"] == "near"


def test_an_over_confident_method_is_told_from_a_calibrated_one_and_repaired() -> None:
    data = told_by_logits()
    good = values(asked(NovelTypes(), Reads(scale=0.5), data))
    sure = values(asked(NovelTypes(), Reads(scale=2.5), data))
    ece = "ece", "dataset"
    scaled = "ece.scaled", "dataset"
    assert good[ece] is not None
    assert sure[ece] is not None
    assert good[ece] < 0.05
    assert sure[ece] > 0.2
    assert sure[scaled] == pytest.approx(good[scaled], abs=0.005)
    assert good[scaled] == pytest.approx(good[ece], abs=0.02)
    # The order of the cells is the same, and with it all that only ranks them.
    for metric in ("auroc.max_softmax", "oscr.max_softmax", "aurc"):
        assert abs(sure[metric, "dataset"] - good[metric, "dataset"]) < 0.05  # type: ignore[operator]
    # Temperatures are those that were planted.
    task, splits = NovelTypes(), NovelTypes().splits(data, stream())
    answers = answers_of(task, Reads(scale=2.5), data, splits)
    temperatures = [float(a["temperature"][0]) for a in answers]  # type: ignore[index]
    assert temperatures == pytest.approx([5.0] * 5, rel=0.2)


def test_novel_cells_are_scored_against_all_that_is_known() -> None:
    data = near_and_far(20)
    task = NovelTypes()
    splits = task.splits(data, stream())
    answers = answers_of(task, Centroid(scale=0.05), data, splits)  # no confidence rounds to 1
    rows = task.score(data, splits, answers, stream())
    label = data.role("label")
    for split, answer in zip(splits, answers, strict=True):
        if not split.held_out.startswith("type:"):
            continue
        novel = label.codes[split.test] == label.names.index(split.held_out[5:])
        p = 1 - softmax(answer["test"].astype(float), axis=1).max(axis=1)  # type: ignore[index]
        expected = roc_auc_score(novel, p)
        got = row_of(rows, "auroc.max_softmax", split.held_out).value
        assert got == pytest.approx(expected, abs=1e-6)


def test_what_the_method_does_not_give_is_absent_with_the_reason() -> None:
    data = told_by_logits(300)
    rows = asked(NovelTypes(), Reads(), data)  # no features
    for name in ("auroc.knn_distance", "fpr95.mahalanobis"):
        row = row_of(rows, name)
        assert (row.status, row.value) == ("not_applicable", None)
        assert row.note == NOT_MEASURED[name] == "the method measures no distances between cells"
    assert row_of(rows, "auroc.energy").status == "ok"


def test_log_probabilities_have_no_energy() -> None:
    class Normalised(Reads):
        def predict_scores(self, cells: Any) -> np.ndarray:
            z = super().predict_scores(cells)
            return np.asarray(np.log(softmax(z, axis=1)))

    rows = asked(NovelTypes(), Normalised(), told_by_logits(300))
    row = row_of(rows, "auroc.energy")
    assert row.status == "not_applicable"
    assert row.note == "its scores are log probabilities, which have no energy"
    assert row_of(rows, "auroc.max_softmax").status == "ok"


def test_tied_scores_are_a_coin_and_nothing_better() -> None:
    rows = asked(NovelTypes(), Always(), told_by_logits(300))
    got = values(rows)
    assert got["auroc.max_softmax", "dataset"] == 0.5
    assert got["fpr95.max_softmax", "dataset"] == 1
    assert got["novel_recall", "dataset"] == 0
    # Nothing is rejected, so there is no precision: absent, not 0.
    assert row_of(rows, "novel_precision").status == "not_applicable"


def test_without_novel_cells_there_is_no_area_and_never_a_half() -> None:
    data, (split,), (answer,) = by_hand()
    known = Split(split.name, split.test[:4], split.train, validation=split.validation,
                  held_out="type:new")  # fmt: skip
    cut = {**answer, "test": answer["test"][:4]}
    rows = NovelTypes().score(data, [known], [cut], stream())
    for row in rows:
        if row.metric.startswith(("auroc", "aupr", "fpr95", "oscr", "novel", "known", "jaccard")):
            assert row.status == "not_applicable", row
            assert row.value is None
    assert row_of(rows, "ece").status == "ok"


def test_without_known_cells_there_is_no_confidence_to_judge() -> None:
    data, (split,), (answer,) = by_hand()
    novel = Split(split.name, split.test[4:], split.train, validation=split.validation,
                  held_out="type:new")  # fmt: skip
    cut = {**answer, "test": answer["test"][4:]}
    rows = NovelTypes().score(data, [novel], [cut], stream())
    assert {r.status for r in rows} == {"not_applicable"}
    assert {r.metric for r in rows} == set(METRICS)


def test_without_validation_cells_there_is_no_threshold_and_no_temperature() -> None:
    data, (split,), (answer,) = by_hand()
    bare = Split(split.name, split.test, split.train, held_out=split.held_out)
    cut = {**answer, "validation": np.empty((0, 2)), "temperature": np.empty(0)}
    rows = NovelTypes().score(data, [bare], [cut], stream())
    assert row_of(rows, "auroc.max_softmax").value == pytest.approx(6 / 8)
    for name in ("known_accuracy", "jaccard", "ece.scaled", "bin_cells.scaled"):
        assert row_of(rows, name).status == "not_applicable"


@pytest.mark.parametrize("kind", ["nan", "raise"])
def test_a_method_that_fails_has_no_score_on_any_metric(kind: str) -> None:
    rows = asked(NovelTypes(), Faulty(kind=kind), told_by_logits(300))
    assert {r.metric for r in rows} == set(METRICS)
    assert {r.status for r in rows if METRICS[r.metric].unit != "bin"} == {"failed"}
    assert all(r.note for r in rows)


def test_a_model_that_has_collapsed_is_scored_as_one_that_knows_nothing() -> None:
    data = near_and_far(20)
    rows = asked(NovelTypes(), np.zeros((data.n_cells, 3), dtype=np.float32), data)
    for name in ("auroc.max_softmax", "auroc.knn_distance"):
        assert row_of(rows, name).value == 0.5
    assert row_of(rows, "auroc.mahalanobis").status == "not_applicable"


def test_nothing_is_set_on_novel_cells_that_a_file_puts_among_the_validation_cells() -> None:
    data = told_by_logits(400)
    task = NovelTypes()
    split = next(s for s in task.splits(data, stream()) if s.held_out == "type:a")
    novel = np.flatnonzero(data.role("label").codes == 0)
    more = np.setdiff1d(novel, split.test)[:20]
    wider = replace(split, validation=np.sort(np.r_[split.validation, more]))
    found, given = (task.answer(Reads(scale=2.5), data, s, stream())[0] for s in (split, wider))
    assert len(more) == 20
    for name, array in found.items():
        assert np.array_equal(array, given[name]), name


def test_replicates_that_are_named_are_those_that_are_scored() -> None:
    data = near_and_far(20)
    task = NovelTypes()
    splits = task.splits(data, stream())
    named = task.replicates(data, splits, stream())
    rows = task.score(data, splits, answers_of(task, Centroid(), data, splits), stream())
    assert {r.split for r in rows} - {"all"} == {r.name for r in named}
    for metric in ("auroc.max_softmax", "ece", "oscr.energy", "jaccard"):
        have = [r.split for r in rows if (r.metric, r.unit) == (metric, "dataset")]
        assert have == ["all", *(r.name for r in named)]


def test_a_type_of_few_donors_does_not_cost_the_others_their_interval() -> None:
    # Twenty donors; type "rare" is in one of those that are tested. Half of the halves lack it.
    label, donor, counts = [], [], []
    for d in range(20):
        for name in ["a", "b", "c"] * 4 + (["rare"] * 6 if d % 10 < 3 else []):
            label.append(name)
            donor.append(f"d{d:02d}")
            counts.append([5 * (name == gene) + 1 for gene in ("a", "b", "c", "rare")])
    data = cells_of(label, counts, ("a", "b", "c", "rare"), donor=donor)
    rows = asked(NovelTypes(), Reads(), data)
    assert row_of(rows, "auroc.max_softmax", "type:rare").status == "ok"
    have = [r for r in rows if (r.metric, r.unit) == ("auroc.max_softmax", "dataset")]
    assert len(have) == 21
    of_rare = [r for r in rows if (r.metric, r.unit) == ("auroc.max_softmax", "type:rare")]
    assert 1 < len(of_rare) < 21


def test_a_method_that_is_never_wrong_has_no_temperature() -> None:
    label = ["a", "b", "c"] * 40
    counts = [[9 * (name == gene) + 1 for gene in "abc"] for name in label]
    rows = asked(NovelTypes(), Reads(), cells_of(label, counts, ("a", "b", "c")))
    assert {r.metric for r in rows} == set(METRICS)
    assert row_of(rows, "ece").status == "ok"
    for name in ("ece.scaled", "nll.scaled", "bin_cells.scaled"):
        assert row_of(rows, name).status == "not_applicable"


@pytest.mark.parametrize(
    "given", [{"most": 0}, {"most": 2.5}, {"test_share": 0.0}, {"test_share": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="novel_types with"):
        NovelTypes(**given)
