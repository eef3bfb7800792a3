"""What keeps a flood of Xids from pushing out the one that counts: a queue and a log, each bounded for every code.

May not be in here: NVML, what an Xid means, what gives way to what (core/xid_flood.py).
"""

import logging
import threading

from exporter.core.model import XidEvent
from exporter.core.xid_flood import Waiting

log = logging.getLogger(__name__)

#: Codes, of all GPUs, that are logged at once. There are fewer than 200; the rest is nonsense.
_MAX_CODES = 1024
#: Seconds in which one code of one GPU is logged once; the others are counted.
_LOG_SECONDS = 60.0


class XidQueue:
    """Xids that nobody took yet. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = Waiting()

    @property
    def dropped(self) -> int:
        """Since the start."""
        return self._waiting.lost

    def put(self, event: XidEvent) -> bool:
        """Whether it is the first since the last take()."""
        with self._lock:
            first = not self._waiting
            self._waiting.put(event)
            return first

    def take(self) -> list[XidEvent]:
        """All of them, in the order in which they came."""
        with self._lock:
            return self._waiting.take()


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
