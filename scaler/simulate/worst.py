"""A run's worst minutes: where most requests came too late, what stood there, and what led to it.

May not be in here: guesses. Every clause of a cause is read off the run: its faults, ticks, arrivals and changes.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from scaler.simulate.model import Change, Fault, Request, Run, Tick
from scaler.simulate.outcome import decided, quantile, wait

WINDOW = 60.0
#: Between the beginnings of two windows: neighbours in one crisis would tell the same story.
APART = 300.0
#: How far back a cause is looked for: a cold start takes minutes (60 to 600 s in the field), a queue minutes to drain.
REACH = 300.0
#: Of the changes before a window, the newest are told.
MOST_BEFORE = 3
#: A rise of the load is one if it is this large, and larger than chance: so many standard deviations of a difference
#: of two counts of a Poisson process.
RISE, SIGMAS = 1.25, 3.0
GPUS_PER_NODE = 8

#: How a fault is told.
_FAULTS = {
    "throttled": "a replica's steps had taken {factor:g} times as long since {at}",
    "lost": "a replica was lost at {at}",
    "wedged": "a replica had hung since {at}",
    "blind": "readings had been missing since {at}",
    "unschedulable": "new pods had found no free GPU since {at}",
}


class Window(NamedTuple):
    """One bad minute. Requests are those that arrived in it and are decided."""

    at: float
    seconds: float
    requests: int
    missed: int
    load: float  # requests/s
    load_before: float | None  # requests/s of the minute before; None: the run was younger
    waiting: int  # most
    ready: int  # fewest
    starting: int  # most
    spec: int  # largest
    ttft_p95: float | None  # infinite: never
    events: tuple[tuple[float, str], ...]  # in it and REACH before
    changes: tuple[Change, ...]  # the newest MOST_BEFORE in REACH before it, and all in it
    cause: str  # clauses joined by "; "


class _Scene(NamedTuple):
    run: Run
    start: float
    end: float
    ticks: Sequence[Tick]  # in it, or the last before it; may be empty
    first: int  # the first of them in run.ticks
    arrived: Sequence[float]  # of all requests

    def rate(self, begin: float, until: float) -> float:
        return self.come(begin, until) / (until - begin)

    def come(self, begin: float, until: float) -> int:
        return bisect_left(self.arrived, until) - bisect_left(self.arrived, begin)


def clock(seconds: float) -> str:
    """Time of the simulation as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def worst(run: Run, count: int = 3, apart: float = APART) -> tuple[Window, ...]:
    """The windows with most requests over the target, the worst first; each begins at a whole second.

    `apart`: seconds between two beginnings, WINDOW or more, so that none overlap. Fewer than `count` if no more
    requests were late, () if none was.
    """
    judged = decided(run)
    late = [each.arrived for each in judged if wait(each) > run.scenario.ttft_target]
    ranked = sorted((-_late(late, start), start) for start in dict.fromkeys(float(math.floor(at)) for at in late))
    chosen: list[float] = []
    for _, start in ranked:
        if len(chosen) == count:
            break
        if all(abs(start - other) >= max(apart, WINDOW) for other in chosen):
            chosen.append(start)
    return tuple(_window(run, start, judged, late) for start in chosen)


def _late(late: Sequence[float], start: float) -> int:
    return bisect_left(late, start + WINDOW) - bisect_left(late, start)


def _window(run: Run, start: float, judged: Sequence[Request], late: Sequence[float]) -> Window:
    end = start + WINDOW
    arrived = [each.arrived for each in run.requests]
    ticked = [tick.at for tick in run.ticks]
    first, last = bisect_left(ticked, start), bisect_left(ticked, end)
    if first == last:
        first = max(0, first - 1)
    ticks = run.ticks[first:last]
    scene = _Scene(run, start, end, ticks, first, arrived)
    judged = [each for each in judged if start <= each.arrived < end]
    before = [change for change in run.changes if start - REACH <= change.at < start][-MOST_BEFORE:]
    return Window(
        at=start,
        seconds=WINDOW,
        requests=len(judged),
        missed=_late(late, start),
        load=scene.rate(start, end),
        load_before=scene.rate(start - WINDOW, start) if start >= WINDOW else None,
        waiting=max((tick.waiting for tick in ticks), default=0),
        ready=min((tick.ready for tick in ticks), default=0),
        starting=max((tick.starting for tick in ticks), default=0),
        spec=max((tick.spec for tick in ticks), default=0),
        ttft_p95=quantile(sorted(map(wait, judged)), 95),
        events=tuple(event for event in run.events if start - REACH <= event[0] < end),
        changes=(*before, *(change for change in run.changes if start <= change.at < end)),
        cause="; ".join(clause for rule in _RULES for clause in rule(scene)) or _queue(scene),
    )


def _faults(scene: _Scene) -> Iterator[str]:
    """Those that last, and those that were over for less than a window: their queue still stands."""
    for fault in scene.run.scenario.faults:
        # A replica that is lost stays lost; what it leads to is over when another had the time to start.
        lasts = REACH if fault.kind == "lost" else fault.seconds + WINDOW
        if fault.at < scene.end and fault.at + lasts > scene.start:
            yield _told(fault)


def _told(fault: Fault) -> str:
    words = _FAULTS.get(fault.kind, fault.kind + " since {at}")
    return words.format(factor=fault.factor, at=clock(fault.at))


def _no_room(scene: _Scene) -> Iterator[str]:
    scenario, spec = scene.run.scenario, max((tick.spec for tick in scene.ticks), default=0)
    if scenario.nodes is not None:
        gpus = scenario.profile.gpus
        # A replica does not spread over nodes unless it needs more than one.
        fit = scenario.nodes * (GPUS_PER_NODE // gpus) or scenario.nodes * GPUS_PER_NODE // gpus
        if spec > fit:
            yield f"{fit} replicas fit into the nodes that there are, {spec} were asked for"
    if spec and spec >= scenario.maximum:
        yield f"the replicas were at their maximum of {scenario.maximum}"


def _none_ready(scene: _Scene) -> Iterator[str]:
    if scene.ticks and not any(tick.ready for tick in scene.ticks):
        yield "no replica was ready"


def _starting(scene: _Scene) -> Iterator[str]:
    loading = [index for index, tick in enumerate(scene.ticks, scene.first) if tick.starting]
    if not loading:
        return
    most, since = max(tick.starting for tick in scene.ticks), loading[0]
    while since > 0 and scene.run.ticks[since - 1].starting:
        since -= 1
    yield f"{most} {'replica' if most == 1 else 'replicas'} had been starting since {clock(scene.run.ticks[since].at)}"


def _rise(scene: _Scene) -> Iterator[str]:
    """The largest rise from one minute to the next, in the window and REACH before."""
    best: tuple[float, float, int, int] | None = None
    steps = int((scene.end - scene.start + REACH) / scene.run.scenario.interval)
    for step in range(steps + 1):
        moment = scene.end - step * scene.run.scenario.interval
        middle, begin = moment - WINDOW, moment - 2 * WINDOW
        if begin < 0:
            break
        before, after = scene.come(begin, middle), scene.come(middle, moment)
        if after - before > SIGMAS * math.sqrt(after + before) and after >= RISE * before:
            best = max(best or (0, 0, 0, 0), (after - before, moment, before, after))
    if best:
        _, moment, before, after = best
        yield (
            f"load rose from {before / WINDOW:.3g} to {after / WINDOW:.3g} requests/s "
            f"within {WINDOW:.0f} s, by {clock(moment)}"
        )


def _went_down(scene: _Scene) -> Iterator[str]:
    downs = [each for each in scene.run.changes if scene.start - REACH <= each.at < scene.end]
    downs = [each for each in downs if each.after < each.before]
    if downs:
        yield f"the policy had gone down from {downs[0].before} to {downs[-1].after} by {clock(downs[-1].at)}"


def _stayed(scene: _Scene) -> Iterator[str]:
    """Nothing was on its way, although more would have been allowed."""
    if not scene.ticks or any(tick.starting for tick in scene.ticks):
        return
    ups = [each for each in scene.run.changes if scene.start - REACH <= each.at < scene.end]
    spec = max(tick.spec for tick in scene.ticks)
    if spec < scene.run.scenario.maximum and not any(each.after > each.before for each in ups):
        yield f"the policy asked for no more than {spec} {'replica' if spec == 1 else 'replicas'}"


def _queue(scene: _Scene) -> str:
    waiting = max((tick.waiting for tick in scene.ticks), default=0)
    ready = min((tick.ready for tick in scene.ticks), default=0)
    return f"up to {waiting} requests waited for {ready} ready replicas"


#: In the order in which they are told: what broke, what is not to be had, what was on its way, what came, what the
#: policy did. If none says anything, the queue is all there is to tell.
_RULES: tuple[Callable[[_Scene], Iterator[str]], ...] = (
    _faults,
    _no_room,
    _none_ready,
    _starting,
    _rise,
    _went_down,
    _stayed,
)
