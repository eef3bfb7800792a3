"""The scenarios in which policies are compared, and what is wanted in each.

May not be in here: any run.
"""

import lzma
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scaler.simulate import clairvoyant, traces, traces_csv
from scaler.simulate.model import Run, Scenario, Trace
from scaler.simulate.profiles import profile

TRACES = Path(__file__).parent / "traces"
SCALE, SPREAD, SEED, MAXIMUM = 8, 10.0, 1, 100


class Place(NamedTuple):
    """One scenario of the comparison."""

    trace: str  # a key of MARKS
    profile: str
    cold_start: float

    @property
    def name(self) -> str:
        return f"{self.trace} {self.profile} {self.cold_start:g} s"


#: Trace -> its file, and the attainment that is wanted. Code comes in bursts that last less than any cold start.
FILES = {"conversation": "azure-2023-conv", "code": "azure-2023-code"}
MARKS = {"conversation": 0.99, "code": 0.85}
PLACES = tuple(
    Place(trace, gpu, cold_start)
    for cold_start in (180.0, 60.0, 420.0)
    for gpu in ("8b-a100", "8b-l40s")
    for trace in MARKS
)


@cache
def load(trace: str) -> Trace:
    text = lzma.decompress((TRACES / f"{FILES[trace]}.csv.xz").read_bytes()).decode()
    return traces.scaled(traces_csv.parse(text, trace), SCALE, SPREAD, SEED)


def scenario(place: Place) -> Scenario:
    made = Scenario(load(place.trace), profile(place.profile), maximum=MAXIMUM, cold_start=place.cold_start)
    return made._replace(start=clairvoyant.start(made))


def missed(played: Run) -> int:
    target = played.scenario.ttft_target
    return sum(one.first_token is None or one.first_token - one.arrived > target for one in played.requests)
