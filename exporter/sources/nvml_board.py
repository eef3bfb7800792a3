"""One physical GPU and the thread that reads it: identity, MIG instances, a sample every interval.

May not be in here: which GPUs there are (nvml.py), which calls are made for a signal (nvml_calls.py).

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

from exporter.core.model import Collector, GpuInfo, GpuKey, GpuSample
from exporter.sources.nvml_calls import BOARD_ROWS, BROKEN, MEMORY_ROWS, UNSET, Answer, Handle, Reader, unread
from exporter.sources.nvml_events import XidWatch

log = logging.getLogger(__name__)

#: Seconds between two looks for MIG instances: they are made and removed by hand.
MIG_SECONDS = 10.0
#: No board has more; NVML's count is not believed beyond.
_MAX_INSTANCES = 32

_LOST = "look for Xid errors in the kernel log, drain the node and power-cycle it"
_HANGS = "look for Xid errors in the kernel log; reset the GPU or restart the node"
_FAILED = "nvidia-smi must be able to read this GPU"


class _Part(NamedTuple):
    """The board or one of its MIG instances."""

    info: GpuInfo
    reader: Reader


class Board:
    """`publish` is called in the board's thread with the samples of the board and of its instances, board first."""

    def __init__(
        self,
        index: int,
        driver_version: str,
        interval: float,
        remembered: GpuInfo | None,
        xids: XidWatch | None,
        publish: Callable[["Board", tuple[GpuSample, ...]], None],
        stop: threading.Event,
    ) -> None:
        """remembered: who the GPU with this index was when NVML was opened before, if that is certain."""
        self.index = index
        self.info = remembered
        self.identified = False
        self.lost = ""
        self.broken = 0  # the error code after which NVML must be opened again, 0: none
        self._driver_version = driver_version
        self._interval = interval
        self._xids = xids
        self._publish = publish
        self._stop = stop
        self._parts: list[_Part] = []
        self._handle: Handle = None
        self._mig = False
        self._mig_at = float("-inf")
        self._doing = ""  # the call that is under way, outside the readers
        self._since: float | None = None  # when the poll that is under way began
        self._seconds = 0.0
        self._last_success: float | None = None
        self._error = ""
        self.thread = threading.Thread(target=self._run, name=f"nvml-gpu-{index}", daemon=True)
        self.thread.start()

    def hung(self, now: float, deadline: float) -> bool:
        since = self._since
        return since is not None and now - since > deadline

    def collector(self, now: float, deadline: float) -> Collector:
        name, since, message = f"nvml-{self.index}", self._since, self._error
        seconds = self._seconds
        if since is not None and now - since > deadline:
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
                info = self.info if self.identified else None
                self._look_for_instances(info or self._identify(), at)
                self._take([(part.info, part.reader.read()) for part in self._parts], at)
            except pynvml.NVMLError as error:
                self._failed(error, at)
            except Exception as error:  # whatever a driver answers, the next poll comes
                log.exception("%s", self._who())
                self._error = f"{self._who()}: {type(error).__name__}: {error}; {_FAILED}"
            self._seconds = time.monotonic() - at
            self._since = None
            # All GPUs of a node are read at the same tick, so that a tick makes one snapshot.
            self._stop.wait(self._interval - time.monotonic() % self._interval)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Call pynvml's function of this name. Raises pynvml.NVMLError."""
        self._doing = name
        try:
            return getattr(pynvml, name)(*arguments)
        finally:
            self._doing = ""

    def _try(self, name: str, *arguments: Any) -> Any:
        """The same; None if the GPU does not tell. Raises pynvml.NVMLError with a code in BROKEN."""
        try:
            return self._ask(name, *arguments)
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
        except UnicodeDecodeError:
            pass  # a text that is none
        return None

    def _identify(self) -> GpuInfo:
        """Who the GPU is. Raises pynvml.NVMLError if it cannot be told."""
        handle = self._ask("nvmlDeviceGetHandleByIndex", self.index)
        uuid = str(self._ask("nvmlDeviceGetUUID", handle))
        pci = self._try("nvmlDeviceGetPciInfo", handle)
        info = GpuInfo(
            key=GpuKey(uuid),
            index=str(self.index),
            name=self._try("nvmlDeviceGetName", handle) or "",
            pci_bus_id=str(pci.busId) if pci else "",
            driver_version=self._driver_version,
        )
        self._handle = handle
        if self._xids is not None:
            self._doing = "nvmlDeviceRegisterEvents"
            try:
                self._xids.register(handle, uuid)
            finally:
                self._doing = ""
        self.info, self.identified = info, True
        return info

    def _look_for_instances(self, info: GpuInfo, at: float) -> None:
        if at - self._mig_at < MIG_SECONDS:
            return
        mode = self._try("nvmlDeviceGetMigMode", self._handle)  # cards before A100 know no MIG
        mig = bool(mode) and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        if not self._parts or mig != self._mig:
            reason = "not_supported_in_mig" if mig else "not_supported"
            self._parts = [_Part(info, Reader(self._handle, BOARD_ROWS, reason))]
        # The reader of an instance that is still there is kept: what it knows of the card stays known.
        known = {part.info: part for part in self._parts}
        found = self._instances(info) if mig else []
        self._parts = [self._parts[0], *(known.get(i) or _Part(i, Reader(h, MEMORY_ROWS)) for i, h in found)]
        self._mig, self._mig_at = mig, at

    def _instances(self, board: GpuInfo) -> list[tuple[GpuInfo, Handle]]:
        found: dict[GpuKey, tuple[GpuInfo, Handle]] = {}
        most = self._try("nvmlDeviceGetMaxMigDeviceCount", self._handle) or 0
        for place in range(min(most, _MAX_INSTANCES)):
            handle = self._try("nvmlDeviceGetMigDeviceHandleByIndex", self._handle, place)
            number = self._try("nvmlDeviceGetGpuInstanceId", handle) if handle else None
            if number is None or number == UNSET:
                continue  # places may be free in between
            profile = (self._try("nvmlDeviceGetName", handle) or "").partition(" MIG ")[2]
            uuid = self._try("nvmlDeviceGetUUID", handle) or ""
            info = replace(board, key=GpuKey(board.key.uuid, str(number)), profile=profile, mig_uuid=uuid)
            # Compute instances of one GPU instance share its memory: the first stands for all.
            found.setdefault(info.key, (info, handle))
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
            GpuSample(info, "nvml", at, {} if lost else answer.values, answer.missing, lost or answer.lost)
            for info, answer in answers
        )
        if not self._stop.is_set():  # else a call has hung until after this opening of NVML
            self._publish(self, tuple(samples))

    def _failed(self, error: "pynvml.NVMLError", at: float) -> None:
        """The GPU did not even say who it is, or NVML is broken for all."""
        if error.value in BROKEN:
            self._since, self.broken = None, error.value
            self._stop.wait()
            return
        self._take([(self.info or placeholder(self.index), unread(BOARD_ROWS, error.value))], at)
        self._error = f"{self._who()}: {error}; {_FAILED}"


def placeholder(index: int) -> GpuInfo:
    """Who a GPU is that has not said it."""
    return GpuInfo(GpuKey(f"gpu-index-{index}"), str(index))
