"""Bringing together what belongs together: sources of one GPU, and an engine with its GPUs.

May not be in here: judging what the readings mean (health.py), I/O, clocks.
"""

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.core.model import GpuInfo, GpuKey, GpuProcess, GpuReading, GpuSample, PodRef
from exporter.core.model_engines import EngineTarget

#: Whom to believe first. NVML asks the driver itself; dcgm-exporter repeats what its own poll found, up to 30 s late.
PREFERENCE = ("nvml", "demo", "dcgm")

#: Seconds after which a source's sample yields to another source's fresh one: three default polls of each.
FRESH_SECONDS: Mapping[str, float] = {"nvml": 3.0, "demo": 3.0, "dcgm": 15.0}


class MergedGpu(Struct, frozen=True):
    """One GPU as all sources together see it, before it is judged."""

    info: GpuInfo
    readings: Mapping[str, GpuReading]  # signal -> the reading that counts
    missing: Mapping[str, str]  # signal that no source has -> why the most trusted source lacks it
    lost: str  # why the GPU as a whole is gone, "" if it is there
    pods: tuple[PodRef, ...]  # union over the sources, sorted
    at: float  # of the newest sample
    sources: Mapping[str, str] = {}  # signal -> who tells it now: a source's name, or "both" nvml and dcgm
    shared: bool | None = None  # whether several containers may have the GPU; None is unknown
    rank: int = 0  # place in PREFERENCE of the most trusted source that tells of it
    processes: tuple[GpuProcess, ...] | None = None  # by the most trusted source that lists them now; None: none does


def is_fresh(at: float, source: str, now: float, fresh: Mapping[str, float]) -> bool:
    """Whether what this source read at `at` counts at `now`. fresh: source -> seconds; a source not named: 0."""
    return now - at <= fresh.get(source, 0.0)


def merge(
    samples: Iterable[GpuSample], now: float | None = None, fresh: Mapping[str, float] = FRESH_SECONDS
) -> tuple[MergedGpu, ...]:
    """One MergedGpu for each GpuKey, sorted by board index, UUID and instance.

    now: monotonic seconds; None takes each GPU's newest sample for the present.
    fresh: source -> seconds for which its sample is preferred as PREFERENCE says; 0 for a source not named.
    Each signal comes from the first source with a fresh sample that has it, else from the newest that has it.
    A value that is not finite is not had.
    """
    by_key: dict[GpuKey, list[GpuSample]] = {}
    for sample in samples:
        by_key.setdefault(sample.info.key, []).append(sample)
    return tuple(sorted((_merge(group, now, fresh) for group in by_key.values()), key=_place))


def gpus_of(target: EngineTarget, gpus: Sequence[MergedGpu], node: str = "") -> tuple[GpuKey, ...]:
    """The GPUs that an engine runs on; () is unknown. The first rule that applies decides:

    1. `target.gpus`, as the operator declared it: board index, board UUID, MIG UUID or "UUID/instance". What no
       source has seen becomes a key of that name, so that the engine counts as running on an unknown GPU.
    2. The target's pod is among the pods that a source saw on the GPU.
    3. The node has a single GPU without MIG, and the URL's host is loopback or `node`.
    """
    if target.gpus:
        return tuple(sorted({key for reference in target.gpus for key in _declared(reference, gpus)}))
    matched = tuple(sorted(gpu.info.key for gpu in gpus if any(_same_pod(target.pod, pod) for pod in gpu.pods)))
    if matched:
        return matched
    if len(gpus) == 1 and not gpus[0].info.key.instance and _is_here(target.url, node):
        return (gpus[0].info.key,)
    return ()


def _merge(samples: list[GpuSample], now: float | None, fresh: Mapping[str, float]) -> MergedGpu:
    newest = max(sample.at for sample in samples)
    present = newest if now is None else now
    trusted = sorted(samples, key=_trust)
    good = [is_fresh(sample.at, sample.source, present, fresh) for sample in trusted]
    # First the fresh in order of trust, then the stale from the newest to the oldest.
    speak = [sample for sample, counts in zip(trusted, good, strict=True) if counts]
    stale = [sample for sample, counts in zip(trusted, good, strict=True) if not counts]
    order = [*speak, *sorted(stale, key=lambda sample: -sample.at)]

    readings: dict[str, GpuReading] = {}
    for sample in order:
        for name, value in sample.values.items():
            if name not in readings and math.isfinite(value):
                readings[name] = GpuReading(value, sample.at, sample.source)
    sources: dict[str, str] = {}
    for sample in speak:
        for name in sample.values:
            sources[name] = "both" if sources.get(name, sample.source) != sample.source else sample.source
    missing: dict[str, str] = {}
    # Why something could not be read long ago says nothing of now.
    for sample in speak or trusted:
        for name, reason in sample.missing.items():
            if name not in readings:
                missing.setdefault(name, reason)
    return MergedGpu(
        info=_info(trusted),
        readings=readings,
        missing=missing,
        lost=_lost(trusted, good),
        pods=tuple(sorted({pod for sample in samples for pod in sample.pods})),
        at=newest,
        sources=sources,
        rank=_trust(trusted[0])[0],
        processes=next((sample.processes for sample in speak if sample.processes is not None), None),
    )


def _lost(trusted: list[GpuSample], good: list[bool]) -> str:
    """Why the GPU is gone, by the most trusted source whose word counts.

    "Lost" counts until the same source sees the GPU again; "it is there" counts while it is fresh. So dcgm-exporter's
    cached numbers do not bring back a GPU that the driver has lost, and a hung NVML does not hide a loss.
    """
    for sample, counts in zip(trusted, good, strict=True):
        if sample.lost or counts:
            return sample.lost
    return ""


def _info(trusted: list[GpuSample]) -> GpuInfo:
    """Each fact from the most trusted source that knows it."""
    facts = {
        name: next((value for sample in trusted if (value := getattr(sample.info, name))), "")
        for name in GpuInfo.__struct_fields__
        if name != "key"
    }
    return GpuInfo(trusted[0].info.key, **facts)


def _trust(sample: GpuSample) -> tuple[int, float]:
    rank = PREFERENCE.index(sample.source) if sample.source in PREFERENCE else len(PREFERENCE)
    return rank, -sample.at


def _place(gpu: MergedGpu) -> tuple[int, str, GpuKey]:
    # "10" comes after "9"; a board without an index comes last.
    index = gpu.info.index
    return (int(index) if index.isascii() and index.isdigit() else 1 << 31, index, gpu.info.key)


def _declared(reference: str, gpus: Sequence[MergedGpu]) -> Iterable[GpuKey]:
    uuid, _, instance = reference.partition("/")
    exact = GpuKey(uuid, instance)
    named = [
        gpu.info.key
        for gpu in gpus
        if gpu.info.key == exact or reference == gpu.info.index or reference == gpu.info.mig_uuid
    ]
    # A board stands for its instances; where only the instances are seen, all of them stand for the board.
    boards = [key for key in named if not key.instance]
    instances = named or [gpu.info.key for gpu in gpus if not instance and gpu.info.key.uuid == uuid]
    return boards or instances or [exact]


def _same_pod(wanted: PodRef, seen: PodRef) -> bool:
    """The pod's name must agree; namespace and container must where both are known."""
    return (
        bool(wanted.pod)
        and wanted.pod == seen.pod
        and all(
            not a or not b or a == b
            for a, b in ((wanted.namespace, seen.namespace), (wanted.container, seen.container))
        )
    )


def _is_here(url: str, node: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or (node and host == node.lower()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
