"""scaler.simulate.faults: one row a rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.faults import KINDS, FaultError, parse
from scaler.simulate.model import Fault

GOOD = [
    ("lost@600:replica=2", Fault(600, "lost", 2)),
    ("lost@10m", Fault(600, "lost")),
    ("throttled@600:replica=1,factor=4,for=20m", Fault(600, "throttled", 1, 4.0, 1200)),
    ("throttled@1m30s:factor=1.5", Fault(90, "throttled", 0, 1.5)),
    ("wedged@900", Fault(900, "wedged", 0, 1.0, math.inf)),
    ("wedged@0: replica = 3 , for = 1h", Fault(0, "wedged", 3, 1.0, 3600)),
    ("blind@600:for=5m", Fault(600, "blind", seconds=300)),
    (" unschedulable@1.5:for=500ms ", Fault(1.5, "unschedulable", seconds=0.5)),
]


@pytest.mark.parametrize(("text", "fault"), GOOD, ids=[row[0] for row in GOOD])
def test_a_good_fault_is_read(text: str, fault: Fault) -> None:
    # The end of a text may be blank, as a list in a shell leaves it.
    assert parse(text.rstrip()) == fault


BAD = [
    ("", "has no time; write KIND@TIME"),
    ("lost", "has no time; write KIND@TIME"),
    ("lots@600", "kind 'lots' is unknown; did you mean lost? kinds: throttled, lost"),
    ("@600", "kind '' is unknown; kinds:"),
    ("lost@", "time '' is not within a year"),
    ("lost@soon", "time 'soon' is not within a year"),
    ("lost@-5", "time '-5' is not within a year"),
    ("lost@nan", "time 'nan' is not within a year"),
    ("lost@99999999", "time '99999999' is not within a year"),
    ("lost@600:pod=2", "key 'pod' is none of this kind's (replica)"),
    ("lost@600:for=5m", "key 'for' is none of this kind's (replica)"),
    ("blind@600:replica=1,for=5m", "key 'replica' is none of this kind's (for)"),
    ("lost@600:replica=1,replica=2", "key replica is there twice"),
    ("lost@600:replica=", "replica '' is not a whole number from 0"),
    ("lost@600:replica=1.5", "replica '1.5' is not a whole number"),
    ("lost@600:replica=-1", "replica '-1' is not a whole number"),
    ("lost@600:replica=1,", "key '' is none"),
    ("throttled@600", "key factor is missing; add it, for example throttled@600:replica=1,factor=4,for=20m"),
    ("throttled@600:factor=1", "factor '1' is not a number above 1"),
    ("throttled@600:factor=x", "factor 'x' is not a number above 1"),
    ("throttled@600:factor=2000", "factor '2000' is not a number above 1 and up to 1000"),
    ("blind@600", "key for is missing"),
    ("blind@600:for=5", "for '5' is not a duration"),
    ("blind@600:for=0s", "for '0s' is not a duration"),
    ("blind@600:for=5m:for=6m", "for '5m:for=6m' is not a duration"),
    ("unschedulable@600", "key for is missing"),
]


@pytest.mark.parametrize(("text", "error"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_fault_is_refused_in_one_line(text: str, error: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse(text)
    assert error in str(caught.value)
    assert str(caught.value).startswith("fault ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_every_example_is_a_fault_of_its_kind(name: str) -> None:
    assert parse(KINDS[name].example).kind == name


@given(st.text(alphabet="lostblindwedged@:=,.0123456789msh \n\x00é", max_size=60))
def test_any_text_is_a_fault_or_a_fault_error(text: str) -> None:
    fault, refusal = None, ""
    try:
        fault = parse(text)
    except FaultError as error:
        refusal = str(error)
    assert refusal.isascii()
    assert "\n" not in refusal
    assert fault is None or (fault.kind in KINDS and math.isfinite(fault.at) and fault.seconds > 0)
