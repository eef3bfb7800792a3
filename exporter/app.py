"""The exporter as a running program: which sources there are, who reads, how it starts and ends.

May not be in here: the way from a source's news to a snapshot (cycle.py), formats (publish.py, feed.py, page.py).
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from exporter import debug, page, publish, state
from exporter.core import selector
from exporter.core.inputs import NodeInputs
from exporter.core.model_engines import Access, EngineTarget
from exporter.core.snapshot import Snapshot
from exporter.cycle import Cycle, Discovery, GpuSource, KernelLog, Kubelet
from exporter.feed import Feed
from exporter.kit import web as kit_web
from exporter.kit.config import ConfigError
from exporter.kit.fetch import Fetcher
from exporter.settings import Settings
from exporter.sources.engines import EngineSource
from exporter.sources.proc import ProcSource
from exporter.sources.target_file import MAX_TARGETS, TargetFile, load_grants

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

    Raises ConfigError when an address cannot be bound, or a file that says which engines there are cannot be read.
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

    discovery = kubernetes(settings, fetcher, os.environ)
    targets = engine_targets(settings, discovery)
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
        discovery,
        ProcSource().container_of,
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


def engine_targets(settings: Settings, discovery: Discovery | None = None) -> Callable[[], Sequence[EngineTarget]]:
    """All servers to watch now: those of the file, of the flag, and those discovered. Raises ConfigError.

    Of a URL that is there more than once the first counts: the operator knows best. Of discovered ones as many are
    taken as MAX_TARGETS leaves; that some are left out is said when their number changes.
    """
    listed: Callable[[], Sequence[EngineTarget]] = TargetFile(settings.engines_file) if settings.engines_file else tuple
    left_out = 0

    def merged() -> Sequence[EngineTarget]:
        nonlocal left_out
        found: dict[str, EngineTarget] = {}
        for target in (*listed(), *settings.engines):
            found.setdefault(target.url, target)
        new = [target for target in (discovery.targets() if discovery else ()) if target.url not in found]
        room = max(0, MAX_TARGETS - len(found))
        if left_out != (left_out := max(0, len(new) - room)):
            log.warning("engines: %d discovered servers are left out; at most %d are watched", left_out, MAX_TARGETS)
        return (*found.values(), *new[:room])

    return merged


def kubernetes(settings: Settings, fetcher: Fetcher, environ: Mapping[str, str]) -> Discovery | None:
    """The source of this node's pods, if the settings ask for one. Raises ConfigError."""
    if settings.kubernetes_pods == "off":
        return None
    # Imported only where they are used.
    from exporter.core.pod_ports import Wanted  # noqa: PLC0415
    from exporter.core.pods import Rules  # noqa: PLC0415
    from exporter.sources import kubernetes_cluster  # noqa: PLC0415

    rules = Rules(
        settings.node,
        own=(environ.get("POD_NAMESPACE", ""), environ.get("POD_NAME", "")),
        namespaces=frozenset(settings.kubernetes_namespaces),
        selector=selector.parse(settings.kubernetes_selector) if settings.kubernetes_selector else (),
        ports=Wanted(settings.kubernetes_port, settings.kubernetes_port_names, frozenset(settings.kubelet_resources)),
        grants=load_grants(settings.kubernetes_access_file) if settings.kubernetes_access_file else (),
    )
    if settings.kubernetes_pods == "api":
        from exporter.sources.kubernetes import KubernetesSource  # noqa: PLC0415

        named = settings.kubernetes_config
        cluster = kubernetes_cluster.kubeconfig(named) if named else kubernetes_cluster.in_cluster(environ)
        return KubernetesSource(cluster, rules, settings.kubernetes_selector)
    from exporter.sources.kubelet_pods import KubeletPods  # noqa: PLC0415

    return KubeletPods(fetcher, *_kubelet_pods(settings, environ, kubernetes_cluster.service_account()), rules)


def _kubelet_pods(settings: Settings, environ: Mapping[str, str], account: Access) -> tuple[str, Access]:
    """The URL of the kubelet's list of pods, and how it is asked. Raises ConfigError."""
    host = environ.get("HOST_IP", "")
    if not settings.kubernetes_kubelet_url and not host:
        raise ConfigError(
            "option kubernetes.pods: kubelet: the node's address is not known; set HOST_IP (status.hostIP) in the "
            "environment, or --kubernetes.kubelet-url"
        )
    url = settings.kubernetes_kubelet_url or f"https://{f'[{host}]' if ':' in host else host}:10250/pods"
    return url, Access(
        ca_file=settings.kubernetes_kubelet_ca_file or account.ca_file,
        token_file=account.token_file if url.startswith("https:") else "",  # its read-only port wants none
        insecure_skip_verify=settings.kubernetes_kubelet_insecure,
    )


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

    async def engine(request: web.Request) -> web.Response:
        asked = {name: request.query.get(name, "") for name in ("pod", "model", "endpoint")}
        body = debug.render(cycle.snapshot, cycle.facts, time.monotonic(), **asked)
        status = 503 if cycle.snapshot is None else 200
        return web.Response(status=status, body=body, headers={"Content-Type": debug.CONTENT_TYPE})

    async def status(_: web.Request) -> web.Response:
        text = page.render(cycle.snapshot, time.monotonic(), metrics_path, feed.subscribers)
        return web.Response(text=text, content_type="text/html")

    app = kit_web.application()
    app.add_routes(
        [
            web.get(metrics_path, metrics),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/debug/engine", engine),
            web.get("/", status),
        ]
    )
    return app


def _fatal(sources: Mapping[str, GpuSource]) -> str:
    """One line once a source can never work again in this process (NVML alone knows such a state), else ""."""
    return next((line for source in sources.values() if (line := getattr(source, "fatal", ""))), "")
