"""The exporters' feeds: one task for each exporter's address keeps one NodeView up to date.

May not be in here: what is made of a view (core/view_fleet.py).

A number that cannot be (not finite, below 0, absurdly large) is missing, and its engine says so: the others of the node
know nothing of it. A message whose form is wrong (ages that do not fit, `unchanged` with nothing before it) is dropped
with its connection: the node's last view stays and grows old.
A feed that is silent for SILENCE is lost, whether the exporter hangs or its node is dead.
"""

import asyncio
import logging
import math
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from msgspec import structs

from exporter.pb import signals_pb2 as pb
from exporter.pb.signals_pb2_grpc import SignalsStub
from scaler.core.view import ColdStartView, EngineView, GpuView, NodeView

DNS = "dns:"
RESOLVE_EVERY = 5.0  # s
RESOLVE_WITHIN = 5.0  # s
SILENCE = 10.0  # s; the feed has a heartbeat of about a second
BACK_OFF = (0.2, 5.0)  # s, first and longest; each is doubled and jittered
FORGET_AFTER = 300.0  # s after an address is no longer listed: the HPA's own window for scaling down
LARGEST_MESSAGE = 16 << 20  # bytes; a node with 100 engines sends about 50 kB
LONGEST_START = 86_400.0  # s; what takes a day is no start
LARGEST_NUMBER = 1e15  # beyond what any engine counts to; keeps sums finite and exact

log = logging.getLogger("feed")

#: A name -> its addresses as host:port.
Resolve = Callable[[str], Awaitable[Iterable[str]]]


class Malformed(Exception):
    """A message that cannot be believed. str() says what is wrong with it."""


class Feeds:
    """The views of all exporters. `version` grows with every change; `notify` is called on each, in the event loop."""

    def __init__(
        self,
        exporters: Sequence[str],
        notify: Callable[[], None],
        clock: Callable[[], float],
        resolve: Resolve | None = None,
    ) -> None:
        self.version = 0
        self._exporters = tuple(exporters)
        self._notify = notify
        self._clock = clock
        self._resolve = resolve or addresses
        self._views: dict[str, NodeView] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unlisted: dict[str, float] = {}  # address -> since when no name has it any more
        self._names: dict[str, tuple[str, ...]] = {}  # name -> its last known addresses
        self._since = clock()
        self._failing: set[str] = set()  # names that could not be resolved last time

    def views(self) -> tuple[NodeView, ...]:
        """One for each address, and one for each name that has none yet: somebody is missing."""
        nameless = [name for name in self._exporters if name.startswith(DNS) and name not in self._names]
        waiting = [NodeView(name, self._since, error="the name has no address yet") for name in nameless]
        return (*self._views.values(), *waiting)

    async def run(self) -> None:
        """Follow the exporters until cancelled."""
        names = [name for name in self._exporters if name.startswith(DNS)]
        try:
            while True:
                self._list(self._known())  # a name that takes its time keeps nobody else waiting
                await asyncio.gather(*map(self._look_up, names))
                self._list(self._known())
                await asyncio.sleep(RESOLVE_EVERY)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _known(self) -> list[str]:
        return [address for name in self._exporters for address in self._names.get(name, ())] + [
            name for name in self._exporters if not name.startswith(DNS)
        ]

    async def _look_up(self, name: str) -> None:
        try:
            async with asyncio.timeout(RESOLVE_WITHIN):
                found = tuple(sorted(set(await self._resolve(name.removeprefix(DNS)))))
        except OSError as error:  # a TimeoutError is one
            if name not in self._failing:
                cause = error if str(error) else f"no answer in {RESOLVE_WITHIN:g} s"
                log.warning("%s: %s; keeping the addresses known before; check the Service's name", name, cause)
            self._failing.add(name)
            return
        self._failing.discard(name)
        self._names[name] = found

    def _list(self, listed: Sequence[str]) -> None:
        """Start following what is new; forget what has long been gone."""
        now = self._clock()
        for address in listed:
            self._unlisted.pop(address, None)
            if address not in self._tasks:
                self._views[address] = NodeView(address, now)
                self._tasks[address] = asyncio.create_task(self._follow(address), name=f"feed {address}")
                self._changed()
        for address in set(self._tasks) - set(listed):
            gone_for = now - self._unlisted.setdefault(address, now)
            if gone_for >= FORGET_AFTER and not self._views[address].connected:
                self._tasks.pop(address).cancel()
                del self._views[address], self._unlisted[address]
                log.info("exporter %s: forgotten, not listed for %.0f s", address, gone_for)
                self._changed()

    async def _follow(self, address: str) -> None:
        """Watch one exporter, for ever."""
        first, longest = BACK_OFF
        options = [
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.use_local_subchannel_pool", 1),  # one exporter's back-off is none of another's
        ]
        wait = first
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            while True:
                before = self._views[address].at
                error = await self._watch(address, SignalsStub(channel))  # type: ignore[no-untyped-call] # generated
                if self._views[address].at != before:
                    wait = first
                if self._views[address].connected or self._views[address].error == "":
                    log.warning("exporter %s: lost: %s; trying again", address, error)
                self._set(address, connected=False, error=error)
                # Jitter spreads scalers that lost an exporter together; S311 is about secrets, which this is not.
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
                wait = min(wait * 2, longest)

    async def _watch(self, address: str, stub: Any) -> str:
        """One connection until it ends; returns why it did, in one line."""
        call = stub.Watch(pb.WatchRequest(client=f"plimsoll-scaler {socket.gethostname()}"))
        last: NodeView | None = None  # as of this connection: `unchanged` can refer to nothing before it
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return _ended(await call.code(), await call.details())
                last = decode(message, self._views[address], last)
                if not self._views[address].connected:
                    log.info("exporter %s: connected, node %s", address, last.node)
                now, first = self._clock(), self._views[address].first
                first = now if first is None else first
                self._views[address] = structs.replace(last, at=now, first=first, connected=True, error="")
                self._changed()
        except TimeoutError:
            return f"silent for {SILENCE:g} s"
        except Malformed as error:
            return f"malformed message: {error}"
        except grpc.aio.AioRpcError as error:
            return _ended(error.code(), error.details())
        finally:
            call.cancel()

    def _set(self, address: str, **changes: Any) -> None:
        self._views[address] = structs.replace(self._views[address], **changes)
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._notify()


async def addresses(name: str) -> list[str]:
    """All addresses of host:port. Raises OSError."""
    host, _, port = name.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    return [f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}" for *_, address in found]


def _ended(code: grpc.StatusCode, details: str | None) -> str:
    if code is grpc.StatusCode.OK:
        return "the exporter ended the feed"
    return f"{code.name}: {' '.join((details or '').split())[:200]}"


# The wire -> the view.

_NUMBERS = (
    *("waiting", "running", "kv_usage", "kv_capacity_tokens", "prompt_tokens_total", "generation_tokens_total"),
    *("requests_finished_total", "preemptions_total", "rejections_total", "capacity", "saturation"),
    *("requests_per_second", "tokens_per_second", "knee_running", "service_rate", "knee_tokens", "token_rate"),
    *("rejections_per_second", "preemptions_per_second", "prompt_tokens_per_second", "prefix_hit_ratio"),
    *("ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "queue_time_p95", "max_running", "kv_peak"),
    *("step_seconds", "sequence_seconds", "prompt_token_seconds"),
)
_SECONDS = ("seen_seconds", "queued_seconds", "pace_seconds")  # always sent
_RATIOS = ("kv_usage", "capacity", "prefix_hit_ratio", "kv_peak")  # 0..1
_TEXTS = ("endpoint", "namespace", "pod", "container", "model", "engine", "kind", "error", "cause", "why")


def decode(message: pb.NodeSignals, known: NodeView, last: NodeView | None) -> NodeView:
    """The view after this message. known: who the exporter is; last: what this connection said before.

    Raises Malformed.
    """
    if message.unchanged:
        if last is None or last.boot != message.boot:
            raise Malformed("`unchanged`, but no full message came before")
        view = last
    else:
        view = structs.replace(
            known,
            node=message.node,
            boot=message.boot,
            engines=tuple([_engine(engine) for engine in message.engines]),
            gpus=tuple([_gpu(gpu) for gpu in message.gpus]),
            cold_starts=tuple([_cold_start(start) for start in message.cold_starts if _is_sound(start)]),
        )
    return structs.replace(
        view,
        sequence=message.sequence,
        engine_ages=_ages(message.engine_age_seconds, len(view.engines), "engine"),
        gpu_ages=_ages(message.gpu_age_seconds, len(view.gpus), "GPU"),
    )


def _engine(engine: pb.Engine) -> EngineView:
    sent: dict[str, Any] = {name: getattr(engine, name) for name in _NUMBERS if engine.HasField(name)}
    sent.update({name: getattr(engine, name) for name in _SECONDS})
    # NaN is in no range.
    numbers = {name: value for name, value in sent.items() if 0 <= value <= (1 if name in _RATIOS else LARGEST_NUMBER)}
    texts = {name: getattr(engine, name) for name in _TEXTS}
    if len(numbers) < len(sent):
        texts["error"] = ", ".join(f"{name} is {value!r}" for name, value in sent.items() if name not in numbers)
    if engine.HasField("sleeping"):
        numbers["sleeping"] = engine.sleeping
    return EngineView(
        **texts, labels=dict(engine.labels), gpus=tuple(engine.gpus), health=engine.health or "unknown", **numbers
    )


def _gpu(gpu: pb.Gpu) -> GpuView:
    capacity = gpu.capacity if gpu.HasField("capacity") else None
    return GpuView(
        uuid=gpu.uuid,
        instance=gpu.instance,
        index=gpu.index,
        name=gpu.name,
        state=gpu.state or "unknown",
        reasons=tuple((reason.reason, reason.action) for reason in gpu.reasons),
        capacity=capacity if capacity is not None and 0 <= capacity <= 1 else None,
    )


def _cold_start(start: pb.ColdStart) -> ColdStartView:
    return ColdStartView(start.namespace, start.model, start.phase, start.count, start.p50, start.p90)


def _is_sound(start: pb.ColdStart) -> bool:
    return start.count > 0 and all(0 <= seconds <= LONGEST_START for seconds in (start.p50, start.p90))


def _ages(ages: Sequence[float], count: int, what: str) -> tuple[float | None, ...]:
    """Seconds, None for a negative age: never read."""
    if len(ages) != count:
        raise Malformed(f"{len(ages)} ages for {count} {what}s")
    if not all(map(math.isfinite, ages)):
        raise Malformed(f"an age of a {what} is not finite")
    return tuple([None if age < 0 else age for age in ages])
