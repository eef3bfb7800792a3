"""`plimsoll simulate` and `plimsoll replay`: what is wrong is told in one line, with the exit status of its kind."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import gzip
import json
from pathlib import Path

import pytest

from scaler import cli
from scaler.core.record import Record, line

LOAD = ("--generate", "steady:rate=2,seconds=120,prompt=200,output=50", "--cold-start", "20s", "--max", "4")
CSV = "at,prompt_tokens,output_tokens\n0.5,100,20\n1.5,200,30\n2,100,10\n"
#: Of Prometheus: one engine that ended 30 requests.
POINTS = [[1_700_000_000, "0"], [1_700_000_015, "30"]]
SERIES = {"metric": {"__name__": "plimsoll_engine_requests_finished_total"}, "values": POINTS}
ANSWER = {"status": "success", "data": {"resultType": "matrix", "result": [SERIES]}}

#: (arguments, exit status, what the line on stderr has in it)
SIMULATE = [
    (["--trase", "x"], 2, "unrecognized arguments: --trase x; did you mean --trace?"),
    (["word"], 2, "unrecognized arguments: word; see plimsoll simulate --help"),
    (["--start"], 2, "--start: expected one argument"),
    (["--trace", "/nowhere/t.csv"], 1, "--trace /nowhere/t.csv: cannot be read (No such file or directory)"),
    (["--trace", "{tmp}"], 1, "cannot be read (Is a directory)"),
    (["--trace", "{tmp}/bad.csv"], 1, "bad.csv, row 3: prompt_tokens 'x' is not a whole number"),
    (["--trace", "{tmp}/cut.gz"], 1, "cut.gz: is damaged"),
    (["--trace", "a", "--generate", "steady"], 2, "--trace and --generate: cannot be had together"),
    (["--generate", "steddy"], 2, "generator 'steddy': is unknown; did you mean steady?"),
    (["--generate", "steady:rat=1"], 2, "setting 'rat': is unknown; did you mean rate?"),
    (["--generate", "steady:rate=fast"], 2, "setting 'rate' 'fast' is not a number"),
    (["--generate", "steady:rate=1,rate=2"], 2, "setting 'rate' is there twice"),
    (["--begin", "1h"], 2, "--begin, --end: trace"),
    (["--begin", "soon"], 2, "--begin 'soon': is not a duration"),
    (["--scale", "0"], 2, "--scale '0': is not a number from 0.001 to 1000"),
    (["--generate", "steady:rate=0.1", "--scale", "0.001"], 2, "no request is left of it"),
    (["--profile", "8b-h10"], 2, "--profile 8b-h10: is unknown; did you mean 8b-h100?"),
    (["--profiles", "{tmp}/none.toml"], 1, "none.toml: cannot be read"),
    (["--profiles", "{tmp}/bad.csv"], 1, "bad.csv: is no TOML"),
    (["--profiles", "{tmp}/cut.gz"], 1, "cut.gz: byte 1 is no UTF-8"),
    (["--cold-start", "x"], 2, "--cold-start 'x': is not a duration from 0s to 86400s; write for example 90s, or profile"),
    (["--router", "fast"], 2, "--router 'fast': is no router; write one of random, least_loaded, two_choices"),
    (["--start", "0"], 2, "--start '0': is not a whole number from 1 to 1000; write one, or auto"),
    (["--start", "9", "--max", "8"], 2, "--start 9: is not from --min 1 to --max 8"),
    (["--min", "5", "--max", "3"], 2, "--min 5: is more than --max 3"),
    (["--nodes", "1", "--start", "9"], 2, "--nodes 1: hold 8 replicas, 9 are there at the start"),
    (["--node-provisioning", "-1"], 2, "--node-provisioning '-1': is not a duration"),
    (["--fault", "lost"], 2, "--fault: fault 'lost': has no time"),
    (["--interval", "0.5s"], 2, "--interval '0.5s': is not a duration from 1s to 60s"),
    (["--seed", "x"], 2, "--seed 'x': is not a whole number"),
    (["--ttft", "0"], 2, "--ttft '0': is not a duration"),
    (["--attainment", "101%"], 2, "--attainment '101%': is no share above 0 and up to 1"),
    (["--jobs", "0"], 2, "--jobs '0': is not a whole number"),
    (["--policy", "keda"], 2, "--policy: policy 'keda' is unknown; known: plimsoll, static"),
    (["--policy", "kaito=x"], 2, "the knob is no number above 0; write for example 10"),
    (["--policy", "plimsoll=2"], 2, "plimsoll has no knob; use --set KEY=VALUE"),
    (["--compare", "kaito,kayto"], 2, "--compare: policy 'kayto' is unknown; did you mean kaito?"),
    (["--compare", "--sweep"], 2, "--compare and --sweep: cannot be had together"),
    (["--policy", "kaito", "--sweep"], 2, "--policy and --sweep: cannot be had together"),
    (["--policy", "kaito", "--set", "headroom=1"], 2, "--set and another --policy: cannot be had together"),
    (["--record", "x", "--compare"], 2, "--record and --compare: cannot be had together"),
    (["--record", "x", "--policy", "kaito"], 2, "--record and another --policy: cannot be had together"),
    (["--set", "headroom"], 2, "--set 'headroom': is not KEY=VALUE"),
    (["--set", "hedroom=1"], 2, "--set 'hedroom': unknown; did you mean headroom?"),
    (["--set", "headroom=99"], 2, "--set headroom: '99' is not a number from 0 to 10"),
    (["--set", "model=llama"], 2, "--set 'model=llama': a simulated fleet is of one model; drop it"),
    (["--html", "{tmp}/no/o.html"], 1, "has no folder"),
    (["--json", "{tmp}"], 1, "is a folder"),
    ([*LOAD, "--record", "/proc/x.jsonl"], 1, "--record /proc/x.jsonl: cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected", "cause"), SIMULATE, ids=[" ".join(row[0]) or "none" for row in SIMULATE]
)
def test_errors_of_simulate_are_one_line(
    arguments: list[str], expected: int, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("at,prompt_tokens,output_tokens\n1,1,1\n2,x,1\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(CSV.encode())[:30])
    status = cli.main(["simulate", *(each.replace("{tmp}", str(tmp_path)) for each in arguments)])
    said, errors = capsys.readouterr()
    assert (status, said) == (expected, "")
    assert errors.startswith("plimsoll simulate: ")
    assert errors.count("\n") == 1
    assert cause in errors


#: (arguments, exit status, what the line on stderr has in it)
REPLAY = [
    ([], 2, "--record, --prometheus, --prometheus-url: one is needed, none was given"),
    (["--record", "a", "--prometheus", "b"], 2, "one is needed, --record and --prometheus was given"),
    (["--prometheus", "a", "--object", "a/b"], 2, "--object: goes with --record alone"),
    (["--prometheus", "a", "--exact"], 2, "--exact: goes with --record alone"),
    (["--record", "a", "--selector", "b"], 2, "--selector: goes with --prometheus-url alone"),
    (["--record", "a", "--object", "llama"], 2, "--object 'llama': is not NAMESPACE/NAME"),
    (["--record", "/nowhere/r"], 1, "--record /nowhere/r: cannot be read"),
    (["--record", "{tmp}/empty"], 1, "empty: holds no record (it is empty)"),
    (["--record", "{tmp}/text"], 1, "text: holds no record (line 1: "),
    (["--record", "{tmp}/one", "--exact"], 1, "one: no record holds its inputs"),
    (["--record", "{tmp}/one"], 1, "one: has no two records with replicas in them"),
    (["--record", "{tmp}/one", "--exact", "--html", "{tmp}/o"], 2, "--html: --exact plays no run"),
    (["--prometheus", "{tmp}/text"], 1, "text: is no JSON ("),
    (["--prometheus", "{tmp}/list"], 1, "list: holds no object"),
    (["--prometheus", "{tmp}/deep"], 1, "deep: is no JSON"),
    (["--prometheus", "{tmp}/empty.json"], 1, "resultType is vector, not matrix"),
    (["--prometheus", "{tmp}/good.json", "--set", "hedroom=1"], 2, "--set 'hedroom': unknown; did you mean headroom?"),
    (["--prometheus", "{tmp}/good.json", "--profile", "x"], 2, "--profile x: is unknown"),
    (["--prometheus", "{tmp}/good.json", "--profile", "recorded"], 2, "--profile recorded: is unknown"),
    (["--prometheus", "{tmp}/good.json", "--save-trace", "/nowhere/t"], 1, "--save-trace /nowhere/t: has no folder"),
    (["--prometheus-url", "ftp://a"], 2, "--prometheus-url 'ftp://a': is no URL"),
    (["--prometheus-url", "http://127.0.0.1:1"], 1, "--prometheus-url http://127.0.0.1:1: cannot be reached"),
    (["--prometheus-url", "http://127.0.0.1:1", "--range", "240h", "--step", "1s"], 2, "864000 points, 11000 are the most"),
    (["--prometheus-url", "http://127.0.0.1:1", "--range", "1s"], 2, "--range '1s': is not a duration from 60s"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected", "cause"), REPLAY, ids=[" ".join(row[0]) or "none" for row in REPLAY])
def test_errors_of_replay_are_one_line(
    arguments: list[str], expected: int, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "empty": "", "text": "hello", "list": "[]", "deep": "[" * 100_000, "good.json": json.dumps(ANSWER),
        "empty.json": json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}),
        "one": line(Record(5.0, "default", "llama", "unknown", "nobody answers")).decode(),
    }  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    status = cli.main(["replay", *(each.replace("{tmp}", str(tmp_path)) for each in arguments)])
    errors = capsys.readouterr().err
    assert status == expected
    assert errors.startswith("plimsoll replay: ")
    assert errors.count("\n") == 1
    assert cause in errors
