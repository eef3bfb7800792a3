"""bench.decisions: which runs a sweep makes and what is written about them. The rows are made up."""

import math
from pathlib import Path

import pytest

from bench import decisions, decisions_sweep, decisions_trials
from bench.decisions_places import MARKS, PLACES, Place
from bench.decisions_rows import About, Blind, Faulty, Played, Row, Steady, Wall, append, read, write
from bench.decisions_sweep import FIRST, RIVALS, Sweep, may_beat
from bench.decisions_table import page
from scaler.simulate import clairvoyant
from scaler.simulate.compare import BOUND, OWN, STATIC, Task
from scaler.simulate.model import Arrival, Phases, Profile, Scenario, Trace
from scaler.simulate.peers import PEERS

PLACE = Place("conversation", "8b-a100", 180.0)


def row(policy: str, knob: float | None, missed: int, hours: float, gave_up: float | None = None) -> Played:
    return Played(PLACE.name, policy, knob, 1000, missed, hours, 4, gave_up)


OURS = row(OWN, None, 8, 12.0)


def cells(text: str, start: str) -> list[str]:
    """Of the first row of a table that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


COMPARED: list[tuple[list[Row], str]] = [
    # Ratios are over the cheapest that reaches the mark, whatever attains more; static is no peer.
    (
        [
            OURS,
            row(BOUND, 1.1, 10, 10.0),
            row(BOUND, 1.0, 0, 11.0),
            row(BOUND, 1.2, 11, 9.0),
            row(STATIC, 11.0, 9, 10.5),
            row("keda-waiting", 2.0, 2, 16.0),
            row("kaito", 5.0, 10, 15.0),
            row("kaito", 8.0, 11, 8.0),
        ],
        "99.20 %, 12.00 | 99.00 %, 10.00 | 11 replicas: 99.10 %, 10.50 | kaito at 5: 99.00 %, 15.00 | "
        "1.20 | 0.80 | 1.14 | none",
    ),
    # One that was given up is none that reaches it; whoever has as many in time for less dominates.
    (
        [OURS, row("kaito", 5.0, 0, 9.0, gave_up=600.0), row("keda-waiting", 2.0, 8, 11.9)],
        "99.20 %, 12.00 | none reaches it | none reaches it | keda-waiting at 2: 99.20 %, 11.90 | "
        "| 1.01 | | kaito at 5 (perhaps); keda-waiting at 2",
    ),
    # The same figures do not dominate.
    (
        [OURS, row("kaito", 5.0, 8, 12.0)],
        "99.20 %, 12.00 | none reaches it | none reaches it | kaito at 5: 99.20 %, 12.00 | | 1.00 | | none",
    ),
    (
        [row(OWN, None, 11, 7.0), row("kaito", 5.0, 9, 10.0)],
        "98.90 %, 7.00 (below the mark) | none reaches it | none reaches it | kaito at 5: 99.10 %, 10.00 | "
        "| 0.70 | | none",
    ),
    (
        [row("kaito", 5.0, 9, 10.0)],
        "not measured | none reaches it | none reaches it | kaito at 5: 99.10 %, 10.00 | | | |",
    ),
]


@pytest.mark.parametrize(("rows", "expected"), COMPARED)
def test_a_scenarios_row(rows: list[Row], expected: str) -> None:
    found = cells(page(rows), "conversation")
    assert found == ["conversation", "A100", "180 s", *(cell.strip() for cell in expected.split("|"))]


#: Ours (missed, GPU-h) -> what is said of the four goals, with a clairvoyant at 10 GPU-h and a best peer at 15.
GOALS = [
    ((8, 12.0), ["1 of 1"] * 4),
    ((8, 12.01), ["1 of 1", "1 of 1", "0 of 1", "1 of 1"]),
    ((8, 13.01), ["1 of 1", "0 of 1", "0 of 1", "1 of 1"]),
    ((8, 16.0), ["1 of 1", "0 of 1", "0 of 1", "0 of 1"]),
    ((11, 9.0), ["0 of 1", "0 of 1", "0 of 1", "1 of 1"]),
]


@pytest.mark.parametrize(("ours", "expected"), GOALS)
def test_whether_a_goal_is_reached_is_taken_from_the_rows(ours: tuple[int, float], expected: list[str]) -> None:
    text = page([row(OWN, None, *ours), row(BOUND, 1.1, 10, 10.0), row("kaito", 5.0, 8, 15.0)])
    lines = text[text.index("| goal |") :].splitlines()[2:6]
    assert [line.split("|")[2].strip() for line in lines] == expected
    assert all((PLACE.name in line) == ("0 of 1" in line) for line in lines)


#: A peer's rows -> what its line says.
PEERS_BEST = [
    ([row("kaito", 5.0, 10, 15.0), row("kaito", 2.0, 1, 14.0), row("kaito", 1.0, 11, 9.0)], "2: 99.90 %, 14.00"),
    (
        [row("kaito", 5.0, 30, 15.0), row("kaito", 2.0, 13, 14.0), row("kaito", 1.0, 13, 9.0)],
        "none reaches it; best seen 98.70 % at 9.00 GPU-h (1)",
    ),
    (
        [row("kaito", 5.0, 21, 3.0, gave_up=100.0), row("kaito", 2.0, 22, 4.0, gave_up=90.0)],
        "none reaches it; all were given up, with 97.90 % or less",
    ),
    (
        [row("kaito", 5.0, 0, 9.0, gave_up=100.0), row("kaito", 2.0, 22, 4.0, gave_up=90.0)],
        "none reaches it with less than 9.00 GPU-h; all were given up",
    ),
    (
        [
            row("kaito", 5.0, 1, 30.0, gave_up=100.0),
            row("kaito", 2.0, 15, 4.0),
            row("kaito", 1.0, 21, 1.0, gave_up=9.0),
        ],
        "none reaches it with less than 30.00 GPU-h; best seen 98.50 % at 4.00 GPU-h (2)",
    ),
]


@pytest.mark.parametrize(("rows", "expected"), PEERS_BEST)
def test_a_peers_best(rows: list[Row], expected: str) -> None:
    assert cells(page(rows), "kaito") == ["kaito", "threshold", expected, str(len(rows))]


def test_a_page_has_the_other_trials_and_where_it_was_measured() -> None:
    rows: list[Row] = [
        OURS,
        Steady(2.0, 3, 2.0, 0.998),
        Faulty("lost@20m", 0.98, 0.99, 2, 0.25),
        Blind("blind@1m:for=5m", "bursts", 0, 20.0, 2.0, 3, 1, 0.9, 0.95),
        Wall(STATIC, 1000, 3600.0, 12.34, 12.0),
        About((), "2026-01-02", "1.0", "3.11.4", "a machine, 2 cores"),
        About((*RIVALS, STATIC), "2026-01-01", "1.0", "3.11.4", "a machine, 2 cores"),
    ]
    text = page(rows)
    assert cells(text, "2") == ["2", "1.5", "99.80 %"]
    assert cells(text, "`lost@20m`") == ["`lost@20m`", "98.00 %", "99.00 %", "-1.00", "2", "+0.25"]
    assert cells(text, "bursts") == ["bursts", "`blind@1m:for=5m`", "0", "20 s", "2", "3 (1)", "90.00 %", "95.00 %"]
    assert cells(text, "20 replicas, fixed") == ["20 replicas, fixed", "1,000", "12.3", "12.0"]
    assert "- Measured on 2026-01-02, plimsoll 1.0, Python 3.11.4, a machine, 2 cores: everything." in text
    assert "2 cores: all peers, static." in text


#: Another's (missed, GPU-h, given up) -> whether it beats, or may have beaten, one that missed 8 with 12 GPU-h.
BEATS = [
    (8, 12.0, None, False),
    (7, 12.0, None, True),
    (8, 11.9, None, True),
    (9, 1.0, None, False),
    (0, 12.1, None, False),
    (8, 12.0, 60.0, True),
    (9, 1.0, 60.0, False),
    (0, 12.1, 60.0, False),
]


@pytest.mark.parametrize(("missed", "hours", "gave_up", "expected"), BEATS)
def test_may_beat(missed: int, hours: float, gave_up: float | None, expected: bool) -> None:
    assert may_beat(row("kaito", 1.0, missed, hours, gave_up), OURS) is expected


def test_rows_are_kept_as_they_were_and_the_later_of_two_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    about = About(("kaito",), "2026-01-01", "1.0", "3.11", "a machine")
    write(path, [OURS, about, row("kaito", 5.0, 3, 9.0, 60.0)])
    append(path, row("kaito", 5.0, 2, 10.0))
    append(path, Steady(2.0, 3, 2.0, 0.998))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"run","scen')  # interrupted while it was written
    kept = read(path)
    assert sorted(map(repr, kept.values())) == sorted(
        map(repr, [OURS, about, row("kaito", 5.0, 2, 10.0), Steady(2.0, 3, 2.0, 0.998)])
    )
    write(path, kept.values())
    again = path.read_bytes()
    write(path, reversed(read(path).values()))
    assert path.read_bytes() == again


@pytest.mark.parametrize(
    ("of", "names", "expected"),
    [
        (OURS, {OWN}, True),
        (OURS, {"kaito", "steady"}, False),
        (Steady(2.0, 3, 2.0, 0.99), {"steady"}, True),
        (Wall(STATIC, 1, 1.0, 1.0, 1.0), {STATIC}, False),
        (About((OWN,), "", "", "", ""), {OWN}, False),
    ],
)
def test_which_rows_a_name_measures(of: Row, names: set[str], expected: bool) -> None:
    assert decisions.is_of(of, names) is expected


def test_an_unknown_name_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert decisions.main(["plimsol"]) == 2
    assert "nothing is called plimsol; there are peers, page, keda-in-flight" in capsys.readouterr().out


def test_the_page_is_written_from_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROOT", "KEPT", "PAGE"):
        monkeypatch.setattr(decisions, name, tmp_path / name if name != "ROOT" else tmp_path)
    write(decisions.KEPT, [OURS])
    before = decisions.KEPT.read_bytes()
    assert decisions.main(["page"]) == 0
    assert decisions.PAGE.read_text() == page([OURS])
    assert decisions.KEPT.read_bytes() == before


def test_every_trial_is_of_a_name_and_every_scenario_has_a_mark() -> None:
    assert {*decisions_trials.SIDE_BY_SIDE, decisions_trials.ALONE} == set(decisions_trials.TRIALS)
    assert set(decisions_trials.NAME_OF.values()) == set(decisions_trials.TRIALS)
    assert len(set(PLACES)) == 12
    assert all(place.trace in MARKS for place in PLACES)


#: A replica does one request in 0.5 s at a time.
SLOW = Profile("slow", "", "", 0.5, 0.0, 0.0, 0.0, 0.0, 1 << 20, max_num_seqs=1, cold_start=Phases(0.0, 0.0, 20.0, 0.0))
CALM = [Arrival(0.31 * number, 10, 1) for number in range(1900)]
RUSH = [Arrival(200.0 + 0.4 * number, 10, 1) for number in range(500)]
SMALL = Scenario(Trace("small", sorted(CALM + RUSH), 590.0), SLOW, start=2, maximum=40)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of seconds, and few peers."""
    monkeypatch.setattr(decisions_sweep, "scenario", lambda _: SMALL._replace(start=clairvoyant.start(SMALL)))
    monkeypatch.setattr(decisions_sweep, "RIVALS", (FIRST, "keda-waiting"))


def swept(known: list[Played]) -> tuple[Sweep, list[Played]]:
    noted: list[Played] = []
    sweep = Sweep(Place("code", "8b-a100", 180.0), known, noted.append)
    sweep.rivals((FIRST, "keda-waiting"))
    sweep.static()
    sweep.bound()
    sweep.own()
    return sweep, noted


@pytest.mark.usefixtures("sweeps")
def test_a_sweep_is_given_up_where_it_cannot_matter_and_goes_on_where_it_was_interrupted() -> None:
    sweep, noted = swept([])
    mark, requests = MARKS["code"], len(SMALL.trace.arrivals)
    assert {each.policy for each in noted} == {FIRST, "keda-waiting", STATIC, BOUND, OWN}
    assert all(knob in {each.knob for each in noted if each.policy == FIRST} for knob in PEERS[FIRST].sweep)
    best = sweep.best(FIRST, "keda-waiting")
    assert best is not None
    gave_up = [each for each in noted if each.gave_up is not None and each.policy in (FIRST, "keda-waiting")]
    assert gave_up
    for each in gave_up:
        assert each.missed > 2 * (1 - mark) * requests or each.gpu_hours > best.gpu_hours
    # The smallest size that reaches it, its neighbours played too.
    size = sweep.best(STATIC)
    assert size is not None
    assert size.knob is not None
    assert sweep.rows[STATIC, size.knob - 1].attainment < mark
    assert sweep.rows[STATIC, size.knob + 1].attainment >= mark
    # The bisection got nearer than the sweep's own steps.
    sides = sorted(knob for policy, knob in sweep.rows if policy == best.policy and knob is not None)
    place = sides.index(best.knob or 0.0)
    assert all(math.log2(sides[near] / (best.knob or 1.0)) ** 2 < 0.3 for near in (place - 1, place + 1))
    # Interrupted anywhere, it comes to the same rows, and plays none of those that are known.
    for done in (1, len(noted) // 2, len(noted)):
        resumed, rest = swept(noted[:done])
        assert resumed.rows == sweep.rows
        assert [*noted[:done], *rest] == noted


@pytest.mark.usefixtures("sweeps")
def test_peers_that_may_yet_beat_ours_are_played_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = Played("code 8b-a100 180 s", FIRST, 2.0, len(SMALL.trace.arrivals), 0, 0.001, 1, 5.0)
    played: list[Task] = []
    sweep = Sweep(Place("code", "8b-a100", 180.0), [given_up], lambda each: played.append(Task(each.policy, each.knob)))
    sweep.own()
    assert played == [Task(OWN), Task(FIRST, 2.0)]
    assert not may_beat(sweep.rows[FIRST, 2.0], sweep.rows[OWN, None]) or sweep.rows[FIRST, 2.0].gave_up is None


# One setting in all scenarios.


def everywhere(policy: str, knob: float | None, missed: int, hours: float, gave_up: float | None = None) -> list[Row]:
    return [Played(place.name, policy, knob, 1000, missed, hours, 4, gave_up) for place in PLACES]


def test_one_setting_for_all() -> None:
    """Most marks first, then the cheapest; dear ones count as having reached theirs, late ones not."""
    rows = [
        *everywhere(OWN, None, 8, 10.0),
        *everywhere("kaito", 5.0, 10, 20.0),
        *everywhere("ray-serve", 2.0, 0, 16.0, gave_up=600.0),
        *everywhere("knative", 9.0, 100, 5.0),
        *everywhere("wva-v1", 1.0, 200, 5.0, gave_up=600.0),
        row("aibrix-apa", 1.0, 0, 1.0),  # in one scenario only
    ]
    made = page(rows)
    assert "aibrix-apa at" not in made.split("## One setting for all")[1].split("##")[0]
    table = made.split("## One setting for all")[1]
    assert cells(table, OWN) == [OWN, "", "12 of 12", "120.0", ""]
    assert cells(table, "ray-serve") == ["ray-serve", "2", "12 of 12", "at least 192.0", "at most 0.62"]
    assert cells(table, "kaito") == ["kaito", "5", "12 of 12", "240.0", "0.50"]
    assert cells(table, "knative") == ["knative", "9", "6 of 12", "60.0", "2.00"]
    assert cells(table, "wva-v1")[2] == "0 of 12"
    assert "is ray-serve at 2: plimsoll takes 0.62 of its GPU-hours or less, and reaches 12 of 12." in table


def test_one_setting_is_not_told_while_ours_is_not_measured_everywhere() -> None:
    assert "One setting" not in page([OURS, *everywhere("kaito", 5.0, 10, 20.0)])
