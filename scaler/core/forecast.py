"""How many replicas the work of the near future takes, by what the past was like.

May not be in here: where work comes from (work.py), replicas that there are (decision.py), clocks.

A replica that is asked for now serves after a cold start. So what counts is the work from then on. What it will be is
told from the fleet's own past:

1. The past is a row of SLOT seconds each with the work that came, in replicas.
2. The level is its mean over the last `level_over` seconds. Over the next cold start it may grow as it did over the
   last one, by `again` of the most that it ever did over one, and by `growth` at least: that a load will rise cannot
   always be told from what it was.
3. By what each slot was above or below the mean before it (the errors) the future is taken to be scattered again, slot
   after slot in their order: it has the bursts of the past in it, their heights and their lengths.
4. For a number of replicas this future is worked through (late()): how much of the work waits longer than the target.
   Prompts go first, and generating takes what is left of the time: so a burst fills the batches before anybody waits.
5. A replica is worth having while it takes `worth` of a replica's work or more out of lateness. On a steady load that
   keeps nearly everything in time, since one replica less makes most of it late; on rare bursts it does not buy a
   fleet that idles. How much lateness is left at that point is what the decision tolerates (Plan.tolerated).

1 to 5 rest on what was there before the newest reading. So the answer itself, the fewest replicas whose lateness is
tolerated at today's level and queue, can only grow with either.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from scaler.core import policy

SLOT = 5.0  # seconds


class History(Struct, frozen=True):
    """The work that came, the newest last; of the last `history` seconds."""

    until: float | None = None  # monotonic, end of the newest slot
    slots: tuple[float, ...] = ()  # replicas


class Shape(Struct, frozen=True):
    """How engines take the work that comes: what they do at once, and what they take into their batches."""

    prompts: float = 1.0  # share of the work that is prompts; the rest is generating
    batch: float = 0.0  # seconds of a replica's work that a full batch still has to generate
    step: float = 0.0  # share of a full batch's step that a step takes with one request, too


class Plan(Struct, frozen=True):
    """What the past says of the future, but for today's level."""

    errors: tuple[float, ...] = ()  # replicas, slot by slot
    weights: tuple[float, ...] = ()  # the work that came in each of these slots
    tolerated: float = 0.0  # work that may be late, in replicas
    spare: float = 0.0  # replicas beyond the mean that it took then: where to look first
    shape: Shape = Shape()
    rise: float = 0.0  # replicas by which the level rose at most over a lead


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


def plan(history: History, lead: float, target: float, shape: Shape, before: Plan | None = None) -> Plan:
    """lead: seconds from asking for a replica to its first token; target: seconds that a request may wait.

    What too short a past does not tell is taken to be steady.
    before: the plan of a moment ago; it changes nothing but how soon this one is found.
    """
    slots = history.slots
    if not slots:
        return Plan()
    over, least = round(policy.value("level_over") / SLOT), round(policy.value("level_least") / SLOT)
    sums = (0.0, *accumulate(slots))
    # The level after each slot, from the first that is a mean over enough.
    levels = [sums[at] / at for at in range(least, min(over, len(sums)))]
    levels += [(until - since) / over for since, until in zip(sums, sums[over:], strict=False)]
    errors = [slot - mean for slot, mean in zip(slots[least:], levels, strict=False)]
    ahead = _slots(lead)
    rise = max((later - mean for mean, later in zip(levels, levels[ahead:], strict=False)), default=0.0)
    mean, steady = _level(slots), max(0, over - len(errors))
    weights = (*[mean] * steady, *slots[len(slots) - len(errors) :])
    errors = [0.0] * steady + errors
    path = [max(0.0, mean + error) for error in errors]
    replicas, tolerated = _worthwhile(path, weights, target, shape, math.ceil(mean + (before.spare if before else 0.0)))
    return Plan(tuple(errors), weights, tolerated, replicas - mean, shape, max(0.0, rise))


def level(history: History, of: Plan, lead: float) -> float:
    """The work that is prepared for, in replicas, but for its scatter. lead: as in plan().

    In a past of less than three leads, the rise over a third of it is taken to go on, for `stretch` times as long.
    """
    now, ahead = _level(history.slots), _slots(lead)
    back = max(1, min(ahead, len(history.slots) // 3))
    before = history.slots[:-back]
    known = len(before) * SLOT >= policy.value("level_least")
    risen = (now - _level(before)) * min(policy.value("stretch"), ahead / back) if known else 0.0
    return now + max(risen, policy.value("again") * of.rise, now * policy.value("growth") * lead / 60.0)


def replicas_for(of: Plan, expected: float, target: float) -> int:
    """The fewest whole replicas with which no more is late than is tolerated."""
    path = [max(0.0, expected + error) for error in of.errors]
    if not any(path):
        return 0

    def enough(replicas: int) -> bool:
        return late(path, of.weights, replicas, target, of.shape, of.tolerated + 1e-9) <= of.tolerated + 1e-9

    high, step = max(1, math.ceil(expected + of.spare)), 1
    if enough(high):
        low = high - 1
        while low > 0 and enough(low):
            low, high, step = max(0, low - step), low, step * 2
    else:
        low, high = high, high + 1
        while not enough(high):
            low, high, step = high, high + step, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def late(
    path: Sequence[float],
    weights: Sequence[float],
    replicas: int,
    target: float,
    shape: Shape,
    limit: float = math.inf,
) -> float:
    """Work that waits longer than `target` seconds before so many replicas: the mean over the path, in replicas.

    More than `limit` is not counted. In a slot, a batch that has `batch` seconds of work in it is worked on for the
    time that prompts leave, as fast as its fill allows: a step takes `step` of a full one's time with one request, too.
    What is then left of it solves batch' = batch - left x batch' / (step x full + (1 - step) x batch'): it is taken at
    the slot's end, so that more work always leaves more.
    """
    room, time, full = replicas * target, replicas * SLOT, replicas * shape.batch
    of_prompts, of_batch = shape.prompts * SLOT, (1.0 - shape.prompts) * SLOT
    slope = max(1e-3, 1.0 - shape.step)
    fixed = full * (1.0 - slope)
    most = limit * len(path)
    prompts = batch = total = 0.0
    for work, weight in zip(path, weights, strict=True):
        prompts += work * of_prompts
        batch += work * of_batch
        if prompts < time:
            left, prompts = time - prompts, 0.0
            if batch - left >= full:
                batch -= left
            elif batch > 0.0:
                half = fixed + left - slope * batch
                batch = (math.sqrt(half * half + 4.0 * fixed * slope * batch) - half) / (2.0 * slope)
        else:
            prompts -= time
        if prompts + batch > room and prompts + max(0.0, batch - full) > room:
            total += weight
            if total > most:
                break
    return total / len(path) if path else 0.0


def _slots(seconds: float) -> int:
    return max(1, round(seconds / SLOT))


def _level(slots: Sequence[float]) -> float:
    newest = slots[-round(policy.value("level_over") / SLOT) :]
    return sum(newest) / len(newest) if newest else 0.0


def _worthwhile(
    path: Sequence[float], weights: Sequence[float], target: float, shape: Shape, likely: int
) -> tuple[int, float]:
    """How many replicas are worth having, and what is late before them: where lateness + worth x replicas is least.

    late() is dear, and does not rise with the replicas: between two numbers of replicas the price is never below the
    lateness of the one and the replicas of the other. So most of them need not be looked at, and fewest where a likely
    number is looked at first.
    """
    worth = policy.value("worth")
    most = math.ceil(max(path, default=0.0))
    best, tolerated = 0, late(path, weights, 0, target, shape)
    least = tolerated  # the lowest price so far
    spans, middle = [(0, most + 1, 0.0)], min(max(likely, 1), most)  # (fewer, more, what is late with more)
    while spans:
        low, high, delay = spans.pop()
        if high - low < 2 or delay + worth * (low + 1) >= least:
            continue
        middle = middle if low < middle < high else (low + high) // 2
        found = late(path, weights, middle, target, shape, least)
        if found + worth * middle < least:
            best, tolerated, least = middle, found, found + worth * middle
        spans += [(middle, high, delay), (low, middle, found)]
    return best, tolerated
