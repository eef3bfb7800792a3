"""Counters, histograms and a gauge's peak over time: what is kept of them, and the rates and quantiles that come of it.

May not be in here: what is measured (saturation.py has the tables), what follows from it, clocks (every time is an
argument, monotonic seconds).

Five rules hold for counters and histograms alike:

* The first sample tells nothing: it was counted before anybody looked.
* What falls has been restarted: all that it shows now was counted since. Of a histogram, any count that falls.
* Samples that were missed are bridged by the next one, up to WINDOW. After a longer silence the window starts anew:
  nobody knows when in it things happened.
* A sample that is not newer than the last, or no finite number of 0 or more, is no sample.
* What is kept is bounded, however often it is read.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import lt, sub
from typing import TypeVar

from msgspec import Struct

from exporter.core.model_engines import Histogram

#: Seconds over which rates and quantiles are taken: long enough for some requests of seconds each, short enough to
#: show a burst (tens of seconds) while it lasts.
WINDOW = 30.0
#: The least distance in seconds of the points that are kept of a window: it may be so much longer than WINDOW.
APART = 2.0
HISTOGRAM_APART = 5.0
#: Edges of a histogram that is followed; one with more is not. Servers have 10 to 30 (vLLM's defaults: 21 to 24), and
#: from vLLM 0.32 an operator may set them.
MAX_EDGES = 128
#: Seconds that a peak looks back, and its grain.
DAY = 86_400.0
HOUR = 3_600.0

T = TypeVar("T")


class Counter(Struct, frozen=True):
    """A counter over time that outlives restarts of what it counts: `total` never falls."""

    last: float  # as read
    total: float
    points: tuple[tuple[float, float], ...]  # (at, total): the newest before the window, and those in it

    def rate(self, now: float) -> float | None:
        """Per second over the window. None: too little was seen, or the newest sample is older than the window."""
        (start, first), (end, last) = self.points[0], self.points[-1]
        return (last - first) / (end - start) if end > start and now - end <= WINDOW else None


class Distribution(Struct, frozen=True):
    """A histogram over time. A restart moves the older points, so that the last minus the first is always what came."""

    edges: tuple[float, ...]
    points: tuple[tuple[float, tuple[float, ...]], ...]  # (at, cumulative counts), like Counter.points

    def quantiles(self, shares: Sequence[float], now: float) -> list[float | None]:
        """What share of the window's observations was at most so much, for each of `shares` (0..1).

        None: there was no observation, too little was seen, or the newest sample is older than the window.
        """
        (_, first), (end, last) = self.points[0], self.points[-1]
        if now - end > WINDOW or first is last:
            return [None] * len(shares)
        # Buckets are not read in one instant: a lower one may have seen more than a higher one. So does Prometheus.
        counts = list(accumulate(map(sub, last, first), max))
        return [quantile(share, self.edges, counts) for share in shares]


class Peak(Struct, frozen=True):
    """The highest of a gauge, by the hour."""

    hours: tuple[tuple[int, float], ...] = ()  # (hour of the clock, highest in it)

    def highest(self, now: float) -> float | None:
        """Of the last 24 hours and what is left of the hour before them. None: nothing was read in that time."""
        oldest = _oldest_hour(now)
        return max((value for hour, value in self.hours if hour >= oldest), default=None)


def count(old: Counter | None, value: float | None, at: float) -> Counter | None:
    """The counter after one more sample; `value` None is a page that does not have it."""
    if value is None or not 0 <= value < math.inf:
        return old
    if old is None:
        return Counter(value, 0.0, ((at, 0.0),))
    since = old.points[-1][0]
    if at <= since:
        return old
    total = old.total + (value - old.last if value >= old.last else value)
    points = old.points if at - since <= WINDOW else ()
    return Counter(value, total, _appended(points, at, total, APART))


def distribute(old: Distribution | None, histogram: Histogram | None, at: float) -> Distribution | None:
    """The distribution after one more sample. Other edges than before (a new version, other flags) start it anew."""
    if histogram is None:
        return old
    edges, counts = histogram.edges, histogram.counts
    if old is None or edges != old.edges:
        known = _is_sound(edges) and _is_counted(edges, counts)
        return Distribution(edges, ((at, counts),)) if known else old
    since, last = old.points[-1]
    if at <= since:
        return old
    points = old.points if at - since <= WINDOW else ()
    if counts == last:
        counts = last  # one copy is enough of what did not move
    elif not _is_counted(edges, counts):
        return old
    elif any(map(lt, counts, last)):
        points = tuple((when, tuple(map(sub, then, last))) for when, then in points)
    return Distribution(old.edges, _appended(points, at, counts, HISTOGRAM_APART))


def top(old: Peak, value: float | None, at: float) -> Peak:
    """The peak after one more sample of the gauge, by samples that come in the order of time."""
    if value is None or not math.isfinite(value):
        return old
    hour = int(at // HOUR)
    if old.hours and old.hours[-1][0] == hour:
        # The common case by far, 3,599 times in 3,600: nothing is made anew.
        return old if value <= old.hours[-1][1] else Peak((*old.hours[:-1], (hour, value)))
    oldest = _oldest_hour(at)
    return Peak((*(kept for kept in old.hours if kept[0] >= oldest), (hour, value)))


def quantile(share: float, edges: Sequence[float], counts: Sequence[float]) -> float | None:
    """The value below which `share` (0..1) of a histogram's observations are, as Prometheus' histogram_quantile().

    edges: ascending, the last inf; counts: cumulative, not falling. Linear between the edges of a bucket; the lowest
    begins at 0 where its edge is positive, and what falls into the last one has the highest finite edge. None: there
    are no observations, or no finite edge.
    """
    total = counts[-1] if len(counts) > 1 else 0.0
    if not total > 0:
        return None
    rank = share * total
    place = bisect_left(counts, rank, 0, len(counts) - 1)
    if place == len(counts) - 1:
        return edges[-2]
    if place == 0 and edges[0] <= 0:
        return edges[0]
    start, below = (edges[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    within = counts[place] - below
    # Nothing is within the lowest bucket where share is 0: its beginning, then. A sum may round to beyond the edge.
    return min(edges[place], start + (edges[place] - start) * ((rank - below) / within)) if within > 0 else start


def _appended(points: tuple[tuple[float, T], ...], at: float, item: T, apart: float) -> tuple[tuple[float, T], ...]:
    """The points with one more. The last gives way where it is too near to the one before it, so that all but the new
    one are `apart`; those before the newest that is older than the window are dropped.
    """
    end = len(points)
    if end > 1 and points[-1][0] - points[-2][0] < apart:
        end -= 1
    first, oldest = 0, at - WINDOW
    while first + 1 < end and points[first + 1][0] <= oldest:
        first += 1
    return (*points[first:end], (at, item))


def _is_sound(edges: tuple[float, ...]) -> bool:
    """At least one finite edge, ascending, and inf the last."""
    if not 2 <= len(edges) <= MAX_EDGES or edges[-1] != math.inf or not math.isfinite(edges[0]):
        return False
    return all(map(lt, edges, edges[1:]))


def _is_counted(edges: tuple[float, ...], counts: tuple[float, ...]) -> bool:
    """One finite count of 0 or more for each edge. A sum that is finite has no part that is not a number."""
    return len(counts) == len(edges) and math.isfinite(sum(counts)) and min(counts) >= 0


def _oldest_hour(now: float) -> int:
    return int((now - DAY) // HOUR)
