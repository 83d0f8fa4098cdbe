"""Figures of the tasks in which labels are learned."""

import json
from html import unescape
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from example import with_records
from hypothesis import given
from hypothesis import strategies as st
from label_example import LABEL_METHODS, label_replicates, label_study
from PIL import Image

from sclitmus.errors import StudyError
from sclitmus.report import confusion
from sclitmus.report.content import ReportData
from sclitmus.report.figures import KINDS, figure, save_figure
from sclitmus.report.open_set import panel_methods
from sclitmus.report.placement import spread
from sclitmus.report.sections import TaskPart, task_part

DATASET = "pancreas_5tech"
LABEL_KINDS = {
    "learning": "annotation",
    "confusion": "annotation",
    "confusion_bar": "transfer",
    "groups": "transfer",
    "novel": "novel_types",
    "reliability": "novel_types",
    "risk": "novel_types",
}
OTHER_KINDS = ("scores", "sides", "ranks", "cost", "memory", "types")  # in test_report_drawings


def test_every_kind_of_figure_is_tested() -> None:
    assert set(KINDS) == {*LABEL_KINDS, *OTHER_KINDS}


def without(data: ReportData, *dropped: pl.Expr) -> ReportData:
    records = data.records.filter(~pl.any_horizontal(dropped))
    return with_records(data, records, label_replicates(data.datasets[0].id))


def part_of(data: ReportData, task: str) -> TaskPart:
    return task_part(data, data.datasets[0].id, task)


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_each_label_figure_is_a_file(labels: ReportData, tmp_path: Path, kind: str) -> None:
    chart = figure(labels, kind, DATASET, LABEL_KINDS[kind])
    drawing = save_figure(chart, tmp_path / f"{kind}.svg").read_text()
    assert drawing.startswith("<svg")
    named = "Logistic regression, L2" if kind == "confusion_bar" else "MyModel 12M"
    assert named in unescape(drawing)


def test_a_figure_of_panels_is_a_picture_too(labels: ReportData, tmp_path: Path) -> None:
    chart = figure(labels, "groups", DATASET, "transfer")
    assert Image.open(save_figure(chart, tmp_path / "groups.png")).width > 1200


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_zero_shot_tasks_have_no_label_figures(study: ReportData, kind: str) -> None:
    with pytest.raises(StudyError, match=f"no values for a {kind} figure"):
        figure(study, kind, "pancreas_5tech", "integration")


def test_learning_curves_name_every_method_but_the_floor(labels: ReportData) -> None:
    spec = json.dumps(figure(labels, "learning", DATASET, "annotation").to_dict())
    for card in LABEL_METHODS:
        assert (labels.names[card.id] in spec) is (card.part != "floor")
    assert "16 cells per type: 0.7" in spec


def test_cost_is_not_drawn_where_labels_are_learned(labels: ReportData) -> None:
    for kind in ("cost", "memory"):
        assert KINDS[kind].draw(labels, DATASET, "annotation") is None


def test_of_many_types_the_most_confused_are_drawn_and_the_rest_is_said() -> None:
    types = tuple(f"type {i:02d}" for i in range(63))
    data = label_study(methods=LABEL_METHODS[:5], types=types)
    spec = figure(data, "confusion", DATASET, "annotation").to_dict()
    domain = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert len(domain) == confusion.MOST_DRAWN
    assert len(spec["layer"]) == 1  # no room for numbers
    assert "the 40 most confused of 63 types" in part_of(data, "annotation").mapped


def test_unknown_types_say_whether_they_are_near(labels: ReportData) -> None:
    spec = figure(labels, "novel", DATASET, "novel_types").to_dict()
    text = json.dumps(spec, ensure_ascii=False)
    assert "b (near)" in text
    assert "CD14+ monocyte (far)" in text
    assert "T cell lineage" in text
    assert panel_methods(labels, DATASET, "novel_types") == ["supplied", "mymodel"]  # no twin
    assert len(spec["concat"]) == 2


def test_without_models_the_figures_are_about_the_simple_methods(labels: ReportData) -> None:
    data = label_study(methods=LABEL_METHODS[3:])
    assert figure(data, "novel", DATASET, "novel_types") is not None
    assert figure(data, "reliability", DATASET, "novel_types") is not None
    assert figure(data, "confusion_bar", DATASET, "transfer") is not None
    with pytest.raises(StudyError, match="no values"):
        figure(data, "confusion", DATASET, "transfer")


def test_a_method_without_features_or_bins_leaves_gaps_not_errors(labels: ReportData) -> None:
    mine = pl.col("method") == "mymodel"
    data = without(
        labels,
        mine & pl.col("metric").str.starts_with("bin_"),
        mine & pl.col("metric").str.ends_with("mahalanobis"),
        mine & pl.col("metric").str.ends_with(".k8"),
        mine & (pl.col("metric") == "confusion"),
        pl.col("metric") == "auroc_near",
    )
    drawn = {kind: figure(data, kind, DATASET, task) for kind, task in LABEL_KINDS.items()}
    assert "MyModel 12M" not in json.dumps(drawn["reliability"].to_dict())
    assert "16 cells per type" in json.dumps(drawn["learning"].to_dict())
    measures = next(f for f in part_of(data, "novel_types").more if f.says == "AUROC").table
    row = next(row for row in measures.rows if row[0].text == "MyModel 12M")
    assert row[-1].text == "–"
    assert confusion.shown_methods(data, DATASET, "annotation")["contender"] == "supplied"
    assert "(near)" not in json.dumps(figure(data, "novel", DATASET, "novel_types").to_dict())


@given(
    st.lists(st.floats(-50, 400), max_size=12),
    st.floats(1, 20),
)
def test_spread_names_keep_their_order_and_distance(heights: list[float], gap: float) -> None:
    y = np.array(heights)
    placed = spread(y, gap, 5.0, 335.0)
    assert placed.shape == y.shape
    if len(y):
        assert placed.min() >= 5.0 - 1e-6
        assert placed.max() <= 335.0 + 1e-6
    order = np.argsort(y, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-6).all()


def test_names_that_do_not_collide_stay_where_they_are() -> None:
    y = np.array([10.0, 300.0, 100.0])
    assert spread(y, 14.0, 0.0, 340.0).tolist() == y.tolist()
    together = spread(np.array([100.0, 100.0, 100.0]), 14.0, 0.0, 340.0)
    assert together.tolist() == [86.0, 100.0, 114.0]
