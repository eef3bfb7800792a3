"""The scaler's own metrics: what it counts, and the collector that reads the desk and the feeds.

May not be in here: names, types, labels and help of the families (exporter/core/catalog.py has them).
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from exporter.core import catalog
from exporter.kit.version import VERSION
from scaler.core.decision import STATES, Decision
from scaler.core.view import NodeView
from scaler.decisions import Desk, Entry

FAMILIES = {family.name: family for family in (*catalog.EXPORTER, *catalog.SCALER)}

#: Seconds. An answer takes well below a millisecond, plus its turn in the event loop.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)


class Calls:
    """Counts of RPCs."""

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, str]] = Counter()
        self.streams: Counter[str] = Counter(StreamIsActive=0, StreamMetricSpec=0)
        self.buckets: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}

    def count(self, method: str, code: str, seconds: float | None = None) -> None:
        """One RPC has ended. seconds: how long it took; None for a stream, whose length says nothing."""
        self.codes[method, code] += 1
        if seconds is not None:
            counts = self.buckets.setdefault(method, [0] * (len(BUCKETS) + 1))
            counts[next((i for i, edge in enumerate(BUCKETS) if seconds <= edge), len(BUCKETS))] += 1
            self.seconds[method] = self.seconds.get(method, 0.0) + seconds

    def opened(self, method: str) -> None:
        self.streams[method] += 1

    def closed(self, method: str) -> None:
        self.streams[method] -= 1

    def open_streams(self) -> int:
        return self.streams.total()


class ScalerCollector(Collector):
    def __init__(
        self, desk: Desk, views: Callable[[], Sequence[NodeView]], calls: Calls, clock: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._views = views
        self._calls = calls
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is to be collected when the registry is set up

    def collect(self) -> Iterable[Metric]:
        yield _gauge("plimsoll_build_info", [((VERSION, platform.python_version()), 1.0)])
        entries = self._desk.entries()
        yield from _objects(entries, self._clock())
        yield from _calls(self._calls)
        views = self._views()
        connected = sum(view.connected for view in views)
        states = [(("connected",), float(connected)), (("lost",), float(len(views) - connected))]
        yield _gauge("plimsoll_scaler_exporters", states)


Samples = Iterable[tuple[tuple[str, ...], float]]


def _objects(entries: Sequence[Entry], now: float) -> Iterable[Metric]:
    known = [
        ((entry.namespace, entry.name), entry.latest.result)
        for entry in entries
        if entry.latest and isinstance(entry.latest.result, Decision)
    ]
    answered = [
        ((entry.namespace, entry.name), entry.polled[1].result)
        for entry in entries
        if entry.polled and isinstance(entry.polled[1].result, Decision)
    ]
    yield _gauge("plimsoll_scaler_required_replicas", ((key, result.required_replicas) for key, result in answered))
    for name, term in (
        ("plimsoll_scaler_queue_depth", "waiting"),
        ("plimsoll_scaler_requests_running", "running"),
        ("plimsoll_scaler_supply_replicas", "supply"),
    ):
        yield _gauge(name, ((key, result.terms[term]) for key, result in known))
    yield _gauge(
        "plimsoll_scaler_replicas",
        (((*key, state), result.terms[state]) for key, result in known for state in STATES),
    )
    yield _gauge("plimsoll_scaler_active", ((key, float(result.active)) for key, result in known))
    ages = (
        ((entry.namespace, entry.name), oldest + now - entry.latest.at)
        for entry in entries
        if entry.latest and (oldest := _oldest(entry)) is not None
    )
    yield _gauge("plimsoll_scaler_data_age_seconds", ages)
    family = FAMILIES["plimsoll_scaler_decisions_total"]
    decisions = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for entry in entries:
        for reason, count in sorted(entry.reasons.items()):
            decisions.add_metric((entry.namespace, entry.name, reason), count)
    yield decisions


def _oldest(entry: Entry) -> float | None:
    """Age of the oldest reading at the last decision; None: nothing was ever read."""
    replicas = entry.latest.fleet.replicas if entry.latest else ()
    return max((replica.reading_age for replica in replicas if replica.reading_age is not None), default=None)


def _calls(calls: Calls) -> Iterable[Metric]:
    family = FAMILIES["plimsoll_scaler_requests_total"]
    requests = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, count in sorted(calls.codes.items()):
        requests.add_metric(labels, count)
    yield requests
    family = FAMILIES["plimsoll_scaler_request_duration_seconds"]
    durations = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for method, counts in sorted(calls.buckets.items()):
        edges = [*map(str, BUCKETS), "+Inf"]
        cumulative = [(edge, float(sum(counts[: i + 1]))) for i, edge in enumerate(edges)]
        durations.add_metric([method], cumulative, calls.seconds[method])
    yield durations
    yield _gauge("plimsoll_scaler_streams", (((method,), float(count)) for method, count in calls.streams.items()))


def _gauge(name: str, samples: Samples) -> Metric:
    family = FAMILIES[name]
    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric
