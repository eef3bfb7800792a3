"""AIBrix's PodAutoscaler with its strategies KPA and APA.

May not be in here: its strategy HPA, which is an HPA.

Source: vllm-project/aibrix pkg/controller/podautoscaler (podautoscaler_controller.go, algorithm/kpa.go and apa.go,
metrics/client.go, context/context.go). It asks the pods themselves every 10 s.
"""

from collections.abc import Callable
from math import ceil, floor
from typing import NamedTuple

from scaler.simulate.model import Answer, Scenario, Seen
from scaler.simulate.peers_readings import Average, Pick, bounded, values

PERIOD = 10.0
STABLE, PANIC = 180.0, 60.0  # DefaultStableWindowDuration, DefaultPanicWindowDuration
TOLERANCE = 0.1
RATE = 2.0  # MaxScaleUpRate, MaxScaleDownRate
PANIC_THRESHOLD = 2.0
DOWN_WINDOW = 300.0  # ScaleDownCooldownWindow


class Use(NamedTuple):
    """The mean of a number over the pods, averaged over the windows."""

    stable: float
    panic: float


def apa(use: Use, target: float, current: int) -> int:
    """computeTargetReplicas of apa.go."""
    ratio = use.stable / target
    if ratio > 1 + TOLERANCE:
        return min(ceil(current * ratio), ceil(RATE * current))
    if ratio < 1 - TOLERANCE:
        return max(ceil(current * ratio), floor(current / RATE))
    return current


def kpa(use: Use, target: float, current: int) -> int:
    """computeTargetReplicas of kpa.go. The mean of a pod over the target is taken for the number of pods: right for a
    number of the whole workload, too few for one of each pod, which is what its samples and collector give it."""

    def wanted(value: float) -> int:
        pods = ceil(value / target) if abs(value / target - 1) > TOLERANCE else current
        return min(max(pods, floor(current / RATE)), max(1, ceil(RATE * current)))

    panics = use.stable <= 0 or use.panic / use.stable > PANIC_THRESHOLD
    return max(wanted(use.stable), wanted(use.panic)) if panics else wanted(use.stable)


class Aibrix:
    """One PodAutoscaler with one metric of the pods."""

    period = PERIOD
    scrape = PERIOD
    feed = False

    def __init__(
        self, scenario: Scenario, pick: Pick, target: float, strategy: Callable[[Use, float, int], int]
    ) -> None:
        self._scenario = scenario
        self._pick = pick
        self._target = target
        self._strategy = strategy
        self._stable, self._panic = Average(STABLE), Average(PANIC)
        self._recommended: list[tuple[float, int]] = []

    def __call__(self, seen: Seen) -> Answer:
        current = seen.spec
        found = values(seen.pods, self._pick)
        if not found:  # collector.go: an error when every pod failed, and then nothing is done
            return Answer(current, None, "no pod gave a number", "unknown")
        mean = sum(found) / len(found)
        self._stable.add(seen.now, mean)
        self._panic.add(seen.now, mean)
        use = Use(self._stable.mean, self._panic.mean)
        recommended = bounded(self._scenario, self._strategy(use, self._target, current))
        replicas = bounded(self._scenario, self._stabilized(recommended, current, seen.now))
        why = f"{use.stable:.3g} and {use.panic:.3g} a pod, target {self._target:g}"
        return Answer(replicas, use.stable, why, "window" if replicas != recommended else "target")

    def _stabilized(self, recommended: int, current: int, now: float) -> int:
        """stabilizeRecommendation: up at once; down to the LEAST of the last 300 s, not to the most as the HPA."""
        self._recommended = [old for old in self._recommended if old[0] > now - DOWN_WINDOW]
        self._recommended.append((now, recommended))
        if recommended >= current:
            return recommended
        return min(count for _, count in self._recommended)
