"""What NVML reports by itself, at once: Xid errors and changes of MIG. One event set for all GPUs, one thread waits.

May not be in here: what an Xid means, polling.

NVML replays nothing: an Xid from before a GPU was registered is not seen here.
"""

import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml

from exporter.core import xid
from exporter.core.model import Collector, GpuKey, XidEvent
from exporter.sources.nvml_calls import BROKEN, UNSUPPORTED, Handle
from exporter.sources.nvml_reader import reason

log = logging.getLogger(__name__)

#: So long a wait lasts at most; the thread then looks whether it is to end.
WAIT_MILLISECONDS = 1000
#: Seconds until a set that failed is made anew.
RENEW_SECONDS = 1.0
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
        with contextlib.suppress(pynvml.NVMLError):  # the thread tries again, and says why not
            self._set = _EventSet()
        self._none = "unknown_error"  # why Xids are not watched while there is no set
        self._turned: float = time.monotonic()  # when the thread last came round
        self._error = ""
        self.thread = threading.Thread(target=self._run, name="nvml-xid", daemon=True)
        self.thread.start()

    def register(self, handle: Handle, uuid: str, mig_changed: Callable[[], None], again: bool) -> str:
        """Why the GPU's Xids are not watched now (one of signals.MISSING_REASONS); "" if they are.

        To be called in the GPU's own thread at every poll, since it may hang on a sick GPU; it asks NVML once for each
        event set, and once more with `again` where that may help. Raises pynvml.NVMLError with a code in BROKEN.
        """
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
            why = _registered(handle, uuid, events.pointer)
        finally:
            with self._lock:
                events.busy -= 1
        events.told[uuid] = why
        return why

    def collector(self, now: float) -> Collector:
        late = self.thread.is_alive() and now - self._turned > 3 * WAIT_MILLISECONDS / 1000 and not self._error
        message = "NVML: waiting for Xid events hangs; look for a sick GPU" if late else self._error
        return Collector("xid", not message, now - self._turned if late else 0.0, self._turned, message)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._set is None:
                    self._set = _EventSet()
                event = pynvml.nvmlEventSetWait_v2(self._set.pointer, WAIT_MILLISECONDS)
            except pynvml.NVMLError as error:
                if error.value != _TIMEOUT:
                    if self._failed(error):
                        return
                    continue
            else:
                self._take(event)
            self._error = ""
            self._turned = time.monotonic()
        self._free()

    def _take(self, event: "pynvml.c_nvmlEventData_t") -> None:
        uuid, mig_changed = self._boards.get(address(event.device), ("", None))
        if event.eventType == MIG_CHANGE and mig_changed:
            mig_changed()
        if event.eventType != XID:
            return
        code = int(event.eventData)
        if not uuid or not 0 < code <= _HIGHEST:
            log.warning("Xid event %d of an unknown GPU was dropped", code)
            return
        instance = "" if event.gpuInstanceId == _NOT_ATTRIBUTED else str(event.gpuInstanceId)
        log.warning("GPU %s: Xid %d: %s", uuid, code, xid.of(code).meaning)
        self._emit(XidEvent(GpuKey(uuid, instance), code, time.monotonic(), "nvml"))

    def _failed(self, error: "pynvml.NVMLError") -> bool:
        """Whether that was all. One lost GPU can spoil the set for all: the next one is without those that refuse."""
        made = self._set is not None
        self._free()
        if error.value in BROKEN:
            self.broken = error.value
            return True
        if not made and error.value in UNSUPPORTED:
            self._none = "not_supported"
            self._error = f"NVML: no Xid events ({error}); let the kernel log tell them"
            log.warning(self._error)
            return True
        self._error = f"NVML: waiting for Xid events failed ({error}); tried again every second"
        self._stop.wait(RENEW_SECONDS)
        return False

    def _free(self) -> None:
        """Give the set up. One that a GPU's registration hangs in is left to it."""
        with self._lock:
            events, self._set = self._set, None
        if events is None or events.busy:
            return
        try:
            pynvml.nvmlEventSetFree(events.pointer)
        except pynvml.NVMLError as error:
            log.debug("freeing the event set: %s", error)


def _registered(handle: Handle, uuid: str, events: Any) -> str:
    """XidWatch.register, of NVML itself."""
    try:
        supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle) & (XID | MIG_CHANGE)
        if supported:
            pynvml.nvmlDeviceRegisterEvents(handle, supported, events)
    except pynvml.NVMLError as error:
        if error.value in BROKEN:
            raise
        log.warning("GPU %s: no Xid events (%s); only its other readings are judged", uuid, error)
        return "not_supported" if error.value in UNSUPPORTED else reason(error.value)
    if not supported & XID:
        log.info("GPU %s reports no Xid events; only its other readings are judged", uuid)
        return "not_supported"
    return ""


def address(handle: Handle) -> int:
    """What a handle points to: NVML's handles are equal by it, pynvml's objects are not."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
