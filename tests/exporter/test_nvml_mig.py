"""The NVML source and MIG: instances are GPUs of their own, and are made and removed while it runs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.core.model import GpuKey, GpuProcess
from exporter.sources import nvml_board
from tests.nvml.running import KEYS, PATIENCE, UUIDS, Start, starting, verdict


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


MIG = {
    "gpu0.mig_mode": 1,
    "gpu0.mig0": "2,0,MIG-a,NVIDIA H100 80GB HBM3 MIG 3g.40gb,42949672960,1073741824",
    "gpu0.mig3": "9,0,MIG-b,NVIDIA H100 80GB HBM3 MIG 1g.10gb,10737418240,0",
    "gpu0.mig4": "9,1,MIG-c,NVIDIA H100 80GB HBM3 MIG 1c.1g.10gb,10737418240,0",
}


def test_mig_instances_are_gpus_of_their_own(start: Start) -> None:
    running = start({**MIG, "gpu0.mig0_ecc_uncorrected": 3})
    board = running.read(KEYS[0])
    running.read(KEYS[1])
    samples = running.source.samples()
    assert set(samples) == {*KEYS[:2], GpuKey(UUIDS[0], "2"), GpuKey(UUIDS[0], "9")}
    large = samples[GpuKey(UUIDS[0], "2")]
    assert (large.info.profile, large.info.mig_uuid, large.info.index) == ("3g.40gb", "MIG-a", "0")
    assert large.values == {
        "memory_total": 40 * 2**30, "memory_used": 2**30, "memory_free": 39 * 2**30, "memory_reserved": 0,
        "processes": 1, "processes_memory": 2**30, "ecc_uncorrected": 3, "ecc_uncorrected_sram": 3,
    }  # fmt: skip
    unused = samples[GpuKey(UUIDS[0], "9")]
    assert (unused.values["processes"], unused.values["processes_memory"]) == (0, 0)
    # What NVML tells of instances alone while MIG is on: "not now", not "never".
    volatile = ("ecc_corrected", "ecc_uncorrected", "ecc_corrected_dram", "ecc_uncorrected_dram")
    assert board.missing == dict.fromkeys(("utilization", *volatile), "not_supported_in_mig")
    assert (board.values["temperature"], board.values["mig_enabled"]) == (55, 1)


def test_an_instance_lists_its_own_processes(start: Start) -> None:
    running = start({**MIG, "gpu0.mig0_pids": "41:1024,42:-", "gpu0.pids": "43:1"})
    assert running.sample(GpuKey(UUIDS[0], "2")).processes == (GpuProcess(41, 1024.0), GpuProcess(42, None))
    assert running.sample(GpuKey(UUIDS[0], "9")).processes == ()
    assert running.sample().processes == (GpuProcess(43, 1.0),)


def test_instances_that_are_removed_are_not_lost(start: Start) -> None:
    running = start(MIG)
    running.sample(GpuKey(UUIDS[0], "9"))
    running.nvml.clear("gpu0.mig3", "gpu0.mig4")
    running.until(lambda: set(running.source.samples()) == {*KEYS[:2], GpuKey(UUIDS[0], "2")})
    running.change({"gpu0.mig_mode": 0})
    running.until(lambda: set(running.source.samples()) == set(KEYS[:2]))
    assert running.sample(after=time.monotonic()).values["utilization"] == 0.42


def test_instances_are_lost_with_their_board(start: Start) -> None:
    running = start(MIG)
    key = GpuKey(UUIDS[0], "2")
    running.sample(key)
    running.change({"gpu0.call.nvmlDeviceGetTemperatureV": "GPU_IS_LOST"})
    lost = running.until(lambda: (s := running.source.samples()[key]).lost == "gpu_is_lost" and s)
    assert lost.values == {}


def test_an_instance_that_is_made_again_as_another_is_the_other(start: Start) -> None:
    """The same GPU-instance id with another profile and UUID."""
    running = start(MIG)
    key = GpuKey(UUIDS[0], "2")
    running.sample(key)
    running.change({"gpu0.mig0": "2,0,MIG-z,NVIDIA H100 80GB HBM3 MIG 4g.40gb,42949672960,7"})
    made = running.until(lambda: (s := running.source.samples()[key]).info.mig_uuid == "MIG-z" and s)
    assert (made.info.profile, made.values["memory_used"]) == ("4g.40gb", 7)


def test_an_instance_that_has_moved_is_read_where_it_is(start: Start) -> None:
    """The same instance in every word, behind another handle: the old handle is of no use any more."""
    running = start(MIG)
    key = GpuKey(UUIDS[0], "2")
    assert running.sample(key).values["memory_used"] == 1 << 30
    running.nvml.state["gpu0.mig6"] = str(running.nvml.state["gpu0.mig0"]).replace(",1073741824", ",5")
    running.nvml.clear("gpu0.mig0")
    moved = running.until(lambda: (s := running.source.samples()[key]).values.get("memory_used") == 5 and s)
    assert not moved.lost


def test_the_driver_s_word_that_mig_has_changed_brings_the_look_forward(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    running = start(MIG)
    running.sample(GpuKey(UUIDS[0], "9"))
    made = running.change({"gpu0.mig5": "11,0,MIG-n,NVIDIA H100 80GB HBM3 MIG 2g.20gb,21474836480,0"})
    running.sample(after=running.sample(after=made).at)
    assert GpuKey(UUIDS[0], "11") not in running.source.samples()
    running.nvml.mig_change(gpu=0)
    assert running.sample(GpuKey(UUIDS[0], "11")).info.profile == "2g.20gb"


def test_an_instance_that_fails_is_looked_for_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was removed between two looks, and NVML told of no change: it is gone, never lost."""
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 3600.0)
    running = start({**MIG, "gpu0.event_types": 8})
    running.sample(GpuKey(UUIDS[0], "9"))
    seen: list[str] = []
    running.nvml.clear("gpu0.mig3", "gpu0.mig4")
    removed = time.monotonic()
    while GpuKey(UUIDS[0], "9") in (samples := running.source.samples()):
        seen += [sample.lost for sample in samples.values()]
        assert time.monotonic() < removed + PATIENCE
    assert not any(seen)
    assert running.sample(GpuKey(UUIDS[0], "2"), after=removed).values["memory_used"] == 1 << 30


@pytest.mark.parametrize(
    "call",
    ["nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"],
)
@pytest.mark.parametrize("fault", ["UNKNOWN", "NO_PERMISSION", "TIMEOUT"])
def test_a_gpu_that_does_not_say_which_instances_it_has_has_those_it_had(start: Start, call: str, fault: str) -> None:
    running = start(MIG)
    running.sample(GpuKey(UUIDS[0], "9"))
    running.sample(KEYS[1])
    keys = set(running.source.samples())
    silent = running.change({f"gpu0.call.{call}": fault})
    running.sample(after=running.sample(after=silent).at)
    assert set(running.source.samples()) == keys
    assert not any(sample.lost for sample in running.source.samples().values())


def test_a_lost_board_keeps_its_instances(start: Start) -> None:
    running = start(MIG)
    running.sample(GpuKey(UUIDS[0], "9"))
    lost = running.sample(after=running.change({"gpu0.all": "GPU_IS_LOST"}))
    running.sample(after=lost.at)
    of_board = [sample for key, sample in running.source.samples().items() if key.uuid == UUIDS[0]]
    assert [sample.lost for sample in of_board] == ["gpu_is_lost"] * 3


def test_what_was_not_supported_is_asked_anew_when_mig_is_switched(start: Start) -> None:
    running = start()
    assert running.sample().values["utilization"] == 0.42
    on = running.change({"gpu0.mig_mode": 1})
    running.sample(after=on)
    switched = running.until(lambda: (s := running.source.samples()[KEYS[0]]).values.get("mig_enabled") == 1 and s)
    assert switched.missing["ecc_uncorrected"] == "not_supported_in_mig"
    running.change({"gpu0.mig_mode": 0})
    again = running.until(lambda: (s := running.source.samples()[KEYS[0]]).values.get("mig_enabled") == 0 and s)
    assert not again.missing


@pytest.mark.parametrize("call", ["nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigMode"])
def test_a_sentinel_is_no_number_of_instances(start: Start, call: str) -> None:
    running = start({**MIG, f"gpu0.call.{call}": "SENTINEL"})
    assert verdict(running.sample()).state in ("healthy", "unknown")
