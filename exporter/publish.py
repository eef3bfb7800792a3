"""Snapshot -> the bytes of /metrics, in the text format or as OpenMetrics.

May not be in here: deriving anything that the snapshot does not say. What a family means is in core/catalog.py.

Reading a snapshot takes no lock and waits for nothing. A reading that is older than its source's limit is left out: no
data is better than the last good. What Plimsoll itself concludes (health, diagnosis, capacity, what was learned) stays.
"""

import math
import platform
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import blake2s

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.core.catalog import EXPORTER
from exporter.core.diagnosis import CAUSES
from exporter.core.health import STATES
from exporter.core.model import Engine, EngineTarget, Gpu, GpuInfo, Snapshot
from exporter.core.node import LIMITS
from exporter.core.signals import BY_NAME, THROTTLE_REASONS
from exporter.kit.version import VERSION

#: What an Accept header names OpenMetrics and what we answer with (openmetrics.io, version 1.0.0).
OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPES = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
}

#: Characters of a label value; a longer one is cut and ends in a digest of the whole, so that two stay two.
MAX_LABEL = 256

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


class _Page:
    """Lines by family. A family that the catalogue lacks is a KeyError here, and a failing test."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {family.name: [] for family in EXPORTER}

    def add(self, family: str, labels: str, value: float | None) -> None:
        """labels: already written as `name="value",...`. A value that is missing or not finite is no series."""
        if value is None or not math.isfinite(value):
            return
        number = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
        self._lines[family].append(f"{family}{{{labels}}} {number}\n" if labels else f"{family} {number}\n")

    def text(self, openmetrics: bool) -> str:
        headers = _headers(openmetrics)
        return "".join(headers[name] + "".join(lines) for name, lines in self._lines.items() if lines)


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
    page = _Page()
    page.add("plimsoll_build_info", _labels(version=VERSION, pythonversion=platform.python_version()), 1)
    for gpu in snapshot.gpus:
        _gpu(page, gpu, snapshot, now)
    for engine in snapshot.engines:
        _engine(page, engine, snapshot, now)
    for url, scrape in snapshot.scrapes.items():
        endpoint = _labels(endpoint=url)
        page.add("plimsoll_engine_scrape_success", endpoint, not scrape.error)
        page.add("plimsoll_engine_scrape_duration_seconds", endpoint, scrape.seconds)
    for (url, reason), count in snapshot.scrape_errors.items():
        page.add("plimsoll_engine_scrape_errors_total", _labels(endpoint=url, reason=reason), count)
    for collector in snapshot.collectors:
        name = _labels(collector=collector.name)
        page.add("plimsoll_collector_success", name, collector.success)
        page.add("plimsoll_collector_duration_seconds", name, collector.seconds)
        if collector.last_success is not None:
            page.add(
                "plimsoll_collector_last_success_timestamp_seconds",
                name,
                round(wall - (now - collector.last_success), 3),
            )
    for kind, count in snapshot.overflow.items():
        page.add("plimsoll_overflow_total", _labels(kind=kind), count)
    page.add("plimsoll_snapshot_age_seconds", "", _age(now, snapshot.at))
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


def _gpu(page: _Page, gpu: Gpu, snapshot: Snapshot, now: float) -> None:
    labels = _gpu_labels(snapshot.node, gpu.info)
    info, verdict = gpu.info, gpu.verdict
    about = _labels(
        name=info.name, pci_bus_id=info.pci_bus_id, driver_version=info.driver_version, profile=info.profile
    )
    page.add("plimsoll_gpu_info", _join(labels, about), 1)
    for pod in gpu.pods:
        place = _labels(namespace=pod.namespace, pod=pod.pod, container=pod.container)
        page.add("plimsoll_gpu_pod", _join(labels, place), 1)
    for state in STATES:
        page.add("plimsoll_gpu_health_state", f'{labels},state="{state}"', verdict.state == state)
    for reason, action in dict.fromkeys(verdict.reasons):
        page.add("plimsoll_gpu_health_reason", _join(labels, _labels(reason=reason, action=action)), 1)
    page.add("plimsoll_gpu_health_transitions_total", labels, verdict.transitions)
    page.add("plimsoll_gpu_capacity_ratio", labels, verdict.capacity)
    page.add("plimsoll_gpu_reading_age_seconds", labels, _age(now, gpu.at))
    for xid, count in gpu.xids.items():
        page.add("plimsoll_gpu_xid_errors_total", f'{labels},xid="{xid}"', count)
    for name, reading in gpu.readings.items():
        if now - reading.at > snapshot.fresh.get(reading.source, 0.0):
            continue
        signal = BY_NAME[name]
        if name == "throttle_reasons":
            for bit, reason in THROTTLE_REASONS:
                page.add(signal.family, f'{labels},reason="{reason}"', bool(int(reading.value) & bit))
        else:
            page.add(signal.family, _join(labels, _signal_labels(name)), reading.value)


def _engine(page: _Page, engine: Engine, snapshot: Snapshot, now: float) -> None:
    labels = _engine_labels(snapshot.node, engine.target, engine.reading.model, engine.reading.engine)
    page.add("plimsoll_engine_info", _join(labels, _labels(kind=engine.kind)), 1)
    for key in engine.gpus:
        page.add("plimsoll_engine_gpu", _join(labels, _labels(uuid=key.uuid, mig_instance=key.instance)), 1)
    page.add("plimsoll_engine_capacity_ratio", labels, engine.capacity)
    page.add("plimsoll_engine_knee_requests", labels, engine.learned.knee_running)
    page.add("plimsoll_engine_service_rate_requests_per_second", labels, engine.learned.service_rate)
    for cause in CAUSES:
        page.add("plimsoll_engine_diagnosis", f'{labels},cause="{cause}"', engine.cause == cause)
    if engine.at is None:
        return
    page.add("plimsoll_engine_reading_age_seconds", labels, _age(now, engine.at))
    if now - engine.at > snapshot.fresh.get("engines", 0.0):
        return
    for field, family in _ENGINE_READINGS.items():
        page.add(family, labels, getattr(engine.reading, field))
    for field, family in _ENGINE_DERIVED.items():
        page.add(family, labels, getattr(engine, field))
    finished = sorted((engine.reading.finished or {}).items())
    for reason, count in finished[: LIMITS["finished_reason"]]:
        page.add("plimsoll_engine_requests_finished_total", _join(labels, _labels(finished_reason=reason)), count)


@lru_cache(maxsize=1024)
def _gpu_labels(node: str, info: GpuInfo) -> str:
    return _labels(node=node, gpu=info.index, uuid=info.key.uuid, mig_instance=info.key.instance)


def _engine_labels(node: str, target: EngineTarget, model: str, engine: str) -> str:
    # The target's own labels are a mapping and cannot be part of a cache's key.
    pod = target.pod
    return _labels(
        namespace=pod.namespace,
        pod=pod.pod,
        container=pod.container,
        model=model,
        node=node,
        engine=engine,
        endpoint=target.url,
    )


@cache
def _signal_labels(name: str) -> str:
    return _labels(**dict(BY_NAME[name].labels))


@lru_cache(maxsize=8192)
def _labels(**values: str) -> str:
    """`name="value",...` without the empty ones: to Prometheus an empty label is an absent one."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in values.items() if value)


def _join(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels and more else labels or more


def _escape(value: str) -> str:
    if len(value) > MAX_LABEL:
        value = value[: MAX_LABEL - 9] + "~" + blake2s(value.encode(errors="replace"), digest_size=4).hexdigest()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _age(now: float, at: float) -> float:
    return round(max(0.0, now - at), 3)


@cache
def _headers(openmetrics: bool) -> Mapping[str, str]:
    """HELP and TYPE of each family. In OpenMetrics a counter's family name has no _total."""

    def header(name: str, kind: str, text: str) -> str:
        shown = name.removesuffix("_total") if openmetrics and kind == "counter" else name
        text = text.replace("\\", "\\\\").replace("\n", "\\n")
        return f"# HELP {shown} {text}\n# TYPE {shown} {kind}\n"

    return {family.name: header(family.name, family.type, family.help) for family in EXPORTER}
