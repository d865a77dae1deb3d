"""Model output is hostile text: make it harmless before a terminal sees it.

Only what is shown is changed; what is stored stays verbatim.
"""

from __future__ import annotations

import unicodedata

# Control, format (bidi overrides, zero-width), surrogate, private use, unassigned; line separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


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


def _escape(c: str) -> str:
    code = ord(c)
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c)
    return known or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
