"""What an engine does when nothing ails it, and when something last did: learned reading by reading.

May not be in here: clocks (every time is an argument, monotonic seconds), thresholds (ailing.toml), causes
(diagnosis.py), what an engine can carry (saturation.py).

A latency is bad only against this engine's own: models, GPUs and prompts differ by factors of a hundred. So it is
learned from readings of good service alone: none queues, no GPU is sick or slowed down, nothing fails, and there is
traffic enough for a median. The rates look back over a window; what ailed the engine is in them until the window has
passed, and so long nothing is learned.

Each mean is a plain one at first and fades slowly later. While an engine is slower than usual and nothing measured
says why, it learns ten times slower still: else a fault outside the GPU would be the usual within the hour.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import ailing
from exporter.core.ailing import LIMITS
from exporter.core.model_engines import EngineReading, Hardware, Rates, Usual
from exporter.core.saturation import GAP, WINDOW


class Mean(Struct, frozen=True):
    value: float
    seconds: float  # of good service that went into it


class Ailments(Struct, frozen=True):
    """When something last ailed an engine, so that a diagnosis need not change its mind by the second. None: never."""

    waiting_since: float | None = None  # first of an unbroken run of readings with requests waiting
    queued_at: float | None = None  # last reading at which a queue stood
    throttled_at: float | None = None  # last reading at which clocks were held down
    ailed_at: float | None = None  # last reading at which anything was not as it should be
    utilization: float | None = None  # of the busiest GPU, fading mean over WINDOW; None: not told lately
    # Each of these is entered at one threshold and left at another.
    slow: bool = False  # than usual
    very_slow: bool = False
    gpu_idle: bool = False


class UsualMemory(Struct, frozen=True):
    """All that is remembered of one engine's good service. Its size does not grow."""

    at: float  # last reading
    ttft_p50: Mean | None = None
    itl_p50: Mean | None = None
    requests_per_second: Mean | None = None
    prompt_tokens: Mean | None = None
    ailments: Ailments = Ailments()

    @property
    def usual(self) -> Usual:
        """What may be told: nothing before it was watched for usual_least_seconds."""
        return Usual(
            ttft_p50=_told(self.ttft_p50),
            itl_p50=_told(self.itl_p50),
            requests_per_second=_told(self.requests_per_second),
            prompt_tokens=_told(self.prompt_tokens),
            seconds=self.requests_per_second.seconds if self.requests_per_second else 0.0,
        )


def observe(
    memory: UsualMemory | None,
    reading: EngineReading,
    rates: Rates,
    hardware: Hardware,
    saturation: float | None,
    at: float,
) -> UsualMemory:
    """The memory after one more good reading, taken `at`. One that is not newer than the last changes nothing.

    rates, saturation: saturation.rates() and ratio() after the same reading.
    """
    if memory is not None and at <= memory.at:
        return memory
    memory = memory or UsualMemory(at)
    # Readings further apart than this do not tell what happened between them.
    seconds = at - memory.at if at - memory.at <= GAP else 0.0
    ailments = _ailments(memory.ailments, reading, rates, memory.usual, hardware, at, seconds)
    memory_now = replace(memory, at=at, ailments=ailments)
    if seconds == 0.0 or not _serves_well(reading, rates, saturation, ailments, at):
        return memory_now
    fading = 1.0 - math.exp(-seconds / (LIMITS.usual_slow_seconds if ailments.slow else LIMITS.usual_seconds))

    def blend(mean: Mean | None, value: float | None) -> Mean | None:
        if value is None:
            return mean
        watched = seconds + (mean.seconds if mean else 0.0)
        # Slow service goes in at the fading weight alone: in a young mean it would count for far more.
        weight = fading if ailments.slow else max(seconds / watched, fading)
        return Mean(value if mean is None else mean.value + weight * (value - mean.value), watched)

    return replace(
        memory_now,
        ttft_p50=blend(memory.ttft_p50, rates.ttft_p50),
        itl_p50=blend(memory.itl_p50, rates.itl_p50),
        requests_per_second=blend(memory.requests_per_second, rates.requests_per_second),
        prompt_tokens=blend(memory.prompt_tokens, ailing.prompt_tokens(rates)),
    )


def queues(reading: EngineReading, ailments: Ailments, at: float) -> bool:
    """Whether a queue stands at `at`: many wait against those that run, or some have waited for a while.

    A request that passes through the queue between two steps of the scheduler is no queue.
    """
    waiting, running = reading.waiting, reading.running
    if not waiting:
        return False
    if running and waiting >= LIMITS.queue_share * running:
        return True
    return ailments.waiting_since is not None and at - ailments.waiting_since >= LIMITS.queue_seconds


def slow(before: Ailments, rates: Rates, usual: Usual) -> bool:
    """Slower than usual; once it is, until it is clearly no longer."""
    return bool(ailing.slower(rates, usual, LIMITS.latency_down if before.slow else LIMITS.latency_up))


def very_slow(before: Ailments, rates: Rates, usual: Usual) -> bool:
    return bool(ailing.slower(rates, usual, LIMITS.latency_up if before.very_slow else LIMITS.latency_bad))


def gpu_idle(before: Ailments, utilization: float | None) -> bool:
    return utilization is not None and utilization < (LIMITS.gpu_awake if before.gpu_idle else LIMITS.gpu_idle)


def _ailments(
    before: Ailments,
    reading: EngineReading,
    rates: Rates,
    usual: Usual,
    hardware: Hardware,
    at: float,
    seconds: float,
) -> Ailments:
    goes_on = seconds > 0.0 and before.waiting_since is not None
    since = before.waiting_since if goes_on else at
    now = replace(before, waiting_since=since if reading.waiting else None)
    queued = queues(reading, now, at)
    ails = (
        queued
        or hardware.throttled
        or hardware.state in ailing.SICK
        or bool(reading.sleeping)
        or bool(rates.rejections_per_second)
        or ailing.often(rates.preemptions_per_second)
        or ailing.fails(rates)
    )
    return replace(
        now,
        queued_at=at if queued else before.queued_at,
        throttled_at=at if hardware.throttled else before.throttled_at,
        ailed_at=at if ails else before.ailed_at,
        utilization=(utilization := _faded(before.utilization if seconds else None, hardware.utilization, seconds)),
        slow=slow(before, rates, usual),
        very_slow=very_slow(before, rates, usual),
        gpu_idle=gpu_idle(before, utilization),
    )


def _serves_well(reading: EngineReading, rates: Rates, saturation: float | None, ailments: Ailments, at: float) -> bool:
    """Whether this reading and all that its rates look back on is good service, and enough of it."""
    if reading.waiting is None or reading.running is None:
        return False
    if ailments.ailed_at is not None and at - ailments.ailed_at <= WINDOW:
        return False
    if saturation is not None and saturation >= 1.0:
        return False
    requests = rates.requests_per_second
    return requests is not None and requests * WINDOW >= LIMITS.usual_least_requests


def _faded(before: float | None, value: float | None, seconds: float) -> float | None:
    """One missing value ends the mean: nobody knows what it would have been."""
    if before is None or value is None:
        return value
    return before + (1.0 - math.exp(-seconds / WINDOW)) * (value - before)


def _told(mean: Mean | None) -> float | None:
    return mean.value if mean and mean.seconds >= LIMITS.usual_least_seconds else None
