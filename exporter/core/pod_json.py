"""What Kubernetes sends of a pod, its node and its events, as far as it is used here; all else is skipped unread.

May not be in here: what any of it means (pods.py).

The names are Kubernetes' own (core/v1). What is not there has the default; what has another type refuses its object.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct


class _Part(Struct, frozen=True, rename="camel"):
    pass


class ContainerPort(_Part, frozen=True):
    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Resources(_Part, frozen=True):
    requests: Mapping[str, str | int | float] | None = None
    limits: Mapping[str, str | int | float] | None = None
    claims: list[Raw] | None = None


class Container(_Part, frozen=True):
    name: str = ""
    ports: list[ContainerPort] | None = None
    resources: Resources = Resources()
    restart_policy: str | None = None  # "Always" on an init container: it runs beside the others


class Meta(_Part, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None


class Spec(_Part, frozen=True):
    node_name: str = ""
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class Condition(_Part, frozen=True):
    type: str = ""
    status: str = ""
    last_transition_time: str | None = None


class Running(_Part, frozen=True):
    started_at: str | None = None


class State(_Part, frozen=True):
    running: Running | None = None


class ContainerStatus(_Part, frozen=True):
    name: str = ""
    restart_count: int = 0
    container_id: str | None = msgspec.field(default=None, name="containerID")
    state: State | None = None


class Status(_Part, frozen=True):
    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(_Part, frozen=True):
    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: Status = Status()


class Node(_Part, frozen=True):
    metadata: Meta = Meta()


class InvolvedObject(_Part, frozen=True):
    uid: str = ""
    field_path: str | None = None  # "spec.containers{vllm}"


class Event(_Part, frozen=True):
    reason: str | None = None
    involved_object: InvolvedObject = InvolvedObject()
    first_timestamp: str | None = None
    event_time: str | None = None


class ListMeta(_Part, frozen=True):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class Listing(_Part, frozen=True):
    """A page of a list. Items are left as they came: one that makes no sense harms itself."""

    items: list[Raw] | None = None
    metadata: ListMeta = ListMeta()


class WatchEvent(_Part, frozen=True):
    type: str
    object: Raw


class Bookmark(_Part, frozen=True):
    """What a BOOKMARK holds, and every other object."""

    metadata: Meta


class Failure(_Part, frozen=True):
    """A Status, as an ERROR event holds it."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None


listing = msgspec.json.Decoder(Listing).decode
watch_event = msgspec.json.Decoder(WatchEvent).decode
bookmark = msgspec.json.Decoder(Bookmark).decode
failure = msgspec.json.Decoder(Failure).decode
pod = msgspec.json.Decoder(Pod).decode
node = msgspec.json.Decoder(Node).decode
event = msgspec.json.Decoder(Event).decode

#: What all of these raise for what is no JSON, or has another type than Kubernetes declares.
BadJson = msgspec.DecodeError
