"""core/engine_memory.py: what the memory of an engine's GPUs is used for, and never a guess."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core import boards
from exporter.core.engine_memory import KINDS, LISTED_SHARE, NOBODY, Owner, Place, memory_bytes, owners, place
from exporter.core.inputs import FRESH_SECONDS, NodeInputs
from exporter.core.model import Gpu, GpuInfo, GpuKey, GpuProcess, GpuReading, PodRef, Verdict
from exporter.core.model_engines import EngineReading, EngineTarget, PodFacts
from exporter.sources import demo

G = 1e9
NOW = 100.0
FRESH = {"nvml": 3.0}
ALONE = Owner(alone=True)
MINE, THEIRS = "a" * 64, "b" * 64
POD, OTHER = PodRef("ns", "llama-0", "vllm"), PodRef("ns", "llama-1", "vllm")
Pids = Mapping[int, float | None]


def gpu(
    pids: Pids | None = None,
    used: float | None = 60 * G,
    total: float | None = 80 * G,
    reserved: float = 1 * G,
    count: float | None = None,
    at: float = NOW,
    key: str = "GPU-0",
    **more: Any,
) -> Gpu:
    """A GPU of 80 GB with one process, 41, that holds all that is used."""
    pids = {41: used} if pids is None else pids
    free = None if used is None or total is None else total - reserved - used
    number = float(len(pids)) if count is None else count
    values = {"memory_used": used, "memory_total": total, "memory_free": free, "processes": number}
    fields: dict[str, Any] = {
        "info": GpuInfo(GpuKey(key)),
        "readings": {name: GpuReading(value, at, "nvml") for name, value in values.items() if value is not None},
        "missing": {},
        "sources": {},
        "xids": {},
        "pods": (POD,),
        "shared": False,
        "verdict": Verdict("healthy"),
        "drift": {},
        "unowned_memory": None,
        "at": at,
        "processes": tuple(GpuProcess(pid, amount) for pid, amount in pids.items()),
        **more,
    }
    return Gpu(**fields)


def told(**changes: Any) -> EngineReading:
    fields: dict[str, Any] = {"kv_usage": 0.25, "kv_capacity_tokens": 200_000.0, **changes}
    return EngineReading("m", "0", **fields)


def target(weights: float | None = 16 * G, token: float | None = 2e5, **more: Any) -> EngineTarget:
    """Weights of 16 GB and a KV cache of 40 GB (200 000 tokens), as declared."""
    return EngineTarget("http://h:1/metrics", POD, weights_bytes=weights, kv_bytes_per_token=token, **more)


def split(
    reading: EngineReading | None = None,
    of: EngineTarget | None = None,
    gpus: tuple[Gpu | None, ...] | None = None,
    owner: Owner = ALONE,
    engines: int = 1,
    containers: Mapping[int, str] | None = None,
) -> dict[str, float]:
    parts = memory_bytes(
        reading or told(),
        of or target(),
        (gpu(),) if gpus is None else gpus,
        owner,
        engines,
        containers or {},
        FRESH,
        NOW,
    )
    return {kind: round(amount / G, 6) for kind, amount in parts.items()}


UNDECLARED = target(None, None)
NO_WORD = {"other": 60.0, "unallocated": 19.0}
NO_LIST = {"weights": 16.0, "kv_used": 10.0, "kv_free": 30.0, "unallocated": 19.0}
NO_KV = {"weights": 16.0, "other": 44.0, "unallocated": 19.0}
BY_CONTAINER = Owner(False, frozenset({"a" * 64}))
SET = {"kv_cache_bytes": "40000000000"}
KV = {"kv_used": 10.0, "kv_free": 30.0}
ALL = {"weights": 16.0, **KV, "other": 4.0, "unallocated": 19.0}
SHARED = gpu({41: 30 * G, 42: 20 * G}, shared=True, pods=(POD, OTHER))
TWO = (gpu(), gpu({42: 60 * G}, key="GPU-1"))

# name, arguments of split, what is told in GB
CASES: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    ("all is known", {}, ALL),
    ("nothing is declared", {"of": UNDECLARED}, NO_WORD),
    ("weights alone", {"of": target(token=None)}, NO_KV),
    ("the KV cache alone", {"of": target(None)}, {**KV, "other": 20, "unallocated": 19}),
    ("the server tells its KV cache",
     {"of": UNDECLARED, "reading": told(config=SET)}, {**KV, "other": 20, "unallocated": 19}),
    ("the server's word before the declared", {"of": target(token=1.0), "reading": told(config=SET)}, ALL),
    ("vLLM was not told a size", {"reading": told(config={"kv_cache_bytes": "None"})}, ALL),
    ("a size that is none", {"of": UNDECLARED, "reading": told(config={"kv_cache_bytes": "-4"})}, NO_WORD),
    ("a size of 0 is none", {"of": UNDECLARED, "reading": told(config={"kv_cache_bytes": "0"})}, NO_WORD),
    ("two GPUs: the declared are of both", {"gpus": TWO}, {"weights": 16, **KV, "other": 64, "unallocated": 38}),
    ("two GPUs: the server's word is of each", {"gpus": TWO, "reading": told(config=SET)},
     {"weights": 16, "kv_used": 20, "kv_free": 60, "other": 24, "unallocated": 38}),
    ("usage is not told", {"reading": told(kv_usage=None)}, NO_KV),
    ("capacity is not told", {"reading": told(kv_capacity_tokens=None)}, NO_KV),
    ("no GPU is known", {"gpus": ()}, {}),
    ("one of two GPUs is not seen", {"gpus": (gpu(), None)}, {"weights": 16, **KV}),
    ("declared more than is held: the declared are wrong", {"of": target(70 * G)}, NO_WORD),
    ("declared more than is used, and nobody tells the processes",
     {"of": target(70 * G), "gpus": (gpu(processes=None),)},
     {"unallocated": 19}),
    ("it sleeps: what is declared is not on the GPU", {"reading": told(sleeping=True)}, NO_WORD),
    ("processes are not told", {"gpus": (gpu(processes=None),)}, NO_LIST),
    ("no process is listed: it is hidden", {"gpus": (gpu({}),)}, NO_LIST),
    ("one of two GPUs lists no process",
     {"gpus": (gpu(), gpu({}, key="GPU-1"))}, {"weights": 16, **KV, "unallocated": 38}),
    ("a process hides its memory", {"gpus": (gpu({41: 60 * G, 42: None}),)}, NO_LIST),
    ("more processes than are listed", {"gpus": (gpu(count=300.0),)}, NO_LIST),
    ("most of what is used is nobody's: MPS or graphics", {"gpus": (gpu({41: 1 * G}),)}, NO_LIST),
    ("the list is older than the rest",
     {"gpus": (gpu({41: 70 * G}, used=56 * G),)}, {"weights": 16, **KV, "unallocated": 23}),
    ("what the driver keeps is what it may be off by", {"gpus": (gpu({41: 60.5 * G}),)}, {**ALL, "other": 4.5}),
    ("readings are stale", {"gpus": (gpu(at=90.0),)}, {"weights": 16, **KV}),
    ("a driver that tells no memory", {"gpus": (gpu({41: 1.0}, used=None, total=None),)}, {"weights": 16, **KV}),
    ("shared, and it is not known whose is whose", {"gpus": (SHARED,), "owner": NOBODY}, NO_LIST),
    ("shared, by container",
     {"of": target(5 * G, 1e5), "gpus": (SHARED,), "owner": BY_CONTAINER, "containers": {41: MINE, 42: THEIRS}},
     {"weights": 5, "kv_used": 5, "kv_free": 15, "other": 5, "unallocated": 19}),
    ("shared, one process is in no container",
     {"of": UNDECLARED, "gpus": (SHARED,), "owner": BY_CONTAINER, "containers": {41: MINE, 42: ""}},
     {"other": 30, "unallocated": 19}),
    ("shared, one process cannot be told",
     {"of": UNDECLARED, "gpus": (SHARED,), "owner": BY_CONTAINER, "containers": {41: MINE}},
     {"unallocated": 19}),
    ("shared, none is its own",
     {"of": UNDECLARED, "gpus": (SHARED,), "owner": BY_CONTAINER, "containers": {41: THEIRS, 42: THEIRS}},
     {"unallocated": 19}),
    ("its own, and one was left behind",
     {"of": UNDECLARED, "gpus": (gpu({41: 50 * G, 42: 10 * G}),), "owner": Owner(True, frozenset({MINE})),
      "containers": {41: MINE, 42: THEIRS}},
     {"other": 50, "unallocated": 19}),
    ("its own, and the containers are another namespace's",
     {"owner": Owner(True, frozenset({MINE})), "containers": {41: THEIRS}},
     ALL),
    ("two engines: of each its own", {"of": target(1 * G, 1e5), "gpus": TWO, "engines": 2},
     {"weights": 1, "kv_used": 5, "kv_free": 15}),
    ("two engines: the server's word is of each GPU",
     {"of": UNDECLARED, "reading": told(config=SET), "gpus": TWO, "engines": 2}, KV),
    ("two engines on one GPU: nobody tells", {"of": UNDECLARED, "reading": told(config=SET), "engines": 2}, {}),
    ("two engines: more than both hold", {"of": target(30 * G), "gpus": TWO, "engines": 2}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_what_the_memory_is_used_for(arguments: dict[str, Any], expected: dict[str, float]) -> None:
    assert split(**arguments) == pytest.approx(expected)


def test_what_is_declared_wrong_is_not_clipped() -> None:
    """At the edge: what adds up to just what is held leaves 0 for the rest; a byte more, and it is not believed."""
    assert split(of=target(20 * G))["other"] == 0.0
    assert split(of=target(20 * G + 1)) == {"other": 60.0, "unallocated": 19.0}


amounts = st.one_of(st.just(0.0), st.floats(0, 1e12), st.just(80 * G))
words = st.one_of(st.none(), amounts, st.just(math.nan), st.just(math.inf), st.just(-1.0))
boards_of = st.builds(
    lambda pids, used, reserved, hidden: gpu(
        pids, used=min(used, 80 * G - reserved), reserved=reserved, **({"processes": None} if hidden else {})
    ),
    st.dictionaries(st.integers(1, 4), st.one_of(st.none(), amounts), max_size=3),
    st.floats(0, 80 * G),
    st.floats(0, 2 * G),
    st.booleans(),
)
engines_of = st.builds(
    told,
    kv_usage=st.one_of(st.none(), st.floats(0, 1), st.just(math.nan), st.just(7.0)),
    kv_capacity_tokens=words,
    sleeping=st.sampled_from([None, False, True]),
    config=st.sampled_from([{}, SET, {"kv_cache_bytes": "None"}, {"kv_cache_bytes": "9" * 15}]),
)


@settings(max_examples=300)
@given(
    engines_of,
    st.builds(target, words, words),
    st.lists(st.one_of(boards_of, st.none()), max_size=3),
    st.builds(Owner, st.booleans(), st.sampled_from([frozenset(), frozenset({MINE})])),
    st.integers(0, 3),
    st.dictionaries(st.integers(1, 4), st.sampled_from([MINE, THEIRS, ""])),
)
def test_no_kind_is_negative_and_all_together_are_no_more_than_the_gpus_have(
    reading: EngineReading,
    of: EngineTarget,
    gpus: list[Gpu | None],
    owner: Owner,
    engines: int,
    containers: Mapping[int, str],
) -> None:
    parts = memory_bytes(reading, of, gpus, owner, engines, containers, FRESH, NOW)
    assert set(parts) <= set(KINDS)
    assert all(math.isfinite(amount) and amount >= 0 for amount in parts.values())
    assert ("kv_used" in parts) == ("kv_free" in parts)
    if None not in gpus:
        assert max(engines, 1) * math.fsum(parts.values()) <= len(gpus) * 80 * G * (1 + 1e-12)


@settings(max_examples=200)
@given(st.floats(0, 79 * G), st.floats(0, 1), st.one_of(st.none(), amounts), st.one_of(st.none(), st.floats(0, 1e6)))
def test_where_all_that_is_used_is_listed_the_kinds_add_up_to_what_the_gpu_gives_out(
    used: float, usage: float, weights: float | None, token: float | None
) -> None:
    parts = memory_bytes(told(kv_usage=usage), target(weights, token), (gpu(used=used),), ALONE, 1, {}, FRESH, NOW)
    assert math.fsum(parts.values()) == pytest.approx(79 * G)
    assert {"other", "unallocated"} <= set(parts)


@given(st.floats(0, 1))
def test_a_gpu_of_its_own_counts_while_most_of_its_memory_is_listed(share: float) -> None:
    parts = split(of=UNDECLARED, gpus=(gpu({41: share * 60 * G}),))
    assert ("other" in parts) == (share >= LISTED_SHARE)


# --- whose processes ------------------------------------------------------------------------------------------------

A, B = GpuKey("GPU-0"), GpuKey("GPU-1")
SLICE, SLICE9 = GpuKey("GPU-0", "2"), GpuKey("GPU-0", "9")
C = frozenset({MINE})

# name, places by URL, GPUs, owner of server "x"
OWNERS: list[tuple[str, dict[str, Place], dict[GpuKey, Gpu], Owner]] = [
    ("one server, one GPU", {"x": Place((A,))}, {A: gpu()}, ALONE),
    ("its containers are its own", {"x": Place((A,), C)}, {A: gpu()}, Owner(True, C)),
    ("another server on another GPU", {"x": Place((A,)), "y": Place((B,))}, {A: gpu()}, ALONE),
    ("another server on its GPU", {"x": Place((A,), C), "y": Place((A,))}, {A: gpu()}, Owner(False, C)),
    ("another server in its container", {"x": Place((A,), C), "y": Place((A,), C)}, {A: gpu()}, NOBODY),
    ("another server on one of its two GPUs", {"x": Place((A, B)), "y": Place((B,))}, {A: gpu(), B: gpu()}, NOBODY),
    ("a server may run anywhere, the GPU is nobody's", {"x": Place((A,)), "y": Place()}, {A: gpu(pods=())}, NOBODY),
    ("a server may run anywhere, the GPU is one pod's", {"x": Place((A,)), "y": Place()}, {A: gpu()}, ALONE),
    ("it is not known where it runs", {"x": Place((), C)}, {}, Owner(False, C)),
    ("a GPU that nobody sees", {"x": Place((A,))}, {}, NOBODY),
    ("time slices", {"x": Place((A,), C)}, {A: gpu(shared=True)}, Owner(False, C)),
    ("two pods are on the GPU", {"x": Place((A,))}, {A: gpu(pods=(POD, OTHER))}, NOBODY),
    ("whether it is shared is unknown, one pod has it", {"x": Place((A,))}, {A: gpu(shared=None)}, ALONE),
    ("an instance beside another's", {"x": Place((SLICE,)), "y": Place((SLICE9,))}, {SLICE: gpu()}, ALONE),
    ("an instance of another's board", {"x": Place((SLICE,)), "y": Place((A,))}, {SLICE: gpu()}, NOBODY),
    ("a board with another's instance", {"x": Place((A,)), "y": Place((SLICE,))}, {A: gpu()}, NOBODY),
]  # fmt: skip


@pytest.mark.parametrize(("places", "gpus", "owner"), [row[1:] for row in OWNERS], ids=[row[0] for row in OWNERS])
def test_whose_the_processes_are(places: dict[str, Place], gpus: dict[GpuKey, Gpu], owner: Owner) -> None:
    assert owners(places, gpus)["x"] == owner


FACTS = PodFacts("ns", "llama-0", containers={"vllm": MINE, "proxy": THEIRS, "late": ""})


@pytest.mark.parametrize(
    ("pod", "facts", "containers"),
    [
        (POD, FACTS, {MINE}),
        (PodRef("ns", "llama-0"), FACTS, {MINE, THEIRS}),
        (PodRef("ns", "llama-0", "gone"), FACTS, set()),
        (PodRef("ns", "llama-0", "late"), FACTS, set()),
        (POD, None, set()),
    ],
    ids=["the container is named", "all of the pod", "a name that is none", "not started yet", "nobody tells"],
)
def test_which_containers_are_a_server_s(pod: PodRef, facts: PodFacts | None, containers: set[str]) -> None:
    assert place(EngineTarget("http://h:1", pod), (A,), facts) == Place((A,), frozenset(containers))


# --- from the source to the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"load": 0.5}, {"other": 72 * 1024, "unallocated": 8 * 1024 - 566}),
        ({"load": 0.5, "values": {"processes": 3}}, {"other": 72 * 1024, "unallocated": 8 * 1024 - 566}),
        ({"load": 0.5, "missing": {"processes": "not_supported"}}, {"unallocated": 8 * 1024 - 566}),
        ({"load": 0.5, "missing": {"processes_memory": "blank"}}, {"unallocated": 8 * 1024 - 566}),
        ({"lost": "gpu_is_lost"}, {}),
    ],
    ids=["a process", "several", "not told", "hidden", "lost"],
)
def test_a_fake_gpu_s_processes_come_through_the_step_of_the_boards(
    changes: dict[str, Any], kinds: dict[str, float]
) -> None:
    fake = demo.FakeGpu("GPU-0", **changes)
    sample = demo.DemoSource()._sample_of(fake, NOW, 0.0)
    stepped, _ = boards.step(boards.BoardsMemory(), NodeInputs("node", (sample,)), {}, NOW)
    (seen,) = stepped.gpus.values()
    url = "http://127.0.0.1:8000/metrics"
    owner = owners({url: Place((seen.info.key,))}, stepped.gpus)[url]
    parts = memory_bytes(told(), EngineTarget(url), (seen,), owner, 1, {}, FRESH_SECONDS, NOW)
    assert parts == {kind: mib * 2**20 for kind, mib in kinds.items()}
    stale, _ = boards.step(boards.BoardsMemory(), NodeInputs("node", (sample,)), {}, NOW + 60)
    assert stale.gpus[seen.info.key].processes is None
