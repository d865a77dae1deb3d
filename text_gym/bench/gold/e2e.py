"""The gold task `e2e`: describe a restaurant, on the user's own copy of the E2E challenge's data.

The data (Novikova, Dušek & Rieser 2017, CC BY-SA 4.0) is not part of text-gym. Gold here is computed, but it
is no law of nature as that of `products` is: slots are found by phrases, fluency is that of an n-gram model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from text_gym.data import Data, pairs_from, split_by_prompt
from text_gym.episode import Episode, Prompt
from text_gym.errors import DataError
from text_gym.reward_models.scripted.slots import SlotCoverage, parse_slots
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.task import Task
from text_gym.tokenizer import PretrainedTokenizer

from .fluency import Fluency

MAX_TOKENS = 64  # 99 of 100 human descriptions are shorter
VOCAB_SIZE = 1024
FLUENT = 0.5  # at least this fluent is a text that is right in all respects
_CALIBRATED = 0.25  # share of the training representations whose texts calibrate fluency
_NAMES = frozenset({"name", "near"})


class SlotsAndFluency(RewardSource):
    """The gold reward of `e2e`: `accuracy · fluency`, in [0, 1].

    Terms:

    - `accuracy`: F1 of the slots (`SlotCoverage`). What is missing costs recall, what was not asked for
      (another area, a rating where none is given) costs precision, and so does saying things over and over.
    - `fluency`: see `Fluency`; halved where the token limit cut the text.
    - `exact`: 1 where all slots are realised, nothing else is claimed, the text is finished, and it is fluent
      by at least 0.5.

    Args:
        slots: Finds what a text says.
        fluency: Says how well it is said.
    """

    name = "slots × fluency"

    def __init__(self, slots: SlotCoverage, fluency: Fluency) -> None:
        self.slots, self.fluency = slots, fluency

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score whole texts."""
        said = self.slots.score(episodes)
        fluency = np.array([self.fluency(e.completion) * (1.0 if e.whole else 0.5) for e in episodes])
        exact = said.terms["perfect"] * (fluency >= FLUENT)
        terms = {"accuracy": said.values, "fluency": fluency, "exact": exact}
        return Rewards(said.values * fluency, terms=terms)


def e2e(data: str | Path, policy: str | Path | None = None) -> Task:
    """Make the task from a file of the E2E challenge.

    A fifth of the meaning representations is held out, as `text-gym sft --data FILE --prompt mr --completion
    ref` does it, and none of the held-out ones stands among the others with its slots in another order.

    Args:
        data: A .csv, .tsv, .jsonl, .json or .parquet file with the columns `mr` (`slot[value], slot[value]`)
            and `ref` (a human description); several rows may share an `mr`. Nothing else is read.
        policy: Folder of a policy for the task, whose tokenizer the task then has; None makes a byte-pair
            tokenizer of the training texts.

    Raises:
        UnknownNameError: A column is missing.
        DataError: There is no such file; a representation holds no `slot[value]`; or there is too little to
            split or to calibrate on.
    """
    train, held_out = Data(data=str(data), prompt="mr", reference="ref").load()
    slots = SlotCoverage.fit([*train, *held_out])  # which says so if a representation holds no slots
    learnt = {slots_of(p) for p in train}
    held_out = [p for p in held_out if slots_of(p) not in learnt]
    if not held_out:
        raise DataError(f"{data}: every held-out meaning representation is also one of the others, reordered")
    names = [value for p in (*train, *held_out) for slot, value in parse_slots(p.text) if slot in _NAMES]
    counted, calibrated = split_by_prompt(train, _CALIBRATED, seed=1)
    fluency = Fluency(_references(counted), _references(calibrated), names)
    if policy is None:
        texts = [part for prompt, text in pairs_from(train) for part in (prompt.text, text)]
        tokenizer = PretrainedTokenizer.train(texts, VOCAB_SIZE)
    else:
        tokenizer = PretrainedTokenizer.from_pretrained(policy)
    return Task(
        "e2e",
        train,
        held_out,
        tokenizer,
        SlotsAndFluency(slots, fluency),
        MAX_TOKENS,
        policy=None if policy is None else Path(policy),
        corpus=lambda: (pairs_from(train), pairs_from(held_out)),
    )


def slots_of(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """Return what a meaning representation says, whatever the order and case in which it says it."""
    return tuple(sorted((slot.lower(), value.lower()) for slot, value in parse_slots(prompt.text)))


def _references(prompts: Sequence[Prompt]) -> list[str]:
    return [text for _, text in pairs_from(prompts)]


GOLD_TASKS: dict[str, Callable[..., Task]] = {"e2e": e2e}
"""Tasks that read a file of the user's, by name."""
