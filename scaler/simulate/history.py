"""What was recorded of a real fleet, made into load again: the scaler's record file, or Prometheus' answer.

May not be in here: I/O, how counters and gauges become sums (history_sums.py), what is made of the comparison.

Known are counters and gauges at moments, so only what happened between two of them: requests that arrived = requests
that finished + what waiting and running grew by; tokens from their counters. Not known, and not made up as if it were:
when within an interval a request came, the length of any single one (only means over some minutes), what of a prompt
the prefix cache had (it is taken for nothing), and requests that were refused or aborted (an abort counts as an end).
A replica that goes takes its requests along: if they are sent to others, they count there again.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import msgspec

from scaler.core.record import Record
from scaler.simulate import generators
from scaler.simulate.history_sums import ARRIVALS, COUNTER, GAUGE, OUTPUT, PROMPT, RATE, Series, step_sums
from scaler.simulate.model import Arrival, Trace
from scaler.simulate.traces import MOST_ROWS, TraceError

#: Seconds of an interval made from a record file: the scaler writes a record that often at least.
STEP = 15.0
#: Seconds on both sides of an interval over which mean lengths are taken: tokens are counted after arrivals.
AROUND = 150.0
#: Requests below which a mean length is not believed, and that of the whole history is taken.
ENOUGH = 20.0

#: Prometheus' name -> (source, what it counts, how). One source is enough, and two would count everything twice.
#: Rates are recording rules or expressions with a name of their own: label_replace(sum(rate(...)), "__name__",
#: "arrivals", "", "").
SERIES: Mapping[str, tuple[str, str, str]] = {
    "plimsoll_engine_requests_finished_total": ("plimsoll", ARRIVALS, COUNTER),
    "plimsoll_engine_requests_waiting": ("plimsoll", ARRIVALS, GAUGE),
    "plimsoll_engine_requests_running": ("plimsoll", ARRIVALS, GAUGE),
    "plimsoll_engine_prompt_tokens_total": ("plimsoll", PROMPT, COUNTER),
    "plimsoll_engine_generation_tokens_total": ("plimsoll", OUTPUT, COUNTER),
    "vllm:request_success_total": ("vllm", ARRIVALS, COUNTER),
    "vllm:num_requests_waiting": ("vllm", ARRIVALS, GAUGE),
    "vllm:num_requests_running": ("vllm", ARRIVALS, GAUGE),
    "vllm:prompt_tokens_total": ("vllm", PROMPT, COUNTER),
    "vllm:generation_tokens_total": ("vllm", OUTPUT, COUNTER),
    "arrivals": ("rates", ARRIVALS, RATE),
    "prompt_tokens": ("rates", PROMPT, RATE),
    "generation_tokens": ("rates", OUTPUT, RATE),
}
#: What to ask Prometheus for, with a selector of the model's pods added.
QUERY = (
    '{__name__=~"plimsoll_engine_(requests_finished_total|requests_waiting|requests_running'
    '|prompt_tokens_total|generation_tokens_total)"}'
)


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


class Journal(NamedTuple):
    """The records of one ScaledObject, in the order of time."""

    records: tuple[Record, ...]
    skipped: int
    first_skipped: str


def records(lines: Iterable[bytes | str], namespace: str, name: str, source: str) -> Journal:
    """One object's records. namespace and name may be "" where that leaves one. source: the file, for errors.

    Raises TraceError: nothing to read, no such object, several. A line that cannot be read is counted and passed over.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    skipped, first = 0, ""
    decoder = msgspec.json.Decoder(Record)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError) as error:
            skipped, first = skipped + 1, first or f"line {number}: {' '.join(str(error).split())}"
            continue
        found.setdefault((record.namespace, record.name), []).append(record)
    there = ", ".join(f"{_line(key[0])}/{_line(key[1])}" for key in sorted(found)[:20])
    if not found:
        raise TraceError(
            f"file {source}: holds no record ({first or 'it is empty'}); give a file that --record.file wrote"
        )
    chosen = [key for key in found if namespace in ("", key[0]) and name in ("", key[1])]
    if len(chosen) != 1:
        cause = (
            "records of several objects" if chosen else f"no record of {_line(namespace or '*')}/{_line(name or '*')}"
        )
        raise TraceError(f"file {source}: holds {cause}; choose one of: {there}")
    return Journal(tuple(sorted(found[chosen[0]], key=lambda record: record.time)), skipped, first)


def from_journal(lines: Iterable[bytes | str], namespace: str = "", name: str = "", source: str = "records") -> History:
    """The history that a scaler's record file holds, from the first record in which replicas were seen.

    Raises TraceError as records() does, and where there is less than one interval, or requests were never counted.
    """
    journal = records(lines, namespace, name, source)
    seen = next((index for index, record in enumerate(journal.records) if record.replicas), len(journal.records))
    kept = journal.records[seen:]
    if not kept or kept[-1].time <= kept[0].time:
        raise TraceError(f"file {source}: has no two records with replicas in them; let the scaler run for a while")
    series = _of_replicas(kept)
    counted = any(s.kind == COUNTER and s.counts == ARRIVALS for s in series)
    if not counted:
        raise TraceError(
            f"file {source}: no replica counts the requests that finished; replay from Prometheus or a trace instead"
        )
    sums = step_sums(series, kept[0].time, kept[-1].time, STEP, source)
    intervals, latest = [], kept[0]
    moments = iter(kept)
    ahead = next(moments, None)
    for index, (arrivals, prompt, output) in enumerate(sums):
        while ahead is not None and ahead.time <= kept[0].time + (index + 1) * STEP:
            latest, ahead = ahead, next(moments, None)
        intervals.append(
            Interval(
                index * STEP,
                STEP,
                arrivals,
                prompt,
                output,
                len(latest.replicas),
                latest.required_replicas,
                latest.reason,
            )
        )
    longest = max(after.time - before.time for before, after in pairwise(kept))
    gap = [f"nothing was recorded for {longest:.0f} s at once: what came then is spread evenly"]
    return History(
        f"{kept[0].namespace}/{kept[0].name}",
        kept[0].time,
        tuple(intervals),
        journal.skipped,
        journal.first_skipped,
        (*(gap if longest > 4 * STEP else ()), *_missing(sums)),
    )


def from_prometheus(answer: Mapping[str, Any], source: str = "answer") -> History:
    """The history that the JSON answer of /api/v1/query_range holds (QUERY, SERIES): a matrix, whose series are summed.

    A counter that falls was reset, and one that comes later than the first point began at 0. Raises TraceError.
    """
    status = answer.get("status")
    if status != "success":
        said = f"{answer.get('errorType', 'no errorType')}: {answer.get('error', 'no error')}"
        raise TraceError(f"file {source}: status {_line(status)}, {_line(said)}; correct the query and save the answer")
    data = answer.get("data")
    kind = data.get("resultType") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or kind != "matrix":
        raise TraceError(f"file {source}: resultType is {_line(kind)}, not matrix; ask /api/v1/query_range")
    try:
        result = msgspec.convert(data.get("result"), list[_Ranged])
        points = [
            [(at, value) for at, text in one.values if math.isfinite(at + (value := float(text)))] for one in result
        ]
    except (msgspec.ValidationError, ValueError) as error:
        raise TraceError(f"file {source}: no matrix ({_line(str(error))}); save the answer as it came") from None
    known = [
        (SERIES[name], values)
        for one, values in zip(result, points, strict=True)
        if values and (name := one.metric.get("__name__", "")) in SERIES
    ]
    sources = sorted({row[0] for row, _ in known})
    if len(sources) > 1:
        raise TraceError(f"file {source}: holds series of {' and '.join(sources)}, which count the same; ask for one")
    if not any(row[1] == ARRIVALS and row[2] != GAUGE for row, _ in known):
        names = sorted({one.metric.get("__name__", "no name") for one in result})
        raise TraceError(
            f"file {source}: no series counts requests; found {_line(', '.join(names[:8]) or 'nothing')}; query {QUERY}"
        )
    times = sorted({at for _, values in known for at, _ in values})
    if len(times) < 2:
        raise TraceError(f"file {source}: has one moment; ask for a range that is longer than its step")
    begin, step = times[0], max(1.0, min(after - before for before, after in pairwise(times)))
    series = [Series(row[1], row[2], sorted(values), values[0][0] > begin + step / 2) for row, values in known]
    sums = step_sums(series, begin, times[-1], step, source)
    intervals = tuple(
        Interval(index * step, step, arrivals, prompt, output, None, None, "")
        for index, (arrivals, prompt, output) in enumerate(sums)
    )
    return History(source, begin, intervals, notes=_missing(sums))


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


class _Ranged(msgspec.Struct):
    """A series of a matrix."""

    metric: dict[str, str]
    values: list[tuple[float, str]] = []


def _of_replicas(kept: Sequence[Record]) -> list[Series]:
    """The counters and gauges of every replica, and the gateway's queue. A value is as old as its reading."""
    fields = {
        "requests_finished_total": (ARRIVALS, COUNTER),
        "waiting": (ARRIVALS, GAUGE),
        "running": (ARRIVALS, GAUGE),
        "prompt_tokens_total": (PROMPT, COUNTER),
        "generation_tokens_total": (OUTPUT, COUNTER),
    }
    # One that was there from the first has counted before; one that came later began at 0. An exporter that restarts
    # tells of the same pods again, by their names.
    first = {replica.id for replica in kept[0].replicas}
    found: dict[tuple[str, str], Series] = {}
    for record in kept:
        for replica in record.replicas:
            if replica.reading_age is None:
                continue
            at = record.time - replica.reading_age
            for field, (counts, kind) in fields.items():
                value = getattr(replica, field)
                if value is None or not 0 <= value < math.inf:
                    continue
                key = (replica.id, field)
                if key not in found:
                    found[key] = Series(counts, kind, [], replica.id not in first)
                found[key].points.append((at, value))
        if record.gateway_waiting is not None:
            gateway = found.setdefault(("", "gateway_waiting"), Series(ARRIVALS, GAUGE, [], False))
            gateway.points.append((record.time, record.gateway_waiting))
    return list(found.values())


def _missing(sums: Sequence[tuple[float, float | None, float | None]]) -> tuple[str, ...]:
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


def _line(value: object) -> str:
    """One printable line, whatever an answer holds."""
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 200 else text[:197] + "...")[1:-1]
