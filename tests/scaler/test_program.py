"""plimsoll-scaler as a process: start, refusal to start, records, SIGTERM."""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from exporter.kit.version import VERSION
from tests.scaler.fakes import Keda, engine, exporter

FREE = ("--grpc.listen-address", "127.0.0.1:0", "--web.listen-address", "127.0.0.1:0")


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The process and its gRPC port, when it says that it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scaler", *FREE, *arguments, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            while True:
                line = (await process.stderr.readline()).decode()
                if found := re.search(r'level=info .*"listening grpc=127\.0\.0\.1:(\d+) web=127\.0\.0\.1:\d+"', line):
                    break
                assert line, "it ended"
        yield process, int(found[1])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scaler", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
async def test_a_signal_ends_streams_cleanly_and_exits_0_in_time(number: int, tmp_path: Path) -> None:
    record = tmp_path / "records.jsonl"
    async with (
        exporter(engine(waiting=28, running=4)) as fake,
        program("--exporters", fake.address, "--record.file", str(record)) as (process, port),
    ):
        keda = Keda(port, {"model": "llama"})
        said = await keda.until(6.6)
        assert "waiting=28 running=4" in said
        streams = [keda.stub.StreamIsActive(keda.ref) for _ in range(5)]
        for stream in streams:
            assert (await stream.read()).result
        began = time.monotonic()
        process.send_signal(number)
        for stream in streams:
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
        assert await process.wait() == 0
        assert time.monotonic() - began < 5
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert lines[-1]["explanation"] == said
    assert lines[-1]["replicas"][0]["waiting"] == 28


REFUSED = [
    ([], "option exporters: names no exporter"),
    (["--exporters", "nonsense"], "flag --exporters: 'nonsense' is not an address; write host:port"),
    (["--exporters", "a:0"], "flag --exporters"),
    (["--exporters", "a:1", "--streams.max", "0"], "flag --streams.max"),
    (["--exporters", "a:1", "--stream.lifetime", "never"], "flag --stream.lifetime"),
    (["--exporters", "a:1", "--record.file", "/nowhere/x"], "flag --record.file: /nowhere/x cannot be opened"),
    (["--exporters", "a:1", "--grpc.listen-address", "192.0.2.1:6000"], "option grpc.listen-address: cannot listen"),
    (["--exporters", "a:1", "--exporter", "b"], "did you mean --exporters?"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[row[1][:40] for row in REFUSED])
async def test_what_cannot_be_honoured_stops_the_start_with_one_line(arguments: list[str], words: str) -> None:
    status, out, err = await run("--web.listen-address", "127.0.0.1:0", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("plimsoll-scaler: ")
    assert words in err
    assert err.count("\n") == 1


async def test_a_port_that_is_taken_is_named() -> None:
    async with exporter() as fake:
        status, _, err = await run(
            "--exporters", "a:1", "--web.listen-address", "127.0.0.1:0", "--grpc.listen-address", fake.address
        )
        assert status == 2
        assert f"option grpc.listen-address: cannot listen on {fake.address}" in err.splitlines()[-1]


async def test_exporters_from_the_environment_and_version() -> None:
    status, _, err = await run(PLIMSOLL_EXPORTERS="bad")
    assert status == 2
    assert "environment PLIMSOLL_EXPORTERS: 'bad' is not an address" in err
    assert await run("--version") == (0, f"plimsoll-scaler {VERSION}\n", "")
