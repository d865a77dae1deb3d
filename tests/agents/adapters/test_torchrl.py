from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from tests.rater_terminal import RaterTerminal
from tests.sb3_world import PROMPTS, TOKENIZER, language_model
from text_gym import (
    ByteTokenizer,
    Episode,
    MinLength,
    Rewards,
    RewardSource,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.agents import KLPenalty, Policy
from text_gym.errors import ConfigError, MissingLibraryError

NAME = "text_gym.agents.adapters.torchrl"


def test_without_the_library_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setitem(sys.modules, "torchrl.envs", None)
    with pytest.raises(MissingLibraryError, match='pip install "torchrl"') as caught:
        importlib.import_module(NAME)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.name == "torchrl"


@pytest.fixture
def adapter() -> Any:
    pytest.importorskip("torchrl")
    return importlib.import_module(NAME)


def letters(adapter: Any, policy: Policy | None = None, **kwargs: Any) -> Any:
    """Three rows of texts of at most five letters, paid for each a; with a KL penalty to a policy."""
    envs: Any = TextVectorEnv(
        PROMPTS, TOKENIZER, lambda completion: completion.count("a"), 5, num_envs=3,
        autoreset_mode="Disabled", **kwargs,
    )  # fmt: skip
    return adapter.torchrl_env(envs if policy is None else KLPenalty(envs, policy, 0.1), seed=0)


def test_a_rollout_is_what_a_single_environment_plays(adapter: Any) -> None:
    env = adapter.torchrl_env("text_gym/Reverse-v0", num_envs=2, seed=3)
    played = env.rollout(20, break_when_any_done=False)
    for row in range(2):
        alone = gym.make("text_gym/Reverse-v0")
        alone.reset(seed=3 + row)  # TorchRL resets to seed, and again to play
        observation, _ = alone.reset()
        ends = 0
        for t in range(20):
            step = played[row, t]
            for key in observation:
                assert np.array_equal(step[key], observation[key])
            observation, reward, terminated, _, _ = alone.step(int(step["action"]))
            assert float(step["next", "reward"]) == pytest.approx(reward)
            assert bool(step["next", "terminated"]) is terminated
            assert np.array_equal(step["next", "tokens"], observation["tokens"])  # of the last step, too
            if terminated:
                ends += 1
                observation, _ = alone.reset()
        assert ends >= 2


@pytest.mark.parametrize("env_id", ["text_gym/Reverse-v0", "text_gym/Products-v0", "text_gym/Copy-onehot-v0"])
def test_gym_env_takes_a_plain_id_with_num_envs(
    adapter: Any, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchRL reads every key of infos there; what it reads must not depend on which texts end when."""
    library = importlib.import_module("torchrl.envs")
    # Gymnasium aggregates the infos alike in both; here nothing has to be started.
    monkeypatch.setattr(library.GymEnv, "_async_env", lambda self, makers: SyncVectorEnv(makers))
    for seed in range(4):  # some begin with a step in which an episode ends
        torch.manual_seed(seed)
        env = library.GymEnv(env_id, num_envs=4)
        played = env.rollout(20, break_when_any_done=False)
        library.check_env_specs(env)
        assert ("episode_index" in played) == ("onehot" not in env_id)
        if "Reverse" in env_id:
            gone_on = played["episode_index"].diff(dim=1)
            assert set(gone_on.unique().tolist()) == {0, 1}


def steps_without_a_token(env: Any) -> int:
    """Play 60 random steps; return how many of them neither appended a token nor showed the last state."""
    torch.manual_seed(0)
    env.set_seed(0)
    played = env.rollout(60, break_when_any_done=False)
    assert played["next", "done"].sum() > 40
    return int((played["next", "length"] != played["length"] + 1).sum())


def test_a_wrapped_native_environment_shows_every_step(adapter: Any) -> None:
    wrapper = importlib.import_module("torchrl.envs").GymWrapper
    envs = gym.make_vec("text_gym/Reverse-v0", num_envs=4, autoreset_mode="Disabled")
    assert steps_without_a_token(wrapper(envs)) == 0
    assert steps_without_a_token(adapter.torchrl_env("text_gym/Reverse-v0", num_envs=4)) == 0


def test_gym_env_with_num_envs_takes_resets_for_transitions(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchRL's own fault, which the page warns of; once this test fails, the warning can go."""
    library = importlib.import_module("torchrl.envs")
    monkeypatch.setattr(library.GymEnv, "_async_env", lambda self, makers: SyncVectorEnv(makers))
    assert steps_without_a_token(library.GymEnv("text_gym/Reverse-v0", num_envs=4)) > 0


SCRIPT = """
import text_gym
from torchrl.envs import GymEnv

if __name__ == "__main__":
    env = GymEnv("text_gym/Reverse-v0", num_envs=2)
    print("DONE", env.rollout(20, break_when_any_done=False)["next", "done"].any().item())
    env.close()
"""


@pytest.mark.nightly  # TorchRL starts processes that import everything anew
def test_a_script_that_types_the_plain_id_runs(adapter: Any, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "DONE True" in done.stdout, done.stderr[-2000:]


def test_forbidden_tokens_are_not_drawn(adapter: Any) -> None:
    env = letters(adapter, mask=MinLength(3))
    actor, critic = adapter.token_actor_critic(env, "gru", width=16)
    played = env.rollout(30, actor, break_when_any_done=False)  # the environment refuses them
    assert played["action"].shape == (3, 30)
    assert critic(played)["state_value"].shape == (3, 30, 1)
    early = played["tokens"][played["remaining"][..., 0] > 2]
    assert len(early)


def test_a_language_model_says_the_same_while_it_plays_and_while_it_learns(adapter: Any) -> None:
    policy = language_model()
    torch.nn.init.normal_(policy.value_head.weight)
    env = letters(adapter)
    actor, critic = adapter.language_model_actor_critic(env, policy)
    with torch.no_grad():
        played = env.rollout(12, actor, break_when_any_done=False)
    again = actor.get_dist(played.clone()).log_prob(played["action"])  # with gradients: uncached
    assert torch.allclose(again, played["action_log_prob"], atol=1e-5)
    again = again.detach()
    values = critic(played.clone())["state_value"][..., 0]
    for row, t in ((0, 0), (1, 4), (2, 11)):
        step = played[row, t]
        hidden = policy.hidden(step["tokens"][None, : int(step["length"])]).last_hidden_state[0, -1]
        log_p = torch.log_softmax(policy.logits(hidden), 0)
        assert float(again[row, t]) == pytest.approx(float(log_p[step["action"]]), abs=1e-5)
        assert float(values[row, t]) == pytest.approx(float(policy.values(hidden)), abs=1e-5)


def test_a_changed_language_model_is_read_anew_by_the_copy_that_plays(adapter: Any) -> None:
    """TorchRL's losses hold a copy of the actor's modules, so that nobody tells the cache of a step."""
    objectives = pytest.importorskip("torchrl.objectives")
    policy = language_model()
    env = letters(adapter)
    actor, critic = adapter.language_model_actor_critic(env, policy)
    loss = objectives.ClipPPOLoss(actor, critic, entropy_bonus=False)
    estimator = objectives.value.GAE(gamma=1.0, lmbda=1.0, value_network=critic, deactivate_vmap=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05, fused=True)
    state = env.reset()
    for _ in range(3):
        with torch.no_grad():
            played = env.rollout(6, actor, break_when_any_done=False)
            actor(state.clone())  # the same observations, read just before the step that changes the weights
        loss(estimator(played))["loss_objective"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            said = actor(state.clone())["logits"]
            hidden = [
                policy.hidden(t[None, :n]).last_hidden_state[0, -1]
                for t, n in zip(state["tokens"], state["length"].flatten().tolist(), strict=True)
            ]
            assert torch.allclose(said, policy.logits(torch.stack(hidden)), atol=1e-4)


def test_the_critics_loss_does_not_move_the_language_model(adapter: Any) -> None:
    policy = language_model()
    env = letters(adapter)
    actor, critic = adapter.language_model_actor_critic(env, policy)
    critic(env.rollout(6, actor, break_when_any_done=False))["state_value"].square().sum().backward()
    assert policy.value_head.bias.grad is not None
    assert all(p.grad is None for p in policy.model.parameters())


def test_a_kl_penalty_follows_the_actor(adapter: Any) -> None:
    policy = language_model()
    reference = policy.frozen()
    torch.nn.init.normal_(policy.model.transformer.wte.weight, std=0.3)
    env = letters(adapter, reference)
    actor, _ = adapter.language_model_actor_critic(env, policy)
    with torch.no_grad():
        played = env.rollout(8, actor, break_when_any_done=False)
    dist = actor.get_dist(played.clone())
    copy, _ = adapter.language_model_actor_critic(letters(adapter), reference)
    ratio = dist.log_prob(played["action"]) - copy.get_dist(played.clone()).log_prob(played["action"])
    assert ratio.abs().max() > 0.1
    ended = played["next", "terminated"][..., 0]
    paid = played["next", "reward"][..., 0] + 0.1 * ratio
    assert torch.allclose(paid[~ended], torch.zeros(1), atol=1e-5)
    assert torch.allclose(paid, paid.round(), atol=1e-5)  # a whole number of letters


def test_what_does_not_fit_is_named(adapter: Any) -> None:
    with pytest.raises(ConfigError, match="258 tokens"):
        adapter.language_model_actor_critic(letters(adapter), Policy.new(ByteTokenizer(), width=16, layers=1))
    with pytest.raises(ConfigError, match='observation="tokens"'):
        adapter.token_actor_critic(letters(adapter, observation="onehot"))
    with pytest.raises(ConfigError, match='autoreset_mode="Disabled"'):
        adapter.torchrl_env(gym.make_vec("text_gym/Reverse-v0", num_envs=2, autoreset_mode="SameStep"))
    with pytest.raises(ConfigError, match="takes an id or a vector environment, not Task"):
        adapter.torchrl_env(load_task("reverse"))


RATED = """
import torch
from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents.adapters.torchrl import torchrl_env
from text_gym.reward_models import HumanReward
from text_gym.reward_models.labels.questions import LabelCriterion

reward = HumanReward("labels.db", criteria=[LabelCriterion("warmth")])
envs = TextVectorEnv(
    ["b", "c"], WordTokenizer("abc", separator=""), reward, 1, num_envs=2, shuffle=False,
    autoreset_mode="Disabled", on_abstain="redraw", numbering="global",
)
env = torchrl_env(envs)
after = env.step(env.reset().set("action", torch.tensor([0, 0])))["next"]
print("SEEN", after["reward"].flatten().tolist(), after["done"].flatten().tolist(), envs.redrawn)
"""


def test_a_persons_answers_reach_torchrl_and_a_skipped_text_is_drawn_anew(
    adapter: Any, tmp_path: Path
) -> None:
    with RaterTerminal(program=RATED, cwd=tmp_path) as terminal:
        terminal.wait_for("warmth  1  2  3  4  5  > ", 120)
        terminal.type("4")
        terminal.wait_for("warmth  1  2  3  4  5  > ", 60)
        terminal.type("s\n")
        assert "SEEN [0.75, 0.0] [True, False] 1" in terminal.wait_for("] 1", 60)


class SilentJudge(RewardSource):
    """Pays texts of prompt b, and has no opinion of others."""

    name, abstains = "silent", True

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        scores = [1.0 if e.prompt.text == "b" else float("nan") for e in episodes]
        return Rewards.from_scores(np.array(scores), {})


def test_a_judges_abstention_is_worth_nothing_or_a_new_episode(adapter: Any) -> None:
    found = {}
    for choice in ("pay_zero", "redraw"):
        envs: Any = TextVectorEnv(
            ["b", "c"], WordTokenizer("abc", separator=""), SilentJudge(), 1, num_envs=2, shuffle=False,
            autoreset_mode="Disabled", on_abstain=choice, numbering="global",
        )  # fmt: skip
        env = adapter.torchrl_env(envs)
        data = env.step(env.reset().set("action", torch.tensor([0, 0])))
        found[choice] = data["next", "reward"].flatten().tolist(), data["next", "done"].flatten().tolist()
    assert found == {"pay_zero": ([1.0, 0.0], [True, True]), "redraw": ([1.0, 0.0], [True, False])}
