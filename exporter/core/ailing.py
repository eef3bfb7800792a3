"""When something ails an engine: the thresholds, and the comparisons with the usual that rest on them.

May not be in here: which cause follows (diagnosis.py), learning (usual.py), numbers that are policy (ailing.toml).
"""

import tomllib
from pathlib import Path

from msgspec import Struct, convert

from exporter.core.model_engines import Rates, Usual
from exporter.core.saturation import WINDOW

#: States of a GPU that make nothing else worth asking.
SICK = ("lost", "unhealthy")


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """The values of ailing.toml; units and sources stand there."""

    latency_up: float
    latency_down: float
    latency_bad: float
    ttft_step_seconds: float
    itl_step_seconds: float
    traffic_up: float
    queue_share: float
    queue_seconds: float
    queue_leave_seconds: float
    throttle_leave_seconds: float
    kv_full: float
    long_prompts: float
    least_events: float
    error_share: float
    xid_seconds: float
    gpu_idle: float
    gpu_awake: float
    gpu_busy: float
    lost_stall_seconds: float
    warm_up_seconds: float
    cold_start_seconds: float
    usual_seconds: float
    usual_slow_seconds: float
    usual_least_seconds: float
    usual_least_requests: float


def load(text: str) -> Limits:
    """Raises msgspec.ValidationError, KeyError or tomllib.TOMLDecodeError if the file is not as it must be."""
    return convert({name: row["value"] for name, row in tomllib.loads(text).items()}, Limits)


LIMITS = load(Path(__file__).with_name("ailing.toml").read_text(encoding="utf-8"))


def slower(rates: Rates, usual: Usual, factor: float) -> bool | None:
    """Whether a median latency is `factor` times the usual one or more. None: neither of the two can be compared."""
    compared = [
        now >= factor * then and now - then >= step
        for now, then, step in (
            (rates.ttft_p50, usual.ttft_p50, LIMITS.ttft_step_seconds),
            (rates.itl_p50, usual.itl_p50, LIMITS.itl_step_seconds),
        )
        if now is not None and then is not None
    ]
    return any(compared) if compared else None


def prompt_tokens(rates: Rates) -> float | None:
    """Of a request, mean over the window. Prompts are counted when they are read, requests when they end."""
    return over(rates.prompt_tokens_per_second, rates.requests_per_second)


def traffic(rates: Rates, usual: Usual) -> float | None:
    """How much more than usual the engine carries: of requests or of prompt tokens, whichever rose more. 1 is as usual.

    What it carries, not what is asked of it: while a queue stands these part, and then it says whether the engine
    gets through more than usual or not even through that.
    """
    usual_tokens = (
        usual.requests_per_second * usual.prompt_tokens
        if usual.requests_per_second is not None and usual.prompt_tokens is not None
        else None
    )
    ratios = (
        over(rates.requests_per_second, usual.requests_per_second),
        over(rates.prompt_tokens_per_second, usual_tokens),
    )
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def error_share(rates: Rates) -> float | None:
    """Of the finished requests, 0..1."""
    return over(rates.errors_per_second, rates.requests_per_second)


def fails(rates: Rates) -> bool:
    """Whether requests end with errors, more than a few and more than a small share. Unknown is not failing."""
    share = error_share(rates)
    return often(rates.errors_per_second) and share is not None and share >= LIMITS.error_share


def often(per_second: float | None) -> bool:
    """Whether something happened least_events times in the window; half an event is left to rounding."""
    return per_second is not None and per_second * WINDOW >= LIMITS.least_events - 0.5


def over(part: float | None, whole: float | None) -> float | None:
    """None where either is missing or there is nothing to divide by."""
    return part / whole if part is not None and whole else None
