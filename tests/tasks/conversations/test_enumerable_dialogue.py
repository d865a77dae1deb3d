"""The enumerable dialogue, against the environment: what is listed is what can be played."""

from __future__ import annotations

import numpy as np
import pytest

from text_gym import EpisodeBatch, load_task
from text_gym.envs.options import sort_options
from text_gym.errors import ConfigError
from text_gym.tasks.conversations.enumerable_dialogue import dialogue_returns, dialogues, enumerable_dialogue


@pytest.mark.parametrize("seed", range(3))
def test_every_conversation_that_is_listed_is_played_so(seed: int) -> None:
    task = load_task("enumerable-dialogue", seed=seed)
    listed = dialogues(task)
    _, options, _ = sort_options(task, {})
    batch = EpisodeBatch(task.prompts, task.tokenizer, task.reward, task.max_tokens, len(listed), options)
    rows = np.arange(len(listed))
    batch.begin(rows, np.zeros_like(rows), rows)
    paid = np.zeros(len(listed))
    for step in range(task.max_tokens):
        going = np.array([i for i, e in enumerate(listed) if step < len(e.agent_ids)])
        assert not batch.done[going].any()
        ended = batch.advance(going, np.array([listed[i].agent_ids[step] for i in going]))
        assert ended.tolist() == [step == len(listed[i].agent_ids) - 1 for i in going]
        assert batch.conversation is not None
        paid[going] += batch.conversation.rewards[going]
    episodes, scores = batch.score(rows)
    for mine, theirs in zip(listed, episodes, strict=True):
        assert theirs.agent_mask is not None
        assert mine.agent_mask is not None
        assert mine.completion_ids.tolist() == theirs.completion_ids.tolist()
        assert mine.agent_mask.tolist() == theirs.agent_mask.tolist()
        assert mine.finish_reason == theirs.finish_reason
        assert [(t.role, t.text, t.reward) for t in mine.turns] == [
            (t.role, t.text, t.reward) for t in theirs.turns
        ]
    returns = dialogue_returns(task, listed)
    np.testing.assert_allclose(scores.totals, returns, rtol=0, atol=1e-15)
    np.testing.assert_allclose(paid, returns - scores.values, rtol=0, atol=1e-15)
    assert {e.finish_reason for e in listed} == {"eos", "length", "reply"}
    assert len({tuple(e.completion_ids.tolist()) for e in listed}) == len(listed)
    shares = np.array([4.0 ** -len(e.agent_ids) for e in listed])
    assert shares.sum() == 1.0  # of the uniform policy: nothing that can be written is missing
    assert (task.optimum, task.random_return) == (returns.max(), returns @ shares)


def test_its_size_is_limited() -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        enumerable_dialogue(max_tokens=7)
