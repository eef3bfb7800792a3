"""The scaler's pages and metrics, over HTTP."""

import json
import re
from collections.abc import AsyncIterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from exporter.core import catalog
from exporter.pb import signals_pb2 as pb
from tests.scaler.fakes import Keda, Scaler, engine, exporter, scaler, signals

METADATA = {"model": "llama", "queueTarget": "10", "secretFromEnv": "s3cret", "coldStartFromEnv": "99s"}
LOST = pb.Gpu(uuid="GPU-1", state="lost", capacity=0.0, reasons=[pb.Reason(reason="xid_79", action="reset_gpu")])
PAGE = "/debug/decision?namespace=default&name=llama"


@pytest.fixture
async def running() -> AsyncIterator[Scaler]:
    async with exporter() as fake:
        sick = engine("llama-1", capacity=0.0, gpus=["GPU-1"], error="<script>")
        blind = engine("llama-2", waiting=None)
        fake.send(signals(engine("llama-0", waiting=20, running=4), sick, blind, gpus=[LOST]))
        async with scaler(fake.address, "127.0.0.1:1") as started:
            await started.connected()
            await started.until_metric('plimsoll_scaler_exporters{state="lost"} 1.0')
            yield started


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not wait for the exporter that never answers."""
    monkeypatch.setattr("scaler.core.view_fleet._missing_exporters", lambda *_: "")


@pytest.mark.usefixtures("patient")
async def test_metrics_are_those_of_the_catalogue(running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA)
    await keda.spec()
    required = (await keda.metrics())[0].metricValueFloat
    bad = Keda(running.ports.grpc, {"modle": ""}, name="bad")
    await bad.refused()
    status, body = await running.get("/metrics")
    assert status == 200
    families = {family.name: family for family in text(body)}
    catalogued = {family.name.removesuffix("_total"): family for family in catalog.SCALER}
    assert set(families) == {*catalogued, "plimsoll_build_info"}
    for name, row in catalogued.items():
        assert families[name].type == row.type
        assert families[name].documentation == row.help
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == set(row.labels)
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    key = ("default", "llama")
    assert found["plimsoll_scaler_required_replicas", *key] == required == 5
    assert found["plimsoll_scaler_queue_depth", *key] == 20
    assert found["plimsoll_scaler_requests_running", *key] == 4
    assert found["plimsoll_scaler_supply_replicas", *key] == 1
    assert found["plimsoll_scaler_active", *key] == 1
    for state, count in (("supplying", 1), ("impaired", 0), ("dead", 1), ("blind", 1)):
        assert found["plimsoll_scaler_replicas", *sorted((*key, state))] == count
    assert found["plimsoll_scaler_decisions_total", *sorted((*key, "hold"))] >= 1
    assert 0 < found["plimsoll_scaler_data_age_seconds", *key] < 60
    assert found["plimsoll_scaler_requests_total", "GetMetrics", "OK"] == 1
    assert found["plimsoll_scaler_requests_total", "GetMetrics", "INVALID_ARGUMENT"] == 1
    assert found["plimsoll_scaler_request_duration_seconds_count", "GetMetrics"] == 2
    assert found["plimsoll_scaler_exporters", "lost"] == 1
    assert not any("bad" in key for key in found)  # no answer: absent, not 0


async def test_openmetrics_is_served_to_who_asks(running: Scaler) -> None:
    import aiohttp

    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with aiohttp.ClientSession() as session, session.get(running.web + "/metrics", headers=headers) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert any(family.name == "plimsoll_scaler_requests" for family in openmetrics(await response.text()))


@pytest.mark.usefixtures("patient")
async def test_debug_decision_has_everything_and_no_secret(running: Scaler) -> None:
    keda = Keda(running.ports.grpc, METADATA)
    value, explanation = await keda.metrics()
    status, body = await running.get(PAGE)
    shown = json.loads(body)
    assert status == 200
    assert shown["answer"]["required_replicas"] == value.metricValueFloat
    assert shown["answer"]["explanation"] == explanation
    assert shown["answer"]["vetoes"]
    assert [replica["state"] for replica in shown["replicas"]] == ["supplying", "dead", "blind"]
    assert shown["replicas"][0]["waiting"] == 20
    assert shown["replicas"][0]["reading_age"] >= 0.1
    assert shown["replicas"][1]["sickness"] == "pod llama-1: GPU-1 lost (xid_79 -> reset_gpu)"
    assert shown["settings"]["queueTarget"] == 10
    assert shown["settings"]["staleAfter"] == "15s"
    assert shown["settings"]["coldStart"] == "(from the environment)"
    assert shown["records"][-1]["terms"] == shown["answer"]["terms"]
    for path in (PAGE, "/", "/metrics", "/debug/nodes"):
        assert "s3cret" not in (await running.get(path))[1]
        assert "99s" not in (await running.get(path))[1]


async def test_debug_decision_of_an_unknown_object(running: Scaler) -> None:
    await Keda(running.ports.grpc, METADATA).refused()
    status, body = await running.get("/debug/decision?namespace=default&name=other")
    assert status == 404
    assert json.loads(body)["known"] == ["default/llama"]


async def test_debug_nodes(running: Scaler) -> None:
    nodes = json.loads((await running.get("/debug/nodes"))[1])
    assert [node["connected"] for node in nodes] == [True, False]
    assert nodes[0]["gpus"][0]["state"] == "lost"
    assert nodes[0]["engines"][0]["waiting"] == 20
    assert nodes[0]["message_age_seconds"] >= 0
    assert nodes[1]["message_age_seconds"] is None


async def test_the_status_page_shows_objects_and_exporters_escaped(running: Scaler) -> None:
    assert "none yet" in (await running.get("/"))[1]
    await Keda(running.ports.grpc, METADATA).refused()
    await Keda(running.ports.grpc, {"<b>": "x"}, name="bad").refused()
    status, body = await running.get("/")
    assert status == 200
    assert "default/llama" in body
    assert "&lt;b&gt;" in body
    assert "<b>" not in body
    assert "node-a" in body
    assert "lost: UNAVAILABLE" in body


@pytest.mark.usefixtures("patient")
async def test_the_status_page_shows_each_replica_with_what_ails_it(running: Scaler) -> None:
    await Keda(running.ports.grpc, METADATA).metrics()
    _, body = await running.get("/")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in body.splitlines() if "llama-" in line]
    rows = [row for row in rows if row[0] == "default/llama" and len(row) == 9]
    assert [row[1:3] for row in rows] == [["llama-0", "supplying"], ["llama-1", "dead"], ["llama-2", "blind"]]
    assert [row[4] for row in rows] == ["20", "0", ""]  # what was not read is not 0
    assert [row[8] for row in rows] == [
        "idle",
        "pod llama-1: GPU-1 lost (xid_79 -&gt; reset_gpu)",
        "llama-2 without waiting",
    ]


async def test_a_replica_that_is_starting_is_neither_good_nor_bad() -> None:
    each = [engine("llama-0"), engine("llama-1", cause="cold_start"), engine("llama-2", waiting=None)]
    async with exporter() as fake, scaler(fake.address) as started:
        fake.send(signals(*each, engine_age_seconds=[0.1, -1.0, 0.1]))
        await started.connected()
        await Keda(started.ports.grpc, METADATA).until_value()
        _, body = await started.get("/")
    assert re.findall(r'<td class="(\w+)">(supplying|starting|blind)<', body) == [
        ("good", "supplying"),
        ("none", "starting"),
        ("bad", "blind"),
    ]


async def test_health(running: Scaler) -> None:
    assert (await running.get("/healthz")) == (200, "ok\n")
    assert (await running.get("/readyz")) == (200, "ok\n")
    assert (await running.get("/nonsense"))[0] == 404
