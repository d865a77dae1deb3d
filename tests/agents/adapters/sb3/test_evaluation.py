from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.sb3_world import TOKENIZER
from text_gym import FunctionReward, Prompt, Task
from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3


def test_each_prompt_is_judged_by_the_first_text_of_its_row() -> None:
    """Rows that are done play on until the last one is, and end again."""
    a, b, (end,) = TOKENIZER.encode("a")[0], TOKENIZER.encode("b")[0], TOKENIZER.eos_ids
    columns = iter([[a, b], [end, b], [b, b], [b, b], [end, b], [b, end]])

    def predict(observation: Any, **_: Any) -> tuple[Any, None]:
        return np.array(next(columns)), None

    model: Any = SimpleNamespace(policy=None, predict=predict)
    prompts = [Prompt("a"), Prompt("bcd")]
    reward = FunctionReward(lambda completion: completion.count("b"))
    report = evaluate_sb3(model, Task("letters", [], prompts, TOKENIZER, reward, max_tokens=8))
    assert [e.prompt for e in report.episodes] == prompts
    assert [e.completion for e in report.episodes] == ["a", "bbbbb"]
    assert report.rewards.tolist() == [0.0, 5.0]
    assert report.length == (2 + 6) / 2
    assert report.terminated == 1.0
