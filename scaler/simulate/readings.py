"""What is read of a simulated fleet, and when a policy sees it.

May not be in here: what happens in the fleet (run.py), what an exporter makes of a reading (exporters.py), any policy.

Every `interval` the engines are read, as by their exporters and by Prometheus; the latter keeps what it reads every
`scrape`. A policy sees it LAG after it was read. Pods are the API server's word, which is always new.
"""

from collections import deque
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from exporter.core.model_engines import EngineReading
from scaler.core.view import NodeView
from scaler.simulate.cluster import GOING, READY, Cluster
from scaler.simulate.exporters import Exporters
from scaler.simulate.model import Controller, PodSeen, Scenario, Seen

#: Seconds from a reading to the decision that rests on it: from engine to GetMetrics the 99th percentile was 1.1
#: (docs/benchmarks.md). Numbers by way of Prometheus are older by up to its own interval.
LAG = 1.0

#: Seconds before the start at which exporters found the ports of the first replicas closed: they poll every second.
_BEFORE = 1.0


class _Scraped(NamedTuple):
    at: float
    reading: EngineReading
    busy: float


class _Look(NamedTuple):
    at: float
    scraped: Mapping[int, _Scraped]  # by the number of the pod
    nodes: tuple[NodeView, ...]


class Readings:
    """`take()` reads the engines, which must be advanced to that moment; `seen()` is what a policy may look at."""

    def __init__(self, scenario: Scenario, controller: Controller) -> None:
        self._interval, self._scrape = scenario.interval, controller.scrape
        self._exporters = Exporters(scenario.interval) if controller.feed else None
        self._looks: deque[_Look] = deque([_Look(-inf, {}, ())])  # the one that is seen, and newer ones
        self._busy: dict[int, float] = {}  # pod -> busy seconds at the last reading
        self._blind_until = -inf

    def before(self, cluster: Cluster) -> None:
        """The fleet was there before, and its exporters saw it load."""
        if self._exporters is not None:
            self._exporters.step(cluster, {}, -_BEFORE)

    def blind(self, until: float) -> None:
        """Nothing is read before."""
        self._blind_until = max(until, self._blind_until)

    def take(self, cluster: Cluster, now: float) -> None:
        scraped, nodes = self._looks[-1].scraped, self._looks[-1].nodes
        blind = now < self._blind_until
        scrapes = now % self._scrape < self._interval  # the first reading from each multiple of `scrape` on
        engines = {pod.number: pod.engine for pod in cluster.pods if pod.engine is not None and pod.state == READY}
        busy = {number: engine.busy_seconds for number, engine in engines.items()}
        readings = {}
        if not blind and (scrapes or self._exporters is not None):
            readings = {number: engine.reading(now) for number, engine in engines.items()}
        if scrapes:
            scraped = {
                number: _Scraped(now, reading, self._share(number, busy[number]))
                for number, reading in readings.items()
            }
        if self._exporters is not None and not blind:
            self._exporters.step(cluster, readings, now)
            nodes = self._exporters.nodes
        self._busy = busy
        self._looks.append(_Look(now, scraped, nodes))

    def seen(self, cluster: Cluster, now: float) -> Seen:
        while len(self._looks) > 1 and self._looks[1].at <= now - LAG:
            self._looks.popleft()
        look = self._looks[0]
        pods = []
        for pod in cluster.pods:
            if pod.state != GOING:
                ready = pod.state == READY
                at, reading, busy = look.scraped.get(pod.number, (None, None, None))
                pods.append(PodSeen(pod.name, pod.created, ready, at, reading, busy))
        return Seen(now, cluster.spec, tuple(pods), look.nodes)

    def _share(self, number: int, busy: float) -> float:
        """Of the last interval; an engine that is not known from before, or began again, was busy from 0 on."""
        before = self._busy.get(number, 0.0)
        return min(1.0, (busy - before if busy >= before else busy) / self._interval)
