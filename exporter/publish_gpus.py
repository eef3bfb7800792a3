"""A GPU -> its lines of /metrics.

May not be in here: deriving anything that the snapshot does not say. How a line is written is in lines.py.
"""

from collections.abc import Mapping
from functools import lru_cache

from exporter.core.health import STATES
from exporter.core.inputs import LIMITS
from exporter.core.model import Gpu, GpuInfo
from exporter.core.signals import SIGNALS, THROTTLE_REASONS
from exporter.core.snapshot import Snapshot
from exporter.core.xid import XIDS
from exporter.lines import Page, age, join, labels_of

#: Xids that cost the GPU.
_PAGED = tuple(row.code for row in XIDS.values() if row.kind in ("lost", "critical", "memory"))
#: GPUs whose labels are remembered: as many as are published, and some that have just gone.
_REMEMBERED = LIMITS["gpu"] + 64


def add(page: Page, gpu: Gpu, snapshot: Snapshot, now: float, wall: float) -> None:
    """wall: Unix seconds at `now`, for timestamps alone."""
    labels = _gpu_labels(snapshot.node, gpu.info)
    info, verdict = gpu.info, gpu.verdict
    about = labels_of(
        name=info.name, pci_bus_id=info.pci_bus_id, driver_version=info.driver_version, profile=info.profile
    )
    reasons = [labels_of(reason=reason, action=action) for reason, action in dict.fromkeys(verdict.reasons)]
    page.add("plimsoll_gpu_info", join(labels, about), 1)
    sharing = "" if gpu.shared is None else "shared" if gpu.shared else "exclusive"
    for pod in gpu.pods:
        place = join(labels, labels_of(namespace=pod.namespace, pod=pod.pod, container=pod.container))
        page.add("plimsoll_gpu_pod", join(place, labels_of(sharing=sharing)), 1)
        page.add("plimsoll_gpu_pod_health_state", f'{place},state="{verdict.state}"', 1)
        for reason in reasons:
            page.add("plimsoll_gpu_pod_health_reason", join(place, reason), 1)
    for state in STATES:
        page.add("plimsoll_gpu_health_state", f'{labels},state="{state}"', verdict.state == state)
    for reason in reasons:
        page.add("plimsoll_gpu_health_reason", join(labels, reason), 1)
    for part in verdict.unknown:
        page.add("plimsoll_gpu_health_unknown", f'{labels},part="{part}"', 1)
    page.add("plimsoll_gpu_health_transitions_total", labels, verdict.transitions)
    page.add("plimsoll_gpu_capacity_ratio", labels, verdict.capacity)
    page.add("plimsoll_gpu_reading_age_seconds", labels, age(now, gpu.at))
    page.add("plimsoll_gpu_unowned_memory_bytes", labels, gpu.unowned_memory)
    for what, is_so in gpu.drift.items():
        page.add("plimsoll_gpu_drift", f'{labels},what="{what}"', is_so)
    if "xid" not in verdict.unknown and not info.key.instance:
        page.block("plimsoll_gpu_xid_errors_total", _zeros(labels, tuple(gpu.xids)))
    for xid, seen in gpu.xids.items():
        page.add("plimsoll_gpu_xid_errors_total", f'{labels},xid="{xid}"', seen.count)
        page.add(
            "plimsoll_gpu_xid_last_seen_timestamp_seconds", f'{labels},xid="{xid}"', round(wall - (now - seen.at), 3)
        )
    lines = _lines_of(labels)
    for name, reading in gpu.readings.items():
        if now - reading.at > snapshot.fresh.get(reading.source, 0.0):
            continue
        if name == "throttle_reasons":
            for bit, reason in THROTTLE_REASONS:
                page.add("plimsoll_gpu_throttle_active", f'{labels},reason="{reason}"', bool(int(reading.value) & bit))
        else:
            page.put(*lines[name], reading.value)
    page.block(
        "plimsoll_gpu_signal_source",
        _sources(labels, bool(gpu.info.key.instance), tuple(gpu.sources.items()), tuple(gpu.missing.items())),
    )


@lru_cache(maxsize=_REMEMBERED)
def _lines_of(labels: str) -> Mapping[str, tuple[str, str]]:
    """Signal -> (family, its line up to the value) for one GPU: no label is written twice while the GPU is there."""
    return {
        signal.name: (signal.family, f"{signal.family}{{{join(labels, labels_of(**dict(signal.labels)))}}} ")
        for signal in SIGNALS
    }


#: Signals by the name of their family without its prefix: who tells one tells the others, bar what a card lacks.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    family.removeprefix("plimsoll_gpu_"): tuple(signal.name for signal in SIGNALS if signal.family == family)
    for family in dict.fromkeys(signal.family for signal in SIGNALS)
}


@lru_cache(maxsize=_REMEMBERED)
def _zeros(labels: str, seen: tuple[int, ...]) -> str:
    """An increase over a window misses a series that begins with 1: what one pages on begins with 0."""
    rows = (f'plimsoll_gpu_xid_errors_total{{{labels},xid="{xid}"}} 0\n' for xid in _PAGED if xid not in seen)
    return "".join(rows)


@lru_cache(maxsize=_REMEMBERED)
def _sources(
    labels: str, instance: bool, sources: tuple[tuple[str, str], ...], missing: tuple[tuple[str, str], ...]
) -> str:
    """The lines of plimsoll_gpu_signal_source. They change when a source comes or goes, not from poll to poll."""
    tellers, reasons = dict(sources), dict(missing)
    text = []
    for group, signals in _GROUPS.items():
        told = {tellers[name] for name in signals if name in tellers}
        source = "both" if len(told) > 1 else next(iter(told), "none")
        reason = "" if told else next((reasons[name] for name in signals if name in reasons), "")
        if not told and not reason and instance:
            continue  # what nobody asks of an instance
        row = labels_of(signal=group, source=source, reason=reason or ("" if told else "not_told"))
        text.append(f"plimsoll_gpu_signal_source{{{join(labels, row)}}} 1\n")
    return "".join(text)


@lru_cache(maxsize=_REMEMBERED)
def _gpu_labels(node: str, info: GpuInfo) -> str:
    return labels_of(node=node, gpu=info.index, uuid=info.key.uuid, mig_instance=info.key.instance)
