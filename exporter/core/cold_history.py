"""What cold starts of each model took on this node: the last of them, and their quantiles.

May not be in here: what a phase is and when it is over (cold_start.py), I/O, clocks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from exporter.core.model_engines import ColdStart

#: Starts of a model that are remembered: a scaler wants to know what they take now, not what they took last month.
MAX_STARTS = 32


class Begun(Struct, frozen=True):
    """One start, and its phases in seconds as far as they are over."""

    start: str  # names it among the model's
    phases: Mapping[str, float]


class ModelStarts(Struct, frozen=True):
    namespace: str
    model: str
    starts: tuple[Begun, ...]  # oldest first


class News(NamedTuple):
    """A start of a model whose engine is there now."""

    namespace: str
    model: str
    begun: Begun


def learn(known: Sequence[ModelStarts], news: Sequence[News], most: int) -> tuple[tuple[ModelStarts, ...], int]:
    """The models' starts with the news, that which began one last at the end; and how many models were left out.

    A start that is known is brought up to date. most: models that are remembered. One that nobody runs any more gives
    way to a new one, one that runs does not: names that a server makes up cannot drive out what others taught. So it is
    with a model's starts, else of more engines than MAX_STARTS each would drive out another at every step.
    """
    models = {(one.namespace, one.model): one for one in known}
    live: dict[tuple[str, str], set[str]] = {}
    for one in news:
        live.setdefault((one.namespace, one.model), set()).add(one.begun.start)
    left_out: set[tuple[str, str]] = set()
    for namespace, model, begun in news:
        key = namespace, model
        if not begun.phases:
            continue
        if key not in models and len(models) >= most:
            idle = next((one for one in models if one not in live), None)
            if idle is None:
                left_out.add(key)
                continue
            del models[idle]
        before = models[key].starts if key in models else ()
        known_as = next((one for one in before if one.start == begun.start), None)
        merged = Begun(begun.start, {**known_as.phases, **begun.phases}) if known_as else begun
        others = [one for one in before if one.start != begun.start]
        if len(others) >= MAX_STARTS:
            over = next((one for one in others if one.start not in live[key]), None)
            if over is None:
                continue
            others.remove(over)
        if merged != known_as:
            models.pop(key, None)
            models[key] = ModelStarts(namespace, model, (*others, merged))
    return tuple(models.values()), len(left_out)


def quantiles(models: Sequence[ModelStarts], phases: Sequence[str]) -> tuple[ColdStart, ...]:
    """Sorted by namespace and model, phases in their order; a phase that no start has told is not in it."""
    found: list[ColdStart] = []
    for one in sorted(models, key=lambda one: (one.namespace, one.model)):
        for phase in phases:
            seconds = sorted(begun.phases[phase] for begun in one.starts if phase in begun.phases)
            if seconds:
                p50, p90 = _rank(seconds, 0.5), _rank(seconds, 0.9)
                found.append(ColdStart(one.namespace, one.model, phase, len(seconds), p50, p90))
    return tuple(found)


def _rank(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: a duration that was seen, never one between two."""
    return ordered[math.ceil(share * len(ordered)) - 1]
