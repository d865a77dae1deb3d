"""Talks to an OpenAI-compatible chat endpoint: one question, one answer as text, within a budget.

Only faults that pass are asked again: 429, 5xx, timeouts, cut connections. The key is read from an
environment variable for each request; no object, log or error holds it. Answers are not interpreted here.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from text_gym.errors import ConfigError, RewardError, excerpt
from text_gym.utils.display import without_secret

if TYPE_CHECKING:
    import httpx


Messages = Sequence[Mapping[str, str]]
_LARGEST_ANSWER = 4 * 1024 * 1024  # bytes; a judge's answer has some hundred
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_MISCONFIGURED = frozenset({401, 403, 404, 405})


class EndpointError(RewardError):
    """The endpoint gave no usable answer to this question; another question may still succeed."""


class EndpointRefusedError(EndpointError):
    """The endpoint refuses every request because the key, the address or the model is wrong."""


class BudgetError(EndpointError):
    """The budget of calls or tokens is used up, so the request was not sent."""


@dataclass(frozen=True)
class Spent:
    """The calls made and tokens used so far.

    Args:
        calls: Requests sent, repeated ones included.
        tokens: Tokens of prompts and answers as the endpoint reports them; where it reports none, a quarter
            of the bytes sent and received.
        failures: Questions that got no usable answer.
    """

    calls: int = 0
    tokens: int = 0
    failures: int = 0


class ChatEndpoint:
    """A chat model behind `POST {url}/chat/completions`.

    Safe to use from several threads, which is how `Parallel` makes it fast; a copy in another process has a
    budget of its own.

    Args:
        url: Address up to the version, e.g. `https://api.example.com/v1` or `http://localhost:8000/v1`.
        model: Name of the model, as the endpoint knows it.
        key_variable: Name of the environment variable that holds the key; None sends no key. The key itself
            is never an argument.
        max_calls: Budget of requests, repeated ones included; None means no limit.
        max_tokens: Budget of tokens. It is looked at before each request, so requests under way may exceed it
            by their own tokens.
        answer_tokens: Token limit of one answer.
        temperature: Of the model.
        timeout: Seconds to connect, for each silence, and (twice that) for a whole answer.
        attempts: Requests per question, >= 1.
        wait: Seconds before the second attempt, doubled for each further one, with a random half more so that
            many clients do not come back together. A `Retry-After` of the endpoint that is longer counts.
        longest: Most seconds between attempts; a question told to wait longer is given up.
        seed: Of the random waits.
        extra: Further fields of the request, e.g. `{"response_format": {"type": "json_object"}}`.

    Raises:
        ConfigError: Options out of range, a URL that is not http(s) or holds a secret, or httpx is missing.

    >>> ChatEndpoint("http://localhost:8000/v1", "tiny", key_variable="JUDGE_KEY")
    ChatEndpoint('http://localhost:8000/v1', 'tiny', key_variable='JUDGE_KEY')
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        answer_tokens: int = 512,
        temperature: float = 0.0,
        timeout: float = 60.0,
        attempts: int = 4,
        wait: float = 1.0,
        longest: float = 60.0,
        seed: int = 0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        try:
            at_a_port = parts.port is None or parts.port >= 0
        except ValueError:  # the error would show what stands there, which may be a part of a key
            raise ConfigError("the endpoint's url has a port that is no number") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not at_a_port:
            raise ConfigError(f"the endpoint's url is {excerpt(url)}; it begins with http:// or https://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"the url of endpoint {parts.hostname} holds a user name, a query or a fragment; put the key "
                "into an environment variable and name that variable in key_variable"
            )
        if key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", key_variable, re.ASCII):
            # The value is not shown: somebody may have passed the key itself.
            raise ConfigError("key_variable is the name of an environment variable, not the key")
        if attempts < 1 or min(timeout, answer_tokens) <= 0 or min(wait, longest, temperature) < 0:
            raise ConfigError(
                "an endpoint needs attempts >= 1, timeout and answer_tokens > 0, wait, longest and "
                f"temperature >= 0, not {(attempts, timeout, answer_tokens, wait, longest, temperature)}"
            )
        if any(limit is not None and limit < 0 for limit in (max_calls, max_tokens)):
            raise ConfigError(f"max_calls and max_tokens must be >= 0, not {max_calls}, {max_tokens}")
        self.url, self.model, self.key_variable = url.rstrip("/"), model, key_variable
        self.max_calls, self.max_tokens, self.answer_tokens = max_calls, max_tokens, answer_tokens
        self.temperature, self.timeout = temperature, timeout
        self.attempts, self.wait, self.longest = attempts, wait, longest
        self.extra = dict(extra or {})
        self.spent = Spent()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        _httpx()

    def ask(self, messages: Messages) -> str:
        """Send a conversation and return the text of the model's answer.

        Args:
            messages: Rows of `role` and `content`.

        Raises:
            BudgetError: The budget is spent.
            EndpointRefusedError: The endpoint knows neither key, address nor model (401, 403, 404, 405).
            EndpointError: No answer after all attempts, or one that is no chat completion.
        """
        body = self._body(messages)
        for attempt in range(self.attempts):
            try:
                return self._once(body)
            except _PassingError as error:
                pause = max(self._pause(attempt), error.retry_after)
                last = attempt == self.attempts - 1
                if last or pause > self.longest:
                    self._count(failures=1)
                    tail = f"; it asks to wait {pause:.0f} s" if pause > self.longest and not last else ""
                    raise EndpointError(
                        f"{self} gave no answer in {attempt + 1} attempts: {error}{tail}"
                    ) from ConnectionError(str(error))
                time.sleep(pause)
            except (EndpointError, ConfigError):
                self._count(failures=1)
                raise
        raise AssertionError("unreachable")

    def _once(self, body: bytes) -> str:
        """Send one request."""
        httpx = _httpx()
        key = self._key()
        self._reserve()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        deadline = time.monotonic() + 2 * self.timeout
        try:
            with self._connection().stream(
                "POST", f"{self.url}/chat/completions", content=body, headers=headers
            ) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _LARGEST_ANSWER:
                        raise EndpointError(f"{self} sent more than {_LARGEST_ANSWER:,} bytes")
                    if time.monotonic() > deadline:
                        raise _PassingError(f"no whole answer within {2 * self.timeout:g} s")
                status, retry_after = response.status_code, response.headers.get("retry-after", "")
        except httpx.TransportError as error:
            # The error's class says enough; its message may quote headers.
            raise _PassingError(_words(type(error).__name__)) from None
        except httpx.HTTPError as error:
            raise EndpointError(f"{self}: {_words(type(error).__name__)}") from None
        text = content.decode("utf-8", errors="replace")
        text = without_secret(text, key)  # an endpoint may quote it in an error
        if status != 200:
            self._refuse(status, text, retry_after)
        return self._answer(text, len(body))

    def _refuse(self, status: int, text: str, retry_after: str) -> None:
        said = f"status {status}, {excerpt(text.strip() or '(empty)', 120)}"
        if status in _TRANSIENT or status >= 500:
            raise _PassingError(said, _seconds(retry_after))
        if status in _MISCONFIGURED:
            variable = f" the key in ${self.key_variable}," if self.key_variable else " a key (key_variable),"
            raise EndpointRefusedError(f"{self} refused: {said}; check{variable} the url and the model")
        raise EndpointError(f"{self} refused: {said}")

    def _answer(self, text: str, sent: int) -> str:
        try:
            reply = json.loads(text)
            choice = reply["choices"][0]
            content, ended = choice["message"]["content"], choice.get("finish_reason")
            usage = reply.get("usage") or {}
            tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            content = ended = tokens = None
        if type(tokens) is not int or tokens < 0:
            tokens = (sent + len(text)) // 4
        self._count(tokens=tokens)
        if not isinstance(content, str):
            raise EndpointError(f"{self} answered with what is no chat completion: {excerpt(text, 120)}")
        if ended == "length":  # "Score: 4" may have been the beginning of 4.5
            raise EndpointError(f"{self}: the answer was cut at {self.answer_tokens} tokens; allow more")
        return content

    def _body(self, messages: Messages) -> bytes:
        request = {
            "model": self.model,
            "messages": [{k: _sound(v) for k, v in message.items()} for message in messages],
            "max_tokens": self.answer_tokens,
            "temperature": self.temperature,
            **self.extra,
        }
        return json.dumps(request).encode()

    def _key(self) -> str:
        if self.key_variable is None:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ConfigError(
                f"environment variable {self.key_variable} is empty: put the key of {self.url} there"
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(f"environment variable {self.key_variable} holds characters that no key has")
        return key

    def _reserve(self) -> None:
        """Charge a request to the budget before it is sent, or refuse it."""
        with self._lock:
            spent = self.spent
            for what, used, limit in (
                ("calls", spent.calls, self.max_calls),
                ("tokens", spent.tokens, self.max_tokens),
            ):
                if limit is not None and used >= limit:
                    raise BudgetError(f"{self}: {used:,} of {limit:,} {what} are spent; raise max_{what}")
            self.spent = Spent(spent.calls + 1, spent.tokens, spent.failures)

    def _count(self, tokens: int = 0, failures: int = 0) -> None:
        with self._lock:
            spent = self.spent
            self.spent = Spent(spent.calls, spent.tokens + tokens, spent.failures + failures)

    def _pause(self, attempt: int) -> float:
        with self._lock:
            return float(min(self.wait * 2.0**attempt * (1 + self._random.random() / 2), self.longest))

    def _connection(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                # Redirects are not followed: they would carry the key to another host.
                self._client = _httpx().Client(timeout=self.timeout, follow_redirects=False)
            return self._client

    def close(self) -> None:
        """Close the connections; they reopen when needed."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __repr__(self) -> str:
        key = f", key_variable={self.key_variable!r}" if self.key_variable else ""
        return f"ChatEndpoint({self.url!r}, {self.model!r}{key})"

    def __str__(self) -> str:
        return f"endpoint {self.url} (model {self.model})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_client")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock, self._client = threading.Lock(), None


class _PassingError(Exception):
    """A transient fault, worth another attempt."""

    def __init__(self, said: str, retry_after: float = 0.0) -> None:
        super().__init__(said)
        self.retry_after = retry_after


def _seconds(retry_after: str) -> float:
    """Return the seconds a `Retry-After` header asks for (RFC 9110, 10.2.3: a number or a date), else 0."""
    text = retry_after.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text, re.ASCII):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _words(name: str) -> str:
    """`ReadTimeout` -> `read timeout`."""
    return " ".join(re.findall(r"[A-Z][a-z]*", name)).lower()


def _sound(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ConfigError("a judge needs httpx: pip install httpx") from error
    return httpx
