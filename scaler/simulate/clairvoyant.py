"""A bound: the replicas of one who knows every request beforehand, and what each costs.

May not be in here: anything that a policy in the world could use. This is what the others are held against.

Work in seconds of a replica is known for each request from the profile. The replicas that are needed at a time are the
work of the seconds around it over `utilisation`, which is what is swept. From that the cheapest schedule follows layer
by layer: the k-th replica is there whenever k are needed; a gap between two such times is bridged if that costs less
than to stop and start again, since a start takes a cold start of a GPU's time; and each start is made a cold start
ahead.
"""

import math
from bisect import bisect_right
from itertools import accumulate

from scaler.simulate.model import Answer, Profile, Scenario, Seen

#: Seconds of arrivals, before and after a moment, that must be carried at it: half of that is what users wait at most.
BEFORE, AFTER = 5, 10
#: Above 1: one who lets some requests be late on purpose.
SWEEP = (1.3, 1.2, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
#: The utilisation by which start() counts: a fleet that is neither idle nor late.
USUAL = 0.85


def request_seconds(profile: Profile, prompt: int, output: int, cached: int, batch: float) -> float:
    """What a request costs a replica in a full batch."""
    computed = prompt - cached
    context = prompt + output / 2
    attention = profile.per_prompt_token_squared * computed * (cached + computed / 2)
    token = profile.per_sequence + profile.per_context_token * context + profile.step / batch
    return profile.per_prompt_token * computed + attention + token * output


def needed(scenario: Scenario, utilisation: float) -> list[int]:
    """The replicas of each second of the trace."""
    arrivals, profile = scenario.trace.arrivals, scenario.profile
    seconds = math.ceil(scenario.trace.seconds)
    if not arrivals:
        return [scenario.minimum] * seconds
    held = sum(arrival.prompt + arrival.output / 2 for arrival in arrivals) / len(arrivals)
    batch = max(1.0, min(profile.max_num_seqs, profile.kv_tokens / held))
    work = [0.0] * seconds
    for arrival in arrivals:
        cost = request_seconds(profile, arrival.prompt, arrival.output, arrival.cached, batch)
        work[min(seconds - 1, int(arrival.at))] += cost
    sums = [0.0, *accumulate(work)]
    most, least = scenario.maximum, max(1, scenario.minimum)
    counts = []
    for now in range(seconds):
        begin, end = max(0, now - BEFORE), min(seconds, now + AFTER)
        mean = (sums[end] - sums[begin]) / (end - begin)
        counts.append(max(least, min(most, math.ceil(mean / utilisation - 1e-9))))
    return counts


def start(scenario: Scenario) -> int:
    """Replicas for what comes until one that is asked for at once could serve: a fleet that was well when it began."""
    counts = needed(scenario, USUAL)
    return max(counts[: math.ceil(_lead(scenario)) + 60], default=max(1, scenario.minimum))


def schedule(scenario: Scenario, utilisation: float) -> list[tuple[float, int]]:
    """(when, replicas to have asked for from then on), by time."""
    counts, lead = needed(scenario, utilisation), _lead(scenario)
    changes: dict[float, int] = {}
    for layer in range(1, max(counts, default=0) + 1):
        for begin, end in _spans(counts, layer, lead):
            since = max(0.0, begin - lead)
            changes[since] = changes.get(since, 0) + 1
            changes[end + 1.0] = changes.get(end + 1.0, 0) - 1
    times = sorted(changes)
    return list(zip(times, accumulate(changes[time] for time in times), strict=True))


def _spans(counts: list[int], layer: int, lead: float) -> list[tuple[int, int]]:
    """First and last second of each time for which the layer is there."""
    spans: list[tuple[int, int]] = []
    for now, count in enumerate(counts):
        if count < layer:
            continue
        if spans and now - spans[-1][1] <= lead + 1:
            spans[-1] = (spans[-1][0], now)
        else:
            spans.append((now, now))
    return spans


def _lead(scenario: Scenario) -> float:
    """Seconds from asking to serving; some more, as a policy is called every few seconds."""
    told = sum(scenario.profile.cold_start[1:]) if scenario.cold_start is None else scenario.cold_start
    return told + scenario.node_provisioning + scenario.interval


class Clairvoyant:
    """The schedule as a policy."""

    scrape = 15.0
    feed = False

    def __init__(self, scenario: Scenario, utilisation: float) -> None:
        self.period = scenario.interval
        plan = schedule(scenario, utilisation)
        self._times, self._replicas = [at for at, _ in plan], [count for _, count in plan]

    def __call__(self, seen: Seen) -> Answer:
        place = bisect_right(self._times, seen.now) - 1
        replicas = self._replicas[place] if place >= 0 else seen.spec
        return Answer(replicas, why="it knows what comes")


def controller(scenario: Scenario, utilisation: float) -> Clairvoyant:
    return Clairvoyant(scenario, utilisation)
