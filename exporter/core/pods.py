"""A pod as Kubernetes describes it -> where its metrics are, and what is known of its start.

May not be in here: which port (pod_ports.py), how pods are listed, which of them are asked.

The host of a target is always the pod's own address, which the kubelet reports; nothing that a pod's owner wrote can
name another.
"""

import ipaddress
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from exporter.core import pod_ports, quantity, selector
from exporter.core.model import PodRef
from exporter.core.model_engines import Access, EngineTarget, PodFacts
from exporter.core.pod_json import ContainerStatus, Event, Pod
from exporter.core.pod_ports import Endpoint, Wanted
from exporter.core.selector import Requirement

WEIGHTS, PER_TOKEN = "plimsoll.dev/weights-bytes", "plimsoll.dev/kv-bytes-per-token"

#: A pod with more labels than anybody selects by is no target: they all travel to every scaler.
MAX_LABELS = 128
_LIVE = ("Pending", "Running")


class Grant(Struct, frozen=True):
    """How pods that it fits are asked. namespace "" and labels {} fit any."""

    access: Access
    namespace: str = ""
    labels: Mapping[str, str] = {}


class Rules(Struct, frozen=True):
    """Which pods are looked at, and how."""

    node: str  # its name: pods of others are nobody's here
    own: tuple[str, str] = ("", "")  # namespace and name of the pod that this program runs in
    namespaces: frozenset[str] = frozenset()  # empty: all
    selector: tuple[Requirement, ...] = ()
    ports: Wanted = Wanted()
    grants: tuple[Grant, ...] = ()  # the first that fits counts


class Seen(Struct, frozen=True):
    """What is kept of a pod."""

    facts: PodFacts
    target: EngineTarget | None = None  # None: it does not run yet
    declared: bool = False  # a container declares the port: in the host's network it then is this pod's alone
    notes: tuple[str, ...] = ()  # what its owner wrote and cannot be; one line each


def look(pod: Pod, rules: Rules) -> Seen | str:
    """What is to be known of the pod; or, of one that is no inference server, why its owner may think it is ("")."""
    meta = pod.metadata
    place = (meta.namespace, meta.name)
    labels = meta.labels or {}
    if (
        pod.spec.node_name != rules.node
        or place == rules.own
        or (rules.namespaces and meta.namespace not in rules.namespaces)
        or pod.status.phase not in _LIVE
        or not selector.meets(rules.selector, labels)
    ):
        return ""
    endpoint, complaint = pod_ports.choose(pod, rules.ports)
    if endpoint is None:
        return complaint
    if len(labels) > MAX_LABELS:
        return f"has {len(labels)} labels, {MAX_LABELS} are allowed; remove some"
    notes = [complaint] if complaint else []
    declared = {}
    for key in (WEIGHTS, PER_TOKEN):
        try:
            text = (meta.annotations or {}).get(key)
            declared[key] = None if text is None else quantity.parse(text)
        except ValueError as error:
            notes.append(f"annotation {key}: {error}")
    host = _host(pod.status.pod_ip or "") if pod.status.phase == "Running" else ""
    target = EngineTarget(
        url=f"{endpoint.scheme}://{host}:{endpoint.port}{endpoint.path}",
        pod=PodRef(*place, _container(pod, endpoint, rules)),
        labels=labels,
        access=_access(meta.namespace, labels, rules.grants),
        weights_bytes=declared.get(WEIGHTS),
        kv_bytes_per_token=declared.get(PER_TOKEN),
    )
    return Seen(_facts(pod), target if host else None, pod_ports.declares(pod, endpoint.port), tuple(notes))


def _host(address: str) -> str:
    """The address as a URL has it; "" if no pod can have it: loopback, link-local (where clouds keep credentials), or
    an IPv6 address that stands for an IPv4 one. 240.0.0.0/4 is good: there are clouds that give it to pods.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and (found.scope_id or found.is_reserved or found.sixtofour):
        return ""
    if found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified:
        return ""
    return f"[{found}]" if found.version == 6 else str(found)


def _container(pod: Pod, endpoint: Endpoint, rules: Rules) -> str:
    """The container by whose GPUs the engine is known. "" is any of the pod's.

    A sidecar may have the port before the server that has the GPU.
    """
    holders = pod_ports.gpu_containers(pod, rules.ports.resources)
    if not holders or endpoint.container in holders:
        return endpoint.container
    return holders[0] if len(holders) == 1 else ""


def _access(namespace: str, labels: Mapping[str, str], grants: Iterable[Grant]) -> Access:
    for grant in grants:
        if grant.namespace in ("", namespace) and grant.labels.items() <= labels.items():
            return grant.access
    return Access()


def _facts(pod: Pod) -> PodFacts:
    meta, status = pod.metadata, pod.status
    true = {each.type: seconds(each.last_transition_time) for each in status.conditions or () if each.status == "True"}
    statuses = [*(status.container_statuses or ()), *(status.init_container_statuses or ())]
    served = {container.name for container in pod_ports.containers(pod)}
    statuses = [each for each in statuses if each.name in served]
    return PodFacts(
        namespace=meta.namespace,
        pod=meta.name,
        uid=meta.uid,
        created=seconds(meta.creation_timestamp),
        scheduled=true.get("PodScheduled"),
        initialized=true.get("Initialized"),
        ready=true.get("Ready"),
        started={each.name: at for each in statuses if (at := _started(each)) is not None},
        restarts={each.name: each.restart_count for each in statuses},
        containers={each.name: each.container_id.rpartition("//")[2] for each in statuses if each.container_id},
    )


def _started(status: ContainerStatus) -> float | None:
    running = status.state.running if status.state else None
    return seconds(running.started_at) if running else None


def pulls(events: Iterable[Event]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Container -> when its image began to be pulled, and when it was there: Unix seconds, of the first time each.

    Of the first time, as a container that is started again is "pulled" again at once. An image that was there before
    was never pulled.
    """
    times: dict[str, dict[str, float]] = {"Pulling": {}, "Pulled": {}}
    for event in events:
        path = event.involved_object.field_path or ""
        at = seconds(event.first_timestamp or event.event_time)
        if event.reason in times and at is not None and path.endswith("}"):
            name = path[path.find("{") + 1 : -1]
            times[event.reason][name] = min(at, times[event.reason].get(name, math.inf))
    return times["Pulling"], times["Pulled"]


def seconds(text: str | None) -> float | None:
    """Unix seconds of a stamp as Kubernetes writes it ("2026-08-01T12:00:00Z"). None: it is none."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp() if at else None
