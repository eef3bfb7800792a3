"""One step of a node's engines: what servers said, the GPUs that they run on, and what was known before.

May not be in here: what an engine can carry (saturation.py), what ails it (diagnosis.py), what its GPUs are worth
(hardware.py), what their memory is used for (engine_memory.py), how it started (cold_start.py), I/O, clocks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.core import cold_start, diagnosis, engine_memory, hardware, join, kinds, lessons, saturation, usual
from exporter.core.cold_start import Cold, ColdMemory
from exporter.core.engine_memory import Owner
from exporter.core.evidence import Facts
from exporter.core.inputs import NodeInputs, count, first
from exporter.core.lessons import Lessons
from exporter.core.model import Gpu, GpuKey
from exporter.core.model_engines import (
    ColdStart,
    Engine,
    EngineReading,
    EngineScrape,
    EngineTarget,
    Hardware,
    Learned,
    Rates,
    Usual,
)
from exporter.core.usual import Ailments, UsualMemory


class EngineKey(NamedTuple):
    url: str
    model: str
    engine: str


class KnownEngine(Struct, frozen=True):
    since: float  # first seen
    at: float | None = None  # of the newest reading that went into the memories
    memory: saturation.EngineMemory | None = None
    rates: Rates = Rates()  # at that reading
    well: UsualMemory | None = None  # of its good service


class ServingMemory(Struct, frozen=True):
    """All that a step leaves to the next one. `lessons` is worth keeping over a restart of this program."""

    engines: Mapping[EngineKey, KnownEngine] = {}
    cold: ColdMemory = ColdMemory()
    lessons: Lessons = Lessons()
    facts: Mapping[EngineKey, Facts] = {}  # what the step's diagnoses rest on, for who wants to see it


class Served(NamedTuple):
    engines: tuple[Engine, ...]
    cold_starts: tuple[ColdStart, ...]


class _Around(NamedTuple):
    """What the engines of a step have in common."""

    inputs: NodeInputs
    gpus: Mapping[GpuKey, Gpu]
    on: Mapping[str, Hardware]  # by URL, as the next three
    owners: Mapping[str, Owner]
    cold: Cold
    typical: Mapping[lessons.Model, Learned]
    now: float


def resumed(remembered: Lessons) -> ServingMemory:
    """The memory of a run that begins, of what an earlier one left."""
    return ServingMemory(cold=ColdMemory(models=remembered.starts), lessons=remembered)


def step(
    memory: ServingMemory,
    inputs: NodeInputs,
    merged: Sequence[join.MergedGpu],
    gpus: Mapping[GpuKey, Gpu],
    overflow: dict[str, int],
    now: float,
) -> tuple[Served, ServingMemory]:
    """The node's engines at `now`, and the memory for the next step.

    A target that left the list is forgotten; what its engines taught of their model is not.
    """
    cold, cold_memory = cold_start.step(memory.cold, inputs, overflow, now)
    keys = {target.url: join.gpus_of(target, merged, inputs.node) for target in inputs.targets}
    held = hardware.throttled(gpus, inputs.fresh, now)
    around = _Around(
        inputs=inputs,
        gpus=gpus,
        on={url: hardware.of(of, gpus, held, inputs.fresh, now) for url, of in keys.items()},
        owners=engine_memory.owners(_places(inputs, keys), gpus),
        cold=cold,
        typical=memory.lessons.typical,
        now=now,
    )
    engines: list[Engine] = []
    known: dict[EngineKey, KnownEngine] = {}
    facts: dict[EngineKey, Facts] = {}
    rows = first(_rows(inputs), "engine", overflow)
    for target, reading in rows:
        for kind, parts in (("finished_reason", reading.finished), ("waiting_reason", reading.waiting_by_reason)):
            count(len(parts or ()), kind, overflow)  # publish_engines.py leaves them out
        key = EngineKey(target.url, reading.model, reading.engine)
        known[key] = _learn(memory.engines.get(key) or KnownEngine(now), target, reading, around)
    rates = _rates(known, now)
    for target, reading in rows:
        key = EngineKey(target.url, reading.model, reading.engine)
        facts[key] = _facts(target, reading, known[key], rates[key], around)
        engines.append(_engine(target, reading, known[key], facts[key], around))
    shown = [
        ((engine.target.pod.namespace, engine.reading.model), one.memory.learned)
        for engine, one in zip(engines, known.values(), strict=True)
        if one.memory
    ]
    knees = lessons.taught(memory.lessons.knees, shown)
    return Served(tuple(engines), cold.starts), ServingMemory(
        known, cold_memory, Lessons(knees, cold_memory.models), facts
    )


def _rows(inputs: NodeInputs) -> list[tuple[EngineTarget, EngineReading]]:
    """One row an engine; one with a nameless reading for a target that was never read, so that it is seen to exist."""
    rows: dict[EngineKey, tuple[EngineTarget, EngineReading]] = {}
    for target in inputs.targets:
        good = inputs.last_good.get(target.url)
        for reading in good.readings if good else (EngineReading("", ""),):
            rows.setdefault(EngineKey(target.url, reading.model, reading.engine), (target, reading))
    return list(rows.values())


def _places(inputs: NodeInputs, keys: Mapping[str, tuple[GpuKey, ...]]) -> Mapping[str, engine_memory.Place]:
    return {
        target.url: engine_memory.place(
            target, keys[target.url], inputs.pods.get((target.pod.namespace, target.pod.pod))
        )
        for target in inputs.targets
    }


def _learn(known: KnownEngine, target: EngineTarget, reading: EngineReading, around: _Around) -> KnownEngine:
    """Each good reading is learned from once, however often it is seen."""
    good = around.inputs.last_good.get(target.url)
    if good is None or (known.at is not None and good.at <= known.at):
        return known
    memory = saturation.observe(known.memory, reading, good.at, good.kind in kinds.COUNTED_LATE)
    rates = saturation.rates(memory, good.at)
    ratio = saturation.ratio(reading, _learned(memory, target, reading, around), rates)
    of = usual.observe(known.well, reading, rates, around.on[target.url], ratio, good.at)
    return KnownEngine(known.since, good.at, memory, rates, of)


def _rates(known: Mapping[EngineKey, KnownEngine], now: float) -> Mapping[EngineKey, Rates]:
    """Each engine's. What is refused is refused by a server, for all its engines of a model (data parallelism), and
    counted once, for the first of them: here each has its part of it.
    """
    rates = {
        key: one.rates if one.at is not None and now - one.at <= saturation.WINDOW else Rates()
        for key, one in known.items()
    }
    servers: dict[tuple[str, str], list[EngineKey]] = {}
    for key in known:
        servers.setdefault((key.url, key.model), []).append(key)
    for keys in servers.values():
        refused = sum(rates[key].rejections_per_second or 0.0 for key in keys)
        if len(keys) > 1 and refused:
            rates |= {key: replace(rates[key], rejections_per_second=refused / len(keys)) for key in keys}
    return rates


def _learned(memory: saturation.EngineMemory, target: EngineTarget, reading: EngineReading, around: _Around) -> Learned:
    typical = around.typical.get((target.pod.namespace, reading.model), Learned())
    return lessons.or_typical(memory.learned, typical)


def _facts(target: EngineTarget, reading: EngineReading, known: KnownEngine, rates: Rates, around: _Around) -> Facts:
    inputs, now, memory = around.inputs, around.now, known.memory
    good, last, on = inputs.last_good.get(target.url), inputs.scrapes.get(target.url), around.on[target.url]
    learned = _learned(memory, target, reading, around) if memory else Learned()
    return Facts(
        now=now,
        reading=reading if good else None,
        kind=good.kind if good else "",
        lacking=good.lacking if good else (),
        error=last.error if last else "pending",
        memory=memory,
        rates=rates,
        usual=known.well.usual if known.well else Usual(),
        ailments=known.well.ailments if known.well else Ailments(),
        learned=learned,
        saturation=saturation.ratio(reading, learned, rates) if good else None,
        hardware=on,
        capacity=on.capacity,
        age=now - known.since,
        started=_started(target, inputs),
        fresh=inputs.fresh["engines"],
    )


def _started(target: EngineTarget, inputs: NodeInputs) -> float | None:
    """Seconds since its container was started, as Kubernetes tells it."""
    pod = inputs.pods.get((target.pod.namespace, target.pod.pod))
    at = pod.started.get(target.pod.container) if pod else None
    return None if at is None or inputs.wall is None else max(0.0, inputs.wall - at)


def _engine(target: EngineTarget, reading: EngineReading, known: KnownEngine, facts: Facts, around: _Around) -> Engine:
    good, last = around.inputs.last_good.get(target.url), around.inputs.scrapes.get(target.url)
    found = diagnosis.diagnose(facts)
    return Engine(
        target=target,
        reading=reading,
        kind=facts.kind,
        at=good.at if good else None,
        error=facts.error,
        message=last.message if last else f"{target.url}: not read yet",
        since=known.since,
        hardware=facts.hardware,
        capacity=0.0 if found.cause == "wedged" else facts.capacity,
        saturation=facts.saturation,
        diagnosis=found,
        learned=facts.learned,
        rates=facts.rates,
        usual=facts.usual,
        kv_peak=saturation.kv_peak(known.memory, around.now) if known.memory else None,
        memory_bytes=_memory_bytes(target, reading, good, around),
        cold_start=around.cold.of.get(target.url, {}),
    )


def _memory_bytes(
    target: EngineTarget, reading: EngineReading, good: EngineScrape | None, around: _Around
) -> Mapping[str, float]:
    inputs, now = around.inputs, around.now
    if good is None or not join.is_fresh(good.at, "engines", now, inputs.fresh):
        # What its processes hold is told by the GPU; what for was the server's word.
        reading = EngineReading(reading.model, reading.engine)
        target = replace(target, weights_bytes=None, kv_bytes_per_token=None)
    return engine_memory.memory_bytes(
        reading,
        target,
        [around.gpus.get(key) for key in around.on[target.url].gpus],
        around.owners[target.url],
        len(good.readings) if good else 1,
        inputs.containers,
        inputs.fresh,
        now,
    )
