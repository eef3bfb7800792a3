"""The NVML source through the real ctypes path: tests/nvml's library stands in for the driver's."""

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pynvml
import pytest

from exporter.core import health
from exporter.core.join import merge
from exporter.core.model import Collector, GpuKey, GpuSample, Verdict, XidEvent
from exporter.core.signals import BY_NAME, MISSING_REASONS
from exporter.sources import nvml_board, nvml_events
from exporter.sources.nvml import NvmlSource
from exporter.sources.nvml_calls import BOARD_ROWS
from tests.nvml.fake import FakeNvml, calls

UUIDS = tuple(f"GPU-00000000-0000-0000-0000-00000000000{i}" for i in range(3))
KEYS = tuple(GpuKey(uuid) for uuid in UUIDS)
INTERVAL = 0.02
PATIENCE = 10.0  # seconds until a wait is given up; no test waits for it to pass


class Running:
    """A source at work, and the waiting for what it says."""

    def __init__(self, nvml: FakeNvml, **options: Any) -> None:
        self.nvml = nvml
        self._news = threading.Condition()
        self.source = NvmlSource(**{"library": nvml.library, "interval": INTERVAL, "deadline": 0.1, **options})
        self.source.start(self._notify)

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()

    def until(self, holds: Callable[[], Any]) -> Any:
        """What `holds` returns once it is true. It is looked at whenever there is news."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while not (result := holds()):
                # The limit of a wait is for what becomes true by time alone: a collector that is late.
                self._news.wait(0.02)
                assert time.monotonic() < deadline, self.collectors()
        return result

    def sample(self, key: GpuKey = KEYS[0], after: float = 0.0) -> GpuSample:
        """The GPU's first sample that was begun after this moment."""

        def newest() -> GpuSample | None:
            sample = self.source.samples().get(key)
            return sample if sample and sample.at > after else None

        found: GpuSample = self.until(newest)
        return found

    def change(self, state: Mapping[str, object]) -> float:
        """Set the driver's state; the moment after which polls show it."""
        self.nvml.set(state)
        return time.monotonic()

    def xids(self, count: int) -> list[XidEvent]:
        events: list[XidEvent] = []

        def enough() -> bool:
            events.extend(self.source.take_xids())
            return len(events) >= count

        self.until(enough)
        return events

    def collectors(self) -> dict[str, Collector]:
        return {collector.name: collector for collector in self.source.collectors()}

    def failure(self, name: str, words: str = "") -> Collector:
        """The collector once it fails with these words in its message."""

        def fails() -> Collector | None:
            found = self.collectors().get(name)
            return found if found and not found.success and words in found.message else None

        failed: Collector = self.until(fails)
        assert failed.message
        assert "\n" not in failed.message
        return failed

    def threads(self) -> list[threading.Thread]:
        return [self.source._thread, *self.source._opening.threads()]

    def stop(self) -> float:
        began = time.monotonic()
        asyncio.run(self.source.stop())
        return time.monotonic() - began


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    monkeypatch.setattr(nvml_events, "WAIT_MILLISECONDS", 20)
    monkeypatch.setattr(nvml_board, "MIG_SECONDS", 0.0)
    running: list[Running] = []

    def begin(state: Mapping[str, object] | None = None, **options: Any) -> Running:
        nvml = FakeNvml(tmp_path, {"gpus": 2, **(state or {})})
        monkeypatch.setenv("FAKE_NVML_STATE", str(nvml.path))
        running.append(Running(nvml, **options))
        return running[-1]

    yield begin
    for one in running:
        one.nvml.clear(*[key for key in one.nvml.state if "hang." in key])
        one.stop()
        # The library is one for all tests of this process: none leaves a thread in it.
        for thread in one.threads():
            thread.join(PATIENCE)
            assert not thread.is_alive()


def verdict(sample: GpuSample, age: float = 0.0) -> Verdict:
    (merged,) = merge([sample], sample.at + age)
    return health.judge(None, merged, [], sample.at + age)[0]


# The ABI: what the C library is compiled with is what nvidia-ml-py has.


@pytest.mark.parametrize(
    ("structure", "size"),
    [
        ("c_nvmlMemory_v2_t", pynvml.nvmlMemory_v2 & 0xFFFFFF),
        ("c_nvmlMemory_t", 24),
        ("c_nvmlTemperature_v1_t", pynvml.nvmlTemperature_v1 & 0xFFFFFF),
        ("nvmlPciInfo_t", 68),
        ("c_nvmlFieldValue_t", 40),
        ("c_nvmlEventData_t", 32),
        ("c_nvmlUtilization_t", 8),
    ],
)
def test_structures_have_the_sizes_that_the_library_asserts(structure: str, size: int) -> None:
    assert ctypes.sizeof(getattr(pynvml, structure)) == size


# Values.

STATE = {
    "utilization": 37, "memory_total": 80 << 30, "memory_used": 60 << 30, "memory_reserved": 1 << 30,
    "temperature": 64, "memory_temperature": 71, "power_mw": 431_500, "power_limit_mw": 600_000,
    "power_limit_default_mw": 700_000, "energy_mj": (1 << 40) + 500, "clock_sm": 1755, "clock_memory": 2600,
    "clock_sm_max": 1980, "clock_memory_max": 2619, "throttle_reasons": 0x44,
    "throttle_sw_power_cap_ns": 5_000_000_000, "throttle_sw_thermal_ns": 6_000_000_000,
    "throttle_hw_thermal_ns": 7_500_000_000, "throttle_hw_power_brake_ns": 1, "ecc_mode": 1,
    "ecc_corrected": 11, "ecc_uncorrected": 12, "ecc_corrected_lifetime": 13, "ecc_uncorrected_lifetime": 14,
    "remapped_correctable": 1, "remapped_uncorrectable": 2, "remap_pending": 1, "remap_failure": 0,
    "pcie_replays": 9, "pcie_generation": 4, "pcie_generation_max": 5, "pcie_width": 8, "pcie_width_max": 16,
    "recovery_action": 4,
}  # fmt: skip
VALUES = {
    "utilization": 0.37, "memory_total": 80 * 2**30, "memory_used": 60 * 2**30, "memory_free": 19 * 2**30,
    "memory_reserved": 2**30, "temperature": 64, "memory_temperature": 71, "power": 431.5, "power_limit": 600,
    "power_limit_default": 700, "energy": ((1 << 40) + 500) / 1000, "clock_sm": 1755e6, "clock_memory": 2600e6,
    "clock_sm_max": 1980e6, "clock_memory_max": 2619e6, "throttle_reasons": 0x44, "throttle_sw_power_cap": 5.0,
    "throttle_sw_thermal": 6.0, "throttle_hw_thermal": 7.5, "throttle_hw_power_brake": 1e-9, "ecc_enabled": 1,
    "ecc_corrected": 11, "ecc_uncorrected": 12, "ecc_corrected_lifetime": 13, "ecc_uncorrected_lifetime": 14,
    "remapped_correctable": 1, "remapped_uncorrectable": 2, "remap_pending": 1, "remap_failure": 0,
    "pcie_replays": 9, "pcie_generation": 4, "pcie_generation_max": 5, "pcie_width": 8, "pcie_width_max": 16,
    "recovery_action": 4,
}  # fmt: skip
OF_GPU_0 = {f"gpu0.{name}": value for name, value in STATE.items()}


def test_every_signal_is_read_in_its_unit(start: Callable[..., Running]) -> None:
    running = start(OF_GPU_0)
    sample = running.sample()
    assert dict(sample.values) == pytest.approx(VALUES)
    assert set(VALUES) == set(BY_NAME)
    assert not sample.missing
    assert sample.source == "nvml"
    info = sample.info
    assert (info.index, info.name, info.pci_bus_id) == ("0", "NVIDIA H100 80GB HBM3", "00000000:00:00.0")
    assert info.driver_version == "570.133.20"
    assert running.sample(KEYS[1]).values["temperature"] == 55


def test_an_older_driver_is_asked_in_the_older_ways(start: Callable[..., Running]) -> None:
    """No fields, no second versions: all that has another way is still read, the rest is not supported."""
    newer = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2",
             "nvmlDeviceGetCurrentClocksEventReasons")  # fmt: skip
    running = start({**OF_GPU_0, **{f"gpu0.call.{name}": "FUNCTION_NOT_FOUND" for name in newer}})
    sample = running.sample()
    lost = {"throttle_sw_power_cap", "throttle_sw_thermal", "throttle_hw_thermal", "throttle_hw_power_brake",
            "memory_temperature", "recovery_action", "memory_reserved"}  # fmt: skip
    # The older memory call counts what is reserved as used.
    expected = {**VALUES, "memory_used": 61 * 2**30}
    assert dict(sample.values) == pytest.approx({n: v for n, v in expected.items() if n not in lost})
    assert dict(sample.missing) == dict.fromkeys(lost, "not_supported")


def test_what_is_not_supported_or_fixed_is_asked_once(start: Callable[..., Running]) -> None:
    running = start({"gpu0.call.nvmlDeviceGetUtilizationRates": "NOT_SUPPORTED"})
    names = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPowerUsage")
    first = running.sample()
    before = [running.nvml.calls(name, 0) for name in names]
    third = running.sample(after=running.sample(after=first.at).at)
    after = [running.nvml.calls(name, 0) for name in names]
    assert before[:2] == after[:2]
    assert after[2] > before[2]
    assert third.missing == {"utilization": "not_supported"}
    assert third.values["clock_sm_max"] == 1980e6


def test_it_is_asked_again_after_the_driver_was_loaded_again(start: Callable[..., Running]) -> None:
    running = start({"gpu0.call.nvmlDeviceGetUtilizationRates": "NOT_SUPPORTED"}, retry=0.05)
    assert "utilization" in running.sample().missing
    running.change({"driver": "DRIVER_NOT_LOADED", "gpu0.call.nvmlDeviceGetUtilizationRates": "OK"})
    running.failure("nvml", "Driver Not Loaded")
    loaded = running.change({"driver": "OK"})
    assert running.sample(after=loaded).values["utilization"] == 0.42


FIELDS = {way.field: row.signal for row in BOARD_ROWS for way in row.ways if way.field}
OTHER_WAY = {row.signal for row in BOARD_ROWS if len(row.ways) > 1}


@pytest.mark.parametrize("fault", ["NOT_SUPPORTED", "INVALID_ARGUMENT", "UNKNOWN", "SENTINEL", "GPU_IS_LOST"])
def test_one_field_s_fault_is_that_field_s_alone(start: Callable[..., Running], fault: str) -> None:
    """Every field in turn, on one source for each: 17 of them answer as before."""
    running = start()
    everything = running.sample()
    for field, signal in FIELDS.items():
        began = running.change({f"gpu0.field.{field}": fault})
        sample = running.sample(after=began)
        if fault == "GPU_IS_LOST":
            assert sample.lost == "gpu_is_lost"
        elif fault in ("UNKNOWN", "SENTINEL"):
            assert sample.missing == {signal: "unknown_error" if fault == "UNKNOWN" else "blank"}
            assert set(sample.values) == set(everything.values) - {signal}
        else:
            # What is not supported is asked in its other way, and that stays: other fields were refused before.
            assert (signal in sample.values) == (signal in OTHER_WAY)
            assert signal in OTHER_WAY or sample.missing[signal] == "not_supported"
        running.nvml.clear(f"gpu0.field.{field}")


@pytest.mark.parametrize(
    ("state", "signal"),
    [
        ({"gpu0.temperature": 127}, "temperature"),
        ({"gpu0.temperature": 255}, "temperature"),
        ({"gpu0.memory_temperature": 0}, "memory_temperature"),
        ({"gpu0.utilization": 101}, "utilization"),
        ({"gpu0.power_mw": 0x7FFFFFF0}, "power"),
        ({"gpu0.clock_sm": 0xFFFFFFFF}, "clock_sm"),
        ({"gpu0.energy_mj": 0x7FFFFFFFFFFFFFF2}, "energy"),
        ({"gpu0.pcie_width": 0}, "pcie_width"),
        ({"gpu0.ecc_uncorrected": 0xFFFFFFFFFFFFFFFF}, "ecc_uncorrected"),
    ],
    ids=str,
)
def test_nonsense_is_missing_not_a_value(start: Callable[..., Running], state: dict[str, int], signal: str) -> None:
    sample = start(state).sample()
    assert sample.missing == {signal: "blank"}
    assert signal not in sample.values


# Every fault on every call that is used.

POLLED = (
    "nvmlDeviceGetTemperatureV", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetMaxPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetMaxPcieLinkWidth", "nvmlDeviceGetFieldValues",
)  # fmt: skip
IDENTIFYING = ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID")
#: The GPU can be watched without these.
OPTIONAL = ("nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMigMode",
            "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents")  # fmt: skip
ONCE = ("nvmlDeviceGetPowerManagementDefaultLimit", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetMaxPcieLinkGeneration",
        "nvmlDeviceGetMaxPcieLinkWidth")  # fmt: skip

#: Fault -> the verdict if it is on a call that is polled, on one that identifies the GPU, on nvmlDeviceGetFieldValues.
#: Fields carry the ECC counter, so a GPU whose fields cannot be read is not shown to be healthy.
FAULTS = {
    "NOT_SUPPORTED": ("healthy", "unknown", "healthy"),
    "NO_PERMISSION": ("healthy", "unknown", "unknown"),
    "GPU_IS_LOST": ("lost", "lost", "lost"),
    "RESET_REQUIRED": ("unhealthy", "unhealthy", "unhealthy"),
    "UNKNOWN": ("healthy", "lost", "unknown"),
    "SENTINEL": ("healthy", "healthy", "unknown"),
}


@pytest.mark.parametrize("call", POLLED + IDENTIFYING + OPTIONAL)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_a_call(start: Callable[..., Running], call: str, fault: str) -> None:
    running = start({f"gpu0.call.{call}": fault})
    polled, identifying, fields = FAULTS[fault]
    expected = fields if call == "nvmlDeviceGetFieldValues" else polled if call in POLLED else identifying
    expected = "healthy" if call in OPTIONAL else expected
    sick = running.until(lambda: next((s for s in running.source.samples().values() if s.info.index == "0"), None))
    assert verdict(sick).state == expected
    assert set(sick.missing.values()) <= set(MISSING_REASONS)
    # The other GPU is read on, and is well.
    well = running.sample(KEYS[1], after=running.sample(KEYS[1]).at)
    assert verdict(well).state == "healthy"
    assert not well.missing
    assert running.source.fatal == ""


@pytest.mark.parametrize("call", [call for call in POLLED if call not in ONCE] + ["nvmlDeviceGetMigMode"])
def test_a_call_that_hangs(start: Callable[..., Running], call: str) -> None:
    running = start()
    running.sample()
    running.change({f"gpu0.hang.{call}": 30})
    late = running.failure("nvml-0", "has not returned")
    assert call.removesuffix("_v2") in late.message
    assert UUIDS[0] in late.message
    stuck = running.sample()
    assert verdict(stuck, age=3.5).reasons == (("stale", "none"),)
    well = running.sample(KEYS[1], after=time.monotonic())
    assert verdict(well).state == "healthy"
    running.until(lambda: running.collectors()["nvml-1"].success)
    assert running.source.samples()[KEYS[0]] is stuck


@pytest.mark.parametrize("call", IDENTIFYING + OPTIONAL + ONCE)
def test_a_call_that_hangs_from_the_start(start: Callable[..., Running], call: str) -> None:
    running = start({f"gpu0.hang.{call}": 30})
    running.failure("nvml-0", "has not returned")
    running.sample(KEYS[1], after=running.sample(KEYS[1]).at)
    assert KEYS[0] not in running.source.samples()
    # It comes back, and so does the GPU.
    running.nvml.clear(f"gpu0.hang.{call}")
    assert verdict(running.sample()).state == "healthy"
    running.until(lambda: running.collectors()["nvml-0"].success)


def test_stopping_waits_for_no_call_that_hangs(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    running.change({"gpu0.hang.nvmlDeviceGetPowerUsage": 30})
    running.failure("nvml-0", "has not returned")
    shutdowns = running.nvml.calls("nvmlShutdown")
    assert running.stop() < 5  # the promise is 2 s; the rest is for a loaded machine
    assert running.nvml.calls("nvmlShutdown") == shutdowns
    assert running.nvml.calls("nvmlShutdown during a call") == 0
    # What the call says when it does return is of the past.
    last = running.source.samples()
    running.nvml.clear("gpu0.hang.nvmlDeviceGetPowerUsage")
    late = next(thread for thread in running.threads() if thread.name == "nvml-gpu-0")
    late.join(PATIENCE)
    assert not late.is_alive()
    assert running.source.samples() == last


def test_stopping_shuts_nvml_down(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    shutdowns = running.nvml.calls("nvmlShutdown")
    running.stop()
    assert running.nvml.calls("nvmlShutdown") == shutdowns + 1
    assert running.nvml.calls("nvmlShutdown during a call") == 0


# The whole GPU.


def test_a_lost_gpu_stays_and_comes_back(start: Callable[..., Running]) -> None:
    running = start()
    well = running.sample()
    sample = running.sample(after=running.change({"gpu0.all": "GPU_IS_LOST"}))
    assert (sample.lost, sample.values, sample.info) == ("gpu_is_lost", {}, well.info)
    running.failure("nvml-0", "gpu is lost")
    running.sample(KEYS[1], after=sample.at)
    sample = running.sample(after=running.change({"gpu0.all": "OK"}))
    assert not sample.lost
    running.until(lambda: running.collectors()["nvml-0"].success)


def test_a_gpu_that_answers_nothing_but_unknown_error_is_lost(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    sample = running.sample(after=running.change({"gpu0.all": "UNKNOWN"}))
    assert (sample.lost, verdict(sample).state) == ("unknown_error", "lost")


def test_a_gpu_that_leaves_the_inventory(start: Callable[..., Running]) -> None:
    running = start({"gpus": 3}, inventory=0.05, retry=60.0)
    for key in KEYS:
        running.sample(key)
    running.change({"gpu0.gone": 1})
    gone = running.until(lambda: (s := running.source.samples()[KEYS[0]]).lost == "gone_from_inventory" and s)
    assert verdict(gone).state == "lost"
    # The others have moved up, and are who they were.
    moved = running.until(lambda: (s := running.source.samples()[KEYS[1]]).info.index == "0" and s)
    assert moved.info.key == KEYS[1]
    assert running.sample(KEYS[0], after=gone.at).lost == "gone_from_inventory"
    running.change({"gpu0.gone": 0})
    running.until(lambda: not running.source.samples()[KEYS[0]].lost)
    assert running.nvml.calls("nvmlShutdown during a call") == 0


def test_the_last_gpu_may_leave_too(start: Callable[..., Running]) -> None:
    running = start({"gpus": 1}, inventory=0.05)
    running.sample()
    running.change({"gpu0.gone": 1})
    running.until(lambda: running.source.samples()[KEYS[0]].lost)


def test_a_gpu_that_is_lost_from_the_start_is_seen_by_its_index(start: Callable[..., Running]) -> None:
    running = start({"gpu0.all": "GPU_IS_LOST"})
    sample = running.sample(GpuKey("gpu-index-0"))
    assert (sample.lost, sample.info.index) == ("gpu_is_lost", "0")
    running.sample(after=running.change({"gpu0.all": "OK"}))
    assert set(running.source.samples()) == set(KEYS[:2])


def test_when_all_gpus_are_lost_nvml_is_opened_again(start: Callable[..., Running]) -> None:
    running = start(retry=0.1)
    running.sample(KEYS[1])
    opened = running.nvml.calls("nvmlInitWithFlags")
    running.change({"gpu0.all": "GPU_IS_LOST", "gpu1.all": "GPU_IS_LOST"})
    running.until(lambda: running.nvml.calls("nvmlInitWithFlags") > opened)
    # Who they are is remembered, though they do not say it any more.
    assert set(running.source.samples()) == set(KEYS[:2])


# MIG.

MIG = {
    "gpu0.mig_mode": 1,
    "gpu0.mig0": "2,0,MIG-a,NVIDIA H100 80GB HBM3 MIG 3g.40gb,42949672960,1073741824",
    "gpu0.mig3": "9,0,MIG-b,NVIDIA H100 80GB HBM3 MIG 1g.10gb,10737418240,0",
    "gpu0.mig4": "9,1,MIG-c,NVIDIA H100 80GB HBM3 MIG 1c.1g.10gb,10737418240,0",
}


def test_mig_instances_are_gpus_of_their_own(start: Callable[..., Running]) -> None:
    running = start(MIG)
    board = running.sample()
    running.sample(KEYS[1])
    samples = running.source.samples()
    assert set(samples) == {*KEYS[:2], GpuKey(UUIDS[0], "2"), GpuKey(UUIDS[0], "9")}
    large = samples[GpuKey(UUIDS[0], "2")]
    assert (large.info.profile, large.info.mig_uuid, large.info.index) == ("3g.40gb", "MIG-a", "0")
    assert large.values == {
        "memory_total": 40 * 2**30, "memory_used": 2**30, "memory_free": 39 * 2**30, "memory_reserved": 0,
    }  # fmt: skip
    assert board.missing == {"utilization": "not_supported_in_mig"}
    assert board.values["temperature"] == 55


def test_instances_that_are_removed_are_not_lost(start: Callable[..., Running]) -> None:
    running = start(MIG)
    running.sample(GpuKey(UUIDS[0], "9"))
    running.nvml.clear("gpu0.mig3", "gpu0.mig4")
    running.until(lambda: set(running.source.samples()) == {*KEYS[:2], GpuKey(UUIDS[0], "2")})
    running.change({"gpu0.mig_mode": 0})
    running.until(lambda: set(running.source.samples()) == set(KEYS[:2]))
    assert running.sample(after=time.monotonic()).values["utilization"] == 0.42


def test_instances_are_lost_with_their_board(start: Callable[..., Running]) -> None:
    running = start(MIG)
    key = GpuKey(UUIDS[0], "2")
    running.sample(key)
    running.change({"gpu0.call.nvmlDeviceGetTemperatureV": "GPU_IS_LOST"})
    lost = running.until(lambda: (s := running.source.samples()[key]).lost == "gpu_is_lost" and s)
    assert lost.values == {}


@pytest.mark.parametrize("call", ["nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigMode"])
def test_a_sentinel_is_no_number_of_instances(start: Callable[..., Running], call: str) -> None:
    running = start({**MIG, f"gpu0.call.{call}": "SENTINEL"})
    assert verdict(running.sample()).state in ("healthy", "unknown")


# Xids.


def test_xids_come_with_and_without_instance(start: Callable[..., Running]) -> None:
    running = start(MIG)
    running.sample()
    running.sample(KEYS[1])
    running.nvml.xid(gpu=0, code=94, gi=2, ci=0)
    running.nvml.xid(gpu=0, code=31)
    running.nvml.xid(gpu=1, code=79)
    events = running.xids(3)
    assert [(event.key, event.xid, event.source) for event in events] == [
        (GpuKey(UUIDS[0], "2"), 94, "nvml"),
        (KEYS[0], 31, "nvml"),
        (KEYS[1], 79, "nvml"),
    ]
    assert all(time.monotonic() - event.at < PATIENCE for event in events)
    assert running.source.take_xids() == []


def test_the_same_xid_twice_is_two_events(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    running.nvml.xid(gpu=0, code=31)
    running.nvml.xid(gpu=0, code=31)
    assert [event.xid for event in running.xids(2)] == [31, 31]


def test_xids_of_a_gpu_that_is_dead_by_then_are_known(start: Callable[..., Running]) -> None:
    """The handle's UUID was noted when there was somebody to ask."""
    running = start()
    running.sample()
    running.change({"gpu0.all": "GPU_IS_LOST"})
    running.nvml.xid(gpu=0, code=79)
    assert running.xids(1)[0].key == KEYS[0]


@pytest.mark.parametrize("code", [0, 70000])
def test_an_event_that_is_no_xid_is_dropped(start: Callable[..., Running], code: int) -> None:
    running = start()
    running.sample()
    running.nvml.xid(gpu=0, code=code)
    running.nvml.xid(gpu=0, code=13)
    assert [event.xid for event in running.xids(1)] == [13]


def test_a_card_without_xid_events_is_watched_without(start: Callable[..., Running]) -> None:
    running = start({"gpu0.event_types": 0})
    running.sample()
    running.sample(KEYS[1])
    running.nvml.xid(gpu=0, code=79)
    running.nvml.xid(gpu=1, code=13)
    assert [event.key for event in running.xids(1)] == [KEYS[1]]
    running.until(lambda: running.collectors()["xid"].success)


def test_waiting_for_xids_may_fail_for_a_while(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    running.change({"call.nvmlEventSetWait_v2": "GPU_IS_LOST"})
    running.failure("xid", "GPU is lost")
    running.nvml.clear("call.nvmlEventSetWait_v2")
    running.until(lambda: running.collectors()["xid"].success)
    running.nvml.xid(gpu=0, code=13)
    assert running.xids(1)[0].xid == 13


def test_waiting_for_xids_may_hang(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    running.change({"hang.nvmlEventSetWait_v2": 30})
    running.failure("xid", "hangs")
    running.sample(after=time.monotonic())


def test_a_driver_without_event_sets_is_a_source_without_xids(start: Callable[..., Running]) -> None:
    running = start({"call.nvmlEventSetCreate": "NOT_SUPPORTED"})
    running.sample()
    running.failure("xid", "Not Supported")


# The driver.


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"init": "DRIVER_NOT_LOADED"}, "load the NVIDIA driver"),
        ({"init": "NO_PERMISSION"}, "/dev/nvidiactl"),
        ({"init": "UNKNOWN"}, "nvidia-smi must work"),
        ({"call.nvmlDeviceGetCount_v2": "UNKNOWN"}, "nvidia-smi must work"),
        ({"call.nvmlSystemGetDriverVersion": "UNKNOWN"}, "nvidia-smi must work"),
    ],
)
def test_nvml_that_cannot_be_opened_is_tried_again(
    start: Callable[..., Running], state: dict[str, str], words: str
) -> None:
    opened, shut = calls("nvmlInitWithFlags"), calls("nvmlShutdown")
    running = start(state, retry=0.1)
    running.failure("nvml", words)
    assert running.source.fatal == ""
    running.nvml.clear(*state)
    running.sample()
    running.until(lambda: running.collectors()["nvml"].success)
    # What was opened and was of no use was shut down.
    assert (calls("nvmlShutdown") > shut) == ("init" not in state)
    assert calls("nvmlInitWithFlags") > opened + 1


def test_another_driver_than_the_library_s_is_fatal(start: Callable[..., Running]) -> None:
    running = start({"init": "LIB_RM_VERSION_MISMATCH"})
    running.until(lambda: running.source.fatal)
    assert "restart this process" in running.source.fatal
    assert "\n" not in running.source.fatal


def test_a_driver_that_is_updated_while_running_is_fatal(start: Callable[..., Running]) -> None:
    running = start()
    running.sample()
    running.change({"driver": "LIB_RM_VERSION_MISMATCH"})
    running.until(lambda: running.source.fatal)


def test_a_driver_that_is_loaded_again_is_used_again(start: Callable[..., Running]) -> None:
    running = start(retry=0.05)
    before = running.sample()
    running.sample(KEYS[1])
    running.change({"driver": "DRIVER_NOT_LOADED"})
    running.failure("nvml", "Driver Not Loaded")
    assert running.source.samples()[KEYS[0]].lost == ""  # it is not known to be
    loaded = running.change({"driver": "OK"})
    assert running.sample(after=loaded).info == before.info
    running.sample(KEYS[1], after=loaded)
    # Xids are registered for with the new driver.
    running.nvml.xid(gpu=1, code=13)
    assert running.xids(1)[0].key == KEYS[1]
    assert running.nvml.calls("nvmlShutdown during a call") == 0


def test_opening_nvml_may_hang(start: Callable[..., Running]) -> None:
    running = start({"hang.nvmlInitWithFlags": 30})
    running.failure("nvml", "has not returned")
    running.nvml.clear("hang.nvmlInitWithFlags")
    running.sample()


def test_a_number_of_gpus_that_no_node_has_is_not_believed(start: Callable[..., Running]) -> None:
    running = start({"call.nvmlDeviceGetCount_v2": "SENTINEL"}, retry=0.1)
    running.failure("nvml", "4294967295 GPUs")
    running.nvml.clear("call.nvmlDeviceGetCount_v2")
    running.sample()


def test_a_library_that_is_not_there_is_named(start: Callable[..., Running]) -> None:
    running = start(library="/nowhere/libnvidia-ml.so.1")
    running.failure("nvml", "/nowhere/libnvidia-ml.so.1")
    running.failure("nvml", "--nvml.library")


READ_ONE = """
import asyncio
from exporter.sources.nvml import NvmlSource
async def main():
    news = asyncio.Event()
    loop = asyncio.get_running_loop()
    source = NvmlSource()
    source.start(lambda: loop.call_soon_threadsafe(news.set))
    async with asyncio.timeout(20):
        await news.wait()
    print([sample.info.key.uuid for sample in source.samples().values()], source.collectors()[0].message)
    await source.stop()
asyncio.run(main())
"""


def run_alone(environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", READ_ONE]
    return subprocess.run(program, check=False, env=environ, capture_output=True, text=True, timeout=30)


def test_the_loader_finds_the_library_by_its_name(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path)
    environ = {**os.environ, **nvml.environ}
    done = run_alone(environ)
    assert UUIDS[0] in done.stdout, done.stderr


def test_without_the_library_the_process_lives(tmp_path: Path) -> None:
    done = run_alone({key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[] NVML: NVML Shared Library Not Found; install the NVIDIA driver")
