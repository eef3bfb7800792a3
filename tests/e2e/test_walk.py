"""One number's walk: `waiting` from an engine's page through exporter, feed and scaler to KEDA, and what must not walk.

One exporter and one scaler serve the whole file; each test has engines of its own, selected by the label `app`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.engines import ANSWERS, GOOD, FakeEngine, Row, fixture, vllm
from tests.support.feed import listen
from tests.support.keda import KedaClient
from tests.support.programs import Program, eventually, exporter, get, metrics, scaler, value

BUSY = fixture("vllm-0.32.0-busy-queue.txt")  # 28 waiting, 4 running, as its file says

#: label `app` -> what each of its engines says at first.
FLEET = {
    "walk": [vllm(Row(waiting=1))],
    "one": [BUSY],
    "two": [BUSY, BUSY],
    "parallel": [vllm(Row(3, 2, engine="0"), Row(4, 5, engine="1"))],
    "models": [vllm(Row(3, 1, model="alpha"), Row(40, 9, model="beta"))],
    "fresh": [vllm(Row(7, 2))],
    "late": [GOOD],
    **{f"bad-{name}": [GOOD] for name in ANSWERS},
}
#: What the exporter must call each bad answer.
REASONS = {
    "nan": "not_finite",
    "negative": "negative",
    "status-500": "status",
    "redirect": "redirect",
    "gzip-bomb": "too_large",
    "drip": "timeout",
    "no-vllm-series": "blind",
}


class Bench:
    """The running programs and their engines."""

    def __init__(
        self, engines: dict[str, list[FakeEngine]], node: Program, plimsoll: Program, keda: KedaClient
    ) -> None:
        self.engines = engines
        self.node = node
        self.plimsoll = plimsoll
        self.keda = keda

    def page(self) -> str:
        return metrics(self.node)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        engines = {app: [stack.enter_context(FakeEngine(text)) for text in texts] for app, texts in FLEET.items()}
        targets = [
            {"url": engine.url, "namespace": "test", "pod": f"{app}-{index}", "labels": {"app": app}}
            for app, group in engines.items()
            for index, engine in enumerate(group)
        ]
        path = tmp_path_factory.mktemp("walk") / "engines.json"
        path.write_text(json.dumps(targets))
        timing = ("--engines.interval", "200ms", "--engines.timeout", "1s")
        node = stack.enter_context(exporter("--engines.file", str(path), *timing))
        plimsoll = stack.enter_context(scaler(node))
        keda = stack.enter_context(KedaClient(plimsoll.addresses["grpc"]))
        yield Bench(engines, node, plimsoll, keda)


def test_one_number_at_every_stop(bench: Bench) -> None:
    eventually(lambda: bench.keda.poll("walk", podSelector="app=walk"))
    bench.engines["walk"][0].says(vllm(Row(waiting=37, running=5)))

    def at_keda() -> str:
        polled = bench.keda.poll("walk", podSelector="app=walk")
        assert "waiting=37 running=5" in polled.explanation
        assert polled.active
        assert polled.target == 1
        assert polled.value > 1
        return polled.explanation

    explanation = eventually(at_keda)
    assert value(bench.page(), "plimsoll_engine_requests_waiting", pod="walk-0") == 37
    assert [engine.waiting for engine in listen(bench.node.addresses["feed"]).engines if engine.pod == "walk-0"] == [37]
    status, body = get(f"{bench.plimsoll.web}/debug/decision?namespace=test&name=walk")
    assert status == 200
    decision = json.loads(body)
    assert decision["answer"]["terms"]["waiting"] == 37
    assert [replica["waiting"] for replica in decision["replicas"]] == [37]
    told = explain(bench, "test/walk")
    assert told.returncode == 0, told.stderr
    assert explanation.split(":")[0].split(" ")[0] in told.stdout
    assert "37" in told.stdout


def explain(bench: Bench, name: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "scaler.cli", "explain", name, "--scaler", bench.plimsoll.web]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)


def test_the_busy_fixture_is_told_as_its_file_has_it(bench: Bench) -> None:
    polled = eventually(lambda: bench.keda.poll("one", podSelector="app=one"))
    assert "waiting=28 running=4" in polled.explanation


def test_two_engines_are_summed(bench: Bench) -> None:
    polled = eventually(lambda: bench.keda.poll("two", podSelector="app=two"))
    assert "waiting=56 running=8" in polled.explanation
    assert "replicas 2" in polled.explanation


def test_data_parallel_engines_of_one_server_are_summed_and_one_replica(bench: Bench) -> None:
    polled = eventually(lambda: bench.keda.poll("parallel", podSelector="app=parallel"))
    assert "waiting=7 running=7" in polled.explanation
    assert "replicas 1" in polled.explanation


def test_two_models_behind_one_url_stay_apart(bench: Bench) -> None:
    for model, expect in (("alpha", "waiting=3 running=1"), ("beta", "waiting=40 running=9")):
        polled = eventually(
            lambda model=model: bench.keda.poll(f"models-{model}", podSelector="app=models", model=model)
        )
        assert expect in polled.explanation
    # Pods are what is scaled: a selector without a model takes all that its pods have to do.
    assert "waiting=43 running=10" in bench.keda.poll("models-pods", podSelector="app=models").explanation
    code, details = bench.keda.refusal("models-any")
    assert code == "UNAVAILABLE"
    assert "3 models" in details


def test_the_ways_of_asking_agree(bench: Bench) -> None:
    """The model's name selects what the labels do, when nobody else serves it."""
    eventually(lambda: bench.keda.poll("by-model", model="alpha"))
    assert "waiting=3 running=1" in bench.keda.poll("by-model", model="alpha").explanation


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_harms_its_engine_alone(bench: Bench, name: str) -> None:
    app = f"bad-{name}"
    (engine,) = bench.engines[app]
    eventually(lambda: bench.keda.poll(app, podSelector=f"app={app}"))
    engine.answer = ANSWERS[name]

    def counted() -> None:
        page = bench.page()
        assert value(page, "plimsoll_engine_scrape_success", endpoint=engine.url) == 0
        reason = {"reason": REASONS[name]} if name in REASONS else {}
        assert value(page, "plimsoll_engine_scrape_errors_total", endpoint=engine.url, **reason) >= 1

    eventually(counted)
    # What it said last ages; a number that it never said does not appear, and its neighbours go on.
    assert "waiting=7 running=2" in bench.keda.poll("fresh", podSelector="app=fresh").explanation
    assert value(bench.page(), "plimsoll_engine_scrape_success", endpoint=bench.engines["fresh"][0].url) == 1
    engine.says(GOOD)
    eventually(lambda: _good_again(bench, engine))


def _good_again(bench: Bench, engine: FakeEngine) -> None:
    assert value(bench.page(), "plimsoll_engine_scrape_success", endpoint=engine.url) == 1


def test_stale_is_unavailable_never_0(bench: Bench) -> None:
    metadata = {"podSelector": "app=late", "staleAfter": "2s"}
    eventually(lambda: bench.keda.poll("late", **metadata))
    bench.engines["late"][0].answer = ANSWERS["status-500"]
    code, details = eventually(lambda: bench.keda.refusal("late", **metadata))
    assert code == "UNAVAILABLE"
    assert "late-0" in details


def test_nothing_that_is_selected_is_unavailable_never_0(bench: Bench) -> None:
    code, details = bench.keda.refusal("none", podSelector="app=nobody")
    assert code == "UNAVAILABLE"
    assert "app=nobody" in details


def test_a_scaler_without_any_exporter_is_unavailable_never_0() -> None:
    with Program(
        *("scaler", "--exporters", "127.0.0.1:9"),
        *("--grpc.listen-address", "127.0.0.1:0", "--web.listen-address", "127.0.0.1:0"),
    ) as alone:
        with KedaClient(alone.addresses["grpc"]) as keda:
            assert keda.spec("any", {}).metricName == "required-replicas"
            assert keda.refusal("any")[0] == "UNAVAILABLE"
        assert alone.stop(5.0) == 0


def test_bad_metadata_is_named_while_the_spec_is_still_answered(bench: Bench) -> None:
    metadata = {"podSelector": "app=one", "queueTraget": "5"}
    assert bench.keda.spec("typo", metadata).targetSizeFloat == 1
    code, details = bench.keda.refusal("typo", **metadata)
    assert code == "INVALID_ARGUMENT"
    assert "queueTraget" in details
    assert "queueTarget" in details
    told = explain(bench, "test/typo")
    assert "queueTraget" in told.stdout + told.stderr


def test_a_changed_list_of_engines_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(tmp_path / "engines.json")

    def sees(node: Program, waiting: float) -> None:
        assert value(metrics(node), "plimsoll_engine_requests_waiting") == waiting

    with FakeEngine(vllm(Row(1))) as first, FakeEngine(vllm(Row(2))) as second:
        write(json.dumps([{"url": first.url}]))
        with exporter("--engines.file", str(tmp_path / "engines.json"), "--engines.interval", "200ms") as node:
            eventually(lambda: sees(node, 1))
            write('[{"url": ')
            write_count = first.scrapes
            eventually(lambda: _more(first, write_count + 3))
            sees(node, 1)
            write(json.dumps([{"url": second.url}]))
            eventually(lambda: sees(node, 2))
            assert node.stop(5.0) == 0


def _more(engine: FakeEngine, count: int) -> None:
    assert engine.scrapes >= count
