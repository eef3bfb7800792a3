"""KEDA's RPCs: translates between the wire and the desk.

May not be in here: any computation on what is asked or answered.

What KEDA's code makes of our answers, and so what binds here (each rule has cost somebody an outage):

* GetMetricSpec never fails and never returns an empty list, whatever the metadata: KEDA's fallback hangs on it.
* Bad metadata fails GetMetrics (INVALID_ARGUMENT); what is not known fails it too (UNAVAILABLE), and is never 0.
* One MetricValue, with both fields set; the HPA sums whatever it gets, and KEDA turns NaN into 0.
* A stream ends by a clean return, never with an error: an error doubles KEDA's back-off to 60 s, for good.
* Streams have a limit of their own: a limit on all calls would let open streams starve GetMetrics.

No handler of a single call waits for anything, so none can take longer than its turn.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from scaler.core.decision import Decision, Unknown, metric_value
from scaler.core.trigger import METRICS, TriggerError, metric_spec
from scaler.decisions import Answer, Desk
from scaler.metrics import Calls
from scaler.pb import externalscaler_pb2 as pb
from scaler.pb.externalscaler_pb2_grpc import ExternalScalerServicer

log = logging.getLogger("service")

EXPLANATION = "plimsoll-explanation"  # trailing metadata of GetMetrics
LONGEST_TEXT = 2000  # bytes in a header; clients refuse more than 8 KiB of them
JITTER = 0.1  # of a stream's lifetime, so that not all end together

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class Service(ExternalScalerServicer):
    def __init__(self, desk: Desk, calls: Calls, most_streams: int, lifetime: float) -> None:
        self._desk = desk
        self._calls = calls
        self._most_streams = most_streams
        self._lifetime = lifetime  # s
        self._closing = False
        self._wakers: set[asyncio.Event] = set()
        self._idle = asyncio.Event()  # set while no stream is open
        self._idle.set()

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Context) -> pb.GetMetricSpecResponse:
        return await self._unary("GetMetricSpec", context, lambda: _spec(request))

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        def answer() -> pb.GetMetricsResponse:
            ref = request.scaledObjectRef
            metric = _metric(request.metricName, ref)
            found = self._desk.metrics(ref.namespace, ref.name, ref.scalerMetadata)
            decision = _known(found)
            context.set_trailing_metadata(((EXPLANATION, _header(decision.explanation)),))
            whole, exact = metric_value(metric, found.trigger, decision)
            name = request.metricName or metric
            return pb.GetMetricsResponse(
                metricValues=[pb.MetricValue(metricName=name, metricValue=whole, metricValueFloat=exact)]
            )

        return await self._unary("GetMetrics", context, answer)

    async def IsActive(self, request: pb.ScaledObjectRef, context: Context) -> pb.IsActiveResponse:
        def answer() -> pb.IsActiveResponse:
            found = self._desk.activity(request.namespace, request.name, request.scalerMetadata)
            return pb.IsActiveResponse(result=_known(found).active)

        return await self._unary("IsActive", context, answer)

    async def StreamIsActive(self, request: pb.ScaledObjectRef, context: Context) -> None:
        async def body(wait: Callable[[asyncio.Event], Awaitable[bool]]) -> None:
            with self._desk.watch(request.namespace, request.name, request.scalerMetadata) as watch:
                told = None
                while True:
                    if watch.active is not told:
                        told = watch.active
                        await context.write(pb.IsActiveResponse(result=bool(told)))
                    if not await wait(watch.event):
                        return

        await self._stream("StreamIsActive", context, body)

    async def StreamMetricSpec(self, request: pb.ScaledObjectRef, context: Context) -> None:
        async def body(wait: Callable[[asyncio.Event], Awaitable[bool]]) -> None:
            await context.write(_spec(request))  # a function of the metadata alone, so it never changes
            await wait(asyncio.Event())

        await self._stream("StreamMetricSpec", context, body)

    async def close(self) -> None:
        """End all streams cleanly; returns when they have ended. New ones end at once, and KEDA goes elsewhere."""
        self._closing = True
        for event in self._wakers:
            event.set()
        await self._idle.wait()

    async def _unary(self, method: str, context: Context, answer: Callable[[], T]) -> T:
        started = time.perf_counter()
        code, details = grpc.StatusCode.OK, ""
        try:
            return answer()
        except TriggerError as error:
            code, details = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except Unavailable as error:
            code, details = grpc.StatusCode.UNAVAILABLE, str(error)
        except Exception:
            # Whatever went wrong harms this call alone.
            log.exception("%s failed", method)
            code, details = grpc.StatusCode.INTERNAL, "internal error; the scaler's log has it"
        finally:
            self._calls.count(method, code.name, time.perf_counter() - started)
        return await context.abort(code, _header(details))

    async def _stream(
        self,
        method: str,
        context: Context,
        body: Callable[[Callable[[asyncio.Event], Awaitable[bool]]], Awaitable[None]],
    ) -> None:
        if self._calls.open_streams() >= self._most_streams:
            self._calls.count(method, grpc.StatusCode.RESOURCE_EXHAUSTED.name)
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._most_streams} streams are open; raise --streams.max, or use the trigger type external",
            )
        ends = asyncio.get_running_loop().time() + self._lifetime * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- no secret

        async def wait(event: asyncio.Event) -> bool:
            """False when it is time to end the stream."""
            self._wakers.add(event)
            try:
                if not self._closing:
                    async with asyncio.timeout_at(ends):
                        await event.wait()
                    event.clear()
            except TimeoutError:
                return False
            finally:
                self._wakers.discard(event)
            return not self._closing

        self._calls.opened(method)
        self._idle.clear()
        code = grpc.StatusCode.CANCELLED
        try:
            await body(wait)
            code = grpc.StatusCode.OK
        finally:
            self._calls.closed(method)
            if not self._calls.open_streams():
                self._idle.set()
            self._calls.count(method, code.name)


class Unavailable(Exception):
    """There is no answer. str() is the line to send."""


def _known(answer: Answer) -> Decision:
    if isinstance(answer.result, Unknown):
        ref = answer.trigger
        raise Unavailable(f"ScaledObject {ref.namespace}/{ref.name}: {answer.result.reason}")
    return answer.result


def _spec(ref: pb.ScaledObjectRef) -> pb.GetMetricSpecResponse:
    name, target = metric_spec(ref.scalerMetadata)
    whole = max(1, round(target))  # read only by a KEDA without the float field
    return pb.GetMetricSpecResponse(
        metricSpecs=[pb.MetricSpec(metricName=name, targetSize=whole, targetSizeFloat=target)]
    )


def _metric(asked: str, ref: pb.ScaledObjectRef) -> str:
    """Which of our metrics is asked for: by its name, with KEDA's "s0-" before it or not; else the trigger's own."""
    name = re.sub(r"^s[0-9]{1,4}-", "", asked)
    if name and name not in METRICS:
        raise TriggerError(f"metricName {asked[:64]!a}: unknown; ask for one of {', '.join(METRICS)}")
    return name or metric_spec(ref.scalerMetadata)[0]


def _header(text: str) -> str:
    """One printable ASCII line that fits a header."""
    line = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 3] + "..."
