from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

from tests.envs.test_conversation import Chance
from tests.sb3_world import PROMPTS, TOKENIZER, language_model, letters_env, make_ppo
from text_gym import ByteTokenizer, TextVectorEnv, load_task
from text_gym.agents import LanguageModelPolicy, Policy, Sampling, SB3VecEnv, SequenceRolloutBuffer, rollout
from text_gym.errors import ConfigError, NonFiniteError


class Watch(BaseCallback):
    """Compares all that SB3 was told in a rollout with the model, read one sequence at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.compared = 0

    def _on_step(self) -> bool:
        obs, said = self.locals["obs_tensor"], self.locals
        model: Any = self.model
        lm = model.policy.language_model
        for i in range(len(obs["length"])):
            n = int(obs["length"][i])
            hidden = lm.hidden(obs["tokens"][i : i + 1, :n]).last_hidden_state[0, -1]
            log_p = torch.log_softmax(lm.logits(hidden), dim=0)
            assert said["log_probs"][i] == pytest.approx(float(log_p[said["actions"][i]]), abs=1e-5)
            assert float(said["values"][i]) == pytest.approx(float(lm.values(hidden)), abs=1e-5)
            self.compared += 1
        return True


@pytest.mark.parametrize("cache", [True, False])
def test_log_probs_and_values_equal_the_uncached_model_throughout_learning(cache: bool) -> None:
    model = make_ppo(letters_env(), policy_kwargs={"cache": cache})
    torch.nn.init.normal_(model.policy.language_model.value_head.weight)
    watch = Watch()
    model.learn(6 * 11 * 4, callback=watch)
    assert watch.compared == 6 * 11 * 4


def test_bootstrap_values_are_those_of_the_state_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    env = letters_env(limit="truncate")
    model = make_ppo(env)
    torch.nn.init.normal_(model.policy.language_model.value_head.weight)
    lm = model.policy.language_model
    asked: list[tuple[Any, float]] = []
    ends: list[Any] = []
    step, predict = env.step_wait, model.policy.predict_values

    def watch_step() -> Any:
        result = step()
        ends.extend(i["terminal_observation"] for i in result[3] if i.get("TimeLimit.truncated"))
        return result

    def watch_values(obs: Any) -> torch.Tensor:
        values = predict(obs)
        if len(values) == 1:
            asked.append((obs, float(values)))
        return torch.as_tensor(values)

    monkeypatch.setattr(env, "step_wait", watch_step)
    monkeypatch.setattr(model.policy, "predict_values", watch_values)
    model.learn(6 * 11 * 2)
    assert len(asked) == len(ends) > 10
    checked = make_ppo(
        letters_env(limit="truncate")
    )  # weights move between rollouts, so compare the last rollout's only
    checked.policy.load_state_dict(model.policy.state_dict())
    asked.clear()
    model.learn(6 * 11, reset_num_timesteps=False)
    with torch.no_grad():
        for obs, value in asked:
            hidden = checked.policy.language_model.hidden(
                obs["tokens"][:, : int(obs["length"])]
            ).last_hidden_state
            assert value == pytest.approx(
                float(checked.policy.language_model.values(hidden[0, -1])), abs=1e-5
            )
    assert lm is model.policy.language_model


def test_a_rollout_costs_one_step_a_token_and_one_prefill_an_episode() -> None:
    model = make_ppo(letters_env(), n_steps=40)
    model.learn(6 * 40)
    cache = model.policy._core.caches["play"]
    episodes = sum(s.stop - s.start > 0 for s in model.rollout_buffer._sequences)
    assert cache.steps <= 41
    assert cache.prefilled <= episodes + 6


def test_replies_extend_the_cache_and_everything_is_as_without_one() -> None:
    talk: dict[str, Any] = {"respondent": Chance(), "turn_stop": "e", "max_turns": 3, "max_context": 16}
    model = make_ppo(letters_env(max_tokens=6, **talk), n_steps=30)
    torch.nn.init.normal_(model.policy.language_model.value_head.weight)
    watch = Watch()
    model.learn(6 * 30, callback=watch)
    assert watch.compared == 6 * 30
    buffer, cache = model.rollout_buffer, model.policy._core.caches["play"]
    assert cache.prefilled <= int(buffer.episode_starts.sum()) + 6  # no reply made a row begin again
    assert len(buffer._sequences) > int(buffer.episode_starts.sum()) + 6  # every turn is a sequence


def test_an_evaluation_in_mid_rollout_does_not_cost_the_rollout_its_cache() -> None:
    model = make_ppo(letters_env(max_tokens=8), n_steps=8)
    other = letters_env(num_envs=3, max_tokens=8).reset()

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            self.model.predict(other)
            return True

    model.learn(48, callback=Evaluate())
    assert model.policy._core.caches["play"].prefilled <= len(model.rollout_buffer._sequences) + 6


def test_without_learning_the_ratio_is_one_in_every_minibatch() -> None:
    model = make_ppo(letters_env(), learning_rate=0.0)
    model.learn(6 * 11 * 2)
    assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    assert model.logger.name_to_value["train/clip_fraction"] == 0
    for batch in model.rollout_buffer.get(20):
        values, log_probs, entropy = model.policy.evaluate_actions(batch.observations, batch.actions)
        assert torch.allclose(log_probs, batch.old_log_prob, atol=1e-5)
        assert torch.allclose(values.flatten(), batch.old_values, atol=1e-5)
        assert entropy is not None
        assert (entropy > 0).all()


def test_sequences_and_single_observations_are_evaluated_alike() -> None:
    """SB3's own `DictRolloutBuffer` gives the same updates, only at the price of a pass for every token."""
    settings: dict[str, Any] = {"n_steps": 9, "batch_size": 10**6, "n_epochs": 2, "ent_coef": 0.1}
    ours = make_ppo(letters_env(), **settings)
    theirs: Any = PPO(
        LanguageModelPolicy,
        letters_env(),
        policy_kwargs={"language_model": language_model()},
        gamma=0.9,
        seed=0,
        learning_rate=1e-2,
        **settings,
    )
    for model in (ours, theirs):
        model.set_random_seed(0)
        model.learn(6 * 9 * 2)
    for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_sampling_follows_the_models_distribution() -> None:
    model = make_ppo(letters_env())
    obs = model.policy.obs_to_tensor(letters_env(num_envs=1).reset())[0]
    probs = model.policy.get_distribution(obs).distribution.probs[0]
    many = {k: v.expand(4000, -1) for k, v in obs.items()}
    torch.manual_seed(0)
    drawn = torch.bincount(model.policy(many)[0], minlength=TOKENIZER.vocab_size) / 4000
    assert (drawn - probs).abs().max() < 0.03
    assert model.predict({k: v.numpy() for k, v in obs.items()}, deterministic=True)[0] == probs.argmax()


def test_a_policy_given_is_copied_and_a_copy_comes_back_from_a_file(tmp_path: Any) -> None:
    lm = language_model()
    before = {k: v.clone() for k, v in lm.state_dict().items()}
    model = make_ppo(letters_env(), lm)
    model.learn(66)
    assert all(torch.equal(v, before[k]) for k, v in lm.state_dict().items())
    model.save(tmp_path / "model.zip")
    loaded: Any = PPO.load(tmp_path / "model.zip", env=letters_env())
    for a, b in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    obs = letters_env().reset()
    assert np.array_equal(
        model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    loaded.learn(66)
    lm.save(tmp_path / "lm")
    again = language_model()
    again.load_state_dict(lm.state_dict())
    assert torch.equal(again.value_head.weight, lm.value_head.weight)


def test_dropout_stays_off_in_the_update() -> None:
    model = make_ppo(letters_env())
    model.policy.set_training_mode(True)
    assert not any(m.training for m in model.policy.modules())


def test_a2c_learns_with_a_language_model() -> None:
    model: Any = A2C(
        LanguageModelPolicy,
        letters_env(num_envs=32),
        n_steps=5,
        learning_rate=3e-3,
        seed=0,
        policy_kwargs={"language_model": language_model(), "optimizer_class": torch.optim.Adam},
        rollout_buffer_class=SequenceRolloutBuffer,
    )

    def mean_reward() -> float:
        env = TextVectorEnv(PROMPTS, TOKENIZER, lambda completion: completion.count("a"), 5, num_envs=256)
        batch = rollout(model.policy.language_model, env, np.arange(256), sampling=Sampling())
        return float(batch.scores.totals.mean())

    before = mean_reward()
    model.learn(32 * 5 * 60)
    assert mean_reward() > before + 1.0


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match="258 tokens"):
        make_ppo(letters_env(), Policy.new(ByteTokenizer(), width=16, layers=1))
    with pytest.raises(ConfigError, match="10 tokens, the language model reads 8"):
        make_ppo(letters_env(), language_model(context=8))
    with pytest.raises(ConfigError, match="wrap a TextVectorEnv"):
        PPO(LanguageModelPolicy, "CartPole-v1", policy_kwargs={"language_model": language_model()})


def test_logits_that_are_not_finite_stop_the_rollout() -> None:
    model = make_ppo(letters_env())
    with torch.no_grad():
        model.policy.language_model.model.transformer.ln_f.bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match="row 0"):
        model.learn(66)


def test_no_registered_task_is_needed() -> None:
    task = load_task("copy", length=2)
    env = SB3VecEnv(TextVectorEnv(task=task, num_envs=4, autoreset_mode="SameStep"))
    lm = Policy.new(task.tokenizer, width=16, layers=1, context=8)
    assert make_ppo(env, lm).learn(44).num_timesteps >= 44
