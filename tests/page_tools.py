"""Raw HTTP against the labelling page: what a browser, and what nobody but an attacker, would send."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.page.page import LabelPage


def ratings(count: int, start: int = 0) -> list[Question]:
    return [Question.rating("Sell a mug.\n", f"Mug number {i}: buy it!") for i in range(start, start + count)]


GOOD = {"accuracy": 4, "clarity": 5, "persuasiveness": 2}


def exchange(port: int, content: bytes, timeout: float = 15.0, hang_up: bool = False) -> bytes:
    """Send bytes to the server (and hang up, if told) and read what it sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        received = b""
        try:
            connection.sendall(content)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                received += part
        except OSError:
            pass
        return received


def status_of(reply: bytes) -> int:
    """The status of a reply; 0 where there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3})\b", reply)
    return int(found[1]) if found else 0


def raw(method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers), "Connection: close"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Browser:
    """What a signed-in page does, without a page."""

    def __init__(self, link: str, rater: str = "ada") -> None:
        self.rater = rater
        self.host, _, path = link.removeprefix("http://").partition("/")
        self.port = int(self.host.rpartition(":")[2])
        self.login = exchange(self.port, raw("GET", "/" + path, [("Host", self.host)]))
        cookies = [x for x in self.login.split(b"\r\n") if x.lower().startswith(b"set-cookie:")]
        self.cookie = cookies[0].split(b": ", 1)[1].split(b";")[0].decode() if cookies else ""

    def headers(self) -> list[tuple[str, str]]:
        return [
            ("Host", self.host),
            ("Origin", f"http://{self.host}"),
            ("Cookie", self.cookie),
            ("Content-Type", "application/json"),
        ]

    def post(self, call: str, data: Any = None, port: int | None = None) -> tuple[int, Mapping[str, Any]]:
        """Status and content; status 0 if the connection broke."""
        body = json.dumps({"rater": self.rater} if data is None else data).encode()
        reply = exchange(port or self.port, raw("POST", f"/api/{call}", self.headers(), body))
        status = status_of(reply)
        _, _, content = reply.partition(b"\r\n\r\n")
        try:
            return status, json.loads(content)
        except ValueError:
            return 0, {}

    def next(self) -> Mapping[str, Any] | None:
        status, data = self.post("next")
        assert status == 200, data
        question: Mapping[str, Any] | None = data["question"]
        return question

    def answer(
        self, item: str, key: str, values: Any = None, seconds: Any = 1.5, port: int | None = None
    ) -> tuple[int, Mapping[str, Any]]:
        data = {"rater": self.rater, "item": item, "key": key, "seconds": seconds, "values": values or GOOD}
        return self.post("answer", data, port)


@contextmanager
def served(
    folder: Path, questions: list[Question], overlap: int = 1, **settings: Any
) -> Iterator[tuple[LabelPage, LabelStore, list[str]]]:
    """A page over a new store; the last of the links is the one to use."""
    links: list[str] = []
    with LabelStore(folder / "labels.db") as store:
        store.put(questions, overlap=overlap)
        with LabelPage(store, port=0, say=links.append, **settings) as page:
            yield page, store, links
