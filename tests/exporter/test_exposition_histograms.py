"""Histograms: whole and consistent, or left out; never a reason to refuse what else is on the page."""

import pytest

from exporter.core.exposition import LIMITS, Wanted, parse
from exporter.core.exposition_histograms import MAX_EDGES
from exporter.core.model_engines import Histogram
from tests.exporter.pages import said

INF = float("inf")
WHOLE = ('h_bucket{le="0.5"} 1', 'h_bucket{le="+Inf"} 3', "h_count 3", "h_sum 4.5")
TWO = Histogram((0.5, INF), (1.0, 3.0), 4.5)

#: Name -> lines of the family, the histograms that they make.
LINES: dict[str, tuple[tuple[str, ...], list[Histogram]]] = {
    "whole": (WHOLE, [TWO]),
    "sum before count": ((WHOLE[0], WHOLE[1], WHOLE[3], WHOLE[2]), [TWO]),
    "count and sum before the buckets (prometheus-cpp)": ((WHOLE[2], WHOLE[3], WHOLE[0], WHOLE[1]), [TWO]),
    "count between the buckets": ((WHOLE[0], WHOLE[2], WHOLE[1], WHOLE[3]), [TWO]),
    "no sum": (WHOLE[:3], [Histogram(TWO.edges, TWO.counts)]),
    "edges in all spellings": (
        (*(f'h_bucket{{le="{le}"}} 0' for le in ("-1", "0", ".5", "1.", "2.50", "1e+06", "2E6", "Inf")), "h_count 0"),
        [Histogram((-1.0, 0.0, 0.5, 1.0, 2.5, 1e6, 2e6, INF), (0.0,) * 8)],
    ),
    "one bucket": (('h_bucket{le="+Inf"} 2', "h_count 2"), [Histogram((INF,), (2.0,))]),
    "counts that are no integers": (
        ('h_bucket{le="1"} 0.5', 'h_bucket{le="+Inf"} 1.5', "h_count 1.5"),
        [Histogram((1.0, INF), (0.5, 1.5))],
    ),
    "as many edges as are allowed": (
        (*(f'h_bucket{{le="{edge}"}} 0' for edge in range(MAX_EDGES - 1)), 'h_bucket{le="+Inf"} 0', "h_count 0"),
        [Histogram((*map(float, range(MAX_EDGES - 1)), INF), (0.0,) * MAX_EDGES)],
    ),
    "an edge more than allowed": (
        (*(f'h_bucket{{le="{edge}"}} 0' for edge in range(MAX_EDGES)), 'h_bucket{le="+Inf"} 0', "h_count 0"),
        [],
    ),
    "no count": ((WHOLE[0], WHOLE[1], WHOLE[3]), []),
    "count only": ((WHOLE[2],), []),
    "sum only": ((WHOLE[3],), []),
    "no +Inf": ((WHOLE[0], *WHOLE[2:]), []),
    "+Inf not last": ((WHOLE[1], WHOLE[0], *WHOLE[2:]), []),
    "edges fall": (('h_bucket{le="1"} 1', *WHOLE), []),
    "an edge twice in two spellings": (('h_bucket{le="0.50"} 1', *WHOLE), []),
    "+Inf twice in two spellings": ((*WHOLE[:2], 'h_bucket{le="Inf"} 3', *WHOLE[2:]), []),
    "counts fall": ((WHOLE[0].replace(" 1", " 4"), *WHOLE[1:]), []),
    "count is not the last bucket's": ((*WHOLE[:2], "h_count 4", WHOLE[3]), []),
    "count has a le": ((*WHOLE[:2], 'h_count{le="+Inf"} 3', WHOLE[3]), []),
    "no le": (("h_bucket 0", *WHOLE), []),
    "le is empty": (('h_bucket{le=""} 0', *WHOLE), []),
    "le is a word": (('h_bucket{le="low"} 0', *WHOLE), []),
    "le is NaN": (('h_bucket{le="NaN"} 0', *WHOLE), []),
    "le is -Inf": (('h_bucket{le="-Inf"} 0', *WHOLE), []),
    "le overflows": (('h_bucket{le="0.1"} 0', 'h_bucket{le="1e999"} 0', "h_count 0"), []),
    "le has a unit": (('h_bucket{le="1s"} 0', *WHOLE), []),
    "le has an underscore": (('h_bucket{le="0_1"} 0', *WHOLE), []),
    "le has a blank": (('h_bucket{le=" 0.1"} 0', *WHOLE), []),
    "le is of Arabic digits": (('h_bucket{le="٠"} 0', *WHOLE), []),
    "le is hexadecimal": (('h_bucket{le="0x0"} 0', *WHOLE), []),
    "le ends in a newline": ((r'h_bucket{le="0.1\n"} 0', *WHOLE), []),
}


def page(*lines: str) -> bytes:
    return "".join(
        f"{line}\n" for line in ("# TYPE g gauge", "g 1", "# TYPE h histogram", *lines, "# TYPE x gauge")
    ).encode()


@pytest.mark.parametrize("name", LINES)
def test_a_histogram_is_whole_and_consistent_or_left_out(name: str) -> None:
    lines, expected = LINES[name]
    wanted = Wanted(("g",), histograms=("h",))
    for _ in range(3):
        families = parse(page(*lines), wanted)
        assert families["h"].samples == []
        assert [histogram for _, histogram in families["h"].histograms] == expected
        assert all(labels == {} for labels, _ in families["h"].histograms)
        assert families["g"].samples == [("g", {}, 1.0)]


def of(lines: tuple[str, ...], labels: str) -> tuple[str, ...]:
    return tuple(
        line.replace("{", "{" + labels + ",") if "{" in line else line.replace(" ", "{" + labels + "} ")
        for line in lines
    )


def test_one_that_is_in_doubt_leaves_the_others() -> None:
    wanted = Wanted((), histograms=("h",))
    body = page(*of(WHOLE, 'a="1"'), *of(LINES["counts fall"][0], 'a="2"'), *of(WHOLE, 'a="3",b="x y"'))
    for _ in range(2):
        assert parse(body, wanted)["h"].histograms == [({"a": "1"}, TWO), ({"a": "3", "b": "x y"}, TWO)]


def test_buckets_of_two_histograms_may_be_mixed() -> None:
    wanted = Wanted((), histograms=("h",))
    body = page(*(line for both in zip(of(WHOLE, 'a="1"'), of(WHOLE, 'a="2"'), strict=True) for line in both))
    for _ in range(2):
        assert parse(body, wanted)["h"].histograms == [({"a": "1"}, TWO), ({"a": "2"}, TWO)]


def test_a_known_histogram_is_judged_by_the_numbers_of_every_page() -> None:
    wanted = Wanted((), histograms=("h",))
    parse(page(*WHOLE), wanted)
    for name in ("counts fall", "count is not the last bucket's", "whole", "no sum"):
        lines, expected = LINES[name]
        assert [histogram for _, histogram in parse(page(*lines), wanted)["h"].histograms] == expected


def test_a_histogram_without_a_declaration_or_with_exemplars_is_read() -> None:
    wanted = Wanted((), histograms=("h",))
    bare = "".join(f"{line}\n" for line in WHOLE).encode()
    marked = page(*(f'{line} # {{t="x"}} 0.3' if "bucket" in line else line for line in WHOLE)) + b"# EOF\n"
    for body in (bare, marked, bare):
        assert list(said(parse(body, wanted)).histograms.values()) == [TWO]


def test_lines_after_a_comment_inside_belong_to_the_histogram() -> None:
    """The block ends at the comment; what follows is of the same group, also when the block is known."""
    wanted = Wanted((), histograms=("h",))
    body = page(*WHOLE[:2], "# note", *WHOLE[2:])
    for _ in range(3):
        assert parse(body, wanted, LIMITS)["h"].histograms == [({}, TWO)]


def test_a_summary_gives_no_histogram_and_harms_no_other_family() -> None:
    """TGI before its buckets: what metrics-exporter-prometheus prints where none are configured."""
    wanted = Wanted(("g",), histograms=("h", "k"))
    summary = b'# TYPE k summary\nk{quantile="0.5"} 0.1\nk{quantile="0.99"} 0.4\nk_sum 12.5\nk_count 90\n'
    bare = b"# TYPE k summary\nk_sum 12.5\nk_count 90\n"
    for body in (summary, summary, bare, bare):
        families = parse(body + page(*WHOLE), wanted)
        assert (families["k"].samples, families["k"].histograms) == ([], [])
        assert [value for _, _, value in families["g"].samples] == [1.0]
        assert [histogram for _, histogram in families["h"].histograms] == [TWO]
