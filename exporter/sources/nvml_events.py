"""Xid errors as NVML reports them, at once: one event set for all GPUs and the thread that waits on it.

May not be in here: what an Xid means, polling.

NVML replays nothing: an Xid from before a GPU was registered is not seen here.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable

import pynvml

from exporter.core import xid
from exporter.core.model import Collector, GpuKey, XidEvent
from exporter.sources.nvml_calls import BROKEN, Handle

log = logging.getLogger(__name__)

#: So long a wait lasts at most; the thread then looks whether it is to end.
WAIT_MILLISECONDS = 1000
#: GI and CI id of an event that belongs to the whole board, or to nobody in particular.
_NOT_ATTRIBUTED = 0xFFFFFFFF
_TIMEOUT = 10
#: Codes are below 200 today; what is far above is no Xid.
_HIGHEST = 65535


class XidWatch:
    """The event set of one opening of NVML. `emit` is called in the watch's own thread."""

    def __init__(self, emit: Callable[[XidEvent], None], stop: threading.Event) -> None:
        """Raises pynvml.NVMLError."""
        self.broken = 0  # the error code after which NVML must be opened again, 0: none
        self._emit = emit
        self._stop = stop
        self._lock = threading.Lock()
        self._uuids: dict[int, str] = {}  # handle's address -> UUID: a dead GPU cannot be asked for it any more
        self._handles: list[Handle] = []
        self._set = pynvml.nvmlEventSetCreate()
        self._turned: float = time.monotonic()  # when the thread last came round
        self._error = ""
        self.thread = threading.Thread(target=self._run, name="nvml-xid", daemon=True)
        self.thread.start()

    def register(self, handle: Handle, uuid: str) -> None:
        """Ask for the GPU's Xids. Called in the GPU's own thread, since this may hang on a sick one.

        Raises pynvml.NVMLError with a code in BROKEN.
        """
        try:
            supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle) & pynvml.nvmlEventTypeXidCriticalError
            if supported:
                self._uuids[_address(handle)] = uuid
                pynvml.nvmlDeviceRegisterEvents(handle, supported, self._set)
                with self._lock:
                    self._handles.append(handle)
            else:
                log.info("GPU %s reports no Xid events; only its other readings are judged", uuid)
        except pynvml.NVMLError as error:
            if error.value in BROKEN:
                raise
            log.warning("GPU %s: no Xid events (%s); only its other readings are judged", uuid, error)

    def collector(self, now: float) -> Collector:
        late = now - self._turned > 3 * WAIT_MILLISECONDS / 1000
        message = "NVML: waiting for Xid events hangs; look for a sick GPU" if late else self._error
        return Collector("xid", not message, now - self._turned if late else 0.0, self._turned, message)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, WAIT_MILLISECONDS)
            except pynvml.NVMLError as error:
                if error.value != _TIMEOUT:
                    self._failed(error)
                    continue
            else:
                self._take(event)
            self._error = ""
            self._turned = time.monotonic()
        try:
            pynvml.nvmlEventSetFree(self._set)
        except pynvml.NVMLError as error:
            log.debug("freeing the event set: %s", error)

    def _take(self, event: "pynvml.c_nvmlEventData_t") -> None:
        if event.eventType != pynvml.nvmlEventTypeXidCriticalError:
            return
        uuid, code = self._uuids.get(_address(event.device)), int(event.eventData)
        if uuid is None or not 0 < code <= _HIGHEST:
            log.warning("Xid event %d of an unknown GPU was dropped", code)
            return
        instance = "" if event.gpuInstanceId == _NOT_ATTRIBUTED else str(event.gpuInstanceId)
        log.warning("GPU %s: Xid %d: %s", uuid, code, xid.of(code).reason)
        self._emit(XidEvent(GpuKey(uuid, instance), code, time.monotonic(), "nvml"))

    def _failed(self, error: "pynvml.NVMLError") -> None:
        """Waiting failed. One lost GPU can spoil the set for all: try with a new one, without those that refuse."""
        self._error = f"NVML: waiting for Xid events failed ({error}); tried again every second"
        if error.value in BROKEN:
            self.broken = error.value
        if self._stop.wait(1.0) or self.broken:
            self._stop.wait()
            return
        try:
            pynvml.nvmlEventSetFree(self._set)
            self._set = pynvml.nvmlEventSetCreate()
            with self._lock:
                handles = list(self._handles)
            for handle in handles:
                try:
                    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
                except pynvml.NVMLError as refused:
                    log.warning("GPU %s: no Xid events (%s)", self._uuids[_address(handle)], refused)
        except pynvml.NVMLError as failed:
            self.broken = failed.value if failed.value in BROKEN else 0


def _address(handle: Handle) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
