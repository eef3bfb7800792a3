"""The desk: holds the memory of every ScaledObject and answers all RPCs about it from one snapshot.

May not be in here: the policy (core/decision.py), the wire (service.py).

A decision is made anew when the view has changed or a second has passed. IsActive that follows GetMetrics within a
second is the other half of one poll and gets the same decision. What a client can make us hold is bounded.

Between two polls (KEDA: 15 to 30 s) the desk looks at every object by itself, once in each slot of the forecast: what
came in 5 s is another number than what came in 30. What such a look came to counts as a decision once it is told, or is
another answer than before.
"""

import asyncio
import hashlib
import logging
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from msgspec import Struct

from scaler.core import forecast
from scaler.core.decision import Decision, Memory, Unknown, decide, recall
from scaler.core.record import differs, line, record, short
from scaler.core.trigger import Trigger, TriggerError, check_names, parse
from scaler.core.view import Fleet, NodeView
from scaler.core.view_fleet import fleet

log = logging.getLogger("decisions")

MOST_OBJECTS = 1000  # ScaledObjects with different metadata; the one that was asked for longest ago goes
MOST_RECORDS = 50  # of each
RECORD_EVERY = 15.0  # s; the HPA's sync, for an answer that stays the same
FORGET_AFTER = 600.0  # s without a question; KEDA asks every 15 to 30 s
RENEW_AFTER = 1.0  # s; ages grow while nothing else changes
AT_LEAST_APART = 0.02  # s between two decisions for one object, however often the view changes
ONE_POLL = 1.0  # s between GetMetrics and IsActive of one poll
GATHER = 0.1  # s in which changes of the view are gathered before the streams are told
LOOKS_TAKE = 0.01  # s of a round, after the streams were told; with more to do the next round comes at once
REST = 9.0  # s of rest for each second of such work: a tenth of the time


class Answer(Struct, frozen=True):
    """One decision with all that it rests on. Times: `at` monotonic, `wall` Unix."""

    trigger: Trigger
    fleet: Fleet
    result: Decision | Unknown
    at: float
    wall: float
    version: int  # of the view


class Entry:
    """What is kept of one ScaledObject (with one set of metadata)."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self.trigger: Trigger | None = None
        self.error = ""  # why there is no trigger
        self.memory = Memory()
        self.latest: Answer | None = None
        self.polled: tuple[float, Answer] | None = None  # what the last GetMetrics was told, and when
        self.asked = 0.0
        self.looked = -1  # slot of the desk's clock in which the desk looked at it
        self.recorded = 0.0
        self.records: deque[bytes] = deque(maxlen=MOST_RECORDS)
        self.reasons: Counter[str] = Counter()
        self.counted: Answer | None = None  # the last in `reasons`
        self.watchers: set[Watch] = set()


class Watch:
    """What one open stream waits on. `event` is set when `active` may have changed."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.active: bool | None = None  # None: not known

    def tell(self, result: Decision | Unknown) -> None:
        # Unknown is no news: KEDA goes on with what it was told.
        if isinstance(result, Decision) and result.active is not self.active:
            self.active = result.active
            self.event.set()


class Desk:
    def __init__(
        self,
        views: Callable[[], Sequence[NodeView]],
        version: Callable[[], int],
        changed: asyncio.Event,
        clock: Callable[[], float],
        wall: Callable[[], float],
        journal: Callable[[bytes], None] | None = None,
    ) -> None:
        """changed: is set whenever the version has grown."""
        self._views = views
        self._version = version
        self._clock = clock
        self._wall = wall
        self._journal = journal
        self._entries: OrderedDict[tuple[str, str, bytes], Entry] = OrderedDict()
        self._changed = changed

    def metrics(self, namespace: str, name: str, metadata: Mapping[str, str]) -> Answer:
        """What GetMetrics answers from. Raises TriggerError."""
        entry = self._entry(namespace, name, metadata)
        answer = self._renew(entry)
        entry.polled = (self._clock(), answer)
        return answer

    def activity(self, namespace: str, name: str, metadata: Mapping[str, str]) -> Answer:
        """What IsActive answers from: the same as GetMetrics of the same poll. Raises TriggerError."""
        entry = self._entry(namespace, name, metadata)
        if entry.polled is not None and self._clock() - entry.polled[0] <= ONE_POLL:
            return entry.polled[1]
        return self._renew(entry)

    @contextmanager
    def watch(self, namespace: str, name: str, metadata: Mapping[str, str]) -> Iterator[Watch]:
        """Told of every change of activity while the context is open. Bad metadata: never told anything.

        (GetMetrics says what is wrong; an error on a stream would make KEDA back off for good.)
        """
        watch = Watch()
        try:
            entry = self._entry(namespace, name, metadata)
        except TriggerError:
            yield watch
            return
        entry.watchers.add(watch)
        try:
            watch.tell(self._renew(entry).result)
            yield watch
        finally:
            entry.watchers.discard(watch)
            entry.asked = self._clock()

    async def run(self) -> None:
        """Look at every object in time and tell the streams, until cancelled; spends a tenth of the time at most.

        Streams go first. With more objects than that allows for, each is looked at less often, the longest unseen
        first; the outlook makes up for what it missed.
        """
        more = False
        while True:
            if not more:
                await self._news()
            self._changed.clear()
            spent = 0.0
            for entry in [entry for entry in self._entries.values() if entry.watchers]:
                spent += self._look(entry)
                await asyncio.sleep(0)  # calls go before
            looks = self._unseen()
            began = spent
            while looks and spent - began < LOOKS_TAKE:
                spent += self._look(looks.pop())
                await asyncio.sleep(0)
            more = bool(looks)
            self._forget()
            await asyncio.sleep(max(GATHER, REST * spent) * random.uniform(0.9, 1.0))  # noqa: S311 -- no secret

    async def _news(self) -> None:
        """Until the view has changed, or ages have grown."""
        try:
            async with asyncio.timeout(RENEW_AFTER):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _unseen(self) -> list[Entry]:
        """Whose look in this slot is still to come; the one that was looked at longest ago is last."""
        slot = int(self._clock() / forecast.SLOT)
        due = [entry for entry in self._entries.values() if entry.trigger is not None and entry.looked < slot]
        return sorted(due, key=lambda entry: entry.looked, reverse=True)

    def _look(self, entry: Entry) -> float:
        """Seconds that it took."""
        before = self._clock()
        slot = int(before / forecast.SLOT)
        due, entry.looked = entry.looked < slot, slot
        try:
            self._renew(entry, asked=bool(entry.watchers), anew=due)
        except Exception:
            # Whatever went wrong harms this object alone; its GetMetrics fails, too.
            log.exception("%s/%s: no decision", entry.namespace, entry.name)
        return self._clock() - before

    def entries(self) -> list[Entry]:
        """One for each ScaledObject, the one asked for last, by name."""
        newest: dict[tuple[str, str], Entry] = {}
        for entry in self._entries.values():
            kept = newest.get((entry.namespace, entry.name))
            if kept is None or entry.asked >= kept.asked:
                newest[entry.namespace, entry.name] = entry
        return [newest[key] for key in sorted(newest)]

    def _entry(self, namespace: str, name: str, metadata: Mapping[str, str]) -> Entry:
        check_names(namespace, name)
        key = (namespace, name, _digest(metadata))
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(namespace, name)
            try:
                entry.trigger = parse(namespace, name, metadata)
            except TriggerError as error:
                entry.error = str(error)
                log.warning("%s", error)
        self._entries.move_to_end(key)
        entry.asked = self._clock()
        if len(self._entries) > MOST_OBJECTS:
            # One with open streams stays, or they would never be told again; --streams.max bounds how many.
            oldest = next((old for old, kept in self._entries.items() if not kept.watchers and kept is not entry), None)
            if oldest is not None:
                del self._entries[oldest]
        if entry.trigger is None:
            raise TriggerError(entry.error)
        return entry

    def _renew(self, entry: Entry, asked: bool = True, anew: bool = False) -> Answer:
        """asked: somebody waits for the answer. anew: even if nothing can have changed it much."""
        now, version, latest = self._clock(), self._version(), entry.latest
        if latest is not None:
            age = now - latest.at
            if age < AT_LEAST_APART or (latest.version == version and age < RENEW_AFTER and not anew):
                if asked:
                    self._count(entry, latest)
                return latest
        trigger = entry.trigger
        assert trigger is not None, "an entry without a trigger is never renewed"  # noqa: S101 -- for the type
        seen = recall(fleet(self._views(), trigger, now), entry.memory)
        result, entry.memory = decide(trigger, seen, entry.memory, now)
        entry.latest = answer = Answer(trigger, seen, result, now, self._wall(), version)
        changed = differs(latest.result if latest else None, result)
        if asked or changed:
            self._count(entry, answer)
        self._record(entry, answer, changed)
        for watch in entry.watchers:
            watch.tell(result)
        return answer

    def _count(self, entry: Entry, answer: Answer) -> None:
        if entry.counted is not answer:
            entry.counted = answer
            entry.reasons[answer.result.reason if isinstance(answer.result, Decision) else "unknown"] += 1

    def _record(self, entry: Entry, answer: Answer, changed: bool) -> None:
        if not changed and answer.at - entry.recorded < RECORD_EVERY:
            return
        entry.recorded = answer.at
        full = record(answer.trigger, answer.fleet, answer.result, answer.wall)
        entry.records.append(short(full))
        if self._journal is not None:
            self._journal(line(full))
        if changed:
            level = logging.INFO if isinstance(answer.result, Decision) else logging.WARNING
            log.log(level, "%s/%s: %s", entry.namespace, entry.name, full.explanation)

    def _forget(self) -> None:
        limit = self._clock() - FORGET_AFTER
        old = [key for key, entry in self._entries.items() if entry.asked < limit and not entry.watchers]
        for key in old:
            del self._entries[key]


def _digest(metadata: Mapping[str, str]) -> bytes:
    """Tells metadata apart without keeping values, which may be secrets."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(metadata.items()):
        for text in (key, value):
            data = text.encode()
            digest.update(len(data).to_bytes(4, "big") + data)
    return digest.digest()
