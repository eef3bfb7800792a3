"""Metrics pages for tests: the captured ones, and ones that are made of them."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from exporter.core.exposition import Family, Wanted
from exporter.core.model_engines import Histogram

FIXTURES = Path(__file__).parents[1] / "fixtures" / "engines"
PAGES = sorted(path.name for path in FIXTURES.glob("*.txt"))

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Said(NamedTuple):
    """What a page says of what is wanted, in a form that can be compared."""

    series: Series
    histograms: dict[tuple[str, frozenset[tuple[str, str]]], Histogram]


def page(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def busy_dp2() -> bytes:
    """The captured page of two idle engines behind one URL, with a number of its own in every vLLM sample."""
    lines: list[str] = []
    for number, line in enumerate(page("vllm-0.32.0-dp2-idle.txt").decode().splitlines(), start=1):
        sample = re.fullmatch(r"(vllm:(?!cache_config_info|engine_sleep_state)\S+\{.*\}) \S+", line)
        lines.append(f"{sample[1]} {number}.0" if sample else line)
        gauge = re.fullmatch(r"# TYPE (vllm:(?:num_requests_(?:running|waiting)|kv_cache_usage_perc)) gauge", line)
        if gauge:
            scale = 0.01 if "usage" in line else 1
            lines += [
                f'{gauge[1]}{{engine="{engine}",model_name="tiny"}} {(number + engine) * scale}' for engine in (0, 1)
            ]
    return "\n".join(lines).encode() + b"\n"


def multiplied(body: bytes, engines: int) -> bytes:
    """One well-formed page of a server with so many engines: every series once for each, families kept together."""
    lines: list[bytes] = []
    group: list[bytes] = []
    for line in [*body.splitlines(), b"#"]:
        if not line.startswith(b"#"):
            group.append(line)
            continue
        lines += [_of_engine(sample, number) for number in range(engines) for sample in group]
        group = []
        lines.append(line)
    return b"\n".join(lines[:-1]) + b"\n"


def _of_engine(sample: bytes, number: int) -> bytes:
    if b'engine="0"' in sample:
        return sample.replace(b'engine="0"', b'engine="%d"' % number)
    name, brace, rest = sample.partition(b"{")
    if brace:
        return b'%s{replica="%d",%s' % (name, number, rest)
    name, _, value = sample.rpartition(b" ")
    return b'%s{replica="%d"} %s' % (name, number, value)


def said(families: dict[str, Family]) -> Said:
    """What our parser found. No two samples or histograms of it may be alike."""
    series = [
        ((name, frozenset(labels.items())), value)
        for family in families.values()
        for name, labels, value in family.samples
    ]
    histograms = [
        ((family.name, frozenset(labels.items())), histogram)
        for family in families.values()
        for labels, histogram in family.histograms
    ]
    result = Said(dict(series), dict(histograms))
    assert (len(result.series), len(result.histograms)) == (len(series), len(histograms))
    return result


def by_client_library(body: bytes, wanted: Wanted, openmetrics: bool = False) -> Said:
    """What prometheus_client reads of it. Raises ValueError.

    Its samples are taken as they were printed; its histograms are what is whole and consistent in the words of the
    format: edges that ascend up to +Inf, counts that do not fall, a count that is the last bucket's.
    """
    families = (openmetrics_families if openmetrics else text_families)(body.decode())
    names = {start.decode().strip(): entry.family for start, entry in wanted.samples.items()}
    samples = [
        sample._replace(name=name)
        for family in families
        for sample in family.samples
        # It adds _total to the name of every counter that has none.
        for name in (sample.name, sample.name.removesuffix("_total") if family.type == "counter" else "")
        if name in names
    ]
    parts: dict[tuple[str, frozenset[tuple[str, str]]], dict[str, list[tuple[str, float]]]] = {}
    series: Series = {}
    for sample in samples:
        family = names[sample.name]
        if family not in wanted.histograms:
            series[sample.name, frozenset(sample.labels.items())] = sample.value
            continue
        labels, part = dict(sample.labels), sample.name.removeprefix(family)
        le = labels.pop("le", "") if part == "_bucket" else ""
        parts.setdefault((family, frozenset(labels.items())), {}).setdefault(part, []).append((le, sample.value))
    histograms = {key: whole for key, own in parts.items() if (whole := _whole(own)) is not None}
    return Said(series, histograms)


def _whole(parts: dict[str, list[tuple[str, float]]]) -> Histogram | None:
    texts = [le for le, _ in parts.get("_bucket", ())]
    counts = tuple(value for _, value in parts.get("_bucket", ()))
    if not texts or "_count" not in parts or parts["_count"][0][1] != counts[-1] or texts[-1] not in ("+Inf", "Inf"):
        return None
    try:
        # float() takes blanks, underscores and digits of any script too.
        edges = tuple(float(le) if set(le) <= set("0123456789.eE+-") else math.nan for le in texts[:-1])
    except ValueError:
        return None
    if not all(map(math.isfinite, edges)) or any(low >= high for low, high in pairwise(edges)) or len(texts) > 128:
        return None
    if any(low > high for low, high in pairwise(counts)):
        return None
    return Histogram((*edges, math.inf), counts, parts["_sum"][0][1] if "_sum" in parts else None)
