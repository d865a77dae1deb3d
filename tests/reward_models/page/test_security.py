from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_tools import Browser, exchange, ratings, raw, served, status_of
from text_gym.reward_models import LabelStore
from text_gym.reward_models.page import security as security
from text_gym.reward_models.page.page import LabelPage
from text_gym.reward_models.page.security import NAMES, Access, Session


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabelPage, Browser]]:
    with served(tmp_path_factory.mktemp("site"), ratings(3)) as (page, _, links):
        yield page, Browser(links[-1])


# The request matrix. What is sent is named; the rule below is written from the names alone.

HOSTS = {
    "own": "127.0.0.1:{port}",
    "localhost": "localhost:{port}",
    "other port": "127.0.0.1:1",
    "rebound": "evil.example:{port}",
    "none": None,
}
ORIGINS = {
    "own": "http://{host}",
    "foreign": "http://evil.example",
    "null": "null",
    "https": "https://{host}",
    "none": None,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
TYPES = {
    "json": "application/json",
    "json utf-8": "application/json; charset=utf-8",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain",
    "none": None,
}
TOKENS = ("right", "wrong", "none")
PATHS = ("/", "/api/hello")


def expected(host: str, origin: str, method: str, kind: str, token: str, path: str) -> int:
    """The status that the documented rule gives."""
    if host == "none":
        return 400  # HTTP/1.1 itself demands a Host
    if host not in ("own", "localhost"):
        return 403
    if origin not in ("own", "none"):
        return 403
    if method in ("PUT", "DELETE", "OPTIONS"):
        return 405
    if method in ("GET", "HEAD"):
        return 200 if path == "/" else 405
    if origin == "none":
        return 403
    if token != "right":
        return 401
    if kind not in ("json", "json utf-8"):
        return 415
    return 405 if path == "/" else 200


def request_of(page: LabelPage, browser: Browser, host: str, origin: str, kind: str, token: str) -> Any:
    named = HOSTS[host]
    said = named.format(port=page.port) if named else None
    headers = []
    if said is not None:
        headers.append(("Host", said))
    own = ORIGINS[origin]
    if own is not None:
        headers.append(("Origin", own.format(host=said)))
    media = TYPES[kind]
    if media is not None:
        headers.append(("Content-Type", media))
    name = browser.cookie.partition("=")[0]
    cookies = {"right": browser.cookie, "wrong": f"{name}={'A' * 43}", "none": None}
    cookie = cookies[token]
    if cookie is not None:
        headers.append(("Cookie", cookie))
    return headers


def test_the_request_matrix_is_exact(site: tuple[LabelPage, Browser]) -> None:
    page, browser = site
    wrong, count = [], 0
    for case in itertools.product(HOSTS, ORIGINS, METHODS, TYPES, TOKENS, PATHS):
        host, origin, method, kind, token, path = case
        # One of the types and tokens is enough where neither can matter.
        if method != "POST" and (kind, token) not in (("json", "right"), ("none", "none")):
            continue
        headers = request_of(page, browser, host, origin, kind, token)
        body = b"{}" if method in ("POST", "PUT", "DELETE") else b""
        reply = exchange(page.port, raw(method, path, headers, body))
        count += 1
        if status_of(reply) != expected(*case):
            wrong.append((case, reply[:40]))
        assert b"access-control-" not in reply.lower()  # no CORS
        assert b"Traceback" not in reply
    assert wrong == []
    assert count == 1250


def test_names_that_only_begin_or_end_like_ours_are_refused(site: tuple[LabelPage, Browser]) -> None:
    page, browser = site
    own = f"127.0.0.1:{page.port}"
    for name in (f"{own}.evil.example", f"{own}0", f"evil.example.{own}", f"evil.{own}", f" {own}@evil"):
        headers = [("Host", name), ("Origin", f"http://{name}"), *browser.headers()[2:]]
        for method, path in (("GET", "/"), ("POST", "/api/hello")):
            reply = exchange(page.port, raw(method, path, headers, b"{}" if method == "POST" else b""))
            assert status_of(reply) in (400, 403), (name, method)
    for origin in (f"http://{own}.evil.example", f"http://{own}0", f"http://{own}@evil.example"):
        headers = [("Host", own), ("Origin", origin), *browser.headers()[2:]]
        reply = exchange(page.port, raw("POST", "/api/hello", headers, b"{}"))
        assert status_of(reply) == 403, origin


@pytest.mark.nightly
def test_the_full_product_is_exact(site: tuple[LabelPage, Browser], tried: Callable[..., None]) -> None:
    page, browser = site
    cases = list(itertools.product(HOSTS, ORIGINS, METHODS, TYPES, TOKENS, PATHS))
    for case in cases:
        host, origin, method, kind, token, path = case
        headers = request_of(page, browser, host, origin, kind, token)
        body = b"{}" if method in ("POST", "PUT", "DELETE") else b""
        assert status_of(exchange(page.port, raw(method, path, headers, body))) == expected(*case), case
    assert len(cases) == 4500
    tried(
        "the labelling page answers to its own host, origin, method, content type and token, and to no other",
        len(cases),
        "combinations",
    )


@pytest.mark.parametrize("name", ["Host", "Origin", "Content-Type"])
def test_a_header_given_twice_is_refused(site: tuple[LabelPage, Browser], name: str) -> None:
    page, browser = site
    headers = browser.headers()
    assert status_of(exchange(page.port, raw("POST", "/api/hello", headers, b"{}"))) == 200
    twice = [*headers, (name, dict(headers)[name])]
    status = status_of(exchange(page.port, raw("POST", "/api/hello", twice, b"{}")))
    assert status == {"Host": 400, "Origin": 403, "Content-Type": 415}[name]


# Tokens


def test_a_link_lets_one_browser_in_once(tmp_path: Path) -> None:
    with served(tmp_path, ratings(1)) as (page, _, links):
        (first,) = links
        browser = Browser(first)
        assert b" 303 " in browser.login.split(b"\r\n")[0]
        assert browser.post("hello")[0] == 200
        assert len(links) == 2  # the next rater's
        second = Browser(first)
        assert status_of(second.login) == 403
        assert second.cookie == ""
        again = raw(
            "GET",
            first.removeprefix(f"http://{browser.host}"),
            [("Host", browser.host), browser.headers()[2]],
        )
        assert status_of(exchange(page.port, again)) == 303  # who is in already may open it twice
        other = Browser(links[-1], "bob")
        assert other.cookie != browser.cookie
        assert other.post("hello")[0] == browser.post("hello")[0] == 200


def test_looking_at_a_link_does_not_use_it(tmp_path: Path) -> None:
    with served(tmp_path, ratings(1)) as (page, _, links):
        path = links[0].removeprefix(f"http://{page.hosts[0]}")
        assert status_of(exchange(page.port, raw("HEAD", path, [("Host", page.hosts[0])]))) == 405
        assert Browser(links[0]).cookie


def test_the_cookie_is_for_this_site_and_out_of_reach_of_scripts(site: tuple[LabelPage, Browser]) -> None:
    _, browser = site
    (line,) = [x for x in browser.login.decode().splitlines() if x.lower().startswith("set-cookie:")]
    parts = {p.strip().lower() for p in line.split(";")[1:]}
    assert parts == {"httponly", "samesite=strict", "path=/"}
    token = line.split("=", 1)[1].split(";")[0]
    assert len(token) * 6 >= 128  # base64: 6 bits a character
    assert re.fullmatch(r"[\w-]+", token)


def test_tokens_differ_and_each_opens_only_its_own() -> None:
    access = Access()
    links = [access.new_link() for _ in range(100)]
    assert len(set(links)) == 100
    session = access.redeem(links[7])
    assert session is not None
    assert access.redeem(links[7]) is None
    token = session.token.decode()
    assert access.session(token) == session
    for wrong in ("", token[:-1], token + "A", links[8], "\udcff", "é" * 43):
        assert access.session(wrong) is None
    assert access.redeem("") is None


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    access = Access()
    sessions = [access.redeem(access.new_link()) for _ in range(3)]
    monkeypatch.setattr("hmac.compare_digest", compare)
    assert sessions[0] is not None
    assert access.session(sessions[0].token.decode()) == sessions[0]
    assert len(compared) == 3  # no early end either


# Names


def opened(access: Access, rater: str = "", host: bool = False, before: Session | None = None) -> Session:
    session = access.redeem(access.new_link(rater, host), before)
    assert session is not None
    return session


def test_a_name_belongs_to_the_session_that_claimed_it() -> None:
    access = Access()
    ada, eve = opened(access), opened(access)
    assert access.why_not(ada, "ada") == "" == access.why_not(eve, "eve")
    assert "another browser answers under this name" in access.why_not(eve, "ada")
    assert access.why_not(ada, "ada") == ""
    # A newer link opened in the same browser takes over what the browser had.
    again = opened(access, before=ada)
    assert access.session(ada.token.decode()) is None
    assert access.why_not(again, "ada") == ""
    assert access.why_not(eve, "ada") != "" != access.why_not(ada, "ada")


def test_a_session_has_a_few_names_at_most() -> None:
    access = Access()
    eve = opened(access)
    refused = [name for name in map(str, range(100)) if access.why_not(eve, name)]
    assert refused == [str(i) for i in range(NAMES, 100)]
    assert access.why_not(eve, "0") == ""


def test_a_link_for_one_rater_is_for_that_name_alone() -> None:
    access = Access()
    ada, bob = opened(access, "ada"), opened(access, "bob")
    assert access.why_not(ada, "ada") == "" == access.why_not(bob, "bob")
    for session, name in ((ada, "bob"), (ada, "eve"), (bob, "ada")):
        assert "for one name only" in access.why_not(session, name)
    # A newer link for ada: on the telephone, say.
    telephone = opened(access, "ada")
    assert access.why_not(telephone, "ada") == ""
    assert "newer" in access.why_not(ada, "ada")


def test_the_host_stays_the_host_with_a_newer_link_and_nobody_else_becomes_it() -> None:
    access = Access()
    host, other = opened(access, host=True), opened(access)
    assert (host.host, other.host) == (True, False)
    assert opened(access, before=host).host
    assert not opened(access, before=other).host
    assert not opened(access, before=host).host  # that session has ended


def test_no_token_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), served(tmp_path, ratings(1)) as (page, _, links):
        browser = Browser(links[-1])
        used = links[0].partition("token=")[2]
        browser.post("next")
        exchange(page.port, b"GET /login?token=" + used.encode() + b" HTTP/1.1\r\nbad header\r\n\r\n")
        Browser(links[0])
    out, err = capfd.readouterr()
    everything = caplog.text + out + err
    for secret in (used, browser.cookie.partition("=")[2], links[-1].partition("token=")[2]):
        assert secret
        assert secret not in everything


# What every reply says


def test_every_reply_has_the_security_headers(site: tuple[LabelPage, Browser]) -> None:
    page, browser = site
    host = [("Host", browser.host)]
    for request in (
        raw("GET", "/", host),
        raw("GET", "/nothing", host),
        raw("GET", "/", [("Host", "evil.example")]),
        raw("POST", "/api/hello", browser.headers(), b"{}"),
        raw("POST", "/api/hello", browser.headers(), b"no json"),
    ):
        head = exchange(page.port, request).partition(b"\r\n\r\n")[0].decode().lower()
        policy = re.search(r"^content-security-policy: (.*)$", head, re.MULTILINE)
        assert policy is not None
        rules = {r.strip() for r in policy[1].strip().split(";")}
        assert {
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
        } <= rules
        assert "unsafe" not in policy[1]
        for line in ("x-content-type-options: nosniff", "cache-control: no-store", "x-frame-options: deny"):
            assert line in head
        assert "\r\nserver:" not in head


def test_a_failure_shows_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("the secret is in web.py line 12")

    monkeypatch.setattr(LabelStore, "progress", fail)
    with served(tmp_path, ratings(1)) as (page, _, links):
        browser = Browser(links[-1])
        body = b'{"rater": "ada"}'
        reply = exchange(page.port, raw("POST", "/api/next", browser.headers(), body))
        assert status_of(reply) == 500
        assert b"secret" not in reply
        assert b"Traceback" not in reply
        assert b".py" not in reply
        assert browser.post("hello")[0] == 200


# Size and time of a body


@pytest.mark.parametrize(
    ("size", "status"), [(64 * 1024, 200), (64 * 1024 + 1, 413), (900_000, 413)], ids=["64K", "+1", "900k"]
)
def test_a_body_has_64_kib_at_most(site: tuple[LabelPage, Browser], size: int, status: int) -> None:
    page, browser = site
    body = b"{" + b" " * (size - 2) + b"}"
    assert status_of(exchange(page.port, raw("POST", "/api/hello", browser.headers(), body))) == status


def test_a_chunked_body_has_64_kib_at_most(site: tuple[LabelPage, Browser]) -> None:
    page, browser = site
    head = raw("POST", "/api/hello", [*browser.headers(), ("Transfer-Encoding", "chunked")])
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    assert status_of(exchange(page.port, head + b"2\r\n{}\r\n" + chunk * 3 + b"0\r\n\r\n")) == 200
    assert status_of(exchange(page.port, head + b"2\r\n{}\r\n" + chunk * 4 + b"0\r\n\r\n")) == 413


@pytest.mark.parametrize(("chunks", "whole"), [(4, True), (5, False)])
def test_chunks_count_together_however_they_arrive(chunks: int, whole: bool) -> None:
    """Over a socket several of them may arrive as one."""
    left = [{"type": "http.request", "body": b" " * 0x4000, "more_body": i > 0} for i in range(chunks)]

    async def receive() -> dict[str, Any]:
        return left.pop()

    found = asyncio.run(security._read(receive, 0x10000))
    assert found == b" " * 0x10000 if whole else found[0] == 413


def test_an_endless_body_ends(site: tuple[LabelPage, Browser]) -> None:
    page, browser = site
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = raw("POST", "/api/hello", [*browser.headers(), ("Transfer-Encoding", "chunked")])
    assert status_of(exchange(page.port, head + chunk * 64)) in (0, 413)
    assert browser.post("hello")[0] == 200


def test_a_slow_body_is_given_up(site: tuple[LabelPage, Browser], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    page, browser = site
    monkeypatch.setattr(security, "BODY_SECONDS", 0.3)
    head = raw("POST", "/api/hello", [*browser.headers(), ("Content-Length", "100")])
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", page.port), 10) as connection:
        connection.sendall(head + b"{")
        assert status_of(connection.recv(65_536)) == 408
    assert time.monotonic() - started < 5
    assert browser.post("hello")[0] == 200
