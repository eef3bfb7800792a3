"""scaler.simulate.history and history_*: what was recorded becomes arrivals again."""

# ruff: noqa: E501 -- one row a case: a wrapped table cannot be scanned

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.core.record import Record, line
from scaler.core.view import Replica
from scaler.simulate.generators import generate
from scaler.simulate.history import History, Interval, to_trace
from scaler.simulate.history_prometheus import from_prometheus
from scaler.simulate.history_records import from_journal, records
from scaler.simulate.traces import TraceError

T0 = 1_700_000_000.0


def _record(at: float, *replicas: Replica, **fields: Any) -> bytes:
    values: dict[str, Any] = {"reason": "running", "explanation": "", "required_replicas": 2.0, "active": True} | fields
    return line(Record(time=T0 + at, **({"namespace": "default", "name": "llama"} | values), replicas=replicas))


def _replica(pod: str, finished: float | None, **fields: Any) -> Replica:
    values: dict[str, Any] = {"reading_age": 0.0, "waiting": 0.0, "running": 0.0} | fields
    return Replica(pod=pod, requests_finished_total=finished, **values)


def _arrivals(*lines: bytes) -> list[float]:
    return [round(interval.arrivals, 6) for interval in from_journal(lines).intervals]


#: (what happens, the records' replicas at 0, 15, 30 ... s, requests that arrived in each interval)
COUNTS = [
    ("finished", [[_replica("a", 100)], [_replica("a", 110)], [_replica("a", 113)]], [10, 3]),
    ("waiting and running grow", [[_replica("a", 0)], [_replica("a", 2, waiting=3.0, running=5.0)]], [10]),
    ("a queue is worked off", [[_replica("a", 0, waiting=8.0)], [_replica("a", 8)]], [0]),
    ("two replicas", [[_replica("a", 0), _replica("b", 50)], [_replica("a", 4), _replica("b", 53)]], [7]),
    ("a counter is reset", [[_replica("a", 100)], [_replica("a", 4)]], [4]),
    ("an engine dies with its queue, which comes back", [[_replica("a", 9, running=6.0)], [_replica("a", 0)], [_replica("a", 1, running=9.0)]], [0, 4]),
    ("a new pod counts from 0", [[_replica("a", 100)], [_replica("a", 100), _replica("b", 3, running=2.0)]], [5]),
    ("a pod that goes takes nothing back", [[_replica("a", 5), _replica("b", 5, running=9.0)], [_replica("a", 8)]], [3]),
    ("a pod not heard of for a while is no new one", [[_replica("a", 5), _replica("b", 90)], [_replica("a", 5)], [_replica("a", 5), _replica("b", 94)]], [2, 2]),
    ("a pod known and not read is no new one", [[_replica("a", 5), Replica(pod="b")], [_replica("a", 5), _replica("b", 90)], [_replica("a", 5), _replica("b", 91)]], [0, 1]),
    ("a reading that is told twice", [[_replica("a", 5)], [_replica("a", 5, reading_age=15.0)], [_replica("a", 9)]], [2, 2]),
    ("what is missing counts when it is seen again", [[_replica("a", 5)], [_replica("a", 6, running=None)], [_replica("a", None, running=2.0)]], [2, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("states", "expected"), [row[1:] for row in COUNTS], ids=[row[0] for row in COUNTS])
def test_arrivals_are_what_finished_and_what_grew(states: list[list[Replica]], expected: list[float]) -> None:
    assert _arrivals(*(_record(15.0 * index, *replicas) for index, replicas in enumerate(states))) == expected


def test_a_reading_counts_when_it_was_read() -> None:
    # Read at 0 s and at 30 s, though told 15 s later: it came in both intervals before.
    lines = [_record(0, _replica("a", 0)), _record(45, _replica("a", 30, reading_age=15.0))]
    assert _arrivals(*lines) == [15, 15, 0]


def test_the_gateways_queue_is_not_counted_twice() -> None:
    lines = [
        _record(0, _replica("a", 0), gateway_waiting=0.0),
        _record(15, _replica("a", 0), gateway_waiting=6.0),
        _record(30, _replica("a", 0, running=6.0), gateway_waiting=0.0),
    ]
    assert _arrivals(*lines) == [6, 0]


def test_an_interval_has_the_tokens_and_the_answer_then() -> None:
    history = from_journal(
        [
            _record(0, _replica("a", 0, prompt_tokens_total=100.0, generation_tokens_total=10.0)),
            _record(14, _replica("a", 5, prompt_tokens_total=600.0, generation_tokens_total=60.0), reason="queue"),
            _record(
                30,
                _replica("a", 5, prompt_tokens_total=600.0, generation_tokens_total=60.0),
                Replica(pod="b"),
                reason="unknown",
                required_replicas=None,
            ),
        ]
    )
    assert history.intervals == (
        Interval(0.0, 15.0, 5.0, 500.0, 50.0, 1, 2.0, "queue"),
        Interval(15.0, 15.0, 0.0, 0.0, 0.0, 2, None, "unknown"),
    )
    assert (history.name, history.start, history.seconds, history.notes) == ("default/llama", T0, 30.0, ())


def test_bad_lines_are_counted_and_the_first_is_named() -> None:
    good = [_record(15.0 * index, _replica("a", 10.0 * index)) for index in range(3)]
    history = from_journal([good[0], b"{broken\n", "\n", good[1].decode(), b'{"time": "no"}', b"\xff\n", good[2]])
    assert [interval.arrivals for interval in history.intervals] == [10, 10]
    assert history.skipped == 3
    assert history.first_skipped.startswith("line 2: ")


def test_records_are_put_into_the_order_of_time() -> None:
    lines = [_record(15.0 * index, _replica("a", 10.0 * index)) for index in (2, 0, 1)]
    assert [record.time - T0 for record in records(lines, "", "", "x").records] == [0, 15, 30]
    assert _arrivals(*lines) == [10, 10]


def test_a_history_begins_where_replicas_were_seen_and_tells_of_gaps() -> None:
    lines = [
        _record(0, reason="unknown", required_replicas=None),
        _record(100, _replica("a", 1000)),
        _record(700, _replica("a", 1060)),
    ]
    history = from_journal(lines)
    assert history.start == T0 + 100
    assert [interval.arrivals for interval in history.intervals] == [pytest.approx(1.5)] * 40
    assert history.notes[0] == "nothing was recorded for 600 s at once: what came then is spread evenly"
    assert history.notes[1:] == tuple(
        f"{word} tokens were not recorded: lengths are those of Azure's conversations"
        for word in ("prompt", "generated")
    )


def test_one_of_several_objects_is_chosen() -> None:
    lines = [_record(at, _replica("a", at), name=name) for name, at in (("x", 0), ("y", 0), ("x", 15), ("y", 30))]
    assert from_journal(lines, name="x").seconds == 15
    assert from_journal(lines, "default", "y").seconds == 30


SEVERAL = [_record(0, _replica("a", 0), name=name) for name in ("x", "y")]
BAD_JOURNALS = [
    ([], {}, "file records: holds no record (it is empty)"),
    ([b"time,waiting\n"], {}, "holds no record (line 1: "),
    (SEVERAL, {}, "holds records of several objects; choose one of: default/x, default/y"),
    (SEVERAL, {"name": "z"}, "holds no record of */z; choose one of: default/x, default/y"),
    (SEVERAL, {"namespace": "prod", "name": "x"}, "holds no record of prod/x;"),
    ([_record(0), _record(15)], {}, "has no two records with replicas in them"),
    ([_record(0, _replica("a", 0))], {}, "has no two records with replicas in them"),
    ([_record(0, _replica("a", None)), _record(15, _replica("a", None))], {}, "no replica counts the requests"),
    ([_record(0, _replica("a", 0)), _record(1e10, _replica("a", 1))], {}, "spans 115741 days; is a time wrong?"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "choice", "error"), BAD_JOURNALS, ids=[row[2][:40] for row in BAD_JOURNALS])
def test_a_bad_record_file_is_refused_in_one_line(lines: list[bytes], choice: dict[str, str], error: str) -> None:
    with pytest.raises(TraceError) as caught:
        from_journal(lines, **choice)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


# Prometheus


def _matrix(*series: tuple[dict[str, str] | str, list[tuple[float, float | str]]]) -> dict[str, Any]:
    result = [
        {
            "metric": {"__name__": labels} if isinstance(labels, str) else labels,
            "values": [[T0 + at, str(value)] for at, value in values],
        }
        for labels, values in series
    ]
    # As it comes: through JSON.
    answer: dict[str, Any] = json.loads(
        json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})
    )
    return answer


def _of(name: str, **labels: str) -> dict[str, str]:
    return {"__name__": name, **labels}


DONE, RUNNING = "vllm:request_success_total", "vllm:num_requests_running"
ANSWERS = [
    ("a counter", [(DONE, [(0, 5), (60, 65), (120, 70)])], [60, 5]),
    ("a reset", [(DONE, [(0, 500), (60, 6), (120, 12)])], [6, 6]),
    ("several series are summed", [(_of(DONE, pod="a"), [(0, 5), (60, 6)]), (_of(DONE, pod="b"), [(0, 0), (60, 9)])], [10]),
    ("one that came later began at 0", [(_of(DONE, pod="a"), [(0, 5), (60, 6), (120, 7)]), (_of(DONE, pod="b"), [(120, 4)])], [1, 5]),
    ("a hole", [(_of(DONE, pod="a"), [(0, 0), (60, 0), (120, 0)]), (_of(DONE, pod="b"), [(0, 0), (120, 10)])], [5, 5]),
    ("what runs is counted", [(DONE, [(0, 0), (60, 4)]), (RUNNING, [(0, 1), (60, 3)])], [6]),
    ("NaN is passed over", [(DONE, [(0, 0), (60, "NaN"), (120, 10)]), (RUNNING, [(0, 0), (60, 0), (120, 0)])], [5, 5]),
    ("our own names", [("plimsoll_engine_requests_finished_total", [(0, 0), (15, 4)])], [4]),
    ("rates", [("arrivals", [(0, 9), (60, 2), (120, 0.5)])], [120, 30]),
    ("other series", [(DONE, [(0, 0), (60, 4)]), ("up", [(0, 1), (30, 1)]), ({}, [(0, 1)])], [4]),
]  # fmt: skip


@pytest.mark.parametrize(("series", "expected"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_an_answer_becomes_arrivals(series: list[Any], expected: list[float]) -> None:
    history = from_prometheus(_matrix(*series), "answer.json", "file answer.json")
    assert [round(interval.arrivals, 6) for interval in history.intervals] == expected
    assert history.start == T0


def test_an_answer_has_tokens_and_no_decisions() -> None:
    history = from_prometheus(
        _matrix(
            ("arrivals", [(0, 1), (60, 2)]), ("prompt_tokens", [(0, 1), (60, 50)]), ("generation_tokens", [(60, 10)])
        ),
        "monday.json",
        "file monday.json",
    )
    assert history.intervals == (Interval(0.0, 60.0, 120.0, 3000.0, 600.0, None, None, ""),)
    assert (history.name, history.notes) == ("monday.json", ())


GOOD_DATA = _matrix((DONE, [(0, 5), (60, 65)]))["data"]
BAD_ANSWERS = [
    ({}, "status None"),
    ({"status": "error", "errorType": "bad_data", "error": "parse\nerror"}, "status error, bad_data: parse\\nerror; correct"),
    ({"status": "success"}, "resultType is None, not matrix"),
    ({"status": "success", "data": {"resultType": "vector", "result": []}}, "resultType is vector, not matrix; ask /api/v1/query_range"),
    ({"status": "success", "data": {"resultType": "matrix"}}, "no matrix (Expected `array`"),
    ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "x"]]}]}}, "no matrix (could not"),
    ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1]]}]}}, "no matrix (Expected"),
    (_matrix(), "no series counts requests; found nothing; query {__name__=~"),
    (_matrix(("up", [(0, 1)]), ({}, [(0, 1)])), "no series counts requests; found no name, up; query"),
    (_matrix((RUNNING, [(0, 1), (60, 1)])), "no series counts requests"),
    (_matrix((DONE, [(0, 1)])), "has one moment"),
    (_matrix((DONE, [(0, 1), (60, 2)]), ("arrivals", [(0, 1), (60, 1)])), "holds series of rates and vllm, which count the same"),
    (_matrix((DONE, [(0, 1), (1, 1), (1e8, 2)])), "spans 1157.41 days"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "error"), BAD_ANSWERS, ids=[row[1][:40] for row in BAD_ANSWERS])
def test_a_bad_answer_is_refused_in_one_line(answer: dict[str, Any], error: str) -> None:
    with pytest.raises(TraceError) as caught:
        from_prometheus(answer, "answer.json", "file answer.json")
    assert error in str(caught.value)
    assert str(caught.value).startswith("file answer.json: ")
    assert "\n" not in str(caught.value)


_ANYTHING = st.recursive(
    st.none() | st.floats() | st.integers() | st.sampled_from(["success", "matrix", "1", "NaN", DONE]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "metric", "values", "__name__"]), inner
        )
    ),
    max_leaves=12,
)


@given(_ANYTHING, st.dictionaries(st.sampled_from(["status", "data", "error"]), _ANYTHING), st.floats(), st.text())
@settings(max_examples=150)
def test_any_answer_is_a_history_or_a_trace_error(result: Any, answer: dict[str, Any], at: float, text: str) -> None:
    series = [{"metric": {"__name__": DONE}, "values": [[at, text], [0, "1"], [60, "2"]]}]
    for data in (result, {"resultType": "matrix", "result": result}, {"resultType": "matrix", "result": series}):
        for given_answer in (answer, {"status": "success", "data": data}):
            refusal = ""
            try:
                assert from_prometheus(given_answer, "answer.json", "file answer.json").intervals
            except TraceError as error:
                refusal = str(error)
            assert "\n" not in refusal


# Back to requests


def _history(*arrivals: float, prompt: float | None = 1000.0, output: float | None = 50.0) -> History:
    return History(
        "h",
        T0,
        tuple(
            Interval(
                15.0 * index,
                15.0,
                count,
                None if prompt is None else count * prompt,
                None if output is None else count * output,
                1,
                1.0,
                "",
            )
            for index, count in enumerate(arrivals)
        ),
    )


def test_requests_come_back_in_number_time_and_mean_length() -> None:
    trace = to_trace(_history(30, 0, 60, 3), seed=1, prompt_cv=0, output_cv=0)
    times = [arrival.at for arrival in trace.arrivals]
    assert times == sorted(times)
    assert [sum(low <= at < low + 15 for at in times) for low in (0, 15, 30, 45)] == [30, 0, 60, 3]
    assert {arrival[1:] for arrival in trace.arrivals} == {(1000, 50, 0)}
    assert trace.seconds == 60
    # Evenly: each in its own part of the interval.
    assert [int(at / 0.5) for at in times[:30]] == list(range(30))


def test_fractions_of_requests_add_up() -> None:
    assert len(to_trace(_history(*[0.4] * 100), seed=1).arrivals) == 40


def test_lengths_follow_the_hour_and_are_spread() -> None:
    calm, busy = _history(*[20.0] * 40), _history(*[20.0] * 40, prompt=3000.0)
    shifted = tuple(i._replace(at=i.at + 600) for i in busy.intervals)
    trace = to_trace(calm._replace(intervals=calm.intervals + shifted), seed=1)
    early = [arrival.prompt for arrival in trace.arrivals if arrival.at < 400]
    late = [arrival.prompt for arrival in trace.arrivals if arrival.at > 800]
    assert sum(early) / len(early) == pytest.approx(1000, rel=0.15)
    assert sum(late) / len(late) == pytest.approx(3000, rel=0.15)
    assert len(set(early)) > 100


def test_lengths_that_were_not_recorded_are_azures() -> None:
    trace = to_trace(_history(10, prompt=None, output=None), seed=1, prompt_cv=0, output_cv=0)
    assert {arrival[1:] for arrival in trace.arrivals} == {(1155, 211, 0)}


def test_a_trace_is_its_history_and_seed() -> None:
    history = _history(10, 20)
    assert to_trace(history, 1) == to_trace(history, 1)
    assert to_trace(history, 1).arrivals != to_trace(history, 2).arrivals


@pytest.mark.parametrize("arrivals", [0.0, 1e8])
def test_nothing_and_too_much_are_refused(arrivals: float) -> None:
    with pytest.raises(TraceError, match=r"^history h: .* requests arrived, from 1 to 10000000 can be replayed"):
        to_trace(_history(arrivals), 1)


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_what_a_journal_saw_of_a_trace_is_rebuilt(seed: int) -> None:
    """Each request takes 20 s; a record every 15 s. The number is right, and each 15 s to the request."""
    trace = generate("bursts", {"base": 2, "seconds": 900, "every": 300}, seed)
    lines = []
    for at in range(0, 1005, 15):
        come = [arrival for arrival in trace.arrivals if arrival.at <= at]
        done = [arrival for arrival in come if arrival.at + 20 <= at]
        lines.append(
            _record(
                at,
                _replica(
                    "a",
                    len(done),
                    running=float(len(come) - len(done)),
                    prompt_tokens_total=float(sum(arrival.prompt for arrival in come)),
                    generation_tokens_total=float(sum(arrival.output for arrival in done)),
                ),
            )
        )
    again = to_trace(from_journal(lines), seed, prompt_cv=0, output_cv=0)
    assert len(again.arrivals) == len(trace.arrivals)
    for begin in range(0, 900, 15):
        both = [sum(begin <= arrival.at < begin + 15 for arrival in one.arrivals) for one in (trace, again)]
        assert both[0] == both[1]
    for length in ("prompt", "output"):
        sums = [sum(getattr(arrival, length) for arrival in one.arrivals) for one in (trace, again)]
        assert sums[1] == pytest.approx(sums[0], rel=0.1)
