"""feed.py: what a scaler hears, over real gRPC on loopback."""

import asyncio
import math
import socket

import grpc
import pytest
from msgspec.structs import replace

from exporter import feed as feed_module
from exporter.core.model import PodRef, Verdict, XidSeen
from exporter.core.model_engines import Diagnosis, EngineTarget, Learned
from exporter.core.node import NodeMemory, step
from exporter.feed import MAX_STREAMS, Feed
from exporter.kit.config import ConfigError
from exporter.pb import signals_pb2 as pb
from exporter.pb.signals_pb2_grpc import SignalsStub
from tests.exporter.build import NODE, START, failure, full, inputs, reading, sample, scrape, target

PATIENCE = 5.0  # seconds: only a hang reaches it


@pytest.fixture
async def feed():
    feed = Feed()
    feed.port = await feed.serve(("127.0.0.1", 0), "feed.listen-address")
    yield feed
    await feed.stop()


@pytest.fixture
async def watch(feed):
    """watch() -> a stream of the feed."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{feed.port}") as channel:
        yield lambda: SignalsStub(channel).Watch(pb.WatchRequest(client="test"), timeout=60)


@pytest.fixture
def no_wait(monkeypatch):
    """Heartbeats are due at every snapshot."""
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.0)


@pytest.fixture
def no_heartbeat(monkeypatch):
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", math.inf)


async def read(stream):
    message = await asyncio.wait_for(stream.read(), PATIENCE)
    assert message is not grpc.aio.EOF
    return message


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- what the server notices of a client has no event
            await asyncio.sleep(0.01)


def later(snapshot, seconds=1.0):
    """The same node with the same readings, only older."""
    return replace(snapshot, at=snapshot.at + seconds, sequence=snapshot.sequence + 1)


def with_waiting(snapshot, waiting):
    engine = replace(snapshot.engines[0], reading=reading(waiting=waiting))
    return replace(later(snapshot), engines=(engine, *snapshot.engines[1:]))


async def test_the_whole_state_comes_at_once(feed, watch):
    feed.publish(later(full(), 2.0))
    message = await read(watch())
    assert (message.node, message.sequence, message.unchanged) == (NODE, 2, False)
    assert len(message.boot) == 32
    assert list(message.engine_age_seconds) == list(message.gpu_age_seconds) == [2.0] * 8
    engine = message.engines[1]
    assert (engine.endpoint, engine.namespace, engine.pod) == (target(1).url, "inference", "llama-1")
    assert (engine.container, engine.model, engine.engine, engine.kind) == ("vllm", reading().model, "0", "vllm")
    assert (dict(engine.labels), engine.seen_seconds, engine.error) == ({"app": "llama"}, 2.0, "")
    assert (engine.waiting, engine.running, engine.kv_usage, engine.kv_capacity_tokens) == (3, 7, 0.25, 100000)
    assert (engine.prompt_tokens_total, engine.generation_tokens_total) == (12345, 67890)
    assert (engine.requests_finished_total, engine.preemptions_total, engine.rejections_total) == (106, 1, 0)
    assert (engine.HasField("sleeping"), engine.sleeping) == (True, False)
    assert (list(engine.gpus), engine.health, engine.capacity) == (["GPU-0001"], "healthy", 1.0)
    assert engine.cause == "saturated"
    gpu = message.gpus[0]
    assert (gpu.uuid, gpu.instance, gpu.index, gpu.name) == ("GPU-0000", "", "0", "NVIDIA H100 80GB HBM3")
    assert (gpu.state, gpu.capacity, gpu.since_seconds, dict(gpu.xids)) == ("lost", 0.0, 2.0, {79: 1, 13: 1})
    assert ("xid_79", "reboot_node") in [(reason.reason, reason.action) for reason in gpu.reasons]


async def test_a_node_with_neither_gpus_nor_engines_is_heard_too(feed, watch):
    feed.publish(step(NodeMemory(), inputs(), START)[0])
    message = await read(watch())
    assert (message.node, message.unchanged, len(message.engines)) == (NODE, False, 0)


async def test_what_is_missing_is_absent_and_never_zero(feed, watch):
    nothing = reading(**dict.fromkeys(("waiting", "running", "kv_usage", "finished", "sleeping", "rejections_total")))
    unread = target(1)
    said = inputs(
        [scrape(target(0), nothing)], targets=(target(0), unread), scrapes={unread.url: failure(unread, START)}
    )
    feed.publish(step(NodeMemory(), said, START + 1)[0])
    message = await read(watch())
    read_one, never = message.engines
    for field in ("waiting", "running", "kv_usage", "requests_finished_total", "sleeping", "rejections_total"):
        assert not read_one.HasField(field), field
    for field in ("capacity", "saturation", "requests_per_second", "knee_running", "service_rate"):
        assert not never.HasField(field), field
    assert list(message.engine_age_seconds) == [1.0, -1.0]
    assert (never.endpoint, never.model, never.error, never.health) == (unread.url, "", "timeout", "unknown")


async def test_what_is_not_finite_is_absent(feed, watch):
    snapshot = full(1)
    engine = replace(
        snapshot.engines[0],
        reading=reading(waiting=math.nan, running=math.inf, finished={"stop": math.inf}),
        saturation=-math.inf,
        learned=Learned(math.nan, math.inf, math.nan, math.inf, 3.0, math.nan, math.inf, -math.inf, 5.0),
    )
    feed.publish(replace(snapshot, engines=(engine,)))
    shown = (await read(watch())).engines[0]
    learned = [name for name in Learned.__struct_fields__ if name not in ("queued_seconds", "pace_seconds")]
    for field in ("waiting", "running", "requests_finished_total", "saturation", *learned):
        assert not shown.HasField(field), field
    assert (shown.queued_seconds, shown.pace_seconds) == (3.0, 5.0)


async def test_the_pace_travels(feed, watch):
    snapshot = full(1)
    learned = Learned(step_seconds=0.0118, sequence_seconds=0.000133, prompt_token_seconds=0.0, pace_seconds=90.0)
    feed.publish(replace(snapshot, engines=(replace(snapshot.engines[0], learned=learned),)))
    shown = (await read(watch())).engines[0]
    pace = shown.step_seconds, shown.sequence_seconds, shown.prompt_token_seconds, shown.pace_seconds
    assert pace == (0.0118, 0.000133, 0.0, 90.0)
    assert shown.HasField("prompt_token_seconds")


async def test_a_subscriber_before_the_first_snapshot_waits_for_it(feed, watch):
    stream = watch()
    first = asyncio.create_task(read(stream))
    await until(lambda: feed.subscribers == 1)
    feed.publish(full())
    assert (await first).sequence == 1


async def test_a_change_is_sent_at_once_and_growing_ages_are_a_heartbeat(feed, watch, no_wait):
    snapshot = full()
    feed.publish(snapshot)
    stream = watch()
    assert not (await read(stream)).unchanged
    feed.publish(older := later(snapshot))
    beat = await read(stream)
    assert (beat.unchanged, beat.sequence, len(beat.engines), len(beat.gpus)) == (True, 2, 0, 0)
    assert list(beat.engine_age_seconds) == list(beat.gpu_age_seconds) == [1.0] * 8
    assert beat.node == NODE
    feed.publish(with_waiting(older, 4.0))
    change = await read(stream)
    assert (change.unchanged, change.engines[0].waiting, change.sequence) == (False, 4.0, 3)


CHANGES = [
    ("waiting", lambda s: with_waiting(s, 0.0)),
    ("a verdict", lambda s: _gpu(s, verdict=Verdict("degraded", (("x", "y"),), START, 1, 0.5))),
    ("an Xid", lambda s: _gpu(s, xids={13: XidSeen(2, START)})),
    ("an engine's error", lambda s: _engine(s, error="timeout")),
    ("a cause", lambda s: _engine(s, diagnosis=Diagnosis("wedged"))),
    ("what was learned", lambda s: _engine(s, learned=Learned(9.0, queued_seconds=30.0))),
    ("its pace", lambda s: _engine(s, learned=Learned(None, None, None, None, 0.0, 0.01, 1e-4, 1e-4, 30.0))),
    ("an engine less", lambda s: replace(later(s), engines=s.engines[1:])),
    ("a GPU less", lambda s: replace(later(s), gpus=s.gpus[1:])),
    ("a label", lambda s: _engine(s, target=replace(s.engines[0].target, labels={"app": "x"}))),
    ("a capacity that is unknown", lambda s: _engine(s, capacity=None)),
]


def _gpu(snapshot, **changes):
    return replace(later(snapshot), gpus=(replace(snapshot.gpus[0], **changes), *snapshot.gpus[1:]))


def _engine(snapshot, **changes):
    return replace(later(snapshot), engines=(replace(snapshot.engines[0], **changes), *snapshot.engines[1:]))


@pytest.mark.parametrize("change", [row[1] for row in CHANGES], ids=[row[0] for row in CHANGES])
async def test_everything_but_an_age_is_a_change(feed, watch, no_heartbeat, change):
    snapshot = full()
    feed.publish(snapshot)
    stream = watch()
    await read(stream)
    feed.publish(later(snapshot))  # only older: with heartbeats off nothing is sent
    feed.publish(changed := change(later(snapshot)))
    message = await read(stream)
    assert (message.unchanged, message.sequence) == (False, changed.sequence)


async def test_a_heartbeat_is_not_sent_more_often_than_about_once_a_second(feed, watch, no_heartbeat):
    snapshot = full()
    feed.publish(snapshot)
    stream = watch()
    await read(stream)
    for _ in range(10):
        snapshot = later(snapshot, 0.1)
        feed.publish(snapshot)
        await asyncio.sleep(0)
    assert feed.messages == 1


async def test_a_node_that_idles_sends_nothing_but_heartbeats(feed, watch, no_wait):
    """Read every second for two minutes: no rate, quantile or learned number moves where nothing happens."""
    at, memory = START, NodeMemory()
    for _ in range(40):  # until what was there before the first look has left the window
        _, memory = step(memory, idle(at), at)
        at += 1.0
    snapshot, memory = step(memory, idle(at), at)
    feed.publish(snapshot)
    stream = watch()
    assert not (await read(stream)).unchanged
    for _ in range(120):
        at += 1.0
        snapshot, memory = step(memory, idle(at), at)
        feed.publish(snapshot)
        assert (await read(stream)).unchanged


def idle(at):
    quiet = reading(waiting=0.0, running=0.0, kv_usage=0.0)
    return inputs(
        [scrape(target(index), quiet, at=at) for index in range(8)], [sample(index, at) for index in range(8)]
    )


async def test_who_reads_slowly_gets_the_newest_and_nothing_piles_up(feed, watch):
    snapshot = full(64)
    feed.publish(snapshot)
    stream = watch()
    await read(stream)
    before = feed.messages
    # Far more than the sockets' buffers hold, while nobody reads.
    for turn in range(2000):
        snapshot = with_waiting(snapshot, float(turn))
        feed.publish(snapshot)
        await asyncio.sleep(0)
    last = snapshot.sequence
    read_count = 0
    while (await read(stream)).sequence != last:
        read_count += 1
    assert read_count < 2000
    assert feed.messages - before < 2000


async def test_every_subscriber_hears_the_same_and_counts(feed, watch):
    feed.publish(full())
    streams = [watch() for _ in range(5)]
    first = [await read(stream) for stream in streams]
    assert len({message.SerializeToString(deterministic=True) for message in first}) == 1
    assert (feed.subscribers, feed.messages) == (5, 5)


async def test_streams_are_capped_and_one_that_ends_makes_room(feed, watch):
    feed.publish(full(1))
    streams = [watch() for _ in range(MAX_STREAMS)]
    await asyncio.gather(*map(read, streams))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watch().read()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_STREAMS) in (refused.value.details() or "")
    assert feed.subscribers == MAX_STREAMS
    streams[0].cancel()
    await until(lambda: feed.subscribers < MAX_STREAMS)
    assert (await read(watch())).sequence == 1


async def test_a_stop_ends_every_stream_cleanly(feed, watch):
    feed.publish(full())
    streams = [watch() for _ in range(3)]
    for stream in streams:
        await read(stream)
    await asyncio.wait_for(feed.stop(), PATIENCE)
    for stream in streams:
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
    assert feed.subscribers == 0


async def test_another_run_has_another_name(feed, watch):
    feed.publish(full())
    other = Feed()
    port = await other.serve(("127.0.0.1", 0), "x")
    other.publish(full())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert (await read(SignalsStub(channel).Watch(pb.WatchRequest()))).boot != (await read(watch())).boot
    await other.stop()


async def test_garbage_on_the_port_harms_nobody_else(feed, watch):
    feed.publish(full())
    reader, writer = await asyncio.open_connection("127.0.0.1", feed.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert (await read(watch())).sequence == 1


async def test_a_request_that_is_no_message_is_an_error_of_its_own(feed, watch):
    feed.publish(full())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{feed.port}") as channel:
        call = channel.unary_stream("/plimsoll.v1.Signals/Watch")(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert (await read(watch())).sequence == 1


async def test_a_name_that_is_no_text_does_not_cost_the_feed(feed, watch):
    odd = EngineTarget("http://x/", PodRef(pod="a\ud800b"), {"k": "\ud800"})
    feed.publish(step(NodeMemory(), inputs([scrape(odd)]), START)[0])
    assert (await read(watch())).engines[0].pod == "a?b"


async def test_an_address_that_is_taken_is_one_line_that_names_the_option(feed):
    with pytest.raises(ConfigError) as error:
        await Feed().serve(("127.0.0.1", feed.port), "feed.listen-address")
    place = f"127.0.0.1:{feed.port}"
    expected = f"option feed.listen-address: cannot listen on {place} (Address already in use); choose a free address"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "a" * 70, "192.0.2.1"], ids=["no name", "no label", "not ours"]
)
async def test_a_host_that_is_not_here_is_one_line(host):
    with pytest.raises(ConfigError) as error:
        await Feed().serve((host, 0), "feed.listen-address")
    line = str(error.value)
    assert line.startswith(f"option feed.listen-address: cannot listen on {host}:0 (")
    assert line.endswith("); choose a free address")


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "localhost"])
async def test_addresses_that_are_here(host):
    feed = Feed()
    try:
        port = await feed.serve((host, 0), "feed.listen-address")
    except ConfigError:
        assert host == "::1", "only IPv6 may be switched off"
        return
    with socket.create_connection((host or "127.0.0.1", port)):
        pass
    await feed.stop()
