"""What one run came to: shares, quantiles and costs, and its course in a few points.

May not be in here: a comparison of runs, words. Times are seconds; None: there was nothing to take it from; infinite: a
request that never got its first token.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from scaler.simulate.model import Change, Request, Run, Tick

#: Two changes in opposite directions within this time: the first was for nothing. Twice the HPA's default window down,
#: so that a policy that only lets that window pass is not cleared by it.
REVERSAL = 600.0


class Summary(NamedTuple):
    """A run's figures. Those of first tokens are of all requests that are decided, those that never began as well."""

    attainment: float | None  # share of the decided requests with their first token in time
    gpu_hours: float
    requests: int  # all that arrived
    missed: int  # decided, and not in time
    unfinished: int
    ttft_p50: float | None
    ttft_p95: float | None
    ttft_p99: float | None
    between_tokens_p50: float | None  # of finished requests: the mean over one request's tokens after its first
    between_tokens_p95: float | None
    e2e_p95: float | None  # of finished requests
    restarts: int
    preemptions: int
    replicas_mean: float
    replicas_peak: int  # pods at once, whatever their state
    ups_per_hour: float
    downs_per_hour: float
    reversals: int
    queue_peak: int


class Point(NamedTuple):
    """One stretch of the course."""

    at: float  # where it begins
    arrivals: float  # requests/s
    waiting: int  # most
    running: int  # most
    ready: int  # at its end, like the next two
    starting: int
    spec: int
    ttft_p50: float | None  # of the requests that arrived in it
    ttft_p95: float | None


class Timelines(NamedTuple):
    seconds: float  # of one point, but for the last, which may be shorter
    points: tuple[Point, ...]


def end(run: Run) -> float:
    """Where the run ends: its trace may be over before its last requests are."""
    return max(run.scenario.trace.seconds, run.ticks[-1].at if run.ticks else 0.0)


def quantile(ordered: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many per cent of the sorted values do not exceed (nearest rank: exact)."""
    return ordered[max(1, -(-percent * len(ordered) // 100)) - 1] if ordered else None


def wait(request: Request) -> float:
    """Seconds to its first token; infinite if none came."""
    return math.inf if request.first_token is None else request.first_token - request.arrived


def decided(run: Run) -> list[Request]:
    """The requests of which one can say whether they were in time: not those that still may be when the run ends."""
    until = end(run) - run.scenario.ttft_target
    return [each for each in run.requests if each.first_token is not None or each.arrived <= until]


def summary(run: Run) -> Summary:
    judged = decided(run)
    waits = sorted(map(wait, judged))
    missed = sum(each > run.scenario.ttft_target for each in waits)
    between, whole = _speeds(run.requests)
    seconds = end(run)
    ups = sum(change.after > change.before for change in run.changes)
    downs = sum(change.after < change.before for change in run.changes)
    return Summary(
        attainment=1.0 - missed / len(judged) if judged else None,
        gpu_hours=run.gpu_hours,
        requests=len(run.requests),
        missed=missed,
        unfinished=sum(each.finished is None for each in run.requests),
        ttft_p50=quantile(waits, 50),
        ttft_p95=quantile(waits, 95),
        ttft_p99=quantile(waits, 99),
        between_tokens_p50=quantile(between, 50),
        between_tokens_p95=quantile(between, 95),
        e2e_p95=quantile(whole, 95),
        restarts=sum(each.restarts for each in run.requests),
        preemptions=run.preemptions,
        replicas_mean=run.replica_seconds / seconds if seconds > 0 else 0.0,
        replicas_peak=max((tick.ready + tick.starting + tick.going for tick in run.ticks), default=0),
        ups_per_hour=ups * 3600.0 / seconds if seconds > 0 else 0.0,
        downs_per_hour=downs * 3600.0 / seconds if seconds > 0 else 0.0,
        reversals=_reversals(run.changes),
        queue_peak=max((tick.waiting for tick in run.ticks), default=0),
    )


def _speeds(requests: Iterable[Request]) -> tuple[list[float], list[float]]:
    """Of the finished: mean seconds between tokens (with one token there is no between), and seconds in all; sorted."""
    between, whole = [], []
    for each in requests:
        if each.finished is None or each.first_token is None:
            continue
        whole.append(each.finished - each.arrived)
        if each.output > 1:
            between.append((each.finished - each.first_token) / (each.output - 1))
    return sorted(between), sorted(whole)


def _reversals(changes: Iterable[Change]) -> int:
    moves = [change for change in changes if change.after != change.before]
    return sum(
        (first.after > first.before) != (then.after > then.before) and then.at - first.at <= REVERSAL
        for first, then in pairwise(moves)
    )


def timelines(run: Run, points: int = 240) -> Timelines:
    """The run's course in `points` stretches or fewer, each of whole intervals; none of a run without ticks."""
    seconds, interval = end(run), run.scenario.interval
    if not run.ticks or seconds <= 0:
        return Timelines(interval, ())
    width = max(1, math.ceil(seconds / points / interval - 1e-9)) * interval
    count = math.ceil(seconds / width - 1e-9)
    arrived = [each.arrived for each in run.requests]
    ticked = [tick.at for tick in run.ticks]
    made = []
    for index in range(count):
        begin = index * width
        # What happens in the run's last moment belongs to the last stretch.
        until = math.inf if index == count - 1 else begin + width
        requests = run.requests[bisect_left(arrived, begin) : bisect_left(arrived, until)]
        first, last = bisect_left(ticked, begin), bisect_left(ticked, until)
        ticks = run.ticks[first:last] or run.ticks[max(0, first - 1) : max(1, first)]
        made.append(_point(run, begin, min(until, seconds) - begin, requests, ticks))
    return Timelines(width, tuple(made))


def _point(run: Run, at: float, seconds: float, requests: Sequence[Request], ticks: Sequence[Tick]) -> Point:
    undecided_from = end(run) - run.scenario.ttft_target
    waits = sorted(wait(each) for each in requests if each.first_token is not None or each.arrived <= undecided_from)
    return Point(
        at=at,
        arrivals=len(requests) / seconds,
        waiting=max(tick.waiting for tick in ticks),
        running=max(tick.running for tick in ticks),
        ready=ticks[-1].ready,
        starting=ticks[-1].starting,
        spec=ticks[-1].spec,
        ttft_p50=quantile(waits, 50),
        ttft_p95=quantile(waits, 95),
    )
