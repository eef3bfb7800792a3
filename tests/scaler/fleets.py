"""Fleets for the tests of the scaler's core: replicas, triggers, and memories of a load that was."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from scaler.core import forecast, policy
from scaler.core.capacity import Learned
from scaler.core.decision import Decision, Memory, Unknown, decide
from scaler.core.demand import Outlook, lead
from scaler.core.trigger import Trigger, parse
from scaler.core.view import Fleet, GpuView, Replica
from scaler.core.work import Cost, Flow, Mix, shape

NOW = 10_000.0
LOST = GpuView("GPU-1", state="lost", reasons=(("xid_79", "reset_gpu"),), capacity=0.0)

#: A pace at which a request of 100 prompt and 100 output tokens costs 1 s in a batch of 10.
PACED: dict[str, Any] = {
    "step_seconds": 0.04,
    "sequence_seconds": 0.005,
    "prompt_token_seconds": 0.001,
    "pace_seconds": 100.0,
    "max_running": 10.0,
}
#: The same as it is remembered.
COST, MIX = Cost(0.001, 0.009, 0.0, 10.0, 0.04, limit=10.0), Mix(1.0, 100.0, 100.0)


def replica(pod: str = "llama-0", **fields: Any) -> Replica:
    """Healthy, idle and read just now."""
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


def counting(pod: str = "llama-0", **fields: Any) -> Replica:
    """One that counts what it does, and whose pace is known."""
    counters = {"prompt_tokens_total": 0.0, "generation_tokens_total": 0.0, "requests_finished_total": 0.0}
    return replica(pod, **(counters | PACED | fields))


def several(*each: Mapping[str, Any]) -> Fleet:
    return Fleet(tuple(replica(f"llama-{i}", **fields) for i, fields in enumerate(each)))


def trigger(**metadata: str) -> Trigger:
    return parse("default", "llama", {"model": "llama"} | metadata)


def past(work: float, seconds: float = 600.0, chosen: Trigger | None = None) -> Memory:
    """Of a steady load of so many replicas' work, looked at last at NOW. What a request costs is known (COST)."""
    chosen = chosen or trigger()
    history = forecast.History(NOW, (work,) * int(seconds / forecast.SLOT))
    patience = chosen.ttft_target * policy.value("patience")
    plan = forecast.plan(history, lead(chosen, Learned()), patience, shape(COST, MIX))
    return Memory(outlook=Outlook(Flow(NOW, {}, MIX), history, plan, COST))


def answer(fleet: Fleet, chosen: Trigger | None = None, memory: Memory | None = None, now: float = NOW) -> Decision:
    decision, _ = decide(chosen or trigger(), fleet, memory, now)
    assert isinstance(decision, Decision), decision
    return decision


class Step(NamedTuple):
    """What happened to every replica up to a moment. odd: index of a replica -> fields that it shows instead."""

    seconds: float  # since the step before
    finished: float = 0.0  # requests of each replica, per second
    waiting: float = 0.0
    running: float = 0.0
    odd: Mapping[int, Mapping[str, Any] | None] = {}  # None: it is not there


def played(
    steps: Iterable[Step], count: int, chosen: Trigger | None = None, **fields: Any
) -> list[tuple[Decision | Unknown, Memory, Fleet, float]]:
    """What was decided at each step, in their order. fields: of every replica, beside its counters."""
    memory, now, finished = Memory(), 0.0, 0.0
    found = []
    for step in steps:
        now += step.seconds
        finished += step.finished * step.seconds
        counters = {
            "requests_finished_total": finished,
            "prompt_tokens_total": finished * 100.0,
            "generation_tokens_total": finished * 100.0,
            "waiting": step.waiting,
            "running": step.running,
        }
        replicas = []
        for index in range(count):
            odd = step.odd.get(index, {})
            if odd is not None:
                replicas.append(counting(f"llama-{index}", **(counters | fields | odd)))
        fleet = Fleet(tuple(replicas))
        result, memory = decide(chosen or trigger(), fleet, memory, now)
        found.append((result, memory, fleet, now))
    return found
