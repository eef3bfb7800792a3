"""Snapshot -> the bytes of /metrics, in the text format or as OpenMetrics.

May not be in here: deriving anything that the snapshot does not say. What a family means is in core/catalog.py, a GPU's
lines are in publish_gpus.py, an engine's in publish_engines.py, how a line is written is in lines.py.

Reading a snapshot takes no lock and waits for nothing. A reading that is older than its source's limit is left out: no
data is better than the last good. What Plimsoll itself concludes (health, diagnosis, capacity, what was learned) stays.
"""

import platform
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter import publish_engines, publish_gpus
from exporter.core.snapshot import Snapshot
from exporter.kit.version import VERSION
from exporter.lines import Page, age, labels_of

#: What an Accept header names OpenMetrics and what we answer with (openmetrics.io, version 1.0.0).
OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPES = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
}

_REGISTRY = CollectorRegistry()
ProcessCollector(registry=_REGISTRY)
PlatformCollector(registry=_REGISTRY)


def render(
    snapshot: Snapshot,
    now: float,
    wall: float,
    openmetrics: bool,
    own: Mapping[str, float] | None = None,
    process: bytes = b"",
) -> bytes:
    """The whole page.

    now: monotonic seconds; wall: Unix seconds at the same moment, for timestamps alone.
    own: families without labels that the program itself counts. process: further families, as process() gives them.
    """
    page = Page()
    page.add("plimsoll_build_info", labels_of(version=VERSION, pythonversion=platform.python_version()), 1)
    for gpu in snapshot.gpus:
        publish_gpus.add(page, gpu, snapshot, now, wall)
    for engine in snapshot.engines:
        publish_engines.add(page, engine, snapshot, now)
    publish_engines.add_scrapes(page, snapshot)
    publish_engines.add_cold_starts(page, snapshot)
    for collector in snapshot.collectors:
        name = labels_of(collector=collector.name)
        page.add("plimsoll_collector_success", name, collector.success)
        page.add("plimsoll_collector_duration_seconds", name, collector.seconds)
        if collector.last_success is not None:
            page.add(
                "plimsoll_collector_last_success_timestamp_seconds",
                name,
                round(wall - (now - collector.last_success), 3),
            )
    node = labels_of(node=snapshot.node)
    for kind, count in snapshot.node_gpus.items():
        page.add("plimsoll_node_gpus", f'{node},kind="{kind}"', count)
    for what, is_so in snapshot.node_drift.items():
        page.add("plimsoll_gpu_drift", f'{node},what="{what}"', is_so)
    for kind, count in snapshot.overflow.items():
        page.add("plimsoll_overflow_total", labels_of(kind=kind), count)
    page.add("plimsoll_snapshot_age_seconds", "", age(now, snapshot.at))
    for family, value in (own or {}).items():
        page.add(family, "", value)
    end = b"# EOF\n" if openmetrics else b""
    # "replace": a lone surrogate from a configuration file must not cost the page.
    return page.text(openmetrics).encode(errors="replace") + process + end


def process(openmetrics: bool) -> bytes:
    """process_* and python_info of this process, without an end mark. Reads /proc."""
    written: bytes = generate_openmetrics(_REGISTRY) if openmetrics else generate_latest(_REGISTRY)  # type: ignore[no-untyped-call] # the library's function has no types
    return written.removesuffix(b"# EOF\n")


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics to plain text (RFC 9110, 12.5.1: quality 0 is "not")."""
    quality = {OPENMETRICS: 0.0, "text/plain": 0.0}
    for item in accept.split(","):
        kind, *parameters = (part.strip() for part in item.lower().split(";"))
        if kind not in quality:
            continue
        q = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            quality[kind] = max(quality[kind], float(q))
        except ValueError:
            continue
    return quality[OPENMETRICS] > 0 and quality[OPENMETRICS] >= quality["text/plain"]
