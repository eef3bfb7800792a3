"""What one engine has shown of itself over time: its rates, how near its knee it is, whether it is stuck.

May not be in here: how rates and quantiles are taken (meters.py), how the knee and the pace are learned (knee.py,
pace.py), clocks (every time is an argument, monotonic seconds), GPUs, causes.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from exporter.core import knee, meters, pace
from exporter.core.knee import Interval, Knee
from exporter.core.meters import Counter, Distribution, Peak
from exporter.core.model_engines import EngineReading, Histogram, Learned, Rates
from exporter.core.pace import PaceMemory

#: Seconds over which rates and quantiles are taken.
WINDOW = meters.WINDOW
#: Readings that are further apart than this many seconds do not tell what happened between them.
GAP = 10.0
#: Seconds without a token or a finished request while work is held. Long prefills stall the counters for seconds;
#: a vLLM whose core had stopped answered /metrics and /health with 200 and frozen gauges for as long as it was
#: watched (0.32.0).
STALL = 30.0
#: Share of the KV cache from which the tokens that were held at the knee are what the queue formed for: llm-d's
#: workload variant autoscaler takes a replica for saturated from 0.8.
KV_SHORT = 0.8
#: Reasons for an end: of requests that say nothing of what an engine can serve (the client or the server gave up), and
#: of those that failed.
_NOT_SERVED = frozenset(("abort", "error"))
_FAILED = "error"
#: What stands for a reason where the server only says that requests ended (kinds/).
_HOW_IS_NOT_TOLD = frozenset(("", "finished"))
#: What stands for rates where none are known.
_UNKNOWN = Rates()


def _finished(reading: EngineReading) -> float | None:
    return None if reading.finished is None else sum(reading.finished.values())


def _served(reading: EngineReading) -> float | None:
    if reading.finished is None:
        return None
    return sum(count for reason, count in reading.finished.items() if reason not in _NOT_SERVED)


def _failed(reading: EngineReading) -> float | None:
    """0 where it is told how requests end, and this is not among it: old servers show a reason once it has happened."""
    finished = reading.finished or {}
    return finished.get(_FAILED, 0.0 if finished.keys() - _HOW_IS_NOT_TOLD else None)


#: What is counted, by a name of our own.
_COUNTERS: Mapping[str, Callable[[EngineReading], float | None]] = {
    "finished": _finished,
    "served": _served,
    "failed": _failed,
    "rejected": lambda reading: reading.rejections_total,
    "preempted": lambda reading: reading.preemptions_total,
    "prompt_tokens": lambda reading: reading.prompt_tokens_total,
    "tokens": lambda reading: reading.generation_tokens_total,
    "prefix_queries": lambda reading: reading.prefix_queries_total,
    "prefix_hits": lambda reading: reading.prefix_hits_total,
}
_HISTOGRAMS: Mapping[str, Callable[[EngineReading], Histogram | None]] = {
    "ttft": lambda reading: reading.ttft,
    "itl": lambda reading: reading.itl,
    "queue_time": lambda reading: reading.queue_time,
    "e2e": lambda reading: reading.e2e,
}
#: Those that show progress; one that falls shows that the engine was started again.
_WORK = ("prompt_tokens", "tokens", "finished")
#: Field of Rates -> counter; histogram -> share -> field of Rates.
_RATES: Mapping[str, str] = {
    "requests_per_second": "finished",
    "errors_per_second": "failed",
    "rejections_per_second": "rejected",
    "preemptions_per_second": "preempted",
    "prompt_tokens_per_second": "prompt_tokens",
    "tokens_per_second": "tokens",
}
_QUANTILES: Mapping[str, Mapping[float, str]] = {
    "ttft": {0.5: "ttft_p50", 0.95: "ttft_p95"},
    "itl": {0.5: "itl_p50", 0.95: "itl_p95"},
    "queue_time": {0.95: "queue_time_p95"},
    "e2e": {0.95: "e2e_p95"},
}


class EngineMemory(Struct, frozen=True):
    """All that is remembered of one engine. A restart of the engine keeps what was learned."""

    since: float  # first read since it was last started, as far as its counters tell
    at: float  # last read
    reading: EngineReading  # the last
    counters: Mapping[str, Counter] = {}  # name in _COUNTERS; absent: never told
    histograms: Mapping[str, Distribution] = {}  # name in _HISTOGRAMS
    produced: bool = False  # it was seen with a token or a finished request since then
    stalled_since: float | None = (
        None  # first of an unbroken run of readings with held work and no progress; None: none, or nobody can tell
    )
    knee: Knee = Knee()
    pace: PaceMemory = PaceMemory()
    peak: Peak = Peak()  # of the KV cache's usage

    @property
    def learned(self) -> Learned:
        """What it has shown itself; lessons.or_typical() adds what its model's engines have."""
        return pace.with_pace(knee.told(self.knee, self.reading.max_running), pace.told(self.pace))


def observe(memory: EngineMemory | None, reading: EngineReading, at: float, counted_late: bool = False) -> EngineMemory:
    """The memory after one more reading, taken `at`. A reading that is not newer than the last changes nothing.

    counted_late: its counters move when a request ends (kinds.COUNTED_LATE): standing still, they show nothing.
    """
    if memory is None:
        memory = EngineMemory(since=at, at=at, reading=reading)
    elif at <= memory.at:
        return memory
    counters: dict[str, Counter] = {}
    for name, of in _COUNTERS.items():
        counter = meters.count(memory.counters.get(name), of(reading), at)
        if counter is not None:
            counters[name] = counter
    histograms: dict[str, Distribution] = {}
    for name, histogram_of in _HISTOGRAMS.items():
        histogram = meters.distribute(memory.histograms.get(name), histogram_of(reading), at)
        if histogram is not None:
            histograms[name] = histogram
    restarted = any(_fell(memory.counters.get(name), counters.get(name)) for name in _WORK)
    before = memory.reading if memory.at < at <= memory.at + GAP else None
    moved = before is not None and _moved(before, reading)
    return EngineMemory(
        since=at if restarted else memory.since,
        at=at,
        reading=reading,
        counters=counters,
        histograms=histograms,
        produced=(memory.produced and not restarted) or bool(reading.generation_tokens_total or _finished(reading)),
        stalled_since=None
        if counted_late
        else _stalled_since(memory, reading, at, still=before is not None and not moved),
        # What ran before a restart and what runs after it are no interval.
        knee=_learned(memory, None if restarted else before, reading, moved, counters, at),
        # Tokens that are counted when a request ends do not tell when they were made.
        pace=memory.pace
        if counted_late
        else pace.learn(memory.pace, reading, at, before is not None and not restarted),
        peak=meters.top(memory.peak, reading.kv_usage, at),
    )


def rates(memory: EngineMemory, now: float) -> Rates:
    """What it did over the last WINDOW before its last reading; nothing, where that is older than WINDOW."""
    values: dict[str, float | None] = {field: _rate(memory, name, now) for field, name in _RATES.items()}
    for name, fields in _QUANTILES.items():
        distribution = memory.histograms.get(name)
        if distribution is not None:
            values.update(zip(fields.values(), distribution.quantiles(tuple(fields), now), strict=True))
    return Rates(**values, prefix_hit_ratio=_prefix_hit_ratio(memory, now))


def ratio(reading: EngineReading, learned: Learned, rates: Rates = _UNKNOWN) -> float | None:
    """How near the engine is to its knee: below 1 there is headroom, at 1 none, above 1 there is a queue.

    A queue is what being past the knee means: while requests wait the ratio is at least 1, and else at most 1.
    How far past the knee is the load over the knee, or over what runs now where the knee is not known yet. Without
    a queue it is the highest of what can stop the next request: the load over the knee or over what the server runs at
    most, the KV cache's usage, and the tokens that it holds over those that it held at the knee, where these filled
    most of it; with nothing learned or told it is the KV cache alone: the least that it can be.

    A server that refuses requests has a queue that grows no further, whatever comes. While it did so within WINDOW
    (`rates`) and has work, it is past its knee, and the ratio is higher by what it refuses over what it can serve (or
    serves now, where that is not learned): twice the load that it can carry adds 1, three times adds 2.

    None: what waits or what runs is missing, or nothing tells.
    """
    waiting, running = reading.waiting, reading.running
    if waiting is None or running is None:
        return None
    load = waiting + running
    if load == 0:
        return 0.0
    most = _knee(reading, learned)
    beyond = _refused(learned, rates)
    if waiting > 0:
        # Requests are whole: less than one in flight is no divisor.
        return max(1.0, load / max(1.0, most or running) if most or running else 1.0) + beyond
    if beyond > 0:
        return 1.0 + beyond
    usage, capacity, tokens = reading.kv_usage, reading.kv_capacity_tokens, learned.knee_tokens
    parts = [load / limit for limit in (most, reading.max_running) if limit]
    if usage is not None:
        parts.append(usage)
        if capacity and tokens and tokens >= KV_SHORT * capacity:
            parts.append(usage * capacity / tokens)
    return min(1.0, max(parts)) if parts else None


def wedged(memory: EngineMemory, now: float) -> bool:
    """Whether the engine holds work and has made no progress for STALL seconds, by readings that kept coming."""
    return memory.stalled_since is not None and memory.at - memory.stalled_since >= STALL and now - memory.at <= GAP


def kv_peak(memory: EngineMemory, now: float) -> float | None:
    """The highest usage (0..1) of the KV cache in the last 24 hours, to the hour. None: it was not read in them."""
    return memory.peak.highest(now)


def _stalled_since(memory: EngineMemory, reading: EngineReading, at: float, still: bool) -> float | None:
    """What is put to sleep keeps its work and makes no progress, as it was told to."""
    if reading.sleeping or not (reading.waiting or reading.running):
        return None
    if reading.prompt_tokens_total is None or reading.generation_tokens_total is None:
        return None
    return memory.stalled_since if still and memory.stalled_since is not None else at


def _fell(old: Counter | None, new: Counter | None) -> bool:
    return old is not None and new is not None and new.last < old.last


def _moved(before: EngineReading, after: EngineReading) -> bool:
    """Whether a counter of work moved; one that is missing at either end tells nothing."""
    pairs = (
        (before.prompt_tokens_total, after.prompt_tokens_total),
        (before.generation_tokens_total, after.generation_tokens_total),
        (_finished(before), _finished(after)),
    )
    return any(old != new for old, new in pairs if old is not None and new is not None)


def _learned(
    memory: EngineMemory,
    before: EngineReading | None,
    reading: EngineReading,
    moved: bool,
    counters: Mapping[str, Counter],
    at: float,
) -> Knee:
    if before is None:
        return knee.interrupted(memory.knee)

    def grown(name: str, known: bool) -> float | None:
        old, new = memory.counters.get(name), counters.get(name)
        return new.total - old.total if known and old is not None and new is not None else None

    served = grown("served", before.finished is not None and reading.finished is not None)
    told = before.generation_tokens_total is not None and reading.generation_tokens_total is not None
    generated = grown("tokens", told)
    return knee.learn(memory.knee, Interval(before, reading, at, at - memory.at, moved, served, generated))


def _rate(memory: EngineMemory, name: str, now: float) -> float | None:
    counter = memory.counters.get(name)
    return None if counter is None else counter.rate(now)


def _prefix_hit_ratio(memory: EngineMemory, now: float) -> float | None:
    """By the counters, else by the server's own word."""
    hits, queries = _rate(memory, "prefix_hits", now), _rate(memory, "prefix_queries", now)
    if hits is not None and queries:
        return min(1.0, hits / queries)  # two counters of one page need not be of one instant
    return memory.reading.prefix_hit_ratio if now - memory.at <= WINDOW else None


def _knee(reading: EngineReading, learned: Learned) -> float | None:
    """The knee is also never above what the server says that it runs at most: it may be a model's, not its own."""
    if learned.knee_running and reading.max_running:
        return min(learned.knee_running, reading.max_running)
    return learned.knee_running


def _refused(learned: Learned, rates: Rates) -> float:
    """Requests refused over requests served; less than one served in the window is no divisor."""
    served = learned.service_rate or rates.requests_per_second or 0.0
    return (rates.rejections_per_second or 0.0) / max(1.0 / WINDOW, served)
