"""Every row of the table of peers: what holds for all of them."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.model import Answer
from scaler.simulate.peers import PEERS, Peer
from tests.simulate.seen import P, scenario, seen

ROWS = pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))

numbers = st.none() | st.floats(0, 300)
shares = st.none() | st.floats(0, 1)
pods = st.builds(
    P,
    waiting=numbers,
    running=numbers,
    kv=shares,
    busy=shares,
    ready=st.booleans(),
    prompts=st.floats(0, 1e6),
    prefilled=st.floats(0, 1e3),
    tokens=st.floats(0, 1e6),
    finished=st.floats(0, 1e3),
    age=st.floats(0, 100),
)
histories = st.lists(st.tuples(st.floats(1, 400), st.lists(pods, max_size=4)), min_size=1, max_size=12)
bounds = st.tuples(st.integers(0, 3), st.integers(3, 30))


def answers(peer: Peer, knob: float, history: Sequence[tuple[float, Sequence[P]]], low: int, high: int) -> list[Answer]:
    controller = peer.make(knob, scenario(low, high, start=max(1, low)))
    now, spec, given = 0.0, max(1, low), []
    for step, row in history:
        given.append(controller(seen(now, *row, spec=spec)))
        now, spec = now + step, given[-1].replicas
    return given


@ROWS
@settings(max_examples=25, deadline=None)
@given(history=histories, limits=bounds, data=st.data())
def test_every_answer_is_within_the_bounds_finite_and_the_same_again(
    peer: Peer, history: list[tuple[float, list[P]]], limits: tuple[int, int], data: st.DataObject
) -> None:
    knob = data.draw(st.sampled_from(peer.sweep))
    given = answers(peer, knob, history, *limits)
    for answer in given:
        assert limits[0] <= answer.replicas <= limits[1]
        assert answer.value is None or math.isfinite(answer.value)
    assert answers(peer, knob, history, *limits) == given


@ROWS
def test_the_default_lies_inside_a_sweep_of_distinct_rising_values(peer: Peer) -> None:
    assert 6 <= len(peer.sweep) <= 9
    assert list(peer.sweep) == sorted(set(peer.sweep))
    assert peer.default in peer.sweep[1:-1]


@ROWS
def test_it_says_what_it_is_and_where_that_was_read(peer: Peer) -> None:
    assert PEERS[peer.name] is peer
    assert peer.about
    assert all(peer.knob)
    assert "/" in peer.source or peer.name == "static"


#: Seconds between two decisions, and between two readings; what is not here follows the HPA: 15 and 15.
TIMES = {
    "aibrix-kpa": (10, 10),
    "aibrix-apa": (10, 10),
    "aibrix-apa-running": (10, 10),
    "knative": (5, 5),
    "ray-serve": (5, 5),
    "dynamo-load": (5, 5),
}


@ROWS
def test_it_keeps_the_time_of_its_model_and_asks_for_no_feed(peer: Peer) -> None:
    controller = peer.make(peer.default, scenario())
    assert (controller.period, controller.scrape) == TIMES.get(peer.name, (15, 15))
    assert not controller.feed


@ROWS
def test_two_runs_share_no_memory(peer: Peer) -> None:
    busy = P(waiting=50, running=60, kv=0.9, busy=1.0, prompts=5e4, prefilled=50, tokens=5e4, finished=200)
    history = [(60.0, [busy])] * 12
    alone = answers(peer, peer.default, history, 1, 30)
    first, second = (peer.make(peer.default, scenario(1, 30)) for _ in range(2))
    now, spec, given = 0.0, 1, []
    for step, row in history:
        second(seen(now, P(), spec=7))
        given.append(first(seen(now, *row, spec=spec)))
        now, spec = now + step, given[-1].replicas
    assert given == alone


@ROWS
def test_where_nothing_can_be_read_at_first_nobody_scales_up_over_what_it_wants_idle(peer: Peer) -> None:
    """No reading is never taken for load: the fleet is at most what it is with idle pods, or is left as it is."""
    blind = [(15.0, [P(waiting=None)] * 3)] * 30
    idle = [(15.0, [P(busy=0.0)] * 3)] * 30
    most = max(3, *(answer.replicas for answer in answers(peer, peer.default, idle, 3, 30)))
    assert all(answer.replicas <= most for answer in answers(peer, peer.default, blind, 3, 30))
