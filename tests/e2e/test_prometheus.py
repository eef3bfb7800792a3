"""A real Prometheus scrapes exporter and scaler and is asked over PromQL; promtool reads both pages."""

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.engines import FakeEngine, Row, fixture, vllm
from tests.support.keda import KedaClient
from tests.support.programs import eventually, exporter, get, scaler

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: exporter
  static_configs: [{{targets: ["{exporter}"]}}]
- job_name: scaler
  static_configs: [{{targets: ["{scaler}"]}}]
"""


def tool(name: str) -> str:
    """The path of Prometheus' program. Where CI is set it must be there."""
    path = shutil.which(name)
    if path is None:
        text = f"{name} is not installed (Debian package prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return path


class Bench(NamedTuple):
    prometheus: str  # URL
    pages: dict[str, str]  # job -> URL of its metrics


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    program = tool("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        busy = stack.enter_context(FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")))
        pair = stack.enter_context(FakeEngine(vllm(Row(1, 2, engine="0"), Row(5, 6, engine="1"))))
        node = stack.enter_context(exporter("--engines", f"{busy.url},{pair.url}"))
        plimsoll = stack.enter_context(scaler(node))
        keda = stack.enter_context(KedaClient(plimsoll.addresses["grpc"], "shop"))
        eventually(lambda: keda.poll("chat", model="tiny"))

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(exporter=node.addresses["web"], scaler=plimsoll.addresses["web"]))
        log = stack.enter_context((directory / "log").open("w"))
        server = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
        stack.callback(server.wait, 10)
        stack.callback(server.terminate)
        pages = {"exporter": f"{node.web}/metrics", "scaler": f"{plimsoll.web}/metrics"}
        yield Bench(f"http://{address}", pages)


def ask(bench: Bench, query: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Labels (without the name and the target's own) -> value. AssertionError while Prometheus has nothing."""
    try:
        status, body = get(f"{bench.prometheus}/api/v1/query?query={urllib.parse.quote(query)}")
    except OSError as error:
        raise AssertionError(f"Prometheus does not answer yet: {error}") from None
    assert status == 200, body
    result = json.loads(body)["data"]["result"]
    assert result, f"nothing for {query}"
    own = ("__name__", "instance", "job")
    return {
        tuple(sorted((k, v) for k, v in row["metric"].items() if k not in own)): float(row["value"][1])
        for row in result
    }


#: PromQL -> the value of its only series.
QUERIES = {
    'sum by (job) (up{job="exporter"})': 1,
    'sum by (job) (up{job="scaler"})': 1,
    "sum(plimsoll_engine_requests_waiting)": 34,
    "sum(plimsoll_engine_requests_running)": 12,
    'count(plimsoll_engine_requests_waiting{engine=~"0|1"})': 3,
    "min(plimsoll_engine_scrape_success)": 1,
    'plimsoll_collector_success{collector="engines"}': 1,
    "count(count by (job) (plimsoll_build_info))": 2,
    'plimsoll_scaler_queue_depth{namespace="shop",scaledobject="chat"}': 34,
    "plimsoll_scaler_requests_running": 12,
    "plimsoll_scaler_active": 1,
    'plimsoll_scaler_exporters{state="connected"}': 1,
    'plimsoll_scaler_requests_total{method="GetMetrics",code="OK"} > bool 0': 1,
    # Every engine has exactly one cause.
    "min(sum without (cause) (plimsoll_engine_diagnosis))": 1,
    "max(sum without (cause) (plimsoll_engine_diagnosis))": 1,
}


@pytest.mark.parametrize("query", QUERIES)
def test_prometheus_answers(bench: Bench, query: str) -> None:
    def answered() -> None:
        answer = ask(bench, query)
        assert list(answer.values()) == [QUERIES[query]], answer

    eventually(answered, 20.0)


def test_required_replicas_are_what_keda_is_told(bench: Bench) -> None:
    (needed,) = eventually(lambda: ask(bench, "plimsoll_scaler_required_replicas"), 20.0).values()
    assert needed > 1


@pytest.mark.parametrize("job", ["exporter", "scaler"])
def test_promtool_has_nothing_to_say(bench: Bench, job: str) -> None:
    status, page = get(bench.pages[job])
    assert status == 200
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=20, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("job", ["exporter", "scaler"])
def test_the_page_in_openmetrics_ends_as_such(bench: Bench, job: str) -> None:
    _, page = get(bench.pages[job], accept="application/openmetrics-text; version=1.0.0")
    assert page.endswith("# EOF\n")
