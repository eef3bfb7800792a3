"""The reports of a small hand-made comparison: whole outputs, and what must hold of any."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from scaler.simulate import comparison, report_html, report_json, report_replay, report_text, wording
from scaler.simulate.comparison import Comparison, Row
from scaler.simulate.model import Arrival, Change, Fault, Phases, Profile, Request, Run, Scenario, Tick, Trace
from scaler.simulate.outcome import Summary, summary
from scaler.simulate.then_now import Difference, Moment

PROFILE = Profile(
    "8b-h100", "an 8B model", "counted by hand", 0.01, 1e-4, 0, 2e-5, 0, 400_000, cold_start=Phases(0, 30, 60, 30)
)
NASTY = '<script>alert("x")</script>&\x1b[31m\udc80é'
#: Elements that have no end.
VOID = {"meta", "link", "br", "img", "hr", "input"}


def figures(attainment, gpu_hours, **others):
    usual = dict.fromkeys(Summary._fields, 0) | {"ttft_p50": 0.4, "ttft_p95": 1.5, "ttft_p99": 12.3}
    usual |= {"between_tokens_p95": 0.025, "e2e_p95": 123.4, "replicas_mean": 3.21}
    return Summary(**(usual | {"attainment": attainment, "gpu_hours": gpu_hours} | others))


def row(policy, attainment, gpu_hours, knob=None, bound=False, **others):
    return Row(policy, knob, "" if knob is None else "target", figures(attainment, gpu_hours, **others), bound)


def small_run(policy="plimsoll", knob=5.0, why="waiting=12 running=8: needs 3"):
    """Ten minutes; in the sixth the load is three times as large, and another replica loads for two minutes."""
    requests = []
    for second in range(600):
        for _ in range(3 if 300 <= second < 360 else 1):
            late = 300 <= second < 420
            made = Request(float(second), 200, 21)
            made.first_token = second + (4.5 if late else 0.25)
            made.finished = made.first_token + 0.5
            requests.append(made)
    requests[-1].first_token = requests[-1].finished = None
    ticks = []
    for at in range(0, 605, 5):
        loads = 315 <= at < 435
        waiting = 12 if 300 <= at < 430 else 0
        ticks.append(Tick(float(at), 5, waiting, 8, 2 + (at >= 435), int(loads), 0, 2 + (at >= 315)))
    scenario = Scenario(
        Trace("a step", [Arrival(each.arrived, each.prompt, each.output) for each in requests], 600.0),
        PROFILE,
        start=2,
        maximum=8,
        faults=(Fault(480.0, "lost", 0),),
    )
    changes = [Change(315.0, 2, 3, 2.6, "queue", why)]
    events = ((480.0, "replica 0 lost, 8 requests begun anew"),)
    return Run(scenario, policy, knob, requests, ticks, changes, 1500.0, 2, events, {"kept": 1 / 3})


def small(**others):
    run = small_run()
    rows = (
        row("keda-queue", 0.9312, 10.5, 10),
        row("keda-queue", 0.9931, 14.25, 2, queue_peak=33),
        Row("plimsoll", 5.0, "target", summary(run)),
        row("plimsoll", 0.995, 12.5, 2.0, ups_per_hour=12.5, downs_per_hour=9.25, reversals=3),
        row("hpa-cpu", 0.42, 15.0, ttft_p95=math.inf, ttft_p99=math.inf),
        row("perfect", 0.99996, 9.0, bound=True),
    )
    return Comparison(**({"scenario": run.scenario, "rows": rows, "runs": (run,)} | others))


def test_text_table(golden):
    made = small()
    golden("simulate/table.txt", report_text.table(made.rows, made.target))


def test_account(golden):
    golden("simulate/account.txt", report_text.account(small_run()))


def test_json(golden):
    golden("simulate/comparison.json", report_json.render(report_json.document(small())))


def test_html(golden):
    golden("simulate/comparison.html", report_html.page(small()))


def rows_of_names(*names):
    return [row(name, 0.99, 1234567.891, 0.123456, ttft_p99=math.inf) for name in names]


@pytest.mark.parametrize("rows", [rows_of_names("x" * 200), rows_of_names("a", "é" * 90, NASTY), small().rows, []])
def test_text_is_narrow_and_plain(rows):
    made = report_text.table(rows, 0.99)
    lines = made.splitlines()
    assert max(map(len, lines)) <= report_text.WIDTH
    assert made.isascii()
    assert "\x1b" not in made
    assert made.endswith("\n")


def test_a_long_knob_keeps_its_value():
    line = report_text.table([Row("p" * 60, 0.125, "target_" * 9, figures(0.99, 1234567.891))], 0.99).splitlines()[1]
    assert "~=0.125 " in line


def test_then_and_now_on_the_page():
    moment = Moment(0.0, 15.0, 2.0, 3.0, 4, 5.0, None)
    found = Difference(0.0, 15.0, 30.0, 15.0, 4, 6, NASTY, "needs 6")
    section = report_replay.section([moment], [found])
    read(section)
    assert '<th scope="row">0:00:00</th><td class="n">2</td><td class="n">3.0</td><td class="n">5.0</td>' in section
    assert '<td class="n">4</td><td class="n">-</td>' in section
    assert "0:00:00 to 0:00:15: by 0.01 replica-hours; at 0:00:15 4 then, 6 now" in section
    assert "needs 6" in section
    assert NASTY not in section
    read(report_html.page(small(), [section]))


def test_an_account_is_narrow_and_plain():
    made = report_text.account(small_run(NASTY, why=f"{NASTY}\nforged line " + "y" * 300))
    assert max(map(len, made.splitlines())) <= report_text.WIDTH
    assert made.isascii()
    assert "\x1b" not in made
    assert not any(line.startswith("forged") for line in made.splitlines())


def test_ranked_and_beaten():
    rows = [
        row("cheap but late", 0.5, 1.0),
        row("dear", 0.999, 20.0),
        row("less dear", 0.99, 10.0),
        row("near", 0.98, 11.0),
        row("nobody came", None, 3.0),
        row("twin", 0.99, 10.0),
        row("bound", 1.0, 0.5, bound=True),
    ]
    order = [each.policy for each in comparison.ranked(rows, 0.99)]
    assert order == ["bound", "less dear", "twin", "dear", "near", "cheap but late", "nobody came"]
    assert [each.policy for each in rows if comparison.dominated(each, rows)] == ["near"]
    assert comparison.best(rows, 0.99) == rows[2]
    assert comparison.best([rows[-1]], 0.99) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "Nothing was compared."),
        ([row("best", 1.0, 1.0, bound=True)], "Nothing was compared."),
        (
            [row("keda", 0.5, 2.0, 3)],
            "None attains 99% in time; nearest is keda (target=3), 50.00% in time with 2.00 GPU-hours.",
        ),
        (
            [row("plimsoll", 0.99, 2.0)],
            "plimsoll attains 99% in time with the fewest GPU-hours: 2.00, with 99.00% in time.",
        ),
        (
            [row("plimsoll", 0.99, 2.0), row("keda", 0.995, 3.0)],
            "plimsoll attains 99% in time with the fewest GPU-hours: 2.00, with 99.00% in time. "
            "The best of other policies, keda, needs 3.00, 50% more.",
        ),
        (
            [row("plimsoll", 0.99, 4.0), row("keda", 0.995, 3.0)],
            "keda attains 99% in time with the fewest GPU-hours: 3.00, with 99.50% in time. "
            "The best of ours, plimsoll, needs 4.00, 33% more.",
        ),
        (
            [row("plimsoll-next", 0.99, 2.0), row("keda", 0.98999, 1.0)],
            "plimsoll-next attains 99% in time with the fewest GPU-hours: 2.00, with 99.00% in time. "
            "Of other policies none attains it; nearest is keda, 98.99% in time with 1.00 GPU-hours.",
        ),
    ],
)
def test_verdict(rows, said):
    assert wording.verdict(small(rows=tuple(rows))) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00%"), (0.99999, "99.99%"), (1.0, "100.00%"), (0.57, "57.00%"), (0.29, "29.00%")],
)
def test_a_share_is_never_rounded_up(value, text):
    assert wording.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00"), (9.994, "9.99"), (12.34, "12.3"), (345.6, "346"), (math.inf, "never")],
)
def test_seconds(value, text):
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2 s"), (60.0, "1 min"), (90.0, "90 s"), (5400.0, "90 min"), (86400.0, "24 h")]
)
def test_span(value, text):
    assert wording.span(value) == text


def test_json_is_finite_rounded_and_the_same_every_time():
    text = report_json.render(report_json.document(small()))
    assert text == report_json.render(report_json.document(small()))
    made = json.loads(text, parse_constant=pytest.fail)
    assert made["schema"] == report_json.SCHEMA
    assert made["runs"][0]["facts"] == {"kept": 0.333333}
    assert made["scenario"]["faults"][0]["seconds"] is None
    assert [each["policy"] for each in made["rows"]][:2] == ["perfect", "plimsoll"]
    by_policy = {each["policy"]: each["summary"] for each in made["rows"]}
    assert by_policy["hpa-cpu"]["ttft_p95_seconds"] is None
    assert made["best"] == {"policy": "plimsoll", "knob": 2.0}


class Reader(HTMLParser):
    """Fails on elements that are not closed in order; collects attributes and elements."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def pages():
    named = small_run(NASTY, why=NASTY)
    scenario = named.scenario._replace(
        trace=named.scenario.trace._replace(name=NASTY),
        profile=named.scenario.profile._replace(name=NASTY),
        faults=(Fault(200.0, NASTY),),
    )
    named = named._replace(scenario=scenario, events=((310.0, NASTY),))
    nothing = Run(scenario, "nothing", None, [], [], [], 0.0, 0)
    rows = (*rows_of_names(NASTY, "other"), Row("nothing", None, "", summary(nothing)))
    return {
        "small": small(),
        "nasty": Comparison(scenario, rows, (named, nothing)),
        "one run": small(rows=()),
        "nothing": Comparison(scenario, ()),
        "one row": small(rows=(row("plimsoll", 1.0, 0.0),), runs=(), target=1.0),
    }


@pytest.mark.parametrize("name", list(pages()))
def test_page_is_whole_and_needs_nothing_else(name):
    page = report_html.page(pages()[name])
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(reader.seen)
    assert not {"src", "href", "xlink:href", "action"} & {key for key, _ in reader.attributes}
    assert not [key for key, _ in reader.attributes if key.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", page)
    assert not re.search(r"\bnan\b|\binf\b", page.lower())
    page.encode("utf-8")


def test_charts_have_words_and_a_table():
    page = report_html.page(small())
    reader = read(page)
    charts = page.count('<svg class="chart"')
    assert charts == 2
    assert page.count('role="img"') == page.count("<desc>") == charts
    assert reader.seen.count("table") == 2
    # Every run of the comparison is a mark that says what it is, and a row of the table.
    for each in small().rows:
        assert f"<title>{wording.label(each)}: " in page
    assert page.count('<tr class="ours') == 2


def test_a_large_page_stays_small():
    run = small_run()
    rows = tuple(row(f"policy-{index % 10}", 0.9 + index / 1001, 5 + index, index) for index in range(100))
    assert len(report_html.page(Comparison(run.scenario, rows, (run,) * 5)).encode()) < 1_000_000
