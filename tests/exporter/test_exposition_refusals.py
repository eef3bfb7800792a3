"""core/exposition.py on what is not valid, not whole or too much: an error by name, never a guess."""

import pytest

from exporter.core.engines import WANTED
from exporter.core.exposition import LIMITS, REASONS, ExpositionError, Wanted, parse
from tests.exporter.malformed import MALFORMED, W
from tests.exporter.pages import busy_dp2, page, said
from tests.exporter.test_exposition import one


def fresh() -> Wanted:
    return Wanted(("g", "c_total", "i_info"), histograms=("h",), signed=("s",))


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


SOUND = b"""# TYPE g gauge
g{a="1"} 1
g{a="2"} 2
# TYPE c_total counter
c_total 1
# TYPE h histogram
h_bucket{le="1"} 1
h_bucket{le="+Inf"} 1
h_count 1
h_sum 1
"""


def test_a_page_is_refused_alike_whatever_was_read_before() -> None:
    """Sound pages that have as much as can be in common with a malformed one, and the malformed one itself."""
    warm = fresh()
    parse(SOUND, warm)
    assert len(warm.blocks) == 3
    for body, reason in MALFORMED.values():
        outcomes = []
        for wanted in (fresh(), warm, warm):
            with pytest.raises(ExpositionError) as caught:
                parse(body, wanted)
            outcomes.append(str(caught.value))
            assert caught.value.reason == reason
        assert len(set(outcomes)) == 1
        parse(SOUND, warm)


@pytest.mark.parametrize("name", [name for name, (_, reason) in MALFORMED.items() if reason in ("syntax", "not_utf8")])
def test_an_error_names_the_line(name: str) -> None:
    body, _ = MALFORMED[name]
    with pytest.raises(ExpositionError, match=r"^line [4-7][: ]"):
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


# --- cut --------------------------------------------------------------------------------------------------------


def cut_everywhere(body: bytes, wanted: Wanted) -> int:
    """Cut before every byte: the page is refused, or each number of it is the whole page's. How often it was read."""
    families = parse(body, wanted)
    whole = said(families)
    read = 0
    for end in range(len(body)):
        at_line_end = body[end - 1 : end] == b"\n"
        if not at_line_end:
            with pytest.raises(ExpositionError, match=r"ends inside a line|is empty"):
                parse(body[:end], wanted)
            continue
        read += 1
        found = parse(body[:end], wanted)
        part = said(found)
        assert part.series.items() <= whole.series.items()
        for key, histogram in part.histograms.items():
            known = whole.histograms[key]
            assert (histogram.edges, histogram.counts) == (known.edges, known.counts)
            assert histogram.sum in (None, known.sum)
        assert all(family == families[name] for name, family in found.items() if family.complete)
    return read


@pytest.mark.parametrize("name", ["vllm-0.32.0-busy-queue.txt", "vllm-0.6.6-v0-names.txt", "dp2"])
def test_a_page_that_is_cut_gives_no_number_that_is_not_true(name: str) -> None:
    body = busy_dp2() if name == "dp2" else page(name)
    assert cut_everywhere(body, WANTED) == body.count(b"\n") - 1


def test_a_small_page_that_is_cut_gives_no_number_that_is_not_true() -> None:
    assert cut_everywhere(SOUND, fresh()) == SOUND.count(b"\n") - 1
