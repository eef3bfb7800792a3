"""Renders /debug/decision for a person: what was asked and seen, what follows from it, what would change the answer.

May not be in here: I/O, any new judgement on the numbers.

The story goes as the decision does: what comes and what one costs, what is expected and planned for, what is held, what
waits, who carries it, what holds. Each number has the name that it has in the terms of /debug/decision and the records.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaler.core import policy

COLUMNS = ("replica", "state", "age s", "waiting", "running", "at most", "kv", "capacity", "pace", "cause", "note")


def render(shown: Mapping[str, Any]) -> str:
    """The account as text of several lines."""
    title = f"ScaledObject {shown['namespace']}/{shown['name']}"
    if shown["error"]:
        return f"{title}\n  GetMetrics fails (INVALID_ARGUMENT): {shown['error']}"
    if "settings" not in shown:
        return f"{title}\n  not decided on yet: KEDA has asked for its metric's name only"
    answer = shown["answer"]
    parts = [
        f"{title}: decided {shown['decided_seconds_ago']:.1f} s ago, KEDA asked {shown['asked_seconds_ago']:.1f} s ago",
        _settings(shown["settings"], shown["trigger"]),
        _inputs(shown["replicas"], shown["gateway_waiting"]),
    ]
    if answer is None:
        parts.append(f"no answer\n  GetMetrics fails (UNAVAILABLE), and the HPA holds: {shown['unknown']}")
    else:
        terms, settings = answer["terms"], shown["settings"]
        parts += [_coming(terms, settings), _held(terms, settings), _carried(answer), _vetoes(answer)]
        parts.append(_turns(answer, settings))
        parts.append(f"answer\n  {answer['explanation']}")
    return "\n\n".join(parts)


def _settings(settings: Mapping[str, Any], given: Mapping[str, str]) -> str:
    lines = []
    for name, value in settings.items():
        if value is None or value == "":
            shown = "not given"
        else:
            shown = _number(value) if isinstance(value, int | float) else str(value)
        lines.append(f"  {name:<14} {shown}{'' if name in given or shown == 'not given' else '  (default)'}")
    return "settings\n" + "\n".join(lines)


def _inputs(replicas: Sequence[Mapping[str, Any]], gateway: float | None) -> str:
    rows = [
        (
            replica["pod"],
            replica["state"],
            *(_number(replica[name]) for name in ("reading_age", "waiting", "running", "max_running")),
            *(_number(replica[name]) for name in ("kv_usage", "capacity")),
            _pace(replica),
            replica["cause"],
            replica["sickness"] or replica["error"],
        )
        for replica in replicas
    ]
    at_gateway = "" if gateway is None else f"\n  waiting at the gateway: {_number(gateway)}"
    return "inputs\n" + ("\n".join(_table((COLUMNS, *rows))) if rows else "  no replica") + at_gateway


def _pace(replica: Mapping[str, Any]) -> str:
    """Whose pace is known: that of its own, or its model's on its node."""
    if replica["step_seconds"] is None:
        return "-"
    return "own" if replica["pace_seconds"] else "model's"


Steps = Sequence[tuple[str, str]]


def _steps(title: str, terms: Mapping[str, float], steps: Steps) -> str:
    return title + "".join(f"\n  {name:<20} {_number(terms[name]):>9}  {how}" for name, how in steps)


def _coming(terms: Mapping[str, float], settings: Mapping[str, Any]) -> str:
    title = "what comes"
    if "planned" not in terms:
        return f"{title}\n  not known: no replica has shown what a request costs; what is held and what waits is all"
    room = settings["headroom"]
    return _steps(title, terms, (
        ("requests_per_second", "requests that came lately: finished, and what is held more than before"),
        ("batch", "that a full replica runs at once"),
        ("request_seconds", "of a whole replica's time that one costs in such a batch"),
        ("work", "replicas that this keeps busy"),
        ("lead_seconds", "s until a replica that is asked for now serves"),
        ("expected", "replicas' work by then"),
        ("planned", f"replicas for that, as uneven as it was: ttftTarget {settings['ttftTarget']}"
         + ("" if room is None else f", headroom {_shown(room)}")),
    ))  # fmt: skip


def _held(terms: Mapping[str, float], settings: Mapping[str, Any]) -> str:
    n = {name: _number(value) for name, value in terms.items()}
    running = f"{n['running']} running / {n['batch']}" if "planned" in terms else f"{n['running']} running, by batches"
    target = settings["queueTarget"]
    if target is not None:
        queue = f"{n['waiting']} waiting / queueTarget {_shown(target)}"
    elif "planned" in terms:
        queue = f"of which is to be gone in drainWithin {settings['drainWithin']}"
    else:
        queue = f"{n['waiting']} waiting / {_number(policy.value('queue_target'))} a replica"
    left = f"s of work, of {n['waiting']} waiting, that will be left when a new replica serves"
    return _steps("what is held and what waits", terms, (
        ("demand_running", running),
        ("demand_kv", f"{n['kv_usage']} KV caches held / kvCacheTarget {_shown(settings['kvCacheTarget'])}"),
        ("demand_base", "the largest of these" + (" and what is planned" if "planned" in terms else "")),
        *((("backlog", left),) if "planned" in terms and target is None else ()),
        ("demand_queue", queue),
        ("demand", "base + queue, in whole replicas"),
    ))  # fmt: skip


def _carried(answer: Mapping[str, Any]) -> str:
    terms = answer["terms"]
    n = {name: _number(value) for name, value in terms.items()}
    seen = ", ".join(f"{n[name]} {name}" for name in ("supplying", "impaired", "dead", "starting", "blind"))
    return _steps("what carries it", terms, (
        ("supply", f"whole replicas, of {n['replicas']}: {seen}"),
        ("needed", "replicas that carry the demand, the least capable counted first"),
        ("required", f"after cap and hold: the answer ({answer['reason']})"),
    ))  # fmt: skip


def _vetoes(answer: Mapping[str, Any]) -> str:
    if not answer["vetoes"]:
        return "vetoes\n  none: everything that is needed is known"
    head = f"vetoes (not fewer than {_number(answer['terms']['floor'])}, until these are mended)"
    return "\n".join([head, *(f"  {veto}" for veto in answer["vetoes"])])


def _turns(answer: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    terms = answer["terms"]
    whole = math.ceil(terms["needed"])
    now, next_up = _number(terms["demand"]), _number(terms["demand_up"])
    lines = [f"  {whole + 1} are needed when demand passes {next_up} (it is {now}); for that it takes one of"]
    lines += [f"    {way}" for way in _ways(terms, settings)]
    if "demand_down" in terms:
        lines.append(f"  {whole - 1} would do when demand falls to {_number(terms['demand_down'])}")
    if answer["vetoes"]:
        fewer = f"; {_number(terms['needed'])} would be enough then" if terms["needed"] < terms["floor"] else ""
        lines.append(f"  the hold ends when what the vetoes name is known{fewer}")
    if answer["reason"] == "max_replicas":
        lines.append(f"  maxReplicas {_shown(settings['maxReplicas'])} is in the way of more")
    if answer["reason"] == "advisory":
        lines.append(f"  mode active would answer {_number(terms['held'])}")
    return "what would change the answer\n" + "\n".join(lines)


def _ways(terms: Mapping[str, float], settings: Mapping[str, Any]) -> list[str]:
    """What would alone, all else as it is, bring the demand to that of one replica more."""
    base = terms["demand_up"] - terms["demand_queue"]
    found = []
    if "planned" in terms:
        found.append(f"more than {_number(base)} planned (now {_number(terms['planned'])})")
        found.append(f"more than {_number(base * terms['batch'])} running (now {_number(terms['running'])})")
    if not isinstance(settings["kvCacheTarget"], str):
        held = base * settings["kvCacheTarget"]
        found.append(f"more than {_number(held)} KV caches held (now {_number(terms['kv_usage'])})")
    if terms["demand_queue"] > 0:
        by_work = "planned" in terms and settings["queueTarget"] is None
        one = terms["request_seconds"] / terms["backlog"] if by_work else 1 / terms["waiting"]
        more = (terms["demand_up"] - terms["demand"]) / (terms["demand_queue"] * one)
        found.append(f"about {math.floor(more) + 1} more waiting (now {_number(terms['waiting'])})")
    return found


def _shown(value: float | str) -> str:
    """A setting: its number, or that it is from the environment."""
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
