"""TLS contexts and bearer tokens from files of the operator's, taken over when a file changes.

May not be in here: who is asked for what (fetch.py), where the files' names come from.

A file that cannot be used is an error until it can: what it held before is not used on. Certificates are rotated
because the old ones are no longer to be trusted, and a reading that is missing for a moment hurts nobody: readings
count for several polls.
"""

import ssl
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, NoReturn, Protocol, TypeVar

from exporter.kit import small_file

#: Seconds between two looks at a file.
LOOK_SECONDS = 1.0
#: Bytes of a PEM file: a bundle with every public authority has about 250 kB.
LARGEST_PEM = 1 << 20
#: Bytes of a token: a service account's has about 1 kB, one with many claims some more; servers take 8 kB of headers.
LARGEST_TOKEN = 8 << 10
#: Contexts and tokens that are kept. Above what an operator's files name; a list that changes for months stays small.
_KEPT = 512


class Access(Protocol):
    """How a server wants to be asked: model_engines.Access, in the words of the kit."""

    @property
    def ca_file(self) -> str: ...
    @property
    def cert_file(self) -> str: ...
    @property
    def key_file(self) -> str: ...
    @property
    def server_name(self) -> str: ...
    @property
    def token_file(self) -> str: ...
    @property
    def insecure_skip_verify(self) -> bool: ...


class AccessError(Exception):
    """A file that cannot be used. str() names it and the cause, and shows nothing of what it holds."""


T = TypeVar("T")


class _Kept(NamedTuple, Generic[T]):
    stamps: tuple[small_file.Stamp, ...]
    looked: float  # when the stamps were found to be so
    value: T


class Keys:
    """Contexts and tokens, each made once and made anew when one of its files is another. Opens files: small ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._contexts: dict[tuple[str, ...], _Kept[ssl.SSLContext]] = {}
        self._tokens: dict[tuple[str, ...], _Kept[str]] = {}

    def context(self, access: Access) -> ssl.SSLContext | None:
        """None: the client library's own, which trusts the system's authorities. Raises AccessError.

        The same context is given as long as its files stay: connections are kept by it.
        """
        if not (access.ca_file or access.cert_file or access.key_file or access.insecure_skip_verify):
            return None
        files = (access.ca_file, access.cert_file, access.key_file)
        key = (*files, str(access.insecure_skip_verify))
        return self._fresh(self._contexts, key, files, lambda: _context(access))

    def token(self, path: str) -> str:
        """Raises AccessError."""
        return self._fresh(self._tokens, (path,), (path,), lambda: _token(path))

    def _fresh(
        self, kept: dict[tuple[str, ...], _Kept[T]], key: tuple[str, ...], files: tuple[str, ...], make: Callable[[], T]
    ) -> T:
        now, known = self._clock(), kept.get(key)
        if known and now - known.looked < LOOK_SECONDS:
            return known.value
        stamps = tuple(small_file.stamp(path) for path in files)  # before they are read: what changes then is seen next
        if known and known.stamps == stamps:
            kept[key] = known._replace(looked=now)
            return known.value
        kept.pop(key, None)
        value = make()
        if len(kept) >= _KEPT:
            kept.clear()
        kept[key] = _Kept(stamps, now, value)
        return value


def _context(access: Access) -> ssl.SSLContext:
    if access.key_file and not access.cert_file:
        raise AccessError(f"file {access.key_file}: a key without a certificate (cert_file)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if access.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif access.ca_file:
        pem = _read(access.ca_file, LARGEST_PEM).decode("ascii", "ignore")  # comments may be in any language
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:
            raise AccessError(f"file {access.ca_file}: holds no certificates in PEM ({_cause(error)})") from None
    else:
        context.load_default_certs()
    if access.cert_file:
        for path in filter(None, (access.cert_file, access.key_file)):
            _read(path, LARGEST_PEM)  # says which of the two cannot be read, and that neither is a FIFO
        try:
            context.load_cert_chain(access.cert_file, access.key_file or None, password=_no_password)
        except (OSError, ValueError) as error:
            names = " and ".join(filter(None, (access.cert_file, access.key_file)))
            raise AccessError(f"file {names}: no certificate with its key in PEM ({_cause(error)})") from None
    return context


def _no_password() -> NoReturn:
    """Without this OpenSSL asks on the terminal."""
    raise ValueError("the key is encrypted")


def _token(path: str) -> str:
    text = _read(path, LARGEST_TOKEN).decode("latin-1").strip(" \t\r\n")
    if not text or not all("!" <= char <= "~" for char in text):
        raise AccessError(f"file {path}: holds no token: one line without blanks")
    return text


def _read(path: str, largest: int) -> bytes:
    try:
        return small_file.read(path, largest)
    except OSError as error:
        raise AccessError(f"file {path}: cannot be read ({error.strerror})") from None


def _cause(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
