"""The NVML source and the events that the driver reports."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.core.model import GpuKey
from exporter.sources.nvml_events import MIG_CHANGE
from tests.nvml.running import KEYS, PATIENCE, UUIDS, Start, starting


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


def test_xids_come_with_and_without_instance(start: Start) -> None:
    running = start({"gpu0.mig_mode": 1, "gpu0.mig0": "2,0,MIG-a,NVIDIA H100 80GB HBM3 MIG 3g.40gb,42949672960,0"})
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


def test_the_same_xid_twice_is_two_events(start: Start) -> None:
    running = start()
    running.sample()
    running.nvml.xid(gpu=0, code=31)
    running.nvml.xid(gpu=0, code=31)
    assert [event.xid for event in running.xids(2)] == [31, 31]


def test_xids_of_a_gpu_that_is_dead_by_then_are_known(start: Start) -> None:
    """The handle's UUID was noted when there was somebody to ask."""
    running = start()
    running.sample()
    running.change({"gpu0.all": "GPU_IS_LOST"})
    running.nvml.xid(gpu=0, code=79)
    assert running.xids(1)[0].key == KEYS[0]


@pytest.mark.parametrize("code", [0, 70000])
def test_an_event_that_is_no_xid_is_dropped(start: Start, code: int) -> None:
    running = start()
    running.sample()
    running.nvml.xid(gpu=0, code=code)
    running.nvml.xid(gpu=0, code=13)
    assert [event.xid for event in running.xids(1)] == [13]


def test_a_gpu_whose_xids_would_be_noticed_says_so(start: Start) -> None:
    running = start()
    assert running.sample().values["xid_watched"] == 1
    registered = running.nvml.calls("nvmlDeviceRegisterEvents", 0)
    running.sample(after=time.monotonic())
    assert running.nvml.calls("nvmlDeviceRegisterEvents", 0) == registered


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"gpu0.event_types": 0}, "not_supported"),
        ({"gpu0.event_types": MIG_CHANGE}, "not_supported"),
        ({"gpu0.call.nvmlDeviceGetSupportedEventTypes": "NOT_SUPPORTED"}, "not_supported"),
        ({"gpu0.call.nvmlDeviceRegisterEvents": "NO_PERMISSION"}, "no_permission"),
        ({"gpu0.call.nvmlDeviceRegisterEvents": "FUNCTION_NOT_FOUND"}, "not_supported"),
        ({"gpu0.call.nvmlDeviceRegisterEvents": "UNKNOWN"}, "unknown_error"),
    ],
    ids=str,
)
def test_a_card_without_xid_events_is_watched_without(start: Start, state: dict[str, object], reason: str) -> None:
    running = start(state)
    assert running.sample().missing == {"xid_watched": reason}
    assert running.sample(KEYS[1]).values["xid_watched"] == 1
    running.nvml.xid(gpu=0, code=79)
    running.nvml.xid(gpu=1, code=13)
    assert [event.key for event in running.xids(1)] == [KEYS[1]]
    running.until(lambda: running.collectors()["xid"].success)


def test_a_registration_that_failed_is_tried_again_and_a_refusal_is_not(start: Start) -> None:
    name = "nvmlDeviceRegisterEvents"
    running = start({f"gpu0.call.{name}": "UNKNOWN", f"gpu1.call.{name}": "NO_PERMISSION"})
    running.sample()
    running.sample(KEYS[1])
    refused = running.nvml.calls(name, 1)
    mended = running.change({f"gpu0.call.{name}": "OK"})
    assert running.sample(after=mended).values["xid_watched"] == 1
    running.sample(KEYS[1], after=mended)
    assert running.nvml.calls(name, 1) == refused


def test_a_lost_gpu_spoils_the_watch_of_no_other(start: Start) -> None:
    """NVML lets the wait on the whole set fail then; the new set is without the GPU that refuses."""
    running = start()
    running.sample()
    running.sample(KEYS[1])
    running.change({"gpu0.call.nvmlDeviceRegisterEvents": "GPU_IS_LOST", "call.nvmlEventSetWait_v2": "GPU_IS_LOST"})
    running.failure("xid", "GPU is lost")
    running.nvml.clear("call.nvmlEventSetWait_v2")
    running.until(lambda: running.source.samples()[KEYS[0]].missing.get("xid_watched") == "gpu_is_lost")
    assert not running.source.samples()[KEYS[0]].lost  # it reads on
    running.until(lambda: running.source.samples()[KEYS[1]].values.get("xid_watched"))
    running.nvml.xid(gpu=1, code=13)
    assert running.xids(1)[0].key == KEYS[1]
    # It is back, and watched again.
    running.sample(after=running.change({"gpu0.call.nvmlDeviceRegisterEvents": "OK"}))
    running.until(lambda: running.source.samples()[KEYS[0]].values.get("xid_watched"))
    running.nvml.xid(gpu=0, code=31)
    assert running.xids(1)[0].key == KEYS[0]


def test_a_registration_that_hangs_keeps_its_set(start: Start) -> None:
    running = start({"gpu0.hang.nvmlDeviceRegisterEvents": 30})
    running.failure("nvml-0", "nvmlDeviceRegisterEvents has not returned")
    running.sample(KEYS[1])
    # The set fails meanwhile. It is not freed under the call's feet, and the others get a new one.
    running.change({"call.nvmlEventSetWait_v2": "UNKNOWN"})
    running.failure("xid", "failed")
    running.nvml.clear("call.nvmlEventSetWait_v2")
    running.until(lambda: running.collectors()["xid"].success)
    running.until(lambda: running.source.samples()[KEYS[1]].values.get("xid_watched"))
    running.nvml.xid(gpu=1, code=13)
    assert running.xids(1)[0].key == KEYS[1]
    running.nvml.clear("gpu0.hang.nvmlDeviceRegisterEvents")
    running.until(lambda: (s := running.source.samples().get(KEYS[0])) and s.values.get("xid_watched"))


def test_waiting_for_xids_may_fail_for_a_while(start: Start) -> None:
    running = start()
    running.sample()
    running.change({"call.nvmlEventSetWait_v2": "GPU_IS_LOST"})
    running.failure("xid", "GPU is lost")
    running.until(lambda: running.source.samples()[KEYS[0]].missing.get("xid_watched") == "unknown_error")
    running.nvml.clear("call.nvmlEventSetWait_v2")
    running.until(lambda: running.collectors()["xid"].success)
    running.until(lambda: running.source.samples()[KEYS[0]].values.get("xid_watched"))
    running.nvml.xid(gpu=0, code=13)
    assert running.xids(1)[0].xid == 13


def test_waiting_for_xids_may_hang(start: Start) -> None:
    running = start()
    running.sample()
    running.change({"hang.nvmlEventSetWait_v2": 30})
    running.failure("xid", "hangs")
    running.sample(after=time.monotonic())


def test_a_driver_without_event_sets_is_a_source_without_xids(start: Start) -> None:
    running = start({"call.nvmlEventSetCreate": "NOT_SUPPORTED"})
    assert running.until(lambda: running.source.samples().get(KEYS[0])).values["temperature"] == 55
    running.failure("xid", "Not Supported")
    assert running.sample(after=time.monotonic()).missing == {"xid_watched": "not_supported"}
