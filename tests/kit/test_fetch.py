"""kit/fetch.py against real servers, among them ones that break off, drip, bomb and lead elsewhere."""

import asyncio
import gzip
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from exporter.core import engines
from exporter.kit import fetch
from exporter.kit.fetch import BODY_LIMIT, METRICS, REASONS, Fetcher, FetchError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PAGE = b"vllm:num_requests_waiting 3\n" * 100
SECONDS = 5.0


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher()
    yield fetcher
    await fetcher.close()


@asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/metrics"
    await runner.cleanup()


@asynccontextmanager
async def socket_served(answer: Raw) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"


def answers(raw: bytes) -> Raw:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return answer


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte every few milliseconds, for ever: no wait for a single byte is long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"#")
        await writer.drain()
        await asyncio.sleep(0.005)


async def drip_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.005)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(PAGE * 100)
        await writer.drain()


@cache
def bomb(mebibytes: int) -> bytes:
    """A gzip of so many MiB of zeros, made piece by piece: about 1 kB for each."""
    packer = zlib.compressobj(wbits=31)
    piece = bytes(1 << 20)
    return b"".join([packer.compress(piece) for _ in range(mebibytes)] + [packer.flush()])


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer whose length is told by its end."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


GZIP = "Content-Encoding: gzip"
PACKED = gzip.compress(PAGE)
LARGE = PAGE * (BODY_LIMIT // len(PAGE) + 1)

GOOD: dict[str, bytes] = {
    "until the connection closes": http(PAGE),
    "with a length": http(PAGE, f"Content-Length: {len(PAGE)}"),
    "in chunks": http(b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE), "Transfer-Encoding: chunked"),
    "gzip": http(PACKED, GZIP),
    "gzip in capitals": http(PACKED, "Content-Encoding: GZIP"),
    "gzip of as much as is allowed": http(gzip.compress(LARGE[:BODY_LIMIT]), GZIP),
    "as much as is allowed": http(LARGE[:BODY_LIMIT]),
    "identity": http(PAGE, "Content-Encoding: identity"),
    "nothing": http(b"", "Content-Length: 0"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_whole_page_comes_through(name: str, fetcher: Fetcher) -> None:
    async with socket_served(answers(GOOD[name])) as url:
        body = await fetcher.get(url, SECONDS)
    assert body == (b"" if name == "nothing" else LARGE[:BODY_LIMIT] if "allowed" in name else PAGE)


BAD: dict[str, tuple[Raw, str]] = {
    "404": (answers(http(b"no", status="404 Not Found")), "status"),
    "500": (answers(http(b"oops", status="500 Internal Server Error")), "status"),
    "401": (answers(http(b"", status="401 Unauthorized")), "denied"),
    "403": (answers(http(b"", status="403 Forbidden")), "denied"),
    "503": (answers(http(b"", status="503 Service Unavailable")), "unavailable"),
    "204": (answers(http(b"", status="204 No Content")), "status"),
    "206": (answers(http(PAGE, status="206 Partial Content")), "status"),
    "301": (answers(http(b"", "Location: http://127.0.0.1:1/", status="301 Moved")), "redirect"),
    "302": (answers(http(b"", "Location: file:///etc/passwd", status="302 Found")), "redirect"),
    "307 to itself": (answers(http(b"", "Location: /metrics", status="307 Temporary")), "redirect"),
    "308 without a place": (answers(http(b"", status="308 Permanent")), "redirect"),
    "declared too large": (answers(http(b"", f"Content-Length: {BODY_LIMIT + 1}")), "too_large"),
    "a byte too large": (answers(http(LARGE[: BODY_LIMIT + 1])), "too_large"),
    "endless": (endless, "too_large"),
    "gzip bomb of 1 GiB": (answers(http(bomb(1024), GZIP)), "too_large"),
    "gzip of a byte too much": (answers(http(gzip.compress(LARGE[: BODY_LIMIT + 1]), GZIP)), "too_large"),
    "gzip, cut": (answers(http(PACKED[:-9], GZIP)), "truncated"),
    "gzip, empty": (answers(http(b"", GZIP)), "truncated"),
    "gzip, broken": (answers(http(PACKED[:20] + b"x" * 20, GZIP)), "encoding"),
    "gzip, wrong checksum": (answers(http(PACKED[:-8] + b"\0" * 8, GZIP)), "encoding"),
    "gzip in name only": (answers(http(PAGE, GZIP)), "encoding"),
    "gzip twice over": (answers(http(PACKED + PACKED, GZIP)), "encoding"),
    "gzip, then rubbish": (answers(http(PACKED + b"rubbish", GZIP)), "encoding"),
    "deflate": (answers(http(zlib.compress(PAGE), "Content-Encoding: deflate")), "encoding"),
    "brotli": (answers(http(PAGE, "Content-Encoding: br")), "encoding"),
    "gzip in gzip": (answers(http(gzip.compress(PACKED), "Content-Encoding: gzip, gzip")), "encoding"),
    "shorter than it said": (answers(http(PAGE, f"Content-Length: {len(PAGE) + 1}")), "truncated"),
    "chunks that end too early": (answers(http(b"fff\r\nx", "Transfer-Encoding: chunked")), "truncated"),
    "no answer": (answers(b""), "truncated"),
    "half a header": (answers(b"HTTP/1.1 200 OK\r\nContent-"), "truncated"),
    "no HTTP": (answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "protocol"),
    "a header line of 1 MB": (answers(http(b"", "X: " + "x" * 1_000_000)), "protocol"),
    "a length that is no number": (answers(http(b"", "Content-Length: many")), "protocol"),
    "drip": (drip, "timeout"),
    "drip in the headers": (drip_headers, "timeout"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_not_a_whole_page_is_an_error(name: str, fetcher: Fetcher) -> None:
    answer, reason = BAD[name]
    async with socket_served(answer) as url:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(url, 0.3 if reason == "timeout" else SECONDS)
    assert caught.value.reason == reason
    message = str(caught.value)
    assert message.isprintable()
    assert message.endswith(f"; {REASONS[reason]}")
    assert len(message) < 300


async def test_a_closed_port_is_refused(fetcher: Fetcher) -> None:
    async with socket_served(answers(b"")) as url:
        pass
    with pytest.raises(FetchError) as caught:
        await fetcher.get(url, SECONDS)
    assert caught.value.reason == "refused"


async def test_a_name_that_does_not_resolve(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(FetchError) as caught:
        await fetcher.get("http://vllm-0.inference:8000/metrics", SECONDS)
    assert caught.value.reason == "dns"


async def test_https_to_a_port_without_tls(fetcher: Fetcher) -> None:
    async with served(_page) as url:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(url.replace("http:", "https:"), SECONDS)
    assert caught.value.reason == "tls"


URLS = {
    "a file": "file:///etc/passwd",
    "a gopher": "gopher://127.0.0.1/",
    "no scheme": "127.0.0.1:80/metrics",
    "no host": "http:///metrics",
    "a port that is none": "http://127.0.0.1:99999/metrics",
    "a host that cannot be a name": f"http://{'a' * 64}.example/metrics",
    "nothing": "",
}


@pytest.mark.parametrize("name", URLS)
async def test_a_url_that_leads_nowhere(name: str, fetcher: Fetcher) -> None:
    with pytest.raises(FetchError) as caught:
        await fetcher.get(URLS[name], SECONDS)
    assert caught.value.reason == "url"


async def _page(request: web.Request) -> web.Response:
    return web.Response(body=PAGE)


async def test_a_bomb_costs_no_more_memory_than_two_pages(fetcher: Fetcher) -> None:
    async with socket_served(answers(http(bomb(1024), GZIP))) as url:
        tracemalloc.start()
        try:
            with pytest.raises(FetchError, match="more than 8388608 bytes"):
                await fetcher.get(url, SECONDS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert BODY_LIMIT / 2 < peak <= 16 << 20  # it was inflated, and left


async def test_connections_are_kept_and_errors_leave_none_open(fetcher: Fetcher) -> None:
    peers = set()

    async def page(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        assert request.headers["Accept-Encoding"] == "identity"
        assert "Authorization" not in request.headers
        return web.Response(body=PAGE)

    async with served(page) as url:
        for _ in range(5):
            await fetcher.get(url, SECONDS)
        assert len(peers) == 1
    tasks = len(asyncio.all_tasks())
    for _ in range(5):
        async with socket_served(endless) as bad:
            with pytest.raises(FetchError):
                await fetcher.get(bad, SECONDS)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= tasks + 1


async def test_proxies_of_the_environment_are_not_asked(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with served(_page) as url:
        assert await fetcher.get(url, SECONDS) == PAGE


async def test_cookies_are_not_kept(fetcher: Fetcher) -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        assert not request.cookies
        response = web.Response(body=PAGE)
        response.set_cookie("session", "1")
        return response

    async with served(page) as url:
        for _ in range(2):
            assert await fetcher.get(url, SECONDS) == PAGE


async def test_a_cancelled_fetch_is_cancelled(fetcher: Fetcher) -> None:
    begun = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()

    async with socket_served(hang) as url:
        task = asyncio.create_task(fetcher.get(url, SECONDS))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_an_unused_fetcher() -> None:
    await Fetcher().close()


async def test_a_large_page_is_told_once_before_it_is_kept(fetcher: Fetcher) -> None:
    told: list[int] = []

    async def large() -> None:
        told.append(1)

    for size, times in ((fetch.LARGE, 0), (fetch.LARGE + 1, 1), (8 * fetch.LARGE, 1)):
        told.clear()
        async with socket_served(answers(http(b"x" * size))) as url:
            assert len(await fetcher.get(url, SECONDS, large=large)) == size
        assert len(told) == times


RESTS = {"": 0.0, "7": 7.0, "0": 0.0, "86400": 60.0, "-1": 0.0, "soon": 0.0, "Wed, 21 Oct 2026 07:28:00 GMT": 0.0}


@pytest.mark.parametrize("text", RESTS)
async def test_how_long_a_server_wants_to_be_left_alone(text: str, fetcher: Fetcher) -> None:
    async with socket_served(answers(http(b"", f"Retry-After: {text}", status="429 Too Many Requests"))) as url:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(url, SECONDS)
    assert (caught.value.status, caught.value.retry_after) == (429, RESTS[text])


def test_a_server_built_on_the_client_library_answers_with_the_names_it_declares():
    """It takes any mention of OpenMetrics in Accept for a wish, and writes names with colons otherwise there."""
    registry = CollectorRegistry()
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
        Gauge(name, ".", ("model_name", "engine"), registry=registry).labels("tiny", "0").set(1)
    encode, _ = choose_encoder(METRICS)
    page = encode(registry) + b"# TYPE last gauge\nlast 1\n"
    assert [reading.waiting for reading in engines.read(page).readings] == [1.0]
