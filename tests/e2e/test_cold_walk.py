"""A cold start's walk: Kubernetes and the port -> a step of the node -> its state file -> the feed -> the scaler."""

from pathlib import Path

from msgspec.structs import replace

from exporter import publish, state
from exporter.core.model_engines import EngineScrape, PodFacts
from exporter.core.node import NodeMemory, remembered, resumed, step
from exporter.feed import Feed
from exporter.pb import signals_pb2 as pb
from scaler.core import policy
from scaler.core.decision import Decision, decide
from scaler.core.trigger import parse
from scaler.core.view import NodeView
from scaler.core.view_fleet import fleet
from scaler.sources.feed import decode
from tests.exporter.build import inputs, reading, target

BORN = 1_700_000_000.0  # Unix seconds when the monotonic clock shows 0
POD = PodFacts(
    "inference", "llama-0", "uid", node_created=BORN + 60, created=BORN, scheduled=BORN + 90,
    pulling={"vllm": BORN + 100}, pulled={"vllm": BORN + 150}, started={"vllm": BORN + 152},
    restarts={"vllm": 0}, containers={"vllm": "c" * 64},
)  # fmt: skip
LOADED, WORKS, SERVED = (0.0, 0.0), (1.0, 0.0), (1.0, 5.0)  # requests that run, tokens made


def looked(memory: NodeMemory, at: float, shown: tuple[float, float] | str):
    """A step at `at` at which the port refuses, or shows these numbers."""
    of = target(0)
    if isinstance(shown, str):
        tried = EngineScrape(of, at, 0.001, error=shown, message="m")
        said = inputs(targets=(of,), scrapes={of.url: tried}, last_good={})
    else:
        said = inputs([EngineScrape(of, at, 0.001, "vllm", (now(*shown),))])
    said = replace(said, pods={("inference", "llama-0"): POD}, wall=BORN + at)
    return step(memory, said, at)


def now(running: float, tokens: float):
    return reading(
        waiting=0.0, running=running, generation_tokens_total=tokens, prompt_tokens_total=tokens, finished={}
    )


def test_the_lead_time_that_the_scaler_goes_by_is_what_the_node_saw_though_the_exporter_was_restarted(tmp_path: Path):
    memory = NodeMemory()
    for at, shown in ((160.0, "refused"), (199.0, "refused"), (200.0, LOADED), (210.0, WORKS), (230.0, SERVED)):
        snapshot, memory = looked(memory, at, shown)
    page = publish.render(snapshot, 230.0, BORN + 230, openmetrics=False).decode()
    told = {"node_provisioning": 90, "image_pull": 50, "model_load": 48, "warm_up": 20}
    for phase, seconds in told.items():
        assert f'phase="{phase}"}} {seconds}\n' in page
        assert f'phase="{phase}",quantile="0.9"}} {seconds}\n' in page
    assert [(one.phase, one.p50, one.count) for one in snapshot.cold_starts] == [(p, s, 1) for p, s in told.items()]

    path = str(tmp_path / "state")
    state.save(path, state.State(state.VERSION, "boot", 231.0, remembered(memory)))
    kept = state.load(path, "boot", 232.0)
    assert kept is not None
    again, _ = looked(resumed(kept, 232.0), 233.0, SERVED)
    assert again.cold_starts == snapshot.cold_starts, "an engine that is found up teaches nothing and counts once"

    feed = Feed()
    feed.publish(again)
    assert feed._newest is not None
    view = NodeView("10.0.0.1:9464", 0.0)
    view = decode(pb.NodeSignals.FromString(feed._newest.full), view, None)
    heard = replace(view, at=233.0, first=233.0, connected=True)
    trigger = parse("inference", "llama", {"model": reading().model})
    seen = fleet([heard], trigger, 233.5)
    answer, _ = decide(trigger, seen, None, 233.5)
    assert isinstance(answer, Decision)
    assert seen.cold_start == 208.0
    assert answer.terms["lead_seconds"] == 208.0 + policy.value("sync")
