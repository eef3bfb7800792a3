"""KEDA and the HPA as the scaler meets them: real gRPC in the order that KEDA calls, then the arithmetic downstream.

May not be in here: printing, fake engines.
"""

from collections.abc import Mapping
from typing import NamedTuple

import grpc

from scaler.pb import externalscaler_pb2 as pb
from scaler.pb import externalscaler_pb2_grpc as rpc
from scaler.simulate.hpa import Metric, Scale, ScaledObject, State, fall_back, poll, received, sync

#: KEDA sets none; a demo that hangs would tell nobody why.
DEADLINE_SECONDS = 2.0
#: Trailing metadata of GetMetrics in which the scaler says why.
EXPLANATION = "plimsoll-explanation"


class Answer(NamedTuple):
    """One round of questions. `value` and `active` are None where the scaler did not know; `text` says why (not)."""

    value: float | None
    target: float
    active: bool | None
    text: str


class Keda:
    """One ScaledObject: asks the scaler, remembers what KEDA and its HPA remember, says how many replicas."""

    def __init__(
        self, address: str, namespace: str, name: str, metadata: Mapping[str, str], spec: ScaledObject
    ) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = rpc.ExternalScalerStub(self._channel)  # type: ignore[no-untyped-call] # generated
        self._object = pb.ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=dict(metadata))
        self._spec = spec
        self._state = State()
        self._failures = 0
        self._last_active: float | None = None

    async def close(self) -> None:
        await self._channel.close()

    async def ask(self) -> Answer:
        """GetMetricSpec, GetMetrics, IsActive."""
        try:
            specs = await self._stub.GetMetricSpec(self._object, timeout=DEADLINE_SECONDS)
            spec = specs.metricSpecs[0]
            target = received(spec.targetSize, spec.targetSizeFloat)
        except grpc.aio.AioRpcError as error:
            return Answer(None, 1.0, None, f"{error.code().name}: {error.details()}")
        request = pb.GetMetricsRequest(scaledObjectRef=self._object, metricName=spec.metricName)
        call = self._stub.GetMetrics(request, timeout=DEADLINE_SECONDS)
        try:
            reply = await call
            active = (await self._stub.IsActive(self._object, timeout=DEADLINE_SECONDS)).result
        except grpc.aio.AioRpcError as error:
            return Answer(None, target, None, f"{error.code().name}: {error.details()}")
        value = sum(received(each.metricValue, each.metricValueFloat) for each in reply.metricValues)
        trailing = dict(await call.trailing_metadata() or ())
        return Answer(value, target, active, str(trailing.get(EXPLANATION, "")))

    def remember(self, replicas: int, now: float) -> None:
        """The HPA wanted these replicas until now: the Deployment did not begin its life with the demo."""
        self._state = State(recommendations=((now, replicas),))

    def hpa(self, answer: Answer, scale: Scale, now: float) -> int:
        """The HPA's sync: replicas. `now` in seconds of demo time."""
        metric, self._failures = fall_back(self._spec, self._failures, Metric(answer.value, answer.target), scale.spec)
        replicas, self._state = sync(self._spec.hpa(), self._state, [metric], scale, now)
        return replicas

    def poll(self, answer: Answer, replicas: int, now: float) -> int:
        """KEDA's own loop: replicas. `now` in seconds of demo time."""
        replicas, self._last_active = poll(self._spec, self._last_active, answer.active, replicas, now)
        return replicas
