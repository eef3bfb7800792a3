"""scaler.core.capacity: what replicas have taught, and how many carry a demand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.capacity import Learned, Lessons, carried, learn, replicas_for
from tests.scaler.fleets import several

OWN: dict[str, Any] = {"service_rate": 2.0, "queued_seconds": 60.0}
BORROWED: dict[str, Any] = {"service_rate": 9.0}

LEARNED: list[tuple[str, list[dict[str, Any]], float | None]] = [
    ("nobody has shown it", [{}], None),
    ("its own", [OWN], 2.0),
    ("the median", [OWN, OWN | {"service_rate": 3.0}, OWN | {"service_rate": 900.0}], 3.0),
    ("newcomers have no vote", [OWN, {}, {}], 2.0),
    ("what is borrowed has none either", [OWN, BORROWED, BORROWED], 2.0),
    ("what is borrowed is better than nothing", [BORROWED, {}], 9.0),
]


@pytest.mark.parametrize(("each", "rate"), [row[1:] for row in LEARNED], ids=[row[0] for row in LEARNED])
def test_a_typical_replica(each: list[dict[str, Any]], rate: float | None) -> None:
    assert learn(Lessons(), several(*each).replicas, None).typical == Learned(rate, None)


def test_what_was_learned_outlives_an_exporters_restart() -> None:
    lessons = learn(Lessons(), several(OWN, {}).replicas, 90.0)
    lessons = learn(lessons, several({}, {}).replicas, None)
    assert lessons.typical == Learned(2.0, 90.0)
    others = learn(lessons, several().replicas, 60.0)
    assert others == Lessons({}, Learned(2.0, 60.0))


SUPPLY = [
    (0.0, [1.0], 0.0),
    (0.5, [1.0], 0.5),
    (3.0, [], 3.0),
    (2.5, [1.0, 1.0], 2.5),
    (2.5, [0.0, 1.0, 1.0, 1.0], 3.5),
    (1.0, [0.0, 0.0], 3.0),
    (1.0, [0.5, 1.0], 1.5),
    (0.25, [0.5, 1.0], 0.5),
    (2.0, [0.25, 1.0, 1.0], 2.75),
]


@pytest.mark.parametrize(("work", "capacities", "count"), SUPPLY, ids=str)
def test_replicas_for(work: float, capacities: list[float], count: float) -> None:
    assert replicas_for(work, capacities) == pytest.approx(count)


CAPACITIES = st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1)), max_size=8)


@given(st.floats(0, 100), CAPACITIES)
def test_the_replicas_asked_for_carry_the_work(work: float, capacities: list[float]) -> None:
    count = math.ceil(replicas_for(work, capacities) - 1e-9)
    assert carried(count, capacities) >= work - 1e-6
    if count > 0:
        assert carried(count - 1, capacities) < work + 1e-6


@given(st.floats(0, 100), CAPACITIES, st.integers(0, 7), st.floats(0, 1))
def test_one_that_loses_capacity_costs_one_more_at_most(
    work: float, capacities: list[float], index: int, left: float
) -> None:
    capacities = [*capacities, 1.0]
    index %= len(capacities)
    sick = [min(each, left) if i == index else each for i, each in enumerate(capacities)]
    healthy = replicas_for(work, capacities)
    assert healthy - 1e-9 <= replicas_for(work, sick) <= healthy + 1 + 1e-9
