"""core/pods.py and core/pod_ports.py: which pods are inference servers, where their metrics are, how they started."""

import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.core import pod_json, quantity, selector
from exporter.core.model import PodRef
from exporter.core.model_engines import Access, EngineTarget, PodFacts
from exporter.core.pod_ports import LONGEST_PATH, Wanted
from exporter.core.pods import MAX_LABELS, Grant, Rules, Seen, look, pulls, seconds
from tests.support.apiserver import NODE, event, pod

IP = "10.0.0.7"
RULES = Rules(NODE, ports=Wanted(8000, ("metrics", "web")))

PROMETHEUS = {"prometheus.io/scrape": "true", "prometheus.io/port": "9000"}


def seen(raw, rules=RULES):
    return look(pod_json.pod(json.dumps(raw).encode()), rules)


def url(raw, rules=RULES):
    found = seen(raw, rules)
    return found.target.url if isinstance(found, Seen) and found.target else None


def annotated(text, **more):
    return pod(annotations={"plimsoll.dev/metrics": text}, **more)


def named(name, number):
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def with_claim():
    raw = pod(gpu=0)
    raw["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpu"}]}
    return raw


def with_sidecar(**sidecar):
    """A GPU server without ports, and a proxy before it."""
    raw = pod(ports=())
    raw["spec"]["containers"].insert(0, {"name": "proxy", "resources": {}, **sidecar})
    return raw


def resource(name, number="1"):
    raw = pod(gpu=0)
    raw["spec"]["containers"][0]["resources"] = {"limits": {name: number}}
    return raw


def udp():
    return {"name": "quic", "containerPort": 8000, "protocol": "UDP"}


# One row a rule: the pod, and the URL that follows; None: it is not scraped.
PORTS = {
    "port 8000 of a GPU's pod": (pod(), f"http://{IP}:8000/metrics"),
    "a GPU's pod without ports": (pod(ports=()), f"http://{IP}:8000/metrics"),
    "a GPU's pod with other ports is not guessed at": (pod(ports=(8080, 9090)), None),
    "8000 among others": (pod(ports=(9090, 8000)), f"http://{IP}:8000/metrics"),
    "a configured name": (pod(ports=(named("web", 9001),)), f"http://{IP}:9001/metrics"),
    "a configured name before 8000": (pod(ports=(8000, named("web", 9001))), f"http://{IP}:9001/metrics"),
    "the first configured name": (
        pod(ports=(named("web", 9001), named("metrics", 9002))),
        f"http://{IP}:9002/metrics",
    ),
    "a name that nobody configured": (pod(ports=(named("grpc", 9001),)), None),
    "a UDP port is none": (pod(ports=(udp(),)), f"http://{IP}:8000/metrics"),
    "the annotation": (annotated("8001"), f"http://{IP}:8001/metrics"),
    "the annotation before prometheus.io": (
        pod(annotations={"plimsoll.dev/metrics": "8001", **PROMETHEUS}),
        f"http://{IP}:8001/metrics",
    ),
    "the annotation without a GPU": (annotated("8001", gpu=0), f"http://{IP}:8001/metrics"),
    "the annotation with a path": (annotated("8001/v1/metrics"), f"http://{IP}:8001/v1/metrics"),
    "the annotation with a colon": (annotated(":8001/m"), f"http://{IP}:8001/m"),
    "the annotation with https": (annotated("https:8443/metrics"), f"https://{IP}:8443/metrics"),
    "the annotation with http": (annotated("http:8001"), f"http://{IP}:8001/metrics"),
    "the annotation says no": (annotated("false"), None),
    "the annotation says No": (annotated(" False "), None),
    "a bad annotation is no reason to guess": (annotated("none of your business"), None),
    "prometheus.io": (pod(annotations=PROMETHEUS), f"http://{IP}:9000/metrics"),
    "prometheus.io, all of it": (
        pod(annotations={**PROMETHEUS, "prometheus.io/path": "/m", "prometheus.io/scheme": "https"}),
        f"https://{IP}:9000/m",
    ),
    "prometheus.io before names": (
        pod(annotations=PROMETHEUS, ports=(named("web", 9001),)),
        f"http://{IP}:9000/metrics",
    ),
    "prometheus.io without a GPU": (pod(annotations=PROMETHEUS, gpu=0), None),
    "prometheus.io that is not to be scraped": (
        pod(annotations={**PROMETHEUS, "prometheus.io/scrape": "false"}),
        f"http://{IP}:8000/metrics",
    ),
    "prometheus.io without a port": (
        pod(annotations={"prometheus.io/scrape": "true"}),
        f"http://{IP}:8000/metrics",
    ),
    "prometheus.io that cannot be": (
        pod(annotations={**PROMETHEUS, "prometheus.io/port": "http"}),
        f"http://{IP}:8000/metrics",
    ),
    "no GPU": (pod(gpu=0), None),
    "a MIG instance": (resource("nvidia.com/mig-1g.10gb"), f"http://{IP}:8000/metrics"),
    "a shared GPU": (resource("nvidia.com/gpu.shared"), f"http://{IP}:8000/metrics"),
    "a claim": (with_claim(), f"http://{IP}:8000/metrics"),
    "no GPUs, said so": (resource("nvidia.com/gpu", "0"), None),
    "another resource of theirs": (resource("nvidia.com/hostdev"), None),
    "another vendor's": (resource("acme.com/gpu"), None),
    "a sidecar has a port": (with_sidecar(ports=[{"containerPort": 15090}]), None),
    "a sidecar has the port": (with_sidecar(ports=[{"containerPort": 8000}]), f"http://{IP}:8000/metrics"),
    "a sidecar has none": (with_sidecar(), f"http://{IP}:8000/metrics"),
    "IPv6": (pod(ip="fd00::7"), "http://[fd00::7]:8000/metrics"),
    "no address yet": (pod(ip=None), None),
    "pending": (pod(phase="Pending"), None),
    "ended": (pod(phase="Succeeded"), None),
    "failed": (pod(phase="Failed"), None),
    "another node's": (pod(node="node-b"), None),
    "an address that clouds give to pods": (pod(ip="240.0.0.7"), "http://240.0.0.7:8000/metrics"),
}


@pytest.mark.parametrize("name", PORTS)
def test_where_the_metrics_are(name):
    raw, expected = PORTS[name]
    assert url(raw) == expected


def test_a_terminating_pod_is_asked_as_long_as_it_is_there():
    raw = pod()
    raw["metadata"]["deletionTimestamp"] = "2026-08-01T12:30:00Z"
    assert url(raw) == f"http://{IP}:8000/metrics"


def test_other_resources_can_be_gpus():
    assert url(resource("acme.com/gpu"), replace(RULES, ports=Wanted(resources=frozenset({"acme.com/gpu"})))) == (
        f"http://{IP}:8000/metrics"
    )


def test_an_init_container_that_stays_is_a_container_and_one_that_ends_is_not():
    raw = pod(gpu=0, ports=())
    init = {"name": "server", "resources": {"limits": {"nvidia.com/gpu": "1"}}, "ports": [{"containerPort": 8000}]}
    raw["spec"]["initContainers"] = [init]
    assert url(raw) is None
    init["restartPolicy"] = "Always"
    assert url(raw) == f"http://{IP}:8000/metrics"


LEFT_OUT = {
    "its own pod": replace(RULES, own=("inference", "llama-0")),
    "a namespace that is not allowed": replace(RULES, namespaces=frozenset({"other"})),
    "labels that are not selected": replace(RULES, selector=selector.parse("app!=llama")),
    "another node": replace(RULES, node="node-b"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_who_is_not_looked_at(name):
    assert seen(pod(), LEFT_OUT[name]) == ""


def test_who_is_looked_at():
    rules = replace(RULES, namespaces=frozenset({"inference"}), selector=selector.parse("app=llama"))
    assert url(pod(), rules)


def test_a_target_is_its_pods():
    raw = pod(
        labels={"app": "llama", "tier": "a"},
        annotations={"plimsoll.dev/weights-bytes": "14.9Gi", "plimsoll.dev/kv-bytes-per-token": "131072"},
    )
    assert seen(raw).target == EngineTarget(
        f"http://{IP}:8000/metrics",
        PodRef("inference", "llama-0", "vllm"),
        {"app": "llama", "tier": "a"},
        weights_bytes=14.9 * 2**30,
        kv_bytes_per_token=131072.0,
    )


def two_servers():
    raw = pod()
    raw["spec"]["containers"].append({**raw["spec"]["containers"][0], "name": "second", "ports": []})
    return raw


CONTAINERS = {
    "the one with the port": (pod(), "vllm"),
    "the one with the GPU, behind a proxy": (with_sidecar(ports=[{"containerPort": 8000}]), "vllm"),
    "the one with the GPU, without ports": (with_sidecar(), "vllm"),
    "of two with GPUs the one with the port": (two_servers(), "vllm"),
    "one of two with GPUs, nobody knows which": (
        {**two_servers(), "metadata": annotated("9000")["metadata"]},
        "",
    ),
    "without a GPU the one with the port": (annotated("8000", gpu=0), "vllm"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_whose_gpus_they_are(name):
    raw, container = CONTAINERS[name]
    assert seen(raw).target.pod.container == container


BAD_NUMBERS = ["", "-1", "0", "many", "1e99", "NaN", "inf", "0x10", "1 Gi", "1Pi", "9" * 40, "1,5"]


@pytest.mark.parametrize("text", BAD_NUMBERS)
def test_a_bad_number_is_missing_and_is_told(text):
    found = seen(pod(annotations={"plimsoll.dev/weights-bytes": text}))
    assert found.target.weights_bytes is None
    (note,) = found.notes
    assert note.startswith("annotation plimsoll.dev/weights-bytes: ")
    assert note.endswith("write for example 16060522496 or 14.9Gi")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("16e9", 16e9), ("1.5Gi", 1.5 * 2**30), ("2k", 2e3), ("3Ti", 3 * 2.0**40)]
)
def test_numbers_of_bytes(text, value):
    assert quantity.parse(text) == value


# --- whom an annotation can reach --------------------------------------------------------------------------------

#: What somebody who may annotate a pod might write to have another place asked.
SHAPES = [
    "http://169.254.169.254/latest/meta-data/",
    "//169.254.169.254/",
    "169.254.169.254",
    "169.254.169.254:80",
    "http:169.254.169.254",
    "http:169.254.169.254:80/",
    "8000@169.254.169.254",
    ":8000@169.254.169.254/",
    "user:pass@evil:80",
    "http:user@8000",
    "8000//evil.example/x",
    "8000/../../etc",
    "8000/./x",
    "8000/x/../y",
    "8000/%2e%2e/x",
    "8000/@evil",
    "8000/x?url=http://evil",
    "8000/x#y",
    "8000#@evil",
    "8000?x",
    "8000\\@evil",
    "8000/\\evil",
    "8000/a b",
    "8000/a\tb",
    "8000/a\r\nHost: evil",
    "8000\r\n",
    "8000\n",
    "\n8000",
    "8000/\x00",
    "8000/ü",
    "８０００",
    "٨٠٠٠",
    "0",
    "00080",
    "08000",
    "65536",
    "99999",
    "100000",
    "-1",
    "+8000",
    "8e3",
    "0x1f40",
    "8000.5",
    "",
    " ",
    "/",
    "/metrics",
    ":",
    ":/metrics",
    "https",
    "https:",
    "https:/metrics",
    "https://8443",
    "HTTPS:8443",
    "ftp:21",
    "file:///etc/passwd",
    "unix:/run/docker.sock",
    "gopher:70/x",
    "localhost:8000",
    "evil.example:8000/metrics",
    "[::1]:8000",
    "8000:9000",
    "8000/" + "a" * LONGEST_PATH,
]


@pytest.mark.parametrize("text", SHAPES)
def test_no_shape_of_the_annotation_leads_elsewhere(text):
    found = seen(annotated(text))
    assert isinstance(found, str), found
    assert found.startswith("annotation plimsoll.dev/metrics: ")
    assert found.isascii()
    assert found.isprintable()
    assert len(found) < 300
    for key in ("port", "path", "scheme"):
        # prometheus.io's are then not heeded, and the pod's own port counts.
        parts = {**PROMETHEUS, f"prometheus.io/{key}": text}
        if key == "path" and text in ("", "/metrics"):
            continue
        if key == "scheme" and text in ("", "https"):
            continue
        assert url(pod(annotations=parts)) == f"http://{IP}:8000/metrics"


ADDRESSES = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "::",
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1%eth0",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "224.0.0.1",
    "ff02::1",
    "localhost",
    "metadata.google.internal",
    "10.0.0.7:80",
    "10.0.0.7/x",
    "10.0.0.7@evil",
    "010.0.0.7",
    "167772167",
    "10.7",
    " 10.0.0.7",
    "",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_no_pod_has_is_not_asked(address):
    assert url(pod(ip=address)) is None


texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789:/.@#?[]\\%htps-_ \n", max_size=30),
    st.sampled_from(SHAPES),
    st.from_regex(r"(https?:|:)?[0-9]{1,5}(/[a-z.]{1,4}){0,3}", fullmatch=True),
)


@given(
    ours=st.none() | texts,
    port=st.none() | texts,
    path=st.none() | texts,
    scheme=st.none() | texts,
    gpu=st.booleans(),
    ip=st.ip_addresses(),
)
def test_whatever_annotations_say_the_host_is_the_pods(ours, port, path, scheme, gpu, ip):
    written = {
        "plimsoll.dev/metrics": ours,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": path,
        "prometheus.io/scheme": scheme,
    }
    raw = pod(ip=str(ip), gpu=int(gpu), annotations={key: text for key, text in written.items() if text is not None})
    found = url(raw)
    if found is None:
        return
    parts = urlsplit(found)
    assert parts.scheme in ("http", "https")
    assert parts.hostname == str(ip)
    assert parts.netloc == f"[{ip}]:{parts.port}" if ip.version == 6 else f"{ip}:{parts.port}"
    assert 1 <= parts.port <= 65535
    assert (parts.username, parts.query, parts.fragment) == (None, "", "")
    assert parts.path.startswith("/")
    assert parts.path.isascii()
    assert parts.path.isprintable()
    assert "//" not in parts.path
    assert not any((ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_unspecified))


def test_more_labels_than_anybody_selects_by():
    labels = {f"l{number}": "x" for number in range(MAX_LABELS + 1)}
    assert seen(pod(labels=labels)) == "has 129 labels, 128 are allowed; remove some"


def test_a_gpu_pod_that_is_not_guessed_at_says_what_to_write():
    assert seen(pod(ports=(8080,))) == (
        "has a GPU and declares no metrics port; annotate it plimsoll.dev/metrics: <port>, or plimsoll.dev/metrics: "
        "'false' if it is no server"
    )
    assert seen(pod(gpu=0)) == seen(annotated("false")) == ""


# --- how pods are asked -------------------------------------------------------------------------------------------

A, B, C = (Access(ca_file=f"/{name}") for name in "abc")
GRANTS = (Grant(A, "inference", {"app": "llama", "tier": "x"}), Grant(B, "inference"), Grant(C, "", {"app": "llama"}))

ACCESS = {
    "all labels": (pod(labels={"app": "llama", "tier": "x", "more": "y"}), A),
    "not all labels": (pod(labels={"app": "llama"}), B),
    "the namespace": (pod(labels={}), B),
    "labels in any namespace": (pod(namespace="other"), C),
    "none": (pod(namespace="other", labels={}), Access()),
}


@pytest.mark.parametrize("name", ACCESS)
def test_the_first_that_fits_says_how_a_pod_is_asked(name):
    raw, access = ACCESS[name]
    assert seen(raw, replace(RULES, grants=GRANTS)).target.access == access


# --- how pods started ---------------------------------------------------------------------------------------------

NOON = 1785585600.0  # 2026-08-01T12:00:00Z


def test_what_is_known_of_a_start():
    def condition(kind, second, is_true="True"):
        return {"type": kind, "status": is_true, "lastTransitionTime": f"2026-08-01T12:00:{second:02}Z"}

    raw = pod(
        conditions=[
            condition("PodScheduled", 1),
            condition("Initialized", 2),
            condition("ContainersReady", 40, "False"),
            condition("Ready", 40, "False"),
        ],
        containerStatuses=[
            {
                "name": "vllm",
                "restartCount": 2,
                "containerID": "containerd://4f5e",
                "state": {"running": {"startedAt": "2026-08-01T12:00:30Z"}},
                "lastState": {"terminated": {"exitCode": 1}},
            },
            {"name": "gone", "restartCount": 9},
        ],
    )
    expected = PodFacts(
        "inference",
        "llama-0",
        "uid-llama-0",
        created=NOON,
        scheduled=NOON + 1,
        initialized=NOON + 2,
        started={"vllm": NOON + 30},
        restarts={"vllm": 2},
        containers={"vllm": "4f5e"},
    )
    assert seen(raw).facts == expected
    raw["status"]["conditions"][-1]["status"] = "True"
    raw["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    assert seen(raw).facts == replace(expected, ready=NOON + 40, started={})


def test_a_pod_that_is_being_made_has_facts_and_no_target():
    raw = pod(phase="Pending", ip=None, containerStatuses=[{"name": "vllm", "state": {"waiting": {}}}])
    found = seen(raw)
    assert found.target is None
    assert found.facts == PodFacts("inference", "llama-0", "uid-llama-0", created=NOON, restarts={"vllm": 0})


def test_when_images_were_pulled():
    of = pod()
    events = [
        event(of, "Pulling", "2026-08-01T12:00:05Z"),
        event(of, "Pulled", "2026-08-01T12:00:25Z"),
        event(of, "Pulled", "2026-08-01T12:10:00Z"),  # it was started again
        event(of, "Started", "2026-08-01T12:00:26Z"),
        event(of, "Pulled", "2026-08-01T12:00:03Z", "proxy"),  # it was there
        {**event(of, "Pulled", "soon"), "eventTime": None},
        {"involvedObject": {}, "reason": "Pulled", "firstTimestamp": "2026-08-01T12:00:00Z"},
    ]
    decoded = [pod_json.event(json.dumps(each).encode()) for each in events]
    assert pulls(decoded) == ({"vllm": NOON + 5}, {"vllm": NOON + 25, "proxy": NOON + 3})


STAMPS = {
    "2026-08-01T12:00:00Z": NOON,
    "2026-08-01T12:00:00.250000Z": NOON + 0.25,
    "2026-08-01T14:00:00+02:00": NOON,
    "2026-08-01T12:00:00": NOON,
    "yesterday": None,
    "": None,
    None: None,
}


@pytest.mark.parametrize("text", STAMPS)
def test_stamps(text):
    assert seconds(text) == STAMPS[text]


BROKEN = ["", "{", "[]", "5", "null", '{"spec": 5}', '{"metadata": {"labels": {"a": 5}}}', '{"status": {"podIP": 7}}']


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_pod_is_refused(text):
    with pytest.raises(pod_json.BadJson):
        pod_json.pod(text.encode())


KEYS = "metadata spec status containers resources ports name annotations labels limits nodeName phase podIP conditions"


def _within(inner):
    return st.lists(inner) | st.dictionaries(st.sampled_from(KEYS.split()), inner)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _within))
def test_nothing_that_is_sent_crashes(value):
    try:
        pod = pod_json.pod(json.dumps(value).encode())
    except pod_json.BadJson:
        return
    look(pod, RULES)
