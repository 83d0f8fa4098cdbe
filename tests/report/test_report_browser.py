"""The page in a real browser: it renders, keeps quiet, stays local and fits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from example import HOSTILE, HOSTILE_TOO

pytestmark = pytest.mark.browser


@dataclass
class Visit:
    """An open page and what it did."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def visit(browser: Any, file: Path, *, width: int = 1280, **context: Any) -> Iterator[Visit]:
    opened = browser.new_context(viewport={"width": width, "height": 900}, **context)
    page = opened.new_page()
    seen = Visit(page)
    page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    page.on("request", lambda request: seen.asked.append(request.url))

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.goto(file.as_uri())
    yield seen
    opened.close()


def scroll_through(page: Any) -> None:
    """Bring every chart into view and wait there until it has come alive.

    Only scrolling past is not enough: a chart that is in view for less than a frame, as on a busy
    machine, is never noticed by the page.
    """
    for number in range(page.locator("[data-chart]").count()):
        chart = page.locator("[data-chart]").nth(number)
        chart.scroll_into_view_if_needed()
        chart.locator(".drawing").wait_for(state="detached", timeout=60_000)


def test_charts_come_alive_silently_and_nothing_is_requested(browser: Any, page_file: Path) -> None:
    with visit(browser, page_file) as seen:
        scroll_through(seen.page)
        n_charts = seen.page.locator("[data-chart]").count()
        assert n_charts == 18  # two datasets, two tasks: scores, ranks, cost, memory; 2 x sides
        assert seen.page.locator(".live svg").count() == n_charts
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("data:")] == [page_file.as_uri()]


def test_the_verdict_is_the_first_table_and_stands_on_the_first_screen(
    browser: Any, page_file: Path
) -> None:
    with visit(browser, page_file) as seen:
        assert seen.page.locator("table").first.get_attribute("class") == "verdict"
        words = seen.page.locator(".verdict .word")
        assert words.first.inner_text().strip() == "clears the bar"
        box = words.first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 900


def test_charts_of_learned_labels_come_alive_silently(browser: Any, labels_file: Path) -> None:
    with visit(browser, labels_file) as seen:
        scroll_through(seen.page)
        kinds = [
            *("scores", "scores", "scores", "ranks", "ranks", "ranks", "learning", "groups"),
            *("confusion", "confusion", "confusion_bar", "confusion_bar"),
            *("novel", "reliability", "risk"),
        ]
        shown = seen.page.evaluate(
            "[...document.querySelectorAll('[data-chart]')].map((f) => f.classList[1])"
        )
        assert sorted(shown) == sorted(kinds)
        assert seen.page.locator(".live svg").count() == len(kinds)
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("data:")] == [labels_file.as_uri()]


def test_the_answers_stand_above_the_tasks_and_maps_say_what_they_show(
    browser: Any, labels_file: Path
) -> None:
    with visit(browser, labels_file) as seen:
        answers = seen.page.locator(".dataset .answers")
        first = seen.page.locator(".dataset .task").first.bounding_box()
        above = answers.bounding_box()
        assert above is not None
        assert first is not None
        assert above["y"] + above["height"] <= first["y"]
        seen.page.locator(".chart.confusion").first.scroll_into_view_if_needed()
        seen.page.locator(".chart.confusion .live .mark-text.role-mark text").first.hover()
        tip = seen.page.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        assert " called " in tip.inner_text()


def test_pointing_at_a_row_dims_the_other_curves(browser: Any, labels_file: Path) -> None:
    with visit(browser, labels_file) as seen:
        scroll_through(seen.page)
        faint = ".chart.learning .live .mark-line path[opacity='0.12']"
        assert seen.page.locator(faint).count() == 0
        seen.page.locator("#scores tr[data-method='Marker score']").first.hover()
        seen.page.wait_for_selector(faint, state="attached")
        assert seen.page.locator(faint).count() >= 2 * (9 - 1)  # two pieces of every other curve


@pytest.mark.parametrize(
    "name", ["page_file", "hostile_file", "labels_file", "hostile_labels_file"]
)
def test_a_phone_never_scrolls_sideways(
    browser: Any, name: str, request: pytest.FixtureRequest
) -> None:
    with visit(browser, request.getfixturevalue(name), width=360) as seen:
        scroll_through(seen.page)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_page_and_charts_follow_the_colour_scheme(
    browser: Any, page_file: Path, scheme: str, dark: bool
) -> None:
    with visit(browser, page_file, color_scheme=scheme) as seen:
        scroll_through(seen.page)
        ground = "getComputedStyle(document.body).backgroundColor"
        name = "getComputedStyle(document.querySelector('.live .role-axis-label text')).fill"
        assert (_lightness(seen.page.evaluate(ground)) < 60) is dark
        assert (_lightness(seen.page.evaluate(name)) > 150) is dark


def test_without_javascript_every_chart_and_value_is_there(browser: Any, page_file: Path) -> None:
    with visit(browser, page_file, java_script_enabled=False) as seen:
        assert seen.page.locator(".drawing svg").count() == 18
        assert seen.page.locator(".drawing svg").first.is_visible()
        assert seen.page.get_by_text("Judged on 2 datasets (5,700 cells)").is_visible()
        assert seen.page.locator("#scores table").first.is_visible()
        assert seen.said == []


def test_hostile_types_do_nothing(browser: Any, hostile_labels_file: Path) -> None:
    with visit(browser, hostile_labels_file) as seen:
        scroll_through(seen.page)
        assert (seen.dialogs, seen.said) == ([], [])
        asked = [url for url in seen.asked if not url.startswith("data:")]
        assert asked == [hostile_labels_file.as_uri()]
        assert seen.page.locator("img").count() == 0


def test_hostile_names_are_shown_as_they_are_and_do_nothing(
    browser: Any, hostile_file: Path
) -> None:
    with visit(browser, hostile_file) as seen:
        scroll_through(seen.page)
        seen.page.locator(".live svg .mark-symbol path").first.hover()
        seen.page.wait_for_selector("#vg-tooltip-element.visible")
        assert seen.dialogs == []
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("data:")] == [hostile_file.as_uri()]
        assert seen.page.locator("h1").inner_text() == f"{HOSTILE} {HOSTILE_TOO}"
        assert seen.page.locator("img").count() == 0
        n_scripts = seen.page.evaluate(
            "[...document.scripts].filter((s) => s.type !== 'application/json').length"
        )
        assert n_scripts == 2


def test_an_injected_script_would_not_run(browser: Any, page_file: Path) -> None:
    """The policy is the second lock, should escaping ever fail."""
    with visit(browser, page_file) as seen:
        seen.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.broken = true";
                document.body.append(script);
            }"""
        )
        assert seen.page.evaluate("window.broken === undefined")
        assert any("Content Security Policy" in line for line in seen.said)


def test_pointing_at_a_row_puts_its_method_into_focus(browser: Any, page_file: Path) -> None:
    with visit(browser, page_file) as seen:
        scroll_through(seen.page)
        faint = ".live svg .mark-symbol path[opacity='0.12']"
        assert seen.page.locator(faint).count() == 0
        seen.page.locator("#scores tr[data-method='HVG']").first.hover()
        seen.page.wait_for_selector(faint, state="attached")
        assert seen.page.locator("#scores tr.pointed").count() > 1


def test_a_table_sorts_by_number_when_its_head_is_clicked(browser: Any, page_file: Path) -> None:
    with visit(browser, page_file) as seen:
        table = seen.page.locator("#cost table").first
        table.locator("th button", has_text="Seconds").click()
        assert table.locator("tbody th").first.inner_text().strip().startswith("MyModel 12M")


def _lightness(colour: str) -> float:
    red, green, blue = (float(x) for x in colour.split("(")[1].rstrip(")").split(",")[:3])
    return (red + green + blue) / 3
