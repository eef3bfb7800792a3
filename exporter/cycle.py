"""The cycle: news from the sources becomes a step of the node, and a snapshot for all who read.

May not be in here: which sources there are and who reads (app.py), deriving anything (core/).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from exporter.core.evidence import Facts
from exporter.core.inputs import NodeInputs
from exporter.core.model import GpuKey, GpuSample, KubeletReading, XidEvent
from exporter.core.model_engines import EngineScrape, EngineTarget, PodFacts
from exporter.core.node import Remembered, remembered, resumed, step
from exporter.core.serving import EngineKey
from exporter.core.snapshot import Collector, Snapshot
from exporter.kit.tasks import crash_message, keep_running

log = logging.getLogger("exporter")

#: Seconds to wait after the first news for what comes with it: all engines answer at one tick.
COALESCE_SECONDS = 0.1
#: Seconds after which there is a new snapshot even without news: readings grow old by themselves.
IDLE_SECONDS = 1.0
#: Seconds that a source has to stop. A driver call that hangs is left behind.
STOP_SECONDS = 2.0


class GpuSource(Protocol):
    """What every GPU source offers. `notify` may be called from any thread."""

    def start(self, notify: Callable[[], None]) -> None: ...
    def samples(self) -> Mapping[GpuKey, GpuSample]: ...
    def take_xids(self) -> list[XidEvent]: ...
    def collectors(self) -> list[Collector]: ...
    async def stop(self) -> None: ...


class KernelLog(GpuSource, Protocol):
    """The kernel log: a GPU source that has Xids alone."""

    @property
    def watching(self) -> bool: ...
    @property
    def loaded_at(self) -> float | None: ...


class Kubelet(Protocol):
    """What the source of pods offers."""

    def start(self, notify: Callable[[], None]) -> None: ...
    def reading(self) -> KubeletReading | None: ...
    def collectors(self) -> list[Collector]: ...
    async def stop(self) -> None: ...


class Discovery(Protocol):
    """What a source of this node's inference servers offers."""

    def start(self, notify: Callable[[], None]) -> None: ...
    def targets(self) -> Sequence[EngineTarget]: ...
    def facts(self) -> Mapping[tuple[str, str], PodFacts]: ...
    def collectors(self) -> list[Collector]: ...
    async def stop(self) -> None: ...


class EngineScrapes(Protocol):
    """What the source of engines offers."""

    @property
    def errors(self) -> Mapping[tuple[str, str], int]: ...
    async def run(self) -> None: ...
    def scrapes(self) -> Mapping[str, EngineScrape]: ...
    def last_good(self) -> Mapping[str, EngineScrape]: ...
    def collectors(self) -> list[Collector]: ...


class Cycle:
    """One node: its sources, what is known of it, and its newest snapshot."""

    def __init__(
        self,
        about: NodeInputs,
        gpus: Mapping[str, GpuSource],
        publish: Callable[[Snapshot], None],
        kernel_log: KernelLog | None = None,
        kubelet: Kubelet | None = None,
        earlier: Remembered | None = None,
        keep: Callable[[Remembered], None] = lambda memory: None,
        discovery: Discovery | None = None,
        container_of: Callable[[Iterable[int]], Mapping[int, str]] = lambda pids: {},
    ) -> None:
        """about: the node's name, boot id, standard and freshness limits. gpus: sources by the name of their collector.

        earlier: what an earlier run left. keep: gets what a later run is to know, after every step. container_of:
        pids -> ids of their containers.
        """
        self.snapshot: Snapshot | None = None
        self._about = about
        self._gpus: Mapping[str, GpuSource] = {**gpus, **({"kmsg": kernel_log} if kernel_log else {})}
        self._kernel_log = kernel_log
        self._kubelet = kubelet
        self._discovery = discovery
        self._container_of = container_of
        self._publish = publish
        self._keep = keep
        self._engines: EngineScrapes | None = None
        self._targets: Callable[[], Sequence[EngineTarget]] = tuple
        self._memory = resumed(earlier or Remembered(), time.monotonic())
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._crashes: dict[str, tuple[float, str]] = {}  # source -> when, message
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def facts(self) -> Mapping[EngineKey, Facts]:
        """What the snapshot's diagnoses rest on."""
        return self._memory.serving.facts

    def notify(self) -> None:
        """There is news. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop is closed: a thread that hung in the driver came back too late
            log.debug("news after the end")

    def start(self, engines: EngineScrapes, targets: Callable[[], Sequence[EngineTarget]]) -> None:
        """Start all sources and the cycle itself. A source that cannot start is a failed collector."""
        self._engines, self._targets = engines, targets
        for name, source in self._startable().items():
            try:
                source.start(self.notify)
            except Exception as error:
                self._crash(name, error)
        self._tasks = [
            asyncio.create_task(keep_running(run, partial(self._crash, name)), name=name)
            for name, run in (("engines", engines.run), ("snapshot", self._run))
        ]

    def _startable(self) -> Mapping[str, GpuSource | Kubelet | Discovery]:
        others = {"kubelet": self._kubelet, "kubernetes": self._discovery}
        return {**self._gpus, **{name: source for name, source in others.items() if source is not None}}

    async def stop(self) -> None:
        """Within STOP_SECONDS, whatever hangs."""
        for task in self._tasks:
            task.cancel()
        stopping = [asyncio.wait_for(source.stop(), STOP_SECONDS) for source in self._startable().values()]
        await asyncio.gather(*self._tasks, *stopping, return_exceptions=True)

    def update(self) -> None:
        """Make a snapshot of what the sources say now and publish it."""
        self.snapshot, self._memory = step(self._memory, self._inputs(), time.monotonic())
        self._publish(self.snapshot)
        self._keep(remembered(self._memory))

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._news.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            except TimeoutError:
                pass
            self._news.clear()
            self.update()
            self._crashes.pop("snapshot", None)  # it has no collector whose success could tell

    def _inputs(self) -> NodeInputs:
        samples: list[GpuSample] = []
        xids: list[XidEvent] = []
        collectors: list[Collector] = []
        for name, source in self._gpus.items():
            try:
                samples += source.samples().values()
                xids += source.take_xids()
                collectors += source.collectors()
            except Exception as error:
                self._crash(name, error)
        # The wall clock is for Kubernetes' stamps alone.
        inputs = replace(self._about, samples=samples, xids=xids, wall=time.time())
        if self._kernel_log is not None:
            inputs = replace(inputs, kernel_log=self._kernel_log.watching, driver_loaded_at=self._kernel_log.loaded_at)
        if self._kubelet is not None:
            try:
                collectors += self._kubelet.collectors()
                inputs = replace(inputs, kubelet=self._kubelet.reading())
            except Exception as error:
                self._crash("kubelet", error)
        if self._discovery is not None:
            try:
                collectors += self._discovery.collectors()
                pids = {process.pid for sample in samples for process in sample.processes or ()}
                inputs = replace(inputs, pods=self._discovery.facts(), containers=self._container_of(pids))
            except Exception as error:
                self._crash("kubernetes", error)
        if self._engines is not None:
            collectors += self._engines.collectors()
            inputs = replace(
                inputs,
                targets=self._targets(),
                scrapes=self._engines.scrapes(),
                last_good=self._engines.last_good(),
                scrape_errors=self._engines.errors,
            )
        return replace(inputs, collectors=tuple(self._with_crashes(collectors)))

    def _crash(self, name: str, error: Exception) -> None:
        """Said once in the log, and on every page until the collector succeeds again."""
        message = crash_message(name, error)
        before = self._crashes.get(name)
        if before is None or before[1] != message:
            log.error(message, exc_info=error)
        self._crashes[name] = (time.monotonic(), message)

    def _with_crashes(self, collectors: list[Collector]) -> Iterator[Collector]:
        """A crash counts until the collector has succeeded after it."""
        crashes = dict(self._crashes)
        for collector in collectors:
            at, message = crashes.pop(collector.name, (float("-inf"), ""))
            healed = (collector.last_success or float("-inf")) > at
            yield collector if healed or not message else replace(collector, success=False, message=message)
        for name, (_, message) in crashes.items():
            yield Collector(name, False, 0.0, None, message)
