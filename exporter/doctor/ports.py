"""Whether the exporter's addresses can be had, and if not, whether an exporter of ours has them.

May not be in here: what is to be thought of it (checks/exporter.py).

An address is bound and never listened on: nobody who knocks meanwhile is let in, and an exporter that starts at that
moment gets it.
"""

import asyncio
import os
import socket
from typing import NamedTuple

import grpc

from exporter.kit import rpc
from exporter.kit.fetch import Fetcher, FetchError
from exporter.pb import signals_pb2 as pb
from exporter.settings import Settings

#: Seconds for a question to this machine itself: who listens on our port.
_LOCAL_SECONDS = 2.0
_WATCH = f"/{pb.DESCRIPTOR.services_by_name['Signals'].full_name}/Watch"
#: A proxy of the environment is not asked about this machine.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


class Port(NamedTuple):
    """Whether an address can be listened on."""

    option: str
    place: str  # "host:port"
    state: str  # "free" | "ours" (a Plimsoll exporter has it) | "taken"
    cause: str = ""  # the operating system's word


async def look(settings: Settings, fetcher: Fetcher) -> list[Port]:
    """The address of each server. An answer takes a few seconds at most."""
    ports = [
        await _port("web.listen-address", settings.web_listen_address),
        await _port("feed.listen-address", settings.feed_listen_address),
    ]
    ours = {"web.listen-address": _is_our_web, "feed.listen-address": _is_our_feed}
    return [
        port._replace(state="ours") if port.state == "taken" and await ours[port.option](settings, fetcher) else port
        for port in ports
    ]


async def _port(option: str, address: tuple[str, int]) -> Port:
    """Whether it is free or taken."""
    host, port = address
    place = f"{host}:{port}"
    try:
        async with asyncio.timeout(_LOCAL_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        for family, kind, protocol, _, own in found:
            if held := rpc.bound(family, kind, protocol, own):
                held.close()
    except TimeoutError:
        return Port(option, place, "taken", "the host's name is not answered for")
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # a name that cannot be resolved has a negative one
        return Port(option, place, "taken", os.strerror(number) if number > 0 else str(error))
    return Port(option, place, "free")


def _reached(address: tuple[str, int]) -> str:
    """Where a server that listens on this address answers."""
    host, port = address
    return f"{f'[{host}]' if ':' in host else host or '127.0.0.1'}:{port}"


async def _is_our_web(settings: Settings, fetcher: Fetcher) -> bool:
    """Whether its page says so."""
    url = f"http://{_reached(settings.web_listen_address)}{settings.web_telemetry_path}"
    try:
        page = await fetcher.get(url, _LOCAL_SECONDS)
    except FetchError:
        return False
    return b"\nplimsoll_build_info{" in page


async def _is_our_feed(settings: Settings, _: Fetcher) -> bool:
    """Whether it sends what a scaler would be sent: for a moment the exporter has one subscriber more."""
    async with grpc.aio.insecure_channel(_reached(settings.feed_listen_address), options=_OPTIONS) as channel:
        watch = channel.unary_stream(
            _WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.NodeSignals.FromString,
        )
        call = watch(pb.WatchRequest(client="plimsoll doctor"), timeout=_LOCAL_SECONDS)
        try:
            first = await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # it has as many subscribers as it takes
        finally:
            call.cancel()
    return isinstance(first, pb.NodeSignals) and bool(first.boot)
