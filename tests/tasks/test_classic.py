from __future__ import annotations

import pickle

import pytest

from text_gym import ByteTokenizer, Episode, TextVectorEnv, load_task
from text_gym.errors import RewardError
from text_gym.tasks.classic import AnswerReward, choose_inputs
from text_gym.tasks.task import ENV_IDS, TASKS

CLASSIC = ["sort", "slots", "reverse", "copy", "count", "brackets", "add"]


def test_the_answer_is_read_by_the_tokenizer_of_the_episode() -> None:
    episode = Episode.of("ab", "xé", ByteTokenizer(), answer="xè")  # é and è differ in the last of two bytes
    rewards = AnswerReward()([episode])
    assert rewards.per_token is not None
    assert rewards.per_token[0].tolist() == [0.25, 0.25, 0, 0.25]


def test_one_reward_pays_the_tokens_of_several_environments() -> None:
    """Training and judging share a reward, each with prompts of its own."""
    task = load_task("copy", length=2, symbols="ab")
    prompts = [[p] for p in task.prompts if p.text in ("aa", "ba")]
    envs = [TextVectorEnv(p, task.tokenizer, task.reward, 3) for p in prompts]
    for env in envs:
        env.reset(seed=0)
    paid = [[float(env.step([0])[1][0]) for env in envs] for _ in range(2)]  # "a", and "a" again
    assert paid == [pytest.approx([1 / 3, 0]), pytest.approx([1 / 3, 1 / 3])]


def test_an_empty_completion_earns_nothing() -> None:
    task = load_task("copy")
    ids = Episode.of(task.prompts[0], "", task.tokenizer).completion_ids[:0]
    empty = Episode(task.prompts[0], ids, ids, task.tokenizer)
    assert task.reward([empty]).totals.tolist() == [0]


def test_a_prompt_without_answer_is_named() -> None:
    with pytest.raises(RewardError, match="'Hello' has no text in its column 'answer'"):
        AnswerReward()([Episode.of("Hello", "a", ByteTokenizer())])


def test_choose_inputs_takes_all_or_a_sample() -> None:
    assert choose_inputs(["x", "y"], lambda rng: "z", seed=0) == ["x", "y"]
    every = [str(i) for i in range(5000)]
    sample = choose_inputs(every, lambda rng: rng.choice(every), seed=0)
    assert len(sample) == len(set(sample)) == 4096
    assert max(map(int, sample)) > 4500  # drawn from everywhere, not the first ones


@pytest.mark.parametrize("name", CLASSIC)
def test_a_task_pickles_and_comes_out_the_same_twice(name: str) -> None:
    first, second = load_task(name), load_task(name)
    assert first.prompts == second.prompts
    assert first.held_out == second.held_out
    assert pickle.loads(pickle.dumps(first)).prompts == first.prompts
    assert first.optimum == 1
    assert first.random_return is not None
    assert 0 < first.random_return < 0.2
    assert first.tokenizer.vocab_size == first.tokenizer.eos_ids[0] + 1  # no id that is never right


def test_every_gymnasium_id_has_a_task() -> None:
    assert {kwargs["task"] for kwargs in ENV_IDS.values()} <= set(TASKS)
    assert {kwargs["task"] for kwargs in ENV_IDS.values()} >= set(CLASSIC)
    assert ENV_IDS["text_gym/SparseReverse-v0"] == {"task": "reverse", "sparse": True}
