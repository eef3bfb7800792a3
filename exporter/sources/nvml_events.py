"""What NVML reports by itself, at once: Xid errors and changes of MIG. One event set for all GPUs, one thread waits.

May not be in here: what an Xid means, polling.

NVML replays nothing: an Xid from before a GPU was registered is not seen here.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml

from exporter.core import xid
from exporter.core.model import GpuKey, XidEvent
from exporter.core.snapshot import Collector
from exporter.sources.nvml_calls import BROKEN, UNSUPPORTED, Handle
from exporter.sources.nvml_queue import XidLog
from exporter.sources.nvml_reader import reason
from exporter.sources.nvml_worker import Worker

log = logging.getLogger(__name__)

#: So long a wait lasts at most; the thread then looks whether it is to end.
WAIT_MILLISECONDS = 1000
#: Seconds until a set that failed is made anew.
RENEW_SECONDS = 1.0
#: So long a GPU's first poll waits at most for the first set, so that it is registered from its first sample on.
FIRST_SECONDS = 0.2
XID, MIG_CHANGE = pynvml.nvmlEventTypeXidCriticalError, pynvml.nvmlEventMigConfigChange
#: GI and CI id of an event that belongs to the whole board, or to nobody in particular.
_NOT_ATTRIBUTED = 0xFFFFFFFF
_TIMEOUT = 10
#: Codes are below 200 today; what is far above is no Xid.
_HIGHEST = 65535
#: Asking again would not help.
_FINAL = ("", "not_supported", "no_permission")


class _EventSet:
    """One event set of NVML's: who is registered in it, and how many registrations are under way."""

    def __init__(self) -> None:
        """Raises pynvml.NVMLError."""
        self.pointer: Any = pynvml.nvmlEventSetCreate()
        self.told: dict[str, str] = {}  # UUID -> why its Xids are not watched, "" if they are
        self.busy = 0


class XidWatch:
    """The event set of one opening of NVML. `emit` is called in the watch's own thread."""

    def __init__(self, emit: Callable[[XidEvent], None], stop: threading.Event) -> None:
        self.broken = 0  # the error code after which NVML must be opened again, 0: none
        self._emit = emit
        self._stop = stop
        self._lock = threading.Lock()
        # Handle's address -> UUID, and what to call when MIG changes: a dead GPU cannot be asked who it is any more.
        self._boards: dict[int, tuple[str, Callable[[], None]]] = {}
        self._set: _EventSet | None = None
        self._tried = threading.Event()  # the first set was made, or failed, or somebody has waited long enough for it
        self._none = "timeout"  # why Xids are not watched while there is no set
        self._turned: float = time.monotonic()  # when the thread last came round
        self._doing = ""
        self._error = ""
        self._final = False  # there will never be Xids in this opening
        self._refusals: dict[str, str] = {}  # UUID -> why it was not registered, as it was logged
        self._log = XidLog()
        self.worker = Worker("nvml-xid", self._run, stop)

    def register(self, handle: Handle, uuid: str, mig_changed: Callable[[], None], again: bool) -> str:
        """Why the GPU's Xids are not watched now (one of signals.MISSING_REASONS); "" if they are.

        To be called in the GPU's own thread at every poll, since it may hang on a sick GPU; it asks NVML once for each
        event set, and once more with `again` where that may help. Raises pynvml.NVMLError with a code in BROKEN.
        """
        if not self._final and not self.worker.alive:
            return "unknown_error"
        if not self._tried.wait(FIRST_SECONDS):
            self._tried.set()
        with self._lock:
            events = self._set
            if events is None:
                return self._none
            told = events.told.get(uuid)
            if told is not None and (told in _FINAL or not again):
                return told
            self._boards[address(handle)] = (uuid, mig_changed)
            events.busy += 1
        try:
            why, line = _registered(handle, uuid, events.pointer)
        finally:
            with self._lock:
                events.busy -= 1
        events.told[uuid] = why
        if line != self._refusals.get(uuid, ""):
            self._refusals[uuid] = line
            if line:
                log.warning(line)
        return why

    def collector(self, now: float) -> Collector:
        if self.worker.error:
            return Collector("xid", False, 0.0, None, f"NVML: no Xid events: {self.worker.error}")
        if self.worker.died and not self._final:
            message = "NVML: no Xid events: the thread that waits for them has ended; restart this process"
            return Collector("xid", False, 0.0, self._turned, message)
        late = self.worker.alive and now - self._turned > 3 * WAIT_MILLISECONDS / 1000 and not self._error
        message = f"NVML: waiting for Xid events hangs in {self._doing}; look for a sick GPU" if late else self._error
        return Collector("xid", not message, now - self._turned if late else 0.0, self._turned, message)

    def _run(self) -> None:
        self._turned = time.monotonic()
        while not self._stop.is_set() and not self._final:
            try:
                self._turn()
            except pynvml.NVMLError as error:
                self._failed(f"{error}", error.value)
            except Exception as error:  # whatever a driver makes pynvml say, the next set comes
                self._failed(f"{type(error).__name__}: {error}".replace("\n", " "), 0)
            self._tried.set()
        self._free()

    def _turn(self) -> None:
        """Wait once. Raises what pynvml raises."""
        if self._set is None:
            self._doing = "nvmlEventSetCreate"
            self._set = _EventSet()
            self._tried.set()
        self._doing = "nvmlEventSetWait"
        try:
            self._take(pynvml.nvmlEventSetWait_v2(self._set.pointer, WAIT_MILLISECONDS))
        except pynvml.NVMLError as error:
            if error.value != _TIMEOUT:
                raise
        self.broken, self._error, self._turned = 0, "", time.monotonic()
        self._log.flush(self._turned)

    def _take(self, event: "pynvml.c_nvmlEventData_t") -> None:
        uuid, mig_changed = self._boards.get(address(event.device), ("", None))
        if event.eventType == MIG_CHANGE and mig_changed:
            mig_changed()
        if event.eventType != XID:
            return
        code = int(event.eventData)
        if not uuid or not 0 < code <= _HIGHEST:
            self._log.say("", 0, f"Xid event {code} of an unknown GPU was dropped", time.monotonic())
            return
        instance = "" if event.gpuInstanceId == _NOT_ATTRIBUTED else str(event.gpuInstanceId)
        now = time.monotonic()
        self._log.say(uuid, code, f"GPU {uuid}: Xid {code}: {xid.of(code).meaning}", now)
        self._emit(XidEvent(GpuKey(uuid, instance), code, now, "nvml"))

    def _failed(self, what: str, code: int) -> None:
        """code: NVML's, 0 for what is none. One lost GPU can spoil the set for all: the next is without who refuses."""
        made = self._set is not None
        self._doing = "nvmlEventSetFree"
        self._free()
        if not made and code in UNSUPPORTED:
            self._none, self._final = "not_supported", True
            self._error = f"NVML: no Xid events ({what}); let the kernel log tell them"
            return
        self._none = "unknown_error"
        self.broken = code if code in BROKEN else 0
        self._error = f"NVML: waiting for Xid events failed ({what}); tried again every second"
        self._stop.wait(RENEW_SECONDS)

    def _free(self) -> None:
        """Give the set up. One that a GPU's registration hangs in is left to it."""
        with self._lock:
            events, self._set = self._set, None
        if events is None or events.busy:
            return
        try:
            pynvml.nvmlEventSetFree(events.pointer)
        except Exception as error:  # it is given up in any case
            log.debug("freeing the event set: %s", error)


def _registered(handle: Handle, uuid: str, events: Any) -> tuple[str, str]:
    """XidWatch.register, of NVML itself, and the line to log about it."""
    try:
        supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle) & (XID | MIG_CHANGE)
        if supported:
            pynvml.nvmlDeviceRegisterEvents(handle, supported, events)
    except pynvml.NVMLError as error:
        if error.value in BROKEN:
            raise
        why = "not_supported" if error.value in UNSUPPORTED else reason(error.value)
        return why, f"GPU {uuid}: no Xid events ({error}); only its other readings are judged"
    if not supported & XID:
        return "not_supported", f"GPU {uuid} reports no Xid events; only its other readings are judged"
    return "", ""


def address(handle: Handle) -> int:
    """What a handle points to: NVML's handles are equal by it, pynvml's objects are not."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
