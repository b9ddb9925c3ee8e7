"""Compression of run history: zlib, which every Python has, or zstd where a deployment asks for it.

Every process must be able to read what any other compresses, so zstd is a setting and is not detected automatically.
The first bytes of the content show which of the two was used.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any, Literal

try:  # one interface: that of Python 3.14 and its backport
    if sys.version_info >= (3, 14):
        from compression import zstd as _found
    else:
        from backports import zstd as _found
except ImportError:
    zstd: Any = None
else:
    zstd = _found

Compression = Literal["zlib", "zstd"]

#: Larger content is stored uncompressed, so compressed content never unpacks to more than this. Damaged or forged
#: content that would unpack to more is refused before it takes the memory.
MOST_COMPRESSED = 64 << 20
#: How to get zstd in this Python.
HOW_TO_HAVE_ZSTD = "install the extra umbel[zstd], or use Python 3.14 or newer"

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compressed(plain: bytes, how: Compression = "zlib") -> bytes:
    """Compress content, unless it is very large.

    Args:
        plain: Any content.
        how: The algorithm; `Settings` has checked that this process has it.
    """
    if len(plain) > MOST_COMPRESSED:
        return zlib.compress(plain, 0)
    if how == "zstd":
        content: bytes = zstd.compress(plain)
        return content
    return zlib.compress(plain)


def decompressed(content: bytes) -> bytes:
    """Decompress content of either algorithm, within the memory that valid content can take.

    Raises:
        ValueError: It is damaged, would become larger than any valid content, or needs zstd where there is none.
    """
    if content.startswith(_ZSTD_MAGIC):
        if zstd is None:
            raise ValueError(f"it is compressed with zstd, which this process lacks: {HOW_TO_HAVE_ZSTD}")
        inflating, error = zstd.ZstdDecompressor(), zstd.ZstdError
    else:
        inflating, error = zlib.decompressobj(), zlib.error
    most = max(MOST_COMPRESSED, len(content))
    try:
        plain: bytes = inflating.decompress(content, most + 1)
    except error as damage:
        raise ValueError(str(damage)) from damage
    if len(plain) > most:
        raise ValueError(f"it would have more than {most:,} bytes")
    if not inflating.eof:
        raise ValueError("incomplete or truncated stream")
    return plain
