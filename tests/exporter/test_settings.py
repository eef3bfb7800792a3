"""settings.py: what the exporter can be told, and the one line for each thing it cannot do."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import __main__ as program
from exporter.core.drift import Standard
from exporter.core.model import PodRef
from exporter.core.model_engines import EngineTarget
from exporter.kit.config import ConfigError
from exporter.settings import OPTIONS, Settings, read, telemetry_path, url


def test_the_table_and_the_struct_name_the_same_options():
    fields = [option.name.replace(".", "_").replace("-", "_") for option in OPTIONS]
    standard = [f"standard_{name}" for name in Standard.__struct_fields__]
    assert [name for name in fields if name not in standard] == [
        name for name in Settings.__struct_fields__ if name != "standard"
    ]
    assert set(standard) <= set(fields)


def test_defaults():
    settings = read([], {"NODE_NAME": "node-7"})
    assert settings == Settings(
        engines=(),
        engines_file="",
        engines_interval=1.0,
        engines_timeout=2.0,
        gpu_source="nvml",
        nvml_library="",
        nvml_interval=1.0,
        nvml_deadline=3.0,
        demo_file="",
        dcgm_url="",
        dcgm_interval=5.0,
        kmsg_file="auto",
        kubelet_socket="auto",
        kubelet_interval=5.0,
        kubelet_resources=(),
        kubernetes_pods="off",
        kubernetes_namespaces=(),
        kubernetes_selector="",
        kubernetes_port=8000,
        kubernetes_port_names=(),
        kubernetes_access_file="",
        kubernetes_config="",
        kubernetes_kubelet_url="",
        kubernetes_kubelet_ca_file="",
        kubernetes_kubelet_insecure=False,
        standard=Standard(),
        state_file="",
        node="node-7",
        web_listen_address=("", 9480),
        web_telemetry_path="/metrics",
        feed_listen_address=("", 9481),
        log_level="info",
        log_format="logfmt",
    )


def test_the_standard_and_the_places(tmp_path):
    file = tmp_path / "plimsoll.yaml"
    file.write_text(
        "standard.driver-version: '570.133'\nstandard.ecc: on\nstandard.mig: off\nstandard.power-limit: 600\n"
        "standard.clock-sm: 1980\nkmsg.file: off\n"
        "kubelet.socket: /run/kubelet.sock\nkubelet.resources: [acme.com/gpu]\n"
    )
    settings = read([f"--config.file={file}"], {})
    assert settings.standard == Standard("570.133", True, False, 600.0, 1980e6)
    assert (settings.kmsg_file, settings.kubelet_socket) == ("off", "/run/kubelet.sock")
    assert settings.kubelet_resources == ("acme.com/gpu",)
    assert read(["--standard.power-limit=default"], {}).standard == Standard(power_limit="default")
    with pytest.raises(ConfigError, match=r"flag --kmsg\.file: 'dev/kmsg' is no place; write auto, off or an absolute"):
        read(["--kmsg.file=dev/kmsg"], {})


def test_kubernetes_by_flag_environment_and_file(tmp_path):
    file = tmp_path / "plimsoll.yaml"
    file.write_text(
        "kubernetes.pods: kubelet\nkubernetes.namespaces: [a, b, a]\nkubernetes.port-names: [metrics]\n"
        "kubernetes.kubelet-insecure: true\nkubernetes.selector: 'app in (llama, qwen)'\n"
    )
    settings = read([f"--config.file={file}", "--kubernetes.port=9000"], {"PLIMSOLL_KUBERNETES_PODS": "api"})
    assert (settings.kubernetes_pods, settings.kubernetes_port) == ("api", 9000)
    assert (settings.kubernetes_namespaces, settings.kubernetes_port_names) == (("a", "b"), ("metrics",))
    assert (settings.kubernetes_kubelet_insecure, settings.kubernetes_selector) == (True, "app in (llama, qwen)")
    assert read(["--kubernetes.pods=off"], {"NODE_NAME": "Any_Name"}).node == "Any_Name"


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("/var/lib/plimsoll/state", "/var/lib/plimsoll/state"), ("off", ""), ("''", ""), ("false", "")],
)
def test_where_the_state_is_kept(tmp_path, written, read_as):
    file = tmp_path / "plimsoll.yaml"
    file.write_text(f"state.file: {written}\n")
    assert read([f"--config.file={file}"], {}).state_file == read_as


@pytest.mark.parametrize("written", ["auto", "true", "12", "state", '"/x\\0y"', "[a]"])
def test_what_is_no_file_is_refused_by_name(tmp_path, written):
    file = tmp_path / "plimsoll.yaml"
    file.write_text(f"state.file: {written}\n")
    with pytest.raises(ConfigError, match=r"key state\.file: .*; write "):
        read([f"--config.file={file}"], {})


@pytest.mark.parametrize(
    ("argv", "environ", "node"),
    [
        ([], {}, socket.gethostname()),
        ([], {"NODE_NAME": ""}, socket.gethostname()),
        ([], {"NODE_NAME": "b"}, "b"),
        (["--node=a"], {"NODE_NAME": "b"}, "a"),
        ([], {"NODE_NAME": "b", "PLIMSOLL_NODE": "c"}, "c"),
    ],
    ids=["host name", "empty", "NODE_NAME", "flag", "variable"],
)
def test_the_node_has_a_name(argv, environ, node):
    assert read(argv, environ).node == node


def test_engines_from_flags_and_from_a_file_with_all_that_is_known_of_them(tmp_path):
    flags = read(["--engines=http://a:8000,http://b:8000/x", "--engines", "http://c:8000"], {})
    assert [target.url for target in flags.engines] == [
        "http://a:8000/metrics",
        "http://b:8000/x",
        "http://c:8000/metrics",
    ]
    file = tmp_path / "plimsoll.yaml"
    file.write_text(
        "engines:\n"
        "- http://a:8000\n"
        "- {url: 'http://b:8000', namespace: ns, pod: p, container: c, labels: {app: x}, gpus: [0, GPU-1]}\n"
    )
    assert read(["--config.file", str(file)], {}).engines == (
        EngineTarget("http://a:8000/metrics"),
        EngineTarget("http://b:8000/metrics", PodRef("ns", "p", "c"), {"app": "x"}, ("0", "GPU-1")),
    )


#: Name, arguments or the content of the configuration file, the line: cause with its place, fix.
BAD = [
    (
        "misspelt flag",
        ["--engine=http://a:8000"],
        "command line: unrecognized arguments: --engine=http://a:8000",
        "did you mean --engines?",
    ),
    (
        "interval that is too long to learn from",
        ["--engines.interval=15s"],
        "flag --engines.interval: '15s' is too seldom to tell a wedged engine",
        "write 10s or less",
    ),
    ("interval", ["--engines.interval=0"], "flag --engines.interval: '0' is not above zero", "write for example 15s"),
    (
        "deadline",
        ["--nvml.deadline=soon"],
        "flag --nvml.deadline: 'soon' is not a duration",
        "write for example 500ms, 15s or 2m",
    ),
    ("GPU source", ["--gpu.source=dcgm"], "flag --gpu.source: 'dcgm' is not one of nvml, demo, off", ""),
    (
        "dcgm URL",
        ["--dcgm.url=localhost:9400"],
        "flag --dcgm.url: 'localhost:9400' is not a URL",
        "write for example http://127.0.0.1:9400/metrics",
    ),
    (
        "dcgm credentials",
        ["--dcgm.url=http://u:p@h/"],
        "flag --dcgm.url: the URL of 'h' holds credentials",
        "write it without them",
    ),
    (
        "port",
        ["--web.listen-address=:99999"],
        "flag --web.listen-address: ':99999' is not an address",
        "write host:port or :port, as in :9480",
    ),
    (
        "feed address",
        ["--feed.listen-address=9481"],
        "flag --feed.listen-address: '9481' is not an address",
        "write host:port or :port, as in :9480",
    ),
    (
        "metrics path",
        ["--web.telemetry-path=metrics"],
        "flag --web.telemetry-path: 'metrics' cannot be the metrics path",
        "write for example /metrics (not /, /healthz, /readyz, /debug/engine)",
    ),
    (
        "metrics path that is taken",
        ["--web.telemetry-path=/readyz"],
        "flag --web.telemetry-path: '/readyz' cannot be the metrics path",
        "write for example /metrics (not /, /healthz, /readyz, /debug/engine)",
    ),
    (
        "namespace",
        ["--kubernetes.namespaces=a,../nodes"],
        "flag --kubernetes.namespaces: '../nodes' is no namespace",
        "write its name, as in inference",
    ),
    (
        "many namespaces",
        ["--kubernetes.namespaces=" + ",".join(f"n{number}" for number in range(17))],
        "flag --kubernetes.namespaces: 17 namespaces",
        "name at most 16, or none for all",
    ),
    (
        "selector",
        ["--kubernetes.selector=app in llama"],
        "flag --kubernetes.selector: 'app in llama' is not a label selector",
        "write for example app=llama, or: tier in (a,b), !canary",
    ),
    ("pods", ["--kubernetes.pods=yes"], "flag --kubernetes.pods: 'yes' is not one of off, api, kubelet", ""),
    (
        "kubernetes port",
        ["--kubernetes.port=0"],
        "flag --kubernetes.port: '0' is not a whole number from 1 to 65535",
        "",
    ),
    (
        "a node that Kubernetes cannot have",
        ["--kubernetes.pods=api", "--node=a,b"],
        "option node: 'a,b' is no node of Kubernetes",
        "set NODE_NAME or --node",
    ),
    ("log level", ["--log.level=trace"], "flag --log.level: 'trace' is not one of debug, info, warning, error", ""),
    ("log format", ["--log.format=xml"], "flag --log.format: 'xml' is not one of logfmt, json", ""),
    (
        "engine",
        ["--engines=a:8000"],
        "flag --engines: entry 1: 'a:8000' is no http or https URL with a host",
        "write http://host:port/metrics",
    ),
    (
        "engine twice",
        ["--engines=http://a,http://a/"],
        "flag --engines: entry 2: http://a/metrics is there twice",
        "remove one of them",
    ),
    (
        "file: key",
        "engines.intervall: 1s",
        "file FILE: key engines.intervall: unknown",
        "did you mean engines.interval?",
    ),
    (
        "file: engines",
        "engines: 7",
        "file FILE: key engines: holds a int",
        "write a list of URLs or of mappings with url",
    ),
    (
        "file: engine's key",
        "engines: [{url: 'http://a', port: 1}]",
        "file FILE: key engines: entry 1: key 'port' is unknown",
        "known keys: url, namespace, pod, container, labels, gpus, ca_file, cert_file, key_file, server_name, "
        "token_file, insecure_skip_verify, weights_bytes, kv_bytes_per_token",
    ),
    (
        "file: engine without URL",
        "engines: [{pod: a}]",
        "file FILE: key engines: entry 1: '' is no http or https URL with a host",
        "write http://host:port/metrics",
    ),
    (
        "file: YAML",
        "node: [",
        "file FILE: line 1 column 8: expected the node content, but found '<stream end>'",
        "write YAML with one option a line",
    ),
    (
        "no such file",
        ["--config.file=/nowhere"],
        "file /nowhere: cannot be read (No such file or directory)",
        "check --config.file",
    ),
    (
        "no such engines file",
        ["--engines.file=/nowhere"],
        "file /nowhere: cannot be read (No such file or directory)",
        "check --engines.file",
    ),
]


@pytest.mark.parametrize(("given", "cause", "fix"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_honoured_stops_the_start_with_one_line(given, cause, fix, tmp_path, monkeypatch, capsys):
    argv = given
    if isinstance(given, str):
        file = tmp_path / "plimsoll.yaml"
        file.write_text(given)
        argv, cause = ["--config.file", str(file)], cause.replace("FILE", str(file))
    ports = ["--web.listen-address=127.0.0.1:0", "--feed.listen-address=127.0.0.1:0", "--gpu.source=off"]
    monkeypatch.setattr("sys.argv", ["plimsoll-exporter", *ports, *argv])
    assert program.main() == 2
    assert capsys.readouterr().err == f"plimsoll-exporter: {cause}{'; ' if fix else ''}{fix}\n"


GOOD_URLS = ["", "http://127.0.0.1:9400/metrics", "https://[::1]/m?x=1"]
BAD_URLS = ["x", "ftp://h/", "http://", "http:///m", "http://h:99999/", "http://h:0/", "http://[::1", "http://h/ a", 7]


@pytest.mark.parametrize("text", GOOD_URLS)
def test_a_url(text):
    assert url(text) == text


@pytest.mark.parametrize("text", BAD_URLS, ids=repr)
def test_no_url(text):
    with pytest.raises(ValueError, match="is not a URL; write for example"):
        url(text)


@given(st.one_of(st.text(), st.integers(), st.none(), st.lists(st.integers())))
def test_whatever_is_written_is_a_path_or_a_ValueError(raw):
    for parse in (url, telemetry_path):
        try:
            text = parse(raw)
        except ValueError:
            continue
        assert text == str(raw)
        assert text == "" or text.isprintable()
