"""One step of a node: what the sources last said, and what was known before, become a Snapshot.

May not be in here: judging a GPU (health.py), what an engine can carry (saturation.py), what ails it (diagnosis.py),
I/O, clocks.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

from msgspec import Struct, field

from exporter.core import diagnosis, health, join, saturation
from exporter.core.model import (
    Collector,
    Engine,
    EngineReading,
    EngineScrape,
    EngineTarget,
    Gpu,
    GpuKey,
    GpuSample,
    Learned,
    Snapshot,
    Verdict,
    XidEvent,
)

#: How many of a kind are published at most; what is above is left out and counted. Far above what is real (16 boards
#: with 7 MIG instances, 256 targets with 2 engines, vLLM's 5 reasons), far below what would hurt Prometheus.
LIMITS: Mapping[str, int] = {
    "gpu": 256,
    "pod": 64,  # of a GPU: time slices
    "xid": 64,  # codes of a GPU
    "engine": 512,
    "finished_reason": 16,  # of an engine
}
#: Xids of a GPU that no source has shown yet wait for it; the oldest give way.
MAX_UNPLACED_XIDS = 64

#: Seconds for which a reading counts, by source: three default polls; for engines with the last one's time limit.
FRESH_SECONDS: Mapping[str, float] = {**join.FRESH_SECONDS, "engines": 5.0}

#: From the worst. An engine is as healthy as its worst GPU, and nobody vouches for an unknown one.
WORST_FIRST = ("lost", "unhealthy", "unknown", "degraded", "healthy")

#: Bits of throttle_reasons that hold the clocks down unasked: HW slowdown, SW and HW thermal, power brake.
#: The power cap is not among them: under full load it is every data-centre GPU's ordinary state.
THROTTLED_BITS = 0x8 | 0x20 | 0x40 | 0x80

_T = TypeVar("_T")


class EngineKey(NamedTuple):
    url: str
    model: str
    engine: str


class KnownGpu(Struct, frozen=True):
    health: health.HealthMemory
    xids: Mapping[int, int]  # code -> count


class KnownEngine(Struct, frozen=True):
    since: float  # first seen
    at: float | None = None  # of the newest reading that went into `memory`
    memory: saturation.EngineMemory | None = None


class NodeMemory(Struct, frozen=True):
    """All that a step leaves to the next one."""

    sequence: int = 0
    gpus: Mapping[GpuKey, KnownGpu] = {}
    engines: Mapping[EngineKey, KnownEngine] = {}
    unplaced: tuple[XidEvent, ...] = ()  # Xids of GPUs that no source has shown yet
    overflow: Mapping[str, int] = {}


class NodeInputs(Struct, frozen=True):
    """What the sources last said."""

    node: str
    samples: Sequence[GpuSample] = ()
    xids: Sequence[XidEvent] = ()  # new since the last step
    targets: Sequence[EngineTarget] = ()  # all that are to be watched now
    scrapes: Mapping[str, EngineScrape] = {}  # url -> last attempt
    last_good: Mapping[str, EngineScrape] = {}  # url -> last attempt that gave readings
    scrape_errors: Mapping[tuple[str, str], int] = {}
    collectors: Sequence[Collector] = ()
    fresh: Mapping[str, float] = field(default_factory=lambda: FRESH_SECONDS)


class Hardware(NamedTuple):
    """What an engine runs on, summed up."""

    gpus: tuple[GpuKey, ...]
    state: str
    capacity: float | None
    throttled: bool


def step(memory: NodeMemory, inputs: NodeInputs, now: float) -> tuple[Snapshot, NodeMemory]:
    """The node at `now` (monotonic seconds) and the memory for the next step.

    A GPU that no sample tells of and a target that left the list are forgotten, with their counts and all they taught.
    """
    overflow = dict(memory.overflow)
    merged = _first(join.merge(inputs.samples, now, inputs.fresh), "gpu", overflow)
    placed, unplaced = _place_xids((*memory.unplaced, *inputs.xids), [gpu.info.key for gpu in merged])
    gpus, known_gpus = _gpus(memory.gpus, merged, placed, inputs.fresh, overflow, now)
    engines, known_engines = _engines(memory.engines, inputs, merged, gpus, overflow, now)
    watched = {target.url for target in inputs.targets}
    snapshot = Snapshot(
        node=inputs.node,
        at=now,
        sequence=memory.sequence + 1,
        gpus=tuple(gpus[gpu.info.key] for gpu in merged),
        engines=engines,
        collectors=tuple(inputs.collectors),
        scrape_errors={key: count for key, count in inputs.scrape_errors.items() if key[0] in watched},
        scrapes={url: scrape for url, scrape in inputs.scrapes.items() if url in watched},
        fresh=inputs.fresh,
        overflow=overflow,
    )
    return snapshot, NodeMemory(snapshot.sequence, known_gpus, known_engines, unplaced, overflow)


def _gpus(
    memory: Mapping[GpuKey, KnownGpu],
    merged: Sequence[join.MergedGpu],
    xids: Mapping[GpuKey, Sequence[XidEvent]],
    fresh: Mapping[str, float],
    overflow: dict[str, int],
    now: float,
) -> tuple[dict[GpuKey, Gpu], dict[GpuKey, KnownGpu]]:
    gpus: dict[GpuKey, Gpu] = {}
    known: dict[GpuKey, KnownGpu] = {}
    # Boards first: the verdict on a MIG instance asks for its board's.
    for seen in sorted(merged, key=lambda gpu: bool(gpu.info.key.instance)):
        key = seen.info.key
        board = gpus.get(GpuKey(key.uuid)) if key.instance else None
        before, events = memory.get(key), xids.get(key, ())
        verdict, health_memory = health.judge(
            before.health if before else None, seen, events, now, fresh, board.verdict if board else None
        )
        known[key] = KnownGpu(health_memory, _counted(before.xids if before else {}, events, overflow))
        gpus[key] = Gpu(
            info=seen.info,
            readings=seen.readings,
            missing=seen.missing,
            xids=known[key].xids,
            pods=tuple(_first(seen.pods, "pod", overflow)),
            verdict=verdict,
            at=seen.at,
        )
    return gpus, known


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
    for target, reading in _first(_rows(inputs), "engine", overflow):
        good, last = inputs.last_good.get(target.url), inputs.scrapes.get(target.url)
        _count(len(reading.finished or ()), "finished_reason", overflow)  # publish.py leaves them out
        key = EngineKey(target.url, reading.model, reading.engine)
        known[key] = _learn(memory.get(key) or KnownEngine(now), reading, good)
        hardware = _hardware(join.gpus_of(target, merged, inputs.node), gpus, throttled)
        engines.append(_engine(target, reading, known[key], good, last, hardware, now))
    return tuple(engines), known


def _first(items: Sequence[_T], kind: str, overflow: dict[str, int]) -> Sequence[_T]:
    """As many as LIMITS allows; the others are counted."""
    _count(len(items), kind, overflow)
    return items[: LIMITS[kind]]


def _count(number: int, kind: str, overflow: dict[str, int]) -> None:
    if number > LIMITS[kind]:
        overflow[kind] = overflow.get(kind, 0) + number - LIMITS[kind]


def _place_xids(
    events: Iterable[XidEvent], keys: Sequence[GpuKey]
) -> tuple[dict[GpuKey, list[XidEvent]], tuple[XidEvent, ...]]:
    """Each event to the GPU it names, else to its board, else to all instances of the board; the rest waits."""
    placed: dict[GpuKey, list[XidEvent]] = {}
    unplaced = []
    for event in events:
        named = [key for key in (event.key, GpuKey(event.key.uuid)) if key in keys][:1]
        here = named or [key for key in keys if key.uuid == event.key.uuid]
        for key in here:
            placed.setdefault(key, []).append(event)
        if not here:
            unplaced.append(event)
    return placed, tuple(unplaced[-MAX_UNPLACED_XIDS:])


def _counted(before: Mapping[int, int], xids: Iterable[XidEvent], overflow: dict[str, int]) -> Mapping[int, int]:
    counts = dict(before)
    for event in xids:
        counts[event.xid] = counts.get(event.xid, 0) + 1
    return dict(_first(list(counts.items()), "xid", overflow))  # in the order of first sight


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
    known = [verdict.capacity for verdict in verdicts if verdict.capacity is not None]
    certain = len(known) == len(keys) or 0.0 in known
    return Hardware(
        gpus=keys,
        state=min((verdict.state for verdict in verdicts), key=WORST_FIRST.index),
        capacity=min(known) if certain else None,
        # NVML tells a board's clocks, and holds them down for all its instances.
        throttled=any(key in throttled or GpuKey(key.uuid) in throttled for key in keys),
    )


def _is_throttled(gpu: Gpu, fresh: Mapping[str, float], now: float) -> bool:
    reasons = gpu.readings.get("throttle_reasons")
    if reasons is None or now - reasons.at > fresh.get(reasons.source, 0.0):
        return False
    return bool(int(reasons.value) & THROTTLED_BITS)
