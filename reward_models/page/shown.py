"""Questions as plain data for a browser: harmless texts and turns, in parts where they are long.

The page and the notebook's widget show the same; raters are not told which policy wrote which text.
"""

from __future__ import annotations

from typing import Any

from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.labels.turns import parts_of
from text_gym.utils.display import harmless

SHOWN = 20_000  # characters of a text sent at once; a page asks for more


def shown_question(question: Question) -> dict[str, Any]:
    """Return a question as a browser shows it: texts or turns (the first is the prompt), and its fields."""
    return {
        "id": question.id,
        "kind": question.kind,
        "texts": [shown_part(question, number, 0) for number in range(1 + len(question.completions))],
        "fields": [
            {
                "name": f.name,
                "guideline": harmless(f.guideline),
                "options": [{"value": o.value, "label": o.label, "keys": list(o.keys)} for o in f.options],
            }
            for f in question.fields
        ],
    }


def shown_part(question: Question, number: int, start: int) -> dict[str, Any]:
    """Return what is shown at once of a text: its `end`, the characters `left`, and `text`, or `turns`.

    Args:
        question: Whose.
        number: Of the text; 0 is the prompt, which is shown without the line feed at its end.
        start: The character to begin with.
    """
    if question.turns:
        parts, end, left = parts_of(question.turns[number], start, SHOWN)
        turns = [
            {"role": p.role, "text": harmless(p.text, newlines=True), "goes_on": p.goes_on} for p in parts
        ]
        return {"turns": turns, "end": end, "left": left}
    text = (question.prompt, *question.completions)[number].removesuffix("\n")
    end = min(start + SHOWN, len(text))
    return {"text": harmless(text[start:end], newlines=True), "end": end, "left": len(text) - end}
