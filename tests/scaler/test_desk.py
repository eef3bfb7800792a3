"""scaler.decisions and journal: what the desk remembers, how often it decides, and that it is bounded."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.kit.config import ConfigError
from scaler import decisions
from scaler.core.decision import Decision, Memory, Unknown, decide
from scaler.core.forecast import SLOT
from scaler.core.trigger import Trigger, TriggerError
from scaler.core.view import EngineView, Fleet, NodeView
from scaler.decisions import Desk
from scaler.journal import Journal

MODEL = {"model": "llama"}


class World:
    """A desk with a clock and a view that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.version = 0
        self.views: tuple[NodeView, ...] = ()
        self.lines: list[bytes] = []
        self.changed = asyncio.Event()
        self.desk = Desk(
            lambda: self.views, lambda: self.version, self.changed, lambda: self.now, lambda: 1.5e9, self.lines.append
        )

    def see(self, *waiting: float, age: float = 0.1) -> None:
        engines = tuple(
            EngineView(f"http://{i}", "default", f"llama-{i}", model="llama", waiting=each, running=0.0, kv_usage=0.0)
            for i, each in enumerate(waiting)
        )
        ages = (age,) * len(engines)
        view = NodeView("a:1", 0.0, self.now, True, node="a", engines=engines, engine_ages=ages)
        self.views = (view,)
        self.version += 1
        self.changed.set()

    def ask(self, name: str = "llama", metadata: dict[str, str] = MODEL) -> decisions.Answer:
        return self.desk.metrics("default", name, metadata)


def waiting(answer: decisions.Answer) -> float:
    assert isinstance(answer.result, Decision)
    return answer.result.terms["waiting"]


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_change_of_the_view_is_a_new_decision(world: World) -> None:
    world.see(1.0)
    first = world.ask()
    world.now += 0.1
    assert world.ask() is first  # nothing has changed
    world.see(2.0)
    assert waiting(world.ask()) == 2


async def test_ages_grow_without_a_message(world: World) -> None:
    world.see(1.0, age=14.5)
    assert waiting(world.ask()) == 1
    world.now += 1.1
    assert isinstance(world.ask().result, Unknown)


async def test_a_flood_of_changes_is_no_flood_of_decisions(world: World) -> None:
    world.see(1.0)
    first = world.ask()
    world.now += 0.001
    world.see(2.0)
    assert world.ask() is first


async def test_isactive_is_the_other_half_of_a_poll(world: World) -> None:
    world.see(1.0)
    polled = world.ask()
    world.now += 0.9
    world.see(0.0)
    assert world.desk.activity("default", "llama", MODEL) is polled
    world.now += 0.2
    assert waiting(world.desk.activity("default", "llama", MODEL)) == 0


async def test_the_memory_of_one_object_is_not_anothers(world: World) -> None:
    for _ in range(5):
        world.see(0.0)
        world.ask("llama")
        world.now += 5
    known, fresh = world.ask("llama").result, world.ask("other").result
    assert isinstance(known, Decision)
    assert isinstance(fresh, Decision)
    assert known.vetoes == ("load known for 25 s of 600 s",)
    assert fresh.vetoes == ("load known for 0 s of 600 s",)


async def test_other_metadata_is_another_object_and_the_last_asked_is_shown(world: World) -> None:
    world.see(1.0)
    world.ask(metadata=MODEL)
    world.now += 1
    world.ask(metadata=MODEL | {"queueTarget": "7"})
    (entry,) = world.desk.entries()
    assert entry.trigger is not None
    assert entry.trigger.queue_target == 7


async def test_a_hostile_client_cannot_fill_the_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MOST_OBJECTS", 20)
    world.see(1.0)
    for i in range(200):
        world.ask("real")
        world.ask(f"flood-{i}")
    entries = world.desk.entries()
    assert len(entries) == 20
    assert "real" in [entry.name for entry in entries]
    assert len(next(entry for entry in entries if entry.name == "real").records) == 1


async def test_a_flood_takes_no_stream_its_entry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MOST_OBJECTS", 20)
    world.see(1.0)
    with world.desk.watch("default", "streaming", MODEL):
        for i in range(200):
            world.ask(f"flood-{i}")
        assert "streaming" in [entry.name for entry in world.desk.entries()]
        assert len(world.desk.entries()) == 20


async def test_bad_metadata_is_kept_as_an_error_and_a_bad_name_not_at_all(world: World) -> None:
    for _ in range(2):
        with pytest.raises(TriggerError, match="modle"):
            world.ask(metadata={"modle": "x"})
    assert "modle" in world.desk.entries()[0].error
    with pytest.raises(TriggerError, match="scaledObjectRef"):
        world.ask("No/Name")
    assert len(world.desk.entries()) == 1


async def test_records_are_kept_when_the_answer_changes_and_now_and_then(world: World) -> None:
    world.see(1.0)
    for _ in range(200):
        world.ask()
        world.now += 0.1
        world.see(1.0)
    entry = world.desk.entries()[0]
    assert len(entry.records) == 2  # the first, and one after 15 s
    world.see(50.0)
    world.ask()
    full = json.loads(world.lines[-1])
    assert (full["terms"]["waiting"], full["replicas"][0]["waiting"]) == (50, 50)
    assert full["trigger"] == MODEL
    brief = msgspec.json.decode(entry.records[-1])
    assert brief["explanation"] == full["explanation"]
    assert "replicas" not in brief
    for i in range(200):
        world.now += 1
        world.see(float(i * 10))
        world.ask()
    assert len(entry.records) == decisions.MOST_RECORDS


@pytest.fixture
async def running(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Its desk runs, and rests for moments only: a test's clock stands still meanwhile."""
    monkeypatch.setattr(decisions, "GATHER", 0.001)
    monkeypatch.setattr(decisions, "RENEW_AFTER", 0.05)
    task = asyncio.create_task(world.desk.run())
    yield world
    task.cancel()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- it is the task's own pace that is tested
            await asyncio.sleep(0.001)


async def test_streams_are_told_of_transitions_by_view_and_by_time(running: World) -> None:
    world = running
    with world.desk.watch("default", "llama", MODEL) as watch:
        assert watch.active is None  # nothing is known
        world.now += 1
        world.see(1.0)
        await until(watch.event.is_set)
        assert watch.active is True
        watch.event.clear()
        world.now += 600
        world.see(0.0)  # for long enough to believe it
        await until(lambda: load_known(world) >= 600)
        await until(watch.event.is_set)
        assert watch.active is False
    assert not world.desk.entries()[0].watchers
    # What nobody asks for any more is forgotten.
    world.now += decisions.FORGET_AFTER + 1
    await until(lambda: not world.desk.entries())


def load_known(world: World) -> float:
    return world.desk.entries()[0].memory.outlook.seconds


async def test_the_desk_looks_once_in_each_slot_however_seldom_it_is_asked(running: World) -> None:
    world = running
    for _ in range(3):
        world.see(0.0)
        world.ask()
        for _ in range(6):  # KEDA's polling interval of 30 s
            world.now += SLOT
            world.see(0.0)
            await until(lambda: world.desk.entries()[0].memory.outlook.flow.at == world.now)
    (entry,) = world.desk.entries()
    assert len(entry.memory.outlook.history.slots) == 18
    assert sum(entry.reasons.values()) == 3  # a look that nobody was told of is no decision
    assert len(world.lines) == 1 + 90 / decisions.RECORD_EVERY  # but what was seen is recorded as ever
    # It looks on for as long as KEDA may be only slow, and no longer.
    world.now += decisions.FORGET_AFTER + 1
    await until(lambda: not world.desk.entries())


async def test_a_look_that_changes_the_answer_is_a_decision(running: World) -> None:
    world = running
    world.see(0.0)
    world.ask()
    world.now += SLOT
    world.see(50.0)
    await until(lambda: len(world.lines) == 2)
    (entry,) = world.desk.entries()
    assert entry.reasons == {"hold": 1, "queue": 1}
    assert len(entry.records) == 2


async def test_an_object_with_bad_metadata_is_not_looked_at_and_harms_no_other(running: World) -> None:
    world = running
    with pytest.raises(TriggerError):
        world.ask("bad", {"modle": "x"})
    world.see(0.0)
    world.ask()
    world.now += SLOT
    await until(lambda: world.desk.entries()[1].memory.outlook.seconds == SLOT)
    assert world.desk.entries()[0].latest is None


async def test_a_look_that_fails_harms_its_object_alone(
    running: World, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    world = running
    world.see(0.0)
    world.ask("broken")
    world.ask("llama")

    def broken(trigger: Trigger, fleet: Fleet, memory: Memory | None, now: float) -> Any:
        if trigger.name == "broken":
            raise ArithmeticError("of ours")
        return decide(trigger, fleet, memory, now)

    monkeypatch.setattr(decisions, "decide", broken)
    world.now += SLOT
    await until(lambda: world.desk.entries()[1].memory.outlook.seconds == SLOT)
    await until(lambda: "default/broken: no decision" in caplog.text)


async def test_a_thousand_objects_take_a_tenth_of_the_time_and_all_have_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is that of the world: a decision takes 4 ms of it, and a rest as long as it is."""
    spent, turns, pause = 0.0, Counter[str](), asyncio.sleep

    def slow(trigger: Trigger, fleet: Fleet, memory: Memory | None, now: float) -> tuple[Decision | Unknown, Memory]:
        nonlocal spent
        spent += 0.004
        world.now += 0.004
        turns[trigger.name] += 1
        return decide(trigger, fleet, memory, now)

    async def rest(seconds: float) -> None:
        world.now += seconds
        await pause(0)

    world.see(0.0)
    for i in range(decisions.MOST_OBJECTS):
        world.ask(f"object-{i}")
    monkeypatch.setattr(decisions, "decide", slow)
    monkeypatch.setattr(decisions.asyncio, "sleep", rest)
    monkeypatch.setattr(decisions, "RENEW_AFTER", 0)
    began = world.now
    task = asyncio.create_task(world.desk.run())
    try:
        async with asyncio.timeout(30):
            while len(turns) < decisions.MOST_OBJECTS:
                await pause(0)
        share = spent / (world.now - began)
    finally:
        task.cancel()
    assert 0.09 <= share <= 0.112  # a rest is up to a tenth shorter, so that scalers get out of step
    assert max(turns.values()) <= 2  # nobody has a third turn before all had one


def test_the_journal_appends_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for line in (b"1\n", b"2\n"):
        journal = Journal(str(path))
        journal.write(line)
        journal.close(5)
    assert path.read_bytes() == b"1\n2\n"


def test_a_journal_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--record\.file: .*nowhere"):
        Journal(str(tmp_path / "nowhere" / "records.jsonl"))


def test_a_full_disk_neither_waits_nor_raises(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    journal = Journal("/dev/full")
    for _ in range(10_000):
        journal.write(b"x\n")
    journal.close(5)
    assert "cannot be written (No space left on device)" in caplog.text
