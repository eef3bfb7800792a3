"""The demo's summary: what was measured from the first second of the story to its end.

May not be in here: printing, anything that was not measured.
"""

import math
from collections.abc import Sequence

from scaler.demo.traffic import Gateway

#: KEDA on sum(vllm:num_requests_waiting), as vLLM's production stack documents it: AverageValue 5.
RAW_QUEUE_TARGET = 5.0


class Report:
    """Filled while the story runs. `step` is called often, `asked` whenever the scaler was asked."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []
        self._most_waiting = 0
        self._seconds = 0.0
        self._replica_seconds = 0.0
        self._answers: list[tuple[float | None, int]] = []
        self._began = 0.0
        self._before = (0, 0, 0)

    def begin(self, gateway: Gateway) -> None:
        """The story begins: what the gateway did until now does not count."""
        self._began = gateway.at
        self._before = (gateway.arrived, len(gateway.finished), gateway.retried)

    def step(self, waiting: int, replicas: int, seconds: float) -> None:
        """So many seconds of demo time passed."""
        self._most_waiting = max(self._most_waiting, waiting)
        self._seconds += seconds
        self._replica_seconds += replicas * seconds

    def asked(self, value: float | None, waiting: float) -> None:
        """The scaler's answer, and what the engines' raw queue would have asked for at that moment."""
        self._answers.append((value, math.ceil(waiting / RAW_QUEUE_TARGET)))

    def lines(self, gateway: Gateway) -> list[str]:
        """The summary."""
        arrived, finished, retried = self._before
        served = [request for request in gateway.finished[finished:] if request.arrived > self._began]
        waits = sorted(each.first_token - each.arrived for each in served if each.first_token is not None)
        answers = [math.ceil(value) for value, _ in self._answers if value is not None]
        unknown = len(self._answers) - len(answers)
        raw = [count for _, count in self._answers]
        return [
            f"summary of {self._seconds / 60:.1f} min of demo time",
            f"  requests       {gateway.arrived - arrived} came, {len(served)} were served, "
            f"{gateway.retried - retried} were sent again by the gateway",
            f"  first token    {_quantiles(waits)}",
            f"  most waiting   {self._most_waiting}",
            f"  replicas       {self._replica_seconds / 60:.0f} replica-minutes",
            f"  plimsoll       asked for {_range(answers)}" + (f"; had no answer {unknown} times" if unknown else ""),
            f"  the raw queue  sum(waiting) / {RAW_QUEUE_TARGET:g}, at the same {len(raw)} moments, would have asked "
            f"for {_range(raw)}, {raw.count(0)} times for 0",
            "  what happened" + ("" if self.events else "  nothing"),
            *(f"    {at:5.1f} s  {text}" for at, text in self.events),
        ]


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that so much of the values do not exceed; they are sorted and not empty."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _quantiles(ordered: Sequence[float]) -> str:
    if not ordered:
        return "none was seen"
    parts = (("median", 0.5), ("p95", 0.95), ("worst", 1.0))
    return ", ".join(f"{name} {duration(quantile(ordered, part))}" for name, part in parts)


def duration(seconds: float) -> str:
    """Three digits are enough of a wait."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return "nothing"
    low, high = min(counts), max(counts)
    return f"{low} to {high} replicas" if low < high else f"{low} replicas"
