"""NVML as a source of GPU samples and Xid events: who is there, and what to do when the driver comes and goes.

May not be in here: loading the library (nvml_library.py), reading one GPU (nvml_board.py), waiting for Xids
(nvml_events.py), judging.

Threads, all daemons: one that opens NVML and keeps the inventory (here), one that waits for Xids, one for each physical
GPU. A call that hangs stops its own thread only; NVML is not shut down while one does, and nobody waits for it.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping

import pynvml

from exporter.core.model import GpuKey, GpuSample, XidEvent
from exporter.core.snapshot import Collector
from exporter.sources.nvml_board import Board, placeholder
from exporter.sources.nvml_calls import BOARD_SIGNALS, BROKEN
from exporter.sources.nvml_events import XidWatch
from exporter.sources.nvml_library import MAX_GPUS, Unavailable, initialise, shut_down
from exporter.sources.nvml_queue import XidQueue
from exporter.sources.nvml_worker import Worker

log = logging.getLogger(__name__)

INVENTORY_SECONDS = 10.0
RETRY_SECONDS = 30.0
#: What stop() and a new opening wait for threads: the Xid thread's wait ends within 1 s.
_JOIN_SECONDS = 1.5
#: Seconds for which Xids that were too many are told of.
_DROPPED_SECONDS = 60.0
_XID_WORKER = (0, 0)
#: UUIDs that stand for a GPU that has not said who it is.
_NAMELESS = frozenset(placeholder(index).key.uuid for index in range(MAX_GPUS))
#: What may change in a message that still says the same.
_NUMBER = re.compile(r"\d+")


class _Opening:
    """NVML from one nvmlInit to its end: the threads that use it and what they are told to stop by."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.boards: list[Board] = []
        self.xids: XidWatch | None = None
        self.names: dict[str, Board] = {}  # UUID -> the board that said it first

    def claim(self, board: Board, uuid: str) -> bool:
        """Whether no other board of the opening has said that this UUID is its own."""
        return self.names.setdefault(uuid, board) is board  # one step of the interpreter's: no lock

    def workers(self) -> dict[tuple[int, int], Worker]:
        """By (number of GPUs, index): with as many GPUs as before an index names the GPU that it named then."""
        workers = {(len(self.boards), board.index): board.worker for board in self.boards}
        return {**workers, _XID_WORKER: self.xids.worker} if self.xids else workers

    def threads(self) -> list[threading.Thread]:
        return [worker.thread for worker in self.workers().values() if worker.thread]


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
        self._xids = XidQueue()
        self._dropped = (0, float("-inf"))  # Xids that were too many, and when that was seen
        self._workers: dict[tuple[int, int], Worker] = {}  # who was started last, in whatever opening
        self._inits = 0  # openings that were not shut down
        self._reopened = float("-inf")  # when NVML was opened again because it was broken
        self._told: dict[str, str] = {}  # collector -> its message as it was logged, without the numbers
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
        return self._xids.take()

    def collectors(self) -> list[Collector]:
        now, opening, state, (call, since) = time.monotonic(), self._opening, self._state, self._call
        if call and now - since > self._deadline:
            message = f"NVML: {call} has not returned for {now - since:.0f} s; look at the kernel log"
            state = Collector("nvml", False, now - since, state.last_success, message)
        if self._thread.ident and not self._thread.is_alive() and not self._stop.is_set() and not self.fatal:
            message = "NVML: the thread that opens it has ended; restart this process"
            state = Collector("nvml", False, 0.0, state.last_success, message)
        if opening.stop.is_set():
            return [state]  # NVML is closed: there is nothing whose state could be told
        return [state, *self._parts(opening, now)]

    def _parts(self, opening: _Opening, now: float) -> list[Collector]:
        boards = [board.collector(now, self._deadline) for board in opening.boards]
        if not opening.xids:
            return boards
        xids, (dropped, at) = opening.xids.collector(now), self._dropped
        if xids.success and now - at < _DROPPED_SECONDS:
            message = f"NVML: {dropped} Xid events came too fast and were not counted; look at the kernel log"
            xids = Collector("xid", False, xids.seconds, xids.last_success, message)
        return [xids, *boards]

    def _control(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._call = ("opening it", began)
            try:
                self._session(began)
            except Unavailable as reason:
                self._set_state(began, str(reason))
                self.fatal = str(reason) if reason.fatal else ""
            except Exception as error:  # whatever the library or this machine does, the next attempt comes
                what = f"{type(error).__name__}: {error}".replace("\n", " ")
                self._set_state(began, f"NVML: {what}; tried again every {self._retry:g} s")
            else:
                continue
            self._notify()
            if self.fatal:
                return
            self._stop.wait(self._retry)

    def _session(self, began: float) -> None:
        """NVML from its opening to its end. Raises Unavailable, and what the machine raises; NVML is closed then."""
        version, count = initialise(self._library)
        self._inits += 1
        before, opening = self._opening, _Opening()
        try:
            opening.xids = xids = XidWatch(self._emit, opening.stop)
            for index in range(count):
                # The same number of GPUs as before: an index names the GPU that it named then.
                info = before.boards[index].info if len(before.boards) == count else None
                board = Board(index, version, self._interval, info, xids, opening.claim, self._publish, opening.stop)
                opening.boards.append(board)
            self._opening = opening
            log.info("NVML opened: driver %s, %d GPUs", version, count)
            self._set_state(began, "")
            self._watch(opening)
        finally:
            self._close(opening)

    def _begin(self, opening: _Opening) -> None:
        """Start the threads that do not run, the Xid thread first; none while an earlier one hangs at the same work."""
        for key, worker in sorted(opening.workers().items()):
            worker.start(self._workers.get(key))
            if worker.alive:
                self._workers[key] = worker

    def _set_state(self, began: float, message: str) -> None:
        now = time.monotonic()
        if message and message != self._state.message:
            log.warning(message)
        self._call = ("", 0.0)
        self._state = Collector("nvml", not message, now - began, self._state.last_success if message else now, message)

    def _watch(self, opening: _Opening) -> None:
        """Until the program ends or NVML must be opened again."""
        looked = lost_since = time.monotonic()
        hung: list[bool] = []
        self._begin(opening)
        while not self._stop.wait(min(self._interval, 1.0)):
            now = time.monotonic()
            self._begin(opening)
            self._tell(opening, now)
            broken = self._broken(opening, now)
            if broken and now - self._reopened >= self._retry:
                self._reopened = now
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
            self._mark_silent(opening, now)
            self._mark_gone(opening, now)
            if hung != (hung := [board.hung(now, self._deadline) for board in opening.boards]):
                self._notify()

    def _broken(self, opening: _Opening, now: float) -> int:
        """The error after which NVML must be opened again, 0: none. One GPU's alone is that GPU's trouble."""
        if opening.xids and opening.xids.broken:
            return opening.xids.broken
        heard = [board.broken for board in opening.boards if not board.stuck(now, self._deadline)]
        return heard[0] if heard and all(heard) else 0

    def _tell(self, opening: _Opening, now: float) -> None:
        """Log what the collectors say, once when it changes."""
        if self._xids.dropped > self._dropped[0]:
            self._dropped = (self._xids.dropped, now)
        for collector in self._parts(opening, now):
            kind = _NUMBER.sub("", collector.message)
            if kind == self._told.get(collector.name, ""):
                continue
            self._told[collector.name] = kind
            if kind:
                log.warning("%s", collector.message)
            else:
                log.info("%s is well again", collector.name)

    def _count_changed(self, opening: _Opening) -> bool:
        self._call = ("nvmlDeviceGetCount", time.monotonic())
        try:
            return int(pynvml.nvmlDeviceGetCount()) != len(opening.boards)
        except pynvml.NVMLError as error:
            return error.value in BROKEN
        finally:
            self._call = ("", 0.0)

    def _mark_silent(self, opening: _Opening, now: float) -> None:
        """A GPU of which nothing was heard yet is there all the same."""
        for board in opening.boards:
            if board.published or not board.stuck(now, self._deadline):
                continue
            with self._lock:
                remembered = board.info and opening.names.get(board.info.key.uuid, board) is board
                info = board.info if board.info and remembered else placeholder(board.index)
                if info.key.uuid in self._samples or board.published:
                    continue
                missing = dict.fromkeys(BOARD_SIGNALS, "timeout")
                self._samples[info.key.uuid] = (GpuSample(info, "nvml", now, {}, missing),)
            self._notify()

    def _mark_gone(self, opening: _Opening, now: float) -> None:
        """GPUs that were there when NVML was opened before are lost, once it is known who is there now."""
        if not all(board.info and (board.identified or board.lost) for board in opening.boards):
            return
        present = {board.info.key.uuid for board in opening.boards if board.info}
        with self._lock:
            for uuid in _NAMELESS & self._samples.keys():
                del self._samples[uuid]
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
        if any(worker.alive for worker in self._workers.values()):
            log.warning("NVML: a call hangs; NVML is left open")
            return
        self._call = ("nvmlShutdown", time.monotonic())
        while self._inits:  # NVML counts; it ends with the last one
            self._inits -= 1
            shut_down()
        self._call = ("", 0.0)

    def _publish(self, board: Board, samples: tuple[GpuSample, ...]) -> None:
        with self._lock:
            if board.identified:
                self._samples.pop(placeholder(board.index).key.uuid, None)
            self._samples[samples[0].info.key.uuid] = samples
        self._notify()

    def _emit(self, event: XidEvent) -> None:
        if self._xids.put(event):
            self._notify()
