"""Access control of the labelling page: host, origin, token, type, size and time limit of every request.

Refuses before anything else is run. It does not encrypt: over a network, use an SSH tunnel.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 64 * 1024  # bytes of a request's body
BODY_SECONDS = 10.0  # for a request's body to arrive
NAMES = 4  # that one browser may answer under: several people take turns at one computer
_DRAINED = 1024 * 1024  # bytes of a refused body to drain, so that the refusal reaches the sender
LOG = logging.getLogger("text_gym")

# What the page needs and nothing else: no inline script or style, no other server, no frames, no forms.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not `no-referrer`, which may turn the page's own Origin into `null`.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Session:
    """What one browser may do.

    Args:
        token: Of its cookie.
        host: It may end the training.
        rater: The only name that it answers under; "" lets it choose.
    """

    token: bytes
    host: bool = False
    rater: str = ""


class Access:
    """One-time links, the sessions they open, and whose names are whose.

    A name belongs to the session that first answers under it. All is kept in memory, so that a restart ends
    it. Tokens have 256 random bits. They are compared in constant time and never logged.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: list[Session] = []
        self._sessions: list[Session] = []
        self._owners: dict[str, Session] = {}

    def new_link(self, rater: str = "", host: bool = False) -> str:
        """Make a token that `redeem` accepts once, for a session that may do so much."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._links.append(Session(token.encode(), host, rater))
        return token

    def redeem(self, token: str, before: Session | None = None) -> Session | None:
        """Exchange a link's token for a session; None if it is unknown or already used.

        Args:
            token: The link's.
            before: The session that the browser had: it ends, and what it could do goes over to the new one.
        """
        with self._lock:
            found = _matches(self._links, token)
            if not found:
                return None
            link = found[0]
            self._links.remove(link)
            old = before if before in self._sessions else None
            host = link.host or (old is not None and old.host)
            session = Session(secrets.token_urlsafe(32).encode(), host, link.rater)
            self._sessions = [*(s for s in self._sessions if s != old), session]
            for name, owner in self._owners.items():
                if owner == old:
                    self._owners[name] = session
            if link.rater:  # by the host's word
                self._owners[link.rater] = session
            return session

    def session(self, token: str) -> Session | None:
        """Return the open session with this token."""
        with self._lock:
            return next(iter(_matches(self._sessions, token)), None)

    def why_not(self, session: Session, name: str) -> str:
        """Give a name to the session if it is free; say why not if the session may not answer under it."""
        with self._lock:
            owner = self._owners.get(name)
            if owner == session:
                return ""
            if session.rater:
                return "this link is for one name only, and another browser may have opened a newer one"
            if owner is not None:
                return "another browser answers under this name; choose another name"
            if sum(s == session for s in self._owners.values()) >= NAMES:
                return f"a browser can answer under {NAMES} names; use one of those it has"
            self._owners[name] = session
            return ""


def _matches(known: Iterable[Session], token: str) -> list[Session]:
    given = token.encode("utf-8", "surrogatepass")
    return [k for k in known if hmac.compare_digest(k.token, given)]


class Guard:
    """Middleware that rejects what must not reach the application, and adds the security headers.

    In this order: 403 unless `Host` is one of ours and `Origin`, if there is one, is that host's own; 405 for
    other methods than GET, HEAD and POST; and for POST 403 without `Origin`, 401 without a session, 415
    unless the type is JSON, 413 or 408 if the body is too large or too slow. 500 says nothing of the cause.

    Args:
        app: The application.
        access: Knows the sessions.
        hosts: What `Host` may say, with the port, in lower case.
        cookie: Name of the session's cookie.
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: Iterable[str], cookie: str) -> None:
        self.app, self.access, self.cookie = app, access, cookie
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS)]
            await send(message)

        refused = self._refusal(scope)
        body = b""
        if refused:
            await _read(receive, 0)
        elif scope["method"] == "POST":
            content = await _read(receive, BODY)
            refused = content if isinstance(content, tuple) else None
            body = content if isinstance(content, bytes) else b""
        if refused:
            await _answer(send_safely, *refused)
            return
        try:
            await self.app(scope, _replay(body, receive), send_safely)
        except Exception:
            LOG.exception("the labelling page failed on %s %s", scope["method"], ascii(scope["path"]))
            if not started:
                await _answer(send_safely, 500, "the server failed; its terminal says more")

    def session(self, scope: Scope) -> Session | None:
        """Return the session that the request's cookie stands for."""
        jar: SimpleCookie = SimpleCookie()
        try:
            for value in _values(scope, b"cookie"):
                jar.load(value)
        except CookieError:
            return None
        return self.access.session(jar[self.cookie].value) if self.cookie in jar else None

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 403, "this is not a name of this server"
        own = [f"http://{hosts[0].lower()}"]
        if origins and origins != own:
            return 403, "requests from other sites are refused"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "method not allowed"
        if scope["method"] == "POST":
            if origins != own:
                return 403, "requests from other sites are refused"
            if not self.session(scope):
                return 401, "open the newest link from the terminal"
            types = [t.partition(";")[0].strip().lower() for t in _values(scope, b"content-type")]
            if types != ["application/json"]:
                return 415, "send application/json"
        return None


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(k.encode(), v.encode()) for k, v in headers.items()]


async def _read(receive: Receive, limit: int) -> bytes | tuple[int, str]:
    """Read the body, or say why it is refused; a body over the limit is drained up to a point."""
    parts: list[bytes] = []
    size = 0

    async def read() -> None:
        nonlocal size
        more = True
        while more and size <= max(limit, _DRAINED):
            message = await receive()
            if message["type"] != "http.request":  # the sender has gone
                return
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= limit:
                parts.append(part)

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        return 408, "the request took too long"
    return (413, f"a request may have {BODY:,} bytes") if size > limit else b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that replays a body already read."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Any, status: int, error: str) -> None:
    body = json.dumps({"error": error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})
