"""One step of a node: what the sources last said, and what was known before, become a Snapshot.

May not be in here: judging a GPU (health.py), what an engine can carry (saturation.py), what ails it (diagnosis.py),
I/O, clocks.
"""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from msgspec import Struct

from exporter.core import boards, diagnosis, health, join, rules, saturation
from exporter.core.boards import BoardsMemory
from exporter.core.inputs import NodeInputs, count, first
from exporter.core.model import (
    Engine,
    EngineReading,
    EngineScrape,
    EngineTarget,
    Gpu,
    GpuKey,
    Learned,
    Snapshot,
    Verdict,
)


class EngineKey(NamedTuple):
    url: str
    model: str
    engine: str


class KnownEngine(Struct, frozen=True):
    since: float  # first seen
    at: float | None = None  # of the newest reading that went into `memory`
    memory: saturation.EngineMemory | None = None


class NodeMemory(Struct, frozen=True):
    """All that a step leaves to the next one."""

    sequence: int = 0
    boards: BoardsMemory = BoardsMemory()
    engines: Mapping[EngineKey, KnownEngine] = {}
    overflow: Mapping[str, int] = {}


class Hardware(NamedTuple):
    """What an engine runs on, summed up."""

    gpus: tuple[GpuKey, ...]
    state: str
    capacity: float | None
    throttled: bool


def step(memory: NodeMemory, inputs: NodeInputs, now: float) -> tuple[Snapshot, NodeMemory]:
    """The node at `now` (monotonic seconds) and the memory for the next step.

    A target that left the list is forgotten, with its counts and all it taught; a GPU after boards.FORGET_SECONDS.
    """
    overflow = dict(memory.overflow)
    seen, known_boards = boards.step(memory.boards, inputs, overflow, now)
    engines, known_engines = _engines(memory.engines, inputs, seen.merged, seen.gpus, overflow, now)
    watched = {target.url for target in inputs.targets}
    snapshot = Snapshot(
        node=inputs.node,
        at=now,
        sequence=memory.sequence + 1,
        gpus=tuple(seen.gpus[gpu.info.key] for gpu in seen.merged),
        engines=engines,
        collectors=tuple(inputs.collectors),
        scrape_errors={key: errors for key, errors in inputs.scrape_errors.items() if key[0] in watched},
        scrapes={url: scrape for url, scrape in inputs.scrapes.items() if url in watched},
        fresh=inputs.fresh,
        overflow=overflow,
        node_gpus=seen.node_gpus,
        node_drift=seen.node_drift,
    )
    return snapshot, NodeMemory(snapshot.sequence, known_boards, known_engines, overflow)


def _engines(
    memory: Mapping[EngineKey, KnownEngine],
    inputs: NodeInputs,
    merged: Sequence[join.MergedGpu],
    gpus: Mapping[GpuKey, Gpu],
    overflow: dict[str, int],
    now: float,
) -> tuple[tuple[Engine, ...], dict[EngineKey, KnownEngine]]:
    throttled = {key for key, gpu in gpus.items() if _is_throttled(gpu, inputs.fresh, now)}
    engines: list[Engine] = []
    known: dict[EngineKey, KnownEngine] = {}
    for target, reading in first(_rows(inputs), "engine", overflow):
        good, last = inputs.last_good.get(target.url), inputs.scrapes.get(target.url)
        count(len(reading.finished or ()), "finished_reason", overflow)  # publish.py leaves them out
        key = EngineKey(target.url, reading.model, reading.engine)
        known[key] = _learn(memory.get(key) or KnownEngine(now), reading, good)
        hardware = _hardware(join.gpus_of(target, merged, inputs.node), gpus, throttled)
        engines.append(_engine(target, reading, known[key], good, last, hardware, now))
    return tuple(engines), known


def _rows(inputs: NodeInputs) -> list[tuple[EngineTarget, EngineReading]]:
    """One row an engine; one with a nameless reading for a target that was never read, so that it is seen to exist."""
    rows: dict[EngineKey, tuple[EngineTarget, EngineReading]] = {}
    for target in inputs.targets:
        good = inputs.last_good.get(target.url)
        for reading in good.readings if good else (EngineReading("", ""),):
            rows.setdefault(EngineKey(target.url, reading.model, reading.engine), (target, reading))
    return list(rows.values())


def _learn(known: KnownEngine, reading: EngineReading, good: EngineScrape | None) -> KnownEngine:
    """Each good reading is learned from once, however often it is seen."""
    if good is None or (known.at is not None and good.at <= known.at):
        return known
    return KnownEngine(known.since, good.at, saturation.observe(known.memory, reading, good.at))


def _engine(
    target: EngineTarget,
    reading: EngineReading,
    known: KnownEngine,
    good: EngineScrape | None,
    last: EngineScrape | None,
    hardware: Hardware,
    now: float,
) -> Engine:
    memory = known.memory
    capacity = 0.0 if memory and saturation.wedged(memory, now) else hardware.capacity
    error, message = (last.error, last.message) if last else ("pending", f"{target.url}: not read yet")
    learned = memory.learned if memory else Learned()
    requests_per_second, tokens_per_second = saturation.rates(memory) if memory else (None, None)
    seen = reading if good else None
    cause = diagnosis.diagnose(
        seen, memory, hardware.state, capacity, hardware.throttled, error, now, since=known.since
    )
    return Engine(
        target=target,
        reading=reading,
        kind=good.kind if good else "",
        at=good.at if good else None,
        error=error,
        message=message,
        since=known.since,
        gpus=hardware.gpus,
        health=hardware.state,
        capacity=capacity,
        saturation=saturation.ratio(reading, learned) if good else None,
        cause=cause,
        learned=learned,
        requests_per_second=requests_per_second,
        tokens_per_second=tokens_per_second,
    )


def _hardware(keys: tuple[GpuKey, ...], gpus: Mapping[GpuKey, Gpu], throttled: Set[GpuKey]) -> Hardware:
    """The worst of an engine's GPUs: the ranks of a tensor-parallel group wait for the slowest.

    One GPU at capacity 0 makes the engine 0, whatever is unknown of the others.
    """
    if not keys:
        return Hardware((), "unknown", None, False)
    verdicts = [gpus[key].verdict if key in gpus else Verdict("unknown") for key in keys]
    held_down = {key for key in keys if key in throttled or GpuKey(key.uuid) in throttled}
    known = [
        # Below 1 and not held down: capped by power, as under any full load. What the engine was seen to carry it
        # carried on these clocks; to lower it by them again would count them twice.
        1.0 if verdict.capacity > 0.0 and key not in held_down else verdict.capacity
        for key, verdict in zip(keys, verdicts, strict=True)
        if verdict.capacity is not None
    ]
    certain = len(known) == len(keys) or 0.0 in known
    return Hardware(
        gpus=keys,
        state=min((verdict.state for verdict in verdicts), key=health.WORST_FIRST.index),
        capacity=min(known) if certain else None,
        # NVML tells a board's clocks, and holds them down for all its instances.
        throttled=bool(held_down),
    )


def _is_throttled(gpu: Gpu, fresh: Mapping[str, float], now: float) -> bool:
    reasons = gpu.readings.get("throttle_reasons")
    if reasons is None or not join.is_fresh(reasons.at, reasons.source, now, fresh):
        return False
    return bool(int(reasons.value) & rules.THROTTLED)
