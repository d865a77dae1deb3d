from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from text_gym import Prompt, WordTokenizer
from text_gym.errors import ConfigError
from text_gym.tasks.conversations.shop import ATTRIBUTES, NUMBERS, _random_return, shop

from .walking import best_return, check_conversation, play, random_return


def test_a_conversation_by_hand() -> None:
    task = shop()
    prompt = task.prompts[1]
    colour, material, category = prompt.columns["items"][1]
    assert f"2 {colour} {material} {category}" in prompt.text
    right = play(task, prompt, ["colour", "red material", "2"])
    assert [turn.text for turn in right.turns[1::2]] == [colour, material, "thanks"]
    wrong = play(task, prompt, ["category", "3"])
    assert [turn.text for turn in wrong.turns[1::2]] == [category, "no"]
    curious = play(task, prompt, ["category"] * 4)
    assert curious.turns[-1].text == "bye"
    assert [e.finish_reason for e in (right, wrong, curious)] == ["reply"] * 3
    assert task.reward([right, wrong, curious]).totals == pytest.approx([0.8, 0, 0])


@pytest.mark.parametrize(("products", "cost"), [(2, 0.1), (3, 0.3), (3, 0.0)])
def test_the_optimum_is_that_of_the_best_of_all_plans(products: int, cost: float) -> None:
    task = shop(products, cost, n_train=3, n_held_out=1, seed=3)
    catalogues = [task.prompts[i : i + products] for i in range(0, 3 * products, products)]
    found = [best_return(task, prompts, [*ATTRIBUTES, *NUMBERS[:products]]) for prompts in catalogues]
    assert np.mean(found) == pytest.approx(task.optimum)


def test_the_random_return_is_that_of_all_tokens() -> None:
    """In a world of six words, with the task's own respondent and reward."""
    task = shop(2, n_train=1, n_held_out=1)
    tokenizer = WordTokenizer([*ATTRIBUTES, *NUMBERS[:2], "red"], pad=False)
    prompts = [replace(p, text="red") for p in task.prompts]
    small = replace(task, prompts=prompts, tokenizer=tokenizer, max_tokens=4)
    assert random_return(small) == pytest.approx(_random_return(2, 0.1, 4, 7), rel=1e-12)


def test_halves_are_apart_and_conversations_fit() -> None:
    task = shop(n_train=200, n_held_out=50)
    train, held_out = (
        {i for p in half for i in p.columns["items"]} for half in (task.prompts, task.held_out)
    )
    assert not train & held_out
    assert len(task.prompts) == 600
    assert {p.columns["wanted"] for p in task.prompts} == {0, 1, 2}
    check_conversation(shop(8, n_train=20, n_held_out=1))
    with pytest.raises(ConfigError, match=r"cost is 0\.5"):
        shop(cost=0.5)
    with pytest.raises(ConfigError, match="products is 9"):
        shop(9)


def test_the_corpus_is_of_clerks_of_whom_some_do_not_listen() -> None:
    """Played again, replies are those written, and the return is between chance and the best plan."""
    task = shop(n_train=200, n_held_out=1)
    assert task.corpus is not None
    train, _ = task.corpus()
    said: dict[str, list[tuple[Prompt, str]]] = {}
    for prompt, text in train:
        said.setdefault(prompt.id, []).append((prompt, text))
    assert len(said) == len(task.prompts)
    episodes = []
    for prompt in task.prompts:
        pairs = said[prompt.id]
        episode = play(task, prompt, [text for _, text in pairs])
        replies = [turn.text for turn in episode.turns[1:-1:2]]
        words = [word for (_, text), reply in zip(pairs, replies, strict=False) for word in (text, reply)]
        assert pairs[-1][0].text == " ".join([prompt.text, *words])
        episodes.append(episode)
    rewards = task.reward(episodes)
    assert 0.45 < rewards.totals.mean() < 0.65
    assert sorted(set(rewards.terms["turns"])) == [1, 2, 3]
