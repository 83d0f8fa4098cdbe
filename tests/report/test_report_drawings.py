"""Pictures, figures and tables as files."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sclitmus.core.dataset import Categories
from sclitmus.errors import StudyError
from sclitmus.report import scatter
from sclitmus.report.colours import CATEGORIES, DARK, LIGHT, follow_theme
from sclitmus.report.content import ReportData
from sclitmus.report.figures import figure, save_figure
from sclitmus.report.numbers import amount, interval, number
from sclitmus.report.placement import place_labels
from sclitmus.report.tables import (
    escape_latex,
    score_table,
    to_latex,
    verdict_table,
    write_table,
)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def column(names: list[str]) -> Categories:
    return Categories.of([*names])


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_cells_are_where_they_belong_on_a_transparent_ground() -> None:
    xy = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    names = column(["a", "b", "a"])
    image = pixels(scatter.draw(xy, names, scatter.legend(names)))
    side = scatter.PIXELS
    expected = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in CATEGORIES[:2]]
    low = round(0.04 * (side - 1))  # the margin; y grows upwards
    assert tuple(image[side - 1 - low, low]) == (*expected[0], 255)
    assert tuple(image[low, side - 1 - low]) == (*expected[1], 255)
    assert image[side // 2, side // 2, 3] == 0


def test_a_picture_of_a_hundred_thousand_cells_is_small_and_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 45, 100_000).astype(np.int32)
    names = Categories(codes, tuple(f"t{i}" for i in range(45)))
    xy = rng.normal(size=(45, 2))[codes] * 5 + rng.normal(size=(100_000, 2))
    colours = scatter.legend(names)
    first = scatter.draw(xy, names, colours)
    assert first == scatter.draw(xy, names, colours)
    assert len(first) < 120_000
    assert len(colours.entries) == 30
    assert colours.others == (15, int(np.sort(names.counts)[:15].sum()))


def test_odd_coordinates_are_left_out_and_missing_names_are_drawn() -> None:
    names = column(["a", "", "a", "b"])
    xy = np.array([[0.0, 0.0], [1.0, 1.0], [np.nan, 0.0], [np.inf, 1.0]])
    frame = scatter.place(xy)
    assert frame.drawn.tolist() == [True, True, False, False]
    image = pixels(scatter.draw(xy, names, scatter.legend(names)))
    assert len(np.unique(image[image[..., 3] > 0], axis=0)) == 2
    empty = scatter.draw(np.full((4, 2), np.nan), names, scatter.legend(names))
    assert (pixels(empty)[..., 3] == 0).all()


def test_a_number_lies_on_a_cell_of_its_type() -> None:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    names = column(["ring"] * 60)
    ((_, x, y),) = scatter.anchors(ring, names, scatter.legend(names))
    assert np.hypot(x - 0.5, y - 0.5) > 0.4


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    x, y = np.array([100.0, 103.0, 106.0]), np.array([100.0, 101.0, 99.0])
    widths = np.full(3, 60.0)
    areas = []
    for place in place_labels(x, y, widths, (300.0, 300.0)):
        left = place.x - 60 * {"left": 0.0, "center": 0.5, "right": 1.0}[place.align]
        areas.append((left, place.y - 6.5, left + 60, place.y + 6.5))
    for i, a in enumerate(areas):
        for b in areas[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_colour_that_text_has_can_be_read(theme: dict[str, str]) -> None:
    texts = {"ink", "muted", "accent", "rival", "clears", "even", "below", "floor", "unsure"}
    assert min(contrast(theme[name], theme["paper"]) for name in texts) >= 4.5
    assert min(contrast(theme[name], theme["panel"]) for name in ("ink", "muted")) >= 4.5
    assert contrast(theme["control"], theme["paper"]) >= 2.9  # marks; 3 is asked of graphics


def test_theme_colours_are_told_apart_and_become_variables() -> None:
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values()) | set(CATEGORIES)) == len(LIGHT) + len(CATEGORIES)
    assert follow_theme(f'fill="{LIGHT["ink"].upper()}"') == 'fill="var(--ink)"'


@pytest.mark.parametrize("kind", ["scores", "sides", "ranks", "cost", "memory", "types"])
def test_each_figure_is_a_file(study: ReportData, tmp_path: Path, kind: str) -> None:
    task = "cell_types" if kind == "types" else "integration"
    chart = figure(study, kind, "pancreas_5tech", task)
    drawing = save_figure(chart, tmp_path / "figures" / f"{kind}.svg").read_text()
    assert drawing.startswith("<svg")
    assert "lab_embedding_v2" in drawing
    image = Image.open(save_figure(chart, tmp_path / f"{kind}.png"))
    assert image.width > 600


def test_figures_that_cannot_be_are_refused(study: ReportData, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="one of scores, sides"):
        figure(study, "pie", "pancreas_5tech", "integration")
    with pytest.raises(StudyError, match="no values for a sides figure"):
        figure(study, "sides", "pancreas_5tech", "cell_types")
    with pytest.raises(StudyError, match=r"\.svg or \.png"):
        save_figure(figure(study, "ranks", "pancreas_5tech", "integration"), tmp_path / "a.pdf")


def test_tables_are_files_that_read_back(study: ReportData, tmp_path: Path) -> None:
    frame = verdict_table(study)
    assert pl.read_csv(write_table(frame, tmp_path / "t.csv")).equals(frame)
    assert pl.read_parquet(write_table(frame, tmp_path / "t.parquet")).equals(frame)
    with pytest.raises(StudyError, match=r"\.csv, \.parquet or \.tex"):
        write_table(frame, tmp_path / "t.xlsx")


def test_latex_is_escaped_and_aligned() -> None:
    frame = pl.DataFrame({"a_b": ["50% & $x^2$ {~} \\ #1"], "value": [-0.12345]})
    text = to_latex(frame, "100%", "my table")
    cell = (
        r"50\% \& \$x\textasciicircum{}2\$ \{\textasciitilde{}\} \textbackslash{} \#1 & $-$0.123 \\"
    )
    assert cell in text
    assert r"\begin{tabular}{lr}" in text
    assert r"\caption{100\%}" in text
    assert r"\label{tab:my-table}" in text
    assert r"a\_b & value \\" in text
    assert escape_latex("a<b>") == r"a\textless{}b\textgreater{}"


def test_score_table_has_the_headline_first_and_the_best_method_on_top(study: ReportData) -> None:
    table = score_table(study, "pancreas_5tech", "integration")
    assert table.columns[:4] == ["method", "integration", "mixing", "conservation"]
    assert table["method"][0] == "Label oracle"
    assert len(table) == 9


def test_lower_is_better_is_sorted_the_other_way(study: ReportData) -> None:
    values = study.scores("pancreas_5tech", "integration", "pcr")["value"].to_list()
    assert values == sorted(values)


def test_methods_of_one_title_keep_their_ids(study: ReportData) -> None:
    twins = (replace(study.methods[0], title="PCA"), *study.methods[1:])
    names = replace(study, methods=twins).names
    assert names["mymodel"] == "PCA (mymodel)"
    assert names["pca"] == "PCA (pca)"
    assert names["scvi"] == "scVI"


def test_cost_counts_a_trial_once(study: ReportData) -> None:
    row = study.cost.filter(pl.col("dataset") == "pancreas_5tech", pl.col("method") == "scvi")
    assert row["seconds"].to_list() == [96.0]


def test_numbers_are_written_one_way() -> None:
    assert number(None) == number(float("nan")) == "–"
    assert number(-0.1234) == "−0.123"
    assert interval(0.5, None, 0.6) == "0.500"
    assert interval(0.5, 0.4, 0.6) == "0.500 [0.400, 0.600]"
    assert (amount(0.0123), amount(1234.5), amount(None)) == ("0.012", "1,234", "–")
