"""What the page says, and that no study is too odd for it."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from example import BATCHES, HOSTILE, METHODS, example, with_records

from sclitmus.errors import StoreError
from sclitmus.report import verdicts
from sclitmus.report.content import ReportData
from sclitmus.report.coverage import coverage
from sclitmus.report.overlap import overlap
from sclitmus.report.page import charting_library, json_for_script, render, write_report
from sclitmus.report.per_unit import MOST_UNITS, unit_table
from sclitmus.stats.decisions import VERDICTS


class Text(HTMLParser):
    """The readable text of a page, and its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def without_library(html: str) -> str:
    """Our part of the page: the charting library has markup in its own texts."""
    assert html.count(charting_library()) == 1
    return html.replace(charting_library(), "")


def without_pictures(data: ReportData) -> ReportData:
    return replace(data, projections={})


def test_every_verdict_of_the_statistics_has_a_look_and_a_meaning() -> None:
    assert tuple(verdicts.WORDS) == VERDICTS
    assert len({v.icon for v in verdicts.WORDS.values()}) == len(VERDICTS)  # not by colour only


def test_the_page_is_small_whole_and_in_order(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    assert len(html) < 6_000_000
    parts = re.findall(r'<section id="(\w+)">', html)
    assert parts == [
        *("verdict", "scores", "pictures", "ranks", "coverage", "cost", "types"),
        *("cards", "methods", "downloads", "provenance"),
    ]
    assert html.count("data:image/png;base64,") == 2 * 9 * 2  # datasets, methods, type and batch
    assert not re.search(r'(?:src|href)="(?!#|data:|https://doi\.org/)', without_library(html))


def test_the_policy_names_the_scripts_of_the_page_and_no_others(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert found is not None
    policy = unescape(found.group(1))
    allowed = set(re.findall(r"'sha256-([^']*)'", policy))
    data, *scripts = Text(html).scripts
    assert json.loads(data)  # the charts: data, not a program
    hashes = {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    }
    assert allowed == hashes
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_the_summary_gives_each_task_its_verdict(study: ReportData) -> None:
    assert verdicts.summary(study) == (
        "Cell types: lab_embedding_v2 clears the bar; MyModel 12M is below the bar.",
        "Integration: lab_embedding_v2 is on the bar; MyModel 12M is below the bar.",
        "Judged on 2 datasets (5,700 cells) against 4 simple baselines "
        "(scVI, Harmony, PCA and HVG).",
    )


def test_scores_shown_are_those_of_the_statistics(study: ReportData, page_file: Path) -> None:
    text = Text(page_file.read_text(encoding="utf-8")).text
    row = study.analysis.intervals.filter(
        pl.col("dataset") == "pancreas_5tech",
        pl.col("metric") == "avg_bio",
        pl.col("method") == "scvi",
        pl.col("unit") == "dataset",
    ).row(0, named=True)
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in text


def test_downloads_hold_the_frames(study: ReportData, page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    found = dict(re.findall(r'download="([^"]+)" href="data:[^,]*,([^"]+)"', html))
    verdict_rows = pl.read_csv(base64.b64decode(found["verdicts.csv"]))
    assert verdict_rows["verdict"].to_list() == study.analysis.verdicts["verdict"].to_list()
    records = pl.read_parquet(base64.b64decode(found["records.parquet"]))
    assert records.equals(study.records)
    packed = pl.read_csv(gzip.decompress(base64.b64decode(found["records.csv.gz"])))
    assert len(packed) == len(study.records)


def test_hostile_names_survive_as_text_and_nowhere_as_markup(hostile_file: Path) -> None:
    html = hostile_file.read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert "<img" not in without_library(html)
    page = Text(html)
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert len(page.scripts) == 3
    assert HOSTILE in json.dumps(json.loads(page.scripts[0]))


def test_no_name_becomes_the_title_of_a_tooltip_field(hostile_file: Path) -> None:
    """The tooltip of Vega turns a field titled "image" into a picture; ours are fixed."""
    charts = Text(hostile_file.read_text(encoding="utf-8")).scripts[0]
    assert set(re.findall(r'"tooltip":(\[.*?\])', charts)) == {
        '[{"field":"name","title":"method","type":"nominal"},'
        '{"field":"says","title":" ","type":"nominal"}]'
    }


def test_json_cannot_end_its_script() -> None:
    value = {"</script>": "<!-- & \u2028"}
    text = json_for_script(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        json_for_script(float("nan"))


def test_overlap_with_the_pretraining_is_a_warning(study: ReportData, page_file: Path) -> None:
    pbmc, pancreas = study.datasets
    assert overlap(METHODS[0], pancreas) == ("GSE84133",)
    assert overlap(METHODS[0], pbmc) == ()
    text = Text(page_file.read_text(encoding="utf-8")).text
    assert "MyModel 12M was pretrained on GSE84133, which pancreas_5tech is part of" in text


def test_no_batches_is_not_applicable_and_says_why() -> None:
    data = example(datasets={"one": 500}, batches=())
    text = Text(render(data)).text
    assert "No method has a score here." in text
    why = "Not applicable: the dataset has no batch column; give one with --batch COLUMN"
    assert why in text
    states = {row[2].text for row in coverage(data).tables[0].rows}
    assert states == {"not applicable (1)"}


def test_failed_missing_and_partial_trials_are_told_apart(study: ReportData) -> None:
    records = study.records.filter(pl.col("dataset") == "pbmc68k_reduced")
    failed, partial = pl.col("method") == "mymodel", pl.col("method") == "pca"
    lost = failed | (partial & (pl.col("metric") == "avg_bio"))
    records = records.filter(pl.col("method") != "hvg").with_columns(
        value=pl.when(lost).then(None).otherwise("value"),
        status=pl.when(lost).then(pl.lit("failed")).otherwise("status"),
        note=pl.when(lost).then(pl.lit("out of memory")).otherwise("note"),
    )
    data = with_records(replace(study, datasets=study.datasets[:1], projections={}), records)
    matrix = {row[0].text: row[1].text for row in coverage(data).tables[0].rows}
    assert matrix["MyModel 12M"].startswith("failed (")
    assert matrix["PCA"].startswith("in part (")
    assert matrix["HVG"].startswith("missing (")
    assert matrix["scVI"] == "ok"
    text = Text(render(data)).text
    assert "MyModel 12M has no score. Failed: out of memory" in text
    assert "failed in whole or in part: see coverage" in text


def test_all_failed_is_a_page_that_says_so(study: ReportData) -> None:
    records = study.records.with_columns(
        value=pl.lit(None, pl.Float64), status=pl.lit("failed"), note=pl.lit("killed")
    )
    text = Text(render(without_pictures(with_records(study, records)))).text
    assert text.count("No method has a score here.") == 4
    assert "it cannot be said whether" in text


def test_without_contenders_the_baselines_are_judged() -> None:
    data = without_pictures(example(datasets={"one": 700}, methods=METHODS[2:]))
    assert verdicts.summary(data)[0].startswith("No model was under test")
    rows = verdicts.judged(data).lead[0].rows
    assert {row.method for row in rows} == {"scVI", "Harmony", "PCA", "HVG"}
    assert "No model was under test" in Text(render(data)).text


def test_a_single_method_and_two_cells_make_a_page() -> None:
    data = example(datasets={"tiny": 2}, methods=METHODS[:1], batches=BATCHES[:2])
    assert "MyModel 12M" in Text(render(data)).text


def test_five_hundred_types_stay_a_table_one_can_read() -> None:
    types = tuple(f"type {i}" for i in range(500))
    data = example(datasets={"atlas": 3000}, methods=METHODS[:4], types=types)
    table = unit_table(data, "atlas", "cell_types", "purity")
    assert table is not None
    assert len(table.rows) == MOST_UNITS
    assert "the 470 easiest are in the downloads" in table.caption
    n_drawn = sum(count > 0 for count in data.projections["atlas"].label.counts)  # type: ignore[union-attr]
    assert f"{n_drawn - 30} others" in Text(render(data)).text


def test_the_hardest_type_comes_first(study: ReportData) -> None:
    table = unit_table(study, "pancreas_5tech", "cell_types", "purity")
    assert table is not None
    judged = [(row[2].sort + row[3].sort) / 2 for row in table.rows]  # type: ignore[operator]
    assert judged == sorted(judged)


def test_an_unwritable_place_is_an_error_with_a_remedy(tmp_path: Path, study: ReportData) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another --out"):
        write_report(tmp_path / "file" / "report.html", without_pictures(study))


def test_published_figures_stand_beside_the_studys_own() -> None:
    data = example()
    info, task = data.datasets[0], data.tasks[0]
    row = {
        "dataset": info.id,
        "task": task.id,
        "metric": task.headline,
        "method": "scX <as published>",
        "value": 0.4321,
        "spread": 0.05,
        "source": "Somebody 2024",
        "note": "one run",
    }
    page = render(replace(data, published=pl.DataFrame([row])))
    assert "scX &lt;as published&gt;" in page
    assert "Somebody 2024; one run" in page
    assert 'id="published"' in page
    assert 'id="published"' not in render(data)
