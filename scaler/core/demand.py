"""How much work there is and will be, in whole replicas.

May not be in here: what comes and what it costs (work.py), how well it can be foreseen (forecast.py), what the replicas
that are left can carry (capacity.py), what is done about it (decision.py).

    demand = max(planned, KV cache held / kvCacheTarget, running / batch) + backlog / drainWithin

*planned* is what the forecast asks for. The two beside it are what is held right now: nobody may be left without a
place by a forecast. *backlog* is the part of the queue, in seconds of a replica's work, that will still be there when a
replica that is asked for now begins to serve: for what is worked off sooner, by those that serve or those that are on
their way, it would come too late.

Where nobody has shown yet what a request costs, there is nothing to plan by: what is held and what waits is all.
Every part grows or stays when what is read now grows: no reading that gets worse may ever lower the demand.
"""

from collections.abc import Sequence

from msgspec import Struct

from scaler.core import forecast, policy, work
from scaler.core.capacity import Learned
from scaler.core.trigger import Trigger
from scaler.core.view import Replica


class Outlook(Struct, frozen=True):
    """What is remembered of the work that came, and what was made of it."""

    flow: work.Flow = work.Flow()
    history: forecast.History = forecast.History()
    plan: forecast.Plan = forecast.Plan()
    cost: work.Cost | None = None

    @property
    def seconds(self) -> float:
        """How far back it goes."""
        return len(self.history.slots) * forecast.SLOT


class Demand(Struct, frozen=True):
    """The parts, each in whole replicas unless its comment says otherwise."""

    waiting: float  # requests
    running: float  # requests
    kv_usage: float  # caches: the sum over replicas
    batch: float  # requests that a full replica runs
    lead: float  # seconds from asking for a replica to its first token
    requests: float | None  # that came, per second; None: what one costs is not known, as in the next four
    request_seconds: float | None  # of a whole replica's time that one costs
    work: float | None  # that comes now
    expected: float | None  # a lead from now
    planned: float | None  # for that, scattered as the past was
    by_kv: float
    by_running: float
    base: float  # the largest
    backlog: float  # seconds of a whole replica's time; requests where what one costs is not known
    by_queue: float
    total: float


def lead(trigger: Trigger, learned: Learned) -> float:
    """Seconds from a need to a replica that serves: KEDA's and the HPA's own pace, and a cold start."""
    told = (trigger.cold_start, learned.cold_start, policy.value("cold_start"))
    return next(seconds for seconds in told if seconds is not None) + policy.value("sync")


def look(before: Outlook, trigger: Trigger, replicas: Sequence[Replica], learned: Learned, now: float) -> Outlook:
    """With what came since the last look, of replicas that are fresh; not more often than a slot lasts."""
    if before.flow.at is not None and now - before.flow.at < forecast.SLOT - policy.value("early"):
        return before
    flow = work.look(before.flow, replicas, now)
    cost = work.cost(replicas, flow.mix, learned.service_rate, before.cost) or before.cost
    came = work.came(flow, cost)
    if came is None:
        return Outlook(flow, before.history, before.plan, cost)
    # Planned by what was known before: the newest reading then counts in one place only (forecast.py, at the end).
    shape = forecast.Shape() if cost is None else work.shape(cost, flow.mix)
    plan = forecast.plan(before.history, lead(trigger, learned), _patience(trigger), shape, before.plan)
    came = min(came, policy.value("most_replicas"))
    return Outlook(flow, forecast.remember(before.history, came, now), plan, cost)


def demand(
    trigger: Trigger,
    replicas: Sequence[Replica],
    learned: Learned,
    gateway_waiting: float | None,
    outlook: Outlook,
    starting: Sequence[float] = (),
) -> Demand:
    """replicas: only those whose waiting and running are known and fresh, and that carry anything.

    starting: for each replica that does not serve yet, the seconds since it was first seen.
    """
    waiting = sum(replica.waiting or 0.0 for replica in replicas) + (gateway_waiting or 0.0)
    running = sum(replica.running or 0.0 for replica in replicas)
    kv_usage = sum(replica.kv_usage or 0.0 for replica in replicas)
    ahead, cost, flow = lead(trigger, learned), outlook.cost, outlook.flow
    by_kv = kv_usage / trigger.kv_cache_target
    if cost is None:
        return _held(trigger, replicas, Demand(
            waiting=waiting, running=running, kv_usage=kv_usage, batch=policy.value("batch"), lead=ahead,
            requests=None, request_seconds=None, work=None, expected=None, planned=None,
            by_kv=by_kv, by_running=0.0, base=0.0, backlog=waiting, by_queue=0.0, total=0.0,
        ))  # fmt: skip
    seconds = work.request_seconds(cost, flow.mix)
    expected = forecast.level(outlook.history, outlook.plan, ahead)
    planned = forecast.replicas_for(outlook.plan, expected, _patience(trigger)) * (1 + (trigger.headroom or 0.0))
    by_running = running / cost.batch
    base = max(planned, by_kv, by_running)
    supply = sum(1.0 if replica.capacity is None else replica.capacity for replica in replicas)
    # One that was first seen 100 s ago will have served for 100 s when one that is asked for now begins to. What is
    # late already may never come, and is not counted on.
    helped = sum(age for age in starting if age < ahead)
    backlog = max(0.0, _left(waiting * seconds, expected, supply, ahead, trigger) - helped)
    by_queue = backlog / trigger.drain_within if trigger.queue_target is None else waiting / trigger.queue_target
    return Demand(
        waiting=waiting,
        running=running,
        kv_usage=kv_usage,
        batch=cost.batch,
        lead=ahead,
        requests=sum(one.requests for one in flow.of.values()),
        request_seconds=seconds,
        work=outlook.history.slots[-1] if outlook.history.slots else 0.0,
        expected=expected,
        planned=planned,
        by_kv=by_kv,
        by_running=by_running,
        base=base,
        backlog=backlog,
        by_queue=by_queue,
        total=base + by_queue,
    )


def _patience(trigger: Trigger) -> float:
    """Seconds that a request may wait before it is begun: its own prefill and the step under way take the rest."""
    return trigger.ttft_target * policy.value("patience")


def _left(queued: float, expected: float, supply: float, ahead: float, trigger: Trigger) -> float:
    """What is left of the queue (seconds of work) when a replica that is asked for now begins to serve.

    A queue that is gone before anybody minds is none: requests wait for the step under way at any load.
    """
    if queued <= supply * _patience(trigger):
        return 0.0
    return queued + (expected - supply) * ahead


def _held(trigger: Trigger, replicas: Sequence[Replica], seen: Demand) -> Demand:
    """The demand by what is held and waits alone. A replica that says nothing of its KV cache needs itself if busy."""
    by_running = sum(
        max((replica.running or 0.0) / (replica.max_running or seen.batch), 1.0 if _cannot_tell(replica) else 0.0)
        for replica in replicas
    )
    base = max(seen.by_kv, by_running)
    by_queue = seen.waiting / (trigger.queue_target or policy.value("queue_target"))
    return Demand(
        waiting=seen.waiting, running=seen.running, kv_usage=seen.kv_usage, batch=seen.batch, lead=seen.lead,
        requests=None, request_seconds=None, work=None, expected=None, planned=None,
        by_kv=seen.by_kv, by_running=by_running, base=base, backlog=seen.waiting, by_queue=by_queue,
        total=base + by_queue,
    )  # fmt: skip


def _cannot_tell(replica: Replica) -> bool:
    return bool(replica.waiting) or (replica.kv_usage is None and bool(replica.running))
