"""The whole simulator against what must hold of any fleet: laws, theory's formulas, conserved work."""

# ruff: noqa: S311 -- seeded draws, nothing secret

import heapq
import itertools
import random
import statistics
from math import factorial

import pytest

from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.model import Arrival, Controller, Request, Run, Scenario, Trace
from scaler.simulate.outcome import summary
from scaler.simulate.peers import PEERS
from scaler.simulate.product import Product, setting
from scaler.simulate.profiles import profile
from scaler.simulate.run import run
from tests.simulate.played import PLAIN, Script, azure, static

#: One request at a time, a token in 10 ms.
SEAT = PLAIN._replace(max_num_seqs=1)
MEAN = 100  # tokens: a service takes a second


def poisson(rate: float, count: int, law: str, seed: int) -> Trace:
    """`law`: exponential services, or the same for all. Time is left at the end for all to be done."""
    chance, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        output = MEAN if law == "fixed" else max(1, round(chance.expovariate(1 / MEAN)))
        arrivals.append(Arrival(now, 1, output))
    return Trace(law, arrivals, now + 300.0)


def waits(played: Run) -> float:
    """The mean time from arrival to the first token, less that token's own."""
    return statistics.mean((each.first_token or 0.0) - each.arrived - 0.01 for each in played.requests)


def of(load: Trace, replicas: int, router: str = "least_loaded") -> Scenario:
    return Scenario(load, SEAT, start=replicas, router=router, interval=60.0)


def recursion(requests: list[Request], servers: int) -> float:
    """The mean wait of first come, first served, request by request (Kiefer and Wolfowitz 1955; one seat: Lindley)."""
    free, total = [0.0] * servers, 0.0
    for each in requests:
        begin = max(each.arrived, heapq.heappop(free))
        total += begin - each.arrived
        heapq.heappush(free, begin + each.output / 100)
    return total / len(requests)


@pytest.mark.parametrize(("law", "load"), [("exponential", 0.5), ("exponential", 0.6), ("fixed", 0.8)])
def test_one_seat_is_lindleys_and_in_the_mean_pollaczek_and_khinchines(law: str, load: float) -> None:
    played = static(of(poisson(load, 8_000, law, 2), 1))
    services = [each.output / 100 for each in played.requests]
    rate = len(services) / played.requests[-1].arrived
    second, used = statistics.mean(each * each for each in services), rate * statistics.mean(services)
    assert waits(played) == pytest.approx(recursion(played.requests, 1), rel=1e-6)
    assert waits(played) == pytest.approx(rate * second / (2 * (1 - used)), rel=0.2)


def erlang_c(servers: int, offered: float) -> float:
    """The share of requests that wait (Erlang 1917)."""
    last = offered**servers / factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("seats", "load"), [(4, 0.8), (8, 0.9)])
def test_one_queue_before_many_seats_is_erlangs(seats: int, load: float) -> None:
    """A replica with many seats whose steps cost the same for any batch: M/M/c, but for the step under way."""
    trace = poisson(seats * load, 8_000, "exponential", 3)
    played = static(Scenario(trace, PLAIN._replace(max_num_seqs=seats), interval=60.0))
    mean = statistics.mean(each.output / 100 for each in played.requests)
    offered = len(played.requests) / played.requests[-1].arrived * mean
    assert waits(played) == pytest.approx(recursion(played.requests, seats), abs=0.02)
    assert waits(played) == pytest.approx(erlang_c(seats, offered) * mean / (seats - offered), rel=0.25)


def test_random_routing_makes_each_replica_a_queue_of_its_own() -> None:
    """A Poisson process split at random: M/M/1 each."""
    played = static(of(poisson(4 * 0.7, 8_000, "exponential", 5), 4, "random"))
    assert waits(played) == pytest.approx(0.7 / 0.3, rel=0.2)


def test_routers_queues_are_in_the_order_of_what_they_know() -> None:
    """Random is M/M/1, the shortest of two far better, the shortest of all better still; none beats one queue."""
    trace = poisson(8 * 0.85, 8_000, "exponential", 7)
    mean = {router: waits(static(of(trace, 8, router))) for router in ("random", "two_choices", "least_loaded")}
    assert mean["random"] > 2.5 * mean["two_choices"]
    assert mean["two_choices"] > 1.2 * mean["least_loaded"]
    assert mean["least_loaded"] > recursion(static(of(trace, 8)).requests, 8)


def load(seed: int, seconds: float = 400.0, quiet: float = 400.0) -> Trace:
    """Requests for a while, then time to end them all."""
    made = generate("flash_crowd", {"base": 4, "factor": 4, "at": 100, "seconds": seconds}, seed)
    return made._replace(seconds=seconds + quiet)


@pytest.mark.parametrize("router", ["random", "two_choices", "least_loaded"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_static_replicas_serve_every_request_with_every_token(router: str, replicas: int) -> None:
    played = static(Scenario(load(1), profile("8b-h100"), start=replicas, router=router))
    assert len(played.requests) == len(played.scenario.trace.arrivals)
    assert all(each.finished is not None and each.generated == each.output for each in played.requests)
    assert all(each.arrived < (each.first_token or 0.0) <= (each.finished or 0.0) for each in played.requests)
    assert {each.restarts for each in played.requests} == {0}
    assert played.replica_seconds == pytest.approx(replicas * 800.0)


def test_little_on_a_fleet_that_changes_under_faults() -> None:
    """Requests in the fleet, seen from outside at every reading = rate x mean time in it, whatever happens."""
    faults = tuple(map(parse, ("throttled@100:factor=3,for=60s", "lost@180", "wedged@250:for=40s")))
    scenario = Scenario(load(2), profile("8b-l40s"), start=2, maximum=9, cold_start=40.0, interval=1.0, faults=faults)
    played = run(scenario, Script((0.0, 2), (120.0, 5), (330.0, 3)), "script")
    assert all(each.finished is not None for each in played.requests)
    assert sum(each.restarts for each in played.requests) > 0
    inside = sum((each.finished or 0.0) - each.arrived for each in played.requests)
    seen = sum(tick.waiting + tick.running for tick in played.ticks) * scenario.interval
    assert seen == pytest.approx(inside, rel=0.02)


def test_a_replicas_seconds_are_those_in_which_it_was_there() -> None:
    scenario = Scenario(load(3), profile("8b-l40s"), start=2, maximum=9, cold_start=40.0, interval=1.0)
    played = run(scenario, Script((0.0, 2), (120.0, 5), (130.0, 4), (330.0, 1)), "script")
    there = sum(tick.ready + tick.starting + tick.going for tick in played.ticks) * scenario.interval
    assert any(tick.going for tick in played.ticks)
    assert played.replica_seconds == pytest.approx(there, rel=0.01)


@pytest.mark.parametrize("router", ["two_choices", "least_loaded"])
def test_more_replicas_are_never_worse(router: str) -> None:
    trace = generate("bursts", {"base": 6, "factor": 4, "every": 200, "length": 40, "seconds": 600}, 4)
    attained = []
    for replicas in (1, 2, 3, 4, 6, 8):
        told = summary(static(Scenario(trace, profile("8b-l40s"), start=replicas, router=router)))
        assert told.attainment is not None
        attained.append(told.attainment)
    assert attained[0] < 0.5
    assert attained[-1] > 0.99
    # By lot one request more of some 5,000 may be late where nearly none is.
    assert all(more >= less - 0.002 for less, more in itertools.pairwise(attained))


def policies(scenario: Scenario) -> dict[str, Controller]:
    peer = PEERS["keda-in-flight"]
    return {"plimsoll": Product(scenario, setting(scenario)), peer.name: peer.make(peer.default, scenario)}


@pytest.mark.parametrize(("name", "least"), [("conv", 0.95), ("code", 0.8)])
@pytest.mark.parametrize("policy", ["plimsoll", "keda-in-flight"])
def test_real_traces_lose_nothing(name: str, least: float, policy: str) -> None:
    trace = azure(name, 600.0, 1200.0)
    scenario = Scenario(trace, profile("8b-h100"), start=2, maximum=12, cold_start=60.0)
    played = run(scenario, policies(scenario)[policy], policy)
    told = summary(played)
    assert told.requests == len(trace.arrivals) > 1000
    assert sum(tick.arrived for tick in played.ticks) <= told.requests
    assert told.unfinished < 0.05 * told.requests
    assert told.restarts == 0
    assert told.attainment is not None
    assert told.attainment > least
    assert told.gpu_hours == pytest.approx(told.replicas_mean * trace.seconds / 3600, rel=0.01)
    assert scenario.minimum <= told.replicas_mean <= told.replicas_peak
    assert 0.0 < (told.ttft_p50 or 0.0) <= (told.ttft_p95 or 0.0) <= (told.ttft_p99 or 0.0)
    assert 0.005 < (told.between_tokens_p50 or 0.0) < 0.2
