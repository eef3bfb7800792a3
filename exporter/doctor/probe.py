"""The exporter's own sources, run for a few seconds, and the node that they make.

May not be in here: what is to be thought of it (checks/).
"""

import asyncio
import os
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from exporter import app, state
from exporter.core.findings import THRESHOLDS
from exporter.core.inputs import NodeInputs
from exporter.core.model import GpuKey, GpuSample, KubeletReading
from exporter.core.snapshot import Collector, Snapshot
from exporter.cycle import Cycle, GpuSource
from exporter.doctor import ports
from exporter.doctor.ports import Port
from exporter.kit.fetch import Fetcher
from exporter.settings import Settings
from exporter.sources.engines import EngineSource
from exporter.sources.proc import ProcSource

_BOARD = re.compile(r"nvml-\d+")


class Probe(NamedTuple):
    """What came out. Samples are by source and GPU, before they are merged."""

    seconds: float  # how long was waited
    snapshot: Snapshot
    samples: Mapping[tuple[str, GpuKey], GpuSample]
    kubelet: KubeletReading | None
    watching: bool  # the kernel log is being read
    targets: Sequence[str]  # URLs of the engines
    ports: Sequence[Port]
    discovered: Sequence[str] = ()  # URLs of those that Kubernetes told of

    def collector(self, name: str) -> Collector | None:
        return next((each for each in self.snapshot.collectors if each.name == name), None)

    def boards(self) -> list[Collector]:
        """NVML's GPUs, as many as it says that there are."""
        return [each for each in self.snapshot.collectors if _BOARD.fullmatch(each.name)]


async def run(settings: Settings, timeout: float) -> Probe:  # noqa: ASYNC109 -- the limit of the whole probe
    """Read until every source has answered or has failed, at most `timeout` seconds. Raises ConfigError.

    A verdict takes as many polls as thresholds.toml says: so many are waited for.
    """
    began = time.monotonic()
    fetcher = Fetcher()
    found_ports = await ports.look(settings, fetcher)
    discovery = app.kubernetes(settings, fetcher, os.environ)
    targets, gpus = app.engine_targets(settings, discovery), app.gpu_sources(settings, fetcher)
    # With its path given a source says why it cannot read; with "auto" it is silent.
    named = replace(
        settings,
        kmsg_file=app.KMSG if settings.kmsg_file == "auto" else settings.kmsg_file,
        kubelet_socket=app.KUBELET if settings.kubelet_socket == "auto" else settings.kubelet_socket,
    )
    kernel_log, kubelet = app.kernel_log(named), app.kubelet(named)
    news = asyncio.Event()
    boot = state.boot_id()
    about = NodeInputs(settings.node, standard=settings.standard, boot=boot, fresh=app.fresh_seconds(settings))
    # What a running exporter has latched counts here too; nothing is written.
    remembered = state.load(settings.state_file, boot, began) if settings.state_file and boot else None
    snapshots: deque[Snapshot] = deque(maxlen=1)

    def publish(snapshot: Snapshot) -> None:
        snapshots.append(snapshot)
        news.set()

    container_of = ProcSource().container_of
    cycle = Cycle(about, gpus, publish, kernel_log, kubelet, remembered, discovery=discovery, container_of=container_of)
    engines = EngineSource(targets, fetcher, settings.engines_interval, settings.engines_timeout, cycle.notify)
    cycle.start(engines, targets)
    polls: Counter[tuple[str, GpuKey]] = Counter()
    newest: dict[tuple[str, GpuKey], float] = {}
    try:
        async with asyncio.timeout(timeout):
            while True:
                await news.wait()
                news.clear()
                for key, sample in _samples(gpus):
                    polls[key] += newest.get(key) != sample.at
                    newest[key] = sample.at
                urls = {target.url for target in targets()}
                # Until it has answered or failed, nobody knows which engines there are to wait for.
                if (discovery is None or discovery.collectors()) and _settled(snapshots[0], polls, urls):
                    break
    except TimeoutError:
        cycle.update()
    probe = Probe(
        seconds=time.monotonic() - began,
        snapshot=snapshots[0],
        samples=dict(_samples(gpus)),
        kubelet=kubelet.reading() if kubelet else None,
        watching=bool(kernel_log and kernel_log.watching),
        targets=sorted({target.url for target in targets()}),
        ports=found_ports,
        discovered=sorted({target.url for target in discovery.targets()}) if discovery else (),
    )
    # Nothing is stopped: the process ends with the report, and a driver's call may hang for ever.
    await fetcher.close()
    return probe


def _samples(gpus: Mapping[str, GpuSource]) -> list[tuple[tuple[str, GpuKey], GpuSample]]:
    return [((name, key), sample) for name, source in gpus.items() for key, sample in source.samples().items()]


def _settled(snapshot: Snapshot, polls: Mapping[tuple[str, GpuKey], int], urls: set[str]) -> bool:
    """Whether nobody is left to wait for. polls: how many samples each source has given of each GPU."""
    # A collector that has not come to an end yet has taken no time. The engines' one is never before the first tick,
    # the Xids' one has none to come to.
    states = [each for each in snapshot.collectors if each.name not in ("engines", "xid")]
    boards = {each.name: each.success for each in states if _BOARD.fullmatch(each.name)}
    index = {gpu.info.key: f"nvml-{gpu.info.index}" for gpu in snapshot.gpus}
    # dcgm-exporter is asked seldom: one page of it must do. Of a GPU that hangs nothing more will come.
    few = [
        key
        for (source, key), count in polls.items()
        if source != "dcgm" and count < THRESHOLDS.enter_polls and boards.get(index.get(key, ""), True)
    ]
    return (
        not few
        and all(each.last_success is not None or each.seconds for each in states)
        and all(name in index.values() for name, success in boards.items() if success)
        and urls <= snapshot.scrapes.keys()
    )
