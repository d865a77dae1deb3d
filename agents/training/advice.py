"""Advice while a run learns: what looks wrong in its batches, said once, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.errors import excerpt

PATIENCE = 3  # iterations in a row that a sign of trouble must last


class Advisor:
    """Looks at every batch for signs that a run goes wrong, and explains each of them once.

    A sign must last for 3 iterations. What it says is advice: a task may well have one right answer.

    Attributes:
        lasted: Name of a sign -> iterations in a row that it was seen; more than 3 means it was explained.
    """

    def __init__(self) -> None:
        self.lasted: dict[str, int] = {}

    def look(self, batch: Rollout, metrics: Mapping[str, float], kl_coef: float) -> list[str]:
        """Return the advice after an iteration, usually none.

        Args:
            batch: What was played.
            metrics: Of the iteration.
            kl_coef: β, the KL coefficient.
        """
        advice = []
        for name, message in self._signs(batch, metrics, kl_coef):
            if self.lasted.get(name, 0) > PATIENCE:
                continue
            self.lasted[name] = self.lasted.get(name, 0) + 1 if message else 0
            if self.lasted[name] == PATIENCE:
                self.lasted[name] += 1
                advice.append(message)
        return advice

    def _signs(
        self, batch: Rollout, metrics: Mapping[str, float], kl_coef: float
    ) -> Iterable[tuple[str, str]]:
        yield "kl", _kl_blow_up(metrics, kl_coef)
        yield "collapse", _collapse(batch)
        yield "rewards", _equal_rewards(batch)
        yield "eos", _never_ends(batch)


def _kl_blow_up(metrics: Mapping[str, float], kl_coef: float) -> str:
    kl = metrics.get("kl_per_token", 0.0)
    if not (kl > 1.0 and kl_coef > 0):
        return ""
    return (
        f"KL blow-up: each token is {kl:.1f} nats from the reference ({metrics['kl']:.0f} an episode), so "
        "the texts hardly resemble the reference's, and a reward that rises now is often exploited rather "
        f"than earned. Read some samples; raise kl_coef (now {kl_coef:g}), set kl_target, or lower "
        "learning_rate."
    )


def _collapse(batch: Rollout) -> str:
    texts = Counter(episode.completion for episode in batch.episodes)
    text, times = texts.most_common(1)[0]
    prompts = {episode.prompt.text for episode in batch.episodes}
    if len(prompts) < 2 or len(batch.episodes) < 8 or times < 0.9 * len(batch.episodes):
        return ""
    return (
        f"Collapse: {times} of {len(batch.episodes)} episodes, of {len(prompts)} different prompts, have one "
        f"text, {excerpt(text)}. The policy no longer explores, and may have found an answer that the reward "
        "likes whatever the prompt. Raise kl_coef or entropy_coef, lower learning_rate, or have the reward "
        "look at the prompt."
    )


def _equal_rewards(batch: Rollout) -> str:
    totals = batch.scores.totals[batch.scored.cpu().numpy()]
    if len(totals) < 2 or np.ptp(totals) > 0:
        return ""
    return (
        f"All rewards are equal: each of the {len(totals)} episodes got {totals[0]:g}, so none is better "
        "than another and there is nothing to learn from. Unless the task is solved, it is too hard to meet "
        "success by chance: start from a better policy (sft), take easier prompts, or reward partial success."
    )


def _never_ends(batch: Rollout) -> str:
    tokenizer = batch.episodes[0].tokenizer
    if not tokenizer.eos_ids or any(e.finish_reason != "length" for e in batch.episodes):
        return ""
    return (
        f"No episode ends: all {len(batch.episodes)} were cut at the token limit, none wrote EOS "
        f"(id {', '.join(map(str, tokenizer.eos_ids))}). Rewards judge torn texts (under limit='truncate', "
        "nothing is learnt), and lengths carry no information. Start from a policy that was trained with EOS "
        "at the end of its texts (sft does that), raise max_tokens, or add a penalty for being cut."
    )
