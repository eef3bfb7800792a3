"""How a gateway spreads requests over the replicas that are in service.

May not be in here: what a replica does with a request (engine.py).
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from random import Random

from scaler.simulate.engine import Engine

#: The place in the sequence, which is not empty, of the replica that gets the next request.
Router = Callable[[Sequence[Engine], Random], int]

_IN_FLIGHT = attrgetter("in_flight")  # for every replica at every request: faster than a comprehension


def _random(engines: Sequence[Engine], dice: Random) -> int:
    return int(dice.random() * len(engines))


def _least_loaded(engines: Sequence[Engine], dice: Random) -> int:
    """Of several with the least, the first from a place drawn at random: else the first would have all light load."""
    loads = list(map(_IN_FLIGHT, engines))
    least, begin = min(loads), _random(engines, dice)
    return loads.index(least, begin) if least in loads[begin:] else loads.index(least)


def _two_choices(engines: Sequence[Engine], dice: Random) -> int:
    """The less loaded of two drawn at random (M. Mitzenmacher, The Power of Two Choices, IEEE TPDS 2001)."""
    one, other = _random(engines, dice), _random(engines, dice)
    return one if engines[one].in_flight <= engines[other].in_flight else other


ROUTERS: Mapping[str, Router] = {"random": _random, "least_loaded": _least_loaded, "two_choices": _two_choices}
