"""`plimsoll replay`: a recorded fleet -> its load -> today's decisions, then against now."""

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from scaler import cli
from scaler.commands import prometheus
from scaler.core.record import Record, line

LOAD = ("--generate", "steady:rate=2,seconds=480", "--cold-start", "20s", "--start", "2")


def command(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    status = cli.main([name, *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Of a simulated fleet, as its scaler would have recorded it."""
    path = tmp_path / "records.jsonl"
    assert command(capsys, "simulate", *LOAD, "--record", str(path), "--set", "headroom=0.1")[0] == 0
    return path


def test_a_recorded_run_comes_back(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page, trace = tmp_path / "o.json", tmp_path / "o.html", tmp_path / "t.csv"
    status, said, errors = command(
        capsys, "replay", "--record", str(journal), "--json", str(out), "--html", str(page), "--save-trace", str(trace)
    )
    assert (status, errors) == (0, "")
    document = json.loads(out.read_text())
    replayed = document["replay"]
    # 480 s of 2 requests/s; what the last 10 s brought was not read any more.
    assert 850 < document["scenario"]["trace"]["requests"] < 1050
    assert document["scenario"]["start"] == 2
    assert document["scenario"]["profile"]["name"] == "recorded"
    assert document["settings"] == {"headroom": "0.1", "ttftTarget": "2s"}
    assert replayed["replica_hours_then"] == pytest.approx(2 * replayed["seconds"] / 3600, rel=0.01)
    assert "replica-hours: " in said
    assert "plimsoll over simulation/model: " in said
    assert "simulation/model, simulated" in page.read_text()
    assert "<h2>Then and now</h2>" in page.read_text()
    assert command(capsys, "simulate", "--trace", str(trace), "--policy", "static=1")[0] == 0


def test_exact_gives_the_recorded_answers_back(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.json"
    status, said, _ = command(capsys, "replay", "--record", str(journal), "--exact", "--json", str(out))
    decisions = json.loads(out.read_text())["exact"]["decisions"]
    assert (status, said) == (0, f"{decisions} recorded decisions with inputs, 0 would be answered differently\n")
    assert decisions == 96


def test_exact_shows_what_a_setting_changes(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    _, said, _ = command(
        capsys, "replay", "--record", str(journal), "--exact", "--set", "headroom=9", "--json", str(out)
    )
    differing = json.loads(out.read_text())["exact"]["differing"]
    assert differing
    assert all(each["required_now"] > each["required_then"] for each in differing)
    assert f"{len(differing)} would be answered differently" in said
    assert "    then " in said
    assert "    now  " in said


def test_a_setting_changes_what_is_decided_now(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.json"
    status, said, _ = command(capsys, "replay", "--record", str(journal), "--set", "headroom=5", "--json", str(out))
    replayed = json.loads(out.read_text())["replay"]
    assert status == 0
    assert replayed["replica_hours_now"] > replayed["replica_hours_then"]
    most = replayed["differences"][0]
    assert most["now"] > most["then"]
    assert most["why_then"] != most["why_now"]
    assert "where they differ most" in said


def test_a_compressed_file_of_several_objects(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.gz"
    other = line(Record(5.0, "default", "other", "idle", ""))
    both.write_bytes(gzip.compress(journal.read_bytes() + other))
    status, _, errors = command(capsys, "replay", "--record", str(both))
    assert (status, errors.count("\n")) == (2, 1)
    assert "several objects; choose one of: default/other, simulation/model" in errors
    assert command(capsys, "replay", "--record", str(both), "--object", "simulation/model")[0] == 0


def test_a_recorded_setting_that_is_none_any_more_can_be_dropped(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.jsonl"
    old.write_bytes(journal.read_bytes().replace(b'"headroom":"0.1"', b'"safety":"0.1"'))
    status, _, errors = command(capsys, "replay", "--record", str(old), "--exact")
    assert (status, errors.count("\n")) == (2, 1)
    assert "old.jsonl: the trigger's 'safety': unknown; known keys: " in errors
    assert command(capsys, "replay", "--record", str(old), "--exact", "--set", "safety=")[0] == 0


def test_a_file_may_begin_with_a_mark_and_end_its_lines_otherwise(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "windows.jsonl"
    other.write_bytes(b"\xef\xbb\xbf" + journal.read_bytes().replace(b"\n", b"\r\n"))
    plain = command(capsys, "replay", "--record", str(journal), "--exact")
    assert command(capsys, "replay", "--record", str(other), "--exact") == plain


def _answer(count: int = 9) -> dict[str, Any]:
    """query_range's of one engine that ends 30 requests a step."""

    def series(name: str, value: Callable[[int], float]) -> dict[str, Any]:
        points = [[1_700_000_000 + 15 * index, str(value(index))] for index in range(count)]
        return {"metric": {"__name__": f"plimsoll_engine_{name}", "pod": "a"}, "values": points}

    result = [
        series("requests_finished_total", lambda index: 30.0 * index),
        series("prompt_tokens_total", lambda index: 6000.0 * index),
        series("generation_tokens_total", lambda index: 1500.0 * index),
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def test_a_saved_answer_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, out = tmp_path / "a.json", tmp_path / "o.json"
    saved.write_bytes(gzip.compress(json.dumps(_answer()).encode()))
    status, said, _ = command(capsys, "replay", "--prometheus", str(saved), "--json", str(out), "--ttft", "1s")
    document = json.loads(out.read_text())
    assert status == 0
    assert document["scenario"]["trace"]["requests"] == 240
    assert (document["scenario"]["profile"]["name"], document["settings"]) == ("8b-l40s", {"ttftTarget": "1s"})
    assert document["replay"]["replica_hours_then"] is None
    assert "then is not recorded" in said


@contextmanager
def _served(body: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """(URL, the paths that were asked)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_prometheus_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with _served(json.dumps(_answer()).encode()) as (url, asked):
        status, said, _ = command(
            capsys,
            "replay",
            "--prometheus-url",
            f"{url}/",
            "--range",
            "30m",
            "--step",
            "30s",
            "--selector",
            'model="llama"',
        )
    assert status == 0
    parts = urlsplit(asked[0])
    query = {key: value[0] for key, value in parse_qs(parts.query).items()}
    assert parts.path == "/api/v1/query_range"
    assert float(query["end"]) - float(query["start"]) == pytest.approx(1800)
    assert query["step"] == "30"
    assert query["query"].endswith(',model="llama"}')
    assert said.startswith(f"query: {query['query']}\n")


def test_a_refusal_of_prometheus_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = {"status": "error", "errorType": "bad_data", "error": "parse error"}
    with _served(json.dumps(refusal).encode(), 400) as (url, _):
        status, _, errors = command(capsys, "replay", "--prometheus-url", url)
    assert (status, errors.count("\n")) == (2, 1)
    assert "bad_data: parse error" in errors


#: (status, body, what the line on stderr has in it)
NO_ANSWERS = [
    (500, b"internal error", "answers with status 500; name the address of a Prometheus that needs no password"),
    (401, b"", "answers with status 401; name the address"),
    (200, b"<html>log in</html>", "is no JSON (Expecting value: line 1 column 1 (char 0)); name the address of a"),
    (200, b"", "is no JSON ("),
    (200, b"null", "holds no object; name the address of a Prometheus"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "cause"), NO_ANSWERS, ids=[f"{row[0]} {row[1]!r}" for row in NO_ANSWERS])
def test_what_is_no_prometheus_is_told(
    status: int, body: bytes, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with _served(body, status) as (url, _):
        code, _, errors = command(capsys, "replay", "--prometheus-url", url)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"plimsoll replay: --prometheus-url {url}: ")
    assert cause in errors


def test_what_speaks_no_http_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        code, _, errors = command(capsys, "replay", "--prometheus-url", f"http://127.0.0.1:{port}")
        thread.join()
    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot be reached (220 mail" in errors


def test_an_answer_that_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prometheus, "LARGEST", 100)
    with _served(b"x" * 200) as (url, _):
        status, _, errors = command(capsys, "replay", "--prometheus-url", url)
    assert status == 2
    assert "answers with more than" in errors
