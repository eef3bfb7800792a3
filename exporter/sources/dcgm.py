"""dcgm-exporter as a source of GPU samples: its page, every few seconds.

May not be in here: what the page means (core/dcgm.py).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from exporter.core import dcgm
from exporter.core.exposition import ExpositionError
from exporter.core.model import GpuKey, GpuSample, XidEvent
from exporter.core.snapshot import Collector
from exporter.kit.fetch import Fetcher, FetchError
from exporter.kit.tasks import crash_message, keep_running

log = logging.getLogger(__name__)

_FIX = "check --dcgm.url"
#: Seconds after which a GPU that the page has no more is forgotten.
_FORGET_SECONDS = 600.0
#: GPUs and Xids kept; the oldest give way. No node has more, whatever a page says.
_MAX_GPUS = 256
_MAX_XIDS = 1024


class DcgmSource:
    def __init__(self, url: str, fetcher: Fetcher, interval: float = 5.0, timeout: float = 4.0) -> None:
        """Times are seconds: between two readings, and for which one may last."""
        self._url = url
        self._fetcher = fetcher
        self._interval = interval
        self._timeout = timeout
        self._notify: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._samples: dict[GpuKey, GpuSample] = {}
        self._last_xids: Mapping[GpuKey, int] = {}
        self._xids: list[XidEvent] = []
        self._state = Collector("dcgm", False, 0.0, None, f"{url}: not read yet")

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called in the event loop when there is something new."""
        self._notify = notify
        self._task = asyncio.create_task(keep_running(self._run, self._crashed), name="dcgm")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def samples(self) -> Mapping[GpuKey, GpuSample]:
        return dict(self._samples)

    def take_xids(self) -> list[XidEvent]:
        taken, self._xids = self._xids, []
        return taken

    def collectors(self) -> list[Collector]:
        return [self._state]

    def _crashed(self, error: Exception) -> None:
        message = crash_message("dcgm", error)
        log.error(message, exc_info=error)
        self._state = Collector("dcgm", False, 0.0, self._state.last_success, message)
        self._notify()

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                found = self._take(await self._fetcher.get(self._url, self._timeout), began)
                message = "" if found else f"{self._url}: no GPU on the page; {_FIX}"
            except (FetchError, ExpositionError) as error:
                text = str(error)
                message = text if self._url in text else f"{self._url}: {text}"
            if message and message != self._state.message:
                log.warning("dcgm fails: %s", message)
            elif self._state.message and not message:
                log.info("dcgm answers: %s", self._url)
            now = time.monotonic()
            last = self._state.last_success if message else now
            self._state = Collector("dcgm", not message, now - began, last, message)
            self._notify()
            await asyncio.sleep(max(0.0, began + self._interval - now))

    def _take(self, body: bytes, at: float) -> bool:
        """Whether there was a GPU on the page. Raises ExpositionError."""
        page = dcgm.scrape(body, at)
        seen = {sample.info.key: sample for sample in page.samples}
        boards = {key.uuid for key in seen}
        # A board that is not there any more grows old here; an instance whose board is there was removed by hand.
        kept = {
            key: sample
            for key, sample in self._samples.items()
            if at - sample.at <= _FORGET_SECONDS and not (key.instance and key.uuid in boards)
        }
        newest = sorted({**kept, **seen}.items(), key=lambda item: -item[1].at)[:_MAX_GPUS]
        self._samples = dict(newest)
        self._xids += dcgm.xid_edges(self._last_xids, page.last_xids, at)
        self._xids = self._xids[-_MAX_XIDS:]
        uuids = {key.uuid for key in self._samples}
        last = {**self._last_xids, **page.last_xids}
        self._last_xids = {key: code for key, code in last.items() if key.uuid in uuids}
        return bool(seen)
