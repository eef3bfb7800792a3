"""Plimsoll's own policy under loads nobody chose: what holds of every run. PLIMSOLL_RANDOM_TRACES says of how many.

What is provable is asserted of every decision: a number, finite, within bounds. Of a whole run less is. Twice the load
may take less: what a request costs is learned sooner from it, and until then replicas are held on suspicion. And the
HPA bounds the changes only at one in each sync. So those bounds are wider than what 600 runs showed: at least 0.72 of
the seconds for twice the load, at most 2 changes and 12 more an hour.
"""

import itertools
import math
import os

import pytest

from scaler.simulate.generators import generate
from scaler.simulate.hpa import SYNC_PERIOD
from scaler.simulate.model import Run, Scenario, Trace
from scaler.simulate.profiles import profile
from scaler.simulate.traces import scaled
from tests.simulate.played import Said, digest, product
from tests.simulate.random_traces import random_trace

TRACES = int(os.environ.get("PLIMSOLL_RANDOM_TRACES", "300"))
CHUNK = 10
#: Of a chunk's traces, how many are played again: the same, and with twice the load.
AGAIN = 1

#: Least share of the seconds of a load that twice of it must take; 1.0 in nearly all.
LEAST = 0.5
#: Changes of .spec.replicas: so many in any run, and so many more for each hour.
CHANGES, CHANGES_PER_HOUR = 3, 24


def scenario(trace: Trace, seed: int) -> Scenario:
    """Few and slow replicas, so that hardly any load is small or large; readings 10 s apart, to be quick."""
    cold = 30.0 + seed % 5 * 30.0
    return Scenario(trace, profile("8b-l40s"), start=2, maximum=8, cold_start=cold, interval=10.0, seed=seed)


def sound(played: Run, said: list[Said]) -> None:
    of = played.scenario
    for each in said:
        # KEDA is never told of an error, and never of a number that it would read as 0.
        assert each.answer.value is not None, each.answer.why
        assert math.isfinite(each.answer.value)
        assert each.answer.value >= 0.0
        assert of.minimum <= each.answer.replicas <= of.maximum
        assert "\n" not in each.answer.why
    assert all(of.minimum <= tick.spec <= of.maximum for tick in played.ticks)
    assert len(played.requests) == len(of.trace.arrivals)
    assert len(played.changes) <= CHANGES + CHANGES_PER_HOUR * of.trace.seconds / 3600
    times = [change.at for change in played.changes]
    # A sync falls on the first reading after it is due.
    assert all(then - at >= SYNC_PERIOD - of.interval for at, then in itertools.pairwise(times))


@pytest.mark.parametrize("first", range(0, TRACES, CHUNK))
def test_whatever_comes(first: int) -> None:
    for seed in range(first, min(first + CHUNK, TRACES)):
        trace = random_trace(seed)
        played, said = product(scenario(trace, seed))
        sound(played, said)
        if seed < first + AGAIN:
            assert digest(product(scenario(trace, seed))[0]) == digest(played)
            double, said = product(scenario(scaled(trace, 2.0, seed=seed), seed))
            sound(double, said)
            assert double.replica_seconds >= LEAST * played.replica_seconds


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rate", [0.3, 2.0, 6.0])
def test_a_steady_load_leaves_the_fleet_alone(rate: float, seed: int) -> None:
    """After ten minutes, in which a past is gathered, at most two changes in an hour."""
    trace = generate("steady", {"rate": rate, "seconds": 4200}, seed)
    start = max(1, math.ceil(rate * 0.5))
    of = scenario(trace, 0)._replace(start=start, maximum=12, seed=seed)
    played, _ = product(of)
    assert len([change for change in played.changes if change.at > 600.0]) <= 2, played.changes
