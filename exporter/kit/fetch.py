"""One HTTP GET of a page, with every limit that the client library leaves to its user.

May not be in here: what the page says, which URLs are fetched, retries, certificates and tokens (tls.py).

A page counts only if it is whole: status 200, no redirect, at most BODY_LIMIT bytes after decompression, all within
the time that the caller gives. Nothing is read from the environment (proxies, .netrc). A token goes to the host of the
URL that it was given with and to no other, and over TLS alone.
"""

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import aiohttp

from exporter.kit.tls import Access, AccessError, Keys

#: Every reason for which a fetch gives nothing, and what to do about it.
REASONS: Mapping[str, str] = {
    "url": "write an http or https URL with a host",
    "dns": "check the host's name",
    "refused": "check that the server runs and the port",
    "unreachable": "check the network between here and the server",
    "tls": "check the server's certificate, and what ca_file, server_name and cert_file say",
    "access": "name files that can be read, and an https URL where a token is sent",
    "denied": "check the token and what it permits",
    "timeout": "check the server's load, or allow more time",
    "status": "check the path",
    "unavailable": "wait until it is up, or look into its log",
    "redirect": "write the URL that it leads to",
    "too_large": "point the URL at one server's metrics page",
    "encoding": "let the server send plain text or gzip",
    "truncated": "look for a proxy or a server that ends its answers early",
    "protocol": "check that the port speaks HTTP",
}

#: Bytes of a page, after decompression.
BODY_LIMIT = 8 << 20
#: Bytes from which on a page is a large one. vLLM's has 60 kB; of a server with many ranks or models, some more.
LARGE = 1 << 17
#: Bytes that are taken from a connection at once, and that one step of decompression may make.
_CHUNK, _STEP = 1 << 16, 1 << 18
#: Seconds after which an idle connection is closed: longer than the default intervals.
_KEEPALIVE = 15.0
#: Not a word of OpenMetrics: prometheus_client, which most servers are built on, takes the first mention of it for a
#: wish, whatever its quality, and then (0.26.0) writes vllm:x as vllm_x.
METRICS = "text/plain;version=0.0.4,*/*;q=0.1"
JSON = "application/json"
#: Identity: compressing costs an engine more than the few kilobytes cost a node's own network.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "plimsoll"}
#: Seconds that a server may ask to be left alone (Retry-After); more is taken for so many.
_LONGEST_REST = 60.0


class FetchError(Exception):
    """A page that did not come. `reason` is a key of REASONS; str() is one line: cause, fix.

    status: of the server's answer; 0 is none. retry_after: seconds for which the server wants no more questions.
    """

    def __init__(self, reason: str, cause: str, status: int = 0, retry_after: float = 0.0) -> None:
        # The client library quotes what a server sent.
        shown = "".join(char if char.isprintable() else " " for char in cause)
        super().__init__(f"{' '.join(shown.split())[:200]}; {REASONS[reason]}")
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class Fetcher:
    """One client for all URLs of a program; connections are kept. Use it in one event loop, and close() it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._keys = Keys()

    async def get(
        self,
        url: str,
        timeout: float,  # noqa: ASYNC109 -- a limit of the whole exchange, DNS to last byte
        access: Access | None = None,
        accept: str = METRICS,
        large: Callable[[], Awaitable[object]] | None = None,
    ) -> bytes:
        """The page's bytes. timeout: seconds for all of it. large: awaited once, before more than LARGE bytes and a
        step are kept: where many are asked, not all may be large at once. Raises FetchError, and CancelledError if
        cancelled.
        """
        with _told(url, f"no whole answer within {timeout:g} s"):
            async with asyncio.timeout(timeout), self._response(url, access, accept) as response:
                encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
                if encoding not in ("", "identity", "gzip"):
                    raise FetchError("encoding", f"content encoding {encoding[:40]!r}")
                if encoding != "gzip" and (response.content_length or 0) > BODY_LIMIT:
                    raise FetchError("too_large", f"the page has {response.content_length} bytes")
                return await _read(response.content, encoding == "gzip", large)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _response(self, url: str, access: Access | None, accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's answer, if it is one with a body that counts."""
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise FetchError("url", f"{url[:100]!r} is no http URL")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE),
                timeout=aiohttp.ClientTimeout(total=None),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        headers = {"Accept": accept}
        context: ssl.SSLContext | None = None
        if access is not None:
            try:
                context = self._keys.context(access) if scheme == "https" else None
                if access.token_file:
                    if scheme != "https":
                        raise AccessError(f"the token of {access.token_file} is not sent over plain http")
                    headers["Authorization"] = f"Bearer {self._keys.token(access.token_file)}"
            except AccessError as error:
                raise FetchError("access", str(error)) from None
        name = (access.server_name or None) if access is not None else None
        async with self._session.get(
            url, allow_redirects=False, headers=headers, ssl=context or True, server_hostname=name
        ) as response:
            check_status(response.status, response.headers.get("Retry-After", ""))
            yield response


def check_status(status: int, retry_after: str) -> None:
    """Raises FetchError unless the answer is the page. retry_after: the header of that name, "" where there is none."""
    if 300 <= status < 400:
        raise FetchError("redirect", f"status {status} leads elsewhere", status)
    if status in (401, 403):
        raise FetchError("denied", f"status {status}", status)
    if status != 200:
        asked = retry_after.strip()
        rest = min(float(asked), _LONGEST_REST) if re.fullmatch(r"[0-9]{1,9}", asked) else 0.0
        raise FetchError("unavailable" if status == 503 else "status", f"status {status}", status, rest)


@contextmanager
def _told(url: str, silence: str) -> Iterator[None]:
    """What the client library raises becomes a FetchError."""
    try:
        yield
    except TimeoutError:
        raise FetchError("timeout", silence) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError(_reason(error), f"{type(error).__name__}: {_cause(error, url)}") from None


def _cause(error: Exception, url: str) -> str:
    text = re.sub(r" ssl:(?:<[^>]*>|\w+)", "", str(error))  # the address of an object in memory
    os_error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if url.startswith("https:") and isinstance(os_error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        # What the server complains of is lost in asyncio: it comes after the handshake (TLS 1.3).
        text += " before it answered (it may want a client certificate: cert_file)"
    return text


async def _read(stream: aiohttp.StreamReader, is_gzip: bool, large: Callable[[], Awaitable[object]] | None) -> bytes:
    """All of the body, inflated step by step so that a bomb is left at the limit and not at its size."""
    pieces: list[bytes] = []
    size = 0
    inflater = zlib.decompressobj(wbits=31) if is_gzip else None
    async for chunk in stream.iter_chunked(_CHUNK):
        for piece in _inflated(inflater, chunk) if inflater else (chunk,):
            size += len(piece)
            if size > BODY_LIMIT:
                raise FetchError("too_large", f"the page has more than {BODY_LIMIT} bytes")
            if large and size > LARGE:
                await large()
                large = None
            pieces.append(piece)
    if inflater and not inflater.eof:
        raise FetchError("truncated", "the gzip data ends too early")
    return b"".join(pieces)


def _inflated(inflater: "zlib._Decompress", chunk: bytes) -> Iterator[bytes]:
    full = True
    while chunk or full:
        try:
            piece = inflater.decompress(chunk, _STEP)
        except zlib.error as error:
            raise FetchError("encoding", f"broken gzip data ({error})") from None
        yield piece
        chunk, full = inflater.unconsumed_tail, len(piece) == _STEP
    if inflater.unused_data:
        raise FetchError("encoding", "bytes after the end of the gzip data")


#: First match wins; the special before the general.
_BY_ERROR: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "dns"),
    (aiohttp.ClientSSLError, "tls"),
    (aiohttp.ClientPayloadError, "truncated"),
    (aiohttp.ServerDisconnectedError, "truncated"),
    (aiohttp.InvalidURL, "url"),
    (aiohttp.ClientResponseError, "protocol"),
    (ConnectionRefusedError, "refused"),
    (aiohttp.ClientConnectorError, "unreachable"),
    (ConnectionResetError, "truncated"),
    (aiohttp.ClientOSError, "unreachable"),
    (OSError, "unreachable"),
    (ValueError, "url"),  # a host that cannot be a name
)


def _reason(error: BaseException) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    if isinstance(cause, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "tls"  # the server's own complaint comes after the handshake (TLS 1.3): "certificate required"
    return next((reason for kind, reason in _BY_ERROR if isinstance(error, kind)), "protocol")
