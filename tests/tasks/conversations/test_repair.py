from __future__ import annotations

import json
import string

import pytest

from text_gym import Prompt, Task, WordTokenizer
from text_gym.errors import ConfigError
from text_gym.tasks.conversations.repair import _random_return, is_with_one_more, mends, parser_error, repair

from .walking import check_conversation, play, random_return


def test_a_conversation_by_hand() -> None:
    task = repair()
    prompt = task.prompts[0]
    assert prompt.columns == {"broken": '{l":7,"j":5}', "whole": '{"l":7,"j":5}'}
    episode = play(task, prompt, ['{l":7,"j":5}\n', "[1]\n", '{"l":7,"j":5}\n'])
    assert [turn.text for turn in episode.turns[1::2]] == [
        "Expecting property name enclosed in double quotes: column 2\n",
        "another document\n",
        "ok",
    ]
    once = play(task, prompt, ['{"l":7,"j":5}\n'])
    never = play(task, prompt, ["\n"] * 3)
    no_line = play(task, prompt, ['{"l":7,"j":5}'], end=True)
    assert [e.finish_reason for e in (episode, once, never)] == ["reply"] * 3
    assert task.reward([episode, once, never, no_line]).totals.tolist() == [0.25, 1, 0, 0]


def test_every_document_can_be_mended_and_only_by_a_sign() -> None:
    task = repair(n_train=30, n_held_out=5)
    for prompt in task.prompts:
        broken = prompt.columns["broken"]
        places = range(len(broken) + 1)
        texts = {broken[:i] + c + broken[i:] for i in places for c in string.printable[:95]}
        right = set()
        for text in texts:
            try:
                json.loads(text)
            except ValueError:
                continue
            right.add(text)
        assert prompt.columns["whole"] in right
        assert right == mends(broken)
        assert all(is_with_one_more(broken, text) for text in right)


def test_one_more_character() -> None:
    assert is_with_one_more("abc", "abcd")
    assert is_with_one_more("abc", "aabc")
    assert is_with_one_more("", "a")
    assert not is_with_one_more("abc", "abc")
    assert not is_with_one_more("abc", "abdd")
    assert not is_with_one_more("abc", "abcde")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 100_000 + "]", "NaN", "[Infinity]", "", "\ud800"])
def test_hostile_attempts_have_a_short_error(text: str) -> None:
    assert 0 < len(parser_error(text)) < 80


def test_the_random_return_is_that_of_all_tokens() -> None:
    """In a world of two signs the one right attempt is `[]`."""
    whole = repair(attempts=2)
    tokenizer = WordTokenizer("[]\n", separator="", pad=False)
    task = Task("tiny", [Prompt("[", {"broken": "["})], [], tokenizer, whole.reward, 5,
                respondent=whole.respondent, turn_stop="\n", max_turns=2)  # fmt: skip
    assert random_return(task) == pytest.approx(_random_return(task.prompts, 2, 5, 4), rel=1e-12)


def test_corpus_random_conversations_and_bad_parameters() -> None:
    task = repair(n_train=60, n_held_out=20)
    assert task.corpus is not None
    train, _ = task.corpus()
    assert 60 < len(train) < 120
    for prompt, text in train:
        task.tokenizer.encode(prompt.text + text)
    assert not {p.text for p in task.prompts} & {p.text for p in task.held_out}
    check_conversation(task)
    check_conversation(repair(4, n_train=20, n_held_out=1))
    with pytest.raises(ConfigError, match="size is 5"):
        repair(5)
