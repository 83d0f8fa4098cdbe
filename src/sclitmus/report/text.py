"""Words the page says in many places."""

from collections.abc import Sequence


def spoken(name: str) -> str:
    """Return an id as words."""
    return name.replace("_", " ")


def sentence_case(text: str) -> str:
    """Return the text with a large first letter and the others as they are."""
    return f"{text[:1].upper()}{text[1:]}"


def mid_sentence(text: str) -> str:
    """Return the text with a small first letter, unless that begins an abbreviation."""
    return text if text[1:2].isupper() else f"{text[:1].lower()}{text[1:]}"


def joined(parts: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return ``a, b and c``, and of many the first few and how many more there are."""
    shown = list(names)
    if len(shown) > most:
        shown = [*shown[: most - 1], f"{len(shown) - most + 1} more"]
    return joined(shown)


def counted(n: int, noun: str) -> str:
    """Return ``1 cell`` or ``2 cells``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
