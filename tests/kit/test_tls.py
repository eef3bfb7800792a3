"""kit/tls.py and what fetch.py makes of it: real TLS servers with good and bad certificates, and files that change."""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace

from exporter.core.model_engines import Access
from exporter.kit import tls
from exporter.kit.fetch import Fetcher, FetchError
from exporter.kit.tls import AccessError, Keys
from tests.support.server_tls import server_context

SECONDS = 5.0
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher()
    yield fetcher
    await fetcher.close()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Path:
    """ca.crt, cert.pem, key.pem (a client's), token."""
    client = authority.issue_cert("plimsoll")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "token").write_text("abc.def\n")
    return tmp_path


class Server:
    url = ""
    tokens: list[str | None]


@asynccontextmanager
async def served(context: ssl.SSLContext | None) -> AsyncIterator[Server]:
    server = Server()
    server.tokens = []

    async def page(request: web.Request) -> web.Response:
        server.tokens.append(request.headers.get("Authorization"))
        return web.Response(body=b"ok", headers={"Connection": "close"})

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=context).start()
    server.url = f"{'https' if context else 'http'}://{HOST}:{runner.addresses[0][1]}/metrics"
    yield server
    await runner.cleanup()


PAST = datetime(2020, 1, 1, tzinfo=UTC)

# The server's certificate, how it is asked, and the reason for which that fails ("": it does not).
SERVERS: dict[str, tuple[Callable[[trustme.CA, trustme.CA], ssl.SSLContext], Callable[[Path], Access], str]] = {
    "good": (lambda ours, theirs: server_context(ours, HOST), lambda at: Access(f"{at}/ca.crt"), ""),
    "good, by the system's authorities": (lambda ours, theirs: server_context(ours, HOST), lambda at: Access(), "tls"),
    "another authority": (lambda ours, theirs: server_context(theirs, HOST), lambda at: Access(f"{at}/ca.crt"), "tls"),
    "expired": (
        lambda ours, theirs: server_context(ours, HOST, not_after=PAST),
        lambda at: Access(f"{at}/ca.crt"),
        "tls",
    ),
    "another name": (
        lambda ours, theirs: server_context(ours, "llama.inference.svc"),
        lambda at: Access(f"{at}/ca.crt"),
        "tls",
    ),
    "another name, which is expected": (
        lambda ours, theirs: server_context(ours, "llama.inference.svc"),
        lambda at: Access(f"{at}/ca.crt", server_name="llama.inference.svc"),
        "",
    ),
    "its own name, where another is expected": (
        lambda ours, theirs: server_context(ours, HOST),
        lambda at: Access(f"{at}/ca.crt", server_name="llama.inference.svc"),
        "tls",
    ),
    "any will do": (
        lambda ours, theirs: server_context(theirs, "x", not_after=PAST),
        lambda at: Access(insecure_skip_verify=True),
        "",
    ),
    "it wants a client's certificate": (
        lambda ours, theirs: server_context(ours, HOST, client=ours),
        lambda at: Access(f"{at}/ca.crt", f"{at}/cert.pem", f"{at}/key.pem"),
        "",
    ),
    "it wants one and gets none": (
        lambda ours, theirs: server_context(ours, HOST, client=ours),
        lambda at: Access(f"{at}/ca.crt"),
        "truncated",
    ),
    "it wants one of another authority": (
        lambda ours, theirs: server_context(ours, HOST, client=theirs),
        lambda at: Access(f"{at}/ca.crt", f"{at}/cert.pem", f"{at}/key.pem"),
        "truncated",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_who_is_believed(
    name: str, files: Path, fetcher: Fetcher, authority: trustme.CA, stranger: trustme.CA
) -> None:
    context, access, reason = SERVERS[name]
    async with served(context(authority, stranger)) as server:
        asked = replace(access(files), token_file=str(files / "token"))
        if not reason:
            assert await fetcher.get(server.url, SECONDS, asked) == b"ok"
            assert server.tokens == ["Bearer abc.def"]
            return
        with pytest.raises(FetchError) as caught:
            await fetcher.get(server.url, SECONDS, asked)
        assert caught.value.reason == reason
        assert server.tokens == []  # a stranger is told nothing
        assert "abc.def" not in str(caught.value)
        assert ("cert_file" in str(caught.value)) is (name.startswith("it wants") or reason == "tls")
        assert "0x" not in str(caught.value)


async def test_the_same_server_asked_in_two_ways_gets_two_connections(
    files: Path, fetcher: Fetcher, authority: trustme.CA
) -> None:
    """A connection that was verified for one target is not used for another that demands more."""
    async with served(server_context(authority, HOST)) as server:
        assert await fetcher.get(server.url, SECONDS, Access(insecure_skip_verify=True)) == b"ok"
        for strict in (Access(), Access(f"{files}/ca.crt", server_name="llama")):
            with pytest.raises(FetchError) as caught:
                await fetcher.get(server.url, SECONDS, strict)
            assert caught.value.reason == "tls"


async def test_a_token_is_not_sent_over_plain_http(files: Path, fetcher: Fetcher) -> None:
    async with served(None) as server:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(server.url, SECONDS, Access(token_file=f"{files}/token"))
        assert str(caught.value) == (
            f"the token of {files}/token is not sent over plain http; name files that can be read, and an https URL "
            "where a token is sent"
        )
        assert await fetcher.get(server.url, SECONDS, Access(f"{files}/ca.crt")) == b"ok"
    assert server.tokens == [None]


async def test_rotated_files_are_taken_over(
    files: Path, fetcher: Fetcher, authority: trustme.CA, stranger: trustme.CA
) -> None:
    access = Access(f"{files}/ca.crt", f"{files}/cert.pem", f"{files}/key.pem", token_file=f"{files}/token")
    async with served(server_context(authority, HOST, client=authority)) as old:
        assert await fetcher.get(old.url, SECONDS, access) == b"ok"
    new = stranger.issue_cert("plimsoll")
    for name, pem in (
        ("ca.crt", stranger.cert_pem.bytes()),
        ("cert.pem", new.cert_chain_pems[0].bytes()),
        ("key.pem", new.private_key_pem.bytes()),
        ("token", b"second"),
    ):
        (files / "next").write_bytes(pem)
        os.replace(files / "next", files / name)
    async with served(server_context(stranger, HOST, client=stranger)) as server:
        assert await fetcher.get(server.url, SECONDS, access) == b"ok"
        assert server.tokens == ["Bearer second"]


async def test_a_half_written_file_is_an_error_until_it_is_whole(
    files: Path, fetcher: Fetcher, authority: trustme.CA
) -> None:
    access = Access(f"{files}/ca.crt", token_file=f"{files}/token")
    whole = authority.cert_pem.bytes()
    async with served(server_context(authority, HOST)) as server:
        assert await fetcher.get(server.url, SECONDS, access) == b"ok"
        (files / "ca.crt").write_bytes(whole[: len(whole) // 2])
        for _ in range(2):
            with pytest.raises(FetchError, match=r"ca\.crt: holds no certificates in PEM"):
                await fetcher.get(server.url, SECONDS, access)
        (files / "ca.crt").write_bytes(whole)
        (files / "token").write_bytes(b"")
        with pytest.raises(FetchError, match="token: holds no token"):
            await fetcher.get(server.url, SECONDS, access)
        (files / "token").write_bytes(b"x")
        assert await fetcher.get(server.url, SECONDS, access) == b"ok"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_files_are_looked_at_once_a_second_and_loaded_when_they_change(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 1.0)
    clock = Clock()
    keys, access = Keys(clock), Access(f"{files}/ca.crt", token_file=f"{files}/token")
    first = keys.context(access)
    assert keys.token(f"{files}/token") == "abc.def"
    (files / "token").write_text("second")
    os.utime(files / "ca.crt", ns=(1, 1))
    assert keys.context(access) is first
    assert keys.token(f"{files}/token") == "abc.def"
    clock.now += 1.0
    second = keys.context(access)
    assert second is not first
    assert keys.token(f"{files}/token") == "second"
    clock.now += 1.0
    assert keys.context(access) is second


def test_what_is_kept_is_bounded(files: Path) -> None:
    keys = Keys()
    for number in range(tls._KEPT + 5):
        path = files / f"token-{number}"
        path.write_text("x")
        keys.token(str(path))
    assert len(keys._tokens) <= tls._KEPT


def _encrypted(at: Path) -> Access:
    (at / "key.pem").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBA=\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    return Access(cert_file=f"{at}/cert.pem", key_file=f"{at}/key.pem")


def _fifo(at: Path) -> Access:
    os.mkfifo(at / "fifo")
    return Access(f"{at}/fifo")


def _swapped(at: Path) -> Access:
    return Access(cert_file=f"{at}/key.pem", key_file=f"{at}/cert.pem")


def _other_key(at: Path) -> Access:
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(at / "key.pem")
    return Access(cert_file=f"{at}/cert.pem", key_file=f"{at}/key.pem")


def _large(at: Path) -> Access:
    (at / "large").write_bytes(b"#" * (tls.LARGEST_PEM + 1))
    return Access(f"{at}/large")


BAD_FILES: dict[str, tuple[Callable[[Path], Access], str]] = {
    "not there": (lambda at: Access(f"{at}/none"), r"/none: cannot be read \(No such file or directory\)"),
    "a directory": (lambda at: Access(str(at)), r"cannot be read \(it is no regular file\)"),
    "a FIFO": (_fifo, r"/fifo: cannot be read \(it is no regular file\)"),
    "a device": (lambda at: Access("/dev/zero"), r"/dev/zero: cannot be read \(it is no regular file\)"),
    "too large": (_large, r"/large: cannot be read \(it has more than 1048576 bytes\)"),
    "a NUL": (lambda at: Access("/a\0b"), "cannot be read"),
    "no certificate": (lambda at: Access(f"{at}/token"), "/token: holds no certificates in PEM"),
    "a key without a certificate": (lambda at: Access(key_file=f"{at}/key.pem"), "a key without a certificate"),
    "swapped": (_swapped, "no certificate with its key in PEM"),
    "the key of another": (_other_key, r"no certificate with its key in PEM \(KEY_VALUES_MISMATCH\)"),
    "a key with a password": (_encrypted, "no certificate with its key in PEM"),
    "no key at all": (lambda at: Access(cert_file=f"{at}/cert.pem"), "no certificate with its key in PEM"),
    "no key there": (
        lambda at: Access(cert_file=f"{at}/cert.pem", key_file=f"{at}/none"),
        r"^file \S*/none: cannot be read",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named(name: str, files: Path) -> None:
    access, message = BAD_FILES[name]
    with pytest.raises(AccessError, match=message) as caught:
        Keys().context(access(files))
    assert str(caught.value).startswith("file ")
    assert "PRIVATE" not in str(caught.value)


def test_comments_of_a_bundle_may_be_in_any_language(files: Path) -> None:
    pem = (files / "ca.crt").read_bytes()
    (files / "ca.crt").write_bytes("# Zertifizierungsstelle für Köln\n".encode() + pem)
    assert Keys().context(Access(f"{files}/ca.crt"))


BAD_TOKENS = [b"", b"\n", b"a b", b"a\nb", b"a\r\nX-Evil: 1", b"\0", "ü".encode(), b"a" * (tls.LARGEST_TOKEN + 1)]


@pytest.mark.parametrize("content", BAD_TOKENS)
def test_a_file_without_a_token_is_named_and_not_shown(content: bytes, files: Path) -> None:
    (files / "token").write_bytes(content)
    with pytest.raises(
        AccessError, match=r"/token: (holds no token: one line without blanks|cannot be read)"
    ) as caught:
        Keys().token(f"{files}/token")
    assert "Evil" not in str(caught.value)
