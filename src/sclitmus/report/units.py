"""What a number is about, read back from its unit: ``type:B cell``, ``pair:B cell → T cell``."""

from collections.abc import Collection

ARROW = " → "


def pair_of(name: str, known: Collection[str]) -> tuple[str, str]:
    """Return the true and the called type of a confusion.

    A type may have an arrow in its own name. Of all ways to divide the text, one that gives two
    types of the dataset is taken, from the right; if none does, the last arrow divides.

    Parameters
    ----------
    name
        The unit without ``pair:``.
    known
        Names of the dataset's types.
    """
    parts = name.split(ARROW)
    ways = [(ARROW.join(parts[:i]), ARROW.join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]
    both = [way for way in ways if way[0] in known and way[1] in known]
    return (both or ways or [(name, "")])[0]
