"""The guard: every request and every websocket passes it first.

It is plain ASGI middleware in front of all routes and decides by the scope, so no path, method or protocol bypasses it.
It checks, in this order: the Host header (DNS rebinding), the origin of requests that change something (cross-site
requests), the token, the size of the body. It also adds security headers to every response.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import PRINCIPAL, Principal

__all__ = ["Guard", "Principal", "is_loopback"]

_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is loopback."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_in_process(name: str, scope: Scope) -> bool:
    """Whether the request comes from a test client, which calls the app in its own process.

    A test client chooses the server's name (`testserver`, `test`). A request over a socket has the socket's address
    there, and a malicious page that poses as this server (DNS rebinding) has a domain with a dot.
    """
    server = scope.get("server") or ("",)
    return "." not in name and name == str(server[0]).lower() != ""


class Guard:
    """The ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Mapping[str, str],
        is_authorized_elsewhere: bool,
        allowed_hosts: Collection[str] | None,
        allowed_origins: Collection[str],
        public_paths: Collection[str],
        max_body_bytes: int,
    ) -> None:
        """Args:
        app: The app to guard.
        tokens: Name -> token; empty if none is required.
        is_authorized_elsewhere: An `authorize` hook checks every request.
        allowed_hosts: Accepted Host headers, without port. None: any with a token or a hook (another site's page has
            neither), else only loopback names.
        allowed_origins: Other origins whose pages may call, such as `https://app.example`.
        public_paths: Exact paths that may be read without a token.
        max_body_bytes: Maximum size of a request body.
        """
        self._app = app
        self._tokens = {name: token.encode() for name, token in tokens.items()}
        self._any_host = allowed_hosts is None and (bool(tokens) or is_authorized_elsewhere)
        self._hosts = frozenset(host.lower() for host in allowed_hosts or ())
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._public_paths = frozenset(public_paths)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _refuse(scope, receive, send, *refused, is_script=_is_script(headers))
            return
        body = _LimitedBody(receive, self._max_body_bytes)
        await self._app(scope, body.receive, _with_headers(send))

    # -- checks ---------------------------------------------------------------------------------------------------

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and text if the request is refused; else the principal is stored in the scope."""
        host = headers.get("host", "")
        if sum(name.lower() == b"host" for name, _ in scope["headers"]) > 1:
            return 400, "The request has several Host headers. Send one."
        if not self._is_our_name(host, scope):
            return 421, (
                f"Host {_short(host)!r} is not allowed. Use a loopback name, or add this one to allowed_hosts."
            )
        if not self._may_come_from(scope, headers, host):
            return 403, (
                f"Requests from {_short(headers.get('origin', 'another site'))!r} are not allowed. Call from the "
                "server's own pages, or add the origin to allowed_origins."
            )
        principal = self._principal(scope, headers)
        if principal is None:
            return 401, "Authentication required: send `Authorization: Bearer <token>`."
        scope[PRINCIPAL] = principal
        try:
            declared = int(headers.get("content-length", 0))
        except ValueError:
            return 400, "The Content-Length header is not a number."
        if declared > self._max_body_bytes:
            return 413, _too_large(self._max_body_bytes)
        return None

    def _is_our_name(self, host: str, scope: Scope) -> bool:
        if self._any_host:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name) or _is_in_process(name, scope)

    def _may_come_from(self, scope: Scope, headers: Mapping[str, str], host: str) -> bool:
        if scope["type"] == "http" and scope["method"] in _READING:
            return True  # without CORS headers, no page of another origin can read the response
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        if origin.lower() in self._origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower() != ""
        except ValueError:
            return False

    def _principal(self, scope: Scope, headers: Mapping[str, str]) -> Principal | None:
        credentials = _credentials(headers.get("authorization", ""))
        client = scope.get("client")
        name = self._named(credentials)
        if name is None:
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            reads = scope["type"] == "http" and scope["method"] in _READING
            if self._tokens and not (reads and path in self._public_paths):
                return None
            name = ""
        return Principal(name, credentials, headers, client[0] if client else None)

    def _named(self, credentials: str | None) -> str | None:
        """The name of the token that was sent; all are compared, each in constant time."""
        sent = (credentials or "").encode()
        names = [name for name, token in self._tokens.items() if hmac.compare_digest(sent, token)]
        return names[0] if names and credentials else None


def _credentials(authorization: str) -> str | None:
    """The token in an Authorization header; with Basic authentication, for browsers, it is the password."""
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


class _LimitedBody:
    """Passes on a request's messages, and fails if its body becomes too large, whatever size was declared."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._seen = receive, most, 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self._most:
                raise HTTPException(413, _too_large(self._most))
        return message


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in _HEADERS.items() if name not in present]
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return sending


def _is_script(headers: Mapping[str, str]) -> bool:
    """Whether the request was sent by a page's script instead of a navigation."""
    return headers.get("sec-fetch-mode", "navigate") != "navigate"


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, *, is_script: bool = False
) -> None:
    if scope["type"] == "websocket":
        await receive()  # the opening message; closing before accepting answers the handshake with 403
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="umbel"'))
        if not is_script:
            # For a navigation, browsers prompt for a password and send it with every request. For a script they would
            # also prompt.
            headers.append((b"www-authenticate", b'Basic realm="umbel"'))
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(most: int) -> str:
    return (
        f"The request body is larger than {most:,} bytes (max_body_bytes). Store large data in a file, a bucket or a "
        "database, and send a reference to it."
    )


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
