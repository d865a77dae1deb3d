"""What a judge abstains from, as Stable-Baselines3 sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from tests.sb3_world import PROMPTS, TOKENIZER, make_ppo
from text_gym import FunctionReward, TextVectorEnv
from text_gym.agents import SB3VecEnv


def judge(completion: str) -> float | None:
    """Pays 1, and has no opinion about texts with an a."""
    return None if "a" in completion else 1.0


def env_with(on_abstain: Any) -> SB3VecEnv:
    reward = FunctionReward(judge, abstains=True)
    env = TextVectorEnv(
        PROMPTS, TOKENIZER, reward, 5, num_envs=6, autoreset_mode="SameStep", on_abstain=on_abstain
    )
    return SB3VecEnv(env)


class Endings(BaseCallback):
    """Collects reward, abstention and text of every step that ended an episode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, bool, str]] = []
        self.paid_elsewhere = 0.0

    def _on_step(self) -> bool:
        for reward, done, info in zip(
            self.locals["rewards"], self.locals["dones"], self.locals["infos"], strict=True
        ):
            if done:
                abstained = bool(info.get("reward_abstained", False))
                self.seen.append((float(reward), abstained, info["completion"]))
            else:
                self.paid_elsewhere += float(reward)
        return True


def test_a_text_that_was_not_judged_pays_nothing_and_says_so() -> None:
    endings = Endings()
    make_ppo(env_with("pay_zero"), learning_rate=0.0).learn(6 * 11 * 4, callback=endings)
    abstained = [text for _, silent, text in endings.seen if silent]
    assert abstained
    assert all(("a" in text) == silent for _, silent, text in endings.seen)
    assert all(reward == (0.0 if silent else 1.0) for reward, silent, _ in endings.seen)


def test_redrawn_episodes_never_end_unjudged() -> None:
    endings = Endings()
    env = env_with("redraw")
    model = make_ppo(env, learning_rate=0.0)
    model.learn(6 * 11 * 4, callback=endings)
    assert endings.seen
    assert not any(silent or "a" in text for _, silent, text in endings.seen)
    assert all(reward == 1.0 for reward, _, _ in endings.seen)
    assert endings.paid_elsewhere == 0.0
    redrawn: Any = env.get_attr("redrawn")[0]
    assert redrawn > 0
    assert np.isfinite(model.rollout_buffer.returns).all()
