"""What the API tells of pods' starts beside the pods themselves: the node's age, and when images were pulled.

May not be in here: what becomes of it (core).

Events cannot be watched by node, and every exporter of a large cluster would be sent all its pulls. So the events of a
pod are listed, once its containers have started: all are there then. Nothing else rests on either; without the rights
it is said once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import NamedTuple

from exporter.core import pod_json, pods
from exporter.core.model_engines import PodFacts
from exporter.core.pod_json import BadJson
from exporter.kit.fetch import FetchError
from exporter.kit.tasks import crash_message
from exporter.sources.kubernetes_client import EVENTS, NODES, Client
from exporter.sources.kubernetes_pods import Pods

log = logging.getLogger("exporter.kubernetes")

DEADLINE = 10.0
#: Seconds after which the API server has forgotten an event (kube-apiserver's --event-ttl is 1 h).
EVENT_SECONDS = 3600.0
#: Seconds between two attempts, and how many there are of a pod's events.
AGAIN_SECONDS, ATTEMPTS = 10.0, 3
#: Seconds between two attempts after the account's rights did not do.
DENIED_SECONDS = 600.0
#: Events of one pod that are read. One that is started again and again repeats itself in few.
MAX_EVENTS = 500


class _Asked(NamedTuple):
    started: frozenset[str]  # containers that had started when its events were asked for last
    attempts: int
    again: float | None  # when to ask again, monotonic seconds; None: no more


class Starts:
    def __init__(self, client: Client, node: str, known: Pods) -> None:
        self._client = client
        self._node = node
        self._pods = known
        self._news = asyncio.Event()
        self._asked: dict[str, _Asked] = {}  # uid
        self._denied: dict[str, float] = {}  # what -> when to ask again, monotonic seconds
        self._said: set[str] = set()

    def look(self) -> None:
        """The pods have changed."""
        self._news.set()

    def crashed(self, error: Exception) -> None:
        log.error(crash_message("kubernetes starts", error), exc_info=error)

    async def run(self, notify: Callable[[], None]) -> None:
        """Ask until cancelled."""
        node_due = time.monotonic()
        while True:
            self._news.clear()
            if self._pods.node_created is None and self._may("nodes") and time.monotonic() >= node_due:
                node_due = time.monotonic() + AGAIN_SECONDS
                if await self._ask_node():
                    notify()
            for facts in list(self._due()):
                if self._may("events") and await self._ask_events(facts):
                    notify()
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _may(self, what: str) -> bool:
        return time.monotonic() >= self._denied.get(what, 0.0)

    async def _ask_node(self) -> bool:
        ask = partial(self._client.get, NODES, DEADLINE, name=self._node)
        body = await self._get("nodes", ask, f"get node {self._node}", "get")
        if body is None:
            return False
        try:
            self._pods.node_created = pods.seconds(pod_json.node(body).metadata.creation_timestamp)
        except BadJson as error:
            self._say(f"{self._client.url}: node {self._node}: the answer is no node ({error}); its age is not known")
        self._pods.refresh()
        return True

    def _due(self) -> Iterator[PodFacts]:
        """Pods with containers that have started since their events were asked for."""
        facts = {each.uid: each for each in self._pods.facts().values()}
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in facts}
        wall, now = time.time(), time.monotonic()
        for uid, each in facts.items():
            asked = self._asked.get(uid)
            new = asked is None or not asked.started >= each.started.keys()
            again = asked is not None and asked.again is not None and now >= asked.again
            # By the API server's clock, which may be another: a minute does not matter.
            if each.started and (new or again) and wall - max(each.started.values()) < EVENT_SECONDS:
                yield each

    async def _ask_events(self, facts: PodFacts) -> bool:
        before = self._asked.get(facts.uid)
        started = frozenset(facts.started)
        attempts = before.attempts + 1 if before and before.started >= started else 1
        again = time.monotonic() + AGAIN_SECONDS if attempts < ATTEMPTS else None
        self._asked[facts.uid] = _Asked(started, attempts, again)
        query = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.uid={facts.uid}", "limit": str(MAX_EVENTS)}
        ask = partial(self._client.get, EVENTS, DEADLINE, namespace=facts.namespace, query=query)
        body = await self._get("events", ask, f"list events in namespace {facts.namespace}", "list")
        if body is None:
            return False
        try:
            events = [pod_json.event(raw) for raw in pod_json.listing(body).items or ()]
        except BadJson as error:
            self._say(f"{self._client.url}: events: the answer is no list of events ({error}); pulls are not known")
            return False
        pulling, pulled = pods.pulls(event for event in events if event.involved_object.uid == facts.uid)
        self._pods.pulled(facts.uid, pulling, pulled)
        if pulled.keys() >= started:
            self._asked[facts.uid] = _Asked(started, attempts, None)
        return True

    async def _get(self, what: str, ask: Callable[[], Awaitable[bytearray]], doing: str, verb: str) -> bytearray | None:
        """None: not this time."""
        try:
            body = await ask()
        except FetchError as error:
            if error.status == 403:
                self._denied[what] = time.monotonic() + DENIED_SECONDS
                self._say(
                    f"{self._client.url}: status 403: this program's account may not {doing}: phases of cold starts "
                    f"are missing; grant it {verb} on {what} (deploy/plimsoll.yaml does)",
                    what,
                )
            else:
                self._say(f"{self._client.url}: {doing}: {error}", what)
            return None
        self._said.discard(what)
        return body

    def _say(self, line: str, what: str = "") -> None:
        """Once, until it is well again."""
        if (what or line) not in self._said:
            self._said.add(what or line)
            log.warning("%s", line)
