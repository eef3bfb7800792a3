"""How many replicas the work of the near future takes, by how well the past could be told beforehand.

May not be in here: where work comes from (work.py), replicas that there are (decision.py), clocks.

A replica that is asked for now serves after a cold start. So what counts is the work from then on, and how wrong a
forecast made a cold start ahead can be. Both are taken from the fleet's own past:

1. The past is a row of SLOT seconds each with the work that came, in replicas.
2. A forecast is a mean over the last seconds (METHODS), possibly with its slope. The method is used that would have
   done best so far at telling the work one cold start ahead.
3. What it erred by, slot after slot in their order, is taken to happen again: `level` + errors is the future that is
   prepared for. It has the bursts of the past in it, their lengths, and the growth that could not be foreseen.
4. For a number of replicas the queue that this future would leave is worked through (late()): how much of the work
   would wait longer than the target.
5. A replica is worth having while it takes `worth` of a replica's work or more out of lateness. On a steady load that
   keeps nearly everything in time, since one replica less makes most of it late; on rare bursts it does not buy a
   fleet that idles. How much lateness is left at that point is what the decision tolerates (Plan.tolerated).

1 to 5 rest on what was there before the newest reading. So the answer itself, the fewest replicas whose lateness is
tolerated at today's level and queue, can only grow with either.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from msgspec import Struct

from scaler.core import policy

SLOT = 5.0  # seconds


class History(Struct, frozen=True):
    """The work that came, the newest last; of the last `history` seconds."""

    until: float | None = None  # monotonic, end of the newest slot
    slots: tuple[float, ...] = ()  # replicas


class Plan(Struct, frozen=True):
    """What the past says of the future, but for today's level."""

    method: int = 0  # row of METHODS
    errors: tuple[float, ...] = ()  # replicas, slot by slot
    weights: tuple[float, ...] = ()  # the work that came in each of these slots
    tolerated: float = 0.0  # work that may be late, in replicas
    growth: float = 1.0  # what could come on top while the past is too short to tell


class Method(NamedTuple):
    """The mean of the last `seconds`, and `slope` of the way that it moved in as long, a cold start ahead."""

    seconds: float
    slope: float


METHODS = (Method(60.0, 0.0), Method(300.0, 0.0), Method(1200.0, 0.0), Method(300.0, 1.0))


def remember(history: History, work: float, now: float) -> History:
    """With as many slots more as have passed: all with the work of now, as nothing else is known of them."""
    if history.until is None:
        return History(now, ())
    passed = int((now - history.until) / SLOT + 1e-6)
    if passed <= 0:
        return history
    most = int(policy.value("history") / SLOT)
    slots = (*history.slots, *([work] * min(passed, most)))
    return History(history.until + passed * SLOT, slots[-most:])


def plan(history: History, lead: float, target: float) -> Plan:
    """lead: seconds from asking for a replica to its first token; target: seconds that a request may wait."""
    slots = history.slots
    if not slots:
        return Plan()
    sums = (0.0, *accumulate(slots))
    # A past that is shorter than a few leads cannot tell errors so far ahead: those of a shorter lead are told, and
    # what may grow in the rest is assumed.
    ahead = max(1, min(round(lead / SLOT), len(slots) // 3))
    unknown = max(0.0, lead - ahead * SLOT) / 60.0
    best, errors, least = 0, [0.0], float("inf")
    for index, method in enumerate(METHODS):
        told = [slots[at] - _level(sums, method, at - ahead, ahead) for at in range(ahead + 1, len(slots))]
        loss = _loss(told)
        if told and loss < least:
            best, errors, least = index, told, loss
    weights = slots[-len(errors) :]
    level = _level(sums, METHODS[best], len(slots), ahead)
    path = [max(0.0, level + error) for error in errors]
    growth = 1.0 + policy.value("growth") * unknown
    return Plan(best, tuple(errors), tuple(weights), _tolerated(path, weights, target), growth)


def level(history: History, of: Plan, lead: float) -> float:
    """The work that is expected a lead from now, in replicas."""
    slots = history.slots
    if not slots:
        return 0.0
    sums = (0.0, *accumulate(slots))
    ahead = max(1, min(round(lead / SLOT), len(slots) // 3))
    return max(0.0, _level(sums, METHODS[of.method], len(slots), ahead)) * of.growth


def replicas_for(of: Plan, expected: float, target: float) -> int:
    """The fewest whole replicas with which no more is late than is tolerated."""
    path = [max(0.0, expected + error) for error in of.errors]
    low, high = 0, 1
    while late(path, of.weights, high, target) > of.tolerated + 1e-9:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if late(path, of.weights, middle, target) > of.tolerated + 1e-9:
            low = middle
        else:
            high = middle
    return high if path and max(path) > 0 else 0


def late(path: Sequence[float], weights: Sequence[float], replicas: int, target: float) -> float:
    """Work that waits longer than `target` seconds before so many replicas: the mean over the path, in replicas."""
    rate = replicas * policy.value("full")
    room, served, queue, total = rate * target, rate * SLOT, 0.0, 0.0
    for work, weight in zip(path, weights, strict=True):
        queue += work * SLOT
        if queue > served:
            queue -= served
            if queue > room:
                total += weight
        else:
            queue = 0.0
    return total / len(path) if path else 0.0


def _level(sums: Sequence[float], method: Method, end: int, ahead: int) -> float:
    """What the method says at slot `end`, of which the slots before are known."""
    if end <= 0:
        return 0.0
    slots = max(1, round(method.seconds / SLOT))
    begin = max(0, end - slots)
    mean = (sums[end] - sums[begin]) / (end - begin)
    if not method.slope or end - begin < 4:
        return mean
    middle = (begin + end) // 2
    older, newer = (sums[middle] - sums[begin]) / (middle - begin), (sums[end] - sums[middle]) / (end - middle)
    slope = (newer - older) / ((end - begin) / 2)
    return mean + method.slope * slope * (ahead + (end - begin) / 2)


def _loss(errors: Sequence[float]) -> float:
    """What it costs to prepare for these errors as well as one number can: too little is worse than too much."""
    if not errors:
        return 0.0
    share = policy.value("covered")
    level = sorted(errors)[min(len(errors) - 1, int(share * len(errors)))]
    return sum(share * (e - level) if e > level else (1 - share) * (level - e) for e in errors) / len(errors)


def _tolerated(path: Sequence[float], weights: Sequence[float], target: float) -> float:
    """What is late when no further replica is worth having: where lateness + worth x replicas is least.

    Looked for on a coarse grid first: late() is dear, and does not rise with the replicas.
    """
    worth = policy.value("worth")
    known: dict[int, float] = {}

    def price(replicas: int) -> float:
        if replicas not in known:
            known[replicas] = late(path, weights, replicas, target)
        return known[replicas] + worth * replicas

    low, high = 0, math.ceil(max(path, default=0.0) / policy.value("full"))
    while high - low > 2:
        step = max(1, (high - low) // 8)
        best = min(range(low, high + 1, step), key=price)
        low, high = max(low, best - step), min(high, best + step)
        if step == 1:
            break
    return known[min(range(low, high + 1), key=price)]
