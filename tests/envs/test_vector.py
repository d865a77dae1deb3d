from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.envs.test_conversation import Chance
from tests.worlds import SHOWN, SMALL, WORLDS, Abstains, Moody, PerToken, Terms, random_actions
from text_gym import (
    AllowedTokens,
    ByteTokenizer,
    Episode,
    FunctionReward,
    Rewards,
    RewardSource,
    TextEnv,
    TextVectorEnv,
    WordTokenizer,
)
from text_gym.episode import FloatArray
from text_gym.errors import ConfigError, EpisodeError, PromptError, RewardError, TokenError, UnknownNameError
from text_gym.rewards.values import TokenBatch
from text_gym.tasks.task import ENV_IDS

MODES = list(AutoresetMode)
AB = WordTokenizer("ab", separator="", pad=False)  # a 0, b 1, EOS 2: V = 3


# Conformance: one TextVectorEnv is a SyncVectorEnv of single environments


TALKS: dict[str, dict[str, Any]] = {  # conversations, beside those of `ENV_IDS`
    "enumerable dialogue": {"task": "enumerable-dialogue"},
    "replies by chance": {
        **SMALL,
        "tokenizer": WordTokenizer("abcd.", separator=""),
        "respondent": Chance(),
        "turn_stop": ".",
        "max_turns": 3,
        "max_context": 20,
        "limit": "truncate",
    },
}


def conform(world: str, mode: AutoresetMode, seed: int, steps: int, num_envs: int = 3) -> int | None:
    """Step both alike; every array and info must be equal exactly, types included.

    Returns the number of replies that did not end an episode; None where nobody replies.
    """
    own = (WORLDS | SHOWN | TALKS)[world]
    ours = TextVectorEnv(**own, num_envs=num_envs, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: TextEnv(**own)] * num_envs, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]

    def equal(mine: tuple[Any, ...], reference: tuple[Any, ...]) -> None:
        for a, b in zip(mine, reference, strict=True):
            assert data_equivalence(a, b, exact=True), (a, b)
        assert mine[0] in ours.observation_space

    rng = np.random.default_rng(seed)
    draw = random_actions(ours, seed)
    equal(ours.reset(seed=seed), theirs.reset(seed=seed))
    done, replies = np.zeros(num_envs, dtype=np.bool_), 0
    for _ in range(steps):
        if mode is AutoresetMode.DISABLED:
            extra = (rng.random(num_envs) < 0.1) | done  # partial resets in mid-episode, too
            if extra.any():
                seeds = [int(s) if rng.random() < 0.3 else None for s in rng.integers(99, size=num_envs)]
                equal(*(env.reset(seed=seeds, options={"reset_mask": extra}) for env in (ours, theirs)))
        elif rng.random() < 0.02:
            equal(ours.reset(), theirs.reset())
        actions, before = draw(), ours.batch.lengths.copy()
        mine = ours.step(actions)
        equal(mine, theirs.step(actions))
        done = mine[2] | mine[3]
        replies += int(((ours.batch.lengths > before + 1) & ~done).sum())  # more than the agent's token
    return None if ours.batch.conversation is None else replies


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [*WORLDS, *SHOWN])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_conforms_to_sync_vector_env(world: str, mode: AutoresetMode, seed: int) -> None:
    conform(world, mode, seed, steps=40)


@pytest.mark.nightly
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [*WORLDS, *SHOWN, *TALKS])
def test_conforms_over_ten_thousand_steps(
    world: str, mode: AutoresetMode, tried: Callable[..., None]
) -> None:
    replies = conform(world, mode, seed=0, steps=10_000)
    assert replies is None or replies > 1_000
    tried(
        "the vector environment gives what `SyncVectorEnv` of single ones gives, in every autoreset mode",
        10_000,
        "steps",
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["plain", "stop strings", "text_gym/Copy-v0"])
def test_zero_copy_observations_have_the_same_values(world: str, mode: AutoresetMode) -> None:
    copied, views = (
        TextVectorEnv(**WORLDS[world], num_envs=4, autoreset_mode=mode, copy=c) for c in (True, False)
    )
    draw = random_actions(copied, 1)
    first, _ = copied.reset(seed=5)
    kept = copy.deepcopy(first)
    view, _ = views.reset(seed=5)
    for _ in range(30):
        actions = draw()
        a, b = copied.step(actions), views.step(actions)
        assert data_equivalence(a, b, exact=True)
        if mode is AutoresetMode.DISABLED and (a[2] | a[3]).any():
            for env in (copied, views):
                env.reset(options={"reset_mask": a[2] | a[3]})
    assert data_equivalence(first, kept, exact=True)  # a copy stays what it was
    assert view["tokens"] is views.batch.tokens  # a view does not


# The transition, by hand


Limit = Literal["end", "truncate"]


def ending(actions: tuple[int, ...], limit: Limit = "end") -> tuple[int, bool, bool]:
    """Steps played, terminated, truncated."""
    env = TextEnv(["a"], AB, len, len(actions), limit=limit)
    env.reset(seed=0)
    for step, action in enumerate(actions, 1):
        _, _, terminated, truncated, _ = env.step(np.int64(action))
        if terminated or truncated:
            return step, terminated, truncated
    raise AssertionError("the limit did not end the episode")


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((2,), (1, True, False)),
        ((0,), (1, False, True)),
        ((0, 2), (2, True, False)),  # EOS on the last allowed token
        ((2, 0), (1, True, False)),
        ((1, 1), (2, False, True)),
        ((0, 1, 0, 2), (4, True, False)),
        ((0, 1, 0, 1), (4, False, True)),
    ],
)
def test_endings_by_hand(actions: tuple[int, ...], expected: tuple[int, bool, bool]) -> None:
    assert ending(actions, "truncate") == expected
    assert ending(actions, "end") == (expected[0], True, False)


class IdsAndLength(RewardSource):
    """Pays every token its id plus 1 and, at the end, a hundred times the length."""

    causal = True

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        per_token = tuple(e.completion_ids.astype(np.float64) + 1.0 for e in episodes)
        return Rewards(np.array([100.0 * len(t) for t in per_token]), per_token)


def length_of_text(episode: Episode) -> float:
    """How long the text is, and a half for an end that is no cut."""
    return len(episode.completion) + 1.0 + 0.5 * (episode.finish_reason == "eos")


Step = tuple[
    list[int], int, int, float, bool, bool
]  # tokens, length, remaining, reward, terminated, truncated


def written_down(actions: tuple[int, ...], limit: Limit, causal: bool) -> list[Step]:
    """What must happen, from the prompt `a` on, by the words of the documentation."""
    steps: list[Step] = []
    for t, action in enumerate(actions, 1):
        eos, last = action == 2, t == len(actions)
        terminated = eos or (last and limit == "end")
        value = 100.0 * t if causal else (t - eos) + 1.0 + 0.5 * eos
        reward = (action + 1.0) * causal + value * terminated
        truncated = last and not eos and limit == "truncate"
        steps.append(([0, *actions[:t]], 1 + t, len(actions) - t, reward, terminated, truncated))
        if eos:
            break
    return steps


def seen(observation: Any, reward: Any, terminated: Any, truncated: Any) -> Step:
    length = int(observation["length"][0])
    tokens, remaining = observation["tokens"][:length].tolist(), int(observation["remaining"][0])
    return tokens, length, remaining, float(reward), bool(terminated), bool(truncated)


def of_single(actions: tuple[int, ...], **kwargs: Any) -> list[Step]:
    env = TextEnv(["a"], AB, max_tokens=len(actions), **kwargs)
    observation, _ = env.reset(seed=0)
    assert observation["remaining"].tolist() == [len(actions)]
    steps: list[Step] = []
    for action in actions:
        steps.append(seen(*env.step(np.int64(action))[:4]))
        if steps[-1][4] or steps[-1][5]:
            break
    return steps


def of_vector(paths: list[tuple[int, ...]], mode: AutoresetMode, **kwargs: Any) -> list[list[Step]]:
    """The first episode of every row."""
    env = TextVectorEnv(
        ["a"], AB, max_tokens=len(paths[0]), num_envs=len(paths), autoreset_mode=mode, **kwargs
    )
    observation, _ = env.reset(seed=0)
    found: list[list[Step]] = [[] for _ in paths]
    over = np.zeros(len(paths), dtype=np.bool_)
    for actions in zip(*paths, strict=True):
        observation, reward, terminated, truncated, info = env.step(np.array(actions))
        ended = terminated | truncated
        for i in np.flatnonzero(~over).tolist():
            own = {k: v[i] for k, v in observation.items()}
            if ended[i] and mode is AutoresetMode.SAME_STEP:
                assert own["remaining"].tolist() == [env.max_tokens]  # of the next episode
                own = info["final_obs"][i]
            found[i].append(seen(own, reward[i], terminated[i], truncated[i]))
        over |= ended
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
    return found


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_all_paths_of_a_world_of_three_ids(limit: Limit, causal: bool) -> None:
    """Flags, rewards and observations of every action sequence, one at a time and side by side."""
    kwargs: Any = {"reward": IdsAndLength() if causal else length_of_text, "limit": limit}
    for size in range(1, 5):
        paths = list(product(range(3), repeat=size))
        expected = [written_down(path, limit, causal) for path in paths]
        assert [of_single(path, **kwargs) for path in paths] == expected
        for mode in AutoresetMode:
            assert of_vector(paths, mode, **kwargs) == expected
        cut = [steps for steps in expected if steps[-1][5]]
        assert len(cut) == (2**size if limit == "truncate" else 0)  # of the 3^size paths


@pytest.mark.parametrize(("limit", "asked"), [("end", ["b", "ab"]), ("truncate", ["b"])])
def test_nobody_is_asked_about_a_text_that_was_cut(limit: Limit, asked: list[str]) -> None:
    texts: list[str] = []

    def keep(completion: str) -> float:
        texts.append(completion)
        return 1.0

    env = TextVectorEnv(["a"], AB, keep, 2, num_envs=2, limit=limit)
    env.reset(seed=0)
    env.step(np.array([1, 0]))
    *_, info = env.step(np.array([2, 1]))
    assert texts == asked
    assert info["completion"].tolist() == ["b", "ab"]
    assert [e.finish_reason for e in env.episodes(np.arange(2))] == ["eos", "length"]


def test_a_running_episode_has_no_finish_reason() -> None:
    env = TextVectorEnv(["a"], AB, len, 3, num_envs=3, stop="bb")
    env.reset(seed=0)
    reasons = []
    for actions in ([1, 0, 2], [1, 0, 0], [0, 0, 0], [2, 0, 0]):
        env.step(np.array(actions))
        reasons.append([e.finish_reason for e in env.episodes(np.arange(3))])
    assert reasons == [
        [None, None, "eos"],
        ["stop", None, None],
        [None, "length", None],
        ["eos", None, None],  # the next episode of a row knows nothing of the stop string before it
    ]


def test_registered_ids_take_the_limit_and_none_has_a_time_limit_beside_it() -> None:
    for env_id in ENV_IDS:
        assert gym.spec(env_id).max_episode_steps is None
    for limit in ("end", "truncate"):
        single: Any = gym.make("text_gym/Copy-v0", limit=limit)
        vector: Any = gym.make_vec("text_gym/Copy-v0", num_envs=2, limit=limit)
        single.reset(seed=0)
        vector.reset(seed=0)
        for _ in range(vector.max_tokens):
            one, many = single.step(np.int64(0)), vector.step(np.zeros(2, dtype=np.int64))
        assert one[2:4] == ((True, False) if limit == "end" else (False, True))
        assert many[2].tolist() == [limit == "end"] * 2
        assert many[3].tolist() == [limit == "truncate"] * 2
    with pytest.raises(ConfigError, match="limit is 'stop'; choose 'end', 'truncate'"):
        gym.make("text_gym/Copy-v0", limit="stop")


@pytest.mark.parametrize(
    ("stop", "actions", "completion", "by"),
    [
        (["b"], [0, 1], "a", "b"),
        (["ab", "b"], [0, 0, 1], "a", "ab"),  # both end here; the one that begins first counts
        (["bb"], [1, 0, 1, 1], "ba", "bb"),
        (["b"], [0, 2], "a", ""),  # EOS comes first
    ],
)
def test_stop_strings_end_the_episode_and_are_left_out(
    stop: list[str], actions: list[int], completion: str, by: str
) -> None:
    env = TextVectorEnv(["a"], AB, len, 8, stop=stop)
    env.reset(seed=0)
    for action in actions[:-1]:
        assert not env.step([action])[2].any()
    *_, terminated, truncated, info = env.step([actions[-1]])
    (episode,) = env.episodes(np.array([0]))
    assert (terminated.tolist(), truncated.tolist()) == ([True], [False])
    assert info["completion"][0] == episode.completion == completion
    assert episode.stop == by


def test_a_stop_string_in_the_middle_of_a_token_ends_the_text_there() -> None:
    words = WordTokenizer(["one", "two\n\nthree\n\n"], separator=" ")
    env = TextVectorEnv(["one"], words, len, 8, stop="\n\n")
    env.reset(seed=0)
    env.step([0])
    *_, info = env.step([1])
    assert info["completion"][0] == "one two"


def test_a_reset_begins_to_count_redrawn_episodes_anew() -> None:
    reward = FunctionReward(lambda completion: 0.0 if completion else None, abstains=True)
    env = TextVectorEnv(["a"], AB, reward, 5, num_envs=2, on_abstain="redraw")
    env.reset(seed=0)
    counts = [env.step([2, 2])[4]["redrawn"].tolist() for _ in range(2)]
    assert counts == [[1, 1], [2, 2]]
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step([2, 2])[4]["redrawn"].tolist() == [1, 3]
    assert env.redrawn == 6


def test_of_several_stop_strings_in_one_token_the_first_counts() -> None:
    words = WordTokenizer(["a", "b;c.d"], separator="")
    for stop in (["c", ".", ";", "b;c"], ["b;c", ";", ".", "c"]):
        env = TextVectorEnv(["a"], words, len, 8, stop=stop)
        env.reset(seed=0)
        env.step([0])
        *_, info = env.step([1])
        assert info["completion"][0] == "a"
        assert env.episodes(np.array([0]))[0].stop == "b;c"


def test_a_stop_string_in_the_prompt_or_begun_there_ends_nothing() -> None:
    env = TextVectorEnv(["abba", "aab"], AB, len, 3, num_envs=2, stop="bb", shuffle=False)
    env.reset(seed=0, options={"episode_index": [0, 1]})
    assert env.step([0, 1])[2].tolist() == [False, False]
    assert env.step([1, 0])[2].tolist() == [False, False]


def test_a_stop_string_of_four_byte_characters_is_found() -> None:
    env = TextVectorEnv(["x"], ByteTokenizer(), len, 20, stop="🙂🙂")
    env.reset(seed=0)
    text = "a🙂🙂".encode()
    for byte in text[:-1]:
        assert not env.step([byte])[2].any()
    *_, info = env.step([text[-1]])
    assert info["completion"][0] == "a"


# What is paid


def test_per_token_rewards_are_paid_on_their_tokens_if_causal_and_else_at_the_end() -> None:
    paid = {}
    for causal in (True, False):
        env = TextVectorEnv(["a"], AB, PerToken(causal), 3)
        env.reset(seed=0)
        paid[causal] = [env.step([token])[1][0] for token in (1, 0, 1)]
    assert paid[True] == [1.0, 0.0, 1.03]  # the ids, and 3 / 100 at the end
    assert paid[False] == [0.0, 0.0, 2.03]


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_the_vectorised_token_rewards_are_the_per_token_rewards(seed: int) -> None:
    """A classic task overrides `token_rewards`; the default scores every prefix."""
    fast = TextVectorEnv(task="reverse", num_envs=4, length=3)
    slow = TextVectorEnv(task="reverse", num_envs=4, length=3)
    slow.reward.token_rewards = lambda batch: RewardSource.token_rewards(slow.reward, batch)  # type: ignore[method-assign]
    draw = random_actions(fast, seed)
    fast.reset(seed=seed)
    slow.reset(seed=seed)
    for _ in range(20):
        actions = draw()
        assert data_equivalence(fast.step(actions), slow.step(actions), exact=True)


def test_rewards_of_one_step_are_asked_for_in_one_batch() -> None:
    sizes: list[int] = []

    def batch(completions: list[str]) -> list[float]:
        sizes.append(len(completions))
        return [0.0] * len(completions)

    env = TextVectorEnv(["a"], AB, batch, 4, num_envs=5)
    env.reset(seed=0)
    env.step([2, 0, 2, 0, 2])
    env.step([0, 2, 0, 0, 0])
    assert sizes == [3, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "1", 1e39])
def test_a_bad_reward_is_refused_or_dropped(bad: Any) -> None:
    env = TextVectorEnv(["a"], AB, lambda completion: bad if completion else 1.0, 4, num_envs=2)
    env.reset(seed=0)
    env.step([0, 0])
    with pytest.raises(RewardError, match="'a'"):
        env.step([2, 0])
    env = TextVectorEnv(
        ["a"], AB, lambda completion: bad if completion else 1.0, 4, num_envs=3, on_bad_reward="drop"
    )
    env.reset(seed=0)
    env.step([0, 2, 0])
    _, reward, _, _, info = env.step([2, 0, 0])
    assert reward.tolist() == [0.0, 0.0, 0.0]
    assert info["reward_abstained"].tolist() == info["_reward_abstained"].tolist() == [True, False, False]


@pytest.mark.parametrize("value", [np.array([np.nan, 0.0]), np.zeros(3), "text"])
def test_bad_token_rewards_are_refused(value: Any) -> None:
    class Bad(PerToken):
        def token_rewards(self, batch: TokenBatch) -> FloatArray:
            assert batch.steps.tolist() == [1, 1]
            result: FloatArray = value
            return result

    env = TextVectorEnv(["a"], AB, Bad(causal=True), 4, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(RewardError, match="reward 'reward'"):
        env.step([0, 0])


def test_a_bad_token_reward_is_dropped_if_asked() -> None:
    class Bad(PerToken):
        def token_rewards(self, batch: TokenBatch) -> FloatArray:
            return np.where(batch.tokens == 1, np.nan, 0.5)

    env = TextVectorEnv(["a"], AB, Bad(causal=True), 4, num_envs=2, on_bad_reward="drop")
    env.reset(seed=0)
    assert env.step([0, 1])[1].tolist() == [0.5, 0.0]


# Episodes: what they depend on


def episode_actions(seed: int, k: int, step: int, vocab_size: int) -> int:
    """Any function of (episode, step); one in four is EOS (the last symbol but the padding)."""
    draw = int(np.random.default_rng([seed, k, step]).integers(4 * vocab_size))
    return vocab_size - 2 if draw % 4 == 0 else draw // 4


def play(env: TextVectorEnv, seed: int, count: int) -> dict[int, tuple[Any, ...]]:
    """Episodes 0 … count - 1 by number: prompt, completion, rewards, terminated, truncated."""
    v, mode = env.tokenizer.vocab_size, env.autoreset_mode
    _, info = env.reset(seed=seed)
    number, prompt = info["episode_index"].copy(), info["prompt"].copy()
    steps, paid = np.zeros(env.num_envs, dtype=np.int64), [[] for _ in range(env.num_envs)]  # type: ignore[var-annotated]
    found: dict[int, tuple[Any, ...]] = {}
    while not set(range(count)) <= set(found):
        actions = [episode_actions(seed, int(k), int(t), v) for k, t in zip(number, steps, strict=True)]
        _, reward, terminated, truncated, info = env.step(actions)
        last = info.get("final_info", info)
        for i in np.flatnonzero(terminated | truncated).tolist():
            ended = (last["completion"][i], bool(terminated[i]), bool(truncated[i]))
            found[int(number[i])] = (prompt[i], *ended, tuple(paid[i]), float(reward[i]))
        over = terminated | truncated
        if mode is AutoresetMode.DISABLED and over.any():
            _, info = env.reset(options={"reset_mask": over})
        begun = info.get("_episode_index", np.zeros(env.num_envs, dtype=np.bool_))
        for i in range(env.num_envs):
            if begun[i]:
                number[i], prompt[i], steps[i], paid[i] = info["episode_index"][i], info["prompt"][i], 0, []
            else:
                steps[i] += 1
                paid[i].append(float(reward[i]))
    return {k: found[k] for k in range(count)}


NUMBERED = {k: WORLDS[k] for k in ("plain", "stop strings", "per token, causal", "groups in order")}


@pytest.mark.parametrize("world", NUMBERED)
def test_global_numbering_plays_the_same_episodes_for_any_num_envs(world: str) -> None:
    kwargs = {**WORLDS[world], "numbering": "global"}
    one = play(TextVectorEnv(**kwargs, num_envs=1), seed=3, count=100)
    assert len({e[0] for e in one.values()}) > 1
    for num_envs, mode in product((2, 8, 64), MODES):
        env = TextVectorEnv(**kwargs, num_envs=num_envs, autoreset_mode=mode)
        assert play(env, seed=3, count=100) == one


@pytest.mark.nightly
def test_global_numbering_over_ten_thousand_episodes(tried: Callable[..., None]) -> None:
    kwargs = {**SMALL, "numbering": "global"}
    one = play(TextVectorEnv(**kwargs, num_envs=1), seed=0, count=10_000)
    for num_envs in (2, 8, 64):
        assert play(TextVectorEnv(**kwargs, num_envs=num_envs), seed=0, count=10_000) == one
    tried(
        "an episode depends on the seed and its number alone, not on the number of rows", 30_000, "episodes"
    )


def test_per_env_numbering_gives_row_i_the_stream_of_seed_plus_i() -> None:
    vector = TextVectorEnv(**SMALL, num_envs=3, autoreset_mode="Disabled")
    _, first = vector.reset(seed=7)
    rows = [[p] for p in first["prompt"]]
    for _ in range(10):
        _, info = vector.reset()
        for i in range(3):
            rows[i].append(info["prompt"][i])
    for i in range(3):
        single = TextEnv(**SMALL)
        alone = [single.reset(seed=7 + i)[1]["prompt"]] + [single.reset()[1]["prompt"] for _ in range(10)]
        assert rows[i] == alone
    assert rows[0] != rows[1]


@pytest.mark.parametrize("world", ["plain", "terms", "per token, causal", "stop strings"])
def test_the_three_autoreset_modes_play_the_same_episodes(world: str) -> None:
    next_step, same_step, disabled = (
        play(TextVectorEnv(**WORLDS[world], numbering="global", num_envs=4, autoreset_mode=mode), 1, 200)
        for mode in MODES
    )
    assert next_step == same_step == disabled


# Abstentions


def returns(env: TextVectorEnv, seed: int, steps: int) -> list[tuple[str, float, bool]]:
    """Of the episodes that end: completion, sum of the rewards, whether the source abstained."""
    draw, found, paid = random_actions(env, seed), [], np.zeros(env.num_envs)
    env.reset(seed=seed)
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(draw())
        paid += reward
        last = info.get("final_info", info)
        for i in np.flatnonzero(terminated | truncated).tolist():
            abstained = "reward_abstained" in last and bool(last["_reward_abstained"][i])
            found.append((last["completion"][i], float(paid[i]), abstained))
            paid[i] = 0.0
        if env.autoreset_mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["abstains", "abstains, causal"])
def test_an_episode_without_an_opinion_returns_nothing_and_says_so(world: str, mode: AutoresetMode) -> None:
    kwargs = {**WORLDS[world], "tokenizer": AB}
    found = returns(TextVectorEnv(**kwargs, num_envs=4, autoreset_mode=mode), 0, 300)
    assert {abstained for _, _, abstained in found} == {True, False}
    for completion, total, abstained in found:
        assert abstained == ("a" in completion)
        if abstained:
            assert total == 0
        elif world == "abstains":
            assert total == 1
        else:  # b is 1, EOS (left out of the completion) is 2; a hundredth a token
            length = len(completion) + (len(completion) < 5)
            assert total == pytest.approx(len(completion) + 2 * (length > len(completion)) + length / 100)


def test_the_last_step_takes_back_what_was_paid_for_earlier_tokens() -> None:
    env = TextVectorEnv(["b"], AB, Moody(), 4, num_envs=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    rewards = [env.step(actions)[1].tolist() for actions in ([1, 1], [0, 1])]
    _, last, terminated, _, info = env.step([2, 2])
    assert rewards == [[1, 1], [0, 1]]
    assert last.tolist() == [-1, 2.03]
    assert terminated.tolist() == [True, True]
    assert info["reward_abstained"].tolist() == [True, False]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["redraws", "redraws, causal"])
def test_redrawing_leaves_the_judged_episodes_of_the_same_stream(world: str, mode: AutoresetMode) -> None:
    kwargs = {**WORLDS[world], "numbering": "global"}
    whole = play(TextVectorEnv(**{**kwargs, "on_abstain": "pay_zero"}, num_envs=3), 2, 160)
    env = TextVectorEnv(**kwargs, num_envs=3, autoreset_mode=mode)
    observation, info = env.reset(seed=2)
    number, steps, paid = info["episode_index"].copy(), np.zeros(3, dtype=np.int64), [[], [], []]  # type: ignore[var-annotated]
    judged, dropped, in_a_row = {}, set(), np.zeros(3, dtype=np.int64)
    while number.max() < 150:
        actions = [episode_actions(2, int(k), int(t), 4) for k, t in zip(number, steps, strict=True)]
        observation, reward, terminated, truncated, info = env.step(actions)
        over = terminated | truncated
        again = info.get("_redrawn", np.zeros(3, dtype=np.bool_))
        last = info.get("final_info", info)
        assert "reward_abstained" not in last
        assert not (again & over).any()
        for i in range(3):
            paid[i].append(float(reward[i]))
        for i in np.flatnonzero(over).tolist():
            judged[int(number[i])] = (last["completion"][i], tuple(paid[i]))
            in_a_row[i] = 0
        for i in np.flatnonzero(again).tolist():
            dropped.add(int(number[i]))
            in_a_row[i] += 1
            assert info["redrawn"][i] == in_a_row[i]
            assert sum(paid[i]) == 0
            prompt = AB.encode(info["prompt"][i])
            assert observation["length"][i] == len(prompt)
            assert observation["tokens"][i, : len(prompt)].tolist() == prompt
            assert "completion" not in last or not last["_completion"][i]
        if mode is AutoresetMode.DISABLED and over.any():
            observation, begun = env.reset(options={"reset_mask": over})
            for i in np.flatnonzero(begun["_episode_index"]).tolist():
                number[i], steps[i], paid[i] = begun["episode_index"][i], -1, []
        begun = info.get("_episode_index", np.zeros(3, dtype=np.bool_))
        for i in range(3):
            if begun[i]:
                number[i], steps[i], paid[i] = info["episode_index"][i], 0, []
            else:
                steps[i] += 1
    assert env.redrawn == len(dropped) > 10
    assert len(judged) > 10
    for k, (completion, rewards) in judged.items():
        assert "a" not in completion
        assert (completion, (*whole[k][4], whole[k][5])) == (whole[k][1], rewards)
    assert all("a" in whole[k][1] for k in dropped)
    assert set(range(145)) - set(number.tolist()) <= set(judged) | dropped


def test_redrawing_gives_up_where_nothing_is_judged() -> None:
    class Down(Abstains):
        _last_failure = "endpoint answered status 500, 'boom'"

        def score(self, episodes: Sequence[Episode]) -> list[float | None]:
            return [None] * len(episodes)

    env = TextVectorEnv(["b"], AB, Down(), 4, num_envs=3, on_abstain="redraw")
    env.reset(seed=0)
    for n in range(1, 34):
        *_, terminated, truncated, info = env.step([2, 2, 2])
        assert not (terminated | truncated).any()
        assert info["redrawn"].tolist() == [n] * 3
    with pytest.raises(RewardError, match=r"judged none of the last 102 episodes.*status 500, 'boom'"):
        env.step([2, 2, 2])
    assert env.redrawn == 99
    env.reset()
    assert env.step([2, 2, 2])[4]["redrawn"].tolist() == [1] * 3


def test_one_judged_episode_in_between_and_redrawing_goes_on() -> None:
    env = TextVectorEnv(["b"], AB, Abstains(), 4, num_envs=1, on_abstain="redraw")
    env.reset(seed=0)
    for n in range(300):
        env.step([0])
        assert env.step([2])[2].tolist() == [False]
        if n % 90 == 89:
            env.step([1])
            _, reward, terminated, *_ = env.step([2])
            assert (reward.tolist(), terminated.tolist()) == ([1], [True])
            env.step([0])  # NEXT_STEP: ignored
    assert env.redrawn == 300


def test_prompts_in_order_and_in_groups() -> None:
    env = TextVectorEnv(**{**SMALL, "prompts": ["a", "b"]}, group_size=2, shuffle=False)
    env.reset(seed=0)
    numbers = np.arange(6)
    assert env.batch.prompt_of(np.zeros(6, dtype=np.int64), numbers).tolist() == [0, 0, 1, 1, 0, 0]
    assert [env.reset(options={"episode_index": k})[1]["prompt"][0] for k in (0, 1, 2, 5)] == list("aaba")
    assert env.reset()[1]["episode_index"].tolist() == [6]  # and on from there


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    draws = []
    for state in (1, 2):
        np.random.seed(state)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        env = TextVectorEnv(**SMALL, num_envs=3)
        draws.append([env.reset(seed=4)[1]["prompt"].tolist(), env.reset()[1]["prompt"].tolist()])
        assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002
    assert draws[0] == draws[1]


# Bad input: refused before anything changes


def state_of(env: TextVectorEnv) -> dict[str, Any]:
    """Every array and list, of the environment and its parts, by name."""
    parts = {"": env, "batch": env.batch, "streams": env._streams, "redraws": env._redraws}
    return {
        f"{part}.{k}": copy.deepcopy(v)
        for part, owner in parts.items()
        for k, v in vars(owner).items()
        if isinstance(v, (np.ndarray, list))
    }


WRONG_IDS = st.one_of(
    st.integers(-(2**63), -1),
    st.integers(4, 2**64 - 1),
    st.integers(2**64, 2**80),
    st.floats(),
    st.booleans(),
    st.sampled_from([None, "1", b"1", 1j, np.float32(1), np.bool_(True), [1], object()]),
)


def wrong_actions() -> st.SearchStrategy[Any]:
    """Actions for three rows, wrong in the first or last one, or as a whole, in many types."""
    right = st.integers(0, 3)
    lists = st.tuples(WRONG_IDS, right, right).map(list) | st.tuples(right, right, WRONG_IDS).map(list)
    shapes = st.sampled_from([(), (0,), (1,), (2,), (4,), (3, 1), (1, 3)]).map(lambda s: np.ones(s, np.int64))
    kinds = st.sampled_from(["float32", "float64", "bool", "complex64", "U1", "object", "datetime64[s]"])
    arrays = kinds.map(lambda t: np.ones(3, np.int64).astype(t))
    low = st.sampled_from(["int8", "int16", "int32", "int64"]).map(lambda t: np.array([0, 1, -1], dtype=t))
    high = st.sampled_from(["uint8", "uint16", "uint32", "uint64"]).map(
        lambda t: np.array([np.iinfo(t).max, 1, 0], dtype=t)
    )
    return st.one_of(lists, shapes, arrays, low, high, WRONG_IDS)


def refuses(env: TextVectorEnv, actions: Any) -> None:
    before = state_of(env)
    with pytest.raises(TokenError):
        env.step(actions)
    after = state_of(env)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name


STEPPED = TextVectorEnv(**SMALL, num_envs=3)
STEPPED.reset(seed=0)
STEPPED.step([0, 2, 1])  # row 1 restarts at the next step


@settings(max_examples=300, deadline=None)
@given(wrong_actions())
def test_wrong_actions_change_nothing(actions: Any) -> None:
    refuses(STEPPED, actions)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(wrong_actions())
def test_ten_thousand_wrong_actions_change_nothing(actions: Any) -> None:
    refuses(STEPPED, actions)


def test_wrong_torch_actions() -> None:
    torch = pytest.importorskip("torch")
    for wrong in (torch.ones(3), torch.ones(3, dtype=torch.bool), torch.ones(3, requires_grad=True)):
        refuses(STEPPED, wrong)
    refuses(STEPPED, torch.tensor([0, 0, 4]))
    env = TextVectorEnv(**SMALL, num_envs=3)
    env.reset(seed=0)
    observation, *_ = env.step(torch.tensor([0, 1, 1], dtype=torch.int32))
    assert observation["tokens"][np.arange(3), observation["length"][:, 0] - 1].tolist() == [0, 1, 1]


def test_ids_of_rows_that_restart_are_ignored() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2)
    env.reset(seed=0)
    env.step([2, 0])
    observation, *_, info = env.step([-5, 1])
    assert info["_episode_index"].tolist() == [True, False]
    assert observation["length"][0, 0] == len(info["prompt"][0])


def test_ids_of_rows_that_restart_are_ignored_by_a_mask_too() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2, mask=AllowedTokens(ids=[0]))
    env.reset(seed=0)
    env.step([2, 0])
    assert env.step([-5, 0])[4]["_episode_index"].tolist() == [True, False]
    with pytest.raises(TokenError, match="token id 1 in row 1 is masked"):
        env.step([0, 1])


def test_stepping_goes_on_with_its_own_streams_after_somebody_played_the_batch() -> None:
    env, alone = (TextVectorEnv(**SMALL, num_envs=2) for _ in range(2))
    for one in (env, alone):
        one.reset(seed=3)
        one.step([2, 2])
    rows = np.arange(2)
    env.batch.begin(rows, seeds=np.array([8, 9]), episode_index=np.array([40, 50]))
    env.batch.advance(rows, np.array([2, 2]))
    for _ in range(4):
        assert data_equivalence(env.step([2, 2]), alone.step([2, 2]), exact=True)


def test_the_error_names_row_id_and_range() -> None:
    with pytest.raises(TokenError, match=re.escape("token id 9 in row 2 is outside [0, 4)")):
        STEPPED.step([0, 99, 9])


class Stepping(RuleBasedStateMachine):
    """`step` works exactly while all episodes run: after reset, and not after an end."""

    @initialize(mode=st.sampled_from(MODES), num_envs=st.integers(1, 3))
    def make(self, mode: AutoresetMode, num_envs: int) -> None:
        self.env = TextVectorEnv(**SMALL, num_envs=num_envs, autoreset_mode=mode)
        self.begun = False
        self.over = np.zeros(num_envs, dtype=np.bool_)

    @rule(seed=st.none() | st.integers(0, 9))
    def reset(self, seed: int | None) -> None:
        self.env.reset(seed=seed)
        self.begun = True
        self.over[:] = False

    @precondition(lambda self: self.over.any())
    @rule()
    def reset_what_is_over(self) -> None:
        self.env.reset(options={"reset_mask": self.over.copy()})
        self.over[:] = False

    @rule(eos=st.booleans(), token=st.integers(0, 1))
    def step(self, eos: bool, token: int) -> None:
        actions = np.full(self.env.num_envs, token)
        actions[0] = 2 if eos else token
        if not self.begun:
            with pytest.raises(EpisodeError, match="before reset"):
                self.env.step(actions)
        elif self.over.any() and self.env.autoreset_mode is AutoresetMode.DISABLED:
            with pytest.raises(EpisodeError, match=re.escape(str(np.flatnonzero(self.over).tolist()))):
                self.env.step(actions)
        else:
            *_, terminated, truncated, _ = self.env.step(actions)
            # SAME_STEP restarts at once, NEXT_STEP with the next step.
            self.over = terminated | truncated
            if self.env.autoreset_mode is AutoresetMode.SAME_STEP:
                self.over = np.zeros_like(self.over)

    @rule()
    def step_wrongly(self) -> None:
        with pytest.raises((TokenError, EpisodeError)):
            self.env.step(np.full(self.env.num_envs, 1.5))


TestStepping = Stepping.TestCase
TestStepping.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"prompts": None}, ConfigError, "pass prompts"),
        ({"prompts": []}, PromptError, "no prompts"),
        ({"prompts": "one"}, PromptError, "single string"),
        ({"prompts": ["a", 3]}, PromptError, "prompt 1 is int"),
        ({"tokenizer": 3}, ConfigError, "not a tokenizer"),
        ({"reward": 3}, RewardError, "not a reward"),
        ({"max_tokens": 0}, ConfigError, "max_tokens is 0"),
        ({"max_tokens": 2.5}, ConfigError, "max_tokens is 2.5"),
        ({"max_tokens": True}, ConfigError, "max_tokens is True"),
        ({"num_envs": -1}, ConfigError, "num_envs is -1"),
        ({"group_size": 0}, ConfigError, "group_size is 0"),
        ({"stop": ["x", ""]}, ConfigError, "empty stop"),
        ({"autoreset_mode": "never"}, ConfigError, "autoreset_mode is 'never'"),
        ({"on_abstain": "retry"}, ConfigError, "on_abstain is 'retry'; choose 'pay_zero', 'redraw'"),
        ({"numbering": "mine"}, ConfigError, "numbering is 'mine'"),
        ({"on_bad_reward": "hide"}, ConfigError, "on_bad_reward is 'hide'"),
        ({"render_mode": "human"}, ConfigError, 'render_mode="human" shows one text'),
        ({"on_long_prompt": "cut"}, ConfigError, "on_long_prompt is 'cut'"),
        ({"max_prompt_tokens": 0}, ConfigError, "max_prompt_tokens is 0"),
        ({"colour": "red"}, ConfigError, "'colour'"),
        ({"task": "product"}, UnknownNameError, "did you mean 'products'"),
        ({"task": "copy", "size": 3}, ConfigError, "task 'copy'.*size"),
        ({"task": Path("copy")}, ConfigError, "task is .*; it must be a Task or a task's name"),
        ({"prompts": "copy", "tokenizer": None}, ConfigError, "or task=, a task that has them"),
    ],
)
def test_options_that_make_no_sense(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        TextVectorEnv(**{**SMALL, **change})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"mask": 1}, UnknownNameError, "reset option 'mask'"),
        ({"reset_mask": [True, False]}, ConfigError, "bool array"),
        ({"reset_mask": np.array([1, 0])}, ConfigError, "int64"),
        ({"reset_mask": np.array([True])}, ConfigError, re.escape("(1,)")),
        ({"reset_mask": np.array([False, False])}, ConfigError, "no row"),
        ({"episode_index": -1}, ConfigError, "at least 0"),
        ({"episode_index": [1, 2, 3]}, ConfigError, "2 of them"),
        ({"episode_index": 0.5}, ConfigError, "whole number"),
    ],
)
def test_reset_options_that_make_no_sense(options: Any, error: type[Exception], says: str) -> None:
    env = TextVectorEnv(**SMALL, num_envs=2)
    env.reset(seed=0)
    before = state_of(env)
    with pytest.raises(error, match=says):
        env.reset(options=options)
    assert all(np.array_equal(v, state_of(env)[k]) for k, v in before.items())


def test_another_number_of_seeds_than_rows() -> None:
    with pytest.raises(ConfigError, match="2 entries for num_envs=1"):
        TextVectorEnv(**SMALL).reset(seed=[1, 2])


# Gymnasium's surroundings


def make_vec(**kwargs: Any) -> Any:
    return gym.make_vec("text_gym/Copy-v0", num_envs=3, **kwargs)


def test_make_vec_gives_a_spec_and_task_parameters_go_through() -> None:
    env = make_vec(length=2)
    assert isinstance(env, TextVectorEnv)
    assert env.spec is not None
    assert env.spec.id == "text_gym/Copy-v0"
    assert "Copy-v0" in repr(env)
    assert env.max_tokens == 3
    assert gym.make_vec(env.spec).num_envs == 3
    assert isinstance(make_vec(vectorization_mode="sync"), SyncVectorEnv)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_of_a_running_environment_goes_on_alike(
    clone: Callable[[TextVectorEnv], TextVectorEnv], mode: AutoresetMode
) -> None:
    env = TextVectorEnv(**{**SMALL, "reward": Terms()}, num_envs=3, autoreset_mode=mode)
    env.reset(seed=1)
    env.step([0, 1, 0])
    other = clone(env)
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.integers(2, size=3)
        assert data_equivalence(env.step(actions), other.step(actions), exact=True)
    assert other.batch.tokens is not env.batch.tokens


def test_np_random_follows_the_seed_and_unseeded_resets_differ() -> None:
    env = TextVectorEnv(**SMALL)
    env.reset(seed=3)
    assert env.np_random.integers(1000) == gym.utils.seeding.np_random(3)[0].integers(1000)
    many = {tuple(TextVectorEnv(**SMALL, num_envs=12).reset()[1]["prompt"]) for _ in range(5)}
    assert len(many) > 1


def test_closing_twice_is_fine() -> None:
    env = TextVectorEnv(**SMALL)
    env.close()
    env.close()
    assert env.closed


def test_rendering_is_safe_to_print() -> None:
    env = TextVectorEnv(["\x1b[2Jhi"], ByteTokenizer(), len, 4, num_envs=2, render_mode="ansi")
    env.reset(seed=0)
    env.step([27, 256])
    assert env.render() == ("\\x1b[2Jhi│\\x1b▁", "\\x1b[2Jhi│■")
    assert TextVectorEnv(**SMALL).render() is None


W = gym.wrappers.vector
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "statistics": W.RecordEpisodeStatistics,
    "infos as a list": W.DictInfoToList,
    "normalised reward": W.NormalizeReward,
    "clipped reward": lambda env: W.ClipReward(env, 0.0, 1.0),
    "transformed reward": lambda env: W.TransformReward(env, lambda r: 2 * r),
    "flat observation": W.FlattenObservation,  # refuses SAME_STEP for every environment, as does the next
    "filtered observation": lambda env: W.FilterObservation(env, ["tokens"]),
}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", WRAPPERS)
def test_gymnasium_vector_wrappers(name: str, mode: AutoresetMode) -> None:
    if name.endswith("observation") and mode is AutoresetMode.SAME_STEP:
        pytest.skip("refused by the wrapper")
    wrap = WRAPPERS[name]

    def step_all(env: Any) -> list[float]:
        env.reset(seed=0)
        draw = random_actions(TextVectorEnv(**SMALL, num_envs=3), 0)
        returns = []
        for _ in range(60):
            observation, reward, _, _, info = env.step(draw())
            assert observation in env.observation_space
            returns += reward.tolist()
            if name == "statistics" and "episode" in info:
                returns += info["episode"]["r"][info["_episode"]].tolist()
        return returns

    ours = wrap(TextVectorEnv(**SMALL, num_envs=3, autoreset_mode=mode))
    theirs = wrap(SyncVectorEnv([lambda: TextEnv(**SMALL)] * 3, autoreset_mode=mode))
    assert step_all(ours) == step_all(theirs)  # NormalizeReward: the same numbers in the same order


def test_numpy_to_torch() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("array_api_compat")  # Gymnasium's wrapper needs it
    env = gym.wrappers.vector.NumpyToTorch(TextVectorEnv(**SMALL, num_envs=2, info_texts=False))
    observation, _ = env.reset(seed=0)
    assert observation["tokens"].dtype == torch.int64
    _, reward, terminated, *_ = env.step(torch.tensor([0, 2]))
    assert reward.shape == (2,)
    assert terminated.tolist() == [False, True]


def long_prompt_env(lengths: list[int], context: int, **kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(["a" * n for n in lengths], ByteTokenizer(), len, 4, context=context, **kwargs)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 64), min_size=1, max_size=4), st.integers(5, 16))
def test_prompts_fit_the_context_or_are_refused_or_cut_on_the_left(lengths: list[int], context: int) -> None:
    room = context - 4
    if max(lengths) <= room:
        env = long_prompt_env(lengths, context)
    else:
        with pytest.raises(PromptError, match=rf"exceed the context of {context}"):
            long_prompt_env(lengths, context)
        env = long_prompt_env(lengths, context, on_long_prompt="truncate")
    env.reset(seed=0)
    for i in range(len(lengths)):
        observation, info = env.reset(options={"episode_index": i})
        kept = int(observation["length"][0, 0])
        assert kept <= room
        assert kept + env.max_tokens <= context
        dropped = int(info.get("prompt_tokens_dropped", [0])[0])
        assert dropped in {max(0, m - room) for m in lengths}
    assert sorted(env.batch.table.dropped.tolist()) == sorted(max(0, n - room) for n in lengths)


def test_truncation_keeps_the_right_end_and_counts() -> None:
    env = TextVectorEnv(
        ["abab", "b"], AB, len, 2, max_prompt_tokens=3, on_long_prompt="truncate", shuffle=False
    )
    env.reset(seed=0)
    observation, info = env.reset(options={"episode_index": 0})
    assert observation["tokens"][0, :3].tolist() == [1, 0, 1]
    assert info["prompt_tokens_dropped"].tolist() == [1]
    assert info["prompt"].tolist() == ["abab"]
    assert "prompt_tokens_dropped" not in env.reset(options={"episode_index": 1})[1]
    with pytest.raises(PromptError, match=r"prompt 0 \('abab'\) has 4 tokens, max_prompt_tokens is 3"):
        TextVectorEnv(["abab", "b"], AB, len, 2, max_prompt_tokens=3)
    with pytest.raises(ConfigError, match="no room for a prompt"):
        TextVectorEnv(["abab"], AB, len, 9, context=9, on_long_prompt="truncate")


def test_an_empty_prompt_is_bos_or_refused() -> None:
    env = TextVectorEnv([""], ByteTokenizer(), len, 2)
    observation, _ = env.reset(seed=0)
    assert observation["tokens"][0].tolist() == [257, 257, 257]
    assert observation["length"].tolist() == [[1]]
    with pytest.raises(PromptError, match=r"prompt 1 .* no BOS"):
        TextVectorEnv(["a", ""], AB, len, 2)


@pytest.mark.parametrize(
    ("eos", "pad", "completion"), [((), 3, "abccb"), ((2,), 3, "ab"), ((2,), 2, "ab"), ((1, 2), 0, "a")]
)
def test_eos_and_padding_ids_of_any_kind(eos: tuple[int, ...], pad: int, completion: str) -> None:
    """No EOS, several, padding that equals EOS or a word: lengths decide."""

    class Odd(WordTokenizer):
        def decode(self, ids: Any) -> str:
            return "".join("abcd"[i] for i in ids)  # leaves no id out

    tokenizer = Odd("abcd", separator="")
    tokenizer.eos_ids, tokenizer.pad_id = eos, pad
    env = TextVectorEnv(["ab"], tokenizer, len, 5)
    env.reset(seed=0)
    steps = 0
    for token in (0, 1, 2, 2, 1):
        observation, _, terminated, truncated, info = env.step([token])
        steps += 1
        if terminated or truncated:
            break
    assert info["completion"][0] == completion
    assert (bool(terminated[0]), bool(truncated[0])) == (True, False)
    assert env.episodes(np.array([0]))[0].finish_reason == ("eos" if eos else "length")
    assert observation["length"][0, 0] == 2 + steps
    assert observation["attention_mask"][0].sum() == 2 + steps
    assert env.episodes(np.array([0]))[0].completion_ids.tolist() == [0, 1, 2, 2, 1][:steps]


def test_episodes_own_their_ids() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2)
    env.reset(seed=0)
    env.step([0, 1])
    first, second = env.episodes(np.array([0, 1]))
    env.step([1, 1])
    env.reset(seed=9)
    assert first.completion_ids.tolist() == [0]
    assert second.completion_ids.tolist() == [1]
    assert (first.seed, second.seed, first.index) == (0, 1, 0)
    assert not first.done


# Rows that wait


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_rows_that_wait_are_as_if_the_step_had_not_been(mode: AutoresetMode, data: st.DataObject) -> None:
    """Each row is a single environment that is stepped only when it is its turn."""
    world = {**SMALL, "reward": PerToken(causal=True)}
    env = TextVectorEnv(**world, num_envs=3, autoreset_mode=mode)
    alone = [TextVectorEnv(**world, num_envs=1, autoreset_mode=mode) for _ in range(3)]
    seed = data.draw(st.integers(0, 99))
    env.reset(seed=seed)
    last: list[tuple[Any, ...]] = [one.reset(seed=seed + row) for row, one in enumerate(alone)]
    draw = random_actions(env, seed)
    over = np.zeros(3, dtype=np.bool_)
    for _ in range(25):
        active = np.array(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))
        if mode is AutoresetMode.DISABLED:
            active &= ~over
        actions = draw()
        actions[~active] = -7  # whatever their id
        observation, rewards, terminated, truncated, info = env.step(actions, active=active)
        for row in range(3):
            if active[row]:
                last[row] = alone[row].step(actions[row : row + 1])
                assert rewards[row] == last[row][1][0]
                over[row] = terminated[row]
                assert (terminated[row], truncated[row]) == (last[row][2][0], last[row][3][0])
            else:
                assert rewards[row] == 0.0
                assert terminated[row] == (over[row] and mode is not AutoresetMode.SAME_STEP)
            for key, values in observation.items():
                assert np.array_equal(values[row], last[row][0][key][0])
        assert np.array_equal(info.get("inactive", np.zeros(3, dtype=np.bool_)), ~active)
        if over.all() and mode is AutoresetMode.DISABLED:
            env.reset()
            last = [one.reset() for one in alone]
            over[:] = False


def test_nobody_waits_if_all_are_active() -> None:
    one, two = (TextVectorEnv(**SMALL, num_envs=3) for _ in range(2))
    one.reset(seed=0)
    two.reset(seed=0)
    draw = random_actions(one, 0)
    for _ in range(20):
        actions = draw()
        assert data_equivalence(
            one.step(actions), two.step(actions, active=np.ones(3, dtype=np.bool_)), exact=True
        )


def test_a_row_that_is_over_may_wait_and_may_not_go_on() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    *_, terminated, _, _ = env.step([2, 0])
    assert terminated.tolist() == [True, False]
    *_, terminated, _, info = env.step([0, 0], active=~terminated)
    assert terminated.tolist() == [True, False]
    assert info["inactive"].tolist() == info["_inactive"].tolist() == [True, False]
    with pytest.raises(EpisodeError, match=r"rows \[0\] are over"):
        env.step([0, 0])


@pytest.mark.parametrize("active", [np.ones(3, dtype=np.bool_), np.ones(2), [True, True], 1])
def test_a_mask_of_another_form_is_refused(active: Any) -> None:
    env = TextVectorEnv(**SMALL, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"active must be a bool array of shape \(2,\)"):
        env.step([0, 0], active=active)


def test_nobody_may_step_before_the_first_reset_not_even_a_row_that_waits() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2)
    with pytest.raises(EpisodeError, match="before reset"):
        env.step([0, 0], active=np.zeros(2, dtype=np.bool_))


def test_a_token_of_a_row_that_waits_is_not_looked_at() -> None:
    env = TextVectorEnv(**SMALL, num_envs=2, mask=AllowedTokens(texts=["a"]))
    env.reset(seed=0)
    env.step([0, 1], active=np.array([True, False]))  # b is forbidden
    with pytest.raises(TokenError, match="row 1 is masked"):
        env.step([0, 1])
