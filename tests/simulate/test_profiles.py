"""The profiles that the simulator comes with, against the published tables; files of a user's own."""

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.engine import Engine
from scaler.simulate.model import Phases, Request
from scaler.simulate.profiles import PROFILES, ProfileError, parse, profile


class Between(NamedTuple):
    """Published times between tokens, in ms, by the number of sequences, at a context of about 1k."""

    name: str
    source: str
    ms: dict[int, float]


BETWEEN = [
    Between("8b-h100", "inference-sim", {1: 7.8, 8: 8.3, 32: 10.3, 64: 13.0, 128: 18.2, 256: 28.8}),
    Between("8b-a100", "inference-sim", {1: 12.0, 8: 12.9, 32: 16.1, 64: 20.4, 128: 28.9, 256: 45.8}),
    Between("8b-l40s", "inference-sim", {1: 26.8, 8: 28.9, 32: 36.3, 64: 46.1, 128: 65.8, 256: 105.0}),
    Between("8b-l4", "inference-sim, extrapolated", {1: 75.0}),
    Between("70b-4xh100", "splitwise-sim", {count: 29.3 + 0.23 * count for count in (1, 8, 32, 64)}),
]


@pytest.mark.parametrize(
    ("row", "count"), [(row, count) for row in BETWEEN for count in row.ms], ids=lambda part: str(getattr(part, "name", part))
)  # fmt: skip
def test_time_between_tokens_is_the_published_one(row: Between, count: int) -> None:
    """Seen from outside: `count` requests that decode, after prompts of 1,024 tokens."""
    used = profile(row.name)._replace(kv_tokens=1 << 20)  # the L40S's cache does not hold 256 of them
    engine, short, long = Engine(used, 0.0), Request(0.0, 1024, 2, 1023), Request(0.0, 1024, 3, 1023)
    for one in (short, long, *(Request(0.0, 1024, 3, 1023) for _ in range(count - 2))):
        engine.submit(one, 0.0)
        if count == 1:
            break
    engine.advance(1e3)
    assert short.first_token is not None
    assert short.finished is not None
    assert (short.finished - short.first_token) * 1e3 == pytest.approx(row.ms[count], rel=0.03)


class Prefill(NamedTuple):
    """Published milliseconds of a whole prompt, and what the profile's file says that it made of them."""

    name: str
    source: str
    tokens: int
    ms: float
    within: float


PREFILL = [
    *(
        Prefill("8b-a100", "SageServe, two A100s, twice what is above the step", tokens, 2 * (ms - 8.5) + 12.0, 0.2)
        for tokens, ms in ((512, 29.0), (1024, 54.0), (2048, 130.0), (4096, 234.0), (8192, 542.0))
    ),
    *(
        Prefill("70b-4xh100", "splitwise-sim, eight H100s, times 1.14", tokens, 1.14 * (ms - 29.7) + 29.3, 0.05)
        for tokens, ms in ((512, 53.0), (2048, 137.0), (8192, 845.0))
    ),
]


@pytest.mark.parametrize("row", PREFILL, ids=lambda row: f"{row.name}-{row.tokens}")
def test_prompt_takes_the_published_time(row: Prefill) -> None:
    request = Request(0.0, row.tokens, 1)
    engine = Engine(profile(row.name), 0.0)
    engine.submit(request, 0.0)
    engine.advance(1e3)
    assert request.first_token is not None
    assert request.first_token * 1e3 == pytest.approx(row.ms, rel=row.within)


@pytest.mark.parametrize(("name", "tokens_per_second"), [("8b-h100", 989), ("8b-l40s", 362), ("8b-l4", 121)])
def test_prefill_goes_with_the_gpus_tflops(name: str, tokens_per_second: float) -> None:
    base, other = profile("8b-a100"), profile(name)
    for key in ("per_prompt_token", "per_prompt_token_squared"):
        assert getattr(other, key) == pytest.approx(getattr(base, key) * 312 / tokens_per_second, rel=2e-3)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_no_prefill_is_faster_than_the_gpu(name: str) -> None:
    """2 FLOP for each weight and token, at the datasheets' dense bf16 peak."""
    peak = {"8b-h100": 989, "8b-a100": 312, "8b-l40s": 362, "8b-l4": 121, "70b-4xh100": 4 * 989}[name]
    weights = 70.6e9 if name.startswith("70b") else 8.03e9
    assert profile(name).per_prompt_token > 2 * weights / (peak * 1e12)


@pytest.mark.parametrize(
    ("name", "memory", "weights", "overhead", "token"),
    [
        ("8b-h100", 80, 14.96, 0.15, 131_072),
        ("8b-a100", 80, 14.96, 0.15, 131_072),
        ("8b-l40s", 48, 14.96, 0.15, 131_072),
        ("8b-l4", 24, 14.96, 0.15, 131_072),
        ("70b-4xh100", 320, 131.4, 2.4, 327_680),
    ],
)
def test_cache_is_what_memory_leaves(name: str, memory: float, weights: float, overhead: float, token: int) -> None:
    tokens = (0.9 * memory - weights - 5.5 - overhead) * 2**30 / token
    assert profile(name).kv_tokens == pytest.approx(tokens, rel=0.02)


def test_cold_start_of_the_measured_one() -> None:
    assert profile("8b-l40s").cold_start == Phases(0.0, 0.0, 61.0 + 33.0, 52.0 + 54.0 + 94.0)
    assert sum(profile("8b-l40s").cold_start) == 294.0


def test_unknown_profile_is_named_with_those_there_are() -> None:
    with pytest.raises(ProfileError) as caught:
        profile("8b-A10")
    assert str(caught.value) == (
        "profile 8b-A10: is unknown; did you mean 8b-a100? known: 8b-h100, 8b-a100, 8b-l40s, 8b-l4, 70b-4xh100"
    )


GOOD = {
    "about": '"mine"',
    "source": '"measured"',
    "step": "0.01",
    "per_sequence": "0.0001",
    "per_context_token": "0",
    "per_prompt_token": "1e-4",
    "per_prompt_token_squared": "0.0",
    "kv_tokens": "4096",
}


def written(**change: str | None) -> str:
    rows = {**GOOD, **change}
    return "[mine]\n" + "\n".join(f"{key} = {value}" for key, value in rows.items() if value is not None)


def test_own_file() -> None:
    text = written(
        gpus="2", cold_start="{ image_pull = 3, warm_up = 4.5 }", max_num_seqs="8", max_num_batched_tokens="64"
    )
    mine = parse(text, "own.toml")
    assert list(mine) == ["mine"]
    read = profile("mine", mine)
    assert (read.name, read.about, read.step, read.per_context_token, read.gpus) == ("mine", "mine", 0.01, 0.0, 2)
    assert (read.max_num_seqs, read.max_num_batched_tokens, read.block_tokens) == (8, 64, 16)
    assert read.cold_start == Phases(0.0, 3.0, 0.0, 4.5)


M = "own.toml: profile mine: key "
REFUSED = [
    ("[mine", "own.toml: is no TOML (Expected ']' at the end of a table declaration (at end of document)); write a table for each profile"),
    ("", "own.toml: has no profile; write a table for each, for example [my-model]"),
    ("step = 1", "own.toml: key step: stands outside a profile; write it below a line like [my-model]"),
    (written(step=None), M + "step: is missing; write it, see the profiles that plimsoll comes with"),
    (written(stop="1"), M + "stop: is unknown; did you mean step? known: " + ", ".join(GOOD) + ", gpus, block_tokens, max_num_seqs, max_num_batched_tokens, cold_start"),
    (written(step="nan"), M + "step: is not from 0 to 1e6; write seconds, for example 1.2e-3"),
    (written(step="inf"), M + "step: is not from 0 to 1e6; write seconds, for example 1.2e-3"),
    (written(step="-0.1"), M + "step: is not from 0 to 1e6; write seconds, for example 1.2e-3"),
    (written(step="0"), M + "step: 0 takes no time; write seconds from 1e-6, for example 1.2e-2"),
    (written(step='"1"'), M + "step: is no number; write seconds, for example 1.2e-3"),
    (written(per_sequence="true"), M + "per_sequence: is no number; write seconds, for example 1.2e-3"),
    (written(step="-1e-9"), M + "step: is not from 0 to 1e6; write seconds, for example 1.2e-3"),
    (written(per_sequence="1" + "0" * 400), M + "per_sequence: is not from 0 to 1e6; write seconds, for example 1.2e-3"),
    (written(kv_tokens="4096.0"), M + "kv_tokens: is not a whole number from 1 to 1000000000; write one"),
    (written(gpus="0"), M + "gpus: is not a whole number from 1 to 1000000000; write one"),
    (written(about='" "'), M + 'about: is no text; write what it is in "..."'),
    (written(source="1"), M + 'source: is no text; write what it is in "..."'),
    (written(kv_tokens="15"), M + "kv_tokens: 15 is less than one block of 16 tokens; make it larger"),
    (written(max_num_batched_tokens="8"), M + "max_num_batched_tokens: 8 is less than max_num_seqs 256; make it as large or larger"),
    (written(cold_start="9"), M + "cold_start: is no table; write { model_load = 94.0, warm_up = 200.0 }"),
    (written(cold_start="{ model_lod = 9 }"), M + "cold_start: has an unknown phase model_lod; did you mean model_load? known: node_provisioning, image_pull, model_load, warm_up"),
    (written(cold_start="{ warm_up = nan }"), M + "cold_start: phase warm_up is not from 0 to 1e6; write seconds, for example 1.2e-3"),
]  # fmt: skip
# ruff: noqa: E501 -- one row a refusal, with its whole line


@pytest.mark.parametrize(("text", "line"), REFUSED, ids=range(len(REFUSED)))
def test_bad_file_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse(text, "own.toml")
    assert str(caught.value) == line


@given(st.sampled_from(sorted(GOOD)), st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_whatever_stands_there_is_one_line_or_a_profile_that_steps(key: str, value: object) -> None:
    shown = {bool: lambda: str(value).lower(), str: lambda: "'''" + str(value) + "'''"}.get(
        type(value), lambda: str(value)
    )()
    line = ""
    try:
        read = parse(written(**{key: shown}), "own.toml")
    except ProfileError as error:
        line = str(error)
    if line:
        assert line.startswith("own.toml: ")
        assert line.isprintable()
        return
    engine = Engine(read["mine"], 0.0)
    engine.submit(Request(0.0, 10, 3), 0.0)
    assert 0 < engine.next_finish() < math.inf
