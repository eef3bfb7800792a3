"""The service against a client that speaks as KEDA does. The numbers are those of the rules in docs on KEDA."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scaler import decisions
from scaler.core import forecast
from scaler.core.trigger import METRICS
from scaler.pb import externalscaler_pb2 as pb
from tests.scaler.fakes import FakeExporter, Keda, Scaler, engine, exporter, scaler, signals

METADATA = {"model": "llama", "scalerAddress": "plimsoll-scaler.plimsoll:6000"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeExporter]:
    async with exporter(engine("llama-0", waiting=28, running=4), engine("llama-1")) as running:
        yield running


@pytest.fixture
async def running(fake: FakeExporter) -> AsyncIterator[Scaler]:
    async with scaler(fake.address) as started:
        await started.connected()
        yield started


async def test_one_poll(running: Scaler) -> None:
    """GetMetricSpec, GetMetrics, IsActive: as KEDA's loop asks every pollingInterval."""
    keda = Keda(running.ports.grpc, METADATA)
    spec = await keda.spec()
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("required-replicas", 1, 1.0)
    value, explanation = await keda.metrics(spec.metricName)
    assert value.metricName == spec.metricName
    # One replica has a queue, and 28 that wait at 5 a replica are 5.6 more.
    assert (value.metricValue, value.metricValueFloat) == (7, 6.6)
    assert "waiting=28 running=4" in explanation
    assert await keda.active()


BAD = [
    ({"modle": "llama"}, "modle"),
    ({"queueTarget": "many"}, "queueTarget"),
    ({"metric": "queue-depth", "queueTarget": "-3"}, "queueTarget"),
    ({"endpoint": "http://evil"}, "endpoint"),
    ({"model": "\u00fc" * 300}, "model"),
]


@pytest.mark.parametrize(("metadata", "key"), BAD, ids=[row[1] for row in BAD])
async def test_rule_1_a_spec_never_fails_and_bad_metadata_fails_getmetrics(
    running: Scaler, metadata: dict[str, str], key: str
) -> None:
    keda = Keda(running.ports.grpc, metadata)
    spec = await keda.spec()
    assert spec.metricName in METRICS
    assert spec.targetSizeFloat > 0
    for method in ("GetMetrics", "IsActive"):
        code, details = await keda.refused(method)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"key {key}" in details or f"key '{key}'" in details


async def test_rule_1_a_spec_needs_no_exporter_and_no_name() -> None:
    async with scaler("127.0.0.1:1") as alone:
        keda = Keda(alone.ports.grpc, {"metric": "queue-depth", "queueTarget": "2.5"}, name="")
        spec = await keda.spec()
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("queue-depth", 2, 2.5)


async def test_rule_2_no_data_is_an_error_never_0() -> None:
    async with scaler("127.0.0.1:1") as alone:
        keda = Keda(alone.ports.grpc, METADATA)
        for method in ("GetMetrics", "IsActive"):
            code, details = await keda.refused(method)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "127.0.0.1:1" in details
            assert "--exporters" in details


async def test_rule_2_stale_data_is_an_error_never_0(fake: FakeExporter, running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA)
    await keda.until(6.6)
    fake.send(signals(unchanged=True, engine_age_seconds=[60.0, 61.0]))
    code, _ = await keda.until_refused("not read for 6")
    assert code is grpc.StatusCode.UNAVAILABLE
    # One of two stale: held at the last answer, whatever the other one says.
    fake.send(signals(engine("llama-0"), engine("llama-1"), engine_age_seconds=[60.0, 0.1]))
    said = await keda.until(6.6)
    assert "holds at 6.60 or more (blind: llama-0 not read for 60 s" in said
    assert await keda.active()


async def test_rule_3_open_streams_block_no_call(running: Scaler) -> None:
    """Two open streams hung every call of a 2-thread server."""
    keda = Keda(running.ports.grpc, METADATA)
    streams = [keda.stub.StreamIsActive(keda.ref), keda.stub.StreamMetricSpec(keda.ref)]
    assert (await streams[0].read()).result
    assert (await streams[1].read()).metricSpecs
    assert (await keda.metrics())[0].metricValue == 7
    assert await keda.active()
    for stream in streams:
        stream.cancel()


async def test_rule_4_a_stream_ends_cleanly_after_its_lifetime(fake: FakeExporter) -> None:
    async with scaler(fake.address, stream_lifetime=0.2) as running:
        await running.connected()
        keda = Keda(running.ports.grpc, METADATA)
        for call in (keda.stub.StreamIsActive(keda.ref), keda.stub.StreamMetricSpec(keda.ref)):
            assert len([message async for message in call]) == 1
            assert await call.code() is grpc.StatusCode.OK


async def test_rule_4_streams_end_cleanly_at_shutdown(fake: FakeExporter) -> None:
    async with scaler(fake.address) as running:
        await running.connected()
        keda = Keda(running.ports.grpc, METADATA)
        calls = [keda.stub.StreamIsActive(keda.ref) for _ in range(20)] + [keda.stub.StreamMetricSpec(keda.ref)]
        for call in calls:
            await call.read()
        began = time.monotonic()
        running.stop.set()
        for call in calls:
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
        await running.task
        assert time.monotonic() - began < 5


async def test_rule_4_bad_metadata_is_no_error_on_a_stream(fake: FakeExporter) -> None:
    """An error would make KEDA back off for good; GetMetrics says what is wrong."""
    async with scaler(fake.address, stream_lifetime=0.2) as running:
        keda = Keda(running.ports.grpc, {"modle": "x"})
        call = keda.stub.StreamIsActive(keda.ref)
        assert [message async for message in call] == []
        assert await call.code() is grpc.StatusCode.OK


async def test_rule_5_getmetrics_and_isactive_of_one_poll_are_one_snapshot(
    fake: FakeExporter, running: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "ONE_POLL", 3600.0)  # however slow the machine is
    keda = Keda(running.ports.grpc, METADATA)
    await keda.until(6.6)
    watch = Keda(running.ports.grpc, METADATA, name="other")
    fake.send(signals(engine("llama-0"), engine("llama-1")))
    await watch.until(2.0)  # its load is known for too short a time to remove anybody; it has seen the change...
    assert await keda.active()  # ...and still gives the other half of that poll
    await keda.until(2.0)
    assert not await keda.active()


async def test_rule_6_and_7_one_value_with_both_fields(running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA)
    for asked in ("required-replicas", "s0-required-replicas", "s12-required-replicas"):
        value, _ = await keda.metrics(asked)
        assert (value.metricName, value.metricValue, value.metricValueFloat) == (asked, 7, 6.6)
    value, _ = await keda.metrics("")
    assert value.metricName == "required-replicas"
    value, _ = await keda.metrics("queue-depth")
    assert (value.metricValue, value.metricValueFloat) == (28, 28.0)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await keda.metrics("vram")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_rule_6_the_queue_depth_metric(running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA | {"metric": "queue-depth"})
    spec = await keda.spec()
    assert (spec.metricName, spec.targetSizeFloat) == ("queue-depth", 5.0)
    assert (await keda.metrics(spec.metricName))[0].metricValueFloat == 28


async def test_rule_8_names_are_fit_for_the_hpa() -> None:
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in METRICS)


async def test_rule_9_streams_have_their_own_limit(fake: FakeExporter) -> None:
    async with scaler(fake.address, streams_max=150) as running:
        await running.connected()
        keda = Keda(running.ports.grpc, METADATA)
        open_now = [keda.stub.StreamIsActive(keda.ref) for _ in range(150)]
        await asyncio.gather(*(call.read() for call in open_now))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await keda.stub.StreamMetricSpec(keda.ref).read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--streams.max" in (error.value.details() or "")
        assert len(await asyncio.gather(*(keda.metrics() for _ in range(50)))) == 50
        assert 'plimsoll_scaler_streams{method="StreamIsActive"} 150.0' in (await running.get("/metrics"))[1]
        # A client that goes gives its streams back.
        for call in open_now:
            call.cancel()
        await running.until_metric('plimsoll_scaler_streams{method="StreamIsActive"} 0.0')


async def test_rule_10_health_says_that_the_configuration_is_loaded() -> None:
    async with scaler("127.0.0.1:1") as alone:  # no exporter answers, and still
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{alone.ports.grpc}")
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "externalscaler.ExternalScaler"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        alone.stop.set()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await channel.close()


async def test_a_push_stream_tells_transitions_only(fake: FakeExporter, running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA)
    call = keda.stub.StreamIsActive(keda.ref)
    assert (await call.read()).result is True
    fake.send(signals(engine("llama-0", running=3), engine("llama-1")))  # still active: nothing is sent
    fake.send(signals(engine("llama-0"), engine("llama-1")))
    assert (await call.read()).result is False
    fake.send(signals(engine("llama-0", waiting=1), engine("llama-1")))
    assert (await call.read()).result is True
    call.cancel()


async def test_a_push_stream_is_silent_while_nothing_is_known() -> None:
    async with exporter() as fake, scaler(fake.address) as running:
        keda = Keda(running.ports.grpc, METADATA)
        call = keda.stub.StreamIsActive(keda.ref)
        reading = asyncio.ensure_future(call.read())
        await keda.refused()
        assert not reading.done()
        fake.send(signals(engine(running=1)))
        assert (await reading).result is True
        call.cancel()


async def test_the_explanation_fits_a_header(fake: FakeExporter, running: Scaler) -> None:
    pods = [engine("\u00e4" * 50 + "x" * 900 + str(i), waiting=None) for i in range(30)]
    fake.send(signals(engine("llama-0", running=4), *pods))
    said = await Keda(running.ports.grpc, METADATA).until(31.0)
    assert len(said) <= 2000
    assert said.isascii()
    assert r"\xe4" in said


async def test_garbage_on_the_port_harms_nobody(running: Scaler) -> None:
    async with AsyncExitStack() as stack:
        for size in (0, 1, 24, 1000, 100_000):
            _, writer = await asyncio.open_connection("127.0.0.1", running.ports.grpc)
            stack.callback(writer.close)
            writer.write(os.urandom(size))
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(size))
        keda = Keda(running.ports.grpc, METADATA)
        path = "/externalscaler.ExternalScaler/"
        for body in (b"", b"\xff" * 100, b"\x0a\x05ab", os.urandom(5000), b"\x0a\xff\xff\xff\xff\x0f"):
            for method in ("GetMetrics", "IsActive", "GetMetricSpec", "Nonsense"):
                call = keda.channel.unary_unary(path + method)(body, timeout=5)
                if method == "GetMetricSpec" and not body:
                    assert pb.GetMetricSpecResponse.FromString(await call).metricSpecs
                    continue
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        # Kubernetes objects may have 1.5 MiB: GetMetricSpec answers, and GetMetrics names the key.
        big = Keda(running.ports.grpc, {"model": "x" * 1_500_000})
        assert (await big.spec()).metricName == "required-replicas"
        assert (await big.refused())[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert (await keda.metrics())[0].metricValue == 7


async def test_the_scaler_looks_on_between_two_polls_though_no_stream_is_open(
    running: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "SLOT", 0.6)
    await Keda(running.ports.grpc, METADATA).metrics()
    async with asyncio.timeout(10):
        while True:
            shown = json.loads((await running.get("/debug/decision?namespace=default&name=llama"))[1])
            if shown["decided_seconds_ago"] < shown["asked_seconds_ago"]:
                break
            await asyncio.sleep(0.01)
    assert shown["answer"]["required_replicas"] == 6.6


async def test_two_scalers_give_the_same_answer(fake: FakeExporter, running: Scaler) -> None:
    async with scaler(fake.address) as second:
        await second.connected()
        answers = [await Keda(each.ports.grpc, METADATA).metrics() for each in (running, second)]
        assert answers[0][0] == answers[1][0]
