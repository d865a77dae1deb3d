r"""Reads scores and verdicts out of what a judge replied; whatever is not said exactly is no score.

Strict replies are one JSON object and nothing else. Those of reasoning models follow this grammar, in which
anything else, and whatever is said twice in different ways, is no reply:

    reply    = [ "<think>" thoughts "</think>" | thoughts "</think>" ] answer
    answer   = object | prose object | prose fence object fence | prose line+
    line     = name (":" | "=") value [ "." ]     one for each criterion, at the end; ", ', ` and * aside
    value    = number | number "/" high           `high` is the upper end of the criterion's scale
    name     = the criterion's, or "score" if it is the only one; in a line upper and lower case are one

Thoughts hold no further tag. The object is JSON with the names of all criteria and, if wanted, `reason`; its
values are numbers, or texts of the form `value`. Where the prose gives a criterion a number, it must be the
number at the end. A verdict's name is `better`, and its value `A`, `B` or `tie`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .criteria import REASON, Criterion

Replies = Literal["strict", "reasoning"]
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_OPEN, _CLOSE = "<think>", "</think>"
_QUOTES = "\"'*`"  # that may stand around a name or a value
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_SCORE = re.compile(rf"\s*({_NUMBER})(?:\s*/\s*({_NUMBER}))?\s*", re.ASCII)
_CHOICES = {"A": 1.0, "B": 0.0, "tie": 0.5}
_MOST_BRACES = 64  # that may begin the final object; a hostile reply may hold millions

Convert = Callable[[str, Any], "float | None"]  # of a name and what the reply gives it


def parse_scores(
    reply: str, criteria: Mapping[str, Criterion], replies: Replies = "strict"
) -> dict[str, float] | None:
    r"""Return the scores in the order of the criteria, or None if the reply is anything else.

    Strictly: one JSON object (a code fence around it is allowed) with every criterion once, as a number in
    range, and nothing else but `reason`. For `"reasoning"` see the grammar above.

    >>> style = {"style": Criterion("Is it well written?")}
    >>> parse_scores('{"style": 4}', style)
    {'style': 4.0}
    >>> parse_scores('{"style": 6}', style) is None
    True
    >>> parse_scores("<think>Hm, 3?</think>Clear and short.\nScore: 4/5", style, "reasoning")
    {'style': 4.0}
    >>> parse_scores("Score: 3 ... no.\nScore: 4", style, "reasoning") is None
    True
    """
    if replies == "reasoning":
        alias = "score" if len(criteria) == 1 else None
        read = _read_reasoning(
            reply, list(criteria), alias, _NUMBER, lambda k, v: _score(v, criteria[k], texts=True)
        )
        return None if read is None else {name: read[name] for name in criteria}
    found = _object(reply)
    if found is None or set(found) - {REASON} != set(criteria):
        return None
    scores = {name: _score(found[name], criterion) for name, criterion in criteria.items()}
    return None if None in scores.values() else {k: v for k, v in scores.items() if v is not None}


def parse_choice(reply: str, replies: Replies = "strict") -> float | None:
    r"""Return 1 for answer A, 0 for B, 0.5 for a tie, or None if the reply is anything else.

    >>> parse_choice('{"better": "A"}')
    1.0
    >>> parse_choice("B is longer, but A is right. Better: A", "reasoning")
    >>> parse_choice("B is longer, but A is right.\nBetter: A", "reasoning")
    1.0
    """
    if replies == "reasoning":
        read = _read_reasoning(reply, ["better"], None, r"(?:A|B|tie)\b", lambda _, v: _choice(v))
        return None if read is None else read["better"]
    found = _object(reply)
    if found is None or set(found) - {REASON} != {"better"}:
        return None
    return _choice(found["better"])


def _choice(value: Any) -> float | None:
    return _CHOICES.get(value) if isinstance(value, str) else None


def _score(value: Any, criterion: Criterion, *, texts: bool = False) -> float | None:
    """Return a score on the criterion's scale; None for what is no number, or is out of range."""
    if texts and isinstance(value, str):
        written = _SCORE.fullmatch(value)
        if written is None or (written[2] is not None and float(written[2]) != criterion.high):
            return None
        value = float(written[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not criterion.low <= value <= criterion.high:
        return None
    return float(value)


def _read_reasoning(
    reply: str, names: list[str], alias: str | None, value: str, convert: Convert
) -> dict[str, float] | None:
    """Read a reply by the grammar above.

    Args:
        reply: What was said.
        names: Of what is asked for.
        alias: Another name for the only one.
        value: Pattern with which a value begins.
        convert: Turns a name and a raw value into a number; None where it is no value.
    """
    answer = reply.strip() if _object(reply) is not None else _after_thinking(reply)
    if answer is None:
        return None
    known = {name.casefold(): name for name in names} | ({} if alias is None else {alias: names[0]})
    if len({name.casefold() for name in names}) < len(names):  # two criteria that differ in case alone
        known = {name: name for name in names}
    prose, raw = _final_object(answer)
    if raw is None:
        prose, raw = _final_lines(answer, known)
    elif alias is not None and alias in raw and names[0] not in raw:
        raw[names[0]] = raw.pop(alias)
    if raw is None or set(raw) - {REASON} != set(names):
        return None
    found: dict[str, float] = {}
    for name in names:
        number = convert(name, raw[name])
        if number is None:
            return None
        found[name] = number
    for name, claimed in _claims(prose, known, value):
        if convert(name, claimed) != found[name]:
            return None
    return found


def _after_thinking(reply: str) -> str | None:
    """Return what follows the thoughts; None if they do not end, or if it is unclear where they do."""
    opened, closed = reply.count(_OPEN), reply.count(_CLOSE)
    if not opened and not closed:
        return reply.strip()
    thoughts, _, answer = reply.partition(_CLOSE)
    if closed != 1 or opened > 1 or (opened and not thoughts.lstrip().startswith(_OPEN)):
        return None
    return answer.strip()


def _final_object(answer: str) -> tuple[str, dict[str, Any] | None]:
    """Split an answer into its prose and the JSON object at its end, None where there is no such object."""
    whole = _object(answer)
    if whole is not None:
        return "", whole
    if answer.endswith("```"):
        prose, fence, body = answer[:-3].rpartition("```")
        return (prose, _object(body.removeprefix("json"))) if fence else (answer, None)
    if not answer.endswith("}"):
        return answer, None
    start = len(answer)
    for _ in range(_MOST_BRACES):
        start = answer.rfind("{", 0, start)
        if start < 0:
            break
        found = _object(answer[start:])
        if found is not None:
            return answer[:start], found
    return answer, None


def _final_lines(answer: str, known: Mapping[str, str]) -> tuple[str, dict[str, Any] | None]:
    """Split an answer into its prose and the lines of values at its end, None where they are not there."""
    wanted = len(set(known.values()))
    lines = [line for line in answer.splitlines() if line.strip()]
    raw: dict[str, Any] = {}
    for line in lines[-wanted:]:
        said = re.fullmatch(rf"[\s{_QUOTES}]*([\w-]+)[\s{_QUOTES}]*[:=](.*)", line)
        name = None if said is None else _known(said[1], known)
        if said is None or name is None or name in raw:
            return answer, None
        value = said[2].strip(f"{_QUOTES} \t")
        raw[name] = value.removesuffix(".").strip(f"{_QUOTES} \t")
    return "\n".join(lines[:-wanted]), raw


def _claims(prose: str, known: Mapping[str, str], value: str) -> list[tuple[str, str]]:
    """Find every place of the prose that gives a known name a value."""
    said = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    around = rf"[\s{_QUOTES}]*"  # one class, so that no run of spaces is tried in two ways
    pattern = rf"(?<![\w-])((?i:{said})){around}[:=]{around}({value}(?:\s*/\s*{_NUMBER})?)"
    claims = [(_known(match[1], known), match[2]) for match in re.finditer(pattern, prose, re.ASCII)]
    return [(name, claimed) for name, claimed in claims if name is not None]


def _known(said: str, known: Mapping[str, str]) -> str | None:
    """Return the name that was said, in any case where no two names differ in case alone."""
    return known.get(said) or known.get(said.casefold())


def _object(reply: str) -> dict[str, Any] | None:
    """Parse a reply that must be one JSON object without duplicate keys or NaN; return None for any other."""
    text = reply.strip()
    fenced = _FENCE.fullmatch(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
