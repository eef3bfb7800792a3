"""The real programs as processes on free loopback ports, for tests.

with exporter("--engines", url, gpu="off") as node, scaler(node) as plimsoll:
    get(f"http://{node.addresses['web']}/metrics")
"""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

START_SECONDS = 30.0
Result = TypeVar("Result")


class Program:
    """`python -m module arguments`; listens when it is made. Use as a context, or call stop()."""

    def __init__(self, module: str, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.addresses: dict[str, str] = {}  # "web" -> "127.0.0.1:40123"
        self._heard = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(environ or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._heard.wait(START_SECONDS)
        if not self.addresses:
            self.stop()
            raise AssertionError(f"{module} does not listen:\n" + "\n".join(self.lines[-20:]))

    @property
    def web(self) -> str:
        return f"http://{self.addresses['web']}"

    def stop(self, seconds: float = 10.0) -> int:
        """SIGTERM; the exit code. A program that does not end in time is killed, and its code is negative."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(2.0)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            sys.stderr.write("\n".join(self.lines[-20:]) + "\n")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "listening " in line and not self.addresses:
                self.addresses = dict(re.findall(r"\b(\w+)=([^\s\"=]+:\d+)", line.partition("listening ")[2]))
                self._heard.set()
        self._heard.set()


def exporter(*arguments: str, gpu: str = "off", environ: Mapping[str, str] | None = None) -> Program:
    """Of this machine's own kernel log and kubelet it hears only if the arguments say so."""
    ports = ("--web.listen-address", "127.0.0.1:0", "--feed.listen-address", "127.0.0.1:0")
    alone = ("--kmsg.file", "off", "--kubelet.socket", "off")
    return Program("exporter", *ports, *alone, "--gpu.source", gpu, "--node", "box", *arguments, environ=environ)


def scaler(*exporters: Program, arguments: tuple[str, ...] = ()) -> Program:
    ports = ("--web.listen-address", "127.0.0.1:0", "--grpc.listen-address", "127.0.0.1:0")
    feeds = ",".join(each.addresses["feed"] for each in exporters)
    return Program("scaler", *ports, "--exporters", feeds, *arguments)


def get(url: str, accept: str = "*/*", seconds: float = 5.0) -> tuple[int, str]:
    """(status, body) of a GET; the status of an error too."""
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 -- loopback URLs of the tests
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:  # noqa: S310 -- likewise
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def eventually(ask: Callable[[], Result], seconds: float = 10.0) -> Result:
    """What `ask` returns, as soon as it raises no AssertionError; its last one when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def metrics(program: Program) -> str:
    """The program's page. AssertionError as long as there is none."""
    status, page = get(f"{program.web}/metrics")
    assert status == 200, page
    return page


def samples(text: str) -> dict[str, float]:
    """A page of ours: `name{labels}` as it stands there -> value."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def value(text: str, family: str, **labels: str) -> float:
    """The one sample of the family that has these labels. AssertionError if there is none, or several."""
    found = {
        name: number
        for name, number in samples(text).items()
        if re.match(rf"{family}(\{{|$)", name) and all(f'{key}="{text}"' in name for key, text in labels.items())
    }
    assert len(found) == 1, f"{family} {labels}: {found or 'nothing'}"
    return next(iter(found.values()))
