"""The demo as a user runs it: the story of a sick GPU, its ends, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler.demo import main

#: Seconds of the sick-gpu story: the Xid comes at 0.3 of it, and what follows takes 7 s or so. The test ends it then.
STORY_SECONDS = 30
#: How long a slow, busy machine may take to end a program. Nobody waits for it when all is well.
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(300)  # likewise


class Run:
    """`plimsoll demo ...` with its lines."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scaler.cli", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, until: str | Callable[[str], bool] = "") -> str:
        """All that was said so far: when a line matches `until`, when `until` is true of all of it, or at the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if until(self.text) if callable(until) else until and re.search(until, line):
                break
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def end(self) -> tuple[int, str]:
        """(exit code, stderr), when it has ended."""
        self.read()
        assert self.process.stderr is not None
        error = self.process.stderr.read()
        return self.process.wait(PATIENCE), error


#: A row of the table.
ROW = r"^ *(?P<time>\d+) s +(?P<load>[\d.]+)/s +(?P<waiting>\d+|\?) +(?P<running>\d+|\?) "


def gone(pids: list[int]) -> bool:
    """Whether all of them have ended; a zombie of another parent has."""
    deadline = time.monotonic() + PATIENCE
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


#: What the sick-gpu story tells: name -> (how it looks, after what). The order is that of cause and effect alone:
#: engines that take over the dead one's share may ask for a replica before the GPU's verdict is read.
EVENTS = {
    "all well": (ROW + r".*8 healthy .* 4 ready ", ()),
    "it breaks": (r"> GPU 2: Xid 79", ("all well",)),
    "verdict": (r"> GPU 2: lost \(.*xid_79.*\), action .*, \d+\.\d s after the Xid", ("it breaks",)),
    "scaler knows": (ROW + r".*7 healthy 1 lost .* lost capacity \(.*chat-3", ("it breaks",)),
    "more are asked for": (r"> HPA: 4 -> [5-8] replicas", ("it breaks",)),
    "one comes": (r"> chat-5 is ready on GPU", ("more are asked for",)),
    "carried again": (ROW + r".*7 healthy 1 lost .* [5-8] ready", ("verdict", "one comes")),
}


def untold(text: str) -> dict[str, tuple[str, ...]]:
    """The events that a story lacks, each with what it was looked for after."""
    ends: dict[str, int] = {}
    lacks = {}
    for name, (event, after) in EVENTS.items():
        where = max((ends.get(each, len(text)) for each in after), default=0)
        if found := re.compile(event, re.MULTILINE).search(text, where):
            ends[name] = found.end()
        else:
            lacks[name] = after
    return lacks


@pytest.fixture(scope="module")
def sick() -> Iterator[tuple[Run, str]]:
    """(run, its story), run once, and ended with Ctrl-C as soon as all is told, however long that takes."""
    run = Run("--scenario", "sick-gpu", "--duration", str(STORY_SECONDS), "--plain")
    try:
        story = run.read(lambda text: not untold(text))
        if not untold(story):
            run.process.send_signal(signal.SIGINT)
        assert run.end() == (0, "")
        yield run, run.text.partition("\nsummary of")[0]
    finally:
        run.process.kill()


def test_the_story_is_told_in_order(sick: tuple[Run, str]) -> None:
    _, story = sick
    assert untold(story) == {}, story


def test_nothing_is_done_before_the_gpu_breaks(sick: tuple[Run, str]) -> None:
    """What the scaler asks for is for the lost GPU then, and for nothing else."""
    _, story = sick
    events = [line for line in story.splitlines() if re.match(r" *\d+\.\d s > ", line)]
    assert "Xid 79" in events[0], story


def test_the_summary_counts_what_happened(sick: tuple[Run, str]) -> None:
    run, _ = sick
    summary = run.text[run.text.index("summary of") :]
    came, served, again = map(int, re.findall(r"(\d+) came, (\d+) were served, (\d+) were sent again", summary)[0])
    assert 0 < served <= came
    assert again > 0
    assert "GPU 2: lost" in summary


def test_the_story_ends_by_itself_and_leaves_nobody() -> None:
    run = Run("--scenario", "steady", "--duration", "5", "--plain")
    try:
        run.read(ROW)
        children = run.children()
        assert len(children) == 2  # exporter and scaler
        assert run.end() == (0, "")
        (minutes,) = re.findall(r"summary of (\d+\.\d) min of demo time", run.text)
        assert float(minutes) >= 1.2  # 5 s at 15 times the speed
        assert gone(children)
    finally:
        run.process.kill()


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
        assert run.process.wait(PATIENCE) == 0
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
    run.process.wait(PATIENCE)
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
