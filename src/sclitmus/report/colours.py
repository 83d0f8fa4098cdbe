"""The page's colours, once: charts are drawn with the light ones, the page swaps in variables.

A chart saved to a file needs real colours; a chart in the page must follow the reader's dark
mode without JavaScript. So charts are made with the light colours below, each of which occurs
nowhere else, and `follow_theme` replaces them by the CSS variable of the same name.
"""

import re
from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "panel": "#f6f7f9",
    "rule": "#dde1e7",
    "ink": "#1b222b",
    "muted": "#586270",
    "accent": "#0a6a8c",
    "rival": "#454f5d",
    "control": "#8b95a3",
    "clears": "#15754a",
    "even": "#4d57b8",
    "below": "#a8500a",
    "floor": "#b42a22",
    "unsure": "#5f6875",
}

DARK: Mapping[str, str] = {
    "paper": "#12161b",
    "panel": "#1a2027",
    "rule": "#323b46",
    "ink": "#e7eaee",
    "muted": "#a2acb9",
    "accent": "#5ec4ea",
    "rival": "#bcc5d0",
    "control": "#76808d",
    "clears": "#56cf96",
    "even": "#a9b0ff",
    "below": "#f2a556",
    "floor": "#ff8f85",
    "unsure": "#a6afbb",
}

CATEGORIES: tuple[str, ...] = (
    # Eight calm hues, then 22 more, each the farthest in OKLab (as seen with and without
    # deuteranopia) from those before it, with lightness 0.5-0.8 so that both themes carry them.
    *("#3c79d1", "#da7134", "#2e9e52", "#c54476", "#8b5dce", "#aa9117", "#22a2bd", "#84573f"),
    *("#ec8ef4", "#09d895", "#f69a9d", "#b7c21a", "#2f6c80", "#9190f8", "#53c4fd", "#307609"),
    *("#ca66c3", "#903d8b", "#87718e", "#c17b8a", "#fc9e47", "#bc3d17", "#b6bd89", "#4db491"),
    *("#b5b3d6", "#5957aa", "#827c4a", "#2e8c7c", "#64b644", "#50cec9"),
)
"""Colours of types and batches, commonest first; what comes after them is `OTHER`."""

OTHER = "#9aa1ab"

_TOKEN = re.compile("|".join(LIGHT.values()), re.IGNORECASE)
_VARIABLE = {colour: f"var(--{name})" for name, colour in LIGHT.items()}


def follow_theme(text: str) -> str:
    """Replace the light colours in an SVG or a chart's JSON by the CSS variables they stand for."""
    return _TOKEN.sub(lambda match: _VARIABLE[match.group().lower()], text)


def theme_css() -> str:
    """Return the variables of both themes; print is always light."""
    light, dark = (
        "".join(f"--{name}:{colour};" for name, colour in theme.items()) for theme in (LIGHT, DARK)
    )
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )
