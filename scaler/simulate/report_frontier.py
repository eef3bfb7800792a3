"""The chart of cost against attainment: a line for each policy through the settings of its knob.

May not be in here: what is not in the table below it.
"""

import math
from collections.abc import Callable, Sequence

from scaler.simulate import wording
from scaler.simulate.comparison import Comparison, Row, is_own
from scaler.simulate.report_svg import LEFT, RIGHT, WIDTH, grid, n, rule, steps, svg, text

COLOURS = 7  # classes c0 to c6 of the page
#: Shapes around 0 0; 4 shapes and 7 colours tell 28 policies apart.
SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.8L4.6,3.6H-4.6z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
)
#: An attainment's height is the number of its nines: what differs near 100% is what matters. All of five nines are one.
TOP = 4.0
_SHARES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)


def nines(share: float) -> float:
    return min(TOP, -math.log10(max(1.0 - share, 10.0**-TOP)))


def style(policy: str, comparison: Comparison) -> tuple[str, str]:
    """Class and shape of a policy: ours are of one colour, the others of theirs in the order of the rows."""
    names = list(dict.fromkeys(row.policy for row in comparison.rows))
    mine = is_own(policy, comparison)
    index = [name for name in names if is_own(name, comparison) == mine].index(policy)
    bound = any(row.is_bound for row in comparison.rows if row.policy == policy)
    colour = "own" if mine else f"c{index % COLOURS}"
    return colour + " bound" * bound, SHAPES[index % len(SHAPES)]


def frontier(comparison: Comparison, height: float = 420.0) -> str:
    """Attainment over GPU-hours, a line for each policy through the settings of its knob; "" if there is nothing."""
    rows = [row for row in comparison.rows if row.summary.attainment is not None]
    if not rows:
        return ""
    hours = [row.summary.gpu_hours for row in rows]
    pad = (max(hours) - min(hours)) * 0.05 or max(hours) * 0.1 or 1.0
    left, right = max(0.0, min(hours) - pad), max(hours) + pad
    shares = [row.summary.attainment or 0.0 for row in rows] + [comparison.target]
    low = max(nines(share) for share in _SHARES if share <= min(shares) + 1e-9) - 0.08
    high = min(TOP, max(nines(share) for share in shares) + 0.2) + 0.08
    top, bottom = 12.0, height - 44.0

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - left) / (right - left)

    def y(share: float) -> float:
        return bottom - (bottom - top) * (nines(share) - low) / (high - low)

    parts = []
    last = math.inf
    for share in _SHARES:
        # A label needs 18 units; those that have no room are left out.
        if low <= nines(share) <= high and last - y(share) >= 18:
            last = y(share)
            name = "≥ 99.99%" if nines(share) >= TOP else wording.percent(share)
            parts.append(grid(last, name))
    for value in steps(left, right, 8):
        parts.append(f'<text class="tick" text-anchor="middle" x="{n(x(value))}" y="{n(bottom + 18)}">{value:g}</text>')
    parts.append(f'<text class="tick" text-anchor="middle" x="{WIDTH / 2:g}" y="{n(height - 6)}">GPU-hours</text>')
    parts.append(rule(y(comparison.target), f"wanted: {wording.percent(comparison.target)} in time"))
    # Ours last: on top.
    names = list(dict.fromkeys(row.policy for row in rows))
    for name in sorted(names, key=lambda policy: is_own(policy, comparison)):
        parts.append(_series(name, [row for row in rows if row.policy == name], comparison, x, y))
    about = "Each mark is one run. Higher is better, further left is cheaper. The table below has the same figures."
    return svg(height, "Share of requests in time against GPU-hours", about, parts)


def _series(
    name: str, rows: Sequence[Row], comparison: Comparison, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    colour, shape = style(name, comparison)
    rows = sorted(rows, key=lambda row: (row.knob is None, row.knob or 0.0, row.summary.gpu_hours))
    places = [(x(row.summary.gpu_hours), y(row.summary.attainment or 0.0)) for row in rows]
    marks = []
    for row, (across, down) in zip(rows, places, strict=True):
        counted = row.summary
        about = (
            f"{wording.label(row)}: {wording.share(counted.attainment)} in time, {counted.gpu_hours:.2f} GPU-hours, "
            f"TTFT p95 {wording.with_unit(counted.ttft_p95)}"
        )
        place = f'd="{shape}" transform="translate({n(across)} {n(down)})"'
        marks.append(f'<path class="mark" {place}><title>{text(about)}</title></path>')
    line = " ".join(f"{n(across)},{n(down)}" for across, down in places)
    return f'<g class="series {colour}"><polyline points="{line}"/>{"".join(marks)}</g>'


def legend(comparison: Comparison) -> str:
    """The policies' marks and names, ours first."""
    names = list(dict.fromkeys(row.policy for row in comparison.rows))
    items = []
    for name in sorted(names, key=lambda policy: not is_own(policy, comparison)):
        colour, shape = style(name, comparison)
        bound = " (bound)" if "bound" in colour else ""
        items.append(
            f'<li><svg class="key" viewBox="-14 -7 28 14" aria-hidden="true"><g class="series {colour}">'
            f'<polyline points="-14,0 14,0"/><path class="mark" d="{shape}"/></g></svg>{text(name)}{bound}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'
