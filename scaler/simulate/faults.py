"""A fault as a person writes it, `throttled@600:replica=1,factor=4,for=20m`, and the kinds that there are.

May not be in here: what a fault does to a fleet.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from scaler.core import written
from scaler.core.written import near, quoted
from scaler.simulate.model import Fault
from scaler.simulate.traces import LONGEST


class FaultError(Exception):
    """A fault that cannot be honoured. str() is one line: place, cause, fix."""


class Kind(NamedTuple):
    about: str
    example: str
    keys: tuple[str, ...]  # those of KEYS that it may have
    needed: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "throttled": Kind(
        "a replica's GPU is slowed down: each step takes `factor` times as long",
        "throttled@600:replica=1,factor=4,for=20m",
        ("replica", "factor", "for"),
        ("factor",),
    ),
    "lost": Kind("a replica is gone at once, with all that it runs", "lost@600:replica=2", ("replica",)),
    "wedged": Kind("a replica takes requests and ends none", "wedged@900", ("replica", "for")),
    "blind": Kind("nobody hears of any engine: the feeds and the scrapes fail", "blind@600:for=5m", ("for",), ("for",)),
    "unschedulable": Kind("no new pod gets a GPU", "unschedulable@600:for=10m", ("for",), ("for",)),
}


def parse(text: str) -> Fault:
    """KIND@TIME or KIND@TIME:key=value,... Raises FaultError.

    TIME and `for` are durations as "15s", "1m30s" or "20m" (trigger metadata has the same form); TIME, counted from the
    start, may also be a bare number of seconds. Without `for` a fault lasts to the end.
    """
    match = re.fullmatch(r"\s*([^@:]*)@([^:]*)(?::(.*))?", text, re.DOTALL)
    if match is None:
        raise FaultError(f"fault {quoted(text)}: has no time; write KIND@TIME, for example {KINDS['lost'].example}")
    name, time, rest = match[1].strip(), match[2].strip(), match[3] or ""
    kind = KINDS.get(name)
    if kind is None:
        raise FaultError(f"fault {quoted(text)}: kind {quoted(name)} is unknown; {near(name, KINDS, 'kinds')}")
    try:
        at = _moment(time)
        given = _settings(rest, kind)
    except ValueError as error:
        raise FaultError(f"fault {quoted(text)}: {error}, for example {kind.example}") from None
    return Fault(
        at=at,
        kind=name,
        replica=int(given.get("replica", 0)),
        factor=given.get("factor", 1.0),
        seconds=given.get("for", math.inf),
    )


def _settings(text: str, kind: Kind) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in kind.keys:
            raise ValueError(f"key {quoted(key)} is none of this kind's ({', '.join(kind.keys)}); drop or correct it")
        if key in found:
            raise ValueError(f"key {key} is there twice; drop one")
        found[key] = KEYS[key](value)
    for key in kind.needed:
        if key not in found:
            raise ValueError(f"key {key} is missing; add it")
    return found


def _moment(text: str) -> float:
    seconds = written.seconds(text)
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"time {quoted(text)} is not within a year; write seconds from the start, or 10m")
    return seconds


def _duration(text: str) -> float:
    seconds = written.duration(text)
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"for {quoted(text)} is not a duration of up to a year; write for example 90s or 20m")
    return seconds


def _replica(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError(f"replica {quoted(text)} is not a whole number from 0 (the oldest that is ready) to 99999")
    return int(text)


def _factor(text: str) -> float:
    factor = written.number(text)
    if not 1 < factor <= 1000:
        raise ValueError(f"factor {quoted(text)} is not a number above 1 and up to 1000; write how much slower")
    return factor


#: What a key's value may be. Each takes the text and raises ValueError("is wrong; fix").
KEYS: Mapping[str, Callable[[str], float]] = {"replica": _replica, "factor": _factor, "for": _duration}
