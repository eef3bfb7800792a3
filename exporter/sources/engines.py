"""Inference servers: polls their metrics pages, all at one tick, and keeps the last answer of each.

May not be in here: what a page means (core/engines.py), the limits of a fetch (kit/fetch.py), what becomes of the
readings. Which servers there are comes from the operator alone: a list, or a file that is read again when it changes.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from exporter.core import engines
from exporter.core.exposition import ExpositionError
from exporter.core.model import Collector, EngineScrape, EngineTarget, PodRef
from exporter.kit.config import ConfigError, shown
from exporter.kit.fetch import Fetcher, FetchError
from exporter.kit.tasks import crash_message

log = logging.getLogger("exporter.engines")

#: More targets than a node can hold are a mistake in the list.
MAX_TARGETS = 256


class EngineSource:
    """The newest answer of every target, and how often it failed.

    targets: the servers to poll, asked at each tick. interval, timeout: seconds. notify: called when there is an
    answer, good or bad.
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
                for url, target in self._watched.items():
                    if url not in self._running:
                        self._running[url] = loop.create_task(self._attempt(target))
                        self._running[url].add_done_callback(partial(self._ended, url))
                # Ticks that passed while the machine stood still are not caught up on.
                tick = max(tick + self._interval, loop.time())
                await asyncio.sleep(tick - loop.time())
        finally:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _watch(self) -> None:
        """Take over the list of targets; what is known of those that left it is forgotten, their counts with it."""
        self._watched = {target.url: target for target in reversed(self._targets())}
        for known in (self._scrapes, self._last_good):
            for url in known.keys() - self._watched.keys():
                del known[url]
        for url, reason in list(self.errors):
            if url not in self._watched:
                del self.errors[url, reason]

    def _ended(self, url: str, _: asyncio.Task[None]) -> None:
        self._running.pop(url, None)

    async def _attempt(self, target: EngineTarget) -> None:
        at = time.monotonic()  # of the start: what the server tells is at most so old
        try:
            body = await self._fetcher.get(target.url, self._timeout)
            kind, readings = engines.read(body)
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
            scrape = EngineScrape(target, at, time.monotonic() - at, kind, readings)
        if target.url in self._watched:
            self._keep(scrape)
            self._notify()

    def _keep(self, scrape: EngineScrape) -> None:
        url = scrape.target.url
        before = self._scrapes.get(url)
        self._scrapes[url] = scrape
        if scrape.error:
            self.errors[url, scrape.error] = self.errors.get((url, scrape.error), 0) + 1
            if before is None or not before.error:
                log.warning("engine fails: %s", scrape.message)
        else:
            self._last_good[url] = scrape
            if before is not None and before.error:
                log.info("engine recovered: %s", url)


class TargetFile:
    """The targets of a file, read again when the file has changed; a bad file keeps the last good list.

    Call it to have them. Raises ConfigError on construction only.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._targets = load_targets(path)

    def __call__(self) -> tuple[EngineTarget, ...]:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._targets = load_targets(self._path)
            except ConfigError as error:
                log.error("%s; the list of before stays", error)
            else:
                log.info("file %s: read again, %d targets", self._path, len(self._targets))
        return self._targets


def _stamp(path: str) -> tuple[int, ...]:
    """What differs when a file was written or replaced; () if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size


def load_targets(path: str) -> tuple[EngineTarget, ...]:
    """The targets that a YAML or JSON file lists. Raises ConfigError naming the file, the entry and the fix."""
    from exporter.kit import yaml_file  # noqa: PLC0415 -- PyYAML is 3 MB of RSS

    content = yaml_file.load(path, "engines.file", "a list of URLs or of mappings with url")
    if content is None:
        raise ConfigError(f"file {path}: is empty; write [] for no engines")
    try:
        return targets(content)
    except ValueError as error:
        raise ConfigError(f"file {path}: {error}") from None


def targets(raw: Any) -> tuple[EngineTarget, ...]:
    """Targets from URLs in a text with commas, or a list of URLs and of mappings. Raises ValueError("...; fix")."""
    entries = [text.strip() for text in raw.split(",") if text.strip()] if isinstance(raw, str) else raw
    if not isinstance(entries, list | tuple):
        raise ValueError(f"holds a {type(raw).__name__}; write a list of URLs or of mappings with url")
    if len(entries) > MAX_TARGETS:
        raise ValueError(f"{len(entries)} entries; at most {MAX_TARGETS} are allowed, one for each server of this node")
    found: dict[str, EngineTarget] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            target = _target({"url": entry} if isinstance(entry, str) else entry)
            if target.url in found:
                raise ValueError(f"{target.url} is there twice; remove one of them")
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        found[target.url] = target
    return tuple(found.values())


_KEYS = ("url", "namespace", "pod", "container", "labels", "gpus")


def _target(entry: Any) -> EngineTarget:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{shown(entry)} is neither a URL nor a mapping; write a URL, or a mapping with {', '.join(_KEYS)}"
        )
    for key in entry:
        if key not in _KEYS:
            raise ValueError(f"key {shown(key)} is unknown; known keys: {', '.join(_KEYS)}")
    pod = PodRef(*(_text(entry, key) for key in ("namespace", "pod", "container")))
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict) or not all(_is_scalar(part) for pair in labels.items() for part in pair):
        raise ValueError("key labels is no mapping of texts; write for example labels: {app: llama}")
    gpus = entry.get("gpus") or []
    if not isinstance(gpus, list) or not all(_is_scalar(gpu) for gpu in gpus):
        raise ValueError('key gpus is no list; write indices or UUIDs, for example gpus: ["0", "1"]')
    return EngineTarget(
        url=_url(_text(entry, "url")),
        pod=pod,
        labels={str(key): str(value) for key, value in labels.items()},
        gpus=tuple(str(gpu) for gpu in gpus),
    )


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is not None and not _is_scalar(value):
        raise ValueError(f"key {key} is no text; write one value")
    return "" if value is None else str(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _url(text: str) -> str:
    """The URL with /metrics where it has no path. Raises ValueError."""
    fix = "write http://host:port/metrics"
    try:
        parts = urlsplit(text)
        port_is_good = parts.port != 0
    except ValueError:
        raise ValueError(f"{shown(text)} is no URL; {fix}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        raise ValueError(f"{shown(text)} is no http or https URL with a host; {fix}")
    if parts.username is not None or parts.password is not None:
        # It would be on every page and in every log line.
        raise ValueError(f"the URL of {parts.hostname} holds credentials; {fix} without them")
    if parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(f"{shown(text)} has a fragment, a blank or a control character; {fix}")
    return parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else text
