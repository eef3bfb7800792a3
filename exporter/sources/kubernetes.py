"""The node's pods from the Kubernetes API: listed once, then watched.

May not be in here: what a pod means (core/pods.py), what is kept of it (kubernetes_pods.py), how the server is spoken
to (kubernetes_client.py), images and the node's age (kubernetes_starts.py).

The API server is asked for this node's pods alone. A watch that ends well, or that breaks, goes on where it was; where
that cannot be (410, a watch that is silent for too long, an event that makes no sense), and after a few failures, the
list is asked for again, whole: what it lacks is gone. Until then the last good list stands.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from exporter.core import pod_json
from exporter.core.model_engines import EngineTarget, PodFacts
from exporter.core.pod_json import BadJson
from exporter.core.pods import Rules, Seen
from exporter.core.snapshot import Collector
from exporter.kit.fetch import FetchError
from exporter.kit.tasks import crash_message, keep_running
from exporter.sources.kubernetes_client import PODS, Client
from exporter.sources.kubernetes_cluster import Cluster
from exporter.sources.kubernetes_pods import Place, Pods
from exporter.sources.kubernetes_starts import Starts

log = logging.getLogger("exporter.kubernetes")

#: Pods of a page: with 10 kB each, which is usual, a page is 1 MB.
PAGE = 100
#: Seconds that the API server has to answer a list's page.
DEADLINE = 10.0
#: Seconds after which the API server ends a watch, and this program asks on.
WATCH_SECONDS = 240.0
#: Seconds of silence after which a watch counts as frozen: twice as long as between two of its bookmarks.
SILENCE_SECONDS = 120.0
#: Seconds between two attempts: the first, and the most. Each is cut by up to a half at random, so that the exporters
#: of a cluster do not come back at once.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Failures in a row after which the list is asked for again.
RELIST_AFTER = 3


class _Stale(Exception):
    """The watch cannot go on from here. str() is why."""


class _Scope:
    """What is listed and watched at once: a namespace, or "" for all."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.version = ""  # where the watch goes on; "": by a list
        self.failures = 0  # in a row
        self.state: Collector | None = None
        self.said: set[str] = set()  # kinds of failures that were logged since it last succeeded


class KubernetesSource:
    def __init__(self, cluster: Cluster, rules: Rules, selector: str = "") -> None:
        """selector: the label selector of `rules` as it was written: the API server filters by it."""
        self._client = Client(cluster)
        self._query = {"fieldSelector": f"spec.nodeName={rules.node}"} | (
            {"labelSelector": selector} if selector else {}
        )
        self._pods = Pods(rules)
        self._starts = Starts(self._client, rules.node, self._pods)
        # One a namespace: rights in these namespaces are then enough.
        self._scopes = [_Scope(namespace) for namespace in sorted(rules.namespaces) or [""]]
        self._notify: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, notify: Callable[[], None]) -> None:
        """notify is called in the event loop when there is something new."""

        def news() -> None:
            self._starts.look()
            notify()

        self._notify = news
        self._tasks = [
            asyncio.create_task(keep_running(partial(self._follow, scope), partial(self._crashed, scope)))
            for scope in self._scopes
        ]
        self._tasks.append(asyncio.create_task(keep_running(partial(self._starts.run, notify), self._starts.crashed)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def targets(self) -> Sequence[EngineTarget]:
        """Of the last good lists and what was told since, however long ago that is."""
        return self._pods.targets()

    def facts(self) -> Mapping[Place, PodFacts]:
        return self._pods.facts()

    def collectors(self) -> list[Collector]:
        """One; none before the first answer."""
        states = [scope.state for scope in self._scopes if scope.state]
        if not states:
            return []
        failed = [state for state in states if not state.success]
        at = [state.last_success for state in states if state.last_success is not None]
        return [
            Collector(
                "kubernetes",
                not failed,
                max(state.seconds for state in states),
                min(at) if len(at) == len(self._scopes) else None,
                failed[0].message if failed else "",
            )
        ]

    def _crashed(self, scope: _Scope, error: Exception) -> None:
        message = crash_message("kubernetes", error)
        log.error(message, exc_info=error)
        scope.version = ""
        scope.said.add("crash")
        self._tell(scope, 0.0, message, "crash")

    async def _follow(self, scope: _Scope) -> None:
        while True:
            began = time.monotonic()
            rest = 0.0
            try:
                if not scope.version:
                    scope.version = await self._list(scope)
                    if not scope.failures:  # else it is well again when it is watched, too
                        self._tell(scope, time.monotonic() - began)
                began = time.monotonic()
                await self._watch(scope)
                brief = time.monotonic() - began < FIRST_PAUSE
                scope.failures = scope.failures + 1 if brief else 0
                rest = pause(scope.failures) if scope.failures > 1 else 0.0
            except (_Stale, FetchError, BadJson) as error:
                scope.failures += 1
                status = error.status if isinstance(error, FetchError) else 0
                silent = isinstance(error, FetchError) and error.reason == "timeout"
                if not isinstance(error, FetchError) or status == 410 or silent or scope.failures % RELIST_AFTER == 0:
                    scope.version = ""
                # That a version is too old is nobody's fault: it is no failure the first time.
                if scope.failures > 1 or not (status == 410 or isinstance(error, _Stale)):
                    kind = f"{error.reason} {status}" if isinstance(error, FetchError) else type(error).__name__
                    self._tell(scope, time.monotonic() - began, self._line(scope, error, status), kind)
                    rest = error.retry_after if isinstance(error, FetchError) else 0.0
                    rest = max(rest, pause(scope.failures))
            # A watch that ends at once is not asked for again at once.
            await asyncio.sleep(max(rest, min(FIRST_PAUSE, began + FIRST_PAUSE - time.monotonic()), 0.0))

    async def _list(self, scope: _Scope) -> str:
        """Take the whole list over, and say where a watch goes on. Raises FetchError, BadJson, _Stale."""
        found: dict[Place, Seen] = {}
        query: dict[str, str] = {**self._query, "limit": str(PAGE)}
        while True:
            try:
                body = await self._client.get(PODS, DEADLINE, namespace=scope.namespace, query=query)
            except FetchError as error:
                if error.reason != "too_large" or query["limit"] == "1":
                    raise
                query["limit"] = str(int(query["limit"]) // 2)
                continue
            page = pod_json.listing(body)
            self._pods.page(page.items or (), found)
            if page.metadata.continue_:
                query["continue"] = page.metadata.continue_
                continue
            if not page.metadata.resource_version:
                raise _Stale("the list has no resourceVersion")
            if self._pods.replace(scope.namespace, found):
                self._notify()
            return page.metadata.resource_version

    async def _watch(self, scope: _Scope) -> None:
        """Take over what happens until the API server ends the watch. Raises FetchError, BadJson, _Stale."""
        query = {
            **self._query,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": f"{WATCH_SECONDS * (1 + random.random() / 4):.0f}",  # noqa: S311 -- spreads load
            "resourceVersion": scope.version,
        }
        await self._client.watch(
            PODS,
            partial(self._take, scope),
            SILENCE_SECONDS,
            namespace=scope.namespace,
            query=query,
            opened=partial(self._tell, scope, 0.0),
        )

    def _take(self, scope: _Scope, line: bytes) -> None:
        """One event. Raises BadJson, _Stale."""
        event = pod_json.watch_event(line)
        if event.type == "ERROR":
            failure = pod_json.failure(event.object)
            raise _Stale(f"the watch ended with {failure.code} {failure.reason}")
        version = pod_json.bookmark(event.object).metadata.resource_version
        if not version:
            raise _Stale("an event has no resourceVersion")
        if event.type != "BOOKMARK":
            place, seen = self._pods.read(event.object)
            if self._pods.put(scope.namespace, place, None if event.type == "DELETED" else seen):
                self._notify()
        scope.version, scope.failures = version, 0
        self._tell(scope, 0.0)

    def _line(self, scope: _Scope, error: Exception, status: int) -> str:
        where = f"in namespace {scope.namespace}" if scope.namespace else "in all namespaces"
        if status == 403:
            return (
                f"{self._client.url}: status 403: this program's account may not list and watch pods {where}; grant "
                "it list and watch on pods (deploy/plimsoll.yaml does)"
            )
        if isinstance(error, BadJson):
            return f"{self._client.url}: pods {where}: the answer is no list of pods ({error}); check the URL"
        if isinstance(error, _Stale):
            return f"{self._client.url}: pods {where}: {error}; the list is asked for again"
        return f"{self._client.url}: pods {where}: {error}"

    def _tell(self, scope: _Scope, took: float, message: str = "", kind: str = "") -> None:
        """kind: of the failure; each is logged once until all is well."""
        before, now = scope.state, time.monotonic()
        if message and kind not in scope.said:
            scope.said.add(kind)
            log.warning("kubernetes fails: %s", message)
        elif not message and (before is None or before.message):
            scope.said.clear()
            log.info("kubernetes answers: %s: %d targets", self._client.url, len(self._pods.targets()))
        last = before.last_success if before else None
        took = took or (before.seconds if before else 0.0)  # a watch's own length is no measure of anything
        scope.state = Collector("kubernetes", not message, took, last if message else now, message)
        if before is None or before.message != message:
            self._notify()


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    most = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
    return most * (1 - random.random() / 2)  # noqa: S311 -- spreads load
