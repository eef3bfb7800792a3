"""What is kept, and what is said, of more Xids than anybody can use: a flood of one leaves room for the others.

May not be in here: reading a log (sources/), counting errors (witness.py), I/O, clocks, threads.
"""

from collections import Counter, OrderedDict, deque
from typing import NamedTuple

from exporter.core.model import GpuKey, XidEvent

#: Xids that wait: of one code on one board or MIG instance, and of all.
MAX_EACH = 64
MAX_ALL = 4096
#: Seconds in which a code on a board is said once, and then how often it came.
SAID_SECONDS = 60.0
#: So many codes on boards are said in that time; the others are counted together.
MAX_SAID = 256


class Waiting:
    """Xids that nobody took yet, in the order in which they came. Of one code, and of all, the oldest give way."""

    def __init__(self) -> None:
        self.lost = 0  # gave way, since this was made
        self._number = 0
        self._events: OrderedDict[int, XidEvent] = OrderedDict()
        self._each: dict[tuple[str, GpuKey, int], deque[int]] = {}  # what is it of -> which they are, the oldest first

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: XidEvent) -> None:
        numbers = self._each.setdefault(_kind(event), deque())
        if len(numbers) >= MAX_EACH:
            del self._events[numbers.popleft()]
            self.lost += 1
        elif len(self._events) >= MAX_ALL:
            _, oldest = self._events.popitem(last=False)
            others = self._each[_kind(oldest)]
            others.popleft()
            if not others and others is not numbers:
                del self._each[_kind(oldest)]
            self.lost += 1
        self._number += 1
        self._events[self._number] = event
        numbers.append(self._number)

    def take(self) -> list[XidEvent]:
        taken = list(self._events.values())
        self.clear()
        return taken

    def clear(self) -> None:
        self._events.clear()
        self._each.clear()


def _kind(event: XidEvent) -> tuple[str, GpuKey, int]:
    return event.pci, event.key, event.xid


class Said(NamedTuple):
    """How often a code came since it was said."""

    pci: str  # "" and xid 0: all that were too many to be told apart
    xid: int
    times: int


class Saying:
    """Which Xids are said at once, and what is said of the others once the time is up."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._more: Counter[tuple[str, int]] = Counter()  # 0: it was said, and has not come again

    def first(self, event: XidEvent, now: float) -> bool:
        """Whether it is to be said. now: monotonic seconds; due(now) was asked before."""
        self._began = now if self._began is None else self._began
        key = event.pci, event.xid
        if key not in self._more and len(self._more) < MAX_SAID:
            self._more[key] = 0
            return True
        self._more[key if key in self._more else ("", 0)] += 1
        return False

    def due(self, now: float) -> list[Said]:
        """What is to be said of those that were not; empty until the time is up."""
        if self._began is None or now - self._began < SAID_SECONDS:
            return []
        said = [Said(*key, count) for key, count in self._more.items() if count]
        self._began = None
        self._more.clear()
        return said
