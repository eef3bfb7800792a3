"""How much work there is, in whole replicas.

May not be in here: what the replicas that are left can carry (capacity.py), what is done about it (decision.py).

    demand = max(running requests / knee, KV cache held / kvCacheTarget) + backlog / queue that a replica can work off

Every part of it grows or stays when a load grows: no reading that gets worse may ever lower the demand.
"""

from collections.abc import Sequence

from msgspec import Struct

from scaler.core import policy
from scaler.core.capacity import Learned
from scaler.core.trigger import Trigger
from scaler.core.view import Replica

Point = tuple[float, float]  # (when, requests that waited)


class Demand(Struct, frozen=True):
    """The parts, each in whole replicas unless its comment says otherwise."""

    waiting: float  # requests
    running: float  # requests
    kv_usage: float  # caches: the sum over replicas
    knee: float  # requests per replica
    headroom: float  # ratio
    by_running: float
    by_kv: float
    base: float  # the larger of the two
    trend: float  # requests/s, only upwards
    lead: float  # seconds that the trend is followed ahead: a cold start
    backlog: float  # requests
    per_replica: float  # requests of backlog that ask for one replica
    by_queue: float
    total: float


def demand(
    trigger: Trigger, replicas: Sequence[Replica], learned: Learned, gateway_waiting: float | None, trend: float
) -> Demand:
    """replicas: only those whose waiting and running are known and fresh."""
    waiting = sum(replica.waiting or 0.0 for replica in replicas) + (gateway_waiting or 0.0)
    running = sum(replica.running or 0.0 for replica in replicas)
    kv_usage = sum(replica.kv_usage or 0.0 for replica in replicas)

    # Without a knee the KV cache has to tell (by_kv is running over the running that would fill the target), and
    # no batch is larger than the cap.
    knee = max(1.0, learned.knee) if learned.knee is not None else policy.value("knee_cap")
    headroom = trigger.headroom
    if headroom is None:
        headroom = policy.value("headroom") if learned.knee is not None else 0.0
    by_running = sum(_busy(replica, learned, knee, headroom) for replica in replicas)
    by_kv = kv_usage / trigger.kv_cache_target
    base = max(by_running, by_kv)

    lead = next(s for s in (trigger.cold_start, learned.cold_start, policy.value("cold_start")) if s is not None)
    backlog = waiting + min(max(0.0, trend) * lead, waiting * policy.value("trend_cap"))
    per_replica = _per_replica(trigger, learned)
    by_queue = backlog / per_replica
    return Demand(
        waiting=waiting,
        running=running,
        kv_usage=kv_usage,
        knee=knee,
        headroom=headroom,
        by_running=by_running,
        by_kv=by_kv,
        base=base,
        trend=max(0.0, trend),
        lead=lead,
        backlog=backlog,
        per_replica=per_replica,
        by_queue=by_queue,
        total=base + by_queue,
    )


def _busy(replica: Replica, learned: Learned, knee: float, headroom: float) -> float:
    """One replica's part: what its running requests need; all of itself if a queue stands before it.

    Where neither a knee nor the KV cache can tell how full it is, a busy replica needs itself.
    """
    running = replica.running or 0.0
    cannot_tell = learned.knee is None and replica.kv_usage is None
    full = bool(replica.waiting) or (cannot_tell and running > 0)
    return max(running / knee * (1 + headroom), 1.0 if full else 0.0)


def _per_replica(trigger: Trigger, learned: Learned) -> float:
    if trigger.queue_target is not None:
        return trigger.queue_target
    if learned.service_rate is not None:
        return max(1.0, learned.service_rate * trigger.drain_within)
    return policy.value("queue_target")


def remember(points: Sequence[Point], now: float, waiting: float) -> tuple[tuple[Point, ...], float]:
    """(points to keep, slope in requests/s) of the queue over the last trend_window, by least squares.

    The slope is 0 until the points span trend_span. A point is kept once per trend_step; the newest always counts.
    """
    window, step = policy.value("trend_window"), policy.value("trend_step")
    kept = [point for point in points if now - window <= point[0] <= now]
    # A second reading of one moment replaces the first.
    earlier = [point for point in kept if point[0] < now]
    slope = _slope([*earlier, (now, waiting)])
    if not earlier or now - earlier[-1][0] >= step:
        return (*earlier, (now, waiting)), slope
    return tuple(earlier), slope


def _slope(points: Sequence[Point]) -> float:
    start = points[0][0]
    if points[-1][0] - start < policy.value("trend_span"):
        return 0.0
    mean_at = sum(at - start for at, _ in points) / len(points)
    mean = sum(waiting for _, waiting in points) / len(points)
    spread = sum((at - start - mean_at) ** 2 for at, _ in points)
    return sum((at - start - mean_at) * (waiting - mean) for at, waiting in points) / spread
