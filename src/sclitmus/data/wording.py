"""Names as notes and errors show them: few, short, on one line."""

import difflib
from collections.abc import Iterable, Sequence

LONGEST = 60


def as_text(value: object) -> str:
    """Return a name as text; HDF5 files hold some as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def shown(name: object) -> str:
    """Return a name fit for a message: line breaks escaped, the middle of a long one left out."""
    text = str(name).encode("unicode_escape").decode() if not str(name).isprintable() else str(name)
    return text if len(text) <= LONGEST else f"{text[:40]}…{text[-15:]}"


def listed(names: Iterable[object], most: int = 3) -> str:
    """Join the first few names with commas."""
    names = list(names)
    return ", ".join(shown(name) for name in names[:most]) + (", …" if len(names) > most else "")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``"did you mean X? "`` if a known name is close, else nothing."""
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(shown(lower[c]) for c in close)}? " if close else ""
