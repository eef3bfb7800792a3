"""The samples of a histogram family -> the histograms that are whole and consistent.

May not be in here: reading text (exposition_page.py), quantiles, what a histogram is about. A histogram that is in
doubt is left out and refuses nothing: what it counts is less urgent than the queue, which is on the same page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from exporter.core.model_engines import Histogram

#: Edges of one histogram. Real ones have 10 to 30; who remembers histograms over time must be able to count on this.
MAX_EDGES = 128

_INF = float("inf")
_EDGE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

#: Labels without `le`, and the histogram that has them. The mapping is shared between pages: it is not to be changed.
Folded = tuple[Mapping[str, str], Histogram]
#: Name and labels of a sample.
Series = tuple[str, Mapping[str, str]]


class Shape(NamedTuple):
    """All of a histogram but its numbers: these are found in the numbers of its family's samples."""

    labels: Mapping[str, str]  # without `le`
    edges: tuple[float, ...]
    buckets: Callable[[Sequence[float]], tuple[float, ...]]
    count_at: int
    sum_at: int | None

    def read(self, values: Sequence[float]) -> Histogram | None:
        """The histogram that a tuple of numbers makes; None if they contradict each other."""
        counts = self.buckets(values)
        if counts[-1] != values[self.count_at] or sorted(counts) != [*counts]:
            return None
        return Histogram(self.edges, counts, None if self.sum_at is None else values[self.sum_at])


class _Parts:
    """What a family has of one histogram: edges in the order of the page, places of numbers."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.edges: list[float | None] = []
        self.buckets: list[int] = []
        self.count: int | None = None
        self.sum: int | None = None


def shapes(samples: Sequence[Series]) -> list[Shape]:
    """The histograms that are whole: they have a count, and edges that ascend in the order of the page up to +Inf.

    samples: the family's _bucket, _count and _sum, no two alike. What has no sum is whole without.
    """
    found: dict[frozenset[tuple[str, str]], _Parts] = {}
    for place, (name, labels) in enumerate(samples):
        bucket = name.endswith("_bucket")
        own = frozenset([item for item in labels.items() if item[0] != "le"] if bucket else labels.items())
        parts = found.get(own)
        if parts is None:
            parts = found[own] = _Parts({key: text for key, text in labels.items() if (key, text) in own})
        if bucket:
            parts.edges.append(edge(labels.get("le", "")))
            parts.buckets.append(place)
        elif name.endswith("_count"):
            parts.count = place
        else:
            parts.sum = place
    return [shape for parts in found.values() if (shape := _shape(parts)) is not None]


def fold(samples: Sequence[tuple[str, Mapping[str, str], float]]) -> list[Folded]:
    """The histograms of a family that are whole and consistent, in the order of the page; the others are left out.

    samples: as for shapes(), with values that are finite and not below zero.
    """
    return read_all(shapes([sample[:2] for sample in samples]), tuple(value for _, _, value in samples))


def read_all(known: Sequence[Shape], values: Sequence[float]) -> list[Folded]:
    """What is consistent of the shapes filled with a tuple of numbers."""
    return [(shape.labels, histogram) for shape in known if (histogram := shape.read(values)) is not None]


def edge(text: str) -> float | None:
    """The upper edge that a label `le` names; None if it is no number or too large for one."""
    if text in ("+Inf", "Inf"):
        return _INF
    value = float(text) if _EDGE.fullmatch(text) else _INF
    return value if -_INF < value < _INF else None


def _shape(parts: _Parts) -> Shape | None:
    edges = [known for known in parts.edges if known is not None]
    if len(edges) != len(parts.edges) or not 0 < len(edges) <= MAX_EDGES or edges[-1] != _INF:
        return None
    if parts.count is None or any(after <= before for before, after in pairwise(edges)):
        return None
    return Shape(parts.labels, tuple(edges), _picker(parts.buckets), parts.count, parts.sum)


def _picker(places: list[int]) -> Callable[[Sequence[float]], tuple[float, ...]]:
    if places == list(range(places[0], places[-1] + 1)):
        return itemgetter(slice(places[0], places[-1] + 1))
    return lambda values: tuple(values[place] for place in places)
