"""What a fleet's scaler decided then, against what today's decides on the same load.

May not be in here: how the load was rebuilt (history.py), how it is shown.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from scaler.core.record import Record
from scaler.simulate.history import History
from scaler.simulate.model import Run, Tick


class Moment(NamedTuple):
    """One stretch of the history. None: not recorded, or no answer."""

    at: float
    seconds: float
    load: float  # requests/s
    replicas_then: float | None  # seen, mean
    asked_then: int | None  # the last answer, in whole replicas
    replicas_now: float  # pods in any state, mean
    asked_now: int | None


class Difference(NamedTuple):
    """A time over which both asked for different numbers; the numbers and words are those of where they differ most."""

    at: float
    seconds: float
    replica_seconds: float  # by which the two differ in it
    peak: float  # when
    then: int
    now: int
    why_then: str
    why_now: str


def moments(history: History, run: Run, decided: Sequence[Record]) -> tuple[Moment, ...]:
    """One for each interval of the history. decided: the run's own decisions; times are the run's."""
    ticks, times = run.ticks, [tick.at for tick in run.ticks]
    made = []
    for interval in history.intervals:
        end = interval.at + interval.seconds
        first, last = bisect_right(times, interval.at), bisect_right(times, end)
        answer = _newest(decided, end)
        seen = ticks[first:last] or ticks[max(0, last - 1) : last] or ticks[:1]
        made.append(
            Moment(
                at=interval.at,
                seconds=interval.seconds,
                load=interval.arrivals / interval.seconds,
                replicas_then=interval.replicas,
                asked_then=_whole(interval.required),
                replicas_now=sum(map(_pods, seen)) / len(seen),
                asked_now=None if answer is None else _whole(answer.required_replicas),
            )
        )
    return tuple(made)


def course(all_: Sequence[Moment], rows: int = 20) -> tuple[Moment, ...]:
    """The same in about so many stretches: means, and the answers at their ends."""
    size = max(1, math.ceil(len(all_) / rows))
    return tuple(_joined(all_[first : first + size]) for first in range(0, len(all_), size))


def hours(all_: Sequence[Moment]) -> tuple[float | None, float]:
    """Replica-hours then (None: not all recorded) and now."""
    then = [moment.replicas_then for moment in all_]
    known = [count * moment.seconds for count, moment in zip(then, all_, strict=True) if count is not None]
    now = sum(moment.replicas_now * moment.seconds for moment in all_)
    return (sum(known) / 3600.0 if len(known) == len(all_) else None), now / 3600.0


def differences(
    all_: Sequence[Moment], history: History, records: Sequence[Record], decided: Sequence[Record], most: int = 3
) -> tuple[Difference, ...]:
    """Where the two asked for different numbers, the largest difference first. Records in the order of time."""
    found = []
    for sign, group in groupby(all_, key=_sign):
        if sign:
            found.append(_difference(tuple(group), history, records, decided))
    return tuple(sorted(found, key=lambda each: (-each.replica_seconds, each.at))[:most])


def _difference(
    group: Sequence[Moment], history: History, records: Sequence[Record], decided: Sequence[Record]
) -> Difference:
    most = max(group, key=lambda moment: abs(_more(moment)))
    end = most.at + most.seconds
    assert most.asked_then is not None and most.asked_now is not None  # noqa: S101, PT018 -- its sign is not 0
    then, now = _newest(records, history.start + end), _newest(decided, end)
    return Difference(
        at=group[0].at,
        seconds=group[-1].at + group[-1].seconds - group[0].at,
        replica_seconds=sum(abs(_more(moment)) * moment.seconds for moment in group),
        peak=end,
        then=most.asked_then,
        now=most.asked_now,
        why_then="" if then is None else then.explanation,
        why_now="" if now is None else now.explanation,
    )


def _more(moment: Moment) -> int:
    then, now = moment.asked_then, moment.asked_now
    return 0 if then is None or now is None else now - then


def _sign(moment: Moment) -> int:
    more = _more(moment)
    return (more > 0) - (more < 0)


def _newest(records: Sequence[Record], at: float) -> Record | None:
    """The last that was made by then."""
    index = bisect_right(records, at, key=lambda record: record.time)
    return records[index - 1] if index else None


def _whole(required: float | None) -> int | None:
    return None if required is None else math.ceil(required)


def _pods(tick: Tick) -> int:
    return tick.ready + tick.starting + tick.going


def _joined(group: Sequence[Moment]) -> Moment:
    seconds = sum(moment.seconds for moment in group)
    then = [moment.replicas_then for moment in group]
    known = [count for count in then if count is not None]
    return Moment(
        at=group[0].at,
        seconds=seconds,
        load=sum(moment.load * moment.seconds for moment in group) / seconds,
        replicas_then=sum(known) / len(known) if known else None,
        asked_then=group[-1].asked_then,
        replicas_now=sum(moment.replicas_now * moment.seconds for moment in group) / seconds,
        asked_now=group[-1].asked_now,
    )
