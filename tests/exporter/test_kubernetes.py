"""The sources of this node's pods against an API server, and a kubelet, over real HTTP, failing in every way."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
import trustme
import yaml

from exporter.core.model_engines import Access
from exporter.core.pods import Rules
from exporter.core.selector import parse
from exporter.kit import tasks
from exporter.kit.config import ConfigError
from exporter.kit.fetch import Fetcher
from exporter.sources import kubelet_pods, kubernetes, kubernetes_pods, kubernetes_starts
from exporter.sources.kubelet_pods import KubeletPods
from exporter.sources.kubernetes import LONGEST_PAUSE, PAGE, KubernetesSource, pause
from exporter.sources.kubernetes_cluster import in_cluster, kubeconfig, server
from tests.support.apiserver import NODE, FakeApi, broken_off, event, lines, pod, says, silent, status
from tests.support.server_tls import server_context

FIRST, SECOND = "first", "second"  # tokens
PATIENCE = 20.0  # seconds: only a hang reaches it


class Running:
    """A source that runs, and news of it."""

    def __init__(self, source):
        self.source = source
        self.news = asyncio.Event()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def has(self, *names):
        await self.until(lambda: self.names() == sorted(names))

    def names(self):
        return [target.pod.pod for target in self.source.targets()]

    @property
    def state(self):
        (collector,) = self.source.collectors()
        return collector


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(kubernetes, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(kubernetes, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(kubernetes_starts, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(kubelet_pods, "INTERVAL", 0.05)
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.02)


@pytest.fixture
async def api():
    async with FakeApi() as api:
        yield api


@asynccontextmanager
async def watching(api, rules=None, selector="", cluster=None):
    rules = rules or Rules(NODE)
    running = Running(KubernetesSource(cluster or server(api.url), rules, selector))
    running.source.start(running.news.set)
    try:
        yield running
    finally:
        await running.source.stop()


def ip(number):
    return f"10.0.{number // 250}.{number % 250 + 1}"


async def test_pods_are_listed_and_then_watched(api):
    await api.put(pod("llama-0"), pod("web", gpu=0), pod("elsewhere", node="node-b"))
    async with watching(api) as running:
        await running.has("llama-0")
        await api.until("watch", 1)
        await api.put(pod("llama-1", ip="10.0.0.8"))
        await running.has("llama-0", "llama-1")
        await api.put(pod("llama-1", ip="10.0.0.9"))
        await running.until(lambda: running.source.targets()[1].url == "http://10.0.0.9:8000/metrics")
        await api.put(pod("llama-0", phase="Succeeded"))
        await running.has("llama-1")
        await api.delete("inference", "llama-1")
        await running.has()
        assert running.source.facts() == {}
    assert (api.count("list"), api.count("watch")) == (1, 1)
    asked = dict(zip(api.requests, api.queries, strict=True))
    assert asked["list"] == {"fieldSelector": "spec.nodeName=node-a", "limit": str(PAGE)}
    assert asked["watch"]["allowWatchBookmarks"] == "true"
    assert 240 <= float(asked["watch"]["timeoutSeconds"]) <= 300
    assert set(api.tokens) == {""}


async def test_a_pod_is_followed_from_its_birth_to_its_death(api):
    async with watching(api) as running:
        await api.until("watch", 1)
        await api.put(pod(phase="Pending", ip=None))
        await running.until(running.source.facts)
        assert running.names() == []
        await api.put(pod())
        await running.has("llama-0")
        dying = pod()
        dying["metadata"]["deletionTimestamp"] = "2026-08-01T13:00:00Z"
        dying["metadata"]["labels"]["dying"] = "yes"
        await api.put(dying)
        await running.until(lambda: "dying" in running.source.targets()[0].labels)
        await api.delete("inference", "llama-0")
        await running.has()


async def test_a_long_list_comes_in_pages(api):
    names = [f"llama-{number:04}" for number in range(2 * PAGE + 7)]
    await api.put(*(pod(name, ip=ip(number)) for number, name in enumerate(names)))
    async with watching(api) as running:
        await running.has(*names)
    assert (api.count("list"), api.count("page")) == (1, 2)


async def test_a_page_that_is_too_large_is_asked_for_in_parts(api):
    api.faults = [says(b"[" * (8 << 20) + b"[")]
    await api.put(pod())
    async with watching(api) as running:
        await running.has("llama-0")
    assert [query["limit"] for query in api.queries if "limit" in query and "watch" not in query][:2] == ["100", "50"]
    assert running.state.success


async def test_namespaces_are_listed_one_by_one(api):
    await api.put(pod("a", "one", ip=ip(1)), pod("b", "two", ip=ip(2)), pod("c", "three", ip=ip(3)))
    async with watching(api, Rules(NODE, namespaces=frozenset({"one", "two"}))) as running:
        await running.has("a", "b")
    assert api.count("list") == 2


async def test_a_selector_goes_to_the_server(api):
    await api.put(pod("a", labels={"app": "x"}, ip=ip(1)), pod("b", labels={"app": "y"}, ip=ip(2)))
    async with watching(api, Rules(NODE, selector=parse("app=x")), "app=x") as running:
        await running.has("a")
    assert api.queries[api.requests.index("list")]["labelSelector"] == "app=x"


# --- what may happen to a watch: no pod is lost, and none stays that is gone ----------------------------------------

GONE_EVENT = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
FAILED_EVENT = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "reason": "InternalError"}}
NO_VERSION = {"type": "ADDED", "object": {"metadata": {"name": "x"}}}
HALF = json.dumps({"type": "DELETED", "object": pod("old")}).encode()[:-40]

# What the next requests get, and whether the list is asked for again.
TROUBLE = {
    "410": ([status(410)], True),
    "410 in the stream": ([lines(GONE_EVENT)], True),
    "410 again and again": ([status(410)] * 4, True),
    "429": ([status(429)], False),
    "429 with a time": ([status(429, retry_after=0)], False),
    "500": ([status(500)], False),
    "500 again and again": ([status(500)] * 5, True),
    "503": ([status(503)], False),
    "500 in the stream": ([lines(FAILED_EVENT)], True),
    "a watch that ends at once": ([lines()], False),
    "a frozen watch": ([silent], True),
    "half an event": ([broken_off(HALF)], False),
    "half an event and a good end": ([says(HALF)], False),
    "no event": ([says(b"<html>\n")], True),
    "an event that is none": ([says(b"[]\n")], True),
    "an event without a version": ([lines(NO_VERSION)], True),
    "an event with a bad pod": (
        [says(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"9"},"spec":5}}\n')],
        True,
    ),
    "a redirect": ([status(302)], False),
    "401": ([status(401)], False),
    "all of it": (
        [status(429), silent, status(500), lines(GONE_EVENT), broken_off(HALF), status(410), says(b"{\n"), status(503)],
        True,
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
async def test_after_any_trouble_there_is_what_there_is(name, api, monkeypatch):
    monkeypatch.setattr(kubernetes, "SILENCE_SECONDS", 0.3)
    faults, again = TROUBLE[name]
    await api.put(pod("old", ip=ip(1)), pod("stays", ip=ip(2)))
    api.watch_faults = [broken_off(b""), *faults]  # while the watch is away:
    async with watching(api) as running:
        await running.has("old", "stays")
        await api.delete("inference", "old")
        await api.put(pod("new", ip=ip(3)))
        await running.has("new", "stays")
        await api.until("watch", len(faults) + 2)
        await running.until(lambda: running.state.success)
        # And it goes on watching.
        await api.put(pod("newer", ip=ip(4)))
        await running.has("new", "newer", "stays")
    assert (api.count("list") > 1) is again


@pytest.mark.parametrize("fault", [status(429), status(500), says(b"{"), says(b"[]"), status(410), says(b"{}")])
async def test_a_list_that_fails_is_asked_for_again_and_the_last_one_stands(fault, api):
    await api.put(pod("old", ip=ip(1)))
    async with watching(api) as running:
        await running.has("old")
        await api.until("watch", 1)
        api.faults = [fault] * 5
        await api.compact()
        await api.until("list", 3)
        assert running.names() == ["old"]
        assert not running.state.success
        assert running.state.message.startswith(f"{api.url}: ")
        assert running.state.last_success
        await api.put(pod("new", ip=ip(2)))
        await running.has("new", "old")
        await running.until(lambda: running.state.success)
        assert running.state.message == ""


async def test_a_page_that_is_gone_begins_the_list_anew(api):
    await api.put(*(pod(f"llama-{number:04}", ip=ip(number)) for number in range(PAGE + 1)))
    original = api._list

    def forgetful(request):
        if "continue" in request.query and api.count("page") == 1:
            api._pages.clear()
        return original(request)

    api._list = forgetful
    async with watching(api) as running:
        await running.until(lambda: len(running.names()) == PAGE + 1)
    assert (api.count("list"), api.count("page")) == (2, 2)


async def test_a_watch_goes_on_where_it_was(api):
    """Bookmarks count as well: what happened between them is not asked for again."""
    api.watch_faults = []
    async with watching(api) as running:
        await api.until("watch", 1)
        await api.bookmark()
        await api.put(pod())
        await running.has("llama-0")
        seen = str(api.version)
        api.watch_faults = [lines()]
        async with api._changed:
            api._changed.notify_all()
        await running.source.stop()
        assert running.source._scopes[0].version == seen


async def test_a_bad_pod_of_a_list_harms_itself(api, caplog):
    bad = pod("bad")
    bad["spec"]["containers"] = "none"
    api.pods["inference", "bad"] = bad
    await api.put(pod("good"))
    async with watching(api) as running:
        await running.has("good")
        assert running.state.success
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "a pod cannot be read and is left out: Expected `array | null`, got `str` - at `$.spec.containers`; "
        "please report it"
    ]


async def test_403_says_which_right_is_missing_and_is_asked_again(api, caplog):
    caplog.set_level(logging.INFO, "exporter.kubernetes")
    api.denied = {"pods"}
    await api.put(pod())
    async with watching(api, Rules(NODE, namespaces=frozenset({"inference"}))) as running:
        await api.until("list", 3)
        await running.until(running.source.collectors)
        assert running.state.message == (
            f"{api.url}: status 403: this program's account may not list and watch pods in namespace inference; grant "
            "it list and watch on pods (deploy/plimsoll.yaml does)"
        )
        assert running.state.last_success is None
        api.denied = set()
        await running.has("llama-0")
        await running.until(lambda: running.state.success)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("kubernetes ")]
    assert [line.split(":")[0] for line in said] == ["kubernetes fails", "kubernetes answers"]


async def test_an_api_server_that_is_not_there(api):
    async with FakeApi() as gone:
        pass
    async with watching(gone) as running:
        await running.until(running.source.collectors)
        assert "check that the server runs" in running.state.message
        assert running.source.targets() == ()


async def test_retry_after_is_heeded(api, monkeypatch):
    api.faults = [status(429, retry_after=7)]
    rests = []

    async def sleep(seconds):
        rests.append(seconds)
        await asyncio.Event().wait()

    source = KubernetesSource(server(api.url), Rules(NODE))
    with monkeypatch.context() as patch:
        patch.setattr(kubernetes.asyncio, "sleep", sleep)
        task = asyncio.create_task(source._follow(source._scopes[0]))
        async with asyncio.timeout(PATIENCE):
            while not rests:
                await asyncio.wait([task], timeout=0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert rests == [7.0]


def test_pauses_grow_and_differ(monkeypatch):
    monkeypatch.undo()
    for failures, most in ((1, 1.0), (2, 2.0), (5, 16.0), (6, LONGEST_PAUSE), (10**6, LONGEST_PAUSE)):
        found = {pause(failures) for _ in range(50)}
        assert all(most / 2 <= each <= most for each in found)
        assert len(found) > 10


async def test_a_crash_is_told_and_the_list_is_asked_for_again(api, monkeypatch, caplog):
    await api.put(pod())
    original, crashes = kubernetes_pods.Pods.put, []

    def put(*args):
        if not crashes:
            crashes.append(1)
            raise ZeroDivisionError
        return original(*args)

    monkeypatch.setattr(kubernetes_pods.Pods, "put", put)
    async with watching(api) as running:
        await api.until("watch", 1)
        await api.put(pod("llama-1", ip=ip(9)))
        await running.has("llama-0", "llama-1")
    assert api.count("list") == 2
    assert "kubernetes: crashed (ZeroDivisionError" in caplog.text


async def test_what_pods_say_wrongly_is_said_once(api, caplog):
    await api.put(pod(annotations={"plimsoll.dev/metrics": "http://evil/"}))
    async with watching(api) as running:
        await api.until("watch", 1)
        for number in range(3):
            await api.put(pod(annotations={"plimsoll.dev/metrics": "http://evil/"}, labels={"n": str(number)}))
        await api.put(pod("good"))
        await running.has("good")
    assert len([record for record in caplog.records if "http://evil/" in record.getMessage()]) == 1


async def test_an_annotation_with_any_character_harms_no_watch(api):
    """Python takes U+0085 for the end of a line, and Go's JSON holds it as it is."""
    odd = "a\x85b\u2028c\u2029d\x0be\x1cf\r\ng\U0001f40d"
    async with watching(api) as running:
        await api.until("watch", 1)
        await api.put(pod("odd", annotations={"note": odd}, labels={"a": "b"}, ip=ip(1)))
        await running.has("odd")
        await api.put(pod("next", ip=ip(2)))
        await running.has("next", "odd")
        assert running.state.success
    assert (api.count("list"), api.count("watch")) == (1, 1)


async def test_a_watch_that_ends_at_once_again_and_again_is_asked_for_with_pauses(api, monkeypatch):
    api.watch_faults = [lines()] * 100
    rests = []

    async def sleep(seconds):
        rests.append(seconds)
        if len(rests) == 8:
            await asyncio.Event().wait()

    source = KubernetesSource(server(api.url), Rules(NODE))
    with monkeypatch.context() as patch:
        patch.setattr(kubernetes, "FIRST_PAUSE", 1.0)
        patch.setattr(kubernetes, "LONGEST_PAUSE", 30.0)
        patch.setattr(kubernetes.asyncio, "sleep", sleep)
        task = asyncio.create_task(source._follow(source._scopes[0]))
        async with asyncio.timeout(PATIENCE):
            while len(rests) < 8:
                await asyncio.wait([task], timeout=0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await source.stop()
    assert min(rests) > 0.5
    assert rests[-1] >= 15


async def test_two_pods_of_the_hosts_network_with_one_url_are_one_target(api):
    await api.put(pod("a"), pod("b"))
    async with watching(api) as running:
        await running.has("a")
        assert len(running.source.facts()) == 2


async def test_of_two_pods_with_one_url_the_one_that_declares_the_port_has_it(api):
    """In the host's network the scheduler gives a declared port to one pod alone; an annotation anybody can write."""
    await api.put(pod("a", ports=(), gpu=0, annotations={"plimsoll.dev/metrics": "8000"}), pod("b"), pod("c"))
    async with watching(api) as running:
        await running.has("b")
        await api.delete("inference", "b")
        await running.has("c")
        await api.delete("inference", "c")
        await running.has("a")


async def test_each_kind_of_failure_is_logged_once_until_all_is_well(api, caplog):
    """An API server that comes up again may refuse for another cause than that it was away."""
    caplog.set_level(logging.INFO, "exporter.kubernetes")
    api.faults = [status(500)] * 2 + [status(403), status(500), status(403)]
    await api.put(pod())
    async with watching(api) as running:
        await running.has("llama-0")
        await running.until(lambda: running.state.success)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("kubernetes ")]
    assert [line.rpartition("status ")[2][:3] for line in said[:2]] == ["500", "403"]
    assert [line.split(":")[0] for line in said[2:]] == ["kubernetes answers"]


async def test_a_list_that_may_be_had_does_not_make_a_watch_well_that_may_not(api, caplog):
    caplog.set_level(logging.INFO, "exporter.kubernetes")
    api.watch_faults = [status(403)] * 100
    async with watching(api) as running:
        await api.until("list", 3)
        assert not running.state.success
        api.watch_faults = []
        await running.until(lambda: running.state.success)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("kubernetes ")]
    assert [line.split(":")[0] for line in said] == ["kubernetes answers", "kubernetes fails", "kubernetes answers"]


# --- what is known beside pods --------------------------------------------------------------------------------------


def started(at="2026-08-01T12:00:30Z", **more):
    return pod(containerStatuses=[{"name": "vllm", "restartCount": 0, "state": {"running": {"startedAt": at}}}], **more)


NOON = 1785585600.0


@pytest.fixture
def at_noon(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOON + 60)


async def test_the_node_and_the_pulls_of_images_are_known(api, at_noon):
    raw = started()
    api.events = [event(raw, "Pulling", "2026-08-01T12:00:05Z"), event(raw, "Pulled", "2026-08-01T12:00:25Z")]
    await api.put(raw)
    place = ("inference", "llama-0")
    async with watching(api) as running:
        await running.until(lambda: place in running.source.facts() and running.source.facts()[place].pulled)
        await running.until(lambda: running.source.facts()[place].node_created)
        facts = running.source.facts()[place]
        assert (facts.pulling, facts.pulled) == ({"vllm": NOON + 5}, {"vllm": NOON + 25})
        assert facts.node_created == NOON - 3600
        await api.put(started(labels={"app": "other"}))
        await running.until(lambda: running.source.targets()[0].labels == {"app": "other"})
        assert running.source.facts()[place].pulled
        # It is asked once a pod, and not for one that does not run.
        await api.put(pod("pending", phase="Pending", ip=None))
        await running.until(lambda: len(running.source.facts()) == 2)
    assert (api.count("events"), api.count("node")) == (1, 1)


async def test_events_that_are_late_are_asked_for_again_a_few_times(api, at_noon):
    await api.put(started())
    async with watching(api):
        await api.until("events", kubernetes_starts.ATTEMPTS)
        await api.put(pod("other", ip=ip(2)))
        await asyncio.sleep(5 * kubernetes_starts.AGAIN_SECONDS)
    assert api.count("events") == kubernetes_starts.ATTEMPTS


async def test_events_of_long_ago_are_not_asked_for(api, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOON + 86400)
    await api.put(started())
    async with watching(api) as running:
        await running.has("llama-0")
        await api.until("node", 1)
        await api.put(started(labels={"a": "b"}))
        await running.until(lambda: running.source.targets()[0].labels == {"a": "b"})
    assert api.count("events") == 0


async def test_without_rights_to_events_and_nodes_the_rest_works_and_it_is_said_once(api, at_noon, caplog):
    api.denied = {"events", "nodes"}
    await api.put(started(), started("2026-08-01T12:00:40Z") | {"metadata": pod("b")["metadata"]})
    async with watching(api) as running:
        await api.until("events", 1)
        await api.until("node", 1)
        await api.put(pod("c", ip=ip(5)))
        await running.until(lambda: "c" in running.names())
        await asyncio.sleep(3 * kubernetes_starts.AGAIN_SECONDS)
        assert running.state.success
    assert (api.count("events"), api.count("node")) == (1, 1)
    said = sorted(record.getMessage() for record in caplog.records if "403" in record.getMessage())
    assert [line.partition("may not ")[2] for line in said] == [
        "get node node-a: phases of cold starts are missing; grant it get on nodes (deploy/plimsoll.yaml does)",
        "list events in namespace inference: phases of cold starts are missing; grant it list on events "
        "(deploy/plimsoll.yaml does)",
    ]


# --- where the API server is ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def account(tmp_path, authority):
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text(f"{FIRST}\n")
    return tmp_path


async def test_a_service_account_whose_token_is_rotated(account, authority):
    async with FakeApi(server_context(authority, "127.0.0.1"), token=FIRST) as api:
        await api.put(pod())
        cluster = in_pod(api, account)
        assert cluster.url == api.url
        async with watching(api, cluster=cluster) as running:
            await running.has("llama-0")
            await api.until("watch", 1)
            api._token = SECOND
            await api.compact()  # the watch ends
            await running.until(lambda: not running.state.success)
            assert "status 401; check the token" in running.state.message
            (account / "new").write_text(SECOND)
            os.replace(account / "new", account / "token")
            await running.until(lambda: running.state.success)
            await api.put(pod("new", ip=ip(8)))
            await running.has("llama-0", "new")


async def test_a_token_that_is_rotated_in_time_is_no_failure(account, authority, caplog):
    caplog.set_level(logging.INFO, "exporter.kubernetes")
    async with FakeApi(server_context(authority, "127.0.0.1"), token=FIRST) as api:
        async with watching(api, cluster=in_pod(api, account)) as running:
            await api.until("watch", 1)
            (account / "token").write_text(SECOND)
            api._token = SECOND
            await api.compact()
            await api.put(pod())
            await running.has("llama-0")
        assert f"Bearer {SECOND}" in api.tokens
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("kubernetes ")]
    assert [line.split(":")[0] for line in said] == ["kubernetes answers"]


BAD_TOKENS = {
    "two lines": (b"hush\nhush", "the token is no single line of plain characters; "),
    "no ASCII": ("hüsh".encode(), "status 401; check the token"),
    "no text": (b"hush\xff", "the token is no single line of plain characters; "),
    "no file": (None, "not found; name files that can be read"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_token_that_is_none_is_told_without_it_until_it_is_one(name, account, authority):
    content, message = BAD_TOKENS[name]
    (account / "token").unlink()
    if content is not None:
        (account / "token").write_bytes(content)
    async with FakeApi(server_context(authority, "127.0.0.1"), token=FIRST) as api:
        await api.put(pod())
        async with watching(api, cluster=in_pod(api, account)) as running:
            await running.until(running.source.collectors)
            assert message in running.state.message
            assert "sh" not in running.state.message.replace(str(account), "")
            (account / "token").write_text(FIRST)
            await running.has("llama-0")


async def test_an_api_server_that_somebody_else_vouches_for_until_its_authority_is_known(account):
    """Authorities are rotated too."""
    other = trustme.CA()
    async with FakeApi(server_context(other, "127.0.0.1"), token=FIRST) as api:
        await api.put(pod())
        async with watching(api, cluster=in_pod(api, account)) as running:
            await running.until(running.source.collectors)
            assert "check the server's certificate" in running.state.message
            assert api.tokens == []
            other.cert_pem.write_to_path(account / "ca.crt")
            await running.has("llama-0")
            await running.until(lambda: running.state.success)


async def test_files_that_are_not_there_are_named(account):
    (account / "ca.crt").unlink()
    async with FakeApi() as api:
        async with watching(api, cluster=in_pod(api, account)) as running:
            await running.until(running.source.collectors)
            assert f": file {account}/ca.crt: cannot be used (" in running.state.message
        assert api.requests == []


def in_pod(api, account):
    port = api.url.rpartition(":")[2]
    return in_cluster({"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}, str(account))


def test_in_a_cluster_with_ipv6():
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(environ).url == "https://[fd00::1]:443"


def test_outside_of_a_cluster_it_says_what_to_name():
    with pytest.raises(ConfigError, match=r"runs in no pod .*; name a kubeconfig with --kubernetes\.config"):
        in_cluster({})


def config(server="https://127.0.0.1:6443", cluster=None, user=None):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


def written(tmp_path, content):
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def test_a_kubeconfig_with_all_in_it(tmp_path, authority):
    from base64 import b64encode

    client = authority.issue_cert("plimsoll")
    content = config(
        cluster={"certificate-authority-data": b64encode(authority.cert_pem.bytes()).decode()},
        user={
            "client-certificate-data": b64encode(client.cert_chain_pems[0].bytes()).decode(),
            "client-key-data": b64encode(client.private_key_pem.bytes()).decode(),
            "token": FIRST,
        },
    )
    async with FakeApi(server_context(authority, "127.0.0.1", client=authority), token=FIRST) as api:
        content["clusters"][0]["cluster"]["server"] = f"{api.url}/"
        await api.put(pod())
        cluster = kubeconfig(written(tmp_path, content))
        assert cluster.url == api.url
        async with watching(api, cluster=cluster) as running:
            await running.has("llama-0")


async def test_a_kubeconfig_that_names_files(tmp_path, authority):
    """Names are those of files beside it, and the server's name may be another than the URL's."""
    client = authority.issue_cert("plimsoll")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    client.cert_chain_pems[0].write_to_path(tmp_path / "a.pem")
    client.private_key_pem.write_to_path(tmp_path / "a.key")
    (tmp_path / "token").write_text(FIRST)
    cluster = {"certificate-authority": "ca.crt", "tls-server-name": "kubernetes"}
    user = {"client-certificate": str(tmp_path / "a.pem"), "client-key": "a.key", "tokenFile": "token"}
    async with FakeApi(server_context(authority, "kubernetes", client=authority), token=FIRST) as api:
        await api.put(pod())
        found = kubeconfig(written(tmp_path, config(f"{api.url}/behind/a/proxy/", cluster, user)))
        async with watching(api, cluster=found) as running:
            await running.has("llama-0")
            await running.until(lambda: running.state.success)
        # And without the name it is not let through.
        del cluster["tls-server-name"]
        async with watching(api, cluster=kubeconfig(written(tmp_path, config(api.url, cluster, user)))) as running:
            await running.until(running.source.collectors)
            assert "check the server's certificate" in running.state.message


async def test_a_kubeconfig_that_takes_any_certificate_and_has_no_user(tmp_path):
    content = config(cluster={"insecure-skip-tls-verify": True})
    content["users"] = None  # as kubectl writes none
    del content["contexts"][0]["context"]["user"]
    async with FakeApi(server_context(trustme.CA(), "elsewhere")) as api:
        content["clusters"][0]["cluster"]["server"] = api.url
        await api.put(pod())
        async with watching(api, cluster=kubeconfig(written(tmp_path, content))) as running:
            await running.has("llama-0")


async def test_a_kubeconfig_whose_certificates_are_none_is_told(tmp_path, api):
    content = config(api.url, {"certificate-authority-data": "???"})
    async with watching(api, cluster=kubeconfig(written(tmp_path, content))) as running:
        await running.until(running.source.collectors)
        assert ": file of the kubeconfig: cannot be used (" in running.state.message


def test_lightkube_is_imported_only_where_it_is_asked(tmp_path):
    """It is 7 MB of RSS."""
    code = (
        "import sys, exporter.app, exporter.sources.kubelet_pods, exporter.sources.kubernetes_cluster as cluster;"
        "cluster.service_account(); assert not {'lightkube', 'httpx2', 'yaml'} & sys.modules.keys(), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


BAD_CONFIGS = {
    "nothing": ([], "holds no kubeconfig; write a kubeconfig"),
    "no context": ({"current-context": "x"}, "Context 'x' not found; set current-context to one that is"),
    "a context that is none": ({**config(), "current-context": 5}, "Context '5' not found; set current-context"),
    "no cluster": ({**config(), "clusters": []}, "has no entry or key 'c'; set current-context"),
    "no user": ({**config(), "users": None}, "has no entry or key 'u'; set current-context"),
    "no current context": (
        {**config(), "current-context": None},
        "No current context set and no default provided; set",
    ),
    "a list of no entries": ({**config(), "clusters": ["c"]}, "string indices must be integers.*; set current-context"),
    "an entry that is none": (config(user=5), "Expected `object`, got `int`; set current-context"),
    "half an exec": (config(user={"exec": {"command": "rm"}}), r"Object missing required field `apiVersion` .*; set"),
    "exec": (config(user={"exec": {"command": "rm", "apiVersion": "v1"}}), "key exec: is not supported; give the user"),
    "a provider": (config(user={"auth-provider": {"name": "gcp"}}), "key auth-provider: is not supported; give the"),
    "a password": (config(user={"username": "root", "password": "x"}), "key username: is not supported; give the user"),
    "a token in the clear": (
        config("http://a", user={"token": "x"}),
        "key server: a token is not sent over plain http",
    ),
    "a server that is none": (config(server="127.0.0.1"), "key server: '127.0.0.1' is no URL"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_kubeconfig_names_the_key_and_the_fix(name, tmp_path):
    content, message = BAD_CONFIGS[name]
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=f"^file {path}: {message}"):
        kubeconfig(path)


# --- the kubelet's list ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def polling(url, access=None, rules=None):
    fetcher = Fetcher()
    running = Running(KubeletPods(fetcher, url, access or Access(), rules or Rules(NODE)))
    running.source.start(running.news.set)
    try:
        yield running
    finally:
        await running.source.stop()
        await fetcher.close()


async def test_the_kubelet_tells_the_same(api):
    await api.put(pod("llama-0"), pod("web", gpu=0))
    async with polling(f"{api.url}/pods") as running:
        await running.has("llama-0")
        await api.put(pod("llama-1", ip=ip(2)))
        await running.has("llama-0", "llama-1")
        await api.delete("inference", "llama-0")
        await running.has("llama-1")
        assert running.state.success


async def test_a_selector_counts_for_the_kubelets_list_too(api):
    await api.put(pod("a", labels={"app": "x"}), pod("b", labels={"app": "y"}, ip=ip(2)))
    async with polling(f"{api.url}/pods", rules=Rules(NODE, selector=parse("app in (y,z)"))) as running:
        await running.has("b")


KUBELET_TROUBLE = {
    "500": (status(500), "status 500; check the path"),
    "no JSON": (says(b"<html>"), r"the answer is no list of pods \(.*\); check --kubernetes.kubelet-url"),
    "no list": (says(b"{}"), r"the answer is no list of pods \(it has no items\)"),
    "401": (status(401), "status 401: the kubelet does not let this program's account list pods; grant it get on"),
    "403": (status(403), "status 403: the kubelet does not let this program's account list pods; grant it get on"),
}


@pytest.mark.parametrize("name", KUBELET_TROUBLE)
async def test_while_the_kubelet_fails_the_last_list_stands(name, api):
    fault, message = KUBELET_TROUBLE[name]
    await api.put(pod())
    async with polling(f"{api.url}/pods") as running:
        await running.has("llama-0")
        api.faults = [fault] * 3
        await running.until(lambda: not running.state.success)
        assert running.names() == ["llama-0"]
        import re

        assert re.match(f"^{api.url}/pods: {message}", running.state.message)
        await running.until(lambda: running.state.success)
