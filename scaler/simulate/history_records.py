"""A history out of the scaler's record file.

May not be in here: I/O, how counters and gauges become sums (history_sums.py), what is made of it (history.py).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from scaler.core.record import Record
from scaler.core.written import bare
from scaler.simulate.history import History, Interval, is_moment, missing
from scaler.simulate.history_sums import ARRIVALS, COUNTER, GAUGE, OUTPUT, PROMPT, Series, step_sums
from scaler.simulate.traces import TraceError

#: Seconds of an interval: the scaler writes a record that often at least.
STEP = 15.0


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
        if not is_moment(record.time):
            skipped, first = skipped + 1, first or f"line {number}: time {record.time:g} is no Unix time"
            continue
        found.setdefault((record.namespace, record.name), []).append(record)
    there = ", ".join(f"{bare(key[0])}/{bare(key[1])}" for key in sorted(found)[:20])
    if not found:
        raise TraceError(
            f"file {source}: holds no record ({first or 'it is empty'}); give a file that --record.file wrote"
        )
    chosen = [key for key in found if namespace in ("", key[0]) and name in ("", key[1])]
    if len(chosen) != 1:
        cause = "records of several objects" if chosen else f"no record of {bare(namespace or '*')}/{bare(name or '*')}"
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
    sums = step_sums(series, kept[0].time, kept[-1].time, STEP, f"file {source}")
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
        (*(gap if longest > 4 * STEP else ()), *missing(sums)),
    )


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
