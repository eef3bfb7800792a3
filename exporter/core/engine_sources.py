"""The samples of a page that a row of a table means, by the engine that they name.

May not be in here: names of metrics (kinds/), what becomes of the samples (engine_values.py), which engines a page has
and whether it can be trusted (engines.py).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from exporter.core.exposition import Family
from exporter.core.kinds.table import HISTOGRAMS, Kind, Named, Row
from exporter.core.model_engines import Histogram

#: Model, engine.
Key = tuple[str, str]
Labels = Mapping[str, str]

_NAMELESS = ("sum", "tokens", "labels", "newest", *HISTOGRAMS)
T = TypeVar("T")


class Found(NamedTuple):
    """The samples of a family that are meant, by the engine that they name."""

    complete: bool
    samples: Mapping[Key, Sequence[tuple[Labels, float]]]
    histograms: Mapping[Key, Sequence[Histogram]]


class Source(NamedTuple):
    """The families that a row is read from."""

    row: Row
    found: Found
    plus: tuple[Found, ...]  # those that the page has
    times: tuple[Found, ...]  # all, or the row has no source

    @property
    def complete(self) -> bool:
        return self.found.complete

    @property
    def samples(self) -> Mapping[Key, Sequence[tuple[Labels, float]]]:
        return self.found.samples

    @property
    def names_engines(self) -> bool:
        return self.row.naming and self.row.how not in _NAMELESS


def source(row: Row, kind: Kind, families: Mapping[str, Family]) -> Source | None:
    """What the page has for the row. None: not the family, or all of it and none of the samples that are meant."""
    found = _found(row, kind, families)
    if found is None:
        return None
    if not row.times and not row.plus:  # as most are
        return Source(row, found, (), ())
    times = [_found(named, kind, families) for named in row.times]
    if None in times:
        return None
    plus = [_found(named, kind, families) for named in row.plus]
    return Source(row, found, tuple(one for one in plus if one), tuple(one for one in times if one))


def _found(named: Named | Row, kind: Kind, families: Mapping[str, Family]) -> Found | None:
    for name in named.names:
        if name in families:
            break
    else:
        return None
    family = families[name]
    told = [(labels, value) for _, labels, value in family.samples]
    samples = _by_engine(told, named.where, kind, family.complete)
    if told and named.where and not samples and family.complete:
        return None
    if not family.histograms:
        return Found(family.complete, samples, {})
    folded = _by_engine(family.histograms, named.where, kind, family.complete)
    return Found(family.complete, samples, {key: [one for _, one in own] for key, own in folded.items()})


def _by_engine(
    told: Sequence[tuple[Labels, T]], where: Mapping[str, tuple[str, ...]], kind: Kind, complete: bool
) -> Mapping[Key, list[tuple[Labels, T]]]:
    """Those that are meant. A page of many engines has thousands of them: without a call for each."""
    model, engine, foreign = kind.model_label, kind.engine_label, kind.foreign_labels
    of: dict[Key, list[tuple[Labels, T]]] = {}
    for one in told:
        labels = one[0]
        if (where and any(labels.get(label, "") not in texts for label, texts in where.items())) or not (
            foreign.isdisjoint(labels)
        ):
            continue
        key = labels.get(model, ""), labels.get(engine, "")
        if key in of:
            of[key].append(one)
        else:
            of[key] = [one]
    return {key: _speaking(own, kind, complete) for key, own in of.items()} if kind.copies else of


def _speaking(told: list[tuple[Labels, T]], kind: Kind, complete: bool) -> list[tuple[Labels, T]]:
    """Of processes that tell of the same work the lowest; while a lower one may be cut off, only the first of all."""
    ranks = [_rank(labels, kind) for labels, _ in told]
    lowest = min(ranks)
    if not complete and any(text not in ("", "0") for _, text in lowest):
        return []
    return [one for one, rank in zip(told, ranks, strict=True) if rank == lowest]


def _rank(labels: Labels, kind: Kind) -> tuple[tuple[int, str], ...]:
    """Sorts as the numbers do, whatever the labels hold."""
    texts = [labels.get(name, "") for name in kind.copies]
    return tuple((len(text), text) for text in texts)
