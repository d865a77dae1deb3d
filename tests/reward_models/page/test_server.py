from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_tools import Browser, exchange, ratings, raw, served, status_of
from text_gym.errors import ConfigError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.page import security as security
from text_gym.reward_models.page import server as server
from text_gym.reward_models.page.page import LabelPage
from text_gym.reward_models.page.server import listen, names_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabelPage, LabelStore, Browser]]:
    with served(tmp_path_factory.mktemp("site"), ratings(3)) as (page, store, links):
        yield page, store, Browser(links[-1])


# Ports and addresses


def test_a_port_in_use_is_named_and_a_free_one_offered() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 is in use") as error:
            listen("127.0.0.1", port)
        offered = re.search(r"port (\d+) is free", str(error.value))
        assert offered is not None
        assert int(offered[1]) != port
        with listen("127.0.0.1", int(offered[1])) as other:
            assert other.getsockname()[1] == int(offered[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_what_others_can_reach_needs_to_be_asked_for(host: str) -> None:
    with pytest.raises(ConfigError, match="--expose"):
        listen(host, 0)


def test_exposed_it_still_needs_a_token(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "host": "0.0.0.0",
        "expose": True,
        "names": ["lab.example", "tunnel.example:443"],
    }
    with served(tmp_path, ratings(1), **settings) as (page, _, links):
        assert links[0].startswith(f"http://lab.example:{page.port}/login?token=")
        allowed = {f"lab.example:{page.port}", f"127.0.0.1:{page.port}", f"localhost:{page.port}"}
        assert allowed <= set(page.hosts)
        assert "tunnel.example:443" in page.hosts
        for host in page.hosts:
            headers = [("Host", host), ("Origin", f"http://{host}"), ("Content-Type", "application/json")]
            assert status_of(exchange(page.port, raw("GET", "/", [("Host", host)]))) == 200
            assert status_of(exchange(page.port, raw("POST", "/api/hello", headers, b"{}"))) == 401
        assert status_of(exchange(page.port, raw("GET", "/", [("Host", f"evil:{page.port}")]))) == 403


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", -1), ("127.0.0.1", 65_536), ("no.such.host.invalid", 0), ("a" * 70, 0)]
)
def test_addresses_that_cannot_be(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        listen(host, port)


def test_an_address_of_another_computer() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1"):
        listen("192.0.2.1", 0, expose=True)


def test_names_of_a_socket() -> None:
    with listen("127.0.0.1", 0) as made:
        port = made.getsockname()[1]
        assert names_of(made) == [f"127.0.0.1:{port}", f"localhost:{port}"]
        assert names_of(made, ["Lab", "far:99", "[::2]:7", "[::2]"])[1:5] == [
            f"lab:{port}",
            "far:99",
            "[::2]:7",
            f"[::2]:{port}",
        ]
    if socket.has_ipv6:
        try:
            six = listen("::1", 0)
        except ConfigError:  # no such address here
            return
        with six:
            assert names_of(six)[0] == f"[::1]:{six.getsockname()[1]}"


def test_a_port_can_be_taken_again_at_once(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        port = 0
        for _ in range(3):
            with LabelPage(store, port=port, say=lambda _: None) as page:
                port = page.port
                reply = exchange(port, raw("GET", "/", [("Host", page.hosts[0])]))
                assert status_of(reply) == 200
        assert exchange_fails(port)


def exchange_fails(port: int) -> bool:
    try:
        return not exchange(port, b"GET / HTTP/1.1\r\n\r\n", 1.0)
    except OSError:
        return True


# Slow and malformed requests


@pytest.mark.parametrize("trickle", [False, True])
def test_a_slow_head_is_given_up(
    site: tuple[LabelPage, LabelStore, Browser], monkeypatch: pytest.MonkeyPatch, trickle: bool
) -> None:
    page, _, browser = site
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", page.port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        connection.settimeout(0.05 if trickle else 10.0)
        reply = b""
        while not reply and time.monotonic() - started < 5:
            try:
                reply = connection.recv(65_536)
                break
            except TimeoutError:
                connection.sendall(b"a")
    assert status_of(reply) == 408
    assert time.monotonic() - started < 3
    assert browser.post("hello")[0] == 200


def test_a_kept_connection_serves_on_and_is_then_closed(
    site: tuple[LabelPage, LabelStore, Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, _, browser = site
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.6)
    request = f"GET /icon.svg HTTP/1.1\r\nHost: {browser.host}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", page.port), 10) as connection:
        for _ in range(4):
            time.sleep(0.3)  # 1.2 s in all: each request has its own time
            connection.sendall(request)
            reply = b""
            while b"</svg>" not in reply:
                reply += connection.recv(65_536)
            assert reply.startswith(b"HTTP/1.1 200")
        connection.settimeout(5)
        assert b"200" not in connection.recv(65_536)


def test_hundreds_of_idle_connections_do_not_stop_the_raters(
    site: tuple[LabelPage, LabelStore, Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, _, browser = site
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    idle = [socket.create_connection(("127.0.0.1", page.port), 10) for _ in range(200)]
    try:
        for connection in idle:
            connection.sendall(b"POST /api/answer HTTP/1.1\r\n")
        assert browser.post("hello")[0] == 200
    finally:
        for connection in idle:
            connection.close()


def mangled(rng: random.Random, good: bytes) -> bytes:
    """A request spoilt: cut, bytes changed, lines doubled or swapped, hostile numbers, or plain noise."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(400))
    if kind == 1:
        return good[: rng.randrange(len(good))]
    if kind == 2:
        content = bytearray(good)
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    lines = good.split(b"\r\n")
    if kind == 3:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        return b"\r\n".join(lines)
    if kind == 4:
        rng.shuffle(lines)
        return b"\r\n".join(lines)
    if kind == 5:
        number = rng.choice([b"-1", b"99999999999999999999", b"1e3", b"0x10", b"", b"5, 6", b"\xb2"])
        return re.sub(rb"Content-Length: \d+", b"Content-Length: " + number, good)
    head, _, body = good.partition(b"\r\n\r\n")
    spoilt = rng.choice(
        [body[:-1], b"[" * 50_000, b'{"rater": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"NaN", body + b"}"]
    )
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(spoilt), head) + b"\r\n\r\n" + spoilt


# Not a label even where it comes through unspoilt: an answer in negative time, a text of no number.
def fuzz(site: tuple[LabelPage, LabelStore, Browser], count: int, seed: int) -> None:
    page, store, browser = site
    rng = random.Random(seed)
    item = next(iter(store.items())).id
    before = store.head
    body = b'{"rater": "eve", "item": "%s", "key": "k", "seconds": -1, "values": {}}' % item.encode()
    for number in range(count):
        good = raw("POST", rng.choice(["/api/answer", "/api/text", "/api/none"]), browser.headers(), body)
        content = mangled(rng, good)
        reply = exchange(page.port, content, hang_up=rng.random() < 0.95, timeout=15)
        assert status_of(reply) in (0, *range(400, 500)), (number, content, reply)
        assert b"Traceback" not in reply
        if number % 50 == 0:
            assert browser.post("hello")[0] == 200
    assert browser.post("hello")[0] == 200
    assert store.head == before  # nothing of it became a label


def test_malformed_requests_get_4xx_and_the_server_lives(
    site: tuple[LabelPage, LabelStore, Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    fuzz(site, 150, seed=0)


@pytest.mark.nightly
def test_malformed_requests_all_night(
    site: tuple[LabelPage, LabelStore, Browser],
    monkeypatch: pytest.MonkeyPatch,
    tried: Callable[..., None],
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    fuzz(site, 10_000, seed=1)
    tried("malformed HTTP gets an answer of 4xx and leaves the server at work", 10_000, "requests")
