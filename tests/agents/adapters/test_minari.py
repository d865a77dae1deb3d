from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_gym import (
    ByteTokenizer,
    Episode,
    Prompt,
    Reply,
    TextEnv,
    TextVectorEnv,
    load_task,
    read_transcripts,
    write_transcripts,
)
from text_gym.agents import SFT, Policy, evaluate, rollout
from text_gym.errors import ConfigError, DataError

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("jax")

from text_gym.agents.adapters.minari import episodes_of, minari_dataset  # noqa: E402

ABOUT: dict[str, Any] = {
    "algorithm_name": "random",
    "author": "a",
    "author_email": "a@b.c",
    "code_permalink": "https://d.e",
}
TASK = load_task("reverse")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def texts(episodes: list[Episode]) -> list[tuple[Any, ...]]:
    return [(e.prompt, e.completion_ids.tolist(), e.finish_reason) for e in episodes]


def played(count: int) -> tuple[list[Episode], np.ndarray[Any, Any]]:
    """Random episodes with their returns, as the environment pays them."""
    policy = Policy.new(TASK.tokenizer, width=16, layers=1, context=16)
    batch = rollout(policy, TextVectorEnv(task=TASK, num_envs=count), np.arange(count))
    return batch.episodes, batch.scores.totals


@pytest.mark.parametrize("observation", ["tokens", "ids"])
def test_episodes_come_back_from_a_data_set_with_their_returns(observation: str, tmp_path: Path) -> None:
    episodes, returns = played(12)
    env = gym.make("text_gym/Reverse-v0", observation=observation, infos="constant")
    made = minari_dataset(episodes, env, "text_gym/reverse/random-v0", record_infos=True, **ABOUT)
    loaded = minari.load_dataset("text_gym/reverse/random-v0")
    assert made.total_episodes == loaded.total_episodes == 12
    again, paid = episodes_of(loaded)
    assert texts(again) == texts(episodes)
    assert paid == pytest.approx(returns)
    assert loaded[0].infos["completion"][-1].decode() == episodes[0].completion
    write_transcripts(tmp_path / "texts.jsonl", again, paid.tolist())
    assert texts(list(read_transcripts(tmp_path / "texts.jsonl", TASK.tokenizer))) == texts(episodes)


def test_what_a_collector_recorded_is_read_alike() -> None:
    env = minari.DataCollector(gym.make("text_gym/Reverse-v0", infos="constant"), record_infos=True)
    expected = []
    for seed in range(5):
        _, info = env.reset(seed=seed)
        tokens, total, over = [], 0.0, False
        while not over:
            tokens.append(int(env.action_space.sample()))
            _, reward, terminated, truncated, _ = env.step(tokens[-1])
            total, over = total + float(reward), terminated or truncated
        expected.append((info["prompt"], tokens, total))
    env.create_dataset("text_gym/reverse/collected-v0", **ABOUT)
    episodes, returns = episodes_of(minari.load_dataset("text_gym/reverse/collected-v0"))
    found = [
        (e.prompt.text, e.completion_ids.tolist(), r) for e, r in zip(episodes, returns.tolist(), strict=True)
    ]
    assert found == expected


def test_an_offline_algorithm_learns_from_the_better_half() -> None:
    episodes, _ = played(512)
    env = gym.make("text_gym/Reverse-v0")
    minari_dataset(episodes, env, "text_gym/reverse/many-v0", **ABOUT)
    read, returns = episodes_of(minari.load_dataset("text_gym/reverse/many-v0"))
    best = [
        (e.prompt, e.completion) for e, r in zip(read, returns, strict=True) if r > np.quantile(returns, 0.8)
    ]
    policy = Policy.new(TASK.tokenizer, width=16, layers=1, context=16)
    before = evaluate(policy, TextVectorEnv(task=TASK, num_envs=64)).reward.mean
    SFT(policy, best).learn()
    assert evaluate(policy, TextVectorEnv(task=TASK, num_envs=64)).reward.mean > before + 0.05


def test_what_does_not_fit_is_named() -> None:
    episodes, _ = played(4)
    env = gym.make("text_gym/Reverse-v0")
    changing = gym.make("text_gym/Reverse-v0", infos="changing")
    with pytest.raises(ConfigError, match='infos="constant"'):
        minari_dataset(episodes, changing, "a-v0", record_infos=True, **ABOUT)
    with pytest.raises(ConfigError, match="not of text-gym"):
        minari_dataset(episodes, gym.make("CartPole-v1"), "a-v0", **ABOUT)
    with pytest.raises(DataError, match="is no prompt of the environment"):
        minari_dataset([Episode.of("aaaaaaaaa", "a", TASK.tokenizer)], env, "a-v0", **ABOUT)
    longest = max(episodes, key=lambda e: len(e.completion_ids))
    with pytest.raises(DataError, match="does not end where"):
        minari_dataset([longest], gym.make("text_gym/Reverse-v0", max_tokens=1), "a-v0", **ABOUT)
    minari_dataset(
        episodes, gym.make("text_gym/Reverse-v0", observation="onehot"), "text_gym/onehot-v0", **ABOUT
    )
    with pytest.raises(ConfigError, match='"tokens" or "ids"'):
        episodes_of(minari.load_dataset("text_gym/onehot-v0"))


# Conversations, and prompts that look alike


def guessed(env: Any, seed: int, *, digits: str) -> tuple[list[Any], float]:
    """Play the guesses in an environment of Guess; the turns that it had, and what it paid."""
    env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        for digit in digits:
            _, reward, terminated, truncated, _ = env.step(
                env.unwrapped.vector.batch.tokenizer.encode(digit)[0]
            )
            total, over = total + reward, terminated or truncated
            if over:
                break
    batch = env.unwrapped.vector.batch
    return [(t.role, t.text) for t in batch.episodes([0])[0].turns], total


def test_conversations_whose_prompts_look_alike_come_back_with_their_own_answers() -> None:
    env = minari.DataCollector(gym.make("text_gym/Guess-v0"))
    played = [guessed(env, seed, digits="426") for seed in range(12)]
    env.create_dataset("text_gym/guess/collected-v0", **ABOUT)
    episodes, returns = episodes_of(minari.load_dataset("text_gym/guess/collected-v0"))
    assert [
        ([(t.role, t.text) for t in e.turns], r) for e, r in zip(episodes, returns, strict=True)
    ] == played
    assert len({e.prompt.columns["number"] for e in episodes}) > 3
    assert load_task("guess").reward(episodes).totals.tolist() == returns.tolist()
    minari_dataset(episodes, gym.make("text_gym/Guess-v0"), "text_gym/guess/again-v0", **ABOUT)
    again, paid = episodes_of(minari.load_dataset("text_gym/guess/again-v0"))
    assert [e.turns for e in again] == [e.turns for e in episodes]
    assert paid.tolist() == returns.tolist()


class Always:
    """Answers with one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def respond(self, episodes: Any, generators: Any) -> list[Reply]:
        return [Reply(self.text) for _ in episodes]


class Draws:
    """Answers with a random digit."""

    def respond(self, episodes: Any, generators: Any) -> list[Reply]:
        return [Reply(str(generator.integers(10))) for generator in generators]


def test_a_conversation_that_would_go_otherwise_is_named() -> None:
    settings: dict[str, Any] = {"respondent": Draws(), "turn_stop": ".", "max_turns": 3, "max_context": 32}
    env = TextEnv(["?"], ByteTokenizer(), lambda completion: 0.0, 12, **settings)
    collector = minari.DataCollector(env)
    for seed in (1, 2):
        collector.reset(seed=seed)
        for _ in range(3):
            collector.step(ord("."))
    dataset = collector.create_dataset("draws-v0", **ABOUT)
    episodes, _ = episodes_of(dataset, env)
    with pytest.raises(DataError, match=r"answers otherwise than in .* its respondent draws"):
        minari_dataset(episodes[1:], env, "other-v0", **ABOUT)
    other = TextEnv(["?"], ByteTokenizer(), lambda completion: 0.0, 12, **settings | {"max_turns": 2})
    with pytest.raises(DataError, match="episode 0 goes on after its end"):
        episodes_of(dataset, other)
    silent = {**settings, "respondent": Always("x")}
    with pytest.raises(DataError, match="episode 0 is answered otherwise"):
        episodes_of(dataset, TextEnv(["?"], ByteTokenizer(), lambda completion: 0.0, 12, **silent))


def test_prompts_that_look_alike_are_told_apart_by_seeds_or_not_at_all() -> None:
    rows = [Prompt("a", {"answer": digit}) for digit in "0123"]
    env = TextEnv(rows, ByteTokenizer(), lambda completion, answer: completion == answer, 1)
    collector, expected = minari.DataCollector(env), []
    for seed in (*range(8), 2**63 + 5, *[None] * 8):  # for None Minari draws a seed of 64 bits
        collector.reset(seed=seed)
        expected.append(collector.step(ord("2"))[1])
    dataset = collector.create_dataset("alike-v0", **ABOUT)
    with pytest.raises(ConfigError, match=r"cannot make its environment again .* pass the env"):
        episodes_of(dataset)
    episodes, returns = episodes_of(dataset, env)
    assert returns.tolist() == expected
    assert set(expected) == {0.0, 1.0}
    assert [e.prompt.columns["answer"] == "2" for e in episodes] == returns.astype(bool).tolist()
    more = [Prompt("b"), *rows]
    other = TextEnv(more, ByteTokenizer(), lambda completion: 0.0, 1, shuffle=False)
    with pytest.raises(DataError, match="begins as 4 prompts of the environment do"):
        episodes_of(dataset, other)
