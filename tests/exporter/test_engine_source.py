"""sources/engines.py against real servers: all polled at one tick, faults kept to their target."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exporter.core import engines
from exporter.core.exposition import REASONS
from exporter.core.model import PodRef
from exporter.core.model_engines import Access, EngineTarget
from exporter.kit import fetch
from exporter.kit.fetch import Fetcher
from exporter.sources.engines import EngineSource
from tests.exporter.pages import page

BUSY, IDLE = page("vllm-0.32.0-busy-queue.txt"), page("vllm-0.32.0-idle.txt")
INTERVAL = 0.05
TIMEOUT, SHORT = 20.0, 0.3  # seconds: only a hang reaches the first

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(body: bytes, status: int = 200) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, content_type="text/plain")

    return answer


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"#")
        await asyncio.sleep(0.01)


class Node:
    """Servers on one port, by path, and the source that polls them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: dict[str, int] = {}
        self.list: list[EngineTarget] = []
        self.news = asyncio.Event()
        self.fetcher = Fetcher()
        self.watched = asyncio.Event()  # the source has asked for the list
        self.source = self.polling(TIMEOUT)
        self.port = 0

    def polling(self, timeout: float) -> EngineSource:
        return EngineSource(self.targets, self.fetcher, INTERVAL, timeout, self.news.set)

    def targets(self) -> list[EngineTarget]:
        self.watched.set()
        return self.list

    def add(self, name: str, answer: Answer) -> str:
        url = f"http://127.0.0.1:{self.port}/{name}"
        self.answers[name] = answer
        self.list.append(EngineTarget(url))
        return url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path[1:]
        self.asked[name] = self.asked.get(name, 0) + 1
        return await self.answers[name](request)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for news until the condition holds."""
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def error(self, url: str) -> str | None:
        scrape = self.source.scrapes().get(url)
        return scrape.error if scrape else None

    def failed(self, url: str) -> int:
        return sum(count for (counted, _), count in self.source.errors.items() if counted == url)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    app = web.Application()
    app.router.add_get("/{name}", node.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    node.port = runner.addresses[0][1]
    yield node
    await node.fetcher.close()
    await runner.cleanup()


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[None]:
    task = asyncio.create_task(node.source.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_a_server_says_is_what_is_kept(node: Node) -> None:
    url = node.add("a", says(BUSY))
    async with running(node):
        await node.until(lambda: url in node.source.last_good())
    scrape = node.source.last_good()[url]
    assert (scrape.kind, scrape.error, scrape.message) == ("vllm", "", "")
    assert [(reading.waiting, reading.running) for reading in scrape.readings] == [(28.0, 4.0)]
    assert scrape.seconds > 0
    assert node.source.errors == {}
    (collector,) = node.source.collectors()
    assert (collector.name, collector.success, collector.message) == ("engines", True, "")
    assert collector.last_success == scrape.at


async def test_without_targets_there_is_nothing_to_fail(node: Node) -> None:
    async with running(node):
        await asyncio.sleep(0)
    (collector,) = node.source.collectors()
    assert (collector.success, collector.last_success) == (True, None)


async def test_a_change_at_the_server_is_seen_and_ages_grow(node: Node) -> None:
    url = node.add("a", says(IDLE))
    async with running(node):
        await node.until(lambda: url in node.source.last_good())
        first = node.source.last_good()[url]
        node.answers["a"] = says(BUSY)
        await node.until(lambda: node.source.last_good()[url].readings[0].waiting == 28.0)
    assert node.source.last_good()[url].at > first.at


FAULTS: dict[str, tuple[Answer, str]] = {
    "status": (says(b"oops", status=500), "status"),
    "html": (says(b"<html></html>\n"), "html"),
    "blind": (says(page("vllm-0.32.0-disable-log-stats.txt")), "blind"),
    "nan": (
        says(BUSY.replace(b'engine="0",model_name="tiny"} 28.0', b'engine="0",model_name="tiny"} NaN', 1)),
        "not_finite",
    ),
    "cut": (says(BUSY[:2000]), "truncated"),
    "long line": (says(b"#" + b"x" * (2 << 20) + b"\n"), "line_too_long"),
    "drip": (drip, "timeout"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_harms_its_own_target_only(name: str, node: Node) -> None:
    answer, reason = FAULTS[name]
    node.source = node.polling(SHORT if name == "drip" else TIMEOUT)
    bad, good = node.add("bad", answer), node.add("good", says(BUSY))
    async with running(node):
        await node.until(lambda: node.failed(bad) >= 2 and node.error(good) == "")
    assert {key: count for key, count in node.source.errors.items() if key[0] == bad} == {
        (bad, reason): node.failed(bad)
    }
    scrape = node.source.scrapes()[bad]
    assert (scrape.error, scrape.readings) == (reason, ())
    assert scrape.message.startswith(f"{bad}: ")
    assert scrape.message.endswith({**fetch.REASONS, **REASONS}[reason])
    assert bad not in node.source.last_good()
    (collector,) = node.source.collectors()
    assert not collector.success
    assert collector.message == f"1 of 2 targets fail; {scrape.message}"


async def test_one_that_drips_delays_nobody(node: Node) -> None:
    """The dripping target is asked again only when its time is up; the others at every tick."""
    slow, fast = node.add("slow", drip), node.add("fast", says(BUSY))
    async with running(node):
        await node.until(lambda: node.asked.get("fast", 0) >= 10)
    assert node.asked["slow"] == 1
    assert node.error(fast) == ""
    assert slow not in node.source.scrapes()  # its time is not up yet


async def test_a_target_is_never_asked_twice_at_once(node: Node) -> None:
    at_once = worst = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, worst
        at_once += 1
        worst = max(worst, at_once)
        await asyncio.sleep(2.5 * INTERVAL)
        at_once -= 1
        return web.Response(body=BUSY)

    node.add("slow", slow)
    async with running(node):
        await node.until(lambda: node.asked.get("slow", 0) >= 4)
    assert worst == 1


async def test_the_last_good_answer_outlives_a_fault(node: Node) -> None:
    url = node.add("a", says(BUSY))
    async with running(node):
        await node.until(lambda: node.error(url) == "")
        node.answers["a"] = says(b"", status=503)
        await node.until(lambda: node.error(url) == "unavailable")
        assert node.source.last_good()[url].readings[0].waiting == 28.0
        assert node.source.scrapes()[url].at > node.source.last_good()[url].at
        node.answers["a"] = says(IDLE)
        await node.until(lambda: node.error(url) == "")
        assert node.source.last_good()[url].readings[0].waiting == 0.0


async def test_one_line_when_it_fails_and_one_when_it_is_back(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter.engines")
    url = node.add("a", says(b"", status=503))
    async with running(node):
        await node.until(lambda: node.failed(url) >= 3)
        node.answers["a"] = says(BUSY)
        await node.until(lambda: node.error(url) == "")
        seen = node.asked["a"]
        await node.until(lambda: node.asked["a"] > seen + 1)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"engine fails: {url}: status 503; wait until it is up, or look into its log",
        ),
        ("INFO", f"engine recovered: {url}"),
    ]


async def test_a_target_that_leaves_the_list_is_forgotten(node: Node) -> None:
    bad, good = node.add("bad", says(b"", status=500)), node.add("good", says(BUSY))
    async with running(node):
        await node.until(lambda: node.failed(bad) and node.error(good) == "")
        node.list = node.list[1:]
        await node.until(lambda: bad not in node.source.scrapes())
        assert node.source.errors == {}
        node.list = []
        node.watched.clear()
        await node.watched.wait()
        await asyncio.sleep(0)  # the source takes the list over after it asked for it
        assert node.source.scrapes() == {}
    assert node.source.last_good() == {}


async def test_a_target_that_leaves_while_it_is_asked_stays_forgotten(node: Node) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go.wait()
        return web.Response(body=BUSY)

    gone, stays = node.add("gone", slow), node.add("stays", says(BUSY))
    async with running(node):
        await asked.wait()
        node.list = node.list[1:]
        seen = node.asked.get("stays", 0)
        await node.until(lambda: node.asked["stays"] > seen + 1)
        go.set()
        seen = node.asked["stays"]
        await node.until(lambda: node.asked["stays"] > seen + 1)
    assert node.source.scrapes().keys() == {stays}
    assert gone not in node.source.last_good()


async def test_a_url_twice_is_asked_once_a_tick_for_the_first(node: Node) -> None:
    url = node.add("a", says(BUSY))
    node.list.append(EngineTarget(url, PodRef("other")))
    async with running(node):
        await node.until(lambda: url in node.source.last_good())
    assert node.source.scrapes()[url].target == EngineTarget(url)
    assert node.asked["a"] == 1


async def test_a_crash_in_this_program_is_said_and_harms_one_target(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = node.add("a", says(BUSY))
    get = node.fetcher.get

    async def broken(asked: str, *rest: Any, **more: Any) -> bytes:
        if asked.endswith("broken"):
            raise ZeroDivisionError
        return await get(asked, *rest, **more)

    monkeypatch.setattr(node.fetcher, "get", broken)
    node.add("broken", says(BUSY))
    async with running(node):
        await node.until(lambda: node.asked.get("a", 0) >= 3)
    assert node.error(url) == ""
    assert node.error(url.replace("/a", "/broken")) == "crashed"
    crashes = [record for record in caplog.records if record.exc_info]
    assert len(crashes) == 1  # and not one a second
    assert "/broken: crashed (ZeroDivisionError" in crashes[0].getMessage()


async def test_stopping_leaves_no_task_behind(node: Node) -> None:
    asked = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        return await drip(request)

    node.add("slow", hang)
    async with running(node):
        await asked.wait()
        assert any("_attempt" in repr(task) for task in asyncio.all_tasks())
    assert not any("_attempt" in repr(task) for task in asyncio.all_tasks())


#: A page of sound numbers without one family that every vLLM has.
DRIFTED = BUSY.replace(b"vllm:kv_cache_usage_perc", b"vllm:kv_cache_fraction")


async def test_names_that_drifted_are_told_and_counted_and_harm_no_other_number(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.engines")
    url = node.add("a", says(BUSY))
    async with running(node):
        await node.until(lambda: url in node.source.last_good())
        node.answers["a"] = says(DRIFTED)
        await node.until(lambda: node.failed(url) >= 3)
        scrape = node.source.scrapes()[url]
        assert (scrape.error, scrape.readings[0].waiting) == ("", 28.0)
        assert scrape.lacking == ("vllm:kv_cache_usage_perc",)
        node.answers["a"] = says(BUSY)
        await node.until(lambda: not node.source.scrapes()[url].lacking)
        assert node.source.errors == {(url, "blind"): node.failed(url)}
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"engine is blind: {url}: the page of this vllm has no vllm:kv_cache_usage_perc; look for new names in the "
            "server's release notes",
        ),
        ("INFO", f"engine is blind no more: {url}"),
    ]


async def test_a_file_that_cannot_be_read_fails_its_target_only(node: Node, tmp_path: Path) -> None:
    good = node.add("good", says(BUSY))
    bad = good.replace("http:", "https:")
    node.list.append(EngineTarget(bad, access=Access(ca_file=str(tmp_path / "ca.crt"))))
    async with running(node):
        await node.until(lambda: node.error(bad) and node.error(good) == "")
    assert node.source.scrapes()[bad].message == (
        f"{bad}: file {tmp_path}/ca.crt: cannot be read (No such file or directory); name files that can be read, and "
        "an https URL where a token is sent"
    )
    assert node.error(bad) == "access"


async def test_pages_that_take_too_long_to_be_read_wait_in_turn_and_no_other_does(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight that take the whole interval each, and are refused at their end."""
    read = engines.read

    def slow(body: bytes) -> Any:
        if body != BUSY:
            time.sleep(INTERVAL)
        return read(body)

    monkeypatch.setattr(engines, "read", slow)
    bad = [node.add(f"bad{number}", says(BUSY[:2000])) for number in range(8)]
    node.add("good", says(BUSY))
    async with running(node):
        await node.until(lambda: all(node.error(url) == "truncated" for url in bad))
        seen = node.asked["good"]
        await node.until(lambda: node.asked["good"] >= seen + 3)  # that they take so long is known now
        before = dict(node.asked)
        await node.until(lambda: node.asked["good"] >= before["good"] + 8)
        asked = [node.asked[f"bad{number}"] - before[f"bad{number}"] for number in range(8)]
        assert sum(asked) <= 20  # one a tick, of all of them; else it were 64
        # Nobody starves: they take turns.
        await node.until(lambda: min(node.asked[f"bad{number}"] for number in range(8)) >= 4)
        turns = [node.asked[f"bad{number}"] for number in range(8)]
        assert max(turns) - min(turns) <= 2


async def test_only_a_few_large_pages_are_kept_at_once(node: Node) -> None:
    """The others are not read on until there is room; small ones pass by."""
    go, begun = asyncio.Event(), 0

    async def large(request: web.Request) -> web.StreamResponse:
        nonlocal begun
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"#\n" * fetch.LARGE)
        begun += 1
        node.news.set()
        await go.wait()
        await response.write(BUSY)
        return response

    urls = [node.add(f"large{number}", large) for number in range(8)]
    small = node.add("small", says(BUSY))
    async with running(node):
        await node.until(lambda: begun == 8 and node.asked["small"] >= 3)
        assert node.source._large.locked()
        assert node.error(small) == ""
        go.set()
        await node.until(lambda: set(node.source.last_good()) >= set(urls))
    assert not node.source._large.locked()
    assert node.source.errors == {}
