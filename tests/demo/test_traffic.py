"""The gateway loses no request, whatever happens to the replicas behind it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.demo.engine import Engine, Profile
from scaler.demo.traffic import IDLE_SECONDS, Gateway


def gateway(rate: float, replicas: int, seed: int = 1) -> Gateway:
    made = Gateway(lambda _: rate, seed, 0.0)
    for index in range(replicas):
        made.add(f"r{index}", Engine(Profile(), 0.0))
    return made


def test_load_below_the_capacity_is_served_as_it_comes() -> None:
    made = gateway(5.0, 3)
    made.advance(600.0)
    assert made.arrived == pytest.approx(5.0 * 600, rel=0.05)
    assert made.waiting == 0
    assert made.retried == 0


def test_one_replica_carries_what_the_scenarios_say_requests_a_second() -> None:
    """The number that the scenarios are written for."""
    made = gateway(50.0, 1)
    made.advance(300.0)
    assert len(made.finished) / 300.0 == pytest.approx(2.3, rel=0.05)


def test_a_stuck_replica_is_taken_out_and_its_requests_are_served_by_others() -> None:
    made = gateway(4.0, 2)
    sick = Engine(Profile(), 0.0)
    made.add("sick", sick)
    made.advance(60.0)
    sick.stick()
    made.advance(60.0 + IDLE_SECONDS - 5.0)
    assert made.ejected == []
    made.advance(60.0 + IDLE_SECONDS + 5.0)
    assert made.ejected == ["sick"]
    assert made.retried > 0
    assert sick.requests() == []


def test_with_no_replica_requests_are_held_until_one_comes() -> None:
    made = gateway(2.0, 0)
    made.advance(10.0)
    assert made.in_flight == made.arrived > 0
    made.add("late", Engine(Profile(), 0.0))
    made.advance(60.0)
    assert len(made.finished) > 20


def test_the_same_seed_is_the_same_story() -> None:
    one, two = gateway(4.0, 2, seed=7), gateway(4.0, 2, seed=7)
    one.advance(100.0)
    for second in range(101):
        two.advance(float(second))
    assert sorted(r.arrived for r in one.finished) == sorted(r.arrived for r in two.finished)


def even(until: float) -> Gateway:
    made = Gateway(lambda _: 6.6, 7, 0.0, even=True)
    for index in range(4):
        made.add(f"r{index}", Engine(Profile(), 0.0))
    made.advance(until)
    return made


def test_an_even_load_keeps_the_replicas_where_a_load_by_chance_has_them_on_average() -> None:
    made, by_chance = even(120.0), gateway(6.6, 4, seed=7)
    by_chance.advance(120.0)
    stood, mean = [], 0.0
    for second in range(121, 1121):
        made.advance(float(second))
        by_chance.advance(float(second))
        stood.append(made.in_flight)
        mean += by_chance.in_flight / 1000
    assert max(stood) - min(stood) <= 6
    assert sum(stood) / len(stood) == pytest.approx(mean, rel=0.05)


def test_what_comes_by_chance_does_not_depend_on_how_long_the_load_was_even() -> None:
    came = []
    for until in (120.0, 147.3):
        made = even(until)
        made.scatter()
        before, began = made.arrived, made.at
        made.advance(began + 200.0)
        requests = sorted((r.arrived - began, r.prompt, r.output) for r in made.finished if r.arrived > began)
        assert made.arrived - before > 1000
        came.append([(pytest.approx(at, abs=1e-6), *lengths) for at, *lengths in requests[:1000]])
    assert came[0] == came[1]


EVENTS = st.lists(st.tuples(st.sampled_from(["add", "remove", "stick"]), st.floats(0.0, 20.0)), max_size=12)


@settings(max_examples=30, deadline=None)  # a slow machine is no finding
@given(EVENTS, st.integers(0, 2**16))
def test_every_request_is_in_flight_or_served(events: list[tuple[str, float]], seed: int) -> None:
    made = gateway(3.0, 1, seed)
    engines = {"r0": Engine(Profile(), 0.0)}
    made.add("r0", engines["r0"])
    now = 0.0
    for count, (what, wait) in enumerate(events):
        now += wait
        made.advance(now)
        name = next(iter(engines), "")
        if what == "add":
            engines[f"e{count}"] = Engine(Profile(), now)
            made.add(f"e{count}", engines[f"e{count}"])
        elif what == "remove" and name:
            made.remove(name)
            del engines[name]
        elif name and not engines[name].stuck:
            engines[name].stick()
        made.advance(now)
        assert made.arrived == len(made.finished) + made.in_flight
