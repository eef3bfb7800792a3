"""One run: arrivals, replicas, faults and a policy, in the order of time.

May not be in here: how an engine works (engine.py), pods (cluster.py), routing (gateway.py), what is read and when it
is seen (readings.py), any policy.

Every `interval` the engines are read, stuck replicas are taken out and pods that are done go. The policy is called LAG
after the start, then every `period`.
"""

import heapq
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from scaler.simulate.cluster import GOING, LOADING, PENDING, READY, Cluster, Pod
from scaler.simulate.gateway import Gateway
from scaler.simulate.model import Change, Controller, Fault, Run, Scenario, Tick
from scaler.simulate.readings import LAG, Readings
from scaler.simulate.routers import ROUTERS

Progress = Callable[[float], None]


class SoFar(NamedTuple):
    """What a run has come to by one of its ticks."""

    at: float
    missed: int  # requests that surely have no first token within the scenario's ttft_target
    replica_seconds: float


Enough = Callable[[SoFar], bool]


def run(
    scenario: Scenario,
    controller: Controller,
    policy: str,
    knob: float | None = None,
    progress: Progress | None = None,
    enough: Enough | None = None,
) -> Run:
    """Plays the scenario's trace under the policy. Same arguments, same Run. progress is told 0..1 as time passes.

    enough is asked at each tick; once it says yes the run is given up, and the Run is what was until then.
    """
    world = _World(scenario, controller, enough)
    end = scenario.trace.seconds
    while world.now < end and not world.given_up:
        world.step(end)
        if progress is not None:
            progress(world.now / end)
    return world.close(policy, knob)


class _World:
    """`step()` goes on to the next thing on the agenda; `close()` sums up."""

    def __init__(self, scenario: Scenario, controller: Controller, enough: Enough | None) -> None:
        self.now = 0.0
        self.given_up = False
        self._enough = enough
        self._judged = self._missed = 0  # requests of which it is known whether they were in time, and those not
        self._scenario = scenario
        self._controller = controller
        self._arrivals = scenario.trace.arrivals
        self._sent = 0  # how many of them
        self._told = 0  # and at the last tick
        self._cluster = Cluster(scenario)
        self._gateway = Gateway(ROUTERS[scenario.router], scenario.seed)
        self._readings = Readings(scenario, controller)
        self._ticks: list[Tick] = []
        self._changes: list[Change] = []
        self._events: list[tuple[float, str]] = []
        self._preempted = 0  # on engines that are gone
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entered = 0
        started = self._cluster.start(scenario.start)
        self._readings.before(self._cluster)
        self._serve(started)
        for fault in scenario.faults:
            self._enter(fault.at, partial(self._break, fault))
        self._enter(0.0, self._read)
        self._enter(LAG, self._decide)

    def step(self, end: float) -> None:
        """Everything up to the next entry of the agenda, and that."""
        at = min(self._agenda[0][0], self._cluster.wakes(self.now), end)
        self._arrive(at if at < end else math.inf)
        self.now = at
        self._gateway.settle(at)
        self._serve(self._cluster.advance(at))
        while self._agenda[0][0] <= at < end:
            _, _, act = heapq.heappop(self._agenda)
            act()

    def close(self, policy: str, knob: float | None) -> Run:
        self._cluster.close(self.now)
        engines = [pod.engine for pod in self._cluster.pods if pod.engine is not None]
        for engine in engines:
            engine.advance(self.now)
        return Run(
            scenario=self._scenario,
            policy=policy,
            knob=knob,
            requests=self._gateway.requests,
            ticks=self._ticks,
            changes=self._changes,
            replica_seconds=self._cluster.replica_seconds,
            preemptions=self._preempted + sum(engine.preemptions for engine in engines),
            events=tuple(self._events),
        )

    def _enter(self, at: float, act: Callable[[], None]) -> None:
        self._entered += 1  # what was entered first goes first
        heapq.heappush(self._agenda, (at, self._entered, act))

    def _arrive(self, until: float) -> None:
        """All requests that come before `until`."""
        arrivals, sent, send = self._arrivals, self._sent, self._gateway.send
        while sent < len(arrivals) and arrivals[sent].at < until:
            send(arrivals[sent])
            sent += 1
        self._sent = sent

    def _serve(self, ready: Iterable[Pod]) -> None:
        for pod in ready:
            assert pod.engine is not None  # noqa: S101 -- a pod that is ready has one
            self._gateway.add(pod.number, pod.engine, self.now)

    def _retire(self, pod: Pod) -> None:
        """Its engine ends; what it still has is sent to others."""
        assert pod.engine is not None  # noqa: S101 -- only of pods that served
        self._gateway.remove(pod.number, self.now)
        self._preempted += pod.engine.preemptions

    def _read(self) -> None:
        """The engines are read; what is over goes."""
        now = self.now
        self._enter(now + self._scenario.interval, self._read)
        for pod in self._cluster.pods:
            if pod.engine is not None:
                pod.engine.advance(now)
        for number in self._gateway.eject(now):
            self._tell(f"replica-{number} made no token for a while: its requests are sent to others")
        self._end_pods()
        self._ticks.append(self._tick())
        self._readings.take(self._cluster, now)
        if self._enough is not None:
            self.given_up = self._enough(self._so_far())

    def _so_far(self) -> SoFar:
        """At a tick, when every engine is where the clock is: what has no first token by now gets it later."""
        requests, target = self._gateway.requests, self._scenario.ttft_target
        while self._judged < len(requests) and (request := requests[self._judged]).arrived + target <= self.now:
            self._missed += request.first_token is None or request.first_token - request.arrived > target
            self._judged += 1
        return SoFar(self.now, self._missed, self._cluster.used(self.now))

    def _tick(self) -> Tick:
        pods, gateway = self._cluster.pods, self._gateway
        engines = [pod.engine for pod in pods if pod.engine is not None]
        states = [pod.state for pod in pods]
        arrived, self._told = len(gateway.requests) - self._told, len(gateway.requests)
        return Tick(
            at=self.now,
            arrived=arrived,
            waiting=len(gateway.held) + sum(engine.waiting for engine in engines),
            running=sum(engine.running for engine in engines),
            ready=states.count(READY),
            starting=states.count(PENDING) + states.count(LOADING),
            going=states.count(GOING),
            spec=self._cluster.spec,
        )

    def _end_pods(self) -> None:
        """Those that go and are done with their requests, or are out of time; their GPUs are for who waits for one."""
        for pod in [pod for pod in self._cluster.pods if pod.state == GOING]:
            assert pod.engine is not None and pod.going_since is not None  # noqa: S101, PT018 -- others are gone at once
            if not pod.engine.in_flight or self.now - pod.going_since >= self._scenario.grace:
                self._retire(pod)
                self._cluster.end(pod, self.now)
        self._serve(self._cluster.advance(self.now))

    def _decide(self) -> None:
        now = self.now
        self._enter(now + self._controller.period, self._decide)
        before = self._cluster.spec
        answer = self._controller(self._readings.seen(self._cluster, now))
        after = max(self._scenario.minimum, min(self._scenario.maximum, answer.replicas))
        if after != before:
            self._changes.append(Change(now, before, after, answer.value, answer.reason, answer.why))
            for pod in self._cluster.scale(after, now):
                self._gateway.drain(pod.number)
            self._serve(self._cluster.advance(now))

    def _tell(self, event: str) -> None:
        self._events.append((self.now, event))

    def _break(self, fault: Fault) -> None:
        until = self.now + fault.seconds
        if fault.kind in ("blind", "unschedulable"):
            (self._readings.blind if fault.kind == "blind" else self._cluster.bar)(until)
            self._tell(f"{fault.kind} begins")
            over = partial(self._tell, f"{fault.kind} is over")
        else:
            pod = self._struck(fault)
            if pod is None:
                return
            over = partial(self._recover, pod, fault)
        if until < math.inf:
            self._enter(until, over)

    def _struck(self, fault: Fault) -> Pod | None:
        """The replica that has the fault now; None: there is none to have it."""
        ready = [pod for pod in self._cluster.pods if pod.state == READY]
        if not ready:
            self._tell(f"{fault.kind} finds no replica that is ready")
            return None
        pod = ready[min(fault.replica, len(ready) - 1)]
        assert pod.engine is not None  # noqa: S101 -- a pod that is ready has one
        if pod.fault is not None and pod.fault.kind != "throttled":
            self._tell(f"{fault.kind} finds {pod.name} {pod.fault.kind} already")
            return None
        pod.fault = fault
        if fault.kind == "throttled":
            pod.engine.slow(fault.factor, self.now)
        else:
            pod.engine.freeze(self.now)
        self._tell(f"{fault.kind} begins on {pod.name}")
        return pod

    def _recover(self, pod: Pod, fault: Fault) -> None:
        """Clocks are what they were; what was stuck is restarted. A pod that goes is left as it is."""
        if pod.fault is not fault or pod.state != READY or pod.engine is None:
            return
        if fault.kind == "throttled":
            pod.fault = None
            pod.engine.slow(1.0, self.now)
            self._tell(f"{pod.name} is well again")
        else:
            self._retire(pod)
            self._cluster.restart(pod, self.now)
            self._tell(f"{pod.name} is restarted")
