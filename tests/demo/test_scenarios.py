"""What a story is about is what happens in it: with the default seed, chance alone needs no replica."""

from collections.abc import Iterator

import pytest

from scaler.core import policy
from scaler.demo import DEFAULT_SECONDS, DEFAULT_SEED
from scaler.demo.engine import Engine, Profile
from scaler.demo.scenarios import SCENARIOS, Scenario
from scaler.demo.story import SPEED, WARM_UP
from scaler.demo.traffic import Gateway
from scaler.simulate.hpa import TOLERANCE


def first_event(scenario: Scenario) -> float:
    """The part of the duration after which something happens on purpose."""
    changes = [since for since, _ in scenario.load[1:]]
    return min([*changes, 1.0 if scenario.xid_at is None else scenario.xid_at, 1.0])


def needed(scenario: Scenario, start: float) -> Iterator[tuple[float, int]]:
    """(replicas that the KV cache asks for, requests that wait), every demo second until the first event."""
    gateway = Gateway(lambda _: scenario.rate(0.0), DEFAULT_SEED, 0.0, even=True)
    engines = [Engine(Profile(), 0.0) for _ in range(scenario.replicas)]
    for index, engine in enumerate(engines):
        gateway.add(f"r{index}", engine)
    gateway.advance(start)
    gateway.scatter()
    for second in range(round(first_event(scenario) * DEFAULT_SECONDS * SPEED)):
        gateway.advance(start + second)
        held = sum(engine.gauges().kv_usage for engine in engines)
        yield held / policy.value("kv_cache_target"), gateway.waiting


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("start", [WARM_UP, WARM_UP + 7.3, WARM_UP + 60.0], ids=["at once", "soon", "late"])
def test_before_its_event_a_story_needs_the_replicas_it_has(name: str, start: float) -> None:
    """Whenever the programs are up. The HPA does nothing about less than its tolerance."""
    scenario = SCENARIOS[name]
    looks = list(needed(scenario, start))
    assert max(value for value, _ in looks) < scenario.replicas * (1 + TOLERANCE)
    assert max(waiting for _, waiting in looks) == 0
