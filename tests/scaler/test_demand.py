"""scaler.core.demand: what is planned, what is held, and what of the queue will still be there when help comes."""

from typing import Any

import pytest
from msgspec import structs

from scaler.core import forecast, policy, work
from scaler.core.capacity import Learned
from scaler.core.demand import Demand, Outlook, demand, lead, look
from tests.scaler.fleets import COST, MIX, NOW, counting, past, replica, several, trigger

IDLE: dict[str, Any] = {}
SYNC = policy.value("sync")
AHEAD = policy.value("cold_start") + SYNC  # 75 s
PATIENCE = policy.value("patience")


def grown(level: float, ahead: float = AHEAD) -> float:
    return level * (1 + policy.value("growth") * ahead / 60)


LEADS = [
    ("as given", {"coldStart": "5m"}, 100.0, 300 + SYNC),
    ("as seen", {}, 100.0, 100 + SYNC),
    ("auto is not given", {"coldStart": "auto"}, 100.0, 100 + SYNC),
    ("by the constant, where nobody saw one", {}, None, AHEAD),
]


@pytest.mark.parametrize(("metadata", "seen", "seconds"), [row[1:] for row in LEADS], ids=[row[0] for row in LEADS])
def test_the_lead_is_a_cold_start_and_the_hpas_pace(
    metadata: dict[str, str], seen: float | None, seconds: float
) -> None:
    assert lead(trigger(**metadata), Learned(cold_start=seen)) == seconds


def demanded(level: float, *each: dict[str, Any], gateway: float | None = None, **metadata: str) -> Demand:
    """With the memory of a steady load of `level` replicas' work, where a request costs 1 s in a batch of 10."""
    chosen = trigger(**metadata)
    outlook = past(level, chosen=chosen).outlook
    return demand(chosen, several(*each).replicas, Learned(), gateway, outlook)


#: Work that comes, replicas, metadata -> a part of the demand and what it is.
PARTS: list[tuple[str, float, list[dict[str, Any]], dict[str, str], str, float]] = [
    ("planned: for what is expected, and a rest for chance", 2, [IDLE], {}, "planned", 3),
    ("headroom comes on top of what is planned", 2, [IDLE], {"headroom": "0.5"}, "planned", 4.5),
    ("... and of nothing else", 0, [{"running": 10.0}], {"headroom": "0.5"}, "total", 1),
    ("expected: with what it may grow by until then", 2, [IDLE], {}, "expected", grown(2)),
    ("... which is more with a long coldStart", 2, [IDLE], {"coldStart": "585s"}, "expected", grown(2, 600)),
    ("running, in batches", 0, [{"running": 12.0}, {"running": 3.0}], {}, "by_running", 1.5),
    ("KV caches held", 0, [{"kv_usage": 0.6}, {"kv_usage": 0.2}], {}, "by_kv", 1),
    ("kvCacheTarget as given", 0, [{"kv_usage": 0.6}], {"kvCacheTarget": "0.3"}, "by_kv", 2),
    ("the base is the largest: planned", 2, [{"running": 12.0, "kv_usage": 0.8}], {}, "base", 3),
    ("the base is the largest: running", 0.5, [{"running": 30.0, "kv_usage": 0.8}], {}, "base", 3),
    ("the base is the largest: KV cache", 0.5, [{"running": 3.0, "kv_usage": 0.96}], {}, "base", 1.2),
    ("a queue that is gone before anybody minds", 0, [{"waiting": 1.7}], {}, "backlog", 0),
    ("... though more comes than goes", 5, [{"waiting": 1.7}], {}, "backlog", 0),
    ("... which 1.7 s are, of a ttftTarget of 2", 5, [{"waiting": 1.71}], {}, "backlog", 1.71 + (grown(5) - 1) * AHEAD),
    ("ttftTarget is how long one may wait", 5, [{"waiting": 4.0}], {"ttftTarget": "10s"}, "backlog", 0),
    ("a queue that is worked off before help comes", 0, [{"waiting": 70.0}], {}, "backlog", 0),
    ("what is left then", 0, [{"waiting": 100.0}], {}, "backlog", 100 - AHEAD),
    ("... by all that supply", 0, [{"waiting": 100.0}, {"capacity": 0.25}], {}, "backlog", 100 - 1.25 * AHEAD),
    ("... of which an unknown capacity is one", 0, [{"waiting": 100.0, "capacity": None}], {}, "backlog",
     100 - AHEAD),
    ("... with what is expected until then", 2, [{"waiting": 100.0}], {}, "backlog",
     100 + (grown(2) - 1) * AHEAD),
    ("... which is later with a long coldStart", 2, [{"waiting": 100.0}], {"coldStart": "585s"}, "backlog",
     100 + (grown(2, 600) - 1) * 600),
    ("it is to be gone in drainWithin", 0, [{"waiting": 105.0}], {}, "by_queue", 0.5),
    ("drainWithin as given", 0, [{"waiting": 105.0}], {"drainWithin": "10s"}, "by_queue", 3),
    ("queueTarget asks for all that waits", 0, [{"waiting": 10.0}], {"queueTarget": "4"}, "by_queue", 2.5),
    ("the total is base and queue", 0, [{"waiting": 105.0, "running": 20.0}], {}, "total", 2.5),
]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "each", "metadata", "part", "value"), [row[1:] for row in PARTS], ids=[row[0] for row in PARTS]
)
def test_a_part_of_the_demand(
    level: float, each: list[dict[str, Any]], metadata: dict[str, str], part: str, value: float
) -> None:
    assert getattr(demanded(level, *each, **metadata), part) == pytest.approx(value)


#: A queue of 200 s of work before one replica, seconds since each starting one was first seen -> what will be left.
HELP: list[tuple[str, list[float], float]] = [
    ("nobody is on the way", [], 125),
    ("one that has just come is no more help than one that is asked for now", [0.0], 125),
    ("one will have served for as long as it is older", [40.0], 85),
    ("two", [40.0, 70.0], 15),
    ("three, and more than there is to do", [40.0, 70.0, 70.0], 0),
    ("one that is late already may never come", [75.0], 125),
    ("... and takes nothing from the others", [3600.0, 40.0], 85),
]


@pytest.mark.parametrize(("ages", "backlog"), [row[1:] for row in HELP], ids=[row[0] for row in HELP])
def test_replicas_on_their_way_shorten_the_backlog(ages: list[float], backlog: float) -> None:
    fleet = several({"waiting": 200.0})
    found = demand(trigger(), fleet.replicas, Learned(), None, past(0).outlook, ages)
    assert found.backlog == pytest.approx(backlog)
    assert found.by_queue == pytest.approx(backlog / 60)


def test_what_came_stays_finite() -> None:
    before = past(2.0).outlook
    flow = work.look(structs.replace(before.flow, at=None), [counting()], NOW)
    before = structs.replace(before, flow=structs.replace(flow, mix=before.flow.mix))
    wild = look(before, trigger(), [counting(waiting=1e300)], Learned(), NOW + 5)
    assert wild.history.slots[-1] == policy.value("most_replicas")


def test_a_gateways_queue_waits_like_any_other() -> None:
    assert demanded(0, {"waiting": 50.0}, gateway=50.0) == demanded(0, {"waiting": 100.0})


#: Nobody has shown yet what a request costs: replicas, metadata -> base and queue.
NOVICES: list[tuple[str, list[dict[str, Any]], dict[str, str], float, float]] = [
    ("running, in batches of vLLM's default", [{"running": 64.0}], {}, 0.25, 0),
    ("... of what it says itself", [{"running": 64.0, "max_running": 128.0}], {}, 0.5, 0),
    ("one with a queue is busy", [{"waiting": 6.0, "running": 1.0}, IDLE], {}, 1, 1.2),
    ("queueTarget as given", [{"waiting": 6.0}], {"queueTarget": "10"}, 1, 0.6),
    ("one that runs and tells no KV usage is busy", [{"running": 1.0, "kv_usage": None}, IDLE], {}, 1, 0),
    ("one that is idle and tells no KV usage is not", [{"kv_usage": None}], {}, 0, 0),
    ("KV caches held", [{"running": 4.0, "kv_usage": 0.6}, IDLE], {}, 0.75, 0),
]


@pytest.mark.parametrize(
    ("each", "metadata", "base", "queue"), [row[1:] for row in NOVICES], ids=[row[0] for row in NOVICES]
)
def test_without_a_cost_what_is_held_and_what_waits_is_all(
    each: list[dict[str, Any]], metadata: dict[str, str], base: float, queue: float
) -> None:
    found = demand(trigger(**metadata), several(*each).replicas, Learned(), None, Outlook())
    assert (found.base, found.by_queue, found.total) == pytest.approx((base, queue, base + queue))
    unknown = (found.requests, found.request_seconds, found.work, found.expected, found.planned)
    assert unknown == (None,) * 5


# The look.

BUSY = {"requests_finished_total": 5.0, "prompt_tokens_total": 500.0, "generation_tokens_total": 500.0}


def test_a_look_is_taken_once_a_slot() -> None:
    first = look(Outlook(), trigger(), [counting()], Learned(), NOW)
    assert first.flow.at == NOW
    assert look(first, trigger(), [counting(**BUSY)], Learned(), NOW + 4.4) is first
    # Clocks of two programs are not in step.
    assert look(first, trigger(), [counting(**BUSY)], Learned(), NOW + 4.6).flow.at == NOW + 4.6


def test_a_look_remembers_what_came_in_replicas() -> None:
    before = past(2.0).outlook
    flow = work.look(structs.replace(before.flow, at=None), [counting()], NOW)
    before = structs.replace(before, flow=structs.replace(flow, mix=before.flow.mix))
    after = look(before, trigger(), [counting(**BUSY)], Learned(), NOW + 5)
    assert after.cost is not None
    assert structs.astuple(after.cost) == pytest.approx(structs.astuple(COST))
    assert after.history.slots == (*before.history.slots, pytest.approx(1.0))  # 1 request/s of 1 s each
    assert after.seconds == before.seconds + 5


def test_it_is_planned_by_what_was_known_before_the_newest_reading() -> None:
    before = past(2.0).outlook
    calm = look(before, trigger(), [counting()], Learned(), NOW + 5)
    wild = look(before, trigger(), [counting(waiting=1e6)], Learned(), NOW + 5)
    assert calm.plan == wild.plan
    expected = forecast.plan(before.history, AHEAD, 2 * PATIENCE, work.shape(COST, MIX))
    assert structs.replace(calm.plan, shape=expected.shape) == expected
    assert structs.astuple(calm.plan.shape) == pytest.approx(structs.astuple(expected.shape))


def test_while_the_cost_is_not_known_nothing_is_remembered_but_quiet() -> None:
    first = look(Outlook(), trigger(), [replica()], Learned(), NOW)
    totals = {"requests_finished_total": 0.0, "prompt_tokens_total": 0.0, "generation_tokens_total": 0.0}
    quiet = look(first, trigger(), [replica(**totals)], Learned(), NOW + 5)
    assert quiet.history.slots == (0.0,)
    busy = look(quiet, trigger(), [replica(**(totals | BUSY))], Learned(), NOW + 10)
    assert busy.history == quiet.history
    assert busy.flow.at == NOW + 10
    # It is made up for as soon as the cost is known: by what full replicas were seen to serve.
    more = {name: 2 * count for name, count in BUSY.items()}
    told = look(busy, trigger(), [replica(**(totals | more))], Learned(service_rate=2.0), NOW + 15)
    assert told.history.slots == (0.0, 0.5, 0.5)


def test_a_cost_that_was_known_stays_known() -> None:
    before = past(2.0).outlook
    assert look(before, trigger(), [replica()], Learned(), NOW + 5).cost == COST
