"""Pages written once for all tests of the report, and a browser to open them in."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example import example, hostile
from label_example import hostile_labels, label_study

from sclitmus.report.content import ReportData
from sclitmus.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def study() -> ReportData:
    return example()


@pytest.fixture(scope="session")
def page_file(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", study)


@pytest.fixture(scope="session")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("hostile") / "report.html", hostile())


@pytest.fixture(scope="session")
def labels() -> ReportData:
    return label_study()


@pytest.fixture(scope="session")
def labels_file(labels: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("labels") / "report.html", labels)


@pytest.fixture(scope="session")
def hostile_labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("hostile-labels") / "report.html", hostile_labels())


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; what it cannot do without is skipped with the reason."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()
