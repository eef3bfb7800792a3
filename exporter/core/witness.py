"""One Xid error told by several witnesses counts once.

May not be in here: what an Xid means (xid.py), which board an address is (boards.py), I/O, clocks.

NVML's events, the kernel log and dcgm-exporter's gauge tell of the same error, each at its own time. A telling by S
belongs to an error that S has not told yet, with the same board and code, and the same MIG instance where both name
one, if it comes within the window of S and of every witness that told it: a few seconds between those that tell at
once, dcgm-exporter's collection interval where it is one of the two. The oldest such error takes it. Else it is a new
error, and counts.

So n errors that each witness tells n times count n, whatever the order in which the tellings arrive. Two errors within
a window, one of them told by one witness alone and the other by another alone, count as one: nobody can tell.

**What is judged of a second telling** is what it adds (severity, recovery): it is marked `again`. The first one that
names the MIG instance is not: the verdict on that instance has not heard of the error yet.

**The kernel log is read again** from its start when this program starts anew: its records have numbers, and what was
told up to the last one that was seen is neither counted nor judged again.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.core.model import XidEvent

#: Seconds between two witnesses that tell at once: their threads' wake-up, and ours under load.
PROMPT_SECONDS = 5.0
#: Seconds by which dcgm-exporter may be later: it collects every 30 s (its --collect-interval), DCGM itself polls, and
#: so do we; with one collection to spare.
DCGM_SECONDS = 90.0
#: Seconds after which a telling is forgotten. No window is longer.
KEEP_SECONDS = 600.0
#: Errors remembered of a board; the oldest give way.
MAX_ERRORS = 256
#: Boards remembered; those that told nothing for the longest time give way. No node has more.
MAX_BOARDS = 128
#: Less than any record's number.
_NO_RECORD = -1


class Error(Struct, frozen=True):
    """An error that was counted, and who told of it when."""

    xid: int
    instance: str  # "" is not attributed, or not by those who told it
    told: Mapping[str, float]  # source -> at


class Board(Struct, frozen=True):
    """What is remembered of one board."""

    errors: tuple[Error, ...] = ()  # in the order in which they were counted
    seq: int = _NO_RECORD  # of the newest record of the kernel log that was seen
    at: float = float("-inf")  # of the newest telling


class Witnesses(Struct, frozen=True):
    """What one sift leaves to the next."""

    boards: Mapping[str, Board] = {}  # by UUID


class _Hearing:
    """A board while a batch of tellings is heard: a flood is not searched from its start for each of them."""

    def __init__(self, board: Board) -> None:
        self.errors = list(board.errors)
        self.seq = board.seq
        self.at = board.at
        self._places: dict[int, list[int]] = {}  # code -> where its errors are
        self._untold: dict[int, dict[str, list[int]]] = {}  # code -> source -> those that the source may still tell
        for place, error in enumerate(self.errors):
            self._places.setdefault(error.xid, []).append(place)

    def tell(self, event: XidEvent) -> tuple[bool, bool]:
        """(whether it is a new error, whether it is the first telling that names the instance)."""
        instance, source = event.key.instance, event.source
        untold = self._left(event)
        for n, place in enumerate(untold):
            error = self.errors[place]
            if _fits(error, event):
                del untold[n]
                self.errors[place] = Error(error.xid, error.instance or instance, {**error.told, source: event.at})
                return False, bool(instance) and not error.instance
        place = len(self.errors)
        self.errors.append(Error(event.xid, instance, {source: event.at}))
        self._places.setdefault(event.xid, []).append(place)
        for other, places in self._untold[event.xid].items():
            if other != source:
                places.append(place)
        return True, bool(instance)

    def _left(self, event: XidEvent) -> list[int]:
        """The errors of this code that the source of the event has not told, without the oldest ones that it is too
        late for: it tells in their order, so that its next telling is too late for them as well.
        """
        of_code = self._untold.setdefault(event.xid, {})
        if event.source not in of_code:
            places = self._places.get(event.xid, ())
            of_code[event.source] = [place for place in places if event.source not in self.errors[place].told]
        untold = of_code[event.source]
        late = 0
        while late < len(untold) and _is_late(self.errors[untold[late]], event):
            late += 1
        del untold[:late]
        return untold


def sift(memory: Witnesses, events: Sequence[XidEvent]) -> tuple[list[XidEvent], list[XidEvent], Witnesses]:
    """(the events that count, those that are to be judged, the memory for the next call).

    Keys name their board's UUID. Judged are all but what the kernel log tells again; what another witness told before
    is marked `again` there.
    """
    boards: dict[str, _Hearing] = {}
    counted, judged = [], []
    for event in events:
        uuid = event.key.uuid
        board = boards.get(uuid)
        if board is None:
            boards[uuid] = board = _Hearing(memory.boards.get(uuid, Board()))
        seq = _NO_RECORD if event.seq is None else event.seq
        if event.replayed and _NO_RECORD < seq <= board.seq:
            continue
        new, placed = board.tell(event)
        if new:
            counted.append(event)
        judged.append(event if new or placed else replace(event, again=True))
        board.seq, board.at = max(board.seq, seq), max(board.at, event.at)
    if not judged:
        return counted, judged, memory
    heard = {uuid: Board(tuple(board.errors), board.seq, board.at) for uuid, board in boards.items()}
    return counted, judged, Witnesses(_bounded({**memory.boards, **heard}))


def _fits(error: Error, event: XidEvent) -> bool:
    """Whether the event can be the telling of the error by another witness."""
    if event.key.instance and error.instance and event.key.instance != error.instance:
        return False
    return all(abs(event.at - at) <= _window(event.source, other) for other, at in error.told.items())


def _is_late(error: Error, event: XidEvent) -> bool:
    return any(event.at - at > _window(event.source, other) for other, at in error.told.items())


def _window(one: str, other: str) -> float:
    return DCGM_SECONDS if "dcgm" in (one, other) else PROMPT_SECONDS


def _bounded(boards: Mapping[str, Board]) -> Mapping[str, Board]:
    newest = max(board.at for board in boards.values())
    kept = {
        uuid: replace(
            board,
            errors=tuple(e for e in board.errors if newest - max(e.told.values()) <= KEEP_SECONDS)[-MAX_ERRORS:],
        )
        for uuid, board in boards.items()
    }
    while len(kept) > MAX_BOARDS:
        del kept[min(kept, key=lambda uuid: kept[uuid].at)]
    return kept
