"""The `plimsoll` command, end to end: argv -> a running scaler -> text and exit status."""

import asyncio
import subprocess
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from exporter.kit.version import VERSION
from exporter.pb import signals_pb2 as pb
from scaler import cli
from tests.scaler.fakes import FakeExporter, Keda, Scaler, engine, exporter, scaler, signals

#: A full one serves 0.5 requests/s: 60 that wait are 120 s of work.
TAUGHT = engine("llama-0", waiting=60, running=4, max_running=8, service_rate=0.5, kv_usage=0.3)
SICK = engine("llama-1", capacity=0.0, gpus=["GPU-1"])
BLIND = engine("llama-2", waiting=None, error="timeout")
LOST = pb.Gpu(uuid="GPU-1", state="lost", capacity=0.0, reasons=[pb.Reason(reason="xid_79", action="reset_gpu")])


@pytest.fixture
async def fake() -> AsyncIterator[FakeExporter]:
    async with exporter() as running:
        running.send(signals(TAUGHT, SICK, gpus=[LOST]))
        yield running


@pytest.fixture
async def running(fake: FakeExporter) -> AsyncIterator[Scaler]:
    async with scaler(fake.address) as started:
        await started.connected()
        yield started


async def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        status = await asyncio.to_thread(cli.main, ["explain", *arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


async def test_explain_accounts_for_the_answer(
    fake: FakeExporter, running: Scaler, capsys: pytest.CaptureFixture[str]
) -> None:
    keda = Keda(running.ports.grpc, {"model": "llama"})
    await keda.until(2.25)
    fake.send(signals(TAUGHT, SICK, BLIND, gpus=[LOST]))
    explanation = await keda.until(3.25)  # and the blind one
    status, said, errors = await explain(capsys, "default/llama", "--scaler", running.web)
    assert (status, errors) == (0, "")
    blocks = {block.splitlines()[0].split(":")[0]: block for block in said.split("\n\n")}
    assert list(blocks) == [
        "ScaledObject default/llama",
        "settings",
        "inputs",
        "what comes",
        "what is held and what waits",
        "what carries it",
        "vetoes (not fewer than 3, until these are mended)",
        "what would change the answer",
        "answer",
    ]
    assert "staleAfter     15s  (default)" in said
    assert "model          llama\n" in said
    first, second, third = blocks["inputs"].splitlines()[2:]
    assert first.split() == ["llama-0", "supplying", first.split()[2], "60", "4", "8", "0.30", "1", "-", "idle"]
    assert "pod llama-1: GPU-1 lost (xid_79 -> reset_gpu)" in second
    assert third.split()[:2] == ["llama-2", "blind"]
    assert "timeout" in third
    # Half a batch runs; 60 wait with 2 s each, of which one replica works off 75 s until another could serve.
    steps = {line.split()[0]: line.split()[1] for line in said.splitlines() if line.startswith("  ") and line.split()}
    for name, number in (
        ("request_seconds", "2"),
        ("planned", "0"),
        ("demand_base", "0.50"),
        ("backlog", "45"),
        ("demand_queue", "0.75"),
        ("demand", "1.25"),
        ("needed", "3.25"),
        ("required", "3.25"),
    ):
        assert steps[name] == number, name
    assert "of 3: 1 supplying, 0 impaired, 1 dead, 0 starting, 1 blind" in blocks["what carries it"]
    turns = blocks["what would change the answer"]
    assert "5 are needed when demand passes 2 (it is 1.25)" in turns
    assert "about 23 more waiting (now 60)" in turns
    assert "more than 10 running (now 4)" in turns
    assert "blind: llama-2 without waiting, last error timeout" in said
    assert explanation in said


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "not known: no replica has shown what a request costs"),
        ({}, "20 waiting / 5 a replica"),
        ({"queueTarget": "10"}, "20 waiting / queueTarget 10"),
        ({"maxReplicas": "2"}, "maxReplicas 2 is in the way of more"),
        ({"mode": "advisory"}, "mode active would answer 5"),
        ({"kvCacheTargetFromEnv": "0.5"}, "KV caches held / kvCacheTarget (from the environment)"),
    ],
    ids=str,
)
async def test_explain_of_a_fleet_that_has_shown_nothing(
    metadata: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with exporter(engine("llama-0", waiting=20, running=4)) as fake, scaler(fake.address) as running:
        await running.connected()
        await Keda(running.ports.grpc, {"model": "llama"} | metadata).until_value()
        status, said, _ = await explain(capsys, "default/llama", "--scaler", running.web)
    assert status == 0
    assert words in said


async def test_explain_when_there_is_no_answer(
    fake: FakeExporter, running: Scaler, capsys: pytest.CaptureFixture[str]
) -> None:
    keda = Keda(running.ports.grpc, {"model": "gpt"})
    await keda.refused()
    status, said, _ = await explain(capsys, "default/llama", "--scaler", running.web)
    assert status == 3
    assert "GetMetrics fails (UNAVAILABLE), and the HPA holds: no engine in namespace default" in said


async def test_explain_when_the_trigger_is_wrong(running: Scaler, capsys: pytest.CaptureFixture[str]) -> None:
    await Keda(running.ports.grpc, {"modle": "x"}).refused()
    status, said, _ = await explain(capsys, "default/llama", "--scaler", running.web)
    assert status == 3
    assert "GetMetrics fails (INVALID_ARGUMENT): ScaledObject default/llama: trigger metadata key 'modle'" in said


WRONG = [
    (["llama"], 2, "is not NAMESPACE/NAME"),
    (["a/b/c"], 2, "is not NAMESPACE/NAME"),
    (["a/b", "--scaler", "file:///etc/passwd"], 2, "is not a URL"),
    (["a/b", "--scaler", "http://127.0.0.1:1"], 1, "cannot be reached"),
    ([], 2, "required"),
]


@pytest.mark.parametrize(("arguments", "expected", "words"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
async def test_explain_fails_in_one_clear_line(
    arguments: list[str], expected: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, errors = await explain(capsys, *arguments)
    assert (status, said) == (expected, "")
    assert words in errors.splitlines()[-1]


async def test_explain_of_an_object_that_keda_never_asked_for(
    running: Scaler, capsys: pytest.CaptureFixture[str]
) -> None:
    await Keda(running.ports.grpc, {"model": "llama"}).metrics()
    status, _, errors = await explain(capsys, "default/other", "--scaler", running.web)
    assert status == 1
    assert "KEDA has not asked for ScaledObject default/other here; it asks for: default/llama" in errors


@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
async def test_explain_of_another_server(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, status=200 if body != "{}" else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        status, _, errors = await explain(capsys, "a/b", "--scaler", f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
    assert status == 1
    assert "plimsoll-scaler" in errors
    assert errors.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"plimsoll {VERSION}\n"


def test_demo_is_dispatched_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = types.ModuleType("scaler.demo")
    seen: list[list[str]] = []
    demo.main = lambda argv: seen.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scaler.demo", demo)
    assert cli.main(["demo", "--scenario", "burst"]) == 7
    assert seen == [["--scenario", "burst"]]


def test_doctor_takes_no_code_from_the_directory_that_it_is_started_in(tmp_path: Path) -> None:
    for package in ("exporter", "exporter/doctor"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("print('evil')\n")
    (tmp_path / "exporter/doctor/__main__.py").write_text("print('evil')\n")
    # As the installed command starts: its own directory stands first on the path, not the current one.
    command = [sys.executable, "-P", "-m", "scaler.cli", "doctor", "--version"]
    ran = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"plimsoll doctor {VERSION}\n", "")
