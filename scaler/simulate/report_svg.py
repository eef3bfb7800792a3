"""What the charts of the HTML report are drawn with: inline SVG, its coordinates, its axes.

May not be in here: colours and fonts (report/page.html has them as classes), any one chart. Lengths are SVG units,
which the page shows as pixels where it is wide enough.
"""

import math
from collections.abc import Sequence
from html import escape

WIDTH = 1080.0
LEFT, RIGHT = 64.0, 1064.0  # where a plot begins and ends


def text(value: str) -> str:
    """What a user wrote, as it may stand in the page."""
    return escape(value.encode("utf-8", "backslashreplace").decode("utf-8"))


def n(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")


def steps(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from low to high."""
    raw = (high - low) / count or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    size *= next(factor for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [index * size for index in range(first, math.floor(high / size + 1e-9) + 1)]


def grid(y: float, name: str) -> str:
    """A value of the upright axis."""
    return (
        f'<line class="grid" x1="{LEFT:g}" x2="{RIGHT:g}" y1="{n(y)}" y2="{n(y)}"/>'
        f'<text class="tick" text-anchor="end" x="{n(LEFT - 8)}" y="{n(y + 4)}">{name}</text>'
    )


def rule(y: float, name: str) -> str:
    """A line that is to be kept."""
    return (
        f'<line class="target" x1="{LEFT:g}" x2="{RIGHT:g}" y1="{n(y)}" y2="{n(y)}"/>'
        f'<text class="goal" text-anchor="end" x="{n(RIGHT - 4)}" y="{n(y - 5)}">{name}</text>'
    )


def svg(height: float, title: str, about: str, parts: Sequence[str]) -> str:
    """A chart; `about` says what is to be seen to those who do not see it."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {n(height)}" role="img" aria-label="{text(title)}">'
        f"<title>{text(title)}</title><desc>{text(about)}</desc>\n" + "\n".join(parts) + "\n</svg>"
    )
