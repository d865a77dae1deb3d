"""Reports as single pages: no network, light and dark, legible on a phone; what models wrote is escaped.

A report's template extends `page.html`, which stands beside this file and holds the only style sheet. Nothing
is measured here.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from text_gym.plot.style import colours_css
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval, shown

_LIMIT = 1200  # characters of a text that are shown


def render_page(
    template: Path,
    values: Mapping[str, Any],
    *,
    script: str = "",
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Fill a report's template; everything that is not markup of ours is escaped.

    The page may load nothing and run nothing but the one script whose hash its policy names
    (Content-Security-Policy). In templates, `text` makes hostile text harmless; `number`, `significant` and
    `interval` write numbers.

    Args:
        template: Extends `page.html`.
        values: What the template uses; a name that is missing is an error.
        script: JavaScript that the page runs.
        filters: More filters, by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "text": shown_text,
        "number": number,
        "significant": significant,
        "interval": interval,
        **(filters or {}),
    }
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    frame = {"policy": Markup(policy), "script": Markup(script), "colours": Markup(colours_css(":root"))}
    return environment.get_template(template.name).render({**values, **frame})


def shown_text(value: object) -> str:
    r"""Make the text of anyone harmless and cut it to 1200 characters; escaping is the template's.

    >>> shown_text(" a\x1b[31mb ")
    'a\\x1b[31mb'
    """
    return harmless(str(value).strip(), newlines=True, limit=_LIMIT)


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number with so many digits after the point; a dash for what is not known.

    >>> number(-0.314), number(-0.001), number(0.5, 1, True), number(None)
    ('−0.31', '0.00', '+0.5', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    written = f"{value:{'+' if sign else ''}.{digits}f}"
    return (written if float(written) else written.lstrip("+-")).replace("-", "−")


def significant(value: float | None) -> str:
    """Write a number with three significant digits.

    >>> significant(-0.00123456), significant(float("nan"))
    ('−0.00123', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.3g}".replace("-", "−")


def interval(value: Interval | Mapping[str, Any] | None, digits: int = 2, sign: bool = False) -> Markup:
    """Write an estimate and its interval, `0.82 [0.80, 0.84]`, the latter small.

    Args:
        value: An interval; as plain data, its estimate is `value` or `mean` and its ends are `ci95`.
        digits: After the point.
        sign: Write a plus, too.
    """
    if isinstance(value, Mapping):
        centre = value.get("value", value.get("mean"))
        known = [math.nan if v is None else float(v) for v in (centre, *value["ci95"])]
        value = Interval(known[0], known[1], known[2], value.get("n", 0))
    if value is None or math.isnan(value.value):
        return Markup("–")
    centre, _, rest = shown(value, digits, sign).partition(" ")
    return Markup("{} <small>{}</small>").format(centre, rest) if rest else Markup(centre)
