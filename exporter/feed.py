"""Snapshot -> the gRPC stream that scalers listen to (plimsoll.v1.Signals, proto/signals.proto).

May not be in here: deriving anything that the snapshot does not say; how the scaler reads it.

A snapshot is encoded once, whoever listens. A subscriber holds no queue: when it is ready for a message it gets the
newest one, so a slow subscriber costs nothing but its own freshness.
"""

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Iterable

import grpc
from msgspec import Struct

from exporter.core.model import Gpu, GpuKey
from exporter.core.model_engines import ColdStart, Engine, Learned
from exporter.core.snapshot import Snapshot
from exporter.kit import rpc
from exporter.pb import signals_pb2 as pb

log = logging.getLogger("feed")

#: Streams open at a time. A cluster runs two or three scalers.
MAX_STREAMS = 64
#: Seconds between two messages while nothing but ages changes. A bit below the second at which snapshots come.
HEARTBEAT_SECONDS = 0.9
#: Seconds that open streams have to end when the program stops.
GRACE_SECONDS = 2.0

_SERVICE = pb.DESCRIPTOR.services_by_name["Signals"].full_name
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two exporters on one port are a mistake, not a load balancer
    ("grpc.max_receive_message_length", 64 * 1024),  # a WatchRequest has one short field
    ("grpc.keepalive_time_ms", 20_000),  # a scaler that vanished without a word gives its stream back
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

#: Fields of model_engines.Rates that a scaler is told.
_RATES = (
    "requests_per_second",
    "tokens_per_second",
    "rejections_per_second",
    "preemptions_per_second",
    "prompt_tokens_per_second",
    "prefix_hit_ratio",
    "ttft_p50",
    "ttft_p95",
    "itl_p50",
    "itl_p95",
    "queue_time_p95",
)


class _Encoded(Struct, frozen=True):
    """A snapshot, ready to be sent."""

    version: int  # grows when something other than ages changed
    full: bytes
    unchanged: bytes


class Feed:
    """The servicer. Everything but construction happens in the event loop."""

    def __init__(self) -> None:
        self.subscribers = 0
        self.messages = 0
        self._boot = uuid.uuid4().hex
        self._content: bytes | None = None  # a node with neither engines nor GPUs encodes to nothing
        self._newest: _Encoded | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._server: grpc.aio.Server | None = None

    async def serve(self, address: tuple[str, int], option: str) -> int:
        """Start listening; returns the port. Raises ConfigError naming `option` when the address cannot be bound."""
        server = grpc.aio.server(options=_OPTIONS)
        # Not the generated servicer: its serializer would encode the same message for each subscriber.
        watch: grpc.RpcMethodHandler[pb.WatchRequest, bytes] = grpc.unary_stream_rpc_method_handler(
            self.watch, request_deserializer=pb.WatchRequest.FromString
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"Watch": watch})])
        bound = rpc.bind(server, address, option)
        await server.start()
        self._server = server
        return bound

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the one that subscribers get."""
        content, full, unchanged = _encode(snapshot, self._boot)
        version = self._newest.version if self._newest else 0
        self._newest = _Encoded(version + (content != self._content), full, unchanged)
        self._content = content
        self._wake()

    async def watch(
        self, request: pb.WatchRequest, context: "grpc.aio.ServicerContext[pb.WatchRequest, bytes]"
    ) -> AsyncIterator[bytes]:
        """The RPC: the whole state at once, then whenever it changed, else a heartbeat with ages."""
        if self.subscribers >= MAX_STREAMS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_STREAMS} scalers listen to this exporter already; stop some, or watch fewer times per scaler",
            )
        self.subscribers += 1
        log.info("scaler %s listens from %s", request.client[:64] or "(nameless)", context.peer())
        try:
            async for message in self._messages():
                self.messages += 1
                yield message
        finally:
            self.subscribers -= 1

    async def stop(self) -> None:
        """End all streams with status OK, then the server; within GRACE_SECONDS."""
        self._stopping = True
        self._wake()
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)

    async def _messages(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        version, sent_at = 0, -math.inf
        while not self._stopping:
            changed, newest = self._changed, self._newest
            if newest is not None and newest.version != version:
                version, sent_at = newest.version, loop.time()
                yield newest.full
            elif newest is not None and loop.time() - sent_at >= HEARTBEAT_SECONDS:
                sent_at = loop.time()
                yield newest.unchanged
            # What was published while the message was on its way has set `changed` already.
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _encode(snapshot: Snapshot, boot: str) -> tuple[bytes, bytes, bytes]:
    """(what must differ for a full message to be sent, the full message, the heartbeat)."""
    full = pb.NodeSignals(
        engines=[_engine(engine) for engine in snapshot.engines],
        gpus=[_gpu(gpu) for gpu in snapshot.gpus],
        cold_starts=[_cold_start(start) for start in snapshot.cold_starts],
    )
    # Ages grow by themselves, so they are filled in after the comparison is taken. Maps have no order of their own.
    content = full.SerializeToString(deterministic=True)
    for engine, shown in zip(snapshot.engines, full.engines, strict=True):
        shown.seen_seconds = snapshot.at - engine.since
    for gpu, row in zip(snapshot.gpus, full.gpus, strict=True):
        row.since_seconds = max(0.0, snapshot.at - gpu.verdict.since)
    unchanged = pb.NodeSignals(
        node=_text(snapshot.node),
        boot=boot,
        sequence=snapshot.sequence,
        unchanged=True,
        engine_age_seconds=[-1.0 if e.at is None else max(0.0, snapshot.at - e.at) for e in snapshot.engines],
        gpu_age_seconds=[max(0.0, snapshot.at - gpu.at) for gpu in snapshot.gpus],
    )
    heartbeat = unchanged.SerializeToString()
    full.MergeFrom(unchanged)
    full.unchanged = False
    return content, full.SerializeToString(), heartbeat


def _engine(engine: Engine) -> pb.Engine:
    target, reading = engine.target, engine.reading
    message = pb.Engine(
        endpoint=target.url,
        namespace=_text(target.pod.namespace),
        pod=_text(target.pod.pod),
        container=_text(target.pod.container),
        model=reading.model,
        engine=reading.engine,
        kind=engine.kind,
        labels={_text(name): _text(value) for name, value in target.labels.items()},
        error=engine.error,
        gpus=[_name(key) for key in engine.hardware.gpus],
        health=engine.hardware.state,
        cause=engine.cause,
        why=engine.diagnosis.why,
        sleeping=reading.sleeping,
    )
    numbers = {
        "waiting": reading.waiting,
        "running": reading.running,
        "kv_usage": reading.kv_usage,
        "kv_capacity_tokens": reading.kv_capacity_tokens,
        "prompt_tokens_total": reading.prompt_tokens_total,
        "generation_tokens_total": reading.generation_tokens_total,
        "requests_finished_total": None if reading.finished is None else sum(reading.finished.values()),
        "preemptions_total": reading.preemptions_total,
        "rejections_total": reading.rejections_total,
        "capacity": engine.capacity,
        "saturation": engine.saturation,
        "max_running": reading.max_running,
        "kv_peak": engine.kv_peak,
        **{name: getattr(engine.rates, name) for name in _RATES},
        **{name: getattr(engine.learned, name) for name in Learned.__struct_fields__},
    }
    for name, value in numbers.items():
        # A scaler calculates with these; what is not finite is missing.
        if value is not None and math.isfinite(value):
            setattr(message, name, value)
    return message


def _cold_start(start: ColdStart) -> pb.ColdStart:
    return pb.ColdStart(
        namespace=_text(start.namespace),
        model=_text(start.model),
        phase=start.phase,
        count=start.count,
        p50=start.p50,
        p90=start.p90,
    )


def _gpu(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(
        uuid=gpu.info.key.uuid,
        instance=gpu.info.key.instance,
        index=gpu.info.index,
        name=gpu.info.name,
        state=gpu.verdict.state,
        reasons=_reasons(gpu.verdict.reasons),
        capacity=gpu.verdict.capacity,
        xids={xid: seen.count for xid, seen in gpu.xids.items()},
    )


def _reasons(reasons: Iterable[tuple[str, str]]) -> list[pb.Reason]:
    return [pb.Reason(reason=reason, action=action) for reason, action in reasons]


def _text(text: str) -> str:
    """JSON's escaped surrogate pairs reach us in halves (PyYAML); a message takes whole characters only."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _name(key: GpuKey) -> str:
    return f"{key.uuid}/{key.instance}" if key.instance else key.uuid
