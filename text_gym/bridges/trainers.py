"""The rewards of a task as TRL, verl and OpenRLHF call them, for the projects that `text-gym export` writes.

They train, and draw texts with tokenizers of their own: a text comes back as a string, with the id of its
prompt, and is scored as the task scores it. Tasks that are conversations are not for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, RewardError, UnknownNameError, excerpt
from text_gym.rewards.values import Rewards
from text_gym.tasks.task import Task, load_task
from text_gym.tokenizer import ByteTokenizer

# What trainers leave at the end of a text when they decode it with its special tokens.
END_MARKS = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<end_of_turn>", "<eos>", "</s>")
_BYTES = ByteTokenizer()


class ExportedReward:
    """The reward of a task, asked about texts by the ids of their prompts.

    What a text is worth is its total, per-token rewards included. Only TRL knows abstentions: for the others
    a text on which the reward abstains is worth 0.

    Args:
        task: A task of single turns.

    Raises:
        ConfigError: The task is a conversation, has no reward, or two of its prompts have the same id.

    >>> reward = ExportedReward(load_task("reverse"))
    >>> prompt = reward.task.prompts[0]
    >>> reward.verl("reverse", prompt.text, prompt.id) <= 1
    True
    """

    def __init__(self, task: Task) -> None:
        if task.respondent is not None:
            raise ConfigError(
                f"task {task.name!r} is a conversation: whoever scores finished texts cannot reply; "
                "TRL's environment_factory, or an OpenEnv server (text-gym serve), can"
            )
        if not task.has_gold:
            raise ConfigError(f"task {task.name!r} has no reward of its own to export")
        self.task = task
        self.prompts: dict[str, Prompt] = {}
        for prompt in (*task.prompts, *task.held_out):
            if self.prompts.setdefault(prompt.id, prompt) != prompt:
                raise ConfigError(f"task {task.name!r}: two prompts have the id {excerpt(prompt.id)}")
        self.__name__ = task.reward.name  # trainers log under it

    @classmethod
    def of(cls, name: str) -> ExportedReward:
        """Make the reward of a task by name.

        Raises:
            UnknownNameError: There is no such task here; the package that has it may not be installed.
        """
        return cls(load_task(name))

    def score(self, ids: Sequence[str], texts: Sequence[str]) -> Rewards:
        """Return the rewards of `B` texts, each after the prompt with its id.

        Raises:
            RewardError: There is no such prompt: the data set is from another version of the task.
        """
        missing = [i for i in ids if i not in self.prompts]
        if missing:
            raise RewardError(
                f"task {self.task.name!r} has no prompt with the id {excerpt(missing[0])}; export it again"
            )
        found = [self._episode(self.prompts[i], text) for i, text in zip(ids, texts, strict=True)]
        return self.task.reward(found)

    def _episode(self, prompt: Prompt, text: str) -> Episode:
        """Make an episode in the task's tokens, or in bytes where they cannot spell the text."""
        try:
            episode = Episode.of(prompt, text, self.task.tokenizer)
            if self.task.tokenizer.decode(episode.completion_ids.tolist()) == text:
                return episode
        except (ValueError, UnknownNameError):
            pass
        return Episode.of(prompt, text, _BYTES)

    def trl(
        self, prompts: Sequence[Any], completions: Sequence[Any], prompt_id: Sequence[str], **_: Any
    ) -> list[float | None]:
        """Score for TRL: one of the `reward_funcs` of `GRPOTrainer`; the data set has the column `prompt_id`.

        Returns:
            `B` numbers; None where the reward abstains.
        """
        texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
        rewards = self.score(prompt_id, texts)
        pairs = zip(rewards.totals.tolist(), rewards.abstained.tolist(), strict=True)
        return [None if abstained else total for total, abstained in pairs]

    def verl(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: str,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> float:
        """Score for verl, as `custom_reward_function`; `ground_truth` is the id of the prompt."""
        return float(self.score([ground_truth], [without_end_mark(solution_str)]).totals[0])

    def openrlhf(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **_: Any
    ) -> dict[str, Any]:
        """Score for OpenRLHF, as the `reward_func` of its `remote_rm_url`; labels are the prompts' ids.

        Returns:
            `rewards` and `scores`, `(B,)` float32, and the terms of the reward, by name, as `extra_logs`; the
            project that is exported makes tensors of them.

        Raises:
            RewardError: A query does not begin with its prompt.
        """
        texts = []
        for query, prompt in zip(queries, prompts, strict=True):
            if not query.startswith(prompt):
                raise RewardError(f"OpenRLHF's query {excerpt(query)} does not begin with its prompt")
            texts.append(without_end_mark(query.removeprefix(prompt)))
        rewards = self.score(labels, texts)

        total = np.nan_to_num(rewards.totals).astype(np.float32)
        logs = {name: np.nan_to_num(term).astype(np.float32) for name, term in rewards.terms.items()}
        return {"rewards": total, "scores": total, "extra_logs": logs}

    def rows(self, to: str, held_out: bool) -> list[dict[str, Any]]:
        """Return the rows of the data set that a trainer reads, for learning or for evaluation.

        Args:
            to: trl, verl or openrlhf.
            held_out: Those to evaluate on.
        """
        prompts = self.task.held_out if held_out else self.task.prompts
        return [
            _row(to, self.task.name, "test" if held_out else "train", i, p) for i, p in enumerate(prompts)
        ]


def without_end_mark(text: str) -> str:
    """Remove the mark of the end that a tokenizer's special tokens leave on a decoded text.

    >>> without_end_mark("fine<|im_end|>"), without_end_mark("fine")
    ('fine', 'fine')
    """
    mark = next((mark for mark in END_MARKS if text.endswith(mark)), "")
    return text.removesuffix(mark)


def _row(to: str, task: str, split: str, index: int, prompt: Prompt) -> dict[str, Any]:
    chat = [dict(message) for message in prompt.messages] or [{"role": "user", "content": prompt.text}]
    if to == "trl":
        return {"prompt": chat if prompt.messages else prompt.text, "prompt_id": prompt.id}
    if to == "openrlhf":
        return {"input": chat, "label": prompt.id}
    return {
        "data_source": task,
        "prompt": chat,
        "ability": "writing",
        "reward_model": {"style": "rule", "ground_truth": prompt.id},
        "extra_info": {"split": split, "index": index},
    }
