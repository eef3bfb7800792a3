"""The gateway in front of the replicas: routes requests, holds them while none serves, gives up on one that is stuck.

May not be in here: which router is used (routers.py), what a replica does with a request (engine.py), pods
(cluster.py).
"""

import math
from collections import deque
from heapq import heappop, heappush
from random import Random

from scaler.simulate.engine import Engine
from scaler.simulate.model import Arrival, Request
from scaler.simulate.routers import Router

#: Seconds without a token from a replica that has work, after which it is taken out and its requests are sent again:
#: the idle timeout and passive health check that gateways in front of engines have. It comes back when it is restarted.
IDLE_SECONDS = 30.0


class Gateway:
    """Requests in, first tokens out. Engines are known by their number; all times are those of the run."""

    def __init__(self, router: Router, seed: int) -> None:
        self.requests: list[Request] = []
        self.held: deque[Request] = deque()  # came while no replica was in service
        self.restarts = 0
        self._router = router
        self._dice = Random(seed)  # noqa: S311 -- a simulation, not a secret
        self._serving: dict[int, Engine] = {}
        self._engines: list[Engine] = []  # of _serving, and their numbers: routers want a sequence
        self._numbers: list[int] = []
        self._all: dict[int, Engine] = {}  # with those that only end what they run
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._life: dict[int, tuple[int, float]] = {}  # number -> tokens made, and when that last changed

    def add(self, number: int, engine: Engine, now: float) -> None:
        self._all[number] = self._serving[number] = engine
        self._life[number] = (0, now)
        self._engines, self._numbers = list(self._serving.values()), list(self._serving)
        held, self.held = self.held, deque()
        for request in held:
            self._route(request, now)

    def drain(self, number: int) -> None:
        """It gets no more requests, and ends those that it has."""
        self._serving.pop(number, None)
        self._engines, self._numbers = list(self._serving.values()), list(self._serving)

    def remove(self, number: int, now: float) -> None:
        """It is gone: what it still had is sent to others, who begin it anew."""
        self.drain(number)
        engine = self._all.pop(number)
        self._due.pop(number, None)
        self._life.pop(number, None)
        self._again(engine, now)

    def send(self, arrival: Arrival) -> None:
        """One request comes."""
        now = arrival.at
        if self._heap and self._heap[0][0] <= now:
            self.settle(now)
        request = Request(now, arrival.prompt, arrival.output, arrival.cached)
        self.requests.append(request)
        self._route(request, now)

    def settle(self, now: float) -> None:
        """Lets every request finish that does until `now`: routers go by what is in flight."""
        heap, due = self._heap, self._due
        while heap and heap[0][0] <= now:
            at, number = heappop(heap)
            if due.get(number) == at:
                engine = self._all[number]
                engine.advance(now)
                self._schedule(number, engine)

    def eject(self, now: float) -> list[int]:
        """The numbers of those that made no token for too long; their requests are sent to others."""
        ejected = []
        for number, engine in list(self._all.items()):
            made, since = self._life[number]
            if engine.generated != made or not engine.in_flight:
                self._life[number] = (engine.generated, now)
            elif now - since > IDLE_SECONDS:
                ejected.append(number)
        for number in ejected:
            self.drain(number)
        for number in ejected:
            self._life[number] = (self._all[number].generated, now)
            self._again(self._all[number], now)
        return ejected

    def _again(self, engine: Engine, now: float) -> None:
        for request in engine.take_all(now):
            request.restarts += 1
            self.restarts += 1
            self._route(request, now)

    def _route(self, request: Request, now: float) -> None:
        if not self._engines:
            self.held.append(request)
            return
        place = self._router(self._engines, self._dice)
        engine = self._engines[place]
        engine.submit(request, now)
        self._schedule(self._numbers[place], engine)

    def _schedule(self, number: int, engine: Engine) -> None:
        due = engine.next_finish()
        if due < math.inf and self._due.get(number) != due:
            heappush(self._heap, (due, number))
        self._due[number] = due
