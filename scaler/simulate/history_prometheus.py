"""A history out of an answer of Prometheus.

May not be in here: I/O, how counters and gauges become sums (history_sums.py), what is made of it (history.py).
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

from scaler.core.written import bare
from scaler.simulate.history import History, Interval, is_moment, missing
from scaler.simulate.history_sums import ARRIVALS, COUNTER, GAUGE, OUTPUT, PROMPT, RATE, Series, step_sums
from scaler.simulate.traces import TraceError

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


def from_prometheus(answer: Mapping[str, Any], name: str, place: str) -> History:
    """The history that the JSON answer of /api/v1/query_range holds (QUERY, SERIES): a matrix, whose series are summed.

    A counter that falls was reset, and one that comes later than the first point began at 0. Raises TraceError, which
    names the place: the file or the URL.
    """
    status = answer.get("status")
    if status != "success":
        said = f"{answer.get('errorType', 'no errorType')}: {answer.get('error', 'no error')}"
        raise TraceError(f"{place}: status {_shown(status)}, {bare(said)}; correct the query and save the answer")
    data = answer.get("data")
    kind = data.get("resultType") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or kind != "matrix":
        raise TraceError(f"{place}: resultType is {_shown(kind)}, not matrix; ask /api/v1/query_range")
    try:
        result = msgspec.convert(data.get("result"), list[_Ranged])
        points = [
            [(at, value) for at, text in one.values if math.isfinite(at + (value := float(text)))] for one in result
        ]
    except (msgspec.ValidationError, ValueError) as error:
        raise TraceError(f"{place}: no matrix ({bare(str(error))}); save the answer as it came") from None
    known = [
        (SERIES[called], values)
        for one, values in zip(result, points, strict=True)
        if values and (called := one.metric.get("__name__", "")) in SERIES
    ]
    sources = sorted({row[0] for row, _ in known})
    if len(sources) > 1:
        raise TraceError(f"{place}: holds series of {' and '.join(sources)}, which count the same; ask for one")
    if not any(row[1] == ARRIVALS and row[2] != GAUGE for row, _ in known):
        names = sorted(
            {
                one.metric.get("__name__", "no name") + ("" if values else " without a number")
                for one, values in zip(result, points, strict=True)
            }
        )
        raise TraceError(
            f"{place}: no series counts requests; found {bare(', '.join(names[:8]) or 'nothing')}; query {QUERY}"
        )
    times = sorted({at for _, values in known for at, _ in values})
    if len(times) < 2:
        raise TraceError(f"{place}: has one moment; ask for a range that is longer than its step")
    if not is_moment(times[0]) or not is_moment(times[-1]):
        raise TraceError(f"{place}: has times from {times[0]:g} to {times[-1]:g}, no Unix time; save it as it came")
    begin, step = times[0], max(1.0, min(after - before for before, after in pairwise(times)))
    series = [Series(row[1], row[2], sorted(values), values[0][0] > begin + step / 2) for row, values in known]
    sums = step_sums(series, begin, times[-1], step, place)
    intervals = tuple(
        Interval(index * step, step, arrivals, prompt, output, None, None, "")
        for index, (arrivals, prompt, output) in enumerate(sums)
    )
    return History(name, begin, intervals, notes=missing(sums))


class _Ranged(msgspec.Struct):
    """A series of a matrix."""

    metric: dict[str, str]
    values: list[tuple[float, str]] = []


def _shown(value: object) -> str:
    return bare(value if isinstance(value, str) else repr(value))
