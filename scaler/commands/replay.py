"""`plimsoll replay`: a fleet's own recorded load under today's policy and settings.

May not be in here: how a load is rebuilt (simulate/history.py), what is compared (simulate/then_now.py), reports.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scaler.commands import CommandError, files, jobs, options, prometheus
from scaler.core.record import Record
from scaler.core.trigger import TriggerError
from scaler.simulate import compare, reanswer, report_html, report_json, report_replay, report_text
from scaler.simulate.comparison import Comparison
from scaler.simulate.history import History, to_trace
from scaler.simulate.history_prometheus import from_prometheus
from scaler.simulate.history_records import from_journal
from scaler.simulate.history_records import records as journal_of
from scaler.simulate.option_values import seconds
from scaler.simulate.product import setting
from scaler.simulate.recorded_profile import NAME as RECORDED
from scaler.simulate.recorded_profile import recorded
from scaler.simulate.recorder import Recorder
from scaler.simulate.scenario import (
    DEFAULT_PROFILE,
    FLEET,
    RESULT,
    Option,
    ScenarioError,
    metadata,
    scenario,
    values,
)
from scaler.simulate.then_now import differences, moments
from scaler.simulate.traces import TraceError
from scaler.simulate.traces_csv import render
from scaler.simulate.traces_packed import decompressed

SOURCES = ("record", "prometheus", "prometheus-url")
INPUTS, OUTPUTS = ("record", "prometheus", "profiles"), ("html", "json", "save-trace")
ASKED = (
    Option("range", seconds(60), "1h", "DURATION", "so much of the past, up to now"),
    Option("step", seconds(1, 3600), "15s", "DURATION", "between two points"),
)
#: A file that begins so is compressed: gzip, xz.
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\x00")
_BOM = b"\xef\xbb\xbf"


#: What to do about an answer that is none.
SAVED = "save the answer of /api/v1/query_range as it came"
SERVED = "name the address of a Prometheus, with its path if it has one"


class _Past(NamedTuple):
    history: History
    records: tuple[Record, ...]  # none of Prometheus


def run(argv: Sequence[str]) -> int:
    """Returns the exit status. Raises CommandError."""
    chosen = vars(_parser().parse_args(argv))
    try:
        given = values((*FLEET, *RESULT, *ASKED), chosen | {"profile": chosen["profile"] or DEFAULT_PROFILE})
        _agree(chosen)
        files.check(options.paths(chosen, OUTPUTS), options.paths(chosen, INPUTS))
        if chosen["exact"]:
            return _exact(chosen)
        past = _past(chosen, given)
        return _play(chosen, given, past)
    except ScenarioError as error:
        raise CommandError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "replay",
        "Rebuilds the load of a real fleet from what was recorded of it, plays it on a simulated fleet under today's "
        "policy and settings, and shows what was decided then against now.",
    )
    source = parser.add_argument_group("what was recorded (one of them)")
    source.add_argument("--record", metavar="FILE.jsonl", help="that plimsoll-scaler wrote with --record.file")
    source.add_argument("--prometheus", metavar="FILE.json", help="a saved answer of /api/v1/query_range")
    source.add_argument("--prometheus-url", dest="prometheus-url", metavar="URL", help="a Prometheus to ask")
    source.add_argument("--object", default="", metavar="NAMESPACE/NAME", help="of --record: the ScaledObject")
    source.add_argument(
        "--selector", default="", metavar="MATCHERS", help='of --prometheus-url: the model\'s, such as model="llama"'
    )
    options.add(parser, "of --prometheus-url", ASKED)
    parser.add_argument(
        "--exact", action="store_true", help="of --record: put the recorded inputs to today's policy as they were"
    )
    fleet = tuple(option._replace(default="") if option.name == "profile" else option for option in FLEET)
    options.add(parser, f"fleet (profile: {RECORDED} where the pace was recorded, else {DEFAULT_PROFILE})", fleet)
    options.add_ours(parser)
    parser.add_argument(
        "--save-trace", dest="save-trace", metavar="FILE.csv", help="the load, for plimsoll simulate --trace"
    )
    return parser


def _agree(chosen: Mapping[str, Any]) -> None:
    """Raises ScenarioError for options that cannot be meant together."""
    sources = [name for name in SOURCES if chosen[name] is not None]
    if len(sources) != 1:
        found = " and ".join(f"--{name}" for name in sources) or "none"
        raise ScenarioError(f"{', '.join(f'--{name}' for name in SOURCES)}: one is needed, {found} was given")
    for name, owner in (("object", "record"), ("exact", "record"), ("selector", "prometheus-url")):
        if chosen[name] and sources != [owner]:
            raise ScenarioError(f"--{name}: goes with --{owner} alone; drop it")
    _split(chosen["object"])


def _split(text: str) -> tuple[str, str]:
    """("", "") of "": whichever there is."""
    namespace, slash, name = text.partition("/")
    if text and (not namespace or not slash or not name or "/" in name):
        raise ScenarioError(f"--object {text!a}: is not NAMESPACE/NAME, as in default/llama")
    return namespace, name


def _past(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> _Past:
    """Raises CommandError."""
    try:
        if chosen["record"] is not None:
            lines = _lines(chosen["record"])
            namespace, name = _split(chosen["object"])
            journal = journal_of(lines, namespace, name, chosen["record"])
            return _Past(from_journal(lines, namespace, name, chosen["record"]), journal.records)
        if chosen["prometheus"] is not None:
            path = chosen["prometheus"]
            place = f"--prometheus {files.shown(path)}"
            answer = prometheus.decoded(_read(path, "--prometheus"), place, SAVED)
            return _Past(from_prometheus(answer, path, place), ())
        url = chosen["prometheus-url"]
        sys.stdout.write(f"query: {report_text.plain(prometheus.query(chosen['selector']))}\n")
        place = f"--prometheus-url {url}"
        data = prometheus.fetch(url, chosen["selector"], given["range"], given["step"])
        return _Past(from_prometheus(prometheus.decoded(data, place, SERVED), url, place), ())
    except TraceError as error:
        raise CommandError(str(error)) from None


def _lines(path: str) -> list[bytes]:
    return _read(path, "--record").split(b"\n")


def _read(path: str, option: str) -> bytes:
    """Raises CommandError and TraceError."""
    data = files.read(path, option)
    return decompressed(data, path).encode() if data.startswith(_COMPRESSED) else data.removeprefix(_BOM)


def _settings(records: Sequence[Record], chosen: Mapping[str, Any]) -> tuple[dict[str, str], float]:
    """The trigger as it was recorded last, with what --set changes; and the time to the first token that is wanted.

    Raises CommandError where the recorded one cannot be honoured any more, else ScenarioError.
    """
    old = reanswer.settings(records[-1].trigger) if records else {}
    changed = {pair.partition("=")[0] for pair in chosen["set"]}
    try:
        told = metadata([f"{key}={value}" for key, value in sorted(old.items()) if key not in changed], {})
    except ScenarioError as error:
        cause = str(error).removeprefix("--set ")
        raise CommandError(
            f"--record {files.shown(chosen['record'])}: the trigger's {cause}; or give --set with that key and another "
            "value, or none"
        ) from None
    ttft = values(FLEET, {"ttft": chosen["ttft"] or told.get("ttftTarget")})["ttft"]
    return metadata(chosen["set"], {**told, "ttftTarget": f"{ttft:g}s"}), ttft


def _play(chosen: Mapping[str, Any], given: Mapping[str, Any], past: _Past) -> int:
    settings, ttft = _settings(past.records, chosen)
    profiles = dict(options.profiles(chosen["profiles"]))
    name = chosen["profile"]
    if of_record := recorded(past.records, profiles[DEFAULT_PROFILE]):
        profiles[RECORDED] = of_record
    if name is None:
        name = RECORDED if of_record else DEFAULT_PROFILE
    try:
        trace = to_trace(past.history, given["seed"])
    except TraceError as error:
        raise CommandError(str(error)) from None
    files.write(chosen["save-trace"], "--save-trace", render(trace) if chosen["save-trace"] else "")
    first = past.history.intervals[0].replicas
    start = max(given["min"], min(given["max"], first)) if given["start"] is None and first else given["start"]
    built = scenario({**given, "profile": name, "start": start, "ttft": ttft}, trace, profiles)
    task, recorder = compare.Task(compare.OWN), Recorder(built, setting(built, settings))
    made = jobs.alone(built, recorder, task)
    course = moments(past.history, made, recorder.records)
    found = differences(course, past.history, past.records, recorder.records)
    shown = (report_replay.marked(made, found),)
    comparison = Comparison(built, (compare.row(task, made),), shown, target=given["attainment"])
    document = report_json.document(comparison) | {
        "settings": settings,
        "replay": report_replay.document(past.history, course, found),
    }
    files.write(chosen["json"], "--json", report_json.render(document))
    if chosen["html"] is not None:
        page = report_html.page(comparison, [report_replay.section(course, found)])
        files.write(chosen["html"], "--html", page)
    sys.stdout.write(report_replay.told(past.history, course, found) + "\n" + report_text.account(made))
    return 0


def _exact(chosen: Mapping[str, Any]) -> int:
    if chosen["html"] is not None:
        raise ScenarioError("--html: --exact plays no run, so it has no page; drop it, or use --json")
    namespace, name = _split(chosen["object"])
    try:
        journal = journal_of(_lines(chosen["record"]), namespace, name, chosen["record"])
    except TraceError as error:
        raise CommandError(str(error)) from None
    try:
        made = reanswer.reanswered(journal.records, _settings(journal.records, chosen)[0])
    except TriggerError as error:
        raise CommandError(f"--record {files.shown(chosen['record'])}: {error}") from None
    if not made:
        raise CommandError(
            f"--record {files.shown(chosen['record'])}: no record holds its inputs; give a file of --record.file"
        )
    document = report_json.render({"exact": report_replay.answers_document(made)})
    files.write(chosen["json"], "--json", document)
    sys.stdout.write(report_replay.answers(made, len(journal.records) - len(made)))
    return 0
