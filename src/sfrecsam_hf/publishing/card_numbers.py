"""How the model card writes numbers."""

from scipy.stats import binomtest

PIXELS = ("hd95", "assd")


def shown(metric: str, value: float) -> str:
    """A metric's value: pixels with one decimal, shares with three."""
    return decimals(value, 1 if metric in PIXELS else 3)


def count(number: int) -> str:
    """A number of parameters: `4.3 M`, `133 M`, or all digits below a million."""
    if number < 1e6:
        return f"{number:,}"
    return f"{number / 1e6:.1f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as percentage; a dash for what could not be measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def percent_of(share: float | None, images: int) -> str:
    """A share of so many images with Wilson's 95 % interval, `14 % (4 to 40 %)`: a few images say little."""
    if share is None:
        return percent(None)
    interval = binomtest(round(share * images), images).proportion_ci(method="wilson")
    return f"{percent(share)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; a dash for what could not be measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Hours with one decimal, or minutes below an hour, or seconds below a minute."""
    for unit, size, digits in (("hours", 3600, 1), ("minutes", 60, 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} seconds"
