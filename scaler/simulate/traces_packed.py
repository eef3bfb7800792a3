"""The text in a file's bytes, which may be compressed.

May not be in here: I/O, what the text holds.
"""

import lzma
import zlib
from collections.abc import Callable

from scaler.simulate.traces import TraceError

MOST_BYTES = 256 << 20  # of text: about as many rows as a trace may have
MOST_MEMORY = 128 << 20  # of a decompressor
_BEGIN = 64  # characters: other programs' files have a NUL in them
_FIX = "save it as text in UTF-8, compressed by gzip or xz or not at all"


def decompressed(data: bytes, name: str) -> str:
    """The text in bytes, which may be xz or gzip (their first bytes tell).

    Raises TraceError: it is cut off or damaged, is no UTF-8, or comes to more than MOST_BYTES.
    """
    try:
        if data.startswith(b"\xfd7zXZ\x00"):
            data = _inflated(data, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY))
        elif data.startswith(b"\x1f\x8b"):
            data = _inflated(data, lambda: zlib.decompressobj(wbits=31))
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise TraceError(f"file {name}: is damaged ({error}); fetch or compress it again") from None
    if len(data) > MOST_BYTES:
        raise TraceError(f"file {name}: holds more than {MOST_BYTES >> 20} MiB of text; cut it into parts")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"file {name}: byte {error.start} is no UTF-8; {_FIX}") from None
    if "\0" in text[:_BEGIN]:
        raise TraceError(f"file {name}: begins as no text does; {_FIX}")
    return text


def _inflated(data: bytes, fresh: Callable[[], "lzma.LZMADecompressor | zlib._Decompress"]) -> bytes:
    """What all streams of the data hold, up to one byte more than MOST_BYTES."""
    parts: list[bytes] = []
    room = MOST_BYTES + 1
    while data and room > 0:
        stream = fresh()
        parts.append(stream.decompress(data, room))
        room -= len(parts[-1])
        if not stream.eof and room > 0:
            raise EOFError("it ends in the middle")
        data = stream.unused_data.lstrip(b"\x00")  # streams may be padded
    return b"".join(parts)
