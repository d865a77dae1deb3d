"""Rewards that compare a text with a column of its prompt: a reference text, a schema, a correct answer.

Each needs a package of the `rewards` extra, which is imported on first use. As in `rules`, `hack` is a bad
text that the rule likes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

from text_gym.episode import Episode
from text_gym.errors import ConfigError, DataError, excerpt

from .rules import TextRule, column_of


class Overlap(TextRule):
    """Sentence BLEU or chrF against a reference, over 100; in [0, 1]. Needs `sacrebleu`.

    How it is hacked: overlap counts words, not meaning; leaving out one "not" costs almost nothing.

    Args:
        metric: `"bleu"` (Papineni et al. 2002, effective order) or `"chrf"` (Popović 2015).
        column: Prompt column with the reference, or a list of them (the best counts). Where a prompt has no
            `reference`, the default is `references`, in which data read from a file has them.
    """

    name = "overlap"
    hack: ClassVar[str] = "The Eagle is a cheap family friendly pub by the river, near Burger King."

    def __init__(self, metric: Literal["bleu", "chrf"] = "bleu", column: str = "reference") -> None:
        if metric not in ("bleu", "chrf"):
            raise ConfigError(f"Overlap knows the metrics bleu and chrf, not {metric!r}")
        self.metric, self.column = metric, column

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Compute the metric for one text."""
        sacrebleu = require("sacrebleu")
        columns = episode.prompt.columns
        gathered = self.column == "reference" and "reference" not in columns and "references" in columns
        references = column_of(episode, "references" if gathered else self.column, self.name)
        references = [references] if isinstance(references, str) else [str(r) for r in references]
        score = sacrebleu.sentence_bleu if self.metric == "bleu" else sacrebleu.sentence_chrf
        return {"value": min(score(episode.completion, references).score / 100, 1.0)}


class JSONSchema(TextRule):
    """1 if the text is JSON that a schema admits, `partial` if it is JSON that the schema refuses, else 0.

    Needs `jsonschema` unless the schema is empty. Terms: `parses` and `valid`. How it is hacked: a schema
    says nothing about content, so the shortest valid document wins.

    Args:
        schema: A JSON schema; `{}` admits all JSON.
        column: Prompt column with the schema, instead.
        partial: Reward of JSON that is not valid, in [0, 1].
    """

    name = "json"
    hack: ClassVar[str] = '{"answer": ""}'

    def __init__(
        self, schema: Mapping[str, Any] | None = None, *, column: str | None = None, partial: float = 0.0
    ) -> None:
        if not 0 <= partial <= 1:
            raise ConfigError(f"JSONSchema needs partial in [0, 1], not {partial}")
        self.schema, self.column, self.partial = dict(schema or {}), column, partial

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Parse the text, then validate it against the schema."""
        schema = column_of(episode, self.column, self.name) if self.column else self.schema
        try:
            document = json.loads(episode.completion, parse_constant=_not_json)
        except (ValueError, RecursionError):
            return {"value": 0.0, "parses": 0.0, "valid": 0.0}
        valid = not schema or require("jsonschema").Draft202012Validator(schema).is_valid(document)
        return {"value": 1.0 if valid else self.partial, "parses": 1.0, "valid": float(valid)}


class MathAnswer(TextRule):
    r"""1 if the text's answer equals the right one mathematically (`1/2`, `0.5`, `\frac{1}{2}`), else 0.

    Needs `math-verify`. Term: `parses`, whether there was an answer to be found. How it is hacked: only the
    answer counts, so any reasoning will do, or none.

    Args:
        column: Prompt column with the right answer (text or number).

    Raises:
        DataError: The right answer itself cannot be parsed; the prompt is named.
    """

    name = "math"
    hack: ClassVar[str] = r"Two is three, so the answer must be \boxed{4}"

    def __init__(self, column: str = "answer") -> None:
        self.column = column

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Parse and compare without the library's own time limits, which work in the main thread only."""
        verifier = require("math_verify", "math-verify")
        answer = str(column_of(episode, self.column, self.name))
        # Bare LaTeX is only recognised between dollars.
        right = verifier.parse(answer, parsing_timeout=None) or verifier.parse(
            f"${answer}$", parsing_timeout=None
        )
        if not right:
            raise DataError(
                f"reward 'math': cannot parse answer {answer!r} of prompt {excerpt(episode.prompt.id)}"
            )
        given = verifier.parse(episode.completion, parsing_timeout=None)
        equal = bool(given) and verifier.verify(right, given, timeout_seconds=None)
        return {"value": float(equal), "parses": float(bool(given))}


def require(module: str, package: str = "") -> Any:
    """Import an optional dependency.

    Raises:
        ConfigError: It is not installed; the command that installs it is named.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this reward needs {package or module}: pip install {package or module}"
        ) from error


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
