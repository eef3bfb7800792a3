"""scaler.sources.feed against a real gRPC server that plays the exporter."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.pb import signals_pb2 as pb
from scaler.core.view import ColdStartView, EngineView, NodeView
from scaler.sources import feed
from scaler.sources.feed import Feeds, Malformed, decode
from tests.scaler.fakes import FakeExporter, engine, exporter, signals


class Clock:
    """Monotonic time that a test can push forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BACK_OFF", (0.01, 0.05))
    monkeypatch.setattr(feed, "RESOLVE_EVERY", 0.02)


class Following:
    def __init__(self, feeds: Feeds, changed: asyncio.Event) -> None:
        self.feeds = feeds
        self._changed = changed

    async def until(self, condition: Callable[[tuple[NodeView, ...]], Any]) -> tuple[NodeView, ...]:
        """The views as soon as the condition holds."""
        async with asyncio.timeout(10):
            while not condition(views := self.feeds.views()):
                self._changed.clear()
                await self._changed.wait()
        return views

    async def connected(self) -> NodeView:
        (view,) = await self.until(lambda views: views and all(view.connected for view in views))
        return view


@asynccontextmanager
async def following(*addresses: str, clock: Clock | None = None, resolve: Any = None) -> AsyncIterator[Following]:
    changed = asyncio.Event()
    feeds = Feeds(addresses, changed.set, clock or Clock(), resolve)
    task = asyncio.create_task(feeds.run())
    try:
        yield Following(feeds, changed)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_message_becomes_the_view() -> None:
    gpu = pb.Gpu(
        uuid="GPU-1", index="0", state="lost", capacity=0.0, reasons=[pb.Reason(reason="xid_79", action="reset_gpu")]
    )
    async with exporter() as fake, following(fake.address) as follow:
        fake.send(signals(engine(waiting=28, running=4, labels={"app": "x"}, gpus=["GPU-1"]), gpus=[gpu]))
        view = await follow.connected()
        (seen,) = view.engines
        assert (seen.waiting, seen.running, seen.labels, seen.gpus) == (28, 4, {"app": "x"}, ("GPU-1",))
        assert (seen.knee_running, seen.preemptions_total, seen.sleeping) == (None, None, None)  # absent is missing
        assert view.gpus[0].reasons == (("xid_79", "reset_gpu"),)
        assert (view.node, view.engine_ages, view.gpu_ages) == ("node-a", (0.1,), (0.1,))


async def test_unchanged_brings_new_ages_and_keeps_the_rest() -> None:
    async with exporter(engine(waiting=3), engine("llama-1")) as fake, following(fake.address) as follow:
        before = await follow.connected()
        fake.send(signals(unchanged=True, sequence=7, engine_age_seconds=[4.0, -1.0]))
        (after,) = await follow.until(lambda views: views[0].sequence == 7)
        assert after.engine_ages == (4.0, None)
        assert after.engines == before.engines
        assert (after.at or 0) > (before.at or 0)


ABSURD = [
    ("waiting", math.nan, "waiting is nan"),
    ("running", math.inf, "running is inf"),
    ("kv_capacity_tokens", -1.0, "kv_capacity_tokens is -1.0"),
    ("generation_tokens_total", 1e300, "generation_tokens_total is 1e+300"),
    ("kv_usage", 1.5, "kv_usage is 1.5"),
    ("capacity", 2.0, "capacity is 2.0"),
    ("seen_seconds", -1.0, "seen_seconds is -1.0"),
]


@pytest.mark.parametrize(("field", "number", "words"), ABSURD, ids=[row[0] for row in ABSURD])
def test_a_number_that_cannot_be_is_missing_for_its_engine_alone(field: str, number: float, words: str) -> None:
    message = signals(engine("a", waiting=3), engine("b", **{field: number}))
    good, bad = decode(message, NodeView("a:1", 0.0), None).engines
    assert (good.waiting, good.error) == (3, "")
    assert getattr(bad, field) in (None, 0.0)
    assert bad.error == words


def test_cold_starts_are_read_and_those_that_cannot_be_left_out() -> None:
    good = pb.ColdStart(namespace="ns", model="llama", phase="model_load", count=2, p50=60.0, p90=90.0)
    bad = [{"count": 0}, {"p50": math.nan}, {"p90": math.inf}, {"p50": -1.0}, {"p50": 90_000.0}]
    starts = [pb.ColdStart(**{"phase": "image_pull", "count": 1, "p50": 1.0, "p90": 1.0, **each}) for each in bad]
    view = decode(signals(engine(), cold_starts=[good, *starts]), NodeView("a:1", 0.0), None)
    assert view.cold_starts == (ColdStartView("ns", "llama", "model_load", 2, 60.0, 90.0),)


def test_a_gpu_whose_capacity_cannot_be_has_none() -> None:
    (gpu,) = decode(signals(gpus=[pb.Gpu(uuid="G", capacity=-1)]), NodeView("a:1", 0.0), None).gpus
    assert gpu.capacity is None


MALFORMED = [
    ("too few ages", signals(engine(), engine_age_seconds=[]), "0 ages for 1 engines"),
    ("too many ages", signals(engine_age_seconds=[1.0]), "1 ages for 0 engines"),
    ("age not a number", signals(engine(), engine_age_seconds=[math.nan]), "not finite"),
    ("GPU age infinite", signals(gpus=[pb.Gpu()], gpu_age_seconds=[math.inf]), "not finite"),
    ("unchanged from the start", signals(unchanged=True), "no full message"),
]


@pytest.mark.parametrize(("message", "words"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_malformed_message_is_refused(message: pb.NodeSignals, words: str) -> None:
    with pytest.raises(Malformed, match=words.replace("+", r"\+")):
        decode(message, NodeView("a:1", 0.0), None)


def test_unchanged_of_another_boot_is_refused() -> None:
    last = decode(signals(engine(), boot="1"), NodeView("a:1", 0.0), None)
    with pytest.raises(Malformed):
        decode(signals(unchanged=True, boot="2", engine_age_seconds=[1.0]), last, last)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        message = pb.NodeSignals.FromString(data)
    except Exception:  # protobuf's own error: gRPC ends the call with it
        return
    try:
        view = decode(message, NodeView("a:1", 0.0), None)
    except Malformed:
        return
    assert len(view.engines) == len(view.engine_ages)


async def test_a_malformed_message_harms_that_node_alone() -> None:
    async with (
        exporter(engine("a")) as good,
        exporter(engine("b", waiting=5)) as bad,
        following(good.address, bad.address) as follow,
    ):
        await follow.until(lambda views: len(views) == 2 and all(view.connected for view in views))
        bad.send(signals(engine("b", waiting=7), engine_age_seconds=[]))
        views = await follow.until(lambda views: any("malformed" in view.error for view in views))
        by_address = {view.address: view for view in views}
        assert by_address[good.address].connected
        lost = by_address[bad.address]
        assert "0 ages for 1 engines" in lost.error
        assert lost.engines[0].waiting == 5  # what was known stays, and grows old
        bad.send(signals(engine("b", waiting=6)))
        await follow.until(lambda views: all(view.connected for view in views))


async def test_an_exporter_that_restarts_is_found_again() -> None:
    async with exporter(engine()) as fake, following(fake.address) as follow:
        await follow.connected()
        await fake.stop()
        (lost,) = await follow.until(lambda views: not views[0].connected)
        assert lost.engines
        assert lost.error
        await fake.start()
        fake.send(signals(engine("llama-9"), boot="2"))
        (view,) = await follow.until(lambda views: views[0].connected)
        assert view.engines[0].pod == "llama-9"


async def test_a_clean_end_is_followed_by_a_new_stream() -> None:
    async with exporter(engine()) as fake, following(fake.address) as follow:
        await follow.connected()
        fake.end_streams()
        await follow.until(lambda views: views[0].error == "the exporter ended the feed")
        await follow.connected()


async def test_silence_is_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SILENCE", 0.2)
    async with exporter(engine()) as fake, following(fake.address) as follow:
        await follow.connected()
        (view,) = await follow.until(lambda views: not views[0].connected)
        assert view.error == "silent for 0.2 s"


async def test_an_exporter_that_never_answers_is_listed_with_its_reason() -> None:
    async with following("127.0.0.1:1") as follow:
        (view,) = await follow.until(lambda views: views and views[0].error)
        assert view.at is None
        assert view.error.startswith("UNAVAILABLE")


async def test_an_oversized_message_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LARGEST_MESSAGE", 1000)
    async with exporter(engine(labels={"x": "y" * 2000})) as fake, following(fake.address) as follow:
        (view,) = await follow.until(lambda views: views and views[0].error)
        assert view.error.startswith("RESOURCE_EXHAUSTED")


async def test_every_address_of_a_name_is_followed_and_forgotten_when_long_gone() -> None:
    first, second = FakeExporter(), FakeExporter()
    await first.start()
    await second.start()
    first.send(signals(engine("a"), node="node-a"))
    second.send(signals(engine("b"), node="node-b"))
    listed = [first.address, second.address]
    failing = False

    async def resolve(name: str) -> Iterable[str]:
        assert name == "exporters:9481"
        if failing:
            raise OSError("no such host")
        return list(listed)

    clock = Clock()
    async with following("dns:exporters:9481", clock=clock, resolve=resolve) as follow:
        await follow.until(lambda views: len(views) == 2 and all(view.connected for view in views))
        failing = True  # a name server that is down takes nobody away
        await asyncio.sleep(0.1)
        assert len(follow.feeds.views()) == 2
        failing = False
        listed.remove(second.address)
        clock.ahead += feed.FORGET_AFTER + 1
        await asyncio.sleep(0.1)
        assert len(follow.feeds.views()) == 2  # it still talks
        await second.stop()
        clock.ahead += feed.FORGET_AFTER + 1
        (view,) = await follow.until(lambda views: len(views) == 1)
        assert view.node == "node-a"
    await first.stop()


async def test_a_name_without_an_address_is_somebody_missing_and_keeps_nobody_waiting() -> None:
    asked = asyncio.Event()

    async def resolve(name: str) -> Iterable[str]:
        asked.set()
        await asyncio.Event().wait()  # a resolver that is out
        return ()

    async with exporter(engine()) as fake, following("dns:gone:9481", fake.address, resolve=resolve) as follow:
        await asked.wait()
        views = await follow.until(lambda views: any(view.connected for view in views))
        assert [(view.address, view.at) for view in views if not view.connected] == [("dns:gone:9481", None)]


async def test_a_lost_node_that_is_still_listed_is_kept() -> None:
    clock = Clock()
    async with exporter(engine()) as fake, following(fake.address, clock=clock) as follow:
        await follow.connected()
        await fake.stop()
        await follow.until(lambda views: not views[0].connected)
        clock.ahead += 10 * feed.FORGET_AFTER
        await asyncio.sleep(0.1)
        assert follow.feeds.views()[0].engines


async def test_addresses_of_a_name() -> None:
    assert "127.0.0.1:9481" in await feed.addresses("localhost:9481")
    assert await feed.addresses("[::1]:9481") == ["[::1]:9481"]


def test_every_number_of_the_wire_is_read() -> None:
    """A field that is added to the feed and forgotten here would be silently missing."""
    fields = {field.name for field in pb.Engine.DESCRIPTOR.fields}
    assert fields == set(EngineView.__struct_fields__)
