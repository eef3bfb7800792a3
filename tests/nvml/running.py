"""An NVML source at work on the fake driver, and the waiting for what it says: what the tests of the source share."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.core import health
from exporter.core.join import merge
from exporter.core.model import GpuKey, GpuSample, Verdict, XidEvent
from exporter.core.snapshot import Collector
from exporter.sources import nvml_board, nvml_events
from exporter.sources.nvml import NvmlSource
from tests.nvml.fake import FakeNvml

UUIDS = tuple(f"GPU-00000000-0000-0000-0000-00000000000{i:x}" for i in range(16))
KEYS = tuple(GpuKey(uuid) for uuid in UUIDS)
INTERVAL = 0.02
#: Seconds. A GPU whose first poll takes longer is shown without values: a machine that is busy with other tests is not
#: to be taken for a driver that hangs.
DEADLINE = 1.0
PATIENCE = 10.0  # seconds until a wait is given up; no test waits for it to pass


class Running:
    """A source at work, and the waiting for what it says."""

    def __init__(self, nvml: FakeNvml, **options: Any) -> None:
        self.nvml = nvml
        self._news = threading.Condition()
        self.source = NvmlSource(**{"library": nvml.library, "interval": INTERVAL, "deadline": DEADLINE, **options})
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

    def news(self) -> None:
        """Wait for the next sample of any GPU, an interval at most."""
        with self._news:
            self._news.wait(INTERVAL)

    def sample(self, key: GpuKey = KEYS[0], after: float = 0.0) -> GpuSample:
        """The GPU's first sample that was begun after this moment."""

        def newest() -> GpuSample | None:
            sample = self.source.samples().get(key)
            return sample if sample and sample.at > after else None

        found: GpuSample = self.until(newest)
        return found

    def read(self, key: GpuKey, after: float = 0.0) -> GpuSample:
        """The GPU's first sample with a value in it: until its first poll is over, a GPU is shown without any."""

        def newest() -> GpuSample | None:
            sample = self.source.samples().get(key)
            return sample if sample and sample.values and sample.at > after else None

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
        # Those of earlier openings that still hang, too.
        late = [worker.thread for worker in self.source._workers.values() if worker.thread]
        return [self.source._thread, *self.source._opening.threads(), *late]

    def stop(self) -> float:
        began = time.monotonic()
        asyncio.run(self.source.stop())
        return time.monotonic() - began


Start = Callable[..., Running]


def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """The body of a fixture: gives start(state of the fake, **arguments of NvmlSource). Every poll is a look."""
    monkeypatch.setattr(nvml_events, "WAIT_MILLISECONDS", 20)
    monkeypatch.setattr(nvml_events, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(nvml_events, "FIRST_SECONDS", 0.05)  # less than the deadline of the tests' polls
    monkeypatch.setattr(nvml_board, "LOOK_SECONDS", 0.0)
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
        assert one.nvml.calls("event set used after free") == 0
        assert one.nvml.calls("nvmlShutdown during a call") == 0


def verdict(*samples: GpuSample, age: float = 0.0) -> Verdict:
    """The verdict on the last of a GPU's samples, `age` seconds after it; the others were judged as they came."""
    memory = None
    for sample in samples:
        now = sample.at + (age if sample is samples[-1] else 0.0)
        (merged,) = merge([sample], now)
        judged, memory = health.judge(memory, merged, [], now)
    return judged
