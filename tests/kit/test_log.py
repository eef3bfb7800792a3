"""kit/log.py: one event, one line."""

import json
import logging
import sys

import pytest

from exporter.kit.log import LEVELS, setup


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_logfmt_keeps_an_event_in_its_line(capsys):
    setup("info", "logfmt")
    logging.getLogger("some.place").info('two\nlines and a "quote"')
    (line,) = lines(capsys)
    assert line.startswith("ts=20")
    assert line.endswith('level=info logger=some.place msg="two\\nlines and a \\"quote\\""')


@pytest.mark.parametrize("message", ["listening", 'a"b', "a=b", "", "ünï"])
def test_a_value_that_could_be_misread_is_quoted(capsys, message):
    setup("info", "logfmt")
    logging.getLogger("x").info(message)
    (line,) = lines(capsys)
    plain = message in ("listening", "ünï")
    assert line.endswith(f"msg={message}" if plain else f"msg={json.dumps(message)}")


def test_json_is_one_object_a_line_with_the_trace(capsys):
    setup("info", "json")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("x").error("failed %d times", 2, exc_info=sys.exc_info())
    (line,) = lines(capsys)
    event = json.loads(line)
    assert (event["level"], event["logger"], event["msg"]) == ("error", "x", "failed 2 times")
    assert event["trace"].endswith("OSError: gone")


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_the_least_that_is_shown(capsys, level):
    setup(level, "logfmt")
    for name in LEVELS:
        logging.getLogger("x").log(getattr(logging, name.upper()), name)
    shown = [line.rpartition("msg=")[2] for line in lines(capsys)]
    assert shown == list(LEVELS[LEVELS.index(level) :])
