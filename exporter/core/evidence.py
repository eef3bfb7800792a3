"""What a diagnosis of one engine may rest on: the facts, what they say when put together, and their plain names.

May not be in here: which cause follows (diagnosis.py), thresholds (ailing.toml), measuring (saturation.py, usual.py).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from exporter.core import ailing, usual, xid
from exporter.core.ailing import LIMITS
from exporter.core.model_engines import EngineReading, Hardware, Learned, Rates, Usual
from exporter.core.saturation import EngineMemory, wedged
from exporter.core.usual import Ailments

#: What a number may be in Diagnosis.evidence. None: missing.
Value = float | str | bool | None

#: A scrape that came late says nothing of the engine, as long as the last reading still counts. Every other failure
#: does: a refused port is a process that is gone.
_PASSING = "timeout"

#: Classes of Xids (xid.py) that are not the GPU's fault.
_NOT_THE_GPU = ("application", "info")


class Facts(NamedTuple):
    """All that is known of one engine at `now`, monotonic seconds."""

    now: float
    reading: EngineReading | None = None  # the last good one; None: never read
    kind: str = ""
    lacking: tuple[str, ...] = ()  # EngineScrape.lacking of the last good attempt
    error: str = "pending"  # reason of the last attempt; "" if it was good
    memory: EngineMemory | None = None  # None: never read
    rates: Rates = Rates()
    usual: Usual = Usual()
    ailments: Ailments = Ailments()
    learned: Learned = Learned()
    saturation: float | None = None
    hardware: Hardware = Hardware()
    capacity: float | None = None
    age: float | None = None  # seconds since it was first seen
    started: float | None = None  # seconds since its container was started, as Kubernetes tells it; None: not told
    fresh: float = 5.0  # seconds for which a reading counts

    @property
    def reading_age(self) -> float | None:
        return self.now - self.memory.at if self.memory else None

    @property
    def first_read(self) -> float | None:
        """Seconds since its first page, or its first after it was last started."""
        return self.now - self.memory.since if self.memory else None

    @property
    def answers(self) -> bool:
        """Whether there is a reading that counts, and nothing says that it no longer does."""
        age = self.reading_age
        if self.reading is None or (age is not None and age > self.fresh):
            return False
        return not self.error or (self.error == _PASSING and age is not None)

    @property
    def counts(self) -> bool:
        """Whether it is known what waits and what runs."""
        return self.reading is not None and self.reading.waiting is not None and self.reading.running is not None

    @property
    def waiting(self) -> float | None:
        return self.reading.waiting if self.reading else None

    @property
    def running(self) -> float | None:
        return self.reading.running if self.reading else None

    @property
    def holds_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def asleep(self) -> bool:
        return bool(self.reading and self.reading.sleeping)

    @property
    def sick(self) -> bool:
        return self.hardware.state in ailing.SICK

    @property
    def queues(self) -> bool:
        """A queue stands, or stood until a moment ago and requests still run."""
        if self.reading is None:
            return False
        # Without a memory of it nobody knows how long it stands: then what waits is a queue.
        if self.reading.waiting and self.ailments.waiting_since is None:
            return True
        lately = within(self.ailments.queued_at, self.now, LIMITS.queue_leave_seconds)
        return usual.queues(self.reading, self.ailments, self.now) or (lately and bool(self.running))

    @property
    def throttled(self) -> bool | None:
        """Clocks are held down, or were until a moment ago: what the rates look back on. None: nobody tells."""
        lately = within(self.ailments.throttled_at, self.now, LIMITS.throttle_leave_seconds)
        return True if lately else self.hardware.throttled

    @property
    def seconds_without_tokens(self) -> float | None:
        """While work is held. None: none is held, or its counters do not tell."""
        memory = self.memory
        return memory.at - memory.stalled_since if memory and memory.stalled_since is not None else None

    @property
    def stuck(self) -> bool:
        return self.memory is not None and wedged(self.memory, self.now)

    @property
    def moves(self) -> bool:
        """Whether it was seen to work a moment ago; holding nothing, whether it did within the window."""
        if (still := self.seconds_without_tokens) is not None:
            return still < LIMITS.lost_stall_seconds
        return bool(self.rates.tokens_per_second or self.rates.requests_per_second)

    @property
    def never_produced(self) -> bool:
        """It tells what it has produced, and that is nothing."""
        tells = self.reading is not None and (
            self.reading.generation_tokens_total is not None or self.reading.finished is not None
        )
        return tells and self.memory is not None and not self.memory.produced

    @property
    def slower(self) -> bool | None:
        """Than usual. None: what is usual, or what is now, is not known."""
        if ailing.slower(self.rates, self.usual, LIMITS.latency_up) is None:
            return None
        return usual.slow(self.ailments, self.rates, self.usual)

    @property
    def much_slower(self) -> bool:
        return usual.very_slow(self.ailments, self.rates, self.usual)

    @property
    def traffic(self) -> float | None:
        return ailing.traffic(self.rates, self.usual)

    @property
    def traffic_is_up(self) -> bool:
        return (self.traffic or 0.0) > LIMITS.traffic_up

    @property
    def fails(self) -> bool:
        return ailing.fails(self.rates)

    @property
    def refuses(self) -> bool:
        return bool(self.rates.rejections_per_second)

    @property
    def preempts(self) -> bool:
        return ailing.often(self.rates.preemptions_per_second)

    @property
    def kv_full(self) -> bool:
        usage = self.reading.kv_usage if self.reading else None
        return usage is not None and usage >= LIMITS.kv_full

    @property
    def runs_all_it_may(self) -> bool:
        """As many requests run as its configuration allows: then that is what holds the others up."""
        most = self.reading.max_running if self.reading else None
        return most is not None and self.running is not None and self.running >= most

    @property
    def prompts(self) -> float | None:
        """Prompt tokens of a request over the usual."""
        return ailing.over(ailing.prompt_tokens(self.rates), self.usual.prompt_tokens)

    @property
    def utilization(self) -> float | None:
        """Of the busiest GPU, over the last window: a single look meets a GPU between two steps. None: unknown now."""
        if self.hardware.utilization is None:
            return None
        mean = self.ailments.utilization
        return self.hardware.utilization if mean is None else mean

    @property
    def gpu_is_idle(self) -> bool:
        return usual.gpu_idle(self.ailments, self.utilization)

    @property
    def gpu_xid(self) -> tuple[int, float] | None:
        """The newest Xid within xid_seconds that speaks against the GPU (code, seconds since)."""
        return self._xid(application=False)

    @property
    def application_xid(self) -> tuple[int, float] | None:
        """The same, of those that an application causes."""
        return self._xid(application=True)

    def _xid(self, application: bool) -> tuple[int, float] | None:
        for code, seconds in self.hardware.xids:
            kind = xid.of(code).kind
            wanted = kind == "application" if application else kind not in _NOT_THE_GPU
            if wanted and seconds <= LIMITS.xid_seconds:
                return code, seconds
        return None


def within(at: float | None, now: float, seconds: float) -> bool:
    return at is not None and now - at <= seconds


def _kv_tokens_per_request(facts: Facts) -> float | None:
    reading = facts.reading
    if reading is None or reading.kv_usage is None or reading.kv_capacity_tokens is None:
        return None
    return ailing.over(reading.kv_usage * reading.kv_capacity_tokens, reading.running)


def _reading(name: str) -> Callable[[Facts], Value]:
    return lambda facts: getattr(facts.reading, name) if facts.reading else None


def _waiting_for(reason: str) -> Callable[[Facts], Value]:
    return lambda facts: (facts.reading.waiting_by_reason or {}).get(reason) if facts.reading else None


#: Every number that a rule may rest on: its plain name, and where it comes from. Seconds, shares 0..1, tokens, counts.
NUMBERS: Mapping[str, Callable[[Facts], Value]] = {
    "error": lambda f: f.error or None,
    "lacking": lambda f: ",".join(f.lacking[:16]) or None,
    "reading_age": lambda f: f.reading_age,
    "age": lambda f: f.age,
    "started": lambda f: f.started,
    "first_read": lambda f: f.first_read,
    "produced": lambda f: f.memory.produced if f.memory else None,
    "sleeping": _reading("sleeping"),
    "waiting": _reading("waiting"),
    "running": _reading("running"),
    "max_running": _reading("max_running"),
    "kv_usage": _reading("kv_usage"),
    "waiting_for_capacity": _waiting_for("capacity"),
    "waiting_deferred": _waiting_for("deferred"),
    "seconds_without_tokens": lambda f: f.seconds_without_tokens,
    "saturation": lambda f: f.saturation,
    "knee_running": lambda f: f.learned.knee_running,
    "kv_tokens_per_request": _kv_tokens_per_request,
    "prompt_tokens": lambda f: ailing.prompt_tokens(f.rates),
    "usual_prompt_tokens": lambda f: f.usual.prompt_tokens,
    "requests_per_second": lambda f: f.rates.requests_per_second,
    "usual_requests_per_second": lambda f: f.usual.requests_per_second,
    "traffic": lambda f: f.traffic,
    "tokens_per_second": lambda f: f.rates.tokens_per_second,
    "errors_per_second": lambda f: f.rates.errors_per_second,
    "error_share": lambda f: ailing.error_share(f.rates),
    "rejections_per_second": lambda f: f.rates.rejections_per_second,
    "preemptions_per_second": lambda f: f.rates.preemptions_per_second,
    "ttft_p50": lambda f: f.rates.ttft_p50,
    "usual_ttft_p50": lambda f: f.usual.ttft_p50,
    "itl_p50": lambda f: f.rates.itl_p50,
    "usual_itl_p50": lambda f: f.usual.itl_p50,
    "gpu_state": lambda f: f.hardware.state,
    "hardware_capacity": lambda f: f.hardware.capacity,
    "throttled": lambda f: f.throttled,
    "utilization": lambda f: f.utilization,
    "xid": lambda f: f.gpu_xid[0] if f.gpu_xid else None,
    "xid_age": lambda f: f.gpu_xid[1] if f.gpu_xid else None,
    "application_xid": lambda f: f.application_xid[0] if f.application_xid else None,
}
