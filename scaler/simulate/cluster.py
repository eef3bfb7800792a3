"""A Deployment's pods: scheduled on nodes with GPUs, started in phases, serving, going, restarted.

May not be in here: how many replicas there shall be, nodes (nodes.py), what a replica serves (engine.py), who gets a
request (gateway.py).
"""

import math
from collections import Counter
from random import Random

from scaler.simulate.engine import Engine
from scaler.simulate.model import Fault, Phases, Scenario
from scaler.simulate.nodes import Nodes

PENDING, LOADING, READY, GOING = "pending", "loading", "ready", "going"


class Pod:
    """One replica. Times are None until they are known."""

    __slots__ = (
        *("created", "engine", "fault", "going_since", "name", "node", "number", "ready_at", "restarts", "scheduled"),
        *("started", "state", "uid"),
    )

    def __init__(self, number: int, created: float, uid: float) -> None:
        self.number = number
        self.name = f"replica-{number}"
        self.uid = uid  # drawn: Kubernetes' are random, too
        self.created = created
        self.state = PENDING
        self.node: int | None = None
        self.scheduled: float | None = None
        self.started = math.inf  # of its container: the image is there
        self.ready_at = math.inf
        self.restarts = 0
        self.engine: Engine | None = None
        self.fault: Fault | None = None
        self.going_since: float | None = None


class Cluster:
    """`scale()` sets the replicas, `advance()` lets pods become ready; `wakes()` says when that will be."""

    def __init__(self, scenario: Scenario) -> None:
        self.spec = 0
        self.pods: list[Pod] = []  # the oldest first; going ones too
        self.replica_seconds = 0.0
        self.phases = _phases(scenario)
        self.nodes = Nodes(scenario)
        self._scenario = scenario
        self._made = 0
        self._dice = Random(scenario.seed)  # noqa: S311 -- a simulation, not a secret
        self._barred_until = -math.inf  # no pod is scheduled before

    def start(self, replicas: int) -> list[Pod]:
        """The replicas of the beginning, which were started a while ago: those that fit on the nodes are ready."""
        self.spec = replicas
        begun = -sum(self.phases[1:])
        for _ in range(replicas):
            pod = self._new(begun)
            if (node := self._free()) is not None:
                self._schedule(pod, node, begun)
                pod.ready_at = 0.0  # whatever the sum was rounded to
        return self.advance(0.0)

    def scale(self, replicas: int, now: float) -> list[Pod]:
        """Makes new pods, or lets some go; returns those of them that have requests to end."""
        self.spec = replicas
        staying = [pod for pod in self.pods if pod.state != GOING]
        for _ in range(replicas - len(staying)):
            self._new(now)
        leaving = removal_order(staying, now)[: max(0, len(staying) - replicas)]
        for pod in leaving:
            pod.state, pod.going_since = GOING, now
            if pod.engine is None:
                self.end(pod, now)
        return [pod for pod in leaving if pod.engine is not None]

    def advance(self, now: float) -> list[Pod]:
        """Schedules what can be, and returns the pods that have become ready."""
        self.nodes.advance(now)
        ready = []
        for pod in self.pods:
            if pod.state == PENDING and now >= self._barred_until and (node := self._free()) is not None:
                self._schedule(pod, node, now)
            if pod.state == LOADING and now >= pod.ready_at:
                pod.state = READY
                pod.engine = Engine(self._scenario.profile, now)
                ready.append(pod)
        self.nodes.ask(sum(pod.state == PENDING for pod in self.pods), now)
        return ready

    def wakes(self, now: float) -> float:
        """When advance() is to be called next, after `now`; inf: nothing is on its way."""
        loading = [pod.ready_at for pod in self.pods if pod.state == LOADING]
        barred = [self._barred_until] if self._barred_until > now else []
        return min([*loading, *self.nodes.coming, *barred], default=math.inf)

    def bar(self, until: float) -> None:
        """Nothing is scheduled before: other jobs have the GPUs."""
        self._barred_until = max(until, self._barred_until)

    def restart(self, pod: Pod, now: float) -> None:
        """The kubelet starts its container again: the model is loaded, the image is there."""
        pod.state, pod.engine, pod.fault = LOADING, None, None
        pod.restarts += 1
        pod.started = now
        pod.ready_at = now + self.phases.model_load + self.phases.warm_up

    def end(self, pod: Pod, now: float) -> None:
        """The pod is gone, and its GPU is free."""
        self.pods.remove(pod)
        self.replica_seconds += _used(pod, now)

    def close(self, now: float) -> None:
        """The run is over: what is still there is counted."""
        for pod in self.pods:
            self.replica_seconds += _used(pod, now)

    def used(self, now: float) -> float:
        """Replica seconds by now, of those that are gone and of those that are there."""
        return self.replica_seconds + sum(_used(pod, now) for pod in self.pods)

    def _new(self, now: float) -> Pod:
        pod = Pod(self._made, now, self._dice.random())
        self._made += 1
        self.pods.append(pod)
        return pod

    def _free(self) -> int | None:
        return self.nodes.free(pod.node for pod in self.pods)

    def _schedule(self, pod: Pod, node: int, now: float) -> None:
        pod.node, pod.scheduled, pod.state = node, now, LOADING
        pod.started = now + self.phases.image_pull
        pod.ready_at = now + sum(self.phases[1:])


def removal_order(pods: list[Pod], now: float) -> list[Pod]:
    """Who is removed first by a ReplicaSet (kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks).

    Not scheduled before scheduled, pending (its image is pulled) before running, not ready before ready; those on the
    node with the most of them; then the younger by powers of two of their age, and of like age the lower UID.
    """
    together = Counter(pod.node for pod in pods)

    def rank(pod: Pod) -> tuple[float, ...]:
        ready = pod.state == READY
        # Only those that are not ready are told apart by their restarts: no two are ready from the same moment.
        age = (_power(now - pod.ready_at),) if ready else (-pod.restarts, _power(now - pod.created))
        return (pod.node is not None, pod.started <= now, ready, -together[pod.node], *age, pod.uid)

    return sorted(pods, key=rank)


def _power(seconds: float) -> int:
    """LogarithmicScaleDown: the power of two of an age in nanoseconds."""
    return math.floor(math.log2(seconds * 1e9)) if seconds > 0 else -1


def _phases(scenario: Scenario) -> Phases:
    """The phases of a cold start; if the scenario says how long it is as a whole, in the profile's proportions."""
    told = scenario.profile.cold_start
    whole = sum(told[1:])
    if scenario.cold_start is None:
        return told._replace(node_provisioning=scenario.node_provisioning)
    if not whole:
        return Phases(scenario.node_provisioning, 0.0, scenario.cold_start, 0.0)
    share = scenario.cold_start / whole
    return Phases(scenario.node_provisioning, *(seconds * share for seconds in told[1:]))


def _used(pod: Pod, now: float) -> float:
    """Seconds since it was scheduled: one that waits for a GPU costs none."""
    return 0.0 if pod.scheduled is None else now - max(0.0, pod.scheduled)
