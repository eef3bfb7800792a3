"""Who has the exporter's addresses, against real servers."""

import socket
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from exporter import settings
from exporter.doctor import ports
from exporter.kit.fetch import Fetcher
from tests.support.programs import Program, eventually, exporter, metrics


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher()
    yield fetcher
    await fetcher.close()


@pytest.fixture
def taken() -> Iterator[str]:
    """The address of somebody who listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
async def stranger() -> AsyncIterator[str]:
    """The address of a gRPC server that is none of ours."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture(scope="module")
def running() -> Iterator[Program]:
    with exporter() as started:
        eventually(lambda: metrics(started))
        yield started


async def states(fetcher: Fetcher, web: str, feed: str) -> list[str]:
    values = settings.read(["--web.listen-address", web, "--feed.listen-address", feed], {})
    return [port.state for port in await ports.look(values, fetcher)]


async def test_each_port_of_an_exporter_is_known_by_what_it_says_itself(
    fetcher: Fetcher, running: Program, taken: str, stranger: str
) -> None:
    web, feed = running.addresses["web"], running.addresses["feed"]
    assert await states(fetcher, web, feed) == ["ours", "ours"]
    # That the one is an exporter's says nothing of the other.
    assert await states(fetcher, web, taken) == ["ours", "taken"]
    assert await states(fetcher, web, stranger) == ["ours", "taken"]
    assert await states(fetcher, feed, web) == ["taken", "taken"]
    assert await states(fetcher, taken, feed) == ["taken", "ours"]


async def test_what_it_asks_leaves_no_subscriber_behind(fetcher: Fetcher, running: Program) -> None:
    assert await states(fetcher, running.addresses["web"], running.addresses["feed"]) == ["ours", "ours"]
    eventually(lambda: "\nplimsoll_feed_subscribers 0.0\n" in metrics(running) or None)


async def test_an_address_is_free_taken_or_not_this_machines(fetcher: Fetcher, taken: str) -> None:
    assert await states(fetcher, ":0", "127.0.0.1:0") == ["free", "free"]
    assert await states(fetcher, f":{taken.rpartition(':')[2]}", "192.0.2.1:1") == ["taken", "taken"]
    assert await states(fetcher, "127.0.0.1:0", "no-such-host.invalid:1") == ["free", "taken"]


async def test_nobody_is_let_in_while_it_is_found_out(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    listened, bound = list[object](), list[object]()

    class Witness(socket.socket):
        def bind(self, address: object) -> None:  # type: ignore[override] -- whatever an address is
            bound.append(address)
            super().bind(address)  # type: ignore[arg-type] -- likewise

        def listen(self, *backlog: int) -> None:
            listened.append(self.getsockname())
            super().listen(*backlog)

    monkeypatch.setattr(socket, "socket", Witness)
    assert await states(fetcher, "127.0.0.1:0", "127.0.0.1:0") == ["free", "free"]
    assert len(bound) == 2
    assert not listened
