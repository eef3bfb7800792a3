"""The node's pods from its kubelet: the same list as the API server's, asked for every few seconds.

May not be in here: what a pod means (core/pods.py), what is kept of it (kubernetes_pods.py). Images and the node's age
are not known from here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from exporter.core import pod_json
from exporter.core.model_engines import Access, EngineTarget, PodFacts
from exporter.core.pod_json import BadJson
from exporter.core.pods import Rules, Seen
from exporter.core.snapshot import Collector
from exporter.kit.fetch import JSON, Fetcher, FetchError
from exporter.kit.tasks import crash_message, keep_running
from exporter.sources.kubernetes_pods import Place, Pods

log = logging.getLogger("exporter.kubernetes")

#: Seconds between two questions, and that the kubelet has to answer one.
INTERVAL, DEADLINE = 10.0, 5.0


class KubeletPods:
    def __init__(self, fetcher: Fetcher, url: str, access: Access, rules: Rules) -> None:
        """url: of the kubelet's list of pods. The last good list stands while it does not answer."""
        self._fetcher = fetcher
        self._url = url
        self._access = access
        self._pods = Pods(rules)
        self._notify: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._state: Collector | None = None

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called in the event loop when there is something new."""
        self._notify = notify
        self._task = asyncio.create_task(keep_running(self._run, self._crashed))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def targets(self) -> Sequence[EngineTarget]:
        return self._pods.targets()

    def facts(self) -> Mapping[Place, PodFacts]:
        return self._pods.facts()

    def collectors(self) -> list[Collector]:
        """One; none before the first answer."""
        return [self._state] if self._state else []

    def _crashed(self, error: Exception) -> None:
        message = crash_message("kubernetes", error)
        log.error(message, exc_info=error)
        self._tell(0.0, message)

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            message = ""
            try:
                body = await self._fetcher.get(self._url, DEADLINE, self._access, JSON)
                found: dict[Place, Seen] = {}
                page = pod_json.listing(body)
                if page.items is None:
                    raise BadJson("it has no items")
                self._pods.page(page.items, found)
                self._pods.replace("", found)
            except FetchError as error:
                message = f"{self._url}: {error}"
                if error.status in (401, 403):
                    message = (
                        f"{self._url}: status {error.status}: the kubelet does not let this program's account list "
                        "pods; grant it get on nodes/pods, before Kubernetes 1.33 on nodes/proxy"
                    )
            except BadJson as error:
                message = f"{self._url}: the answer is no list of pods ({error}); check --kubernetes.kubelet-url"
            self._tell(time.monotonic() - began, message)
            await asyncio.sleep(max(0.0, began + INTERVAL - time.monotonic()))

    def _tell(self, took: float, message: str) -> None:
        before = self._state
        if message and (before is None or before.message != message):
            log.warning("kubernetes fails: %s", message)
        elif not message and (before is None or before.message):
            log.info("kubernetes answers: %s: %d targets", self._url, len(self._pods.targets()))
        last = before.last_success if before else None
        self._state = Collector("kubernetes", not message, took, last if message else time.monotonic(), message)
        self._notify()
