"""The lines of engines on /metrics.

May not be in here: deriving anything that the snapshot does not say; what a family means (core/catalog.py).
"""

from exporter.core.diagnosis import CAUSES
from exporter.core.inputs import LIMITS
from exporter.core.join import is_fresh
from exporter.core.model_engines import Engine, EngineTarget
from exporter.core.snapshot import Snapshot
from exporter.lines import Page, age, join, labels_of

# Fields that are one series each: of the reading and of what is made of it, which go when the reading is stale, and of
# what was learned, which stays.
_READINGS = {
    "waiting": "plimsoll_engine_requests_waiting",
    "running": "plimsoll_engine_requests_running",
    "kv_usage": "plimsoll_engine_kv_cache_usage_ratio",
    "kv_capacity_tokens": "plimsoll_engine_kv_cache_capacity_tokens",
    "max_running": "plimsoll_engine_requests_running_limit",
    "lora_waiting": "plimsoll_engine_lora_adapters_waiting",
    "sleeping": "plimsoll_engine_sleeping",
    "preemptions_total": "plimsoll_engine_preemptions_total",
    "prompt_tokens_total": "plimsoll_engine_prompt_tokens_total",
    "generation_tokens_total": "plimsoll_engine_generation_tokens_total",
    "prefix_queries_total": "plimsoll_engine_prefix_cache_queries_total",
    "prefix_hits_total": "plimsoll_engine_prefix_cache_hits_total",
    "rejections_total": "plimsoll_engine_requests_rejected_total",
}
_RATES = {
    "requests_per_second": "plimsoll_engine_requests_per_second",
    "rejections_per_second": "plimsoll_engine_rejections_per_second",
    "preemptions_per_second": "plimsoll_engine_preemptions_per_second",
    "prompt_tokens_per_second": "plimsoll_engine_prompt_tokens_per_second",
    "tokens_per_second": "plimsoll_engine_tokens_per_second",
    "prefix_hit_ratio": "plimsoll_engine_prefix_cache_hit_ratio",
}
#: Field of Rates -> its family and quantile.
_QUANTILES = {
    "ttft_p50": ("plimsoll_engine_time_to_first_token_seconds", "0.5"),
    "ttft_p95": ("plimsoll_engine_time_to_first_token_seconds", "0.95"),
    "itl_p50": ("plimsoll_engine_inter_token_latency_seconds", "0.5"),
    "itl_p95": ("plimsoll_engine_inter_token_latency_seconds", "0.95"),
    "queue_time_p95": ("plimsoll_engine_queue_time_seconds", "0.95"),
    "e2e_p95": ("plimsoll_engine_e2e_latency_seconds", "0.95"),
}
_LEARNED = {
    "knee_running": "plimsoll_engine_knee_requests",
    "knee_tokens": "plimsoll_engine_knee_tokens",
    "service_rate": "plimsoll_engine_service_rate_requests_per_second",
    "token_rate": "plimsoll_engine_service_rate_tokens_per_second",
    "queued_seconds": "plimsoll_engine_learned_queue_seconds",
    "step_seconds": "plimsoll_engine_step_seconds",
    "sequence_seconds": "plimsoll_engine_sequence_seconds",
    "prompt_token_seconds": "plimsoll_engine_prompt_token_seconds",
    "pace_seconds": "plimsoll_engine_learned_work_seconds",
}


def add(page: Page, engine: Engine, snapshot: Snapshot, now: float) -> None:
    labels = _labels(snapshot.node, engine.target, engine.reading.model, engine.reading.engine)
    page.add("plimsoll_engine_info", join(labels, labels_of(kind=engine.kind)), 1)
    for key in engine.hardware.gpus:
        page.add("plimsoll_engine_gpu", join(labels, labels_of(uuid=key.uuid, mig_instance=key.instance)), 1)
    page.add("plimsoll_engine_capacity_ratio", labels, engine.capacity)
    for field, family in _LEARNED.items():
        page.add(family, labels, getattr(engine.learned, field))
    page.add("plimsoll_engine_kv_cache_peak_ratio", labels, engine.kv_peak)
    for phase, seconds in engine.cold_start.items():
        page.add("plimsoll_engine_cold_start_seconds", f'{labels},phase="{phase}"', seconds)
    for cause in CAUSES:
        page.add("plimsoll_engine_diagnosis", f'{labels},cause="{cause}"', engine.cause == cause)
    if engine.at is None:
        return
    page.add("plimsoll_engine_reading_age_seconds", labels, age(now, engine.at))
    if is_fresh(engine.at, "engines", now, snapshot.fresh):
        _add_reading(page, engine, labels)


def _add_reading(page: Page, engine: Engine, labels: str) -> None:
    for field, family in _READINGS.items():
        page.add(family, labels, getattr(engine.reading, field))
    for field, family in _RATES.items():
        page.add(family, labels, getattr(engine.rates, field))
    for field, (family, quantile) in _QUANTILES.items():
        page.add(family, f'{labels},quantile="{quantile}"', getattr(engine.rates, field))
    page.add("plimsoll_engine_saturation_ratio", labels, engine.saturation)
    for kind, held in engine.memory_bytes.items():
        page.add("plimsoll_engine_memory_bytes", f'{labels},kind="{kind}"', held)
    if engine.reading.config:
        page.add("plimsoll_engine_config_info", join(labels, labels_of(**engine.reading.config)), 1)
    for reason, count in sorted((engine.reading.waiting_by_reason or {}).items())[: LIMITS["waiting_reason"]]:
        page.add("plimsoll_engine_requests_waiting_by_reason", join(labels, labels_of(reason=reason)), count)
    for reason, count in sorted((engine.reading.finished or {}).items())[: LIMITS["finished_reason"]]:
        page.add("plimsoll_engine_requests_finished_total", join(labels, labels_of(finished_reason=reason)), count)


def add_scrapes(page: Page, snapshot: Snapshot) -> None:
    for url, scrape in snapshot.scrapes.items():
        endpoint = labels_of(endpoint=url)
        page.add("plimsoll_engine_scrape_success", endpoint, not scrape.error)
        page.add("plimsoll_engine_scrape_duration_seconds", endpoint, scrape.seconds)
    for (url, reason), count in snapshot.scrape_errors.items():
        page.add("plimsoll_engine_scrape_errors_total", labels_of(endpoint=url, reason=reason), count)


def add_cold_starts(page: Page, snapshot: Snapshot) -> None:
    for start in snapshot.cold_starts:
        labels = labels_of(node=snapshot.node, namespace=start.namespace, model=start.model, phase=start.phase)
        page.add("plimsoll_model_cold_starts", labels, start.count)
        page.add("plimsoll_model_cold_start_seconds", f'{labels},quantile="0.5"', start.p50)
        page.add("plimsoll_model_cold_start_seconds", f'{labels},quantile="0.9"', start.p90)


def _labels(node: str, target: EngineTarget, model: str, engine: str) -> str:
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
