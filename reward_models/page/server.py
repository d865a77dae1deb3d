"""The web server under the labelling page: a port on this computer, served from a thread.

It knows addresses, connections and timeouts, not what is served. There is no TLS.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from text_gym.errors import ConfigError, excerpt

HEAD_SECONDS = 10.0  # for a request's line and headers to arrive
_CONNECTIONS = 256
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def listen(host: str, port: int, expose: bool = False) -> socket.socket:
    """Open a listening socket.

    Args:
        host: Address or name of this computer.
        port: 0 takes any that is free.
        expose: Allow addresses that other computers can reach.

    Raises:
        ConfigError: The port is in use (a free one is named), or not ours to take; or the address is not
            this computer's, or not a loopback one without `expose`.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port {port}: need a number from 0 to 65535; 0 takes any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"there is no host {excerpt(host)}: {error}") from error
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback and not expose:
        raise ConfigError(
            f"host {host} can be reached by other computers, and the page is not encrypted. Keep 127.0.0.1 "
            "and use an SSH tunnel (ssh -L), or pass --expose if the network is yours"
        )
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if (
            os.name == "posix"
        ):  # else a restart waits for old connections; on other systems it would share the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(_CONNECTIONS)
    except OSError as error:
        made.close()
        raise ConfigError(_why_not(error, host, port)) from error
    return made


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program; port {_free_port(host)} is free: --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs the rights of an administrator; port {_free_port(host)} is free: --port"
    return f"cannot listen at {host}, port {port}: {error.strerror}"


def _free_port(host: str) -> int:
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.bind(address)
        return int(made.getsockname()[1])


def names_of(listening: socket.socket, names: Sequence[str] = ()) -> list[str]:
    """Return the `Host` values that may reach a socket, in lower case; links use the first.

    Args:
        listening: The socket.
        names: Further names or addresses of this computer, e.g. of a tunnel's other end; with a port if it
            is another there.
    """
    address, port = listening.getsockname()[:2]
    loopback = ["[::1]", "localhost"] if listening.family == socket.AF_INET6 else ["127.0.0.1", "localhost"]
    own = ipaddress.ip_address(address.partition("%")[0])
    if own.is_unspecified:
        known = [*names, socket.gethostname(), *loopback]
    else:
        known = [f"[{own}]" if own.version == 6 else str(own), *names, *loopback]
    return list(dict.fromkeys(n.lower() if _has_port(n) else f"{n.lower()}:{port}" for n in known))


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and (name.count(":") == 1 or "]:" in name)


class _Protocol(H11Protocol):
    """Uvicorn's protocol with a time limit on request headers, for which it would wait forever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._busy:
            self._cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._busy:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_request(self) -> None:
        self._cancel()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_out(self) -> None:
        if not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE:
                self.transport.write(_TIMED_OUT)
            self.transport.close()


class ServerThread:
    """A thread that serves an application until it is closed.

    Args:
        app: The application.
        listening: From `listen`; closed with the server.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        settings: dict[str, Any] = {
            "log_config": None,
            "log_level": "critical",
            "access_log": False,  # not logged: requests contain tokens
        }
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            h11_max_incomplete_event_size=16 * 1024,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            **settings,
        )
        self._server = uvicorn.Server(config)
        self._listening = listening
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="label page", daemon=True
        )

    def start(self) -> None:
        """Start serving, and return once requests are accepted."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    def close(self) -> None:
        """Finish the requests in progress, for up to two seconds, then stop."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._listening.close()
