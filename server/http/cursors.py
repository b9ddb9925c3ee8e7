"""Cursors of lists in the form that clients see: sealed, since a page may end at a run that its reader may not see.
Also ids of runs, derived from a client's idempotency key.

The key is made once per deployment and stored in Redis, so that every server can open the cursors of all others. Each
request that needs it reads it: a server that kept it would disagree with the others after Redis was emptied.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.store.verbs import Store

_KEY_BYTES = 32
_MAC_BYTES = 16
#: Text is padded to a multiple of this before it is sealed, so that a cursor's length does not reveal a run id's
#: length.
_BLOCK = 64
_MOST_CHARACTERS = 1_000


class Cursors:
    """Seals and opens the cursors of one deployment. Equal positions have equal cursors."""

    def __init__(self, key: bytes) -> None:
        keys = (hmac.digest(key, what, "sha256") for what in (b"seal", b"stream", b"start"))
        self._seal_key, self._stream_key, self._start_key = keys

    @classmethod
    async def of(cls, store: Store) -> Cursors:
        """The cursors of a deployment as they are now; not to be kept, since a Redis that was emptied gets another key.

        *Promise:* all processes use the same key, even if they start at the same time.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        name = store.keys.in_shard(0, "cursor_key")
        while (key := await store.command("read the key of cursors", "GET", name)) is None:
            await store.command("make the key of cursors", "SET", name, secrets.token_bytes(_KEY_BYTES), "NX")
        return cls(key)

    def sealed(self, cursor: str | None) -> str | None:
        """The sealed form of a cursor, for a client."""
        if cursor is None:
            return None
        text = cursor.encode()
        text += b"\0" * (-len(text) % _BLOCK)
        seal = self._seal(text)
        return base64.urlsafe_b64encode(seal + self._mixed(seal, text)).decode()

    def opened(self, given: str | None) -> str | None:
        """The cursor in a sealed form.

        Raises:
            WorkflowRuntimeError: No server of this deployment has sealed it.
        """
        if given is None:
            return None
        try:
            raw = base64.b64decode(given[:_MOST_CHARACTERS].encode(), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raw = b""
        seal, text = raw[:_MAC_BYTES], self._mixed(raw[:_MAC_BYTES], raw[_MAC_BYTES:])
        if not hmac.compare_digest(seal, self._seal(text)):
            raise WorkflowRuntimeError(
                f"{given[:100]!r} is not a cursor. Use the cursor that came with the previous page."
            )
        return text.rstrip(b"\0").decode()

    def start_id(self, *parts: str) -> str:
        """An id derived from these texts. Only owners of the key can derive it."""
        text = "".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")
        return hmac.digest(self._start_key, text, "sha256")[:_MAC_BYTES].hex()

    def _seal(self, text: bytes) -> bytes:
        return hmac.digest(self._seal_key, text, "sha256")[:_MAC_BYTES]

    def _mixed(self, seal: bytes, text: bytes) -> bytes:
        """Encrypt or decrypt the text: XOR with a stream of bytes that only owners of the key can make."""
        stream = hashlib.shake_256(self._stream_key + seal).digest(len(text))
        return bytes(a ^ b for a, b in zip(text, stream, strict=True))
