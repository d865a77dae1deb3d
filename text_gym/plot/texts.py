"""Texts as HTML for notebooks: tokens on colours as deep as their values, with the numbers under the mouse.

Colours are laid over the page's own paper, and letters keep the page's own ink, so that light and dark themes
of Jupyter, VS Code and a browser need not be told apart. Nothing in it runs, loads or has an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError
from text_gym.utils.display import harmless

from .lines import numbers
from .style import COLOURS, label

_DEEPEST = 0.62  # of a colour over the paper
_UP, _DOWN = COLOURS[0], COLOURS[4]  # blue and brown: no green and red
_MOST = 2000  # tokens that are shown
_END, _PART = "■", "·"  # stand for EOS, and for tokens without letters of their own
STYLE = Markup(
    "<style>.text-gym { line-height: 1.5; } .text-gym .soft { opacity: .72; font-size: .88em; } "
    ".text-gym .tokens { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; "
    "max-width: 60rem; margin: .1em 0 .7em; unicode-bidi: plaintext; } "
    ".text-gym .tokens span { border-radius: 3px; padding: .1em 0; } "
    ".text-gym .tokens span:hover { outline: 1px solid; } "
    ".text-gym .scale { display: inline-block; width: 7em; height: .8em; margin: 0 .4em; "
    "vertical-align: -.1em; border-radius: 3px; }</style>"
)


class ColouredText:
    """A text whose tokens are coloured by one or several values; notebooks show it.

    Args:
        tokens: `(T,)` the tokens' texts.
        values: Name -> `(T,)` float64, NaN for none.
        limits: Name -> absolute value of the deepest colour.
        title: Above the text.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        values: Mapping[str, FloatArray],
        limits: Mapping[str, float],
        title: str = "",
    ) -> None:
        self.tokens, self.values, self.limits, self.title = tuple(tokens), dict(values), dict(limits), title

    def __repr__(self) -> str:
        names = ", ".join(label(name) for name in self.values)
        return f"ColouredText({len(self.tokens)} tokens by {names})"

    def _repr_html_(self) -> str:
        title = (
            Markup('<div class="soft">{}</div>').format(label(self.title, 300)) if self.title else Markup()
        )
        blocks = Markup("").join(
            Markup('{}<div class="tokens">{}</div>').format(legend(name, self.limits[name]), self.spans(name))
            for name in self.values
        )
        return str(
            Markup('<div class="text-gym">{}{}{}</div>').format(STYLE, title if self.title else "", blocks)
        )

    def spans(self, name: str) -> Markup:
        """Return the tokens, coloured by one of the values, without a legend."""
        value, limit = self.values[name], self.limits[name]
        shown = [
            Markup('<span title="{}"{}>{}</span>').format(
                self._numbers(i), _background(float(value[i]), limit), shown_token(self.tokens[i])
            )
            for i in range(min(len(self.tokens), _MOST))
        ]
        left = len(self.tokens) - len(shown)
        return Markup("").join(shown) + (Markup(" … ({:,} more tokens)").format(left) if left else Markup())

    def _numbers(self, i: int) -> str:
        known = (f"{label(name)} {_signed(float(value[i]))}" for name, value in self.values.items())
        return f"token {i + 1}: {label(self.tokens[i] or _PART)!r}\n" + "\n".join(known)


def coloured_text(
    text: Episode | Sequence[str],
    values: Mapping[str, npt.ArrayLike],
    *,
    limit: float | Mapping[str, float] | None = None,
    title: str = "",
) -> ColouredText:
    """Colour the tokens of a text by their values, for a notebook: blue above 0, brown below.

    The text is shown once for each value, under a legend; the mouse over a token shows all of its numbers.

    Args:
        text: An episode, of which the completion is shown, or the tokens' texts.
        values: Name, such as `"reward"`, `"advantage"`, `"KL, nats"` -> `(T,)` numbers, or longer with what
            lies past an episode's end (a row of a rollout is as it comes); NaN for none.
        limit: Absolute value of the deepest colour, for all or by name; the largest there is if None.
        title: Above the text.

    Raises:
        DataError: No values, or another number of them than tokens.
        ConfigError: A limit is not positive.

    >>> coloured_text(["a", " mug"], {"reward": [0.5, -1.0]})
    ColouredText(2 tokens by reward)
    """
    tokens = token_texts(text) if isinstance(text, Episode) else list(text)
    if not values:
        raise DataError("coloured_text needs at least one value to colour by, e.g. {'reward': rewards}")
    found: dict[str, FloatArray] = {}
    limits: dict[str, float] = {}
    for name, given in values.items():
        value = numbers(given, f"values of {name!r}")
        if len(value) > len(tokens) and isinstance(text, Episode):
            value = value[: len(tokens)]
        if len(value) != len(tokens):
            raise DataError(f"{name!r} has {len(value)} values for {len(tokens)} tokens")
        found[name] = value
        chosen = limit.get(name) if isinstance(limit, Mapping) else limit
        if chosen is not None and not chosen > 0:
            raise ConfigError(f"the limit of {name!r} is {chosen}; it must be positive")
        limits[name] = _largest(value) if chosen is None else float(chosen)
    return ColouredText(tokens, found, limits, title)


def token_texts(episode: Episode) -> list[str]:
    """Return what each token of a completion adds to its text, `(T,)`; EOS is a square.

    A letter of several bytes belongs to the token that completes it; those before it add nothing.
    """
    ids, tokenizer = episode.completion_ids.tolist(), episode.tokenizer
    texts: list[str] = []
    for i, token in enumerate(ids):
        start = max(0, i - 8)  # what a token adds does not depend on tokens further away
        before = tokenizer.decode(ids[start:i]).rstrip("\ufffd")
        after = tokenizer.decode(ids[start : i + 1])
        if token in tokenizer.eos_ids:
            texts.append(_END)
        elif after.endswith("\ufffd") and i + 1 < len(ids):
            texts.append("")
        else:
            texts.append(after.removeprefix(before))
    return texts


def shown_token(token: str) -> str:
    """Return a token's text as it is shown: hidden characters written out, a dot where there are none."""
    return harmless(token, newlines=True) or _PART


def legend(name: str, limit: float) -> Markup:
    """Return the scale of colours from −limit to limit, under a name."""
    low, high = _colour(-1.0), _colour(1.0)
    scale = Markup(
        '<span class="scale" style="background:linear-gradient(to right,{},transparent,{})"></span>'
    ).format(low, high)
    made = '<div><span class="soft"><b>{}</b>&ensp;−{}</span>{}<span class="soft">{}</span></div>'
    return Markup(made).format(label(name), _plain(limit), scale, _plain(limit))


def _background(value: float, limit: float) -> Markup:
    share = float(np.clip(value / limit, -1, 1)) if limit and np.isfinite(value) else 0.0
    return Markup(' style="background:{}"').format(_colour(share)) if share else Markup()


def _colour(share: float) -> str:
    """Return the colour of a value at this share of the limit, in [-1, 1], with its depth."""
    return f"{_UP if share > 0 else _DOWN}{round(255 * _DEEPEST * abs(share)):02x}"


def _largest(value: FloatArray) -> float:
    return float(np.nanmax(np.abs(value))) if np.isfinite(value).any() else 0.0


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.4g}".replace("-", "−")
