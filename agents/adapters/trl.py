"""Plays a text environment for TRL's GRPOTrainer: as its `rollout_func`, or as its `environment_factory`.

TRL keeps its loss and its loop. With `rollout_func` episodes are played here, with a KV cache, masks, stop
strings and the environment's own reward; with `environment_factory` TRL plays them, and a model speaks by
calling a tool. A reward alone needs none of this: `as_trl_reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.bridges.session import TaskSession
from text_gym.encoding import as_tokenizer
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import IntArray
from text_gym.errors import ConfigError, MissingLibraryError, PromptError, excerpt
from text_gym.tasks.task import Task, as_task

PAID, TERMS = "environment_reward", "environment_terms"  # fields that TRL hands on to its reward functions


class TRLEnvironment:
    """A text environment as TRL's GRPOTrainer takes it: give it `dataset()`, `rollout_func` and `reward`.

    Further reward functions get the prompts' columns, as ever. Noise is a function of the trainer's seed,
    step and row; `temperature`, `top_k` and `top_p` are the trainer's. An episode that nobody judged, or that
    was cut under `limit="truncate"`, has the reward None, which TRL leaves out of its group. Masks decide
    what is played; TRL's loss knows nothing of them. Sharded models (ZeRO-3, FSDP) and vLLM are not played.

    Args:
        env: A `TextVectorEnv`, as `gymnasium.make_vec` makes it; its number of rows does not matter.

    Raises:
        ConfigError: An environment of another kind, or a wrapper around one.
        PromptError: Two prompts have one text and different columns; TRL hands on the text alone.
    """

    def __init__(self, env: Any) -> None:
        if not isinstance(env, TextVectorEnv):
            raise ConfigError(
                f"TRL plays TextVectorEnv, not a {type(env).__name__}; take gymnasium.make_vec(id) as it is"
            )
        self.env = env
        self.index: dict[str, int] = {}  # of each prompt's text
        for i, prompt in enumerate(env.prompts):
            if env.prompts[self.index.setdefault(prompt.text, i)].columns != prompt.columns:
                raise PromptError(
                    f"the prompt {excerpt(prompt.text)} stands twice with different columns, and TRL hands "
                    "on the text alone; make the texts differ"
                )
        self.reward = EnvironmentReward(env.reward.name)
        self._asked = (-1, 0)  # the trainer's step, and how often it has asked in it
        self._policy: Policy | None = None

    def dataset(self) -> Any:
        """Return the prompts with their columns as a `datasets.Dataset`, each text once."""
        try:
            import datasets
        except ImportError as error:
            raise MissingLibraryError("TRLEnvironment.dataset", "datasets", "text-gym[trl]") from error
        prompts = [self.env.prompts[i] for i in self.index.values()]
        return datasets.Dataset.from_list([{**p.columns, "prompt": p.text} for p in prompts])

    def rollout_func(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """Play an episode for each prompt with the trainer's model, as TRL's `rollout_func`.

        Args:
            prompts: `B` texts of the data set, each as often as its group has members.
            trainer: The `GRPOTrainer`.

        Returns:
            `prompt_ids`, `completion_ids` and `logprobs` (nats, of the distribution drawn from), `B` lists
            each; and what the environment paid, for `reward`.

        Raises:
            PromptError: A prompt is none of the environment's.
            ConfigError: The trainer's tokenizer is not the environment's, or the context is too short.
            RewardError: The reward source failed.
        """
        unknown = [p for p in prompts if not isinstance(p, str) or p not in self.index]
        if unknown:
            raise PromptError(f"{excerpt(repr(unknown[0]))} is no prompt of the environment; use dataset()")
        env, args = self.env, trainer.args
        # Prompts by number and not by seed: each row begins with the one that TRL wants there.
        options = replace(env.batch.options, shuffle=False, group_size=1)
        batch = EpisodeBatch(env.prompts, env.tokenizer, env.reward, env.max_tokens, len(prompts), options)
        numbers = self._fresh_numbers(np.array([self.index[p] for p in prompts]), trainer)
        sampling = Sampling(args.temperature, max(0, args.top_k or 0), args.top_p)
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's layers stay
        training, padding = model.training, model.config.pad_token_id
        try:  # a `Policy` plays without dropout, and without a padding id, of which models would warn
            policy = self._policy_of(model.eval(), trainer.processing_class)
            model.config.pad_token_id = None
            return _as_trl(rollout(policy, batch, numbers, seed=args.seed, sampling=sampling))
        finally:
            model.train(training)
            model.config.pad_token_id = padding

    def _fresh_numbers(self, index: IntArray, trainer: Any) -> IntArray:
        """Return numbers `(B,)` of episodes with these prompts that were not played before."""
        step, times = int(trainer.state.global_step), self._asked[1]
        self._asked = step, times + 1 if self._asked[0] == step else 0
        processes = trainer.accelerator
        block = (step * 1024 + self._asked[1]) * processes.num_processes + processes.process_index
        fresh: IntArray = block * len(index) + np.arange(len(index))
        return index + len(self.env.prompts) * fresh

    def _policy_of(self, model: Any, tokenizer: Any) -> Policy:
        if self._policy is None or self._policy.model is not model:
            if as_tokenizer(tokenizer).fingerprint != self.env.tokenizer.fingerprint:
                raise ConfigError(
                    "the trainer's processing_class has other tokens than the environment; make the "
                    "environment with the tokenizer of the model's folder"
                )
            self._policy = Policy(model, self.env.tokenizer, str(next(model.parameters()).device))
        return self._policy


class EnvironmentReward:
    """One of TRL's `reward_funcs`: what the environment paid for the episodes of `rollout_func`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name  # TRL logs under it

    def __call__(self, log_metric: Any = None, **fields: Any) -> list[float | None]:
        """Return `B` rewards; None where nobody judged. The terms' means are logged as `name/term`."""
        if PAID not in fields:
            raise ConfigError("the environment has played nothing: give the trainer its rollout_func too")
        terms: list[dict[str, float]] = fields.get(TERMS, [])
        for name in terms[0] if terms and log_metric is not None else ():
            log_metric(f"{self.__name__}/{name}", float(np.nanmean([row[name] for row in terms])))
        return list(fields[PAID])


def _as_trl(played: Rollout) -> dict[str, list[Any]]:
    """Return a rollout in the fields of TRL."""
    scores, judged = played.scores, ~(played.scores.abstained | played.truncated.cpu().numpy())
    terms = {k: np.asarray(v, dtype=np.float64).tolist() for k, v in scores.terms.items()}
    log_probs = played.log_probs.to(torch.float64).tolist()
    return {
        "prompt_ids": [[int(i) for i in e.prompt_ids] for e in played.episodes],
        "completion_ids": [e.completion_ids.tolist() for e in played.episodes],
        **_own_tokens(played, [p[:n] for p, n in zip(log_probs, played.lengths.tolist(), strict=True)]),
        PAID: [float(t) if ok else None for t, ok in zip(scores.totals, judged, strict=True)],
        TERMS: [{k: v[i] for k, v in terms.items()} for i in range(len(judged))],
    }


def _own_tokens(played: Rollout, log_probs: list[list[float]]) -> dict[str, list[Any]]:
    """Return log-probabilities of all completion tokens, 0 of replies, which `env_mask` has 0 for."""
    if played.columns is None:
        return {"logprobs": log_probs}
    masks = [e.agent_mask if e.agent_mask is not None else np.ones(0, np.bool_) for e in played.episodes]
    spread = [np.zeros(len(mask)) for mask in masks]
    for row, mask, own in zip(spread, masks, log_probs, strict=True):
        row[mask] = own
    return {"logprobs": [row.tolist() for row in spread], "env_mask": [m.astype(int).tolist() for m in masks]}


def environment_factory(task: Task | str, held_out: bool = False) -> type[Any]:
    """Return a class for TRL's `environment_factory`: a chat model plays the task by calling the tool `say`.

    `reset` takes a row of the data set; its column `seed`, if there is one, chooses the episode, so that the
    members of a group, which share a row, begin alike. What it returns, the prompt, TRL writes behind the
    row's last message. The reward is TRL's `get_reward`, and needs no `reward_funcs`: what the task paid for
    the episode. In an episode that the model leaves, all further turns are empty. A message that holds no
    string of the task's `turn_stop` ends the episode: where there are any but blanks, which are put back, the
    row's message has to ask for them.

    Args:
        task: Single turn or conversation, or its name.
        held_out: Play the held-out prompts.

    >>> env = environment_factory("guess")()
    >>> env.reset(seed=0)
    '?'
    >>> env.say("4") in "<=>"
    True
    """
    task = as_task(task)

    class TextGymEnvironment:
        def __init__(self) -> None:
            self._session, self._paid = TaskSession(task, held_out), 0.0

        def reset(self, **row: Any) -> str:
            seed = row.get("seed")
            if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
                raise ConfigError(f"the column 'seed' is a whole number, not {excerpt(str(seed))}")
            self._paid = 0.0
            return self._session.reset(seed).text

        def say(self, text: str) -> str:
            """Say something to the environment, which answers.

            Args:
                text: What is said.

            Returns:
                The environment's answer.
            """
            answer = self._session.say(text)
            self._paid += answer.reward
            return answer.text

        def get_reward(self) -> float:
            self._paid += self._session.leave()
            return self._paid

    TextGymEnvironment.__name__ = TextGymEnvironment.__qualname__ = task.name  # TRL logs under it
    return TextGymEnvironment
