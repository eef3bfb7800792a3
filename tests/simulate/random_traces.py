"""Traces that nobody chose: made loads of any kind and mix, for what must hold of every load.

May not be in here: what must hold.
"""

import math
import random
from collections.abc import Mapping

from scaler.simulate.generators import generate
from scaler.simulate.model import Trace


def random_trace(seed: int) -> Trace:
    """A trace of any kind, or two of them at once, of 5 to 20 minutes and at most about 3000 requests."""
    chance = random.Random(seed)  # noqa: S311 -- a workload, not a secret
    seconds = chance.uniform(300, 1200)
    parts = [_random_part(chance, seconds) for _ in range(chance.choice((1, 1, 2)))]
    arrivals = sorted((arrival for part in parts for arrival in part.arrivals), key=lambda arrival: arrival.at)
    return Trace(" + ".join(part.name for part in parts), arrivals, seconds)


def _random_part(chance: random.Random, seconds: float) -> Trace:
    rate = math.exp(chance.uniform(math.log(0.03), math.log(1500 / seconds)))  # requests/s in the mean, about
    every = seconds / chance.uniform(1, 6)
    low = rate * chance.random()
    kinds: Mapping[str, Mapping[str, float]] = {
        "steady": {"rate": rate},
        "diurnal": {"low": low, "high": 2 * rate - low, "period": seconds / chance.uniform(0.5, 4)},
        "ramp": {"start": low, "end": 2 * rate - low},
        "bursts": {
            "base": rate / 2,
            "factor": chance.uniform(1, 11),
            "every": every,
            "length": every * chance.uniform(0.01, 0.1),
        },
        "on_off": {"rate": rate, "on": chance.uniform(10, seconds), "off": chance.uniform(10, seconds)},
        "flash_crowd": {
            "base": rate / 2,
            "factor": chance.uniform(1, 11),
            "at": chance.uniform(0, seconds),
            "rise": chance.uniform(0, 60),
            "fall": seconds * chance.uniform(0.01, 0.1),
        },
    }
    kind = chance.choice(sorted(kinds))
    mix = {
        "seconds": seconds,
        "prompt": math.exp(chance.uniform(math.log(20), math.log(8000))),
        "prompt_cv": chance.uniform(0, 2),
        "output": math.exp(chance.uniform(math.log(5), math.log(1000))),
        "output_cv": chance.uniform(0, 2.5),
        "longest": 16384,
        "cached": chance.choice((0.0, 0.0, chance.random())),
    }
    return generate(kind, {**kinds[kind], **mix}, chance.getrandbits(32))
