"""Numbers as text: no more digits than mean something, each with its unit."""

from cnn.report.table import number_text

__all__ = ["count_text", "duration", "joules_text", "number_text", "percent", "rate_text"]


def percent(share: float | None, digits: int = 2) -> str:
    """A share in 0..1 as a percentage; "-" for None."""
    return "-" if share is None else f"{share * 100:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes, or hours and minutes; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def joules_text(joules: float | None) -> str:
    """Joules with three digits and a unit; "-" for None."""
    if joules is None:
        return "-"
    for unit, size in (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules * 1e6:.3g} µJ"


def rate_text(rate: float | None) -> str:
    """Images per second; "-" for None."""
    return "-" if rate is None else f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.3g} images/s"


def count_text(count: float | None) -> str:
    """A whole number with commas; "-" for None."""
    return "-" if count is None else f"{count:,.0f}"
