"""On which port of a pod the metrics are, if it is an inference server at all.

May not be in here: the pod's address (pods.py), what is behind the port.

What a pod says of itself, its owner wrote, who need not be the operator: it may choose port, path and scheme, each in a
narrow form, and never a host.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from exporter.core.pod_json import Container, ContainerPort, Pod

OURS = "plimsoll.dev/metrics"
PROMETHEUS = "prometheus.io/"

LONGEST_PATH = 256  # characters

#: Resources that are GPUs: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb, ...
_GPU = re.compile(r"nvidia\.com/(?:mig-.+|.*gpu.*)", re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+/?")
_OURS = re.compile(r"(?:(?P<scheme>https?):|:)?(?P<port>[0-9]{1,5})(?P<path>/.*)?", re.DOTALL)


class Endpoint(NamedTuple):
    port: int
    path: str = "/metrics"
    scheme: str = "http"
    container: str = ""  # which declares the port; "" is unknown


class Wanted(NamedTuple):
    """What the operator configured. names: of container ports that are metrics ports. resources: that are GPUs."""

    port: int = 8000
    names: tuple[str, ...] = ()
    resources: frozenset[str] = frozenset()


def choose(pod: Pod, wanted: Wanted) -> tuple[Endpoint | None, str]:
    """The endpoint, or None; and what is wrong with the pod's annotations, if anything is ("" is nothing).

    The first row that applies decides:

    1. Annotation plimsoll.dev/metrics: "8000", ":8000/path", "https:8443/metrics"; "false" is none.
    2. A pod without a GPU is no inference server.
    3. prometheus.io/scrape: "true" with port, path and scheme.
    4. A container port of a configured name; of the container with the GPU before others.
    5. A container port with the configured number.
    6. No container declares any port: the configured number.

    A GPU's pod that declares other ports than these is not guessed at.
    """
    annotations = pod.metadata.annotations or {}
    if OURS in annotations:
        return _ours(annotations[OURS], pod)
    if not (holders := gpu_containers(pod, wanted.resources)):
        return None, ""
    found, complaint = _prometheus(annotations, pod)
    if found:
        return found, ""
    ports = sorted(_ports(pod), key=lambda declared: declared[0] not in holders)  # stable: else in the pod's order
    for name in wanted.names:
        for container, port in ports:
            if port.name == name:
                return Endpoint(port.container_port, container=container), complaint
    for container, port in ports:
        if port.container_port == wanted.port:
            return Endpoint(port.container_port, container=container), complaint
    if not ports:
        return Endpoint(wanted.port), complaint
    return None, complaint or (
        f"has a GPU and declares no metrics port; annotate it {OURS}: <port>, or {OURS}: 'false' if it is no server"
    )


def gpu_containers(pod: Pod, resources: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Names of the containers that hold a GPU, or a claim (DRA), of which the pod does not say for what device."""
    return tuple(container.name for container in containers(pod) if _has_gpu(container, resources))


def containers(pod: Pod) -> Iterator[Container]:
    """Those that run while the pod serves: init containers that restart always (sidecars) are among them."""
    yield from pod.spec.containers or ()
    yield from (container for container in pod.spec.init_containers or () if container.restart_policy == "Always")


def _has_gpu(container: Container, resources: frozenset[str]) -> bool:
    asked: Mapping[str, str | int | float] = {
        **(container.resources.requests or {}),
        **(container.resources.limits or {}),
    }
    return bool(container.resources.claims) or any(
        (name in resources or _GPU.fullmatch(name)) and str(number) not in ("0", "") for name, number in asked.items()
    )


def _ports(pod: Pod) -> Iterator[tuple[str, ContainerPort]]:
    for container in containers(pod):
        for port in container.ports or ():
            if port.protocol == "TCP" and 0 < port.container_port <= 65535:
                yield container.name, port


def declares(pod: Pod, number: int) -> bool:
    return any(port.container_port == number for _, port in _ports(pod))


def _declaring(pod: Pod, number: int) -> str:
    """The container that declares the port; else the only one there is."""
    declaring = [container for container, port in _ports(pod) if port.container_port == number]
    names = declaring or [container.name for container in containers(pod)]
    return names[0] if len(set(names)) == 1 else ""


def _ours(text: str, pod: Pod) -> tuple[Endpoint | None, str]:
    if text.strip().lower() == "false":
        return None, ""
    match = _OURS.fullmatch(text)
    if match is None:
        return None, _bad(OURS, text, "write 8000, :8000/path or https:8443/metrics (never a host), or false")
    return _endpoint(match["port"], match["path"] or "", match["scheme"] or "", OURS, pod)


def _prometheus(annotations: Mapping[str, str], pod: Pod) -> tuple[Endpoint | None, str]:
    """With a port only: without one, Prometheus asks every port that is declared."""
    port = annotations.get(f"{PROMETHEUS}port")
    if annotations.get(f"{PROMETHEUS}scrape", "").strip().lower() != "true" or port is None:
        return None, ""
    path, scheme = (annotations.get(f"{PROMETHEUS}{key}", "") for key in ("path", "scheme"))
    return _endpoint(port, path, scheme, f"{PROMETHEUS}*", pod)


def _endpoint(port: str, path: str, scheme: str, place: str, pod: Pod) -> tuple[Endpoint | None, str]:
    if not _PORT.fullmatch(port) or int(port) > 65535:
        return None, _bad(place, port, "write a port from 1 to 65535")
    path = path or "/metrics"
    segments = path.split("/")
    if len(path) > LONGEST_PATH or not _PATH.fullmatch(path) or "." in segments or ".." in segments:
        return None, _bad(place, path, f"write a path of letters, digits and -._~ up to {LONGEST_PATH} characters")
    if (scheme or "http") not in ("http", "https"):
        return None, _bad(place, scheme, "write http or https")
    return Endpoint(int(port), path, scheme or "http", _declaring(pod, int(port))), ""


def _bad(place: str, text: str, fix: str) -> str:
    return f"annotation {place}: {ascii(text)[:80]} cannot be; {fix}"
