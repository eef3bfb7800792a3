"""Fake inference servers for tests: real HTTP on a free port, with an answer that a test sets while it runs.

    with FakeEngine(fixture("vllm-0.32.0-busy-queue.txt")) as engine:
        engine.url                       # http://127.0.0.1:PORT/metrics
        engine.answer = not_found        # from now on; ANSWERS has the bad ones

An answer is a function of the handler: it may send what no library would.

Many servers, in a process of their own, so that what they cost is not counted with what is measured (KINDS of them):

    with Farm(ranks=64, drip=32) as farm:
        farm.urls["ranks"]               # 64 URLs of one port
"""

import asyncio
import contextlib
import gzip
import re
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
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


BUSY = "vllm-0.32.0-busy-queue.txt"
#: Copies of the captured page's series that make 10,000.
COPIES = 25
#: Names that an attack makes up at each scrape.
MODELS, REASONS = 8, 40
_LARGEST = 64 << 20  # bytes that an endless server sends to one who reads on and on
_SAMPLE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")

Ask = Callable[[int], bytes]  # how many times it was asked -> the whole answer, head and body


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/plain; version=1.0.0", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def copied(body: bytes, copies: int, wanted: bool) -> bytes:
    """A well-formed page with every series so many times, families kept together.

    wanted: each copy is another engine of the server (data parallelism), else the copies are of families with other
    names, as a server has that counts things of its own.
    """
    parts: list[bytes] = []
    group: list[bytes] = []
    for line in [*body.splitlines(), b"#"]:
        if not line.startswith(b"#"):
            group.append(line)
            continue
        for number in range(copies):
            parts += [_copy(sample, number, wanted) for sample in group]
        group = []
        parts.append(line)
    if wanted:
        return b"\n".join(parts[:-1]) + b"\n"
    own = [line for line in parts[:-1] if not line.startswith(b"#")]
    return body + b"# TYPE own untyped\n" + b"\n".join(own) + b"\n"


def _copy(sample: bytes, number: int, wanted: bool) -> bytes:
    match = _SAMPLE.match(sample)
    assert match, sample
    name, labels, value = match[1], match[2] or b"", match[3]
    if wanted and b'engine="0"' in labels:
        return b"%s{%s} %s" % (name, labels.replace(b'engine="0"', b'engine="%d"' % number), value)
    return b"%s{%s} %s" % (
        name if wanted else b"own:" + name,
        b",".join(filter(None, (labels, b'replica="%d"' % number))),
        value,
    )


def attack(asked: int, models: int = MODELS, reasons: int = REASONS) -> str:
    """A vLLM whose every name is new each time it is asked: models, and the reasons for which requests end."""
    rows = [Row(waiting=1, model=f"model-{asked}-{number}", finished=asked) for number in range(models)]
    lines = []
    for line in vllm(*rows).splitlines():
        if not line.startswith("vllm:request_success_total"):
            lines.append(line)
            continue
        lines += [line.replace('"stop"', f'"reason-{asked}-{number}"') for number in range(reasons)]
    return "\n".join(lines) + "\n"


@cache
def _moving(text: bytes) -> Callable[[int], bytes]:
    """A page whose queue and tokens move with every scrape."""
    start, found, rest = text.partition(b'vllm:num_requests_waiting{engine="0",model_name="tiny"} 28.0')
    assert found
    tokens = b'vllm:generation_tokens_total{engine="0",model_name="tiny"} '
    assert tokens + b"1349.0" in rest

    def page(asked: int) -> bytes:
        queue = found.replace(b"28.0", b"%d.0" % (20 + asked % 9))
        return start + queue + rest.replace(tokens + b"1349.0", tokens + b"%d.0" % (1349 + asked))

    return page


def _page(copies: int, wanted: bool, asked: int) -> bytes:
    return reply(_moving(_copied(copies, wanted))(asked))


@cache
def _copied(copies: int, wanted: bool) -> bytes:
    body = fixture(BUSY).encode()
    return copied(body, copies, wanted) if copies > 1 else body


@cache
def _packed(mebibytes: int) -> bytes:
    """A gzip of so many MiB of comments in about 2 kB for each. Its checksum is left out: nobody may come so far."""
    packer = zlib.compressobj(wbits=31)
    piece = b"# x\n" * (1 << 18)
    first, next_one = (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + next_one * (mebibytes - 1)


#: Kinds of servers in a farm. Those that are not here: "drip" and "endless", which do not end.
KINDS: dict[str, Ask] = {
    "busy": partial(_page, 1, True),  # the captured page: 600 series, 48 kB
    "ranks": partial(_page, COPIES, True),  # 10,000 series, 25 engines
    "wide": partial(_page, COPIES, False),  # 10,000 series, one engine
    "attack": lambda asked: reply(attack(asked).encode()),
    "bomb": lambda asked: reply(_packed(1024), "200 OK", "Content-Encoding: gzip"),
    "redirect": lambda asked: reply(b"", "302 Found", "Location: http://169.254.169.254/latest/meta-data/"),
}


class Farm:
    """So many servers of each kind, on one port of another process. `urls`: kind -> theirs."""

    def __init__(self, **kinds: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.engines", *kinds],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self.urls = {
            kind: [f"http://127.0.0.1:{self._port}/{kind}/{number}" for number in range(count)]
            for kind, count in kinds.items()
        }

    def asked(self) -> int:
        """How many times any of them was asked."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/asked") as reply:
            return int(reply.read())

    @property
    def all(self) -> list[str]:
        return [url for urls in self.urls.values() for url in urls]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def _serve(kinds: list[str]) -> None:
    """Prints the port and serves until it is killed."""
    asked: dict[bytes, int] = {}
    for kind in kinds:
        KINDS.get(kind, lambda _: b"")(0)  # made once, before anyone asks

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                if path == b"/asked":
                    writer.write(reply(b"%d" % sum(asked.values())))
                    continue
                asked[path] = asked.get(path, 0) + 1
                kind = path.split(b"/")[1].decode()
                if kind in KINDS:
                    writer.write(KINDS[kind](asked[path]))
                    await writer.drain()
                else:
                    await _go_on(writer, dripping=kind == "drip")
                    break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 -- to Farm
    await server.serve_forever()


async def _go_on(writer: asyncio.StreamWriter, dripping: bool) -> None:
    """A page without an end: a byte a tenth of a second, or as much as the reader takes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    for _ in range(_LARGEST >> 16):
        writer.write(b"#" if dripping else b"# x\n" * (1 << 14))
        await writer.drain()
        await asyncio.sleep(0.1 if dripping else 0)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
