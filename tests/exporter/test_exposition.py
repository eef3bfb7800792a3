"""core/exposition.py: equal to the client library on what is valid, an error by name on what is not, never a guess."""

import math
import os
import random
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.core.engines import WANTED
from exporter.core.exposition import LIMITS, REASONS, ExpositionError, Family, Wanted, parse
from tests.exporter.pages import PAGES, Series, busy_dp2, by_client_library, multiplied, page

FUZZ_EXAMPLES = int(os.environ.get("PLIMSOLL_FUZZ_EXAMPLES", "20000"))

W = Wanted(("g", "c_total", "i_info"), histograms=("h",), signed=("s",))
SIGNED = Wanted(("g", "s"), signed=("s",))


def series(families: dict[str, Family]) -> Series:
    return {
        (name, frozenset(labels.items())): value
        for family in families.values()
        for name, labels, value in family.samples
    }


def one(body: bytes, wanted: Wanted = W) -> Family:
    families = parse(body, wanted)
    assert len(families) == 1
    return next(iter(families.values()))


# --- what is valid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_real_pages_read_as_the_client_library_reads_them(name: str) -> None:
    assert series(parse(page(name), WANTED)) == by_client_library(page(name), WANTED.samples)


def test_a_large_page_reads_as_the_client_library_reads_it() -> None:
    body = multiplied(page("vllm-0.32.0-busy-queue.txt"), 5)
    found = series(parse(body, WANTED))
    assert found == by_client_library(body, WANTED.samples)
    assert len(found) == 5 * 17


def test_what_the_client_library_writes_is_read_in_both_formats() -> None:
    registry = CollectorRegistry()
    Gauge("g", "a gauge", ["l"], registry=registry).labels('quo"te\\back\nline {x} é,"').set(0.25)
    Counter("c", "a counter", ["l"], registry=registry).labels("a").inc(3, exemplar={"trace_id": "x}y"})
    Info("i", "an info", registry=registry).info({"version": "1"})
    histogram = Histogram("h", "a histogram", ["l"], registry=registry, buckets=(0.5, 1))
    histogram.labels("a").observe(0.7, exemplar={"trace_id": "b"})
    histogram.labels("b").observe(3)

    text, openmetrics = generate_latest(registry), generate_openmetrics(registry)
    expected = by_client_library(text, W.samples)
    assert len(expected) == 3 + 2 * 5
    assert series(parse(text, W)) == expected
    assert by_client_library(openmetrics, W.samples, openmetrics=True) == expected
    families = parse(openmetrics, W)
    assert series(families) == expected
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


NAMES = st.sampled_from(["g", "c_total", "i_info", "x", "g_x", "c", "other:name"])
LABEL_NAMES = st.text("abc_", min_size=1, max_size=3).filter(lambda name: not name.startswith("__"))
LABEL_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
VALUES = st.one_of(st.floats(0, allow_infinity=False, allow_nan=False), st.integers(0, 10**12).map(float))
BLANK = st.sampled_from([" ", "  ", "\t", " \t "])
MAYBE = st.sampled_from(["", "", "", " ", "\t"])


@st.composite
def expositions(draw: st.DrawFn) -> str:
    """A valid page: groups of one family each, with everything that the format leaves open drawn at random."""
    lines: list[str] = []
    for name in draw(st.lists(NAMES, unique=True, min_size=1, max_size=5)):
        if draw(st.booleans()):
            lines.append(f"# HELP {name} {draw(st.text(string.printable[:90], max_size=12))}")
        if draw(st.booleans()):
            # The client library renames a counter's sample that does not end in _total.
            types = ["gauge", "untyped", "counter"] if name.endswith("_total") else ["gauge", "untyped"]
            lines.append(f"# TYPE {name} {draw(st.sampled_from(types))}")
        seen = set()
        for labels, value in draw(
            st.lists(st.tuples(st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=3), VALUES), min_size=1, max_size=4)
        ):
            key = frozenset(labels.items())
            if key in seen:
                continue
            seen.add(key)
            pairs = []
            for label, text in labels.items():
                escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
                pairs.append(f'{draw(MAYBE)}{label}{draw(MAYBE)}={draw(MAYBE)}"{escaped}"{draw(MAYBE)}')
            braces = "{" + ",".join(pairs) + draw(st.sampled_from(["", ","] if pairs else [""])) + "}"
            written = draw(MAYBE) + name + (braces if labels or draw(st.booleans()) else "")
            stamp = draw(st.sampled_from(["", " 1700000000000"]))
            lines.append(f"{written}{draw(BLANK)}{value!r}{stamp}{draw(MAYBE)}")
            if draw(st.integers(0, 5)) == 0:
                lines.append(draw(st.sampled_from(["", "# a comment", " "])))
    return "".join(line + "\n" for line in lines)


@settings(max_examples=300, deadline=None)
@given(expositions())
def test_generated_pages_read_as_the_client_library_reads_them(text: str) -> None:
    body = text.encode()
    assert series(parse(body, W)) == by_client_library(body, W.samples)


# --- what is not ------------------------------------------------------------------------------------------------

LONG = b"x" * 257

MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "cut in a number": (b"g 12", "truncated"),
    "cut in a label": (b'g{a="1', "truncated"),
    "cut in a comment": (b"g 1\n# HELP", "truncated"),
    "cut in EOF": (b"g 1\n# EOF", "truncated"),
    "html": (b"<!doctype html>\n<p>502</p>\n", "html"),
    "html after blanks": (b" \r\n\t<html>\n", "html"),
    "xml": (b"<?xml version='1.0'?>\n", "html"),
    "not a number": (b"g NaN\n", "not_finite"),
    "nan in small letters": (b"g nan\n", "not_finite"),
    "negative nan": (b"g -NaN\n", "not_finite"),
    "infinite": (b"g +Inf\n", "not_finite"),
    "minus infinite": (b"g -Inf\n", "not_finite"),
    "infinite, bare": (b"g Inf\n", "not_finite"),
    "infinity": (b"g infinity\n", "not_finite"),
    "infinite with a timestamp": (b"g Inf 1\n", "not_finite"),
    "overflow": (b"g 1e999\n", "not_finite"),
    "minus overflow": (b"g -1e999\n", "not_finite"),
    "overflow by digits": (b"g 1" + b"0" * 400 + b"\n", "not_finite"),
    "negative": (b"g -1\n", "negative"),
    "negative, small": (b"g -1e-300\n", "negative"),
    "negative bucket": (b"# TYPE h histogram\nh_bucket -1\n", "negative"),
    "underscore in the number": (b"g 1_0\n", "syntax"),
    "underscore at its end": (b"g 10_\n", "syntax"),
    "hexadecimal": (b"g 0x10\n", "syntax"),
    "hexadecimal float": (b"g 0x1p-2\n", "syntax"),
    "Arabic digits": ("g ١٢\n".encode(), "syntax"),
    "full-width digits": ("g １\n".encode(), "syntax"),
    "comma as point": (b"g 1,5\n", "syntax"),
    "two points": (b"g 1.2.3\n", "syntax"),
    "no value": (b"g\n", "syntax"),
    "no value after labels": (b'g{a="1"}\n', "syntax"),
    "point alone": (b"g .\n", "syntax"),
    "sign alone": (b"g +\n", "syntax"),
    "two signs": (b"g +-1\n", "syntax"),
    "exponent without digits": (b"g 1e\n", "syntax"),
    "exponent with a fraction": (b"g 1e1.5\n", "syntax"),
    "a word": (b"g one\n", "syntax"),
    "true": (b"g true\n", "syntax"),
    "unit after the number": (b"g 5s\n", "syntax"),
    "percent": (b"g 5%\n", "syntax"),
    "a third number": (b"g 1 2 3\n", "syntax"),
    "timestamp is no number": (b"g 1 now\n", "syntax"),
    "timestamp in exponent form": (b"g 1 1e3\n", "syntax"),
    "carriage return": (b"g 1\r\n", "syntax"),
    "form feed before the number": (b"g\f1\n", "syntax"),
    "vertical tab": (b"g \v1\n", "syntax"),
    "no-break space": ("g\u00a01\n".encode(), "syntax"),
    "NUL after the number": (b"g 1\x00\n", "syntax"),
    "NUL after the name": (b"g\x00 1\n", "syntax"),
    "comment after the number": (b"g 1 # note\n", "syntax"),
    "broken exemplar": (b"c_total 1 # {t=\n", "syntax"),
    "exemplar without a value": (b'c_total 1 # {t="x"}\n', "syntax"),
    "exemplar with NaN": (b'c_total 1 # {t="x"} NaN\n', "not_finite"),
    "labels not closed": (b'g{a="1" 1\n', "syntax"),
    "labels not opened": (b'ga="1"} 1\ng a="1"} 1\n', "syntax"),
    "value not closed": (b'g{a="1} 1\n', "syntax"),
    "value not quoted": (b"g{a=1} 1\n", "syntax"),
    "value in single quotes": (b"g{a='1'} 1\n", "syntax"),
    "no equals sign": (b'g{a"1"} 1\n', "syntax"),
    "two equals signs": (b'g{a=="1"} 1\n', "syntax"),
    "no label name": (b'g{="1"} 1\n', "syntax"),
    "label name starts with a digit": (b'g{1a="1"} 1\n', "syntax"),
    "label name with a hyphen": (b'g{a-b="1"} 1\n', "syntax"),
    "label name with a colon": (b'g{a:b="1"} 1\n', "syntax"),
    "label name not ASCII": ('g{é="1"} 1\n'.encode(), "syntax"),
    "no comma": (b'g{a="1" b="2"} 1\n', "syntax"),
    "semicolon": (b'g{a="1";b="2"} 1\n', "syntax"),
    "two commas": (b'g{a="1",,b="2"} 1\n', "syntax"),
    "leading comma": (b'g{,a="1"} 1\n', "syntax"),
    "comma alone": (b"g{,} 1\n", "syntax"),
    "text after a value": (b'g{a="1"x} 1\n', "syntax"),
    "braces in braces": (b'g{{a="1"}} 1\n', "syntax"),
    "labels twice": (b'g{a="1"}{b="2"} 1\n', "syntax"),
    "a label twice": (b'g{a="1",a="2"} 1\n', "syntax"),
    "a label twice, once quoted": (b'g{a="1","a"="2"} 1\n', "syntax"),
    "unknown escape": (rb'g{a="\d"} 1' + b"\n", "syntax"),
    "escaped end": (rb'g{a="1\"} 1' + b"\n", "syntax"),
    "raw newline in a value": (b'g{a="1\n2"} 1\n', "syntax"),
    "brace without a name": (b'{a="1"} 1\n', "syntax"),
    "quoted name not closed": (b'{"g} 1\n', "syntax"),
    "quoted name without a comma": (b'{"g" a="1"} 1\n', "syntax"),
    "not UTF-8": (b'g{a="\xff"} 1\n', "not_utf8"),
    "not UTF-8 in a comment": (b"# \xc3\ng 1\n", "not_utf8"),
    "surrogate": (b'g{a="\xed\xa0\x80"} 1\n', "not_utf8"),
    "overlong": (b'g{a="\xc0\xaf"} 1\n', "not_utf8"),
    "UTF-16": ("g 1\n".encode("utf-16"), "truncated"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\n", "not_utf8"),
    "the same series twice": (b"g 1\ng 1\n", "duplicate"),
    "twice with labels": (b'g{a="1"} 1\ng{a="1"} 2\n', "duplicate"),
    "twice in another order": (b'g{a="1",b="2"} 1\ng{b="2",a="1"} 1\n', "duplicate"),
    "twice with blanks": (b'g{a="1"} 1\ng{ a="1" ,} 1\n', "duplicate"),
    "twice by an escape": (b'g{a="x\\ny\\\\"} 1\ng{a="x\\ny\\\\" } 1\n', "duplicate"),
    "twice, once quoted": (b'g{a="1"} 1\n{"g",a="1"} 1\n', "duplicate"),
    "twice, timestamps apart": (b"g 1 1\ng 1 2\n", "duplicate"),
    "group in two places": (b'g{a="1"} 1\nx 1\ng{a="2"} 1\n', "order"),
    "wanted groups interleaved": (b'g{a="1"} 1\nc_total 1\ng{a="2"} 1\n', "order"),
    "TYPE after its sample": (b"g 1\n# TYPE g gauge\n", "order"),
    "TYPE after its sample and others": (b"g 1\nx 1\n# TYPE g gauge\n", "order"),
    "TYPE twice": (b"# TYPE g gauge\n# TYPE g gauge\ng 1\n", "order"),
    "TYPE in two formats": (b"# TYPE c counter\n# TYPE c_total counter\nc_total 1\n", "order"),
    "another TYPE between TYPE and sample": (b"# TYPE g gauge\n# TYPE x gauge\ng 1\n", "order"),
    "unknown type": (b"# TYPE g number\ng 1\n", "syntax"),
    "no type": (b"# TYPE g\ng 1\n", "syntax"),
    "type in capitals": (b"# TYPE g GAUGE\ng 1\n", "syntax"),
    "two types": (b"# TYPE g gauge counter\ng 1\n", "syntax"),
    "a histogram that was a gauge": (b"# TYPE g histogram\ng 1\n", "syntax"),
    "a gauge that was a histogram": (b"# TYPE h gauge\nh_sum 1\n", "syntax"),
    "text after EOF": (b"g 1\n# EOF\nx 1\n", "syntax"),
    "EOF twice": (b"g 1\n# EOF\n# EOF\n", "syntax"),
    "33 labels": (b"g{%s} 1\n" % b",".join(b'l%d="1"' % i for i in range(33)), "too_many_labels"),
    "10,000 labels": (b"g{%s} 1\n" % b",".join(b'l%d=""' % i for i in range(7_000)), "too_many_labels"),
    "129 labels of an info": (b"i_info{%s} 1\n" % b",".join(b'l%d="1"' % i for i in range(129)), "too_many_labels"),
    "long label value": (b'g{a="' + LONG + b'"} 1\n', "label_too_long"),
    "long label name": (b"g{" + LONG + b'="1"} 1\n', "label_too_long"),
    "long in bytes, not in letters": (b'g{a="' + "é".encode() * 129 + b'"} 1\n', "label_too_long"),
    "long label value of an info": (b'i_info{a="' + b"x" * 4097 + b'"} 1\n', "label_too_long"),
    "long line": (b"# " + b"x" * LIMITS.line + b"\n", "line_too_long"),
    "long last line": (b"g 1\n" * 1 + b"x" * (LIMITS.line + 1) + b"\n", "line_too_long"),
    "2 MB line": (b'g{a="' + b"x" * (2 << 20) + b'"} 1\n', "line_too_long"),
    "1M backslashes": (b'g{a="' + b"\\" * 1_000_000 + b'"} 1\n', "line_too_long"),
    "60k backslashes": (b'g{a="' + b"\\" * 60_000 + b'"} 1\n', "label_too_long"),
    "60k backslashes, odd": (b'g{a="' + b"\\" * 60_001 + b'"} 1\n', "syntax"),
    "60k quotes": (b'g{a="' + b'"' * 60_000 + b"} 1\n", "syntax"),
    "60k braces": (b"g{" + b"}" * 60_000 + b" 1\n", "syntax"),
    "60k blanks": (b"g" + b" " * 60_000 + b"\n", "syntax"),
    "60k exemplar starts": (b"g 1" + b" # {" * 15_000 + b"\n", "syntax"),
    "60k digits and no number": (b"g " + b"1" * 60_000 + b"x\n", "syntax"),
    "too long a body": (b"g 1\n" + b"# x\n" * (LIMITS.body // 4), "body_too_large"),
    "too many samples": (b"".join(b"x%d 1\n" % i for i in range(50_001)), "too_many_samples"),
    "8 MiB of newlines": (b"\n" * LIMITS.body, "too_many_samples"),
    "8 MiB of comments": (b"#\n" * (LIMITS.body // 2), "too_many_samples"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    body, reason = MALFORMED[name]
    with pytest.raises(ExpositionError) as caught:
        parse(body, W)
    assert caught.value.reason == reason
    assert reason in REASONS
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 250
    assert message.endswith(f"; {REASONS[reason]}")


@pytest.mark.parametrize("name", [name for name, (_, reason) in MALFORMED.items() if reason in ("syntax", "not_utf8")])
def test_an_error_names_the_line(name: str) -> None:
    body, _ = MALFORMED[name]
    with pytest.raises(ExpositionError, match=r"^line [45][: ]"):
        parse(b"# one\n# two\nx 3\n" + body, W)


LIMIT = {
    "labels": (b"g{%s} 1\n" % b",".join(b'l%d="1"' % i for i in range(32)), 32),
    "label value": (b'g{a="' + b"x" * 256 + b'"} 1\n', 1),
    "line": (b"g 1\n#" + b"x" * (LIMITS.line - 1) + b"\n", 0),
}


@pytest.mark.parametrize("name", LIMIT)
def test_at_the_limit_a_page_is_read(name: str) -> None:
    body, labels = LIMIT[name]
    assert len(one(body).samples[0][1]) == labels


def test_50k_samples_are_read() -> None:
    body = b"# HELP g x\n" + b"".join(b'g{a="%d"} 1\n' % i for i in range(50_000))
    assert len(one(body).samples) == 50_000
    with pytest.raises(ExpositionError, match="50000 samples"):
        parse(body + b"x 1\n", W)


def test_labels_of_another_page_do_not_widen_the_limits() -> None:
    """Label sets are remembered: a set that is fine for an info family is still too large for a gauge."""
    labels = b",".join(b'l%d="1"' % i for i in range(40))
    parse(b"i_info{%s} 1\n" % labels, W)
    with pytest.raises(ExpositionError, match="40 labels"):
        parse(b"g{%s} 1\n" % labels, W)


# --- mutated ----------------------------------------------------------------------------------------------------

TOKENS = [
    b"\n",
    b"{",
    b"}",
    b'"',
    b",",
    b"=",
    b" ",
    b"\\",
    b"#",
    b"NaN",
    b"-",
    b"1e999",
    b"_",
    b"# EOF\n",
    b"# TYPE g gauge\n",
]
TOKENS += [b"\xff", b"\x00", b"\t", b"0", b"e", b".", b'g{a="1"} 1\n', b"# HELP x\n", "١".encode()]


def mutated(body: bytes, chance: random.Random) -> bytes:
    result = bytearray(body)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(result) + 1)
        to = min(len(result), at + chance.choice((1, 1, 2, 5, 30)))
        match chance.randrange(5):
            case 0:
                del result[at:to]
            case 1:
                result[at:at] = chance.choice(TOKENS)
            case 2:
                result[at:at] = result[at:to]
            case 3:
                result[at:to] = bytes(chance.randrange(256) for _ in range(to - at))
            case _:
                other = chance.randrange(len(result) + 1)
                result[at:to], moved = b"", bytes(result[at:to])
                result[other:other] = moved
    return bytes(result)


SMALL = b"""# HELP g x
# TYPE g gauge
g{a="1",b="x"} 4.0
g{a="2",b="y\\"z"} 28.5
# HELP x y
# TYPE x gauge
x{a="1"} 3
# TYPE c_total counter
c_total{r="stop"} 12
c_total{r="abort"} 1e3
# TYPE i_info gauge
i_info{v="1"} 1
# HELP z z
"""


def test_mutated_pages_are_read_as_the_client_library_reads_them_or_refused() -> None:
    chance = random.Random(20240229)  # noqa: S311 -- the same mutations at every run
    refused = 0
    for _ in range(FUZZ_EXAMPLES):
        body = mutated(SMALL, chance)
        try:
            found = series(parse(body, W))
        except ExpositionError:
            refused += 1
            continue
        assert all(math.isfinite(value) and value >= 0 for value in found.values())
        try:
            expected = by_client_library(body, W.samples)
        except (ValueError, IndexError):
            continue  # a broken line that is not wanted
        assert found == expected, body
    assert 0 < refused < FUZZ_EXAMPLES


@pytest.mark.parametrize("name", ["vllm-0.32.0-busy-queue.txt", "dp2"])
def test_mutated_real_pages_raise_nothing_else(name: str) -> None:
    chance = random.Random(name)  # noqa: S311 -- the same mutations at every run
    body = busy_dp2() if name == "dp2" else page(name)
    refused = 0
    for _ in range(FUZZ_EXAMPLES // 20):
        try:
            found = parse(mutated(body, chance), WANTED)
        except ExpositionError:
            refused += 1
        else:
            assert all(0 <= value < math.inf for value in series(found).values())
    assert refused


@given(st.binary(max_size=400), st.binary(max_size=40))
def test_arbitrary_bytes_raise_nothing_else(before: bytes, after: bytes) -> None:
    for body in (before, before + b"\ng{" + after, before + b"\ng " + after + b"\n", b'g{a="' + after + b'"} 1\n'):
        try:
            families = parse(body, W)
        except ExpositionError:
            continue
        assert all(math.isfinite(value) for value in series(families).values())


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
