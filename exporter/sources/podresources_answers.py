"""The kubelet's answers (PodResources v1) -> allocations and offers of GPUs.

May not be in here: asking (podresources.py), which GPU a device id names (core/device_ids.py).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

from exporter.core.devices import DRA_DRIVER
from exporter.core.model import Allocation, PodRef
from exporter.pb import podresources_pb2 as pb

#: A node has some hundred pods; each may have a time slice.
MAX_DEVICES = 4096
#: Kubernetes' names have 253 characters at most, resources 317.
MAX_NAME = 512

#: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-*, and the names that sharing configurations give.
_GPU = re.compile(r"nvidia\.com/(?:mig-.+|.*gpu.*)", re.IGNORECASE)
#: CDI names of GPUs, as kubelets before 1.32 list claims: without the driver's and the device's names.
_CDI = re.compile(r"(?:k8s\.gpu\.)?nvidia\.com/.+")

T = TypeVar("T")


def allocations(body: bytes, resources: Collection[str]) -> tuple[tuple[Allocation, ...], int]:
    """(the GPUs that containers have, how many were left out) of List's answer.

    resources: names of resources that are GPUs, beside NVIDIA's own. Raises google.protobuf.message.DecodeError.
    """
    return _limited(_allocations(pb.ListPodResourcesResponse.FromString(body), resources), _is_short)


def offers(body: bytes, resources: Collection[str]) -> tuple[tuple[tuple[str, str], ...], int]:
    """((resource, device id) of each GPU, how many were left out) of GetAllocatableResources' answer. As above."""
    listed = pb.AllocatableResourcesResponse.FromString(body).devices
    found = (
        (one.resource_name, id_) for one in listed if _is_gpu(one.resource_name, resources) for id_ in one.device_ids
    )
    return _limited(found, lambda offer: max(map(len, offer)) <= MAX_NAME)


def _allocations(listed: pb.ListPodResourcesResponse, resources: Collection[str]) -> Iterator[Allocation]:
    for pod in listed.pod_resources:
        for container in pod.containers:
            ref = PodRef(pod.namespace, pod.name, container.name)
            for one in container.devices:
                if _is_gpu(one.resource_name, resources):
                    yield from (Allocation(ref, one.resource_name, device) for device in one.device_ids)
            for claim in container.dynamic_resources:
                for given in claim.claim_resources:
                    yield from (Allocation(ref, DRA_DRIVER, device, given.pool_name) for device in _claimed(given))


def _claimed(given: pb.ClaimResource) -> Iterable[str]:
    """The GPUs of a claim. Where the device has no name, its CDI names stand for it."""
    if given.driver_name not in ("", DRA_DRIVER):
        return ()
    if given.driver_name and given.device_name:
        return (given.device_name,)
    return [device.name for device in given.cdi_devices if _CDI.fullmatch(device.name)]


def _is_gpu(resource: str, resources: Collection[str]) -> bool:
    return resource in resources or _GPU.fullmatch(resource) is not None


def _is_short(one: Allocation) -> bool:
    texts = (one.pod.namespace, one.pod.pod, one.pod.container, one.resource, one.device, one.pool)
    return max(map(len, texts)) <= MAX_NAME


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
