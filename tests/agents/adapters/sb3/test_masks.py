"""Language models as policies of PPO, A2C and MaskablePPO in environments that forbid tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

from tests.sb3_world import TOKENIZER, language_model, letters_env, make_ppo
from text_gym import AllowedTokens, MinLength, TextVectorEnv
from text_gym.agents import KLPenalty, LanguageModelPolicy, SB3VecEnv, SequenceRolloutBuffer

MASK = MinLength(3) & AllowedTokens(texts=["a", "c", "e"])
EOS = int(TOKENIZER.eos_ids[0])


def model_of(algorithm: str, env: Any = None, **kwargs: Any) -> Any:
    env = env or letters_env(mask=MASK)
    if algorithm == "PPO":
        return make_ppo(env, **kwargs)
    contrib = pytest.importorskip("sb3_contrib")
    return contrib.MaskablePPO(
        LanguageModelPolicy, env, n_steps=11, batch_size=22, gamma=0.9, seed=0,
        learning_rate=kwargs.pop("learning_rate", 1e-2), rollout_buffer_class=SequenceRolloutBuffer,
        policy_kwargs={"language_model": language_model()}, **kwargs,
    )  # fmt: skip


class Watch(BaseCallback):
    """Compares what was drawn with the model's logits, read one sequence at a time and masked by hand."""

    compared = 0

    def _on_step(self) -> bool:
        obs, said = self.locals["obs_tensor"], self.locals
        model: Any = self.model
        lm = model.policy.language_model
        for i in range(len(obs["length"])):
            n, action = int(obs["length"][i]), int(said["actions"][i])
            logits = lm.logits(lm.hidden(obs["tokens"][i : i + 1, :n]).last_hidden_state[0, -1]).tolist()
            allowed = [v for v in range(len(logits)) if obs["action_mask"][i, v]]
            assert action in allowed
            assert 1 < len(allowed) < 5
            total = sum(np.exp(logits[v]) for v in allowed)
            expected = logits[action] - np.log(total)
            assert said["log_probs"][i] == pytest.approx(expected, abs=1e-5)
            self.compared += 1
        return True


@pytest.mark.parametrize("algorithm", ["PPO", "MaskablePPO"])
def test_only_allowed_tokens_are_drawn_and_their_log_probs_are_of_the_masked_distribution(
    algorithm: str,
) -> None:
    watch = Watch()
    model_of(algorithm).learn(6 * 11 * 3, callback=watch)
    assert watch.compared == 6 * 11 * 3


@pytest.mark.parametrize("algorithm", ["PPO", "MaskablePPO"])
def test_without_learning_the_ratio_is_one_and_entropy_is_of_what_is_allowed(algorithm: str) -> None:
    model = model_of(algorithm, learning_rate=0.0)
    model.learn(6 * 11 * 2)
    assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    for batch in model.rollout_buffer.get(20):
        _, log_probs, entropy = model.policy.evaluate_actions(batch.observations, batch.actions)
        assert torch.allclose(log_probs, batch.old_log_prob, atol=1e-5)
        lm, obs = model.policy.language_model, batch.observations
        prefixes = [
            tokens[: int(first) + k]
            for tokens, first, steps in zip(
                obs["tokens"], obs["length"][:, 0], obs["steps"][:, 0], strict=True
            )
            for k in range(int(steps))
        ]
        for prefix, allowed, found in zip(prefixes, batch.action_masks, entropy.tolist(), strict=True):
            logits = lm.logits(lm.hidden(prefix[None]).last_hidden_state[0, -1])[allowed].tolist()
            p = np.exp(logits) / np.exp(logits).sum()
            assert found == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)


def test_both_ways_to_tell_of_a_mask_give_the_same_weights() -> None:
    one, two = model_of("PPO"), model_of("MaskablePPO")
    for model in (one, two):
        model.set_random_seed(0)
        model.learn(6 * 11 * 3)
    for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a2c_takes_masks_and_predictions_follow_them() -> None:
    model: Any = A2C(
        LanguageModelPolicy, letters_env(mask=MASK), n_steps=5, seed=0,
        policy_kwargs={"language_model": language_model()}, rollout_buffer_class=SequenceRolloutBuffer,
    ).learn(6 * 5 * 3)  # fmt: skip
    obs = letters_env(mask=MASK).reset()
    for deterministic in (False, True):
        actions = model.predict(obs, deterministic=deterministic)[0]
        assert (obs["action_mask"][np.arange(6), actions] == 1).all()
    only_a = np.zeros((6, TOKENIZER.vocab_size), dtype=bool)
    only_a[:, 0] = True
    assert model.policy.predict(obs, action_masks=only_a)[0].tolist() == [0] * 6


def test_a_mask_can_be_advice() -> None:
    env = letters_env(mask=MASK, on_masked="allow")
    model = make_ppo(env, policy_kwargs={"masked": False})
    drawn: list[int] = []

    class Collect(BaseCallback):
        def _on_step(self) -> bool:
            drawn.extend(self.locals["actions"].tolist())
            return True

    model.learn(6 * 11 * 3, callback=Collect())
    assert {1, 3, EOS} <= set(drawn)  # b and d are forbidden


def test_the_penalty_compares_masked_with_masked() -> None:
    lm = language_model()
    envs = TextVectorEnv(
        ["a", "bcd"], TOKENIZER, lambda completion: 0.0, 5, num_envs=6, autoreset_mode="SameStep", mask=MASK
    )
    env = SB3VecEnv(KLPenalty(envs, lm, kl_coef=0.1))
    model: Any = PPO(
        LanguageModelPolicy, env, n_steps=11, learning_rate=0.0, batch_size=22,
        policy_kwargs={"language_model": lm}, rollout_buffer_class=SequenceRolloutBuffer,
    )  # fmt: skip
    env.follow(model.policy)
    model.learn(6 * 11)
    assert np.abs(model.rollout_buffer.rewards).max() < 1e-6
