"""Load that is made up: arrivals of a rate that changes over time, with lengths as real ones are spread.

May not be in here: load that was recorded (traces.py, history.py).

Arrivals are a Poisson process with a rate that changes, made by thinning (Lewis and Shedler, 1979): candidates come at
the highest rate there is, and each stays with the chance of the rate then over it. Lengths are lognormal.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import NamedTuple

from scaler.core.written import near, quoted
from scaler.simulate.model import Arrival, Trace
from scaler.simulate.traces import LONGEST, MOST_ROWS, MOST_TOKENS, TraceError

Rate = Callable[[float], float]  # seconds -> requests/s


class Setting(NamedTuple):
    name: str
    default: float
    unit: str
    least: float
    most: float
    help: str


class Generator(NamedTuple):
    """`rate` makes of the settings and chance the rate over time, and the highest that it comes to."""

    about: str
    rate: Callable[[Mapping[str, float], random.Random], tuple[Rate, float]]
    settings: tuple[Setting, ...]


# Means and coefficients of variation (standard deviation over mean) of Azure's conversation trace of 2023, computed
# from bench/traces/azure-2023-conv.csv.xz: prompts 1154.7 and 0.960, outputs 211.1 and 0.771. Its code trace has
# 2047.8 and 0.964, 27.9 and 2.147. The longest prompt of the two is 14050.
PROMPT, PROMPT_CV, OUTPUT, OUTPUT_CV = 1155.0, 0.96, 211.0, 0.77


def _per_second(name: str, default: float, help_: str, least: float = 0.0) -> Setting:
    return Setting(name, default, "requests/s", least, 1e5, help_)


def _seconds(name: str, default: float, help_: str, least: float = 0.0) -> Setting:
    return Setting(name, default, "s", least, LONGEST, help_)


def _times(name: str, default: float, help_: str) -> Setting:
    return Setting(name, default, "", 0.0, 1e4, help_)


COMMON = (
    _seconds("seconds", 3600, "length of the trace", least=1),
    Setting("prompt", PROMPT, "tokens", 1, MOST_TOKENS, "mean length of a prompt"),
    Setting("prompt_cv", PROMPT_CV, "", 0, 10, "standard deviation of it over its mean"),
    Setting("output", OUTPUT, "tokens", 1, MOST_TOKENS, "mean length of an output"),
    Setting("output_cv", OUTPUT_CV, "", 0, 10, "standard deviation of it over its mean"),
    Setting("longest", 32768, "tokens", 1, MOST_TOKENS, "longest prompt, and longest output: longer ones are cut"),
    Setting("cached", 0, "", 0, 1, "share of each prompt that the prefix cache has"),
)


def _steady(s: Mapping[str, float], _: random.Random) -> tuple[Rate, float]:
    return lambda at: s["rate"], s["rate"]


def _diurnal(s: Mapping[str, float], _: random.Random) -> tuple[Rate, float]:
    middle, swing, turn = (s["low"] + s["high"]) / 2, (s["high"] - s["low"]) / 2, 2 * math.pi / s["period"]
    return lambda at: middle - swing * math.cos(at * turn), max(s["low"], s["high"])


def _ramp(s: Mapping[str, float], _: random.Random) -> tuple[Rate, float]:
    start, slope = s["start"], (s["end"] - s["start"]) / s["seconds"]
    return lambda at: start + slope * at, max(s["start"], s["end"])


def _bursts(s: Mapping[str, float], _: random.Random) -> tuple[Rate, float]:
    base, every, calm = s["base"], s["every"], s["every"] - s["length"]
    burst = base * s["factor"]
    return lambda at: burst if at % every >= calm else base, max(base, burst)


def _on_off(s: Mapping[str, float], chance: random.Random) -> tuple[Rate, float]:
    switches, at = [0.0], 0.0
    while at < s["seconds"]:
        at += chance.expovariate(1 / s["off" if len(switches) % 2 == 0 else "on"])
        switches.append(at)
    return lambda now: s["rate"] if bisect_right(switches, now) % 2 else 0.0, s["rate"]


def _flash_crowd(s: Mapping[str, float], _: random.Random) -> tuple[Rate, float]:
    base, begin, rise, fall = s["base"], s["at"], s["rise"], s["fall"]
    more = base * (s["factor"] - 1)

    def rate(at: float) -> float:
        if at < begin:
            return base
        if at < begin + rise:
            return base + more * (at - begin) / rise
        return base + more * math.exp(-(at - begin - rise) / fall)

    return rate, max(base, base + more)


GENERATORS: Mapping[str, Generator] = {
    "steady": Generator("the same rate all the time", _steady, (_per_second("rate", 5, "requests per second"),)),
    "diurnal": Generator(
        "a wave of days, from low to high and back",
        _diurnal,
        (
            _per_second("low", 1, "at the start, and after each period"),
            _per_second("high", 10, "in the middle of a period"),
            _seconds("period", 3600, "length of a wave", least=1),
        ),
    ),
    "ramp": Generator(
        "a rate that goes straight from one to another",
        _ramp,
        (_per_second("start", 1, "at the start"), _per_second("end", 10, "at the end")),
    ),
    "bursts": Generator(
        "a base with bursts at even distances",
        _bursts,
        (
            _per_second("base", 3, "between bursts"),
            _times("factor", 5, "a burst's rate over the base"),
            _seconds("every", 600, "from the end of one burst to the end of the next", least=1),
            _seconds("length", 60, "of a burst, at most `every`"),
        ),
    ),
    "on_off": Generator(
        "all or nothing, for times of random (exponential) length",
        _on_off,
        (
            _per_second("rate", 10, "while it is on"),
            _seconds("on", 300, "mean time that it is on", least=1),
            _seconds("off", 300, "mean time that it is off", least=1),
        ),
    ),
    "flash_crowd": Generator(
        "a base, and once a crowd that comes fast and goes slowly",
        _flash_crowd,
        (
            _per_second("base", 3, "before, and long after"),
            _times("factor", 8, "the highest rate over the base"),
            _seconds("at", 900, "when it begins"),
            _seconds("rise", 30, "until it is highest; straight"),
            _seconds("fall", 300, "in which it falls to 37 % of what came on top; exponential", least=1),
        ),
    ),
}


def generate(name: str, settings: Mapping[str, float], seed: int) -> Trace:
    """The trace of GENERATORS[name]; what `settings` leaves out is at its default. Raises TraceError."""
    generator = GENERATORS.get(name)
    if generator is None:
        raise TraceError(f"generator {quoted(name)}: is unknown; {near(name, GENERATORS)}")
    known = {setting.name: setting for setting in (*generator.settings, *COMMON)}
    values = {setting.name: setting.default for setting in known.values()}
    for key, value in settings.items():
        if key not in known:
            raise TraceError(f"generator {name}, setting {quoted(key)}: is unknown; {near(key, known)}")
        unit = f" {known[key].unit}" if known[key].unit else ""
        if not known[key].least <= value <= known[key].most:
            raise TraceError(
                f"generator {name}, setting {key}: {value:g} is not from {known[key].least:g} to "
                f"{known[key].most:g}{unit}; write for example {known[key].default:g}"
            )
        values[key] = value
    if values.get("length", 0.0) > values.get("every", math.inf):
        raise TraceError(
            f"generator {name}, setting length: {values['length']:g} s is more than every, {values['every']:g} s; "
            "write a smaller one"
        )
    given = " ".join(f"{key}={settings[key]:g}" for key in known if key in settings)
    return Trace(f"{name} {given}".rstrip(), _arrivals(name, values, random.Random(seed)), values["seconds"])  # noqa: S311 -- a workload, not a secret


def lengths(mean: float, cv: float, longest: float, chance: random.Random) -> Callable[[], int]:
    """What draws lognormal lengths in whole tokens, 1 to `longest`. cv: standard deviation over mean."""
    variance = math.log1p(cv * cv)
    middle, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    # The exponent of the longest float is about 709.
    return lambda: max(1, min(int(longest), round(math.exp(min(700.0, chance.gauss(middle, sigma))))))


def _arrivals(name: str, s: Mapping[str, float], chance: random.Random) -> list[Arrival]:
    rate, peak = GENERATORS[name].rate(s, chance)
    if peak * s["seconds"] > MOST_ROWS:
        raise TraceError(
            f"generator {name}: {peak:g} requests/s for {s['seconds']:g} s are more than {MOST_ROWS} requests; "
            "lower the rate or the seconds"
        )
    prompt = lengths(s["prompt"], s["prompt_cv"], s["longest"], chance)
    output = lengths(s["output"], s["output_cv"], s["longest"], chance)
    arrivals: list[Arrival] = []
    at = chance.expovariate(peak) if peak > 0 else math.inf
    while at < s["seconds"]:
        if chance.random() * peak < rate(at):
            tokens = prompt()
            arrivals.append(Arrival(at, tokens, output(), int(tokens * s["cached"])))
        at += chance.expovariate(peak)
    return arrivals
