"""The web server of both programs, with the limits that the library's defaults lack.

May not be in here: pages; each program brings its routes.
"""

import logging

from aiohttp import http_exceptions, web

from exporter.kit.config import cannot_listen

#: aiohttp keeps an idle connection for 3630 s; 1,000 dripping sockets would stay open for an hour.
KEEPALIVE_SECONDS = 15.0

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'",
}


def _is_ours(record: logging.LogRecord) -> bool:
    """The library logs a traceback for every request that is no HTTP: a port scan would fill the disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], http_exceptions.HttpProcessingError))


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


def application() -> web.Application:
    """An application whose requests carry no body worth reading (64 KiB at most)."""
    app = web.Application(client_max_size=65536)
    app.on_response_prepare.append(_headers)  # not a middleware: that would miss what the server refuses by itself
    return app


async def serve(app: web.Application, address: tuple[str, int], option: str) -> tuple[web.AppRunner, int]:
    """Start serving; returns the runner (await its cleanup() to stop) and the port.

    Raises ConfigError naming `option` when the address cannot be bound.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=1.0)
    await runner.setup()
    host, port = address
    try:
        site = web.TCPSite(runner, host or None, port, reuse_address=True)
        await site.start()
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that no name server could be asked for
        await runner.cleanup()
        raise cannot_listen(option, f"{host}:{port}", error) from None
    return runner, runner.addresses[0][1]
