"""Arithmetic over time: how much of something there was lately, and how long something has held.

May not be in here: what is counted, limits other than the length of the window, I/O, clocks.
"""

from msgspec import Struct

from exporter.core.findings import THRESHOLDS

#: The grain of a window; also the longest gap between two looks that still counts as having watched.
BUCKET_SECONDS = 15.0


class Window(Struct, frozen=True):
    """How much there was in the last window_seconds, by buckets of 15 s."""

    at: float | None = None  # of the last reading
    source: str = ""  # whose counter `total` is
    total: float | None = None  # the counter then; None: there was none
    buckets: tuple[tuple[float, float, float], ...] = ()  # (start, amount, seconds watched)

    @property
    def amount(self) -> float:
        return sum(bucket[1] for bucket in self.buckets)

    @property
    def watched(self) -> float:
        """Seconds of the window for which the amount is known."""
        return sum(bucket[2] for bucket in self.buckets)


class Held(Struct, frozen=True):
    """How long something has been seen to hold."""

    at: float  # of the last look that showed it
    seconds: float = 0.0


def time_on(old: Window, at: float, total: float | None, on: bool, now: float) -> Window:
    """The window with the seconds since its last reading in which something was on: by the counter of seconds, else
    by whether it is on now. at: of this reading; now: what is older than the window is forgotten.
    """
    passed = _passed(old, at)
    if passed is None:
        return old
    if total is not None:
        seconds = min(max(0.0, total - old.total), passed) if old.total is not None else 0.0
    else:
        # Between two looks that are far apart, that it is on says nothing.
        seconds = min(passed, BUCKET_SECONDS) if on else 0.0
    return _added(old, Window(at, "", total), seconds, passed, now)


def growth(old: Window, at: float, source: str, total: float, now: float) -> Window:
    """The window with what a counter has grown by. A counter that fell, or another source's, starts anew."""
    passed = _passed(old, at)
    if passed is None:
        return old
    known = old.total is not None and source == old.source and total >= old.total
    grown = total - old.total if known and old.total is not None else 0.0
    return _added(old, Window(at, source, total), grown, passed if known else 0.0, now)


def amounts(old: Window, at: float, grown: float, now: float) -> Window:
    """The window with `grown` more since its last reading."""
    passed = _passed(old, at)
    return old if passed is None else _added(old, Window(at), grown, passed, now)


def hold(old: Held | None, at: float, on: bool) -> Held | None:
    """`old` with the time since its last look added; None while it does not hold. A gap counts as 15 s at most."""
    if not on:
        return None
    if old is None:
        return Held(at)
    return old if at <= old.at else Held(at, old.seconds + min(at - old.at, BUCKET_SECONDS))


def _passed(old: Window, at: float) -> float | None:
    """Seconds since the last reading, 0 for the first; None: this one was seen before."""
    if old.at is None:
        return 0.0
    return at - old.at if at > old.at else None


def _added(old: Window, new: Window, amount: float, watched: float, now: float) -> Window:
    if watched > THRESHOLDS.window_seconds:
        amount = watched = 0.0  # from before the window, at least in part: nobody knows which
    start = (new.at or 0.0) // BUCKET_SECONDS * BUCKET_SECONDS
    oldest = now - THRESHOLDS.window_seconds - BUCKET_SECONDS
    buckets = old.buckets
    if buckets and buckets[0][0] <= oldest:
        buckets = tuple(bucket for bucket in buckets if bucket[0] > oldest)
    if buckets and buckets[-1][0] == start:
        _, before, seconds = buckets[-1]
        buckets = (*buckets[:-1], (start, before + amount, seconds + watched))
    else:
        buckets = (*buckets, (start, amount, watched))
    return Window(new.at, new.source, new.total, buckets)
