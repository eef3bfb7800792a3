"""`plimsoll simulate`: arguments -> runs -> text, page, document and exit status."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import gzip
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from scaler import cli
from scaler.core.trigger import KEYS
from scaler.simulate import compare
from scaler.simulate.faults import KINDS
from scaler.simulate.generators import COMMON, GENERATORS
from scaler.simulate.model import Profile, Scenario, Trace
from scaler.simulate.peers import PEERS
from scaler.simulate.profiles import PROFILES
from scaler.simulate.routers import ROUTERS
from scaler.simulate.scenario import NOT_SET, ScenarioError, metadata

LOAD = ("--generate", "steady:rate=2,seconds=120,prompt=200,output=50", "--cold-start", "20s", "--max", "4")
CSV = "at,prompt_tokens,output_tokens\n0.5,100,20\n1.5,200,30\n2,100,10\n"


def simulate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    status = cli.main(["simulate", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, errors = simulate(capsys, *LOAD)
    assert (status, errors) == (0, "")
    assert said.startswith("plimsoll over steady rate=2 seconds=120 prompt=200 output=50: ")
    assert re.search(r"\n  in time     \d", said)
    assert said.isascii()


def test_a_trace_is_read_cut_and_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("t.csv", CSV.encode()), ("t.csv.gz", gzip.compress(CSV.encode()))):
        (tmp_path / name).write_bytes(data)
        asked = (
            "--trace",
            str(tmp_path / name),
            "--begin",
            "1s",
            "--scale",
            "2",
            "--spread",
            "0",
            "--json",
            str(tmp_path / "o"),
        )
        assert simulate(capsys, *asked)[0] == 0
        assert json.loads((tmp_path / "o").read_text())["scenario"]["trace"]["requests"] == 4  # two of the three, twice


def test_a_profile_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[mine]\nabout = "a"\nsource = "s"\nstep = 0.01\nper_sequence = 0\nper_context_token = 0\n'
                   "per_prompt_token = 1e-4\nper_prompt_token_squared = 0\nkv_tokens = 10000\n")  # fmt: skip
    status, said, _ = simulate(capsys, *LOAD, "--profiles", str(own), "--profile", "mine")
    assert (status, "on mine (1 GPU a\n" in said or "on mine (1 GPU" in said) == (0, True)


def test_what_is_asked_for_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    asked = ("--router", "two_choices", "--start", "2", "--min", "2", "--nodes", "3", "--node-provisioning", "30s", "--fault", "lost@60:replica=1",
             "--fault", "blind@20:for=10s", "--interval", "2s", "--seed", "7", "--ttft", "500ms", "--set", "headroom=0.5")  # fmt: skip
    assert simulate(capsys, *LOAD, *asked, "--json", str(out))[0] == 0
    document = json.loads(out.read_text())
    told = document["scenario"]
    kept = (
        "router",
        "start",
        "minimum",
        "maximum",
        "nodes",
        "node_provisioning",
        "interval",
        "seed",
        "ttft_target",
        "cold_start",
    )
    assert [told[key] for key in kept] == ["two_choices", 2, 2, 4, 3, 30.0, 2.0, 7, 0.5, 20.0]
    assert [fault["kind"] for fault in told["faults"]] == ["lost", "blind"]
    assert document["settings"] == {"ttftTarget": "0.5s", "headroom": "0.5"}


def test_a_peer_with_its_knob(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    assert simulate(capsys, *LOAD, "--policy", "keda-waiting=2", "--json", str(out))[0] == 0
    row = json.loads(out.read_text())["rows"][0]
    assert (row["policy"], row["knob"], row["knob_name"], row["is_own"]) == ("keda-waiting", 2.0, "threshold", False)


def test_a_comparison_has_the_bound_and_the_best_fixed_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "o.json", tmp_path / "o.html"
    status, said, _ = simulate(
        capsys, *LOAD, "--compare", "keda-waiting,ray-serve", "--jobs", "1", "--json", str(out), "--html", str(page)
    )
    document = json.loads(out.read_text())
    assert status == 0
    assert sorted(row["policy"] for row in document["rows"]) == [
        "clairvoyant",
        "keda-waiting",
        "plimsoll",
        "ray-serve",
        "static",
    ]
    assert [row["is_bound"] for row in document["rows"]].count(True) == 1
    assert document["runs"][0]["policy"] == "plimsoll"
    assert len(document["runs"]) == 2
    assert "+ attains 99%" in said
    assert "keda-waiting" in page.read_text()


def test_a_sweep_has_every_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    assert simulate(capsys, *LOAD, "--sweep", "kaito", "--jobs", "1", "--json", str(out))[0] == 0
    rows = [(row["policy"], row["knob"]) for row in json.loads(out.read_text())["rows"]]
    sizes = [("static", 1.0), ("static", 2.0), ("static", 4.0)]  # none beyond --max
    assert sorted(row for row in rows if row[0] in ("kaito", "static")) == sorted(
        [("kaito", knob) for knob in PEERS["kaito"].sweep] + sizes
    )


def test_the_same_seed_gives_the_same_bytes_however_many_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for count in ("1", "2"):
        out, page = tmp_path / f"{count}.json", tmp_path / f"{count}.html"
        _, said, _ = simulate(
            capsys, *LOAD, "--compare", "keda-waiting", "--jobs", count, "--json", str(out), "--html", str(page)
        )
        made.append((said, out.read_bytes(), page.read_bytes()))
    assert made[0] == made[1]


def test_another_seed_is_another_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(capsys, *LOAD)[1] != simulate(capsys, *LOAD, "--seed", "1")[1]


def test_all_is_every_peer() -> None:
    names = compare.peers(compare.ALL, "--compare")
    scenario = Scenario(Trace("none", (), 60.0), Profile("p", "", "", 0.01, 0, 0, 0, 0, 1000))
    assert {task.policy for task in compare.tasks(names, scenario, sweep=True)} == {"plimsoll", "clairvoyant", *PEERS}


def test_a_fixed_size_is_there_from_the_start() -> None:
    scenario = Scenario(Trace("none", (), 60.0), Profile("p", "", "", 0.01, 0, 0, 0, 0, 1000), maximum=6)
    begun = [
        compare.setup(compare.Task(*task), scenario).start
        for task in (("static", 4.0), ("static", 9.0), ("kaito", 4.0))
    ]
    assert begun == [4, 6, 1]


def test_the_list_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = simulate(capsys, "--list")
    # A name alone, or with its knob's default: a row's head.
    heads = {head.partition("=")[0] for head in re.findall(r"^  (\S.*)$", said, re.MULTILINE)}
    settings = {name for name in KEYS if name not in NOT_SET}
    assert heads == {
        *PROFILES,
        "plimsoll",
        "clairvoyant",
        *PEERS,
        *GENERATORS,
        "each of them",
        *ROUTERS,
        *KINDS,
        *settings,
    }
    flat = " ".join(said.split())
    assert all(" ".join(row.source.split()) in flat for row in (*PROFILES.values(), *PEERS.values()))
    assert all(f"{s.name}={s.default:g}" in flat for g in GENERATORS.values() for s in (*g.settings, *COMMON))
    assert status == 0


def test_a_setting_can_be_taken_back() -> None:
    assert metadata(["headroom=1", "headroom=", "ttftTarget=4s"], {"ttftTarget": "2s"}) == {"ttftTarget": "4s"}
    with pytest.raises(ScenarioError, match="is not KEY=VALUE"):
        metadata(["=1"], {})


def test_what_an_installed_program_needs_is_declared() -> None:
    """What lies beside the modules is in the package data: a wheel would be without it otherwise."""
    import tomllib

    root = Path(cli.__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["scaler"]
    declared = {path for pattern in patterns for path in root.glob(pattern)}
    there = {path for path in (root / "simulate").rglob("*") if path.suffix in (".toml", ".html")}
    assert there
    assert there <= declared
    assert files("scaler").joinpath("simulate/report/page.html").is_file()
