"""The chart of a run's course: load, queue, replicas and first tokens over time, with its faults and worst minutes.

May not be in here: what is not in the table below it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from scaler.simulate import wording
from scaler.simulate.model import Run
from scaler.simulate.outcome import Point, end, timelines
from scaler.simulate.report_svg import LEFT, RIGHT, grid, n, rule, steps, svg, text
from scaler.simulate.worst import Window, clock

POINTS = 120  # of a timeline: one for every 8 units


class Panel(NamedTuple):
    """One of a run's timelines."""

    title: str
    height: float
    draw: Callable[["Frame", Sequence[Point]], str]
    most: Callable[[Sequence[Point]], float]  # top of its axis
    least: float = 0.0  # above 0: the axis is logarithmic


class Frame(NamedTuple):
    """Where a panel's values lie."""

    top: float
    height: float
    low: float
    high: float
    seconds: float  # of the whole run
    step: float  # of a point
    target: float

    def x(self, at: float) -> float:
        return LEFT + (RIGHT - LEFT) * at / self.seconds

    def y(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        part = value / self.high
        if self.low > 0:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.top + self.height * (1 - part)


def _most(*names: str) -> Callable[[Sequence[Point]], float]:
    """The largest of these, with a little room; not below 1."""
    return lambda points: max([1.0, *(sum(getattr(point, name) for name in names) * 1.05 for point in points)])


def _most_wait(points: Sequence[Point]) -> float:
    finite = [point.ttft_p95 for point in points if point.ttft_p95 is not None and math.isfinite(point.ttft_p95)]
    return max([10.0, *(wait * 1.3 for wait in finite)])


def _bars(name: str, css: str) -> Callable[[Frame, Sequence[Point]], str]:
    """An area that stands at each point's value for its whole stretch."""

    def draw(frame: Frame, points: Sequence[Point]) -> str:
        corners = _stairs(frame, [(point.at, getattr(point, name)) for point in points])
        return f'<path class="{css}" d="{corners}V{n(frame.y(0))}H{n(frame.x(0))}z"/>'

    return draw


def _replicas(frame: Frame, points: Sequence[Point]) -> str:
    """Ready ones, what starts above them, and the line that was asked for."""
    whole = _stairs(frame, [(point.at, point.ready + point.starting) for point in points])
    ready = _stairs(frame, [(point.at, point.ready) for point in points])
    base = f"V{n(frame.y(0))}H{n(frame.x(0))}z"
    asked = _stairs(frame, [(point.at, point.spec) for point in points])
    drawn = (("starting", whole + base), ("ready", ready + base), ("spec", asked))
    return "".join(f'<path class="{css}" d="{line}"/>' for css, line in drawn)


def _waits(frame: Frame, points: Sequence[Point]) -> str:
    """p95 and p50; a stretch without requests is a gap, a wait without end lies at the top."""
    parts = []
    for name in ("p50", "p95"):
        pen = "M"
        drawn: list[str] = []
        for point in points:
            value: float | None = getattr(point, f"ttft_{name}")
            if value is None:
                pen = "M"
                continue
            across = frame.x(min(point.at + frame.step / 2, frame.seconds))
            drawn.append(f"{pen}{n(across)},{n(frame.y(value))}h.1")  # so that a lone point is seen
            pen = "L"
        parts.append(f'<path class="{name}" d="{"".join(drawn)}"/>')
    return "".join(parts) + rule(frame.y(frame.target), f"target {frame.target:g} s")


def _stairs(frame: Frame, values: Iterable[tuple[float, float]]) -> str:
    drawn: list[str] = []
    before = ""
    for at, value in values:
        height = n(frame.y(value))
        if height != before:
            drawn.append(f"H{n(frame.x(at))}V{height}" if drawn else f"M{n(frame.x(at))},{height}")
        before = height
    return "".join(drawn) + f"H{n(RIGHT)}"


PANELS = (
    Panel("load, requests/s", 80.0, _bars("arrivals", "load"), _most("arrivals")),
    Panel("waiting requests, most", 80.0, _bars("waiting", "queue"), _most("waiting")),
    Panel(
        "replicas: ready (full), starting (pale), asked for (line)",
        110.0,
        _replicas,
        lambda points: max(_most("ready", "starting")(points), _most("spec")(points)),
    ),
    Panel("time to first token, s: p95 (line), p50 (pale)", 110.0, _waits, _most_wait, least=0.1),
)
_GAP = 30.0  # above each panel, for its title


def course(run: Run, windows: Sequence[Window]) -> str:
    """The run's timelines above each other, its faults as lines and its worst minutes as bands; "" without ticks."""
    made = timelines(run, POINTS)
    if not made.points:
        return ""
    seconds, top = end(run), 0.0
    bottom = sum(panel.height + _GAP for panel in PANELS)
    frames = []
    for panel in PANELS:
        top += _GAP
        high = panel.most(made.points)
        frames.append(Frame(top, panel.height, panel.least, high, seconds, made.seconds, run.scenario.ttft_target))
        top += panel.height
    x = frames[0].x
    upright = f'y="{_GAP:g}" height="{n(bottom - _GAP)}"'
    parts = []
    for seen in windows:
        wide = max(2.0, x(min(seen.at + seen.seconds, seconds)) - x(seen.at))
        parts.append(f'<rect class="worst" x="{n(x(seen.at))}" width="{n(wide)}" {upright}/>')
    for panel, frame in zip(PANELS, frames, strict=True):
        parts.append(f'<text class="title" x="{LEFT:g}" y="{n(frame.top - 8)}">{panel.title}</text>')
        values = [10.0**power for power in range(-1, 6)] if frame.low > 0 else steps(0, frame.high, 3)
        parts += [grid(frame.y(each), f"{each:g}") for each in values if frame.low <= each <= frame.high]
        parts.append(panel.draw(frame, made.points))
    for at in _times(seconds):
        anchor = "end" if x(at) > RIGHT - 20 else "middle"  # it would be cut off
        parts.append(
            f'<text class="tick" text-anchor="{anchor}" x="{n(x(at))}" y="{n(bottom + 18)}">{clock(at)}</text>'
        )
    for point in made.points:
        wide = x(min(point.at + made.seconds, seconds)) - x(point.at)
        parts.append(
            f'<rect class="hover" x="{n(x(point.at))}" width="{n(wide)}" {upright}>'
            f"<title>{_point(point)}</title></rect>"
        )
    for at, told in run.events:
        place = n(x(min(at, seconds)))
        parts.append(
            f'<g class="event"><line x1="{place}" x2="{place}" y1="{_GAP:g}" y2="{n(bottom)}"/>'
            f'<path d="M{place},{_GAP:g}l-5,-9h10z"/><title>{text(f"{clock(at)} {told}")}</title></g>'
        )
    about = "Load, queue, replicas and time to first token over the run. The table below has the same figures."
    return svg(bottom + 26, f"Course of {run.policy}", about, parts)


def _times(seconds: float) -> list[float]:
    """About 8 round times."""
    sizes = (1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    size = next((each for each in sizes if seconds / each <= 10), 604800)
    return [float(at) for at in range(0, int(seconds) + 1, size)]


def _point(point: Point) -> str:
    return (
        f"{clock(point.at)}: {point.arrivals:.3g} requests/s, {point.waiting} waiting, {point.running} running; "
        f"{point.ready} ready, {point.starting} starting, {point.spec} asked for; "
        f"TTFT p95 {wording.with_unit(point.ttft_p95)}"
    )
