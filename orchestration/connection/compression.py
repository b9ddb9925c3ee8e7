"""How the past of runs is made small: zlib, which every Python has, or zstd where a deployment asks for it.

What one process compresses, any other has to read: so zstd is a setting and not a discovery. Which of the two it was is
seen from the first bytes.
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

#: What is larger is stored as it is. So nothing that was compressed is larger, and a damaged or forged piece that would
#: unpack to any size is refused before it has taken the memory.
MOST_COMPRESSED = 64 << 20
#: How to have zstd in this Python.
HOW_TO_HAVE_ZSTD = "install the extra umbel[zstd], or use Python 3.14 or newer"

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compressed(plain: bytes, how: Compression = "zlib") -> bytes:
    """The same with fewer bytes, unless it is very large.

    Args:
        plain: Anything.
        how: With what; `Settings` has checked that this process has it.
    """
    if len(plain) > MOST_COMPRESSED:
        return zlib.compress(plain, 0)
    if how == "zstd":
        content: bytes = zstd.compress(plain)
        return content
    return zlib.compress(plain)


def decompressed(content: bytes) -> bytes:
    """The inverse, of either; it takes no more memory than what was compressed can.

    Raises:
        ValueError: It is damaged, would become larger than anything that was compressed, or needs zstd.
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
