"""Our decisions against a clairvoyant's and the peers', and what they do under steady load, faults and blindness.

    python -m bench.decisions [NAME...]

Measures what is named (a policy, "peers", or one of steady, faults, blind, wall), or everything, and writes
docs/decisions.md from all rows, old and new, that bench/decisions.jsonl then has. "page" measures nothing. New rows are
kept in build/ at once: the same command goes on where it was interrupted.

May not be in here: how a policy is swept (decisions_sweep.py), the other trials (decisions_trials.py), the page
(decisions_table.py).
"""

import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench import decisions_table, decisions_trials
from bench.decisions_places import PLACES, Place
from bench.decisions_rows import About, Key, Played, Row, append, read, write
from bench.decisions_sweep import RIVALS, Sweep
from scaler.simulate.compare import BOUND, OWN, STATIC

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "bench" / "decisions.jsonl", ROOT / "docs" / "decisions.md"
#: So that others on the machine can work.
NICENESS = 10
POLICIES = (*RIVALS, STATIC, BOUND, OWN)
NAMES = (*POLICIES, *decisions_trials.TRIALS)
PEERS_ALL, PAGE_ONLY = "peers", "page"


def is_of(row: Row, names: Collection[str]) -> bool:
    """Whether the row is measured by one of these names."""
    if isinstance(row, Played):
        return row.policy in names
    return not isinstance(row, About) and decisions_trials.NAME_OF[type(row)] in names


def sweep(path: Path, names: Collection[str], place: Place) -> None:
    """What these policies do in one scenario; what path has is not measured again."""
    known = [row for row in read(path).values() if isinstance(row, Played) and row.scenario == place.name]

    def note(row: Played) -> None:
        append(path, row)
        gave_up = "" if row.gave_up is None else f", given up at {row.gave_up:.0f} s"
        knob = "" if row.knob is None else f" {row.knob:g}"
        figures = f"{row.attainment:.2%} in time, {row.gpu_hours:.2f} GPU-h"
        print(f"{row.scenario}: {row.policy}{knob}: {figures}{gave_up}", flush=True)

    runs = Sweep(place, known, note)
    runs.rivals(names)
    if STATIC in names:
        runs.static()
    if BOUND in names:
        runs.bound()
    if OWN in names:
        runs.own()


def trial(path: Path, measure: Callable[[], Row]) -> None:
    row = measure()
    append(path, row)
    print(row, flush=True)


def measure(path: Path, names: Collection[str]) -> None:
    """Everything of these names that path does not have yet."""
    there = read(path)

    def missing(name: str) -> list[Callable[[], None]]:
        if name not in names:
            return []
        return [partial(trial, path, job) for place, job in decisions_trials.TRIALS[name] if place not in there]

    jobs: list[Callable[[], None]] = [job for name in decisions_trials.SIDE_BY_SIDE for job in missing(name)]
    if any(name in POLICIES for name in names):
        jobs = [*(partial(sweep, path, names, place) for place in PLACES), *jobs]
    with multiprocessing.Pool(len(os.sched_getaffinity(0)), os.nice, (NICENESS,)) as pool:
        for _ in pool.imap_unordered(_call, jobs):
            pass
    for job in missing(decisions_trials.ALONE):
        job()


def _call(job: Callable[[], None]) -> None:
    job()


def about(names: Collection[str]) -> About:
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    machine = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    told = () if set(names) == set(NAMES) else tuple(sorted(names))
    return About(told, f"{datetime.now(UTC):%Y-%m-%d}", version("plimsoll"), platform.python_version(), machine)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def main(told: list[str]) -> int:
    unknown = [name for name in told if name not in (*NAMES, PEERS_ALL, PAGE_ONLY)]
    if unknown:
        print(f"bench.decisions: nothing is called {unknown[0]}; there are {', '.join((PEERS_ALL, PAGE_ONLY, *NAMES))}")
        return 2
    rows = read(KEPT)
    if PAGE_ONLY not in told:
        asked = [name for each in told for name in (RIVALS if each == PEERS_ALL else (each,))]
        names = frozenset(asked or NAMES)
        path = ROOT / "build" / f"decisions-{'-'.join(told) or 'all'}.jsonl"
        if not path.exists():
            write(path, [row for row in rows.values() if not is_of(row, names)])
        measure(path, names)
        append(path, about(names))
        rows = _whole(read(path), told)
        write(KEPT, rows.values())
        path.unlink()
    PAGE.write_text(decisions_table.page(rows.values()))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def _whole(rows: dict[Key, Row], told: list[str]) -> dict[Key, Row]:
    """After a run of everything no older part stands for itself."""
    return rows if told else {at: row for at, row in rows.items() if not isinstance(row, About) or not row.names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
