"""The samples of one engine -> the value of a row's field.

May not be in here: names of metrics (kinds/), which samples are meant (engine_sources.py).

Two rules keep a value from being one that is not true:

* What is folded over several samples comes from complete families only: a body may have been cut between lines.
* Series that claim the same number of the same engine (two processes of one server) are never added: they agree,
  or the number is missing. Parts of a whole, which the row names as such, are added.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from exporter.core.engine_sources import Key, Labels, Source
from exporter.core.kinds.table import How
from exporter.core.model_engines import Histogram

_COUNT = re.compile(r"[0-9]{1,15}")
#: Longest text of a configuration, in letters. Real ones have ten.
_LONGEST = 64
_UNKNOWN = ("", "None")


def value(source: Source, engine: Key, engines: Sequence[Key]) -> Any:
    """What the row's field is for this engine, in our unit; None if it is missing. engines: all of the page."""
    row = source.row
    result = _READ[row.how](source, engine, engines)
    if isinstance(result, float):
        result = _extended(source, result * row.scale, engine)
        return result if result is not None and row.least <= result <= row.most else None
    if row.how == "by" and result is not None:
        return result if all(number <= row.most for number in result.values()) else None
    return result


def _extended(source: Source, number: float, engine: Key) -> float | None:
    """With the families that are added and multiplied. One that others use and this engine does not have: missing."""
    for found in source.plus:
        if not found.samples and found.complete:
            continue  # declared, and not in use
        part = _agreed(value for _, value in found.samples.get(engine, ()))
        if part is None:
            return None
        number += part
    for found in source.times:
        factor = _agreed(value for _, value in found.samples.get(engine, ()))
        if factor is None:
            return None
        number *= factor
    return number


def _one(source: Source, engine: Key, engines: Sequence[Key]) -> float | None:
    return _agreed(value for _, value in source.samples.get(engine, ()))


def _add(source: Source, engine: Key, engines: Sequence[Key]) -> float | None:
    own = source.samples.get(engine)
    return sum(value for _, value in own) if own and source.complete else None


def _off(source: Source, engine: Key, engines: Sequence[Key]) -> bool | None:
    number = _one(source, engine, engines)
    return None if number is None else number == 0


def _text(source: Source, engine: Key, engines: Sequence[Key]) -> Mapping[str, str]:
    number = _one(source, engine, engines)
    return {} if number is None else {source.row.key: f"{number:.15g}"}


def _by(source: Source, engine: Key, engines: Sequence[Key]) -> Mapping[str, float] | None:
    if not source.complete or engine not in source.samples:
        return None
    if source.row.key:
        return {source.row.key: sum(value for _, value in source.samples[engine])}
    values: dict[str, float] = {}
    for labels, value in source.samples[engine]:
        key = labels.get(source.row.label, "")
        if values.setdefault(key, value) != value:
            return None
    return values


def _sum(source: Source, engine: Key, engines: Sequence[Key]) -> float | None:
    """Over the server's samples of this model: they name no engine, so the model's first carries them, the others 0."""
    model = engine[0]
    own = [value for sampled, samples in source.samples.items() if sampled[0] == model for _, value in samples]
    if not source.complete or not own:
        return None
    first = next(other for other in engines if other[0] == model)
    return sum(own) if engine == first else 0.0


def _info(source: Source, engine: Key, engines: Sequence[Key]) -> Sequence[tuple[Labels, float]]:
    """Info samples may name no model and, in old versions, no engine: only where there is no doubt whose they are."""
    own = source.samples.get(engine)
    if own or sum(1 for other in engines if other[1] == engine[1]) != 1:
        return own or ()
    found = source.samples.get(("", engine[1]), ())
    return found or (source.samples.get(("", ""), ()) if len(engines) == 1 else ())


def _tokens(source: Source, engine: Key, engines: Sequence[Key]) -> float | None:
    """With data parallelism vLLM adds up num_gpu_blocks over the engines: a product is then not the engine's."""
    products = source.row.products if len(engines) == 1 else [names for names in source.row.products if len(names) == 1]
    samples = _info(source, engine, engines)
    return _agreed(tokens for labels, _ in samples if (tokens := _product(labels, products)) is not None)


def _product(labels: Labels, products: Iterable[tuple[str, ...]]) -> float | None:
    for names in products:
        texts = [labels.get(name, "") for name in names]
        if all(_COUNT.fullmatch(text) for text in texts):
            result = 1.0
            for text in texts:
                result *= float(text)
            return result
    return None


def _labels(source: Source, engine: Key, engines: Sequence[Key]) -> Mapping[str, str]:
    samples = _info(source, engine, engines)
    texts = {key: {labels.get(name, "") for labels, _ in samples} for key, name in source.row.keys.items()}
    known = {key: found.difference(_UNKNOWN) for key, found in texts.items()}
    for key, name in source.row.unless.items():
        if {labels.get(name, "") for labels, _ in samples}.difference(_UNKNOWN):
            known[key] = set()
    return {key: text for key, found in known.items() if len(found) == 1 for text in found if len(text) <= _LONGEST}


def _newest(source: Source, engine: Key, engines: Sequence[Key]) -> float | None:
    samples = _info(source, engine, engines) if source.complete else ()
    last = max((value for _, value in samples), default=None)
    lists = {labels.get(source.row.label, "") for labels, value in samples if value == last}
    return float(sum(1 for name in lists.pop().split(",") if name.strip())) if len(lists) == 1 else None


def _histogram(source: Source, engine: Key, engines: Sequence[Key]) -> Histogram | None:
    own = set(source.found.histograms.get(engine, ()))
    return _scaled(own.pop(), source.row.scale) if len(own) == 1 and source.complete else None


def _histograms(source: Source, engine: Key, engines: Sequence[Key]) -> Histogram | None:
    own = source.found.histograms.get(engine, ())
    if not source.complete or len({histogram.edges for histogram in own}) != 1:
        return None
    sums = [histogram.sum for histogram in own]
    counts = tuple(map(sum, zip(*(histogram.counts for histogram in own), strict=True)))
    total = None if None in sums else sum(one for one in sums if one is not None)
    return _scaled(Histogram(own[0].edges, counts, total), source.row.scale)


def _scaled(histogram: Histogram, scale: float) -> Histogram:
    if scale == 1:
        return histogram
    edges = tuple(edge * scale for edge in histogram.edges)
    return Histogram(edges, histogram.counts, None if histogram.sum is None else histogram.sum * scale)


def _agreed(values: Iterable[float]) -> float | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


_READ: Mapping[How, Callable[[Source, Key, Sequence[Key]], Any]] = {
    "one": _one,
    "add": _add,
    "by": _by,
    "off": _off,
    "sum": _sum,
    "tokens": _tokens,
    "labels": _labels,
    "text": _text,
    "newest": _newest,
    "histogram": _histogram,
    "histograms": _histograms,
}
