"""What the parser remembers between pages: bounded, and never a way for one page to change what another says."""

import tracemalloc
from collections.abc import Callable

import pytest

from exporter.core import exposition_blocks
from exporter.core.engines import WANTED
from exporter.core.exposition import ExpositionError, Limits, Wanted, parse
from exporter.core.exposition_lines import remembered_labels
from tests.exporter.pages import page, said

BUSY = page("vllm-0.32.0-busy-queue.txt")


def wanted() -> Wanted:
    return Wanted(("g", "i_info", "s"), histograms=("h",), signed=("s",))


def gauges(first: int, count: int) -> bytes:
    return b"# TYPE g gauge\n" + b"".join(b'g{a="%d"} 1\n' % number for number in range(first, first + count))


def infos(first: int, count: int) -> bytes:
    labels = b",".join(b'l%d="%s"' % (number, b"x" * 90) for number in range(100))
    rows = [b'i_info{a="%d",%s} 1\n' % (number, labels) for number in range(first, first + count)]
    return b"# TYPE i_info gauge\n" + b"".join(rows)


def histograms(first: int, count: int) -> bytes:
    rows = [
        b'h_bucket{a="%d",le="%d"} 1\n' % (number, edge) for number in range(first, first + count) for edge in range(2)
    ]
    return b"# TYPE h histogram\n" + b"".join(
        b"".join(rows[2 * at : 2 * at + 2])
        + b'h_bucket{a="%d",le="+Inf"} 1\nh_count{a="%d"} 1\n' % (first + at, first + at)
        for at in range(count)
    )


def test_the_blocks_of_a_real_page_are_known_after_one_reading() -> None:
    WANTED.blocks.clear()
    first = parse(BUSY, WANTED)
    known, taken = len(WANTED.blocks), WANTED.blocks.bytes
    assert known > 15
    assert taken < 128 << 10, "256 servers with models of their own fit"
    assert parse(BUSY, WANTED) == first
    assert (len(WANTED.blocks), WANTED.blocks.bytes) == (known, taken)


@pytest.mark.parametrize(
    ("make", "count", "rounds", "bound"),
    [(gauges, 1, 200, 64 << 10), (gauges, 100, 30, 1 << 20), (infos, 1, 20, 256 << 10), (histograms, 20, 60, 1 << 20)],
)
def test_pages_of_ever_new_labels_do_not_pile_up(
    make: Callable[[int, int], bytes], count: int, rounds: int, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is really taken stays within what is counted, and that within the bound."""
    monkeypatch.setattr(exposition_blocks, "MAX_BYTES", bound)
    own = wanted()
    parse(make(0, count), own)
    remembered_labels.cache_clear()
    own.blocks.clear()
    tracemalloc.start()
    try:
        for round_ in range(1, rounds):
            parse(make(round_ * count, count), own)
            assert own.blocks.bytes <= bound
        assert 0 < len(own.blocks) < rounds - 1, "some gave way"
        remembered_labels.cache_clear()
        taken = tracemalloc.get_traced_memory()[0]
        assert taken < 1.25 * own.blocks.bytes + (32 << 10)
    finally:
        tracemalloc.stop()


def test_so_many_blocks_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition_blocks, "MAX_BLOCKS", 5)
    own = wanted()
    for number in range(20):
        parse(gauges(number, 1), own)
        assert len(own.blocks) == min(number + 1, 5)


def test_a_block_that_would_take_a_quarter_of_all_is_read_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition_blocks, "MAX_BYTES", 64 << 10)
    own = wanted()
    assert len(parse(gauges(0, 1000), own)["g"].samples) == 1000
    assert len(own.blocks) == 0


#: A page that is known, one that differs from it, and what that one says; None: it is refused.
CHANGED: dict[str, tuple[bytes, bytes, dict[str, float] | None]] = {
    "number": (b"g 1\n", b"g 2\n", {"": 2.0}),
    "sign of a signed one": (b"s 1\n", b"s -2\n", {"": -2.0}),
    "sign": (b"g 1\n", b"g -2\n", None),
    "label": (b'g{a="1"} 1\n', b'g{a="2"} 1\n', {"2": 1.0}),
    "number that was a label's": (b'g{a="5"} 1\n', b'g{a="1"} 5\n', {"1": 5.0}),
    "percent in a label": (b'g{a="%b"} 1\n', b'g{a="%b"} 7\n', {"%b": 7.0}),
    "blanks in a label": (b'g{a="x y"} 1\n', b'g{a="x  y"} 1\n', {"x  y": 1.0}),
    "number in a label": (b'g{a="x 1"} 1\n', b'g{a="x 2"} 1\n', {"x 2": 1.0}),
    "timestamp": (b"g 5 5\n", b"g 5 7\n", {"": 5.0}),
    "timestamp that came": (b"g 5\n", b"g 6 7\n", {"": 6.0}),
    "exemplar": (b'g 1 # {t="x"} 1\n', b'g 1 # {t="x"} 7\n', {"": 1.0}),
    "exemplar with labels": (b'g{a="b"} 1 # {t="x"} 1\n', b'g{a="b"} 1 # {t="x"} 7\n', {"b": 1.0}),
    "order": (b'g{a="1"} 1\ng{a="2"} 2\n', b'g{a="2"} 2\ng{a="1"} 1\n', {"1": 1.0, "2": 2.0}),
    "one more": (b'g{a="1"} 1\n', b'g{a="1"} 1\ng{a="2"} 2\n', {"1": 1.0, "2": 2.0}),
    "one less": (b'g{a="1"} 1\ng{a="2"} 2\n', b'g{a="1"} 1\n', {"1": 1.0}),
    "one more after a comment": (b"g 1\n", b'g 1\n# x\ng{a="1"} 1\n', {"": 1.0, "1": 1.0}),
    "the same after a comment": (b"g 1\n", b"g 1\n# x\ng 1\n", None),
    "carriage return": (b"g 1\n", b"g 1\r\n", None),
    "tab": (b"g 1\n", b"g\t1\n", {"": 1.0}),
    "line end for the blank": (b"g 1\n", b"g\n1\n", None),
    "underscore": (b"g 1\n", b"g 1_0\n", None),
    "infinite": (b"g 1\n", b"g 1e999\n", None),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_differs_from_a_known_page_is_read_for_what_it_says(name: str) -> None:
    before, after, expected = CHANGED[name]
    own = wanted()
    declared = b"# TYPE %s gauge\n" % before[:1]
    parse(declared + before, own)
    if expected is None:
        with pytest.raises(ExpositionError):
            parse(declared + after, own)
    else:
        (family,) = parse(declared + after, own).values()
        assert {labels.get("a", ""): value for _, labels, value in family.samples} == expected


def test_a_known_block_is_held_against_the_limits_of_each_call() -> None:
    own = wanted()
    body = b'# TYPE g gauge\ng{a="1",b="2"} 1\n'
    parse(body, own)
    with pytest.raises(ExpositionError, match="2 labels"):
        parse(body, own, Limits(labels=1))


def test_allow_lists_do_not_share_what_they_know() -> None:
    body = b"# TYPE s gauge\ns -1\n"
    assert said(parse(body, Wanted(("s",), signed=("s",)))).series
    with pytest.raises(ExpositionError, match="-1"):
        parse(body, Wanted(("s",)))
