"""Snapshot -> the bytes of /metrics, in the text format or as OpenMetrics.

May not be in here: deriving anything that the snapshot does not say. What a family means is in core/catalog.py, a GPU's
lines are in publish_gpus.py, how a line is written is in lines.py.

Reading a snapshot takes no lock and waits for nothing. A reading that is older than its source's limit is left out: no
data is better than the last good. What Plimsoll itself concludes (health, diagnosis, capacity, what was learned) stays.
"""

import platform
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter import publish_gpus
from exporter.core.diagnosis import CAUSES
from exporter.core.inputs import LIMITS
from exporter.core.join import is_fresh
from exporter.core.model import Engine, EngineTarget, Snapshot
from exporter.kit.version import VERSION
from exporter.lines import Page, age, join, labels_of

#: What an Accept header names OpenMetrics and what we answer with (openmetrics.io, version 1.0.0).
OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPES = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
}

_REGISTRY = CollectorRegistry()
ProcessCollector(registry=_REGISTRY)
PlatformCollector(registry=_REGISTRY)

# Fields of EngineReading and of Engine that are one series each, and only while the reading is fresh.
_ENGINE_READINGS = {
    "waiting": "plimsoll_engine_requests_waiting",
    "running": "plimsoll_engine_requests_running",
    "kv_usage": "plimsoll_engine_kv_cache_usage_ratio",
    "kv_capacity_tokens": "plimsoll_engine_kv_cache_capacity_tokens",
    "preemptions_total": "plimsoll_engine_preemptions_total",
    "prompt_tokens_total": "plimsoll_engine_prompt_tokens_total",
    "generation_tokens_total": "plimsoll_engine_generation_tokens_total",
    "rejections_total": "plimsoll_engine_requests_rejected_total",
}
_ENGINE_DERIVED = {
    "requests_per_second": "plimsoll_engine_requests_per_second",
    "tokens_per_second": "plimsoll_engine_tokens_per_second",
    "saturation": "plimsoll_engine_saturation_ratio",
}


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
        _engine(page, engine, snapshot, now)
    for url, scrape in snapshot.scrapes.items():
        endpoint = labels_of(endpoint=url)
        page.add("plimsoll_engine_scrape_success", endpoint, not scrape.error)
        page.add("plimsoll_engine_scrape_duration_seconds", endpoint, scrape.seconds)
    for (url, reason), count in snapshot.scrape_errors.items():
        page.add("plimsoll_engine_scrape_errors_total", labels_of(endpoint=url, reason=reason), count)
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


def _engine(page: Page, engine: Engine, snapshot: Snapshot, now: float) -> None:
    labels = _engine_labels(snapshot.node, engine.target, engine.reading.model, engine.reading.engine)
    page.add("plimsoll_engine_info", join(labels, labels_of(kind=engine.kind)), 1)
    for key in engine.gpus:
        page.add("plimsoll_engine_gpu", join(labels, labels_of(uuid=key.uuid, mig_instance=key.instance)), 1)
    page.add("plimsoll_engine_capacity_ratio", labels, engine.capacity)
    page.add("plimsoll_engine_knee_requests", labels, engine.learned.knee_running)
    page.add("plimsoll_engine_service_rate_requests_per_second", labels, engine.learned.service_rate)
    for cause in CAUSES:
        page.add("plimsoll_engine_diagnosis", f'{labels},cause="{cause}"', engine.cause == cause)
    if engine.at is None:
        return
    page.add("plimsoll_engine_reading_age_seconds", labels, age(now, engine.at))
    if not is_fresh(engine.at, "engines", now, snapshot.fresh):
        return
    for field, family in _ENGINE_READINGS.items():
        page.add(family, labels, getattr(engine.reading, field))
    for field, family in _ENGINE_DERIVED.items():
        page.add(family, labels, getattr(engine, field))
    finished = sorted((engine.reading.finished or {}).items())
    for reason, count in finished[: LIMITS["finished_reason"]]:
        page.add("plimsoll_engine_requests_finished_total", join(labels, labels_of(finished_reason=reason)), count)


def _engine_labels(node: str, target: EngineTarget, model: str, engine: str) -> str:
    # The target's own labels are a mapping and cannot be part of a cache's key.
    pod = target.pod
    return labels_of(
        namespace=pod.namespace,
        pod=pod.pod,
        container=pod.container,
        model=model,
        node=node,
        engine=engine,
        endpoint=target.url,
    )
