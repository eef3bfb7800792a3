"""A server's metrics page -> one reading for each engine of each model behind it.

May not be in here: names of metrics (engine_names.py has them), times, judgement of what the numbers mean.

Three rules keep a page from telling a number that is not true:

* The engines of a page are all that any series of it names. Where a family lacks one of them its number is
  missing, so that a sum over engines is missing rather than partial.
* What is folded over several samples comes from complete families only: a body may have been cut between lines.
* Series that claim the same number of the same engine (two processes of one server) are never added: they agree,
  or the number is missing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from exporter.core.engine_names import KINDS, How, Kind, Row
from exporter.core.exposition import ExpositionError, Family, Wanted, parse
from exporter.core.model import EngineReading

WANTED = Wanted(dict.fromkeys(name for kind in KINDS for row in kind.rows for name in row.names))

#: Engines (data-parallel ranks times models) behind one URL. More would crowd out the node's other servers.
MAX_ENGINES = 64

_Engine = tuple[str, str]  # model, engine
_Sample = tuple[Mapping[str, str], float]
_PER_ENGINE = ("one", "by", "off")
_COUNT = re.compile(r"[0-9]{1,15}")


def read(body: bytes) -> tuple[str, tuple[EngineReading, ...]]:
    """The kind of server and its readings, ordered by model and engine; at least one.

    An engine that has produced nothing yet may have no sample of its gauges where several API servers run (vLLM):
    they are declared, its counters are 0, and the gauges read 0. Raises ExpositionError; reason "blind" when the
    page is sound but does not tell what waits and what runs.
    """
    families = parse(body, WANTED)
    kind = next((kind for kind in KINDS if any(name in families for row in kind.rows for name in row.names)), None)
    if kind is None:
        raise ExpositionError("blind", f"no series of a known server ({', '.join(known.name for known in KINDS)})")
    page = {row.field: found for row in kind.rows if (found := _source(row, kind, families))}
    lacking = [row.names[0] for row in kind.rows if row.required and row.field not in page]
    if lacking:
        raise ExpositionError("blind", f"the page has no {' and no '.join(lacking)}")
    naming = [source for source in page.values() if source.row.how in _PER_ENGINE]
    engines = sorted({engine for source in naming for engine in source.samples})
    if not engines:
        raise ExpositionError("blind", f"no series of {kind.name} names an engine")
    if len(engines) > MAX_ENGINES:
        raise ExpositionError("too_many_engines", f"the page names {len(engines)} engines, {MAX_ENGINES} are allowed")
    required = [page[row.field] for row in kind.rows if row.required]
    # What is required of an engine is not at the page's end by chance, and engines named there alone may not be all.
    if any(not source.complete and set(engines) - set(source.samples) for source in required) or not any(
        source.complete and source.samples for source in naming
    ):
        raise ExpositionError("truncated", "the page ends before it told what waits and runs at each engine")
    return kind.name, tuple(_reading(engine, engines, kind, page) for engine in engines)


class _Source(NamedTuple):
    """The family that a row is read from, its samples by the engine that they name."""

    row: Row
    complete: bool
    samples: Mapping[_Engine, list[_Sample]]


def _source(row: Row, kind: Kind, families: Mapping[str, Family]) -> _Source | None:
    family = next((families[name] for name in row.names if name in families), None)
    if family is None:
        return None
    samples: dict[_Engine, list[_Sample]] = {}
    for _, labels, value in family.samples:
        if any(labels.get(name) != value for name, value in row.where.items()) or any(
            name in labels for name in kind.foreign_labels
        ):
            continue
        engine = labels.get(kind.model_label, ""), labels.get(kind.engine_label, "")
        samples.setdefault(engine, []).append((labels, value))
    return _Source(row, family.complete, samples)


def _reading(engine: _Engine, engines: list[_Engine], kind: Kind, page: Mapping[str, _Source]) -> EngineReading:
    numbers: dict[str, Any] = {}
    silent = _is_silent(engine, kind, page)
    for field, source in page.items():
        value = _READ[source.row.how](source, engine, engines)
        if value is None and silent and source.row.silent and source.complete and engine not in source.samples:
            value = {} if source.row.how == "by" else 0.0
        told = value.values() if isinstance(value, Mapping) else () if value is None else (value,)
        if any(number > source.row.most for number in told):
            value = None
        numbers[field] = value
    return EngineReading(model=engine[0], engine=engine[1], **numbers)


def _is_silent(engine: _Engine, kind: Kind, page: Mapping[str, _Source]) -> bool:
    """Whether the engine's counters are there and none has moved: it has produced nothing since it started."""
    sources = [page.get(field) for field in kind.counters]
    if any(source is None or not source.complete for source in sources):
        return False
    samples = [sample for source in sources if source for sample in source.samples.get(engine, ())]
    return bool(samples) and all(value == 0 for _, value in samples)


def _one(source: _Source, engine: _Engine, engines: list[_Engine]) -> float | None:
    return _agreed(value for _, value in source.samples.get(engine, ()))


def _off(source: _Source, engine: _Engine, engines: list[_Engine]) -> bool | None:
    value = _one(source, engine, engines)
    return None if value is None else value == 0


def _by(source: _Source, engine: _Engine, engines: list[_Engine]) -> Mapping[str, float] | None:
    if not source.complete or engine not in source.samples:
        return None
    values: dict[str, float] = {}
    for labels, value in source.samples[engine]:
        key = labels.get(source.row.label, "")
        if values.setdefault(key, value) != value:
            return None
    return values


def _sum(source: _Source, engine: _Engine, engines: list[_Engine]) -> float | None:
    """Over the server's samples of this model: they name no engine, so the model's first carries them, the others 0."""
    model = engine[0]
    own = [value for sampled, samples in source.samples.items() if sampled[0] == model for _, value in samples]
    if not source.complete or not own:
        return None
    first = next(other for other in engines if other[0] == model)
    return sum(own) if engine == first else 0.0


def _tokens(source: _Source, engine: _Engine, engines: list[_Engine]) -> float | None:
    """From info samples, which name no model and, in old versions, no engine: only where that leaves no doubt.

    With data parallelism vLLM adds up num_gpu_blocks over the engines: a product is then not the engine's.
    """
    if sum(1 for other in engines if other[1] == engine[1]) != 1:
        return None
    found = source.samples.get(("", engine[1]), [])
    if not found and len(engines) == 1:
        found = source.samples.get(("", ""), [])
    products = source.row.products if len(engines) == 1 else [names for names in source.row.products if len(names) == 1]
    return _agreed(tokens for labels, _ in found if (tokens := _product(labels, products)) is not None)


def _product(labels: Mapping[str, str], products: Iterable[tuple[str, ...]]) -> float | None:
    for names in products:
        texts = [labels.get(name, "") for name in names]
        if all(_COUNT.fullmatch(text) for text in texts):
            result = 1.0
            for text in texts:
                result *= float(text)
            return result or None
    return None


def _agreed(values: Iterable[float]) -> float | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


_READ: Mapping[How, Callable[[_Source, _Engine, list[_Engine]], Any]] = {
    "one": _one,
    "by": _by,
    "off": _off,
    "sum": _sum,
    "tokens": _tokens,
}
