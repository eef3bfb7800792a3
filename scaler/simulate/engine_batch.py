"""Who waits, who is computed and who leaves, step by step, as vLLM V1 schedules it.

May not be in here: how long a step takes, what the time is (engine.py).

In a step every sequence that decodes makes one token; the rest of max_num_batched_tokens goes to prompts, first come
first served: to the one that was begun, then to waiting ones while max_num_seqs and the KV cache allow it. As in
vllm/v1/core/sched/scheduler.py:

- A request is admitted at a step's start, if the blocks of its whole prompt are free; they are taken chunk by chunk.
- The step that computes a prompt's last chunk makes its first token.
- If blocks are short, the sequence that was admitted last is preempted, until they are enough: it goes to the front of
  the queue and is computed again, with what it had generated. In such a step nobody is admitted; that needs no rule
  here, since with what was short before there is no room for who just left, nor for who waits behind.
- A sequence that is alone is never preempted, and its blocks end at the cache's capacity. So a request that is larger
  than the cache runs alone. (vLLM would refuse it.)

Where this is simpler: a cached prefix is not shared, each sequence holds its own copy of it; and it stays cached when
its sequence is preempted.
"""

from collections import deque
from heapq import heappop, heappush
from math import inf

from msgspec import Struct

from scaler.simulate.engine_meters import Meters
from scaler.simulate.kv_blocks import KvBlocks
from scaler.simulate.model import Profile, Request


class Job(Struct, eq=False, gc=False):
    """A request in this engine."""

    request: Request
    submitted: float
    started: float | None = None  # first admitted
    last_token: float = 0.0  # when it was preempted: its last token's time
    done: int = 0  # tokens of its prompt, and of what it had generated, that the cache holds; the chunk left out
    chunk: int = 0  # of them, in the step under way
    base: int = 0  # while it decodes: see kv_blocks.py


class Batch:
    """The scheduler's state at a step's start or, between `schedule` and `end_step`, in a step."""

    __slots__ = (
        *("_due", "_number", "_shortest", "bases", "finished", "kv", "meters", "most", "prefilling", "running", "step"),
        *("tokens", "waiting"),
    )

    def __init__(self, profile: Profile, meters: Meters) -> None:
        """Raises ValueError if the profile's limits let no step be made."""
        if not 1 <= profile.max_num_seqs <= profile.max_num_batched_tokens:
            raise ValueError(
                f"profile {profile.name}: give 1 <= max_num_seqs <= max_num_batched_tokens, as vLLM demands"
            )
        self.kv = KvBlocks(profile.kv_tokens, profile.block_tokens)
        self.most = profile.max_num_seqs
        self.tokens = profile.max_num_batched_tokens
        self.meters = meters
        self.waiting: deque[Job] = deque()
        self.prefilling: list[Job] = []  # between steps at most one, admitted after all that decode
        self.running: dict[int, Job] = {}  # that decode, in the order of admission, by a number
        self.bases = 0  # sum over these
        self.step = 0  # steps done
        self.finished: list[Request] = []  # and not handed out
        self._due: list[
            tuple[int, int]
        ] = []  # heap of (steps that are done when it is finished, number), stale ones too
        self._number = 0
        self._shortest = inf  # at most what any that waits has yet to generate

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.prefilling)

    @property
    def context(self) -> int:
        """Tokens that the decoding sequences hold in the next step, the one that each then computes included."""
        return self.bases + len(self.running) * self.step

    def queue(self, request: Request, now: float) -> None:
        self.waiting.append(Job(request, now))
        left = request.output - request.generated
        if left < self._shortest:
            self._shortest = left

    def may_admit(self, request: Request) -> bool:
        """Whether a step after the one under way could admit it, if nobody finishes: room only becomes less."""
        if len(self.running) + len(self.prefilling) >= self.most:
            return False
        return self.kv.used + self.kv.of(request.prompt + request.generated) <= self.kv.capacity

    def schedule(self, now: float) -> tuple[int, int, int]:
        """Chooses for the step that starts now, which len() must not leave empty.

        Returns how many steps will be like it and, of prompts (then it is one step), the tokens in it and the sum of
        each chunk's tokens x tokens before its end.
        """
        kv, step = self.kv, self.step
        if self.prefilling or kv.used + kv.next_growth(step) > kv.capacity:
            self._preempt(now)
        tokens = squares = 0
        if self.prefilling:
            tokens, squares = self._continue(self.tokens - len(self.running))
        if self.waiting:
            tokens, squares = self._admit(now, tokens, squares)
        if self.prefilling:
            kv.used += kv.next_growth(step)
            return 1, tokens, squares
        steps = self.next_due() - step
        return (steps if len(self.running) == 1 else kv.fitting(step, steps)), 0, 0

    def _preempt(self, now: float) -> None:
        """Makes room for one step of those that are computed."""
        kv, running, prefilling = self.kv, self.running, self.prefilling
        while len(running) + len(prefilling) > 1:
            need = kv.next_growth(self.step)
            if prefilling:
                job = prefilling[0]
                length = job.request.prompt + job.request.generated
                need += kv.of(min(length, job.done + self.tokens - len(running))) - kv.of(job.done)
            if kv.used + need <= kv.capacity:
                break
            if prefilling:
                job = prefilling.pop()
                kv.used -= kv.of(job.done)
            else:
                _, job = running.popitem()
                held = job.base + self.step
                kv.leave(job.base, held - 1)
                self.bases -= job.base
                job.request.generated = held - job.request.prompt
                job.last_token = now
            self.meters.preemptions += 1
            self.waiting.appendleft(job)
            self._shortest = min(self._shortest, job.request.output - job.request.generated)

    def _continue(self, budget: int) -> tuple[int, int]:
        """The next chunk of the prompt that was begun in an earlier step."""
        job = self.prefilling[0]
        job.chunk = min(job.request.prompt + job.request.generated - job.done, budget)
        held = job.done + job.chunk
        self.kv.used += self.kv.of(held) - self.kv.of(job.done)
        return job.chunk, job.chunk * held

    def _admit(self, now: float, tokens: int, squares: int) -> tuple[int, int]:
        """From the queue's front, after so many tokens of prompts. Returns the tokens and squares of all."""
        kv, waiting, meters = self.kv, self.waiting, self.meters
        budget = self.tokens - len(self.running)
        count = len(self.running) + len(self.prefilling)
        room = kv.capacity - kv.next_growth(self.step)
        while waiting and tokens < budget and count < self.most:
            job = waiting[0]
            request = job.request
            length = request.prompt + request.generated
            if count and kv.used + kv.of(length) > room:
                break
            waiting.popleft()
            count += 1
            cached = max(0, min(request.cached, request.prompt - 1))  # vLLM always computes a prompt's last token
            if job.started is None:
                job.started = now
                meters.queries += request.prompt
                meters.hits += cached
            job.done = cached
            job.chunk = min(length - cached, budget - tokens)
            held = cached + job.chunk
            kv.used += kv.of(held)
            tokens += job.chunk
            squares += job.chunk * held
            self.prefilling.append(job)
        if not waiting:
            self._shortest = inf
        return tokens, squares

    def count_steps(self, steps: int, first: float, rise: float) -> None:
        """So many steps are done: the first took so many seconds, each next one `rise` more."""
        decoding = len(self.running)
        if decoding:
            meters, kv = self.meters, self.kv
            meters.generated += steps * decoding
            meters.itl.observe_rising(first, rise, steps, decoding)
            if not self.prefilling:  # else schedule() counted them
                kv.used += kv.growth(self.step, steps)
        self.step += steps

    def end_step(self, now: float) -> int:
        """Who has all tokens leaves; prompts whose last chunk was computed have their first token.

        Returns how many have left.
        """
        due, step, before = self._due, self.step, len(self.finished)
        while due and due[0][0] <= step:
            job = self.running.pop(heappop(due)[1], None)
            if job is not None:
                self.kv.leave(job.base, job.request.prompt + job.request.output - 1)
                self.bases -= job.base
                self._finish(job, now)
        if self.prefilling:
            prompts, self.prefilling = self.prefilling, []
            for job in prompts:
                job.done += job.chunk
                if job.done < job.request.prompt + job.request.generated:
                    self.prefilling.append(job)
                else:
                    self._begin_to_decode(job, now)
        return len(self.finished) - before

    def _begin_to_decode(self, job: Job, now: float) -> None:
        request, meters = job.request, self.meters
        meters.generated += 1
        request.generated += 1
        if request.first_token is None:
            request.first_token = now
            meters.prompt_tokens += request.prompt
            meters.ttft.observe(now - request.arrived)
        else:
            meters.itl.observe(now - job.last_token)
        left = request.output - request.generated
        if left <= 0:
            self.kv.used -= self.kv.of(job.done)
            self._finish(job, now)
            return
        job.base = job.done + 1 - self.step
        self._number += 1
        self.running[self._number] = job
        self.bases += job.base
        self.kv.join(job.base)
        heappush(self._due, (self.step + left, self._number))

    def _finish(self, job: Job, now: float) -> None:
        request, meters = job.request, self.meters
        request.generated = request.output
        request.finished = now
        meters.stopped += 1
        meters.queue_time.observe((now if job.started is None else job.started) - job.submitted)
        meters.e2e.observe(now - request.arrived)
        self.finished.append(request)

    def next_due(self) -> int:
        """Steps that are done when the next of those that decode (there must be one) is finished."""
        due, running = self._due, self.running
        while due[0][1] not in running:
            heappop(due)
        return due[0][0]

    def least_left(self, steps: int, counted: bool) -> float:
        """After so many steps from `step` on, at least so many more until a request is finished. inf: it is empty.

        `counted`: these steps include chunks of the prompts that are computed now.
        """
        left = self._shortest if self.waiting else inf
        for job in self.prefilling:
            left = min(left, job.request.output - job.request.generated - counted)
        if self.running:
            due = self.next_due() - self.step - steps
            return due if due < left else left
        return left

    def clear(self) -> list[Job]:
        """All leave: those that decode, that are prefilled, that wait."""
        jobs = [*self.running.values(), *self.prefilling, *self.waiting]
        for left in (self.running, self.prefilling, self.waiting, self._due):
            left.clear()
        self.kv = KvBlocks(self.kv.capacity * self.kv.size, self.kv.size)
        self.bases = 0
        self._shortest = inf
        return jobs
