from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_gym import Episode, TextVectorEnv, load_task, read_transcripts, write_transcripts
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
