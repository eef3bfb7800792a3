"""kit/config.py: where a value comes from, and what a bad one is answered with."""

import contextlib
import math
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.kit import yaml_file
from exporter.kit.config import (
    ConfigError,
    Option,
    boolean,
    choice,
    integer,
    listen,
    load,
    seconds,
    string,
    strings,
)

OPTIONS = (
    Option("web.listen-address", listen, ("", 9480), "where"),
    Option("interval", seconds, 1.0, "100 % of the time"),
    Option("targets", strings, (), "whom"),
    Option("source", choice("nvml", "off"), "nvml", "who"),
    Option("streams.max", integer(1, 9), 4, "how many"),
    Option("deep", boolean, False, "whether"),
    Option("rows", lambda raw: tuple(raw.split(",")), (), "own list", many=True),
)
DEFAULTS = {
    "web_listen_address": ("", 9480),
    "interval": 1.0,
    "targets": (),
    "source": "nvml",
    "streams_max": 4,
    "deep": False,
    "rows": (),
}


def read(*argv, environ=None):
    return load("program", "1.2.3", OPTIONS, argv, environ or {})


@pytest.fixture
def config(tmp_path):
    def write(content):
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_defaults():
    assert read() == DEFAULTS


def test_flag_before_environment_before_file_before_default(config):
    path = config("interval: 4s\nsource: off\nstreams.max: 2\ntargets: [a, b]\nweb.listen-address: '[::1]:80'\n")
    environ = {"PLIMSOLL_CONFIG_FILE": path, "PLIMSOLL_INTERVAL": "3s", "PLIMSOLL_STREAMS_MAX": "3"}
    assert read("--interval=2s", environ=environ) == DEFAULTS | {
        "interval": 2.0,
        "streams_max": 3,
        "source": "off",
        "targets": ("a", "b"),
        "web_listen_address": ("::1", 80),
    }


def test_the_flag_for_the_file_beats_its_variable(config):
    assert read("--config.file", config("interval: 9"), environ={"PLIMSOLL_CONFIG_FILE": "/nowhere"})["interval"] == 9.0


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_read_from_its_flag_and_its_variable(option):
    # argparse would file a flag with a dash under another name.
    good = {"web_listen_address": ":1", "interval": "5s", "source": "off", "streams_max": "5", "deep": "yes"}
    field = option.name.replace(".", "_").replace("-", "_")
    raw = good.get(field, "x")
    assert read(f"--{option.name}={raw}")[field] == option.parse(raw) != DEFAULTS[field]
    assert read(environ={f"PLIMSOLL_{field.upper()}": raw})[field] == option.parse(raw)


def test_a_repeated_flag_adds_to_a_list_and_replaces_a_value():
    values = read("--targets=a,b", "--targets", "c", "--interval=1s", "--interval=2s", "--rows=x", "--rows=y")
    assert (values["targets"], values["interval"], values["rows"]) == (("a", "b", "c"), 2.0, ("x", "y"))


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n"], ids=["empty", "comment", "document"])
def test_a_file_without_options_is_good(config, content):
    assert read("--config.file", config(content)) == DEFAULTS


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        read("--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for part in ("--config.file", ":9480", "100 % of the time", "(default: 1)", "--streams.max"):
        assert part in shown


def test_version(capsys):
    with pytest.raises(SystemExit):
        read("--version")
    assert capsys.readouterr().out == "program 1.2.3\n"


# name, arguments, how the line goes on after "command line: " or "flag "
BAD_FLAGS = [
    ("unknown flag", ["--intervall=1s"], "unrecognized arguments: --intervall=1s; did you mean --interval?"),
    ("nothing alike", ["--qqq"], "unrecognized arguments: --qqq; see program --help"),
    ("stray word", ["1s"], "unrecognized arguments: 1s; see program --help"),
    ("flag without value", ["--interval"], "argument --interval: expected one argument; see program --help"),
    ("abbreviated flag", ["--inter=1s"], "unrecognized arguments: --inter=1s; did you mean --interval?"),
    ("newline in a word", ["a\nb"], "unrecognized arguments: a b; see program --help"),
    ("duration", ["--interval=1x"], "--interval: '1x' is not a duration; write for example 500ms, 15s or 2m"),
    ("zero", ["--interval=0s"], "--interval: '0s' is not above zero; write for example 15s"),
    ("choice", ["--source=dcgm"], "--source: 'dcgm' is not one of nvml, off"),
    ("number", ["--streams.max=10"], "--streams.max: '10' is not a whole number from 1 to 9"),
    ("address", ["--web.listen-address=80"], "--web.listen-address: '80' is not an address; write host:port"),
    ("boolean", ["--deep=perhaps"], "--deep: 'perhaps' is neither true nor false"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "line"), [row[1:] for row in BAD_FLAGS], ids=[row[0] for row in BAD_FLAGS])
def test_a_bad_command_line_is_one_line(argv, line):
    with pytest.raises(ConfigError) as error:
        read(*argv)
    assert re.match("command line: |flag ", str(error.value))
    assert re.sub("^command line: |^flag ", "", str(error.value)).startswith(line)
    assert "\n" not in str(error.value)


def test_a_bad_variable_is_named():
    with pytest.raises(ConfigError) as error:
        read(environ={"PLIMSOLL_INTERVAL": "soon"})
    assert str(error.value).startswith("environment PLIMSOLL_INTERVAL: 'soon' is not a duration; ")


# name, content, the line after "file PATH:"
BAD_FILES = [
    ("unknown key", "intervall: 1s", "key intervall: unknown; did you mean interval?"),
    ("key that is like none", "zzz: 1", "key zzz: unknown; known keys: web.listen-address, interval,"),
    ("key that is no text", "7: 1", "key 7: unknown; known keys:"),
    ("key of two lines", '"a\\nb": 1', "key 'a\\nb': unknown; known keys:"),
    ("bad value", "interval: soon", "key interval: 'soon' is not a duration; write for example 500ms, 15s or 2m"),
    ("no value", "interval:", "key interval: 'None' is not a duration;"),
    ("true is no duration", "interval: true", "key interval: True is not a duration; write for example 15s"),
    ("true is no number", "streams.max: true", "key streams.max: True is not a whole number from 1 to 9"),
    ("mapping for a list", "targets: {a: 1}", "key targets: {'a': 1} is not a list of texts; write a YAML list,"),
    ("list of numbers", "targets: [1]", "key targets: [1] is not a list of texts; write a YAML list,"),
    ("not a mapping", "- interval", "holds a list; write `option: value`, one option a line"),
    ("only text", "interval", "holds a str; write `option: value`, one option a line"),
    ("syntax", "interval: [1s", "line 1 column 14: expected ',' or ']', but got '<stream end>'; write YAML with"),
    ("a tab", "interval:\n\t- 1", "line 2 column 1: found character '\\t' that cannot start any token; write YAML"),
    ("two documents", "interval: 1s\n---\ninterval: 2s", "line 2 column 1: but found another document; write YAML"),
    ("an object of Python", "interval: !!python/object:os.system {}", "line 1 column 11: could not determine a con"),
    ("a day that there is not", "interval: 2026-99-99", "it is not YAML text; write YAML with one option a line"),
    ("not text", b"\xff\xfe\x00", "it is not YAML text; write YAML with one option a line"),
    ("control characters", b"interval: \x00", "it is not YAML text; write YAML with one option a line"),
    ("deep", "[" * 5000, "it is not YAML text; write YAML with one option a line"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_a_bad_file_is_one_line_with_its_place(config, content, line):
    path = config(content)
    with pytest.raises(ConfigError) as error:
        read("--config.file", path)
    assert str(error.value).startswith(f"file {path}: {line}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError) as error:
        read("--config.file", "/nowhere/config.yaml")
    expected = "file /nowhere/config.yaml: cannot be read (No such file or directory); check --config.file"
    assert str(error.value) == expected


def _endless(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


# name, what is made of the path, the line after "file PATH: "
NO_FILES = [
    ("a FIFO", os.mkfifo, "cannot be read (not a regular file); check --config.file"),
    ("a device", lambda path: path.symlink_to("/dev/zero"), "cannot be read (not a regular file); check --config.file"),
    ("a directory", lambda path: path.mkdir(), "cannot be read (Is a directory); check --config.file"),
    ("a loop", lambda path: path.symlink_to(path), "cannot be read (Too many levels of symbolic links); check"),
    ("a terabyte", _endless, "has 1099511627776 bytes, 1048576 are allowed; check --config.file"),
]


@pytest.mark.parametrize(("make", "line"), [row[1:] for row in NO_FILES], ids=[row[0] for row in NO_FILES])
def test_what_is_no_file_to_read_is_one_line_at_once(tmp_path, make, line):
    path = tmp_path / "config.yaml"
    make(path)
    # In a process of its own: it may hang, and eat all memory.
    program = (
        "import resource, sys, tests.kit.test_config as t;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); t.read('--config.file', sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(path)]
    end = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert end.stderr.splitlines()[-1].startswith(f"exporter.kit.config.ConfigError: file {path}: {line}")


def test_a_file_of_proc_has_no_size_and_is_bounded_all_the_same(monkeypatch):
    monkeypatch.setattr(yaml_file, "LARGEST", 10)
    with pytest.raises(ConfigError, match="has 11 bytes, 10 are allowed"):
        read("--config.file", "/proc/self/status")


def test_a_file_that_kubernetes_mounts_is_read(tmp_path):
    """A ConfigMap's key is a link, by way of a link to a directory, which is exchanged when the map changes."""
    (tmp_path / "..2026_01").mkdir()
    (tmp_path / "..2026_01" / "config.yaml").write_text("interval: 7s")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    assert read("--config.file", str(tmp_path / "config.yaml"))["interval"] == 7.0


GOOD_VALUES = [
    (seconds, "500ms", 0.5),
    (seconds, "1m30s", 90.0),
    (seconds, "1.5h", 5400.0),
    (seconds, 15, 15.0),
    (seconds, "0.25", 0.25),
    (boolean, "Yes", True),
    (boolean, "off", False),
    (choice("off", "on"), False, "off"),
    (choice("off", "on"), True, "on"),
    (listen, ":0", ("", 0)),
    (listen, "127.0.0.1:80", ("127.0.0.1", 80)),
    (listen, "[::]:80", ("::", 80)),
    (strings, " a, b,,c ", ("a", "b", "c")),
    (string, 7, "7"),
]


@pytest.mark.parametrize(("parse", "raw", "value"), GOOD_VALUES, ids=lambda part: getattr(part, "__name__", repr(part)))
def test_good_values(parse, raw, value):
    assert parse(raw) == value


anything = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.text()), st.binary())


@given(st.sampled_from([seconds, boolean, choice("a"), integer(1, 9), listen, string, strings]), anything)
def test_a_value_is_parsed_or_a_ValueError(parse, raw):
    value = None
    with contextlib.suppress(ValueError):  # any other exception would be a traceback at start
        value = parse(raw)
    assert not isinstance(value, float) or (math.isfinite(value) and value > 0)
