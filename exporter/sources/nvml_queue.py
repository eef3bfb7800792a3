"""What keeps a flood of Xids from pushing out the one that counts: a queue and a log, each bounded for every code.

May not be in here: NVML, what an Xid means.
"""

import logging
import threading
from collections import deque

from exporter.core.model import GpuKey, XidEvent

log = logging.getLogger(__name__)

#: Events of one code of one GPU that are kept until they are taken; the oldest of them give way.
MAX_OF_A_CODE = 64
#: Codes, of all GPUs, that are kept or logged at once. There are fewer than 200; the rest is nonsense.
_MAX_CODES = 1024
#: Seconds in which one code of one GPU is logged once; the others are counted.
_LOG_SECONDS = 60.0


class XidQueue:
    """Xids that nobody took yet. For any thread."""

    def __init__(self) -> None:
        self.dropped = 0  # since the start
        self._lock = threading.Lock()
        self._events: dict[tuple[GpuKey, int], deque[tuple[int, XidEvent]]] = {}
        self._count = 0

    def put(self, event: XidEvent) -> bool:
        """Whether it is the first since the last take()."""
        with self._lock:
            first, kind = not self._events, (event.key, event.xid)
            if kind not in self._events and len(self._events) >= _MAX_CODES:
                self.dropped += 1
                return False
            queue = self._events.setdefault(kind, deque(maxlen=MAX_OF_A_CODE))
            self.dropped += len(queue) == MAX_OF_A_CODE
            self._count += 1
            queue.append((self._count, event))
            return first

    def take(self) -> list[XidEvent]:
        """All of them, in the order in which they came."""
        with self._lock:
            taken, self._events = self._events, {}
        return [event for _, event in sorted((pair for queue in taken.values() for pair in queue), key=_place)]


def _place(pair: tuple[int, XidEvent]) -> int:
    return pair[0]


class XidLog:
    """One line for the first event of a kind in a minute, and one for how many came after it. For one thread."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int], tuple[float, int, str]] = {}  # -> first at, how many more, what was said
        self._next = float("inf")  # when the first of the minutes is over

    def say(self, place: str, code: int, line: str, now: float) -> None:
        """line: what to say of the first; place and code: what kind of event it is."""
        self.flush(now)
        kind = (place, code)
        if kind in self._kinds:
            began, more, said = self._kinds[kind]
            self._kinds[kind] = (began, more + 1, said)
        elif len(self._kinds) < _MAX_CODES:
            self._kinds[kind] = (now, 0, line)
            self._next = min(self._next, now + _LOG_SECONDS)
            log.warning("%s", line)

    def flush(self, now: float) -> None:
        """Tell the counts of the minutes that are over."""
        if now < self._next:
            return
        over = [kind for kind, (began, _, _) in self._kinds.items() if now - began >= _LOG_SECONDS]
        for kind in over:
            began, more, line = self._kinds.pop(kind)
            if more:
                log.warning("%s (%d more times in %.0f s)", line, more, now - began)
        self._next = min((began for began, _, _ in self._kinds.values()), default=float("inf")) + _LOG_SECONDS
