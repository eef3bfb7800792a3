"""Snapshot -> the status page: what a person wants to know first about this node.

May not be in here: numbers that /metrics and the feed lack; markup around the tables (page.html).
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from exporter.core.model import Gpu, GpuKey
from exporter.core.model_engines import Engine
from exporter.core.snapshot import Collector, Snapshot
from exporter.kit.version import VERSION

_PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

_CLASSES = {
    "healthy": "good",
    "idle": "good",
    "saturated": "warn",
    "kv_pressure": "warn",
    "throttled": "warn",
    "cold_start": "warn",
    "degraded": "warn",
    "unknown": "warn",
}


def render(snapshot: Snapshot | None, now: float, metrics_path: str, subscribers: int) -> str:
    """The whole page. now: monotonic seconds. Every value that came from outside is escaped."""
    links = " · ".join(
        f'<a href="{escape(path)}">{escape(path)}</a>'
        for path in (metrics_path, "/debug/engine", "/healthz", "/readyz")
    )
    title = f"<h1>Plimsoll exporter {escape(VERSION)}</h1>\n<p>{links}</p>\n"
    if snapshot is None:
        return _PAGE.substitute(body=title + '<p class="warn">starting: nothing has been read yet</p>')
    about = f"node {snapshot.node}, read {_ago(now - snapshot.at)}, {subscribers} scalers listening"
    parts = [title, f"<p>{escape(about)}</p>"]
    parts.append(
        _table(
            "GPUs",
            ("GPU", "name", "verdict", "capacity", "why, what to do", "Xids", "pods", "read"),
            (_gpu(g, now) for g in snapshot.gpus),
        )
    )
    parts.append(
        _table(
            "Engines",
            ("model", "where", "waiting", "running", "KV", "saturation", "cause", "why", "capacity", "GPUs", "read"),
            (_engine(e, now) for e in snapshot.engines),
        )
    )
    parts.append(
        _table(
            "Collectors",
            ("collector", "state", "took", "last success"),
            (_collector(c, now) for c in snapshot.collectors),
        )
    )
    errors = [collector.message for collector in snapshot.collectors if not collector.success]
    errors += [engine.message for engine in snapshot.engines if engine.error]
    parts.append(_table("Errors", ("cause, place, fix",), ([_cell(error)] for error in dict.fromkeys(errors) if error)))
    return _PAGE.substitute(body="\n".join(parts))


def _gpu(gpu: Gpu, now: float) -> Sequence[str]:
    info, verdict = gpu.info, gpu.verdict
    name = " ".join(part for part in (info.name, info.profile) if part)
    return (
        _cell(f"{info.index} {_key(info.key)}"),
        _cell(name),
        _cell(f"{verdict.state} for {_seconds(now - verdict.since)}", _CLASSES.get(verdict.state, "bad")),
        _number(verdict.capacity, "{:.0%}"),
        _cell("; ".join(_reasons(gpu))),
        _cell(
            ", ".join(f"{xid} ({seen.count}x, last {_ago(now - seen.at)})" for xid, seen in sorted(gpu.xids.items()))
        ),
        _cell((", ".join(f"{pod.namespace}/{pod.pod}" for pod in gpu.pods)) + (" (shared)" if gpu.shared else "")),
        _cell(_ago(now - gpu.at)),
    )


def _reasons(gpu: Gpu) -> Iterable[str]:
    """Why the GPU is what it is, what nobody can tell of it, and what is not as it was declared."""
    for reason, action in gpu.verdict.reasons:
        yield f"{reason}: {action}"
    if gpu.verdict.unknown:
        yield f"not known: {', '.join(gpu.verdict.unknown)}"
    if drifted := [what for what, is_so in gpu.drift.items() if is_so]:
        yield f"not as declared: {', '.join(drifted)}"


def _engine(engine: Engine, now: float) -> Sequence[str]:
    target, reading = engine.target, engine.reading
    pod = f"{target.pod.namespace}/{target.pod.pod} " if target.pod.pod else ""
    return (
        _cell(f"{reading.model or 'not read yet'}{f' #{reading.engine}' if reading.engine else ''}"),
        _cell(pod + target.url),
        _number(reading.waiting, "{:g}"),
        _number(reading.running, "{:g}"),
        _number(reading.kv_usage, "{:.0%}"),
        _number(engine.saturation, "{:.2f}"),
        _cell(engine.cause, _CLASSES.get(engine.cause, "bad")),
        _cell(engine.diagnosis.why),
        _number(engine.capacity, "{:.0%}"),
        _cell(", ".join(_key(key) for key in engine.hardware.gpus) or "unknown"),
        _cell("never" if engine.at is None else _ago(now - engine.at)),
    )


def _collector(collector: Collector, now: float) -> Sequence[str]:
    state = ("works", "good") if collector.success else ("fails", "bad")
    last = "never" if collector.last_success is None else _ago(now - collector.last_success)
    return (_cell(collector.name), _cell(*state), _cell(f"{collector.seconds * 1000:.1f} ms", "n"), _cell(last))


def _table(title: str, heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Empty when there are no rows: on a box without GPUs an empty table of GPUs says nothing."""
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<h2>{escape(title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _cell(text: str, style: str = "") -> str:
    return f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>"


def _number(value: float | None, form: str) -> str:
    return _cell("?", "dim") if value is None else _cell(form.format(value), "n")


def _key(key: GpuKey) -> str:
    return f"{key.uuid}/{key.instance}" if key.instance else key.uuid


def _ago(seconds: float) -> str:
    return f"{_seconds(seconds)} ago"


def _seconds(seconds: float) -> str:
    seconds = max(0.0, seconds)
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.0f} h"
    )
