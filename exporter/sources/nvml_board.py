"""One physical GPU and the thread that reads it: identity, MIG instances, a sample every interval.

May not be in here: which GPUs there are (nvml.py), which calls are made for a signal (nvml_calls.py, nvml_reader.py).

Everything that is asked of this GPU is asked in this thread, its handle and UUID too: where a call hangs, only this
GPU's readings grow old. The thread is a daemon and nobody waits for it without a limit.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pynvml
from msgspec.structs import replace

from exporter.core.model import GpuInfo, GpuKey, GpuSample
from exporter.core.signals import NVLINKS
from exporter.core.snapshot import Collector
from exporter.sources.nvml_calls import (
    BOARD_SIGNALS,
    BROKEN,
    INSTANCE_ROWS,
    INVALID_ARGUMENT,
    LINK_COUNT_FIELD,
    UNSET,
    UNSUPPORTED,
    Handle,
    rows_for,
)
from exporter.sources.nvml_events import XidWatch, address
from exporter.sources.nvml_reader import Answer, Reader, unread
from exporter.sources.nvml_worker import Worker

log = logging.getLogger(__name__)

#: Seconds between two looks: for MIG instances, which are made and removed by hand, and at what changes seldom.
LOOK_SECONDS = 10.0
#: No board has more; NVML's count is not believed beyond.
_MAX_INSTANCES = 32
#: Tracebacks of one GPU that are logged in one opening of NVML, each once.
_MAX_TRACEBACKS = 8

_LOST = "look for Xid errors in the kernel log, drain the node and power-cycle it"
_HANGS = "look for Xid errors in the kernel log; reset the GPU or restart the node"
_FAILED = "nvidia-smi must be able to read this GPU"

_MIG_DISABLED, _MIG_ENABLED = pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_ENABLE
_NOT_FOUND = 6


class _Part(NamedTuple):
    """The board or one of its MIG instances."""

    info: GpuInfo
    reader: Reader


class _Nameless(Exception):
    """The GPU has no identity of its own."""


class Board:
    """`claim` says whether the UUID is this board's and no other's. `publish` is called in the board's thread with the
    samples of the board and of its instances, board first.
    """

    def __init__(
        self,
        index: int,
        driver_version: str,
        interval: float,
        remembered: GpuInfo | None,
        xids: XidWatch,
        claim: Callable[["Board", str], bool],
        publish: Callable[["Board", tuple[GpuSample, ...]], None],
        stop: threading.Event,
    ) -> None:
        """remembered: who the GPU with this index was when NVML was opened before, if that is certain."""
        self.index = index
        self.info = remembered
        self.identified = False
        self.lost = ""
        self.broken = 0  # the error code of the last poll, if it is one of BROKEN; 0: it is not
        self.published = False
        self._driver_version = driver_version
        self._interval = interval
        self._xids = xids
        self._claim = claim
        self._publish = publish
        self._stop = stop
        self._parts: list[_Part] = []
        self._handle: Handle = None
        self._mig = False
        self._looked_at = float("-inf")
        self._doing = ""  # the call that is under way, outside the readers
        self._since: float | None = None  # when the poll that is under way began
        self._seconds = 0.0
        self._last_success: float | None = None
        self._error = ""
        self._told: set[str] = set()  # exceptions whose traceback was logged
        self.worker = Worker(f"nvml-gpu-{index}", self._run, stop)

    def hung(self, now: float, deadline: float) -> bool:
        since = self._since
        return since is not None and now - since > deadline

    def stuck(self, now: float, deadline: float) -> bool:
        """It hangs, or its thread cannot be started."""
        return bool(self.worker.error) or self.hung(now, deadline)

    def collector(self, now: float, deadline: float) -> Collector:
        name, since, message = f"nvml-{self.index}", self._since, self._error
        seconds = self._seconds
        if self.worker.error:
            message = f"{self._who()}: {self.worker.error}"
        elif self.worker.died:
            message = f"{self._who()}: the thread that reads it has ended; restart this process"
        elif since is not None and now - since > deadline:
            seconds = now - since
            calls = [part.reader.doing for part in list(self._parts)] + [self._doing]
            call = next(filter(None, calls), "a call")
            message = f"{self._who()}: {call} has not returned for {seconds:.0f} s; {_HANGS}"
        return Collector(name, not message, seconds, self._last_success, message)

    def _who(self) -> str:
        return f"GPU {self.index}" + (f" {self.info.key.uuid}" if self.info else "")

    def _run(self) -> None:
        while not self._stop.is_set():
            self._since = at = time.monotonic()
            try:
                self._poll(at)
                self.broken = 0
            except pynvml.NVMLError as error:
                self.broken = error.value if error.value in BROKEN else 0
                self._failed(str(error), error.value, at)
            except _Nameless as error:
                self._failed(str(error), 0, at)
            except Exception as error:  # whatever a driver answers, the next poll comes
                what = f"{type(error).__name__}: {error}".replace("\n", " ")
                if what not in self._told and len(self._told) < _MAX_TRACEBACKS:
                    self._told.add(what)
                    log.exception("%s", self._who())
                self._failed(what, 0, at)
            self._seconds = time.monotonic() - at
            self._since = None
            # All GPUs of a node are read at the same tick, so that a tick makes one snapshot.
            self._stop.wait(self._interval - time.monotonic() % self._interval)

    def _poll(self, at: float) -> None:
        """Raises pynvml.NVMLError if it cannot be told who the GPU is, or with a code in BROKEN."""
        info = self.info if self.info and self.identified else self._identify()
        look = at - self._looked_at >= LOOK_SECONDS
        self._doing = "nvmlDeviceRegisterEvents"
        try:
            no_xids = self._xids.register(self._handle, info.key.uuid, self._look_soon, look)
        finally:
            self._doing = ""
        if look:
            self._looked_at = at  # first: MIG may change while it is looked at
            self._look(info)
        answers = [part.reader.read(look) for part in self._parts]
        # An instance that fails may be one that was removed, and its board lives on.
        if not look and not answers[0].lost and any(answer.failed for answer in answers[1:]):
            self._look(info)
            answers = [part.reader.read() for part in self._parts]
        if no_xids or answers[0].lost:
            answers[0].missing["xid_watched"] = answers[0].lost or no_xids
        else:
            answers[0].values["xid_watched"] = 1.0
        self._take([(part.info, answer) for part, answer in zip(self._parts, answers, strict=True)], at)

    def _look_soon(self) -> None:
        """At the next poll. Called from any thread."""
        self._looked_at = float("-inf")

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Call pynvml's function of this name. Raises pynvml.NVMLError."""
        self._doing = name
        try:
            return getattr(pynvml, name)(*arguments)
        finally:
            self._doing = ""

    def _try(self, name: str, *arguments: Any, pick: Callable[[Any], Any] | None = None, refused: bool = False) -> Any:
        """The same; None if the GPU does not tell. Raises pynvml.NVMLError with a code in BROKEN, `refused`: any."""
        try:
            answer = self._ask(name, *arguments)
            return pick(answer) if pick else answer
        except pynvml.NVMLError as error:
            if refused or error.value in BROKEN:
                raise
        except UnicodeDecodeError:
            pass  # a text that is none
        return None

    def _identify(self) -> GpuInfo:
        """Who the GPU is. Raises pynvml.NVMLError or _Nameless if it cannot be told."""
        handle = self._ask("nvmlDeviceGetHandleByIndex", self.index)
        uuid = self._try("nvmlDeviceGetUUID", handle, refused=True)
        if not uuid:
            raise _Nameless("its UUID is no text")
        if not self._claim(self, uuid):
            self.info = None
            raise _Nameless(f"another GPU of this node has its UUID {uuid}")
        address_of = self._try("nvmlDeviceGetPciInfo", handle, pick=_bus_id)
        minor = self._try("nvmlDeviceGetMinorNumber", handle)
        info = GpuInfo(
            key=GpuKey(uuid),
            index=str(self.index),
            name=self._try("nvmlDeviceGetName", handle) or "",
            pci_bus_id=address_of or "",
            driver_version=self._driver_version,
            minor="" if minor in (None, UNSET) else str(minor),
        )
        self._handle = handle
        self.info, self.identified = info, True
        return info

    def _look(self, info: GpuInfo) -> None:
        """Find out which instances there are. Where the GPU does not say, it is as it was."""
        mig = self._mig_mode()
        if mig is None:
            mig = self._mig
        if not self._parts or mig != self._mig:
            reason = "not_supported_in_mig" if mig else "not_supported"
            self._parts = [_Part(info, Reader(self._handle, rows_for(self._links()), reason))]
        self._mig = mig
        found = self._instances(info) if mig else []
        if found is not None:
            # The reader of an instance that is still there is kept: what it knows of the card stays known.
            known = {(part.info, address(part.reader.handle)): part for part in self._parts[1:]}
            instances = [known.get((i, address(h))) or _Part(i, Reader(h, INSTANCE_ROWS)) for i, h in found]
            self._parts = [self._parts[0], *instances]

    def _mig_mode(self) -> bool | None:
        """None: the GPU does not say."""
        try:
            mode = self._ask("nvmlDeviceGetMigMode", self._handle)[0]
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
            return False if error.value in UNSUPPORTED else None  # cards before A100 know no MIG
        return {_MIG_DISABLED: False, _MIG_ENABLED: True}.get(mode)

    def _links(self) -> int:
        """How many NVLinks to ask for: as many as there can be, where the GPU does not say."""
        count = self._try("nvmlDeviceGetFieldValues", self._handle, [LINK_COUNT_FIELD])
        told = count is not None and not count[0].nvmlReturn and count[0].value.uiVal <= NVLINKS
        return int(count[0].value.uiVal) if told else NVLINKS

    def _instances(self, board: GpuInfo) -> list[tuple[GpuInfo, Handle]] | None:
        """The MIG instances that there are now. None: the GPU does not say."""
        found: dict[GpuKey, tuple[GpuInfo, Handle]] = {}
        try:
            most = self._ask("nvmlDeviceGetMaxMigDeviceCount", self._handle)
            for place in range(min(most, _MAX_INSTANCES)):
                try:
                    handle = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", self._handle, place)
                except pynvml.NVMLError as error:
                    if error.value in (_NOT_FOUND, INVALID_ARGUMENT):
                        continue  # places may be free in between
                    raise
                number = self._ask("nvmlDeviceGetGpuInstanceId", handle)
                if number == UNSET:
                    continue
                profile = (self._try("nvmlDeviceGetName", handle) or "").partition(" MIG ")[2]
                uuid = self._try("nvmlDeviceGetUUID", handle) or ""
                info = replace(board, key=GpuKey(board.key.uuid, str(number)), profile=profile, mig_uuid=uuid)
                # Compute instances of one GPU instance share its memory: the first stands for all.
                found.setdefault(info.key, (info, handle))
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
            return None
        return list(found.values())

    def _take(self, answers: list[tuple[GpuInfo, Answer]], at: float) -> None:
        lost = answers[0][1].lost
        if lost:
            self._error = f"{self._who()}: {lost.replace('_', ' ')}; {_LOST}"
        else:
            self._error = ""
            self._last_success = at
        self.lost = lost
        # An instance is lost with its board, whatever its own calls say.
        samples = (
            GpuSample(
                info,
                "nvml",
                at,
                {} if lost else answer.values,
                answer.missing,
                lost or answer.lost,
                processes=None if lost else answer.processes,
            )
            for info, answer in answers
        )
        if not self._stop.is_set():  # else a call has hung until after this opening of NVML
            self.published = True
            self._publish(self, tuple(samples))

    def _failed(self, what: str, code: int, at: float) -> None:
        """Nothing could be read: NVML's error code, 0 for what is none. It may be this GPU's trouble alone."""
        self._look_soon()
        board = (self.info or placeholder(self.index), unread(BOARD_SIGNALS, code))
        signals = [row.signal for row in INSTANCE_ROWS]
        self._take([board, *((part.info, unread(signals, code)) for part in self._parts[1:])], at)
        self._error = f"{self._who()}: {what}; {_FAILED}"


def _bus_id(pci: Any) -> str:
    return str(pci.busId)


def placeholder(index: int) -> GpuInfo:
    """Who a GPU is that has not said it."""
    return GpuInfo(GpuKey(f"gpu-index-{index}"), str(index))
