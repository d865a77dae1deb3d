"""`as_trl_reward` turns any reward source into one of the `reward_funcs` of TRL's trainers.

TRL calls `reward(prompts=…, completions=…, completion_ids=…, **columns)` and takes a flat list with None for
"no opinion". The other direction, TRL-style functions as reward sources, is `text_gym.as_reward_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import RewardError, excerpt
from text_gym.tokenizer import ByteTokenizer

from .source import RewardSource, as_reward_source

_TOKENIZER = ByteTokenizer()
# What TRL passes beside the columns of its data set.
_NOT_COLUMNS = frozenset({"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"})


class TRLReward:
    """A reward source that TRL can call; `as_trl_reward` makes it.

    Args:
        source: The reward source.
    """

    def __init__(self, source: RewardSource) -> None:
        self.source = source
        self.__name__ = source.name  # TRL logs under it

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score texts as TRL hands them over.

        Completions count as finished, and their tokens are bytes: TRL does not say which tokenizer it uses.
        The messages of a conversation are joined by newlines.

        Args:
            prompts: `B` texts or conversations.
            completions: Likewise.
            log_metric: TRL's logger; it gets the mean of each term, as `name/term`.
            columns: Columns of the data set, lists of `B` values; TRL's other keywords are ignored.

        Returns:
            `B` totals; None where the source abstained.

        Raises:
            RewardError: Another number of prompts or column values than completions, or a prompt that is
                no text.
        """
        episodes = self._episodes(prompts, completions, columns)
        rewards = self.source(episodes)
        judged = ~rewards.abstained
        if log_metric is not None and judged.any():
            for name, term in rewards.terms.items():
                if not np.isnan(term[judged]).all():
                    log_metric(f"{self.source.name}/{name}", float(np.nanmean(term[judged])))
        return [float(t) if ok else None for t, ok in zip(rewards.totals, judged, strict=True)]

    def _episodes(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
    ) -> list[Episode]:
        count = len(completions)
        own = {k: v for k, v in columns.items() if k not in _NOT_COLUMNS}
        for name, values in {"prompts": prompts, **own}.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
                raise RewardError(
                    f"reward {self.source.name!r}: {name} is {excerpt(repr(values))}, not a list of {count} "
                    "values, one for each completion"
                )
        return [
            Episode.of(
                Prompt(_text(self.source, prompt), {k: values[i] for k, values in own.items()}),
                _text(self.source, completion),
                _TOKENIZER,
            )
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]


def as_trl_reward(source: RewardSource | Callable[..., Any]) -> TRLReward:
    """Turn any reward into one of the `reward_funcs` of TRL's trainers.

    It is called by TRL's contract, pickles if the source does, and is logged under the source's name.

    Args:
        source: A reward source, or a function as `as_reward_source` takes it.

    >>> reward = as_trl_reward(lambda completion: len(completion))
    >>> reward(prompts=["Say hi:"], completions=["hi"])
    [2.0]
    """
    return TRLReward(as_reward_source(source))


def _text(source: RewardSource, value: Any) -> str:
    """Return a plain text, or the joined contents of a conversation."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(turn, Mapping) for turn in value):
        return "\n".join(str(turn.get("content") or "") for turn in value)
    raise RewardError(
        f"reward {source.name!r} was given {excerpt(repr(value))}, neither text nor conversation"
    )
