"""The node's pods as the cluster last told of them: what is kept of each, and the targets that follow.

May not be in here: asking (kubernetes.py, kubelet_pods.py), what a pod means (core/pods.py).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from exporter.core import pod_json, pods
from exporter.core.model_engines import EngineTarget, PodFacts
from exporter.core.pod_json import BadJson
from exporter.core.pods import Rules, Seen

log = logging.getLogger("exporter.kubernetes")

#: Pods that are kept. A node has 250 at most by its kubelet's own measure; of these only inference servers are kept.
MAX_PODS = 1024
#: Complaints that are remembered as said.
_MAX_SAID = 1024

Place = tuple[str, str]  # namespace, name


class Pods:
    """By scope: the namespace that is listed, "" for all."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._seen: dict[str, dict[Place, Seen]] = {}
        self._said: set[str] = set()
        self._pulls: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {}  # uid -> pulling, pulled
        self._targets: tuple[EngineTarget, ...] = ()
        self._facts: Mapping[Place, PodFacts] = {}
        self.node_created: float | None = None  # Unix seconds

    def targets(self) -> Sequence[EngineTarget]:
        """By name of the pod; a URL of two pods (in the host's network) is the first's that declares the port."""
        return self._targets

    def facts(self) -> Mapping[Place, PodFacts]:
        return self._facts

    def read(self, raw: bytes | memoryview) -> tuple[Place, Seen | None]:
        """A pod as it was sent. None: it is no inference server. Raises BadJson."""
        pod = pod_json.pod(raw)
        place = (pod.metadata.namespace, pod.metadata.name)
        seen = pods.look(pod, self._rules)
        for note in (seen,) if isinstance(seen, str) else seen.notes:
            if note:
                self.say(f"pod {place[0]}/{place[1]}: {note}")
        return place, None if isinstance(seen, str) else seen

    def page(self, items: Iterable[bytes | memoryview], into: dict[Place, Seen]) -> None:
        """The inference servers of a page of a list."""
        for raw in items:
            try:
                place, seen = self.read(raw)
            except BadJson as error:
                self.say(f"a pod cannot be read and is left out: {error}; please report it")
                continue
            if seen is not None and len(into) < MAX_PODS:
                into[place] = seen

    def replace(self, scope: str, found: dict[Place, Seen]) -> bool:
        """All of the scope's. Whether that changes anything."""
        changed = self._seen.get(scope) != found
        self._seen[scope] = found
        if changed:
            self.refresh()
        return changed

    def put(self, scope: str, place: Place, seen: Seen | None) -> bool:
        """One, or that it is none (any more). Whether that changes anything."""
        known = self._seen.setdefault(scope, {})
        if known.get(place) == seen or (seen and place not in known and len(known) >= MAX_PODS):
            return False
        if seen is None:
            del known[place]
        else:
            known[place] = seen
        self.refresh()
        return True

    def pulled(self, uid: str, pulling: Mapping[str, float], pulled: Mapping[str, float]) -> None:
        """When a pod's images were pulled. It is forgotten with the pod."""
        self._pulls[uid] = pulling, pulled
        self.refresh()

    def refresh(self) -> None:
        """Make what is offered of what is known."""
        known = sorted(((place, seen) for scope in self._seen.values() for place, seen in scope.items()), key=_place)
        uids = {seen.facts.uid for _, seen in known}
        self._pulls = {uid: times for uid, times in self._pulls.items() if uid in uids}
        found: dict[str, EngineTarget] = {}
        declared: set[str] = set()
        facts: dict[Place, PodFacts] = {}
        for place, seen in known:
            pulling, pulled = self._pulls.get(seen.facts.uid, ({}, {}))
            facts[place] = replace(seen.facts, node_created=self.node_created, pulling=pulling, pulled=pulled)
            if seen.target and (seen.target.url not in found or (seen.declared and seen.target.url not in declared)):
                found[seen.target.url] = seen.target
                declared |= {seen.target.url} if seen.declared else set()
        self._targets, self._facts = tuple(found.values()), facts

    def say(self, line: str) -> None:
        """Once."""
        if line not in self._said:
            if len(self._said) >= _MAX_SAID:
                self._said.clear()
            self._said.add(line)
            log.warning("%s", line)


def _place(known: tuple[Place, Seen]) -> Place:
    return known[0]
