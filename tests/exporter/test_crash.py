"""A fault of our own in a source's task: it is told on every page, and the source goes on."""

import asyncio

import pytest

from exporter.core import dcgm, engines
from exporter.core.model_engines import EngineTarget
from exporter.kit import tasks
from exporter.kit.fetch import Fetcher
from exporter.sources import demo
from exporter.sources.dcgm import DcgmSource
from exporter.sources.demo import DemoSource
from exporter.sources.engines import EngineSource
from tests.support.engines import FakeEngine, fixture

PATIENCE = 5.0  # seconds: only a hang reaches it
ENGINE_PAGE = fixture("vllm-0.32.0-idle.txt")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.01)


@pytest.fixture
async def fetcher():
    fetcher = Fetcher()
    yield fetcher
    await fetcher.close()


class News:
    """Waits for a collector's word."""

    def __init__(self):
        self._event = asyncio.Event()

    def __call__(self):
        self._event.set()

    async def until(self, source, success):
        async with asyncio.timeout(PATIENCE):
            while (collector := source.collectors()[0]).success is not success:
                self._event.clear()
                await self._event.wait()
        return collector


def broken(*_):
    raise ZeroDivisionError("odd")


async def test_dcgm(fetcher, monkeypatch):
    page = 'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a"} 40\n'
    read, news = dcgm.scrape, News()
    monkeypatch.setattr(dcgm, "scrape", broken)
    with FakeEngine(page) as server:
        source = DcgmSource(server.url, fetcher, interval=0.01)
        source.start(news)
        await asyncio.wait_for(news._event.wait(), PATIENCE)
        assert "dcgm: crashed (ZeroDivisionError: odd)" in source.collectors()[0].message
        monkeypatch.setattr(dcgm, "scrape", read)
        assert (await news.until(source, True)).message == ""
        await source.stop()


async def test_demo(monkeypatch):
    readings, news = demo.readings, News()
    monkeypatch.setattr(demo, "readings", broken)
    source = DemoSource()
    source.start(news)
    assert "demo: crashed (ZeroDivisionError: odd)" in (await news.until(source, False)).message
    monkeypatch.setattr(demo, "readings", readings)
    assert (await news.until(source, True)).message == ""
    await source.stop()


async def test_a_server(fetcher, monkeypatch):
    read, news = engines.read, News()
    monkeypatch.setattr(engines, "read", broken)
    with FakeEngine(ENGINE_PAGE) as server:
        watched = (EngineTarget(server.url),)
        source = EngineSource(lambda: watched, fetcher, 0.01, 2.0, news)
        task = asyncio.create_task(source.run())
        failed = await news.until(source, False)
        assert f"{server.url}: crashed (ZeroDivisionError: odd)" in failed.message
        assert source.errors[server.url, "crashed"] > 0
        monkeypatch.setattr(engines, "read", read)
        await news.until(source, True)
        assert source.scrapes()[server.url].readings
        task.cancel()
