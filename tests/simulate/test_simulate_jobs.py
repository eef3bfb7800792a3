"""Runs side by side, the bar, and what ends a program before its time."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import io
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from scaler import cli
from scaler.commands import jobs
from scaler.commands.progress import Bar, line

LOAD = ("--generate", "steady:rate=2,seconds=120,prompt=200,output=50", "--cold-start", "20s", "--max", "4")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_waits_and_goes_away() -> None:
    clock = iter([0.0, 0.4, 0.6, 0.65, 0.8]).__next__
    out = _Terminal()
    bar = Bar(4, out, clock)
    for shares in ([0.2, 0, 0, 0], [1, 0.5, 0, 0], [1, 0.6, 0, 0], [1, 1, 0, 0]):
        bar.tell(shares)
    bar.close()
    assert out.getvalue().split("\r\x1b[K") == [
        "", "[#########...............] 1/4 runs, this one 50%, 1 s to go", "[############............] 2/4 runs, this one 0%, 1 s to go", "",
    ]  # fmt: skip


def test_no_bar_without_a_terminal_nor_for_what_is_short() -> None:
    quiet, brief = io.StringIO(), _Terminal()
    for out, times in ((quiet, [0.0, 9.0]), (brief, [0.0, 0.4])):
        bar = Bar(1, out, iter(times).__next__)
        bar.tell([0.5])
        bar.close()
        assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("shares", "seconds", "expected"),
    [([0.0], 1.0, "[........................] 0/1 run, this one 0%"), ([1.0, 1.0], 3.0, "[########################] 2/2 runs, 0 s to go"),
     ([0.01], 3.0, "[........................] 0/1 run, this one 1%, 5 min to go")],
)  # fmt: skip
def test_what_the_bar_says(shares: list[float], seconds: float, expected: str) -> None:
    assert line(shares, len(shares), seconds) == expected


LONG = ("simulate", "--generate", "steady:rate=20,seconds=4000", "--jobs", "2")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("arguments", [(), ("--compare", "kaito")], ids=["one run", "several"])
def test_a_signal_ends_it_quietly(number: signal.Signals, status: int, arguments: tuple[str, ...]) -> None:
    # It says when it plays: the clock of a trace has begun once the program answers nothing else any more.
    program = "import sys; from scaler.commands import jobs; from scaler import cli; play = jobs.play\n" \
              "def told(*given): print('plays', flush=True); return play(*given)\n" \
              "jobs.play = told; sys.exit(cli.main(sys.argv[1:]))"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program, *LONG, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "plays\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    assert (process.returncode, said, errors) == (status, "", "")


def test_a_reader_that_goes_is_no_error() -> None:
    command = [sys.executable, "-m", "scaler.cli", "simulate", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_a_worker_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(jobs, "run", killed)
    monkeypatch.setattr(multiprocessing, "Process", multiprocessing.get_context("fork").Process)
    status = cli.main(["simulate", *LOAD, "--compare", "kaito", "--jobs", "2"])
    said, errors = capsys.readouterr()
    assert (status, said) == (1, "")
    assert errors == "plimsoll simulate: a worker was killed, for want of memory perhaps; give fewer --jobs\n"
