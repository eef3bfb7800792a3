"""Fake GPUs, for the demo and for trying Plimsoll out without one: what a JSON file says, read again when it changes.

May not be in here: anything that other sources need. Numbers are a plausible H100's; they vary with time alone.

The file is a list of GPUs; every key but `uuid` may be left out:

    [{"uuid": "GPU-1", "index": 0, "name": "NVIDIA H100 80GB HBM3", "load": 0.6,
      "xids": [79], "lost": "gpu_is_lost", "hung": true, "throttle": ["hw_thermal_slowdown"],
      "values": {"temperature": 91, "ecc_uncorrected": 1}, "missing": {"power": "not_supported"},
      "pods": [{"namespace": "default", "pod": "llama-0", "container": "vllm"}]}]

load      0..1; what the GPU's readings follow
xids      events, each fired once when it is added to the list; 79 also loses the GPU
lost      why the GPU as a whole is gone
hung      no new readings while this is set
throttle  reasons that hold the clocks down (core/signals.py has the names)
values    signals in their units, instead of what the load gives; as many processes as it says share their memory
missing   signals that cannot be read, and why
pods      the containers that the GPU is given to
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from exporter.core import signals, xid
from exporter.core.model import GpuInfo, GpuKey, GpuProcess, GpuSample, PodRef, XidEvent
from exporter.core.snapshot import Collector
from exporter.kit.tasks import crash_message, keep_running

log = logging.getLogger(__name__)

#: Seconds between two samples, and between two looks at the file.
SAMPLE_SECONDS = 1.0
LOOK_SECONDS = 0.2

_MODEL = "NVIDIA H100 80GB HBM3"
_BITS = {name: bit for bit, name in signals.THROTTLE_REASONS}
#: What is left of the SM clock: a slowdown by hardware halves it at least (nvml.h), the others follow need.
_CLOCK_LEFT = {"hw_slowdown": 0.5, "hw_thermal_slowdown": 0.5, "hw_power_brake": 0.5, "sw_thermal_slowdown": 0.75}
_POWER_CAPPED = 0.85
#: Reasons that the driver keeps a counter of seconds for -> the signal.
_COUNTED = {
    "sw_power_cap": "throttle_sw_power_cap",
    "sw_thermal_slowdown": "throttle_sw_thermal",
    "hw_thermal_slowdown": "throttle_hw_thermal",
    "hw_power_brake": "throttle_hw_power_brake",
}

#: What does not depend on the load.
_CONSTANT: Mapping[str, float] = {
    "memory_total": 80 * 1024 * signals.MIB,
    "memory_reserved": 566 * signals.MIB,
    "power_limit": 700.0,
    "power_limit_default": 700.0,
    "clock_sm_max": 1980e6,
    "clock_memory": 2619e6,
    "clock_memory_max": 2619e6,
    "ecc_enabled": 1.0,
    "ecc_corrected": 0.0,
    "ecc_uncorrected": 0.0,
    "ecc_corrected_lifetime": 0.0,
    "ecc_uncorrected_lifetime": 0.0,
    "remapped_correctable": 0.0,
    "remapped_uncorrectable": 0.0,
    "remap_pending": 0.0,
    "remap_failure": 0.0,
    "pcie_replays": 0.0,
    "pcie_generation": 5.0,
    "pcie_generation_max": 5.0,
    "pcie_width": 16.0,
    "pcie_width_max": 16.0,
    "recovery_action": 0.0,
    "xid_watched": 1.0,
    "ecc_pending": 1.0,
    "temperature_slowdown": 92.0,
    "temperature_shutdown": 95.0,
    "margin_slowdown": -2.0,
    "margin_shutdown": -8.0,
    "margin_memory_max": 0.0,
    "margin_gpu_max": 0.0,
    "clock_sm_application": 1980e6,
    "remap_banks_max": 2560.0,
    "persistence": 1.0,
    "fabric_state": 3.0,
    "fabric_summary": 1.0,
    "fabric_health": float(0x1AA),  # no part of it is true (nvml.h)
    "processes": 1.0,
    **{f"nvlink_up_{link}": 1.0 for link in range(signals.NVLINKS)},
}
#: Above Linux' largest number of a process (PID_MAX_LIMIT, 2^22), and how many a fake GPU has at most.
_FIRST_PID = 1 << 22
_MAX_PROCESSES = 256
#: What an H100 does not have.
_LACKS = {name: "not_supported" for name in signals.BY_NAME if name.startswith("retired_pages")}


class FakeGpu(Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU as the file has it."""

    uuid: Annotated[str, Meta(min_length=1)]
    index: int = 0
    name: str = _MODEL
    load: Annotated[float, Meta(ge=0, le=1)] = 0.0
    xids: tuple[Annotated[int, Meta(ge=1, le=65535)], ...] = ()
    lost: Literal["", "gpu_is_lost", "gone_from_inventory", "unknown_error"] = ""
    throttle: tuple[str, ...] = ()
    values: Mapping[str, float] = {}
    missing: Mapping[str, str] = {}
    hung: bool = False
    pods: tuple[PodRef, ...] = ()


TWO_HEALTHY = tuple(FakeGpu(f"GPU-d3300000-0000-4000-8000-00000000000{i}", i, load=0.6 - 0.2 * i) for i in range(2))


def load(content: bytes) -> tuple[FakeGpu, ...]:
    """The file's GPUs. Raises ValueError (of which msgspec's errors are some): one line that names the place."""
    gpus = msgspec.json.decode(content, type=tuple[FakeGpu, ...])
    for gpu in gpus:
        for key, given, names in (
            ("throttle", gpu.throttle, tuple(_BITS)),
            ("values", gpu.values, tuple(signals.BY_NAME)),
            ("missing", gpu.missing, tuple(signals.BY_NAME)),
        ):
            for name in given:
                if name not in names:
                    raise ValueError(f"GPU {gpu.uuid}: {key}: {name!r} is not one of {', '.join(names)}")
        for name, reason in gpu.missing.items():
            if reason not in signals.MISSING_REASONS:
                raise ValueError(f"GPU {gpu.uuid}: missing: {name}: {reason!r} is not a reason in core/signals.py")
    if len({gpu.uuid for gpu in gpus}) != len(gpus):
        raise ValueError("two GPUs have the same uuid")
    return gpus


def readings(gpu: FakeGpu, at: float) -> dict[str, float]:
    """What the GPU shows at `at`, without what counts up."""
    wave = math.sin(at / 7.0 + gpu.index) * 0.02
    busy = min(1.0, max(0.0, gpu.load + wave)) if gpu.load else 0.0
    left = min((_CLOCK_LEFT.get(reason, 1.0) for reason in gpu.throttle), default=1.0)
    if "sw_power_cap" in gpu.throttle:
        left = min(left, _POWER_CAPPED)
    mask = sum({_BITS[reason] for reason in gpu.throttle}) | (0 if gpu.load else _BITS["gpu_idle"])
    # An inference server takes its memory at the start, whatever it does with it.
    used = (72 * 1024 if gpu.load else 512) * signals.MIB
    return {
        **dict.fromkeys((name for name in signals.BY_NAME if name not in _LACKS), 0.0),
        **_CONSTANT,
        "utilization": busy,
        "memory_used": used,
        "memory_free": _CONSTANT["memory_total"] - _CONSTANT["memory_reserved"] - used,
        "temperature": round(32.0 + 38.0 * busy + (12.0 if left < 1.0 else 0.0)),
        "temperature_margin": 87.0 - round(32.0 + 38.0 * busy + (12.0 if left < 1.0 else 0.0)),
        "memory_temperature": round(38.0 + 40.0 * busy),
        "processes_memory": used if gpu.load else 0.0,
        "power": round(75.0 + 560.0 * busy * left, 1),
        "clock_sm": round(1980e6 * left if gpu.load else 345e6, -6),
        "throttle_reasons": float(mask),
    }


def processes_of(gpu: FakeGpu, values: Mapping[str, float]) -> tuple[GpuProcess, ...] | None:
    """The processes that the signals tell of, numbered as none of a machine is; None: they tell of none."""
    number, held = values.get("processes"), values.get("processes_memory")
    if number is None or not 0 <= number <= _MAX_PROCESSES:
        return None
    pids = range(_FIRST_PID + gpu.index * _MAX_PROCESSES, _FIRST_PID + gpu.index * _MAX_PROCESSES + int(number))
    return tuple(GpuProcess(pid, None if held is None else held / len(pids)) for pid in pids)


class DemoSource:
    def __init__(self, path: str = "") -> None:
        """path: the file; "" is two healthy GPUs."""
        self._path = Path(path) if path else None
        self._notify: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._gpus: tuple[FakeGpu, ...] = () if path else TWO_HEALTHY
        self._seen: tuple[int, ...] = ()  # the file as it was when it was read last
        self._error = ""
        self._totals: dict[str, dict[str, float]] = {}  # UUID -> what counts up
        self._fired: dict[str, tuple[int, ...]] = {}  # UUID -> the Xids that were fired
        self._samples: dict[GpuKey, GpuSample] = {}
        self._xids: list[XidEvent] = []
        self._at: float | None = None  # of the last samples

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called in the event loop when there is something new."""
        self._notify = notify
        self._task = asyncio.create_task(keep_running(self._run, self._crashed), name="demo")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def samples(self) -> Mapping[GpuKey, GpuSample]:
        return dict(self._samples)

    def take_xids(self) -> list[XidEvent]:
        taken, self._xids = self._xids, []
        return taken

    def collectors(self) -> list[Collector]:
        return [Collector("demo", not self._error, 0.0, self._at, self._error)]

    def _crashed(self, error: Exception) -> None:
        self._error = crash_message("demo", error)
        log.error(self._error, exc_info=error)
        self._notify()

    async def _run(self) -> None:
        self._error, self._seen = "", ()  # after a crash: from the start
        while True:
            now = time.monotonic()
            if self._changed() or self._at is None or now - self._at >= SAMPLE_SECONDS:
                self._sample(now)
                self._notify()
            await asyncio.sleep(LOOK_SECONDS)

    def _changed(self) -> bool:
        """Read the file if it is another than last time. A bad one leaves everything as it is."""
        if self._path is None:
            return False
        try:
            stat = os.stat(self._path)
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if stamp == self._seen:
                return False
            self._gpus, self._seen, error = load(self._path.read_bytes()), stamp, ""
        except OSError as problem:
            error = f"{self._path}: cannot be read ({problem.strerror}); check --demo.file"
        except ValueError as problem:
            self._seen, error = stamp, f"{self._path}: {problem}; the GPUs stay as they were"
        if error and error != self._error:
            log.warning(error)
        self._error = error
        return not error

    def _sample(self, now: float) -> None:
        passed = now - self._at if self._at is not None else 0.0
        self._at = now
        uuids = {gpu.uuid for gpu in self._gpus}
        self._samples = {key: sample for key, sample in self._samples.items() if key.uuid in uuids}
        for gpu in self._gpus:
            self._fire(gpu, now)
            if not gpu.hung:
                sample = self._sample_of(gpu, now, passed)
                self._samples[sample.info.key] = sample

    def _fire(self, gpu: FakeGpu, now: float) -> None:
        fired = self._fired.get(gpu.uuid, ())
        added = gpu.xids[len(fired) :] if gpu.xids[: len(fired)] == fired else gpu.xids
        self._fired[gpu.uuid] = gpu.xids
        self._xids += [XidEvent(GpuKey(gpu.uuid), code, now, "demo") for code in added]

    def _sample_of(self, gpu: FakeGpu, now: float, passed: float) -> GpuSample:
        info = GpuInfo(GpuKey(gpu.uuid), str(gpu.index), gpu.name, f"00000000:{gpu.index + 1:02X}:00.0", "demo")
        lost = gpu.lost or ("gpu_is_lost" if any(xid.of(code).kind == "lost" for code in gpu.xids) else "")
        if lost:
            return GpuSample(info, "demo", now, {}, dict.fromkeys(signals.BY_NAME, "gpu_is_lost"), lost, gpu.pods)
        values = readings(gpu, now)
        totals = self._totals.setdefault(gpu.uuid, {"energy": 1e6, **dict.fromkeys(_COUNTED.values(), 0.0)})
        totals["energy"] += values["power"] * passed
        for reason in gpu.throttle:
            if reason in _COUNTED:
                totals[_COUNTED[reason]] += passed
        values |= totals
        values |= gpu.values
        told = {name: value for name, value in values.items() if name not in gpu.missing}
        return GpuSample(
            info,
            "demo",
            now,
            told,
            {**_LACKS, **gpu.missing},
            pods=gpu.pods,
            processes=processes_of(gpu, told),
        )
