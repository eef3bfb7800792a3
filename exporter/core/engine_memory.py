"""What the memory of an engine's GPUs is used for: weights, KV cache held and free, the rest, and what nobody holds.

May not be in here: reading processes (sources/nvml_*.py) or their containers (sources/proc.py), which GPUs an engine
has (join.py), I/O, clocks.

What is measured is how much the engine's processes hold, and how much nobody holds. What it is for is the word of the
server (the KV cache, where its size was set) and of the operator (weights, bytes of a token in the KV cache). A kind
that cannot be told is absent, and `other` holds it. What is told of one GPU's worth is never more than the GPU has:
where the words add up to more than the processes hold, they are wrong, nobody knows which, and none is published.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from exporter.core.join import is_fresh
from exporter.core.model import Gpu, GpuKey
from exporter.core.model_engines import EngineReading, EngineTarget, PodFacts

#: weights, kv_used, kv_free: as told. other: what its processes hold beside the kinds that are told.
#: unallocated: what nobody holds of its GPUs.
KINDS = ("weights", "kv_used", "kv_free", "other", "unallocated")

#: Where an engine has its GPUs to itself but its processes hold less than this share of what is held there, somebody is
#: not listed: clients of MPS and programs of graphics have lists of their own.
LISTED_SHARE = 0.5

_COUNT = re.compile(r"[0-9]{1,15}")


class Place(NamedTuple):
    """Where a server runs."""

    gpus: tuple[GpuKey, ...] = ()  # () is unknown
    containers: frozenset[str] = frozenset()  # ids of its containers; empty is unknown


class Owner(NamedTuple):
    """How the processes of a server are told from others on its GPUs. Neither: they cannot be."""

    alone: bool = False  # no other server and no other pod is on its GPUs: every process there is its own
    containers: frozenset[str] = frozenset()  # ids of containers that no other server is in


NOBODY = Owner()


def place(target: EngineTarget, gpus: tuple[GpuKey, ...], facts: PodFacts | None) -> Place:
    """facts: of the target's pod. Without the container's name all containers of the pod are the server's."""
    known = facts.containers if facts else {}
    name = target.pod.container
    ids = [known.get(name, "")] if name else list(known.values())
    return Place(gpus, frozenset(one for one in ids if one))


def owners(places: Mapping[str, Place], gpus: Mapping[GpuKey, Gpu]) -> Mapping[str, Owner]:
    """URL of a server -> how its processes are told from others. places: of all servers of the node, by URL.

    A server of which it is not known where it runs may be on any GPU that is not known to be one pod's. On a board are
    its MIG instances.
    """
    on: dict[GpuKey, set[str]] = {}
    within: dict[str, set[str]] = {}
    lost = {url for url, one in places.items() if not one.gpus}
    for url, one in places.items():
        for key in one.gpus:
            on.setdefault(key, set()).add(url)
        for container in one.containers:
            within.setdefault(container, set()).add(url)
    divided: dict[str, set[str]] = {}
    for key, urls in on.items():
        if key.instance:
            divided.setdefault(key.uuid, set()).update(urls)

    def alone(url: str, key: GpuKey) -> bool:
        gpu = gpus.get(key)
        if gpu is None or gpu.shared or len(gpu.pods) > 1:
            return False
        overlapping = on.get(GpuKey(key.uuid), set()) if key.instance else divided.get(key.uuid, set())
        return on[key] | overlapping | (set() if gpu.pods else lost) == {url}

    return {
        url: Owner(
            bool(one.gpus) and all(alone(url, key) for key in one.gpus),
            one.containers if all(within[container] == {url} for container in one.containers) else frozenset(),
        )
        for url, one in places.items()
    }


def memory_bytes(
    reading: EngineReading,
    target: EngineTarget,
    gpus: Sequence[Gpu | None],
    owner: Owner,
    engines: int,
    containers: Mapping[int, str],
    fresh: Mapping[str, float],
    now: float,
) -> Mapping[str, float]:
    """KINDS -> bytes over the engine's GPUs, each 0 or more; {} if nothing can be told.

    gpus: all that the server has; None: no source tells of it. owner: of owners(). engines: how many the server has
    behind its URL (data parallelism). They have one list of processes and nobody says which of the GPUs are whose, so
    of several engines only the kinds that are told of each are published.
    containers: pid -> id of its container, "" for none; a process that is not in it cannot be told from others.
    """
    if not gpus or engines < 1:
        return {}
    free = _over(gpus, "memory_free", fresh, now)
    used = _over(gpus, "memory_used", fresh, now)
    total = _over(gpus, "memory_total", fresh, now)
    # What the driver keeps for itself is no more than what a process is seen to hold is off by.
    most = total - free if total is not None and free is not None else used
    held = _held(gpus, owner, containers, used, fresh, now)
    if held is not None and most is not None and held > most:
        held = None  # the list is older than the rest: something was freed since
    told = _told(reading, target, len(gpus), engines)
    limit = held if held is not None else most
    if limit is not None and engines * math.fsum(told.values()) > limit:
        told = {}
    if engines > 1:
        return told
    kinds = dict(told)
    if held is not None:
        kinds["other"] = held - math.fsum(told.values())
    if free is not None:
        kinds["unallocated"] = free
    return kinds


def _told(reading: EngineReading, target: EngineTarget, gpus: int, engines: int) -> dict[str, float]:
    """weights, kv_used and kv_free of one engine, as far as somebody says how large they are."""
    if reading.sleeping:
        return {}  # vLLM's sleep mode gives the KV cache back and moves or drops the weights
    told: dict[str, float] = {}
    if target.weights_bytes is not None and _is_amount(target.weights_bytes):
        told["weights"] = target.weights_bytes
    cache = _kv_bytes(reading, target, gpus, engines)
    usage = reading.kv_usage
    if cache is not None and usage is not None and 0.0 <= usage <= 1.0:
        told["kv_used"] = cache * usage
        told["kv_free"] = cache - told["kv_used"]
    return told


def _kv_bytes(reading: EngineReading, target: EngineTarget, gpus: int, engines: int) -> float | None:
    """Bytes of the KV cache over all GPUs of one engine; None: nobody tells.

    The server's own number comes first. vLLM's kv_cache_memory_bytes is of one GPU ("Size of KV Cache per GPU in
    bytes", vllm/config/cache.py) and the same on each, with tensor and pipeline parallelism alike; it is "None" unless
    it was set, then the size follows from gpu_memory_utilization and what else is on the GPU.
    """
    text = reading.config.get("kv_cache_bytes", "")
    if _COUNT.fullmatch(text) and float(text):
        return float(text) * (gpus // engines) if gpus % engines == 0 else None
    of_token, tokens = target.kv_bytes_per_token, reading.kv_capacity_tokens
    if of_token is None or tokens is None:
        return None
    cache = of_token * tokens
    return cache if _is_amount(cache) and cache else None


def _held(
    gpus: Sequence[Gpu | None],
    owner: Owner,
    containers: Mapping[int, str],
    used: float | None,
    fresh: Mapping[str, float],
    now: float,
) -> float | None:
    """Bytes that the server's processes hold; None: it cannot be told. It has a process on each of its GPUs.

    Containers come first: on GPUs of its own there may be a process that was left behind. Where they tell of none of
    the server's, as without hostPID, the GPUs being its own decides.
    """
    lists = [_listed(gpu, fresh, now) for gpu in gpus]
    amounts = None
    if owner.containers and all(
        processes is not None and all(pid in containers for pid in processes) for processes in lists
    ):
        amounts = _all(
            None if processes is None else [processes[pid] for pid in processes if containers[pid] in owner.containers]
            for processes in lists
        )
    if amounts is None and owner.alone and used is not None:
        amounts = _all(None if processes is None else list(processes.values()) for processes in lists)
        if amounts is not None and amounts < LISTED_SHARE * used:
            return None
    return amounts


def _all(lists: Iterable[Sequence[float | None] | None]) -> float | None:
    """The sum over GPUs of what processes hold; None if a GPU has none, or one does not say."""
    held = 0.0
    for amounts in lists:
        if not amounts:
            return None
        for amount in amounts:
            if amount is None or not _is_amount(amount):
                return None
            held += amount
    return held


def _listed(gpu: Gpu | None, fresh: Mapping[str, float], now: float) -> Mapping[int, float | None] | None:
    """pid -> bytes of all processes on the GPU; None: they are not told, or not all, or one of them twice."""
    if gpu is None or gpu.processes is None:
        return None
    count = _value(gpu, "processes", fresh, now)
    by_pid = {process.pid: process.bytes for process in gpu.processes}
    return by_pid if count == len(gpu.processes) == len(by_pid) else None


def _over(gpus: Sequence[Gpu | None], signal: str, fresh: Mapping[str, float], now: float) -> float | None:
    """The sum of a signal; None if one of the GPUs does not tell it now."""
    values = [_value(gpu, signal, fresh, now) if gpu else None for gpu in gpus]
    known = [value for value in values if value is not None and _is_amount(value)]
    return math.fsum(known) if len(known) == len(values) else None


def _value(gpu: Gpu, signal: str, fresh: Mapping[str, float], now: float) -> float | None:
    reading = gpu.readings.get(signal)
    return reading.value if reading and is_fresh(reading.at, reading.source, now, fresh) else None


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0.0
