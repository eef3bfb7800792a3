"""A run that is given up: until then it is the run that it would have been, and one that is not is that run."""

from bisect import bisect_right

import pytest

from scaler.simulate.generators import generate
from scaler.simulate.model import Controller, Run, Scenario
from scaler.simulate.peers import PEERS
from scaler.simulate.product import Product, setting
from scaler.simulate.profiles import profile
from scaler.simulate.run import SoFar, run
from tests.simulate.played import digest

LOAD = generate("flash_crowd", {"base": 3, "factor": 5, "at": 120, "seconds": 600}, 1)
SCENARIO = Scenario(LOAD, profile("8b-l40s"), start=2, maximum=12, cold_start=60.0)
PEER = "keda-in-flight"


def controller(policy: str) -> Controller:
    return Product(SCENARIO, setting(SCENARIO)) if policy == "plimsoll" else PEERS[policy].make(16.0, SCENARIO)


def played(policy: str, misses: float, replica_seconds: float) -> tuple[Run, list[SoFar]]:
    """Up to so many. What it was asked by the way."""
    asked: list[SoFar] = []

    def enough(so_far: SoFar) -> bool:
        asked.append(so_far)
        return so_far.missed > misses or so_far.replica_seconds > replica_seconds

    return run(SCENARIO, controller(policy), policy, enough=enough), asked


def late(of: Run, until: float) -> int:
    """Requests that have no first token in time, of those of which that is sure by then."""
    target = of.scenario.ttft_target
    due = [one for one in of.requests if one.arrived + target <= until]
    return sum(one.first_token is None or one.first_token - one.arrived > target for one in due)


@pytest.mark.parametrize("policy", ["plimsoll", PEER])
def test_a_run_that_is_not_given_up_is_the_same_in_every_number(policy: str) -> None:
    whole = run(SCENARIO, controller(policy), policy)
    watched, asked = played(policy, float("inf"), float("inf"))
    assert digest(watched) == digest(whole)
    assert [so_far.at for so_far in asked] == [tick.at for tick in whole.ticks]
    assert [so_far.missed for so_far in asked] == [late(whole, so_far.at) for so_far in asked]
    assert asked[-1].missed > 100
    last = whole.ticks[-1]
    pods = last.ready + last.starting + last.going
    rest = (LOAD.seconds - last.at) * pods
    assert asked[-1].replica_seconds + rest == pytest.approx(whole.replica_seconds, abs=0.001)


@pytest.mark.parametrize("policy", ["plimsoll", PEER])
@pytest.mark.parametrize(("misses", "replica_seconds"), [(50, float("inf")), (0, float("inf")), (1e9, 700.0)])
def test_until_it_is_given_up_it_is_the_same_run(policy: str, misses: float, replica_seconds: float) -> None:
    whole = run(SCENARIO, controller(policy), policy)
    part, asked = played(policy, misses, replica_seconds)
    until = asked[-1].at
    assert 0.0 < until < LOAD.seconds
    assert asked[-1].missed > misses or asked[-1].replica_seconds > replica_seconds
    assert all(so_far.missed <= misses and so_far.replica_seconds <= replica_seconds for so_far in asked[:-1])
    assert part.ticks == whole.ticks[: len(asked)]
    assert part.changes == whole.changes[: bisect_right([change.at for change in whole.changes], until)]
    assert part.replica_seconds == pytest.approx(asked[-1].replica_seconds)
    assert late(part, until) == asked[-1].missed
    tokens = [None if one.first_token is None or one.first_token > until else one.first_token for one in whole.requests]
    assert [one.first_token for one in part.requests] == tokens[: len(part.requests)]
    assert len(part.requests) == sum(one.arrived < until for one in whole.requests)
