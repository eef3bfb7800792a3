"""How many replicas a model needs: the policy, as a pure function.

May not be in here: clocks, I/O, constants (policy.py has every one, with its source), the arithmetic of the work
(demand.py) and of what replicas carry (capacity.py), the wording (account.py).

1. Which replicas count. One is *blind* when its oldest reading is older than staleAfter, or its waiting or running is
   missing; *starting* when it was never read and Kubernetes or its node say that it is not up yet, so that nothing is
   there to be missed; *dead* when its capacity is 0 (GPU lost or unhealthy, engine wedged or asleep); *impaired* when
   its capacity is below 1. An unknown capacity is taken for 1, as the replica serves, and the account says so.
2. The work, in whole replicas: what the forecast asks for (or what is held right now, if that is more), plus the
   backlog that will still be there when help comes. What a dead replica shows does not count: it is frozen, and what
   waits there is sent to others.
3. The replicas that carry it, the least capable counted first: a dead one takes a place and carries nothing. The value
   is absolute, so that replicas which are already on their way are never asked for twice.
4. Missing is not zero. A blind replica keeps itself on top of the work that is seen, and while anything is missing (a
   blind replica, a KV cache usage, an exporter that never answered, a past long enough to plan by) the answer is never
   below the replicas there are: it can still grow. While a replica that was read before is blind, it is not below the
   last answer either: that may have asked for replicas which are not seen yet. When nothing is known at all, the answer
   is Unknown, and the caller holds; for one window of the HPA from then on the answer is not below the replicas there
   are, since the HPA has forgotten what it was told before.
5. maxReplicas caps what the work asks for; not what rule 4 holds, for a hold removes nothing.
6. mode advisory answers with the replicas there are. The terms show what it would have said.

There is no damping here beyond that: the HPA has a window of its own (300 s down), and two in a row only make the
result harder to explain. The HPA does nothing about a value within 10 % of the replicas there are. To fewer it is not
pressed: what one replica in ten would save is little, and they are there when they are needed. To more it is, by a
value just beyond the 10 %, where what it then adds is nearer to what is needed than nothing (10 replicas, 11 needed).
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from scaler.core import account, policy
from scaler.core.capacity import Lessons, carried, learn, replicas_for
from scaler.core.demand import Demand, Outlook, demand, look
from scaler.core.trigger import QUEUE_DEPTH, Trigger
from scaler.core.view import Fleet, Replica

#: What decided; the label of plimsoll_scaler_decisions_total.
REASONS = (
    "idle",
    "forecast",
    "running",
    "kv_cache",
    "queue",
    "lost_capacity",
    "max_replicas",
    "hold",
    "advisory",
    "unknown",
)
SUPPLYING, IMPAIRED, DEAD, STARTING, BLIND = STATES = ("supplying", "impaired", "dead", "starting", "blind")


class Memory(Struct, frozen=True):
    """What one ScaledObject's decisions remember of the earlier ones."""

    lessons: Lessons = Lessons()
    outlook: Outlook = Outlook()
    unknown: float | None = None  # when nothing was known last
    held: float = 0.0  # replicas that the last decision came to, before advice was made of it


class Decision(Struct, frozen=True):
    """An answer. terms: name -> number, in the order of the arithmetic; what is unknown is absent."""

    required_replicas: float  # 0 or more, finite, in thousandths
    active: bool
    reason: str  # one of REASONS
    terms: Mapping[str, float]
    vetoes: tuple[str, ...]  # why it may not be fewer than there are
    explanation: str  # one line


class Unknown(Struct, frozen=True):
    """No answer, and why: one line with cause, place and fix."""

    reason: str


def state(replica: Replica, trigger: Trigger) -> str:
    """One of STATES. Blind goes before dead: of what cannot be seen, only that is sure."""
    if replica.reading_age is None:
        return STARTING if replica.ready is False or replica.cause == "cold_start" else BLIND
    if replica.reading_age > trigger.stale_after:
        return BLIND
    if replica.waiting is None or replica.running is None:
        return BLIND
    if replica.capacity is None or replica.capacity >= 1:
        return SUPPLYING
    return IMPAIRED if replica.capacity > 0 else DEAD


def recall(fleet: Fleet, memory: Memory) -> Fleet:
    """The fleet with those that cannot be told by their model any more (their exporter restarted), but once were."""
    ours = tuple(replica for replica in fleet.nameless if replica.id in memory.lessons.of)
    return structs.replace(fleet, replicas=fleet.replicas + ours, nameless=()) if ours else fleet


def decide(trigger: Trigger, fleet: Fleet, memory: Memory | None, now: float) -> tuple[Decision | Unknown, Memory]:
    """The answer, and what to remember for the next one. `now`: monotonic seconds. Never raises on a Fleet."""
    memory = memory or Memory()
    fleet = recall(fleet, memory)
    by_state: dict[str, list[Replica]] = {name: [] for name in STATES}
    for replica in fleet.replicas:
        by_state[state(replica, trigger)].append(replica)
    blind, starting = by_state[BLIND], by_state[STARTING]
    live = by_state[SUPPLYING] + by_state[IMPAIRED]
    seen = live + by_state[DEAD]
    if fleet.problem or not seen:
        problem = fleet.problem or account.nothing_fresh(blind, starting, trigger)
        return Unknown(problem), structs.replace(memory, unknown=now)

    lessons = learn(memory.lessons, fleet.replicas, fleet.cold_start)
    outlook = memory.outlook
    # What came is not known while a part of it is not seen; it is made up for when that part comes back.
    lost = sum(replica.reading_age is not None for replica in blind)
    if not lost:
        outlook = look(outlook, trigger, live, lessons.typical, now)
    ages = [replica.age for replica in starting if replica.capacity != 0]
    work = demand(trigger, live, lessons.typical, fleet.gateway_waiting, outlook, ages)

    # One that was never read is a new one on its way: it will carry what its GPU lets it, and has nothing to keep.
    new = starting + [replica for replica in blind if replica.reading_age is None]
    capacities = [1.0 if replica.capacity is None else replica.capacity for replica in (*seen, *new)]
    needed = min(replicas_for(work.total, capacities) + lost, policy.value("most_replicas"))

    there = max(len(fleet.replicas), fleet.spec_replicas or 0)
    missing = account.missing(trigger, fleet, seen, blind)
    since_unknown = math.inf if memory.unknown is None else now - memory.unknown
    vetoes = missing + account.unlearned(work, outlook, since_unknown)
    capped = needed if trigger.max_replicas is None else min(needed, float(trigger.max_replicas))
    floor = max(float(there), memory.held if lost else 0.0) if vetoes else 0.0
    held = max(capped, floor)
    scale = float(fleet.spec_replicas or len(fleet.replicas))
    answer = scale if trigger.mode == "advisory" else _pressed(held, scale, trigger)
    required = _thousandths(answer)

    whole = math.ceil(_thousandths(needed))
    terms = _terms(work, fleet, by_state) | {
        "needed": _thousandths(needed),
        # The work at which one more, or one fewer, is needed.
        "demand_up": carried(whole - lost, capacities),
        **({"demand_down": carried(whole - lost - 1, capacities)} if whole > lost else {}),
        **({"floor": _thousandths(floor)} if vetoes else {}),
        "held": _thousandths(held),
        "required": required,
    }
    reason = _reason(trigger, work, (needed, capped, held), lost)
    decision = Decision(
        required_replicas=required,
        active=work.waiting + work.running > 0 or bool(missing) or trigger.mode == "advisory",
        reason=reason,
        terms=terms,
        vetoes=vetoes,
        explanation=account.sentence(trigger, fleet, by_state, reason, terms, vetoes),
    )
    return decision, Memory(lessons, outlook, memory.unknown, held)


def metric_value(metric: str, trigger: Trigger, decision: Decision) -> tuple[int, float]:
    """What KEDA is told: the same value as an int (rounded up) and as a float; finite, 0 or more.

    A queue depth that rests on missing data, or is only advice, is told as what keeps the replicas there are.
    """
    value = decision.required_replicas
    if metric == QUEUE_DEPTH:
        target = trigger.queue_target or policy.value("queue_target")
        value = decision.terms["waiting"]
        if trigger.mode == "advisory":
            value = decision.required_replicas * target
        elif decision.vetoes:
            value = max(value, decision.terms["floor"] * target)
        elif trigger.max_replicas is not None:
            value = min(value, trigger.max_replicas * target)
        value = _thousandths(min(value, policy.value("most_replicas") * target))
    return math.ceil(value), value


def _pressed(held: float, scale: float, trigger: Trigger) -> float:
    """As much more than is held as makes the HPA act, where that comes nearer than its doing nothing."""
    acts = _thousandths(scale * (1 + policy.value("hpa_tolerance"))) + 0.001
    whole = math.ceil(acts)
    if not scale < held < acts or whole - held > held - scale:
        return held
    return held if trigger.max_replicas is not None and whole > trigger.max_replicas else acts


def _thousandths(value: float) -> float:
    """KEDA hands a quantity of thousandths to the HPA. What is more than nothing stays more than nothing."""
    return max(round(value, 3), 0.001) if value > 0 else 0.0


def _reason(trigger: Trigger, work: Demand, steps: tuple[float, float, float], lost: int) -> str:
    """The term without which the answer would be another, the last that touched it first."""
    needed, capped, held = steps
    if trigger.mode == "advisory":
        return "advisory"
    if held > capped:
        return "hold"
    if capped < needed:
        return "max_replicas"
    if needed <= 0:
        return "idle"
    if math.ceil(_thousandths(work.total)) < math.ceil(_thousandths(needed)):
        return "hold" if lost else "lost_capacity"
    if work.by_queue > 0 and math.ceil(_thousandths(work.base)) < math.ceil(_thousandths(work.total)):
        return "queue"
    largest = {"forecast": work.planned or 0.0, "kv_cache": work.by_kv, "running": work.by_running}
    return max(largest, key=lambda name: largest[name])


def _terms(work: Demand, fleet: Fleet, by_state: Mapping[str, Sequence[Replica]]) -> dict[str, float]:
    count = {name: float(len(replicas)) for name, replicas in by_state.items()}
    fresh = [replica for name in (SUPPLYING, IMPAIRED, DEAD) for replica in by_state[name]]
    ages = [replica.reading_age for replica in fleet.replicas if replica.reading_age is not None]
    terms: dict[str, float | None] = {
        "waiting": work.waiting,
        "running": work.running,
        "gateway_waiting": fleet.gateway_waiting,
        "kv_usage": work.kv_usage,
        "oldest_reading_seconds": max(ages),
        "requests_per_second": work.requests,
        "request_seconds": work.request_seconds,
        "batch": work.batch,
        "work": work.work,
        "lead_seconds": work.lead,
        "expected": work.expected,
        "planned": work.planned,
        "demand_running": work.by_running,
        "demand_kv": work.by_kv,
        "demand_base": work.base,
        "backlog": work.backlog,
        "demand_queue": work.by_queue,
        "demand": work.total,
        "replicas": float(len(fleet.replicas)),
        **count,
        "capacity_unknown": float(sum(replica.capacity is None for replica in fresh)),
        "supply": sum(1.0 if replica.capacity is None else replica.capacity for replica in fresh),
    }
    return {name: number for name, number in terms.items() if number is not None}
