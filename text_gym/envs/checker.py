"""Checks the laws of text environments that Gymnasium's and Stable-Baselines3's checkers miss.

Each law that is broken raises a `CheckError` that says what was seen and what to mend. They look from
outside, over whole episodes; they cannot tell whether a reward is a good one.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from text_gym.episode import Episode, Prompt
from text_gym.errors import CheckError, ConfigError, RewardError, excerpt
from text_gym.tasks.task import Task

from .episode_batch import EpisodeBatch
from .options import EpisodeOptions
from .single import TextEnv

Transition = tuple[Any, float, bool, bool, dict[str, Any]]


def check_text_env(
    env: gym.Env[Any, Any] | Task | str,
    vector: VectorEnv[Any, Any, Any] | None = None,
    *,
    steps: int = 300,
    seed: int = 0,
) -> None:
    """Check a token-level environment, over whole episodes of random actions.

    The laws: observations say what was written and stay within their space; an action appends itself; EOS
    terminates; wrong actions and steps out of turn are refused and change nothing; rewards are finite
    numbers; everything follows from the seed and the actions, from the first token to the last, whatever
    the global random state or earlier episodes; a vector environment is its single ones side by side; and
    all that Gymnasium's `check_env` asks for.

    Args:
        env: The environment, a `TextEnv` or one with the same observations; it is played, but not closed.
            Or an id, a task, or a task's name, whose environment is made.
        vector: A vector environment of the same episodes; made from `env.spec` if it has one.
        steps: Actions per law.
        seed: Of the environment and the actions.

    Raises:
        CheckError: The first law that is broken.
        ConfigError: It is neither an environment of one episode nor a task.

    >>> from text_gym import TextEnv
    >>> check_text_env(TextEnv(task="copy"), steps=50)
    """
    env = _as_env(env)
    _check_spaces(env)
    _check_turns(env, seed)
    first = _play(env, seed, steps, world=1)
    for transition in first:
        _check_transition(env, transition)
    _check_appending(env, seed, steps)
    _check_endings(env, seed)
    _check_seed(env, first, seed, steps)
    _check_wrong_actions(env, seed)
    vector = vector or _vector_of(env)
    if vector is not None:
        _check_vector(env, vector, seed, steps)
    with _world(4):
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except Exception as error:
            raise CheckError(f"Gymnasium's check_env: {error}") from error


def random_episodes(task: Task, seed: int = 0, longest: int = 64) -> list[Episode]:
    """Make a finished episode of random tokens for every length up to the task's limit (and `longest`).

    They end by EOS, where there is one; that of the limit's length is cut. With a respondent they are
    conversations, as its environment plays them.
    """
    if task.respondent is not None:
        return _random_conversations(task, seed)
    rng = np.random.default_rng(seed)
    tokenizer = task.tokenizer
    plain = np.setdiff1d(np.arange(tokenizer.vocab_size), [*tokenizer.eos_ids, tokenizer.pad_id])
    episodes = []
    for length in range(1, min(task.max_tokens, longest) + 1):
        prompt: Prompt = task.prompts[int(rng.integers(len(task.prompts)))]
        ids = rng.choice(plain, size=length)
        whole = bool(tokenizer.eos_ids) and length < task.max_tokens
        if whole:
            ids[-1] = tokenizer.eos_ids[0]
        prompt_ids = np.array(prompt.encode(tokenizer), dtype=np.int64)
        episodes.append(
            Episode(prompt, prompt_ids, ids, tokenizer, finish_reason="eos" if whole else "length")
        )
    return episodes


def _random_conversations(task: Task, seed: int, count: int = 64) -> list[Episode]:
    """Play so many episodes of a task with a respondent by drawing ids, none of them padding."""
    rng = np.random.default_rng(seed)
    options = EpisodeOptions(**task.conversation())
    batch = EpisodeBatch(task.prompts, task.tokenizer, task.reward, task.max_tokens, count, options)
    rows = np.arange(count)
    batch.begin(rows, np.full(count, seed), rows)
    ids = np.setdiff1d(np.arange(task.tokenizer.vocab_size), [task.tokenizer.pad_id])
    while len(rows):
        rows = rows[~batch.advance(rows, rng.choice(ids, size=len(rows)))]
    return batch.episodes(np.arange(count))


# Environments


def _as_env(given: Any) -> gym.Env[Any, Any]:
    if isinstance(given, gym.Env):
        return given
    if isinstance(given, str) and given in gym.registry:
        return gym.make(given)
    if isinstance(given, (Task, str)):
        return TextEnv(task=given)
    if isinstance(given, VectorEnv):
        raise ConfigError("a vector environment is checked beside a single one: check_text_env(env, vector)")
    raise ConfigError(
        f"check_text_env takes an environment, a task or a task's name, not {type(given).__name__}"
    )


def _check_spaces(env: gym.Env[Any, Any]) -> None:
    if not isinstance(env.action_space, Discrete) or env.action_space.start != 0:
        raise CheckError(
            f"the action space is {env.action_space}; make it Discrete(V), one action a token id"
        )
    space = env.observation_space
    if not isinstance(space, Dict) or not {"tokens", "attention_mask", "length"} <= set(space.spaces):
        advice = "make it a Dict of tokens, attention_mask and length"
        if type(env.unwrapped) is TextEnv:
            advice = 'check the same environment with observation="tokens", which the laws are about'
        raise CheckError(f"the observation space is {space}; {advice}")
    tokens = space["tokens"]
    if not isinstance(tokens, Box) or tokens.dtype.kind not in "iu" or len(tokens.shape) != 1:
        raise CheckError(f"observation 'tokens' has the space {tokens}; make it a Box of integers, one row")


def _check_turns(env: gym.Env[Any, Any], seed: int) -> None:
    """Check that episodes end, and that nothing can be stepped afterwards."""
    fresh = copy.deepcopy(env)
    fresh.reset(seed=seed)
    fresh.action_space.seed(seed)
    width = env.observation_space["tokens"].shape[0]  # type: ignore[index]
    for _ in range(width):
        *_, terminated, truncated, _ = fresh.step(fresh.action_space.sample())
        if terminated or truncated:
            break
    else:
        raise CheckError(f"an episode goes on after {width} tokens, when the observation is full; end it")
    _must_refuse(fresh, 0, "step after the end of an episode is not refused: raise EpisodeError there")


def _check_transition(env: gym.Env[Any, Any], transition: Transition) -> None:
    """Check one observation, reward and ending."""
    observation, reward, terminated, truncated, _ = transition
    size = int(env.action_space.n)  # type: ignore[attr-defined]
    tokens, mask, length = (np.asarray(observation[k]) for k in ("tokens", "attention_mask", "length"))
    wrong = tokens[(tokens < 0) | (tokens >= size)]
    if len(wrong):
        raise CheckError(
            f"observation 'tokens' holds the id {wrong[0]}, outside [0, {size}); check the tokenizer"
        )
    if observation not in env.observation_space:
        raise CheckError("an observation is outside the observation space; compare shapes, dtypes and bounds")
    if not np.array_equal(mask, np.arange(len(mask)) < length[0]):
        raise CheckError("'attention_mask' must be 1 at the first 'length' places and 0 beyond them")
    if isinstance(reward, (bool, str)) or not isinstance(reward, (float, int, np.floating, np.integer)):
        raise CheckError(f"a reward is {type(reward).__name__} {excerpt(repr(reward))}; return a float")
    if not math.isfinite(reward):
        raise CheckError(f"a reward is {reward}; score every episode, or abstain with 0 and say so in info")
    if terminated and truncated:
        raise CheckError(
            "a step is terminated and truncated; an end is terminated only, EOS on the last allowed token too"
        )


def _check_appending(env: gym.Env[Any, Any], seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    state = copy.deepcopy(env.reset(seed=seed)[0])
    for _ in range(steps):
        action = rng.integers(env.action_space.n)  # type: ignore[attr-defined]
        after, _, terminated, truncated, info = env.step(action)
        if "redrawn" in info:  # nobody judged it, so another episode begins
            state = copy.deepcopy(after)
            continue
        n = int(state["length"][0])
        expected = [*state["tokens"][:n].tolist(), int(action)]
        written = after["tokens"][: int(after["length"][0])].tolist()
        if (written[: n + 1] if _answers(env) else written) != expected:
            raise CheckError(
                f"after action {action} the tokens are not the ones before it and itself; append exactly the "
                "action, and a reply behind it (under autoreset, compare with final_obs)"
            )
        state = copy.deepcopy(env.reset()[0] if terminated or truncated else after)


def _answers(env: gym.Env[Any, Any]) -> bool:
    """True if a respondent writes into the episodes."""
    options = getattr(getattr(getattr(env.unwrapped, "vector", None), "batch", None), "options", None)
    return getattr(options, "respondent", None) is not None


def _check_endings(env: gym.Env[Any, Any], seed: int) -> None:
    tokenizer = getattr(getattr(env.unwrapped, "vector", None), "tokenizer", None)
    for eos in getattr(tokenizer, "eos_ids", ()):
        env.reset(seed=seed)
        *_, terminated, truncated, info = env.step(np.int64(eos))
        if (not terminated or truncated) and "redrawn" not in info:
            raise CheckError(f"EOS (id {eos}) must terminate the episode; here it does not")


def _check_wrong_actions(env: gym.Env[Any, Any], seed: int) -> None:
    size = int(env.action_space.n)  # type: ignore[attr-defined]
    env.reset(seed=seed)
    twin = copy.deepcopy(env)
    for wrong in (-1, size, 0.5, None):
        _must_refuse(env, wrong, f"action {wrong!r} is not refused: raise TokenError outside [0, {size})")
    if not data_equivalence(env.step(np.int64(0)), twin.step(np.int64(0)), exact=True):
        raise CheckError(
            "an action that was refused changed the state; check it before anything else happens"
        )


def _check_seed(env: gym.Env[Any, Any], first: list[Transition], seed: int, steps: int) -> None:
    """Check that the same seed repeats, after other episodes and in another global random state."""
    again = _play(env, seed, steps, world=2)
    for i, (a, b) in enumerate(zip(first, again, strict=True)):
        for name, x, y in zip(
            ("observation", "reward", "terminated", "truncated", "info"), a, b, strict=True
        ):
            if not data_equivalence(x, y, exact=True):
                raise CheckError(
                    f"with the same seed and actions, {name} differs at step {i}: {excerpt(repr(x))} and "
                    f"{excerpt(repr(y))}; let everything follow from reset(seed=...), nothing from the "
                    "global random state, earlier episodes or a reward that is not deterministic"
                )
    with _world(3) as untouched:
        env.reset(seed=seed)
        env.step(np.int64(0))
        if not untouched():
            raise CheckError("the environment draws from the global random state; use self.np_random")


def _vector_of(env: gym.Env[Any, Any]) -> VectorEnv[Any, Any, Any] | None:
    if env.spec is None or env.spec.vector_entry_point is None:
        return None
    return gym.make_vec(env.spec, num_envs=3)


def _check_vector(env: gym.Env[Any, Any], vector: VectorEnv[Any, Any, Any], seed: int, steps: int) -> None:
    n = vector.num_envs
    mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    single = SyncVectorEnv([lambda: copy.deepcopy(env)] * n, autoreset_mode=mode)
    rng = np.random.default_rng(seed)
    mine: tuple[Any, ...] = vector.reset(seed=seed)
    reference: tuple[Any, ...] = single.reset(seed=seed)
    for step in itertools.count():
        for name, a, b in zip(
            ("info", "truncated", "terminated", "reward", "observation"),
            mine[::-1],
            reference[::-1],
            strict=False,
        ):
            if not data_equivalence(a, b, exact=True):
                raise CheckError(
                    f"step {step} of the vector environment is not that of {n} single ones with the seeds "
                    f"{seed} … {seed + n - 1}: {name} is {excerpt(repr(a))}, not {excerpt(repr(b))}"
                )
        if step == steps:
            return
        over = mine[2] | mine[3] if len(mine) == 5 else np.zeros(n, dtype=np.bool_)
        if mode is AutoresetMode.DISABLED and over.any():
            mine, reference = (v.reset(options={"reset_mask": over.copy()}) for v in (vector, single))
        else:
            actions = rng.integers(vector.single_action_space.n, size=n)  # type: ignore[attr-defined]
            mine, reference = vector.step(actions), single.step(actions)


def _play(env: gym.Env[Any, Any], seed: int, steps: int, world: int) -> list[Transition]:
    """Play random actions over several episodes; a reset counts as a step without reward."""
    rng = np.random.default_rng(seed)
    with _world(world):
        start = env.reset(seed=seed)
        played: list[Transition] = [copy.deepcopy((start[0], 0.0, False, False, start[1]))]
        for _ in range(steps):
            if played[-1][2] or played[-1][3]:
                start = env.reset()
                played.append(copy.deepcopy((start[0], 0.0, False, False, start[1])))
            action = rng.integers(env.action_space.n)  # type: ignore[attr-defined]
            played.append(copy.deepcopy(env.step(action)))  # type: ignore[arg-type]
    return played


def _must_refuse(env: gym.Env[Any, Any], action: Any, otherwise: str) -> None:
    try:
        env.step(action)
    except RewardError:
        raise
    except Exception:
        return
    raise CheckError(otherwise)


def _about(episode: Episode) -> str:
    return f"an episode of {len(episode.completion_ids)} tokens ({excerpt(episode.completion, 30)})"


@contextmanager
def _world(number: int) -> Iterator[Callable[[], bool]]:
    """Run the block in another global random state, and yield a test of whether it is still untouched."""
    torch: Any = sys.modules.get("torch")
    saved = random.getstate(), np.random.get_state(), None if torch is None else torch.get_rng_state()  # noqa: NPY002
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    if torch is not None:
        torch.manual_seed(number)

    def state() -> tuple[Any, ...]:
        own: Any = np.random.get_state()  # noqa: NPY002
        rest = () if torch is None else torch.get_rng_state().tolist()
        return random.getstate(), own[1].tolist(), own[2], rest

    start = state()
    try:
        yield lambda: state() == start
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        if torch is not None and saved[2] is not None:
            torch.set_rng_state(saved[2])
