"""The kubelet's PodResources API as the source of who has which GPU: asked every few seconds over its unix socket.

May not be in here: what the answers mean (podresources_answers.py, core/devices.py).

The connection is kept; a socket that was made anew (the kubelet was started again) gets a new one.

The kubelet lists containers and restartable init containers, with the devices that it reserves for them, whether they
run already or not; plain init containers are not listed. Before Kubernetes 1.34 it also lists pods that have ended: not
their devices, which it frees when it is asked, but a DRA claim that another pod shares still counts for both.
"""

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from exporter.core.model import KubeletReading
from exporter.core.snapshot import Collector
from exporter.kit.tasks import crash_message, keep_running
from exporter.pb import podresources_pb2 as pb
from exporter.sources.podresources_answers import MAX_DEVICES, MAX_NAME, TooLarge, allocations, offers

log = logging.getLogger(__name__)

#: Seconds that the kubelet has to answer a question.
DEADLINE = 3.0
#: Seconds between two questions for what the kubelet offers, and after it said that it does not tell.
ALLOCATABLE_SECONDS = 60.0
REFUSED_SECONDS = 600.0
#: Seconds for which the last word on that counts while the kubelet gives no other.
STALE_SECONDS = 3 * ALLOCATABLE_SECONDS
#: Seconds between two looks for a socket that nobody said has to be there.
LOOK_SECONDS = 30.0

#: Of an answer. A node with 250 pods gives some hundred kB.
MAX_BYTES = 4 << 20

_SERVICE = pb.DESCRIPTOR.services_by_name["PodResourcesLister"].full_name
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # it is asked again anyway
)

_ACCESS = (
    "mount the directory /var/lib/kubelet/pod-resources (not the socket, which is made anew) and run as root; "
    "or say --kubelet.socket=off"
)
_FIXES: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: f"check that the kubelet runs, {_ACCESS}",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the kubelet hangs or is overloaded; see its log",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the kubelet is asked too often on this node, or its answer is above 4 MiB",
    grpc.StatusCode.UNIMPLEMENTED: "it speaks no PodResources v1; check --kubelet.socket (Kubernetes 1.20 or newer)",
}
#: What a kubelet without GetAllocatableResources says: before 1.21, and with its feature gate off (a plain Go error).
_REFUSALS = (grpc.StatusCode.UNIMPLEMENTED.name, grpc.StatusCode.UNKNOWN.name)
_LIMITS = f"at most {MAX_DEVICES} count, with names of up to {MAX_NAME} characters"


T = TypeVar("T")

_FIX_PEER = "check --kubelet.socket"


class _Failed(Exception):
    """`kind` is said once, however the details differ. str() is the cause and the fix; the place is the socket."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class KubeletSource:
    def __init__(self, socket: str, required: bool, interval: float = 5.0, resources: Sequence[str] = ()) -> None:
        """socket: its path. required: False if it is no failure that there never was one. interval: seconds between
        two questions. resources: names of resources that are GPUs, beside NVIDIA's own.
        """
        self._socket = socket
        self._required = required
        self._interval = interval
        self._resources = frozenset(resources)
        self._notify: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._channel: grpc.aio.Channel | None = None
        self._made: tuple[int, ...] | None = None  # the socket that the channel is for
        self._reading: KubeletReading | None = None
        self._allocatable: tuple[tuple[str, str], ...] | None = None
        self._allocatable_at = 0.0  # when that was said; monotonic seconds
        self._allocatable_due = 0.0  # when it is to be asked again
        self._complaint = ""  # the kind of reason why that is not known
        self._told: set[str] = set()  # kinds of failures, since it answered last
        self._left_out = 0  # devices of the last answer
        self._looked = False
        self._state: Collector | None = None

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called in the event loop when there is something new."""
        self._notify = notify
        self._task = asyncio.create_task(keep_running(self._run, self._crashed), name="kubelet")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._disconnect()

    def reading(self) -> KubeletReading | None:
        """The last good answer, however old it is."""
        return self._reading

    def collectors(self) -> list[Collector]:
        """None while there is no socket that has to be there."""
        return [self._state] if self._state else []

    def _crashed(self, error: Exception) -> None:
        message = crash_message("kubelet", error)
        log.error(message, exc_info=error)
        self._tell(0.0, message)

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            message = kind = ""
            try:
                made = self._find()
                if made is None:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                if made != self._made:
                    await self._connect(made)
                await self._ask(began)
            except _Failed as error:
                message, kind = f"{self._socket}: {error}", error.kind
            if message and kind not in self._told:
                log.warning("kubelet fails: %s", message)
                self._told.add(kind)
            elif not message and (self._state is None or self._state.message):
                log.info("kubelet answers: %s", self._socket)
                self._told.clear()
            now = time.monotonic()
            self._tell(now - began, message)
            await asyncio.sleep(max(0.0, began + self._interval - now))

    def _tell(self, took: float, message: str) -> None:
        last = self._state.last_success if self._state else None
        self._state = Collector("kubelet", not message, took, last if message else time.monotonic(), message)
        self._notify()

    def _find(self) -> tuple[int, ...] | None:
        """What tells the socket from one that is made later; None if there never was one and need not be.

        Raises _Failed.
        """
        try:
            found = os.stat(self._socket)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            if missing and not self._required and self._state is None:
                if not self._looked:
                    log.info("kubelet: no socket %s: which pod has which GPU is not known from it", self._socket)
                self._looked = True
                return None
            raise _Failed(f"{error.errno}", f"{error.strerror}; {_ACCESS}") from None
        if not stat.S_ISSOCK(found.st_mode):
            raise _Failed("no socket", f"is not a socket; {_FIX_PEER}")
        return found.st_dev, found.st_ino, found.st_mtime_ns  # the number of an inode is soon used again

    async def _connect(self, made: tuple[int, ...]) -> None:
        await self._disconnect()
        self._channel = grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS)
        self._made = made
        self._allocatable_due = 0.0

    async def _disconnect(self) -> None:
        channel, self._channel, self._made = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _ask(self, at: float) -> None:
        """Take the kubelet's answer, as of `at`. Raises _Failed."""
        body = await self._call("List", pb.ListPodResourcesRequest())
        found, left_out = await self._decoded(allocations, body)
        if left_out and not self._left_out:
            log.warning("kubelet: %s: %d allocated GPUs are left out; %s", self._socket, left_out, _LIMITS)
        self._left_out = left_out
        if at >= self._allocatable_due:
            await self._ask_for_allocatable(at)
        self._reading = KubeletReading(at, found, self._allocatable)

    async def _ask_for_allocatable(self, at: float) -> None:
        """A kubelet that does not tell is no failure: who has what does not rest on it."""
        self._allocatable_due = at + ALLOCATABLE_SECONDS
        complaint, kind, refused = "", "", False
        try:
            body = await self._call("GetAllocatableResources", pb.AllocatableResourcesRequest())
            found, left_out = await self._decoded(offers, body)
            if left_out:  # a part of them is no number of GPUs
                complaint, kind, refused = f"{left_out} GPUs are left out; {_LIMITS}", "left out", True
        except _Failed as error:
            complaint, kind, refused = str(error), error.kind, error.kind in _REFUSALS
            if refused:
                self._allocatable_due = at + REFUSED_SECONDS
        if not complaint:
            self._allocatable, self._allocatable_at = found, at
        elif refused or at - self._allocatable_at > STALE_SECONDS:
            self._allocatable = None
        if kind and kind != self._complaint:
            log.warning("kubelet: %s: does not say which GPUs it offers: %s", self._socket, complaint)
        self._complaint = kind

    async def _call(self, method: str, request: pb.ListPodResourcesRequest | pb.AllocatableResourcesRequest) -> bytes:
        """Raises _Failed."""
        assert self._channel is not None, "_connect() comes before"  # noqa: S101 -- for the type checker
        # Bytes: they are decoded elsewhere.
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{_SERVICE}/{method}")
        try:
            return await call(request.SerializeToString(), timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            raise _Failed(error.code().name, _one_line(error)) from None

    async def _decoded(self, decode: Callable[[bytes, Collection[str]], T], body: bytes) -> T:
        """In a thread, since a large answer takes a while. Raises _Failed."""
        try:
            return await asyncio.to_thread(decode, body, self._resources)
        except DecodeError:
            raise _Failed("no answer", f"the answer is no PodResources; {_FIX_PEER}") from None
        except TooLarge as error:
            raise _Failed("too large", f"{error}; no node has so many pods, {_FIX_PEER}") from None


def _one_line(error: grpc.aio.AioRpcError) -> str:
    details = " ".join((error.details() or "").split())[:200]
    fix = _FIXES.get(error.code(), "see the kubelet's log")
    return f"{error.code().name} {details}; {fix}"
