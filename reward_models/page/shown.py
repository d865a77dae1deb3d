"""Questions as plain data for a browser: harmless texts, in parts where they are long.

The page and the notebook's widget show the same; raters are not told which policy wrote which text.
"""

from __future__ import annotations

from typing import Any

from text_gym.reward_models.labels.questions import Question
from text_gym.utils.display import harmless

SHOWN = 20_000  # characters of a text sent at once; a page asks for more


def shown_question(question: Question) -> dict[str, Any]:
    """Return a question as a browser shows it: its texts (the first is the prompt) and its fields."""
    return {
        "id": question.id,
        "kind": question.kind,
        "texts": [text_part(t, 0) for t in texts_of(question)],
        "fields": [
            {
                "name": f.name,
                "guideline": harmless(f.guideline),
                "options": [{"value": o.value, "label": o.label, "keys": list(o.keys)} for o in f.options],
            }
            for f in question.fields
        ],
    }


def texts_of(question: Question) -> list[str]:
    """Return the prompt, without the trailing line feed that would show, and the completions."""
    return [t.removesuffix("\n") for t in (question.prompt, *question.completions)]


def text_part(text: str, start: int) -> dict[str, Any]:
    """Return the part of a text from a character on: `text`, its `end`, and the characters `left`."""
    end = min(start + SHOWN, len(text))
    return {"text": harmless(text[start:end], newlines=True), "end": end, "left": len(text) - end}
