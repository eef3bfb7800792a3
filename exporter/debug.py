"""Snapshot -> /debug/engine: for each engine all that its diagnosis rests on, as JSON for a person and for jq.

May not be in here: deriving anything (core/diagnosis.py explains itself), what an operator keeps in files: of
EngineTarget.access nothing is shown, not even a file's name.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from exporter.core import diagnosis
from exporter.core.evidence import Facts
from exporter.core.model import Gpu, GpuKey
from exporter.core.model_engines import Engine, EngineReading, EngineTarget, Histogram
from exporter.core.serving import EngineKey
from exporter.core.snapshot import Snapshot

CONTENT_TYPE = "application/json; charset=utf-8"
#: Engines in one answer at most; what is left out is counted, and the filters find it. An engine is some 15 kB, and
#: about half a millisecond in which nothing else is served.
MOST_ENGINES = 32
#: Entries of a mapping that a server or a cluster fills, and characters of one text of theirs.
_MOST_ENTRIES = 64
_MOST_CHARACTERS = 1024

#: What the last step's diagnosis of an engine rested on: by url, model and engine.
FactsByEngine = Mapping[EngineKey, Facts]


def render(
    snapshot: Snapshot | None, facts: FactsByEngine, now: float, pod: str = "", model: str = "", endpoint: str = ""
) -> bytes:
    """The page. now: monotonic seconds. pod, model, endpoint: show only engines whose name is exactly so; "" is any.

    Every time in it is an age in seconds. A number that is missing is null.
    """
    if snapshot is None:
        return _encode({"error": "nothing has been read yet; ask again in a second"})
    engines = [engine for engine in snapshot.engines if _is_asked_for(engine, pod, model, endpoint)]
    gpus = {gpu.info.key: gpu for gpu in snapshot.gpus}
    return _encode(
        {
            "node": snapshot.node,
            "age": _age(now, snapshot.at),
            "engines": [_engine(engine, gpus, facts, now) for engine in engines[:MOST_ENGINES]],
            "left_out": max(0, len(engines) - MOST_ENGINES),
            "filters": ["pod", "model", "endpoint"],
        }
    )


def _is_asked_for(engine: Engine, pod: str, model: str, endpoint: str) -> bool:
    asked = ((pod, engine.target.pod.pod), (model, engine.reading.model), (endpoint, engine.target.url))
    return all(wanted in ("", is_) for wanted, is_ in asked)


def _engine(engine: Engine, gpus: Mapping[GpuKey, Gpu], facts: FactsByEngine, now: float) -> dict[str, Any]:
    known = facts.get(EngineKey(engine.target.url, engine.reading.model, engine.reading.engine))
    return {
        "diagnosis": _plain(engine.diagnosis),
        "target": _target(engine.target),
        "model": engine.reading.model,
        "engine": engine.reading.engine,
        "kind": engine.kind,
        "first_seen": _age(now, engine.since),
        "reading_age": None if engine.at is None else _age(now, engine.at),
        "error": engine.error,
        "message": engine.message,
        "reading": _reading(engine.reading) if engine.at is not None else None,
        "rates": _plain(engine.rates),
        "usual": _plain(engine.usual),
        "learned": _plain(engine.learned),
        "saturation": engine.saturation,
        "capacity": engine.capacity,
        "hardware": {
            **_plain(engine.hardware),
            "gpus": [_gpu(key, gpus.get(key), now) for key in engine.hardware.gpus],
        },
        "memory_bytes": _plain(engine.memory_bytes),
        "kv_peak": engine.kv_peak,
        "cold_start": _plain(engine.cold_start),
        "lately": _lately(known) if known else None,
        "rules": [rule._asdict() for rule in diagnosis.explain(known)] if known else None,
    }


def _target(target: EngineTarget) -> dict[str, Any]:
    return {"url": target.url, "pod": _plain(target.pod), "labels": dict(target.labels), "gpus": list(target.gpus)}


def _reading(reading: EngineReading) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in reading.__struct_fields__:
        value = getattr(reading, name)
        shown[name] = _histogram(value) if isinstance(value, Histogram) else _plain(value)
    return shown


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """Edge -> cumulative count, the edges as Prometheus writes them: JSON has no infinity."""
    edges = ("+Inf" if math.isinf(edge) else f"{edge:g}" for edge in histogram.edges)
    return {"sum": histogram.sum, "buckets": dict(zip(edges, histogram.counts, strict=False))}


def _gpu(key: GpuKey, gpu: Gpu | None, now: float) -> dict[str, Any]:
    if gpu is None:
        return {"key": _plain(key), "verdict": None}
    verdict = {**_plain(gpu.verdict), "since": _age(now, gpu.verdict.since)}
    xids = {str(code): {"count": seen.count, "age": _age(now, seen.at)} for code, seen in gpu.xids.items()}
    return {"key": _plain(key), "index": gpu.info.index, "verdict": verdict, "xids": xids, "age": _age(now, gpu.at)}


def _lately(facts: Facts) -> dict[str, Any]:
    """What the diagnosis holds on to: seconds since."""
    ailments = facts.ailments
    ages = {
        name: None if at is None else _age(facts.now, at)
        for name in ("waiting_since", "queued_at", "throttled_at", "ailed_at")
        for at in (getattr(ailments, name),)
    }
    return {**ages, "utilization": ailments.utilization}


def _age(now: float, at: float) -> float:
    return max(0.0, now - at)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True)


def _encode(page: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_bounded(page)), indent=2) + b"\n"


def _bounded(value: Any) -> Any:
    """The same with long texts and large mappings cut: what comes from outside must not make a page of megabytes."""
    if isinstance(value, str):
        # A lone surrogate (a pod's name from a broken file) has no UTF-8.
        text = value.encode("utf-8", "replace").decode("utf-8")
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    if isinstance(value, dict):
        kept = list(value.items())[:_MOST_ENTRIES]
        cut = {"...": f"{len(value) - len(kept)} more"} if len(value) > len(kept) else {}
        return {_bounded(str(name)): _bounded(entry) for name, entry in kept} | cut
    if isinstance(value, list | tuple):
        return [_bounded(entry) for entry in value[: max(_MOST_ENTRIES, MOST_ENGINES)]]
    return value
