"""The kernel log as a witness of Xids: a thread that reads /dev/kmsg.

May not be in here: what a line says (core/kmsg.py), counting (core/witness.py).

Reading does not take records away from anybody. What is in the ring when it is opened is told as replayed; a driver
that was loaded since makes it void. Besides /dev/kmsg a FIFO (all live) or a file that grows (a captured log) will do.
"""

import asyncio
import errno
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from exporter.core import kmsg
from exporter.core.kmsg import DriverLoaded
from exporter.core.model import Collector, GpuKey, GpuSample, XidEvent

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
#: So long a wait lasts at most; the thread then looks whether it is to end.
WAIT_SECONDS = 1.0
#: What is read of a ring that is written faster than it is read counts as live after this.
_REPLAY_SECONDS = 5.0
#: Xids that nobody took yet; the oldest give way.
_MAX_XIDS = 1024
#: What stop() waits for the thread beyond its wait.
_JOIN_SECONDS = 0.5
#: /dev/kmsg gives one record a read, never more than 8 KiB; anything else gives as much as fits.
_RECORD = 8192
_CHUNK = 65536
#: major and minor of /dev/kmsg (Linux, Documentation/admin-guide/devices.txt).
_KMSG_DEVICE = (1, 11)

_OFF = "--kmsg.file=off silences this"
#: Error of open or read -> what to do.
_FIXES: Mapping[int, str] = {
    errno.ENOENT: f"mount the node's /dev/kmsg there, as a device; {_OFF}",
    errno.EACCES: f"run as root or let the process read it; {_OFF}",
    errno.EPERM: f"give the container the device and CAP_SYSLOG (privileged has both); {_OFF}",
}


class KmsgSource:
    """`watching` is true while the log is being read. `loaded_at` is when the driver was seen to be loaded anew, in
    monotonic seconds; None: not since this began to watch. Every GPU is reset by it.
    """

    def __init__(self, path: str, required: bool, retry: float = RETRY_SECONDS, wait: float = WAIT_SECONDS) -> None:
        """required: whether it is a failure that the file cannot be opened. Times are seconds: between two attempts to
        open it; of one wait for news.
        """
        self.watching = False
        self.loaded_at: float | None = None
        self._path = path
        self._required = required
        self._retry = retry
        self._wait = wait
        self._notify: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._xids: deque[XidEvent] = deque(maxlen=_MAX_XIDS)
        self._state = Collector("kmsg", False, 0.0, None, f"{path}: not opened yet") if required else None
        self._told = ""  # the last failure that is in our log
        self._thread = threading.Thread(target=self._run, name="kmsg", daemon=True)

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called from the thread when there is something new."""
        self._notify = notify
        self._thread.start()

    async def stop(self) -> None:
        """Returns within 2 s."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, self._wait + _JOIN_SECONDS)

    def samples(self) -> Mapping[GpuKey, GpuSample]:
        return {}

    def take_xids(self) -> list[XidEvent]:
        taken = []
        while self._xids:
            taken.append(self._xids.popleft())
        return taken

    def collectors(self) -> list[Collector]:
        """Of a log that is not required: none until it could be read."""
        state = self._state
        if state is None:
            return []
        if self.watching:
            state = Collector("kmsg", True, 0.0, time.monotonic())
        return [state]

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._read()
                self.watching = False
                return
            except OSError as error:
                fix = _FIXES.get(error.errno or 0, f"name a kernel log with --kmsg.file; {_OFF}")
                message = f"{self._path}: {error.strerror or error}; {fix}"
            except Exception as error:
                log.exception("kmsg: crashed")
                message = f"{self._path}: crashed ({type(error).__name__}: {error}); please report it with the log"
            self._failed(message, began)
            self._stop.wait(self._retry)

    def _failed(self, message: str, began: float) -> None:
        now = time.monotonic()
        last = now if self.watching else self._state.last_success if self._state else None
        self.watching = False
        if self._state is not None:
            self._state = Collector("kmsg", False, now - began, last, message)
        if message != self._told:
            level = logging.INFO if self._state is None else logging.WARNING
            log.log(level, "the kernel log is not read; Xids are told by the other sources alone: %s", message)
            self._told = message
        self._notify()

    def _read(self) -> None:
        """Read until stop() is called. Raises OSError."""
        # O_NOCTTY: a path that is a terminal is not to become ours.
        file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            kind = os.fstat(file)
            device = stat.S_ISCHR(kind.st_mode)
            if device and (os.major(kind.st_rdev), os.minor(kind.st_rdev)) != _KMSG_DEVICE:
                raise OSError(errno.ENODEV, "a device, but not the kernel log")
            if not (device or stat.S_ISFIFO(kind.st_mode) or stat.S_ISREG(kind.st_mode)):
                raise OSError(errno.ENODEV, "neither the kernel log nor a FIFO nor a file")
            self._follow(file, device, replaying=not stat.S_ISFIFO(kind.st_mode))
        finally:
            os.close(file)

    def _follow(self, file: int, device: bool, replaying: bool) -> None:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        began = time.monotonic()
        replay: deque[XidEvent] = deque(maxlen=_MAX_XIDS)
        rest = b""  # of a line that has not ended
        mark, size = kmsg.MARK, _RECORD if device else _CHUNK
        while not self._stop.is_set():
            ended = False
            try:
                chunk = os.read(file, size)
                ended = not chunk
                # Of a device a chunk is one record: in a flood of other messages this is all that is done.
                if device and mark not in chunk and not replaying:
                    continue
            except BlockingIOError:
                chunk = b""
            except OSError as error:
                # Overwritten before it was read, or longer than what we read: the next read gives the next record.
                if not device or error.errno not in (errno.EPIPE, errno.EINVAL):
                    raise
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[: kmsg.MAX_LINE + 1]  # with more behind it, it is too long for a line of ours
            for line in lines:
                if mark in line and len(line) <= kmsg.MAX_LINE:
                    self._take(line, replay if replaying else None)
            if replaying and (not chunk or time.monotonic() - began > _REPLAY_SECONDS):
                replaying = False
                self._xids.extend(replay)
            if not (replaying or self.watching):
                self._begun()
            if ended:
                self._stop.wait(self._wait)
            elif not chunk:
                poll.poll(self._wait * 1000)

    def _begun(self) -> None:
        self.watching = True
        self._told = ""
        self._state = Collector("kmsg", True, 0.0, time.monotonic())
        log.info("the kernel log is read: %s", self._path)
        self._notify()

    def _take(self, line: bytes, replay: deque[XidEvent] | None) -> None:
        """replay: where what was there before goes; None: it is news."""
        event = kmsg.parse(line.decode("utf-8", "replace"), time.monotonic(), replay is not None)
        if isinstance(event, DriverLoaded) and replay is not None:
            replay.clear()
        elif isinstance(event, DriverLoaded):
            log.info("kernel log: the NVIDIA driver was loaded anew")
            self.loaded_at = event.at
            self._notify()
        elif isinstance(event, XidEvent) and replay is not None:
            replay.append(event)
        elif isinstance(event, XidEvent):
            log.info("kernel log: GPU at %s: Xid %d", event.pci, event.xid)
            self._xids.append(event)
            self._notify()
