"""Tables and texts of the tasks in which labels are learned."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import polars as pl
import pytest
from example import HOSTILE, example, with_records
from label_example import ANNOTATION, LABEL_METHODS, LABEL_TYPES, label_replicates

from sclitmus.core.metric import Metric
from sclitmus.report import confusion
from sclitmus.report.answers import answers
from sclitmus.report.cards import methods_paragraph
from sclitmus.report.content import ReportData
from sclitmus.report.coverage import coverage
from sclitmus.report.export import save_tables
from sclitmus.report.families import families
from sclitmus.report.page import charting_library, render
from sclitmus.report.per_unit import unit_metrics
from sclitmus.report.sections import TaskPart, task_part
from sclitmus.report.settings import amounts, in_words
from sclitmus.report.units import pair_of

DATASET = "pancreas_5tech"


def part_of(data: ReportData, task: str) -> TaskPart:
    return task_part(data, data.datasets[0].id, task)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("B cell → T cell", ("B cell", "T cell")),
        ("a → b → c", ("a → b", "c")),  # "b → c" is no type
        ("a → a → b", ("a", "a → b")),
        ("pair: → pair:", ("pair:", "pair:")),
        ("x → y → z", ("x → y", "z")),  # no types of the dataset: the last arrow
        ("no arrow", ("no arrow", "")),
    ],
)
def test_a_confusion_is_divided_where_both_sides_are_types(
    text: str, pair: tuple[str, str]
) -> None:
    assert pair_of(text, {"a", "a → b", "c", "B cell", "T cell", "pair:"}) == pair


def test_settings_run_from_few_cells_to_all() -> None:
    names = ["all", "p50", "k16", "p12.5", "few", "scaled", "k2", "k1", "max_softmax"]
    found = amounts(names)
    assert [a.name for a in found] == ["k1", "k2", "k16", "p12.5", "p50", "all"]
    assert in_words(found) == (
        "1, 2 and 16 cells per type, 12.5% and 50% of the training cells and all training cells"
    )
    assert in_words(found[:1]) == "1 cell per type"
    assert in_words(amounts(["p10", "all"])) == "10% of the training cells and all training cells"


def test_families_are_what_stands_before_the_dot(labels: ReportData) -> None:
    ids = ["macro_f1.few", "macro_f1.k1", "ece", "ece.scaled", "aurc", "mine.x", "mine.y"]
    macro_f1, ece, aurc, mine = families(labels, ids)
    assert macro_f1.title == "Macro-F1"
    assert [m.words for m in macro_f1.members] == [
        "Mean over 1, 2, 4, 8, 16 cells per type",
        "1 cell per type",
    ]
    assert ece.title == "ECE"
    assert ece.twofold == "scaled"
    assert (macro_f1.twofold, aurc.twofold) == ("", "")
    assert [m.words for m in mine.members] == ["Mine.x", "Mine.y"]  # no card, nothing shared
    assert mine.title == "mine"


def test_annotation_has_its_settings_as_columns(labels: ReportData) -> None:
    part = part_of(labels, "annotation")
    titles = [column.title for column in part.main.columns]
    assert titles[:4] == [
        "Method",
        "Macro-F1, mean over 1, 2, 4, 8, 16 cells per type",
        "Difference to the best baseline",
        "p (Holm)",
    ]
    assert titles[4:] == [
        *(f"{k} cell{'s' if k > 1 else ''} per type" for k in (1, 2, 4, 8, 16)),
        *(f"{p}% of the training cells" for p in (10, 25, 50, 75)),
        "All training cells",
    ]
    row = next(row for row in part.main.rows if row[0].text == "Logistic regression, L2")
    found = labels.scores(DATASET, "annotation", "macro_f1.k4")
    k4 = found.filter(pl.col("method") == "lr_l2").row(0, named=True)
    assert row[6].text == f"{k4['value']:.3f}"
    assert row[6].note == f"[{k4['low']:.3f}, {k4['high']:.3f}]"
    assert [f.says for f in part.more] == ["Balanced accuracy", "Accuracy"]
    assert not any(f.open for f in part.more)
    assert len(part.more[0].table.columns) == 1 + 10


def test_novel_types_have_a_table_per_measure_and_one_of_calibration(labels: ReportData) -> None:
    part = part_of(labels, "novel_types")
    by_name = {f.says: f for f in part.more}
    calibration = "ECE, ECE, equal mass, Class-wise ECE, Brier score, Negative log-likelihood"
    assert list(by_name) == ["AUROC", "OSCR", "AUPR", "FPR95", calibration, "Other metrics"]
    assert [f.says for f in part.more if f.open] == ["AUROC", calibration]
    assert len(by_name["AUROC"].table.columns) == 1 + 6  # of seven measures one does not apply
    assert by_name["AUROC"].table.caption.endswith("AUROC (chance 0.5)")
    assert by_name["FPR95"].table.caption.endswith("FPR95 (lower is better, chance 0.95)")
    table = by_name[calibration].table
    assert [(c.title, c.explain) for c in table.columns[1:3]] == [
        ("ECE", "as it is"),
        ("ECE", "after temperature scaling"),
    ]
    assert "ECE" not in {c.title for c in by_name["Other metrics"].table.columns}


def test_a_task_without_families_keeps_one_table_of_the_rest(study: ReportData) -> None:
    part = task_part(study, "pancreas_5tech", "integration")
    (rest,) = part.more
    assert rest.says == "Every other metric"
    assert [column.title for column in rest.table.columns] == [
        "Method",
        "iLISI",
        "kBET",
        "PCR, raw",
    ]
    assert (part.notes, part.mapped, part.groups, part.mistakes) == ((), "", None, None)


def test_metrics_of_a_plugin_with_dots_are_a_family(study: ReportData) -> None:
    mine = [
        Metric(f"mine.{x}", lambda _: 0.0, f"Mine, {x} way", "", (0.0, 1.0))
        for x in ("hard", "soft")
    ]
    rows = study.records.filter(pl.col("metric") == "asw")
    records = pl.concat(
        [study.records, *(rows.with_columns(metric=pl.lit(metric.id)) for metric in mine)]
    )
    data = with_records(replace(study, metrics=(*study.metrics, *mine)), records)
    more = task_part(data, "pancreas_5tech", "cell_types").more
    assert [f.says for f in more] == ["Mine", "Other metrics"]
    assert [c.title for c in more[0].table.columns] == ["Method", "Hard way", "Soft way"]


def test_types_are_shown_for_all_cells_with_few_ones_folded(labels: ReportData) -> None:
    assert unit_metrics(labels, DATASET, "annotation") == [
        "recall.all",
        "recall.k1",
        "recall.k4",
        "recall.k16",
    ]
    assert unit_metrics(labels, DATASET, "transfer") == ["recall"]
    assert unit_metrics(labels, DATASET, "novel_types") == ["auroc.max_softmax"]
    assert unit_metrics(labels, DATASET, "transfer", "group") == ["macro_f1"]
    part = part_of(labels, "annotation")
    assert part.types is not None
    assert part.types.caption == (
        "Annotation: recall of each type, all training cells, on pancreas_5tech, hardest first"
    )
    assert len(part.types_more) == 3
    groups = part_of(labels, "transfer").groups
    assert groups is not None
    assert groups.rows[0][0].text == "smartseq2"  # the hardest planted


def test_notes_of_scores_are_said_once_with_their_settings(labels: ReportData) -> None:
    text = "1 type has too few training cells and is left out: b"
    settings = ["macro_f1.k8", "macro_f1.k16", "accuracy.k16"]
    noted = labels.records.with_columns(
        note=pl.when(pl.col("metric").is_in(settings)).then(pl.lit(text)).otherwise("note")
    )
    data = replace(labels, records=noted)
    assert part_of(data, "annotation").notes == (f"8 and 16 cells per type: {text}",)
    assert part_of(data, "transfer").notes == ()


def test_mistakes_name_both_types_and_every_method(labels: ReportData) -> None:
    table = part_of(labels, "annotation").mistakes
    assert table is not None
    assert len(table.rows) == confusion.MOST_MISTAKES
    assert len(table.columns) == 1 + len(LABEL_METHODS)
    first = table.rows[0][0].text
    assert re.fullmatch(r"(.*), called (.*)", first)
    assert "a → b, called b" in {row[0].text for row in table.rows}
    assert "rarer ones in the downloads" in table.caption


def test_a_mistake_that_one_seed_lacks_counts_as_0_there(labels: ReportData) -> None:
    mine = pl.col("method") == "mymodel"
    pairs = labels.records.filter(mine, pl.col("metric") == "confusion")
    again = pairs.filter(pl.col("unit") != "pair:NK → b").with_columns(seed=pl.lit(1, pl.Int64))
    records = pl.concat([labels.records, again])
    data = with_records(labels, records, label_replicates(DATASET), n_draws=200)
    found = {c.method: c.shares for c in confusion.confusions(data, DATASET, "annotation")}
    rows = found["mymodel"].filter(pl.col("truth") == "NK")
    shares = dict(rows.select("call", "value").iter_rows())
    assert shares["NK"] == pytest.approx(0.86)
    assert shares["b"] == pytest.approx(0.14 * 0.3 / 2)


def test_scores_go_to_one_latex_table_per_family(labels: ReportData, tmp_path: Path) -> None:
    names = {path.name for path in save_tables(labels, tmp_path)}
    assert f"scores_{DATASET}_annotation.tex" in names
    assert f"scores_{DATASET}_annotation_balanced_accuracy.tex" in names
    assert f"scores_{DATASET}_novel_types_other.tex" in names
    assert f"scores_{DATASET}_transfer_macro_f1.tex" not in names
    main = (tmp_path / f"scores_{DATASET}_annotation.tex").read_text()
    assert r"macro\_f1.k16" in main
    assert "accuracy" not in main.replace("annotation", "")


def test_the_paragraph_says_how_labels_were_learned(labels: ReportData, study: ReportData) -> None:
    text = methods_paragraph(labels)
    assert text.startswith("Methods were evaluated by the labels that they learned")
    assert "shown beside its values for 1 cell per type, 2 cells per type" in text
    assert methods_paragraph(study).startswith("Cell embeddings were evaluated zero-shot with")
    both = replace(study, tasks=(*study.tasks, *labels.tasks))
    assert methods_paragraph(both).startswith("Cell embeddings were evaluated zero-shot, and ")


def test_only_a_study_of_labels_has_answers(study: ReportData, labels_file: Path) -> None:
    assert answers(study, "pancreas_5tech") == ()
    text = labels_file.read_text(encoding="utf-8")
    assert text.count('<dl class="answers">') == 1
    assert "MyModel 12M needs 1 labelled cell per type to beat" in text


def test_of_many_sentences_most_are_folded() -> None:
    more = tuple(replace(LABEL_METHODS[1], id=f"m{i}", title=f"Model {i}") for i in range(8))
    data = replace(example(datasets={"one": 50}), projections={})
    data = replace(data, methods=(*more, *data.methods), tasks=(ANNOTATION.card,))
    metrics = tuple(ANNOTATION.metrics.values())
    rows = data.records.filter(pl.col("method") == "pca", pl.col("metric") == "avg_bio").drop(
        "method"
    )
    names = pl.DataFrame({"method": [*(card.id for card in more), "pca"]})
    records = rows.join(names, how="cross").select(data.records.columns)
    records = records.with_columns(task=pl.lit("annotation"), metric=pl.lit("macro_f1.k1"))
    html = render(with_records(replace(data, metrics=metrics), records, n_draws=200))
    folded = re.search(r"<summary>4 more</summary>\s*<p>(.*?)</p>", html)
    assert folded is not None
    assert "It cannot be said how many Model" in folded[1]


def test_annotators_do_not_apply_to_zero_shot_tasks_and_share_a_line() -> None:
    data = example(datasets={"one": 500})
    why = "it learns labels and makes no embedding"
    lost = pl.col("method").is_in(["pca", "hvg", "harmony"])
    records = data.records.with_columns(
        value=pl.when(lost).then(None).otherwise("value"),
        status=pl.when(lost).then(pl.lit("not_applicable")).otherwise("status"),
        note=pl.when(lost).then(pl.lit(why)).otherwise("note"),
    )
    data = with_records(data, records)
    assert task_part(data, "one", "cell_types").absent == (
        ("Harmony, PCA and HVG", True, f"not applicable: {why}"),
    )
    mixed = replace(data, tasks=(*data.tasks, ANNOTATION.card))
    rows = task_part(mixed, "one", "cell_types").main.rows
    assert {"Harmony", "PCA", "HVG"}.isdisjoint({row[0].text for row in rows})
    states = {row[0].text: row[1].text for row in coverage(data).tables[0].rows}
    assert states["PCA"] == "not applicable (1)"


def test_hostile_types_and_groups_stay_text(hostile_labels_file: Path) -> None:
    html = hostile_labels_file.read_text(encoding="utf-8")
    ours = html.replace(charting_library(), "")
    assert HOSTILE not in html
    assert "<img" not in ours
    assert "{{ 7 * 7 }}" in unescape(ours)
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', ours, re.S)
    assert found is not None
    assert set(re.findall(r'"tooltip":(\[.*?\])', found[1])) == {
        '[{"field":"name","title":"method","type":"nominal"},'
        '{"field":"says","title":" ","type":"nominal"}]'
    }
    specs = json.loads(found[1])
    maps = [spec for spec in specs.values() if "truth" in json.dumps(spec)]
    assert maps
    domain = maps[0]["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert {"pair:", "a → b", "b → a", "a", " "} <= set(domain)
    assert "a → b → a" not in domain


def test_every_planted_type_is_in_the_table(labels: ReportData) -> None:
    table = part_of(labels, "annotation").types
    assert table is not None
    assert {row[0].text for row in table.rows} == set(LABEL_TYPES)
