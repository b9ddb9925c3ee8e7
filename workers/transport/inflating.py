"""Decompression of message bodies within bounds: a message of kilobytes may unpack to gigabytes."""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package, but not all of it is annotated.

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

try:  # as in kombu/compression.py
    if sys.version_info >= (3, 14):
        from compression import zstd as _zstd
    else:
        from backports import zstd as _zstd
except ImportError:
    zstd: Any = None
else:
    zstd = _zstd

try:  # as in kombu/compression.py
    import brotli
except ImportError:
    try:
        import brotlicffi as brotli
    except ImportError:
        brotli = None

#: Memory that a valid stream of lzma may ask for before it has content: xz -9 takes half of it.
_LZMA_MEMORY = 128 << 20

#: Bytes that brotli gets at once: no more than two blocks of 16 MiB fit into them.
_BROTLI_STEP = 16


class _Brotli:
    """brotli's decompressor with the interface of the others; not all of its releases can bound their output."""

    unused_data = b""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def decompress(self, content: bytes, most: int) -> bytes:
        """Decompress until there is more content than `most`, or all of it."""
        found = bytearray()
        for start in range(0, len(content), _BROTLI_STEP):
            found += self._inner.process(content[start : start + _BROTLI_STEP])
            if len(found) > most:
                break
        return bytes(found)

    @property
    def eof(self) -> bool:
        """Whether the content was complete."""
        return bool(self._inner.is_finished())


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
    **({} if zstd is None else {"application/zstd": lambda: zstd.ZstdDecompressor()}),
    **({} if brotli is None else {"application/x-brotli": _Brotli}),
}


def inflated(content: bytes, how: str, most: int) -> bytes:
    """Decompress a body as kombu does, but not to more than `most` bytes.

    Args:
        content: The compressed body.
        how: The `compression` header: a content type or one of kombu's short names for it. What an application has
            registered with kombu itself is not bounded.
        most: The most bytes that the result may have.

    Raises:
        Exception: The content is damaged, incomplete or would become larger, or there is no such compression here.
    """
    make = _DECOMPRESSORS.get(compression._aliases.get(how, how))
    if make is None:
        plain: bytes = compression.decompress(content, how)
        return plain
    inflating = make()
    plain = inflating.decompress(content, most + 1)
    if len(plain) > most:
        raise ValueError(
            f"it would have more than {most:,} bytes, which the transport option most_inflated_bytes can raise"
        )
    if not inflating.eof or inflating.unused_data:
        raise ValueError("it is not one complete stream")
    return plain
