"""What one engine has shown of itself over time: its rates, where its knee is, whether it is stuck.

May not be in here: clocks (every time is an argument, monotonic seconds), GPUs, causes.

The knee is the number of requests in flight at which a queue forms. An engine does not tell it (vLLM V1 has no
metric for it, and it moves with the length of the requests), so it is learned while a queue stands: whatever runs
then is what the engine can run.
"""

import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from exporter.core.model import EngineReading, Learned

#: Seconds over which rates are taken, and the least distance of two points in that window.
WINDOW = 30.0
_RESOLUTION = 1.0
#: Seconds of queueing after which what was learned before counts for 1/e: bursts last tens of seconds, the mix of
#: requests changes within minutes.
TAU = 60.0
#: Seconds of queueing before anything learned is told: less is the shape of one burst.
LEAST_QUEUED = 5.0
#: Readings that are further apart than this many seconds do not tell what happened between them.
GAP = 10.0
#: Seconds without a token or a finished request while work is held. Long prefills stall the counters for seconds;
#: a vLLM whose core had stopped answered /metrics and /health with 200 and frozen gauges for as long as it was
#: watched (0.32.0).
STALL = 30.0
#: Requests that ended so say nothing of what an engine can serve: the client or the server gave up.
_NOT_SERVED = frozenset(("abort", "error"))


class Meter(Struct, frozen=True):
    """A counter over time that outlives restarts of what it counts: `total` never falls."""

    last: float  # as read
    total: float
    points: tuple[tuple[float, float], ...]  # (at, total) in the window, and the newest before it

    def rate(self, now: float) -> float | None:
        """Per second over the window. None: one reading is no rate, and one that is older than the window is none."""
        (start, first), (end, last) = self.points[0], self.points[-1]
        return (last - first) / (end - start) if end > start and now - end <= WINDOW else None


class EngineMemory(Struct, frozen=True):
    """All that is remembered of one engine. A restart of the engine keeps what was learned."""

    since: float  # first read
    at: float  # last read
    reading: EngineReading  # the last
    finished: Meter | None = None  # requests that ended
    served: Meter | None = None  # requests that ended well
    tokens: Meter | None = None  # generated
    produced: bool = False  # it has ever been seen with a token or a finished request
    stalled_since: float | None = None  # first of an unbroken run of readings with held work and no progress
    knee_running: float | None = None
    service_rate: float | None = None
    queued_seconds: float = 0.0

    @property
    def learned(self) -> Learned:
        """What may be told: nothing before LEAST_QUEUED, and no service rate before a request was served."""
        if self.queued_seconds < LEAST_QUEUED:
            return Learned(queued_seconds=self.queued_seconds)
        return Learned(self.knee_running, self.service_rate or None, self.queued_seconds)


def observe(memory: EngineMemory | None, reading: EngineReading, at: float) -> EngineMemory:
    """The memory after one more reading, taken `at`. A reading that is not newer than the last changes nothing."""
    if memory is None:
        memory = EngineMemory(since=at, at=at, reading=reading)
    elif at <= memory.at:
        return memory
    finished = _total(reading.finished)
    after = replace(
        memory,
        at=at,
        reading=reading,
        finished=_metered(memory.finished, finished, at),
        served=_metered(memory.served, _total(reading.finished, _NOT_SERVED), at),
        tokens=_metered(memory.tokens, reading.generation_tokens_total, at),
        produced=memory.produced or bool(reading.generation_tokens_total or finished),
        stalled_since=None,
    )
    before = memory.reading if memory.at < at <= memory.at + GAP else None
    moves = _moves(before, reading) if before else []
    if _holds_work(reading) and None not in (reading.prompt_tokens_total, reading.generation_tokens_total):
        still = before and not any(moves)
        since = memory.stalled_since if still and memory.stalled_since is not None else at
        after = replace(after, stalled_since=since)
    # A counter that falls is a restart: what ran before it and what runs after it are no interval.
    if before and any(moves) and min(moves) >= 0 and before.waiting and reading.waiting:
        after = _learn(memory, after)
    return after


def rates(memory: EngineMemory) -> tuple[float | None, float | None]:
    """Requests finished and tokens generated per second over the last WINDOW before the last reading."""
    return _rate(memory.finished, memory.at), _rate(memory.tokens, memory.at)


def ratio(reading: EngineReading, learned: Learned) -> float | None:
    """How near the engine is to its knee: below 1 there is headroom, at 1 none, above 1 there is a queue.

    A queue is what being past the knee means: while requests wait the ratio is at least 1, and else at most 1.
    How far past the knee is the load over the knee, or over what runs now where the knee is not known yet. Without
    a queue it is the load over the knee or the KV cache's usage, whichever is higher, since either can stop the
    next request; with no knee known it is the KV cache alone: the least that it can be. None: what waits or what
    runs is missing, or nothing tells.
    """
    waiting, running = reading.waiting, reading.running
    if waiting is None or running is None:
        return None
    load, knee = waiting + running, learned.knee_running
    if load == 0:
        return 0.0
    if waiting > 0:
        # Requests are whole: less than one in flight is no divisor.
        return max(1.0, load / max(1.0, knee or running)) if knee or running else 1.0
    parts = [part for part in (load / knee if knee else None, reading.kv_usage) if part is not None]
    return min(1.0, max(parts)) if parts else None


def wedged(memory: EngineMemory, now: float) -> bool:
    """Whether the engine holds work and has made no progress for STALL seconds, by readings that kept coming."""
    return memory.stalled_since is not None and memory.at - memory.stalled_since >= STALL and now - memory.at <= GAP


def _total(finished: Mapping[str, float] | None, without: frozenset[str] = frozenset()) -> float | None:
    return None if finished is None else sum(count for reason, count in finished.items() if reason not in without)


def _holds_work(reading: EngineReading) -> bool:
    return bool(reading.waiting or reading.running)


def _moves(before: EngineReading, after: EngineReading) -> list[float]:
    """By how much each counter of work moved; a counter that is missing at either end is left out."""
    pairs = (
        (before.prompt_tokens_total, after.prompt_tokens_total),
        (before.generation_tokens_total, after.generation_tokens_total),
        (_total(before.finished), _total(after.finished)),
    )
    return [new - old for old, new in pairs if old is not None and new is not None]


def _rate(meter: Meter | None, at: float) -> float | None:
    return None if meter is None else meter.rate(at)


def _metered(meter: Meter | None, value: float | None, at: float) -> Meter | None:
    if value is None:
        return meter
    if meter is None:
        return Meter(value, 0.0, ((at, 0.0),))
    # A counter that fell has started again from 0: what it shows now is what came since.
    total = meter.total + (value - meter.last if value >= meter.last else value)
    points = meter.points
    if len(points) > 1 and at - points[-2][0] < _RESOLUTION:
        points = points[:-1]
    points = (*points, (at, total))
    first = next((i for i, (start, _) in enumerate(points[1:]) if start > at - WINDOW), 0)
    return Meter(value, total, points[first:])


def _learn(memory: EngineMemory, after: EngineMemory) -> EngineMemory:
    """What an interval with a queue at both ends teaches: a plain mean at first, which turns into a fading one."""
    old, new = memory.reading, after.reading
    seconds = after.at - memory.at
    queued = memory.queued_seconds + seconds
    weight = max(seconds / queued, 1.0 - math.exp(-seconds / TAU))

    def blend(known: float | None, shown: float) -> float:
        return shown if known is None else known + weight * (shown - known)

    knee, rate = memory.knee_running, memory.service_rate
    if old.running and new.running:
        knee = blend(knee, (old.running + new.running) / 2)
    if None not in (old.finished, new.finished) and memory.served and after.served:
        rate = blend(rate, (after.served.total - memory.served.total) / seconds)
    return replace(after, knee_running=knee, service_rate=rate, queued_seconds=queued)
