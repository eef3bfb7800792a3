"""What an engine runs on, summed up over its GPUs.

May not be in here: which GPUs they are (join.py), judging one (health.py).
"""

from collections.abc import Mapping, Sequence

from exporter.core import health, join, rules
from exporter.core.model import Gpu, GpuKey, Verdict
from exporter.core.model_engines import Hardware


def of(
    keys: tuple[GpuKey, ...],
    gpus: Mapping[GpuKey, Gpu],
    held: Mapping[GpuKey, bool],
    fresh: Mapping[str, float],
    now: float,
) -> Hardware:
    """The worst of an engine's GPUs: the ranks of a tensor-parallel group wait for the slowest.

    held: throttled(). One GPU at capacity 0 makes the engine 0, whatever is unknown of the others. The utilization is
    known only if every GPU's is: the busiest might be the one that is not. So is that none is held down.
    """
    if not keys:
        return Hardware()
    seen = [gpus.get(key) for key in keys]
    verdicts = [gpu.verdict if gpu else Verdict("unknown") for gpu in seen]
    # NVML tells a board's clocks, and holds them down for all its instances.
    told = {key: [held[of] for of in (key, GpuKey(key.uuid)) if of in held] for key in keys}
    held_down = {key for key in keys if any(told[key])}
    known = [
        # Below 1 and not held down: capped by power, as under any full load. What the engine was seen to carry it
        # carried on these clocks; to lower it by them again would count them twice.
        1.0 if verdict.capacity > 0.0 and key not in held_down else verdict.capacity
        for key, verdict in zip(keys, verdicts, strict=True)
        if verdict.capacity is not None
    ]
    certain = len(known) == len(keys) or 0.0 in known
    shares = [share for gpu in seen if gpu and (share := _reading(gpu, "utilization", fresh, now)) is not None]
    return Hardware(
        gpus=keys,
        state=min((verdict.state for verdict in verdicts), key=health.WORST_FIRST.index),
        capacity=min(known) if certain else None,
        throttled=True if held_down else False if all(told.values()) else None,
        utilization=max(shares) if len(shares) == len(keys) else None,
        xids=_xids([gpu for gpu in seen if gpu], now),
    )


def throttled(gpus: Mapping[GpuKey, Gpu], fresh: Mapping[str, float], now: float) -> Mapping[GpuKey, bool]:
    """Whether clocks are held down now by what costs work, of the GPUs that tell."""
    masks = {key: _reading(gpu, "throttle_reasons", fresh, now) for key, gpu in gpus.items()}
    return {key: bool(int(mask) & rules.THROTTLED) for key, mask in masks.items() if mask is not None}


def _xids(gpus: Sequence[Gpu], now: float) -> tuple[tuple[int, float], ...]:
    """Each code once, by when one of the GPUs showed it last: no more rows than the table of codes has."""
    last: dict[int, float] = {}
    for gpu in gpus:
        for code, xid in gpu.xids.items():
            last[code] = max(xid.at, last.get(code, xid.at))
    newest = sorted(last.items(), key=lambda seen: (-seen[1], seen[0]))
    return tuple((code, max(0.0, now - at)) for code, at in newest)


def _reading(gpu: Gpu, signal: str, fresh: Mapping[str, float], now: float) -> float | None:
    reading = gpu.readings.get(signal)
    return reading.value if reading and join.is_fresh(reading.at, reading.source, now, fresh) else None
