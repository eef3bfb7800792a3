"""core/exposition.py on what is valid: equal to the client library, page by page and line by line."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.core.engines import WANTED
from exporter.core.exposition import Family, Wanted, parse
from tests.exporter.malformed import W
from tests.exporter.pages import PAGES, by_client_library, multiplied, page, said

SIGNED = Wanted(("g", "s"), signed=("s",))


def one(body: bytes, wanted: Wanted = W) -> Family:
    families = parse(body, wanted)
    assert len(families) == 1
    return next(iter(families.values()))


@pytest.mark.parametrize("name", PAGES)
def test_real_pages_read_as_the_client_library_reads_them(name: str) -> None:
    for _ in range(2):  # line by line, then as known blocks
        assert said(parse(page(name), WANTED)) == by_client_library(page(name), WANTED)


def test_a_large_page_reads_as_the_client_library_reads_it() -> None:
    body = multiplied(page("vllm-0.32.0-busy-queue.txt"), 5)
    found = said(parse(body, WANTED))
    assert found == by_client_library(body, WANTED)
    assert (len(found.series), len(found.histograms)) == (
        5 * len(said(parse(page("vllm-0.32.0-busy-queue.txt"), WANTED)).series),
        5 * 4,
    )


def test_what_the_client_library_writes_is_read_in_both_formats() -> None:
    registry = CollectorRegistry()
    Gauge("g", "a gauge", ["l"], registry=registry).labels('quo"te\\back\nline {x} é,"').set(0.25)
    Counter("c", "a counter", ["l"], registry=registry).labels("a").inc(3, exemplar={"trace_id": "x}y"})
    Info("i", "an info", registry=registry).info({"version": "1"})
    histogram = Histogram("h", "a histogram", ["l"], registry=registry, buckets=(0.5, 1))
    histogram.labels("a").observe(0.7, exemplar={"trace_id": "b"})
    histogram.labels("b").observe(3)

    text, openmetrics = generate_latest(registry), generate_openmetrics(registry)
    expected = by_client_library(text, W)
    assert (len(expected.series), len(expected.histograms)) == (3, 2)
    assert said(parse(text, W)) == expected
    assert by_client_library(openmetrics, W, openmetrics=True) == expected
    families = parse(openmetrics, W)
    assert said(families) == expected
    assert {name: family.type for name, family in families.items()} == {
        "g": "gauge",
        "c_total": "counter",
        "i_info": "info",
        "h": "histogram",
    }
    assert all(family.complete for family in families.values())


VALID = {
    "plain": (b"g 1\n", [("g", {}, 1.0)]),
    "labels": (b'g{a="1",b="2"} 1\n', [("g", {"a": "1", "b": "2"}, 1.0)]),
    "trailing comma": (b'g{a="1",} 1\n', [("g", {"a": "1"}, 1.0)]),
    "no labels in braces": (b"g{} 1\n", [("g", {}, 1.0)]),
    "blanks everywhere": (b' \t g \t{ a = "1" , b\t=\t"2" , } \t 1 \t 5 \n', [("g", {"a": "1", "b": "2"}, 1.0)]),
    "escapes": (rb'g{a="\\ \" \n x"} 1' + b"\n", [("g", {"a": '\\ " \n x'}, 1.0)]),
    "braces and commas in a value": (b'g{a="}{,="} 1\n', [("g", {"a": "}{,="}, 1.0)]),
    "empty value": (b'g{a=""} 1\n', [("g", {"a": ""}, 1.0)]),
    "not ASCII": ('g{a="é日"} 1\n'.encode(), [("g", {"a": "é日"}, 1.0)]),
    "timestamp in ms": (b"g 1 1700000000000\n", [("g", {}, 1.0)]),
    "timestamp in s": (b"g 1 1700000000.123\n# EOF\n", [("g", {}, 1.0)]),
    "exponent": (b"g 1.5e+03\n", [("g", {}, 1500.0)]),
    "no digit after the point": (b"g 1.\n", [("g", {}, 1.0)]),
    "no digit before the point": (b"g .5\n", [("g", {}, 0.5)]),
    "plus": (b"g +5\n", [("g", {}, 5.0)]),
    "minus zero": (b"g -0.0\n", [("g", {}, 0.0)]),
    "underflow is zero": (b"g 1e-999\n", [("g", {}, 0.0)]),
    "quoted name": (b'{"g",a="1"} 1\n', [("g", {"a": "1"}, 1.0)]),
    "quoted name alone": (b'{"g"} 1\n', [("g", {}, 1.0)]),
    "quoted label": (b'g{"a.b"="1"} 1\n', [("g", {"a.b": "1"}, 1.0)]),
    "quoted TYPE": (b'# TYPE "g" gauge\ng 1\n', [("g", {}, 1.0)]),
    "TYPE with tabs": (b"#\tTYPE\tg\tgauge\ng 1\n", [("g", {}, 1.0)]),
    "TYPE with blanks": (b"  #  TYPE  g  gauge\ng 1\n", [("g", {}, 1.0)]),
    "HELP after TYPE": (b"# TYPE g gauge\n# HELP g x\ng 1\n", [("g", {}, 1.0)]),
    "comments and blank lines inside": (b'g{a="1"} 1\n\n# note\n#TYPE g x\n \ng{a="2"} 2\n', None),
    "unwanted names that begin alike": (b"g 1\ng_total 2\ngg 3\ng:x 4\n", [("g", {}, 1.0)]),
    "unwanted nonsense is not looked at": (b'g 1\nx{a="1" NaN\nx\nx y z\n', [("g", {}, 1.0)]),
    "a name in a HELP text": (b"# HELP x\tg 5\ng 1\n", [("g", {}, 1.0)]),
    "exemplar": (b'c_total{a="1"} 5 # {t="x"} 1 1.5\n# EOF\n', [("c_total", {"a": "1"}, 5.0)]),
    "exemplar without labels before it": (b'c_total 5 # {t="x"} 1\n# EOF\n', [("c_total", {}, 5.0)]),
    "a value that looks like an exemplar": (b'g{a="1 # {x} 2"} 1\n', [("g", {"a": "1 # {x} 2"}, 1.0)]),
    "37 labels of an info": (
        b"i_info{%s} 1\n" % b",".join(b'l%d="%s"' % (i, b"x" * 300) for i in range(37)),
        None,
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    body, expected = VALID[name]
    family = one(body)
    assert family.samples == expected if expected is not None else family.samples


def test_signed_families_may_be_negative() -> None:
    assert one(b"s -1.5e3\n", SIGNED).samples == [("s", {}, -1500.0)]


def test_openmetrics_short_names_count_with_the_right_type_only() -> None:
    assert one(b'# TYPE c counter\nc_total{a="1"} 1\nc_created{a="1"} 9\nc_total{a="2"} 2\n# EOF\n').type == "counter"
    assert parse(b"# TYPE c gauge\nc 1\n# TYPE i gauge\ni 1\n", W) == {}


COMPLETE = {
    "the last line": (b"# TYPE g gauge\ng 1\n", False),
    "declared last": (b"# TYPE g gauge\n", False),
    "untyped and last": (b"g 1\n", False),
    "another family's TYPE": (b"g 1\n# TYPE x gauge\n", True),
    "another family's HELP": (b"g 1\n# HELP x\n", True),
    "another family's sample": (b"g 1\nx 1\n", True),
    "another family whose name begins alike": (b"g 1\ngx 1\n", True),
    "EOF": (b"g 1\n# EOF\n", True),
    "a comment tells nothing": (b"g 1\n# x y\n#EOF\n", False),
    "a blank line tells nothing": (b"g 1\n\n \n", False),
    "its own HELP tells nothing": (b"g 1\n# HELP g x\n", False),
    "its own _created tells nothing": (b"# TYPE c counter\nc_total 1\nc_created 1\n", False),
    "a quoted name of another": (b'g 1\n{"x.y"} 1\n', True),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_complete(name: str) -> None:
    body, expected = COMPLETE[name]
    assert one(body).complete is expected


def test_names_are_found_wherever_they_branch() -> None:
    """The allow-list is compiled into a tree of letters: prefixes of each other, no common letter, one name alone."""
    names = ["a", "ab", "abc", "abd_total", "b", "b_total", "vllm:x", "vllm:xy", "z"]
    for count in range(1, len(names) + 1):
        wanted = Wanted(names[:count])
        body = b"".join(b"%s %d\n" % (name.encode(), number) for number, name in enumerate(names))
        assert {name: family.samples[0][2] for name, family in parse(body, wanted).items()} == {
            name: float(number) for number, name in enumerate(names[:count])
        }
    assert all(left < right for left, right in pairwise(names))
