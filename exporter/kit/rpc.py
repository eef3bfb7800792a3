"""Where a gRPC server listens, with the operating system's own word where it cannot.

May not be in here: services; each program brings its own.
"""

import socket
from typing import Any

import grpc

from exporter.kit.config import cannot_listen


def bind(server: grpc.aio.Server, address: tuple[str, int], option: str) -> int:
    """Give the server its address; returns the port. Raises ConfigError naming `option` when it cannot be bound.

    The library would say why on stderr only, in a format of its own; so the address is tried out first.
    """
    host, port = address
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _try(host, port)
        return server.add_insecure_port(shown if host else f"[::]:{port}")
    except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: somebody was faster
        raise cannot_listen(option, shown, error) from None


def bound(family: int, kind: int, protocol: int, place: tuple[Any, ...]) -> socket.socket | None:
    """A socket that has the address as a server would; None: a family that this machine has switched off.

    Raises OSError if somebody listens there, or the address is not this machine's.
    """
    try:
        held = socket.socket(family, kind, protocol)
    except OSError:
        return None
    try:
        # What is left of closed connections does not hold the address.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind(place)
    except BaseException:
        held.close()
        raise
    return held


def _try(host: str, port: int) -> None:
    """Raises OSError if an address of the host is taken or not here."""
    for family, kind, protocol, _, place in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        if probe := bound(family, kind, protocol, place):
            with probe:
                probe.listen(1)  # with SO_REUSEADDR two may be bound to a port, but only one may listen
