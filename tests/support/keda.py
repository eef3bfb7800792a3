"""A client that asks the scaler as KEDA does: GetMetricSpec, GetMetrics, IsActive on one channel."""

from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

import grpc

from scaler.pb import externalscaler_pb2 as pb
from scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

SECONDS = 5.0


class Polled(NamedTuple):
    """One poll of one trigger that was answered."""

    target: float
    value: float
    active: bool
    explanation: str  # trailing metadata of GetMetrics


class KedaClient:
    """`address` is the scaler's gRPC address, as `host:port`."""

    def __init__(self, address: str, namespace: str = "test") -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = ExternalScalerStub(self._channel)
        self._namespace = namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def spec(self, name: str, metadata: Mapping[str, str]) -> pb.MetricSpec:
        (spec,) = self._stub.GetMetricSpec(self._object(name, metadata), timeout=SECONDS).metricSpecs
        return spec

    def poll(self, name: str, **metadata: str) -> Polled:
        """Raises AssertionError naming code and details when the scaler does not answer, so that `eventually` waits."""
        spec = self.spec(name, metadata)
        scaled = self._object(name, metadata)
        try:
            reply, call = self._stub.GetMetrics.with_call(
                pb.GetMetricsRequest(scaledObjectRef=scaled, metricName=spec.metricName), timeout=SECONDS
            )
            active = self._stub.IsActive(scaled, timeout=SECONDS).result
        except grpc.RpcError as error:
            raise AssertionError(f"{error.code().name}: {error.details()}") from None
        (value,) = reply.metricValues
        explanation = dict(call.trailing_metadata())["plimsoll-explanation"]
        return Polled(spec.targetSizeFloat, value.metricValueFloat, active, explanation)

    def refusal(self, name: str, **metadata: str) -> tuple[str, str]:
        """(code, details) of a GetMetrics that must fail. AssertionError if it is answered."""
        spec = self.spec(name, metadata)
        request = pb.GetMetricsRequest(scaledObjectRef=self._object(name, metadata), metricName=spec.metricName)
        try:
            reply = self._stub.GetMetrics(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"answered with {reply}")

    def _object(self, name: str, metadata: Mapping[str, str]) -> pb.ScaledObjectRef:
        return pb.ScaledObjectRef(name=name, namespace=self._namespace, scalerMetadata=dict(metadata))
