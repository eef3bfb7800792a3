"""Inference servers: polls their metrics pages, one after the other at each tick, and keeps the last answer of each.

May not be in here: what a page means (core/engines.py), the limits of a fetch (kit/fetch.py), which servers there are
(target_file.py, kubernetes.py), what becomes of the readings.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from exporter.core import engines
from exporter.core.exposition import ExpositionError
from exporter.core.model_engines import EngineScrape, EngineTarget
from exporter.core.snapshot import Collector
from exporter.kit.fetch import Fetcher, FetchError
from exporter.kit.tasks import crash_message

log = logging.getLogger("exporter.engines")

_BLIND = "engine is blind: %s: the page of this %s has no %s; look for new names in the server's release notes"

#: Share of the interval over which the polls of a tick are spread, and that reading their pages may take.
SPREAD = 0.8
#: What is left, a poll later, of the time that a page once took: one that is small now and then is not taken for small.
_FADES = 0.8
#: Pages above fetch.LARGE that are kept at once: with 8 MiB each, more would take the program over its limit of memory.
LARGE_PAGES = 2


class EngineSource:
    """The newest answer of every target, and how often it failed.

    targets: the servers to poll, asked at each tick. interval, timeout: seconds. notify: called when there is an
    answer, good or bad.

    A server is asked once those before it had the time that reading their pages took last: so large pages neither pile
    up in memory nor keep the event loop from its other work, and small ones come together. Where all pages take longer
    than there is time, those that take more than their share wait for later ticks, in turn; the others do not.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[EngineTarget]],
        fetcher: Fetcher,
        interval: float,
        timeout: float,
        notify: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._fetcher = fetcher
        self._interval = interval
        self._timeout = timeout
        self._notify = notify
        self._watched: dict[str, EngineTarget] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._took: dict[str, float] = {}  # url -> seconds that its page took to be read
        self._asked: dict[str, float] = {}  # url -> when, of those that were asked; the longest ago first
        self._room = 0.0  # seconds of reading that this tick has left; below 0: borrowed from the next
        self._turn = asyncio.Lock()  # pages that came together are read with a turn of the loop between them
        self._large = asyncio.Semaphore(LARGE_PAGES)
        self._scrapes: dict[str, EngineScrape] = {}
        self._last_good: dict[str, EngineScrape] = {}
        self.errors: dict[tuple[str, str], int] = {}  # (url, reason) -> count

    def scrapes(self) -> Mapping[str, EngineScrape]:
        """The last attempt at each target, by URL."""
        return dict(self._scrapes)

    def last_good(self) -> Mapping[str, EngineScrape]:
        """The last attempt at each target that gave readings, by URL."""
        return dict(self._last_good)

    def collectors(self) -> list[Collector]:
        """One: it succeeds if the last attempt at every target did, and takes as long as the slowest of them."""
        scrapes = list(self._scrapes.values())
        failed = [scrape for scrape in scrapes if scrape.error]
        good = [scrape.at for scrape in self._last_good.values()]
        message = f"{len(failed)} of {len(scrapes)} targets fail; {failed[0].message}" if failed else ""
        seconds = max((scrape.seconds for scrape in scrapes), default=0.0)
        return [Collector("engines", not failed, seconds, max(good, default=None), message)]

    async def run(self) -> None:
        """Poll until cancelled. A target that has not answered at the next tick is left alone until it has."""
        loop = asyncio.get_running_loop()
        tick = loop.time()
        try:
            while True:
                self._watch()
                after = 0.0
                for target in self._due():
                    took = self._took.get(target.url, 0.0)
                    self._room -= took
                    self._asked.pop(target.url, None)
                    self._asked[target.url] = tick
                    task = self._running[target.url] = loop.create_task(self._attempt(target, after))
                    task.add_done_callback(partial(self._ended, target.url))
                    after = min(after + took, SPREAD * self._interval)
                # Ticks that passed while the machine stood still are not caught up on.
                tick = max(tick + self._interval, loop.time())
                await asyncio.sleep(tick - loop.time())
        finally:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _due(self) -> Iterator[EngineTarget]:
        """Whom to ask at this tick: all whose pages are read within their share; then, while there is room, others."""
        budget = SPREAD * self._interval
        if not self._turn.locked():  # else pages of the last tick are being read yet
            self._room = min(budget, self._room + budget)
        idle = [target for url, target in self._watched.items() if url not in self._running]
        share = budget / max(1, len(self._watched))
        heavy = {target.url: target for target in idle if self._took.get(target.url, 0.0) > share}
        yield from (target for target in idle if target.url not in heavy)
        for target in [heavy[url] for url in self._asked if url in heavy]:
            if self._room <= 0:
                return
            yield target

    def _watch(self) -> None:
        """Take over the list of targets; what is known of those that left it is forgotten, their counts with it."""
        self._watched = {target.url: target for target in reversed(self._targets())}
        for known in (self._scrapes, self._last_good, self._took, self._asked):
            for url in known.keys() - self._watched.keys():
                del known[url]
        for url, reason in list(self.errors):
            if url not in self._watched:
                del self.errors[url, reason]

    def _ended(self, url: str, _: asyncio.Task[None]) -> None:
        self._running.pop(url, None)

    async def _attempt(self, target: EngineTarget, after: float) -> None:
        await asyncio.sleep(after)
        at = time.monotonic()  # of the start: what the server tells is at most so old
        try:
            async with AsyncExitStack() as held:
                large = partial(held.enter_async_context, self._large)
                body = await self._fetcher.get(target.url, self._timeout, target.access, large=large)
                await held.enter_async_context(self._turn)
                began = time.monotonic()
                try:
                    kind, readings, lacking = engines.read(body)
                finally:
                    # Of a page that is refused at its end, too.
                    self._took[target.url] = max(time.monotonic() - began, _FADES * self._took.get(target.url, 0.0))
                    await asyncio.sleep(0)  # what else waits for the loop comes before the next page
        except (FetchError, ExpositionError) as error:
            scrape = EngineScrape(
                target, at, time.monotonic() - at, error=error.reason, message=f"{target.url}: {error}"
            )
        except Exception as error:
            # A fault in this program harms this target only, and is said once.
            message = crash_message(target.url, error)
            if target.url not in self._scrapes or self._scrapes[target.url].message != message:
                log.error("%s", message, exc_info=error)
            scrape = EngineScrape(target, at, time.monotonic() - at, error="crashed", message=message)
        else:
            scrape = EngineScrape(target, at, time.monotonic() - at, kind, readings, lacking)
        if target.url in self._watched:
            self._keep(scrape)
            self._notify()

    def _keep(self, scrape: EngineScrape) -> None:
        url = scrape.target.url
        before = self._scrapes.get(url)
        self._scrapes[url] = scrape
        # What the page lacks leaves its other numbers good; it is counted as an error all the same.
        if reason := scrape.error or ("blind" if scrape.lacking else ""):
            self.errors[url, reason] = self.errors.get((url, reason), 0) + 1
        if scrape.error:
            if before is None or not before.error:
                log.warning("engine fails: %s", scrape.message)
            return
        good = self._last_good.get(url)
        self._last_good[url] = scrape
        if before is not None and before.error:
            log.info("engine recovered: %s", url)
        lacked = good.lacking if good else ()
        if scrape.lacking and scrape.lacking != lacked:
            log.warning(_BLIND, url, scrape.kind, " and no ".join(scrape.lacking))
        if lacked and not scrape.lacking:
            log.info("engine is blind no more: %s", url)
