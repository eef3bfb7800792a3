"""What replicas can carry: what was learned of them, and how many it takes for a demand.

May not be in here: where the demand comes from (demand.py), what a request costs (work.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from msgspec import Struct

from scaler.core.view import Replica


class Learned(Struct, frozen=True):
    """Of a typical replica. None: nobody has shown it yet."""

    service_rate: float | None = None  # requests finished per second while a queue stands
    cold_start: float | None = None  # seconds from a new pod to its first token


class Lessons(Struct, frozen=True):
    """What replicas have taught: kept, so that an exporter that restarts does not make the scaler a novice."""

    of: Mapping[str, float | None] = {}  # replica -> its own service rate; only those that are seen now
    typical: Learned = Learned()  # the last that was known


def learn(lessons: Lessons, replicas: Sequence[Replica], cold_start: float | None) -> Lessons:
    """The medians over the replicas: one odd reading moves them little, and newcomers are taken for typical.

    What a replica has of its model's others on its node is no lesson of its own: it would vote for them again. It
    counts where nobody has any. cold_start: as the nodes saw it; what was known stays while none of them tells.
    """
    of: dict[str, float | None] = {}
    borrowed = []
    for replica in replicas:
        own, name = replica.service_rate if replica.queued_seconds else None, replica.id
        of[name] = own or lessons.of.get(name)
        if not replica.queued_seconds:
            borrowed.append(replica.service_rate)
    rate = _median(of.values(), borrowed, lessons.typical.service_rate)
    return Lessons(of, Learned(rate, lessons.typical.cold_start if cold_start is None else cold_start))


def _median(own: Iterable[float | None], borrowed: Iterable[float | None], otherwise: float | None) -> float | None:
    for values in (own, borrowed):
        if known := [value for value in values if value is not None]:
            return median(known)
    return otherwise


def replicas_for(demand: float, capacities: Iterable[float]) -> float:
    """The smallest number of replicas (fractional) that carries `demand` whole replicas' worth of work.

    The worst is assumed of the order: Kubernetes knows nothing of GPUs, and when it removes pods it may well keep the
    sick ones. So the least capable count first, and a dead one takes a place and carries nothing. Beyond the replicas
    there are, new ones are whole.
    """
    if demand <= 0:
        return 0.0
    count = 0
    for capacity in sorted(capacities):
        if demand <= capacity:
            return count + demand / capacity
        demand -= capacity
        count += 1
    return count + demand


def carried(count: int, capacities: Iterable[float]) -> float:
    """The demand that `count` replicas carry by the same order: the inverse of replicas_for."""
    ordered = sorted(capacities)
    return sum(ordered[:count]) + max(0, count - len(ordered))
