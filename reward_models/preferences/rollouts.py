"""Labels steps without people: from each step on, a policy finishes the solution some times, and is checked.

Math-Shepherd (Wang et al. 2024, section 3.3). It needs a check of the answer and somebody who writes; a step
from which nobody gets there is called wrong, even where the step is right and the writer weak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError

from .opinions import StepLabels

Writer = Callable[[list[Prompt], list[str]], Sequence[str]]


def label_by_rollouts(
    solutions: Sequence[tuple[Prompt, Sequence[str]]],
    write: Writer,
    is_right: Callable[[Prompt, str], bool],
    *,
    rollouts: int = 8,
    estimate: Literal["soft", "hard"] = "soft",
    delimiter: str = "\n",
) -> list[StepLabels]:
    """Label every step by whether solutions that begin with the steps up to it end well.

    The last step has the solution's own outcome; no rollout is spent on it.

    Args:
        solutions: Problem and steps, these without the delimiter.
        write: Gets problems and the text so far, which ends with a delimiter; returns what comes after it.
            All rollouts of all steps are asked for at once.
        is_right: Whether a problem's whole solution has the right answer.
        rollouts: Continuations of each step.
        estimate: The label is the share of rollouts that end well (`"soft"`), or 1 if one does (`"hard"`).
        delimiter: What a step ends with.

    Raises:
        ConfigError: No rollouts, or an unknown estimate.
        DataError: A solution without steps, or another number of texts than was asked for.

    >>> found = label_by_rollouts(
    ...     [(Prompt("1 + 2 + 3:"), ["1 + 2 = 4", "4 + 3 = 7"])],
    ...     write=lambda prompts, texts: ["4 + 3 = 7" for _ in texts],
    ...     is_right=lambda prompt, text: text.strip().endswith("= 6"),
    ... )
    >>> found[0].labels
    (0.0, 0.0)
    """
    if rollouts < 1 or estimate not in ("soft", "hard"):
        raise ConfigError(f"rollouts {rollouts}, estimate {estimate!r}: at least 1, and 'soft' or 'hard'")
    asked = [
        (prompt, "".join(step + delimiter for step in steps[:end]))
        for prompt, steps in solutions
        for end in range(1, len(steps))
        for _ in range(rollouts)
    ]
    prompts, begun = [p for p, _ in asked], [text for _, text in asked]
    written = list(write(prompts, begun)) if asked else []
    if len(written) != len(asked):
        raise DataError(f"{len(asked)} continuations were asked for, and {len(written)} came")
    ended = iter([is_right(p, a + b) for p, a, b in zip(prompts, begun, written, strict=True)])
    labelled = []
    for prompt, steps in solutions:
        labels = []
        for _ in range(len(steps) - 1):
            well = sum(next(ended) for _ in range(rollouts))
            labels.append(well / rollouts if estimate == "soft" else float(well > 0))
        labels.append(float(is_right(prompt, delimiter.join(steps))))
        labelled.append(StepLabels(prompt, tuple(steps), tuple(labels)))
    return labelled
