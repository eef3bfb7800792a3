"""What an engine suffers from: one word with its evidence, by a table of rules of which the first that applies is taken.

May not be in here: measuring (saturation.py), the usual (usual.py), what the facts say when put together (evidence.py),
thresholds (ailing.toml), judging GPUs (health.py).

A rule states what can be told from what is known now; what is missing never speaks for an engine, and no rule that needs
a number applies without it. Where nothing applies, the engine is healthy only because its readings say so.

**Steadiness.** Rates, latencies and the utilization are of a window of 30 s. A queue that is there in one second and
not in the next, clocks that are held down every other second and a single late scrape are held on to (ailing.toml:
queue_leave_seconds, throttle_leave_seconds; evidence.Facts.answers); slowness and an idle GPU are entered at one
threshold and left at another (usual.Ailments). Nothing else needs it.

docs/diagnosis.md tells the same to whoever is on call.
"""
# ruff: noqa: E501 -- one row a rule: a wrapped table cannot be scanned

from collections.abc import Callable, Iterator
from typing import NamedTuple

from exporter.core.ailing import LIMITS
from exporter.core.evidence import NUMBERS, Facts, Value
from exporter.core.model_engines import Diagnosis

CAUSES: tuple[str, ...] = (
    "idle",
    "healthy",
    "saturated",
    "kv_pressure",
    "throttled",
    "hardware",
    "outside_gpu",
    "cold_start",
    "wedged",
    "blind",
)


class Rule(NamedTuple):
    cause: str
    why: str  # one sentence for a person
    place: str  # why the rule stands where it stands
    applies: Callable[[Facts], bool]
    evidence: tuple[str, ...]  # names of evidence.NUMBERS that it rests on


class Explained(NamedTuple):
    cause: str
    why: str
    applies: bool
    evidence: dict[str, Value]


def _warms_up(f: Facts) -> bool:
    young = f.first_read is not None and f.first_read < LIMITS.cold_start_seconds
    return (
        f.answers and f.never_produced and f.holds_work and young
        and not f.sick and not f.asleep
        and (f.seconds_without_tokens or 0.0) < LIMITS.warm_up_seconds
    )  # fmt: skip


def _is_loading(f: Facts) -> bool:
    """Its port is closed, and it has not worked since it, or its container, was new.

    What stands before it may answer in its place (a service mesh), and llama.cpp does so itself while it loads.
    """
    if f.error not in ("refused", "unavailable"):
        return False
    # A pod may be seen, and its port refuse, for as long as its image is pulled: its container is younger.
    restarted = f.started is not None and f.started < LIMITS.cold_start_seconds
    if f.memory is None or not f.memory.produced:
        return restarted or (f.age is not None and f.age < LIMITS.cold_start_seconds)
    return restarted and f.reading_age is not None and f.started is not None and f.reading_age >= f.started


def _is_slowed_down(f: Facts) -> bool:
    """Clocks are held down and it shows; but not where more comes than usual and queues for that reason."""
    shows = f.queues or f.slower is not False
    return bool(f.throttled) and f.holds_work and shows and not (f.queues and f.traffic_is_up)


def _lacks_kv(f: Facts) -> bool:
    if not f.holds_work:
        return False
    return f.preempts or (f.queues and f.kv_full and not f.runs_all_it_may)


def _prompts_are_long(f: Facts) -> bool:
    return _lacks_kv(f) and f.prompts is not None and f.prompts >= LIMITS.long_prompts


def _prompts_are_as_usual(f: Facts) -> bool:
    return _lacks_kv(f) and f.prompts is not None and f.prompts < LIMITS.long_prompts


def _is_slow_unloaded(f: Facts) -> bool:
    return f.much_slower and not f.queues and not f.refuses and not f.traffic_is_up


def _waits_outside(f: Facts) -> bool:
    return _is_slow_unloaded(f) and f.gpu_is_idle


def _hides_work(f: Facts) -> bool:
    return not f.holds_work and f.utilization is not None and f.utilization >= LIMITS.gpu_busy


_STALL = ("waiting", "running", "seconds_without_tokens", "tokens_per_second", "gpu_state", "xid", "xid_age")
_READ = ("error", "reading_age", "age", "produced", "started")
_LATENCY = ("ttft_p50", "usual_ttft_p50", "itl_p50", "usual_itl_p50")
_TRAFFIC = ("requests_per_second", "usual_requests_per_second", "traffic")
_QUEUE = ("waiting", "running", "saturation", "knee_running")
_KV = (
    "waiting", "running", "max_running", "kv_usage", "preemptions_per_second", "kv_tokens_per_request", "prompt_tokens",
    "usual_prompt_tokens", "knee_running", "waiting_for_capacity", "waiting_deferred",
)  # fmt: skip
_ERRORS = ("errors_per_second", "error_share", "gpu_state", "xid", "xid_age", "application_xid")

# fmt: off
RULES: tuple[Rule, ...] = (
    Rule(
        "wedged", "a GPU of it is lost, and its server answers as if nothing had happened",
        "first: clients are still sent to it, whatever its page says; and it tells more than that the GPU is lost",
        lambda f: f.hardware.state == "lost" and f.answers and not f.moves,
        ("gpu_state", "error", *_STALL[:4], "requests_per_second", "xid", "xid_age"),
    ),
    Rule(
        "cold_start", "it is young and works on its first request: kernels are compiled, graphs captured",
        "before wedged: a first token may take longer than any later one",
        _warms_up,
        ("first_read", "produced", "waiting", "running", "seconds_without_tokens"),
    ),
    Rule(
        "wedged", "it holds work and nothing moves",
        "before hardware and blind: it is seen on the engine itself, and neither a sick GPU nor a late scrape changes it",
        lambda f: f.stuck and not f.asleep,
        _STALL,
    ),
    Rule(
        "hardware", "a GPU of it is sick: nothing else it shows can be trusted",
        "before what the server says: the GPU's verdict stands whether it answers or not",
        lambda f: f.sick,
        ("gpu_state", "hardware_capacity", "error", "xid", "xid_age", "tokens_per_second"),
    ),
    Rule(
        "hardware", "requests fail, and a GPU of it reported an error minutes ago",
        "before load: a queue of requests that fail and come again is not for want of pods",
        lambda f: f.fails and f.gpu_xid is not None,
        _ERRORS,
    ),
    Rule(
        "cold_start", "its port is closed and it has not worked since it was started: the model is being loaded",
        "before blind: a port that is closed for this reason is none to be repaired",
        _is_loading,
        _READ,
    ),
    Rule(
        "blind", "it was never read",
        "before all that reads numbers: there are none",
        lambda f: f.reading is None,
        _READ,
    ),
    Rule(
        "blind", "the last attempt to read it failed, or its last reading is too old",
        "as above: old numbers say nothing of now",
        lambda f: not f.answers,
        _READ,
    ),
    Rule(
        "blind", "its page does not tell what waits or what runs",
        "as above: without these nobody can say that all is well",
        lambda f: not f.counts,
        ("waiting", "running", "lacking"),
    ),
    Rule(
        "hardware", "no part of its GPUs can be counted on",
        "after blind, before load: a replica that carries nothing is not short of pods",
        lambda f: f.hardware.capacity == 0,
        ("hardware_capacity", "gpu_state", "throttled"),
    ),
    Rule(
        "idle", "it is asleep",
        "before load: what a sleeping engine still shows is from before",
        lambda f: f.asleep,
        ("sleeping", "waiting", "running"),
    ),
    Rule(
        "throttled", "clocks of a GPU are held down, and it gets through no more than usual",
        "before queue and KV cache: slow clocks fill both; unless more comes than usual, which would fill them anyway",
        _is_slowed_down,
        ("throttled", "hardware_capacity", *_LATENCY, *_TRAFFIC, "waiting", "running", "utilization"),
    ),
    Rule(
        "kv_pressure", "the KV cache is full: prompts are far longer than usual, so that few requests fit",
        "before saturated: memory is short, not compute, and what helps differs",
        _prompts_are_long,
        _KV,
    ),
    Rule(
        "kv_pressure", "the KV cache is full of requests as long as usual: there are too many for one engine",
        "as above: here more pods help",
        _prompts_are_as_usual,
        _KV,
    ),
    Rule(
        "kv_pressure", "the KV cache is full; whether by long prompts or by many is not known yet",
        "as above: the usual length is learned in good times only",
        _lacks_kv,
        _KV,
    ),
    Rule(
        "saturated", "it refuses requests: its queue is as long as it may be",
        "before the queue: what is refused is in no queue",
        lambda f: f.refuses,
        ("rejections_per_second", *_QUEUE, "requests_per_second"),
    ),
    Rule(
        "saturated", "requests wait: it runs all that it can",
        "after what explains a queue otherwise",
        lambda f: f.queues,
        (*_QUEUE, "max_running", "kv_usage", *_TRAFFIC, "throttled"),
    ),
    Rule(
        "outside_gpu", "it is far slower than usual while its GPU has little to do and nothing waits",
        "after every cause that is measured: this one is what is left over",
        _waits_outside,
        (*_LATENCY, "utilization", *_TRAFFIC, "waiting", "rejections_per_second", "throttled"),
    ),
    Rule(
        "blind", "it is far slower than usual though nothing waits, and nobody can tell how busy its GPUs are",
        "after outside_gpu: the same, without the number that tells",
        lambda f: _is_slow_unloaded(f) and f.utilization is None,
        (*_LATENCY, "utilization", *_TRAFFIC, "waiting", "rejections_per_second"),
    ),
    Rule(
        "blind", "requests fail, and nobody can tell how its GPUs are",
        "before outside_gpu: a GPU is cleared of it only by a verdict",
        lambda f: f.fails and f.hardware.state == "unknown",
        _ERRORS,
    ),
    Rule(
        "outside_gpu", "requests fail, and no fault of its GPUs is known: look at the application",
        "as above; an Xid that an application causes is shown, and clears the GPU",
        lambda f: f.fails,
        _ERRORS,
    ),
    Rule(
        "blind", "its page lacks numbers that every server of its kind has: what would speak against it may be among them",
        "before healthy and idle alone: what was found above was found all the same",
        lambda f: bool(f.lacking),
        ("lacking", "waiting", "running"),
    ),
    Rule(
        "healthy", "requests run and none waits; it is slower than usual, and nothing measured here says why",
        "before healthy, to say so",
        lambda f: f.holds_work and bool(f.slower),
        ("waiting", "running", *_LATENCY, "utilization", *_TRAFFIC, "throttled"),
    ),
    Rule(
        "healthy", "requests run and no queue stands",
        "none of the above",
        lambda f: f.holds_work,
        ("waiting", "running", *_LATENCY, "saturation", "throttled"),
    ),
    Rule(
        "idle", "by its own page nothing runs, but its GPU is busy: with another process, or it hangs unseen",
        "before idle, to say so: no other number tells the two apart",
        _hides_work,
        ("waiting", "running", "utilization", "tokens_per_second"),
    ),
    Rule(
        "idle", "nothing runs and nothing waits",
        "last: both are known to be 0",
        lambda f: True,
        ("waiting", "running"),
    ),
)
# fmt: on


def diagnose(facts: Facts) -> Diagnosis:
    """The first rule that applies, with the numbers that it rests on. Raises nothing, whatever is missing."""
    rule = next(rule for rule in RULES if rule.applies(facts))
    return Diagnosis(rule.cause, rule.why, _evidence(rule, facts))


def explain(facts: Facts) -> tuple[Explained, ...]:
    """Every rule in its order, whether it applies and on which numbers: the first that applies is the diagnosis."""
    return tuple(_explained(facts))


def _explained(facts: Facts) -> Iterator[Explained]:
    for rule in RULES:
        yield Explained(rule.cause, rule.why, rule.applies(facts), _evidence(rule, facts))


def _evidence(rule: Rule, facts: Facts) -> dict[str, Value]:
    return {name: NUMBERS[name](facts) for name in rule.evidence}
