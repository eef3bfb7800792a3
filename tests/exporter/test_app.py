"""The exporter as a program: real processes, real HTTP and gRPC, a real shared library as the driver."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import grpc
import pytest
from aiohttp import web
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from exporter import app as app_module
from exporter import page, publish
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, XidEvent
from exporter.core.model_engines import Access, EngineTarget
from exporter.core.node import NodeMemory, step
from exporter.core.snapshot import Collector
from exporter.feed import Feed
from exporter.kit.config import ConfigError
from exporter.kit.web import serve
from exporter.pb import signals_pb2 as pb
from exporter.pb.signals_pb2_grpc import SignalsStub
from exporter.settings import read as settings_read
from exporter.sources.kubernetes_cluster import service_account
from exporter.sources.target_file import MAX_TARGETS
from tests.exporter.build import START, failure, full, inputs, reading, scrape
from tests.nvml.fake import FakeNvml
from tests.support.apiserver import NODE, FakeApi, pod
from tests.support.engines import FakeEngine, drip, fixture
from tests.support.feed import listen
from tests.support.programs import eventually, exporter, get, value

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def engine():
    with FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")) as server:
        yield server


@pytest.fixture(scope="module")
def node(engine):
    """An exporter with two fake GPUs and one server, with its first readings."""
    with exporter("--engines", engine.url, gpu="demo") as program:

        def read():
            text = get(f"{program.web}/metrics")[1]
            assert "plimsoll_engine_requests_waiting{" in text
            assert "plimsoll_gpu_temperature_celsius{" in text

        eventually(read)
        yield program


def test_the_metrics_are_those_of_the_server_and_the_gpus(node):
    status, text = get(f"{node.web}/metrics")
    assert status == 200
    assert value(text, "plimsoll_engine_requests_waiting", model="tiny") == 28
    assert value(text, "plimsoll_engine_requests_running", model="tiny") == 4
    assert value(text, "plimsoll_gpu_health_state", gpu="1", state="healthy") == 1
    assert value(text, "plimsoll_collector_success", collector="engines") == 1
    assert value(text, "plimsoll_snapshot_age_seconds") < 3
    assert value(text, "process_resident_memory_bytes") > 1e6


def test_the_feed_says_the_same(node):
    message = listen(node.addresses["feed"])
    assert (message.node, message.engines[0].waiting, message.engines[0].running) == ("box", 28, 4)
    assert [gpu.state for gpu in message.gpus] == ["healthy", "healthy"]


def test_openmetrics_on_request(node):
    text = get(f"{node.web}/metrics", accept=OPENMETRICS)[1]
    assert text.endswith("# EOF\n")
    assert {"plimsoll_engine_preemptions", "process_cpu_seconds"} <= {f.name for f in parse_openmetrics(text)}


def test_promtool_has_nothing_to_complain_about(node):
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "CI must have promtool: apt-get install prometheus"
        pytest.skip("promtool is not installed")
    text = get(f"{node.web}/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


PAGES = [("/healthz", 200, "alive\n"), ("/readyz", 200, "ready\n"), ("/nowhere", 404, "404: Not Found")]


@pytest.mark.parametrize(("path", "status", "text"), PAGES)
def test_pages_for_machines(node, path, status, text):
    assert get(node.web + path) == (status, text)


def test_the_status_page_shows_what_is_on_the_node_and_where_to_look_further(node, engine):
    status, text = get(f"{node.web}/")
    assert status == 200
    for part in ("healthy", "saturated", engine.url, "demo", "tiny", 'href="/metrics"', 'href="/healthz"'):
        assert part in text


def test_the_metrics_path_can_be_another():
    with exporter("--web.telemetry-path=/m") as program:
        assert eventually(lambda: _ok(get(f"{program.web}/m"))).startswith("# HELP")
        assert get(f"{program.web}/metrics")[0] == 404
        assert 'href="/m"' in get(f"{program.web}/")[1]


def _ok(answer):
    assert answer[0] == 200
    return answer[1]


def test_an_address_that_is_taken_stops_the_start_with_one_line(node):
    for option, place in (("--web.listen-address", "web"), ("--feed.listen-address", "feed")):
        taken = node.addresses[place]
        ports = {"--web.listen-address": "127.0.0.1:0", "--feed.listen-address": "127.0.0.1:0", option: taken}
        command = [sys.executable, "-m", "exporter", "--gpu.source=off", *(f"{k}={v}" for k, v in ports.items())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"plimsoll-exporter: option {option[2:]}: cannot listen on {taken} (")
        assert line.endswith("; choose a free address")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_streams_cleanly_and_the_program_with_0_though_a_server_drips(number):
    with FakeEngine("") as slow:
        slow.answer = drip
        with exporter("--engines", slow.url, gpu="demo") as program:
            with grpc.insecure_channel(program.addresses["feed"]) as channel:
                stream = SignalsStub(channel).Watch(pb.WatchRequest(client="test"), timeout=30)
                next(iter(stream))
                began = time.monotonic()
                program.process.send_signal(number)
                for _ in stream:
                    pass
                assert stream.code() == grpc.StatusCode.OK
            assert program.process.wait(5) == 0
            assert time.monotonic() - began < 5
            assert not [line for line in program.lines if "level=error" in line or "Traceback" in line]


@pytest.fixture
def nvml(tmp_path):
    return FakeNvml(tmp_path, {"gpus": 2})


def test_pages_are_served_and_the_program_ends_while_the_driver_hangs(nvml):
    with exporter(
        "--nvml.library",
        nvml.library,
        "--nvml.interval=200ms",
        "--nvml.deadline=500ms",
        gpu="nvml",
        environ=nvml.environ,
    ) as program:
        eventually(
            lambda: value(get(f"{program.web}/metrics")[1], "plimsoll_gpu_temperature_celsius", gpu="0", sensor="gpu")
        )
        nvml.set({"gpu0.hang.nvmlDeviceGetPowerUsage": 60})

        def gone():
            text = get(f"{program.web}/metrics")[1]
            assert value(text, "plimsoll_gpu_health_state", gpu="0", state="unknown") == 1
            assert 'plimsoll_gpu_temperature_celsius{node="box",gpu="0"' not in text
            assert value(text, "plimsoll_gpu_health_state", gpu="1", state="healthy") == 1

        eventually(gone)
        for path in ("/metrics", "/", "/healthz", "/readyz"):
            began = time.monotonic()
            assert get(program.web + path)[0] == 200
            assert time.monotonic() - began < 1
        began = time.monotonic()
        assert program.stop() == 0
        assert time.monotonic() - began < 5


def test_a_driver_that_can_never_work_again_ends_the_program_with_1_and_one_line(nvml):
    nvml.set({"init": 18})
    with exporter("--nvml.library", nvml.library, gpu="nvml", environ=nvml.environ) as program:
        assert program.process.wait(10) == 1
        program.stop()
    (line,) = [line for line in program.lines if "level=error" in line]
    assert "NVML" in line
    assert "restart" in line


def test_without_a_driver_the_servers_are_watched_all_the_same(engine):
    with exporter("--engines", engine.url, "--nvml.library=/nowhere.so", gpu="nvml") as program:

        def watched():
            text = get(f"{program.web}/metrics")[1]
            assert value(text, "plimsoll_engine_requests_waiting", model="tiny") == 28
            assert value(text, "plimsoll_collector_success", collector="nvml") == 0

        eventually(watched)
        assert "check --nvml.library" in get(f"{program.web}/")[1]


def test_resident_memory_stays_far_below_its_limit(node):
    for accept in ("*/*", OPENMETRICS):
        text = get(f"{node.web}/metrics", accept=accept)[1]
    assert value(get(f"{node.web}/metrics")[1], "process_resident_memory_bytes") < 80e6
    assert text


class Cycle:
    """As the pages see it."""

    snapshot = None


@pytest.fixture
async def site():
    cycle = Cycle()
    runner, port = await serve(app_module.application(cycle, Feed(), "/metrics"), ("127.0.0.1", 0), "x")
    cycle.url = f"http://127.0.0.1:{port}"
    yield cycle
    await runner.cleanup()


async def ask(client, url, **headers):
    async with client.get(url, headers=headers) as answer:
        return answer.status, answer.headers.get("Content-Type"), await answer.text()


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_before_the_first_snapshot_the_program_is_alive_but_not_ready(site, client):
    assert (await ask(client, f"{site.url}/healthz"))[0] == 200
    for path in ("/readyz", "/metrics"):
        status, _, text = await ask(client, site.url + path)
        assert (status, text.count("\n")) == (503, 1)
    assert "nothing has been read yet" in (await ask(client, f"{site.url}/"))[2]
    site.snapshot = full()
    assert (await ask(client, f"{site.url}/readyz"))[0] == 200


async def test_the_content_type_says_which_format_it_is(site, client):
    site.snapshot = full()
    for accept, content_type in (("*/*", publish.CONTENT_TYPES[False]), (OPENMETRICS, publish.CONTENT_TYPES[True])):
        assert (await ask(client, f"{site.url}/metrics", Accept=accept))[1] == content_type


async def test_a_page_is_rendered_once_per_snapshot_and_format_and_again_when_it_is_a_second_old(
    site, client, monkeypatch
):
    rendered = []
    render = publish.render
    monkeypatch.setattr(publish, "render", lambda *args: rendered.append(args[3]) or render(*args))
    site.snapshot = full()
    for _ in range(3):
        await ask(client, f"{site.url}/metrics", Accept="*/*")
        await ask(client, f"{site.url}/metrics", Accept=OPENMETRICS)
    assert rendered == [False, True]
    site.snapshot = full()
    await ask(client, f"{site.url}/metrics", Accept="*/*")
    assert rendered == [False, True, False]
    monkeypatch.setattr(app_module, "PAGE_SECONDS", 0.0)
    await ask(client, f"{site.url}/metrics", Accept="*/*")
    assert rendered == [False, True, False, False]


NASTY = "<script>alert('x')</script>&\""


def test_nothing_from_outside_is_markup():
    target = EngineTarget(f"http://h/{NASTY}", PodRef(NASTY, NASTY, NASTY), gpus=(NASTY,))
    gpu = GpuSample(
        GpuInfo(GpuKey(NASTY, NASTY), NASTY, NASTY), "nvml", START, {}, lost="gpu_is_lost", pods=(PodRef(NASTY, NASTY),)
    )
    bad = replace(failure(target, START, NASTY), message=NASTY)
    said = inputs(
        [scrape(target, reading(model=NASTY, engine=NASTY))],
        [gpu],
        [XidEvent(gpu.info.key, 79, START, "nvml")],
        scrapes={target.url: bad},
        collectors=(Collector(NASTY, False, 0.0, None, NASTY),),
    )
    snapshot = replace(step(NodeMemory(), said, START)[0], node=NASTY)
    text = page.render(snapshot, START, "/metrics", 0)
    assert text.count("<script>") == 1, "our own"
    assert "alert(" in text
    assert "alert('x')" not in text


def test_the_status_page_says_each_error_once_and_in_the_words_of_the_source():
    target = EngineTarget("http://h/metrics")
    bad = failure(target, START)
    collectors = (Collector("engines", False, 2.0, None, bad.message), Collector("nvml", True, 0.01, START))
    said = inputs((), targets=(target,), scrapes={target.url: bad}, collectors=collectors)
    text = page.render(step(NodeMemory(), said, START)[0], START, "/metrics", 2)
    assert text.count("no answer in 2 s; is the server up?") == 1
    for part in ("not read yet", "blind", "never", "fails", "works", "2 scalers listening", "<h2>Errors</h2>"):
        assert part in text
    assert "<h2>GPUs</h2>" not in text


# --- which engines there are ----------------------------------------------------------------------------------------


class Discovered:
    def __init__(self, *urls):
        self.urls = urls

    def targets(self):
        return [EngineTarget(url, PodRef("found", "pod")) for url in self.urls]


def test_the_operators_entry_of_a_url_counts_before_a_discovered_one(tmp_path):
    file = tmp_path / "engines.yaml"
    file.write_text("- {url: http://a/m, pod: file}\n")
    given = settings_read([f"--engines.file={file}", "--engines=http://a/m,http://b/m"], {})
    targets = app_module.engine_targets(given, Discovered("http://b/m", "http://c/m"))()
    assert [(target.url, target.pod.pod) for target in targets] == [
        ("http://a/m", "file"),
        ("http://b/m", ""),
        ("http://c/m", "pod"),
    ]


def test_discovered_servers_above_the_limit_are_counted_and_said_once(caplog):
    found = Discovered(*(f"http://a{number}/m" for number in range(MAX_TARGETS + 4)))
    targets = app_module.engine_targets(settings_read(["--engines=http://own/m"], {}), found)
    for _ in range(3):
        assert len(targets()) == MAX_TARGETS
    assert targets()[0].url == "http://own/m"
    assert [record.getMessage() for record in caplog.records] == [
        "engines: 5 discovered servers are left out; at most 256 are watched"
    ]


def test_where_the_kubelet_is_asked():
    account = service_account("/sa")
    for host, shown in (("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")):
        url, access = app_module._kubelet_pods(settings_read([], {}), {"HOST_IP": host}, account)
        assert (url, access) == (f"https://{shown}:10250/pods", account)
    given = [
        "--kubernetes.kubelet-url=http://h:10255/pods",
        "--kubernetes.kubelet-ca-file=/k",
        "--kubernetes.kubelet-insecure=on",
    ]
    assert app_module._kubelet_pods(settings_read(given, {}), {}, account) == (
        "http://h:10255/pods",
        Access("/k", insecure_skip_verify=True),
    )
    with pytest.raises(ConfigError, match="the node's address is not known; set HOST_IP"):
        app_module.kubernetes(settings_read(["--kubernetes.pods=kubelet", "--node=a"], {}), None, {})


async def test_an_exporter_finds_its_engines_by_the_api_server(tmp_path):
    """A real program, from the pod in the API server to the engine's numbers: the pod's address is this machine's."""
    address = _own_address()
    asked = []

    async def metrics(request):
        asked.append(request.path)
        return web.Response(text=fixture("vllm-0.32.0-busy-queue.txt"))

    site = web.Application()
    site.router.add_get("/{path:.*}", metrics)
    runner, port = await serve(site, (address, 0), "test")
    async with FakeApi() as api:
        await api.put(
            pod("llama-0", ip=address, ports=(), annotations={"plimsoll.dev/metrics": f"{port}/m"}, gpu=0),
            pod("web-0", ip=address, gpu=0, ports=(port,)),
        )
        config = tmp_path / "kubeconfig"
        config.write_text(
            "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n"
            f"clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n"
        )
        flags = ("--kubernetes.pods=api", f"--kubernetes.config={config}", f"--node={NODE}")
        await asyncio.to_thread(_finds, flags, f"http://{address}:{port}/m")
    await runner.cleanup()
    assert set(asked) == {"/m"}


def _finds(flags, url):
    with exporter(*flags) as program:

        def read():
            text = get(f"{program.web}/metrics")[1]
            assert value(text, "plimsoll_collector_success", collector="kubernetes") == 1
            (engine,) = listen(program.addresses["feed"]).engines
            assert (engine.endpoint, engine.namespace, engine.pod, engine.container) == (
                url,
                "inference",
                "llama-0",
                "vllm",
            )
            assert (engine.waiting, dict(engine.labels)) == (28, {"app": "llama"})

        eventually(read)


def _own_address():
    """An address of this machine that a pod may have: loopback none may."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # for documentation; nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        address = probe.getsockname()[0]
    if address.startswith(("127.", "169.254.")):
        pytest.skip("this machine has no address beside its own")
    return address
