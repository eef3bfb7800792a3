"""A trace as CSV: text read into requests, and requests written as text.

May not be in here: I/O and bytes (traces_packed.py), what is done to a trace (traces.py).
"""

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from scaler.core.written import quoted
from scaler.simulate.model import Arrival, Trace
from scaler.simulate.traces import LONGEST, MILLISECONDS, MOST_ROWS, MOST_TOKENS, TraceError

#: A time of the first row that is a number from here on is Unix time (2000-01-01), below it seconds from the start.
UNIX_TIME = 946_684_800.0


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
            cells = ", ".join(_cell(cell) for cell in header[:8]) + (", ..." if len(header) > 8 else "")
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
        f"{column} {_cell(text)} is not a whole number from {least} to {most}; correct the row, or drop it"
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
        raise _BadRow(f"{column} {_cell(first)} is no Unix time in seconds (milliseconds?); divide the column")
    origin = start if start >= UNIX_TIME else 0.0

    def seconds(text: str) -> float:
        number = _number(text)
        if number is None:
            raise _BadRow(f"{column} {_cell(text)} is no number as in the rows before it; correct or drop it")
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
            f"{column} {_cell(text)} is no time; write 2023-11-16T18:15:46.68Z, Unix seconds or seconds from the start"
        ) from None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _disorder(text: str, column: str, at: float, last: float, place: int) -> str:
    if at < last and last > 0:
        return (
            f"{column} {_cell(text)} is before the row above it; sort the rows by time, "
            f"as `sort -t, -k{place},{place}` does (-g for numbers), the header left out"
        )
    if at < 0:
        return f"{column} {_cell(text)} is before the start; count from 0, and sort the rows by time"
    return f"{column} {_cell(text)} is {at / 86400:.0f} days after the start, 366 are the most; correct or drop it"


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _cell(text: str) -> str:
    return quoted(text, 40)
