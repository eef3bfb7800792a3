"""core/diagnosis.py: a row for every rule, one for its order against each neighbour, and no cause out of nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.diagnosis import CAUSES, COLD_START, KV_FULL, RULES, diagnose
from exporter.core.model import EngineReading
from exporter.core.saturation import STALL, EngineMemory, observe


def reading(waiting: float | None = 0.0, running: float | None = 0.0, **changes: Any) -> EngineReading:
    counters = {"prompt_tokens_total": 1.0, "generation_tokens_total": 1.0}
    return EngineReading("m", "0", waiting=waiting, running=running, **{**counters, **changes})


def memory(last: EngineReading, seconds: float = 0.0) -> EngineMemory:
    """The same page for so many seconds, until now (0)."""
    seen = observe(None, last, -seconds)
    for at in range(-int(seconds) + 1, 1):
        seen = observe(seen, last, float(at))
    return seen


STUCK = reading(2, 3)
NEW = reading(generation_tokens_total=0.0)


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing to do": ("idle", {"reading": reading()}),
    "it runs": ("healthy", {"reading": reading(0, 3)}),
    "it queues": ("saturated", {"reading": reading(1, 3)}),
    "it queues, KV cache half full": ("saturated", {"reading": reading(1, 3, kv_usage=0.5)}),
    "it queues, KV cache full": ("kv_pressure", {"reading": reading(1, 3, kv_usage=KV_FULL)}),
    "KV cache full, no queue": ("healthy", {"reading": reading(0, 3, kv_usage=1.0)}),
    "throttled at work": ("throttled", {"reading": reading(0, 3), "throttled": True}),
    "throttled, KV cache full": ("throttled", {"reading": reading(1, 3, kv_usage=1.0), "throttled": True}),
    "throttled at rest": ("idle", {"reading": reading(), "throttled": True}),
    "GPU lost": ("hardware", {"reading": reading(), "health": "lost"}),
    "GPU unhealthy under a queue": ("hardware", {"reading": reading(9, 9), "health": "unhealthy"}),
    "GPU lost, server gone": ("hardware", {"reading": None, "health": "lost", "error": "refused"}),
    "GPU lost, server wedged": ("hardware", {"reading": STUCK, "memory": memory(STUCK, STALL), "health": "lost"}),
    "GPU degraded": ("healthy", {"reading": reading(0, 3), "health": "degraded"}),
    "GPU not known": ("healthy", {"reading": reading(0, 3), "health": "unknown", "capacity": None}),
    "no capacity left": ("hardware", {"reading": reading(0, 3), "capacity": 0.0}),
    "wedged": ("wedged", {"reading": STUCK, "memory": memory(STUCK, STALL), "capacity": 0.0}),
    "wedged, and one scrape timed out": (
        "wedged",
        {"reading": STUCK, "memory": memory(STUCK, STALL), "error": "timeout"},
    ),
    "almost wedged": ("saturated", {"reading": STUCK, "memory": memory(STUCK, STALL - 1)}),
    "never read": ("blind", {"reading": None, "error": "timeout"}),
    "never read, no attempt yet": ("blind", {"reading": None, "error": "pending", "since": 0.0}),
    "read before, not now": ("blind", {"reading": reading(5, 5), "error": "status"}),
    "the page does not tell what waits": ("blind", {"reading": reading(None, 3)}),
    "the page does not tell what runs": ("blind", {"reading": reading(3, None)}),
    "port closed, just found": ("cold_start", {"reading": None, "error": "refused", "since": -1.0}),
    "port closed for too long": ("blind", {"reading": None, "error": "refused", "since": -COLD_START}),
    "port closed, found at an unknown time": ("blind", {"reading": None, "error": "refused"}),
    "port closed after it was open and idle": (
        "cold_start",
        {"reading": NEW, "memory": memory(NEW, 5), "error": "refused"},
    ),
    "port closed after it produced": (
        "blind",
        {"reading": reading(), "memory": memory(reading(), 5), "error": "refused"},
    ),
    "slow to answer is no cold start": ("blind", {"reading": None, "error": "timeout", "since": -1.0}),
}


def found(**changes: Any) -> str:
    fields = {"reading": None, "memory": None, "health": "healthy", "capacity": 1.0, "throttled": False, "error": ""}
    return diagnose(**{**fields, "now": 0.0, **changes})


@pytest.mark.parametrize("name", ROWS)
def test_diagnosis(name: str) -> None:
    cause, given_facts = ROWS[name]
    assert found(**given_facts) == cause


def test_every_rule_decides_a_row_above() -> None:
    assert {rule.cause for rule in RULES} == {cause for cause, _ in ROWS.values()}
    assert {rule.cause for rule in RULES} == set(CAUSES) - {"outside_gpu"}
    assert all(rule.why for rule in RULES)


NUMBERS = st.one_of(st.none(), st.floats(0, 100))


@given(
    waiting=NUMBERS,
    running=NUMBERS,
    kv_usage=st.one_of(st.none(), st.floats(0, 1)),
    health=st.sampled_from(["healthy", "degraded", "unhealthy", "lost", "unknown"]),
    capacity=st.one_of(st.none(), st.floats(0, 1)),
    throttled=st.booleans(),
    error=st.sampled_from(["", "refused", "timeout", "blind", "pending"]),
)
def test_missing_is_never_healthy(
    waiting: float | None,
    running: float | None,
    kv_usage: float | None,
    health: str,
    capacity: float | None,
    throttled: bool,
    error: str,
) -> None:
    seen = reading(waiting, running, kv_usage=kv_usage)
    cause = found(reading=seen, memory=memory(seen), health=health, capacity=capacity, throttled=throttled, error=error)
    assert cause in CAUSES
    if error or waiting is None or running is None:
        assert cause in ("blind", "hardware", "cold_start")
