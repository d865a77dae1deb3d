"""`check_reward_source` names the faults of a reward source that would spoil a training run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from text_gym.episode import Episode
from text_gym.errors import CheckError
from text_gym.rewards.source import RewardSource, as_reward_source
from text_gym.rewards.tokens import checked_tokens
from text_gym.rewards.values import Rewards, TokenBatch
from text_gym.tasks.task import Task, load_task

from .checker import _about, _world, random_episodes


def check_reward_source(
    source: RewardSource | Callable[..., Any],
    episodes: Sequence[Episode] | Task | str = "products",
    *,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Check a reward source on given episodes, or on random ones of every length that a task allows.

    The laws: a finite number for every episode (None only where it abstains); if it says that it is
    deterministic, the same rewards when asked again, alone, in another order and in another global random
    state; the global random state is left alone; episodes are not changed; if it says that it is causal,
    what a token earns does not depend on later ones, and `token_rewards` says the same.

    Args:
        source: The source or function.
        episodes: At least two episodes, or a task (or its name) to draw random ones from.
        tolerance: Largest difference between equal rewards; 1e-5 leaves room for float32 models.
        seed: Of the random episodes.

    Raises:
        CheckError: The first law that is broken.
        RewardError: The source failed, or returned what is no reward.

    >>> check_reward_source(lambda completion: len(completion), "copy")
    """
    source = as_reward_source(source)
    if isinstance(episodes, str):
        episodes = load_task(episodes)
    if isinstance(episodes, Task):
        episodes = random_episodes(episodes, seed)
    if len(episodes) < 2:
        raise CheckError("a reward source is checked on at least two episodes; pass more")
    for _, error in reward_laws(source, episodes, tolerance=tolerance, seed=seed):
        if error is not None:
            raise error


def reward_laws(
    source: RewardSource, episodes: Sequence[Episode], *, tolerance: float = 1e-5, seed: int = 0
) -> Iterator[tuple[str, CheckError | None]]:
    """Yield each law that applies to a source, by name, with the error that shows it broken or None.

    The names are `side effects`, `deterministic`, `order`, `batch` and `causal`; a law is tried when its turn
    comes. See `check_reward_source` for what they say.

    Raises:
        RewardError: The source failed, or returned what is no reward.
    """
    before = copy.deepcopy([(e.prompt, e.prompt_ids, e.completion_ids) for e in episodes])
    with _world(1) as untouched:
        rewards = source(episodes)
        drawn = not untouched()
    after = [(e.prompt, e.prompt_ids, e.completion_ids) for e in episodes]
    error = None
    if drawn:
        error = CheckError(
            f"reward {source.name!r} draws from the global random state (random, numpy.random or torch): "
            "give it a generator of its own with a fixed seed, or set deterministic = False and seed it"
        )
    elif not all(data_equivalence(a, b, exact=True) for a, b in zip(before, after, strict=True)):
        error = CheckError(f"reward {source.name!r} changes the episodes that it scores; work on copies")
    yield "side effects", error
    if source.deterministic:
        yield "deterministic", _broken_again(source, episodes, rewards, tolerance)
        yield "order", _broken_order(source, episodes, rewards, tolerance, seed)
        yield "batch", _broken_batch(source, episodes, rewards, tolerance)
        if source.causal:
            try:
                _check_causal(source, episodes, rewards, tolerance)
            except CheckError as found:
                yield "causal", found
            else:
                yield "causal", None


# Rewards


_MEND = "; set deterministic = False if that is meant"


def _broken_again(
    source: RewardSource, episodes: Sequence[Episode], rewards: Rewards, tolerance: float
) -> CheckError | None:
    for world in (2, 3):
        with _world(world):
            i = _differs(source(episodes), rewards, range(len(episodes)), tolerance)
        if i is not None:
            return CheckError(
                f"reward {source.name!r} gives {_about(episodes[i])} another reward when asked again{_MEND}"
            )
    return None


def _broken_order(
    source: RewardSource, episodes: Sequence[Episode], rewards: Rewards, tolerance: float, seed: int
) -> CheckError | None:
    n = len(episodes)
    order = np.random.default_rng(seed).permutation(n).tolist()
    for rows, what in ((order, "in another order"), (list(range(n))[::-1], "in reverse order")):
        i = _differs(source([episodes[j] for j in rows]), rewards, rows, tolerance)
        if i is not None:
            return CheckError(
                f"reward {source.name!r} gives {_about(episodes[rows[i]])} another reward in a batch {what}: "
                f"score each episode by itself{_MEND}"
            )
    return None


def _broken_batch(
    source: RewardSource, episodes: Sequence[Episode], rewards: Rewards, tolerance: float
) -> CheckError | None:
    for j, episode in enumerate(episodes):
        if _differs(source([episode]), rewards, [j], tolerance) is not None:
            return CheckError(
                f"reward {source.name!r} gives {_about(episode)} another reward alone than in a batch of "
                f"{len(episodes)}: let nothing depend on the batch, such as its mean or padding{_MEND}"
            )
    return None


def _differs(found: Rewards, wanted: Rewards, rows: Sequence[int], tolerance: float) -> int | None:
    """Find the first place in `found` whose episode had other rewards in `wanted`, there in row `rows[i]`."""

    def close(a: Any, b: Any) -> bool:
        return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))

    for i, j in enumerate(rows):
        same = close(found.values[i], wanted.values[j]) and found.abstained[i] == wanted.abstained[j]
        if found.per_token is not None and wanted.per_token is not None:
            same = same and close(found.per_token[i], wanted.per_token[j])
        same = same and (found.per_token is None) == (wanted.per_token is None)
        same = same and found.terms.keys() == wanted.terms.keys()
        if not (same and all(close(found.terms[k][i], wanted.terms[k][j]) for k in wanted.terms)):
            return i
    return None


def _check_causal(
    source: RewardSource, episodes: Sequence[Episode], rewards: Rewards, tolerance: float
) -> None:
    if rewards.per_token is None:
        raise CheckError(f"reward {source.name!r} is causal but has no per-token rewards; set causal = False")
    for episode, whole in zip(episodes, rewards.per_token, strict=True):
        cuts = range(1, len(whole))
        prefixes = [
            Episode(episode.prompt, episode.prompt_ids, episode.completion_ids[:t], episode.tokenizer)
            for t in cuts
        ]
        for t, part in zip(cuts, source(prefixes).per_token or (), strict=True):
            if not np.allclose(part, whole[:t], rtol=tolerance, atol=tolerance):
                raise CheckError(
                    f"reward {source.name!r} pays the first {t} tokens of {_about(episode)} otherwise "
                    "once later ones are there; look at earlier tokens only, or set causal = False"
                )
        if prefixes:
            batch = TokenBatch(
                prompts=[episode.prompt],
                prompt_index=np.zeros(len(prefixes), dtype=np.int64),
                tokens=episode.completion_ids[: len(prefixes)],
                steps=np.arange(1, len(whole)),
                tokenizer=episode.tokenizer,
                episodes=lambda prefixes=prefixes: prefixes,  # type: ignore[misc]
            )
            if not np.allclose(checked_tokens(source, batch), whole[:-1], rtol=tolerance, atol=tolerance):
                raise CheckError(
                    f"reward {source.name!r}: token_rewards and the per-token rewards of {_about(episode)} "
                    "differ; token_rewards must be the last per-token reward of each episode so far"
                )
