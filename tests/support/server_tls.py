"""TLS for servers of tests, with certificates that are made on the spot."""

import ssl

import trustme


def server_context(
    authority: trustme.CA, *names: str, client: trustme.CA | None = None, **issued: object
) -> ssl.SSLContext:
    """A server's context with a certificate for these names. client: whose certificates callers must have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **issued).configure_cert(context)  # type: ignore[arg-type]
    if client is not None:
        client.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
