"""NVML as a source of GPU samples and Xid events: who is there, and what to do when the driver comes and goes.

May not be in here: reading one GPU (nvml_board.py), waiting for Xids (nvml_events.py), judging.

Threads, all daemons: one that opens NVML and keeps the inventory (here), one that waits for Xids, one for each physical
GPU. A call that hangs stops its own thread only; NVML is not shut down while one does, and nobody waits for it.
"""

import asyncio
import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import pynvml

from exporter.core.model import Collector, GpuKey, GpuSample, XidEvent
from exporter.sources.nvml_board import Board, placeholder
from exporter.sources.nvml_calls import BOARD_SIGNALS, BROKEN, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH
from exporter.sources.nvml_events import XidWatch

log = logging.getLogger(__name__)

INVENTORY_SECONDS = 10.0
RETRY_SECONDS = 30.0
#: What stop() and a new opening wait for threads: the Xid thread's wait ends within 1 s.
_JOIN_SECONDS = 1.5
#: No node has more; NVML's count is not believed beyond.
_MAX_GPUS = 128
#: Xids that nobody took yet; the oldest give way.
_MAX_XIDS = 1024

_OFF = "or start with --gpu.source=off"
#: NVML's error when it cannot be opened -> what to do.
_FIXES: Mapping[int, str] = {
    4: "give this process access to /dev/nvidiactl and /dev/nvidia*",
    DRIVER_NOT_LOADED: f"load the NVIDIA driver (nvidia-smi must work) {_OFF}",
    12: f"install the NVIDIA driver, name the file with --nvml.library, {_OFF}",
    LIB_RM_VERSION_MISMATCH: "the driver was updated: restart this process, and the node if that does not help",
}


class _Unavailable(Exception):
    """NVML cannot be opened. `fatal`: this process never can."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class _Opening:
    """NVML from one nvmlInit to its end: the threads that use it and what they are told to stop by."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.boards: list[Board] = []
        self.xids: XidWatch | None = None

    def threads(self) -> list[threading.Thread]:
        return [board.thread for board in self.boards] + ([self.xids.thread] if self.xids else [])


class NvmlSource:
    """`fatal` is one line once NVML can never work again in this process; the program is to end with it."""

    def __init__(
        self,
        library: str = "",
        interval: float = 1.0,
        deadline: float = 3.0,
        retry: float = RETRY_SECONDS,
        inventory: float = INVENTORY_SECONDS,
    ) -> None:
        """library: path of libnvidia-ml.so.1, "" for the loader's. Times are seconds: between polls of a GPU; until a
        poll counts as hung; between attempts to open NVML; between looks at the number of GPUs.
        """
        self.fatal = ""
        self._library = library
        self._interval = interval
        self._deadline = deadline
        self._retry = retry
        self._inventory = inventory
        self._notify: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._samples: dict[str, tuple[GpuSample, ...]] = {}  # board UUID -> the board and its instances
        self._xids: deque[XidEvent] = deque(maxlen=_MAX_XIDS)
        self._opening = _Opening()
        self._state = Collector("nvml", False, 0.0, None, "NVML: not opened yet")
        self._call = ("", 0.0)  # the call of the control thread's own that is under way, and since when; "": none
        self._thread = threading.Thread(target=self._control, name="nvml-control", daemon=True)

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called from any thread when there is something new."""
        self._notify = notify
        self._thread.start()

    async def stop(self) -> None:
        """Returns within 2 s, whatever hangs."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _JOIN_SECONDS + 0.3)

    def samples(self) -> Mapping[GpuKey, GpuSample]:
        with self._lock:
            return {sample.info.key: sample for group in self._samples.values() for sample in group}

    def take_xids(self) -> list[XidEvent]:
        taken = []
        while self._xids:
            taken.append(self._xids.popleft())
        return taken

    def collectors(self) -> list[Collector]:
        now, opening, state, (call, since) = time.monotonic(), self._opening, self._state, self._call
        if call and now - since > self._deadline:
            message = f"NVML: {call} has not returned for {now - since:.0f} s; look at the kernel log"
            state = Collector("nvml", False, now - since, state.last_success, message)
        if opening.stop.is_set():
            return [state]  # NVML is closed: there is nothing whose state could be told
        boards = [board.collector(now, self._deadline) for board in opening.boards]
        xids = [opening.xids.collector(now)] if opening.xids else []
        return [state, *xids, *boards]

    def _control(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._call = ("opening it", began)
            try:
                opening = self._open()
            except _Unavailable as reason:
                self._set_state(began, str(reason))
                self.fatal = str(reason) if reason.fatal else ""
                self._notify()
                if self.fatal:
                    return
                self._stop.wait(self._retry)
                continue
            self._set_state(began, "")
            self._watch(opening)
            self._close(opening)

    def _set_state(self, began: float, message: str) -> None:
        now = time.monotonic()
        if message and message != self._state.message:
            log.warning(message)
        self._call = ("", 0.0)
        self._state = Collector("nvml", not message, now - began, self._state.last_success if message else now, message)

    def _open(self) -> _Opening:
        """Raises _Unavailable."""
        try:
            if self._library:
                # pynvml would ask the loader; the file that the operator named goes before it.
                pynvml.nvmlLib = ctypes.CDLL(self._library)
        except OSError as error:
            raise _Unavailable(f"NVML: {error}; check --nvml.library") from None
        try:
            # Without the flag a node whose only GPU is gone would look like one without a driver.
            pynvml.nvmlInitWithFlags(pynvml.NVML_INIT_FLAG_NO_GPUS)
        except pynvml.NVMLError as error:
            raise _unavailable(error) from None
        try:
            version, count = _node()
        except _Unavailable:
            _shut_down()  # else the next opening would not be one
            raise
        opening = _Opening()
        opening.xids = xids = XidWatch(self._emit, opening.stop)
        # The same number of GPUs as before: an index names the GPU that it named then.
        before = self._opening.boards if len(self._opening.boards) == count else [None] * count
        for index, old in enumerate(before):
            info = old.info if old else None
            opening.boards.append(Board(index, version, self._interval, info, xids, self._publish, opening.stop))
        self._opening = opening
        log.info("NVML opened: driver %s, %d GPUs", version, count)
        return opening

    def _watch(self, opening: _Opening) -> None:
        """Until the program ends or NVML must be opened again."""
        looked = lost_since = time.monotonic()
        hung: list[bool] = []
        while not self._stop.wait(min(self._interval, 1.0)):
            now = time.monotonic()
            if broken := self._broken(opening):
                log.warning("NVML: %s; opening it again", pynvml.NVMLError(broken))
                return
            if not opening.boards or not all(board.lost for board in opening.boards):
                lost_since = now
            elif now - lost_since >= self._retry:
                log.warning("NVML: every GPU is lost; opening it again")
                return
            if now - looked >= self._inventory:
                looked = now
                if self._count_changed(opening):
                    log.warning("NVML: the number of GPUs has changed; opening it again")
                    return
            self._mark_gone(opening, now)
            if hung != (hung := [board.hung(now, self._deadline) for board in opening.boards]):
                self._notify()

    def _broken(self, opening: _Opening) -> int:
        codes = [board.broken for board in opening.boards] + [opening.xids.broken if opening.xids else 0]
        return next(filter(None, codes), 0)

    def _count_changed(self, opening: _Opening) -> bool:
        self._call = ("nvmlDeviceGetCount", time.monotonic())
        try:
            return int(pynvml.nvmlDeviceGetCount()) != len(opening.boards)
        except pynvml.NVMLError as error:
            return error.value in BROKEN
        finally:
            self._call = ("", 0.0)

    def _mark_gone(self, opening: _Opening, now: float) -> None:
        """GPUs that were there when NVML was opened before are lost, once it is known who is there now."""
        if not all(board.info and (board.identified or board.lost) for board in opening.boards):
            return
        present = {board.info.key.uuid for board in opening.boards if board.info}
        with self._lock:
            gone = [group for uuid, group in self._samples.items() if uuid not in present]
            fresh = [group for group in gone if now - group[0].at >= self._interval]
            for group in fresh:
                missing = dict.fromkeys(BOARD_SIGNALS, "gpu_is_lost")
                self._samples[group[0].info.key.uuid] = tuple(
                    GpuSample(sample.info, "nvml", now, {}, missing, "gone_from_inventory") for sample in group
                )
        if fresh:
            self._notify()

    def _close(self, opening: _Opening) -> None:
        """End the threads and NVML, if none of them hangs."""
        opening.stop.set()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in opening.threads():
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in opening.threads()):
            log.warning("NVML: a call hangs; NVML is left open")
            return
        self._call = ("nvmlShutdown", time.monotonic())
        _shut_down()
        self._call = ("", 0.0)

    def _publish(self, board: Board, samples: tuple[GpuSample, ...]) -> None:
        with self._lock:
            if board.identified:
                self._samples.pop(placeholder(board.index).key.uuid, None)
            self._samples[samples[0].info.key.uuid] = samples
        self._notify()

    def _emit(self, event: XidEvent) -> None:
        self._xids.append(event)
        self._notify()


def _node() -> tuple[str, int]:
    """Driver version and number of GPUs. Raises _Unavailable."""
    try:
        version, count = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        raise _unavailable(error) from None
    except UnicodeDecodeError:
        raise _Unavailable(f"NVML: the driver's version is no text; nvidia-smi must work here, {_OFF}") from None
    if count > _MAX_GPUS:
        raise _Unavailable(f"NVML: it says that there are {count} GPUs; nvidia-smi must work here, {_OFF}")
    return version, count


def _shut_down() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        log.debug("nvmlShutdown: %s", error)


def _unavailable(error: "pynvml.NVMLError") -> _Unavailable:
    fix = _FIXES.get(error.value, f"nvidia-smi must work here, {_OFF}")
    return _Unavailable(f"NVML: {error}; {fix}", error.value == LIB_RM_VERSION_MISMATCH)
