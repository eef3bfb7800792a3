"""scaler.core.decision: one row a rule of the policy, and the properties that no input may break."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from scaler.core import policy
from scaler.core.capacity import carried, replicas_for
from scaler.core.decision import REASONS, Decision, Memory, Unknown, decide, metric_value
from scaler.core.demand import remember
from scaler.core.trigger import Trigger, parse
from scaler.core.view import Fleet, GpuView, Replica


def replica(pod: str = "llama-0", **fields: Any) -> Replica:
    defaults: dict[str, Any] = {
        "pod": pod,
        "node": "node-a",
        "namespace": "default",
        "model": "llama",
        "reading_age": 0.5,
        "waiting": 0.0,
        "running": 0.0,
        "kv_usage": 0.0,
        "capacity": 1.0,
        "health": "healthy",
    }
    return Replica(**(defaults | fields))


def trigger(**metadata: str) -> Trigger:
    return parse("default", "llama", {"model": "llama"} | metadata)


def several(*each: dict[str, Any]) -> Fleet:
    return Fleet(tuple(replica(f"llama-{i}", **fields) for i, fields in enumerate(each)))


def answer(fleet: Fleet, chosen: Trigger | None = None, memory: Memory | None = None, now: float = 100.0) -> Decision:
    decision, _ = decide(chosen or trigger(), fleet, memory, now)
    assert isinstance(decision, Decision), decision
    return decision


IDLE: dict[str, Any] = {}
#: knee 10 learned: 10 running are 1.1 replicas with the default headroom; 1 request/s: 60 waiting are one more.
TAUGHT: dict[str, Any] = {"knee_running": 10.0, "service_rate": 1.0, "queued_seconds": 60.0}
#: What it has of its model's others on its node.
BORROWED: dict[str, Any] = {"knee_running": 20.0, "service_rate": 1.0}
LOST = GpuView("GPU-1", state="lost", reasons=(("xid_79", "reset_gpu"),), capacity=0.0)

STALE: dict[str, Any] = {"reading_age": 15.1}
NEW: dict[str, Any] = {"reading_age": None}

ROWS: list[tuple[str, list[dict[str, Any]], dict[str, str], float, str]] = [
    ("idle needs nobody", [IDLE, IDLE], {}, 0, "idle"),
    ("running over the learned knee, with headroom", [TAUGHT | {"running": 10.0}], {}, 1.1, "running"),
    ("headroom as given", [TAUGHT | {"running": 10.0}], {"headroom": "0.5"}, 1.5, "running"),
    ("no headroom where nothing was learned", [{"running": 64.0}], {}, 0.25, "running"),
    ("a median knee", [TAUGHT | {"running": 5.0}, {"knee_running": 2.0}, {"knee_running": 9e9}], {}, 0.55, "running"),
    ("newcomers are taken for typical", [TAUGHT | {"running": 10.0}, {"running": 10.0}], {}, 2.2, "running"),
    ("what is borrowed has no vote", [TAUGHT | {"running": 10.0}, *[BORROWED] * 2], {}, 1.1, "running"),
    ("what is borrowed is better than nothing", [BORROWED | {"running": 20.0}], {}, 1.1, "running"),
    ("KV cache over its target", [{"running": 4.0, "kv_usage": 0.6}], {}, 0.75, "kv_cache"),
    ("kvCacheTarget as given", [{"running": 4.0, "kv_usage": 0.6}], {"kvCacheTarget": "0.3"}, 2, "kv_cache"),
    ("a queue by the field's default", [{"waiting": 10.0, "running": 4.0}], {}, 3, "queue"),
    ("a queue by queueTarget", [{"waiting": 10.0, "running": 4.0}], {"queueTarget": "10"}, 2, "queue"),
    ("a queue by the learned rate", [TAUGHT | {"waiting": 30.0, "running": 10.0}], {}, 1.6, "running"),
    ("a queue by drainWithin", [TAUGHT | {"waiting": 30.0, "running": 10.0}], {"drainWithin": "30s"}, 2.1, "queue"),
    ("a slow service still drains one", [{"waiting": 3.0, "service_rate": 0.001}], {}, 4, "queue"),
    ("a replica with a queue counts as one", [TAUGHT | {"waiting": 6.0, "running": 1.0}, TAUGHT], {}, 1.1, "queue"),
    ("nothing to tell by: busy needs itself", [{"running": 1.0, "kv_usage": None}, IDLE], {}, 2, "hold"),
    ("dead takes a place, carries nothing", [TAUGHT | {"running": 10.0}, {"capacity": 0.0}], {}, 2.1, "lost_capacity"),
    ("the least capable count first", [TAUGHT | {"running": 10.0}, {"capacity": 0.5}, IDLE], {}, 1.6, "running"),
    ("half a replica is half a replica", [TAUGHT | {"running": 18.0, "capacity": 0.5}], {}, 2.48, "lost_capacity"),
    ("what is on its way is not asked for again", [TAUGHT | {"running": 40.0}] + [TAUGHT] * 3, {}, 4.4, "running"),
    ("unknown capacity serves", [TAUGHT | {"running": 10.0, "capacity": None}], {}, 1.1, "running"),
    ("blind keeps itself", [TAUGHT | {"running": 20.0}, STALE], {}, 3.2, "hold"),
    ("fresh enough is not blind", [TAUGHT | {"running": 20.0}, {"reading_age": 15.0}], {}, 2.2, "running"),
    ("staleAfter as given", [TAUGHT | {"running": 20.0}, STALE], {"staleAfter": "20s"}, 2.2, "running"),
    ("blind holds what there is", [IDLE, IDLE, {"waiting": None}], {}, 3, "hold"),
    ("never read holds, and asks for no more", [TAUGHT | {"running": 30.0}, NEW], {}, 3.3, "running"),
    ("never read, on a dead GPU", [TAUGHT | {"running": 30.0}, NEW | {"capacity": 0.0}], {}, 4.3, "lost_capacity"),
    ("a missing KV usage holds", [IDLE, {"kv_usage": None}], {}, 2, "hold"),
    ("maxReplicas caps", [TAUGHT | {"running": 100.0}], {"maxReplicas": "4"}, 4, "max_replicas"),
    ("maxReplicas is no reason to remove", [IDLE, IDLE, {"running": None}], {"maxReplicas": "1"}, 3, "hold"),
    ("advisory changes nothing", [TAUGHT | {"running": 100.0}, IDLE], {"mode": "advisory"}, 2, "advisory"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("each", "metadata", "required", "reason"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_policy(each: list[dict[str, Any]], metadata: dict[str, str], required: float, reason: str) -> None:
    decision = answer(several(*each), trigger(**metadata))
    assert decision.required_replicas == pytest.approx(required, abs=0.001)
    assert decision.reason == reason
    assert decision.reason in REASONS


def test_the_explanation_has_the_inputs_the_deciding_term_and_what_is_sick() -> None:
    sick = {"waiting": 20.0, "capacity": 0.0, "gpus": (LOST,)}
    decision = answer(several(sick, {"waiting": 8.0, "running": 4.0}, {"waiting": None}))
    assert "waiting=28 running=4" in decision.explanation
    assert "(lost_capacity)" in decision.explanation or "(hold)" in decision.explanation
    assert "pod llama-0: GPU-1 lost (xid_79 -> reset_gpu)" in decision.explanation
    assert "blind: llama-2 without waiting" in decision.explanation
    assert decision.vetoes == ("blind: llama-2 without waiting",)
    assert "\n" not in decision.explanation


AILMENTS = [
    ({"cause": "wedged", "why": "work is held", "capacity": 0.0}, "pod llama-0: wedged (work is held)"),
    ({"sleeping": True, "capacity": 0.0}, "pod llama-0: asleep"),
    ({"capacity": 0.5, "health": "degraded"}, "pod llama-0: degraded, capacity 0.50"),
    ({"capacity": None}, "1 of unknown capacity counted as whole"),
    ({"cause": "outside_gpu", "why": "the GPU is idle"}, "pod llama-0: outside_gpu (the GPU is idle)"),
    (
        {"cause": "throttled", "why": "hot", "capacity": 0.5, "health": "degraded"},
        "pod llama-0: degraded, capacity 0.50, throttled (hot)",
    ),
]


@pytest.mark.parametrize(("fields", "words"), AILMENTS, ids=[row[1] for row in AILMENTS])
def test_the_explanation_names_every_ailment(fields: dict[str, Any], words: str) -> None:
    assert words in answer(several({"running": 1.0} | fields)).explanation


@pytest.mark.parametrize("cause", ["healthy", "idle", "saturated"])
def test_what_the_numbers_say_already_is_not_said_again(cause: str) -> None:
    assert "pod llama-0" not in answer(several({"running": 1.0, "cause": cause, "why": "w"})).explanation


def test_a_sick_gpu_says_it_better_than_the_cause() -> None:
    told = answer(several({"running": 1.0, "cause": "hardware", "why": "w", "capacity": 0.0, "gpus": (LOST,)}, IDLE))
    assert "pod llama-0: GPU-1 lost (xid_79 -> reset_gpu);" in told.explanation + ";"
    assert "hardware" not in told.explanation


def test_the_terms_are_the_arithmetic() -> None:
    terms = answer(several(TAUGHT | {"waiting": 30.0, "running": 10.0, "kv_usage": 0.4}, {"capacity": 0.0})).terms
    assert terms["demand_running"] == pytest.approx(1.1)
    assert terms["demand_kv"] == pytest.approx(0.5)
    assert terms["demand_queue"] == pytest.approx(0.5)
    assert terms["demand"] == pytest.approx(1.6)
    assert (terms["replicas"], terms["dead"], terms["supplying"], terms["supply"]) == (2, 1, 1, 1)
    assert terms["needed"] == pytest.approx(2.6)
    assert (terms["demand_up"], terms["demand_down"]) == (2, 1)


def test_activity() -> None:
    assert not answer(several(IDLE, IDLE)).active
    assert answer(several({"running": 1.0})).active
    assert answer(several({"waiting": 1.0})).active
    assert answer(structs.replace(several(IDLE), gateway_waiting=1.0)).active
    # What is not known must not be sent to sleep.
    assert answer(several(IDLE, {"reading_age": 99.0})).active


def test_a_gateways_queue_counts() -> None:
    assert answer(structs.replace(several(IDLE), gateway_waiting=10.0)).required_replicas == pytest.approx(2)


def test_the_hold_is_at_the_spec_where_it_is_known() -> None:
    held = structs.replace(several(IDLE, {"waiting": None}), spec_replicas=7)
    assert answer(held).required_replicas == 7


def test_within_the_hpas_tolerance_is_said() -> None:
    fleet = several(*[TAUGHT | {"running": 9.5}] * 10)
    assert "tolerance of 0.1 around 10" in answer(fleet).explanation


UNKNOWNS = [
    ("no replica", Fleet(problem="no engine; check"), "no engine; check"),
    ("all stale", several({"reading_age": 60.0, "error": "timeout"}), "llama-0 not read for 60 s, last error timeout"),
    ("all missing", several({"running": None}), "llama-0 without running"),
    ("all new", several({"reading_age": None}), "llama-0 never read"),
]


@pytest.mark.parametrize(("fleet", "words"), [row[1:] for row in UNKNOWNS], ids=[row[0] for row in UNKNOWNS])
def test_knowing_nothing_is_no_answer(fleet: Fleet, words: str) -> None:
    decision, memory = decide(trigger(), fleet, None, 100.0)
    assert isinstance(decision, Unknown)
    assert words in decision.reason
    assert memory == Memory()


def test_an_exporter_that_never_answered_holds() -> None:
    decision = answer(structs.replace(several(IDLE, IDLE), unheard=("x:1 (refused)",)))
    assert decision.required_replicas == 2
    assert decision.vetoes == ("exporters never heard: x:1 (refused)",)


def test_a_hold_is_at_the_last_answer_which_may_have_asked_for_replicas_not_yet_seen() -> None:
    busy = {"waiting": 40.0, "running": 20.0}
    first, memory = decide(trigger(), several(busy, IDLE), None, 0.0)
    held, memory = decide(trigger(), several(busy | STALE, IDLE), memory, 60.0)
    assert isinstance(first, Decision)
    assert isinstance(held, Decision)
    assert first.required_replicas > 2
    assert (held.required_replicas, held.reason) == (first.required_replicas, "hold")
    assert answer(several(IDLE, IDLE), memory=memory, now=61.0).required_replicas == 0


def test_a_rising_queue_counts_before_it_is_there() -> None:
    memory = None
    values = []
    for second in range(0, 21, 2):
        decision, memory = decide(trigger(), several({"waiting": float(second), "running": 4.0}), memory, float(second))
        assert isinstance(decision, Decision)
        values.append(decision)
    assert values[-1].terms["trend_per_second"] == pytest.approx(1)
    # 1/s for 60 s would be 60 more; it may double the queue of 20 at most.
    assert values[-1].terms["backlog"] == 40
    short = answer(several({"waiting": 20.0, "running": 4.0}), trigger(coldStart="10s"), memory, 20.0)
    assert short.terms["backlog"] == pytest.approx(30)


def test_the_trend_is_followed_as_far_as_a_cold_start_takes() -> None:
    def after(fleet: Fleet, memory: Memory | None = None, **metadata: str) -> tuple[Decision, Memory]:
        for at, queue in ((0.0, 80.0), (10.0, 90.0), (20.0, 100.0)):
            replicas = several({"waiting": queue, "running": 4.0}).replicas
            decision, memory = decide(trigger(**metadata), structs.replace(fleet, replicas=replicas), memory, at)
        assert isinstance(decision, Decision)
        assert memory
        return decision, memory

    seen, memory = after(Fleet(cold_start=30.0))
    assert (seen.terms["lead_seconds"], seen.terms["backlog"]) == (30.0, 130.0)
    assert "rising 1/s for 30 s" in seen.explanation
    assert after(Fleet(cold_start=30.0), coldStart="10s")[0].terms["lead_seconds"] == 10.0
    assert after(Fleet())[0].terms["lead_seconds"] == policy.value("cold_start")
    # An exporter that restarts does not make the scaler a novice.
    assert after(Fleet(), structs.replace(memory, points=()))[0].terms["lead_seconds"] == 30.0


def test_the_trend_needs_time_and_forgets() -> None:
    points: tuple[tuple[float, float], ...] = ()
    for second in range(5):
        points, slope = remember(points, float(second), second * 10.0)
        assert slope == 0  # 4 s are too short
    points, slope = remember(points, 5.0, 50.0)
    assert slope == pytest.approx(10)
    points, slope = remember(points, 100.0, 0.0)
    assert (points, slope) == (((100.0, 0.0),), 0)


def test_a_queue_seen_in_part_has_no_trend() -> None:
    _, memory = decide(trigger(), several({"waiting": 1.0}), None, 0.0)
    _, memory = decide(trigger(), several({"waiting": 1.0}, {"waiting": None}), memory, 6.0)
    assert memory.points == ()


def test_what_was_learned_outlives_an_exporters_restart() -> None:
    _, memory = decide(trigger(), several(TAUGHT | {"running": 10.0}, TAUGHT), None, 0.0)
    again = answer(several({"running": 10.0}, IDLE), memory=memory)
    assert again.required_replicas == pytest.approx(1.1)
    others = Fleet((replica("new-0", running=10.0),))
    assert answer(others, memory=memory).required_replicas == pytest.approx(1.1)


def test_a_replica_that_lost_its_model_is_recognised_and_holds() -> None:
    _, memory = decide(trigger(), several(IDLE, IDLE), None, 0.0)
    gone = replica("llama-1", model="", waiting=None, running=None, kv_usage=None, reading_age=None)
    fleet = Fleet((replica("llama-0"),), nameless=(gone, structs.replace(gone, pod="qwen-0")))
    decision = answer(fleet, memory=memory)
    assert decision.required_replicas == 2
    assert "llama-1 never read" in decision.explanation


VALUES = [
    ("required-replicas", {}, [TAUGHT | {"running": 20.0}], (3, 2.2)),
    ("queue-depth", {}, [{"waiting": 12.0}], (12, 12.0)),
    ("queue-depth", {}, [{"waiting": 12.0}, {"waiting": None}], (12, 12.0)),
    ("queue-depth", {}, [{"waiting": 1.0}, {"waiting": None}], (10, 10.0)),
    ("queue-depth", {"queueTarget": "2"}, [{"waiting": 1.0}, {"waiting": None}], (4, 4.0)),
    ("queue-depth", {"maxReplicas": "2"}, [{"waiting": 99.0}], (10, 10.0)),
    ("queue-depth", {"mode": "advisory"}, [{"waiting": 99.0}], (5, 5.0)),
    ("required-replicas", {}, [IDLE], (0, 0.0)),
]


@pytest.mark.parametrize(("metric", "metadata", "each", "value"), VALUES, ids=str)
def test_metric_value(
    metric: str, metadata: dict[str, str], each: list[dict[str, Any]], value: tuple[int, float]
) -> None:
    chosen = trigger(**metadata)
    assert metric_value(metric, chosen, answer(several(*each), chosen)) == value


SUPPLY = [
    (0.0, [1.0], 0.0),
    (0.5, [1.0], 0.5),
    (3.0, [], 3.0),
    (2.5, [1.0, 1.0], 2.5),
    (2.5, [0.0, 1.0, 1.0, 1.0], 3.5),
    (1.0, [0.0, 0.0], 3.0),
    (1.0, [0.5, 1.0], 1.5),
    (0.25, [0.5, 1.0], 0.5),
]


@pytest.mark.parametrize(("work", "capacities", "count"), SUPPLY, ids=str)
def test_replicas_for(work: float, capacities: list[float], count: float) -> None:
    assert replicas_for(work, capacities) == pytest.approx(count)


def test_every_constant_has_its_unit_and_source() -> None:
    assert all(each.unit and each.source and math.isfinite(each.value) for each in policy.CONSTANTS.values())


# Properties.

LOADS = st.one_of(st.just(0.0), st.floats(0, 1e4), st.floats(0, 1e15))
MAYBE = {
    "reading_age": st.one_of(st.floats(0, 100), st.none()),
    "waiting": st.one_of(LOADS, st.none()),
    "running": st.one_of(LOADS, st.none()),
    "kv_usage": st.one_of(st.floats(0, 1), st.none()),
    "capacity": st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.none()),
    "knee_running": st.one_of(st.floats(0, 500), st.none()),
    "service_rate": st.one_of(st.floats(0, 100), st.none()),
}
REPLICAS = st.lists(st.fixed_dictionaries(MAYBE), min_size=1, max_size=6)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "queueTarget": st.sampled_from(["0.01", "1", "5", "1000000"]),
        "kvCacheTarget": st.sampled_from(["0.05", "0.8", "1"]),
        "headroom": st.sampled_from(["0", "0.3", "10"]),
        "coldStart": st.sampled_from(["1s", "24h"]),
        "maxReplicas": st.sampled_from(["1", "4"]),
        "mode": st.sampled_from(["active", "advisory"]),
        "metric": st.sampled_from(["required-replicas", "queue-depth"]),
    },
)
HISTORIES = st.lists(st.tuples(st.floats(0, 99), LOADS), max_size=6).map(
    lambda points: Memory(points=tuple(sorted(points)))
)


@given(REPLICAS, METADATA, HISTORIES, st.one_of(LOADS, st.none()))
def test_every_answer_is_finite_and_never_negative(
    each: list[dict[str, Any]], metadata: dict[str, str], memory: Memory, gateway: float | None
) -> None:
    chosen = trigger(**metadata)
    decision, _ = decide(chosen, structs.replace(several(*each), gateway_waiting=gateway), memory, 100.0)
    if isinstance(decision, Unknown):
        assert decision.reason
        return
    assert all(math.isfinite(term) for term in decision.terms.values())
    assert 0 <= decision.required_replicas <= policy.value("most_replicas")
    for metric in ("required-replicas", "queue-depth"):
        whole, exact = metric_value(metric, chosen, decision)
        assert math.isfinite(exact)
        assert whole - 1 < exact <= whole < 2**63
        assert exact >= 0
    if decision.vetoes and chosen.mode == "active":
        assert decision.required_replicas >= len(each)
        assert metric_value("queue-depth", chosen, decision)[1] >= len(each) * min(1e-3, chosen.queue_target or 5)


@given(REPLICAS, METADATA, HISTORIES, st.integers(0, 5), st.sampled_from(["waiting", "running", "kv_usage"]), st.data())
def test_more_load_never_asks_for_fewer_replicas(
    each: list[dict[str, Any]], metadata: dict[str, str], memory: Memory, index: int, name: str, data: st.DataObject
) -> None:
    index %= len(each)
    before = each[index][name]
    assume(before is not None)
    more = data.draw(st.floats(before, 1.0 if name == "kv_usage" else max(before, 1e15)))
    heavier = [fields | {name: more} if i == index else fields for i, fields in enumerate(each)]
    chosen = trigger(**metadata)
    light, _ = decide(chosen, several(*each), memory, 100.0)
    heavy, _ = decide(chosen, several(*heavier), memory, 100.0)
    if isinstance(light, Unknown) or isinstance(heavy, Unknown):
        assert type(light) is type(heavy)
        return
    assert heavy.required_replicas >= light.required_replicas
    assert heavy.active >= light.active
    for metric in ("required-replicas", "queue-depth"):
        assert metric_value(metric, chosen, heavy)[1] >= metric_value(metric, chosen, light)[1]


INPUTS = ("reading_age", "waiting", "running", "kv_usage", "capacity", "knee_running", "service_rate")
WHOLE = {name: MAYBE[name].filter(lambda value: value is not None) for name in INPUTS} | {
    "reading_age": st.floats(0, 15),
    "waiting": st.floats(0, 1000),
    "running": st.floats(0, 1000),
    "capacity": st.just(1.0),
}
DROPS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(INPUTS)), min_size=1, max_size=2)


@given(st.lists(st.fixed_dictionaries(WHOLE), min_size=1, max_size=6), DROPS)
def test_missing_is_not_zero_singly_and_in_pairs(each: list[dict[str, Any]], drops: list[tuple[int, str]]) -> None:
    """Dropping inputs never lowers the answer below what is there and was asked for, nor makes it inactive."""
    full, memory = decide(trigger(), several(*each), None, 100.0)
    assert isinstance(full, Decision)
    for index, name in drops:
        each[index % len(each)] = each[index % len(each)] | {name: None}
    poorer, _ = decide(trigger(), several(*each), memory, 101.0)
    if isinstance(poorer, Unknown):
        return  # an error: the HPA holds
    assert poorer.required_replicas >= min(full.required_replicas, len(each)) - 0.002
    assert poorer.active >= full.active


@given(st.lists(st.fixed_dictionaries(WHOLE), min_size=1, max_size=6), st.integers(0, 5))
def test_a_dying_gpu_never_lowers_the_answer_and_never_supplies(each: list[dict[str, Any]], index: int) -> None:
    dead = [fields | {"capacity": 0.0} if i == index % len(each) else fields for i, fields in enumerate(each)]
    before, after = answer(several(*each)), answer(several(*dead))
    assert after.required_replicas >= before.required_replicas
    assert after.terms["supply"] == before.terms["supply"] - 1
    if after.terms["demand"] > 0:
        # Whatever is left by the answer carries the work.
        assert after.required_replicas >= min(after.terms["demand"], 99_000) + 1 - 0.002


@given(st.floats(0, 100), st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1)), max_size=8))
def test_the_replicas_asked_for_carry_the_work(work: float, capacities: list[float]) -> None:
    count = math.ceil(replicas_for(work, capacities) - 1e-9)
    assert carried(count, capacities) >= work - 1e-6
    if count > 0:
        assert carried(count - 1, capacities) < work + 1e-6


@given(st.permutations(range(4)), st.lists(st.fixed_dictionaries(MAYBE), min_size=4, max_size=4))
def test_the_order_of_replicas_does_not_matter(order: list[int], each: list[dict[str, Any]]) -> None:
    replicas = several(*each).replicas
    first, _ = decide(trigger(), Fleet(replicas), None, 1.0)
    second, _ = decide(trigger(), Fleet(tuple(replicas[i] for i in order)), None, 1.0)
    if isinstance(first, Decision) and isinstance(second, Decision):
        assert first.required_replicas == pytest.approx(second.required_replicas, rel=1e-9, abs=0.001)
        assert first.reason == second.reason
    else:
        assert type(first) is type(second)
