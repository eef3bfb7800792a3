"""`plimsoll simulate` and `plimsoll replay`: what is wrong is told in one line, with the exit status of its kind."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from scaler import cli
from scaler.core.record import Record, line
from scaler.core.view import Replica

LOAD = ("--generate", "steady:rate=2,seconds=120,prompt=200,output=50", "--cold-start", "20s", "--max", "4")
CSV = "at,prompt_tokens,output_tokens\n0.5,100,20\n1.5,200,30\n2,100,10\n"
#: Of Prometheus: one engine that ended 30 requests.
POINTS = [[1_700_000_000, "0"], [1_700_000_015, "30"]]
SERIES = {"metric": {"__name__": "plimsoll_engine_requests_finished_total"}, "values": POINTS}
ANSWER = {"status": "success", "data": {"resultType": "matrix", "result": [SERIES]}}


def _answer(points: list[Any]) -> str:
    return json.dumps(ANSWER | {"data": {"resultType": "matrix", "result": [SERIES | {"values": points}]}})


#: (arguments, what the line on stderr has in it)
SIMULATE = [
    (["--trase", "x"], "unrecognized arguments: --trase x; did you mean --trace?"),
    (["word"], "unrecognized arguments: word; see plimsoll simulate --help"),
    (["--start"], "--start: expected one argument"),
    (["--trace", "/nowhere/t.csv"], "--trace /nowhere/t.csv: cannot be read (No such file or directory)"),
    (["--trace", "{tmp}"], "cannot be read (Is a directory)"),
    (["--trace", "{tmp}/bad.csv"], "bad.csv, row 3: prompt_tokens 'x' is not a whole number"),
    (["--trace", "{tmp}/cut.gz"], "cut.gz: is damaged"),
    (["--trace", "{tmp}/empty.csv"], "empty.csv: is empty; give it a header and a row for each request"),
    (["--trace", "{tmp}/zip.csv"], "zip.csv: begins as no text does; save it as text in UTF-8, compressed by gzip or xz"),
    (["--trace", "{tmp}/binary.csv"], "binary.csv: byte 128 is no UTF-8; save it as text in UTF-8"),
    (["--trace", ""], "--trace '': cannot be read (No such file"),
    (["--trace", "no\nway"], "--trace 'no\\nway': cannot be read (No such file"),
    (["--trace", "a", "--generate", "steady"], "--trace and --generate: cannot be had together"),
    (["--generate", "steddy"], "generator 'steddy': is unknown; did you mean steady?"),
    (["--generate", "steady:rat=1"], "setting 'rat': is unknown; did you mean rate?"),
    (["--generate", "steady:rate=fast"], "setting 'rate' 'fast' is not a number"),
    (["--generate", "steady:rate=1,rate=2"], "setting 'rate' is there twice"),
    (["--generate", "steady:rate=1e5"], "setting 'rate' '1e5' is not a number from 0 to 1000000000; write one in digits"),
    (["--begin", "1h"], "--begin, --end: trace"),
    (["--begin", "soon"], "--begin 'soon': is not a duration"),
    (["--scale", "0"], "--scale '0': is not a number from 0.001 to 1000"),
    (["--generate", "steady:rate=0.1", "--scale", "0.001"], "no request is left of it"),
    (["--profile", "8b-h10"], "--profile 8b-h10: is unknown; did you mean 8b-h100?"),
    (["--profiles", "{tmp}/none.toml"], "none.toml: cannot be read"),
    (["--profiles", "{tmp}/bad.csv"], "bad.csv: is no TOML"),
    (["--profiles", "{tmp}/cut.gz"], "cut.gz: byte 1 is no UTF-8"),
    (["--cold-start", "x"], "--cold-start 'x': is not a duration from 0s to 86400s; write for example 90s, or profile"),
    (["--router", "fast"], "--router 'fast': is no router; write one of random, least_loaded, two_choices"),
    (["--start", "0"], "--start '0': is not a whole number from 1 to 1000; write one in digits, or auto"),
    (["--start", "9", "--max", "8"], "--start 9: is not from --min 1 to --max 8"),
    (["--min", "5", "--max", "3"], "--min 5: is more than --max 3"),
    (["--nodes", "1", "--start", "9"], "--nodes 1: hold 8 replicas, 9 are there at the start"),
    (["--node-provisioning", "-1"], "--node-provisioning '-1': is not a duration"),
    (["--fault", "lost"], "--fault: fault 'lost': has no time"),
    ([*LOAD, "--fault", "lost@2m"], "--fault lost@120: the load is over at 120 s; write less"),
    (["--interval", "0.5s"], "--interval '0.5s': is not a duration from 1s to 60s; write for example 60s"),
    (["--seed", "x"], "--seed 'x': is not a whole number"),
    (["--ttft", "0"], "--ttft '0': is not a duration"),
    (["--attainment", "101%"], "--attainment '101%': is no share above 0 and up to 1"),
    (["--jobs", "0"], "--jobs '0': is not a whole number"),
    (["--policy", "keda"], "--policy: policy 'keda' is unknown; known: plimsoll, static"),
    (["--policy", "kaito=x"], "the knob is no number above 0; write for example 10"),
    (["--policy", "plimsoll=2"], "plimsoll has no knob; use --set KEY=VALUE"),
    (["--compare", "kaito,kayto"], "--compare: policy 'kayto' is unknown; did you mean kaito?"),
    (["--compare", "--sweep"], "--compare and --sweep: cannot be had together"),
    (["--policy", "kaito", "--sweep"], "--policy and --sweep: cannot be had together"),
    (["--policy", "kaito", "--set", "headroom=1"], "--set and another --policy: cannot be had together"),
    (["--record", "x", "--compare"], "--record and --compare: cannot be had together"),
    (["--record", "x", "--policy", "kaito"], "--record and another --policy: cannot be had together"),
    (["--set", "headroom"], "--set 'headroom': is not KEY=VALUE"),
    (["--set", "hedroom=1"], "--set 'hedroom': unknown; did you mean headroom?"),
    (["--set", "headroom=99"], "--set headroom: '99' is not a number from 0 to 10"),
    (["--set", "headroom=nan"], "--set headroom: 'nan' is not a number from 0 to 10"),
    (["--set", "headroomFromEnv=X"], "--set 'headroomFromEnv': is for KEDA alone and changes nothing here; drop it"),
    (["--set", "scalerAddress=x:6000"], "--set 'scalerAddress': is for KEDA alone and changes nothing here; drop it"),
    (["--set", "model=llama"], "--set 'model=llama': a simulated fleet is of one model; drop it"),
    (["--html", "{tmp}/no/o.html"], "has no folder"),
    (["--json", "{tmp}"], "is a folder"),
    (["--html", ""], "--html '': is no name"),
    (["--json", "{tmp}/bad.csv/o"], "bad.csv/o: has no folder"),
    (["--html", "{tmp}/o", "--json", "{tmp}/./o"], "o: is the file of --html, too; name another"),
    (["--trace", "{tmp}/bad.csv", "--record", "{tmp}/bad.csv"], "bad.csv: is the file of --trace, too; name another"),
    ([*LOAD, "--json", "/dev/full"], "--json /dev/full: cannot be written (No space left on device)"),
    (["--sweep", "nonsense"], "--sweep: policy 'nonsense' is unknown; known: static"),
    (["--sweep", ""], "--sweep: policy '' is unknown"),
    ([*LOAD, "--record", "/proc/x.jsonl"], "--record /proc/x.jsonl: cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "cause"), SIMULATE, ids=[" ".join(row[0]) or "none" for row in SIMULATE])
def test_errors_of_simulate_are_one_line(
    arguments: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("at,prompt_tokens,output_tokens\n1,1,1\n2,x,1\n")
    for name, data in (
        ("cut.gz", gzip.compress(CSV.encode())[:30]),
        ("empty.csv", b""),
        ("zip.csv", b"PK\3\4" + bytes(60)),
        ("binary.csv", bytes(range(256))),
    ):
        (tmp_path / name).write_bytes(data)
    status = cli.main(["simulate", *(each.replace("{tmp}", str(tmp_path)) for each in arguments)])
    said, errors = capsys.readouterr()
    assert (status, said) == (2, "")
    assert errors.startswith("plimsoll simulate: ")
    assert errors.count("\n") == 1
    assert cause in errors


#: (arguments, what the line on stderr has in it)
REPLAY = [
    ([], "--record, --prometheus, --prometheus-url: one is needed, none was given"),
    (["--record", "a", "--prometheus", "b"], "one is needed, --record and --prometheus was given"),
    (["--prometheus", "a", "--object", "a/b"], "--object: goes with --record alone"),
    (["--prometheus", "a", "--exact"], "--exact: goes with --record alone"),
    (["--record", "a", "--selector", "b"], "--selector: goes with --prometheus-url alone"),
    (["--record", "a", "--object", "llama"], "--object 'llama': is not NAMESPACE/NAME"),
    (["--record", "/nowhere/r"], "--record /nowhere/r: cannot be read"),
    (["--record", "{tmp}/empty"], "empty: holds no record (it is empty)"),
    (["--record", "{tmp}/text"], "text: holds no record (line 1: "),
    (["--record", "{tmp}/one", "--exact"], "one: no record holds its inputs"),
    (["--record", "{tmp}/one"], "one: has no two records with replicas in them"),
    (["--record", "{tmp}/one", "--exact", "--html", "{tmp}/o"], "--html: --exact plays no run"),
    (["--prometheus", "{tmp}/text"], "text: is no JSON ("),
    (["--prometheus", "{tmp}/list"], "list: holds no object"),
    (["--prometheus", "{tmp}/deep"], "deep: is no JSON"),
    (["--prometheus", "{tmp}/empty.json"], "resultType is vector, not matrix"),
    (["--record", "{tmp}/late", "--exact"], "late: holds no record (line 1: time 1e+20 is no Unix time)"),
    (["--record", "{tmp}/old", "--exact"], "old: the trigger's drainWithin: 'x' is not a duration from 1s to 3600s; write for example"),
    (["--record", "{tmp}/odd", "--exact"], "odd: scaledObjectRef.namespace 'a\\nb': no Kubernetes name"),
    (["--record", "{tmp}/old", "--save-trace", "{tmp}/old"], "old: is the file of --record, too; name another"),
    (["--prometheus", "{tmp}/late.json"], "late.json: has times from 1e+20 to 2e+20, no Unix time"),
    (["--prometheus", "{tmp}/nan.json"], "no series counts requests; found plimsoll_engine_requests_finished_total without a number; query"),
    (["--prometheus", "{tmp}/huge.json"], "1e+300 requests arrived, from 1 to 10000000 can be replayed"),
    (["--prometheus", "{tmp}/good.json", "--fault", "lost@1h"], "--fault lost@3600: the load is over at 15 s"),
    (["--prometheus", "{tmp}/good.json", "--set", "hedroom=1"], "--set 'hedroom': unknown; did you mean headroom?"),
    (["--prometheus", "{tmp}/good.json", "--profile", "x"], "--profile x: is unknown"),
    (["--prometheus", "{tmp}/good.json", "--profile", "recorded"], "--profile recorded: is unknown"),
    (["--prometheus", "{tmp}/good.json", "--save-trace", "/nowhere/t"], "--save-trace /nowhere/t: has no folder"),
    (["--prometheus-url", "http://[::1"], "--prometheus-url 'http://[::1': is no URL"),
    (["--prometheus-url", "http://a b"], "--prometheus-url 'http://a b': is no URL"),
    (["--prometheus-url", "http://"], "--prometheus-url 'http://': is no URL; write for example http://127.0.0.1:9090"),
    (["--prometheus-url", "ftp://a"], "--prometheus-url 'ftp://a': is no URL"),
    (["--prometheus-url", "http://127.0.0.1:1"], "--prometheus-url http://127.0.0.1:1: cannot be reached"),
    (["--prometheus-url", "http://127.0.0.1:1", "--range", "240h", "--step", "1s"], "864000 points, 11000 are the most"),
    (["--prometheus-url", "http://127.0.0.1:1", "--range", "1s"], "--range '1s': is not a duration from 60s"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "cause"), REPLAY, ids=[" ".join(row[0]) or "none" for row in REPLAY])
def test_errors_of_replay_are_one_line(
    arguments: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "empty": "", "text": "hello", "list": "[]", "deep": "[" * 100_000, "good.json": json.dumps(ANSWER),
        "empty.json": json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}),
        "one": line(Record(5.0, "default", "llama", "unknown", "nobody answers")).decode(),
        "late": line(Record(1e20, "default", "llama", "unknown", "")).decode(),
        "old": line(Record(5.0, "default", "llama", "idle", "", trigger={"drainWithin": "x"})).decode(),
        "odd": line(Record(5.0, "a\nb", "llama", "idle", "", replicas=(Replica(pod="a"),))).decode(),
        "late.json": _answer([[1e20, "1"], [2e20, "2"]]), "nan.json": _answer([[5, "NaN"], [20, "NaN"]]),
        "huge.json": _answer([[5, "0"], [20, "1e300"]]),
    }  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    status = cli.main(["replay", *(each.replace("{tmp}", str(tmp_path)) for each in arguments)])
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.startswith("plimsoll replay: ")
    assert errors.count("\n") == 1
    assert cause in errors
