"""What a trace of requests may be, and how it is made more, less, or a part of itself.

May not be in here: files (traces_csv.py, traces_packed.py), load that is made up (generators.py) or rebuilt from what a
fleet showed (history.py).
"""

import math
import random
from bisect import bisect_left

from scaler.simulate.model import Trace

MOST_ROWS = 10_000_000  # requests
MOST_TOKENS = 10_000_000
LONGEST = 366 * 86400.0  # s
MILLISECONDS = 1e11  # what is told as Unix time in seconds is not so much (the year 5138): it is in a smaller unit


class TraceError(Exception):
    """A trace that cannot be had. str() is one line: place, cause, fix."""


def scaled(trace: Trace, factor: float, spread: float = 10.0, seed: int = 0) -> Trace:
    """`factor` times the requests: each so often as its whole part says, and once more with the chance of the rest.

    The first stays where it is; copies are spread evenly over `spread` seconds around it, which keeps bursts and does
    not send one request many times at once. What would leave the trace is reflected at its ends. Raises TraceError.
    """
    if not 0 < factor <= MOST_ROWS or len(trace.arrivals) * factor > MOST_ROWS:
        raise TraceError(
            f"trace {trace.name}: cannot be scaled by {factor:g}; a factor is above 0, "
            f"and {MOST_ROWS} requests are the most"
        )
    if not 0 <= spread <= LONGEST:
        raise TraceError(f"trace {trace.name}: a spread of {spread:g} s is none; write 0 or more seconds, such as 10")
    chance = random.Random(seed)  # noqa: S311 -- a workload, not a secret
    part, whole = math.modf(factor)
    arrivals = []
    for arrival in trace.arrivals:
        copies = int(whole) + (chance.random() < part)
        if copies:
            arrivals.append(arrival)
        for _ in range(copies - 1):
            at = arrival.at + (chance.random() - 0.5) * spread
            arrivals.append(arrival._replace(at=_within(at, trace.seconds)))
    arrivals.sort(key=lambda arrival: arrival.at)
    return Trace(f"{trace.name} x{factor:g}", arrivals, trace.seconds)


def cut(trace: Trace, begin: float, end: float) -> Trace:
    """The requests from `begin` to before `end` seconds, counted from `begin`. Raises TraceError."""
    if not 0 <= begin < end <= trace.seconds:
        raise TraceError(
            f"trace {trace.name}: cannot be cut from {begin:g} to {end:g} s; it goes from 0 to {trace.seconds:g} s"
        )
    first, after = (bisect_left(trace.arrivals, at, key=lambda arrival: arrival.at) for at in (begin, end))
    arrivals = [arrival._replace(at=arrival.at - begin) for arrival in trace.arrivals[first:after]]
    return Trace(f"{trace.name} {begin:g}-{end:g}s", arrivals, end - begin)


def _within(at: float, end: float) -> float:
    reflected = -at if at < 0 else 2 * end - at if at > end else at
    return min(max(reflected, 0.0), end)  # a spread longer than the trace
