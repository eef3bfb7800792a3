"""cycle.py: from a source's news to a snapshot, and what a source that fails costs the others."""

import asyncio
import threading
import time

import pytest
from msgspec.structs import replace

from exporter import cycle as cycle_module
from exporter.core.inputs import NodeInputs
from exporter.core.model import GpuProcess
from exporter.core.model_engines import PodFacts
from exporter.core.snapshot import Collector
from exporter.cycle import Cycle
from exporter.kit import tasks
from tests.exporter.build import NODE, sample, scrape, target

PATIENCE = 5.0  # seconds: only a hang reaches it


class Gpus:
    """A GPU source that does what the test sets."""

    def __init__(self, name="nvml"):
        self.name, self.fails, self.stopped = name, {}, False
        self.now = {}

    def _do(self, what):
        if what in self.fails:
            raise self.fails[what]

    def start(self, notify):
        self.notify = notify
        self._do("start")

    def samples(self):
        self._do("samples")
        return self.now

    def take_xids(self):
        return []

    def collectors(self):
        return [Collector(self.name, True, 0.0, time.monotonic())]

    async def stop(self):
        self.stopped = True
        if hang := self.fails.get("stop"):
            await hang


class Engines:
    """An engine source with one target whose task does what the test sets."""

    def __init__(self):
        self.errors, self.runs, self.crash, self.last_success = {}, 0, None, None
        self.good = {}

    async def run(self):
        self.runs += 1
        if self.crash:
            raise self.crash
        await asyncio.Event().wait()

    def scrapes(self):
        return self.good

    def last_good(self):
        return self.good

    def collectors(self):
        return [Collector("engines", True, 0.0, self.last_success)]


class Reader:
    """Takes snapshots as the feed does; `next()` is the one after those that were taken."""

    def __init__(self):
        self.taken = asyncio.Queue()
        self.fail = None

    def __call__(self, snapshot):
        if self.fail:
            raise self.fail
        self.taken.put_nowait(snapshot)

    async def next(self):
        return await asyncio.wait_for(self.taken.get(), PATIENCE)

    async def until(self, condition):
        while not condition(snapshot := await self.next()):
            pass
        return snapshot


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cycle_module, "COALESCE_SECONDS", 0.02)
    monkeypatch.setattr(cycle_module, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.05)
    monkeypatch.setattr(cycle_module, "STOP_SECONDS", 0.2)


@pytest.fixture
async def reader():
    return Reader()


@pytest.fixture
def gpus():
    return Gpus()


@pytest.fixture
async def running(reader, gpus):
    """start() -> a running cycle of one GPU source and one target; stopped after the test."""
    cycles = []

    def start(engines=None, discovery=None, **more):
        cycle = Cycle(
            NodeInputs(NODE),
            {"nvml": gpus, **more},
            reader,
            discovery=discovery,
            container_of=lambda pids: dict.fromkeys(pids, "4f"),
        )
        cycles.append(cycle)
        cycle.start(engines or Engines(), lambda: (target(),))
        return cycle

    yield start
    for cycle in cycles:
        await cycle.stop()


class Discovery:
    """A source of one pod."""

    def __init__(self):
        self.fails, self.stopped = None, False

    def start(self, notify):
        self.notify = notify

    def targets(self):
        return (target(),)

    def facts(self):
        if self.fails:
            raise self.fails
        return {("inference", "llama-0"): PodFacts("inference", "llama-0", created=5.0)}

    def collectors(self):
        return [Collector("kubernetes", True, 0.0, time.monotonic())]

    async def stop(self):
        self.stopped = True


def collector(snapshot, name):
    (found,) = [each for each in snapshot.collectors if each.name == name]
    return found


async def test_news_becomes_a_snapshot(running, reader, gpus):
    running()
    now = time.monotonic()
    gpus.now = {sample().info.key: sample(at=now)}
    gpus.notify()
    snapshot = await reader.until(lambda snapshot: snapshot.gpus)
    assert snapshot.node == NODE
    assert snapshot.gpus[0].at == now


async def test_news_from_another_thread_is_heard(running, reader, gpus, monkeypatch):
    monkeypatch.setattr(cycle_module, "IDLE_SECONDS", PATIENCE)  # nothing else wakes the cycle
    running()
    thread = threading.Thread(target=gpus.notify)
    thread.start()
    await reader.next()
    thread.join()


async def test_news_that_come_together_are_one_snapshot(running, reader, gpus, monkeypatch):
    monkeypatch.setattr(cycle_module, "IDLE_SECONDS", PATIENCE)
    running()
    for _ in range(100):
        gpus.notify()
    assert (await reader.next()).sequence == 1
    gpus.notify()
    assert (await reader.next()).sequence == 2
    assert reader.taken.empty()


async def test_without_news_there_are_snapshots_too(running, reader):
    running()
    first, second = await reader.next(), await reader.next()
    assert second.sequence == first.sequence + 1
    assert second.at > first.at


async def test_news_after_the_end_are_nobodys(running, gpus):
    cycle = running()
    await cycle.stop()
    gpus.notify()  # in the loop
    loop = asyncio.new_event_loop()
    loop.close()
    cycle._loop = loop
    cycle.notify()  # after it: a driver thread that comes back too late


async def test_engines_come_with_their_scrapes_and_collectors(running, reader):
    engines = Engines()
    engines.good = {target().url: scrape(target(), at=time.monotonic())}
    engines.errors = {(target().url, "timeout"): 3}
    running(engines)
    snapshot = await reader.next()
    assert snapshot.engines[0].reading.waiting == 3
    assert snapshot.scrape_errors == engines.errors
    assert [each.name for each in snapshot.collectors] == ["nvml", "engines"]


async def test_pods_come_with_the_wall_clock_and_with_the_containers_of_processes(running, reader, gpus, monkeypatch):
    asked = []
    step = cycle_module.step
    monkeypatch.setattr(cycle_module, "step", lambda *args: asked.append(args[1]) or step(*args))
    process = replace(sample(at=time.monotonic()), processes=(GpuProcess(7, 1.0),))
    gpus.now = {process.info.key: process}
    discovery = Discovery()
    cycle = running(discovery=discovery)
    snapshot = await reader.until(lambda snapshot: snapshot.gpus)
    assert collector(snapshot, "kubernetes").success
    assert asked[-1].pods == discovery.facts()
    assert asked[-1].containers == {7: "4f"}
    assert abs(asked[-1].wall - time.time()) < 60
    await cycle.stop()
    assert discovery.stopped


async def test_a_source_of_pods_that_crashes_fails_alone(running, reader, gpus):
    gpus.now = {sample().info.key: sample(at=time.monotonic())}
    discovery = Discovery()
    discovery.fails = ValueError("odd")
    discovery.collectors = list
    running(discovery=discovery)
    snapshot = await reader.until(lambda snapshot: snapshot.gpus)
    assert collector(snapshot, "kubernetes").message.startswith("kubernetes: crashed (ValueError: odd); ")


@pytest.mark.parametrize("where", ["start", "samples"])
async def test_a_gpu_source_that_crashes_fails_alone(running, reader, gpus, where, caplog):
    other = Gpus("dcgm")
    other.now = {sample().info.key: sample(at=time.monotonic(), source="dcgm")}
    gpus.fails[where] = ValueError("odd")
    gpus.collectors = list
    running(dcgm=other)
    snapshot = await reader.next()
    assert len(snapshot.gpus) == 1
    failed = collector(snapshot, "nvml")
    assert (failed.success, failed.last_success) == (False, None)
    assert failed.message.startswith("nvml: crashed (ValueError: odd); ")
    assert collector(snapshot, "dcgm").success
    await reader.next()
    lines = [record for record in caplog.records if "nvml: crashed" in record.message]
    assert len(lines) == 1, "said once, not at every snapshot"
    assert lines[0].exc_info


async def test_a_task_that_crashes_is_started_again_and_healed_by_its_next_success(running, reader):
    engines = Engines()
    engines.crash = KeyError("odd")
    running(engines)
    snapshot = await reader.until(lambda _: engines.runs >= 2)
    assert not collector(snapshot, "engines").success
    assert "crashed (KeyError: 'odd')" in collector(snapshot, "engines").message
    engines.crash = None
    runs = engines.runs
    await reader.until(lambda _: engines.runs > runs)
    assert not collector(await reader.next(), "engines").success, "a restart is no success yet"
    engines.last_success = time.monotonic()
    snapshot = await reader.until(lambda snapshot: collector(snapshot, "engines").success)
    assert collector(snapshot, "engines").message == ""


async def test_a_task_that_ends_by_itself_is_started_again(running, reader):
    engines = Engines()
    ended = []

    async def run():
        ended.append(1)

    engines.run = run
    running(engines)
    snapshot = await reader.until(lambda _: len(ended) >= 2)
    assert "it ended by itself" in collector(snapshot, "engines").message


async def test_a_reader_that_crashes_does_not_end_the_cycle(running, reader):
    cycle = running()
    await reader.next()
    reader.fail = RuntimeError("odd")
    before = cycle.snapshot.sequence
    async with asyncio.timeout(PATIENCE):
        while cycle.snapshot.sequence < before + 2:  # noqa: ASYNC110 -- nobody is told of these snapshots
            await asyncio.sleep(0.01)
    reader.fail = None
    await reader.next()
    snapshot = await reader.next()
    assert "snapshot" not in [each.name for each in snapshot.collectors], "healed"


async def test_a_stop_waits_for_nobody_for_long(running, gpus):
    gpus.fails["stop"] = asyncio.Event().wait()
    cycle = running()
    began = time.monotonic()
    await asyncio.wait_for(cycle.stop(), PATIENCE)
    assert time.monotonic() - began < 2
    assert gpus.stopped
    del gpus.fails["stop"]


async def test_a_collector_without_a_crash_is_passed_on_as_it_is(running, reader, gpus):
    odd = replace(Collector("nvml", False, 2.0, None), message="NVML: hangs; look at the kernel log")
    gpus.collectors = lambda: [odd]
    running()
    assert collector(await reader.next(), "nvml") == odd
