"""A fake kubelet: a real gRPC server on a unix socket, with answers that a test sets while it runs.

    with FakeKubelet(tmp_path / "kubelet.sock", [pod("llm", "llama-0", engine=gpus("GPU-..."))]) as kubelet:
        kubelet.pods = []                              # from now on
        kubelet.allocatable = {"nvidia.com/gpu": [...]}
        kubelet.answers["List"] = fails(...)           # or hangs, or raw(b"...")

It has threads of its own, so that it serves a program in this process as well as one beside it.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import grpc

from exporter.pb import podresources_pb2 as pb

Answer = Callable[["FakeKubelet", grpc.ServicerContext], bytes]


def gpus(*ids: str, resource: str = "nvidia.com/gpu") -> pb.ContainerResources:
    """What a container has, from a device plugin."""
    return pb.ContainerResources(devices=[pb.ContainerDevices(resource_name=resource, device_ids=ids)])


def claim(
    *devices: str, driver: str = "gpu.nvidia.com", pool: str = "node-a", cdi: Iterable[str] = ()
) -> pb.ContainerResources:
    """What a container has, from a DRA driver."""
    names = [pb.CDIDevice(name=name) for name in cdi]
    found = [
        pb.ClaimResource(cdi_devices=names, driver_name=driver, pool_name=pool, device_name=device)
        for device in devices
    ]
    return pb.ContainerResources(dynamic_resources=[pb.DynamicResource(claim_name="gpu", claim_resources=found)])


def pod(namespace: str, name: str, **containers: pb.ContainerResources) -> pb.PodResources:
    listed = pb.PodResources(namespace=namespace, name=name)
    for container, resources in containers.items():
        listed.containers.add(name=container).MergeFrom(resources)
    return listed


def raw(body: bytes) -> Answer:
    return lambda kubelet, context: body


def fails(code: grpc.StatusCode, details: str) -> Answer:
    def answer(kubelet: "FakeKubelet", context: grpc.ServicerContext) -> NoReturn:
        context.abort(code, details)

    return answer


def hangs(kubelet: "FakeKubelet", context: grpc.ServicerContext) -> bytes:
    kubelet.released.wait()
    return b""


def _list(kubelet: "FakeKubelet", context: grpc.ServicerContext) -> bytes:
    return pb.ListPodResourcesResponse(pod_resources=kubelet.pods).SerializeToString()


def _allocatable(kubelet: "FakeKubelet", context: grpc.ServicerContext) -> bytes:
    if kubelet.allocatable is None:
        context.abort(grpc.StatusCode.UNKNOWN, "Pod Resources API GetAllocatableResources disabled")
    devices = [pb.ContainerDevices(resource_name=name, device_ids=ids) for name, ids in kubelet.allocatable.items()]
    return pb.AllocatableResourcesResponse(devices=devices).SerializeToString()


class FakeKubelet:
    def __init__(self, socket: Path, pods: Sequence[pb.PodResources] = ()) -> None:
        self.socket = socket
        self.pods = pods
        self.allocatable: Mapping[str, Sequence[str]] | None = {}
        self.answers: dict[str, Answer] = {"List": _list, "GetAllocatableResources": _allocatable}
        self.asked: list[str] = []  # method by method
        self.released = threading.Event()  # set it to let `hangs` go
        self._server: grpc.Server | None = None

    def start(self) -> Self:
        server = grpc.server(ThreadPoolExecutor(4))
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._serve(name)) for name in self.answers}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)])
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """The kubelet ends: its socket goes, its connections break."""
        self.released.set()
        if self._server is not None:
            self._server.stop(None).wait()
        self.socket.unlink(missing_ok=True)

    def connections(self) -> set[str]:
        """The open connections to the socket, by the kernel's number of each (proc(5): /proc/net/unix)."""
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        return {row[6] for row in rows if row[7:] == [str(self.socket)] and row[5] == "03"}

    def _serve(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(method)
            return self.answers[method](self, context)

        return serve

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
