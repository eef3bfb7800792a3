"""scaler.simulate.gateway and routers: who gets a request, who loses it and to whom."""

import random
from collections import Counter

import pytest

from scaler.simulate.engine import Engine
from scaler.simulate.gateway import IDLE_SECONDS, Gateway
from scaler.simulate.model import Arrival, Request
from scaler.simulate.routers import ROUTERS
from tests.simulate.played import PLAIN


def gateway(count: int = 2, router: str = "least_loaded") -> tuple[Gateway, list[Engine]]:
    made, engines = Gateway(ROUTERS[router], 1), [Engine(PLAIN, 0.0) for _ in range(count)]
    for number, engine in enumerate(engines):
        made.add(number, engine, 0.0)
    return made, engines


def loads(engines: list[Engine]) -> list[int]:
    return [engine.in_flight for engine in engines]


def test_the_least_loaded_gets_the_next() -> None:
    made, engines = gateway(3)
    for number in range(7):
        made.send(Arrival(0.001 * number, 10, 1000))
    assert sorted(loads(engines)) == [2, 2, 3]


def test_of_equals_one_is_drawn() -> None:
    chance = random.Random(1)  # noqa: S311 -- a test
    engines = [Engine(PLAIN, 0.0) for _ in range(4)]
    drawn = Counter(ROUTERS["least_loaded"](engines, chance) for _ in range(400))
    assert set(drawn) == {0, 1, 2, 3}
    assert min(drawn.values()) > 70
    engines[2].submit(Request(0.0, 1, 9), 0.0)
    assert 2 not in {ROUTERS["least_loaded"](engines, chance) for _ in range(100)}
    for one in (0, 1, 3):
        engines[one].submit(Request(0.0, 1, 9), 0.0)
    engines[1].submit(Request(0.0, 1, 9), 0.0)
    assert {ROUTERS["two_choices"](engines, chance) for _ in range(200)} == {0, 1, 2, 3}  # 1 with itself


def test_routing_knows_of_what_finished_just_before() -> None:
    made, engines = gateway(2)
    made.send(Arrival(0.0, 10, 10))  # 0.1 s
    first = loads(engines).index(1)
    made.send(Arrival(0.01, 10, 1000))
    made.send(Arrival(0.2, 10, 1000))
    assert loads(engines)[first] == 1
    assert sum(loads(engines)) == 2


def test_while_nobody_serves_requests_are_held_and_wait_for_the_first() -> None:
    made = Gateway(ROUTERS["random"], 1)
    made.send(Arrival(1.0, 10, 10))
    made.send(Arrival(2.0, 10, 10))
    assert [request.arrived for request in made.held] == [1.0, 2.0]
    engine = Engine(PLAIN, 5.0)
    made.add(7, engine, 5.0)
    made.settle(6.0)
    assert not made.held
    assert [request.finished for request in made.requests] == [pytest.approx(5.1), pytest.approx(5.1)]
    assert [request.restarts for request in made.requests] == [0, 0]


def test_who_drains_gets_no_more_and_ends_what_it_has() -> None:
    made, engines = gateway(2)
    made.send(Arrival(0.0, 10, 100))
    busy = loads(engines).index(1)
    made.drain(busy)
    for number in range(5):
        made.send(Arrival(0.1 + number / 100, 10, 100))
    assert loads(engines)[busy] == 1
    made.settle(10.0)
    assert loads(engines)[busy] == 0
    assert made.requests[0].restarts == 0


def test_what_one_that_is_gone_had_is_begun_anew_elsewhere() -> None:
    made, engines = gateway(2)
    made.send(Arrival(0.0, 10, 1000))
    busy = loads(engines).index(1)
    made.settle(1.0)
    engines[busy].advance(1.0)
    assert made.requests[0].first_token is not None
    made.remove(busy, 1.0)
    assert (made.restarts, made.requests[0].restarts, made.requests[0].first_token) == (1, 1, None)
    made.settle(20.0)
    assert made.requests[0].finished == pytest.approx(11.0)


def test_who_makes_no_token_for_a_while_is_taken_out_for_good() -> None:
    made, engines = gateway(2)
    for number in range(4):
        made.send(Arrival(0.0 + number / 1000, 10, 6000))
    engines[0].freeze(1.0)
    told = {}
    for at in range(5, 60, 5):
        for engine in engines:
            engine.advance(float(at))
        told[at] = made.eject(float(at))
    assert [at for at, numbers in told.items() if numbers] == [10 + int(IDLE_SECONDS)]  # from 5 on nothing was new
    assert told[40] == [0]
    assert loads(engines) == [0, 4]
    made.send(Arrival(60.0, 10, 10))
    made.settle(61.0)
    assert made.requests[-1].finished is not None


def test_an_idle_one_is_not_taken_out() -> None:
    made, engines = gateway(1)
    engines[0].freeze(1.0)
    assert all(made.eject(float(at)) == [] for at in range(0, 100, 5))


def test_where_all_are_taken_out_requests_are_held() -> None:
    made, engines = gateway(1)
    made.send(Arrival(0.0, 10, 10_000))
    engines[0].freeze(1.0)
    for at in (5.0, 36.0):
        engines[0].advance(at)
        made.eject(at)
    assert len(made.held) == 1
