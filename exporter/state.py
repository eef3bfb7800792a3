"""What outlives the process, in one file: verdicts and latches, Xid counts, the inventory, what engines taught.

May not be in here: what any of it means (core/boards.py, core/lessons.py).

The times in it are of the monotonic clock, which starts anew with the machine, and after a reboot every GPU was reset:
so of a file from another boot only what has no times counts, the inventory and the lessons. A file of ours that cannot
be trusted (another version of this program, cut, altered) is told in one line, and nothing is remembered. Whatever is
not a file of ours is told as well, and left as it is: nothing is kept then.

It is read once, before anything is served, and no more than MAX_BYTES of a regular file. From then on the disk is never
waited for: a thread of its own writes a file beside it and puts that in its place in one step, so that a crash leaves
the old one, and of two programs that keep one file the last to write wins.
"""

import contextlib
import errno
import logging
import os
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from exporter.core.boards import BoardsMemory
from exporter.core.inventory import Inventory
from exporter.core.node import Remembered

log = logging.getLogger("exporter")

BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: No file of ours is larger, and no larger one is read.
MAX_BYTES = 4 << 20
#: Seconds between two writes at least, and between two when only what moves at every poll has moved.
SAVE_SECONDS = 10.0
REFRESH_SECONDS = 300.0
#: Seconds for which close() waits for the disk.
CLOSE_SECONDS = 2.0
#: What is being written has this name and some letters, so that two programs do not write one file. What is older than
#: these seconds was left by a program that was killed; so many names of a directory are looked at for it.
BESIDE = ".plimsoll-state-"
LEFT_SECONDS = 60.0
_MAX_NAMES = 10_000

#: The file is this, the CRC-32 of the rest in four bytes, the rest.
_MAGIC = b"plimsoll"
_HEAD = len(_MAGIC) + 4
_FIX = "check the volume that --state.file is on; without it a restart forgets what is latched"
_FIX_PLACE = "name a file of its own with --state.file, or remove what is there"


class State(Struct, frozen=True):
    version: str  # VERSION of the program that wrote it
    boot_id: str
    at: float  # when it was written; nothing in it that has happened is later
    remembered: Remembered


class _About(Struct, frozen=True):
    """What is read first: the rest is of no type that we know if these are not ours."""

    version: str
    boot_id: str
    at: float


def _shape(kind: Any) -> str:
    """The names and types of all that a type holds."""
    if isinstance(kind, msgspec.inspect.StructType | msgspec.inspect.NamedTupleType):
        fields = ",".join(f"{field.encode_name}:{_shape(field.type)}" for field in kind.fields)
        return f"{kind.cls.__name__}({fields})"
    inner = [getattr(kind, name, None) for name in ("key_type", "value_type", "item_type")]
    inner += [*getattr(kind, "item_types", ()), *getattr(kind, "types", ())]
    return f"{type(kind).__name__}[{','.join(_shape(part) for part in inner if part is not None)}]"


#: Changes whenever the shape of what is kept does, so that nobody has to think of it. The number is for when a field
#: comes to mean something else.
VERSION = f"1-{zlib.crc32(_shape(msgspec.inspect.type_info(Remembered)).encode()):08x}"

#: Versions whose files lack only fields that have a default now: what they say is what it was. Without the pace.
READABLE = (VERSION, "1-4aedb24c")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode
_decode_about = msgspec.msgpack.Decoder(_About).decode


class NotOurs(Exception):
    """What lies where the file would is not ours, and is not replaced: why."""


class _Unusable(Exception):
    """A file of ours that nothing is taken from: why."""


def boot_id(path: str = BOOT_ID) -> str:
    """The kernel's id of this boot, "" if it does not tell."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, ValueError):
        return ""


def load(path: str, boot: str, now: float) -> Remembered | None:
    """What the file at `path` says in the boot `boot` at `now` (monotonic seconds). None: nothing; why is logged."""
    return _load(path, boot, now)[0]


def save(path: str, state: State) -> None:
    """Replace the file at `path`, or leave it as it is. A link is not followed. Raises OSError, NotOurs."""
    payload = _encode(state)
    if _HEAD + len(payload) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"the state has {len(payload)} bytes, more than {MAX_BYTES} are not kept")
    file, beside = tempfile.mkstemp(prefix=BESIDE, dir=os.path.dirname(path) or ".")
    try:
        with open(file, "wb") as out:
            out.write(_MAGIC + zlib.crc32(payload).to_bytes(4, "big") + payload)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileNotFoundError):
            _check(path)  # now, since it may have come after the start
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def worth_saving(old: Remembered, new: Remembered) -> bool:
    """Whether something differs that a restart should not undo: a verdict, an Xid's count, the inventory, a start.

    What is learned of a queue moves at every poll while there is one: it is worth the usual refresh.
    """
    return _kept(old) != _kept(new)


def _kept(memory: Remembered) -> tuple[object, ...]:
    verdicts = {
        key: (one.health.verdict.state, one.health.verdict.reasons, one.xids)
        for key, one in memory.boards.known.items()
    }
    models = {(one.namespace, one.model) for one in memory.lessons.knees}
    return verdicts, memory.boards.inventory.boards, models, memory.lessons.starts


def _load(path: str, boot: str, now: float) -> tuple[Remembered | None, str]:
    """(what is remembered, where the file is to be kept: `path` or what it is a link to; "" is nowhere)."""
    try:
        place = os.path.realpath(path)
        _check(place)
        state = _state(_content(place))
    except FileNotFoundError:
        return None, place  # the first start
    except _Unusable as error:
        log.warning("%s: %s; nothing is remembered of the last run, and the file is written anew", path, error)
        return None, place
    except (NotOurs, OSError, ValueError) as error:  # ValueError: a NUL in the path
        text = error.strerror if isinstance(error, OSError) else error
        shown = path if path.isprintable() else ascii(path)
        log.warning("%s: %s; it is left as it is, and nothing is kept over a restart; %s", shown, text, _FIX_PLACE)
        return None, ""
    if state.boot_id == boot and state.at <= now:
        return state.remembered, place
    since = "the clock was set back" if state.boot_id == boot else "this machine was booted"
    log.info("%s: written before %s; of it the inventory of GPUs and what engines taught are remembered", path, since)
    inventory = Inventory(boards=state.remembered.boards.inventory.boards)
    return Remembered(BoardsMemory(inventory=inventory), state.remembered.lessons), place


def _check(place: str) -> None:
    """Raises NotOurs unless a file of ours or an empty one lies there, and OSError: FileNotFoundError if nothing does.

    A link is not followed, and only a regular file is opened: of a device even that may have an effect.
    """
    found = os.lstat(place)
    if not stat.S_ISREG(found.st_mode):
        raise NotOurs("not a regular file")
    if found.st_size and _read(place, len(_MAGIC)) != _MAGIC:
        raise NotOurs("not a state file")


def _read(place: str, size: int) -> bytes:
    """The first bytes of a regular file. Raises OSError, NotOurs."""
    # O_NONBLOCK: it may have become a FIFO since it was looked at, and opening that would wait for its writer.
    file = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(file, "rb") as source:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise NotOurs("not a regular file")
        return source.read(size)


def _content(place: str) -> bytes:
    """Raises OSError, NotOurs, _Unusable."""
    content = _read(place, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _Unusable(f"more than {MAX_BYTES} bytes")
    return content


def _sweep(directory: str) -> None:
    """Remove what programs that were killed have left beside the file."""
    with contextlib.suppress(OSError), os.scandir(directory) as names:
        for one in islice(names, _MAX_NAMES):
            if one.name.startswith(BESIDE) and one.is_file(follow_symlinks=False):
                old = time.time() - one.stat(follow_symlinks=False).st_mtime
                if old > LEFT_SECONDS:
                    os.unlink(one.path)


def _state(content: bytes) -> State:
    """Raises _Unusable."""
    payload = content[_HEAD:]
    if content[: len(_MAGIC)] != _MAGIC or zlib.crc32(payload).to_bytes(4, "big") != content[len(_MAGIC) : _HEAD]:
        raise _Unusable("damaged")
    try:
        about = _decode_about(payload)
        if about.version not in READABLE:
            raise _Unusable(f"written by another version of this program ({about.version}, this is {VERSION})")
        return _decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _Unusable(f"damaged ({error})") from error


class Keeper:
    """Keeps one file; an empty path keeps none. To be used from one thread."""

    def __init__(
        self,
        path: str,
        boot: str,
        interval: float = SAVE_SECONDS,
        refresh: float = REFRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """boot: boot_id(). Times are seconds: SAVE_SECONDS, REFRESH_SECONDS."""
        self._path = path
        self._place = ""  # where it is kept; "" is nowhere
        self._boot = boot
        self._interval = interval
        self._refresh = refresh
        self._clock = clock
        self._saved = self._newest = Remembered()
        self._tried = clock()
        self._thread: threading.Thread | None = None
        self._complaint = ""

    def load(self, now: float) -> Remembered | None:
        """What an earlier run left; None: nothing."""
        if self._path and not self._boot:
            log.warning("%s: not used, since %s is not readable and a reboot could not be noticed", self._path, BOOT_ID)
            return None
        if not self._path:
            return None
        # What a link leads to now is what is kept, wherever it leads later.
        found, self._place = _load(self._path, self._boot, now)
        if self._place:
            _sweep(os.path.dirname(self._place))
        self._saved = self._newest = found or Remembered()
        return found

    def offer(self, memory: Remembered) -> None:
        """Take note of what is to be kept; it is written when it is due, by a thread."""
        self._newest = memory
        if not self._place or (self._thread is not None and self._thread.is_alive()):
            return
        since = self._clock() - self._tried
        if since >= self._interval and (since >= self._refresh or worth_saving(self._saved, memory)):
            self._start()

    def close(self) -> None:
        """Write what was offered last. Returns within twice CLOSE_SECONDS, whatever the disk does."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        if self._place and self._newest != self._saved and not (self._thread and self._thread.is_alive()):
            self._start().join(CLOSE_SECONDS)

    def _start(self) -> threading.Thread:
        self._tried = self._clock()
        self._thread = threading.Thread(target=self._save, args=(self._newest, self._tried), name="state", daemon=True)
        self._thread.start()
        return self._thread

    def _save(self, memory: Remembered, at: float) -> None:
        # An Xid of the kernel log that waits for its GPU is read again there, with its number.
        waiting = tuple(event for event in memory.boards.unplaced if event.source != "kmsg")
        kept = replace(memory, boards=replace(memory.boards, unplaced=waiting))
        try:
            save(self._place, State(VERSION, self._boot, at, kept))
        except (OSError, NotOurs) as error:
            cause, fix = (error, _FIX_PLACE) if isinstance(error, NotOurs) else (error.strerror or error, _FIX)
            complaint = f"{self._path}: not written ({cause}); {fix}"
            if complaint != self._complaint:
                log.warning(complaint)
        else:
            complaint = ""
            if self._complaint:
                log.info("%s: written again", self._path)
            self._saved = memory
        self._complaint = complaint
