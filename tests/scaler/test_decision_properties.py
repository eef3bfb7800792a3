"""scaler.core.decision: what no input may break, after whatever has been seen before.

PLIMSOLL_FUZZ_EXAMPLES=100000 runs this at release size; without it the same few hundred cases are tried every time.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from scaler.core import policy
from scaler.core.decision import Decision, Memory, Unknown, decide, metric_value
from scaler.core.trigger import METRICS, Trigger
from scaler.core.view import Fleet
from tests.scaler.fleets import Step, past, played, several, trigger

#: Cases of each property. A release runs 100,000.
EXAMPLES = int(os.environ.get("PLIMSOLL_FUZZ_EXAMPLES", "200"))
RELEASE = "PLIMSOLL_FUZZ_EXAMPLES" in os.environ
FUZZ = settings(max_examples=EXAMPLES, derandomize=not RELEASE, deadline=None)

METADATA = st.fixed_dictionaries(
    {},
    optional={
        "queueTarget": st.sampled_from(["0.01", "1", "5", "1000000"]),
        "kvCacheTarget": st.sampled_from(["0.05", "0.8", "1"]),
        "headroom": st.sampled_from(["0", "0.3", "10"]),
        "coldStart": st.sampled_from(["1s", "24h"]),
        "ttftTarget": st.sampled_from(["100ms", "10m"]),
        "drainWithin": st.sampled_from(["1s", "1h"]),
        "maxReplicas": st.sampled_from(["1", "4"]),
        "mode": st.sampled_from(["active", "advisory"]),
        "metric": st.sampled_from(METRICS),
    },
)

# Replicas as they may be seen.

LOADS = st.one_of(st.just(0.0), st.floats(0, 100), st.floats(0, 1e15))
COUNTERS = st.one_of(st.just(0.0), st.floats(0, 1e6), st.floats(0, 1e15), st.none())
MAYBE: dict[str, st.SearchStrategy[Any]] = {
    "reading_age": st.one_of(st.floats(0, 15), st.floats(0, 100), st.none()),
    "waiting": st.one_of(LOADS, st.none()),
    "running": st.one_of(LOADS, st.none()),
    "kv_usage": st.one_of(st.floats(0, 1), st.none()),
    "capacity": st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.floats(0, 1), st.none()),
    "requests_finished_total": COUNTERS,
    "prompt_tokens_total": COUNTERS,
    "generation_tokens_total": COUNTERS,
    "max_running": st.one_of(st.floats(1, 512), st.none()),
    "kv_capacity_tokens": st.one_of(st.floats(1, 1e6), st.none()),
    "prefix_hit_ratio": st.one_of(st.floats(0, 1), st.none()),
    "service_rate": st.one_of(st.just(0.0), st.floats(0, 100), st.none()),
    "step_seconds": st.one_of(st.floats(0, 1), st.none()),
    "sequence_seconds": st.one_of(st.floats(0, 1), st.none()),
    "prompt_token_seconds": st.one_of(st.floats(0, 1), st.none()),
    "pace_seconds": st.sampled_from([0.0, 100.0]),
    "engines": st.sampled_from([1, 2]),
    "ready": st.sampled_from([None, False, True]),
    "cause": st.sampled_from(["", "cold_start"]),
    "age": st.one_of(st.floats(0, 100), st.floats(0, 1e9)),
}
REPLICAS = st.lists(st.fixed_dictionaries({}, optional=MAYBE), min_size=1, max_size=5)

# What was before: steps of a fleet whose pace is known, with all that may come in between.

ODD = st.sampled_from([None, {"reading_age": 60.0}, {"capacity": 0.0}, {"waiting": None}, {"step_seconds": None},
                       {"requests_finished_total": 0.0}, {"prompt_tokens_total": None}, {"prompt_tokens_total": 1e15},
                       {"generation_tokens_total": 0.0}, {"step_seconds": 0.0}, {"sequence_seconds": 0.0},
                       {"reading_age": None, "ready": False}])  # fmt: skip
STEPS = st.lists(
    st.builds(
        Step,
        seconds=st.sampled_from([1.0, 4.6, 5.0, 5.0, 30.0, 300.0, 3600.0]),
        finished=st.one_of(st.just(0.0), st.floats(0, 20)),
        waiting=st.one_of(st.just(0.0), st.floats(0, 500)),
        running=st.floats(0, 50),
        odd=st.dictionaries(st.integers(0, 3), ODD, max_size=2),
    ),
    max_size=12,
)


def _after(steps: Sequence[Step], count: int) -> tuple[Memory, float]:
    found = played(steps, count)
    return (found[-1][1], found[-1][3]) if found else (Memory(), 0.0)


MEMORIES = st.one_of(
    st.builds(_after, STEPS, st.integers(1, 4)),
    st.builds(lambda work: (past(work), 10_000.0), st.floats(0, 200)),
    st.builds(lambda work: (structs.replace(past(work), unknown=9_900.0), 10_000.0), st.floats(0, 200)),
)


def decided(
    each: Sequence[dict[str, Any]], chosen: Trigger, before: tuple[Memory, float], gateway: float | None = None
) -> Decision | Unknown:
    """A slot after what was before."""
    memory, then = before
    return decide(chosen, structs.replace(several(*each), gateway_waiting=gateway), memory, then + 5.0)[0]


@FUZZ
@given(REPLICAS, METADATA, MEMORIES, st.one_of(LOADS, st.none()))
def test_every_answer_is_finite_and_never_negative(
    each: list[dict[str, Any]], metadata: dict[str, str], before: tuple[Memory, float], gateway: float | None
) -> None:
    chosen = trigger(**metadata)
    decision = decided(each, chosen, before, gateway)
    if isinstance(decision, Unknown):
        assert decision.reason
        return
    assert all(math.isfinite(term) for term in decision.terms.values())
    assert 0 <= decision.required_replicas <= policy.value("most_replicas")
    for metric in METRICS:
        whole, exact = metric_value(metric, chosen, decision)
        assert math.isfinite(exact)
        assert whole - 1 < exact <= whole < 2**63
        assert exact >= 0
    if decision.vetoes and chosen.mode == "active":
        assert decision.required_replicas >= len(each)
        assert metric_value("queue-depth", chosen, decision)[1] >= len(each) * min(1e-3, chosen.queue_target or 5)
    if chosen.mode == "advisory":
        assert decision.required_replicas == len(each)


@FUZZ
@given(REPLICAS, METADATA, MEMORIES, st.integers(0, 4), st.sampled_from(["waiting", "running", "kv_usage"]), st.data())
def test_a_reading_that_gets_worse_never_lowers_the_answer(
    each: list[dict[str, Any]],
    metadata: dict[str, str],
    before: tuple[Memory, float],
    index: int,
    name: str,
    data: st.DataObject,
) -> None:
    index %= len(each)
    now = each[index].get(name, 0.0)
    assume(now is not None)
    most = 1.0 if name == "kv_usage" else now + data.draw(st.sampled_from([1.0, 100.0, 1e15]))
    worse = [
        fields | {name: data.draw(st.floats(now, most))} if i == index else fields for i, fields in enumerate(each)
    ]
    compare(
        trigger(**metadata), decided(each, trigger(**metadata), before), decided(worse, trigger(**metadata), before)
    )


@FUZZ
@given(REPLICAS, METADATA, MEMORIES, LOADS, LOADS)
def test_a_gateway_with_more_to_send_never_lowers_the_answer(
    each: list[dict[str, Any]], metadata: dict[str, str], before: tuple[Memory, float], waiting: float, more: float
) -> None:
    chosen = trigger(**metadata)
    compare(chosen, decided(each, chosen, before, waiting), decided(each, chosen, before, waiting + more))


@FUZZ
@given(st.integers(1, 60), st.floats(0, 1.5), st.floats(0, 0.3), METADATA)
def test_more_work_of_many_replicas_never_lowers_the_answer(
    count: int, share: float, more: float, metadata: dict[str, str]
) -> None:
    """Around what there is, where an answer is pressed beyond what the HPA would not act on."""
    chosen, before = trigger(**metadata), (past(0), 10_000.0)
    light, heavy = (decided([{"running": 10.0 * each}] * count, chosen, before) for each in (share, share + more))
    compare(chosen, light, heavy)
    assert isinstance(light, Decision)
    if chosen.mode == "active" and light.required_replicas > light.terms["held"]:
        acts = math.ceil(light.required_replicas)
        assert abs(light.required_replicas / count - 1) > policy.value("hpa_tolerance")
        assert acts - light.terms["held"] <= light.terms["held"] - count + 0.002


def compare(chosen: Trigger, light: Decision | Unknown, heavy: Decision | Unknown) -> None:
    if isinstance(light, Unknown) or isinstance(heavy, Unknown):
        assert type(light) is type(heavy)
        return
    assert heavy.required_replicas >= light.required_replicas
    assert heavy.active >= light.active
    for metric in METRICS:
        assert metric_value(metric, chosen, heavy)[1] >= metric_value(metric, chosen, light)[1]


# A fleet that was well for ten minutes and more, and what may be taken from it.

WELL = st.builds(
    Step,
    seconds=st.just(5.0),
    finished=st.floats(0.01, 3),
    waiting=st.one_of(st.just(0.0), st.floats(0, 50)),
    running=st.floats(0, 20),
    odd=st.just({}),
)
#: A load, what it became last, and how many replicas share it.
LIVES = st.tuples(WELL, WELL, st.integers(1, 4)).map(
    lambda drawn: ([drawn[0]._replace(seconds=400.0)] * 3 + [drawn[1]] * 3, drawn[2])
)
#: What tells how it is now. Without it a replica is blind, or nobody may go.
NOWS = ("reading_age", "waiting", "running", "kv_usage")
#: What tells what comes, and what that costs.
COUNTERS_OF = ("requests_finished_total", "prompt_tokens_total", "generation_tokens_total")
PACE = ("step_seconds", "sequence_seconds", "prompt_token_seconds", "prefix_hit_ratio", "service_rate", "capacity")
BATCH = ("max_running", "kv_capacity_tokens")
INPUTS = (*NOWS, *COUNTERS_OF, *PACE, *BATCH)


@FUZZ
@given(LIVES, st.lists(st.tuples(st.integers(0, 3), st.sampled_from(NOWS)), min_size=1, max_size=2))
def test_what_is_not_known_of_now_is_neither_idle_nor_in_excess(
    life: tuple[list[Step], int], drops: list[tuple[int, str]]
) -> None:
    steps, count = life
    full, memory, fleet, now = played(steps, count)[-1]
    assert isinstance(full, Decision)
    assert not full.vetoes
    replicas = list(fleet.replicas)
    for index, name in drops:
        replicas[index % count] = structs.replace(replicas[index % count], **{name: None})
    for after in (0.0, 5.0, 60.0, 3600.0):
        poorer, memory = decide(trigger(), Fleet(tuple(replicas)), memory, now + after)
        if isinstance(poorer, Decision):  # else an error: the HPA holds
            assert poorer.required_replicas >= count
            assert poorer.active
            assert poorer.vetoes


def removed_by(drops: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Which of them, missing at one replica or at all of four for five minutes, had replicas removed.

    The fleet is just large enough for its load: 2.7 replicas' work, for which four are planned with headroom.
    """
    before = [Step(400.0, finished=0.675, running=6.0)] * 3
    known = {"kv_capacity_tokens": 1500.0 / policy.value("kv_full"), "prefix_hit_ratio": 0.0, "service_rate": 1.0}
    chosen = trigger(headroom="0.3")
    found = []
    for names in drops:
        for who in ((0,), (0, 1, 2, 3)):
            lost = Step(60.0, finished=0.675, running=6.0, odd=dict.fromkeys(who, dict.fromkeys(names)))
            for result, *_ in played([*before, *[lost] * 5], 4, chosen, **known)[-5:]:
                if isinstance(result, Decision) and (result.required_replicas < 3.899 or not result.active):
                    found.append(names)
    return sorted(set(found))


def combinations(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each singly, and with any other input."""
    pairs = {tuple(sorted((name, other))) for name in names for other in INPUTS if name != other}
    return [*((name,) for name in names), *sorted(pairs)]


def test_the_fleet_of_the_next_tests_is_just_large_enough() -> None:
    assert removed_by([()]) == []
    smaller = played([Step(400.0, finished=0.675, running=6.0)] * 3, 4, trigger(headroom="0.3"))[-1][0]
    assert isinstance(smaller, Decision)
    assert smaller.required_replicas == pytest.approx(3.9)
    assert not smaller.vetoes


def test_what_is_missing_of_now_removes_nobody_singly_and_in_pairs() -> None:
    assert removed_by(combinations(NOWS)) == []


def test_what_is_missing_of_the_pace_removes_nobody_singly_and_in_pairs() -> None:
    assert removed_by(combinations(PACE)) == []


def test_what_is_missing_of_the_counters_removes_nobody_singly_and_in_pairs() -> None:
    assert removed_by(combinations(COUNTERS_OF)) == []


def test_what_is_missing_of_the_batch_removes_nobody_singly_and_in_pairs() -> None:
    assert removed_by(combinations(BATCH)) == []


@FUZZ
@given(STEPS, st.integers(1, 4), METADATA)
def test_two_scalers_that_hear_the_same_say_the_same(steps: list[Step], count: int, metadata: dict[str, str]) -> None:
    first, second = (played(steps, count, trigger(**metadata)) for _ in range(2))
    assert first == second


@FUZZ
@given(STEPS.filter(bool), st.integers(1, 4))
def test_a_scaler_that_just_started_removes_nobody(steps: list[Step], count: int) -> None:
    began = None
    for result, _, fleet, now in played(steps, count):
        began = now if began is None else began
        if now - began < policy.value("young") and isinstance(result, Decision):
            assert result.required_replicas >= len(fleet.replicas)


@FUZZ
@given(LIVES, st.integers(0, 3), st.sampled_from([0.0, 0.25]))
def test_a_sick_replica_costs_at_most_one_more(life: tuple[list[Step], int], index: int, capacity: float) -> None:
    """Where nobody waits: a queue lasts longer before fewer, and that asks for more."""
    steps, count = life
    healthy, memory, fleet, now = played([step._replace(waiting=0.0) for step in steps], count)[-1]
    assert isinstance(healthy, Decision)
    replicas = list(fleet.replicas)
    replicas[index % count] = structs.replace(replicas[index % count], capacity=capacity)
    sick, _ = decide(trigger(), Fleet(tuple(replicas)), memory, now)
    if isinstance(sick, Unknown):
        return
    assert sick.required_replicas <= healthy.required_replicas + 1 + 0.002
    assert sick.terms["supply"] == pytest.approx(healthy.terms["supply"] - 1 + capacity)
    if sick.terms["demand"] > 0:
        # Whatever is left by the answer carries the work.
        assert sick.required_replicas >= sick.terms["demand"] + 1 - capacity - 0.002 - (1 - capacity) * capacity


@FUZZ
@given(st.permutations(range(4)), st.lists(st.fixed_dictionaries({}, optional=MAYBE), min_size=4, max_size=4), MEMORIES)
def test_the_order_of_replicas_does_not_matter(
    order: list[int], each: list[dict[str, Any]], before: tuple[Memory, float]
) -> None:
    memory, then = before
    replicas = several(*each).replicas
    first, _ = decide(trigger(), Fleet(replicas), memory, then + 5.0)
    second, _ = decide(trigger(), Fleet(tuple(replicas[i] for i in order)), memory, then + 5.0)
    if isinstance(first, Decision) and isinstance(second, Decision):
        assert math.ceil(first.required_replicas) == pytest.approx(math.ceil(second.required_replicas), rel=1e-9)
        assert first.vetoes == second.vetoes or len(first.vetoes) == len(second.vetoes)
    else:
        assert type(first) is type(second)
