"""The summary says what was measured, and no more."""

from scaler.demo.engine import Engine, Profile, Request
from scaler.demo.report import Report, quantile
from scaler.demo.traffic import Gateway


def gateway() -> Gateway:
    made = Gateway(lambda _: 2.0, 1, 0.0)
    made.add("r", Engine(Profile(), 0.0))
    made.advance(100.0)
    return made


def test_what_was_before_the_story_does_not_count() -> None:
    report, made = Report(), gateway()
    report.begin(made)
    text = "\n".join(report.lines(made))
    assert "0 came, 0 were served, 0 were sent again" in text
    assert "none was seen" in text
    assert "asked for nothing" in text
    assert "no answer" not in text
    assert "what happened  nothing" in text


def test_a_request_from_before_that_ends_now_does_not_count() -> None:
    report, made = Report(), gateway()
    report.begin(made)
    assert made.in_flight > 0
    made.advance(made.at + 100.0)
    came = made.arrived - sum(request.arrived <= 100.0 for request in made.finished)
    served = sum(request.arrived > 100.0 for request in made.finished)
    assert f"{came} came, {served} were served" in report.lines(made)[1]


def test_the_raw_queue_is_asked_at_the_same_moments() -> None:
    report, made = Report(), gateway()
    for value, waiting in ((2.0, 0.0), (3.4, 31.0), (None, 4.0)):
        report.asked(value, waiting)
    report.step(waiting=7, replicas=3, seconds=60.0)
    report.step(waiting=2, replicas=4, seconds=30.0)
    report.events.append((3.0, "something"))
    text = "\n".join(report.lines(made))
    assert "1.5 min of demo time" in text
    assert "most waiting   7" in text
    assert "5 replica-minutes" in text
    assert "asked for 2 to 4 replicas; had no answer 1 times" in text
    assert "at the same 3 moments, would have asked for 0 to 7 replicas, 1 times for 0" in text
    assert "3.0 s  something" in text


def test_quantile_is_a_value_that_was_seen() -> None:
    assert quantile([1.0], 0.95) == 1.0
    assert quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert quantile([1.0, 2.0], 0.5) == 1.0
    assert quantile([1.0, 2.0], 1.0) == 2.0


def test_a_request_that_never_got_a_token_is_no_wait() -> None:
    report, made = Report(), gateway()
    made.finished.append(Request(0.0, 1, 1))
    assert "first token    median" in "\n".join(report.lines(made))
