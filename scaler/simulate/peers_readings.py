"""What the peers make of readings: a number of each pod, sums as PromQL has them, what counters gained in a window.

May not be in here: any policy. A pod without a reading, or whose reading lacks the number, is simply not in a result,
as a series that does not exist is not in a query's.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from exporter.core.model_engines import EngineReading
from scaler.simulate.model import PodSeen, Scenario, Seen

#: A number of a reading; None: it lacks it.
Pick = Callable[[EngineReading], float | None]


def waiting(reading: EngineReading) -> float | None:
    return reading.waiting


def running(reading: EngineReading) -> float | None:
    return reading.running


def in_flight(reading: EngineReading) -> float | None:
    """Waiting and running; None if one of them is missing, as PromQL's `+` of two series where one is absent."""
    if reading.waiting is None or reading.running is None:
        return None
    return reading.waiting + reading.running


def kv_usage(reading: EngineReading) -> float | None:
    return reading.kv_usage


def prompt_tokens(reading: EngineReading) -> float | None:
    return reading.prompt_tokens_total


def generation_tokens(reading: EngineReading) -> float | None:
    return reading.generation_tokens_total


def prefilled(reading: EngineReading) -> float | None:
    """Requests that got their first token."""
    return reading.ttft.counts[-1] if reading.ttft is not None else None


def finished(reading: EngineReading) -> float | None:
    """Requests that ended, however."""
    return sum(reading.finished.values()) if reading.finished is not None else None


def values(pods: Sequence[PodSeen], pick: Pick) -> list[float]:
    """The number of every pod that has it."""
    found = [pick(pod.reading) for pod in pods if pod.reading is not None]
    return [value for value in found if value is not None]


def bounded(scenario: Scenario, replicas: float) -> int:
    return max(scenario.minimum, min(scenario.maximum, int(replicas)))


class Point(NamedTuple):
    at: float
    reading: EngineReading


class Past:
    """Each pod's readings of the last `seconds`: a range selector of PromQL. Pods that are gone are forgotten."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._points: dict[str, list[Point]] = {}

    def add(self, seen: Seen) -> None:
        kept = {pod.name: self._points.get(pod.name, []) for pod in seen.pods}
        for pod in seen.pods:
            points = kept[pod.name]
            if pod.reading is not None and pod.at is not None and (not points or points[-1].at < pod.at):
                points.append(Point(pod.at, pod.reading))
            while points and points[0].at <= seen.now - self._seconds:
                points.pop(0)
        self._points = kept

    def highest(self, pod: str, pick: Pick) -> float | None:
        """max_over_time."""
        found = [value for point in self._points.get(pod, ()) if (value := pick(point.reading)) is not None]
        return max(found) if found else None

    def gained(self, pod: str, pick: Pick) -> tuple[float, float]:
        """How much a counter grew, and over how many seconds. (0, 0): fewer than two points."""
        found = [(point.at, value) for point in self._points.get(pod, ()) if (value := pick(point.reading)) is not None]
        grown = sum(max(0.0, after - before) for (_, before), (_, after) in pairwise(found))
        return grown, (found[-1][0] - found[0][0] if len(found) > 1 else 0.0)

    def rate(self, pods: Sequence[PodSeen], pick: Pick) -> float | None:
        """sum(rate(...)) over the pods; None: no series has two points."""
        rates = [grown / seconds for grown, seconds in (self.gained(pod.name, pick) for pod in pods) if seconds > 0]
        return sum(rates) if rates else None

    def ratio(self, pod: str, of: Pick, by: Pick) -> float | None:
        """rate(of) / rate(by) of one pod; None where `by` did not grow."""
        grown, count = self.gained(pod, of)[0], self.gained(pod, by)[0]
        return grown / count if count > 0 else None


class Average:
    """A number over the last `seconds`, a point for each time that it was told."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._points: list[tuple[float, float]] = []

    def add(self, now: float, value: float) -> None:
        self._points.append((now, value))
        self._points = [point for point in self._points if point[0] >= now - self._seconds]

    @property
    def mean(self) -> float:
        """0 before the first point."""
        return sum(value for _, value in self._points) / len(self._points) if self._points else 0.0
