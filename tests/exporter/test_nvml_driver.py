"""The NVML source where GPUs and the driver come and go."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.core.model import GpuKey
from exporter.core.signals import BY_NAME
from tests.nvml.fake import calls
from tests.nvml.running import KEYS, PATIENCE, Start, starting, verdict


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


# The whole GPU.


def test_a_lost_gpu_stays_and_comes_back(start: Start) -> None:
    running = start()
    well = running.sample()
    sample = running.sample(after=running.change({"gpu0.all": "GPU_IS_LOST"}))
    assert (sample.lost, sample.values, sample.info) == ("gpu_is_lost", {}, well.info)
    assert dict(sample.missing) == dict.fromkeys(BY_NAME, "gpu_is_lost")
    running.failure("nvml-0", "gpu is lost")
    running.sample(KEYS[1], after=sample.at)
    sample = running.sample(after=running.change({"gpu0.all": "OK"}))
    assert not sample.lost
    assert sample.values == well.values
    running.until(lambda: running.collectors()["nvml-0"].success)


def test_a_gpu_that_answers_nothing_but_unknown_error_in_two_polls_is_lost(start: Start) -> None:
    running = start()
    well = running.sample()
    once = running.sample(after=running.change({"gpu0.all": "UNKNOWN"}))
    twice = running.sample(after=once.at)
    assert once.lost == twice.lost == "unknown_error"
    assert (verdict(well, once).state, verdict(well, once, twice).state) == ("unknown", "lost")


def test_a_gpu_that_leaves_the_inventory(start: Start) -> None:
    running = start({"gpus": 3}, inventory=0.05, retry=60.0)
    for key in KEYS[:3]:
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
    running.until(lambda: [running.source.samples()[key].info.index for key in KEYS[:3]] == ["0", "1", "2"])
    # All of them are watched again.
    for gpu in range(3):
        running.until(lambda gpu=gpu: running.source.samples()[KEYS[gpu]].values.get("xid_watched"))
        running.nvml.xid(gpu=gpu, code=31)
    assert [event.key for event in running.xids(3)] == list(KEYS[:3])


def test_the_last_gpu_may_leave_too(start: Start) -> None:
    running = start({"gpus": 1}, inventory=0.05)
    running.sample()
    running.change({"gpu0.gone": 1})
    running.until(lambda: running.source.samples()[KEYS[0]].lost)


def test_a_gpu_that_is_lost_from_the_start_is_seen_by_its_index(start: Start) -> None:
    running = start({"gpu0.all": "GPU_IS_LOST"})
    sample = running.sample(GpuKey("gpu-index-0"))
    assert (sample.lost, sample.info.index) == ("gpu_is_lost", "0")
    running.sample(after=running.change({"gpu0.all": "OK"}))
    assert set(running.source.samples()) == set(KEYS[:2])


def test_when_all_gpus_are_lost_nvml_is_opened_again(start: Start) -> None:
    running = start(retry=0.1)
    running.sample(KEYS[1])
    opened = running.nvml.calls("nvmlInitWithFlags")
    running.change({"gpu0.all": "GPU_IS_LOST", "gpu1.all": "GPU_IS_LOST"})
    running.until(lambda: running.nvml.calls("nvmlInitWithFlags") > opened)
    # Who they are is remembered, though they do not say it any more.
    assert set(running.source.samples()) == set(KEYS[:2])


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
def test_nvml_that_cannot_be_opened_is_tried_again(start: Start, state: dict[str, str], words: str) -> None:
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


def test_another_driver_than_the_library_s_is_fatal(start: Start) -> None:
    running = start({"init": "LIB_RM_VERSION_MISMATCH"})
    running.until(lambda: running.source.fatal)
    assert "restart this process" in running.source.fatal
    assert "\n" not in running.source.fatal


def test_a_driver_that_is_updated_while_running_is_fatal(start: Start) -> None:
    running = start()
    running.sample()
    running.change({"driver": "LIB_RM_VERSION_MISMATCH"})
    running.until(lambda: running.source.fatal)


def test_a_driver_that_is_loaded_again_is_used_again(start: Start) -> None:
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


def test_opening_nvml_may_hang(start: Start) -> None:
    running = start({"hang.nvmlInitWithFlags": 30})
    running.failure("nvml", "has not returned")
    running.nvml.clear("hang.nvmlInitWithFlags")
    running.sample()


def test_counting_the_gpus_may_hang(start: Start) -> None:
    running = start(inventory=0.0)
    running.sample()
    running.change({"hang.nvmlDeviceGetCount_v2": 30})
    running.failure("nvml", "nvmlDeviceGetCount has not returned")
    for key in KEYS[:2]:
        running.sample(key, after=time.monotonic())
    running.nvml.clear("hang.nvmlDeviceGetCount_v2")
    running.until(lambda: running.collectors()["nvml"].success)


def test_a_number_of_gpus_that_no_node_has_is_not_believed(start: Start) -> None:
    running = start({"call.nvmlDeviceGetCount_v2": "SENTINEL"}, retry=0.1)
    running.failure("nvml", "4294967295 GPUs")
    running.nvml.clear("call.nvmlDeviceGetCount_v2")
    running.sample()


# The end.


def test_stopping_waits_for_no_call_that_hangs(start: Start) -> None:
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


def test_stopping_shuts_nvml_down(start: Start) -> None:
    running = start()
    running.sample()
    shutdowns = running.nvml.calls("nvmlShutdown")
    running.stop()
    assert running.nvml.calls("nvmlShutdown") == shutdowns + 1
    assert running.nvml.calls("nvmlShutdown during a call") == 0
