"""What notebooks show of our objects: cards of facts, tables and texts, legible in light and dark themes.

Everything here is escaped text in plain markup; no script, no link, no id. Nothing is measured here. Values
of the floors above are shown by their own `_repr_html_`, which calls `card` and `table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from text_gym.episode import Episode
from text_gym.plot.style import label
from text_gym.plot.texts import STYLE, coloured_text, legend, shown_token, token_texts
from text_gym.rewards.source import RewardSource, describe_reward
from text_gym.showing import as_html
from text_gym.tasks.task import Task
from text_gym.utils.display import harmless

SHOWN = 5  # texts of many
_LIMIT = 1200  # characters of a text
# Notebooks style tables and lists of their own accord, which `!important` and plain spans leave behind.
_STYLE = STYLE + Markup(
    "<style>"
    ".text-gym .facts { display: flex; flex-wrap: wrap; gap: .1em 1.6em; margin: .3em 0 .5em; } "
    ".text-gym .facts span span { display: block; } "
    ".text-gym table.shown { border-collapse: collapse; font-size: .93em; margin: .2em 0 .6em; border: 0; } "
    ".text-gym .shown :is(th, td) { text-align: left !important; vertical-align: top; border: 0; "
    "padding: .25em 1em .25em 0; border-bottom: 1px solid rgba(128, 128, 128, .35); color: inherit; "
    "font-variant-numeric: tabular-nums; white-space: normal; overflow-wrap: anywhere; max-width: none; } "
    ".text-gym .shown .tokens { margin: 0; } "
    ".text-gym .shown tr { background: none !important; } "
    ".text-gym .shown :is(th, .short) { white-space: nowrap; overflow-wrap: normal; } "
    ".text-gym .shown th { opacity: .72; font-weight: 600; vertical-align: bottom; } "
    ".text-gym .text { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 60rem; "
    "margin: .1em 0 .5em; } "
    ".text-gym pre { background: none; color: inherit; padding: 0; margin: .2em 0 .5em; line-height: 1.35; "
    "font-family: ui-monospace, monospace; white-space: pre; overflow-x: auto; }"
    "</style>"
)
_SHORT = 12  # letters that a table does not break


def card(title: str, facts: Mapping[str, object], *body: Markup) -> str:
    """Return the HTML of one object: a title, facts beside each other, and whatever follows.

    Args:
        title: Its kind and name.
        facts: What it is called -> what it is; numbers are written with three digits.
        body: Pieces that are markup already, such as a `table`.
    """
    shown = Markup("").join(
        Markup('<span><span class="soft">{}</span>{}</span>').format(label(name), _fact(value))
        for name, value in facts.items()
    )
    listed = Markup('<div class="facts">{}</div>').format(shown) if shown else Markup()
    return frame(Markup("<b>{}</b>").format(label(title, 120)), listed, *body)


def frame(*body: Markup) -> str:
    """Return pieces of markup as one output of a notebook, with the style that they need."""
    return str(Markup('<div class="text-gym">{}{}</div>').format(_STYLE, Markup("").join(body)))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; cells are numbers, text of anyone, or markup."""
    head = Markup("").join(Markup("<th>{}</th>").format(label(h)) for h in headings)
    lines = (Markup("").join(map(_cell, row)) for row in rows)
    body = Markup("").join(Markup("<tr>{}</tr>").format(line) for line in lines)
    made = '<table class="shown"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
    return Markup(made).format(head, body)


def _cell(value: object) -> Markup:
    shown = _fact(value)
    short = not isinstance(shown, Markup) and len(str(shown)) <= _SHORT
    return Markup('<td class="short">{}</td>' if short else "<td>{}</td>").format(shown)


def text(value: str, name: str = "") -> Markup:
    """Return the text of anyone, harmless and cut, under a small name if it has one."""
    heading = Markup('<div class="soft">{}</div>').format(label(name)) if name else Markup()
    shown = harmless(value.removesuffix("\n"), newlines=True, limit=_LIMIT)
    return Markup('{}<div class="text">{}</div>').format(heading, shown)


def episodes_table(
    episodes: Sequence[Episode],
    columns: Mapping[str, Sequence[Any]],
    per_token: Sequence[npt.ArrayLike] | None = None,
    most: int = SHOWN,
) -> Markup:
    """Return a table of the first episodes: prompt, text, and what else there is.

    Args:
        episodes: The episodes.
        columns: Name -> a number for each episode; NaN for none.
        per_token: A number for each token of each episode, to colour the texts by.
        most: How many to show.
    """
    rows: list[list[object]] = []
    values = [np.asarray(v, dtype=np.float64) for v in (per_token or [])[:most]]
    largest = max((float(np.nanmax(np.abs(v))) for v in values if np.isfinite(v).any()), default=0.0)
    for i, episode in enumerate(episodes[:most]):
        shown: object = harmless(episode.completion, newlines=True, limit=_LIMIT)
        if largest:
            shown = coloured_text(episode, {"reward": values[i]}, limit=largest).spans("reward")
            shown = Markup('<div class="tokens">{}</div>').format(shown)
        given = [column[i] for column in columns.values()]
        rows.append([label(episode.prompt.text.strip(), 200), shown, *given, episode.finish_reason or "–"])
    left = len(episodes) - len(rows)
    more = Markup('<div class="soft">… {:,} more</div>').format(left) if left > 0 else Markup()
    scale = legend("reward of each token", largest) if largest else Markup()
    return scale + table(["prompt", "text", *columns, "ended by"], rows) + more


def _fact(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")
    return value if isinstance(value, Markup) else harmless(str(value), newlines=True, limit=_LIMIT)


# Values of the lower floors


@as_html.register
def _episode(episode: Episode) -> str:
    facts: dict[str, Any] = {
        "tokens": len(episode.completion_ids),
        "ended by": episode.finish_reason or "nothing yet",
    }
    if episode.index is not None:
        facts |= {"stream": f"seed {episode.seed}, number {episode.index}"}
    pieces = list(zip(episode.completion_ids.tolist(), token_texts(episode), strict=True))[:_LIMIT]
    tokens = Markup("").join(
        Markup('<span title="token {}: id {}">{}</span>').format(i, number, shown_token(piece))
        for i, (number, piece) in enumerate(pieces, 1)
    )
    written = Markup('<div class="soft">completion</div><div class="tokens">{}</div>').format(tokens)
    return card("Episode", facts, text(episode.prompt.text, "prompt"), written)


@as_html.register
def _task(task: Task) -> str:
    facts = {
        "prompts": len(task.prompts),
        "held out": len(task.held_out),
        "vocabulary": task.tokenizer.vocab_size,
        "token limit": task.max_tokens,
        "gold": task.reward.name if task.has_gold else "unknown",
    }
    known = {"best return": task.optimum, "return of random tokens": task.random_return}
    examples = [[harmless(p.text.strip(), newlines=True, limit=200)] for p in list(task.prompts[:3])]
    return card(
        f"Task {task.name}",
        facts | {name: value for name, value in known.items() if value is not None},
        table(["prompts, the first of them"], examples),
    )


@as_html.register
def _reward(source: RewardSource) -> str:
    facts = {
        "deterministic": source.deterministic,
        "may abstain": source.abstains,
        "per token": source.causal,
    }
    tree = Markup("<pre>{}</pre>").format(harmless(describe_reward(source), newlines=True))
    named = {name: "yes" for name, value in facts.items() if value}
    return card(f"Reward {source.name}", named, tree)
