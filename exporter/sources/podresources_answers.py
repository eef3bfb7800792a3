"""The kubelet's answers (PodResources v1) -> allocations and offers of GPUs.

May not be in here: asking (podresources.py), which GPU a device id names (core/device_ids.py).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from exporter.core.devices import DRA_DRIVER
from exporter.core.model import Allocation, PodRef
from exporter.pb import podresources_pb2 as pb

#: A node has some hundred pods; each may have a time slice.
MAX_DEVICES = 4096
#: Fields of an answer at most, one in the other counted singly. A pod with one container and one GPU has 8, a node with
#: 250 pods of five containers some 15,000. Two bytes are enough for a field, and those take 70 when they are decoded.
MAX_FIELDS = 1 << 16
#: Kubernetes' names have 253 characters at most, resources 317.
MAX_NAME = 512

#: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-*, and the names that sharing configurations give.
_GPU = re.compile(r"nvidia\.com/(?:mig-.+|.*gpu.*)", re.IGNORECASE)
#: CDI names of GPUs, as kubelets before 1.32 list claims: without the driver's and the device's names.
_CDI = re.compile(r"(?:k8s\.gpu\.)?nvidia\.com/.+")

T = TypeVar("T")
_Shape = Mapping[int, "_Shape"]  # field -> the fields of what is in it


class TooLarge(Exception):
    """An answer that no node gives."""


def allocations(body: bytes, resources: Collection[str]) -> tuple[tuple[Allocation, ...], int]:
    """(the GPUs that containers have, how many were left out) of List's answer.

    resources: names of resources that are GPUs, beside NVIDIA's own. Raises google.protobuf.message.DecodeError,
    TooLarge.
    """
    _check(body, _LIST)
    return _limited(_allocations(pb.ListPodResourcesResponse.FromString(body), resources), _is_short)


def offers(body: bytes, resources: Collection[str]) -> tuple[tuple[tuple[str, str], ...], int]:
    """((resource, device id) of each GPU, how many were left out) of GetAllocatableResources' answer. As above."""
    _check(body, _ALLOCATABLE)
    return _limited(_offers(pb.AllocatableResourcesResponse.FromString(body), resources), _is_short_offer)


# A text of a message is made anew whenever it is looked at, and may be long: it is looked at once.


def _offers(listed: pb.AllocatableResourcesResponse, resources: Collection[str]) -> Iterator[tuple[str, str]]:
    for one in listed.devices:
        if _is_gpu(resource := one.resource_name, resources):
            yield from ((resource, device) for device in one.device_ids)


def _allocations(listed: pb.ListPodResourcesResponse, resources: Collection[str]) -> Iterator[Allocation]:
    for pod in listed.pod_resources:
        namespace, name = pod.namespace, pod.name
        for container in pod.containers:
            ref = PodRef(namespace, name, container.name)
            for one in container.devices:
                if _is_gpu(resource := one.resource_name, resources):
                    yield from (Allocation(ref, resource, device) for device in one.device_ids)
            for claim in container.dynamic_resources:
                for given in claim.claim_resources:
                    pool = given.pool_name
                    yield from (Allocation(ref, DRA_DRIVER, device, pool) for device in _claimed(given))


def _claimed(given: pb.ClaimResource) -> Iterable[str]:
    """The GPUs of a claim. Where the device has no name, its CDI names stand for it."""
    driver, device = given.driver_name, given.device_name
    if driver not in ("", DRA_DRIVER):
        return ()
    if driver and device:
        return (device,)
    return [name for name in (one.name for one in given.cdi_devices) if _CDI.fullmatch(name)]


def _is_gpu(resource: str, resources: Collection[str]) -> bool:
    return resource in resources or _GPU.fullmatch(resource) is not None


def _is_short(one: Allocation) -> bool:
    texts = (one.pod.namespace, one.pod.pod, one.pod.container, one.resource, one.device, one.pool)
    return max(map(len, texts)) <= MAX_NAME


def _is_short_offer(one: tuple[str, str]) -> bool:
    return max(map(len, one)) <= MAX_NAME


def _limited(items: Iterable[T], fits: Callable[[T], bool]) -> tuple[tuple[T, ...], int]:
    """(as many as are kept, each once; how many there were beyond). A device on two NUMA nodes may be listed twice."""
    kept: dict[T, None] = {}
    left_out = 0
    for item in items:
        if item in kept:
            continue
        if len(kept) < MAX_DEVICES and fits(item):
            kept[item] = None
        else:
            left_out += 1
    return tuple(kept), left_out


def _shape(message: Any) -> _Shape:  # a Descriptor, of which protobuf has several
    return {field.number: _shape(field.message_type) for field in message.fields if field.message_type}


_LIST = _shape(pb.ListPodResourcesResponse.DESCRIPTOR)
_ALLOCATABLE = _shape(pb.AllocatableResourcesResponse.DESCRIPTOR)


def _check(body: bytes, shape: _Shape) -> None:
    """Count the fields without decoding them. Raises TooLarge, and DecodeError where they do not follow one another."""
    if _fields_left(body, 0, len(body), shape, MAX_FIELDS) < 0:
        raise TooLarge(f"the answer has more than {MAX_FIELDS} fields")


def _fields_left(body: bytes, at: int, end: int, shape: _Shape, left: int) -> int:
    """How many of `left` fields remain after those of the message from `at` to `end`; less than 0: too few.

    The wire format (protobuf.dev/programming-guides/encoding): a tag is the field's number and, in the lowest three
    bits, how long it is: 0 a varint, 1 eight bytes, 2 a length before it, 5 four bytes. proto3 has no groups (3, 4).
    """
    while at < end and left >= 0:
        left -= 1
        tag, at = _varint(body, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(body, at)
            if (inner := shape.get(tag >> 3)) is not None and at + size <= end:
                left = _fields_left(body, at, at + size, inner, left)
            at += size
        elif kind == 0:
            _, at = _varint(body, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise DecodeError("a group")
        if at > end:
            raise DecodeError("cut")
    return left


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends): seven bits a byte, the lowest first, ten bytes at most. Raises DecodeError."""
    value = 0
    for place, byte in enumerate(body[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise DecodeError("cut")
