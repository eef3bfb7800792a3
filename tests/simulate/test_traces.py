"""scaler.simulate.traces, traces_csv, traces_packed: one row a rule."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import gzip
import hashlib
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate import traces_csv, traces_packed
from scaler.simulate.model import Arrival, Trace
from scaler.simulate.traces import TraceError, cut, scaled
from scaler.simulate.traces_csv import parse, render
from scaler.simulate.traces_packed import decompressed
from tests.simulate.random_traces import random_trace

AZURE = Path(__file__).parents[2] / "bench" / "traces"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TWO = [Arrival(0.0, 374, 44), Arrival(4.5, 396, 109)]

GOOD = [
    ("azure 2023", HEADER + "2023-11-16 18:15:46.5000000,374,44\n2023-11-16 18:15:51.0000000,396,109\n", TWO),
    ("a zone", "timestamp,prompt_tokens,output_tokens\n2024-05-10T00:00:00+00:00,374,44\n2024-05-10T02:00:04.5+02:00,396,109\n", TWO),
    ("Z, and none", "timestamp,prompt_tokens,output_tokens\n2024-05-10T00:00:00Z,374,44\n2024-05-10 00:00:04.5,396,109\n", TWO),
    ("Unix time", "at,input_length,output_length\n1700000000,374,44\n1700000004.5,396,109\n", TWO),
    ("seconds from the start", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,374,44\n4.5,396,109\n", TWO),
    ("seconds that begin later", "at,input_tokens,completion_tokens\n10,374,44\n", [Arrival(10.0, 374, 44)]),
    ("other columns", "Timestamp,Model,Request tokens,Response tokens,Total\n0,GPT-4,374,44,418\n4.5,GPT-4,396,109,505\n", TWO),
    ("any case and order", " OUTPUT-TOKENS ,Prompt Tokens,AT\n44,374,0\n109,396,4.5\n", TWO),
    ("cached", "at,prompt_tokens,output_tokens,cached_tokens\n0,374,44,374\n1,9,1,0\n", [Arrival(0, 374, 44, 374), Arrival(1, 9, 1)]),
    ("a BOM and CRLF", "\ufeff" + HEADER.replace("\n", "\r\n") + "0,374,44\r\n4.5,396,109\r\n\r\n\r\n", TWO),
    ("quotes and blanks", HEADER + '"0","374", 44\n\n "4.5","396",109.0\n   \n', TWO),
    ("two at once", HEADER + "1,2,3\n1,2,3\n", [Arrival(1, 2, 3), Arrival(1, 2, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arrivals"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_good_file_is_read(text: str, arrivals: list[Arrival]) -> None:
    trace = parse(text, "load.csv")
    assert list(trace.arrivals) == arrivals
    assert trace.name == "load.csv"
    assert arrivals[-1].at < trace.seconds <= arrivals[-1].at + 1


BAD = [
    ("", "file load.csv: is empty"),
    ("\n \n", "file load.csv: is empty"),
    (HEADER, "has a header and no request"),
    ("at,tokens\n0,1\n", "file load.csv, header: no column for the prompt's tokens; found 'at', 'tokens'; name it ContextTokens"),
    ("0,374,44\n1,2,3\n", "no column for the time; found '0', '374', '44'"),
    ("at;prompt_tokens;output_tokens\n0;1;2\n", "separate columns by commas"),
    ("at,prompt_tokens,input_length,output_tokens\n0,1,2,3\n", "header: prompt_tokens and input_length both mean"),
    (HEADER + "5,1,1\n4,1,1\n", "row 3: TIMESTAMP '4' is before the row above it; sort the rows by time, as `sort -t, -k1,1`"),
    (HEADER + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n", "row 3: TIMESTAMP '2023-11-16 18:15:45' is before the start"),
    (HEADER + "-1,1,1\n", "row 2: TIMESTAMP '-1' is before the start"),
    (HEADER + "0,1,1\n40000000,1,1\n", "row 3: TIMESTAMP '40000000' is 463 days after the start"),
    (HEADER + "1700000000000,1,1\n", "is no Unix time in seconds (milliseconds?)"),
    (HEADER + "nan,1,1\n", "'nan' is no time"),
    (HEADER + "0,1,1\ninf,1,1\n", "row 3: TIMESTAMP 'inf' is no number"),
    (HEADER + "0,1,1\n1_0,1,1\n", "'1_0' is no number"),
    (HEADER + "0,1,1\n2023-11-16 18:15:46,1,1\n", "row 3: TIMESTAMP '2023-11-16 18:15:46' is no number"),
    (HEADER + "2023-11-16 18:15:46,1,1\n12,1,1\n", "row 3: TIMESTAMP '12' is no time"),
    (HEADER + "yesterday,1,1\n", "row 2: TIMESTAMP 'yesterday' is no time"),
    (HEADER + "0,0,1\n", "row 2: ContextTokens '0' is not a whole number from 1 to 10000000; correct the row, or drop it if its"),
    (HEADER + "0,1,0\n", "row 2: GeneratedTokens '0' is not"),
    (HEADER + "0,-4,1\n", "ContextTokens '-4' is not"),
    (HEADER + "0,1.5,1\n", "ContextTokens '1.5' is not"),
    (HEADER + "0,nan,1\n", "ContextTokens 'nan' is not"),
    (HEADER + "0,1,\n", "GeneratedTokens '' is not"),
    (HEADER + "0,٥,1\n", "is not a whole number"),
    (HEADER + "0,10000001,1\n", "ContextTokens '10000001' is not"),
    (HEADER + "0,1" + "0" * 5000 + ",1\n", "is not a whole number"),
    (HEADER + "0,1,1\n\n0,1\n", "row 4: has 2 columns where the header has 3"),
    ("at,prompt_tokens,output_tokens,cached_tokens\n0,5,1,6\n", "cached_tokens '6' is not a whole number from 0 to 5"),
    (HEADER + '0,"' + "x" * 200_000 + '",1\n', "no CSV (field larger than field limit"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error"), BAD, ids=[row[1][:60] for row in BAD])
def test_a_bad_file_is_refused_in_one_line(text: str, error: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse(text, "load.csv")
    assert error in str(caught.value)
    assert str(caught.value).startswith("file load.csv")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isascii()


def test_rows_beyond_the_most_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_csv, "MOST_ROWS", 2)
    rows = HEADER + "0,1,1\n1,1,1\n"
    assert len(parse(rows + "\n", "load.csv").arrivals) == 2
    with pytest.raises(TraceError, match="row 4: is beyond 2 rows"):
        parse(rows + "2,1,1\n", "load.csv")


@given(st.text(alphabet='at,0123456789.-:TZ"\n\r ContextTokensGeneratedTIMESTAMP\x00é_', max_size=300))
def test_any_text_is_a_trace_or_a_trace_error(rest: str) -> None:
    for text in (rest, HEADER + rest, HEADER + "0,1,1\n" + rest):
        times, refusal = [0.0], ""
        try:
            times = [arrival.at for arrival in parse(text, "load.csv").arrivals]
        except TraceError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert times == sorted(times)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_what_is_rendered_is_read_back(seed: int) -> None:
    trace = random_trace(seed)
    assert list(parse(render(trace), "x").arrivals) == list(trace.arrivals)


#: Requests, last second and SHA-256 of each trace's CSV, as published.
PUBLISHED = [
    ("azure-2023-conv.csv.xz", 19366, 3501.721937, "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8"),
    ("azure-2023-code.csv.xz", 8819, 3435.948056, "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6"),
]


@pytest.mark.parametrize(("file", "count", "last", "digest"), PUBLISHED)
def test_the_azure_traces_are_as_published(file: str, count: int, last: float, digest: str) -> None:
    data = (AZURE / file).read_bytes()
    text = decompressed(data, file)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    trace = parse(text, file)
    assert len(trace.arrivals) == count
    assert trace.arrivals[0].at == 0
    assert trace.arrivals[-1].at == pytest.approx(last, abs=1e-6)
    readme = (AZURE / "README.md").read_text()
    assert digest in readme
    assert hashlib.sha256(data).hexdigest() in readme


PACKED = [
    ("plain", b"at\n1\n"),
    ("BOM", b"\xef\xbb\xbfat\n1\n"),
    ("xz", lzma.compress(b"at\n1\n")),
    ("gzip", gzip.compress(b"at\n1\n")),
    ("two streams", lzma.compress(b"at\n") + bytes(4) + lzma.compress(b"1\n")),
    ("two members", gzip.compress(b"at\n") + gzip.compress(b"1\n")),
]


@pytest.mark.parametrize("data", [row[1] for row in PACKED], ids=[row[0] for row in PACKED])
def test_bytes_become_text(data: bytes) -> None:
    assert decompressed(data, "x") == "at\n1\n"


DAMAGED = [
    (lzma.compress(b"at\n1\n")[:-4], "is damaged (it ends in the middle)"),
    (gzip.compress(b"at\n1\n")[:-4], "is damaged (it ends in the middle)"),
    (lzma.compress(b"at\n1\n") + b"more", "is damaged"),
    (b"\x1f\x8bno gzip", "is damaged"),
    (gzip.compress(b"a\xff"), "byte 1 is no UTF-8"),
    ("at\n".encode("utf-16"), "byte 0 is no UTF-8"),
]


@pytest.mark.parametrize(("data", "error"), DAMAGED, ids=[row[1] for row in DAMAGED])
def test_damaged_bytes_are_refused(data: bytes, error: str) -> None:
    with pytest.raises(TraceError) as caught:
        decompressed(data, "load.csv.xz")
    assert error in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress], ids=["plain", "xz", "gzip"])
def test_a_bomb_is_refused(pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_packed, "MOST_BYTES", 1000)
    assert callable(pack)
    assert decompressed(pack(b"0" * 1000), "x") == "0" * 1000
    with pytest.raises(TraceError, match="holds more than"):
        decompressed(pack(b"0" * 1001), "x")
    with pytest.raises(TraceError, match="holds more than"):
        decompressed(pack(b"0" * 10**6), "x")


EVEN = Trace("even", [Arrival(float(at), 10 + at, 5) for at in range(1000)], 1000.0)


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.0, 2.0, 3.5, 8.1])
def test_a_scaled_trace_has_so_many_times_the_requests(factor: float) -> None:
    trace = scaled(EVEN, factor, seed=3)
    # Three standard deviations of the kept fraction's binomial, and nothing where the factor is whole.
    part = factor % 1
    assert abs(len(trace.arrivals) - 1000 * factor) <= 3 * (1000 * part * (1 - part)) ** 0.5
    assert trace == scaled(EVEN, factor, seed=3)
    assert part == 0 or trace != scaled(EVEN, factor, seed=4)


@given(st.integers(0, 10**6), st.floats(0.01, 6), st.floats(0, 2000))
@settings(max_examples=30)
def test_a_scaled_trace_keeps_order_ends_and_lengths(seed: int, factor: float, spread: float) -> None:
    trace = random_trace(seed % 50)
    more = scaled(trace, factor, spread, seed)
    times = [arrival.at for arrival in more.arrivals]
    assert times == sorted(times)
    assert all(0 <= at <= trace.seconds for at in times)
    assert {arrival[1:] for arrival in more.arrivals} <= {arrival[1:] for arrival in trace.arrivals}
    assert factor < 1 or {*trace.arrivals} <= {*more.arrivals}


def test_copies_stay_near_and_do_not_come_at_one_instant() -> None:
    one = Trace("one", [Arrival(50.0, 1, 1)], 100.0)
    times = [arrival.at for arrival in scaled(one, 200, spread=10).arrivals]
    assert all(45 <= at <= 55 for at in times)
    assert len(set(times)) == 200
    assert min(times) < 46
    assert max(times) > 54
    edge = [arrival.at for arrival in scaled(Trace("edge", [Arrival(0.0, 1, 1)], 100.0), 200).arrivals]
    assert edge.count(0.0) == 1  # reflected at the start, not heaped on it


def test_cutting() -> None:
    part = cut(EVEN, 100, 200)
    assert [arrival.at for arrival in part.arrivals] == [float(at) for at in range(100)]
    assert part.arrivals[0].prompt == 110
    assert part.seconds == 100


REFUSED = [
    (lambda: scaled(EVEN, 0), "cannot be scaled by 0"),
    (lambda: scaled(EVEN, -1), "cannot be scaled by -1"),
    (lambda: scaled(EVEN, float("nan")), "cannot be scaled by nan"),
    (lambda: scaled(EVEN, 10_001), "10000000 requests are the most"),
    (lambda: scaled(EVEN, 2, spread=-1), "a spread of -1 s"),
    (lambda: cut(EVEN, 10, 10), "cannot be cut from 10 to 10 s; it goes from 0 to 1000 s"),
    (lambda: cut(EVEN, -1, 10), "cannot be cut"),
    (lambda: cut(EVEN, 0, 1001), "cannot be cut"),
]


@pytest.mark.parametrize(("act", "error"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_cannot_be_done_to_a_trace(act: object, error: str) -> None:
    assert callable(act)
    with pytest.raises(TraceError, match=r"^trace even: ") as caught:
        act()
    assert error in str(caught.value)
