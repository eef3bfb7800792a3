"""The kernel log as a witness of Xids: a thread that reads /dev/kmsg.

May not be in here: what a line says (core/kmsg.py), what a flood leaves (core/xid_flood.py), counting
(core/witness.py).

Reading does not take records away from anybody. What is in the ring when it is opened is told as replayed; a driver
that was loaded since makes it void. Besides /dev/kmsg a FIFO (all live) or a file that grows (a captured log) will do.
Such a file may be rotated: when another one has its name, or it has become shorter, what is in it then is news. A file
that is cut and grows beyond where it was within one wait looks like one that grew.
"""

import asyncio
import errno
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Mapping

from exporter.core import kmsg
from exporter.core.kmsg import DriverLoaded
from exporter.core.model import GpuKey, GpuSample, XidEvent
from exporter.core.snapshot import Collector
from exporter.core.xid_flood import SAID_SECONDS, Saying, Waiting

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
#: So long a wait lasts at most; the thread then looks whether it is to end.
WAIT_SECONDS = 1.0
#: What is read of a ring that is written faster than it is read counts as live after this.
_REPLAY_SECONDS = 5.0
#: So long the name of a file that is rotated may be nobody's.
_GONE_SECONDS = 5.0
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
        self._lock = threading.Lock()  # of what waits
        self._xids = Waiting()
        self._saying = Saying()
        self._lost = 0  # of what waited; so many are in our log
        self._lost_due = 0.0  # when more may be said; monotonic seconds
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
        with self._lock:
            return self._xids.take()

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
        first = True
        while not self._stop.is_set():
            # O_NOCTTY: a path that is a terminal is not to become ours.
            file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                kind = os.fstat(file)
                device = stat.S_ISCHR(kind.st_mode)
                if device and (os.major(kind.st_rdev), os.minor(kind.st_rdev)) != _KMSG_DEVICE:
                    raise OSError(errno.ENODEV, "a device, but not the kernel log")
                if not (device or stat.S_ISFIFO(kind.st_mode) or stat.S_ISREG(kind.st_mode)):
                    raise OSError(errno.ENODEV, "neither the kernel log nor a FIFO nor a file")
                self._follow(file, device, replaying=first and not stat.S_ISFIFO(kind.st_mode))
            finally:
                os.close(file)
            first = False

    def _follow(self, file: int, device: bool, replaying: bool) -> None:
        """Until stop() is called or another file has the name. Raises OSError."""
        poll = select.poll()
        poll.register(file, select.POLLIN)
        began = seen = time.monotonic()  # seen: when the file had its name last
        replay = Waiting()
        rest = b""  # of a line that has not ended
        mark, size = kmsg.MARK, _RECORD if device else _CHUNK
        while not self._stop.is_set():
            self._say(time.monotonic())
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
                self._replayed(replay)
            if not (replaying or self.watching):
                self._begun()
            if ended and not device:
                has_name = _has_name(file, self._path)
                if has_name is False:
                    log.info("the kernel log is another file now, and is read from its start: %s", self._path)
                    return
                seen = time.monotonic() if has_name else seen
                if time.monotonic() - seen > _GONE_SECONDS:
                    raise FileNotFoundError(errno.ENOENT, "it was removed")
                if _was_cut(file):
                    log.info("the kernel log was cut, and is read from its start: %s", self._path)
                    os.lseek(file, 0, os.SEEK_SET)
                    rest = b""
                    continue
            if ended:
                self._stop.wait(self._wait)
            elif not chunk:
                poll.poll(self._wait * 1000)

    def _replayed(self, replay: Waiting) -> None:
        with self._lock:
            self._xids.lost += replay.lost
            for event in replay.take():
                self._xids.put(event)

    def _say(self, now: float) -> None:
        """What is said of a flood once a minute."""
        for pci, xid, times in self._saying.due(now):
            what = f"GPU at {pci}: Xid {xid}" if pci else "other Xids"
            log.info("kernel log: %s: %d more in the last minute", what, times)
        with self._lock:
            lost = self._xids.lost
        if lost > self._lost and now >= self._lost_due:
            log.warning("kernel log: %d Xids came faster than they are counted, and are not", lost - self._lost)
            self._lost, self._lost_due = lost, now + SAID_SECONDS

    def _begun(self) -> None:
        self.watching = True
        self._told = ""
        self._state = Collector("kmsg", True, 0.0, time.monotonic())
        log.info("the kernel log is read: %s", self._path)
        self._notify()

    def _take(self, line: bytes, replay: Waiting | None) -> None:
        """replay: where what was there before goes; None: it is news."""
        event = kmsg.parse(line.decode("utf-8", "replace"), time.monotonic(), replay is not None)
        if isinstance(event, DriverLoaded) and replay is not None:
            replay.clear()
            replay.lost = 0
        elif isinstance(event, DriverLoaded):
            log.info("kernel log: the NVIDIA driver was loaded anew")
            self.loaded_at = event.at
            self._notify()
        elif isinstance(event, XidEvent) and replay is not None:
            replay.put(event)
        elif isinstance(event, XidEvent):
            if self._saying.first(event, event.at):
                log.info("kernel log: GPU at %s: Xid %d", event.pci, event.xid)
            with self._lock:
                is_news = not self._xids
                self._xids.put(event)
            if is_news:  # else somebody was told already and has not come yet
                self._notify()


def _has_name(file: int, path: str) -> bool | None:
    """Whether the path still leads to the open file; None: it leads nowhere. Raises OSError."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return None
    return os.path.samestat(named, os.fstat(file))


def _was_cut(file: int) -> bool:
    """Whether a regular file is shorter than what was read of it."""
    found = os.fstat(file)
    return stat.S_ISREG(found.st_mode) and found.st_size < os.lseek(file, 0, os.SEEK_CUR)
