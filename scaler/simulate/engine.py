"""One replica of an inference server with continuous batching, in time.

May not be in here: whom it serves when (engine_batch.py), other replicas, routing, what its numbers mean to a policy.

The server works in steps. Between two events the batch does not change and each step is longer than the one before by
the same amount: the number and the time of such a run of steps are closed forms, and no sequence is touched. A step
that was started is always finished; arrivals end a run after it. Nothing depends on how often the engine is advanced.

Times are seconds of the simulation.
"""

from collections import deque
from math import inf, nextafter, sqrt

from exporter.core.model_engines import EngineReading
from scaler.simulate.engine_batch import Batch
from scaler.simulate.engine_meters import Meters
from scaler.simulate.model import Profile, Request


class Engine:
    """One replica. A step that starts at a moment has whatever was submitted up to that moment.

    `at`: the time it was advanced to. A time before it counts as `at`. `in_flight`: requests that it has, as of then.
    """

    __slots__ = (
        *("_batch", "_end", "_factor", "_first", "_frozen", "_meters", "_open", "_rise", "_start", "_steps"),
        *("at", "in_flight", "model", "profile"),
    )

    def __init__(self, profile: Profile, at: float, model: str = "model") -> None:
        """Raises ValueError for a profile that no step could be made with (profiles.parse lets none of these pass)."""
        if not 0 < profile.step < inf:
            raise ValueError(f"profile {profile.name}: step {profile.step} takes no time: give seconds above 0")
        self.profile = profile
        self.model = model
        self.at = at
        self.in_flight = 0
        self._meters = Meters()
        self._batch = Batch(profile, self._meters)
        self._factor = 1.0
        self._frozen: EngineReading | None = None
        self._open = False  # whether a run of steps is under way; the rest is its own
        self._start = self._end = at
        self._steps = 0
        self._first = self._rise = 0.0  # seconds of its first step, and by how much each next one is longer

    @property
    def waiting(self) -> int:
        """Requests that are not admitted; also those that came after freeze(), which the reading does not show."""
        return len(self._batch.waiting)

    @property
    def running(self) -> int:
        return len(self._batch.running) + len(self._batch.prefilling)

    @property
    def preemptions(self) -> int:
        return self._meters.preemptions

    @property
    def generated(self) -> int:
        """Tokens, from the start."""
        return self._meters.generated + self._steps_done() * len(self._batch.running)

    @property
    def busy_seconds(self) -> float:
        """Seconds in which a step ran, from the start. A frozen engine runs none."""
        return self._meters.worked + (self.at - self._start if self._open else 0.0)

    def submit(self, request: Request, now: float) -> None:
        """Advances to `now`, then queues it. What finishes on the way is handed out by the next advance()."""
        self._work(now)
        batch = self._batch
        if self._open and not batch.waiting and batch.may_admit(request):
            self._end_run_early()
        batch.queue(request, self.at)
        self.in_flight += 1

    def advance(self, now: float) -> list[Request]:
        """Works until `now`. Returns the requests that finished since the last call, in the order of time."""
        self._work(now)
        done, self._batch.finished = self._batch.finished, []
        return done

    def next_finish(self) -> float:
        """When the next request finishes if nothing else comes, or a time between `at` and then. inf: never."""
        if self._frozen is not None:
            return inf
        if self._open:
            end, left = self._end, self._batch.least_left(self._steps, counted=True)
        else:
            end, left = self.at, self._batch.least_left(0, counted=False)
        return end + left * self._factor * self.profile.step if left else end

    def slow(self, factor: float, now: float) -> None:
        """From the first step that starts at `now` or later, every step takes `factor` (above 0) times as long."""
        self._work(now)
        if self._open:
            self._end_run_early()
        self._factor = factor

    def freeze(self, now: float) -> None:
        """Nothing moves any more. Requests are still accepted, but the reading stays what it was."""
        if self._frozen is None:
            self._frozen = self.reading(now)
            self._break_off()

    def take_all(self, now: float) -> list[Request]:
        """All requests leave, unfinished: first those that run. To whom they go next, they are new."""
        self._work(now)
        self._break_off()
        requests = [job.request for job in self._batch.clear()]
        self.in_flight = 0
        for request in requests:
            request.first_token = None
            request.generated = 0
        return requests

    def take_waiting(self, now: float) -> list[Request]:
        """Those that wait leave. A preempted one stays: its client has the beginning of the answer from here."""
        self._work(now)
        jobs = self._batch.waiting
        self._batch.waiting = deque(job for job in jobs if job.started is not None)
        self.in_flight = len(self._batch)
        return [job.request for job in jobs if job.started is None]

    def reading(self, now: float) -> EngineReading:
        """Advances to `now`; what the exporter then reads of /metrics. vLLM does not tell max_running."""
        self._work(now)
        if self._frozen is not None:
            return self._frozen
        batch, meters, steps = self._batch, self._meters, self._steps_done()
        kv, itl = batch.kv, meters.itl
        used = kv.used
        if self._open and not batch.prefilling:  # the step under way has its blocks; with prompts they are in `used`
            used += kv.growth(batch.step, steps + 1)
        if steps:
            itl = itl.copy()
            itl.observe_rising(self._first, self._rise, steps, len(batch.running))
        return EngineReading(
            self.model,
            "0",
            waiting=float(self.waiting),
            running=float(self.running),
            kv_usage=min(1.0, used / kv.capacity),
            kv_capacity_tokens=float(kv.capacity * kv.size),
            prompt_tokens_total=float(meters.prompt_tokens),
            generation_tokens_total=float(self.generated),
            preemptions_total=float(meters.preemptions),
            prefix_queries_total=float(meters.queries),
            prefix_hits_total=float(meters.hits),
            finished={"stop": float(meters.stopped)},
            ttft=meters.ttft.shown(),
            itl=itl.shown(),
            queue_time=meters.queue_time.shown(),
            e2e=meters.e2e.shown(),
            config={"block_tokens": str(kv.size)},
        )

    def _work(self, now: float) -> None:
        """Ends every run that ends by `now` and begins every one that begins before it."""
        if now <= self.at:
            return
        if self._frozen is None:
            if not self._open and self.in_flight:
                self._begin(self.at)
            while self._open and self._end <= now:
                self._finish_run()
                if self.in_flight and self._end < now:
                    self._begin(self._end)
        self.at = now

    def _begin(self, start: float) -> None:
        profile, batch, factor = self.profile, self._batch, self._factor
        steps, tokens, squares = batch.schedule(start)
        decoding, per_context_token = len(batch.running), profile.per_context_token
        seconds = profile.step + profile.per_sequence * decoding + per_context_token * batch.context
        if tokens:
            seconds += profile.per_prompt_token * tokens + profile.per_prompt_token_squared * squares
        self._steps = steps
        self._first = seconds * factor
        self._rise = per_context_token * decoding * factor
        self._start = start
        self._end = self._time(steps)
        self._open = True

    def _finish_run(self) -> None:
        batch, end = self._batch, self._end
        self._meters.worked += end - self._start
        self._open = False
        batch.count_steps(self._steps, self._first, self._rise)
        self.in_flight -= batch.end_step(end)

    def _end_run_early(self) -> None:
        """The step under way at `at` becomes the run's last."""
        if self._steps == 1:
            return
        steps = self._steps_done()
        if not steps or self._time(steps) < self.at:
            steps += 1
        self._steps, self._end = steps, self._time(steps)
        if self._end <= self.at:  # it ends just now, with nobody finished
            self._finish_run()

    def _break_off(self) -> None:
        """The step under way is never done; those before it in its run are."""
        if self._open:
            self._meters.worked += self.at - self._start
            steps = self._steps_done()
            self._open = False
            if steps:
                self._batch.count_steps(steps, self._first, self._rise)

    def _time(self, steps: int) -> float:
        """When so many steps of the open run are done. Later than its start, however short they are."""
        if not steps:
            return self._start
        end = self._start + (steps * self._first + self._rise * (steps * (steps - 1) // 2))
        return end if end > self._start else nextafter(self._start, inf)

    def _steps_done(self) -> int:
        """Steps of the open run that are done at `at`: the closed form, put right where it was rounded."""
        if not self._open or self._steps == 1:
            return 0
        half = self._first - self._rise / 2
        past = self.at - self._start
        steps = min(self._steps, int(2 * past / (half + sqrt(half * half + 2 * self._rise * past))))
        while steps and self._time(steps) > self.at:
            steps -= 1
        while steps < self._steps and self._time(steps + 1) <= self.at:
            steps += 1
        return steps
