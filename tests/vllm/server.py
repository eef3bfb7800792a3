"""A real vLLM on a free loopback port, load for it, and what its own page says.

with Server(programs, model, log) as server, server.load(clients=16, tokens=150):
    server.numbers()        # {"waiting": 12.0, "running": 4.0, ...}
    os.kill(server.core(), signal.SIGSTOP)
"""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

#: Requests that run at most: what the knee must be.
SLOTS = 4
#: Tokens of a block (vLLM's CPU attention wants a multiple of 32), and blocks: two whole requests at most.
BLOCK, BLOCKS = 32, 64
CONTEXT = 1024  # tokens of a request at most
START_SECONDS = 300.0

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "0",  # one core: the exporter has the other
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

#: Our word -> vLLM's.
NUMBERS: Mapping[str, str] = {
    "waiting": "vllm:num_requests_waiting",
    "running": "vllm:num_requests_running",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "preemptions": "vllm:num_preemptions_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "finished": "vllm:request_success_total",  # the sum over its reasons
}


class NoStart(Exception):
    """The server did not come up; str() is one line."""


class Server:
    """One server, by itself at the end of the run. Its own log goes to the file `log`."""

    def __init__(self, programs: Path, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self._log = log
        flags = {
            "host": "127.0.0.1",
            "port": self.port,
            "served-model-name": "tiny",
            "dtype": "float32",
            "max-num-seqs": SLOTS,
            "max-model-len": CONTEXT,
            "block-size": BLOCK,
            "num-gpu-blocks-override": BLOCKS,
        }
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [str(programs / "vllm"), "serve", str(model), "--enforce-eager"]
                + [f"--{name}={value}" for name, value in flags.items()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, "VLLM_CACHE_ROOT": str(log.parent / "cache")},
                start_new_session=True,  # so that all of it can be ended
            )

    def wait(self) -> float:
        """Seconds until it is healthy. Raises NoStart."""
        began = time.monotonic()
        while time.monotonic() - began < START_SECONDS:
            if self.process.poll() is not None:
                raise NoStart(f"vllm serve ended with {self.process.returncode}; see {self._log}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._ask("GET", "/health", None, 5.0)
                return time.monotonic() - began
            time.sleep(0.25)
        raise NoStart(f"vllm serve was not healthy after {START_SECONDS:g} s; see {self._log}")

    def numbers(self) -> dict[str, float]:
        """What its page says now. A family without a sample is not in it. Raises OSError."""
        text = self._ask("GET", "/metrics", None, 5.0)
        found: dict[str, float] = {}
        for name, family in NUMBERS.items():
            values = re.findall(rf"^{re.escape(family)}\{{.*\}} (\S+)$", text, re.MULTILINE)
            if values:
                found[name] = sum(map(float, values))
        return found

    def core(self) -> int:
        """Process id of its engine core."""
        for pid in _descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise AssertionError("the server has no engine core")

    @contextlib.contextmanager
    def load(self, clients: int, tokens: int) -> Iterator[None]:
        """So many clients, each of which sends its next request when it has the answer to the last."""
        done = threading.Event()
        threads = [
            threading.Thread(target=self._client, args=(number, tokens, done), daemon=True) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join(60.0)

    def _client(self, number: int, tokens: int, done: threading.Event) -> None:
        rng = random.Random(number)  # noqa: S311 -- no two clients send the same; nothing secret
        while not done.is_set():
            prompt = "".join(rng.choices("abcdefghij ", k=40))  # no two share a prefix
            body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
            try:
                self._ask("POST", "/v1/completions", json.dumps(body).encode(), 300.0)
            except (OSError, http.client.HTTPException):
                done.wait(0.2)  # it was ended: the lane does that, too

    def _ask(self, method: str, path: str, body: bytes | None, seconds: float) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=seconds) as reply:  # noqa: S310 -- loopback
            return reply.read().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and all that it started: a core that is stopped or orphaned would stay."""
        children = _descendants(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10.0)


def _descendants(pid: int) -> list[int]:
    """Children, and theirs (Linux)."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, listed.read_text().split()):
                found += [child, *_descendants(child)]
    return found
