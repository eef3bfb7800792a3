"""Counters, gauges and rates at moments, made into what happened in each step of time.

May not be in here: where they come from, and what they are taken for (history.py).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from scaler.simulate.traces import LONGEST, TraceError

MOST_STEPS = 1_000_000

ARRIVALS, PROMPT, OUTPUT = "arrivals", "prompt_tokens", "output_tokens"
COUNTER, GAUGE, RATE = "counter", "gauge", "rate"


class Series(NamedTuple):
    counts: str  # ARRIVALS, PROMPT, OUTPUT
    kind: str
    points: list[tuple[float, float]]  # (Unix time, value)
    born: bool  # it began within the history: from 0


def step_sums(
    series: Sequence[Series], begin: float, end: float, step: float, place: str
) -> list[tuple[float, float | None, float | None]]:
    """(arrivals, prompt tokens, output tokens) of each step from begin to end, Unix time. Raises TraceError.

    More requests may end unseen in a step than come: what the sum falls below 0 by is taken from the steps after it.
    """
    count = max(1, math.ceil((end - begin) / step - 1e-6))
    if count > MOST_STEPS or end - begin > LONGEST:
        raise TraceError(f"{place}: spans {(end - begin) / 86400:g} days; is a time wrong? cut it into parts")
    columns = {one.counts: [0.0] * count for one in series}
    for one in series:
        for start, stop, amount in _changes(one, step):
            _spread(columns[one.counts], (start - begin) / step, (stop - begin) / step, amount)
    arrivals, owed = [], 0.0
    for amount in columns[ARRIVALS]:
        owed += amount
        arrivals.append(max(0.0, owed))
        owed = min(0.0, owed)
    none: list[float | None] = [None] * count
    return list(zip(arrivals, columns.get(PROMPT, none), columns.get(OUTPUT, none), strict=True))


def _changes(series: Series, step: float) -> Iterable[tuple[float, float, float]]:
    """(from, to, by how much) between all neighbours."""
    if series.kind == RATE:
        for at, value in series.points:
            yield at - step, at, max(0.0, value) * step
        return
    if series.born:
        at, value = series.points[0]
        yield at - step, at, value
    for (start, before), (stop, after) in pairwise(series.points):
        reset = series.kind == COUNTER and after < before
        yield start, stop, after if reset else after - before


def _spread(bins: list[float], start: float, stop: float, amount: float) -> None:
    """Adds the amount evenly over bins start..stop (in bins from the first); what lies before the first is dropped."""
    if amount == 0 or stop <= 0:
        return
    length = stop - start
    if length <= 1e-6:  # told twice of the same reading
        bins[min(int(stop), len(bins) - 1)] += amount
        return
    for index in range(max(0, int(start)), min(len(bins), math.ceil(stop - 1e-9))):
        bins[index] += amount * max(0.0, min(stop, index + 1) - max(start, index)) / length
