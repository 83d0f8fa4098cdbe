"""How numbers are written: the same in the page, its charts and its tables."""


def number(value: float | None) -> str:
    """Three decimals, or a dash for what is missing or not a number."""
    return "–" if value is None or value != value else f"{value:.3f}".replace("-", "−")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return ``0.743 [0.721, 0.766]``, without the brackets where there is no interval."""
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return ``+0.043 [0.021, 0.066]``: a difference, with its interval where there is one."""
    text = interval(value, low, high)
    return f"+{text}" if value is not None and value > 0 else text


def amount(value: float | None) -> str:
    """Return seconds or megabytes with two digits below ten, none above."""
    if value is None or value != value:
        return "–"
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
