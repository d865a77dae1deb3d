"""Model output is hostile text: make it harmless before a terminal sees it.

Commands print inside `escaped_output`, so that errors, warnings and tracebacks are escaped too. Only what is
shown is changed; what is stored stays verbatim. Of several processes only the first one prints.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

# Control, format (bidi overrides, zero-width), surrogate, private use, unassigned; line separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_LEAST = 8  # signs of Base64 that are too many to stand there by chance


def harmless(text: str, *, newlines: bool = False, limit: int | None = None) -> str:
    r"""Escape every control, bidi and zero-width character of a text.

    Args:
        text: Anything.
        newlines: Keep line feeds as they are.
        limit: Cut to this many characters and say how many are left out.

    >>> harmless("\x1b[31mred\u202e")
    '\\x1b[31mred\\u202e'
    """
    left = 0 if limit is None else max(0, len(text) - limit)
    if left:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(
            c if (c == "\n" and newlines) or unicodedata.category(c) not in _HIDDEN else _escape(c)
            for c in text
        )
    return f"{text} … ({left:,} more characters)" if left else text


def counted(count: int, thing: str) -> str:
    """Return a count of things in words.

    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def json_line(value: Any) -> str:
    r"""Return plain data as one line of JSON that is safe to print and means what `json.dumps` means.

    >>> json_line({"text": "\u202e\U000e0041é"})
    '{"text": "\\u202e\\udb40\\udc41é"}'
    """
    line = json.dumps(value, ensure_ascii=False)
    if line.isprintable():
        return line
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _HIDDEN else c for c in line)


def without_secret(text: str, secret: str, instead: str = "[key]") -> str:
    r"""Replace a secret in somebody's answer, escaped forms of it included.

    Found are backslash escapes (JSON's, Python's, repeated), percent encoding, HTML entities, Base64 and hex,
    mixed at will within one secret.

    Args:
        text: What may quote the secret.
        secret: A key or token; "" changes nothing.
        instead: What stands in its place.

    >>> without_secret(r'{"error": "no key s3\/cr\u0065t"}', "s3/cret")
    '{"error": "no key [key]"}'
    """
    if not secret:
        return text
    plain = re.sub(r"\\+", r"\\", secret)
    forms = ["".join(_any_form(c, before) for c, before in zip(plain, " " + plain, strict=False))]
    raw = secret.encode("utf-8", "surrogatepass")
    forms.append(f"(?i:{raw.hex()})")
    for before in range(3):  # bytes in front of it shift Base64; its first and last signs mix with others
        coded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        inner = coded[(0, 2, 3)[before] : len(coded) - ((len(raw) + before) % 3 > 0)]
        if len(inner) >= _LEAST:
            signs = "".join({"+": "[+-]", "/": "[/_]"}.get(c, c) for c in inner)
            forms.append(f"{signs}[A-Za-z0-9+/_-]?=*")
    return re.sub("|".join(forms), lambda _: instead, text)


def _any_form(c: str, before: str) -> str:
    """Return a pattern of one character as it is or escaped.

    A text can match it in one way only, and in few characters, so that no text makes the search slow.
    """
    code = ord(c)
    encoded = "".join(f"%(?:25){{0,4}}(?i:{b:02x})" for b in c.encode("utf-8", "surrogatepass"))
    entity = rf"&(?:amp;){{0,4}}#(?:0{{0,6}}{code}|[xX]0{{0,6}}(?i:{code:x}));"
    numbers = rf"u(?i:{code:04x})|x(?i:{code:02x})"
    if c == "\\":  # backslashes of the secret and those that escape it, however many
        return rf"(?:\\{{1,64}}(?:{numbers})?|{encoded}|{entity})"
    plain = "|".join(dict.fromkeys((re.escape(c), re.escape(html.escape(c)))))
    escapes = "" if before == "\\" else r"\\{0,8}"
    return rf"(?:{escapes}(?:{plain}|{numbers})|{encoded}|{entity})"


def _escape(c: str) -> str:
    code = ord(c)
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c)
    return known or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def started_by_torchrun() -> bool:
    """Return True if `torchrun` has started this process beside others."""
    return processes_of_torchrun() > 1


def processes_of_torchrun() -> int:
    """Return how many processes `torchrun` has started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def is_first_process() -> bool:
    """Return True if this process is the one that writes and prints: rank 0 under `torchrun`, or alone."""
    return not started_by_torchrun() or int(os.environ["RANK"]) == 0


class EscapedStream:
    """A text stream that escapes what is written to it; everything else is the other stream's.

    Args:
        stream: Where it is written. Rich's consoles write there directly, since their escapes are their own.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text, escaped; the number of characters is that of the text."""
        self.rich_proxied_file.write(harmless(text, newlines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape what is printed inside, and the traceback of an exception that ends the program from inside."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (EscapedStream(plain_stream(stream)) for stream in before)
    try:
        yield
    except Exception:
        sys.excepthook = _print_escaped
        raise
    finally:
        sys.stdout, sys.stderr = before


def plain_stream(stream: IO[str]) -> IO[str]:
    """Return the stream under an `EscapedStream`, for whoever writes escapes of their own."""
    plain: IO[str] = getattr(stream, "rich_proxied_file", stream)
    return plain


def _print_escaped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    print(harmless(text, newlines=True), end="", file=sys.stderr)
