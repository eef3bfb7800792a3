"""What the NVML source reads, through the real ctypes path: tests/nvml's library stands in for the driver's."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pynvml
import pytest

from exporter.core.model import GpuProcess
from exporter.core.signals import BY_NAME, NVLINK_ERRORS, NVLINKS
from exporter.sources import nvml_board
from exporter.sources.nvml_calls import BOARD_ROWS, BOARD_SIGNALS, MAX_PROCESSES
from tests.nvml.fake import FakeNvml
from tests.nvml.running import INTERVAL, KEYS, UUIDS, Start, starting


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


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
        ("c_nvmlMarginTemperature_v1_t", pynvml.nvmlMarginTemperature_v1 & 0xFFFFFF),
        ("c_nvmlEccSramErrorStatus_v1_t", pynvml.nvmlEccSramErrorStatus_v1 & 0xFFFFFF),
        ("c_nvmlRowRemapperHistogramValues", 20),
        ("c_nvmlGpuFabricInfo_v2_t", pynvml.nvmlGpuFabricInfo_v2 & 0xFFFFFF),
        ("c_nvmlGpuFabricInfo_v3_t", pynvml.nvmlGpuFabricInfo_v3 & 0xFFFFFF),
        ("c_nvmlProcessInfo_v2_t", 24),
        ("c_nvmlProcessInfo_v3_t", 24),
    ],
)
def test_structures_have_the_sizes_that_the_library_asserts(structure: str, size: int) -> None:
    assert ctypes.sizeof(getattr(pynvml, structure)) == size


# Values.

#: NVML's own number -> signal and its value in our unit, all different from what the fake says by default.
ONE_BY_ONE: tuple[tuple[str, int, str, float], ...] = (
    ("utilization", 37, "utilization", 0.37),
    ("memory_total", 80 << 30, "memory_total", 80 * 2**30),
    ("memory_used", 60 << 30, "memory_used", 60 * 2**30),
    ("memory_reserved", 1 << 30, "memory_reserved", 2**30),
    ("temperature", 64, "temperature", 64),
    ("memory_temperature", 71, "memory_temperature", 71),
    ("margin", -3, "temperature_margin", -3),
    ("margin_shutdown", -9, "margin_shutdown", -9),
    ("margin_slowdown", -2, "margin_slowdown", -2),
    ("margin_memory_max", -1, "margin_memory_max", -1),
    ("margin_gpu_max", 4, "margin_gpu_max", 4),
    ("temperature_shutdown", 94, "temperature_shutdown", 94),
    ("temperature_slowdown", 91, "temperature_slowdown", 91),
    ("power_mw", 431_500, "power", 431.5),
    ("power_limit_mw", 600_000, "power_limit", 600),
    ("power_limit_default_mw", 700_000, "power_limit_default", 700),
    ("energy_mj", (1 << 40) + 500, "energy", ((1 << 40) + 500) / 1000),
    ("clock_sm", 1755, "clock_sm", 1755e6),
    ("clock_memory", 2600, "clock_memory", 2600e6),
    ("clock_sm_max", 1981, "clock_sm_max", 1981e6),
    ("clock_memory_max", 2620, "clock_memory_max", 2620e6),
    ("clock_sm_application", 1500, "clock_sm_application", 1500e6),
    ("throttle_reasons", 0x44, "throttle_reasons", 0x44),
    ("throttle_sw_power_cap_ns", 5_000_000_000, "throttle_sw_power_cap", 5.0),
    ("throttle_sw_thermal_ns", 6_000_000_000, "throttle_sw_thermal", 6.0),
    ("throttle_hw_thermal_ns", 7_500_000_000, "throttle_hw_thermal", 7.5),
    ("throttle_hw_power_brake_ns", 1, "throttle_hw_power_brake", 1e-9),
    ("ecc_mode", 1, "ecc_enabled", 1),
    ("ecc_pending", 0, "ecc_pending", 0),
    ("ecc_corrected", 11, "ecc_corrected", 11),
    ("ecc_uncorrected", 12, "ecc_uncorrected", 12),
    ("ecc_corrected_lifetime", 13, "ecc_corrected_lifetime", 13),
    ("ecc_uncorrected_lifetime", 14, "ecc_uncorrected_lifetime", 14),
    ("ecc_corrected_dram", 15, "ecc_corrected_dram", 15),
    ("ecc_uncorrected_dram", 16, "ecc_uncorrected_dram", 16),
    ("ecc_corrected_sram", 17, "ecc_corrected_sram", 17),
    ("ecc_uncorrected_sram", 19, "ecc_uncorrected_sram", 19),
    ("sram_threshold", 1, "sram_threshold_exceeded", 1),
    ("remapped_correctable", 1, "remapped_correctable", 1),
    ("remapped_uncorrectable", 2, "remapped_uncorrectable", 2),
    ("remap_pending", 1, "remap_pending", 1),
    ("remap_failure", 1, "remap_failure", 1),
    ("banks_max", 630, "remap_banks_max", 630),
    ("banks_high", 4, "remap_banks_high", 4),
    ("banks_partial", 3, "remap_banks_partial", 3),
    ("banks_low", 2, "remap_banks_low", 2),
    ("banks_none", 1, "remap_banks_none", 1),
    ("retired_sbe", 5, "retired_pages_sbe", 5),
    ("retired_dbe", 6, "retired_pages_dbe", 6),
    ("retired_pending", 1, "retired_pages_pending", 1),
    ("pcie_replays", 9, "pcie_replays", 9),
    ("pcie_generation", 4, "pcie_generation", 4),
    ("pcie_generation_max", 6, "pcie_generation_max", 6),
    ("pcie_width", 8, "pcie_width", 8),
    ("pcie_width_max", 32, "pcie_width_max", 32),
    ("pcie_sent", 1 << 60, "pcie_bytes_sent", 2**60),
    ("pcie_received", 1 << 61, "pcie_bytes_received", 2**61),
    ("fabric_state", 3, "fabric_state", 3),
    ("fabric_status", 999, "fabric_status", 999),
    ("fabric_health", 0x1A9, "fabric_health", 0x1A9),
    ("fabric_summary", 2, "fabric_summary", 2),
    ("persistence", 0, "persistence", 0),
    ("processes", 3, "processes", 3),
    ("recovery_action", 4, "recovery_action", 4),
    # Two links that are not like the others: one down, one asleep.
    ("nvlink_state_3", 0, "nvlink_up_3", 0),
    ("nvlink_state_4", 2, "nvlink_up_4", 1),
    ("nvlink_state_5", 3, "nvlink_up_5", 0),
    *((f"nvlink_{kind}_17", 100 + i, f"nvlink_{kind}_17", 100 + i) for i, kind in enumerate(NVLINK_ERRORS)),
)
STATE = {name: value for name, value, _, _ in ONE_BY_ONE}
VALUES = {
    **{f"nvlink_up_{link}": 1.0 for link in range(NVLINKS)},
    **{f"nvlink_{kind}_{link}": 0.0 for kind in NVLINK_ERRORS for link in range(NVLINKS)},
    **{signal: value for _, _, signal, value in ONE_BY_ONE},
    "memory_free": 19 * 2**30,
    "processes_memory": 3 * 30 * 2**30,
    "mig_enabled": 0,
    "xid_watched": 1,
}
OF_GPU_0 = {f"gpu0.{name}": value for name, value in STATE.items()}


def test_every_signal_is_read_in_its_unit(start: Start) -> None:
    running = start(OF_GPU_0)
    sample = running.sample()
    assert dict(sample.values) == pytest.approx(VALUES)
    assert set(VALUES) == set(BY_NAME) == set(BOARD_SIGNALS)
    assert not sample.missing
    assert sample.source == "nvml"
    info = sample.info
    assert (info.index, info.name, info.pci_bus_id) == ("0", "NVIDIA H100 80GB HBM3", "00000000:00:00.0")
    assert (info.driver_version, info.minor) == ("570.133.20", "0")
    assert running.sample(KEYS[1]).values["temperature"] == 55


def test_an_older_driver_is_asked_in_the_older_ways(start: Start) -> None:
    """No fields, no second versions: all that has another way is still read, the rest is not supported."""
    newer = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2",
             "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses_v3")  # fmt: skip
    refused = {f"gpu0.call.{name}": "FUNCTION_NOT_FOUND" for name in newer}
    running = start({**OF_GPU_0, **refused, "gpu0.fabric_version": 2})
    sample = running.sample()
    fields_alone = {row.signal for row in BOARD_ROWS if all(way.call is None for way in row.ways)}
    lost = fields_alone | {"memory_reserved", "fabric_summary"}
    assert {"recovery_action", "memory_temperature", "margin_slowdown", "nvlink_receive_0"} < lost
    # The older memory call counts what is reserved as used; the older state of a link knows on and off.
    expected = {**VALUES, "memory_used": 61 * 2**30}
    assert dict(sample.values) == pytest.approx({n: v for n, v in expected.items() if n not in lost})
    assert dict(sample.missing) == dict.fromkeys(lost, "not_supported")


def test_sram_errors_come_from_the_status_where_they_have_no_counter(start: Start) -> None:
    running = start({**OF_GPU_0, "gpu0.call.nvmlDeviceGetMemoryErrorCounter": "NOT_SUPPORTED"})
    sample = running.sample()
    assert (sample.values["ecc_corrected_sram"], sample.values["ecc_uncorrected_sram"]) == (17, 19)


def test_without_root_the_sram_errors_are_read_and_the_threshold_is_not(start: Start) -> None:
    running = start({**OF_GPU_0, "gpu0.call.nvmlDeviceGetSramEccErrorStatus": "NO_PERMISSION"})
    sample = running.sample()
    assert sample.missing == {"sram_threshold_exceeded": "no_permission"}
    assert sample.values["ecc_uncorrected_sram"] == 19


def test_drivers_that_number_the_throttle_counters_otherwise_are_understood(start: Start) -> None:
    """Fields 269-271 are power smoothing's there, in 32 bits: a share in percent is no number of nanoseconds."""
    sample = start({**OF_GPU_0, "gpu0.throttle_fields": 251}).sample()
    names = ("throttle_sw_thermal", "throttle_hw_thermal", "throttle_hw_power_brake")
    assert [sample.values[name] for name in names] == pytest.approx([6.0, 7.5, 1e-9])


def test_only_the_links_that_there_are_are_asked_for(start: Start) -> None:
    sample = start({"gpu0.nvlinks": 4}).sample()
    assert [link for link in range(NVLINKS) if f"nvlink_up_{link}" in sample.values] == [0, 1, 2, 3]
    of_links = {f"nvlink_{kind}_{link}" for kind in ("up", *NVLINK_ERRORS) for link in range(4, NVLINKS)}
    assert sample.missing == dict.fromkeys(of_links, "not_supported")


@pytest.mark.parametrize("fault", ["NOT_SUPPORTED", "UNKNOWN", "SENTINEL"])
def test_a_card_that_does_not_say_how_many_links_it_has_is_asked_for_all(start: Start, fault: str) -> None:
    sample = start({"gpu0.field.91": fault}).sample()
    assert not sample.missing


def test_a_board_without_fabric_has_none(start: Start) -> None:
    sample = start({"gpu0.fabric_state": 0}).sample()
    fabric = ("fabric_state", "fabric_status", "fabric_health", "fabric_summary")
    assert sample.missing == dict.fromkeys(fabric, "not_supported")


def test_the_fabric_s_status_counts_once_the_probe_is_completed(start: Start) -> None:
    """nvml.h: "Must be checked only if Probe state returns complete"."""
    running = start({"gpu0.fabric_state": 2, "gpu0.fabric_status": 999})
    sample = running.sample()
    assert (sample.values["fabric_state"], sample.missing) == (2, {"fabric_status": "blank"})
    done = running.change({"gpu0.fabric_state": 3, "gpu0.fabric_status": 0})
    assert running.sample(after=done).values["fabric_status"] == 0


def test_processes_of_which_one_hides_its_memory_have_no_sum(start: Start) -> None:
    sample = start({"gpu0.process_memory": 0xFFFFFFFFFFFFFFFF}).sample()
    assert (sample.values["processes"], sample.missing) == (2, {"processes_memory": "blank"})


def test_no_processes_hold_nothing(start: Start) -> None:
    sample = start({"gpu0.processes": 0}).sample()
    assert (sample.values["processes"], sample.values["processes_memory"]) == (0, 0)


def test_processes_are_listed_with_the_memory_that_each_holds(start: Start) -> None:
    sample = start({"gpu0.pids": "41:1024,42:-,43:0"}).sample()
    assert sample.processes == (GpuProcess(41, 1024.0), GpuProcess(42, None), GpuProcess(43, 0.0))
    assert (sample.values["processes"], sample.missing) == (3, {"processes_memory": "blank"})


def test_they_are_listed_by_the_call_that_counts_them_and_kept_as_long(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    name = "nvmlDeviceGetComputeRunningProcesses_v3"
    running = start({"gpu0.pids": "41:1024"})
    before = running.nvml.calls(name, 0)
    first = running.sample()
    once = running.nvml.calls(name, 0) - before
    later = running.sample(after=running.sample(after=running.change({"gpu0.pids": "42:7"})).at)
    assert later.processes == first.processes == (GpuProcess(41, 1024.0),)
    assert running.nvml.calls(name, 0) - before == once


@pytest.mark.parametrize("fault", ["NOT_SUPPORTED", "NO_PERMISSION", "UNKNOWN"])
def test_processes_that_are_not_told_are_not_none(start: Start, fault: str) -> None:
    calls = [f"gpu0.call.nvmlDeviceGetComputeRunningProcesses_v{version}" for version in (2, 3)]
    running = start({**dict.fromkeys(calls, fault), "gpu1.processes": 0})
    sample = running.sample()
    assert sample.processes is None
    assert "processes" in sample.missing
    assert running.sample(KEYS[1]).processes == ()


def test_more_processes_than_are_listed_are_counted(start: Start) -> None:
    many = MAX_PROCESSES + 44
    sample = start({"gpu0.processes": many}).sample()
    assert (len(sample.processes or ()), sample.values["processes"]) == (MAX_PROCESSES, many)


def test_a_lost_gpu_lists_no_processes(start: Start) -> None:
    running = start({"gpu0.pids": "41:1024"})
    running.sample()
    assert running.sample(after=running.change({"gpu0.all": "GPU_IS_LOST"})).processes is None


def test_what_is_slow_is_kept_until_the_next_look(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    running = start()
    first = running.sample()
    changed = running.change({"gpu0.nvlink_state_2": 0, "gpu0.temperature": 66})
    later = running.sample(after=changed)
    assert (later.values["temperature"], later.values["nvlink_up_2"]) == (66, 1)
    assert set(later.values) == set(first.values)


def test_what_is_not_permitted_is_asked_at_a_look_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a program without root would ask for everything at every poll."""
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    names = ("nvmlDeviceGetSramEccErrorStatus", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetPowerUsage")
    running = start({"gpu0.call.nvmlDeviceGetSramEccErrorStatus": "NO_PERMISSION"})
    first = running.sample()
    before = [running.nvml.calls(name, 0) for name in names]
    later = running.sample(after=running.sample(after=first.at).at)
    after = [running.nvml.calls(name, 0) for name in names]
    assert before[:2] == after[:2]
    assert before[2] < after[2]
    assert later.missing == {"sram_threshold_exceeded": "no_permission"}


def test_what_is_slow_is_asked_anew_at_a_look(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3 * INTERVAL)
    running = start()
    running.sample()
    running.change({"gpu0.nvlink_state_2": 0})
    running.until(lambda: running.source.samples()[KEYS[0]].values["nvlink_up_2"] == 0)


def test_what_is_slow_is_asked_at_once_while_anything_fails(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept answer must not outlive the calls that gave it."""
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    running = start()
    running.sample()
    failing = running.change({"gpu0.call.nvmlDeviceGetFieldValues": "UNKNOWN", "gpu0.nvlink_state_2": 0})
    sample = running.sample(after=failing)
    assert sample.missing["nvlink_up_2"] == sample.missing["ecc_uncorrected"] == "unknown_error"
    mended = running.change({"gpu0.call.nvmlDeviceGetFieldValues": "OK"})
    assert running.sample(after=mended).values["nvlink_up_2"] == 0


def test_what_is_not_supported_or_fixed_is_asked_once(start: Start) -> None:
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


def test_it_is_asked_again_after_the_driver_was_loaded_again(start: Start) -> None:
    running = start({"gpu0.call.nvmlDeviceGetUtilizationRates": "NOT_SUPPORTED"}, retry=0.05)
    assert "utilization" in running.sample().missing
    running.change({"driver": "DRIVER_NOT_LOADED", "gpu0.call.nvmlDeviceGetUtilizationRates": "OK"})
    running.failure("nvml", "Driver Not Loaded")
    loaded = running.change({"driver": "OK"})
    assert running.sample(after=loaded).values["utilization"] == 0.42


#: Field -> the signals that it is the first way to; those of one NVLink stand for all.
FIELDS = {row.ways[0].field: row.signal for row in BOARD_ROWS if row.ways[0].field and row.link <= 0 and not row.fixed}
#: The second fields of two throttle counters are those of a driver that has not got the first.
OTHER_WAY = {row.signal for row in BOARD_ROWS if len(row.ways) > 1} - {"throttle_hw_thermal", "throttle_hw_power_brake"}


@pytest.mark.parametrize("fault", ["NOT_SUPPORTED", "INVALID_ARGUMENT", "UNKNOWN", "SENTINEL", "GPU_IS_LOST"])
def test_one_field_s_fault_is_that_field_s_alone(start: Start, fault: str) -> None:
    """Every field in turn, on one source for each: the others answer as before."""
    running = start()
    everything = running.sample()
    for field, signal in FIELDS.items():
        key = f"gpu0.field.{field}.0"
        began = running.change({key: fault})
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
        running.nvml.clear(key)


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
        ({"gpu0.margin": 0x7FFFFFF0}, "temperature_margin"),
        ({"gpu0.margin": -200}, "temperature_margin"),
        ({"gpu0.clock_sm_application": 0}, "clock_sm_application"),
        ({"gpu0.sram_threshold": 7}, "sram_threshold_exceeded"),
        ({"gpu0.nvlink_state_2": 9}, "nvlink_up_2"),
        ({"gpu0.nvlink_crc_2": 0xFFFFFFFFFFFFFFFF}, "nvlink_crc_2"),
        ({"gpu0.ecc_uncorrected": 0xFFFFFFFFFFFFFFFF}, "ecc_uncorrected"),
    ],
    ids=str,
)
def test_nonsense_is_missing_not_a_value(start: Start, state: dict[str, int], signal: str) -> None:
    sample = start(state).sample()
    assert sample.missing == {signal: "blank"}
    assert signal not in sample.values


# The library.


def test_a_library_that_is_not_there_is_named(start: Start) -> None:
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
