"""The exporter as a running program: which sources there are, who reads, how it starts and ends.

May not be in here: the way from a source's news to a snapshot (cycle.py), formats (publish.py, feed.py, page.py).
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from exporter import page, publish, state
from exporter.core.inputs import NodeInputs
from exporter.core.model import EngineTarget, Snapshot
from exporter.cycle import Cycle, GpuSource, KernelLog, Kubelet
from exporter.feed import Feed
from exporter.kit import web as kit_web
from exporter.kit.fetch import Fetcher
from exporter.settings import Settings
from exporter.sources.engines import EngineSource, TargetFile

log = logging.getLogger("exporter")

NOT_READY = "not ready: nothing has been read yet; ask again in a second"
#: Where "auto" looks.
KMSG = "/dev/kmsg"
KUBELET = "/var/lib/kubelet/pod-resources/kubelet.sock"
#: Seconds for which a rendered page is served again, so that the ages on it are true to this.
PAGE_SECONDS = 1.0
#: A source's readings are stale after so many polls without one.
STALE_POLLS = 3


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT: 0; or until NVML can never work again in this process: 1.

    Raises ConfigError when an address cannot be bound or the file of engines cannot be read.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    fetcher = Fetcher()
    feed = Feed()
    gpus = gpu_sources(settings, fetcher)

    def publish_snapshot(snapshot: Snapshot) -> None:
        feed.publish(snapshot)
        if _fatal(gpus):
            stop.set()

    targets = engine_targets(settings)
    boot = state.boot_id()
    about = NodeInputs(settings.node, standard=settings.standard, boot=boot, fresh=fresh_seconds(settings))
    keeper = state.Keeper(settings.state_file, boot)
    cycle = Cycle(
        about,
        gpus,
        publish_snapshot,
        kernel_log(settings),
        kubelet(settings),
        keeper.load(time.monotonic()),
        keeper.offer,
    )
    site = application(cycle, feed, settings.web_telemetry_path)
    try:
        runner, web_port = await kit_web.serve(site, settings.web_listen_address, "web.listen-address")
        try:
            feed_port = await feed.serve(settings.feed_listen_address, "feed.listen-address")
            engines = EngineSource(targets, fetcher, settings.engines_interval, settings.engines_timeout, cycle.notify)
            cycle.start(engines, targets)
            places = settings.web_listen_address[0], web_port, settings.feed_listen_address[0], feed_port
            log.info("listening web=%s:%d feed=%s:%d", *places)
            await stop.wait()
        finally:
            await asyncio.gather(feed.stop(), cycle.stop(), runner.cleanup())
            keeper.close()
    finally:
        await fetcher.close()
    if line := _fatal(gpus):
        log.error(line)
        return 1
    return 0


def engine_targets(settings: Settings) -> Callable[[], Sequence[EngineTarget]]:
    """All servers to watch now: those of the file and those of the flag. Raises ConfigError.

    Of a URL in both the first counts: the file may know its pod and GPUs.
    """
    if not settings.engines_file:
        return lambda: settings.engines
    listed = TargetFile(settings.engines_file)
    return lambda: (*listed(), *settings.engines)


def gpu_sources(settings: Settings, fetcher: Fetcher) -> Mapping[str, GpuSource]:
    """The GPU sources that the settings ask for, by the name of their collector.

    Each is imported only where it is used: pynvml alone is 3 MB.
    """
    sources: dict[str, GpuSource] = {}
    if settings.gpu_source == "nvml":
        from exporter.sources.nvml import NvmlSource  # noqa: PLC0415

        sources["nvml"] = NvmlSource(settings.nvml_library, settings.nvml_interval, settings.nvml_deadline)
    if settings.gpu_source == "demo":
        from exporter.sources.demo import DemoSource  # noqa: PLC0415

        sources["demo"] = DemoSource(settings.demo_file)
    if settings.dcgm_url:
        from exporter.sources.dcgm import DcgmSource  # noqa: PLC0415

        sources["dcgm"] = DcgmSource(settings.dcgm_url, fetcher, settings.dcgm_interval)
    return sources


def kernel_log(settings: Settings) -> KernelLog | None:
    from exporter.sources.kmsg import KmsgSource  # noqa: PLC0415 -- as above

    asked = settings.kmsg_file != "auto"
    return None if settings.kmsg_file == "off" else KmsgSource(settings.kmsg_file if asked else KMSG, asked)


def kubelet(settings: Settings) -> Kubelet | None:
    from exporter.sources.podresources import KubeletSource  # noqa: PLC0415 -- as above

    asked = settings.kubelet_socket != "auto"
    if settings.kubelet_socket == "off":
        return None
    socket = settings.kubelet_socket if asked else KUBELET
    return KubeletSource(socket, asked, settings.kubelet_interval, settings.kubelet_resources)


def fresh_seconds(settings: Settings) -> Mapping[str, float]:
    """Source -> seconds for which a reading counts."""
    return {
        "nvml": STALE_POLLS * settings.nvml_interval,
        "demo": STALE_POLLS * 1.0,
        "dcgm": STALE_POLLS * settings.dcgm_interval,
        "kmsg": STALE_POLLS * 1.0,
        # The kubelet may take its time to answer, too.
        "kubelet": STALE_POLLS * settings.kubelet_interval + 3.0,
        # A server may take all its time to answer.
        "engines": STALE_POLLS * settings.engines_interval + settings.engines_timeout,
    }


def application(cycle: Cycle, feed: Feed, metrics_path: str) -> web.Application:
    """The web pages. None of them waits for anything but the page's own rendering."""
    cache: dict[bool, tuple[Snapshot, float, bytes]] = {}  # format -> of which snapshot, when, the page

    async def metrics(request: web.Request) -> web.Response:
        openmetrics = publish.wants_openmetrics(request.headers.get("Accept", ""))
        snapshot, now = cycle.snapshot, time.monotonic()
        if snapshot is None:
            return web.Response(status=503, text=f"# {NOT_READY}\n")
        cached = cache.get(openmetrics)
        if cached is None or cached[0] is not snapshot or now - cached[1] > PAGE_SECONDS:
            own = {"plimsoll_feed_subscribers": feed.subscribers, "plimsoll_feed_messages_total": feed.messages}
            body = publish.render(snapshot, now, time.time(), openmetrics, own, publish.process(openmetrics))
            cached = cache[openmetrics] = snapshot, now, body
        return web.Response(body=cached[2], headers={"Content-Type": publish.CONTENT_TYPES[openmetrics]})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        if cycle.snapshot is None:
            return web.Response(status=503, text=f"{NOT_READY}\n")
        return web.Response(text="ready\n")

    async def status(_: web.Request) -> web.Response:
        text = page.render(cycle.snapshot, time.monotonic(), metrics_path, feed.subscribers)
        return web.Response(text=text, content_type="text/html")

    app = kit_web.application()
    app.add_routes(
        [
            web.get(metrics_path, metrics),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/", status),
        ]
    )
    return app


def _fatal(sources: Mapping[str, GpuSource]) -> str:
    """One line once a source can never work again in this process (NVML alone knows such a state), else ""."""
    return next((line for source in sources.values() if (line := getattr(source, "fatal", ""))), "")
