"""A fake engine's page is read as a vLLM's, and has no name, type or label that the real one has not."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from exporter.core.engines import read
from scaler.demo.engine import Engine, Profile, Request
from scaler.demo.exposition import render

REAL = Path(__file__).parents[1] / "fixtures" / "engines" / "vllm-0.32.0-busy-queue.txt"


def busy() -> Engine:
    engine = Engine(Profile(slots=4), 0.0)
    for _ in range(20):
        engine.submit(Request(0.0, 100, 50))
    engine.advance(12.0)
    return engine


def test_the_exporter_reads_what_the_engine_is() -> None:
    engine = busy()
    kind, (reading,), _ = read(render(engine, "llama").encode())
    gauges = engine.gauges()
    assert kind == "vllm"
    assert (reading.model, reading.engine) == ("llama", "0")
    assert (reading.waiting, reading.running) == (gauges.waiting, gauges.running) == (8, 4)
    assert reading.kv_usage == gauges.kv_usage
    assert reading.kv_capacity_tokens == engine.profile.kv_tokens
    assert reading.prompt_tokens_total == 1200
    assert reading.generation_tokens_total == int(engine.counters.generation_tokens)
    assert reading.finished is not None
    assert sum(reading.finished.values()) == engine.counters.finished == 8
    assert reading.sleeping is False


def test_names_types_and_labels_are_the_real_ones() -> None:
    real = {family.name: family for family in text_string_to_metric_families(REAL.read_text())}
    for family in text_string_to_metric_families(render(busy(), "llama")):
        assert family.name in real
        assert family.type == real[family.name].type
        known = {sample.name: set(sample.labels) for sample in real[family.name].samples}
        for sample in family.samples:
            assert set(sample.labels) <= known[sample.name], sample.name


def test_the_histogram_is_one() -> None:
    pages = {family.name: family for family in text_string_to_metric_families(render(busy(), "llama"))}
    samples = pages["vllm:time_to_first_token_seconds"].samples
    buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    (count,) = [sample.value for sample in samples if sample.name.endswith("_count")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == count == 12
