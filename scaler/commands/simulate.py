"""`plimsoll simulate`: one scenario under our policy or a peer's, or under all of them.

May not be in here: what a scenario is (simulate/scenario.py), which runs are compared (simulate/compare.py), reports.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from scaler.commands import CommandError, files, jobs, listing, options
from scaler.core.record import line
from scaler.simulate import compare, report_html, report_json, report_text, wording
from scaler.simulate.comparison import Comparison, best
from scaler.simulate.model import Profile, Scenario, Trace
from scaler.simulate.option_values import whole
from scaler.simulate.product import setting
from scaler.simulate.recorder import Recorder
from scaler.simulate.scenario import (
    DEFAULT_LOAD,
    FLEET,
    LOAD,
    RESULT,
    Option,
    ScenarioError,
    generated,
    metadata,
    part,
    scenario,
    values,
)
from scaler.simulate.traces import TraceError
from scaler.simulate.traces_csv import parse
from scaler.simulate.traces_packed import decompressed

INPUTS, OUTPUTS = ("trace", "profiles"), ("html", "json", "record")
JOBS = Option("jobs", whole(1, 1024), str(jobs.processors()), "COUNT", "runs at a time")


def run(argv: Sequence[str]) -> int:
    """Returns the exit status. Raises CommandError."""
    chosen = vars(_parser().parse_args(argv))
    profiles = options.profiles(chosen["profiles"])
    if chosen["list"]:
        sys.stdout.write(listing.text(profiles))
        return 0
    try:
        given = values((*LOAD, *FLEET, *RESULT, JOBS), chosen)
        settings, target = metadata(chosen["set"], {"ttftTarget": f"{given['ttft']:g}s"}), given["attainment"]
        several = _several(chosen)
        names = compare.peers(chosen[several], f"--{several}") if several else ()
        task = compare.single(chosen["policy"])
        _agree(chosen, task)
        files.check(options.paths(chosen, OUTPUTS), options.paths(chosen, INPUTS))
        built = _scenario(chosen, given, profiles)
    except ScenarioError as error:
        raise CommandError(str(error)) from None
    if several:
        comparison = _compared(built, settings, names, target, given["jobs"], several == "sweep")
    elif chosen["record"] is not None:
        comparison = _recorded(built, settings, target, chosen["record"])
    else:
        played = jobs.play([task], built, settings, 1, [task.policy])
        comparison = _of(built, played, target)
    document = report_json.document(comparison) | {"settings": settings}
    files.write(chosen["json"], "--json", report_json.render(document))
    if chosen["html"] is not None:
        files.write(chosen["html"], "--html", report_html.page(comparison))
    sys.stdout.write(_told(comparison))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "simulate",
        "Plays a load on a simulated fleet under our policy, or compares it with others. Nothing is needed but this "
        "program: no GPU, no cluster, no network.",
    )
    load = parser.add_argument_group("load")
    load.add_argument("--trace", metavar="FILE", help="CSV, also as .gz or .xz: time, prompt and output tokens a row")
    load.add_argument("--generate", metavar="KIND[:NAME=VALUE,...]", help=f"a made load (default: {DEFAULT_LOAD})")
    options.add(parser, "part of the load", LOAD)
    options.add(parser, "fleet", FLEET)
    policies = parser.add_argument_group("policies")
    policies.add_argument(
        "--policy", default=compare.OWN, metavar="NAME[=KNOB]", help="which one decides (default: plimsoll)"
    )
    policies.add_argument(
        "--compare", nargs="?", const=compare.ALL, metavar="NAMES", help="ours and others at their defaults (all)"
    )
    policies.add_argument(
        "--sweep", nargs="?", const=compare.ALL, metavar="NAMES", help="ours and others at all settings of their knobs"
    )
    options.add_ours(parser)
    options.add(parser, "this machine", (JOBS,))
    parser.add_argument("--record", metavar="FILE.jsonl", help="our decisions, as plimsoll-scaler records them")
    parser.add_argument("--list", action="store_true", help="what can be chosen, with its sources")
    return parser


def _several(chosen: Mapping[str, object]) -> str:
    """The option that asks for several runs; "": none does."""
    return next((name for name in ("compare", "sweep") if chosen[name] is not None), "")


def _agree(chosen: Mapping[str, object], task: compare.Task) -> None:
    """Raises ScenarioError for options that cannot be meant together."""
    ours, several = task.policy == compare.OWN, _several(chosen)
    for first, then, together in (
        ("--trace", "--generate", chosen["trace"] is not None and chosen["generate"] is not None),
        ("--compare", "--sweep", chosen["compare"] is not None and chosen["sweep"] is not None),
        ("--policy", f"--{several}", not ours and bool(several)),
        ("--record", f"--{several}", chosen["record"] is not None and bool(several)),
        ("--set", "another --policy", bool(chosen["set"]) and not ours),
        ("--record", "another --policy", chosen["record"] is not None and not ours),
    ):
        if together:
            raise ScenarioError(f"{first} and {then}: cannot be had together; drop one of them")


def _scenario(chosen: Mapping[str, str | None], given: Mapping[str, Any], profiles: Mapping[str, Profile]) -> Scenario:
    path = chosen["trace"]
    if path is not None:
        trace = _read(path)
    else:
        trace = generated(DEFAULT_LOAD if chosen["generate"] is None else chosen["generate"], given["seed"])
    return scenario(given, part(trace, given), profiles)


def _read(path: str) -> Trace:
    try:
        return parse(decompressed(files.read(path, "--trace"), path), path)
    except TraceError as error:
        raise CommandError(f"--trace: {error}") from None


def _compared(
    built: Scenario, settings: Mapping[str, str], names: Sequence[str], target: float, workers: int, sweep: bool
) -> Comparison:
    """Ours in full, and the best other."""
    tasks = compare.tasks(names, built, sweep)
    played = jobs.play(tasks, built, settings, workers, [compare.OWN])
    rows = [each.row for each in played]
    shown = [each.run for each in played if each.run is not None]
    if rival := best([row for row in rows if row.policy != compare.OWN], target):
        again = jobs.play([compare.Task(rival.policy, rival.knob)], built, settings, 1, [rival.policy])
        shown += [each.run for each in again if each.run is not None]
    kept = rows if sweep else compare.condensed(rows, target)
    return Comparison(built, tuple(kept), tuple(shown), target)


def _recorded(built: Scenario, settings: Mapping[str, str], target: float, path: str) -> Comparison:
    recorder = Recorder(built, setting(built, dict(settings)))
    made = jobs.alone(built, recorder, compare.Task(compare.OWN))
    files.write(path, "--record", b"".join(map(line, recorder.records)))
    return _of(built, [jobs.Played(compare.row(compare.Task(compare.OWN), made), made)], target)


def _of(built: Scenario, played: Sequence[jobs.Played], target: float) -> Comparison:
    shown = tuple(each.run for each in played if each.run is not None)
    return Comparison(built, tuple(each.row for each in played), shown, target)


def _told(comparison: Comparison) -> str:
    accounts = [report_text.account(run) for run in comparison.runs[:1]]
    if len(comparison.rows) == 1:
        return accounts[0]
    verdict = textwrap.fill(report_text.plain(wording.verdict(comparison)), report_text.WIDTH)
    return "\n".join([report_text.table(comparison.rows, comparison.target), verdict, "", *accounts])
