"""Compressed message bodies are unpacked as kombu does it, but within bounds."""

from __future__ import annotations

import tracemalloc

import pytest
from kombu import compression

from umbel.workers.transport.inflating import inflated

KINDS = sorted({*compression.encoders(), *compression._aliases})


@pytest.mark.parametrize("kind", KINDS)
def test_what_kombu_compresses_is_unpacked_up_to_the_limit(kind: str) -> None:
    for plain in (b"", b"x", bytes(range(256)) * 1000):
        content, _ = compression.compress(plain, kind)
        assert inflated(content, kind, 256_000) == plain
    with pytest.raises(ValueError, match=r"more than 255,999 bytes.*most_inflated_bytes"):
        inflated(content, kind, 255_999)


@pytest.mark.parametrize("kind", compression.encoders())
def test_a_bomb_takes_no_more_memory_than_the_limit_allows(kind: str) -> None:
    content, _ = compression.compress(bytes(200 << 20), kind)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
            inflated(content, kind, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", compression.encoders())
def test_content_that_is_cut_off_or_damaged_is_refused(kind: str) -> None:
    content, _ = compression.compress(bytes(range(256)) * 1000, kind)
    for wrong in (content[:-1], b"no stream", content + b"more"):
        with pytest.raises(Exception, match=r"."):
            inflated(wrong, kind, 1 << 20)


def test_an_unknown_compression_is_refused() -> None:
    for name in ("rot13", 5, ["gzip"]):
        with pytest.raises((KeyError, TypeError)):
            inflated(b"", name, 1 << 20)  # type: ignore[arg-type]
