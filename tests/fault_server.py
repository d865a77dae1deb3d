"""A chat endpoint on the loopback that misbehaves as told; standard library only."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", str], None]


def truth(text: str) -> int:
    """The score from 1 to 5 that the endpoint gives to a text when all is well."""
    return 1 + hashlib.sha256(text.encode()).digest()[0] % 5


def material(messages: list[dict[str, str]]) -> dict[str, str]:
    """What stands between the delimiters, read as a judge is told to read it."""
    found = re.search(r"tags that end in (\w+)\.", messages[0]["content"])
    assert found
    data = messages[1]["content"]
    tags = re.findall(rf"^<(\w+)-{found[1]}>$", data, re.MULTILINE)
    result = {}
    for tag in tags:
        start, end = f"<{tag}-{found[1]}>\n", f"\n</{tag}-{found[1]}>"
        assert data.count(start) == data.count(end) == 1
        result[tag] = data.split(start)[1].split(end)[0]
    return result


@dataclass
class Log:
    """What the server saw and did."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    behaviours: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Plays the behaviour that the server's plan names for the request."""

    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            log = self.server.log
            name = self.server.plan(len(log.requests), request)
            log.requests.append(request)
            log.headers.append(dict(self.headers))
            log.behaviours.append(name)
            log.times.append(time.monotonic())
        answer = material(request["messages"]).get("answer", "")
        with suppress(BrokenPipeError, ConnectionResetError):
            BEHAVIOURS[name](self, answer)

    def reply(self, status: int, body: str, **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chat(self, content: Any, **more: Any) -> None:
        self.reply(200, json.dumps({"choices": [{"message": {"content": content}}], **more}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def _cut(handler: Handler, answer: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message": {"content": "{\\"quality\\": 5}"}}]}')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def _slow(handler: Handler, answer: str) -> None:
    handler.server.stopped.wait(handler.server.slowness)
    handler.chat('{"quality": 5}')


def _drip(handler: Handler, answer: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(2000):
        if handler.server.stopped.wait(handler.server.slowness / 10):
            return
        handler.wfile.write(b" ")
        handler.wfile.flush()


def _hang_up(handler: Handler, answer: str) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def _good(handler: Handler, answer: str) -> None:
    handler.chat(json.dumps({"reason": "so it is", "quality": truth(answer)}), usage={"total_tokens": 100})


def _says(content: Any) -> Behaviour:
    return lambda handler, answer: handler.chat(content)


def _status(status: int, body: str = '{"error": "no"}', **headers: str) -> Behaviour:
    return lambda handler, answer: handler.reply(status, body, **headers)


def _echo(handler: Handler, answer: str) -> None:
    handler.reply(400, json.dumps({"error": f"bad key {handler.headers['Authorization']}"}))


def _echo_escaped(handler: Handler, answer: str) -> None:
    """Quote the key as careless servers do: escaped slashes, numbers, percent signs, Base64."""
    key = str(handler.headers["Authorization"]).removeprefix("Bearer ")
    forms = [
        key.replace("/", "\\/"),
        "".join(f"\\u{ord(c):04x}" for c in key),
        urllib.parse.quote(key, safe=""),
        base64.b64encode(f"Bearer {key}".encode()).decode(),
    ]
    handler.reply(400, " ".join(forms))


def _echo_in_answer(handler: Handler, answer: str) -> None:
    handler.chat(f"you said {handler.headers['Authorization']}")


BEHAVIOURS: dict[str, Behaviour] = {
    "good": _good,
    # Passing faults, worth another attempt.
    "429": _status(429, Retry_After="0"),
    "429 wait": _status(429, Retry_After="0.3"),
    "429 long": _status(429, Retry_After="3600"),
    "500": _status(500, "boom"),
    "503": _status(503, ""),
    "slow": _slow,
    "drip": _drip,
    "cut": _cut,
    "hang up": _hang_up,
    # Lasting faults of one question.
    "400": _status(400),
    "echo": _echo,
    "echo escaped": _echo_escaped,
    "echo in answer": _echo_in_answer,
    "redirect": _status(307, Location="http://127.0.0.1:1/v1/chat/completions"),
    "html": _status(200, "<html><body>quality: 5</body></html>", Content_Type="text/html"),
    "malformed": _status(200, '{"choices": [{"message": {"content": "{\\"quality\\": 5}"}'),
    "list": _status(200, "[5]"),
    "no choices": _status(200, '{"choices": []}'),
    "null": _says(None),
    "prose": _says("I would give it a 5."),
    "out of range": _says('{"quality": 6}'),
    "text number": _says('{"quality": "5"}'),
    "true": _says('{"quality": true}'),
    "nan": _says('{"quality": NaN}'),
    "twice": _says('{"quality": 5, "quality": 1}'),
    "empty": _says(""),
    "other name": _says('{"style": 5}'),
    "one more": _says('{"quality": 5, "style": 5}'),
    "prose around": _says('Sure: {"quality": 5}'),
    # Lasting faults of all questions.
    "401": _status(401),
    "403": _status(403),
    "404": _status(404, "<html>not here</html>"),
}
PASSING = ("429", "500", "503", "slow", "drip", "cut", "hang up")
REFUSING = ("401", "403", "404")
SLOW = ("slow", "drip")  # to be met with little patience: PATIENCE seconds
PATIENCE = 0.4
LASTING = tuple(
    name for name in BEHAVIOURS if name not in (*PASSING, *REFUSING, "good", "429 wait", "429 long")
)


class FaultServer(ThreadingHTTPServer):
    """A server on the loopback; `plan` says how the n-th request is treated."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, plan: Callable[[int, dict[str, Any]], str], slowness: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.slowness, self.log = plan, slowness, Log()
        self.lock, self.stopped = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def fault_server(
    plan: str | list[str] | Callable[[int, dict[str, Any]], str], slowness: float = 2.0
) -> Iterator[FaultServer]:
    """A running server: always one behaviour, a list of them (the last one again and again), or any rule."""

    def chosen(n: int, request: dict[str, Any]) -> str:
        if callable(plan):
            return plan(n, request)
        return plan if isinstance(plan, str) else plan[min(n, len(plan) - 1)]

    server = FaultServer(chosen, slowness)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
