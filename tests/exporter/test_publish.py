"""publish.py: a snapshot as /metrics, read back by the client library's parsers and judged by promtool."""

import functools
import math
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import lines, publish, publish_gpus
from exporter.core.catalog import EXPORTER
from exporter.core.diagnosis import CAUSES
from exporter.core.health import STATES
from exporter.core.inputs import LIMITS
from exporter.core.model import GpuInfo, GpuKey, GpuSample, PodRef, XidEvent
from exporter.core.model_engines import ColdStart, EngineTarget, Learned, Rates
from exporter.core.node import NodeMemory, step
from exporter.core.signals import SIGNALS, THROTTLE_REASONS
from exporter.lines import MAX_LABEL
from tests.exporter.build import START, failure, full, gpu_key, inputs, reading, sample, scrape, target

WALL = 1_700_000_000.0
OWN = {"plimsoll_feed_subscribers": 1.0, "plimsoll_feed_messages_total": 12.0}
FAMILIES = {family.name: family for family in EXPORTER}


def page(snapshot, now=START, openmetrics=False, **more):
    return publish.render(snapshot, now, WALL, openmetrics, **more).decode()


@functools.lru_cache(maxsize=8)
def samples(text, openmetrics=False):
    """(name, labels) -> value. Fails on a duplicate."""
    found = {}
    for family in (parse_openmetrics if openmetrics else parse_text)(text):
        for one in family.samples:
            key = one.name, frozenset(one.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = one.value
    return found


def of(text, family, **labels):
    """Values of the family's series with these labels among theirs."""
    wanted = set(labels.items())
    return [value for (name, has), value in samples(text).items() if name == family and wanted <= has]


def node(*scrapes, gpus=(), **more):
    return step(NodeMemory(), inputs(scrapes, gpus, **more), START)[0]


def test_every_family_of_the_catalogue_can_be_seen():
    snapshot = replace(full(), overflow={"engine": 1}, node_gpus={"driver": 8})
    engine = replace(
        snapshot.engines[0],
        reading=reading(
            max_running=256.0,
            lora_waiting=1.0,
            prefix_queries_total=9.0,
            prefix_hits_total=3.0,
            waiting_by_reason={"capacity": 3.0},
            config={"block_tokens": "16"},
        ),
        saturation=0.5,
        rates=Rates(*[1.0] * len(Rates.__struct_fields__)),
        learned=Learned(*[8.0] * len(Learned.__struct_fields__)),
        kv_peak=0.9,
        memory_bytes={"kv_used": 1.0},
        cold_start={"model_load": 60.0},
    )
    first = snapshot.gpus[0]
    pods = replace(
        first,
        pods=(PodRef("ns", "pod", "c"),),
        drift={"ecc": True},
        unowned_memory=0.0,
        verdict=replace(first.verdict, unknown=("nvlink",)),
    )
    starts = (ColdStart("inference", "llama", "model_load", 3, 60.0, 90.0),)
    snapshot = replace(snapshot, engines=(engine,), gpus=(pods,), cold_starts=starts)
    shown = {name for name, _ in samples(page(snapshot, own=OWN))}
    assert shown == set(FAMILIES)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_a_family_has_its_type_its_help_and_the_labels_of_the_catalogue(openmetrics):
    parse = parse_openmetrics if openmetrics else parse_text
    families = {family.name: family for family in parse(page(full(), openmetrics=openmetrics, own=OWN))}
    for family in families.values():
        # Both parsers name a counter's family without _total.
        row = FAMILIES[family.name + "_total" if family.type == "counter" else family.name]
        assert family.type == row.type
        assert family.documentation == row.help
        for one in family.samples:
            assert set(one.labels) <= set(row.labels), row.name


def test_signals_and_catalogue_agree():
    for signal in SIGNALS:
        row = FAMILIES[signal.family]
        extra = {name for name, _ in signal.labels} | ({"reason"} if signal.name == "throttle_reasons" else set())
        assert {"node", "gpu", "uuid", "mig_instance", *extra} == set(row.labels), signal.name
    pairs = [(signal.family, signal.labels) for signal in SIGNALS]
    assert len(set(pairs)) == len(pairs), "two signals would be one series"


def test_promtool_has_nothing_to_complain_about():
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "CI must have promtool: apt-get install prometheus"
        pytest.skip("promtool is not installed")
    text = page(full(), own=OWN, process=publish.process(False))
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_process_metrics_are_appended_once_and_the_end_mark_is_last(openmetrics):
    text = page(full(), openmetrics=openmetrics, process=publish.process(openmetrics))
    names = {name for name, _ in samples(text, openmetrics)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"} <= names
    assert text.count("# EOF") == openmetrics
    assert text.endswith("# EOF\n") == openmetrics


def test_openmetrics_names_a_counters_family_without_total():
    text = page(full(), openmetrics=True)
    assert "# TYPE plimsoll_gpu_energy_joules counter\n" in text
    assert "\nplimsoll_gpu_energy_joules_total{" in text
    assert "# TYPE plimsoll_gpu_energy_joules_total" not in text


#: What Prometheus 2.42 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

ACCEPT = [
    ("", False),
    ("*/*", False),
    ("text/html,application/xhtml+xml,*/*;q=0.8", False),
    ("text/plain;version=0.0.4", False),
    ("application/openmetrics-text", True),
    (PROMETHEUS, True),
    ("text/plain;q=0.9, application/openmetrics-text;q=0.1", False),
    ("application/openmetrics-text;q=0", False),
    ("application/openmetrics-text;q=soon", False),
    ("APPLICATION/OpenMetrics-Text; version=1.0.0", True),
    (";;,,=", False),
]  # fmt: skip


@pytest.mark.parametrize(("accept", "openmetrics"), ACCEPT)
def test_the_format_is_what_the_reader_prefers(accept, openmetrics):
    assert publish.wants_openmetrics(accept) is openmetrics


def test_a_state_is_one_of_five_and_a_cause_one_of_ten():
    text = page(full())
    for index in range(8):
        states = {s: of(text, "plimsoll_gpu_health_state", gpu=str(index), state=s) for s in STATES}
        assert [state for state, value in states.items() if value == [1]] == ["lost" if index == 0 else "healthy"]
        assert all(value in ([0], [1]) for value in states.values())
        causes = {c: of(text, "plimsoll_engine_diagnosis", pod=f"llama-{index}", cause=c) for c in CAUSES}
        assert [cause for cause, value in causes.items() if value == [1]] == ["hardware" if index == 0 else "saturated"]
        assert all(value in ([0], [1]) for value in causes.values())


def test_throttle_reasons_become_a_series_each():
    values = {"throttle_reasons": float(0x4 | 0x40)}
    text = page(node(gpus=[sample(values=values)]))
    on = {reason for _, reason in THROTTLE_REASONS if of(text, "plimsoll_gpu_throttle_active", reason=reason) == [1]}
    assert on == {"sw_power_cap", "hw_thermal_slowdown"}
    assert len(of(text, "plimsoll_gpu_throttle_active")) == len(THROTTLE_REASONS)


#: What Plimsoll itself concludes: it stays whatever the age of the readings.
STATE = (
    "plimsoll_gpu_info",
    "plimsoll_gpu_health_state",
    "plimsoll_gpu_xid_errors_total",
    "plimsoll_gpu_reading_age_seconds",
    "plimsoll_engine_info",
    "plimsoll_engine_diagnosis",
    "plimsoll_engine_capacity_ratio",
    "plimsoll_engine_reading_age_seconds",
)


# Age of the readings -> whether those of NVML (limit 3 s) and of the engines (5 s) are shown.
AGES = [(0, True, True), (3, True, True), (3.01, False, True), (5, False, True), (5.01, False, False)]


@pytest.mark.parametrize(("age", "gpu", "engine"), AGES)
def test_no_data_rather_than_the_last_good(age, gpu, engine):
    text = page(full(), START + age)
    assert bool(of(text, "plimsoll_gpu_temperature_celsius")) is gpu
    assert bool(of(text, "plimsoll_gpu_throttle_active")) is gpu
    assert bool(of(text, "plimsoll_gpu_energy_joules_total")) is gpu
    assert bool(of(text, "plimsoll_engine_requests_waiting")) is engine
    assert bool(of(text, "plimsoll_engine_requests_finished_total")) is engine
    for family in STATE:
        assert of(text, family), f"{family} is a conclusion and stays"
    assert set(of(text, "plimsoll_gpu_reading_age_seconds")) == {age}


def test_missing_is_no_series():
    empty = reading(waiting=None, kv_usage=None, finished=None, rejections_total=None)
    text = page(node(scrape(target(), empty), gpus=[sample(values={"temperature": 40.0})]))
    for family in (
        "plimsoll_engine_requests_waiting",
        "plimsoll_engine_kv_cache_usage_ratio",
        "plimsoll_engine_requests_finished_total",
        "plimsoll_engine_requests_rejected_total",
        "plimsoll_gpu_power_watts",
        "plimsoll_gpu_capacity_ratio",
    ):
        assert family not in text, "neither series nor HELP"
    assert of(text, "plimsoll_engine_requests_running") == [7]


def test_a_target_that_was_never_read_is_there_without_numbers():
    one = target()
    snapshot = node(failure(one, START), last_good={})
    text = page(snapshot)
    assert of(text, "plimsoll_engine_info", endpoint=one.url) == [1]
    assert of(text, "plimsoll_engine_scrape_success", endpoint=one.url) == [0]
    assert of(text, "plimsoll_engine_diagnosis", cause="blind") == [1]
    assert "plimsoll_engine_requests_waiting" not in text
    assert "plimsoll_engine_reading_age_seconds" not in text


def test_collectors_tell_the_time_of_their_last_success():
    text = page(full(), START + 2)
    last = "plimsoll_collector_last_success_timestamp_seconds"
    assert of(text, last, collector="nvml") == [WALL - 2]
    assert of(text, last, collector="engines") == [], "never is no time"
    assert of(text, "plimsoll_collector_success", collector="engines") == [0]


NASTY = 'a"b\\c\nd{e}=,# HELP \\" ü€😀'


def test_label_values_come_back_as_they_were():
    one = EngineTarget("http://x/", PodRef(NASTY, NASTY, NASTY))
    gpu = GpuSample(GpuInfo(GpuKey("GPU-a"), name=NASTY, profile=NASTY), "nvml", START, {"power": 1.0})
    snapshot = node(scrape(one, reading(model=NASTY, finished={NASTY: 1.0})), gpus=[gpu])
    for openmetrics in (False, True):
        found = [dict(labels) for _, labels in samples(page(snapshot, openmetrics=openmetrics), openmetrics)]
        engine = next(labels for labels in found if "finished_reason" in labels)
        assert {engine[name] for name in ("namespace", "pod", "container", "model", "finished_reason")} == {NASTY}
        assert any(labels.get("name") == NASTY for labels in found)


def test_long_values_are_cut_and_stay_apart():
    long = "m" * 10_000
    snapshot = node(scrape(target(), reading(model=long + "1"), reading(model=long + "2")))
    models = {dict(labels).get("model", "") for _, labels in samples(page(snapshot))} - {""}
    assert len(models) == 2
    assert all(len(model) == MAX_LABEL for model in models)


def test_a_lone_surrogate_does_not_cost_the_page():
    text = page(node(scrape(EngineTarget("http://x/", PodRef(pod="a\ud800b")))))
    assert of(text, "plimsoll_engine_info", pod="a?b") == [1]


def test_xids_that_one_pages_on_begin_with_0_while_somebody_would_notice_them():
    """increase() over a window never sees the first of a series that begins with 1."""
    snapshot = node(
        gpus=[sample(0), sample(1, values={"temperature": 40.0})], xids=[XidEvent(gpu_key(0), 79, START, "nvml")]
    )
    text = page(snapshot)
    assert of(text, "plimsoll_gpu_xid_errors_total", gpu="0", xid="79") == [1]
    assert of(text, "plimsoll_gpu_xid_errors_total", gpu="0", xid="48") == [0]
    assert of(text, "plimsoll_gpu_xid_errors_total", gpu="0", xid="31") == []
    assert of(text, "plimsoll_gpu_xid_errors_total", gpu="1") == [], "nobody watches: 0 would be a claim"
    assert of(text, "plimsoll_gpu_xid_last_seen_timestamp_seconds", gpu="0") == [WALL]


def test_the_page_has_an_upper_bound():
    """A server whose names change at every scrape cannot make the page, or what is remembered, grow."""
    memory, sizes = NodeMemory(), set()
    for second in range(4):
        many = [
            reading(model=f"{second}-{index}", finished={f"{second}-{reason}": 1.0 for reason in range(50)})
            for index in range(600)
        ]
        gpus = [sample(index, START + second) for index in range(300)]
        xids = [XidEvent(gpu_key(0), 1000 + second * 100 + code, START + second, "dcgm") for code in range(100)]
        said = inputs([scrape(target(), *many, at=START + second)], gpus, xids)
        snapshot, memory = step(memory, said, START + second)
        text = page(snapshot, START + second)
        sizes.add(text.count("\n"))
        for family, most in (
            ("engine_info", LIMITS["engine"]),
            ("gpu_info", LIMITS["gpu"]),
            ("gpu_xid_last_seen_timestamp_seconds", LIMITS["xid"]),
            ("engine_requests_finished_total", LIMITS["engine"] * LIMITS["finished_reason"]),
        ):
            assert text.count(f"\nplimsoll_{family}{{") == most
    assert max(sizes) - min(sizes) < 100, "from the first page on it is as large as it gets"
    assert f'plimsoll_overflow_total{{kind="engine"}} {4 * (600 - LIMITS["engine"])}\n' in text
    assert set(snapshot.overflow) == {"engine", "gpu", "xid", "finished_reason"}
    assert len(memory.serving.engines) == LIMITS["engine"]


@given(st.floats(), st.booleans())
def test_a_number_is_shown_exactly_or_not_at_all(value, openmetrics):
    snapshot = node(scrape(target(), reading(waiting=value)))
    found = samples(page(snapshot, openmetrics=openmetrics), openmetrics)
    shown = [number for (name, _), number in found.items() if name == "plimsoll_engine_requests_waiting"]
    assert shown == ([value] if math.isfinite(value) else [])


def test_labels_are_written_once_for_all_pages():
    """A page has thousands of series: writing their labels again is what it would cost."""
    written = (lines.labels_of, publish_gpus._gpu_labels, publish_gpus._lines_of, publish_gpus._sources)
    page(full())
    before = [function.cache_info().misses for function in written]
    page(full(at=START + 1), START + 1)
    assert [function.cache_info().misses for function in written] == before
