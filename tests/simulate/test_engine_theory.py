"""The engine against what queueing theory knows: with one seat, or where all share alike, the mean has a formula."""

# ruff: noqa: S311 -- seeded draws, nothing secret

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.engine import Engine
from scaler.simulate.model import Profile, Request
from scaler.simulate.profiles import profile

STEP = 0.005


def plain(step: float = STEP, per_sequence: float = 0.0, seqs: int = 256) -> Profile:
    """A request takes `step` for each token of its output (the first with its prompt), and per_sequence for sharing."""
    return Profile("plain", "", "", step, per_sequence, 0.0, 0.0, 0.0, 1 << 40, max_num_seqs=seqs)


def poisson(rate: float, count: int, outputs: random.Random, mean: float, law: str, seed: int) -> list[Request]:
    arrivals, now, requests = random.Random(seed), 0.0, []
    for _ in range(count):
        now += arrivals.expovariate(rate)
        drawn = {"fixed": mean, "exponential": outputs.expovariate(1 / mean), "uniform": outputs.uniform(1, 2 * mean)}
        requests.append(Request(now, 1, max(1, round(drawn[law]))))
    return requests


def run(engine: Engine, requests: list[Request]) -> None:
    for one in requests:
        engine.submit(one, one.arrived)
    engine.advance(1e12)


def sojourns(requests: list[Request]) -> list[float]:
    return [one.finished - one.arrived for one in requests if one.finished is not None]


@pytest.mark.parametrize(
    ("law", "load", "count", "within"),
    [
        ("fixed", 0.5, 20_000, 0.03),
        ("fixed", 0.8, 40_000, 0.05),
        ("exponential", 0.6, 40_000, 0.05),
        ("uniform", 0.7, 40_000, 0.05),
    ],
)
def test_one_seat_waits_as_pollaczek_and_khinchine_say(law: str, load: float, count: int, within: float) -> None:
    mean = 200.0
    rate = load / (mean * STEP)
    requests = poisson(rate, count, random.Random(1), mean, law, seed=2)
    run(Engine(plain(seqs=1), 0.0), requests)
    services = [one.output * STEP for one in requests]
    waits = sum(sojourns(requests)) / count - sum(services) / count
    second = sum(each * each for each in services) / count
    used = count / requests[-1].arrived * sum(services) / count
    assert waits == pytest.approx(count / requests[-1].arrived * second / (2 * (1 - used)), rel=within)


@pytest.mark.parametrize("law", ["fixed", "exponential"])
def test_shared_engine_is_processor_sharing(law: str) -> None:
    """M/G/1-PS: the mean time in the system is service / (1 - load), whatever the law of the services."""
    mean, per_sequence, load = 200.0, 0.001, 0.6
    requests = poisson(load / (mean * per_sequence), 20_000, random.Random(3), mean, law, seed=4)
    run(Engine(plain(step=1e-9, per_sequence=per_sequence, seqs=8192), 0.0), requests)
    service = sum((one.output - 1) * per_sequence for one in requests) / len(requests)
    used = len(requests) / requests[-1].arrived * service
    assert sum(sojourns(requests)) / len(requests) == pytest.approx(service / (1 - used), rel=0.05)


def test_without_sharing_nobody_waits_for_another() -> None:
    """M/G/infinity: a step costs the same for any batch, so each is only delayed to the next step's start."""
    requests = poisson(50.0, 5_000, random.Random(5), 100.0, "exponential", seed=6)
    run(Engine(plain(), 0.0), requests)
    delays = [time - one.output * STEP for one, time in zip(requests, sojourns(requests), strict=True)]
    assert all(-1e-6 <= delay <= STEP + 1e-6 for delay in delays)
    assert sum(delays) / len(delays) == pytest.approx(STEP / 2, rel=0.05)


def test_littles_law_on_a_real_profile() -> None:
    """Requests in the system, looked at from outside = rate x mean time in it; near the knee, with the queue in it."""
    rng = random.Random(7)
    requests, now = [], 0.0
    for _ in range(6_000):
        now += rng.expovariate(3.4)
        requests.append(Request(now, int(rng.uniform(100, 2_200)), int(rng.expovariate(1 / 211)) + 1))
    engine = Engine(profile("8b-a100")._replace(max_num_seqs=24), 0.0)
    submitted = looks = seen = queued = 0
    at = 0.0
    while submitted < len(requests):
        at += rng.expovariate(20.0)
        while submitted < len(requests) and requests[submitted].arrived <= at:
            engine.submit(requests[submitted], requests[submitted].arrived)
            submitted += 1
        engine.advance(at)
        looks, seen, queued = looks + 1, seen + engine.in_flight, queued + engine.waiting
    engine.advance(1e9)
    rate, time = len(requests) / requests[-1].arrived, sum(sojourns(requests)) / len(requests)
    assert looks / 2 < queued < 20 * looks  # there was a queue to count, and an end to it
    assert seen / looks == pytest.approx(rate * time, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=25))
def test_it_works_whenever_there_is_work(drawn: list[tuple[float, int, int]]) -> None:
    requests = [Request(at, prompt, output) for at, prompt, output in sorted(drawn)]
    engine = Engine(profile("8b-l40s")._replace(kv_tokens=8000), 0.0)
    run(engine, requests)
    present, until = 0.0, 0.0
    for one in requests:  # the union of all [arrived, finished]
        assert one.finished is not None
        present += max(0.0, one.finished - max(until, one.arrived))
        until = max(until, one.finished)
    assert engine.busy_seconds == pytest.approx(present, rel=1e-9)
    assert engine.generated == sum(one.output for one in requests)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300)), min_size=2, max_size=12), st.randoms())
def test_one_seats_work_does_not_depend_on_the_order(drawn: list[tuple[int, int]], rng: random.Random) -> None:
    def seconds(work: list[tuple[int, int]]) -> float:
        engine = Engine(profile("8b-h100")._replace(max_num_seqs=1), 0.0)
        run(engine, [Request(0.0, prompt, output) for prompt, output in work])
        return engine.busy_seconds

    other = list(drawn)
    rng.shuffle(other)
    assert seconds(other) == pytest.approx(seconds(drawn), rel=1e-9)
