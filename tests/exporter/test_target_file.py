"""sources/target_file.py: the servers that the operator names, how pods are asked, and files that change."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.core.model import PodRef
from exporter.core.model_engines import Access, EngineTarget
from exporter.core.pods import Grant
from exporter.kit.config import ConfigError
from exporter.sources.target_file import MAX_TARGETS, TargetFile, grants, load_grants, load_targets, targets

FULL = {
    "url": "http://10.0.0.1:8000/metrics",
    "namespace": "inference",
    "pod": "llama-0",
    "container": "vllm",
    "labels": {"app": "llama", "tier": 1},
    "gpus": [0, "GPU-1/3"],
}

LISTS: dict[str, tuple[Any, tuple[EngineTarget, ...]]] = {
    "nothing": ("", ()),
    "an empty list": ([], ()),
    "a URL": ("http://a:8000/metrics", (EngineTarget("http://a:8000/metrics"),)),
    "URLs": (" http://a/m , https://b/m,", (EngineTarget("http://a/m"), EngineTarget("https://b/m"))),
    "no path": ("http://a:8000", (EngineTarget("http://a:8000/metrics"),)),
    "a slash": ("http://a:8000/", (EngineTarget("http://a:8000/metrics"),)),
    "a query": ("http://a:8000/m?x=1", (EngineTarget("http://a:8000/m?x=1"),)),
    "no path, a query": ("http://a:8000?x=1", (EngineTarget("http://a:8000/metrics?x=1"),)),
    "IPv6": ("http://[::1]:8000", (EngineTarget("http://[::1]:8000/metrics"),)),
    "a list of URLs": (["http://a/m"], (EngineTarget("http://a/m"),)),
    "a mapping": (
        [FULL],
        (
            EngineTarget(
                "http://10.0.0.1:8000/metrics",
                PodRef("inference", "llama-0", "vllm"),
                {"app": "llama", "tier": "1"},
                ("0", "GPU-1/3"),
            ),
        ),
    ),
    "how it is asked": (
        [
            {
                "url": "https://a/m",
                "ca_file": "/ca",
                "cert_file": "/cert",
                "key_file": "/key",
                "server_name": "llama",
                "token_file": "/token",
                "insecure_skip_verify": False,
            }
        ],
        (EngineTarget("https://a/m", access=Access("/ca", "/cert", "/key", "llama", "/token", False)),),
    ),
    "any certificate": (
        [{"url": "https://a/m", "insecure_skip_verify": True}],
        (EngineTarget("https://a/m", access=Access(insecure_skip_verify=True)),),
    ),
    "sizes": (
        [{"url": "http://a/m", "weights_bytes": "14.9Gi", "kv_bytes_per_token": 131072}],
        (EngineTarget("http://a/m", weights_bytes=14.9 * 2**30, kv_bytes_per_token=131072.0),),
    ),
    "empty values": ([{"url": "http://a/m", "pod": None, "labels": None, "gpus": None}], (EngineTarget("http://a/m"),)),
}


@pytest.mark.parametrize("name", LISTS)
def test_targets(name: str) -> None:
    raw, expected = LISTS[name]
    assert targets(raw) == expected


BAD_LISTS: dict[str, tuple[Any, str]] = {
    "a number": (5, "holds a int; write a list"),
    "a mapping": ({"url": "http://a"}, "holds a dict; write a list"),
    "a list of numbers": ([5], "entry 1: 5 is neither a URL nor a mapping"),
    "a list in a list": ([["http://a"]], "entry 1: .* is neither a URL nor a mapping"),
    "twice": ("http://a/m,http://a/m", "entry 2: http://a/m is there twice; remove one"),
    "twice, once without the path": ("http://a,http://a/metrics", "entry 2: http://a/metrics is there twice"),
    "no URL": ([{"pod": "x"}], "entry 1: '' is no http or https URL with a host; write http://host:port/metrics"),
    "an empty URL": ([""], "entry 1: '' is no http"),
    "a host and port": ("10.0.0.1:8000", "entry 1: '10.0.0.1:8000' is no http or https URL"),
    "a file": ("file:///etc/passwd", "is no http or https URL"),
    "no host": ("http:///metrics", "is no http or https URL"),
    "port 0": ("http://a:0/", "is no http or https URL"),
    "a port too high": ("http://a:99999/", "is no URL"),
    "half an IPv6 address": ("http://[::1/", "is no URL"),
    "credentials": ("http://user:secret@a/m", "the URL of a holds credentials"),
    "a fragment": ("http://a/m#x", "has a fragment"),
    "a blank": ("http://a/m x", "a blank or a control character"),
    "a newline": (["http://a/m\nX"], "a blank or a control character"),
    "an unknown key": ([{"url": "http://a", "port": 5}], "entry 1: key 'port' is unknown; known keys: url, namespace"),
    "a pod that is a list": ([{"url": "http://a", "pod": ["x"]}], "entry 1: key pod is no text"),
    "a URL that is a number": ([{"url": 5}], "entry 1: '5' is no http"),
    "labels that are a list": ([{"url": "http://a", "labels": ["x"]}], "entry 1: key labels is no mapping"),
    "labels in labels": ([{"url": "http://a", "labels": {"a": {}}}], "entry 1: key labels is no mapping"),
    "gpus that are a text": ([{"url": "http://a", "gpus": "0"}], "entry 1: key gpus is no list"),
    "gpus that are true": ([{"url": "http://a", "gpus": [True]}], "entry 1: key gpus is no list"),
    "a path that is relative": (
        [{"url": "https://a", "ca_file": "ca.crt"}],
        "entry 1: key ca_file: 'ca.crt' is no abs",
    ),
    "a path that is none": ([{"url": "https://a", "ca_file": ["/ca"]}], "entry 1: key ca_file is no text"),
    "a path with a newline": (
        [{"url": "https://a", "ca_file": "/ca\n"}],
        "entry 1: key ca_file: .* is no absolute path",
    ),
    "a key alone": ([{"url": "https://a", "key_file": "/k"}], "entry 1: key key_file is there without cert_file"),
    "perhaps": ([{"url": "https://a", "insecure_skip_verify": "maybe"}], "is neither true nor false"),
    "one": ([{"url": "https://a", "insecure_skip_verify": 1}], "is neither true nor false"),
    "a token over http": (
        [{"url": "http://a/m", "token_file": "/t"}],
        "entry 1: key token_file: a token is not sent over plain http; write https://a/m",
    ),
    "a size that is none": ([{"url": "http://a", "weights_bytes": "much"}], "entry 1: key weights_bytes: 'much' is no"),
    "a size that is true": ([{"url": "http://a", "weights_bytes": True}], "entry 1: key weights_bytes is no number"),
    "a size of nothing": ([{"url": "http://a", "kv_bytes_per_token": 0}], "entry 1: key kv_bytes_per_token: '0' is no"),
    "too many": ([f"http://a{i}/" for i in range(MAX_TARGETS + 1)], "257 entries; at most 256 are allowed"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_names_the_entry_and_the_fix(name: str) -> None:
    raw, message = BAD_LISTS[name]
    with pytest.raises(ValueError, match=message) as caught:
        targets(raw)
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "engines.yaml"


def test_a_file_is_yaml_or_json(path: Path) -> None:
    path.write_text("- http://a/m\n- {url: http://b/m, pod: x}\n")
    expected = (EngineTarget("http://a/m"), EngineTarget("http://b/m", PodRef("", "x", "")))
    assert load_targets(str(path)) == expected
    path.write_text(json.dumps(["http://a/m", {"url": "http://b/m", "pod": "x"}]))
    assert load_targets(str(path)) == expected
    path.write_text("[]\n")
    assert load_targets(str(path)) == ()


BAD_FILES = {
    "not YAML": ("- {", "line [12] column [0-9]+: expected the node content.*; write a list"),
    "a date that is none": ("- 2026-99-99", "it is not YAML text"),
    "bytes": ("\x00\x01", "it is not YAML text"),
    "a tag": ("- !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "a tag that does not fit": ("- !!bool maybe", "it is not YAML text"),
    "empty, as while it is being written": ("# nothing yet\n", "is empty; write \\[\\] for no engines"),
    "an alias": ("- &a http://a/m\n- *a\n", "line 2 column 3: an alias"),
    "a key twice": ("- {url: http://a/m, pod: x, pod: y}", "a key that is there twice"),
    "half a character": ('["\\ud83d"]', "half a character"),
    "a mapping": ("engines: [http://a]", "holds a dict; write a list of URLs"),
    "a bad entry": ("- http://a/m\n- http://b/m\n- ftp://c\n", "entry 3: 'ftp://c' is no http"),
    "deep": ("[" * 5000, "it is not YAML text"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_names_itself(name: str, path: Path) -> None:
    content, message = BAD_FILES[name]
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^file {path}:? ?.*{message}") as caught:
        load_targets(str(path))
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); check --engines.file"):
        TargetFile(str(path))


def test_a_file_is_read_again_when_it_changes_and_a_bad_one_keeps_the_list(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.engines")
    path.write_text("- http://a/m\n")
    file = TargetFile(str(path))
    first = file()
    assert [target.url for target in first] == ["http://a/m"]
    assert file() is first  # not read again

    path.write_text("- http://a/m\n- http://b/m\n")
    assert [target.url for target in file()] == ["http://a/m", "http://b/m"]
    path.write_text("- ftp://c\n")
    for _ in range(3):
        assert len(file()) == 2
    path.unlink()
    for _ in range(3):
        assert len(file()) == 2
    other = path.with_name("other")
    other.write_text("- http://d/m\n")
    os.replace(other, path)  # as Kubernetes swaps a ConfigMap
    assert [target.url for target in file()] == ["http://d/m"]
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "ERROR", "INFO"]
    assert "entry 1: 'ftp://c'" in caplog.records[1].getMessage()
    assert "the list of before stays" in caplog.records[2].getMessage()


def test_how_pods_are_asked(path: Path) -> None:
    path.write_text(
        "- {namespace: inference, labels: {app: llama}, ca_file: /ca, server_name: llama.inference.svc}\n"
        "- {namespace: lab, token_file: /token, insecure_skip_verify: true}\n"
    )
    assert load_grants(str(path)) == (
        Grant(Access("/ca", server_name="llama.inference.svc"), "inference", {"app": "llama"}),
        Grant(Access(token_file="/token", insecure_skip_verify=True), "lab"),  # noqa: S106 -- a file's name
    )


BAD_GRANTS: dict[str, tuple[Any, str]] = {
    "a mapping": ({}, "holds a dict; write a list of mappings with namespace"),
    "a URL": (["http://a"], "entry 1: 'http://a' is no mapping; write namespace, labels, ca_file"),
    "a host": ([{"url": "http://a"}], "entry 1: key 'url' is unknown; known keys: namespace, labels, ca_file"),
    "labels that are none": ([{}, {"labels": 5}], "entry 2: key labels is no mapping"),
    "a token for whoever wants it": (
        [{"token_file": "/t", "insecure_skip_verify": True, "labels": {"app": "llama"}}],
        "entry 1: key token_file: with insecure_skip_verify every pod of the cluster could have itself sent the token; "
        "write ca_file, or namespace",
    ),
    "too many": ([{}] * (MAX_TARGETS + 1), "257 entries; at most 256 are allowed"),
}


@pytest.mark.parametrize("name", BAD_GRANTS)
def test_a_bad_list_of_how_pods_are_asked(name: str, path: Path) -> None:
    raw, message = BAD_GRANTS[name]
    with pytest.raises(ValueError, match=message):
        grants(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=f"^file {path}: {message}"):
        load_grants(str(path))
