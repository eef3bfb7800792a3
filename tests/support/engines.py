"""Fake inference servers for tests: real HTTP on a free port, with an answer that a test sets while it runs.

    with FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")) as engine:
        engine.url                       # http://127.0.0.1:PORT/metrics
        engine.answer = not_found        # from now on; ANSWERS has the bad ones

An answer is a function of the handler: it may send what no library would.
"""

import gzip
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

FIXTURES = Path(__file__).parents[1] / "fixtures" / "engines"

Answer = Callable[[BaseHTTPRequestHandler], None]


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


class Row(NamedTuple):
    """One engine of one model, as one vLLM server tells of it."""

    waiting: float
    running: float = 1
    model: str = "tiny"
    engine: str = "0"
    finished: float = 0


def vllm(*rows: Row) -> str:
    """The least that counts as a vLLM: queue, batch, cache, tokens, requests that ended."""
    families: dict[str, tuple[str, Callable[[Row], float]]] = {
        "num_requests_waiting": ("gauge", lambda row: row.waiting),
        "num_requests_running": ("gauge", lambda row: row.running),
        "kv_cache_usage_perc": ("gauge", lambda row: 0.01),
        "prompt_tokens_total": ("counter", lambda row: row.finished * 10),
        "request_success_total": ("counter", lambda row: row.finished),
        # Last, as its one sample is whole wherever a page is cut; a sum over the last family would be missing.
        "generation_tokens_total": ("counter", lambda row: row.finished * 10),
    }
    lines = []
    for name, (kind, value) in families.items():
        lines += [f"# HELP vllm:{name} .", f"# TYPE vllm:{name} {kind}"]
        reason = 'finished_reason="stop",' if name == "request_success_total" else ""
        for row in rows:
            lines.append(f'vllm:{name}{{{reason}engine="{row.engine}",model_name="{row.model}"}} {value(row)}')
    return "\n".join(lines) + "\n"


def send(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "text/plain; version=1.0.0", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def page(text: str) -> Answer:
    return partial(send, body=text.encode())


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte a second, for ever as far as a scraper is concerned."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b"#")
        handler.wfile.flush()
        time.sleep(1.0)


def redirect(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", 302, {"Location": "http://169.254.169.254/latest/meta-data/"})


def gzip_bomb(handler: BaseHTTPRequestHandler) -> None:
    """64 MiB of comments in 64 kB."""
    send(handler, _bomb(), headers={"Content-Encoding": "gzip"})


@cache
def _bomb() -> bytes:
    return gzip.compress(b"# x\n" * 2**24)


GOOD = vllm(Row(waiting=3, running=2))

#: What may come instead of an exposition. None of it is a number.
ANSWERS: dict[str, Answer] = {
    "nan": page(GOOD.replace("} 3", "} NaN")),
    "negative": page(GOOD.replace("} 3", "} -3")),
    "html": partial(send, body=b"<!doctype html><html><body>502</body></html>", headers={"Content-Type": "text/html"}),
    "status-500": partial(send, body=b"oops", status=500),
    "redirect": redirect,
    "gzip-bomb": gzip_bomb,
    "long-line": page(GOOD + "# " + "x" * 2**21 + "\n"),
    "drip": drip,
    "no-vllm-series": page("# HELP up .\n# TYPE up gauge\nup 1\n"),
    "cut": page(GOOD[: GOOD.index("vllm:num_requests_running{")]),
}


class FakeEngine:
    """One server. `answer` may be set at any time; `scrapes` counts the requests."""

    def __init__(self, text: str = GOOD) -> None:
        self.answer = page(text)
        self.scrapes = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.scrapes += 1
                try:
                    owner.answer(self)
                except OSError:
                    self.close_connection = True  # the scraper has had enough

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def says(self, text: str) -> None:
        self.answer = page(text)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
