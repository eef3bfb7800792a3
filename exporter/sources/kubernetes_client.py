"""lightkube's client with the limits that it leaves to its user: of a page, a line and silence, and one line an error.

May not be in here: what is asked for, what the answers mean, retries.

lightkube makes the requests: certificates, tokens (after a 401 the token's file is read again and the request sent
again), paths. Its own `watch` is not used: it cannot ask for bookmarks, asks again without any pause when a watch ends
(2,000 times a second of a server that ends it at once), and takes U+0085 in somebody's annotation for the end of a
line. Nor are its models: what is kept of a pod would be made twice, and one bad pod would cost the list.

Imported only where the API server is asked: lightkube is 7 MB of RSS.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from lightkube.config.client_adapter import ConnectionParams
from lightkube.core import resource
from lightkube.core.exceptions import ConfigError as LightkubeError
from lightkube.core.generic_client import ALL_NS, GenericAsyncClient

from exporter.kit.fetch import BODY_LIMIT, FetchError, check_status
from exporter.sources.kubernetes_cluster import Cluster

#: Seconds that a connection may take.
_CONNECT = 10.0
#: Identity: gzip would cost both sides more than it spares, and hides how much comes.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "plimsoll"}

Kind = type[resource.Resource]


def _kind(name: str, plural: str, scope: Kind) -> Kind:
    verbs = ["get", "list", "watch", "global_list", "global_watch"]
    info = resource.ApiInfo(resource.ResourceDef("", "v1", name), plural, verbs)
    return type(name, (scope,), {"_api_info": info})


PODS = _kind("Pod", "pods", resource.NamespacedResourceG)
EVENTS = _kind("Event", "events", resource.NamespacedResourceG)
NODES = _kind("Node", "nodes", resource.GlobalResource)


class Client:
    """Of one API server, in one event loop; close() it."""

    def __init__(self, cluster: Cluster) -> None:
        self.url = cluster.url
        self._cluster = cluster
        self._client: GenericAsyncClient | None = None

    async def get(
        self,
        kind: Kind,
        seconds: float,
        *,
        name: str | None = None,
        namespace: str = "",
        query: Mapping[str, str] | None = None,
    ) -> bytearray:
        """An object; without a name a list's page, of a namespace or all. seconds: for all of it. Raises FetchError."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),
                self._answer(kind, seconds, "get" if name else "list", name, namespace, query) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > BODY_LIMIT:
                        raise FetchError("too_large", f"the page has more than {BODY_LIMIT} bytes")
        except TimeoutError:
            raise FetchError("timeout", f"no whole answer within {seconds:g} s") from None
        return body

    async def watch(
        self,
        kind: Kind,
        take: Callable[[bytes], None],
        idle: float,
        *,
        namespace: str = "",
        query: Mapping[str, str] | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """Give each whole line to `take`, without its end, until the server ends its answer after one.

        idle: seconds that it may be silent. opened: called when it has begun to answer. Raises FetchError (a line that
        is cut is "truncated" and not given) and what `take` raises.
        """
        async with self._answer(kind, idle, "list", None, namespace, query, watch=True) as response:
            opened()
            rest = bytearray()
            async for chunk in response.aiter_bytes():
                searched = len(rest)
                rest += chunk
                while (end := rest.find(b"\n", searched)) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    searched = 0
                    take(line)
                if len(rest) > BODY_LIMIT:
                    raise FetchError("too_large", f"a line has more than {BODY_LIMIT} bytes")
            if rest:
                raise FetchError("truncated", "the last line is cut")

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call] # lightkube leaves it out

    @asynccontextmanager
    async def _answer(
        self,
        kind: Kind,
        idle: float,
        method: str,
        name: str | None,
        namespace: str,
        query: Mapping[str, str] | None,
        watch: bool = False,
    ) -> AsyncIterator[httpx2.Response]:
        """The server's answer, if it is one with a body that counts."""
        client: Any = self._open()
        whole = (namespace or ALL_NS) if kind is not NODES else None
        asked = client.prepare_request(
            method, kind, name=name, namespace=whole, watch=watch, params=dict(query or {}), headers=_HEADERS
        )
        asked.timeout = httpx2.Timeout(idle, connect=min(idle, _CONNECT))
        request = client.build_adapter_request(asked)
        if self._cluster.server_name:
            request.extensions["sni_hostname"] = self._cluster.server_name
        try:
            response = await client.send(request, stream=True)
            try:
                check_status(response.status_code, response.headers.get("Retry-After", ""))
                yield response
            finally:
                await response.aclose()
        except (httpx2.HTTPError, LightkubeError, OSError, UnicodeError) as error:
            told = _told(error, idle)
            if told.reason in ("tls", "access"):
                await self.close()  # files are read when it is opened, a token that cannot be sent is not read again
            raise told from None

    def _open(self) -> GenericAsyncClient:
        if self._client is None:
            config = self._cluster.config
            try:
                self._client = GenericAsyncClient(ConnectionParams(trust_env=False), config)
            except (LightkubeError, OSError, ValueError) as error:
                files = [config.cluster.certificate_auth]
                if config.user:
                    files += [config.user.client_cert, config.user.client_key]
                names = ", ".join(filter(None, files)) or "of the kubeconfig"
                raise FetchError("access", f"file {names}: cannot be used ({error})") from None
        return self._client


#: First match wins, over the error and all that led to it.
_BY_ERROR: tuple[tuple[type[BaseException], str], ...] = (
    (httpx2.TimeoutException, "timeout"),
    (ssl.SSLError, "tls"),
    (socket.gaierror, "dns"),
    (ConnectionRefusedError, "refused"),
    (httpx2.ConnectError, "unreachable"),
    (httpx2.LocalProtocolError, "access"),  # a token that is none
    (httpx2.RemoteProtocolError, "truncated"),
    (httpx2.NetworkError, "truncated"),
    (httpx2.DecodingError, "encoding"),
    (httpx2.HTTPError, "protocol"),
    (LightkubeError, "access"),  # the token's file is gone
    (OSError, "access"),
    (UnicodeError, "access"),
)


def _told(error: BaseException, idle: float) -> FetchError:
    """In the words of the kit. What the error quotes of a token is not said."""
    chain = list(_chain(error))
    found, reason = next((each, reason) for kind, reason in _BY_ERROR for each in chain if isinstance(each, kind))
    if reason == "timeout":
        return FetchError(reason, f"nothing came for {idle:g} s")
    if isinstance(found, httpx2.LocalProtocolError | UnicodeError):
        return FetchError(reason, "the token is no single line of plain characters")
    return FetchError(reason, str(found) or type(found).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it; of several that did so at once (addresses of one name) the first."""
    while error is not None:
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
