"""What bench.decisions measured, as it is kept: a line of JSON a row.

May not be in here: measuring, what a page says about it. Times are seconds.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct


class Played(Struct, frozen=True, tag="run", omit_defaults=True):
    """One policy at one knob in one scenario. Of a run that was given up: what it had come to by then, so it would have
    missed no fewer requests and used no fewer GPU-hours."""

    scenario: str
    policy: str
    knob: float | None
    requests: int  # of the whole trace
    missed: int  # no first token within the target after it came
    gpu_hours: float
    changes: int
    gave_up: float | None = None  # when

    @property
    def attainment(self) -> float:
        """Of a run that was given up: at most this."""
        return 1.0 - self.missed / self.requests


class Steady(Struct, frozen=True, tag="steady"):
    """A load that does not change: what our answer still does."""

    load: float  # requests/s
    changes: int
    hours: float  # in which they were counted
    attainment: float


class Faulty(Struct, frozen=True, tag="fault"):
    """One fault, and the same run without it."""

    fault: str
    attainment: float
    healthy: float
    most_extra: int  # replicas asked for at any tick, beyond those of the run without it
    extra_gpu_hours: float


class Blind(Struct, frozen=True, tag="blind"):
    """Minutes without readings in a burst, and the same run without them."""

    fault: str
    load: str
    downs: int  # changes to fewer replicas in these minutes
    again: float | None  # seconds after them until an answer is that of the other run; None: not by the end
    apart: float  # replicas, the most between the two runs' answers from one sync after them to the burst's end
    downs_after: int  # changes to fewer replicas from them to the burst's end, and those of the other run
    downs_seeing: int
    attainment: float
    seeing: float  # attainment of the other run


class Wall(Struct, frozen=True, tag="wall"):
    """What the simulator itself takes, on one core."""

    policy: str
    requests: int
    simulated: float
    wall: float
    cpu: float


class About(Struct, frozen=True, tag="about"):
    """When and where the rows of some names were measured."""

    names: tuple[str, ...]  # () is everything
    date: str
    version: str
    python: str
    machine: str


Row = Played | Steady | Faulty | Blind | Wall | About
Key = tuple[object, ...]


def key(row: Row) -> Key:
    """Two rows with the same measure the same; the later one counts."""
    match row:
        case Played():
            return "run", row.scenario, row.policy, -1.0 if row.knob is None else row.knob
        case Steady():
            return "steady", row.load
        case Faulty():
            return "fault", row.fault
        case Blind():
            return "blind", row.fault
        case Wall():
            return "wall", row.policy
        case About():
            return "about", row.names


def read(path: Path) -> dict[Key, Row]:
    """The rows of a file; none if there is no file. A last line that was cut off is passed over."""
    rows: dict[Key, Row] = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if line.endswith(b"\n"):
            row = msgspec.json.decode(line, type=Row)
            rows[key(row)] = row
    return rows


def append(path: Path, row: Row) -> None:
    """In one write: several processes do so at a time."""
    with path.open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(row) + b"\n")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Sorted, so that the same rows are the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in sorted(rows, key=key)))
