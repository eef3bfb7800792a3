"""Knative's KPA on the concurrency of requests.

May not be in here: its activator, scaling to zero.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go (Scale), pkg/autoscaler/aggregation/bucketing.go
(WindowAverage), pkg/reconciler/autoscaling/resources/target.go. Its queue-proxies are read every second and it decides
every 2 s; here both happen every 5 s, so its panic window of 6 s holds two readings.
"""

from math import ceil, floor

from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.peers_readings import bounded, in_flight, values

TICK = 5.0
STABLE = 60.0
PANIC = 10.0  # panic-window-percentage 10 is 6 s: two ticks
PANIC_THRESHOLD = 2.0  # panic-threshold-percentage 200
UP, DOWN = 1000.0, 2.0  # max-scale-up-rate, max-scale-down-rate
UTILIZATION = 0.7  # container-concurrency-target-percentage


class Buckets:
    """TimedFloat64Buckets: a gap between two numbers counts as 0, one at the end does not count."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._points: list[tuple[float, float]] = []
        self._first = 0.0

    def add(self, now: float, value: float) -> None:
        if not self._points or now - self._points[-1][0] >= self._window:
            self._points, self._first = [], now
        self._points.append((now, value))
        self._points = [point for point in self._points if point[0] > now - self._window]

    def average(self, now: float) -> float | None:
        """None: nothing in the window."""
        within = [value for at, value in self._points if at > now - self._window]
        if not within:
            return None
        last = self._points[-1][0]
        buckets = min((last - self._first) / TICK + 1, (self._window - (now - last)) / TICK)
        return floor(sum(within) / buckets * 1e6) / 1e6


class Knative:
    """One revision. `target` is the annotation autoscaling.knative.dev/target; it aims at 70 % of it."""

    period = TICK
    scrape = TICK
    feed = False

    def __init__(self, scenario: Scenario, target: float) -> None:
        self._scenario = scenario
        self._target = max(1.0, target * UTILIZATION)
        self._stable, self._panic = Buckets(STABLE), Buckets(PANIC)
        self._panic_since: float | None = 0.0 if scenario.start > 1 else None  # newAutoscaler
        self._most = scenario.start  # maxPanicPods

    def __call__(self, seen: Seen) -> Answer:
        now, found = seen.now, values([pod for pod in seen.pods if pod.ready], in_flight)
        if found:
            # ServiceScraper: the mean of the pods that answered, times those that are ready. What its activator holds
            # while none is ready is not seen here.
            total = sum(found) / len(found) * seen.ready
            self._stable.add(now, total)
            self._panic.add(now, total)
        stable, panic = self._stable.average(now), self._panic.average(now)
        if stable is None or panic is None:
            return Answer(seen.spec, None, "no numbers in a window", "unknown")
        ready = max(1, seen.ready)
        most, least = ceil(UP * ready), floor(ready / DOWN)
        by_stable, by_panic = ceil(stable / self._target), ceil(panic / self._target)
        if by_panic / ready >= PANIC_THRESHOLD:
            self._panic_since = now
        elif self._panic_since is not None and self._panic_since + STABLE < now:
            self._panic_since, self._most = None, 0
        replicas = min(max(by_stable, least), most)
        if self._panic_since is not None:
            self._most = max(self._most, replicas, min(max(by_panic, least), most))
            replicas = self._most
        why = f"{stable:.3g} requests in 60 s, {panic:.3g} now, {self._target:g} a replica"
        return Answer(bounded(self._scenario, replicas), stable, why, "panic" if self._panic_since is not None else "")
