"""Changes pages as MkDocs builds them: formulas become MathML, so that a reader needs no script for them.

A page that is a tab by itself shows no list of pages beside it, and links to sources lose their target.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
HANDOUT = re.compile(r'^--8<-- "(course/\w+/README\.md)"$', re.MULTILINE)
UPWARDS = re.compile(r"(?<!!)\[([^]]+)\]\((\.\./[^)#]+)\)")
FUNCTION = re.compile(r"(<m[io]>(?:log|max)</m[io]>)(?!<mo[^>]*>(?:\(|&#x00028;))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Hide the list of pages beside a page that stands alone, and name sources without linking to them.

    MkDocs calls this before it renders a page. Links to files of the repository work where it is browsed; on
    the site there are no such files. One that leads nowhere stays, and fails the strict build.
    """
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])
    docs, here = Path(config.docs_dir).resolve(), Path(page.file.abs_src_path).parent

    # A handout of the course stands elsewhere, from where its links lead to the documentation.
    def handout(found: re.Match[str]) -> str:
        return (docs.parent / found[1]).read_text(encoding="utf-8").replace("](../../docs/", "](../")

    markdown = HANDOUT.sub(handout, markdown)

    def named(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        return link[1] if target.is_file() and docs not in target.parents else link[0]

    return UPWARDS.sub(named, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Replace every formula of a page's HTML; MkDocs calls this after the page was rendered."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    formula = str(convert(unescape(found[2]).strip(), display=display))
    return FUNCTION.sub(r'\1<mspace width="0.17em"/>', formula)
