"""What outlives the process: written and read over real files, good ones and all kinds of others."""

import contextlib
import errno
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter import state
from exporter.core import boards
from exporter.core.boards import BoardsMemory
from exporter.core.cold_history import Begun, ModelStarts
from exporter.core.inventory import Inventory
from exporter.core.lessons import Lessons, Taught
from exporter.core.model import GpuKey, XidEvent
from exporter.core.model_engines import Learned
from exporter.core.node import Remembered
from exporter.state import Keeper, State, load, save, worth_saving
from tests.exporter.build import START, gpu_key, inputs, sample

BOOT = "c64439d1-f99b-444d-94f4-ed335201ca91"


LESSONS = Lessons(
    (Taught("inference", "llama", Learned(8.0, 4000.0, 2.0, 400.0)),),
    (ModelStarts("inference", "llama", (Begun("uid/vllm/0", {"model_load": 60.0}),)),),
)


def lived(count: int = 2, seconds: int = 40, *xids: XidEvent) -> Remembered:
    """What is remembered of a node that ran for a while and then had these Xids."""
    memory = BoardsMemory()
    for second in range(seconds + 1):
        at = START + second
        said = inputs(samples=[sample(i, at) for i in range(count)], xids=xids if second == seconds else (), boot=BOOT)
        _, memory = boards.step(memory, said, {}, at)
    return Remembered(memory, LESSONS)


MEMORY = lived(2, 40, XidEvent(gpu_key(0), 79, START + 40, "nvml"), XidEvent(gpu_key(1), 63, START + 40, "kmsg"))
AFTER = START + 41
TOLD = lived(2, 40, XidEvent(gpu_key(0), 79, START + 40, "nvml"))
#: Two writers at once; a longer run (5 s) was made by hand.
WRITERS_SECONDS = 1.0


def written(path: Path, memory: Remembered = MEMORY, boot: str = BOOT, at: float = START + 40) -> None:
    save(str(path), State(state.VERSION, boot, at, memory))


class Clock:
    now = 5000.0

    def __call__(self) -> float:
        return self.now


def settled(keeper: Keeper) -> None:
    """The write that is under way, if one is, has ended."""
    for thread in threading.enumerate():
        if thread.name == "state":
            thread.join(10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records]


def test_what_was_saved_is_loaded(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path)
    assert load(str(path), BOOT, AFTER) == MEMORY
    assert lines(caplog) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["state"]


def test_a_latch_survives_a_restart_and_the_same_xid_is_not_counted_again(path: Path) -> None:
    line = XidEvent(gpu_key(0), 79, START + 5, "kmsg", seq=12)
    written(path, lived(1, 5, line), at=START + 5)
    memory = load(str(path), BOOT, START + 30)
    assert memory is not None
    said = inputs(samples=[sample(0, START + 30)], xids=[replace(line, replayed=True, at=START + 4.8)], boot=BOOT)
    seen, _ = boards.step(memory.boards, said, {}, START + 30)
    gpu = seen.gpus[gpu_key(0)]
    assert gpu.verdict.state == "lost"
    assert gpu.xids[79].count == 1


def test_the_first_start_is_no_failure(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(str(path), BOOT, AFTER) is None
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("boot", "now", "says"),
    [("another", AFTER, "this machine was booted"), (BOOT, START + 39.9, "the clock was set back")],
)
def test_of_another_boot_the_inventory_alone_counts(
    path: Path, caplog: pytest.LogCaptureFixture, boot: str, now: float, says: str
) -> None:
    written(path)
    memory = load(str(path), boot, now)
    assert memory == Remembered(BoardsMemory(inventory=Inventory(boards=MEMORY.boards.inventory.boards)), LESSONS)
    assert len(memory.boards.inventory.boards) == 2
    assert lines(caplog) == [
        f"{path}: written before {says}; of it the inventory of GPUs and what engines taught are remembered"
    ]


def _raw(path: Path, payload: bytes) -> None:
    path.write_bytes(b"plimsoll" + zlib.crc32(payload).to_bytes(4, "big") + payload)


def _other_version(path: Path) -> None:
    _raw(path, msgspec.msgpack.encode({"version": "0-00000000", "boot_id": BOOT, "at": 1.0, "remembered": ["?"]}))


def test_a_file_from_before_the_pace_is_read(path: Path) -> None:
    """What was added since has a default; the names that were there are still those of what was meant."""
    old = msgspec.to_builtins(State("1-4aedb24c", BOOT, START + 40, Remembered(lessons=LESSONS)))
    for one in old["remembered"]["lessons"]["knees"]:
        for name in ("step_seconds", "sequence_seconds", "prompt_token_seconds", "pace_seconds"):
            del one["learned"][name]
    _raw(path, msgspec.msgpack.encode(old))
    assert load(str(path), BOOT, AFTER) == Remembered(lessons=LESSONS)


def test_a_models_pace_is_kept(path: Path) -> None:
    paced = Learned(step_seconds=0.01, sequence_seconds=1e-4, prompt_token_seconds=2e-4)
    memory = Remembered(lessons=Lessons((Taught("inference", "llama", paced),)))
    written(path, memory)
    assert load(str(path), BOOT, AFTER) == memory


def _other_type(path: Path) -> None:
    _raw(path, msgspec.msgpack.encode({"version": state.VERSION, "boot_id": BOOT, "at": 1.0, "remembered": "none"}))


def _cut(path: Path) -> None:
    written(path)
    path.write_bytes(path.read_bytes()[:-1])


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"plimsoll")
        file.truncate(1 << 40)  # a sparse file: reading it all would take the machine's memory


OURS = [
    (_other_version, "written by another version"),
    (_other_type, "damaged (Expected `object`, got `str` - at `$.remembered`)"),
    (_cut, "damaged"),
    (_large, "more than 4194304 bytes"),
    (lambda path: path.write_bytes(b""), "damaged"),
    (lambda path: _raw(path, b"\xdd\xff\xff\xff\xff"), "damaged"),  # an array of 2**32 - 1
    (lambda path: _raw(path, b"\x91" * 100_000), "damaged"),  # arrays in arrays
    (lambda path: _raw(path, b"\x81\xa7version\xa3\xff\xff\xff"), "damaged"),  # no UTF-8
]


@pytest.mark.parametrize(("make", "says"), OURS)
def test_a_file_of_ours_that_cannot_be_trusted_is_told_and_written_anew(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    keeper = Keeper(str(path), BOOT, clock=clock)
    assert keeper.load(AFTER) is None
    (line,) = lines(caplog)
    assert line.startswith(f"{path}: {says}")
    assert line.endswith("the file is written anew")
    keeper.offer(TOLD)
    keeper.close()
    assert load(str(path), BOOT, clock.now) == TOLD


def _node(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # another /dev/null


def _link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NOT_OURS = [
    (lambda path: path.write_text("{}"), "not a state file"),
    (lambda path: path.write_text("engines: []\n# precious\n"), "not a state file"),
    (lambda path: path.write_bytes(b"plimsol"), "not a state file"),
    (lambda path: path.mkdir(), "not a regular file"),
    (os.mkfifo, "not a regular file"),
    (_socket, "not a regular file"),
    (_link_to_fifo, "not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    (lambda path: path.symlink_to("/dev/full"), "not a regular file"),
    (lambda path: path.symlink_to(path), "not a regular file"),
    pytest.param(
        _node, "not a regular file", marks=pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes devices")
    ),
]


def looks(path: Path) -> tuple[object, ...]:
    """What would differ if somebody had replaced it, or what it leads to, or had left something beside it."""
    found = os.lstat(path)
    beside = sorted(one.name for one in path.parent.iterdir())
    leads_to = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found.st_mode, found.st_ino, found.st_rdev, leads_to, beside


@pytest.mark.parametrize(("make", "says"), NOT_OURS)
def test_what_is_not_ours_is_told_and_never_replaced(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    before = looks(path)
    keeper = Keeper(str(path), BOOT, clock=clock)
    assert keeper.load(clock.now) is None
    for memory in (TOLD, lived(2, 40)):
        clock.now += 1000
        keeper.offer(memory)
        settled(keeper)
    keeper.close()
    assert looks(path) == before
    (line,) = lines(caplog)
    assert line == (
        f"{path}: {says}; it is left as it is, and nothing is kept over a restart; "
        "name a file of its own with --state.file, or remove what is there"
    )


@pytest.mark.parametrize(("make", "says"), NOT_OURS)
def test_what_came_after_the_start_is_not_replaced_either(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], says: str
) -> None:
    keeper = Keeper(str(path), BOOT, clock=clock)
    assert keeper.load(clock.now) is None
    make(path)
    before = looks(path)
    for memory in (TOLD, lived(2, 40)):
        clock.now += 1000
        keeper.offer(memory)
        settled(keeper)
    keeper.close()
    assert looks(path) == before
    (line,) = lines(caplog)
    assert line == (f"{path}: not written ({says}); name a file of its own with --state.file, or remove what is there")


def test_a_link_that_came_after_the_start_is_not_replaced_though_it_leads_to_a_file_of_ours(
    path: Path, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    other = path.with_name("other")
    written(other)
    path.symlink_to(other)
    keeper.offer(TOLD)
    keeper.close()
    assert os.readlink(path) == str(other)
    assert load(str(other), BOOT, AFTER) == MEMORY
    assert "not a regular file" in lines(caplog)[-1]


@pytest.mark.parametrize("make", [lambda target: None, lambda target: target.touch(), written])
def test_through_a_link_its_target_is_written(path: Path, clock: Clock, make: Callable[[Path], None]) -> None:
    (path.parent / "volume").mkdir()
    target = path.parent / "volume" / "state"
    make(target)
    path.symlink_to(target)
    keeper = Keeper(str(path), BOOT, clock=clock)
    keeper.load(clock.now)
    keeper.offer(TOLD)
    keeper.close()
    assert path.is_symlink()
    assert [one.name for one in target.parent.iterdir()] == ["state"]
    assert stat.S_ISREG(target.lstat().st_mode)
    assert load(str(path), BOOT, clock.now) == TOLD


@pytest.mark.parametrize("name", ["a\0b", "\udcff\0"])
def test_a_name_that_can_be_none_is_one_line(clock: Clock, caplog: pytest.LogCaptureFixture, name: str) -> None:
    keeper = Keeper(name, BOOT, clock=clock)
    assert keeper.load(clock.now) is None
    keeper.offer(TOLD)
    keeper.close()
    (line,) = lines(caplog)
    assert "--state.file" in line
    assert line.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path)
    path.chmod(0)
    assert load(str(path), BOOT, AFTER) is None
    assert "Permission denied; it is left as it is" in lines(caplog)[0]


SOUND = msgspec.msgpack.encode(State(state.VERSION, BOOT, 1.0, MEMORY))


@given(st.data())
@settings(max_examples=200)
def test_no_byte_can_be_altered_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "altered"
    path.unlink(missing_ok=True)
    written(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    assert load(str(path), BOOT, AFTER) is None


@given(st.data())
@settings(max_examples=300)
def test_no_content_does_harm_even_with_a_good_checksum(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "forged"
    place = data.draw(st.integers(0, len(SOUND)))
    payload = SOUND[:place] + data.draw(st.binary(max_size=40)) + SOUND[place + data.draw(st.integers(0, 40)) :]
    _raw(path, payload)
    assert isinstance(load(str(path), BOOT, AFTER), Remembered | None)


def test_the_version_is_the_shape_of_what_is_kept() -> None:
    class Small(msgspec.Struct):
        number: int

    class Other(msgspec.Struct):
        number: float

    shapes = {state._shape(msgspec.inspect.type_info(kind)) for kind in (Small, Other, list[Small], dict[str, Other])}
    assert len(shapes) == 4
    assert "Finding(" in state._shape(msgspec.inspect.type_info(Remembered))


def test_the_boot_id_is_the_kernel_s(tmp_path: Path) -> None:
    if Path(state.BOOT_ID).exists():
        assert state.boot_id() == Path(state.BOOT_ID).read_text(encoding="ascii").strip() != ""
    assert state.boot_id(str(tmp_path / "none")) == ""
    assert state.boot_id(str(tmp_path)) == ""


# Writing.


def test_a_write_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails when it is to be written for good."""
    written(path)
    before = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(state.os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        written(path, Remembered())
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["state"]


def test_what_a_killed_program_left_is_removed_and_nothing_else(path: Path, clock: Clock) -> None:
    old, new, other = (path.with_name(name) for name in (".plimsoll-state-old", ".plimsoll-state-new", "other.tmp"))
    link = path.with_name(".plimsoll-state-link")
    for one in (old, new, other):
        one.touch()
    link.symlink_to(other)
    for one in (old, other):
        os.utime(one, (1, 1))
    Keeper(str(path), BOOT, clock=clock).load(clock.now)
    assert sorted(one.name for one in path.parent.iterdir()) == sorted(one.name for one in (new, other, link))


WRITER = """
import sys, time
from exporter import state
from exporter.core.node import Remembered
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    state.save(sys.argv[1], state.State(state.VERSION, sys.argv[2] * 300_000, 1.0, Remembered()))
"""


def test_two_programs_with_one_file_never_leave_it_damaged(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, letter, str(WRITERS_SECONDS)], stderr=subprocess.PIPE) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(FileNotFoundError):  # before the first write
            seen.add(state._state(state._content(str(path))).boot_id[0])
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert seen == {"a", "b"}
    assert [one.name for one in path.parent.iterdir()] == ["state"]


def test_a_state_that_is_too_large_is_not_written(path: Path) -> None:
    waiting = tuple(XidEvent(GpuKey(f"GPU-{i:0>2000}"), 79, 1.0, "nvml") for i in range(2200))
    with pytest.raises(OSError, match="not kept"):
        written(path, Remembered(BoardsMemory(unplaced=waiting)))
    assert list(path.parent.iterdir()) == []


# When it is worth it.


def test_a_poll_like_the_last_is_not_worth_a_write() -> None:
    before, after = lived(2, 40), lived(2, 41)
    assert before != after
    assert not worth_saving(before, after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lived(2, 40), TOLD),
        (TOLD, lived(2, 40, *(XidEvent(gpu_key(0), 79, START + 40, "nvml") for _ in range(2)))),
        (Remembered(), Remembered(BoardsMemory(inventory=TOLD.boards.inventory))),
        (TOLD, Remembered()),
        (replace(TOLD, lessons=Lessons()), TOLD),
        (replace(TOLD, lessons=Lessons(LESSONS.knees)), TOLD),
    ],
    ids=["verdict", "count", "inventory", "forgotten", "a model", "a start"],
)
def test_what_a_restart_should_not_undo_is_worth_a_write(old: Remembered, new: Remembered) -> None:
    assert worth_saving(old, new)


@pytest.fixture
def keeper(path: Path, clock: Clock) -> Keeper:
    one = Keeper(str(path), BOOT, clock=clock)
    assert one.load(clock.now) is None
    return one


def test_it_is_written_at_most_every_ten_seconds_and_when_it_is_worth_it(
    keeper: Keeper, clock: Clock, path: Path
) -> None:
    quiet, later = lived(2, 40), lived(2, 41)
    steps = [  # (seconds since the last step, offered, written then)
        (1, quiet, None),
        (8.9, TOLD, None),
        (0.1, quiet, quiet),
        (9.9, TOLD, quiet),
        (0.1, TOLD, TOLD),
        (100, TOLD, TOLD),
        (1, quiet, quiet),
        (299, later, quiet),
        (1, later, later),
    ]
    for seconds, offered, kept in steps:
        clock.now += seconds
        keeper.offer(offered)
        settled(keeper)
        assert load(str(path), BOOT, clock.now) == kept


def test_closing_writes_what_was_offered_last(keeper: Keeper, clock: Clock, path: Path) -> None:
    keeper.offer(TOLD)
    assert not path.exists()
    keeper.close()
    assert load(str(path), BOOT, clock.now) == TOLD
    at = path.stat().st_mtime_ns
    keeper.close()
    assert path.stat().st_mtime_ns == at
    again = Keeper(str(path), BOOT, clock=clock)
    assert again.load(clock.now) == TOLD
    again.close()
    assert path.stat().st_mtime_ns == at


def test_an_xid_of_the_kernel_log_that_waits_is_left_to_the_log(keeper: Keeper, clock: Clock, path: Path) -> None:
    line = XidEvent(GpuKey(""), 79, 1.0, "kmsg", "00000000:99:00", seq=3)
    event = XidEvent(GpuKey("GPU-9"), 79, 1.0, "nvml")
    keeper.offer(Remembered(BoardsMemory(unplaced=(line, event))))
    keeper.close()
    memory = load(str(path), BOOT, clock.now)
    assert memory is not None
    assert memory.boards.unplaced == (event,)


def test_a_disk_that_fails_is_told_once_and_when_it_is_well_again(
    keeper: Keeper, clock: Clock, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = path.parent.with_name("away")
    path.parent.rename(away)
    for number in range(3):
        clock.now += 10
        keeper.offer(lived(1, 1, *(XidEvent(gpu_key(0), 63, START, "nvml") for _ in range(number + 1))))
        settled(keeper)
    (line,) = lines(caplog)
    assert line.startswith(f"{path}: not written (")
    assert "--state.file" in line
    away.rename(path.parent)
    clock.now += 10
    keeper.offer(TOLD)
    settled(keeper)
    assert lines(caplog)[1:] == [f"{path}: written again"]
    assert load(str(path), BOOT, clock.now) == TOLD


def test_nobody_waits_for_a_disk_that_hangs(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume whose server is gone: os.fsync does not come back."""
    release = threading.Event()
    monkeypatch.setattr(state.os, "fsync", lambda _: release.wait(30))
    monkeypatch.setattr(state, "CLOSE_SECONDS", 0.05)
    keeper = Keeper(str(path), BOOT, clock=clock)
    keeper.load(clock.now)
    for number in range(5):
        clock.now += 10
        keeper.offer(TOLD if number % 2 else Remembered())
    assert sum(thread.name == "state" for thread in threading.enumerate()) == 1
    keeper.close()
    assert not path.exists()
    release.set()
    settled(keeper)
    assert path.exists()


def test_without_a_path_nothing_is_kept(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keeper = Keeper("", BOOT, clock=clock)
    assert keeper.load(clock.now) is None
    clock.now += 1000
    keeper.offer(TOLD)
    keeper.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_boot_id_nothing_is_trusted(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    written(path, boot="")
    before = path.read_bytes()
    keeper = Keeper(str(path), "", clock=clock)
    assert keeper.load(clock.now) is None
    keeper.offer(Remembered())
    keeper.close()
    assert path.read_bytes() == before
    (line,) = lines(caplog)
    assert line.startswith(f"{path}: not used, since {state.BOOT_ID} is not readable")
