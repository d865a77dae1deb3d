"""Settings of a run with Stable-Baselines3, which can be read without it or PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text_gym.errors import ConfigError

# Name -> where the algorithm is; all are used unmodified.
SB3_ALGORITHMS = {
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "dqn": "stable_baselines3:DQN",
    "qr_dqn": "sb3_contrib:QRDQN",
    "maskable_ppo": "sb3_contrib:MaskablePPO",
    "recurrent_ppo": "sb3_contrib:RecurrentPPO",
}


@dataclass(frozen=True)
class SB3Config:
    """Settings of a training run with Stable-Baselines3.

    Args:
        iterations: Times to play `n_steps` tokens in each of `num_envs` rows and to learn from them.
        num_envs: Rows, episodes side by side.
        n_steps: Tokens a row plays in an iteration; None means 32 from scratch, and the task's token
            limit with a language model. DQN, QR-DQN and A2C learn more often within it.
        batch_size: Tokens of a minibatch (not A2C).
        n_epochs: Passes over an iteration's tokens (PPO only).
        learning_rate: Step size at the start; None means 1e-3 from scratch and 3e-4 with a language model.
        anneal: Let it fall linearly to 0 over the iterations.
        gamma: Discount per token.
        gae_lambda: λ of GAE (PPO only).
        ent_coef: Weight of the entropy bonus, per nat (not DQN and QR-DQN); from scratch only.
        vf_coef: Weight of the value loss (not DQN and QR-DQN).
        encoder: Kind of `TokenFeatures`, from scratch only.
        width: Features, and units of each of the two hidden layers after them, from scratch only.
        kl_coef: β of the KL penalty, reward units per nat, with a language model only.
        seed: Decides prompts, noise and minibatches.
    """

    iterations: int = 100
    num_envs: int = 64
    n_steps: int | None = None
    batch_size: int = 512
    n_epochs: int = 4
    learning_rate: float | None = None
    anneal: bool = True
    gamma: float = 1.0
    gae_lambda: float = 0.95
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    encoder: Literal["positions", "gru", "transformer"] = "positions"
    width: int = 128
    kl_coef: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "num_envs", "batch_size", "n_epochs", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_steps is not None and self.n_steps < 1:
            raise ConfigError(f"n_steps is {self.n_steps}; it must be at least 1, or None")
