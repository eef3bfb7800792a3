"""scaler.simulate.exporters: what reaches the scaler is what the real feed would have said of the same engines."""

from collections.abc import Iterator, Mapping

import pytest
from msgspec import structs

from exporter import feed
from exporter.core import serving
from exporter.core.cold_start import PHASES
from exporter.core.inputs import NodeInputs
from exporter.core.model import Gpu, GpuKey
from exporter.core.serving import Served, ServingMemory
from exporter.core.snapshot import Snapshot
from exporter.pb import signals_pb2 as pb
from scaler.core.view import NodeView
from scaler.simulate import exporters
from scaler.simulate.faults import parse
from scaler.simulate.generators import generate
from scaler.simulate.model import Phases, Scenario
from scaler.simulate.profiles import profile
from scaler.simulate.run import run
from scaler.sources.feed import decode
from tests.simulate.played import PLAIN, Script, Watched, product, trace


def scenario(**rest: object) -> Scenario:
    load = generate("flash_crowd", {"base": 4, "factor": 8, "at": 60, "seconds": 300}, 3)
    return Scenario(load, profile("8b-l40s"), start=2, minimum=2, maximum=6, cold_start=40.0, **rest)  # type: ignore[arg-type] # a test's shorthand


def wired(served: Served, gpus: Mapping[GpuKey, Gpu], inputs: NodeInputs, now: float, known: NodeView) -> NodeView:
    """What a scaler has after the real exporter's message of the same step."""
    snapshot = Snapshot(
        node=inputs.node,
        at=now,
        sequence=known.sequence,
        engines=served.engines,
        gpus=tuple(gpus.values()),
        collectors=(),
        scrape_errors={},
        scrapes={},
        cold_starts=served.cold_starts,
    )
    _, full, _ = feed._encode(snapshot, known.boot)
    return decode(pb.NodeSignals.FromString(full), structs.replace(known, node="", engines=(), gpus=()), None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Served, Mapping[GpuKey, Gpu], NodeInputs, float]]]:
    """Every step that the exporters' core made, and what of."""
    seen: list[tuple[Served, Mapping[GpuKey, Gpu], NodeInputs, float]] = []
    real = serving.step

    def step(
        memory: ServingMemory,
        inputs: NodeInputs,
        merged: tuple[()],
        gpus: Mapping[GpuKey, Gpu],
        overflow: dict[str, int],
        now: float,
    ) -> tuple[Served, ServingMemory]:
        served, after = real(memory, inputs, merged, gpus, overflow, now)
        seen.append((served, dict(gpus), inputs, now))
        return served, after

    monkeypatch.setattr(exporters.serving, "step", step)
    return seen


def test_the_scaler_has_of_every_step_what_the_wire_would_have_brought(
    steps: list[tuple[Served, Mapping[GpuKey, Gpu], NodeInputs, float]],
) -> None:
    faults = tuple(map(parse, ("throttled@100:factor=3,for=60s", "lost@150:replica=1", "wedged@200")))
    told: list[NodeView] = []

    class Keep(Watched):
        def __call__(self, seen):  # type: ignore[no-untyped-def] # as Watched has it
            told.extend(view for view in seen.nodes if view.at == seen.now - 1.0)
            return super().__call__(seen)

    played = scenario(faults=faults)
    run(played, Keep(played), "plimsoll")
    real = {(inputs.node, now): (served, gpus, inputs, now) for served, gpus, inputs, now in steps}
    assert len(told) > 50
    for view in told:
        assert view.at is not None
        theirs = wired(*real[view.node, view.at], known=view)
        for name in NodeView.__struct_fields__:
            assert getattr(view, name) == getattr(theirs, name), name
    causes = {engine.cause for view in told for engine in view.engines}
    assert {"healthy", "wedged", "cold_start", "throttled"} <= causes  # the comparison saw more than health
    assert {gpu.state for view in told for gpu in view.gpus} == {"healthy", "degraded", "lost"}
    assert any(engine.step_seconds is not None for view in told for engine in view.engines)


#: (what, profile's phases, scenario's cold start, reading interval)
STARTS = [
    (Phases(0.0, 20.0, 30.0, 10.0), None, 5.0),
    (Phases(0.0, 20.0, 30.0, 10.0), 120.0, 5.0),
    (Phases(0.0, 0.0, 30.0, 10.0), 300.0, 5.0),
    (Phases(0.0, 20.0, 30.0, 10.0), None, 15.0),
    (Phases(), 0.0, 5.0),
]


@pytest.mark.parametrize(("phases", "cold_start", "interval"), STARTS)
def test_a_warm_fleet_knows_its_cold_start_from_the_first_reading_on(
    phases: Phases, cold_start: float | None, interval: float
) -> None:
    played = Scenario(
        trace(seconds=60.0), PLAIN._replace(cold_start=phases), start=2, cold_start=cold_start, interval=interval
    )
    _, said = product(played)
    true = sum(phases[1:]) if cold_start is None else cold_start
    assert [each.fleet.cold_start for each in said] == [pytest.approx(true, abs=0.1)] * len(said)


def test_a_cold_start_is_learned_with_its_node_from_pods_that_come() -> None:
    """A node comes 90 s after it was needed, the port answers 40 s after that; readings are 5 s apart."""
    load = generate("steady", {"rate": 2, "seconds": 400}, 1)
    played = Scenario(load, profile("8b-l40s"), start=1, cold_start=40.0, node_provisioning=90.0, nodes=2)
    watched = Script((0.0, 1), (50.0, 9), feed=True)
    run(played, watched, "script")
    views = {view.node: view for view in watched.seen[-1].nodes}
    told = {node: {start.phase: (start.count, start.p50) for start in views[node].cold_starts} for node in views}
    assert set(views) == {"node-0", "node-1"}
    assert told["node-1"]["node_provisioning"] == (1, pytest.approx(90.0, abs=0.1))
    # The container's start to the first answer: at most a reading late.
    assert told["node-1"]["model_load"] == (1, pytest.approx(42.5, abs=2.5))
    assert told["node-0"]["node_provisioning"] == (8, 0.0)
    assert set(told["node-0"]) == set(PHASES)


def test_an_exporter_outlives_the_pods_of_its_node() -> None:
    played = Scenario(trace(seconds=300.0), PLAIN, start=9)
    watched = Script((0.0, 9), (50.0, 8), (100.0, 9), feed=True)
    run(played, watched, "script")
    nodes = [{view.node for view in seen.nodes} for seen in watched.seen if seen.nodes]
    assert all(names == {"node-0", "node-1"} for names in nodes)
    assert all(view.cold_starts for seen in watched.seen[1:] for view in seen.nodes)


def test_a_pod_that_goes_is_no_engine_any_more() -> None:
    load = generate("steady", {"rate": 3, "seconds": 120}, 1)
    watched = Script((0.0, 2), (50.0, 1), feed=True)
    run(Scenario(load, profile("8b-l40s"), start=2), watched, "script")
    counts = [(seen.now, sum(len(view.engines) for view in seen.nodes)) for seen in watched.seen]
    assert [count for now, count in counts if now <= 51.0] == [2] * 11
    assert [count for now, count in counts if now > 51.0] == [1] * (len(counts) - 11)
