"""A trace of requests: read from CSV and written, more or less of it, a part of it.

May not be in here: I/O (what is read arrives as text or bytes), load that is made up (generators.py) or rebuilt from
what a fleet showed (history.py).
"""

import csv
import io
import itertools
import lzma
import math
import random
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from scaler.simulate.model import Arrival, Trace

MOST_ROWS = 10_000_000
MOST_TOKENS = 10_000_000
MOST_BYTES = 256 << 20  # of text: about MOST_ROWS rows
LONGEST = 366 * 86400.0  # s
MOST_MEMORY = 128 << 20  # of a decompressor
#: A time of the first row that is a number from here on is Unix time (2000-01-01), below it seconds from the start;
#: from MILLISECONDS on it is Unix time in milliseconds, which is refused.
UNIX_TIME = 946_684_800.0
MILLISECONDS = 1e11


class TraceError(Exception):
    """A trace that cannot be had. str() is one line: place, cause, fix."""


class Column(NamedTuple):
    """What a column may be called: case, blanks, "_" and "-" do not count."""

    field: str
    about: str
    needed: bool
    names: tuple[str, ...]


#: Names in the Azure LLM inference traces 2023 and 2024 (Azure/AzurePublicDataset), BurstGPT (HPMLL/BurstGPT), Vidur
#: (microsoft/vidur), Mooncake (kvcache-ai/Mooncake), and this program's own.
COLUMNS = (
    Column("at", "the time", True, ("TIMESTAMP", "at", "time", "arrived_at")),
    Column(
        "prompt",
        "the prompt's tokens",
        True,
        ("ContextTokens", "prompt_tokens", "Request tokens", "num_prefill_tokens", "input_length", "input_tokens"),
    ),
    Column(
        "output",
        "the output's tokens",
        True,
        (
            "GeneratedTokens",
            "output_tokens",
            "Response tokens",
            "num_decode_tokens",
            "output_length",
            "completion_tokens",
        ),
    ),
    Column("cached", "the prompt's tokens that the prefix cache has", False, ("cached_tokens", "num_cached_tokens")),
)


def parse(text: str, name: str) -> Trace:
    """The trace that CSV text holds; its first row names the columns (COLUMNS), others are passed over.

    Times are ISO 8601 (RFC 3339 with a zone; UTC without), Unix seconds, or seconds from the start: a number below
    UNIX_TIME in the first row. Those are kept as they are, the others become seconds from the first row. The trace
    ends with the second of its last request. `name`: the file's, for errors. Raises TraceError; a row is counted as
    an editor counts its line.
    """
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), skipinitialspace=True)
    try:
        arrivals = _arrivals(rows, _columns(rows, name))
    except _BadRow as error:
        raise TraceError(f"file {name}, row {rows.line_num}: {error}") from None
    except csv.Error as error:
        raise TraceError(f"file {name}, row {rows.line_num}: no CSV ({error}); save it as CSV again") from None
    if not arrivals:
        raise TraceError(f"file {name}: has a header and no request; add a row for each request")
    return Trace(name, arrivals, math.floor(arrivals[-1].at) + 1.0)


def render(trace: Trace) -> str:
    """CSV that parse() reads back to the same arrivals; times are seconds from the start."""
    cached = any(arrival.cached for arrival in trace.arrivals)
    lines = ["at,prompt_tokens,output_tokens" + (",cached_tokens" if cached else "")]
    lines += [
        f"{arrival.at!r},{arrival.prompt},{arrival.output}" + (f",{arrival.cached}" if cached else "")
        for arrival in trace.arrivals
    ]
    return "\n".join(lines) + "\n"


def decompressed(data: bytes, name: str) -> str:
    """The text in bytes, which may be xz or gzip (their first bytes tell).

    Raises TraceError: it is cut off or damaged, is no UTF-8, or comes to more than MOST_BYTES.
    """
    try:
        if data.startswith(b"\xfd7zXZ\x00"):
            data = _inflated(data, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY))
        elif data.startswith(b"\x1f\x8b"):
            data = _inflated(data, lambda: zlib.decompressobj(wbits=31))
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise TraceError(f"file {name}: is damaged ({error}); fetch or compress it again") from None
    if len(data) > MOST_BYTES:
        raise TraceError(f"file {name}: holds more than {MOST_BYTES >> 20} MiB of text; cut it into parts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"file {name}: byte {error.start} is no UTF-8; save it as UTF-8") from None


def scaled(trace: Trace, factor: float, spread: float = 10.0, seed: int = 0) -> Trace:
    """`factor` times the requests: each so often as its whole part says, and once more with the chance of the rest.

    The first stays where it is; copies are spread evenly over `spread` seconds around it, which keeps bursts and does
    not send one request many times at once. What would leave the trace is reflected at its ends. Raises TraceError.
    """
    if not 0 < factor <= MOST_ROWS or len(trace.arrivals) * factor > MOST_ROWS:
        raise TraceError(
            f"trace {trace.name}: cannot be scaled by {factor:g}; a factor is above 0, "
            f"and {MOST_ROWS} requests are the most"
        )
    if not 0 <= spread <= LONGEST:
        raise TraceError(f"trace {trace.name}: a spread of {spread:g} s is none; write 0 or more seconds, such as 10")
    chance = random.Random(seed)  # noqa: S311 -- a workload, not a secret
    part, whole = math.modf(factor)
    arrivals = []
    for arrival in trace.arrivals:
        copies = int(whole) + (chance.random() < part)
        if copies:
            arrivals.append(arrival)
        for _ in range(copies - 1):
            at = arrival.at + (chance.random() - 0.5) * spread
            arrivals.append(arrival._replace(at=_within(at, trace.seconds)))
    arrivals.sort(key=lambda arrival: arrival.at)
    return Trace(f"{trace.name} x{factor:g}", arrivals, trace.seconds)


def cut(trace: Trace, begin: float, end: float) -> Trace:
    """The requests from `begin` to before `end` seconds, counted from `begin`. Raises TraceError."""
    if not 0 <= begin < end <= trace.seconds:
        raise TraceError(
            f"trace {trace.name}: cannot be cut from {begin:g} to {end:g} s; it goes from 0 to {trace.seconds:g} s"
        )
    first, after = (bisect_left(trace.arrivals, at, key=lambda arrival: arrival.at) for at in (begin, end))
    arrivals = [arrival._replace(at=arrival.at - begin) for arrival in trace.arrivals[first:after]]
    return Trace(f"{trace.name} {begin:g}-{end:g}s", arrivals, end - begin)


def stretched(trace: Trace, factor: float) -> Trace:
    """The same requests in `factor` times the time. Raises TraceError."""
    if not 0 < factor * trace.seconds <= LONGEST:
        raise TraceError(
            f"trace {trace.name}: cannot be stretched by {factor:g}; a factor is above 0, "
            f"and {LONGEST / 86400:g} days are the longest"
        )
    arrivals = [arrival._replace(at=arrival.at * factor) for arrival in trace.arrivals]
    return Trace(f"{trace.name} stretched {factor:g}", arrivals, trace.seconds * factor)


class _BadRow(Exception):
    """What is wrong with the row that was read last, and the fix."""


def _columns(rows: Iterator[list[str]], name: str) -> Mapping[str, tuple[int, str]]:
    """Field -> (index, name) of its column. Raises TraceError."""
    header = next((row for row in rows if any(cell.strip() for cell in row)), None)
    if header is None:
        raise TraceError(f"file {name}: is empty; give it a header and a row for each request")
    found = {}
    for column in COLUMNS:
        known = {_folded(alias) for alias in column.names}
        places = [index for index, cell in enumerate(header) if _folded(cell) in known]
        if len(places) > 1:
            named = " and ".join(header[index].strip() for index in places)
            raise TraceError(f"file {name}, header: {named} both mean {column.about}; drop one of them")
        if not places and column.needed:
            cells = ", ".join(_quoted(cell) for cell in header[:8]) + (", ..." if len(header) > 8 else "")
            raise TraceError(
                f"file {name}, header: no column for {column.about}; found {cells}; "
                f"name it {' or '.join(column.names)}, and separate columns by commas"
            )
        if places:
            found[column.field] = (places[0], header[places[0]].strip())
    return found


def _arrivals(rows: Iterator[list[str]], columns: Mapping[str, tuple[int, str]]) -> list[Arrival]:
    (time, time_name), (prompt, prompt_name) = columns["at"], columns["prompt"]
    (output, output_name), (cached, cached_name) = columns["output"], columns.get("cached", (-1, ""))
    width = 1 + max(index for index, _ in columns.values())
    arrivals: list[Arrival] = []
    seconds: Callable[[str], float] | None = None
    last = 0.0
    for row in itertools.islice(rows, MOST_ROWS):
        if len(row) < width:
            if not any(cell.strip() for cell in row):
                continue  # a blank line
            raise _BadRow(f"has {len(row)} columns where the header has {width} or more; complete or drop it")
        if seconds is None:
            seconds = _clock(row[time], time_name)
        at = seconds(row[time])
        if not last <= at <= LONGEST:
            raise _BadRow(_disorder(row[time], time_name, at, last, time + 1))
        last = at
        tokens = _tokens(row[prompt], prompt_name)
        have = _tokens(row[cached], cached_name, 0, tokens) if cached >= 0 else 0
        arrivals.append(Arrival(at, tokens, _tokens(row[output], output_name), have))
    if any(rows):
        raise _BadRow(f"is beyond {MOST_ROWS} rows, which are the most; cut the file into parts")
    return arrivals


def _tokens(text: str, column: str, least: int = 1, most: int = MOST_TOKENS) -> int:
    # Not int() alone: it takes "1_0" and the digits of any script. Some programs write 374.0.
    plain = text if text.isascii() and text.isdigit() and len(text) < 9 else _whole(text)
    if plain and least <= (number := int(plain)) <= most:
        return number
    raise _BadRow(
        f"{column} {_quoted(text)} is not a whole number from {least} to {most}; correct the row, or drop it"
        + (" if its request failed" if plain else "")
    )


def _whole(text: str) -> str:
    match = re.fullmatch(r"\s*([0-9]{1,8})(?:\.0*)?\s*", text, re.ASCII)
    return match[1] if match else ""


def _clock(first: str, column: str) -> Callable[[str], float]:
    """What turns the times of a column into seconds, by the form of the first. Both raise _BadRow."""
    start = _number(first)
    if start is None:
        return _calendar(first, column)
    if start >= MILLISECONDS:
        raise _BadRow(f"{column} {_quoted(first)} is Unix time in milliseconds, or less; divide the column to seconds")
    origin = start if start >= UNIX_TIME else 0.0

    def seconds(text: str) -> float:
        number = _number(text)
        if number is None:
            raise _BadRow(f"{column} {_quoted(text)} is no number as in the rows before it; correct or drop it")
        return number - origin

    return seconds


def _calendar(first: str, column: str) -> Callable[[str], float]:
    base = _moment(first, column)

    def seconds(text: str) -> float:
        try:
            return (datetime.fromisoformat(text) - base).total_seconds()
        except (ValueError, TypeError):  # TypeError: one of the two is without a zone
            return (_utc(_moment(text, column)) - _utc(base)).total_seconds()

    return seconds


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and text.isascii() and "_" not in text else None


def _moment(text: str, column: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())  # cuts the fraction at microseconds
    except ValueError:
        raise _BadRow(
            f"{column} {_quoted(text)} is no time; "
            "write 2023-11-16T18:15:46.68Z, Unix seconds or seconds from the start"
        ) from None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _disorder(text: str, column: str, at: float, last: float, place: int) -> str:
    if at < last and last > 0:
        return (
            f"{column} {_quoted(text)} is before the row above it; sort the rows by time, "
            f"as `sort -t, -k{place},{place}` does (-g for numbers), the header left out"
        )
    if at < 0:
        return f"{column} {_quoted(text)} is before the start; count from 0, and sort the rows by time"
    return f"{column} {_quoted(text)} is {at / 86400:.0f} days after the start, 366 are the most; correct or drop it"


def _within(at: float, end: float) -> float:
    reflected = -at if at < 0 else 2 * end - at if at > end else at
    return min(max(reflected, 0.0), end)  # a spread longer than the trace


def _inflated(data: bytes, fresh: Callable[[], "lzma.LZMADecompressor | zlib._Decompress"]) -> bytes:
    """What all streams of the data hold, up to one byte more than MOST_BYTES."""
    parts: list[bytes] = []
    room = MOST_BYTES + 1
    while data and room > 0:
        stream = fresh()
        parts.append(stream.decompress(data, room))
        room -= len(parts[-1])
        if not stream.eof and room > 0:
            raise EOFError("it ends in the middle")
        data = stream.unused_data.lstrip(b"\x00")  # streams may be padded
    return b"".join(parts)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _quoted(text: str) -> str:
    """One printable line, whatever the file holds."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")
