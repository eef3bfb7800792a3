"""A server's metrics page -> one reading for each engine of each model behind it.

May not be in here: names of metrics (kinds/ has them), which samples a row means (engine_sources.py), what becomes
of them (engine_values.py), times, judgement of what the numbers mean.

The engines of a page are all that any series of it names. Where a family lacks one of them its number is missing, so
that a sum over engines is missing rather than partial. One thing cannot be seen: that a page was cut before a family
that would have been added to the queue. HTTP tells of such a cut where the answer's length is sent, as by these
servers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from exporter.core.engine_sources import Key, Source, source
from exporter.core.engine_values import value
from exporter.core.exposition import LIMITS, ExpositionError, Family, Wanted, parse
from exporter.core.kinds import KINDS, STRANGERS, Kind
from exporter.core.kinds.table import HISTOGRAMS, Named, Row
from exporter.core.model_engines import EngineReading

#: Engines (data-parallel ranks times models) behind one URL. More would crowd out the node's other servers.
MAX_ENGINES = 64
#: An engine has some 120 samples that are read, four histograms among them. What is new costs 20 us each, in which the
#: program does nothing else.
_LIMITS = LIMITS._replace(wanted=10_000)


class Answer(NamedTuple):
    """What a page tells."""

    kind: str  # a name of kinds.KINDS
    readings: tuple[EngineReading, ...]  # at least one, ordered by model and engine
    lacking: tuple[str, ...]  # families, by their newest names, that every server of this kind has and the page has not


def read(body: bytes) -> Answer:
    """The kind of server, its readings, and what is wrong with its names.

    An engine that has produced nothing yet may have no sample of its gauges where several API servers run (vLLM):
    they are declared, its counters are 0, and the gauges read 0. Raises ExpositionError; reason "blind" when the
    page is sound but does not tell what waits and what runs, "gateway" when it is of what stands before engines.
    """
    families = parse(body, WANTED, _LIMITS)
    kind = next((kind for kind in KINDS if any(_is_there(row, families) for row in kind.rows)), None)
    if kind is None:
        _refuse_stranger(families)
        raise ExpositionError("blind", f"no series of a known server ({', '.join(known.name for known in KINDS)})")
    chosen = [(row, source(row, kind, families)) for row in _chosen(kind, families)]
    sources = [found for _, found in chosen if found]
    naming = [found for found in sources if found.names_engines]
    engines = sorted({engine for found in naming for engine in found.samples})
    if not engines and _foreign(kind, families):
        labels = " or ".join(sorted(kind.foreign_labels))
        raise ExpositionError(
            "gateway", f"series of {kind.name} have the label {labels}: they are of the engines behind this page"
        )
    missing = [_shown(row) for row, found in chosen if row.required and _is_mute(row, found)]
    if missing:
        raise ExpositionError("blind", f"the page has no {' and no '.join(missing)}")
    if not engines:
        raise ExpositionError("blind", f"no series of {kind.name} names an engine")
    if len(engines) > MAX_ENGINES:
        raise ExpositionError("too_many_engines", f"the page names {len(engines)} engines, {MAX_ENGINES} are allowed")
    required = [found for found in sources if found.row.required]
    # What is required of an engine is not at the page's end by chance, and engines named there alone may not be all.
    if any(not found.complete and set(engines) - set(found.samples) for found in required) or not any(
        found.complete and found.samples for found in naming
    ):
        raise ExpositionError("truncated", "the page ends before it told what waits and runs at each engine")
    lacking = tuple(_shown(row) for row, found in chosen if row.expected and not found)
    return Answer(kind.name, tuple(_reading(engine, engines, kind, sources) for engine in engines), lacking)


def _refuse_stranger(families: Mapping[str, Family]) -> None:
    for stranger in STRANGERS:
        if any(name in families for name in stranger.families):
            raise ExpositionError(stranger.reason, f"this page is of {stranger.name}, which {stranger.why}")


def _chosen(kind: Kind, families: Mapping[str, Family]) -> list[Row]:
    """The rows to read: of those with one field the first whose family is there, or the first; all of a mapping's."""
    together = [row for row in kind.rows if row.how in _PUT_TOGETHER]
    single: dict[str, Row] = {}
    for row in kind.rows:
        if row.how not in _PUT_TOGETHER:
            known = single.setdefault(row.field, row)
            if known is not row and not _is_there(known, families) and _is_there(row, families):
                single[row.field] = row
    return [*single.values(), *together]


def _is_there(row: Row, families: Mapping[str, Family]) -> bool:
    return any(name in families for name in row.names)


def _is_mute(row: Row, found: Source | None) -> bool:
    """Whether the family is not there, or never used: trtllm-serve declares what it only tells on demand."""
    return not found or (found.complete and not found.samples and not row.silent)


def _foreign(kind: Kind, families: Mapping[str, Family]) -> bool:
    """Whether a gateway tells of its engines by their own names."""
    wanted = {name for row in kind.rows for name in row.names} & families.keys()
    return any(not kind.foreign_labels.isdisjoint(labels) for name in wanted for _, labels, _ in families[name].samples)


def _shown(row: Row) -> str:
    where = ",".join(f'{label}="{values[0]}"' for label, values in row.where.items() if values[0])
    return f"{row.names[0]}{{{where}}}" if where else row.names[0]


def _reading(engine: Key, engines: Sequence[Key], kind: Kind, sources: Sequence[Source]) -> EngineReading:
    numbers: dict[str, Any] = {}
    silent = _is_silent(engine, kind, sources)
    for found in sources:
        row = found.row
        told = value(found, engine, engines)
        if told is None and silent and row.silent and found.complete and engine not in found.samples:
            told = {} if row.how == "by" else 0.0
        if row.field not in numbers:
            numbers[row.field] = told
        elif told is None or numbers[row.field] is None:
            numbers[row.field] = None  # what is put together is missing if a part is
        else:
            numbers[row.field] = {**numbers[row.field], **told}
    return EngineReading(model=engine[0], engine=engine[1], **numbers)


def _is_silent(engine: Key, kind: Kind, sources: Sequence[Source]) -> bool:
    """Whether the engine's counters are there and none has moved: it has produced nothing since it started."""
    counters = [found for found in sources if found.row.field in kind.counters]
    if len(counters) < len(kind.counters) or any(not found.complete for found in counters):
        return False
    samples = [sample for found in counters for sample in found.samples.get(engine, ())]
    return bool(samples) and all(number == 0 for _, number in samples)


_PUT_TOGETHER = ("by", "labels", "text")


def _wanted() -> Wanted:
    rows = [row for kind in KINDS for row in kind.rows]
    named = [Named(row.names) for row in rows if row.how not in HISTOGRAMS]
    named += [one for row in rows for one in (*row.plus, *row.times)]
    plain = [name for one in named for name in one.names]
    plain += [name for stranger in STRANGERS for name in stranger.families]
    histograms = dict.fromkeys(name for row in rows if row.how in HISTOGRAMS for name in row.names)
    return Wanted(dict.fromkeys(plain), histograms, [name for row in rows if row.signed for name in row.names])


WANTED = _wanted()
