"""A fake API server (and kubelet): real HTTP or HTTPS on a free port that speaks list and watch, and fails as told.

    async with FakeApi() as api:
        api.put(pod("llama-0"))                # added or changed; whoever watches is told
        api.delete("inference", "llama-0")
        api.faults += [status(429, retry_after=1)]     # what the next requests get instead, one each
        api.compact()                          # versions up to now are too old to watch from: 410

It keeps what Kubernetes promises: a version for every change, lists as of one, watches from one, pages, bookmarks.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
Fault = Callable[["FakeApi", web.Request], Awaitable[web.StreamResponse]]

NODE = "node-a"


def pod(
    name: str = "llama-0",
    namespace: str = "inference",
    *,
    node: str = NODE,
    ip: str | None = "10.0.0.7",
    phase: str = "Running",
    gpu: int = 1,
    ports: Any = (8000,),
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **status: Any,
) -> Json:
    """A pod with one container, as the API server writes it. ports: numbers, or whole entries."""
    entries = [{"containerPort": port, "protocol": "TCP"} if isinstance(port, int) else port for port in ports]
    resources = {"limits": {"nvidia.com/gpu": str(gpu)}, "requests": {"nvidia.com/gpu": str(gpu)}} if gpu else {}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-08-01T12:00:00Z",
            "labels": dict(labels if labels is not None else {"app": "llama"}),
            "annotations": dict(annotations or {}),
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "vllm", "image": "vllm", "ports": entries, "resources": resources}],
        },
        "status": {"phase": phase, **({"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}), **status},
    }


def event(of: Json, reason: str, at: str, container: str = "vllm") -> Json:
    """An event of a pod's, as the kubelet records it."""
    meta = of["metadata"]
    return {
        "metadata": {"name": f"{meta['name']}.{reason}", "namespace": meta["namespace"]},
        "involvedObject": {
            "kind": "Pod",
            "name": meta["name"],
            "uid": meta["uid"],
            "fieldPath": f"spec.containers{{{container}}}",
        },
        "reason": reason,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }


def status(code: int, retry_after: int | None = None) -> Fault:
    async def answer(api: "FakeApi", request: web.Request) -> web.StreamResponse:
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        return web.json_response({"kind": "Status", "code": code}, status=code, headers=headers)

    return answer


def says(body: bytes) -> Fault:
    async def answer(api: "FakeApi", request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    return answer


async def silent(api: "FakeApi", request: web.Request) -> web.StreamResponse:
    """It takes the request and says nothing any more, in headers that are sent: a frozen watch."""
    response = web.StreamResponse()
    await response.prepare(request)
    await api.hold()
    return response


def broken_off(line: bytes) -> Fault:
    """Some bytes, and the connection is gone."""

    async def answer(api: "FakeApi", request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(line)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


def lines(*events: Json) -> Fault:
    """A watch that tells these and ends."""

    async def answer(api: "FakeApi", request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"".join(json.dumps(each).encode() + b"\n" for each in events))

    return answer


def _line(told: Json) -> bytes:
    """As Go writes it: UTF-8 as it is, but for two ends of lines."""
    text = json.dumps(told, ensure_ascii=False).replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
    return text.encode() + b"\n"


class FakeApi:
    def __init__(self, tls: ssl.SSLContext | None = None, token: str = "") -> None:
        self.pods: dict[tuple[str, str], Json] = {}
        self.events: list[Json] = []
        self.version = 100
        self.faults: list[Fault] = []  # for lists and watches of pods
        self.watch_faults: list[Fault] = []  # for watches alone
        self.denied: set[str] = set()  # resources
        self.requests: list[str] = []  # "list", "page", "watch", "node", "events", "kubelet"
        self.queries: list[Mapping[str, str]] = []
        self.tokens: list[str] = []
        self.asked = asyncio.Event()
        self.url = ""
        self._tls = tls
        self._token = token
        self._log: list[tuple[int, str, Json]] = []  # version, type, pod
        self._oldest = 0
        self._changed = asyncio.Condition()
        self._over = asyncio.Event()
        self._pages: dict[str, tuple[int, list[Json]]] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/events", self._events)
        app.router.add_get("/api/v1/nodes/{node}", self._node)
        app.router.add_get("/pods", self._kubelet)
        app.router.add_get("/behind/a/proxy/api/v1/pods", self._pods)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await self._runner.cleanup()

    async def put(self, *changed: Json) -> None:
        for each in changed:
            self.version += 1
            meta = each["metadata"]
            meta["resourceVersion"] = str(self.version)
            place = meta["namespace"], meta["name"]
            self._log.append((self.version, "MODIFIED" if place in self.pods else "ADDED", each))
            self.pods[place] = each
        await self._tell()

    async def delete(self, namespace: str, name: str) -> None:
        gone = json.loads(json.dumps(self.pods.pop((namespace, name))))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._log.append((self.version, "DELETED", gone))
        await self._tell()

    async def bookmark(self) -> None:
        self.version += 1
        meta = {"resourceVersion": str(self.version), "creationTimestamp": None}
        self._log.append((self.version, "BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": meta}))
        await self._tell()

    async def compact(self) -> None:
        """Forget the past, and end every watch."""
        self._oldest = self.version = self.version + 1
        self._log.clear()
        await self._tell()

    async def hold(self) -> None:
        await self._over.wait()

    def count(self, kind: str) -> int:
        return self.requests.count(kind)

    async def until(self, kind: str, number: int) -> None:
        """Wait until so many requests of a kind have come."""
        async with asyncio.timeout(20):
            while self.count(kind) < number:
                self.asked.clear()
                await self.asked.wait()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _note(self, kind: str, request: web.Request) -> web.Response | None:
        self.requests.append(kind)
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers.get("Authorization", ""))
        self.asked.set()
        if self._token and self.tokens[-1] != f"Bearer {self._token}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        resource = {"list": "pods", "page": "pods", "watch": "pods", "node": "nodes"}.get(kind, kind)
        if resource in self.denied:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        return None

    def _selected(self, request: web.Request, each: Json) -> bool:
        namespace = request.match_info.get("namespace")
        wanted = dict(term.split("=") for term in request.query.get("labelSelector", "").split(",") if term)
        return (
            f"spec.nodeName={each['spec']['nodeName']}" == request.query.get("fieldSelector")
            and namespace in (None, each["metadata"]["namespace"])
            and wanted.items() <= each["metadata"]["labels"].items()
        )

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") == "true"
        kind = "watch" if watching else "page" if "continue" in request.query else "list"
        if (refused := self._note(kind, request)) is not None:
            return refused
        if self.faults:
            return await self.faults.pop(0)(self, request)
        if watching and self.watch_faults:
            return await self.watch_faults.pop(0)(self, request)
        return await self._watch(request) if watching else self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", "500"))
        if "continue" in request.query:
            kept = self._pages.pop(request.query["continue"], None)
            if kept is None:
                return web.json_response({"kind": "Status", "code": 410, "reason": "Expired"}, status=410)
            version, rest = kept
        else:
            found = [each for _, each in sorted(self.pods.items()) if self._selected(request, each)]
            version, rest = self.version, json.loads(json.dumps(found))
        meta = {"resourceVersion": str(version)}
        if rest[limit:]:
            meta["continue"] = f"{version}.{len(rest)}"
            self._pages[meta["continue"]] = version, rest[limit:]
        return web.json_response({"kind": "PodList", "metadata": meta, "items": rest[:limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            if version < self._oldest:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return response
            for at, kind, each in list(self._log):
                if at > version:
                    version = at
                    if kind == "BOOKMARK" or self._selected(request, each):
                        await response.write(_line({"type": kind, "object": each}))
            async with self._changed:
                await self._changed.wait_for(lambda seen=version: self.version > seen)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._note("events", request)) is not None:
            return refused
        terms = dict(term.split("=") for term in request.query["fieldSelector"].split(","))
        found = [each for each in self.events if each["involvedObject"]["uid"] == terms["involvedObject.uid"]]
        return web.json_response({"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": found})

    async def _node(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._note("node", request)) is not None:
            return refused
        meta = {"name": request.match_info["node"], "creationTimestamp": "2026-08-01T11:00:00Z"}
        return web.json_response({"kind": "Node", "metadata": meta})

    async def _kubelet(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._note("kubelet", request)) is not None:
            return refused
        if self.faults:
            return await self.faults.pop(0)(self, request)
        return web.json_response({"kind": "PodList", "metadata": {}, "items": list(self.pods.values())})
