"""TRL: any reward source as one of the `reward_funcs` of its trainers, called by its contract.

TRL calls `reward(prompts=…, completions=…, completion_ids=…, **columns)` and takes a flat list with None for
"no opinion". The other direction, TRL-style functions as reward sources, is `text_gym.as_reward_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .episode import Episode, Prompt
from .errors import RewardError, excerpt
from .tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from .reward import RewardSource

_TOKENIZER = ByteTokenizer()
# What TRL passes beside the columns of its data set.
_NOT_COLUMNS = frozenset({"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"})


def score_batch(
    source: RewardSource,
    *,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Score texts as TRL hands them over.

    Completions count as finished, and their tokens are bytes: TRL does not say which tokenizer it uses. Of
    conversations the contents count, joined by newlines.

    Args:
        source: The reward source.
        prompts: Texts or conversations, one an episode.
        completions: Likewise.
        log_metric: TRL's logger; it gets the mean of each term, as `name/term`.
        columns: Columns of the data set, lists of one value an episode; other keywords are not looked at.

    Returns:
        Totals; None where the source abstained.

    Raises:
        RewardError: Another number of prompts or column values than completions, or a prompt that is no text.
    """
    count = len(completions)
    own = {k: v for k, v in columns.items() if k not in _NOT_COLUMNS}
    for name, values in {"prompts": prompts, **own}.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
            raise RewardError(
                f"reward {source.name!r}: {name} is {excerpt(repr(values))}, not a list of {count} values, "
                "one for each completion"
            )
    episodes = [
        Episode.of(
            Prompt(_text(source, prompt), {k: values[i] for k, values in own.items()}),
            _text(source, completion),
            _TOKENIZER,
        )
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    rewards = source(episodes)
    judged = ~rewards.abstained
    if log_metric is not None and judged.any():
        for name, term in rewards.terms.items():
            if not np.isnan(term[judged]).all():
                log_metric(f"{source.name}/{name}", float(np.nanmean(term[judged])))
    return [float(t) if ok else None for t, ok in zip(rewards.totals, judged, strict=True)]


def _text(source: RewardSource, value: Any) -> str:
    """A text, or the contents of a conversation."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(turn, Mapping) for turn in value):
        return "\n".join(str(turn.get("content") or "") for turn in value)
    raise RewardError(
        f"reward {source.name!r} was given {excerpt(repr(value))}, neither text nor conversation"
    )
