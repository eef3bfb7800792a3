"""The scaler's web pages: /metrics, /healthz, /readyz, the status page, /debug/decision and /debug/nodes.

May not be in here: anything that is not shown; what is shown is the last decision, never a new one.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import islice
from string import Template
from typing import Any

import msgspec
from aiohttp import web
from msgspec import structs
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from exporter.kit.version import VERSION
from exporter.kit.web import application
from scaler.core import account
from scaler.core.decision import BLIND, STARTING, SUPPLYING, Decision, Unknown, state
from scaler.core.trigger import settings
from scaler.core.view import NodeView
from scaler.decisions import Answer, Desk, Entry

MOST_ROWS = 1000  # of a table on the status page


class Pages:
    """The routes. `ready` is what /readyz says: whether KEDA is being served."""

    def __init__(
        self,
        desk: Desk,
        views: Callable[[], Sequence[NodeView]],
        registry: CollectorRegistry,
        clock: Callable[[], float],
    ) -> None:
        self.ready = False
        self._desk = desk
        self._views = views
        self._registry = registry
        self._clock = clock
        self._template = Template(files("scaler").joinpath("web/status.html").read_text("utf-8"))

    def application(self) -> web.Application:
        app = application()
        app.add_routes(
            [
                web.get("/", self._status),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/debug/decision", self._decision),
                web.get("/debug/nodes", self._nodes),
            ]
        )
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self.ready else web.Response(text="not serving\n", status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _status(self, request: web.Request) -> web.Response:
        now = self._clock()
        entries = self._desk.entries()
        tables = {
            "objects": (_object_row(entry, now) for entry in entries),
            "replicas": (row for entry in entries if entry.latest for row in _replica_rows(entry.latest)),
            "exporters": (_exporter_row(view, now) for view in self._views()),
        }
        nothing = '<tr><td class="none" colspan="9">none yet</td></tr>'
        shown = {name: "\n".join(islice(rows, MOST_ROWS)) or nothing for name, rows in tables.items()}
        page = self._template.substitute(shown, version=escape(VERSION))
        return web.Response(text=page, content_type="text/html")

    async def _decision(self, request: web.Request) -> web.Response:
        wanted = request.query.get("namespace", ""), request.query.get("name", "")
        entries = {(entry.namespace, entry.name): entry for entry in self._desk.entries()}
        if wanted in entries:
            return _json(decision(entries[wanted], self._clock()))
        known = [f"{namespace}/{name}" for namespace, name in entries][:MOST_ROWS]
        asked = "/".join(text[:300] for text in wanted)
        return _json({"error": f"KEDA has not asked for ScaledObject {asked} here", "known": known}, status=404)

    async def _nodes(self, request: web.Request) -> web.Response:
        now = self._clock()
        nodes = []
        for view in self._views():
            shown = structs.asdict(view) | {"message_age_seconds": None if view.at is None else now - view.at}
            for key in ("at", "since"):
                del shown[key]  # of this process's clock: no use to a reader
            nodes.append(shown)
        return _json(nodes)


def decision(entry: Entry, now: float) -> dict[str, Any]:
    """Everything that the last decision on an object rests on, for /debug/decision and `plimsoll explain`.

    Ages are those at the decision. An object with bad metadata has `error` and nothing else.
    """
    shown: dict[str, Any] = {
        "namespace": entry.namespace,
        "name": entry.name,
        "asked_seconds_ago": now - entry.asked,
        "error": entry.error,
        "records": [msgspec.Raw(record) for record in entry.records],
    }
    answer = entry.latest
    if answer is None:
        return shown
    replicas = [
        structs.asdict(replica) | {"state": state(replica, answer.trigger), "sickness": account.sickness(replica)}
        for replica in answer.fleet.replicas
    ]
    return shown | {
        "decided_seconds_ago": now - answer.at,
        "trigger": answer.trigger.shown,
        "settings": settings(answer.trigger),
        "replicas": replicas,
        "gateway_waiting": answer.fleet.gateway_waiting,
        "unknown": answer.result.reason if isinstance(answer.result, Unknown) else "",
        "answer": answer.result if isinstance(answer.result, Decision) else None,
    }


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content) + b"\n", status=status, content_type="application/json")


#: Terms of a decision that a row of the table of ScaledObjects shows.
_OBJECT = ("required", "waiting", "running", "work", "planned")


def _object_row(entry: Entry, now: float) -> str:
    result = entry.latest.result if entry.latest else None
    link = f"/debug/decision?namespace={entry.namespace}&name={entry.name}"
    numbers, said, bad = [""] * len(_OBJECT), entry.error, True
    if isinstance(result, Decision):
        numbers = [account.number(result.terms[name]) if name in result.terms else "" for name in _OBJECT]
        said, bad = result.explanation, bool(result.vetoes)
    elif isinstance(result, Unknown):
        said = result.reason
    cells = [f'<td><a href="{escape(link)}">{escape(f"{entry.namespace}/{entry.name}")}</a></td>']
    cells += [f'<td class="number">{number}</td>' for number in numbers]
    cells.append(f'<td class="number">{now - entry.asked:.1f} s ago</td>')
    cells.append(f'<td class="{"bad" if bad else "good"}">{escape(said)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


#: State of a replica -> its cell's class; of any other: bad. Starting is neither good nor bad.
_COLOURS = {SUPPLYING: "good", STARTING: "none"}


def _replica_rows(answer: Answer) -> Iterable[str]:
    """The replicas as the last decision saw them. No number: it was not read."""
    trigger = answer.trigger
    for replica in answer.fleet.replicas:
        seen = state(replica, trigger)
        numbers = (replica.reading_age, replica.waiting, replica.running, replica.kv_usage, replica.capacity)
        blind = account.why_blind(replica, trigger) if seen == BLIND else ""
        said = account.sickness(replica) or blind or replica.why or replica.cause
        cells = [f"<td>{escape(text)}</td>" for text in (f"{trigger.namespace}/{trigger.name}", replica.pod)]
        cells.append(f'<td class="{_COLOURS.get(seen, "bad")}">{seen}</td>')
        cells += [f'<td class="number">{"" if value is None else account.number(value)}</td>' for value in numbers]
        yield f"<tr>{''.join(cells)}<td>{escape(said)}</td></tr>"


def _exporter_row(view: NodeView, now: float) -> str:
    state = "connected" if view.connected else f"lost: {view.error or 'no answer yet'}"
    age = "never" if view.at is None else f"{now - view.at:.1f} s ago"
    cells = [
        f"<td>{escape(view.address)}</td>",
        f"<td>{escape(view.node)}</td>",
        f'<td class="{"good" if view.connected else "bad"}">{escape(state)}</td>',
        f'<td class="number">{age}</td>',
        f'<td class="number">{len(view.engines)}</td>',
        f'<td class="number">{len(view.gpus)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"
