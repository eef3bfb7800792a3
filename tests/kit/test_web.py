"""kit/web.py: the limits of the web server, over real sockets."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web

from exporter.kit.config import ConfigError
from exporter.kit.web import KEEPALIVE_SECONDS, SECURITY_HEADERS, application, serve


async def hello(request):
    return web.Response(text="hello")


async def crash(request):
    raise RuntimeError("a secret of the program")


async def read(request):
    return web.Response(text=str(len(await request.read())))


@pytest.fixture
async def site():
    app = application()
    app.add_routes([web.get("/", hello), web.get("/crash", crash), web.post("/read", read)])
    runner, port = await serve(app, ("127.0.0.1", 0), "web.listen-address")
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/nowhere", 404), ("/crash", 500)])
async def test_every_answer_has_the_security_headers(site, path, status, caplog):
    async with aiohttp.ClientSession() as client, client.get(site + path) as answer:
        text = await answer.text()
        assert answer.status == status
        assert "secret" not in text
        assert bool(caplog.records) is (status == 500), "a fault of ours is logged"
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value


async def test_a_large_body_is_refused(site):
    async with aiohttp.ClientSession() as client:
        async with client.post(site + "/read", data=b"x" * 1000) as answer:
            assert await answer.text() == "1000"
        async with client.post(site + "/read", data=b"x" * 100_000) as answer:
            assert answer.status == 413


GARBAGE = [
    b"\x16\x03\x01 not HTTP at all\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["TLS", "version", "length", "long line"])
async def test_garbage_harms_nobody_else_and_is_not_worth_a_line(site, garbage, caplog):
    port = int(site.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(garbage)
    assert b"400" in await asyncio.wait_for(reader.read(100), 5)
    writer.close()
    assert not caplog.records
    async with aiohttp.ClientSession() as client, client.get(site) as answer:
        assert answer.status == 200


async def test_an_idle_connection_is_not_kept_for_an_hour():
    runner, _ = await serve(application(), ("127.0.0.1", 0), "x")
    assert runner.server is not None
    assert runner.server._kwargs["keepalive_timeout"] == KEEPALIVE_SECONDS
    await runner.cleanup()


async def test_an_address_that_is_taken_is_one_line_that_names_the_option():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            await serve(application(), ("127.0.0.1", port), "web.listen-address")
    expected = (
        f"option web.listen-address: cannot listen on 127.0.0.1:{port} (Address already in use); choose a free address"
    )
    assert str(error.value) == expected


@pytest.mark.parametrize("host", ["256.1.1.1.invalid", "a" * 70, "192.0.2.1"], ids=["no name", "no label", "not ours"])
async def test_a_host_that_is_not_here_is_one_line(host):
    with pytest.raises(ConfigError) as error:
        await serve(application(), (host, 0), "web.listen-address")
    line = str(error.value)
    assert line.startswith(f"option web.listen-address: cannot listen on {host}:0 (")
    assert line.endswith("); choose a free address")
    assert "\n" not in line
