"""as_html: what a notebook shows of a value; those of the lower floors get their renderers from `pages`.

An `Episode` stands below everything that draws, so it asks here; `text_gym.pages.notebook` answers.
"""

from __future__ import annotations

import html
from functools import singledispatch


@singledispatch
def as_html(value: object) -> str:
    """Return a value as a piece of HTML; its plain representation where nobody registered a renderer.

    >>> as_html(("<", 1))
    '<pre>(&#x27;&lt;&#x27;, 1)</pre>'
    """
    return f"<pre>{html.escape(repr(value))}</pre>"
