"""The knee: what an engine can carry before a queue forms, learned from what it does while one stands.

May not be in here: how near its knee an engine is (saturation.py), counters and histograms (meters.py), clocks, GPUs.

An engine does not tell its knee: vLLM V1 has no metric for it, and it moves with the length of the requests. While
requests wait, whatever runs is what the engine can run, and whatever it serves is what it can serve. So that nothing
false is learned, an interval between two readings teaches only

* with a queue at both ends: one that comes and goes between two looks is not a limit. Where the server says what its
  requests wait for, those that wait for capacity are the queue: a request that is deferred (vLLM: an adapter's budget,
  a transfer of KV, a grammar) waits whether or not the engine is full;
* while the engine makes progress and is awake, without a restart within it. Seconds in which nothing moved count with
  the next that does (a long prefill stalls the counters): else the slow ones would be left out of every rate. STILL
  seconds of it are too many: that engine is stuck, and stuck engines teach nothing;
* the number in flight only while it is steady: after a burst the batch fills for seconds, held back by prefill, and
  requests that began together end together, before the queue behind them moves up;
* the requests served only once one has ended since the engine began from nothing: a batch that began together ends
  nothing for as long as one request takes, which is no rate.

**Fading.** Two things make what is known old. *Queueing*: TAU seconds of it count what was known before for 1/e. A
mean that fades by the clock alone would follow how often the engine was polled or idle, not how much it has shown.
*Age*: without a queue nothing is learned and the mix of requests changes all the same, so that after AGE seconds what
is known counts for 1/e against what comes. It never counts for less than LEAST_QUEUED seconds do: until there is news
the old knee is the best that is known, and one odd interval should not replace it.
"""

import math
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.core.model_engines import EngineReading, Learned

#: Seconds of queueing: bursts last tens of seconds, the mix of requests changes within minutes.
TAU = 60.0
#: Seconds: llm-d's workload variant autoscaler keeps what it saw of a queueing replica for ten looks a minute apart.
AGE = 600.0
#: Seconds of queueing before anything learned is told: less is the shape of one burst.
LEAST_QUEUED = 5.0
#: Seconds without progress from which an interval is not learned from. A prompt of 100,000 tokens takes as long at
#: 0.1 ms a token (70B on 8 H100).
STILL = 10.0
#: By how much of itself, and by one request in any case, what runs may grow between two readings and still be taken
#: for full. Where the KV cache is the limit, the batch goes up and down by some percent as requests come and go.
_GROWTH = 0.1
#: What runs falls to less than this share of itself when requests that began together end together.
_FALL = 0.5
#: The reason for waiting that is the engine's limit (vLLM from 0.20: capacity, deferred).
_CAPACITY = "capacity"


class Estimate(Struct, frozen=True):
    """A mean over the time in which something was shown, the newest counting most."""

    value: float
    weight: float  # seconds of queueing that it stands for, faded; TAU at most
    seconds: float  # of queueing that went into it
    at: float  # when it was last taught


class Knee(Struct, frozen=True):
    """What an engine has shown. None: nothing yet."""

    running: Estimate | None = None
    tokens: Estimate | None = None
    service: Estimate | None = None
    generation: Estimate | None = None
    queued_seconds: float = 0.0
    flows: bool = False  # a request has ended since the engine last began from nothing
    still: float = 0.0  # seconds with a queue and without progress, up to now


class Interval(NamedTuple):
    """What happened between two readings that follow each other, without a restart between them."""

    before: EngineReading
    after: EngineReading
    at: float  # of the second
    seconds: float
    moved: bool  # whether the engine made progress
    served: float | None  # requests that ended well; None: not told
    generated: float | None  # tokens


def learn(old: Knee, seen: Interval) -> Knee:
    """What is known after one more interval."""
    before, after = seen.before, seen.after
    flows = bool(after.running and (old.flows or seen.served))
    if before.sleeping or after.sleeping or not (queue(before) and queue(after)):
        return replace(old, flows=flows, still=0.0) if flows != old.flows or old.still else old
    seconds = old.still + seen.seconds
    if not seen.moved:
        return replace(old, still=seconds)
    if old.still and seconds > STILL:
        return replace(old, flows=flows, still=0.0)
    seen = seen._replace(seconds=seconds)
    running, tokens = old.running, old.tokens
    if before.running and after.running and _is_steady(before.running, after.running):
        running = _taught(running, (before.running + after.running) / 2, seen)
        held = _held(before), _held(after)
        if held[0] and held[1]:
            tokens = _taught(tokens, (held[0] + held[1]) / 2, seen)
    service, generation = old.service, old.generation
    if old.flows and seen.served is not None:
        service = _taught(service, seen.served / seconds, seen)
    if seen.generated is not None:
        generation = _taught(generation, seen.generated / seconds, seen)
    return Knee(running, tokens, service, generation, old.queued_seconds + seconds, flows)


def interrupted(old: Knee) -> Knee:
    """After a restart of the engine, or a silence: what was learned stays, what flows now is not known."""
    return replace(old, flows=False, still=0.0) if old.flows or old.still else old


def told(knee: Knee, max_running: float | None = None) -> Learned:
    """What may be told: nothing before LEAST_QUEUED seconds of it were seen, and no rate of 0.

    max_running: requests that the server runs at most, where it says so. The knee is never above it, even where it was
    learned before the server was restarted with a lower limit.
    """
    running = _shown(knee.running)
    if running is not None and max_running:
        running = min(running, max_running)
    return Learned(
        knee_running=running,
        knee_tokens=_shown(knee.tokens),
        service_rate=_shown(knee.service),
        token_rate=_shown(knee.generation),
        queued_seconds=knee.queued_seconds,
    )


def typical(known: Iterable[Learned]) -> Learned:
    """What a model's engines are like: medians over those that have queued. Its queued_seconds is 0: nobody's own.

    What is borrowed already (queued_seconds 0) does not count: it would vote for itself. One odd engine moves a median
    little, and the order of the engines not at all.
    """
    own = [learned for learned in known if learned.queued_seconds > 0]
    return Learned(
        knee_running=_median(learned.knee_running for learned in own),
        knee_tokens=_median(learned.knee_tokens for learned in own),
        service_rate=_median(learned.service_rate for learned in own),
        token_rate=_median(learned.token_rate for learned in own),
    )


def or_typical(own: Learned, typical: Learned) -> Learned:
    """What an engine can carry: its own where it has shown it, else its model's, number by number.

    queued_seconds is the engine's own, and 0 where nothing is: what it queued so far taught too little to be told.
    """
    numbers = (own.knee_running, own.knee_tokens, own.service_rate, own.token_rate)
    return Learned(
        knee_running=typical.knee_running if own.knee_running is None else own.knee_running,
        knee_tokens=typical.knee_tokens if own.knee_tokens is None else own.knee_tokens,
        service_rate=typical.service_rate if own.service_rate is None else own.service_rate,
        token_rate=typical.token_rate if own.token_rate is None else own.token_rate,
        queued_seconds=own.queued_seconds if any(number is not None for number in numbers) else 0.0,
    )


def queue(reading: EngineReading) -> float | None:
    """Requests that wait for the engine to have room. None: it does not tell what waits."""
    reasons = reading.waiting_by_reason
    return reading.waiting if reasons is None else reasons.get(_CAPACITY, reading.waiting)


def _held(reading: EngineReading) -> float | None:
    """Tokens that the KV cache holds."""
    usage, capacity = reading.kv_usage, reading.kv_capacity_tokens
    return None if usage is None or capacity is None else usage * capacity


def _is_steady(before: float, after: float) -> bool:
    return _FALL * before <= after <= before + max(1.0, _GROWTH * before)


def _taught(old: Estimate | None, shown: float, seen: Interval) -> Estimate:
    share = math.exp(-seen.seconds / TAU)
    news = TAU * (1.0 - share)
    if old is None:
        return Estimate(shown, news, seen.seconds, seen.at)
    aged = old.weight * math.exp(-max(0.0, seen.at - seen.seconds - old.at) / AGE)
    weight = max(aged, min(old.weight, LEAST_QUEUED)) * share + news
    value = old.value + news / weight * (shown - old.value)
    return Estimate(value, weight, old.seconds + seen.seconds, seen.at)


def _shown(estimate: Estimate | None) -> float | None:
    return (estimate.value or None) if estimate is not None and estimate.seconds >= LEAST_QUEUED else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
