"""The kubelet as a source, against a real gRPC server on a unix socket."""

import asyncio
import contextlib
import itertools
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.model import Allocation, KubeletReading, PodRef
from exporter.core.snapshot import Collector
from exporter.pb import podresources_pb2 as pb
from exporter.sources import podresources, podresources_answers
from exporter.sources.podresources import KubeletSource
from tests.support.kubelet import FakeKubelet, claim, fails, gpus, hangs, pod, raw

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000"
T = TypeVar("T")
LLAMA = PodRef("llm", "llama-0", "engine")


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "kubelet.sock", [pod("llm", "llama-0", engine=gpus(A))]) as kubelet:
        yield kubelet


@asynccontextmanager
async def source(
    socket: Path, required: bool = True, interval: float = 0.05, resources: tuple[str, ...] = ()
) -> AsyncIterator[KubeletSource]:
    watched = KubeletSource(str(socket), required, interval, resources)
    watched.start(lambda: None)
    try:
        yield watched
    finally:
        await watched.stop()


async def until(what: Callable[[], T], seconds: float = 5.0) -> T:
    """The first true value of `what`, which the source brings about by itself."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return found


def failure(watched: KubeletSource) -> Callable[[], str]:
    return lambda: "".join(one.message for one in watched.collectors())


def _field(inner: bytes) -> bytes:
    return b"\x0a" + bytes([len(inner) % 128]) + inner


async def one_reading(kubelet: FakeKubelet, resources: tuple[str, ...] = ()) -> KubeletReading:
    async with source(kubelet.socket, resources=resources) as watched:
        return await until(watched.reading)


HAD = [
    ("a whole board", gpus(A), [("nvidia.com/gpu", A, "")]),
    ("two boards", gpus(A, B), [("nvidia.com/gpu", A, ""), ("nvidia.com/gpu", B, "")]),
    (
        "time slices under a name of their own",
        gpus(f"{A}::3", resource="nvidia.com/gpu.shared"),
        [("nvidia.com/gpu.shared", f"{A}::3", "")],
    ),
    ("a renamed resource", gpus(A, resource="nvidia.com/a100-gpu"), [("nvidia.com/a100-gpu", A, "")]),
    (
        "a MIG instance",
        gpus("MIG-x", resource="nvidia.com/mig-1g.10gb"),
        [("nvidia.com/mig-1g.10gb", "MIG-x", "")],
    ),
    ("GKE's", gpus("nvidia0/gi3/vgpu1"), [("nvidia.com/gpu", "nvidia0/gi3/vgpu1", "")]),
    ("a resource that was configured", gpus(A, resource="acme.io/board"), [("acme.io/board", A, "")]),
    ("another vendor's", gpus("x", resource="amd.com/gpu"), []),
    ("NVIDIA's network cards", gpus("x", resource="nvidia.com/mlnxnics"), []),
    ("a claim", claim("gpu-0"), [("gpu.nvidia.com", "gpu-0", "node-a")]),
    ("a claim on a MIG instance", claim("gpu-0-mig-19-0-1"), [("gpu.nvidia.com", "gpu-0-mig-19-0-1", "node-a")]),
    ("another driver's claim", claim("dev-0", driver="dra.example.com"), []),
    ("the claim of a compute domain", claim("channel-0", driver="compute-domain.nvidia.com"), []),
    (
        "a claim without a device's name",
        claim("", cdi=["k8s.gpu.nvidia.com/claim=8f6ee3b1-gpu-0"]),
        [("gpu.nvidia.com", "k8s.gpu.nvidia.com/claim=8f6ee3b1-gpu-0", "node-a")],
    ),
    (
        "a claim of an old kubelet, with CDI names alone",
        claim("", driver="", pool="", cdi=["k8s.gpu.nvidia.com/device=gpu-1", "dra.example.com/device=x"]),
        [("gpu.nvidia.com", "k8s.gpu.nvidia.com/device=gpu-1", "")],
    ),
    ("nothing", pb.ContainerResources(), []),
]


@pytest.mark.parametrize(("what", "given", "expected"), HAD, ids=[row[0] for row in HAD])
async def test_what_a_container_has_is_read(kubelet: FakeKubelet, what: str, given: object, expected: object) -> None:
    kubelet.pods = [pod("llm", "llama-0", engine=given)]
    reading = await one_reading(kubelet, ("acme.io/board",))
    assert [(one.resource, one.device, one.pool) for one in reading.allocations] == expected
    assert {one.pod for one in reading.allocations} <= {LLAMA}


async def test_containers_sidecars_and_pods_are_told_apart(kubelet: FakeKubelet) -> None:
    kubelet.pods = [
        pod("llm", "llama-0", engine=gpus(A), sidecar=gpus(A)),
        pod("llm", "ended", main=pb.ContainerResources()),  # a kubelet before 1.34 lists it, without its devices
        pod("lab", "llama-0", engine=gpus(B)),
    ]
    assert (await one_reading(kubelet)).allocations == (
        Allocation(LLAMA, "nvidia.com/gpu", A),
        Allocation(PodRef("llm", "llama-0", "sidecar"), "nvidia.com/gpu", A),
        Allocation(PodRef("lab", "llama-0", "engine"), "nvidia.com/gpu", B),
    )


async def test_a_device_that_is_listed_for_each_of_its_numa_nodes_is_one(kubelet: FakeKubelet) -> None:
    twice = gpus(A)
    twice.MergeFrom(gpus(A))
    kubelet.pods = [pod("llm", "llama-0", engine=twice)]
    assert (await one_reading(kubelet)).allocations == (Allocation(LLAMA, "nvidia.com/gpu", A),)


async def test_fields_that_are_not_known_are_skipped(kubelet: FakeKubelet) -> None:
    # Field 3 of a container is its CPUs, field 4 its memory; field 99 is yet to come.
    container = gpus(A).SerializeToString() + b"\x0a\x06engine" + b"\x1a\x03\x00\x01\x02" + b"\x22\x00"
    container += b"\x9a\x06\x03new"
    listed = b"\x0a\x07llama-0" + b"\x12\x03llm" + b"\x1a" + bytes([len(container)]) + container
    kubelet.answers["List"] = raw(b"\x0a" + bytes([len(listed)]) + listed)
    assert (await one_reading(kubelet)).allocations == (Allocation(LLAMA, "nvidia.com/gpu", A),)


async def test_what_the_kubelet_offers_is_asked_with_the_first_list_and_then_rarely(kubelet: FakeKubelet) -> None:
    kubelet.allocatable = {"nvidia.com/gpu": [A, B], "example.com/nic": ["eth0"]}
    async with source(kubelet.socket, interval=0.01) as watched:
        await until(lambda: kubelet.asked.count("List") >= 5)
        reading = watched.reading()
    assert reading is not None
    assert reading.allocatable == (("nvidia.com/gpu", A), ("nvidia.com/gpu", B))
    assert kubelet.asked.count("GetAllocatableResources") == 1


REFUSALS = [
    fails(grpc.StatusCode.UNIMPLEMENTED, "unknown method GetAllocatableResources"),
    fails(grpc.StatusCode.UNKNOWN, "Pod Resources API GetAllocatableResources disabled"),
    fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit"),
    raw(b"\xff"),
    raw(pb.AllocatableResourcesResponse(devices=[{"resource_name": "nvidia.com/gpu", "device_ids": ["x" * 600]}])
        .SerializeToString()),
]  # fmt: skip


@pytest.mark.parametrize("answer", REFUSALS)
async def test_a_kubelet_that_does_not_say_what_it_offers_is_no_failure(
    kubelet: FakeKubelet, answer: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    kubelet.answers["GetAllocatableResources"] = answer
    async with source(kubelet.socket, interval=0.01) as watched:
        await until(lambda: kubelet.asked.count("List") >= 3)
        reading = watched.reading()
        assert reading is not None
        assert reading.allocatable is None
        assert reading.allocations
        assert watched.collectors()[0].success
    assert len([one for one in caplog.records if "which GPUs it offers" in one.message]) == 1


async def test_a_kubelet_that_refuses_for_a_moment_keeps_what_it_offered(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "ALLOCATABLE_SECONDS", 0.0)
    kubelet.allocatable = {"nvidia.com/gpu": [A]}
    async with source(kubelet.socket, interval=0.01) as watched:
        await until(watched.reading)
        kubelet.answers["GetAllocatableResources"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        asked = len(kubelet.asked)
        await until(lambda: len(kubelet.asked) > asked + 8)
        reading = watched.reading()
        assert reading is not None
        assert reading.allocatable == (("nvidia.com/gpu", A),)
        monkeypatch.setattr(podresources, "STALE_SECONDS", 0.0)
        await until(lambda: watched.reading().allocatable is None)


async def test_one_connection_serves_all_questions(kubelet: FakeKubelet) -> None:
    async with source(kubelet.socket, interval=0.01) as watched:
        await until(watched.reading)
        first = kubelet.connections()
        asked = len(kubelet.asked)
        await until(lambda: len(kubelet.asked) > asked + 5)
        assert kubelet.connections() == first
        assert len(first) == 1
    await until(lambda: not kubelet.connections())


async def test_news_are_told(kubelet: FakeKubelet) -> None:
    news = asyncio.Event()
    watched = KubeletSource(str(kubelet.socket), True, 0.05)
    watched.start(news.set)
    try:
        await asyncio.wait_for(news.wait(), 5)
        assert watched.reading() is not None
        kubelet.pods = []
        await until(lambda: watched.reading().allocations == ())
    finally:
        await watched.stop()


async def test_a_kubelet_that_was_started_again_is_found_by_itself(kubelet: FakeKubelet) -> None:
    async with source(kubelet.socket) as watched:
        await until(watched.reading)
        kubelet.stop()
        assert "mount the directory /var/lib/kubelet/pod-resources" in await until(failure(watched))
        old = watched.reading()
        assert old is not None, "what it said last is kept: its age tells what it is worth"

        again = FakeKubelet(kubelet.socket, [pod("llm", "llama-1", engine=gpus(B))])
        again.allocatable = {"nvidia.com/gpu": [A, B]}
        with again:
            reading = await until(lambda: (new := watched.reading()) is not old and new)
            assert [one.pod.pod for one in reading.allocations] == ["llama-1"]
            assert len(reading.allocatable) == 2, "the new one is asked at once"
            await until(lambda: watched.collectors()[0].success)


async def test_a_new_socket_counts_even_while_somebody_serves_the_old_one(kubelet: FakeKubelet) -> None:
    async with source(kubelet.socket) as watched:
        await until(watched.reading)
        kubelet.socket.rename(kubelet.socket.with_suffix(".old"))
        with FakeKubelet(kubelet.socket, [pod("llm", "llama-1", engine=gpus(B))]):
            await until(lambda: watched.reading().allocations[0].device == B)


async def test_a_kubelet_that_hangs_fails_within_its_deadline_and_blocks_nobody(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "DEADLINE", 0.3)
    kubelet.answers["List"] = hangs
    async with source(kubelet.socket) as watched:
        late = 0.0
        while not failure(watched)():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - before)
        assert late < 0.25, "the event loop was held up"
        message = failure(watched)()
        assert message.startswith(f"{kubelet.socket}: DEADLINE_EXCEEDED")
        assert message.endswith("the kubelet hangs or is overloaded; see its log")
        began = time.monotonic()
    assert time.monotonic() - began < 1.0, "stop() waited for the kubelet"


FAILURES = [
    ("permission", fails(grpc.StatusCode.PERMISSION_DENIED, "no"), "PERMISSION_DENIED no; see the kubelet's log"),
    ("rate limit", fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit"), "asked too often"),
    ("no such service", fails(grpc.StatusCode.UNIMPLEMENTED, "unknown service"), "check --kubelet.socket"),
    ("two lines", fails(grpc.StatusCode.INTERNAL, "one\ntwo"), "INTERNAL one two; see the kubelet's log"),
    ("malformed", raw(b"\x0a\xff\xff"), "the answer is no PodResources; check --kubelet.socket"),
    ("not utf-8", raw(b"\x0a\x03\x0a\x01\xff"), "the answer is no PodResources; check --kubelet.socket"),
    ("5 MiB", raw(b"\x9a\x06" + b"\x80\x80\xc0\x02" + b"\0" * (5 << 20)), "above 4 MiB"),
    ("empty pods", raw(b"\x0a\x00" * ((2 << 20) - 8)), "has more than 65536 fields; no node has so many pods, check"),
]


@pytest.mark.parametrize(("what", "answer", "expected"), FAILURES, ids=[row[0] for row in FAILURES])
async def test_an_answer_that_is_none_is_one_line(
    kubelet: FakeKubelet,
    what: str,
    answer: Callable[..., bytes],
    expected: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kubelet.answers["List"] = answer
    async with source(kubelet.socket, interval=0.01) as watched:
        message = await until(failure(watched))
        assert expected in message
        assert str(kubelet.socket) in message
        assert "\n" not in message
        await until(lambda: kubelet.asked.count("List") >= 3)
        assert watched.reading() is None
        assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == [
            f"kubelet fails: {message}"
        ], "said once"


async def test_more_devices_than_a_node_can_have_are_counted_and_left_out(
    kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources_answers, "MAX_DEVICES", 10)
    listed_again = f"{A}::0"
    kubelet.pods = [pod("llm", "llama-0", engine=gpus(*(f"{A}::{n}" for n in range(12)), "x" * 600, listed_again))]
    assert len((await one_reading(kubelet)).allocations) == 10
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == [
        f"kubelet: {kubelet.socket}: 3 allocated GPUs are left out; "
        "at most 4096 count, with names of up to 512 characters"
    ]


@pytest.mark.parametrize(
    ("answers", "kinds"),
    [
        ([fails(grpc.StatusCode.UNAVAILABLE, f"read {n} bytes of nonsense") for n in range(50)], 1),
        ([fails(list(grpc.StatusCode)[2 + n % 2], f"nonsense {n}") for n in range(50)], 2),
    ],
    ids=["one code", "two codes in turn"],
)
async def test_failures_that_differ_in_their_details_alone_are_said_once(
    kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture, answers: list[Callable[..., bytes]], kinds: int
) -> None:
    caplog.set_level(logging.INFO)
    rest = itertools.cycle(answers)

    def answer(asked: FakeKubelet, context: grpc.ServicerContext) -> bytes:
        return next(rest)(asked, context)

    kubelet.answers["List"] = answer
    async with source(kubelet.socket, interval=0.01) as watched:
        await until(lambda: kubelet.asked.count("List") >= 40)
        message = failure(watched)()
        assert [one.levelno for one in caplog.records] == [logging.WARNING] * kinds
        await until(lambda: failure(watched)() != message), "the collector has the newest details"
        kubelet.answers["List"] = raw(b"")
        await until(watched.reading)
        kubelet.answers["List"] = answers[0]
        await until(failure(watched))
    assert [one.levelno for one in caplog.records[kinds:]] == [logging.INFO, logging.WARNING], "again, after a success"


async def test_an_offer_that_fails_in_ever_other_words_is_said_once(
    kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "ALLOCATABLE_SECONDS", 0.0)
    count = itertools.count()

    def answer(asked: FakeKubelet, context: grpc.ServicerContext) -> bytes:
        return fails(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{next(count)} questions")(asked, context)

    kubelet.answers["GetAllocatableResources"] = answer
    async with source(kubelet.socket, interval=0.01):
        await until(lambda: next(count) > 20)
    assert len([one for one in caplog.records if "which GPUs it offers" in one.message]) == 1


def _nested(depth: int, size: int) -> bytes:
    """An answer with as many empty messages as fit, one level deeper for each of `depth`."""
    body = (b"\x0a\x00", b"\x1a\x00", b"\x12\x00", b"\x12\x00")[depth] * (size // 2)
    for tag in (b"\x12", b"\x1a", b"\x0a")[3 - depth :]:
        size = len(body)
        varint = bytes((size >> 7 * n & 0x7F) | (0x80 if n < 3 else 0) for n in range(4))
        body = tag + varint + body
    return body


@pytest.mark.parametrize("depth", range(4), ids=["pods", "containers", "devices", "ids"])
def test_an_answer_of_countless_parts_is_refused_before_it_is_decoded(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = _nested(depth, 2000), _nested(depth, (4 << 20) - 100)
    assert podresources_answers.allocations(few, ()) == ((), 0)
    began = time.process_time()
    with pytest.raises(podresources_answers.TooLarge, match="more than 65536 fields"):
        podresources_answers.allocations(many, ())
    assert time.process_time() - began < 0.5


def test_long_texts_are_copied_once() -> None:
    """A pod's name is as long as an answer may be, and the pod has thousands of containers and devices."""
    name = "x" * (3 << 20)
    one = pb.PodResources(name=name, containers=[gpus(*"abcde") for _ in range(5_000)])
    body = pb.ListPodResourcesResponse(pod_resources=[one]).SerializeToString()
    began = time.process_time()
    assert podresources_answers.allocations(body, ()) == ((), 25_000)
    assert time.process_time() - began < 1.0


@given(st.binary(max_size=60) | st.recursive(st.binary(max_size=4), lambda inner: inner.map(_field), max_leaves=8))
def test_no_bytes_do_harm(body: bytes) -> None:
    with contextlib.suppress(DecodeError, podresources_answers.TooLarge):
        podresources_answers.allocations(body, ())


def test_a_far_too_large_answer_is_read_in_less_than_a_second() -> None:
    ids = [f"{A}::{n}" for n in range(100)]
    body = pb.ListPodResourcesResponse(pod_resources=[pod("llm", f"p-{n}", engine=gpus(*ids)) for n in range(250)])
    began = time.process_time()
    found, left_out = podresources_answers.allocations(body.SerializeToString(), ())
    assert time.process_time() - began < 1.0
    assert (len(found), left_out) == (4096, 25000 - 4096)


async def test_a_socket_that_has_to_be_there_and_is_not_is_a_failure(tmp_path: Path) -> None:
    async with source(tmp_path / "no.sock") as watched:
        message = await until(failure(watched))
        assert message.startswith(f"{tmp_path}/no.sock: No such file or directory; mount the directory")
        assert message.endswith("--kubelet.socket=off")
        assert watched.collectors() == [Collector("kubelet", False, watched.collectors()[0].seconds, None, message)]


async def test_a_socket_that_need_not_be_there_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(podresources, "LOOK_SECONDS", 0.02)
    caplog.set_level(logging.INFO)
    path = tmp_path / "deep" / "kubelet.sock"
    async with source(path, required=False) as watched:
        await until(lambda: caplog.records)
        assert watched.collectors() == []
        assert watched.reading() is None
        path.parent.mkdir()
        with FakeKubelet(path, [pod("llm", "llama-0", engine=gpus(A))]):
            await until(watched.reading)
            assert watched.collectors()[0].success
        assert "No such file" in await until(failure(watched)), "it has been there: now it is missed"
    assert [one.message for one in caplog.records if one.levelno == logging.INFO] == [
        f"kubelet: no socket {path}: which pod has which GPU is not known from it",
        f"kubelet answers: {path}",
    ]


async def test_a_file_that_is_no_socket_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "kubelet.sock"
    path.touch()
    async with source(path, required=False) as watched:
        assert await until(failure(watched)) == f"{path}: is not a socket; check --kubelet.socket"


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody whom the kernel denies what is root's."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_a_socket_that_is_not_permitted_is_one_line() -> None:
    # Not under tmp_path: that is its owner's alone.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 -- others have to get as far as the socket
        with FakeKubelet(Path(folder) / "kubelet.sock", [pod("llm", "llama-0", engine=gpus(A))]) as kubelet:
            kubelet.socket.chmod(0)
            with unprivileged():
                async with source(kubelet.socket, required=False) as watched:
                    message = await until(failure(watched))
                    assert "Permission denied" in message
                    assert "run as root" in message
                    assert "\n" not in message
            kubelet.socket.chmod(0o600)


async def test_a_directory_that_is_not_permitted_is_one_line(kubelet: FakeKubelet) -> None:
    kubelet.socket.parent.chmod(0)
    try:
        with unprivileged():
            async with source(kubelet.socket, required=False) as watched:
                assert await until(failure(watched)) == (
                    f"{kubelet.socket}: Permission denied; mount the directory /var/lib/kubelet/pod-resources "
                    "(not the socket, which is made anew) and run as root; or say --kubelet.socket=off"
                )
    finally:
        kubelet.socket.parent.chmod(0o700)


async def test_a_fault_of_its_own_is_told_and_tried_again(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.kit.tasks.RESTART_SECONDS", 0.01)

    def broken(body: bytes, resources: object) -> None:
        raise ZeroDivisionError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(podresources, "allocations", broken)
        async with source(kubelet.socket) as watched:
            assert await until(failure(watched)) == (
                "kubelet: crashed (ZeroDivisionError: a fault); started again; please report it with the log"
            )
            patch.undo()
            await until(watched.reading)
