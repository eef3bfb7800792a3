"""What an engine suffers from: one word, by a table of rules of which the first that applies is taken.

May not be in here: measuring (saturation.py), judging GPUs (health.py). A rule states what can be told from what
is known now; where nothing applies, the engine is healthy only because its readings say so.
"""

from collections.abc import Callable
from typing import NamedTuple

from exporter.core.model import EngineReading
from exporter.core.saturation import EngineMemory, wedged

#: Causes that no rule gives yet stay 0: telling outside_gpu takes what the GPU does while the engine queues.
CAUSES: tuple[str, ...] = (
    "idle",
    "healthy",
    "saturated",
    "kv_pressure",
    "throttled",
    "hardware",
    "outside_gpu",
    "cold_start",
    "wedged",
    "blind",
)

#: Seconds for which a port that refuses may be a model that is being loaded: vLLM opens its port after the load,
#: and large models take 5 to 15 minutes. What takes longer does not start.
COLD_START = 900.0
#: KV usage (0..1) from which a queue is laid to the KV cache: what is free does not hold another prompt.
KV_FULL = 0.95


class Facts(NamedTuple):
    reading: EngineReading | None
    memory: EngineMemory | None
    health: str  # worst state of its GPUs
    capacity: float | None
    throttled: bool
    error: str  # of the last attempt to read it
    age: float | None  # seconds since it was first seen
    now: float

    @property
    def waiting(self) -> float:
        return (self.reading.waiting if self.reading else None) or 0.0

    @property
    def works(self) -> bool:
        return self.waiting > 0 or bool(self.reading and self.reading.running)


_SICK = ("lost", "unhealthy")


class Rule(NamedTuple):
    cause: str
    why: str
    applies: Callable[[Facts], bool]


def _is_starting(facts: Facts) -> bool:
    produced = facts.memory is not None and facts.memory.produced
    return facts.error == "refused" and not produced and facts.age is not None and facts.age < COLD_START


def _is_stuck(facts: Facts) -> bool:
    return facts.memory is not None and wedged(facts.memory, facts.now)


def _is_unreadable(facts: Facts) -> bool:
    reading = facts.reading
    return bool(facts.error) or reading is None or reading.waiting is None or reading.running is None


def _lacks_kv(facts: Facts) -> bool:
    usage = facts.reading.kv_usage if facts.reading else None
    return facts.waiting > 0 and usage is not None and usage >= KV_FULL


# One row a rule: a wrapped table cannot be scanned.
# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("hardware", "a GPU of it is sick: nothing else it shows can be trusted", lambda f: f.health in _SICK),
    Rule("wedged", "it holds work and nothing moves; a scrape that fails now and then does not change that", _is_stuck),
    Rule("cold_start", "it has produced nothing yet and its port is still closed", _is_starting),
    Rule("blind", "the last attempt gave no numbers, or not what waits and runs", _is_unreadable),
    Rule("hardware", "no part of it can be counted on", lambda f: f.capacity == 0),
    Rule(
        "throttled",
        "it works and a GPU's clocks are held down: a queue comes of that",
        lambda f: f.throttled and f.works,
    ),
    Rule("kv_pressure", "requests wait and the KV cache is full: memory is short, not compute", _lacks_kv),
    Rule("saturated", "requests wait", lambda f: f.waiting > 0),
    Rule("healthy", "requests run and none waits", lambda f: f.works),
    Rule("idle", "nothing runs and nothing waits", lambda f: True),
)
# fmt: on


def diagnose(
    reading: EngineReading | None,
    memory: EngineMemory | None,
    health: str,
    capacity: float | None,
    throttled: bool,
    error: str,
    now: float,
    since: float | None = None,
) -> str:
    """One of CAUSES. reading: the last good one; error: reason of the last attempt, "" if it was good.

    since: when the engine was first seen, for one that was never read; memory's own where it is not given.
    """
    first_seen = since if since is not None else memory.since if memory else None
    age = None if first_seen is None else now - first_seen
    facts = Facts(reading, memory, health, capacity, throttled, error, age, now)
    return next(rule.cause for rule in RULES if rule.applies(facts))
