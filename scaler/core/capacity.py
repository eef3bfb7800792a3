"""What replicas can carry: what was learned of them, and how many it takes for a demand.

May not be in here: where the demand comes from (demand.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from msgspec import Struct

from scaler.core.view import Replica


class Learned(Struct, frozen=True):
    """Of a typical replica. None: nobody has shown it yet."""

    knee: float | None = None  # requests in flight at which a queue forms
    service_rate: float | None = None  # requests finished per second while a queue stands


class Lessons(Struct, frozen=True):
    """What replicas have taught: kept, so that an exporter that restarts does not make the scaler a novice."""

    of: Mapping[str, Learned] = {}  # replica -> its own; only those that are seen now
    typical: Learned = Learned()  # the last that was known


def learn(lessons: Lessons, replicas: Sequence[Replica]) -> Lessons:
    """The medians over the replicas: one odd reading moves them little, and newcomers are taken for typical."""
    of = {}
    for replica in replicas:
        old = lessons.of.get(replica.id, Learned())
        of[replica.id] = Learned(replica.knee_running or old.knee, replica.service_rate or old.service_rate)
    typical = Learned(
        _median((each.knee for each in of.values()), lessons.typical.knee),
        _median((each.service_rate for each in of.values()), lessons.typical.service_rate),
    )
    return Lessons(of, typical)


def _median(values: Iterable[float | None], otherwise: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else otherwise


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
