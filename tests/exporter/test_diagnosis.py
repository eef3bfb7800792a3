"""core/diagnosis.py: histories that are played second by second and what they are found to be, with the numbers.

Each history goes through the real saturation.py, usual.py and evidence.py (tests/exporter/histories.py plays it). After
it: where each threshold lies, the order of the rules, real pages, and no cause out of nothing.
"""
# ruff: noqa: E501 -- one row a history: a wrapped table cannot be scanned

import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.core import ailing, diagnosis, evidence, health, saturation
from exporter.core.ailing import LIMITS
from exporter.core.diagnosis import CAUSES, RULES, diagnose, explain
from exporter.core.engines import read
from exporter.core.evidence import NUMBERS, Facts
from exporter.core.model_engines import EngineReading, Hardware, Learned, Rates, Usual
from exporter.core.saturation import GAP, STALL, EngineMemory
from exporter.core.usual import Ailments
from tests.exporter.histories import GOOD, GPU, Phase, course, play, rest, still

PAGES = Path(__file__).parents[1] / "fixtures" / "engines"


class Between(NamedTuple):
    low: float
    high: float


class History(NamedTuple):
    name: str
    phases: tuple[Phase, ...]
    cause: str
    says: str  # words of why
    evidence: Mapping[str, Any]  # a part of it: what is exact, or Between
    source: str  # whose pattern it is, or why it must be so


E = "seen on a real vLLM 0.32"
ISSUE = "the incident pattern of the issue"
OWN = "Plimsoll: "
HOT = {"throttled": True, "capacity": 0.5}
FROZEN = {"waiting": 2.0, "running": 3.0}
LOST = {"state": "lost", "capacity": 0.0}
SICK = {"state": "unhealthy", "capacity": 0.0}

# fmt: off
HISTORIES: tuple[History, ...] = (
    # -- nothing ails it
    History("an engine that has done nothing yet", (rest(5),), "idle", "nothing waits", {"waiting": 0.0, "running": 0.0}, E),
    History("good service", (GOOD,), "healthy", "no queue", {"waiting": 0.0, "running": 8.0, "ttft_p50": Between(0.1, 0.25), "usual_ttft_p50": Between(0.1, 0.25), "throttled": False}, OWN + "the ground state"),
    History("good service that ended", (GOOD, rest(60)), "idle", "nothing waits", {"waiting": 0.0, "running": 0.0}, OWN + "no traffic is no fault"),
    History("two API servers before the first request read as zeros", (rest(3, utilization=None),), "idle", "nothing waits", {"running": 0.0}, E + ": gauges without samples are idle, not blind"),
    History("running and waiting read 0 for 10 s under the first load", (rest(10),), "idle", "nothing waits", {}, E + ": the page lags"),
    History("a day of traffic that doubles and halves", (GOOD, Phase(300, requests=4.0, running=16.0), Phase(300, requests=1.0, running=4.0)), "healthy", "no queue", {"running": 4.0}, OWN + "traffic alone ails nobody"),
    History("asleep", (GOOD, rest(5, asleep=True)), "idle", "asleep", {"sleeping": True, "running": 0.0}, "vLLM's sleep mode"),
    History("asleep with gauges frozen from before", (GOOD, still(40, asleep=True, **FROZEN)), "idle", "asleep", {"running": 3.0}, E + ": gauges change only when the core emits output"),
    History("a request passes through the queue each other second", (GOOD, Phase(60, running=20.0, waiting=lambda i: float(i % 2))), "healthy", "no queue", {}, OWN + "every request waits for one step of the scheduler"),
    History("a degraded GPU that serves as usual", (GOOD, Phase(30, state="degraded")), "healthy", "no queue", {}, "the verdict: degraded is to be looked into, not to be left"),
    History("GPUs that nobody knows, and service as usual", (GOOD, Phase(30, state="unknown", capacity=None, utilization=None)), "healthy", "no queue", {}, OWN + "the engine's own readings say so"),
    History("a full KV cache and nobody waits", (GOOD, Phase(30, kv=0.97)), "healthy", "no queue", {}, OWN + "a full cache is a used cache"),
    History("an Xid of the GPU and no request fails", (GOOD, Phase(30, state="degraded", xids=((94, 60.0),))), "healthy", "no queue", {}, "NVIDIA's catalogue: Xid 94 was contained"),
    History("two errors within half a minute", (GOOD, Phase(13), Phase(2, errors=1.0), Phase(13)), "healthy", "no queue", {}, OWN + "accidents"),
    History("one preemption within half a minute", (GOOD, Phase(1, preemptions=1.0), Phase(10)), "healthy", "no queue", {}, OWN + "an accident"),
    History("slower than usual on a busy GPU with nothing waiting", (GOOD, Phase(90, ttft=2.0, utilization=0.9)), "healthy", "slower than usual", {"ttft_p50": Between(1, 2.5), "utilization": Between(0.8, 0.9)}, "a busy GPU says nothing: NVML counts the time in which any kernel ran"),
    History("slower with three times the traffic, no queue", (GOOD, Phase(90, requests=6.0, ttft=2.0, utilization=0.1)), "healthy", "slower than usual", {"traffic": Between(2.8, 3.2)}, OWN + "more work takes longer"),
    History("a quarter slower", (GOOD, Phase(90, itl=0.024, utilization=0.1)), "healthy", "no queue", {}, OWN + "inside one bucket nothing can be told"),
    # -- load
    History("a burst", (GOOD, Phase(20, requests=4.0, waiting=10.0, running=16.0)), "saturated", "requests wait", {"waiting": 10.0, "running": 16.0, "saturation": Between(1.0, 3.0), "traffic": Between(1.2, 2.1)}, ISSUE),
    History("a queue without any history", (Phase(1, waiting=28.0, running=4.0, kv=0.002),), "saturated", "requests wait", {"kv_usage": 0.002}, E + ": --max-num-seqs 4, 32 requests"),
    History("a small queue that stands", (GOOD, Phase(5, running=20.0, waiting=1.0)), "saturated", "requests wait", {"waiting": 1.0}, OWN + "three polls in a row meet a queue, not a passer-by"),
    History("a queue that was gone 5 s ago", (GOOD, Phase(20, waiting=10.0), Phase(5)), "saturated", "requests wait", {"waiting": 0.0, "running": 8.0}, OWN + "at the knee a queue comes and goes"),
    History("a queue that was gone 15 s ago", (GOOD, Phase(20, waiting=10.0), Phase(15)), "healthy", "no queue", {}, OWN + "then it is over"),
    History("a queue that was worked off to the end", (GOOD, Phase(20, waiting=10.0), rest(1)), "idle", "nothing waits", {}, OWN + "nothing is left to hold on to"),
    History("refused at a full queue", (GOOD, Phase(20, waiting=10.0, rejections=3.0)), "saturated", "refuses", {"rejections_per_second": Between(1.0, 3.0), "waiting": 10.0}, E + ": --max-num-queued-reqs holds waiting at 10"),
    History("refused, and none waits in this second", (GOOD, Phase(20, rejections=3.0)), "saturated", "refuses", {"waiting": 0.0}, E + ": 503s are counted in admission_rejections alone"),
    History("as many as its configuration allows, over a full cache", (GOOD, Phase(20, waiting=10.0, running=16.0, max_running=16.0, kv=0.95)), "saturated", "requests wait", {"max_running": 16.0, "kv_usage": 0.95}, OWN + "its own limit holds them up, not the cache"),
    History("deferred, with room in the cache", (GOOD, Phase(20, waiting=10.0, kv=0.5, by_reason={"capacity": 0.0, "deferred": 10.0})), "saturated", "requests wait", {"kv_usage": 0.5}, "vLLM 0.20: waiting by reason"),
    # -- the KV cache
    History("long prompts fill the cache", (GOOD, Phase(40, requests=1.0, prompt=4000.0, running=3.0, waiting=6.0, kv=0.97, by_reason={"capacity": 6.0})), "kv_pressure", "longer than usual", {"prompt_tokens": Between(2000, 4000), "usual_prompt_tokens": Between(499, 510), "kv_usage": 0.97, "kv_tokens_per_request": Between(30_000, 33_000), "waiting_for_capacity": 6.0}, ISSUE),
    History("as long as usual, and too many of them", (GOOD, Phase(40, requests=3.0, running=20.0, waiting=9.0, kv=0.97)), "kv_pressure", "too many", {"prompt_tokens": Between(499, 501), "running": 20.0, "knee_running": Between(19, 21)}, ISSUE),
    History("a full cache in a young engine", (Phase(20, running=5.0, waiting=13.0, kv=1.0, preemptions=9.0),), "kv_pressure", "not known yet", {"usual_prompt_tokens": None, "preemptions_per_second": Between(8, 10)}, E + ": 24 blocks of KV cache"),
    History("preempted, and none waits in this second", (GOOD, Phase(20, preemptions=1.0, kv=0.7)), "kv_pressure", "too many", {"preemptions_per_second": Between(0.3, 1.0)}, E + ": what is preempted is back before the page shows it"),
    History("slow clocks under prompts eight times as long", (GOOD, Phase(40, prompt=4000.0, running=3.0, waiting=6.0, kv=0.97, itl=0.045, **HOT)), "kv_pressure", "longer than usual", {"prompt_tokens": Between(2000, 4000)}, OWN + "it gets through more tokens than usual, so it is not the clocks"),
    # -- clocks
    History("latency up, traffic flat, throttled", (GOOD, Phase(40, itl=0.045, **HOT)), "throttled", "held down", {"throttled": True, "itl_p50": Between(0.025, 0.05), "usual_itl_p50": Between(0.01, 0.025), "traffic": Between(0.9, 1.1), "hardware_capacity": 0.5}, ISSUE),
    History("a queue at the usual traffic, throttled", (GOOD, Phase(40, requests=1.2, itl=0.045, waiting=9.0, kv=0.97, **HOT)), "throttled", "held down", {"waiting": 9.0, "traffic": Between(0.5, 1.0)}, OWN + "slow clocks fill queue and cache"),
    History("throttled a little under twice the traffic, with a queue", (GOOD, Phase(40, requests=4.0, waiting=9.0, throttled=True, capacity=0.9)), "saturated", "requests wait", {"throttled": True, "traffic": Between(1.8, 2.2)}, OWN + "it carries twice the usual and is still asked for more"),
    History("throttled and it does not show", (GOOD, Phase(40, throttled=True, capacity=0.9)), "healthy", "no queue", {"throttled": True}, OWN + "nobody suffers from it"),
    History("throttled with nothing to do", (GOOD, rest(40, **HOT)), "idle", "nothing waits", {}, OWN + "nobody suffers from it"),
    History("throttled before its usual is known", (Phase(20, itl=0.045, **HOT),), "throttled", "held down", {"usual_itl_p50": None, "traffic": None}, OWN + "whether it shows is not known, that it is slowed down is"),
    History("throttled every other second", (GOOD, Phase(41, itl=0.045, throttled=lambda i: i % 2 == 1)), "throttled", "held down", {"throttled": True}, OWN + "a GPU at its limit cools down by the second"),
    History("throttled until 10 s ago", (GOOD, Phase(40, itl=0.045, **HOT), Phase(10)), "throttled", "held down", {}, OWN + "the latencies look back as long"),
    History("throttled until a minute ago", (GOOD, Phase(40, itl=0.045, **HOT), Phase(60)), "healthy", "no queue", {"throttled": False}, OWN + "then it is over"),
    # -- GPUs
    History("GPU lost, work frozen, the page still answers 200", (GOOD, still(10, **FROZEN, **LOST, xids=((79, 0.0),))), "wedged", "lost", {"gpu_state": "lost", "xid": 79, "seconds_without_tokens": Between(5, 10), "running": 3.0}, ISSUE),
    History("GPU lost, the page says that nothing runs", (GOOD, rest(40, **LOST, xids=((79, 0.0),))), "wedged", "lost", {"running": 0.0, "xid": 79}, "vLLM issue 36960: /health stays 200, running reads 0"),
    History("GPU lost two seconds ago", (GOOD, still(2, **FROZEN, **LOST, xids=((79, 0.0),))), "hardware", "sick", {"gpu_state": "lost", "xid": 79}, OWN + "frozen is not shown yet"),
    History("GPU lost by its verdict, tokens go on", (GOOD, Phase(30, **LOST)), "hardware", "sick", {"gpu_state": "lost", "tokens_per_second": Between(100, 300)}, OWN + "the verdict stands; that it moves is told"),
    History("GPU lost and the server gone", (GOOD, rest(10, error="refused", **LOST, xids=((79, 0.0),))), "hardware", "sick", {"error": "refused", "xid": 79}, ISSUE),
    History("GPU lost under a server that was never read", (rest(10, error="timeout", **LOST),), "hardware", "sick", {"gpu_state": "lost"}, OWN + "the GPU's verdict needs no page"),
    History("GPU unhealthy, tokens go on", (GOOD, Phase(10, waiting=9.0, **SICK)), "hardware", "sick", {"gpu_state": "unhealthy", "hardware_capacity": 0.0}, OWN + "results of a sick GPU are no results"),
    History("GPU unhealthy, nothing to do", (GOOD, rest(60, **SICK)), "hardware", "sick", {"gpu_state": "unhealthy"}, OWN + "the next request goes to it"),
    History("GPU unhealthy, work frozen", (GOOD, still(STALL + 1, **FROZEN, **SICK)), "wedged", "nothing moves", {"gpu_state": "unhealthy", "seconds_without_tokens": Between(STALL, STALL + 1)}, ISSUE),
    History("requests fail after a contained memory error", (GOOD, Phase(20, errors=0.5, xids=((94, 30.0),))), "hardware", "reported an error", {"xid": 94, "xid_age": Between(49, 50), "error_share": Between(0.1, 0.25)}, ISSUE),
    History("requests fail after an Xid that is in no table", (GOOD, Phase(20, errors=0.5, xids=((999, 30.0),))), "hardware", "reported an error", {"xid": 999}, "xid.py: newer than the table, not known to be harmless"),
    History("an application's Xid hides none of the GPU's", (GOOD, Phase(20, errors=0.5, xids=((13, 5.0), (63, 30.0)))), "hardware", "reported an error", {"xid": 63, "application_xid": 13}, OWN + "the worse counts"),
    History("capacity gone though no state says so", (GOOD, Phase(20, capacity=0.0)), "hardware", "counted on", {"hardware_capacity": 0.0}, OWN + "a replica that carries nothing is not short of pods"),
    # -- outside
    History("latency up, GPU idle, no queue", (GOOD, Phase(90, ttft=2.0, running=2.0, utilization=0.05)), "outside_gpu", "little to do", {"ttft_p50": Between(1, 2.5), "usual_ttft_p50": Between(0.1, 0.3), "utilization": Between(0.0, 0.1), "waiting": 0.0, "traffic": Between(0.9, 1.1)}, ISSUE),
    History("tokens come slowly from an idle GPU", (GOOD, Phase(90, itl=0.2, utilization=0.1)), "outside_gpu", "little to do", {"itl_p50": Between(0.1, 0.2)}, "vLLM issue 13247: sampling on the CPU holds up the GPU"),
    History("an idle GPU, latency up, for an hour", (GOOD, Phase(3600, every=5.0, ttft=2.0, utilization=0.05)), "outside_gpu", "little to do", {"usual_ttft_p50": Between(0.1, 0.5)}, OWN + "what is wrong must not become the usual"),
    History("latency up, utilization jumps between 0 and 1", (GOOD, Phase(91, ttft=2.0, utilization=lambda i: float(i % 2))), "healthy", "slower than usual", {"utilization": Between(0.4, 0.6)}, OWN + "one look meets a GPU between two steps"),
    History("latency up, utilization not told", (GOOD, Phase(90, ttft=2.0, utilization=None)), "blind", "how busy", {"utilization": None}, "under MIG NVML tells none: missing is not idle, and slow is not healthy"),
    History("latency up, GPU idle, but a queue stands", (GOOD, Phase(90, ttft=2.0, waiting=5.0, utilization=0.05)), "saturated", "requests wait", {}, OWN + "what waits inside is not outside"),
    History("slow and idle from the start", (Phase(90, ttft=2.0, utilization=0.05),), "healthy", "no queue", {"usual_ttft_p50": None}, OWN + "no usual, nothing to hold it against"),
    History("requests fail, the GPU is well", (GOOD, Phase(20, errors=0.5)), "outside_gpu", "application", {"xid": None, "error_share": Between(0.1, 0.25), "gpu_state": "healthy"}, OWN + "failing is not healthy"),
    History("requests fail after an application's Xid", (GOOD, Phase(20, errors=0.5, xids=((31, 30.0),))), "outside_gpu", "application", {"application_xid": 31, "xid": None}, "NVIDIA's catalogue: Xid 13 and 31 are faults of the application"),
    History("requests fail an hour after an Xid", (GOOD, Phase(20, errors=0.5, xids=((94, 3600.0),))), "outside_gpu", "application", {"xid": None}, OWN + "an hour later it is not the reason"),
    History("requests fail on GPUs that nobody knows", (GOOD, Phase(20, errors=0.5, state="unknown", capacity=None)), "blind", "how its GPUs are", {"gpu_state": "unknown"}, OWN + "only a verdict clears a GPU"),
    # -- wedged
    History("the engine core stopped, the page answers 200", (GOOD, still(STALL + 1, **FROZEN)), "wedged", "nothing moves", {"waiting": 2.0, "running": 3.0, "seconds_without_tokens": Between(STALL, STALL + 1), "tokens_per_second": Between(0, 1), "gpu_state": "healthy"}, E + ": waiting stayed 2 while 20 more came"),
    History("frozen for a moment less", (GOOD, still(STALL - 1, **FROZEN)), "saturated", "requests wait", {}, OWN + "the threshold"),
    History("frozen, and one scrape came late", (GOOD, still(STALL + 1, **FROZEN), still(2, error="timeout")), "wedged", "nothing moves", {}, OWN + "a late scrape frees nobody"),
    History("a long prefill", (GOOD, Phase(60, requests=0.05, prompt=100_000.0, answer=0.0, running=1.0)), "healthy", "", {"running": 1.0}, E + ": prompt tokens move while none are generated"),
    History("frozen counters and no work", (GOOD, rest(60)), "idle", "nothing waits", {}, OWN + "nothing to do is no stall"),
    History("nothing by its page, and a full GPU", (GOOD, rest(120, utilization=1.0)), "idle", "hangs unseen", {"utilization": Between(0.9, 1.0)}, "vLLM PR 46811: a kernel hung and running read 0; another process looks the same"),
    History("it moves again", (GOOD, still(STALL + 5, **FROZEN), Phase(15)), "healthy", "", {}, OWN + "a stall that ended is over"),
    # -- starting
    History("the port is closed from the start", (rest(60, error="refused"),), "cold_start", "loaded", {"error": "refused", "age": 60.0, "produced": None}, E + ": the port opens after the load"),
    History("the port is closed for more than 15 minutes", (rest(905, every=5.0, error="refused"),), "blind", "never read", {"error": "refused"}, OWN + "what takes longer does not start"),
    History("the port was open for a moment, and closed before any work", (rest(3), rest(10, error="refused")), "cold_start", "loaded", {"produced": False}, OWN + "it has not worked yet"),
    History("the first request, no token for 60 s", (rest(10), still(60, **FROZEN)), "cold_start", "first request", {"seconds_without_tokens": Between(58, 60), "produced": False}, OWN + "kernels are compiled at the first request"),
    History("the first request, no token for 130 s", (rest(10), still(130, **FROZEN)), "wedged", "nothing moves", {"seconds_without_tokens": Between(128, 130)}, OWN + "that is no warm-up"),
    History("no token for 40 s an hour after the start", (rest(3600, every=5.0), still(40, **FROZEN)), "wedged", "nothing moves", {}, OWN + "it is not young"),
    History("the first request on a sick GPU", (rest(10), still(20, **FROZEN, **SICK)), "hardware", "sick", {}, OWN + "the GPU's verdict stands"),
    History("the port closed after good service", (GOOD, rest(10, error="refused")), "blind", "failed", {"error": "refused", "produced": True, "started": None}, E + ": a core that is killed closes the port in 0.5 s"),
    History("the port closed after good service, the container is new", (GOOD, rest(10, error="refused", started=0.0)), "cold_start", "loaded", {"started": 10.0, "reading_age": Between(9.9, 10.1)}, OWN + "a container that was started again loads again"),
    History("the port is closed, the container is 20 minutes old", (GOOD, rest(10, error="refused", started=1200.0)), "blind", "failed", {"started": Between(1205, 1215)}, OWN + "what takes longer does not start"),
    History("seen to refuse for 20 minutes while its image was pulled, the container is new", (rest(1200, every=5.0, error="refused"), rest(60, error="refused", started=0.0)), "cold_start", "loaded", {"age": 1260.0, "started": 60.0, "produced": None}, OWN + "images of 20 GB take as long as models"),
    History("slow to answer from the start", (rest(10, error="timeout"),), "blind", "never read", {"error": "timeout"}, OWN + "a port that is open is loaded"),
    # -- blind
    History("not asked yet", (rest(1, error="pending"),), "blind", "never read", {"error": "pending"}, OWN + "missing is never healthy"),
    History("answers with an error", (GOOD, rest(1, error="status")), "blind", "failed", {"error": "status"}, OWN + "it says something else than a page"),
    History("a page without the server's metrics", (GOOD, rest(1, error="blind")), "blind", "failed", {}, E + ": --disable-log-stats answers 200 and nothing of itself"),
    History("one late scrape in good service", (GOOD, Phase(5), Phase(2, error="timeout")), "healthy", "no queue", {}, OWN + "the last reading still counts"),
    History("late for 6 s", (GOOD, Phase(5), Phase(6, error="timeout")), "blind", "failed", {"reading_age": 6.0}, "inputs.FRESH_SECONDS: a reading counts for 5 s"),
    History("no attempt for 6 s", (GOOD, Phase(5), Phase(6, silent=True)), "blind", "too old", {"error": None, "reading_age": 6.0}, OWN + "a source that hangs says nothing"),
    History("the page does not tell what waits", (GOOD, Phase(5, waiting=None)), "blind", "what waits", {"waiting": None, "running": 8.0}, OWN + "missing is not 0"),
    History("the page does not tell what runs", (GOOD, Phase(5, running=None)), "blind", "what runs", {"running": None}, OWN + "missing is not 0"),
    History("names drifted, and all looks well", (GOOD, Phase(5, lacking=("vllm:kv_cache_usage_perc",))), "blind", "lacks numbers", {"lacking": "vllm:kv_cache_usage_perc"}, "vLLM renames metrics every few versions"),
    History("names drifted, and nothing runs", (rest(5, lacking=("vllm:kv_cache_usage_perc",)),), "blind", "lacks numbers", {}, "as above"),
    History("names drifted, and a queue stands", (GOOD, Phase(20, waiting=9.0, lacking=("vllm:kv_cache_usage_perc",), kv=None)), "saturated", "requests wait", {"kv_usage": None}, OWN + "what is found is found all the same"),
)
# fmt: on


@pytest.mark.parametrize("history", HISTORIES, ids=[history.name for history in HISTORIES])
def test_a_history_is_found_to_be_what_it_is(history: History) -> None:
    found = diagnose(play(*history.phases))
    assert found.cause == history.cause, found
    assert history.says in found.why
    for name, wanted in history.evidence.items():
        value = found.evidence[name]
        if isinstance(wanted, Between):
            assert isinstance(value, float), name
            assert wanted.low <= value <= wanted.high, (name, value)
        else:
            assert value == wanted, name
    assert history.source


def test_the_histories_decide_every_rule_and_are_told_apart_by_name() -> None:
    decided = {diagnose(play(*history.phases)).why for history in HISTORIES}
    assert decided == {rule.why for rule in RULES}
    assert {history.cause for history in HISTORIES} == set(CAUSES) == {rule.cause for rule in RULES}
    assert len({history.name for history in HISTORIES}) == len(HISTORIES)
    assert all(rule.place for rule in RULES)
    assert len({rule.why for rule in RULES}) == len(RULES)


STEADY = {
    "at its knee a queue comes and goes each second": (GOOD, Phase(60, waiting=lambda i: 3.0 * (i % 2))),
    "a small queue comes and goes": (GOOD, Phase(60, running=30.0, waiting=lambda i: float(i % 3 == 0))),
    "throttled each third second": (GOOD, Phase(60, itl=0.045, throttled=lambda i: i % 3 == 0)),
    "each third scrape is late": (
        GOOD,
        *itertools.chain.from_iterable((Phase(2), Phase(1, error="timeout")) for _ in range(20)),
    ),
    "latency wavers about the threshold": (
        GOOD,
        *itertools.chain.from_iterable(
            (Phase(10, ttft=0.7, utilization=0.1), Phase(6, utilization=0.1)) for _ in range(8)
        ),
    ),
    "utilization jumps while latency is up": (GOOD, Phase(120, ttft=2.0, utilization=lambda i: float(i % 5 == 0))),
}


@pytest.mark.parametrize("name", STEADY)
def test_what_flickers_changes_a_diagnosis_at_most_twice(name: str) -> None:
    causes = [diagnose(facts).cause for facts in course(*STEADY[name])]
    changes = [pair for pair in itertools.pairwise(causes) if pair[0] != pair[1]]
    assert len(changes) <= 2, changes


def test_each_incident_that_begins_in_good_service_ends_in_good_service() -> None:
    """Nothing is held on to for longer than the window and its hold."""
    for history in HISTORIES:
        if history.phases[0] is not GOOD or history.cause in ("idle", "healthy"):
            continue
        causes = [diagnose(facts).cause for facts in course(*history.phases, Phase(150))]
        assert causes[-1] == "healthy", history.name


# -- where each threshold lies ------------------------------------------------------------------------------------------

HELD = EngineReading(
    "m", "0", waiting=0.0, running=10.0, kv_usage=0.5, prompt_tokens_total=9.0, generation_tokens_total=9.0
)
USUAL = Usual(ttft_p50=0.2, itl_p50=0.02, requests_per_second=2.0, prompt_tokens=500.0, seconds=900.0)
RATES = Rates(requests_per_second=2.0, errors_per_second=0.0, rejections_per_second=0.0, preemptions_per_second=0.0,
              prompt_tokens_per_second=1000.0, tokens_per_second=200.0, ttft_p50=0.2, itl_p50=0.02)  # fmt: skip
ON = Hardware((GPU,), "healthy", 1.0, False, 0.6)


def facts(reading: Mapping[str, Any] | None = None, rates: Mapping[str, Any] | None = None,
          on: Mapping[str, Any] | None = None, **changes: Any) -> Facts:  # fmt: skip
    """Good service at 0, but for what is changed."""
    seen = msgspec.structs.replace(HELD, **(reading or {}))
    since, stalled, produced = changes.pop("stalled", 0.0), None, changes.pop("produced", True)
    read = -changes.get("age", 900.0)
    if seen.waiting or seen.running:
        stalled = -since
    fields: dict[str, Any] = {
        "now": 0.0,
        "reading": seen,
        "error": "",
        "memory": EngineMemory(read, 0.0, seen, produced=produced, stalled_since=stalled),
        "rates": msgspec.structs.replace(RATES, **(rates or {})),
        "usual": USUAL,
        "hardware": msgspec.structs.replace(ON, **(on or {})),
        "capacity": 1.0,
        "age": 900.0,
        **changes,
    }
    return Facts(**fields)


Change = dict[str, Any]
_LOW = {"utilization": LIMITS.gpu_idle - 0.01}
_SLOW = {"ttft_p50": 1.0}
_FAILING = {"errors_per_second": 0.2}
_QUEUED = {"waiting": 5.0}
#: The threshold, the last that it lets pass, the first that it does not, the cause then.
EDGES: dict[str, tuple[Change, Change, str]] = {
    "latency_bad": (
        {"rates": {"ttft_p50": 0.399}, "on": _LOW},
        {"rates": {"ttft_p50": 0.4}, "on": _LOW},
        "outside_gpu",
    ),
    "latency_up": (
        {"rates": {"itl_p50": 0.0299}, "on": {"throttled": True}},
        {"rates": {"itl_p50": 0.0301}, "on": {"throttled": True}},
        "throttled",
    ),
    "ttft_step_seconds": (
        {"rates": {"ttft_p50": 0.07}, "usual": Usual(ttft_p50=0.021), "on": _LOW},
        {"rates": {"ttft_p50": 0.072}, "usual": Usual(ttft_p50=0.021), "on": _LOW},
        "outside_gpu",
    ),
    "itl_step_seconds": (
        {"rates": {"itl_p50": 0.0089}, "usual": Usual(itl_p50=0.004), "on": _LOW},
        {"rates": {"itl_p50": 0.0091}, "usual": Usual(itl_p50=0.004), "on": _LOW},
        "outside_gpu",
    ),
    "traffic_up": (
        {"rates": {**_SLOW, "requests_per_second": 2.51}, "on": _LOW},
        {"rates": {**_SLOW, "requests_per_second": 2.5}, "on": _LOW},
        "outside_gpu",
    ),
    "gpu_idle": ({"rates": _SLOW, "on": {"utilization": 0.3}}, {"rates": _SLOW, "on": _LOW}, "outside_gpu"),
    "latency_down": (
        {"rates": {"itl_p50": 0.0249}, "ailments": Ailments(slow=True), "on": {"throttled": True}},
        {"rates": {"itl_p50": 0.0251}, "ailments": Ailments(slow=True), "on": {"throttled": True}},
        "throttled",
    ),
    "gpu_awake": (
        {"rates": _SLOW, "on": {"utilization": 0.4}, "ailments": Ailments(gpu_idle=True)},
        {"rates": _SLOW, "on": {"utilization": 0.39}, "ailments": Ailments(gpu_idle=True)},
        "outside_gpu",
    ),
    "queue_share": (
        {"reading": {"waiting": 0.9}, "ailments": Ailments(waiting_since=-1.0)},
        {"reading": {"waiting": 1.0}, "ailments": Ailments(waiting_since=-1.0)},
        "saturated",
    ),
    "queue_seconds": (
        {"reading": {"waiting": 0.9}, "ailments": Ailments(waiting_since=-2.9)},
        {"reading": {"waiting": 0.9}, "ailments": Ailments(waiting_since=-3.0)},
        "saturated",
    ),
    "queue_leave_seconds": (
        {"ailments": Ailments(queued_at=-10.1)},
        {"ailments": Ailments(queued_at=-10.0)},
        "saturated",
    ),
    "throttle_leave_seconds": (
        {"ailments": Ailments(throttled_at=-30.1), "rates": {"itl_p50": 0.04}},
        {"ailments": Ailments(throttled_at=-30.0), "rates": {"itl_p50": 0.04}},
        "throttled",
    ),
    "kv_full": ({"reading": {**_QUEUED, "kv_usage": 0.899}}, {"reading": {**_QUEUED, "kv_usage": 0.9}}, "kv_pressure"),
    "least_events": (
        {"rates": {"preemptions_per_second": 0.08}},
        {"rates": {"preemptions_per_second": 0.1}},
        "kv_pressure",
    ),
    "error_share": (
        {"rates": {"errors_per_second": 0.49, "requests_per_second": 10.0}},
        {"rates": {"errors_per_second": 0.5, "requests_per_second": 10.0}},
        "outside_gpu",
    ),
    "xid_seconds": (
        {"rates": _FAILING, "on": {"xids": ((94, 300.1),)}},
        {"rates": _FAILING, "on": {"xids": ((94, 300.0),)}},
        "hardware",
    ),
    "lost_stall_seconds": (
        {"stalled": 4.9, "on": {"state": "lost"}},
        {"stalled": 5.0, "on": {"state": "lost"}},
        "wedged",
    ),
    "warm_up_seconds": (
        {"stalled": 119.0, "produced": False, "age": 200.0},
        {"stalled": 120.0, "produced": False, "age": 200.0},
        "wedged",
    ),
    "cold_start_seconds": (
        {"reading": {"running": 0.0}, "produced": False, "error": "refused", "age": 900.0},
        {"reading": {"running": 0.0}, "produced": False, "error": "refused", "age": 899.9},
        "cold_start",
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_threshold_lies_where_it_says(name: str) -> None:
    outside, inside, cause = EDGES[name]
    assert diagnose(facts(**inside)).cause == cause
    assert diagnose(facts(**outside)).cause != cause


def test_what_was_far_slower_is_so_until_it_is_near_the_usual_again() -> None:
    near = {"rates": {"ttft_p50": 0.31}, "on": _LOW}
    assert diagnose(facts(**near)).cause == "healthy"
    assert diagnose(facts(**near, ailments=Ailments(very_slow=True))).cause == "outside_gpu"
    back = {"rates": {"ttft_p50": 0.29}, "on": _LOW}
    assert diagnose(facts(**back, ailments=Ailments(very_slow=True))).cause == "healthy"


def test_how_long_prompts_and_a_busy_gpu_are_told_by_their_thresholds() -> None:
    full = {**_QUEUED, "kv_usage": 0.95}
    long, usual = (diagnose(facts(reading=full, rates={"prompt_tokens_per_second": r})) for r in (2000.0, 1990.0))
    assert ("longer" in long.why, "too many" in usual.why) == (True, True)
    busy, not_busy = (diagnose(facts(reading={"running": 0.0}, on={"utilization": u})) for u in (0.9, 0.89))
    assert ("hangs" in busy.why, "hangs" in not_busy.why) == (True, False)


def test_the_thresholds_have_units_and_sources_and_agree_with_the_windows() -> None:
    rows = tomllib.loads(Path(ailing.__file__).with_name("ailing.toml").read_text())
    assert set(rows) == set(ailing.Limits.__struct_fields__)
    for name, row in rows.items():
        assert set(row) == {"value", "unit", "source"}, name
        assert row["unit"], name
        assert row["source"], name
    assert LIMITS.latency_down < LIMITS.latency_up < LIMITS.latency_bad
    assert LIMITS.lost_stall_seconds < STALL < LIMITS.warm_up_seconds < LIMITS.cold_start_seconds
    assert LIMITS.throttle_leave_seconds == saturation.WINDOW
    assert LIMITS.gpu_idle < LIMITS.gpu_awake < LIMITS.gpu_busy
    tried = {"long_prompts", "gpu_busy", *EDGES}
    assert {name for name in rows if not name.startswith("usual_")} == tried, "the others: test_usual.py"


#: Of two things that ail it at once, the one that is told.
BOTH: dict[str, tuple[Change, str]] = {
    "stuck, and its port closed": ({"reading": {"waiting": 2.0}, "stalled": STALL, "error": "refused"}, "wedged"),
    "stuck, and its clocks held down": ({"stalled": STALL, "on": {"throttled": True}}, "wedged"),
    "a sick GPU, and a page without numbers": ({"reading": {"waiting": None}, "on": {"state": "unhealthy"}}, "hardware"),
    "a lost GPU, asleep": ({"reading": {"running": 0.0, "sleeping": True}, "rates": {"tokens_per_second": 0.0, "requests_per_second": 0.0}, "on": {"state": "lost"}}, "wedged"),
    "asleep, and what is left shows no queue": ({"reading": {"waiting": 9.0, "sleeping": True}}, "idle"),
    "failing by an Xid, and a queue": ({"reading": _QUEUED, "rates": _FAILING, "on": {"xids": ((94, 1.0),)}}, "hardware"),
    "failing without one, and a queue": ({"reading": _QUEUED, "rates": _FAILING}, "saturated"),
    "throttled, and refusing": ({"rates": {"rejections_per_second": 1.0, "itl_p50": 0.04}, "on": {"throttled": True}}, "throttled"),
    "a full cache, and refusing": ({"reading": {**_QUEUED, "kv_usage": 1.0}, "rates": {"rejections_per_second": 1.0}}, "kv_pressure"),
    "a full cache of no usual length, and refusing": ({"reading": {**_QUEUED, "kv_usage": 1.0}, "rates": {"rejections_per_second": 1.0}, "usual": Usual()}, "kv_pressure"),
    "throttled, and fewer and longer prompts fill the cache": ({"reading": {**_QUEUED, "kv_usage": 1.0}, "rates": {"requests_per_second": 1.0}, "on": {"throttled": True}}, "throttled"),
    "nothing left to count on, and a page without numbers": ({"reading": {"waiting": None}, "on": {"capacity": 0.0}}, "blind"),
    "nothing left to count on, asleep": ({"reading": {"sleeping": True}, "on": {"capacity": 0.0}}, "hardware"),
    "asleep, and its clocks held down": ({"reading": {"sleeping": True}, "on": {"throttled": True}, "usual": Usual()}, "idle"),
    "failing by an Xid until its container was started anew": ({"rates": _FAILING, "on": {"xids": ((94, 9.0),)}, "error": "refused", "started": 0.0}, "hardware"),
    "failing, and names that drifted": ({"rates": _FAILING, "lacking": ("x",)}, "outside_gpu"),
    "slow on a busy GPU, and names that drifted": ({"rates": _SLOW, "lacking": ("x",)}, "blind"),
    "slow outside, and names that drifted": ({"rates": _SLOW, "on": _LOW, "lacking": ("x",)}, "outside_gpu"),
    "slow outside, and failing": ({"rates": {**_SLOW, **_FAILING}, "on": _LOW}, "outside_gpu"),
    "the port closed, and clocks held down": ({"error": "refused", "on": {"throttled": True}}, "blind"),
}  # fmt: skip


def test_of_two_reasons_for_one_cause_the_surer_is_told() -> None:
    sick = diagnose(facts(rates=_FAILING, on={"state": "unhealthy", "xids": ((94, 1.0),)}))
    assert (sick.cause, "sick" in sick.why) == ("hardware", True)
    late = diagnose(facts(reading={"waiting": None}, error="status"))
    assert (late.cause, "failed" in late.why) == ("blind", True)


@pytest.mark.parametrize("name", BOTH)
def test_of_two_causes_the_one_that_helps_more_is_told(name: str) -> None:
    changes, cause = BOTH[name]
    assert diagnose(facts(**changes)).cause == cause


# -- real pages -----------------------------------------------------------------------------------------------------------

REAL = {
    "vllm-0.32.0-idle.txt": {"idle"},
    "vllm-0.32.0-after-load-idle.txt": {"idle"},
    "vllm-0.32.0-busy-queue.txt": {"saturated"},
    "vllm-0.32.0-kv-pressure.txt": {"kv_pressure"},
    "vllm-0.32.0-dp2-idle.txt": {"idle"},
    "vllm-0.32.0-two-api-servers-idle.txt": {"idle"},
}


@pytest.mark.parametrize("name", REAL)
def test_a_page_of_a_real_server_is_found_to_be_what_the_server_did(name: str) -> None:
    for seen in read((PAGES / name).read_bytes()).readings:
        known = saturation.observe(None, seen, 0.0)
        assert {diagnose(Facts(0.0, seen, "vllm", error="", memory=known, age=0.0)).cause} == REAL[name]


# -- whatever is missing --------------------------------------------------------------------------------------------------

NUMBER = st.one_of(st.none(), st.sampled_from((0.0, 0.5, 1.0, 30.0)), st.floats(0, 1e9))
SHARE = st.one_of(st.none(), st.floats(0, 1))
READINGS = st.builds(
    EngineReading, st.just("m"), st.just("0"),
    waiting=NUMBER, running=NUMBER, max_running=NUMBER, kv_usage=SHARE, kv_capacity_tokens=NUMBER,
    waiting_by_reason=st.one_of(st.none(), st.just({}), st.just({"capacity": 1.0})),
    prompt_tokens_total=NUMBER, generation_tokens_total=NUMBER, sleeping=st.one_of(st.none(), st.booleans()),
    finished=st.one_of(st.none(), st.just({}), st.just({"stop": 1.0})),
)  # fmt: skip
RATE = st.builds(Rates, **dict.fromkeys(Rates.__struct_fields__, NUMBER))
MOMENT = st.one_of(st.none(), st.floats(-1000, 0))
ANY = st.builds(
    Facts,
    now=st.just(0.0),
    reading=st.one_of(st.none(), READINGS),
    lacking=st.sampled_from(((), ("vllm:x",))),
    error=st.sampled_from(("", "", "", "refused", "timeout", "pending", "status")),
    memory=st.one_of(
        st.none(),
        st.builds(
            EngineMemory, st.floats(-2000, -1000), st.sampled_from((0.0, -1.0, -GAP, -500.0)), READINGS,
            produced=st.booleans(), stalled_since=st.one_of(st.none(), st.floats(-1000, -500)),
        ),
    ),
    rates=RATE,
    usual=st.builds(Usual, ttft_p50=NUMBER, itl_p50=NUMBER, requests_per_second=NUMBER, prompt_tokens=NUMBER),
    ailments=st.builds(Ailments, waiting_since=MOMENT, queued_at=MOMENT, throttled_at=MOMENT, utilization=SHARE),
    learned=st.builds(Learned, knee_running=NUMBER),
    saturation=NUMBER,
    hardware=st.builds(
        Hardware, gpus=st.just((GPU,)), state=st.sampled_from(health.STATES), capacity=SHARE, throttled=st.one_of(st.none(), st.booleans()),
        utilization=SHARE, xids=st.sampled_from(((), ((94, 1.0),), ((13, 2.0), (79, 400.0)))),
    ),
    capacity=SHARE,
    age=st.one_of(st.none(), st.floats(0, 2000)),
    started=st.one_of(st.none(), st.floats(0, 2000)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_whatever_is_missing_there_is_one_cause_with_its_evidence_and_missing_is_never_well(known: Facts) -> None:
    found = diagnose(known)
    assert found.cause in CAUSES
    assert found.evidence
    rules = explain(known)
    first = next(rule for rule in rules if rule.applies)
    assert (first.cause, first.why, first.evidence) == (found.cause, found.why, found.evidence)
    assert [rule.why for rule in rules] == [rule.why for rule in RULES]
    msgspec.json.encode(rules)
    if found.cause in ("healthy", "idle", "saturated", "throttled", "kv_pressure", "outside_gpu"):
        assert known.reading is not None
        assert None not in (known.reading.waiting, known.reading.running)
        assert known.error in ("", "timeout")
        assert not known.sick
    if found.cause in ("healthy", "idle") and not known.asleep:
        assert not known.lacking


@settings(max_examples=200, deadline=None)
@given(ANY, st.data())
def test_a_number_that_goes_missing_never_makes_an_engine_idle_that_was_not(known: Facts, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(("waiting", "running", "kv_usage", "max_running", "kv_capacity_tokens")))
    before = diagnose(known).cause
    if known.reading is not None:
        dropped = known._replace(reading=msgspec.structs.replace(known.reading, **{name: None}))
        after = diagnose(dropped).cause
        assert after not in ("idle", "healthy") or after == before


@settings(max_examples=200, deadline=None)
@given(ANY, st.floats(0, 1e6))
def test_more_that_waits_never_makes_an_engine_look_better(known: Facts, more: float) -> None:
    """Not where it sleeps: what a sleeping engine shows is from before. Nor where a long queue explains itself."""
    if known.reading is None or known.reading.waiting is None or known.asleep:
        return
    grown = msgspec.structs.replace(known.reading, waiting=known.reading.waiting + more)
    before, after = diagnose(known).cause, diagnose(known._replace(reading=grown)).cause
    if before not in ("healthy", "idle"):
        assert after not in ("healthy", "idle"), (before, after)


def test_every_number_that_a_rule_rests_on_has_a_name_and_every_name_is_used() -> None:
    used = {name for rule in RULES for name in rule.evidence}
    assert used == set(NUMBERS)


def test_evidence_is_none_where_nothing_was_read() -> None:
    nothing = diagnose(Facts(0.0))
    assert (nothing.cause, nothing.evidence) == (
        "blind",
        {"error": "pending", "reading_age": None, "age": None, "produced": None, "started": None},
    )
    assert {name for name, number in evidence.NUMBERS.items() if number(Facts(0.0)) is not None} == {
        "error",
        "gpu_state",
    }
    assert diagnosis.RULES[-1].applies(Facts(0.0))


def test_the_page_for_whoever_is_on_call_says_what_each_rule_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: " ".join(part.split()) for part in page.split("\n## ")[1:]}
    assert set(CAUSES) == set(sections) - {"Before the causes"}
    for rule in RULES:
        assert rule.why in sections[rule.cause], rule.why
