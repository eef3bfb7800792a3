"""Where a gRPC server listens, with the operating system's own word where it cannot.

May not be in here: services; each program brings its own.
"""

import socket

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


def _try(host: str, port: int) -> None:
    """Raises OSError if an address of the host is taken or not here."""
    for family, kind, protocol, _, place in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a family that this machine has switched off
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
            probe.listen(1)  # with SO_REUSEADDR two may be bound to a port, but only one may listen
