"""A history: what came to a real fleet in each stretch of time, and the load that would have been recorded so.

May not be in here: where a history is read (history_records.py, history_prometheus.py), how counters and gauges become
sums (history_sums.py), I/O, what is made of the comparison.

Known are counters and gauges at moments, so only what happened between two of them: requests that arrived = requests
that finished + what waiting and running grew by; tokens from their counters. Not known, and not made up as if it were:
when within an interval a request came, the length of any single one (only means over some minutes), what of a prompt
the prefix cache had (it is taken for nothing), and requests that were refused or aborted (an abort counts as an end).
A replica that goes takes its requests along: if they are sent to others, they count there again.
"""

import math
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from scaler.simulate import generators
from scaler.simulate.model import Arrival, Trace
from scaler.simulate.traces import MILLISECONDS, MOST_ROWS, TraceError

#: Seconds on both sides of an interval over which mean lengths are taken: tokens are counted after arrivals.
AROUND = 150.0
#: Requests below which a mean length is not believed, and that of the whole history is taken.
ENOUGH = 20.0


class Interval(NamedTuple):
    """What came in between two moments, and what stood at its end. None: not recorded."""

    at: float  # its start, seconds from the history's
    seconds: float
    arrivals: float  # requests
    prompt_tokens: float | None
    output_tokens: float | None
    replicas: int | None  # that were seen
    required: float | None  # replicas that were answered; None also where there was no answer
    reason: str  # of that answer


class History(NamedTuple):
    name: str
    start: float  # Unix time
    intervals: tuple[Interval, ...]  # one after the other, without gaps
    skipped: int = 0  # lines that could not be read
    first_skipped: str = ""  # which, and why
    notes: tuple[str, ...] = ()  # what is missing, a line each

    @property
    def seconds(self) -> float:
        return self.intervals[-1].at + self.intervals[-1].seconds


def to_trace(
    history: History,
    seed: int,
    prompt_cv: float = generators.PROMPT_CV,
    output_cv: float = generators.OUTPUT_CV,
    longest: int = 32768,
) -> Trace:
    """Requests that would have been recorded so; the same for the same seed.

    The arrivals of an interval are spread evenly over it, each moved within its part. Lengths are drawn around the mean
    of the minutes around it, spread (cv: standard deviation over mean) as Azure's conversations are; 0: all the mean.
    Where tokens were not recorded the means are theirs, too. Raises TraceError: nothing arrived, or too much.
    """
    total = sum(interval.arrivals for interval in history.intervals)
    if not 1 <= total <= MOST_ROWS:
        raise TraceError(
            f"history {history.name}: {total:g} requests arrived, from 1 to {MOST_ROWS} can be replayed; "
            "take a longer or a shorter time"
        )
    chance = random.Random(seed)  # noqa: S311 -- a workload, not a secret
    prompts = _means(history.intervals, [i.prompt_tokens for i in history.intervals], generators.PROMPT)
    outputs = _means(history.intervals, [i.output_tokens for i in history.intervals], generators.OUTPUT)
    arrivals: list[Arrival] = []
    owed = 0.0
    for interval, prompt_mean, output_mean in zip(history.intervals, prompts, outputs, strict=True):
        owed += interval.arrivals
        count = math.floor(owed + 1e-9)
        owed -= count
        prompt = generators.lengths(prompt_mean, prompt_cv, longest, chance)
        output = generators.lengths(output_mean, output_cv, longest, chance)
        for index in range(count):
            at = interval.at + interval.seconds * (index + chance.random()) / count
            arrivals.append(Arrival(at, prompt(), output()))
    return Trace(history.name, arrivals, history.seconds)


def is_moment(at: float) -> bool:
    """Whether it can be a Unix time in seconds; a simulation's begin at 0."""
    return 0 <= at < MILLISECONDS


def missing(sums: Sequence[tuple[float, float | None, float | None]]) -> tuple[str, ...]:
    """What of history_sums.step_sums() is missing, a line each."""
    words = (("prompt tokens", sums[0][1]), ("generated tokens", sums[0][2]))
    return tuple(
        f"{word} were not recorded: lengths are those of Azure's conversations"
        for word, value in words
        if value is None
    )


def _means(intervals: Sequence[Interval], tokens: Sequence[float | None], otherwise: float) -> list[float]:
    """Mean length for each interval: over the time AROUND it, else of the whole history, else `otherwise`."""
    known = [0.0 if amount is None else amount for amount in tokens]
    requests = [0.0, *accumulate(interval.arrivals for interval in intervals)]
    amounts = [0.0, *accumulate(known)]
    whole = amounts[-1] / requests[-1] if amounts[-1] > 0 else otherwise
    reach = max(1, round(AROUND / intervals[0].seconds))
    means = []
    for index in range(len(intervals)):
        low, high = max(0, index - reach), min(len(intervals), index + reach + 1)
        came, amount = requests[high] - requests[low], amounts[high] - amounts[low]
        means.append(max(1.0, amount / came if came >= ENOUGH and amount > 0 else whole))
    return means
