"""scaler.core.written: one row a rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.written import bare, duration, near, number, quoted, seconds

NAN = math.nan
#: (text, as a number, as a duration, as seconds); NaN: it is none.
TEXTS = [
    ("15", 15, NAN, 15),
    ("0", 0, NAN, 0),
    ("1.5", 1.5, NAN, 1.5),
    ("15s", NAN, 15, 15),
    ("1m30s", NAN, 90, 90),
    ("1.5h", NAN, 5400, 5400),
    ("500ms", NAN, 0.5, 0.5),
    ("1m1m", NAN, 120, 120),
    ("0s", NAN, 0, 0),
    ("", NAN, NAN, NAN),
    ("s", NAN, NAN, NAN),
    ("-1", NAN, NAN, NAN),
    ("-1s", NAN, NAN, NAN),
    ("+1s", NAN, NAN, NAN),
    ("1 s", NAN, NAN, NAN),
    (" 1", NAN, NAN, NAN),
    ("1\n", NAN, NAN, NAN),
    ("1s\n", NAN, NAN, NAN),
    ("1d", NAN, NAN, NAN),
    ("1m30", NAN, NAN, NAN),
    ("1e3", NAN, NAN, NAN),
    ("1_0", NAN, NAN, NAN),
    ("nan", NAN, NAN, NAN),
    ("inf", NAN, NAN, NAN),
    (".5", NAN, NAN, NAN),
    ("5.", NAN, NAN, NAN),
    ("٥", NAN, NAN, NAN),
    ("٥s", NAN, NAN, NAN),
    ("1234567890", NAN, NAN, NAN),
]


@pytest.mark.parametrize(("text", "plain", "length", "either"), TEXTS, ids=[ascii(row[0]) for row in TEXTS])
def test_a_text_is_a_number_a_duration_or_neither(text: str, plain: float, length: float, either: float) -> None:
    for read, expected in ((number, plain), (duration, length), (seconds, either)):
        assert read(text) == pytest.approx(expected, nan_ok=True)


@given(st.text(max_size=300))
def test_any_text_is_quoted_in_one_short_line(text: str) -> None:
    for told in (quoted(text), bare(text)):
        assert told.isascii()
        assert told.isprintable()
    assert len(quoted(text)) <= 64 * 10 + 2  # \U0001f600 is ten
    assert quoted("x" * 65) == repr("x" * 61 + "...")


def test_a_word_that_is_near_is_named() -> None:
    assert near("Stedy", ("steady", "ramp")) == "did you mean steady? known: steady, ramp"
    assert near("x", ("steady", "ramp"), "kinds") == "kinds: steady, ramp"
