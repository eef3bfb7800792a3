"""sources/engines.py against real servers: all polled at one tick, faults kept to their target, the list read again."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exporter.core.exposition import REASONS
from exporter.core.model import EngineTarget, PodRef
from exporter.kit import fetch
from exporter.kit.config import ConfigError
from exporter.kit.fetch import Fetcher
from exporter.sources.engines import MAX_TARGETS, EngineSource, TargetFile, load_targets, targets
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
        await node.until(lambda: node.error(url) == "status")
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
        ("WARNING", f"engine fails: {url}: status 503; check the path"),
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

    async def broken(asked: str, timeout: float) -> bytes:  # noqa: ASYNC109 -- the fetcher's own signature
        if asked.endswith("broken"):
            raise ZeroDivisionError
        return await get(asked, timeout)

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


# --- the list of targets ----------------------------------------------------------------------------------------

FULL = {
    "url": "http://10.0.0.1:8000/metrics",
    "namespace": "inference",
    "pod": "llama-0",
    "container": "vllm",
    "labels": {"app": "llama", "tier": 1},
    "gpus": [0, "GPU-1/3"],
}

LISTS: dict[str, tuple[Any, tuple[EngineTarget, ...]]] = {
    "nothing": ("", ()),
    "an empty list": ([], ()),
    "a URL": ("http://a:8000/metrics", (EngineTarget("http://a:8000/metrics"),)),
    "URLs": (" http://a/m , https://b/m,", (EngineTarget("http://a/m"), EngineTarget("https://b/m"))),
    "no path": ("http://a:8000", (EngineTarget("http://a:8000/metrics"),)),
    "a slash": ("http://a:8000/", (EngineTarget("http://a:8000/metrics"),)),
    "a query": ("http://a:8000/m?x=1", (EngineTarget("http://a:8000/m?x=1"),)),
    "no path, a query": ("http://a:8000?x=1", (EngineTarget("http://a:8000/metrics?x=1"),)),
    "IPv6": ("http://[::1]:8000", (EngineTarget("http://[::1]:8000/metrics"),)),
    "a list of URLs": (["http://a/m"], (EngineTarget("http://a/m"),)),
    "a mapping": (
        [FULL],
        (
            EngineTarget(
                "http://10.0.0.1:8000/metrics",
                PodRef("inference", "llama-0", "vllm"),
                {"app": "llama", "tier": "1"},
                ("0", "GPU-1/3"),
            ),
        ),
    ),
    "empty values": ([{"url": "http://a/m", "pod": None, "labels": None, "gpus": None}], (EngineTarget("http://a/m"),)),
}


@pytest.mark.parametrize("name", LISTS)
def test_targets(name: str) -> None:
    raw, expected = LISTS[name]
    assert targets(raw) == expected


BAD_LISTS: dict[str, tuple[Any, str]] = {
    "a number": (5, "holds a int; write a list"),
    "a mapping": ({"url": "http://a"}, "holds a dict; write a list"),
    "a list of numbers": ([5], "entry 1: 5 is neither a URL nor a mapping"),
    "a list in a list": ([["http://a"]], "entry 1: .* is neither a URL nor a mapping"),
    "twice": ("http://a/m,http://a/m", "entry 2: http://a/m is there twice; remove one"),
    "twice, once without the path": ("http://a,http://a/metrics", "entry 2: http://a/metrics is there twice"),
    "no URL": ([{"pod": "x"}], "entry 1: '' is no http or https URL with a host; write http://host:port/metrics"),
    "an empty URL": ([""], "entry 1: '' is no http"),
    "a host and port": ("10.0.0.1:8000", "entry 1: '10.0.0.1:8000' is no http or https URL"),
    "a file": ("file:///etc/passwd", "is no http or https URL"),
    "no host": ("http:///metrics", "is no http or https URL"),
    "port 0": ("http://a:0/", "is no http or https URL"),
    "a port too high": ("http://a:99999/", "is no URL"),
    "half an IPv6 address": ("http://[::1/", "is no URL"),
    "credentials": ("http://user:secret@a/m", "the URL of a holds credentials"),
    "a fragment": ("http://a/m#x", "has a fragment"),
    "a blank": ("http://a/m x", "a blank or a control character"),
    "a newline": (["http://a/m\nX"], "a blank or a control character"),
    "an unknown key": ([{"url": "http://a", "port": 5}], "entry 1: key 'port' is unknown; known keys: url, namespace"),
    "a pod that is a list": ([{"url": "http://a", "pod": ["x"]}], "entry 1: key pod is no text"),
    "a URL that is a number": ([{"url": 5}], "entry 1: '5' is no http"),
    "labels that are a list": ([{"url": "http://a", "labels": ["x"]}], "entry 1: key labels is no mapping"),
    "labels in labels": ([{"url": "http://a", "labels": {"a": {}}}], "entry 1: key labels is no mapping"),
    "gpus that are a text": ([{"url": "http://a", "gpus": "0"}], "entry 1: key gpus is no list"),
    "gpus that are true": ([{"url": "http://a", "gpus": [True]}], "entry 1: key gpus is no list"),
    "too many": ([f"http://a{i}/" for i in range(MAX_TARGETS + 1)], "257 entries; at most 256 are allowed"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_names_the_entry_and_the_fix(name: str) -> None:
    raw, message = BAD_LISTS[name]
    with pytest.raises(ValueError, match=message) as caught:
        targets(raw)
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "engines.yaml"


def test_a_file_is_yaml_or_json(path: Path) -> None:
    path.write_text("- http://a/m\n- {url: http://b/m, pod: x}\n")
    expected = (EngineTarget("http://a/m"), EngineTarget("http://b/m", PodRef("", "x", "")))
    assert load_targets(str(path)) == expected
    path.write_text(json.dumps(["http://a/m", {"url": "http://b/m", "pod": "x"}]))
    assert load_targets(str(path)) == expected
    path.write_text("[]\n")
    assert load_targets(str(path)) == ()


BAD_FILES = {
    "not YAML": ("- {", "line [12] column [0-9]+: expected the node content.*; write a list"),
    "a date that is none": ("- 2026-99-99", "it is not YAML text"),
    "bytes": ("\x00\x01", "it is not YAML text"),
    "a tag": ("- !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "a tag that does not fit": ("- !!bool maybe", "it is not YAML text"),
    "empty, as while it is being written": ("# nothing yet\n", "is empty; write \\[\\] for no engines"),
    "an alias": ("- &a http://a/m\n- *a\n", "line 2 column 3: an alias"),
    "a key twice": ("- {url: http://a/m, pod: x, pod: y}", "a key that is there twice"),
    "half a character": ('["\\ud83d"]', "half a character"),
    "a mapping": ("engines: [http://a]", "holds a dict; write a list of URLs"),
    "a bad entry": ("- http://a/m\n- http://b/m\n- ftp://c\n", "entry 3: 'ftp://c' is no http"),
    "deep": ("[" * 5000, "it is not YAML text"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_names_itself(name: str, path: Path) -> None:
    content, message = BAD_FILES[name]
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^file {path}:? ?.*{message}") as caught:
        load_targets(str(path))
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); check --engines.file"):
        TargetFile(str(path))


def test_a_file_is_read_again_when_it_changes_and_a_bad_one_keeps_the_list(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.engines")
    path.write_text("- http://a/m\n")
    file = TargetFile(str(path))
    first = file()
    assert [target.url for target in first] == ["http://a/m"]
    assert file() is first  # not read again

    path.write_text("- http://a/m\n- http://b/m\n")
    assert [target.url for target in file()] == ["http://a/m", "http://b/m"]
    path.write_text("- ftp://c\n")
    for _ in range(3):
        assert len(file()) == 2
    path.unlink()
    for _ in range(3):
        assert len(file()) == 2
    other = path.with_name("other")
    other.write_text("- http://d/m\n")
    os.replace(other, path)  # as Kubernetes swaps a ConfigMap
    assert [target.url for target in file()] == ["http://d/m"]
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "ERROR", "INFO"]
    assert "entry 1: 'ftp://c'" in caplog.records[1].getMessage()
    assert "the list of before stays" in caplog.records[2].getMessage()
