from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete, Text
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import WORLDS, random_actions
from text_gym import (
    ByteTokenizer,
    EpisodeBatch,
    EpisodeOptions,
    MinLength,
    TextEnv,
    TextVectorEnv,
    WordTokenizer,
)
from text_gym.envs.observations import TokenObserver, observe
from text_gym.errors import ConfigError

AB = WordTokenizer("ab", separator="")  # a 0, b 1, EOS 2, padding 3, and 4 for an empty place
KINDS = ("tokens", "ids", "onehot", "text")


def played(kind: str) -> TextVectorEnv:
    """Two rows: after "a" the token b, after "bab" EOS."""
    env = TextVectorEnv(["a", "bab"], AB, len, 2, num_envs=2, shuffle=False, observation=kind)
    env.reset(seed=0)
    env.reset(options={"episode_index": np.array([0, 1])})
    return env


def test_observation_by_hand() -> None:
    observation, *_ = played("tokens").step([1, 2])
    assert observation["tokens"].tolist() == [[0, 1, 3, 3, 3], [1, 0, 1, 2, 3]]
    assert observation["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert observation["length"].tolist() == [[2], [4]]


def test_ids_by_hand() -> None:
    env = played("ids")
    assert env.single_observation_space == MultiDiscrete([5] * 5)
    observation, *_ = env.step([1, 2])
    assert observation.tolist() == [[4, 4, 0, 1, 4], [1, 0, 1, 2, 4]]


def test_onehot_by_hand() -> None:
    env = played("onehot")
    assert env.single_observation_space == Box(0, 1, (20,), np.float32)
    observation, *_ = env.step([1, 2])
    assert observation.dtype == np.float32
    a, b, eos, nothing = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]
    first, second = [nothing, nothing, a, b, nothing], [b, a, b, eos, nothing]
    assert observation.reshape(2, 5, 4).tolist() == [first, second]


def test_text_by_hand() -> None:
    observation, *_ = played("text").step([1, 2])
    assert observation == ("ab", "bab")


@pytest.mark.parametrize("world", ["plain", "bytes", "empty prompt", "pad is eos", "long prompts"])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ids_are_the_tokens_of_the_episode_and_tell_what_remains(world: str, seed: int) -> None:
    env = TextVectorEnv(**WORLDS[world], num_envs=3, observation="ids", autoreset_mode="Disabled")
    draw = random_actions(env, seed)
    room, empty = env.batch.max_prompt_tokens, env.tokenizer.vocab_size
    ids, _ = env.reset(seed=seed)
    done = np.zeros(3, dtype=np.bool_)
    for _ in range(15):
        for row, episode in zip(ids, env.episodes(np.arange(3)), strict=True):
            prompt, completion = row[:room].tolist(), row[room:].tolist()
            assert [i for i in prompt if i != empty] == episode.prompt_ids.tolist()
            assert prompt[room - len(episode.prompt_ids) :] == episode.prompt_ids.tolist()
            assert completion[: len(episode.completion_ids)] == episode.completion_ids.tolist()
            assert completion.count(empty) == env.max_tokens - len(episode.completion_ids)
        if done.any():
            ids, _ = env.reset(options={"reset_mask": done})
            done = np.zeros(3, dtype=np.bool_)
        else:
            ids, _, terminated, truncated, _ = env.step(draw())
            done = terminated | truncated


@pytest.mark.parametrize("infos", ["changing", "constant", "numbers", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_gymnasiums_checker_has_nothing_to_say(
    kind: str, infos: str, recwarn: pytest.WarningsRecorder
) -> None:
    made = gym.make("text_gym/Reverse-v0", observation=kind, infos=infos, disable_env_checker=True)
    check_env(made.unwrapped, skip_render_check=True)
    assert [str(w.message) for w in recwarn if w.category is not ResourceWarning] == []


@pytest.mark.parametrize("kind", KINDS)
def test_environments_of_every_kind_survive_copies_and_pickles(kind: str) -> None:
    env = gym.make("text_gym/Reverse-v0", observation=kind)
    env.reset(seed=1)
    env.step(np.int64(0))
    expected = repr(copy.deepcopy(env).step(np.int64(1))[0])
    assert repr(pickle.loads(pickle.dumps(env)).step(np.int64(1))[0]) == expected


def test_observations_are_views_of_the_batch_within_their_space() -> None:
    tokenizer = WordTokenizer("ab", separator="")
    batch = EpisodeBatch(["a", "bab"], tokenizer, len, 3, 2, EpisodeOptions(mask=MinLength(1)))
    space = TokenObserver(batch, copy=False).space
    views = observe(batch)
    rows = np.arange(2)
    batch.begin(rows, seeds=rows, episode_index=rows)
    for actions in ([0, 1], [1, 1], [0, 1]):
        batch.advance(rows, np.array(actions))
        shown = observe(batch)
        assert all(space.contains({k: v[i] for k, v in shown.items()}) for i in rows)
        for key in ("tokens", "attention_mask", "length", "remaining"):
            assert np.shares_memory(shown[key], views[key])
    assert shown["remaining"].tolist() == [[0], [0]]
    assert shown["action_mask"].all()


def test_too_large_a_onehot_is_refused_with_the_line_to_type() -> None:
    def make(length: int) -> Any:
        return TextEnv(["x" * length], ByteTokenizer(), len, 4, observation="onehot")

    make(250)  # 254 places of 258 numbers are 65,532
    with pytest.raises(ConfigError, match=r'65,790 numbers a row.*most is 65,536; write observation="ids"'):
        make(251)


@pytest.mark.parametrize("wrong", ["pixels", None, 3])
def test_another_kind_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="choose 'tokens', 'ids', 'onehot', 'text'"):
        gym.make("text_gym/Reverse-v0", observation=wrong)


def test_the_text_grows_and_is_always_within_its_space() -> None:
    env = TextEnv(["Say: "], ByteTokenizer(), lambda completion: 0.0, 4, observation="text")
    text, _ = env.reset(seed=0)
    assert text == "Say: "
    for token, wanted in zip("hé".encode(), ["Say: h", "Say: h\ufffd", "Say: hé"], strict=True):
        text, *_ = env.step(np.int64(token))
        assert text == wanted
    assert env.step(np.int64(256))[0] == "Say: hé"


@given(st.text(max_size=8), st.lists(st.integers(0, 257), min_size=1, max_size=12))
@settings(deadline=None)
def test_any_text_is_within_the_space(prompt: str, tokens: list[int]) -> None:
    env = TextEnv([prompt], ByteTokenizer(), lambda completion: 0.0, 12, observation="text")
    text, _ = env.reset(seed=0)
    assert text == prompt  # characters of prompts are always known
    for token in tokens:
        text, *_, done, _, _ = env.step(np.int64(token))
        assert text in env.observation_space
        if done:
            return


def test_characters_that_the_space_lacks_are_replaced_there_and_nowhere_else() -> None:
    env = TextEnv(["字"], ByteTokenizer(), lambda completion: 0.0, 12, observation="text")
    env.reset(seed=0)
    for token in "字🙂é".encode():
        text, *_ = env.step(np.int64(token))
    assert text == "字字\ufffdé"
    assert env.step(np.int64(256))[-1]["completion"] == "字🙂é"


def test_the_alphabet_has_the_same_order_in_every_process() -> None:
    space = TextEnv(["zß"], AB_SHARP, len, 2, observation="text").observation_space
    assert isinstance(space, Text)
    assert list(space.character_list) == sorted(space.character_list)
    assert {"z", "ß", "\ufffd", "Ω"} <= space.character_set
    assert space == Text(space.max_length, min_length=0, charset="".join(space.character_list))


AB_SHARP = WordTokenizer("zßΩ", separator="")
