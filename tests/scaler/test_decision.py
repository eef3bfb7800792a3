"""scaler.core.decision: one row a rule of the policy. What no input may break: test_decision_properties.py."""

import math
from typing import Any

import pytest
from msgspec import structs

from scaler.core import policy
from scaler.core.decision import REASONS, Decision, Memory, Unknown, decide, metric_value
from scaler.core.demand import Outlook
from scaler.core.view import Fleet
from tests.scaler.fleets import LOST, NOW, Step, answer, counting, past, played, replica, several, trigger

IDLE: dict[str, Any] = {}
DEAD: dict[str, Any] = {"capacity": 0.0}
STALE: dict[str, Any] = {"reading_age": 15.1}
NEW: dict[str, Any] = {"reading_age": None}
STARTING: dict[str, Any] = {"reading_age": None, "ready": False, "age": 40.0}
RUN: dict[str, Any] = {"running": 10.0}  # a full batch: one replica

#: Work that came steadily for ten minutes (None: nothing was seen before), replicas, metadata -> the answer and why.
#: 100 waiting are 100 s of work; one replica does 75 s of it until another one could serve.
ROWS: list[tuple[str, float | None, list[dict[str, Any]], dict[str, str], float, str]] = [
    # 1, 2: the work.
    ("idle needs nobody", 0, [IDLE, IDLE], {}, 0, "idle"),
    ("what is planned", 2, [IDLE], {}, 3, "forecast"),
    ("... with headroom", 2, [IDLE], {"headroom": "0.1"}, 3.3, "forecast"),
    ("what runs", 0, [RUN | {"running": 12.0}], {}, 1.2, "running"),
    ("what the KV caches hold", 0, [{"running": 1.0, "kv_usage": 0.6}], {}, 0.75, "kv_cache"),
    ("what waits and will not be worked off", 0, [{"waiting": 100.0}], {}, 25 / 60, "queue"),
    ("... by queueTarget", 0, [RUN | {"waiting": 12.0}], {"queueTarget": "4"}, 4, "queue"),
    ("a queue that changes no whole replica decides nothing", 1.5, [{"waiting": 40.0}], {"queueTarget": "400"}, 2.1,
     "queue"),
    ("before anything was seen: what waits, by the field's default", None, [{"waiting": 10.0, "running": 4.0}], {}, 3,
     "queue"),
    ("before anything was seen: what is held", None, [{"kv_usage": 1.0}], {}, 1.25, "kv_cache"),
    # 3: the replicas that carry it.
    ("dead takes a place, carries nothing", 2, [IDLE, DEAD], {}, 4, "lost_capacity"),
    ("what a dead one shows is frozen", 0, [RUN, DEAD | {"running": 99.0, "waiting": 99.0}], {}, 2, "lost_capacity"),
    ("half a replica is half a replica", 0, [RUN | {"capacity": 0.5}], {}, 1.5, "lost_capacity"),
    ("the least capable count first", 0, [RUN, {"capacity": 0.5}, IDLE], {}, 1.5, "lost_capacity"),
    ("what is on its way is not asked for again", 2, [IDLE] * 3, {}, 3, "forecast"),
    ("unknown capacity serves", 0, [RUN | {"capacity": None}], {}, 1, "running"),
    # 4: missing is not zero.
    ("blind keeps itself", 2, [IDLE, STALE], {}, 4, "hold"),
    ("fresh enough is not blind", 2, [IDLE, {"reading_age": 15.0}], {}, 3, "forecast"),
    ("staleAfter as given", 2, [IDLE, STALE], {"staleAfter": "20s"}, 3, "forecast"),
    ("blind holds what there is", 0, [IDLE, IDLE, {"waiting": None}], {}, 3, "hold"),
    ("never read holds", 0, [IDLE, NEW], {}, 2, "hold"),
    ("never read asks for no more", 2, [IDLE, NEW], {}, 3, "forecast"),
    ("never read, on a dead GPU", 2, [IDLE, NEW | DEAD], {}, 4, "lost_capacity"),
    ("a missing KV usage holds", 0, [IDLE, {"kv_usage": None}], {}, 2, "hold"),
    ("a missing KV usage can grow", 2, [{"kv_usage": None}], {}, 3, "forecast"),
    ("a scaler that has just started holds", None, [IDLE] * 3, {}, 3, "hold"),
    ("... and can grow", None, [{"waiting": 25.0}, IDLE], {}, 6, "queue"),
    # One that is starting has nothing to be missed: it is on its way.
    ("starting holds nothing", 0, [IDLE, STARTING], {}, 0, "idle"),
    ("starting, as its node says", 0, [IDLE, NEW | {"cause": "cold_start"}], {}, 0, "idle"),
    ("ready and never read is blind", 0, [IDLE, NEW | {"ready": True}], {}, 2, "hold"),
    ("read before, and not up any more, is blind", 0, [IDLE, STALE | {"ready": False}], {}, 2, "hold"),
    ("starting is not asked for again", 2, [IDLE, STARTING, STARTING], {}, 3, "forecast"),
    ("starting on a dead GPU carries nothing", 2, [IDLE, STARTING | DEAD], {}, 4, "lost_capacity"),
    ("starting will have served before one that is asked for now", 0, [{"waiting": 100.0}, STARTING], {}, 0, "idle"),
    ("... for as long as it is older", 0, [{"waiting": 200.0}, STARTING], {}, 85 / 60, "queue"),
    ("... but on a dead GPU", 0, [{"waiting": 200.0}, STARTING | DEAD], {}, 125 / 60 + 1, "lost_capacity"),
    ("starting for longer than the lead may never serve", 0, [{"waiting": 200.0}, STARTING | {"age": 75.0}], {},
     125 / 60, "queue"),
    ("never read and ready is no help either", 0, [{"waiting": 200.0}, NEW | {"age": 40.0}], {}, 125 / 60, "queue"),
    # 5 and 6.
    ("maxReplicas caps", 9, [IDLE], {"maxReplicas": "4"}, 4, "max_replicas"),
    ("maxReplicas is no reason to remove", 0, [IDLE, IDLE, {"running": None}], {"maxReplicas": "1"}, 3, "hold"),
    ("maxReplicas caps what is asked for while something is blind", 9, [IDLE, STALE], {"maxReplicas": "4"}, 4,
     "max_replicas"),
    ("advisory changes nothing", 9, [IDLE, IDLE], {"mode": "advisory"}, 2, "advisory"),
    ("advisory changes nothing, not by a hold either", 0, [IDLE, STALE], {"mode": "advisory"}, 2, "advisory"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("work", "each", "metadata", "required", "reason"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_policy(
    work: float | None, each: list[dict[str, Any]], metadata: dict[str, str], required: float, reason: str
) -> None:
    chosen = trigger(**metadata)
    decision = answer(several(*each), chosen, None if work is None else past(work, chosen=chosen))
    assert (decision.required_replicas, decision.reason) == (pytest.approx(required, abs=0.001), reason)
    assert decision.reason in REASONS


#: Nobody can be read: replicas, what is said.
UNREAD: list[tuple[str, list[dict[str, Any]], str]] = [
    (
        "all are starting",
        [STARTING, STARTING | {"error": "refused"}],
        "2 replicas are starting, none serves yet: llama-0 never read, llama-1 never read, last error refused",
    ),
    ("one is starting", [STARTING], "1 replica is starting, none serves yet: llama-0 never read"),
    (
        "one should be there",
        [STARTING, NEW | {"error": "refused"}],
        "none of 2 replicas has a fresh reading (limit 15 s): llama-1 never read, last error refused, llama-0 never "
        "read; check that their exporters can reach them",
    ),
]


@pytest.mark.parametrize(("each", "said"), [row[1:] for row in UNREAD], ids=[row[0] for row in UNREAD])
def test_replicas_that_cannot_be_read_are_no_answer_and_hold_then(each: list[dict[str, Any]], said: str) -> None:
    unknown, memory = decide(trigger(), several(*each), past(0), NOW)
    assert isinstance(unknown, Unknown)
    assert unknown.reason == said
    assert answer(several(IDLE, STARTING), memory=memory, now=NOW + 5).required_replicas == 2


#: Replicas there are (all idle but what runs), replicas of work that run, metadata -> the answer. The HPA acts on more
#: than 10 % beyond what there is, and then makes it whole.
PRESSED: list[tuple[str, int, float, dict[str, str], float]] = [
    ("11 for 10: the HPA would do nothing, and 12 are as near as 10", 10, 11, {}, 11.001),
    ("a little less is nearer to 10", 10, 10.9, {}, 10.9),
    ("a little more is nearer to 12", 10, 11.0005, {}, 11.001),
    ("beyond the tolerance the HPA acts by itself", 10, 11.2, {}, 11.2),
    ("21 for 20: 23 are further off", 20, 21, {}, 21),
    ("22 for 20: 23 are nearer", 20, 22, {}, 22.001),
    ("one of a few is never near", 1, 1.05, {}, 1.05),
    ("to fewer it is not pressed", 10, 9.5, {}, 9.5),
    ("what there is is what there is", 10, 10, {}, 10),
    ("not beyond maxReplicas", 10, 11, {"maxReplicas": "11"}, 11),
    ("up to maxReplicas", 10, 11, {"maxReplicas": "12"}, 11.001),
    ("not as advice", 10, 11, {"mode": "advisory"}, 10),
]


@pytest.mark.parametrize(
    ("there", "work", "metadata", "required"), [row[1:] for row in PRESSED], ids=[row[0] for row in PRESSED]
)
def test_a_value_that_the_hpa_would_not_act_on(
    there: int, work: float, metadata: dict[str, str], required: float
) -> None:
    each = [{"running": 10.0 * work}, *[IDLE] * (there - 1)]
    chosen = trigger(**metadata)
    decision = answer(several(*each), chosen, past(0, chosen=chosen))
    assert decision.required_replicas == pytest.approx(required, abs=1e-9)
    assert decision.terms["held"] == pytest.approx(work, abs=0.001)
    pressed = "pressed just beyond, or it will not act" in decision.explanation
    assert pressed == (required > round(work, 3))


def test_what_is_held_is_not_pressed_beyond() -> None:
    assert answer(several(*[IDLE] * 9, STALE), memory=past(0)).required_replicas == 10
    # By the spec, where it is known: 11 are there, of which one goes.
    going = structs.replace(several({"running": 110.0}, *[IDLE] * 10), spec_replicas=10)
    assert answer(going, memory=past(0)).required_replicas == 11.001


#: Seconds since nothing was known -> what is held of three idle replicas.
SINCE = [(0.0, 3.0), (5.0, 3.0), (299.0, 3.0), (300.0, 0.0)]


@pytest.mark.parametrize(("seconds", "required"), SINCE, ids=str)
def test_for_a_window_of_the_hpa_after_no_answer_nobody_is_removed(seconds: float, required: float) -> None:
    _, memory = decide(trigger(), Fleet(problem="no engine"), past(0), NOW)
    decision = answer(several(*[IDLE] * 3), memory=memory, now=NOW + seconds)
    assert decision.required_replicas == required
    why = f"nothing was known {seconds:.0f} s ago: the HPA forgets what it was told before"
    assert decision.vetoes == ((why,) if required else ())
    # It can grow.
    assert answer(several(RUN | {"running": 40.0}, IDLE, IDLE), memory=memory, now=NOW + seconds).required_replicas == 4


def test_no_answer_keeps_what_was_known() -> None:
    before = past(2)
    _, memory = decide(trigger(), Fleet(problem="no engine"), before, NOW)
    assert memory == structs.replace(before, unknown=NOW)
    _, after = decide(trigger(), several(IDLE), memory, NOW + 5)
    assert after.unknown == NOW


# What may not be removed.

#: A memory, a fleet of 3 -> why none of them may be removed.
VETOES: list[tuple[str, Memory, Fleet, str]] = [
    ("a blind one", past(0), several(IDLE, IDLE, STALE), "blind: llama-2 not read for 15 s"),
    ("one without a number", past(0), several(IDLE, IDLE, {"running": None}), "blind: llama-2 without running"),
    ("one without a KV usage", past(0), several(IDLE, IDLE, {"kv_usage": None}), "no kv_usage: llama-2"),
    ("an exporter that never answered", past(0), structs.replace(several(*[IDLE] * 3), unheard=("x:1 (refused)",)),
     "exporters never heard: x:1 (refused)"),
    ("a past that is too short", past(0, 595), several(*[IDLE] * 3), "load known for 595 s of 600 s"),
    ("work of which nobody knows what it costs", structs.replace(past(0), outlook=structs.replace(
        past(0).outlook, cost=None)), several({"running": 1.0}, IDLE, IDLE), "what a request costs is not known yet"),
]  # fmt: skip


@pytest.mark.parametrize(("memory", "fleet", "why"), [row[1:] for row in VETOES], ids=[row[0] for row in VETOES])
def test_what_is_missing_holds_the_replicas_there_are(memory: Memory, fleet: Fleet, why: str) -> None:
    decision = answer(fleet, memory=memory)
    assert decision.vetoes == (why,)
    assert (decision.required_replicas, decision.reason) == (3, "hold")
    assert f"holds at 3 or more ({why})" in decision.explanation


def test_the_hold_is_at_the_spec_where_it_is_known() -> None:
    held = structs.replace(several(IDLE, {"waiting": None}), spec_replicas=7)
    assert answer(held, memory=past(0)).required_replicas == 7


def test_a_hold_is_at_the_last_answer_which_may_have_asked_for_replicas_not_yet_seen() -> None:
    first, memory = decide(trigger(), several(RUN, IDLE), past(4), NOW)
    held, memory = decide(trigger(), several(RUN | STALE, IDLE), memory, NOW + 1)
    assert isinstance(first, Decision)
    assert isinstance(held, Decision)
    assert first.required_replicas == 5
    assert held.required_replicas == 6  # of which one is the blind one
    calm = structs.replace(memory, outlook=past(0).outlook)
    assert answer(several(STALE, IDLE), memory=calm, now=NOW + 1).required_replicas == 6
    assert answer(several(IDLE, IDLE), memory=calm, now=NOW + 1).required_replicas == 0


def test_a_blind_interval_is_not_counted_as_quiet() -> None:
    """2 requests/s at each of two replicas; one cannot be read for a minute, in which as many come."""
    busy = Step(5.0, finished=2.0, running=8.0)
    before = played([busy] * 130, 2)
    blind = busy._replace(odd={0: {"reading_age": 20.0}})
    after = played([*[busy] * 130, *[blind] * 12, *[busy] * 2], 2)
    slots = after[-1][1].outlook.history.slots
    assert len(slots) == len(before[-1][1].outlook.history.slots) + 14
    assert slots[-14:] == pytest.approx([4.0] * 14)
    held = after[-3][0]
    assert isinstance(held, Decision)
    assert held.required_replicas >= 6  # 4 replicas' work, a rest, and the one that is blind


def test_a_replica_that_lost_its_model_is_recognised_and_holds() -> None:
    _, memory = decide(trigger(), several(IDLE, IDLE), past(0), NOW)
    gone = replica("llama-1", model="", waiting=None, running=None, kv_usage=None, reading_age=None)
    fleet = Fleet((replica("llama-0"),), nameless=(gone, structs.replace(gone, pod="qwen-0")))
    decision = answer(fleet, memory=memory)
    assert decision.required_replicas == 2
    assert "llama-1 never read" in decision.explanation


UNKNOWNS = [
    ("no replica", Fleet(problem="no engine; check"), "no engine; check"),
    ("all stale", several({"reading_age": 60.0, "error": "timeout"}), "llama-0 not read for 60 s, last error timeout"),
    ("all missing", several({"running": None}), "llama-0 without running"),
    ("all new", several({"reading_age": None}), "llama-0 never read"),
]


@pytest.mark.parametrize(("fleet", "words"), [row[1:] for row in UNKNOWNS], ids=[row[0] for row in UNKNOWNS])
def test_knowing_nothing_is_no_answer(fleet: Fleet, words: str) -> None:
    before = past(2)
    decision, memory = decide(trigger(), fleet, before, NOW)
    assert isinstance(decision, Unknown)
    assert words in decision.reason
    assert memory == structs.replace(before, unknown=NOW)


# The whole way: from counters to an answer.


def test_a_steady_load_is_told_by_the_pace_before_any_queue() -> None:
    """1.5 requests/s at each of two replicas, of 1 s each."""
    decision, memory, _, _ = played([Step(5.0, finished=1.5, running=9.0)] * 125, 2)[-1]
    assert isinstance(decision, Decision)
    assert (decision.required_replicas, decision.reason, decision.vetoes) == (4, "forecast", ())
    terms = decision.terms
    assert terms["requests_per_second"] == pytest.approx(3)
    assert terms["request_seconds"] == pytest.approx(1)
    assert terms["work"] == pytest.approx(3)
    assert terms["expected"] == pytest.approx(3 * (1 + policy.value("growth") * 75 / 60))
    assert memory.outlook.seconds == 620


def test_a_growing_queue_is_work_that_came() -> None:
    """Each second one request is finished and one more waits: 2 of 1 s come."""
    steps = [Step(5.0, 1.0, waiting=5.0 * i, running=10.0) for i in range(125)]
    decision = played(steps, 1)[-1][0]
    assert isinstance(decision, Decision)
    assert decision.terms["work"] == pytest.approx(2)
    assert decision.terms["planned"] == 3
    queue = 620 + (decision.terms["expected"] - 1) * 75  # that will be there when help comes
    assert decision.terms["backlog"] == pytest.approx(queue, abs=0.1)  # of the first ones the prompt was not known
    assert decision.required_replicas == pytest.approx(3 + queue / 60, abs=0.01)


def test_a_scaler_that_has_just_started_holds_for_ten_minutes() -> None:
    found = [result for result, *_ in played([Step(5.0)] * 125, 3)]
    assert all(isinstance(each, Decision) for each in found)
    answers = [each.required_replicas for each in found if isinstance(each, Decision)]
    young = int(policy.value("young") / 5)
    assert answers == [3.0] * young + [0.0] * (125 - young)


def test_what_was_learned_outlives_an_exporters_restart() -> None:
    """Engines that tell too little for a pace: what full ones served. A new exporter has seen none of it."""
    full = {"service_rate": 0.5, "queued_seconds": 60.0, "step_seconds": None}
    taught = played([Step(5.0, finished=1.0, running=8.0)] * 125, 1, **full)[-1]
    memory, fleet, now = taught[1:]
    assert answer(fleet, memory=memory, now=now).terms["work"] == pytest.approx(2)
    (last,) = fleet.replicas
    bare = structs.replace(last, service_rate=None, queued_seconds=0.0)
    assert answer(Fleet((bare,)), memory=memory, now=now + 5).terms["request_seconds"] == pytest.approx(2)


# The account.


def test_activity() -> None:
    assert not answer(several(IDLE, IDLE), memory=past(0)).active
    assert answer(several({"running": 1.0}), memory=past(0)).active
    assert answer(several({"waiting": 1.0}), memory=past(0)).active
    assert answer(structs.replace(several(IDLE), gateway_waiting=1.0), memory=past(0)).active
    # What is not known must not be sent to sleep.
    assert answer(several(IDLE, {"reading_age": 99.0}), memory=past(0)).active
    assert answer(several(IDLE, {"kv_usage": None}), memory=past(0)).active
    assert answer(structs.replace(several(IDLE), unheard=("x:1",)), memory=past(0)).active
    # What is only not learned yet is known to be idle now.
    assert not answer(several(IDLE)).active


def test_the_terms_are_the_arithmetic() -> None:
    sick = several({"waiting": 200.0, "running": 10.0, "kv_usage": 0.4}, DEAD)
    terms = answer(sick, memory=past(2)).terms
    assert (terms["planned"], terms["demand_running"], terms["demand_kv"]) == (3, 1, pytest.approx(0.5))
    assert terms["demand_base"] == 3
    assert terms["backlog"] == pytest.approx(200 + (terms["expected"] - 1) * 75)
    assert terms["demand_queue"] == pytest.approx(terms["backlog"] / 60)
    assert terms["demand"] == pytest.approx(3 + terms["backlog"] / 60)
    assert (terms["replicas"], terms["dead"], terms["supplying"], terms["supply"]) == (2, 1, 1, 1)
    assert terms["needed"] == pytest.approx(terms["demand"] + 1, abs=0.001)
    assert (terms["demand_up"], terms["demand_down"]) == (math.ceil(terms["demand"]), math.floor(terms["demand"]))


def test_the_explanation_has_the_inputs_the_deciding_term_and_what_is_sick() -> None:
    sick = {"waiting": 20.0, "capacity": 0.0, "gpus": (LOST,)}
    decision = answer(several(sick, {"waiting": 1.0, "running": 4.0}, {"waiting": None}), memory=past(2))
    assert decision.explanation.startswith(
        "5 replicas (hold): waiting=1 running=4 kv_usage=0; demand 3 = 3 (largest of"
    )
    assert "3 planned" in decision.explanation
    assert f"{decision.terms['expected']:.2f} expected in 75 s" in decision.explanation
    assert "; replicas 3: 1 supplying, 1 dead, 1 blind; needs 5; " in decision.explanation
    assert "pod llama-0: GPU-1 lost (xid_79 -> reset_gpu)" in decision.explanation
    assert "blind: llama-2 without waiting" in decision.explanation
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
    assert (
        "pod llama-0" not in answer(several({"running": 1.0, "cause": cause, "why": "w"}), memory=past(1)).explanation
    )


def test_a_sick_gpu_says_it_better_than_the_cause() -> None:
    told = answer(several({"running": 1.0, "cause": "hardware", "why": "w", "capacity": 0.0, "gpus": (LOST,)}, IDLE))
    assert "pod llama-0: GPU-1 lost (xid_79 -> reset_gpu);" in told.explanation + ";"
    assert "hardware" not in told.explanation


def test_within_the_hpas_tolerance_is_said() -> None:
    assert "tolerance of 0.1 around 10" in answer(several(*[{"running": 9.5}] * 10), memory=past(0)).explanation


VALUES = [
    ("required-replicas", {}, 2, [IDLE], (3, 3.0)),
    ("required-replicas", {}, 0, [{"running": 12.0}], (2, 1.2)),
    ("required-replicas", {}, 0, [IDLE], (0, 0.0)),
    ("required-replicas", {}, 0, [{"running": 0.001}], (1, 0.001)),
    ("queue-depth", {}, 0, [{"waiting": 12.0}], (12, 12.0)),
    ("queue-depth", {}, 0, [{"waiting": 12.0}, {"waiting": None}], (12, 12.0)),
    ("queue-depth", {}, 0, [{"waiting": 1.0}, {"waiting": None}], (10, 10.0)),
    ("queue-depth", {"queueTarget": "2"}, 0, [{"waiting": 1.0}, {"waiting": None}], (4, 4.0)),
    ("queue-depth", {"maxReplicas": "2"}, 0, [{"waiting": 99.0}], (10, 10.0)),
    ("queue-depth", {"mode": "advisory"}, 0, [{"waiting": 99.0}], (5, 5.0)),
    ("queue-depth", {}, 0, [{"waiting": 12.0}, STARTING], (12, 12.0)),
]


@pytest.mark.parametrize(("metric", "metadata", "work", "each", "value"), VALUES, ids=str)
def test_metric_value(
    metric: str, metadata: dict[str, str], work: float, each: list[dict[str, Any]], value: tuple[int, float]
) -> None:
    chosen = trigger(**metadata)
    assert metric_value(metric, chosen, answer(several(*each), chosen, past(work, chosen=chosen))) == value


#: A queue depth keeps the replicas of the spec as well: those that go already are not there to be kept.
@pytest.mark.parametrize(
    ("each", "metadata"), [([IDLE, STALE], {}), ([IDLE, IDLE], {"mode": "advisory"})], ids=["hold", "advisory"]
)
def test_a_queue_depth_keeps_the_spec(each: list[dict[str, Any]], metadata: dict[str, str]) -> None:
    chosen = trigger(**metadata)
    decision = answer(structs.replace(several(*each), spec_replicas=5), chosen, past(0, chosen=chosen))
    assert decision.required_replicas == 5
    assert metric_value("queue-depth", chosen, decision) == (25, 25.0)


def test_every_constant_has_its_unit_and_source() -> None:
    assert all(each.unit and each.source and math.isfinite(each.value) for each in policy.CONSTANTS.values())


def test_a_rate_of_next_to_nothing_raises_nothing() -> None:
    assert math.isfinite(answer(several({"service_rate": 2e-313, "waiting": 1.0})).required_replicas)


def test_a_memory_of_nothing_is_no_memory() -> None:
    fleet = Fleet((counting(running=5.0),))
    assert decide(trigger(), fleet, None, NOW) == decide(trigger(), fleet, Memory(outlook=Outlook()), NOW)
