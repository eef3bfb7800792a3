"""What nobody expects of a driver, a library or a machine harms the NVML source no further than it must."""

import ctypes
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from exporter.core.model import GpuKey, XidEvent
from exporter.core.xid_flood import MAX_EACH
from exporter.sources import nvml
from exporter.sources.nvml_calls import Call, Row, Way
from exporter.sources.nvml_queue import XidLog, XidQueue
from exporter.sources.nvml_reader import Reader
from tests.nvml.fake import calls
from tests.nvml.running import KEYS, UUIDS, Running, Start, starting, verdict

PLACEHOLDER = GpuKey("gpu-index-0")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    yield from starting(tmp_path, monkeypatch)


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


# The library.


@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "not a regular file"), (os.mkdir, "not a regular file")])
def test_what_is_no_file_is_not_loaded(start: Start, tmp_path: Path, make: Any, words: str) -> None:
    """The loader opens a FIFO with Python's lock held: the whole process would wait."""
    make(tmp_path / "lib.so")
    assert "--nvml.library" in start(library=str(tmp_path / "lib.so")).failure("nvml", words).message


@pytest.mark.parametrize("name", ["/x\0y", "x\0y"])
def test_a_name_that_no_file_can_have_is_named(start: Start, name: str) -> None:
    assert "--nvml.library" in start(library=name).failure("nvml", "null").message


# Threads.


def refuse(monkeypatch: pytest.MonkeyPatch, prefix: str) -> set[str]:
    """No thread whose name begins so can be started while the set has the prefix in it."""
    refused, really = {prefix}, threading.Thread.start

    def begin(self: threading.Thread) -> None:
        if any(self.name.startswith(one) for one in refused):
            raise RuntimeError("can't start new thread")
        really(self)

    monkeypatch.setattr(threading.Thread, "start", begin)
    return refused


def test_a_gpu_whose_thread_cannot_be_started_is_unknown_until_it_can(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refuse(monkeypatch, "nvml-gpu-0")
    running = start()
    running.failure("nvml-0", "can't start new thread; allow this process more threads")
    assert verdict(running.sample(PLACEHOLDER)).state == "unknown"
    running.sample(KEYS[1])
    refused.clear()
    running.sample()
    running.until(lambda: running.collectors()["nvml-0"].success)
    assert set(running.source.samples()) == set(KEYS[:2])


def test_an_xid_thread_that_cannot_be_started_is_no_watch(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refuse(monkeypatch, "nvml-xid")
    running = start()
    running.failure("xid", "can't start new thread")
    assert running.sample().missing == {"xid_watched": "unknown_error"}
    refused.clear()
    running.until(lambda: running.source.samples()[KEYS[0]].values.get("xid_watched"))


def test_whatever_the_waiting_raises_the_next_set_comes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> None:
        raise ValueError("nonsense")

    with monkeypatch.context() as broken:
        broken.setattr(pynvml, "nvmlEventSetWait_v2", wait)
        running = start()
        running.failure("xid", "ValueError: nonsense")
        running.sample()
        running.until(lambda: running.source.samples()[KEYS[0]].missing.get("xid_watched") == "unknown_error")
    running.until(lambda: running.source.samples()[KEYS[0]].values.get("xid_watched"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is the case
def test_an_xid_thread_that_ends_unasked_is_a_failure_and_starts_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise SystemExit

    running = start()
    assert running.sample().values["xid_watched"] == 1
    with monkeypatch.context() as broken:
        broken.setattr(pynvml, "nvmlEventSetWait_v2", end)
        running.failure("xid", "has ended")
        running.until(lambda: "xid_watched" in running.source.samples()[KEYS[0]].missing)
    running.until(lambda: running.collectors()["xid"].success)
    running.nvml.xid(gpu=0, code=31)
    assert running.xids(1)[0].key == KEYS[0]


def test_whatever_the_control_raises_nvml_is_closed_and_opened_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("nonsense")

    with monkeypatch.context() as broken:
        broken.setattr(nvml.NvmlSource, "_mark_gone", fail)
        running = start(retry=0.05)
        shut = running.nvml.calls("nvmlShutdown")
        running.failure("nvml", "ValueError: nonsense; tried again every 0.05 s")
        running.until(lambda: running.nvml.calls("nvmlShutdown") > shut + 1)
    running.sample(after=time.monotonic())
    running.until(lambda: running.collectors()["nvml"].success)


def test_making_the_event_set_may_hang(start: Start) -> None:
    running = start({"hang.nvmlEventSetCreate": 30})
    assert running.sample().missing == {"xid_watched": "timeout"}
    assert "nvmlEventSetCreate" in running.failure("xid", "hangs").message
    running.nvml.clear("hang.nvmlEventSetCreate")
    running.until(lambda: running.source.samples()[KEYS[0]].values.get("xid_watched"))


def of_gpu(index: int) -> int:
    return sum(thread.name == f"nvml-gpu-{index}" for thread in threading.enumerate())


def test_a_gpu_that_hangs_has_one_thread_however_often_nvml_is_opened(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "_JOIN_SECONDS", 0.05)
    running = start({"gpu0.hang.nvmlDeviceGetUUID": 30}, retry=0.05)
    running.failure("nvml-0", "nvmlDeviceGetUUID has not returned")
    opened = running.nvml.calls("nvmlInitWithFlags")
    running.change({"gpu1.call.nvmlDeviceGetPowerUsage": "UNINITIALIZED"})  # of those that answer at all, all
    running.until(lambda: running.nvml.calls("nvmlInitWithFlags") >= opened + 4)
    assert of_gpu(0) == 1
    running.failure("nvml-0", "from before NVML was opened again")
    running.nvml.clear("gpu0.hang.nvmlDeviceGetUUID", "gpu1.call.nvmlDeviceGetPowerUsage")
    for key in KEYS[:2]:
        running.sample(key, after=time.monotonic())
    running.until(lambda: set(running.source.samples()) == set(KEYS[:2]))


# Opening again.


@pytest.mark.parametrize("fault", ["UNINITIALIZED", "DRIVER_NOT_LOADED"])
def test_one_gpu_s_word_that_nvml_is_broken_is_that_gpu_s_trouble(start: Start, fault: str) -> None:
    running = start(retry=0.0)
    well = running.sample()
    opened = running.nvml.calls("nvmlInitWithFlags")
    sick = running.sample(after=running.change({"gpu0.call.nvmlDeviceGetPowerUsage": fault}))
    for _ in range(5):
        sick = running.sample(after=sick.at)
    assert (verdict(sick).state, sick.info) == ("unknown", well.info)
    running.failure("nvml-0")
    assert verdict(running.sample(KEYS[1], after=sick.at)).state == "healthy"
    assert running.nvml.calls("nvmlInitWithFlags") == opened
    assert running.sample(after=running.change({"gpu0.call.nvmlDeviceGetPowerUsage": "OK"})).values == well.values


def test_nvml_that_stays_broken_is_opened_again_once_in_a_while(start: Start) -> None:
    opened = calls("nvmlInitWithFlags")
    running = start({"gpus": 1, "gpu0.call.nvmlDeviceGetPowerUsage": "UNINITIALIZED"}, retry=60.0)
    running.until(lambda: calls("nvmlInitWithFlags") == opened + 2)
    sick = running.sample()
    for _ in range(10):
        sick = running.sample(after=sick.at)
    assert calls("nvmlInitWithFlags") == opened + 2
    assert verdict(sick).state == "unknown"


# Who is who.


@pytest.mark.parametrize("uuid", ["", None])
def test_a_gpu_without_a_uuid_is_unknown(start: Start, uuid: str | None) -> None:
    running = start({"gpu0.call.nvmlDeviceGetUUID": "SENTINEL"} if uuid is None else {"gpu0.uuid": uuid})
    nameless = running.sample(PLACEHOLDER)
    assert (nameless.values, nameless.lost, verdict(nameless).state) == ({}, "", "unknown")
    running.failure("nvml-0", "UUID is no text")
    running.sample(KEYS[1])
    assert set(running.source.samples()) == {PLACEHOLDER, KEYS[1]}


def test_two_gpus_with_one_uuid_are_two(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start({"gpu1.uuid": UUIDS[0]})
    running.sample()
    other = running.until(lambda: next((k for k in running.source.samples() if k != KEYS[0]), None))
    assert other.uuid.startswith("gpu-index-")
    for _ in range(5):
        assert verdict(running.sample(other, after=time.monotonic())).state == "unknown"
    assert verdict(running.sample()).state == "healthy"
    assert len(lines(caplog, "another GPU of this node has its UUID")) == 1


# The log.


def test_a_sick_gpu_is_in_the_log_once_and_once_when_it_is_well(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = start()
    running.sample()
    sick = running.sample(after=running.change({"gpu0.all": "GPU_IS_LOST"}))
    running.until(lambda: lines(caplog, "gpu is lost"))
    for _ in range(5):
        sick = running.sample(after=sick.at)
    running.change({"gpu0.all": "OK"})
    running.until(lambda: lines(caplog, "nvml-0 is well again"))
    assert (len(lines(caplog, "gpu is lost")), len(lines(caplog, "well again"))) == (1, 1)


def test_a_poll_that_raises_is_told_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("nonsense")

    with monkeypatch.context() as broken:
        broken.setattr(pynvml, "nvmlDeviceGetMigMode", fail)
        running = start({"gpus": 1})
        sick = running.sample()
        for _ in range(5):
            sick = running.sample(after=sick.at)
        assert verdict(sick).state == "unknown"
        running.failure("nvml-0", "ValueError: nonsense")
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_pick_that_raises_costs_its_signal() -> None:
    def fail(_: object) -> float:
        raise AttributeError("nonsense")

    call = Call("call", lambda _: 5.0)
    reader = Reader(ctypes.c_void_p(1), (Row("power", (Way(call, pick=fail),)), Row("temperature", (Way(call),))))
    answer = reader.read()
    assert (answer.values, answer.missing) == ({"temperature": 5.0}, {"power": "unknown_error"})


# Floods.


def test_a_flood_of_one_code_leaves_the_others() -> None:
    queue = XidQueue()
    assert queue.put(XidEvent(KEYS[0], 79, 0.0, "nvml"))
    for i in range(5000):
        assert not queue.put(XidEvent(KEYS[0], 31, i + 1.0, "nvml"))
    taken = queue.take()
    assert Counter(event.xid for event in taken) == {79: 1, 31: MAX_EACH}
    assert [event.at for event in taken] == [0.0, *(float(5001 - MAX_EACH + i) for i in range(MAX_EACH))]
    assert queue.dropped == 5000 - MAX_EACH
    assert queue.take() == []


def test_a_flood_of_codes_is_bounded() -> None:
    queue = XidQueue()
    for code in range(65535):
        queue.put(XidEvent(KEYS[0], code, 0.0, "nvml"))
    assert len(queue.take()) + queue.dropped == 65535
    assert queue.dropped > 60000


def test_the_log_has_the_first_of_a_minute_and_how_many_came_after_it(caplog: pytest.LogCaptureFixture) -> None:
    told = XidLog()
    for i in range(1000):
        told.say("GPU-a", 31, "31 of a", i / 100)
        told.say("GPU-a", 79, "79 of a", i / 100)
    assert caplog.messages == ["31 of a", "79 of a"]
    told.flush(59.0)
    assert len(caplog.messages) == 2
    told.flush(61.0)
    assert caplog.messages[2:] == ["31 of a (999 more times in 61 s)", "79 of a (999 more times in 61 s)"]
    told.say("GPU-a", 31, "31 of a", 62.0)
    assert caplog.messages[-1] == "31 of a"
    told.flush(500.0)
    assert len(caplog.messages) == 5


def test_xids_that_were_too_many_are_told_of(start: Start) -> None:
    running: Running = start()
    running.sample()
    for _ in range(MAX_EACH + 10):
        running.source._emit(XidEvent(KEYS[0], 31, time.monotonic(), "nvml"))
    assert "10 Xid events" in running.failure("xid", "too fast").message
