"""What a template needs of a table: cells with their text, sorting value and look."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    text
        What it says; escaped by the template.
    sort
        What the column sorts by where that is not the text.
    icon, tone
        Name of a symbol and of a theme colour that go with the text, never in its stead.
    shade
        0 to 1, how strongly a heat map colours it; None for no colour.
    note
        Smaller second line.
    """

    text: str
    sort: float | None = None
    icon: str = ""
    tone: str = ""
    shade: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """Heading of a column; `explain` is printed in small under it."""

    title: str
    kind: Literal["text", "number"] = "number"
    explain: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption, which a screen reader reads first."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    css: str = ""
