"""A fake exporter and a client that speaks as KEDA does, both over real gRPC; and a scaler to put between them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio

from exporter.pb import signals_pb2 as pb
from exporter.pb.signals_pb2_grpc import SignalsServicer, add_SignalsServicer_to_server
from scaler import app, settings
from scaler.pb import externalscaler_pb2 as keda_pb
from scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

MODEL = "llama"


def engine(pod: str = "llama-0", **fields: Any) -> pb.Engine:
    """A healthy, idle engine; every field can be overridden, None leaves it out."""
    values: dict[str, Any] = {
        "endpoint": f"http://{pod}:8000/metrics",
        "namespace": "default",
        "pod": pod,
        "model": MODEL,
        "kind": "vllm",
        "waiting": 0.0,
        "running": 0.0,
        "kv_usage": 0.0,
        "capacity": 1.0,
        "health": "healthy",
        "cause": "idle",
    } | fields
    return pb.Engine(**{name: value for name, value in values.items() if value is not None})


def signals(*engines: pb.Engine, **fields: Any) -> pb.NodeSignals:
    values: dict[str, Any] = {
        "node": "node-a",
        "boot": "1",
        "sequence": 1,
        "engines": engines,
        "engine_age_seconds": [0.1] * len(engines),
        "gpu_age_seconds": [0.1] * len(fields.get("gpus", ())),
    } | fields
    return pb.NodeSignals(**values)


class FakeExporter(SignalsServicer):
    """Serves plimsoll.v1.Signals: the newest message to whoever connects, then every one that is sent."""

    def __init__(self) -> None:
        self.port = 0
        self.watchers: set[asyncio.Queue[pb.NodeSignals | None]] = set()
        self.newest: pb.NodeSignals | None = None
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_SignalsServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def Watch(self, request: pb.WatchRequest, context: Any) -> None:
        queue: asyncio.Queue[pb.NodeSignals | None] = asyncio.Queue()
        self.watchers.add(queue)
        try:
            if self.newest is not None:
                await context.write(self.newest)
            while (message := await queue.get()) is not None:
                await context.write(message)
        finally:
            self.watchers.discard(queue)

    def send(self, message: pb.NodeSignals) -> None:
        if not message.unchanged:
            self.newest = message
        for queue in self.watchers:
            queue.put_nowait(message)

    def end_streams(self) -> None:
        for queue in self.watchers:
            queue.put_nowait(None)


class Keda:
    """The calls of KEDA's external scaler, in its order."""

    def __init__(self, port: int, metadata: Mapping[str, str], name: str = "llama") -> None:
        self.ref = keda_pb.ScaledObjectRef(name=name, namespace="default", scalerMetadata=metadata)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = ExternalScalerStub(self.channel)

    async def spec(self) -> keda_pb.MetricSpec:
        (spec,) = (await self.stub.GetMetricSpec(self.ref, timeout=5)).metricSpecs
        return spec

    async def metrics(self, name: str = "required-replicas") -> tuple[keda_pb.MetricValue, str]:
        """The value and the explanation in the trailing metadata."""
        request = keda_pb.GetMetricsRequest(scaledObjectRef=self.ref, metricName=name)
        call = self.stub.GetMetrics(request, timeout=5)
        (value,) = (await call).metricValues
        return value, dict(await call.trailing_metadata())["plimsoll-explanation"]

    async def active(self) -> bool:
        return bool((await self.stub.IsActive(self.ref, timeout=5)).result)

    async def until(self, wanted: float) -> str:
        """Ask until the value is the wanted one; returns its explanation."""
        said = ""
        async with asyncio.timeout(10):
            while True:
                try:
                    value, said = await self.metrics()
                    if abs(value.metricValueFloat - wanted) < 0.0005:
                        return said
                except grpc.aio.AioRpcError as error:
                    said = str(error.details())
                await asyncio.sleep(0.01)

    async def until_value(self) -> keda_pb.MetricValue:
        """Ask until there is an answer."""
        async with asyncio.timeout(10):
            while True:
                try:
                    return (await self.metrics())[0]
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)

    async def refused(self, method: str = "GetMetrics") -> tuple[grpc.StatusCode, str]:
        request = keda_pb.GetMetricsRequest(scaledObjectRef=self.ref) if method == "GetMetrics" else self.ref
        try:
            await getattr(self.stub, method)(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError(f"{method} was answered")

    async def until_refused(self, words: str) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(10):
            while True:
                try:
                    code, details = await self.refused()
                    if words in details:
                        return code, details
                except AssertionError:
                    pass
                await asyncio.sleep(0.01)


class Scaler:
    """A running scaler."""

    def __init__(self, ports: app.Ports, task: asyncio.Task[None], stop: asyncio.Event) -> None:
        self.ports = ports
        self.task = task
        self.stop = stop
        self.web = f"http://127.0.0.1:{ports.web}"

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.web + path) as response:
            return response.status, await response.text()

    async def connected(self, count: int = 1) -> None:
        await self.until_metric(f'plimsoll_scaler_exporters{{state="connected"}} {count}.0')

    async def until_metric(self, wanted: str) -> None:
        async with asyncio.timeout(10):
            while wanted not in (await self.get("/metrics"))[1]:  # noqa: ASYNC110 -- it is another program's state
                await asyncio.sleep(0.01)


@asynccontextmanager
async def scaler(*exporters: str, **changes: Any) -> AsyncIterator[Scaler]:
    """The whole program in this process, on free ports."""
    chosen = settings.Settings(
        **{
            "exporters": exporters,
            "grpc_listen_address": ("127.0.0.1", 0),
            "web_listen_address": ("127.0.0.1", 0),
            "streams_max": 256,
            "stream_lifetime": 300.0,
            "record_file": "",
            "log_level": "info",
            "log_format": "logfmt",
        }
        | changes
    )
    stop = asyncio.Event()
    ready: asyncio.Future[app.Ports] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.run(chosen, stop, ready.set_result))
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    running = Scaler(ready.result(), task, stop)
    try:
        yield running
    finally:
        stop.set()
        await task


@asynccontextmanager
async def exporter(*engines: pb.Engine) -> AsyncIterator[FakeExporter]:
    fake = FakeExporter()
    await fake.start()
    if engines:
        fake.send(signals(*engines))
    try:
        yield fake
    finally:
        await fake.stop()
