"""Wires the scaler together, runs it and ends it.

May not be in here: anything that one of the parts does.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from msgspec import Struct
from prometheus_client import CollectorRegistry

from exporter.kit import rpc, web
from scaler.decisions import Desk
from scaler.journal import Journal
from scaler.metrics import Calls, ScalerCollector
from scaler.pages import Pages
from scaler.pb.externalscaler_pb2 import DESCRIPTOR
from scaler.pb.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from scaler.service import Service
from scaler.settings import Settings
from scaler.sources.feed import Feeds

log = logging.getLogger("scaler")

SERVICE = DESCRIPTOR.services_by_name["ExternalScaler"].full_name
STREAMS_END = 2.0  # s for streams to end cleanly
CALLS_END = 1.0  # s for calls in flight; with the above and the web server's second: within 5 s of SIGTERM

SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second scaler on the port is a mistake, not half of the calls
    ("grpc.max_receive_message_length", 4 << 20),  # GetMetricSpec never fails: etcd takes objects of 1.5 MiB
    # KEDA's keepalive pings are welcome, whether or not it has a call open.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    # A client that vanished gives its streams back.
    ("grpc.keepalive_time_ms", 30000),
    ("grpc.keepalive_timeout_ms", 10000),
)


class Ports(Struct, frozen=True):
    """Where the program really listens."""

    grpc: int
    web: int


async def run(
    settings: Settings, stop: asyncio.Event | None = None, ready: Callable[[Ports], None] = lambda ports: None
) -> None:
    """Serve until `stop` is set or SIGTERM or SIGINT comes. Raises ConfigError when it cannot start."""
    stop = stop or _signals()
    clock = time.monotonic
    async with AsyncExitStack() as stack:
        journal = Journal(settings.record_file) if settings.record_file else None
        if journal is not None:
            stack.callback(journal.close, 1.0)
        changed = asyncio.Event()
        feeds = Feeds(settings.exporters, changed.set, clock)
        write = journal.write if journal else None
        desk = Desk(feeds.views, lambda: feeds.version, changed, clock, time.time, write)
        tasks = [asyncio.create_task(work) for work in (feeds.run(), desk.run(), stop.wait())]
        stack.push_async_callback(_cancel, tasks)

        calls = Calls()
        registry = CollectorRegistry()
        registry.register(ScalerCollector(desk, feeds.views, calls, clock))
        pages = Pages(desk, feeds.views, registry, clock)
        runner, web_port = await web.serve(pages.application(), settings.web_listen_address, "web.listen-address")
        stack.push_async_callback(runner.cleanup)

        service = Service(desk, calls, settings.streams_max, settings.stream_lifetime)
        health = health_aio.HealthServicer()
        server, grpc_port = await _serve(service, health, settings.grpc_listen_address)
        stack.push_async_callback(_end, server, service, health)
        pages.ready = True
        log.info(
            "listening grpc=%s:%d web=%s:%d",
            *(settings.grpc_listen_address[0] or "0.0.0.0", grpc_port),  # noqa: S104 -- shown, and what was asked for
            *(settings.web_listen_address[0] or "0.0.0.0", web_port),  # noqa: S104 -- likewise
        )
        ready(Ports(grpc_port, web_port))
        # The others end only by a mistake of ours; then it is better to be started again than to go on blind.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        pages.ready = False


async def _serve(
    service: Service, health: health_aio.HealthServicer, address: tuple[str, int]
) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_ExternalScalerServicer_to_server(service, server)  # type: ignore[no-untyped-call] # generated
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    # SERVING says that the configuration is loaded, and nothing about engines or exporters: if it did, every scaler
    # pod would leave the Service in an outage, and KEDA's fallback with it.
    for name in ("", SERVICE):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    bound = rpc.bind(server, address, "grpc.listen-address")
    await server.start()
    return server, bound


async def _end(server: grpc.aio.Server, service: Service, health: health_aio.HealthServicer) -> None:
    """NOT_SERVING first, so that nobody new comes; then streams end cleanly, for KEDA backs off from an error."""
    await health.enter_graceful_shutdown()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STREAMS_END):
            await service.close()
    await server.stop(CALLS_END)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Raises what a task failed with, if one did."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
