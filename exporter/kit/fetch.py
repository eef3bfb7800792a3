"""One HTTP GET of a page, with every limit that the client library leaves to its user.

May not be in here: what the page says, which URLs are fetched, retries.

A page counts only if it is whole: status 200, no redirect, at most BODY_LIMIT bytes after decompression, all within
the time that the caller gives. Nothing is read from the environment (proxies, .netrc).
"""

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import aiohttp

#: Every reason for which a fetch gives nothing, and what to do about it.
REASONS: Mapping[str, str] = {
    "url": "write an http or https URL with a host",
    "dns": "check the host's name",
    "refused": "check that the server runs and the port",
    "unreachable": "check the network between here and the server",
    "tls": "check the server's certificate",
    "timeout": "check the server's load, or allow more time",
    "status": "check the path",
    "redirect": "write the URL that it leads to",
    "too_large": "point the URL at one server's metrics page",
    "encoding": "let the server send plain text or gzip",
    "truncated": "look for a proxy or a server that ends its answers early",
    "protocol": "check that the port speaks HTTP",
}

#: Bytes of a page, after decompression.
BODY_LIMIT = 8 << 20
#: Bytes that one step of decompression may make.
_STEP = 1 << 18
#: Seconds after which an idle connection is closed: longer than the default intervals.
_KEEPALIVE = 15.0
#: Identity: compressing costs an engine more than the few kilobytes cost a node's own network.
_HEADERS = {
    "Accept": "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": "plimsoll",
}


class FetchError(Exception):
    """A page that did not come. `reason` is a key of REASONS; str() is one line: cause, fix."""

    def __init__(self, reason: str, cause: str) -> None:
        # The client library quotes what a server sent.
        shown = "".join(char if char.isprintable() else " " for char in cause)
        super().__init__(f"{' '.join(shown.split())[:200]}; {REASONS[reason]}")
        self.reason = reason


class Fetcher:
    """One client for all URLs of a program; connections are kept. Use it in one event loop, and close() it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, timeout: float) -> bytes:  # noqa: ASYNC109 -- a limit of the whole exchange, DNS to last byte
        """The page's bytes. timeout: seconds for all of it. Raises FetchError, and CancelledError if cancelled."""
        try:
            async with asyncio.timeout(timeout):
                return await self._get(url)
        except TimeoutError:
            raise FetchError("timeout", f"no whole answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(_reason(error), f"{type(error).__name__}: {error}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str) -> bytes:
        if urlsplit(url).scheme not in ("http", "https"):
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
        async with self._session.get(url, allow_redirects=False) as response:
            if 300 <= response.status < 400:
                raise FetchError("redirect", f"status {response.status} leads elsewhere")
            if response.status != 200:
                raise FetchError("status", f"status {response.status}")
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity", "gzip"):
                raise FetchError("encoding", f"content encoding {encoding[:40]!r}")
            if encoding != "gzip" and (response.content_length or 0) > BODY_LIMIT:
                raise FetchError("too_large", f"the page has {response.content_length} bytes")
            return await _read(response.content, encoding == "gzip")


async def _read(stream: aiohttp.StreamReader, is_gzip: bool) -> bytes:
    """All of the body, inflated step by step so that a bomb is left at the limit and not at its size."""
    pieces: list[bytes] = []
    size = 0
    inflater = zlib.decompressobj(wbits=31) if is_gzip else None
    async for chunk in stream.iter_any():
        for piece in _inflated(inflater, chunk) if inflater else (chunk,):
            size += len(piece)
            if size > BODY_LIMIT:
                raise FetchError("too_large", f"the page has more than {BODY_LIMIT} bytes")
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
    return next((reason for kind, reason in _BY_ERROR if isinstance(error, kind)), "protocol")
