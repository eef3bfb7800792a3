"""The report's two forms."""

import json

from hypothesis import given
from hypothesis import strategies as st

from exporter.doctor.report import STATUSES, Report, Result, as_json, as_text

ANY = st.text(max_size=30) | st.sampled_from(["\ud800", "\x1b[2J", '"}', "\u2028"])
RESULTS = st.builds(
    Result,
    id=st.sampled_from(["driver.nvml", "gpus.verdict", "gpus.parts"]),
    subject=ANY,
    status=st.sampled_from(STATUSES),
    found=ANY,
    fix=ANY,
)


def report(*results: Result) -> Report:
    return Report("0.1.0", "node-1", results, ())


@given(st.lists(RESULTS, max_size=6), ANY)
def test_whatever_text_comes_from_outside_the_json_is_valid(results: list[Result], name: str) -> None:
    shown = as_json(Report("1", name, tuple(results), ({"uuid": name, "parts": {}},)))
    assert shown.isascii()
    assert "\n" not in shown
    read = json.loads(shown)
    assert [row["found"] for row in read["checks"]] == [result.found for result in results]
    assert read["node"] == read["gpus"][0]["uuid"] == name
    assert read["ok"] is all(result.status != "fail" for result in results)


@given(st.lists(RESULTS, max_size=6), ANY)
def test_whatever_text_comes_from_outside_no_line_is_broken_or_escapes(results: list[Result], name: str) -> None:
    text = as_text(Report("1", name, tuple(results), ()))
    assert all(char == "\n" or char.isprintable() for char in text)
    assert text.splitlines()[-1].startswith(f"{sum(result.status == 'ok' for result in results)} ok, ")


def test_subjects_of_which_the_same_is_said_share_a_row() -> None:
    same = [Result("gpus.mig", f"GPU {number}", "ok", "off") for number in (0, 1, 2, 5)]
    other = Result("gpus.mig", "GPU 3", "warn", "on, and no instance is there", "make some")
    named = [Result("engines.page", url, "ok", "vllm") for url in ("http://a/metrics", "http://b/metrics")]
    lines = as_text(report(*same, other, *named)).splitlines()
    assert lines[2:9] == [
        "gpus",
        "  ok    mig  GPU 0-2,5  off",
        "  WARN  mig  GPU 3      on, and no instance is there",
        "        fix: make some",
        "",
        "engines",
        "  ok    page  http://a/metrics, http://b/metrics  vllm",
    ]


def test_a_topic_that_was_skipped_as_a_whole_is_one_line() -> None:
    text = as_text(report(Result("dcgm.page", "", "skipped", "no"), Result("dcgm.gpus", "", "skipped", "no")))
    assert text.splitlines()[2:4] == ["dcgm", "  skip  no"]


def test_colours_are_for_terminals_alone() -> None:
    bad = report(Result("driver.nvml", "", "fail", "x", "y"))
    assert "\033" not in as_text(bad)
    assert "\033[31mFAIL\033[0m" in as_text(bad, colour=True)
