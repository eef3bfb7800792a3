"""Generated load and the gateway that spreads it: arrivals, least-loaded routing, retries, what users felt.

May not be in here: I/O, clocks. Time is the model's own, in seconds.
"""

import math
import random
from collections import deque
from collections.abc import Callable

from scaler.demo.engine import Engine, Request

#: A replica from which no token came for so long while it had work is taken out and its requests are sent again:
#: the idle timeout and passive health check that a gateway in front of engines has.
IDLE_SECONDS = 30.0
#: Lengths in tokens, uniform: short questions, short answers.
PROMPT_TOKENS = (20, 180)
OUTPUT_TOKENS = (40, 200)
#: Multiples of these, without their whole part, fill 0..1 evenly (Weyl's equidistribution), each apart from the other.
EVEN_PROMPT, EVEN_OUTPUT = math.sqrt(2), (1 + math.sqrt(5)) / 2


class Gateway:
    """Everything between the users and the replicas. `rate` tells the requests per second at a time.

    `even`: until `scatter()`, requests come at equal distances and their lengths take turns, so that the replicas stand
    at the mean of the load, whenever one looks. Without it they come by chance from the start.
    """

    def __init__(self, rate: Callable[[float], float], seed: int, at: float, even: bool = False) -> None:
        self.at = at
        self.arrived = 0
        self.retried = 0
        self.finished: list[Request] = []
        self.ejected: list[str] = []
        self._rate = rate
        self._even = even
        self._random = random.Random(seed)  # noqa: S311 -- a workload, not a secret
        self._next = at + self._gap(at)
        self._held: deque[Request] = deque()  # came while no replica was in service
        self._replicas: dict[str, Engine] = {}
        self._draining: dict[str, Engine] = {}  # get no more requests, and end those that run
        self._life: dict[str, tuple[float, float]] = {}  # name -> tokens made, and when that number last changed

    @property
    def in_flight(self) -> int:
        engines = [*self._replicas.values(), *self._draining.values()]
        return len(self._held) + sum(engine.waiting + engine.running for engine in engines)

    @property
    def waiting(self) -> int:
        """Requests that no replica has begun, wherever they are."""
        return len(self._held) + sum(engine.waiting for engine in self._replicas.values())

    def add(self, name: str, engine: Engine) -> None:
        """The replica is ready: it gets requests from now on."""
        engine.advance(self.at)
        self._replicas[name] = engine
        self._life[name] = (0.0, self.at)
        held, self._held = self._held, deque()
        for request in held:
            self._route(request)

    def remove(self, name: str) -> None:
        """The replica goes: what runs may end, what waits is sent to another."""
        engine = self._replicas.pop(name, None)
        if engine is not None:
            self._resend(engine, engine.requests()[engine.running :])
            self._draining[name] = engine

    def scatter(self) -> None:
        """From now on requests come by chance. The seed alone says how: what came evenly has used none of it."""
        self._even = False
        self._next = self.at + self._gap(self.at)

    def advance(self, now: float) -> None:
        """Lets the users send and the replicas work until `now`."""
        while self._next <= now:
            self._work(self._next)
            prompt, output = self._tokens(PROMPT_TOKENS, EVEN_PROMPT), self._tokens(OUTPUT_TOKENS, EVEN_OUTPUT)
            self.arrived += 1
            self._route(Request(self._next, prompt, output))
            self._next += self._gap(self._next)
        self._work(now)
        self._draining = {name: engine for name, engine in self._draining.items() if engine.running}
        self._eject(self._replicas)
        self._eject(self._draining)

    def _gap(self, at: float) -> float:
        """Seconds to the next request, at the rate of the moment: always the same, or a Poisson process."""
        rate = self._rate(at)
        return 1 / rate if self._even else self._random.expovariate(rate)

    def _tokens(self, span: tuple[int, int], step: float) -> int:
        low, high = span
        return low + int(self.arrived * step % 1 * (high - low + 1)) if self._even else self._random.randint(low, high)

    def _work(self, now: float) -> None:
        self.at = now
        for engine in (*self._replicas.values(), *self._draining.values()):
            self.finished += engine.advance(now)

    def _route(self, request: Request) -> None:
        if not self._replicas:
            self._held.append(request)
            return
        least = min(self._replicas.values(), key=lambda engine: engine.waiting + engine.running)
        least.submit(request)

    def _eject(self, replicas: dict[str, Engine]) -> None:
        for name, engine in list(replicas.items()):
            tokens, since = self._life[name]
            if engine.counters.generation_tokens != tokens or not engine.running:
                self._life[name] = (engine.counters.generation_tokens, self.at)
            elif self.at - since > IDLE_SECONDS:
                del replicas[name]
                self.ejected.append(name)
                self._resend(engine, engine.requests())

    def _resend(self, engine: Engine, requests: list[Request]) -> None:
        self.retried += len(requests)
        engine.abort(set(requests))
        for request in requests:
            self._route(Request(request.arrived, request.prompt, request.output))
