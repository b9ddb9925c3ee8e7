"""A server that reports an old release and knows no other command."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator

_INFO = b"# Server\r\nredis_version:6.2.20\r\nredis_mode:standalone\r\n"


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while header := self.rfile.readline():
                words = [self._word() for _ in range(int(header[1:]))]
                self.wfile.write(_reply(words[0].upper()))

    def _word(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:-2]


def _reply(command: bytes) -> bytes:
    if command == b"INFO":
        return b"$%d\r\n%s\r\n" % (len(_INFO), _INFO)
    return b"+OK\r\n" if command in (b"AUTH", b"SELECT", b"CLIENT") else b"-ERR unknown command\r\n"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def old_server() -> Iterator[str]:
    """Yield the URL, with a password, of a server that reports Redis 6.2.20."""
    with _Server(("127.0.0.1", 0), _Conversation) as server:
        threading.Thread(target=server.serve_forever, name="old-server", daemon=True).start()
        try:
            yield f"redis://:secret@127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
