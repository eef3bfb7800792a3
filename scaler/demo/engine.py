"""A small honest model of an engine with continuous batching: requests in, tokens out, a queue when it is full.

May not be in here: I/O, clocks, randomness. Time is the model's own, in seconds, and is passed in.

What it keeps of the real thing: a limit of running sequences and of KV cache, one step for the whole batch that gets
slower as the batch grows, prefill that takes the engine's time. What it leaves out: chunks of a prefill are not mixed
with decoding (the sum of work is the same); KV for the whole answer is set aside at the start (nothing is preempted).
"""

import heapq
import itertools
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple


class Profile(NamedTuple):
    """What a replica can do. Defaults: an 8B model on one L4, where the KV cache is what runs out.

    Sources: inference-sim's coefficients for an L40S (26.5 ms + 0.307 ms a sequence), times 2.88 for the L4's memory
    bandwidth (300 of 864 GB/s); prefill is an estimate (half of the card's peak rate); the cache is what 24 GiB leave.
    """

    slots: int = 256  # --max-num-seqs
    kv_tokens: int = 8_000
    step_seconds: float = 0.0763
    step_seconds_per_sequence: float = 0.00088
    prefill_seconds_per_token: float = 0.0003

    def step(self, sequences: int) -> float:
        """Seconds to make one token for each of so many sequences."""
        return self.step_seconds + self.step_seconds_per_sequence * sequences


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way. Times are None until they are known."""

    arrived: float  # at the gateway; a retry keeps it
    prompt: int
    output: int
    first_token: float | None = None
    finished: float | None = None


#: vLLM's own buckets of vllm:time_to_first_token_seconds.
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)


@dataclass(slots=True)
class Counters:
    """What the engine counts from its start, as its /metrics tells it."""

    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    finished: int = 0
    aborted: int = 0
    ttft_sum: float = 0.0
    ttft_buckets: list[int] = field(default_factory=lambda: [0] * (len(TTFT_BUCKETS) + 1))


class Gauges(NamedTuple):
    """What its /metrics says of this moment."""

    waiting: int
    running: int
    kv_usage: float  # 0..1


class Engine:
    """One replica. `advance` moves its time; everything else happens at the time it was advanced to."""

    def __init__(self, profile: Profile, at: float) -> None:
        self.profile = profile
        self.at = at
        self.counters = Counters()
        self.kv_held = 0
        self._frozen: Gauges | None = None
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self._prefill_left = 0.0  # seconds that the first of them still takes
        self._made = 0.0  # tokens that a sequence which ran from the start would have by now
        self._decoding: list[tuple[float, int, Request]] = []  # heap: value of _made at which it is done
        self._ticket = itertools.count()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def stuck(self) -> bool:
        return self._frozen is not None

    def gauges(self) -> Gauges:
        """A stuck vLLM goes on telling what was true when its core last spoke: waiting does not even grow (seen)."""
        return self._frozen or Gauges(self.waiting, self.running, self.kv_held / self.profile.kv_tokens)

    def requests(self) -> list[Request]:
        """All that are in it: those that run, then those that wait."""
        return [*self._prefilling, *(request for _, _, request in self._decoding), *self._waiting]

    def submit(self, request: Request) -> None:
        self._waiting.append(request)
        self._admit()

    def stick(self) -> None:
        """Its GPU is gone: it accepts requests and answers questions, and nothing moves any more."""
        self._frozen = self.gauges()

    def abort(self, gone: set[Request]) -> None:
        """Clients of these requests went away."""
        before = self.waiting + self.running
        head = self._prefilling[0] if self._prefilling else None
        self._waiting = deque(request for request in self._waiting if request not in gone)
        self.kv_held -= sum(_tokens(request) for request in self._prefilling if request in gone)
        self.kv_held -= sum(_tokens(request) for _, _, request in self._decoding if request in gone)
        self._prefilling = deque(request for request in self._prefilling if request not in gone)
        self._decoding = [entry for entry in self._decoding if entry[2] not in gone]
        heapq.heapify(self._decoding)
        if self._prefilling and self._prefilling[0] is not head:
            self._prefill_left = self._prefill(self._prefilling[0])
        self.counters.aborted += before - self.waiting - self.running
        self._admit()

    def advance(self, now: float) -> list[Request]:
        """Works until `now`; returns the requests that were finished on the way."""
        done: list[Request] = []
        while self.at < now:
            if self.stuck or not self.running:
                self.at = now
            elif self._prefilling:
                step = min(self._prefill_left, now - self.at)
                self.at += step
                self._prefill_left -= step
                if self._prefill_left <= 0.0:
                    self._first_token(done)
            else:
                pace = self.profile.step(len(self._decoding))
                next_done = self.at + max(0.0, self._decoding[0][0] - self._made) * pace
                until = min(next_done, now)
                tokens = (until - self.at) / pace
                self._made = self._decoding[0][0] if next_done <= now else self._made + tokens
                self.counters.generation_tokens += tokens * len(self._decoding)
                self.at = until
                while self._decoding and self._decoding[0][0] <= self._made:
                    self._finish(heapq.heappop(self._decoding)[2], done)
                self._admit()
        return done

    def _admit(self) -> None:
        """First come, first served: one that finds no room holds up those behind it, as in vLLM's scheduler."""
        while not self.stuck and self._waiting and self.running < self.profile.slots:
            request = self._waiting[0]
            # A request that is larger than the whole cache runs alone rather than never.
            if self.running and self.kv_held + _tokens(request) > self.profile.kv_tokens:
                return
            self.kv_held += _tokens(self._waiting.popleft())
            self._prefilling.append(request)
            if len(self._prefilling) == 1:
                self._prefill_left = self._prefill(request)

    def _prefill(self, request: Request) -> float:
        return request.prompt * self.profile.prefill_seconds_per_token

    def _first_token(self, done: list[Request]) -> None:
        request = self._prefilling.popleft()
        request.first_token = self.at
        self.counters.prompt_tokens += request.prompt
        self.counters.generation_tokens += 1
        waited = self.at - request.arrived
        self.counters.ttft_sum += waited
        self.counters.ttft_buckets[bisect_left(TTFT_BUCKETS, waited)] += 1
        if request.output <= 1:
            self._finish(request, done)
        else:
            heapq.heappush(self._decoding, (self._made + request.output - 1, next(self._ticket), request))
        if self._prefilling:
            self._prefill_left = self._prefill(self._prefilling[0])
        self._admit()

    def _finish(self, request: Request, done: list[Request]) -> None:
        request.finished = self.at
        self.kv_held -= _tokens(request)
        self.counters.finished += 1
        done.append(request)


def _tokens(request: Request) -> int:
    return request.prompt + request.output
