"""The exporter's settings: every option in one table, and the values of one run.

May not be in here: how options are read (kit/config.py), what is done with them (app.py).
"""

import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.core import drift, selector
from exporter.core.drift import Standard
from exporter.core.model_engines import EngineTarget
from exporter.core.saturation import GAP
from exporter.kit import log
from exporter.kit.config import (
    ConfigError,
    Option,
    boolean,
    choice,
    integer,
    listen,
    load,
    seconds,
    shown,
    string,
    strings,
)
from exporter.kit.version import VERSION
from exporter.sources.target_file import targets

PROGRAM = "plimsoll-exporter"

#: Paths of the web server that the metrics page cannot have.
TAKEN_PATHS = ("/", "/healthz", "/readyz", "/debug/engine")


class Settings(Struct, frozen=True):
    """The value of every option; its comment is in OPTIONS. Times are seconds, addresses (host, port)."""

    engines: tuple[EngineTarget, ...]
    engines_file: str
    engines_interval: float
    engines_timeout: float
    gpu_source: str
    nvml_library: str
    nvml_interval: float
    nvml_deadline: float
    demo_file: str
    dcgm_url: str
    dcgm_interval: float
    kmsg_file: str
    kubelet_socket: str
    kubelet_interval: float
    kubelet_resources: tuple[str, ...]
    kubernetes_pods: str
    kubernetes_namespaces: tuple[str, ...]
    kubernetes_selector: str
    kubernetes_port: int
    kubernetes_port_names: tuple[str, ...]
    kubernetes_access_file: str
    kubernetes_config: str
    kubernetes_kubelet_url: str
    kubernetes_kubelet_ca_file: str
    kubernetes_kubelet_insecure: bool
    standard: Standard
    state_file: str
    node: str
    web_listen_address: tuple[str, int]
    web_telemetry_path: str
    feed_listen_address: tuple[str, int]
    log_level: str
    log_format: str


def url(raw: Any) -> str:
    """An http or https URL without credentials, or "" for none. Raises ValueError."""
    text = string(raw)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if text and (not good or not text.isprintable() or " " in text):
        raise ValueError(f"{text!r} is not a URL; write for example http://127.0.0.1:9400/metrics")
    if text and parts.username is not None:
        # It would be on every page and in every log line.
        raise ValueError(f"the URL of {parts.hostname!r} holds credentials; write it without them")
    return text


def poll_seconds(raw: Any) -> float:
    """Seconds, no more than readings may be apart to be learned from. Raises ValueError."""
    value = seconds(raw)
    if value > GAP:
        raise ValueError(f"{raw!r} is too seldom to tell a wedged engine; write {GAP:g}s or less")
    return value


def telemetry_path(raw: Any) -> str:
    """A path of the web server that is not taken. Raises ValueError."""
    text = string(raw)
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]+", text) or text in TAKEN_PATHS:
        fix = f"write for example /metrics (not {', '.join(TAKEN_PATHS)})"
        raise ValueError(f"{text!r} cannot be the metrics path; {fix}")
    return text


def place(raw: Any) -> str:
    """ "auto", "off" or an absolute path. Raises ValueError."""
    text = "off" if raw is False else string(raw)  # YAML reads a bare `off` as false
    if text not in ("auto", "off") and not text.startswith("/"):
        raise ValueError(f"{text!r} is no place; write auto, off or an absolute path")
    return text


def kept_file(raw: Any) -> str:
    """ "off" ("") or an absolute path. Raises ValueError."""
    text = "" if raw is False or raw in ("", "off") else place(raw) if isinstance(raw, str) else "auto"
    if text == "auto":
        raise ValueError(f"{raw!r} is no file; write off or an absolute path")
    return text


#: Each is listed and watched by itself; for more, all are watched at less cost.
MAX_NAMESPACES = 16


def namespaces(raw: Any) -> tuple[str, ...]:
    """Names of namespaces, each once. Raises ValueError."""
    found = tuple(dict.fromkeys(strings(raw)))
    for name in found:
        if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", name):
            raise ValueError(f"{shown(name)} is no namespace; write its name, as in inference")
    if len(found) > MAX_NAMESPACES:
        raise ValueError(f"{len(found)} namespaces; name at most {MAX_NAMESPACES}, or none for all")
    return found


def label_selector(raw: Any) -> str:
    """A label selector, or "" for none. Raises ValueError."""
    text = string(raw).strip()
    try:
        if text:
            selector.parse(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} {error}") from None
    return text


# One option a row: a wrapped table cannot be scanned.
# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("engines", targets, (), "metrics URLs of this node's inference servers (in the file, mappings)", many=True),
    Option("engines.file", string, "", "YAML or JSON list of such servers, read again when it changes"),
    Option("engines.interval", poll_seconds, 1.0, "time between two readings of the servers, at most 10s"),
    Option("engines.timeout", seconds, 2.0, "time a server has to answer"),
    Option("gpu.source", choice("nvml", "demo", "off"), "nvml", "who is asked about GPUs: nvml, demo (fake GPUs), off"),
    Option("nvml.library", string, "", "path of libnvidia-ml.so.1, where the loader does not find it"),
    Option("nvml.interval", seconds, 1.0, "time between two readings of a GPU"),
    Option("nvml.deadline", seconds, 3.0, "time NVML has to answer before the GPU's readings count as missing"),
    Option("demo.file", string, "", "JSON file with fake GPUs, read again when it changes; without it there are two"),
    Option("dcgm.url", url, "", "metrics URL of this node's dcgm-exporter, if there is one"),
    Option("dcgm.interval", seconds, 5.0, "time between two readings of dcgm-exporter"),
    Option("kmsg.file", place, "auto", "kernel log, as a second witness of Xids: auto (/dev/kmsg where it may be read), off, or a path"),
    Option("kubelet.socket", place, "auto", "the kubelet's PodResources socket, for which pod has which GPU: auto (where it is there), off, or a path"),
    Option("kubelet.interval", seconds, 5.0, "time between two questions to the kubelet"),
    Option("kubelet.resources", strings, (), "resources that are GPUs, beside nvidia.com/gpu and the like", many=True),
    Option("kubernetes.pods", choice("off", "api", "kubelet"), "off", "who is asked for this node's inference servers: off, api (the API server), kubelet"),
    Option("kubernetes.namespaces", namespaces, (), "namespaces that are looked at; without it all", many=True),
    Option("kubernetes.selector", label_selector, "", "label selector of the pods that are looked at; without it all"),
    Option("kubernetes.port", integer(1, 65535), 8000, "port of a GPU's pod that does not say where its metrics are"),
    Option("kubernetes.port-names", strings, (), "names of container ports that are metrics ports", many=True),
    Option("kubernetes.access-file", string, "", "YAML or JSON list of how discovered pods are asked: certificates, tokens"),
    Option("kubernetes.config", string, "", "kubeconfig; without it the service account of this program's pod"),
    Option("kubernetes.kubelet-url", url, "", "URL of the kubelet's list of pods; without it https://$HOST_IP:10250/pods"),
    Option("kubernetes.kubelet-ca-file", string, "", "certificate authority of the kubelet; without it the service account's"),
    Option("kubernetes.kubelet-insecure", boolean, False, "whether any certificate of the kubelet's will do"),
    Option("standard.driver-version", drift.driver_version, "", "driver that this node is to have, whole or its beginning: 570, 570.133"),
    Option("standard.ecc", drift.on_off, None, "whether ECC is to be on: on, off"),
    Option("standard.mig", drift.on_off, None, "whether MIG mode is to be on: on, off"),
    Option("standard.power-limit", drift.power_limit, None, "power limit that GPUs are to have: watts, or default (the board's own)"),
    Option("standard.clock-sm", drift.megahertz, None, "application clock that GPUs are to have, in MHz"),
    Option("state.file", kept_file, "", "file in which verdicts, Xid counts and the inventory outlive this program; off (the default), or a path"),
    Option("node", string, "", "this node's name; else the environment's NODE_NAME, else the host name"),
    Option("web.listen-address", listen, ("", 9480), "where metrics, health and the status page are served"),
    Option("web.telemetry-path", telemetry_path, "/metrics", "path of the metrics page"),
    Option("feed.listen-address", listen, ("", 9481), "where scalers are served (gRPC)"),
    Option("log.level", choice(*log.LEVELS), "info", "least level that is logged: " + ", ".join(log.LEVELS)),
    Option("log.format", choice(*log.FORMATS), "logfmt", "form of a log line: " + ", ".join(log.FORMATS)),
)
# fmt: on


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of this run. Raises ConfigError (one line: place, cause, fix); exits on --help and --version."""
    values = load(PROGRAM, VERSION, OPTIONS, argv, environ)
    values["node"] = values["node"] or environ.get("NODE_NAME") or socket.gethostname()
    if values["kubernetes_pods"] != "off" and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,252}", values["node"]):
        raise ConfigError(f"option node: {shown(values['node'])} is no node of Kubernetes; set NODE_NAME or --node")
    declared = {name: values.pop(f"standard_{name}") for name in Standard.__struct_fields__}
    return Settings(**values, standard=Standard(**declared))
