"""Renders /debug/decision for a person: inputs, ages, thresholds, arithmetic, vetoes, what would change the answer.

May not be in here: I/O, any new judgement on the numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("replica", "state", "age s", "waiting", "running", "kv", "capacity", "knee", "rate/s", "cause", "note")


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
        parts += [_arithmetic(answer, shown["settings"]), _vetoes(answer), _turns(answer, shown["settings"])]
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
            *(_number(replica[name]) for name in ("reading_age", "waiting", "running", "kv_usage", "capacity")),
            *(_number(replica[name]) for name in ("knee_running", "service_rate")),
            replica["cause"],
            replica["sickness"] or replica["error"],
        )
        for replica in replicas
    ]
    at_gateway = "" if gateway is None else f"\n  waiting at the gateway: {_number(gateway)}"
    return "inputs\n" + ("\n".join(_table((COLUMNS, *rows))) if rows else "  no replica") + at_gateway


def _arithmetic(answer: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    t = {name: _number(value) for name, value in answer["terms"].items()}
    learned = "learned" if answer["terms"]["knee_learned"] else "vLLM's cap, none learned"
    steps = [
        ("demand_running", f"{t['running']} running / knee {t['knee']} ({learned}), headroom {t['headroom']}"),
        ("demand_kv", f"{t['kv_usage']} KV caches held / target {_number(settings['kvCacheTarget'])}"),
        ("demand_base", "the larger of the two; a replica with a queue counts as one at least"),
        ("backlog", f"{t['waiting']} waiting, rising {t['trend_per_second']}/s for {t['lead_seconds']} s (coldStart)"),
        ("demand_queue", f"backlog / {t['queue_per_replica']} that a replica works off in time"),
        ("demand", "base + queue, in whole replicas"),
        ("supply", f"of {t['replicas']}: {t['supplying']} supplying, {t['impaired']} impaired, {t['dead']} dead, "
         f"{t['blind']} blind"),
        ("needed", "replicas that carry the demand, the least capable counted first"),
        ("required", f"after cap and hold ({answer['reason']})"),
    ]  # fmt: skip
    return "arithmetic\n" + "\n".join(f"  {name:<15} {t[name]:>9}  {how}" for name, how in steps)


def _vetoes(answer: Mapping[str, Any]) -> str:
    if not answer["vetoes"]:
        return "vetoes\n  none: everything that is needed is known"
    head = f"vetoes (not fewer than {answer['terms']['floor']:g}, until these are mended)"
    return "\n".join([head, *(f"  {veto}" for veto in answer["vetoes"])])


def _turns(answer: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    terms = answer["terms"]
    whole = math.ceil(terms["needed"])
    lines = []
    up = terms["demand_up"] - terms["demand"]
    waiting = math.floor(round(up * terms["queue_per_replica"], 6)) + 1
    now, next_up = _number(terms["demand"]), _number(terms["demand_up"])
    lines.append(f"  {whole + 1} are needed when demand passes {next_up} (it is {now}): about {waiting} more waiting")
    if "demand_down" in terms:
        lines.append(f"  {whole - 1} would do when demand falls to {_number(terms['demand_down'])}")
    if answer["vetoes"]:
        lines.append("  a fresh reading of what the vetoes name lifts the hold")
    if answer["reason"] == "max_replicas":
        lines.append(f"  maxReplicas {_number(settings['maxReplicas'])} is in the way of more")
    if answer["reason"] == "advisory":
        lines.append(f"  mode active would answer {_number(terms['held'])}")
    return "what would change the answer\n" + "\n".join(lines)


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
