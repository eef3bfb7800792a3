"""debug.py: the page of all that a diagnosis rests on shows it, hides what is the operator's, and stays small."""

import json
import math
from typing import Any

import pytest
from msgspec.structs import replace

from exporter import debug
from exporter.core.diagnosis import RULES, diagnose
from exporter.core.evidence import Facts
from exporter.core.model import Gpu, GpuInfo, PodRef, Verdict, XidSeen
from exporter.core.model_engines import Access, Engine, EngineReading, EngineTarget, Hardware
from exporter.core.snapshot import Snapshot
from tests.exporter.histories import GOOD, GPU, Phase, play, still

ACCESS = Access("/ca-of-ours.pem", "/cert-of-ours.pem", "/key-of-ours.pem", "inner.name", "/token-of-ours", True)
NEVER_READ = EngineReading("", "")


def engine(known: Facts, number: int = 0, **changes: Any) -> Engine:
    pod = PodRef("inference", f"llama-{number}", "vllm")
    target = EngineTarget(f"http://10.0.0.{number}:8000/metrics", pod, {"app": "llama"}, ("0",), ACCESS)
    fields: dict[str, Any] = {
        "target": target,
        "reading": known.reading or NEVER_READ,
        "kind": known.kind,
        "at": known.memory.at if known.memory else None,
        "error": known.error,
        "message": "",
        "since": 0.0,
        "hardware": known.hardware,
        "capacity": known.capacity,
        "saturation": known.saturation,
        "diagnosis": diagnose(known),
        "learned": known.learned,
        "rates": known.rates,
        "usual": known.usual,
        "memory_bytes": {"weights": 1.6e10},
        "cold_start": {"load": 41.5},
        **changes,
    }
    return Engine(**fields)


def gpu(now: float) -> Gpu:
    verdict = Verdict("lost", (("xid_79", "reboot_node"),), now - 7.0, 1, 0.0, ("links",))
    return Gpu(GpuInfo(GPU, "3"), {}, {}, {}, {79: XidSeen(2, now - 7.0)}, (), None, verdict, {}, None, now - 1.0)


def snapshot(*engines: Engine, at: float = 0.0, gpus: tuple[Gpu, ...] = ()) -> Snapshot:
    return Snapshot("node-1", at, 1, gpus, engines, (), {}, {})


def key(one: Engine) -> tuple[str, str, str]:
    return one.target.url, one.reading.model, one.reading.engine


def shown(known: Facts, late: float = 2.0, **changes: Any) -> dict[str, Any]:
    one = engine(known, **changes)
    page = debug.render(snapshot(one, at=known.now, gpus=(gpu(known.now),)), {key(one): known}, known.now + late)
    (found,) = json.loads(page)["engines"]
    assert isinstance(found, dict)
    return found


WEDGED = play(GOOD, still(10, waiting=2.0, running=3.0, state="lost", capacity=0.0, xids=((79, 0.0),)))


def test_the_diagnosis_stands_first_with_its_numbers() -> None:
    found = shown(WEDGED)
    assert next(iter(found)) == "diagnosis"
    assert found["diagnosis"]["cause"] == "wedged"
    assert found["diagnosis"]["evidence"]["xid"] == 79
    assert found["diagnosis"]["evidence"]["running"] == 3


def test_all_that_it_rests_on_is_there() -> None:
    found = shown(WEDGED)
    assert found["target"] == {
        "url": "http://10.0.0.0:8000/metrics",
        "pod": {"namespace": "inference", "pod": "llama-0", "container": "vllm"},
        "labels": {"app": "llama"},
        "gpus": ["0"],
    }
    assert (found["model"], found["engine"], found["kind"]) == ("m", "0", "vllm")
    assert found["reading_age"] == 2
    assert found["first_seen"] == WEDGED.now + 2
    assert found["reading"]["waiting"] == 2
    assert found["reading"]["max_running"] is None
    assert found["reading"]["ttft"]["buckets"]["+Inf"] == found["reading"]["ttft"]["buckets"]["0.25"] > 0
    assert found["rates"]["ttft_p50"] == WEDGED.rates.ttft_p50
    assert found["usual"]["ttft_p50"] == WEDGED.usual.ttft_p50
    assert found["learned"].keys() >= {"knee_running", "service_rate"}
    assert found["saturation"] == WEDGED.saturation
    assert found["capacity"] == 0
    assert found["memory_bytes"] == {"weights": 1.6e10}
    assert found["cold_start"] == {"load": 41.5}
    assert found["hardware"]["xids"] == [[79, 10]]
    (on,) = found["hardware"]["gpus"]
    verdict = {"state": "lost", "reasons": [["xid_79", "reboot_node"]], "since": 9, "transitions": 1, "capacity": 0}
    assert on == {
        "key": {"uuid": "GPU-0000", "instance": ""},
        "index": "3",
        "verdict": {**verdict, "unknown": ["links"]},
        "xids": {"79": {"count": 2, "age": 9}},
        "age": 3,
    }
    assert found["lately"]["ailed_at"] == 0
    assert found["lately"]["throttled_at"] is None


def test_each_rule_says_whether_it_applies_and_on_which_numbers() -> None:
    rules = shown(WEDGED)["rules"]
    assert [(rule["cause"], rule["why"]) for rule in rules] == [(rule.cause, rule.why) for rule in RULES]
    assert next(rule["cause"] for rule in rules if rule["applies"]) == "wedged"
    assert rules[0]["evidence"] == shown(WEDGED)["diagnosis"]["evidence"]
    assert all(set(rule["evidence"]) == set(of.evidence) for rule, of in zip(rules, RULES, strict=True))


def test_nothing_that_the_operator_keeps_is_shown() -> None:
    page = debug.render(snapshot(engine(WEDGED)), {}, 1.0).decode()
    for secret in ("of-ours", "inner.name", "access"):
        assert secret not in page


def test_an_engine_that_was_never_read_shows_no_reading_and_no_zeros() -> None:
    known = play(still(3, error="refused"))
    found = shown(known, message="http://x/metrics: refused; check the port")
    assert (found["reading"], found["reading_age"], found["saturation"]) == (None, None, None)
    assert found["diagnosis"]["cause"] == "cold_start"
    assert found["message"] == "http://x/metrics: refused; check the port"
    assert set(found["rates"].values()) == {None}


def test_an_engine_without_facts_and_a_gpu_that_nobody_saw_are_shown_as_that() -> None:
    (found,) = json.loads(debug.render(snapshot(engine(WEDGED)), {}, 1.0))["engines"]
    assert (found["rules"], found["lately"]) == (None, None)
    assert found["hardware"]["gpus"] == [{"key": {"uuid": "GPU-0000", "instance": ""}, "verdict": None}]


def test_before_the_first_reading_the_page_says_so() -> None:
    assert json.loads(debug.render(None, {}, 1.0)) == {"error": "nothing has been read yet; ask again in a second"}


FILTERS = [
    ({}, 3),
    ({"pod": "llama-1"}, 1),
    ({"pod": "llama"}, 0),
    ({"model": "m"}, 3),
    ({"model": "other"}, 0),
    ({"endpoint": "http://10.0.0.2:8000/metrics"}, 1),
    ({"pod": "llama-1", "endpoint": "http://10.0.0.2:8000/metrics"}, 0),
    ({"pod": "llama-2", "model": "m", "endpoint": "http://10.0.0.2:8000/metrics"}, 1),
]


@pytest.mark.parametrize(("asked", "found"), FILTERS)
def test_a_filter_takes_whole_names(asked: dict[str, str], found: int) -> None:
    page = debug.render(snapshot(*(engine(WEDGED, number) for number in range(3))), {}, 1.0, **asked)
    assert len(json.loads(page)["engines"]) == found


def test_many_engines_are_cut_counted_and_found_by_a_filter() -> None:
    engines = [engine(WEDGED, number) for number in range(512)]
    facts = {key(one): WEDGED for one in engines}
    whole = debug.render(snapshot(*engines), facts, 1.0)
    page = json.loads(whole)
    assert (len(page["engines"]), page["left_out"]) == (debug.MOST_ENGINES, 512 - debug.MOST_ENGINES)
    assert len(whole) < debug.MOST_ENGINES * 32_000
    one = json.loads(debug.render(snapshot(*engines), facts, 1.0, pod="llama-500"))
    assert [found["target"]["pod"]["pod"] for found in one["engines"]] == ["llama-500"]


def test_what_comes_from_outside_is_escaped_and_cut() -> None:
    nasty = '</script>"\\\x00\n\ud800'
    reading = EngineReading(
        nasty, "0", waiting=math.inf, running=math.nan, finished={f"{n}": 1.0 for n in range(10_000)}
    )
    one = engine(WEDGED, reading=reading, message="x" * 1_000_000)
    page = debug.render(snapshot(one), {}, 1.0)
    assert len(page) < 32_000
    (found,) = json.loads(page)["engines"]
    assert found["model"] == nasty.replace("\ud800", "?")
    assert (found["reading"]["waiting"], found["reading"]["running"]) == (None, None)
    assert found["reading"]["finished"]["..."] == "9936 more"
    assert found["message"].endswith("...")


def test_a_clock_that_stands_gives_no_negative_age() -> None:
    assert shown(WEDGED, late=-5.0)["reading_age"] == 0


def test_an_engine_in_good_service_is_found_so() -> None:
    known = play(GOOD, Phase(5))
    on = Hardware((GPU,), "healthy", 1.0, False, 0.6)
    found = shown(known, hardware=replace(on, utilization=None))
    assert found["diagnosis"]["cause"] == "healthy"
    assert found["hardware"]["utilization"] is None
    assert [rule["cause"] for rule in found["rules"] if rule["applies"]] == ["healthy", "idle"]
