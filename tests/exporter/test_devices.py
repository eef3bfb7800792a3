"""Which GPUs a device id names, and who has them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import device_ids, devices
from exporter.core.devices import Holding
from exporter.core.model import Allocation, GpuInfo, GpuKey, KubeletReading, PodRef

A = "GPU-aaaaaaaa-1111-2222-3333-444444444444"
B = "GPU-bbbbbbbb-1111-2222-3333-444444444444"
C = "GPU-cccccccc-1111-2222-3333-444444444444"
GONE = "GPU-dddddddd-1111-2222-3333-444444444444"
MIG = "MIG-{}-5555-6666-7777-888888888888"
B1, B3, B5 = (GpuKey(B, instance) for instance in "135")
C2 = GpuKey(C, "2")

#: The index of a board is not its minor number. B has two instances of one profile and one of another, C a single one.
NODE = (
    GpuInfo(GpuKey(A), "0", pci_bus_id="00000000:3B:00.0", minor="2"),
    GpuInfo(GpuKey(B), "1", pci_bus_id="00000000:86:00.0", minor="0"),
    GpuInfo(B1, "1", minor="0", profile="1g.10gb", mig_uuid=MIG.format("bbbbbbb1")),
    GpuInfo(B3, "1", minor="0", profile="1g.10gb", mig_uuid=MIG.format("bbbbbbb3")),
    GpuInfo(B5, "1", minor="0", profile="3g.40gb", mig_uuid=MIG.format("bbbbbbb5")),
    GpuInfo(GpuKey(C), "2", pci_bus_id="00010000:01:00.0", minor="1"),
    GpuInfo(C2, "2", minor="1", profile="7g.80gb", mig_uuid=MIG.format("cccccccc")),
)
ALL = tuple(gpu.key for gpu in NODE)
WHOLE_B = (GpuKey(B), B1, B3, B5)
OF_B = (B1, B3, B5)
CLAIM = "290c3eea-1111-2222-3333-444444444444"

P, Q = PodRef("llm", "llama-0", "engine"), PodRef("lab", "notebook", "main")


def reading(*allocations: Allocation, allocatable: tuple[tuple[str, str], ...] | None = None) -> KubeletReading:
    return KubeletReading(0.0, allocations, allocatable)


def gpu(device: str, pod: PodRef = P, resource: str = "nvidia.com/gpu") -> Allocation:
    return Allocation(pod, resource, device)


#: id, (form, surely, maybe, whether it is a replica), resource
FORMS = [
    (A, "board uuid", (GpuKey(A),), (), False),
    (B, "board uuid", WHOLE_B, (), False),
    (GONE, "board uuid", (), (), False),
    (f"{A}::0", "board uuid", (GpuKey(A),), (), True),
    (f"{B}::17", "board uuid", WHOLE_B, (), True),
    (MIG.format("bbbbbbb3"), "mig uuid", (B3,), (), False),
    (MIG.format("bbbbbbb3") + "::2", "mig uuid", (B3,), (), True),
    # Of another compute instance, or gone.
    (MIG.format("00000000"), "mig uuid", (), (*OF_B, C2), False),
    (f"MIG-{B}/3/0", "old mig uuid", (B3,), (), False),
    (f"MIG-{B}/3/1", "old mig uuid", (B3,), (), False),
    (f"MIG-{B}/9/0", "old mig uuid", (), (), False),
    (f"MIG-{B}/3/0::1", "old mig uuid", (B3,), (), True),
    ("nvidia2", "gke", (GpuKey(A),), (), False),
    ("nvidia0", "gke", WHOLE_B, (), False),
    ("nvidia7", "gke", (), (), False),
    ("nvidia2/vgpu3", "gke", (GpuKey(A),), (), True),
    ("nvidia0/gi5", "gke mig", (B5,), (), False),
    ("nvidia0/gi5/vgpu0", "gke mig", (B5,), (), True),
    ("nvidia0/gi9", "gke mig", (), (), False),
    ("0", "index", (GpuKey(A),), (), False),
    ("0::1", "index", (GpuKey(A),), (), True),
    ("9", "index", (), (), False),
    ("2:0", "index of mig", (C2,), (), False),
    ("1:0", "index of mig", (GpuKey(B),), OF_B, False),
    ("0000:3b:00.0", "bus address", (GpuKey(A),), (), False),
    ("00000000:3B:00.0", "bus address", (GpuKey(A),), (), False),
    ("10000:01:00.0", None, (), ALL, False),
    ("00010000:01:00.0", "bus address", (GpuKey(C), C2), (), False),
    ("0000:ff:00.0", "bus address", (), (), False),
    ("gpu-2", "dra", (GpuKey(A),), (), False),
    ("gpu-0", "dra", WHOLE_B, (), False),
    ("gpu-0-mig-3g40gb-9-4", "dra mig", (B5,), (), False),
    ("gpu-0-mig-1g10gb-19-0", "dra mig", (GpuKey(B),), (B1, B3), False),
    ("gpu-0-mig-19-0-1", "dra mig", (GpuKey(B),), OF_B, False),
    ("gpu-1-mig-0-0-8", "dra mig", (C2,), (), False),
    ("gpu-9-mig-0-0-8", "dra mig", (), (), False),
    ("gpu-vfio-0", "dra vfio", (), (), False),
    (f"nvidia.com/gpu={A}", "board uuid", (GpuKey(A),), (), False),
    ("nvidia.com/gpu=0", "index", (GpuKey(A),), (), False),
    ("nvidia.com/gpu=2:0", "index of mig", (C2,), (), False),
    ("nvidia.com/gpu=all", None, (), ALL, False),
    (f"k8s.device-plugin.nvidia.com/gpu={A}", "board uuid", (GpuKey(A),), (), False),
    ("k8s.gpu.nvidia.com/device=gpu-2", "dra", (GpuKey(A),), (), False),
    (f"k8s.gpu.nvidia.com/claim={CLAIM}-gpu-2", "dra", (GpuKey(A),), (), False),
    (f"k8s.gpu.nvidia.com/claim={CLAIM}-gpu-0-mig-3g40gb-9-4", "dra mig", (B5,), (), False),
    # A slot of HAMi's: which GPU the pod gets is decided elsewhere.
    (f"{A}-3", None, (), ALL, False),
    ("", None, (), ALL, False),
    ("GPU-", None, (), ALL, False),
    ("nvidia٢", None, (), ALL, False),
    ("GPU-a\n", None, (), ALL, False),
]


@pytest.mark.parametrize(("device", "form", "surely", "maybe", "replica"), FORMS, ids=[row[0] for row in FORMS])
def test_an_id_names_its_gpus(device: str, form: str | None, surely: object, maybe: object, replica: bool) -> None:
    name = device_ids.parse("nvidia.com/gpu", device)
    assert (name.form.name if name.form else None) == form
    assert name.replica == replica
    assert device_ids.find(device_ids.node(NODE), name) == (surely, maybe)


def test_every_form_has_a_row_here_and_a_source() -> None:
    here = {form for _, form, *_ in FORMS} | {"iommu group"}
    assert {form.name for form in device_ids.FORMS} == here - {None}
    assert all(form.source for form in device_ids.FORMS)


@pytest.mark.parametrize(
    ("resource", "is_ours"),
    [
        ("nvidia.com/gpu", True),
        ("nvidia.com/gpu.shared", True),
        ("acme.io/gpu", True),
        ("nvidia.com/pgpu", False),
        ("nvidia.com/PGPU", False),
        ("nvidia.com/GA102GL_A10", False),
    ],
)
def test_a_plain_number_is_an_index_unless_the_resource_is_for_virtual_machines(resource: str, is_ours: bool) -> None:
    """There it is the number of an IOMMU group, of a board that this node's driver does not have."""
    had = reading(gpu("0", resource=resource), allocatable=((resource, "0"),))
    assert devices.assign(had, NODE) == ({GpuKey(A): Holding((P,))} if is_ours else {})
    assert devices.unmatched(had, NODE) == ()
    assert (devices.given(had), devices.offered(had)) == ((1, 1) if is_ours else (0, 0))


#: what, allocations, who has what; a GPU that is not named has nobody
HELD = [
    ("nothing", [], {}),
    ("one has one", [gpu(A)], {GpuKey(A): Holding((P,))}),
    ("one has two", [gpu(A), gpu(MIG.format("bbbbbbb1"))], {GpuKey(A): Holding((P,)), B1: Holding((P,))}),
    ("a board with instances, whole", [gpu(B)], {key: Holding((P,)) for key in WHOLE_B}),
    ("one time slice", [gpu(f"{A}::0")], {GpuKey(A): Holding((P,), shared=True)}),
    ("time slices, sorted", [gpu(f"{A}::0"), gpu(f"{A}::1", Q)], {GpuKey(A): Holding((Q, P), shared=True)}),
    ("both slices of one", [gpu(f"{A}::0"), gpu(f"{A}::1")], {GpuKey(A): Holding((P,), shared=True)}),
    ("GKE's", [gpu("nvidia0/gi3/vgpu0"), gpu("nvidia0/gi3/vgpu1", Q)], {B3: Holding((Q, P), shared=True)}),
    (
        "containers of one pod",
        [gpu(A), gpu(A, PodRef("llm", "llama-0", "sidecar"))],
        {GpuKey(A): Holding((P, PodRef("llm", "llama-0", "sidecar")), shared=True)},
    ),
    (
        "a claim that two pods share",
        [Allocation(P, "gpu.nvidia.com", "gpu-2", "n"), Allocation(Q, "gpu.nvidia.com", "gpu-2", "n")],
        {GpuKey(A): Holding((Q, P), shared=True)},
    ),
    (
        "instances that cannot be told apart",
        [gpu("gpu-0-mig-1g10gb-19-0"), gpu("gpu-0-mig-1g10gb-19-1", Q)],
        {GpuKey(B): Holding((Q, P)), B1: Holding(certain=False), B3: Holding(certain=False)},
    ),
    (
        "one that can be told, and one that cannot",
        [gpu(MIG.format("bbbbbbb1")), gpu("1:0", Q)],
        {
            GpuKey(B): Holding((Q,)),
            B1: Holding((P,), certain=False),
            B3: Holding(certain=False),
            B5: Holding(certain=False),
        },
    ),
    ("a GPU that is gone", [gpu(GONE)], {}),
    ("a virtual machine's", [gpu("gpu-vfio-0")], {}),
    ("an unknown form may be any", [gpu("?")], {key: Holding(certain=False) for key in ALL}),
]


@pytest.mark.parametrize(("what", "allocations", "expected"), HELD, ids=[row[0] for row in HELD])
def test_who_has_which_gpu(what: str, allocations: list[Allocation], expected: dict[GpuKey, Holding]) -> None:
    assert devices.assign(reading(*allocations), NODE) == expected


def test_a_gpu_whose_minor_number_nobody_told_may_be_the_one() -> None:
    node = (GpuInfo(GpuKey(A), "0"), GpuInfo(GpuKey(B), "1", minor="1"))
    assert devices.assign(reading(gpu("nvidia0")), node) == {GpuKey(A): Holding(certain=False)}


def test_without_the_board_its_instances_are_all_that_stands_for_it() -> None:
    """As dcgm-exporter shows a board with MIG."""
    node = tuple(gpu for gpu in NODE if gpu.key.instance)
    assert set(devices.assign(reading(gpu(B)), node)) == set(OF_B)


def test_ids_that_name_no_gpu_are_told() -> None:
    had = reading(gpu(A), gpu("zzz"), gpu(GONE), gpu("zzz", Q), gpu("gpu-vfio-1"))
    assert devices.unmatched(had, NODE) == (GONE, "zzz")


OFFERED = [
    ("this kubelet does not tell", None, (), None),
    ("no plugin", (), (), 0),
    ("two boards", (("nvidia.com/gpu", A), ("nvidia.com/gpu", B)), (), 2),
    ("time slices", tuple(("nvidia.com/gpu.shared", f"{A}::{n}") for n in range(4)), (), 1),
    ("GKE's", tuple(("nvidia.com/gpu", f"nvidia0/gi{i}/vgpu{n}") for i in (3, 5) for n in (0, 1)), (), 2),
    ("both kinds", (("nvidia.com/gpu", A), ("nvidia.com/mig-1g.10gb", MIG.format("bbbbbbb1"))), (), 2),
    ("a virtual machine's beside", (("nvidia.com/gpu", A), ("nvidia.com/pgpu", "94")), (), 1),
    ("claims, of which the kubelet offers nothing", (), (Allocation(P, "gpu.nvidia.com", "gpu-0", "n"),), None),
    ("both", (("nvidia.com/gpu", A),), (Allocation(P, "gpu.nvidia.com", "gpu-0", "n"),), 1),
]


@pytest.mark.parametrize(("what", "allocatable", "had", "expected"), OFFERED, ids=[row[0] for row in OFFERED])
def test_how_many_are_offered(what: str, allocatable: object, had: tuple[Allocation, ...], expected: object) -> None:
    assert devices.offered(KubeletReading(0.0, had, allocatable)) == expected  # type: ignore[arg-type]


def test_how_many_are_given() -> None:
    assert devices.given(reading()) == 0
    assert devices.given(reading(gpu(f"{A}::0"), gpu(f"{A}::1", Q), gpu(MIG.format("bbbbbbb1")))) == 2
    claims = [Allocation(pod, "gpu.nvidia.com", "gpu-0", "n") for pod in (P, Q)]
    assert devices.given(reading(*claims)) == 1


HOSTILE = ["0" * 50_000, "gpu-0-mig-" + "a-" * 50_000 + "!", "a::" * 50_000, "a.nvidia.com/" * 20_000 + "="]


@pytest.mark.parametrize("device", HOSTILE, ids=lambda device: device[:12])
def test_no_id_takes_long(device: str) -> None:
    began = time.process_time()
    device_ids.parse("nvidia.com/gpu", device)
    assert time.process_time() - began < 1.0


ids = st.one_of(
    st.text(max_size=40),
    st.sampled_from([row[0] for row in FORMS]),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "nvidia.com/gpu=", "k8s.gpu.nvidia.com/claim="]),
        st.sampled_from([A, "gpu-0", "nvidia0", "MIG-", "0", "0000:3b:00.0"]),
        st.sampled_from(["", "::0", "/vgpu1", "/gi1", "-mig-1g10gb-0-0", ":0", "\n", "/0/0"]),
    ),
)
allocated = st.builds(
    Allocation,
    st.sampled_from([P, Q]),
    st.one_of(st.sampled_from(["nvidia.com/gpu", "nvidia.com/pgpu", "gpu.nvidia.com"]), st.text(max_size=20)),
    ids,
    st.sampled_from(["", "n"]),
)


@given(st.lists(allocated, max_size=12), st.sets(st.sampled_from(NODE)))
def test_any_ids_put_every_pod_where_its_own_ids_say_and_nowhere_else(
    allocations: list[Allocation], present: set[GpuInfo]
) -> None:
    node = sorted(present, key=lambda gpu: gpu.key)
    had = reading(*allocations, allocatable=tuple((one.resource, one.device) for one in allocations))
    held = devices.assign(had, node)
    for info in node:
        alone = {
            one.pod for one in allocations if devices.assign(reading(one), node).get(info.key, devices.NOBODY).pods
        }
        assert held.get(info.key, devices.NOBODY).pods == tuple(sorted(alone))
    assert set(held) <= {info.key for info in node}
    unmatched = devices.unmatched(had, node)
    assert set(unmatched) <= {one.device for one in allocations}
    assert 0 <= devices.given(had) <= len(allocations)
    assert (devices.offered(had) or 0) <= len(allocations)
