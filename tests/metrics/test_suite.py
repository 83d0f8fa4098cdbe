"""The table of metrics and how an embedding is scored by it: composites, absence, subsamples."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics import lisi, neighbours, scored
from sclitmus.metrics.scoring import COMPOSITES, SUPERLINEAR
from sclitmus.metrics.suite import METRICS, ScoredEmbedding, score_all

TYPES = (
    *("nmi", "ari", "nmi_oracle", "ari_oracle", "nmi_kmeans", "ari_kmeans", "asw", "avg_bio"),
    *("avg_bio_fixed", "clisi", "isolated_labels", "purity", "relations", "conservation"),
)
BATCHES = (
    *("batch_asw", "bras", "ilisi", "cilisi", "kbet", "pcr", "pcr_comparison"),
    *("graph_connectivity", "mixing"),
)
BOTH = ("integration", "overall_scib")


def cells(n: int = 400, seed: int = 0, **options: object) -> ScoredEmbedding:
    """Overlapping types in shifted batches; type 0 is missing from batch 2."""
    rng = np.random.default_rng(seed)
    label = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int32)
    batch = rng.integers(0, 3, n).astype(np.int32)
    batch[(label == 0) & (batch == 2)] = 1
    types, shifts = rng.normal(size=(4, 8)) * 2, rng.normal(size=(3, 8)) * 0.5
    before = types[label] + 2 * shifts[batch] + rng.normal(size=(n, 8))
    z = types[label] + shifts[batch] + rng.normal(size=(n, 8))
    given = {
        "z": z.astype(np.float32),
        "label": label,
        "batch": batch,
        "before": before.astype(np.float32),
    }
    return ScoredEmbedding(**(given | options))


def by_id(scores: list[Score], unit: str = "dataset") -> dict[str, Score]:
    return {score.metric: score for score in scores if score.unit == unit}


# ---- the table


def test_every_metric_of_the_zero_shot_tasks_is_in_the_table():
    assert set(METRICS) == {*TYPES, *BATCHES, *BOTH}
    for side, ids in (("types", TYPES), ("batches", BATCHES), ("both", BOTH)):
        assert {id for id in ids if METRICS[id].side != side} == set()


@pytest.mark.parametrize("id", sorted(METRICS))
def test_a_metric_carries_its_scale_and_a_page(id: str):
    metric = METRICS[id]
    low, high = metric.bounds
    assert metric.id == id
    assert low < high
    assert metric.chance is None or low <= metric.chance <= high
    assert metric.title
    assert metric.summary
    page = Path(__file__).resolve().parents[2] / "docs" / "metrics" / f"{id}.md"
    assert page.read_text().startswith(f"# `{id}`")


def test_composites_and_costly_metrics_name_metrics_of_the_table():
    assert set(COMPOSITES) | SUPERLINEAR <= set(METRICS)
    seen: set[str] = set()
    for id, composite in COMPOSITES.items():
        # Parts come first: `measure` walks through them once.
        assert all(part in METRICS for part in composite.parts)
        assert not (set(composite.parts) & set(COMPOSITES)) - seen
        seen.add(id)


def test_import_is_light():
    check = (
        "import sys, sclitmus.metrics.suite; print([m for m in ('igraph', 'sklearn', 'faiss', "
        "'numba', 'scanpy', 'anndata', 'torch', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- values


def test_composites_by_hand():
    e = cells()
    parts = {"nmi_oracle": 0.8, "ari_oracle": 0.6, "asw": 0.7, "nmi": 0.5, "ari": 0.3}
    parts |= {"bras": 0.9, "cilisi": 0.5, "isolated_labels": 0.6, "nmi_kmeans": 0.5}
    parts |= {"ari_kmeans": 0.4, "clisi": 0.9, "ilisi": 0.3, "kbet": 0.2}
    parts |= {"graph_connectivity": 1.0, "pcr_comparison": 0.1}
    e.measured.update({id: scored.Measured({"dataset": value}) for id, value in parts.items()})
    found = by_id(score_all(e, list(COMPOSITES)))
    assert found["avg_bio"].value == pytest.approx(0.7)
    assert found["conservation"].value == pytest.approx(0.7)
    assert found["avg_bio_fixed"].value == pytest.approx(0.5)
    assert found["mixing"].value == pytest.approx(0.7)
    assert found["integration"].value == pytest.approx(0.7)
    assert found["overall_scib"].value == pytest.approx(0.6 * 3.1 / 5 + 0.4 * 2.5 / 5)


@pytest.mark.parametrize(
    ("mixing", "conservation", "expected"),
    [(0.9, 0.3, 0.45), (1.0, 0.0, 0.0), (0.8, -0.05, -0.05)],
)
def test_integration_is_low_where_either_side_is(mixing, conservation, expected):
    combine = COMPOSITES["integration"].combine
    value = combine({"mixing": mixing, "conservation": conservation})
    assert value == pytest.approx(expected)


def test_all_metrics_have_finite_values_within_their_bounds():
    found = score_all(cells())
    assert {score.metric for score in found} == set(METRICS)
    for score in found:
        low, high = METRICS[score.metric].bounds
        assert (score.metric, score.status) == (score.metric, "ok")
        assert low <= score.value <= high
        assert score.metric_version == METRICS[score.metric].version


def test_scores_come_in_the_order_asked_for_and_equal_those_asked_for_alone():
    together = by_id(score_all(cells(), ["integration", "asw", "nmi"]))
    assert list(together) == ["integration", "asw", "nmi"]
    for id, score in together.items():
        assert METRICS[id].bounds[0] <= score.value
        assert score_all(cells(), [id])[0].value == score.value
        alone = METRICS[id].compute(cells())
        assert (alone["dataset"] if isinstance(alone, dict) else alone) == score.value


def test_scores_per_type_bear_the_names_of_the_types():
    e = cells(label_names=("B cell", "T cell", "NK", "<script>"))
    found = score_all(e, ["purity", "asw", "batch_asw"])
    units = [score.unit for score in found if score.metric == "purity"]
    assert units == ["dataset", "type:B cell", "type:T cell", "type:NK", "type:<script>"]
    per_type = [s.value for s in found if s.metric == "purity" and s.unit != "dataset"]
    assert by_id(found)["purity"].value == pytest.approx(np.mean(per_type))
    # ASW counts every cell, batch ASW every type alike.
    sizes = np.bincount(e.label)
    asw = [s.value for s in found if s.metric == "asw" and s.unit != "dataset"]
    assert by_id(found)["asw"].value == pytest.approx(np.average(asw, weights=sizes))
    batch_asw = [s.value for s in found if s.metric == "batch_asw" and s.unit != "dataset"]
    assert by_id(found)["batch_asw"].value == pytest.approx(np.mean(batch_asw))


def test_codes_of_labels_and_batches_are_names_only():
    e = cells(300)
    renamed = ScoredEmbedding(e.z, 3 - e.label, (e.batch + 1) % 3, e.before)
    ours, theirs = by_id(score_all(e)), by_id(score_all(renamed))
    for id in METRICS:
        assert ours[id].value == pytest.approx(theirs[id].value, abs=1e-6), id


def test_what_metrics_share_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for module, name in (
        (scored, "silhouettes"),
        (scored, "leiden_scan"),
        (scored, "kmeans"),
        (neighbours, "nearest_neighbours"),
        (lisi, "lisis"),
    ):
        original = getattr(module, name)

        def counted(*args, _name=name, _original=original, **options):
            calls.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(module, name, counted)
    e = cells(200)
    wanted = set(METRICS) - {"kbet", "cilisi"}  # which look for neighbours within each type
    score_all(e, sorted(wanted - set(COMPOSITES)))
    score_all(e, ["avg_bio", "avg_bio_fixed"])
    expected = ["kmeans", "leiden_scan", "lisis", "nearest_neighbours", "silhouettes"]
    assert sorted(calls) == expected


# ---- scib


def test_compat_reproduces_scib_metrics():
    """Values of scib_metrics 0.5.10's `Benchmarker` on the arrays of `cells(400)`."""
    found = by_id(score_all(cells(compat="scib"), list(SCIB)))
    for id, (value, tolerance) in SCIB.items():
        assert found[id].value == pytest.approx(value, abs=tolerance), id


# ---- absence


def test_without_batches_the_batch_side_says_why():
    found = by_id(score_all(cells(batch=None)))
    absent = {id for id, score in found.items() if score.status == "not_applicable"}
    assert absent == {*BATCHES, *BOTH, "isolated_labels"} - {"graph_connectivity"}
    assert found["ilisi"].note == "the dataset has no batch column"
    assert found["ilisi"].value is None
    assert "bras: the dataset has no batch column" in found["mixing"].note
    assert found["avg_bio"].status == "ok"


def test_one_batch_is_no_integration():
    found = by_id(score_all(cells(batch=np.zeros(400, np.int32))))
    assert "in one batch" in found["integration"].note
    assert found["overall_scib"].status == "not_applicable"


def test_one_label_is_nothing_to_tell_apart():
    found = by_id(score_all(cells(label=np.zeros(400, np.int32)), ["nmi", "asw", "avg_bio"]))
    assert {score.status for score in found.values()} == {"not_applicable"}
    assert "one label" in found["nmi"].note


def test_without_the_data_before_only_the_comparisons_are_absent():
    found = by_id(score_all(cells(before=None)))
    absent = {id for id, score in found.items() if score.status == "not_applicable"}
    assert absent == {"pcr_comparison", "relations", "overall_scib"}


def test_no_label_is_isolated_where_all_are_in_every_batch():
    e = cells(batch=np.arange(400, dtype=np.int32) % 3)
    found = by_id(score_all(e, ["isolated_labels", "overall_scib"]))
    assert found["isolated_labels"].status == "not_applicable"
    assert "isolated_labels: every label is in every batch" in found["overall_scib"].note
    scib = ScoredEmbedding(e.z, e.label, e.batch, e.before, compat="scib")
    assert by_id(score_all(scib, ["overall_scib"]))["overall_scib"].status == "ok"


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_handful_of_cells_is_scored_or_said_not_to_be(n: int):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 3)).astype(np.float32)
    codes = (np.arange(n) % 2).astype(np.int32)
    for score in score_all(ScoredEmbedding(z, codes, codes[::-1].copy(), z)):
        assert score.status in ("ok", "not_applicable"), (score.metric, score.note)
        assert (score.status == "ok") == (score.value is not None)
        assert score.status == "ok" or score.note


def test_identical_cells_are_scored_or_said_not_to_be():
    e = cells(60)
    same = ScoredEmbedding(np.ones_like(e.z), e.label, e.batch, e.before)
    for score in score_all(same):
        assert score.status in ("ok", "not_applicable"), (score.metric, score.note)


def test_a_value_that_is_not_finite_is_a_failure():
    metrics = {
        "nan": Metric("nan", lambda e: math.nan, "nan", "", (0, 1)),
        "units": Metric("units", lambda e: {"type:a": 1, "type:b": math.inf}, "", "", (0, 1)),
        "absent": Metric("absent", lambda e: _raise(NotApplicable("no tissue")), "", "", (0, 1)),
    }
    found = score_all(cells(), metrics)
    assert [(s.metric, s.unit, s.value, s.status) for s in found] == [
        ("nan", "dataset", None, "failed"),
        ("units", "type:a", 1.0, "ok"),
        ("units", "type:b", None, "failed"),
        ("absent", "dataset", None, "not_applicable"),
    ]
    assert found[0].note == "the value is nan"
    assert found[3].note == "no tissue"


def test_an_error_in_a_metric_is_not_swallowed():
    broken = Metric("broken", lambda e: _raise(ZeroDivisionError()), "", "", (0, 1))
    with pytest.raises(ZeroDivisionError):
        score_all(cells(), {"broken": broken})


def _raise(error: Exception) -> float:
    raise error


def test_an_embedding_that_breaks_the_contract_is_refused():
    e = cells()
    with pytest.raises(MethodError, match="one row per cell"):
        ScoredEmbedding(e.z[:-1], e.label)
    broken = e.z.copy()
    broken[3, 1] = np.nan
    with pytest.raises(MethodError, match="1 of 400 rows"):
        ScoredEmbedding(broken, e.label)
    with pytest.raises(ValueError, match="batch must have one row per cell"):
        ScoredEmbedding(e.z, e.label, e.batch[:-1])
    with pytest.raises(ValueError, match="compat"):
        ScoredEmbedding(e.z, e.label, compat="scIB")


# ---- subsamples


def test_draws_are_paired_and_stratified():
    e = cells(1000, max_exact=500, draw_cells=200, n_draws=3)
    other = cells(1000, max_exact=500, draw_cells=200, n_draws=3, z=np.tile(e.z[:, :1], 2))
    rows = [{tuple(row) for row in draw.before} for draw in e.draws()]
    assert [len(draw) for draw in rows] == [200, 200, 200]
    assert rows == [{tuple(row) for row in draw.before} for draw in other.draws()]
    assert rows[0] != rows[1]
    reseeded = cells(1000, max_exact=500, draw_cells=200, n_draws=3, seed=0)
    assert len(rows[0] & {tuple(row) for row in next(iter(reseeded.draws())).before}) == 200
    stratum = np.bincount(e.label * 3 + e.batch, minlength=12)
    for draw in e.draws():
        assert np.all(
            np.abs(np.bincount(draw.label * 3 + draw.batch, minlength=12) - stratum / 5) <= 1
        )


def test_above_the_limit_costly_metrics_are_means_over_draws_and_say_so():
    e = cells(600, max_exact=500, draw_cells=300, n_draws=3)
    found = by_id(score_all(e))
    exact = by_id(score_all(cells(600)))
    for id in METRICS:
        if id in SUPERLINEAR:
            assert "mean of 3 subsamples of 300 of 600 cells; sd" in found[id].note
        elif id not in COMPOSITES:
            assert found[id] == exact[id]
    by_draw = [draw.silhouettes.label.mean() / 2 + 0.5 for draw in e.draws()]
    assert found["asw"].value == pytest.approx(np.mean(by_draw))
    assert f"sd of one draw {np.std(by_draw, ddof=1):.2g}" in found["asw"].note
    assert found["asw"].value == pytest.approx(exact["asw"].value, abs=0.02)
    assert found["mixing"].note == "see notes of cilisi"
    assert found["mixing"].value == pytest.approx((found["bras"].value + found["cilisi"].value) / 2)


def test_a_type_too_rare_for_a_draw_is_scored_where_it_is_present():
    e = cells(600, max_exact=500, draw_cells=60, n_draws=8)
    label = e.label.copy()
    label[:3] = 4
    rare = ScoredEmbedding(
        e.z,
        label,
        e.batch,
        max_exact=500,
        draw_cells=60,
        n_draws=8,
        label_names=("a", "b", "c", "d", "rare"),
    )
    sizes = [draw.label_names for draw in rare.draws()]
    assert {"rare" in names for names in sizes} == {True, False}
    units = {score.unit for score in score_all(rare, ["asw"]) if score.status == "ok"}
    assert units == {"dataset", "type:a", "type:b", "type:c", "type:d", "type:rare"}


# Value and tolerance: the peer sums in float32. k-means draws otherwise than JAX: not compared.
SCIB = {
    "isolated_labels": (0.6799790263175964, 1e-6),
    "asw": (0.6696838736534119, 1e-6),
    "clisi": (0.9952837824821472, 1e-6),
    "bras": (0.710689902305603, 1e-6),
    "ilisi": (0.5145077705383301, 1e-6),
    "kbet": (0.42791666666666667, 0.01),  # neighbours among eigenvectors, approximate there
    "graph_connectivity": (0.9879960317460317, 1e-9),
    "pcr_comparison": (0.6647767384921287, 1e-5),
    "nmi_oracle": (0.919198595820811, 1e-12),
    "ari_oracle": (0.9453831167682107, 1e-12),
}
