from __future__ import annotations

from dataclasses import replace

import pytest

from text_gym import Episode, Prompt, WordTokenizer
from text_gym.errors import ConfigError, RewardError, ToolError
from text_gym.tasks.conversations.calculator import _random_return, calculate_digits, calculator

from .walking import check_conversation, play, random_return


def test_a_conversation_by_hand() -> None:
    task = calculator(digits=2)
    prompt = task.prompts[0]
    a, b = prompt.columns["a"], prompt.columns["b"]
    problem, answer = " ".join(f"{a}*{b}"), " ".join(str(a * b))
    asked = play(task, prompt, [f"<calc> {problem} </calc>", answer], end=True)
    assert asked.turns[1].text == f"<result> {answer} </result>"
    assert asked.turns[1].role == "tool"
    known = play(task, prompt, [answer], end=True)
    wrong = play(task, prompt, [f"{answer} 0"], end=True)
    torn = play(task, prompt, [answer])
    failed = play(task, prompt, ["<calc> * </calc>", "= </calc>", answer], end=True)
    assert [turn.text for turn in failed.turns[1:4:2]] == ["<result> error </result>"] * 2
    only = play(task, prompt, ["<calc> 1 </calc>"] * 4)
    assert only.finish_reason == "length"
    rewards = task.reward([asked, known, wrong, torn, failed, only])
    assert rewards.totals.tolist() == [1, 1, 0, 0, 1, 0]
    assert rewards.terms["tool"].tolist() == [1, 0, 0, 0, 1, 1]
    assert rewards.terms["calls"].tolist() == [1, 0, 0, 0, 2, 4]


@pytest.mark.parametrize("wrong", ["", "1 +", "9 " * 13, "9 * * 9 9", "1 - 2"])
def test_what_has_no_result_of_digits_is_refused(wrong: str) -> None:
    with pytest.raises(ToolError):
        calculate_digits(wrong)


def test_the_random_return_is_that_of_all_tokens() -> None:
    """In a world of two digits, with the task's own respondent and reward."""
    tokenizer = WordTokenizer(["1", "2", "<calc>", "</calc>"], pad=False)
    prompts = [Prompt("1", {"answer": "2"}), Prompt("2", {"answer": "1 2"})]
    task = replace(calculator(1, 4, 1), prompts=prompts, tokenizer=tokenizer, max_tokens=5, max_turns=3)
    assert random_return(task) == pytest.approx(_random_return(prompts, 5, 3, 5), rel=1e-12)


def test_the_corpus_is_of_tool_calls_and_some_of_it_is_wrong() -> None:
    task = calculator(digits=2, n_train=400, n_held_out=50)
    assert task.corpus is not None
    train, held_out = task.corpus()
    assert len({p.id for p, _ in train}) == 400
    first = [text for p, text in train if p.text.endswith("=")]
    assert 0.6 < sum(text.startswith("<calc>") for text in first) / len(first) < 0.9
    right = sum(text == p.columns["answer"] for p, text in train if not text.startswith("<calc>"))
    assert 0.55 < right / 400 < 0.8
    for prompt, text in [*train, *held_out]:
        task.tokenizer.encode(prompt.text + " " + text)


def test_random_conversations_and_bad_parameters() -> None:
    check_conversation(calculator())
    with pytest.raises(ConfigError, match="digits is 6"):
        calculator(6)
    with pytest.raises(ConfigError, match="n_train is 100"):
        calculator(1, n_train=100, n_held_out=1)
    task = calculator(1, 4, 1)
    with pytest.raises(RewardError, match="'answer'"):
        task.reward([Episode.of("1", "1", task.tokenizer)])
