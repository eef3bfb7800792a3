"""core/meters.py: rates, quantiles and peaks that survive restarts, missed scrapes and whatever a server shows."""

import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core.meters import (
    APART,
    DAY,
    HISTOGRAM_APART,
    HOUR,
    MAX_EDGES,
    WINDOW,
    Counter,
    Distribution,
    Peak,
    count,
    distribute,
    quantile,
    top,
)
from exporter.core.model_engines import Histogram

# --- counters ---------------------------------------------------------------------------------------------------


def counted(*pairs: tuple[float, float | None]) -> Counter | None:
    counter = None
    for at, value in pairs:
        counter = count(counter, value, at)
    return counter


def rate(*pairs: tuple[float, float | None]) -> float | None:
    counter = counted(*pairs)
    return counter.rate(pairs[-1][0]) if counter else None


RATES: dict[str, tuple[list[tuple[float, float | None]], float | None]] = {
    "one sample is no rate": ([(0, 100)], None),
    "two samples": ([(0, 100), (2, 300)], 100.0),
    "nothing moved": ([(0, 100), (2, 100)], 0.0),
    "a scrape was missed": ([(0, 0), (1, 100), (5, 500)], 100.0),
    "as many as the window is long": ([(0, 0), (WINDOW, 3000)], 3000 / WINDOW),
    "more were missed than the window is long": ([(0, 0), (1, 10), (2 + WINDOW, 3000)], None),
    "and then it starts anew": ([(0, 0), (1, 10), (2 + WINDOW, 3000), (3 + WINDOW, 3007)], 7.0),
    "a restart counts from 0": ([(0, 1000), (1, 1100), (2, 50)], 75.0),
    "a restart to 0": ([(0, 1000), (1, 0), (2, 0)], 0.0),
    "a restart is seen later": ([(0, 1000), (10, 500)], 50.0),
    "two restarts": ([(0, 1000), (1, 10), (2, 4)], 7.0),
    "the counter was never there": ([(0, None), (1, None)], None),
    "the counter came late": ([(0, None), (1, 100), (2, 200)], 100.0),
    "the counter was away once": ([(0, 0), (1, None), (2, 200)], 100.0),
    "the counter went away for good": ([(0, 0), (1, 100), (2 + WINDOW, None)], None),
    "what is older than the window does not count": (
        [(0, 0), (10, 10_000), (25, 10_150), (10 + WINDOW, 10_300)],
        10.0,
    ),
    "the clock stood still": ([(0, 0), (0, 100)], None),
    "a sample of the past": ([(5, 0), (6, 100), (1, 7)], 100.0),
    "no number": ([(0, 0), (1, math.nan), (2, 200)], 100.0),
    "without end": ([(0, 0), (1, math.inf), (2, 200)], 100.0),
    "below 0": ([(0, 0), (1, -5.0), (2, 200)], 100.0),
}


@pytest.mark.parametrize("name", RATES)
def test_rate(name: str) -> None:
    pairs, expected = RATES[name]
    assert rate(*pairs) == (None if expected is None else pytest.approx(expected))


def test_a_rate_is_told_until_its_last_sample_is_older_than_the_window() -> None:
    counter = counted((0, 0), (1, 10))
    assert counter is not None
    assert (counter.rate(1 + WINDOW), counter.rate(1.1 + WINDOW)) == (10.0, None)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, 1e9), st.booleans(), st.booleans()), min_size=1, max_size=60)
)
def test_a_total_is_the_sum_of_what_came_whatever_restarts_there_were(
    steps: list[tuple[float, float, bool, bool]],
) -> None:
    """What came before a restart and was not sampled is lost with it; a restart that is overtaken cannot be seen."""
    counter, at, shown, last, total, restarted = None, 0.0, 0.0, None, 0.0, False
    for seconds, more, restarts, missed in steps:
        at += seconds
        restarted = restarted or restarts
        shown = more if restarts else shown + more
        if missed:
            continue
        if last is not None:
            total += shown if restarted and shown < last else shown - last
        counter = count(counter, shown, at)
        last, restarted = shown, False
        assert counter is not None
        assert counter.total == pytest.approx(total, rel=1e-9, abs=1e-3)
        per_second = counter.rate(at)
        assert per_second is None or (per_second >= 0 and math.isfinite(per_second))


@pytest.mark.parametrize("every", [0.03, 0.3, 1.0, 1.7, 7.0, 40.0])
def test_what_is_kept_is_bounded_however_often_it_is_read(every: float) -> None:
    counter, distribution = None, None
    for number in range(round(100 / every) + 5):
        at = number * every
        counter = count(counter, at, at)
        distribution = distribute(distribution, histogram(at, at), at)
        assert counter is not None
        assert distribution is not None
        for points, apart in ((counter.points, APART), (distribution.points, HISTOGRAM_APART)):
            times = [when for when, _ in points]
            assert len(points) <= WINDOW / apart + 3
            assert times == sorted(set(times))
            assert all(b - a >= apart for a, b in pairwise(times[:-1]))
    # 1 a second came; the window may begin as much earlier as points are apart, and as readings.
    start = counter.points[0][0]
    assert counter.rate(at) == (pytest.approx(1.0) if every <= WINDOW else None)
    assert at - start <= WINDOW + max(APART, 2 * every)


# --- quantiles --------------------------------------------------------------------------------------------------

INF = math.inf
EDGES = (1.0, 2.0, 4.0, INF)


def histogram(*counts: float, edges: tuple[float, ...] | None = None) -> Histogram:
    return Histogram(edges or (*(float(i + 1) for i in range(len(counts) - 1)), INF), tuple(counts))


QUANTILES: dict[str, tuple[float, tuple[float, ...], list[float], float | None]] = {
    "in the middle of a bucket": (0.5, EDGES, [0, 10, 10, 10], 1.5),
    "the lowest begins at 0": (0.5, EDGES, [10, 10, 10, 10], 0.5),
    "at an edge": (0.5, EDGES, [5, 10, 10, 10], 1.0),
    "over empty buckets": (0.9, EDGES, [8, 8, 10, 10], 3.0),
    "beyond the highest edge": (0.95, EDGES, [1, 1, 1, 10], 4.0),
    "all beyond": (0.5, EDGES, [0, 0, 0, 10], 4.0),
    "everything": (1.0, EDGES, [0, 10, 10, 10], 2.0),
    "nothing of it": (0.0, EDGES, [0, 10, 10, 10], 0.0),
    "no observation": (0.5, EDGES, [0, 0, 0, 0], None),
    "no finite edge": (0.5, (INF,), [10], None),
    "a lowest edge of 0": (0.1, (0.0, 1.0, INF), [5, 10, 10], 0.0),
    "a lowest edge below 0": (0.1, (-1.0, 1.0, INF), [5, 10, 10], -1.0),
    "a part of an observation": (0.5, EDGES, [0, 0.5, 0.5, 0.5], 1.5),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_quantile(name: str) -> None:
    share, edges, counts, expected = QUANTILES[name]
    assert quantile(share, edges, counts) == (None if expected is None else pytest.approx(expected))


def brute_force(share: float, edges: Sequence[float], counts: Sequence[float]) -> float | None:
    """histogram_quantile() by its definition in Prometheus' documentation, bucket by bucket."""
    if len(edges) < 2 or counts[-1] == 0:
        return None
    rank = share * counts[-1]
    below, start = 0.0, 0.0
    for place, (edge, upto) in enumerate(zip(edges[:-1], counts[:-1], strict=True)):
        if upto >= rank:
            if place == 0 and edge <= 0:
                return edge
            return start + (edge - start) * (rank - below) / (upto - below)
        below, start = upto, edge
    return edges[-2]


buckets = st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 1000)), min_size=1, max_size=30)


def of(buckets: list[tuple[float, int]], beyond: int) -> Histogram:
    edge, total, edges, counts = 0.0, 0.0, [], []
    for width, observations in buckets:
        edge, total = edge + width, total + observations
        edges.append(edge)
        counts.append(total)
    return Histogram((*edges, INF), (*counts, total + beyond))


@settings(max_examples=300)
@given(buckets, st.integers(0, 1000), st.floats(0.01, 1.0))
def test_a_quantile_is_prometheus_own_and_lies_in_its_bucket(
    buckets: list[tuple[float, int]], beyond: int, share: float
) -> None:
    shown = of(buckets, beyond)
    value = quantile(share, shown.edges, shown.counts)
    expected = brute_force(share, shown.edges, shown.counts)
    assert value == (None if expected is None else pytest.approx(expected, rel=1e-12))
    if value is not None:
        assert 0 <= value <= shown.edges[-2]
        rank = share * shown.counts[-1]
        if rank <= shown.counts[-2]:
            place = next(i for i, upto in enumerate(shown.counts) if upto >= rank)
            assert (shown.edges[place - 1] if place else 0.0) <= value <= shown.edges[place]


@given(buckets, st.integers(0, 1000))
def test_a_higher_share_has_no_lower_quantile(buckets: list[tuple[float, int]], beyond: int) -> None:
    shown = of(buckets, beyond)
    values = [quantile(share / 20, shown.edges, shown.counts) for share in range(1, 21)]
    assert None in values or values == sorted(values)


# --- histograms over time ---------------------------------------------------------------------------------------


def followed(*pairs: tuple[float, Histogram | None]) -> Distribution | None:
    distribution = None
    for at, shown in pairs:
        distribution = distribute(distribution, shown, at)
    return distribution


def median(*pairs: tuple[float, Histogram | None]) -> float | None:
    distribution = followed(*pairs)
    return distribution.quantiles((0.5,), pairs[-1][0])[0] if distribution else None


def seen(*counts: float) -> Histogram:
    return Histogram(EDGES, counts)


LOW, MORE_HIGH = seen(10, 10, 10, 10), seen(10, 10, 20, 20)

OVER_TIME: dict[str, tuple[list[tuple[float, Histogram | None]], float | None]] = {
    "one sample tells nothing": ([(0, LOW)], None),
    "what came between two": ([(0, LOW), (1, MORE_HIGH)], 3.0),
    "nothing came": ([(0, LOW), (1, LOW)], None),
    "what came before the window is gone": (
        [(0, seen(0, 0, 0, 0)), (6, LOW), (20, LOW), (7 + WINDOW, MORE_HIGH)],
        3.0,
    ),
    "scrapes were missed": ([(0, LOW), (WINDOW, MORE_HIGH)], 3.0),
    "too many were missed": ([(0, LOW), (1 + WINDOW, MORE_HIGH)], None),
    "too many were missed, and nothing had come": ([(0, LOW), (1 + WINDOW, LOW)], None),
    "and then it starts anew": ([(0, LOW), (1 + WINDOW, MORE_HIGH), (2 + WINDOW, seen(14, 14, 24, 24))], 0.5),
    "a restart counts from 0": ([(0, MORE_HIGH), (1, seen(0, 4, 4, 4))], 1.5),
    "what came before a restart stays": (
        [(0, LOW), (6, seen(10, 10, 110, 110)), (12, seen(0, 4, 4, 4))],
        pytest.approx(2 + 2 * (52 - 4) / 100),
    ),
    "two restarts": ([(0, LOW), (6, seen(4, 4, 4, 4)), (12, seen(0, 0, 2, 2)), (18, seen(0, 0, 2, 8))], 4.0),
    "only a lower bucket fell": ([(0, seen(9, 9, 9, 9)), (1, seen(0, 10, 10, 10))], 1.5),
    "other edges start anew": ([(0, LOW), (1, Histogram((5.0, INF), (3.0, 3.0)))], None),
    "and go on": ([(0, LOW), (1, Histogram((5.0, INF), (3.0, 3.0))), (2, Histogram((5.0, INF), (5.0, 5.0)))], 2.5),
    "it was never there": ([(0, None), (1, None)], None),
    "it came late": ([(0, None), (1, LOW), (2, MORE_HIGH)], 3.0),
    "it was away once": ([(0, LOW), (1, None), (2, MORE_HIGH)], 3.0),
    "it went away for good": ([(0, LOW), (1, MORE_HIGH), (2 + WINDOW, None)], None),
    "the clock stood still": ([(0, LOW), (0, MORE_HIGH)], None),
    "a lower bucket saw more than a higher one": ([(0, LOW), (1, seen(16, 14, 14, 14))], pytest.approx(0.5)),
    "a count that is no number": ([(0, LOW), (1, seen(math.nan, 1, 1, 1)), (2, MORE_HIGH)], 3.0),
    "a count without end": ([(0, LOW), (1, seen(0, 0, 0, INF)), (2, MORE_HIGH)], 3.0),
    "a count below 0": ([(0, LOW), (1, seen(-1, 10, 10, 10)), (2, MORE_HIGH)], 3.0),
    "a count too few": ([(0, LOW), (1, Histogram(EDGES, (1.0, 2.0))), (2, MORE_HIGH)], 3.0),
}


@pytest.mark.parametrize("name", OVER_TIME)
def test_over_time(name: str) -> None:
    pairs, expected = OVER_TIME[name]
    assert median(*pairs) == expected


NOT_FOLLOWED: dict[str, Histogram] = {
    "no edges": Histogram((), ()),
    "no finite edge": Histogram((INF,), (3.0,)),
    "the last is finite": Histogram((1.0, 2.0), (3.0, 3.0)),
    "not ascending": Histogram((2.0, 1.0, INF), (3.0, 3.0, 3.0)),
    "twice the same": Histogram((1.0, 1.0, INF), (3.0, 3.0, 3.0)),
    "no number": Histogram((math.nan, 1.0, INF), (3.0, 3.0, 3.0)),
    "from minus inf": Histogram((-INF, 1.0, INF), (3.0, 3.0, 3.0)),
    "more edges than are followed": histogram(*([3.0] * (MAX_EDGES + 1))),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_a_histogram_is_not_followed_that_has(name: str) -> None:
    assert distribute(None, NOT_FOLLOWED[name], 0.0) is None
    known = distribute(None, LOW, 0.0)
    assert distribute(known, NOT_FOLLOWED[name], 1.0) is known


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 20),
            st.lists(st.integers(0, 50), min_size=4, max_size=4),
            st.booleans(),
        ),
        min_size=2,
        max_size=30,
    ),
    st.floats(0.01, 1.0),
)
def test_a_window_holds_what_came_in_it_whatever_restarts_there_were(
    steps: list[tuple[float, list[int], bool]], share: float
) -> None:
    """Against the observations themselves, added up from the point where the window begins."""
    distribution, at, shown = None, 0.0, [0.0] * 4
    came: list[tuple[float, list[float]]] = []
    for seconds, observations, restarted in steps:
        at += seconds
        own = [float(sum(observations[: place + 1])) for place in range(4)]
        if restarted and any(new < old for new, old in zip(own, shown, strict=True)):
            shown = [0.0] * 4
        shown = [old + new for old, new in zip(shown, own, strict=True)]
        came.append((at, own))
        distribution = distribute(distribution, Histogram(EDGES, tuple(shown)), at)
    assert distribution is not None
    start = distribution.points[0][0]
    total = [sum(own[place] for when, own in came if when > start) for place in range(4)]
    value = distribution.quantiles((share,), at)[0]
    expected = brute_force(share, EDGES, total) if total[-1] else None
    assert value == (None if expected is None else pytest.approx(expected, rel=1e-9))


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 40),
            st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6),
            st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6),
        ),
        max_size=20,
    )
)
def test_whatever_a_server_shows_a_quantile_is_a_number_or_missing(
    steps: list[tuple[float, list[float], list[float]]],
) -> None:
    distribution, at = None, 0.0
    for seconds, edges, counts in steps:
        at += seconds
        distribution = distribute(distribution, Histogram((*sorted(edges), INF), tuple(counts)), at)
        values = distribution.quantiles((0.5, 0.95), at) if distribution else []
        assert all(value is None or math.isfinite(value) for value in values)


# --- peaks ------------------------------------------------------------------------------------------------------


def peak(*pairs: tuple[float, float | None]) -> Peak:
    known = Peak()
    for at, value in pairs:
        known = top(known, value, at)
    return known


PEAKS: dict[str, tuple[list[tuple[float, float | None]], float, float | None]] = {
    "never read": ([], 0, None),
    "never there": ([(0, None)], 0, None),
    "once": ([(0, 0.5)], 0, 0.5),
    "the highest": ([(0, 0.5), (1, 0.9), (2, 0.1)], 2, 0.9),
    "of all hours": ([(0, 0.9), (HOUR, 0.5), (2 * HOUR, 0.1)], 2 * HOUR, 0.9),
    "0 is read, not missing": ([(0, 0.0)], 0, 0.0),
    "of yesterday": ([(0, 0.9), (DAY + HOUR, 0.5)], DAY + HOUR, 0.5),
    "of the last hour that counts": ([(HOUR - 1, 0.9), (DAY, 0.5)], DAY + HOUR - 1, 0.9),
    "not read for a day": ([(0, 0.9)], DAY + HOUR, None),
    "no number": ([(0, 0.5), (1, math.nan), (2, math.inf)], 2, 0.5),
}


@pytest.mark.parametrize("name", PEAKS)
def test_peak(name: str) -> None:
    pairs, now, expected = PEAKS[name]
    assert peak(*pairs).highest(now) == expected


@given(st.lists(st.tuples(st.floats(0, 3 * HOUR), st.floats(0, 1)), min_size=1, max_size=80))
def test_a_peak_is_the_highest_of_a_day_and_keeps_no_more_than_its_hours(steps: list[tuple[float, float]]) -> None:
    known, at, read = Peak(), 0.0, []
    for seconds, value in steps:
        at += seconds
        known = top(known, value, at)
        read.append((at, value))
    last_day = [value for when, value in read if when > at - DAY]
    and_an_hour = [value for when, value in read if when > at - DAY - HOUR]
    highest = known.highest(at)
    assert highest is not None
    assert max(last_day) <= highest <= max(and_an_hour)
    assert len(known.hours) <= DAY / HOUR + 1


# --- what it costs ----------------------------------------------------------------------------------------------


def size(thing: Any, known: set[int]) -> int:
    """Bytes of a value and of all that it holds, each once."""
    if id(thing) in known:
        return 0
    known.add(id(thing))
    inner: list[Any] = []
    if isinstance(thing, (tuple, list)):
        inner = list(thing)
    elif isinstance(thing, msgspec.Struct):
        inner = [getattr(thing, name) for name in thing.__struct_fields__]
    return sys.getsizeof(thing) + sum(size(part, known) for part in inner)


KEPT: dict[str, tuple[Callable[[Any, float], Any], int]] = {
    "a counter": (lambda old, at: count(old, at * 1.5, at), 4_000),
    "a histogram of 24 edges": (
        lambda old, at: distribute(old, histogram(*(at * n for n in range(24))), at),
        16_000,
    ),
    "the largest histogram": (
        lambda old, at: distribute(old, histogram(*(at * n for n in range(MAX_EDGES))), at),
        64_000,
    ),
    "a peak": (lambda old, at: top(old or Peak(), at, at * 100), 4_000),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_small(name: str) -> None:
    step, most = KEPT[name]
    kept = None
    for at in range(500):
        kept = step(kept, float(at))
        assert at % 50 or size(kept, set()) <= most
