"""The demo as a user runs it: the story of a sick GPU, its ends, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.demo import main

#: Seconds of the sick-gpu story in these tests; the Xid comes at 0.3 of it, a new replica takes 4 s.
STORY_SECONDS = 15
START_SECONDS = 15.0


class Run:
    """`plimsoll demo ...` with its lines and when they came."""

    def __init__(self, *arguments: str) -> None:
        self.began = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scaler.cli", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, until: str = "") -> str:
        """All that was said so far, when a line matches `until`, or at the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.began, line.rstrip()))
            if until and re.search(until, line):
                break
        return "\n".join(line for _, line in self.lines)

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def end(self) -> tuple[int, str]:
        """(exit code, stderr), when it has ended."""
        self.read()
        assert self.process.stderr is not None
        error = self.process.stderr.read()
        return self.process.wait(10), error


#: A row of the table.
ROW = r"^ *(?P<time>\d+) s +(?P<load>[\d.]+)/s +(?P<waiting>\d+|\?) +(?P<running>\d+|\?) "


def gone(pids: list[int]) -> bool:
    """Whether all of them have ended; a zombie of another parent has."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and "Z" not in state(pid)]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.fixture(scope="module")
def sick() -> Iterator[tuple[Run, list[int], int, str]]:
    """The whole story, run once: (run, its children, exit code, stderr)."""
    run = Run("--scenario", "sick-gpu", "--duration", str(STORY_SECONDS), "--plain")
    try:
        run.read(ROW)
        children = run.children()
        code, error = run.end()
        yield run, children, code, error
    finally:
        run.process.kill()


def test_the_story_ends_by_itself_and_leaves_nobody(sick: tuple[Run, list[int], int, str]) -> None:
    run, children, code, error = sick
    assert (code, error) == (0, "")
    assert len(children) == 2  # exporter and scaler
    assert gone(children)
    last, _ = run.lines[-1]
    assert last < STORY_SECONDS + START_SECONDS


def test_the_first_row_comes_soon(sick: tuple[Run, list[int], int, str]) -> None:
    run, *_ = sick
    first = next(at for at, line in run.lines if re.search(ROW, line))
    assert first < START_SECONDS


def test_the_story_is_told_in_order(sick: tuple[Run, list[int], int, str]) -> None:
    run, *_ = sick
    story = [line for _, line in run.lines]
    text = "\n".join(story[: next(i for i, line in enumerate(story) if line.startswith("summary"))])
    events = (
        r"^ *\d+ s .*8 healthy .* 4 ready ",
        r"> GPU 2: Xid 79",
        r"> GPU 2: lost \(.*xid_79.*\), action .*, \d\.\d s after the Xid",
        r"> HPA: 4 -> [5-8] replicas",
        r"> chat-5 is ready on GPU",
        r"^ *\d+ s .*7 healthy 1 lost .* [5-8] ready",
    )
    where = 0
    for event in events:
        found = re.compile(event, re.MULTILINE).search(text, where)
        assert found, f"{event} is not told after\n{text[:where]}"
        where = found.end()
    (late,) = re.findall(r"GPU 2: lost.* (\d\.\d) s after", text)
    assert float(late) < 3.0  # about half a second; the rest is for a loaded machine


def test_the_summary_counts_what_happened(sick: tuple[Run, list[int], int, str]) -> None:
    run, *_ = sick
    text = "\n".join(line for _, line in run.lines)
    summary = text[text.index("summary of") :]
    came, served, again = map(int, re.findall(r"(\d+) came, (\d+) were served, (\d+) were sent again", summary)[0])
    assert 0.8 * came < served <= came
    assert again > 0
    assert "GPU 2: lost" in summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_it_with_a_summary(number: signal.Signals) -> None:
    run = Run("--scenario", "steady", "--duration", "600")
    try:
        text = run.read(ROW)
        assert re.search(r"exporter http://127\.0\.0\.1:\d+/", text)
        children = run.children()
        run.process.send_signal(number)
        code, error = run.end()
        assert (code, error) == (0, "")
        assert "summary of" in run.read()
        assert gone(children)
    finally:
        run.process.kill()


def test_a_signal_while_it_starts_ends_it_too() -> None:
    run = Run("--scenario", "steady", "--duration", "600")
    try:
        run.read("trigger metadata")
        run.process.send_signal(signal.SIGINT)
        assert run.end() == (0, "")
    finally:
        run.process.kill()


def test_when_nobody_reads_any_more_it_ends_quietly() -> None:
    run = Run("--scenario", "steady", "--duration", "600")
    try:
        run.read(ROW)
        children = run.children()
        assert run.process.stdout is not None
        run.process.stdout.close()
        assert run.process.wait(10) == 0
        assert run.process.stderr is not None
        assert run.process.stderr.read() == ""
        assert gone(children)
    finally:
        run.process.kill()


def test_a_program_that_dies_is_said_in_one_line() -> None:
    run = Run("--scenario", "steady", "--duration", "600")
    try:
        run.read(ROW)
        exporter, scaler = run.children()
        os.kill(scaler, signal.SIGKILL)
        code, error = run.end()
        assert code == 1
        assert re.fullmatch(r"plimsoll demo: scaler ended with code -9: .*\n", error)
        assert gone([exporter])
    finally:
        run.process.kill()


def test_when_the_demo_is_killed_its_programs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left to clear it up
    run = Run("--scenario", "steady", "--duration", "600")
    run.read(ROW)
    children = run.children()
    assert len(children) == 2
    run.process.kill()
    run.process.wait(10)
    assert gone(children)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--scenario", "flood"), "invalid choice: 'flood'"),
        (("--duration", "0"), "'0' is not a number of seconds from 5"),
        (("--duration", "nan"), "'nan' is not a number of seconds from 5"),
        (("--durat", "9"), "unrecognized arguments"),
    ],
    ids=["scenario", "duration", "nan", "abbreviation"],
)
def test_wrong_arguments_are_named(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
