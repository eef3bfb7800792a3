"""What must have been seen when the exporter watched a real vLLM (scenario.py). `make test-vllm` runs it.

Shapes and what only grows are asserted, not times.
"""

import os
from pathlib import Path

import msgspec
import pytest

from tests.vllm.scenario import FAMILIES, Look, Seen, of
from tests.vllm.server import BLOCK, BLOCKS, SLOTS

#: What only grows while the server lives.
COUNTERS = ("preemptions", "prompt_tokens", "generation_tokens", "prefix_queries", "prefix_hits", "finished")


@pytest.fixture(scope="module")
def seen() -> Seen:
    return msgspec.json.decode(Path(os.environ["PLIMSOLL_VLLM_SEEN"]).read_bytes(), type=Seen)


def looks(seen: Seen, *phases: str) -> list[Look]:
    found = [look for look in seen.looks if look.phase in phases]
    assert found, f"nothing was seen of {phases}"
    return found


def causes(seen: Seen, phase: str) -> set[str]:
    return {look.cause for look in looks(seen, phase)}


@pytest.mark.parametrize("phase", ["idle", "frozen", "idle again"])
def test_at_a_standstill_every_number_is_the_server_s_own(seen: Seen, phase: str) -> None:
    server, exporter = seen.still[phase]
    assert exporter == pytest.approx(server)
    assert exporter.keys() == FAMILIES.keys()


def test_the_standstill_in_the_middle_is_one_under_load(seen: Seen) -> None:
    _, exporter = seen.still["frozen"]
    assert exporter["waiting"] > 0
    assert exporter["running"] > 0
    assert exporter["kv_usage"] > 0
    assert seen.still["idle again"][1]["finished"] > exporter["finished"] > 0


def test_in_motion_every_number_lies_between_what_the_server_showed_before_and_after(seen: Seen) -> None:
    compared = 0
    for look in looks(seen, "queue", "pressure", "thawed"):
        for name in COUNTERS:
            if name in look.exporter and name in look.low:
                assert look.low[name] <= look.exporter[name] <= look.high[name], (look.phase, name)
                compared += 1
        assert 0 <= look.exporter.get("running", 0) <= SLOTS
        assert 0 <= look.exporter.get("kv_usage", 0) <= 1
    assert compared > 100


def test_counters_never_fall(seen: Seen) -> None:
    for name in COUNTERS:
        values = [look.exporter[name] for look in seen.looks if name in look.exporter]
        assert values == sorted(values), name


def test_an_idle_server_is_idle(seen: Seen) -> None:
    assert "idle" in causes(seen, "idle")
    assert looks(seen, "idle again")[-1].cause == "idle"
    for phase in ("idle", "idle again"):
        assert seen.still[phase][1]["waiting"] == seen.still[phase][1]["running"] == 0


def test_a_queue_is_seen_and_called_saturated(seen: Seen) -> None:
    assert max(look.exporter.get("waiting", 0) for look in looks(seen, "queue")) > SLOTS
    assert "saturated" in causes(seen, "queue")
    for look in looks(seen, "queue"):
        # A server that has no core left for its page is late with it, and then nothing is known.
        late = look.cause == "blind" and of(look.series, "plimsoll_engine_scrape_success", 1.0) == 0
        assert late or look.cause in ("idle", "healthy", "saturated")
    assert max(of(look.series, "plimsoll_engine_saturation_ratio", 0.0) for look in looks(seen, "queue")) > 1


def test_the_knee_is_the_number_of_requests_that_the_server_runs(seen: Seen) -> None:
    last = looks(seen, "queue")[-1].series
    assert SLOTS - 1 <= of(last, "plimsoll_engine_knee_requests", 0.0) <= SLOTS
    assert of(last, "plimsoll_engine_service_rate_requests_per_second", 0.0) > 0


@pytest.mark.parametrize(
    "family",
    [
        "plimsoll_engine_requests_per_second",
        "plimsoll_engine_tokens_per_second",
        "plimsoll_engine_prompt_tokens_per_second",
    ],
)
def test_rates_are_there_while_it_works(seen: Seen, family: str) -> None:
    assert of(looks(seen, "queue")[-1].series, family, 0.0) > 0


@pytest.mark.parametrize(
    "family", ["plimsoll_engine_time_to_first_token_seconds", "plimsoll_engine_inter_token_latency_seconds"]
)
def test_quantiles_are_there_and_in_order(seen: Seen, family: str) -> None:
    last = looks(seen, "queue")[-1].series
    half, most = (of(last, family, -1.0, f'quantile="{q}"') for q in ("0.5", "0.95"))
    assert 0 < half <= most


def test_the_cache_s_capacity_is_what_the_server_was_given(seen: Seen) -> None:
    for look in looks(seen, "queue", "pressure"):
        assert of(look.series, "plimsoll_engine_kv_cache_capacity_tokens", BLOCK * BLOCKS) == BLOCK * BLOCKS
    assert of(looks(seen, "queue")[-1].series, "plimsoll_engine_kv_cache_capacity_tokens", 0.0) == BLOCK * BLOCKS


def test_a_full_cache_is_seen_and_called_kv_pressure(seen: Seen) -> None:
    pressed = looks(seen, "pressure", "thawed", "drained again")
    assert max(look.exporter.get("kv_usage", 0) for look in pressed) > 0.9
    assert "kv_pressure" in {look.cause for look in pressed}
    assert of(looks(seen, "idle again")[-1].series, "plimsoll_engine_kv_cache_peak_ratio", 0.0) > 0.9


def test_preemptions_are_counted(seen: Seen) -> None:
    assert looks(seen, "queue")[-1].exporter["preemptions"] == 0
    assert looks(seen, "idle again")[-1].exporter["preemptions"] > 0


def test_an_engine_core_that_stands_still_is_wedged_until_it_goes_on(seen: Seen) -> None:
    frozen = looks(seen, "frozen")[-1]
    assert frozen.cause == "wedged"
    assert of(frozen.series, "plimsoll_engine_capacity_ratio", -1.0) == 0
    assert of(frozen.series, "plimsoll_engine_scrape_success", -1.0) == 1  # its page goes on as if nothing were
    assert "wedged" not in {look.cause for look in looks(seen, "idle again")}


def test_a_server_whose_core_was_killed_is_refused_and_nothing_is_told_of_it(seen: Seen) -> None:
    killed = looks(seen, "killed")[-1]
    assert killed.cause in ("blind", "cold_start")
    assert "waiting" not in killed.exporter
    assert of(killed.series, "plimsoll_engine_scrape_errors_total", 0.0, 'reason="refused"') > 0
    assert seen.exporter_lives
