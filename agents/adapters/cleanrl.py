"""PPO in one file, in the style of CleanRL (Huang et al. 2022), in the order in which things happen.

It needs `gymnasium.make_vec`, NumPy and PyTorch, and nothing of text-gym but the environment's id: what
an algorithm written for any other Gymnasium environment does here. Run it with

    python -m text_gym.agents.adapters.cleanrl --env-id text_gym/Reverse-v0

Nothing in it is tuned for large models: for those there is `text_gym.agents.PPO`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class Args:
    """Settings.

    Args:
        env_id: Gymnasium id of the environment.
        seed: Decides prompts, initial weights, actions and minibatches.
        total_timesteps: Tokens to play.
        num_envs: Episodes side by side.
        num_steps: Tokens each of them plays between two updates.
        learning_rate: Step size of Adam at the start; it falls linearly to 0.
        gamma: Discount per token.
        gae_lambda: λ of generalised advantage estimation.
        update_epochs: Passes over the tokens of an update.
        num_minibatches: Parts they are split into.
        clip_coef: ε, the ratio is clipped to 1 ± ε.
        ent_coef: Weight of the entropy bonus, per nat.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this norm.
        width: Units of a hidden layer.
    """

    env_id: str = "text_gym/Reverse-v0"
    seed: int = 1
    total_timesteps: int = 80_000
    num_envs: int = 64
    num_steps: int = 32
    learning_rate: float = 2e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    update_epochs: int = 4
    num_minibatches: int = 4
    clip_coef: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    width: int = 128


def linear_layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Make a linear layer with orthogonal weights scaled by `gain`, and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class ActorCritic(nn.Module):
    """Actor and critic on an embedding of each token at its position.

    Args:
        space: A `Dict` with `tokens` `(S,)` and `attention_mask` `(S,)`.
        actions: `V`.
        width: Units of a hidden layer.
    """

    def __init__(self, space: gym.spaces.Dict, actions: int, width: int) -> None:
        super().__init__()
        places = space["tokens"].shape[0]  # type: ignore[index]  # a Box has a shape
        self.padding = actions  # a separate id for unused places
        self.embedding = nn.Embedding(actions + 1, 16)
        self.body = nn.Sequential(
            linear_layer(16 * places, width, gain=2**0.5),
            nn.Tanh(),
            linear_layer(width, width, gain=2**0.5),
            nn.Tanh(),
        )
        self.actor = linear_layer(width, actions, gain=0.01)
        self.critic = linear_layer(width, 1, gain=1.0)

    def encode(self, observation: dict[str, np.ndarray[Any, Any]]) -> Tensor:
        """Return the observation's tokens, `(B, S)` int64, with `padding` in the unused places."""
        there = torch.as_tensor(observation["attention_mask"]) > 0
        return torch.where(there, torch.as_tensor(observation["tokens"]), self.padding)

    def forward(self, tokens: Tensor) -> tuple[Categorical, Tensor]:
        """Return the distribution of the next token and the state's value `(B,)`."""
        hidden = self.body(self.embedding(tokens).flatten(1))
        return Categorical(logits=self.actor(hidden)), self.critic(hidden)[:, 0]


def train_ppo(args: Args, log: Callable[[int, float], None] | None = None) -> tuple[ActorCritic, list[float]]:
    """Train, and return the agent and each iteration's mean return of finished episodes.

    Args:
        args: Settings.
        log: Called after every iteration with the tokens played so far and that mean return.
    """
    rng = np.random.default_rng(args.seed)
    torch.manual_seed(args.seed)
    # An episode restarts in the step in which it ended, so that every row of a rollout is a transition.
    # The token limit is part of these tasks, so it is an end like any other, without bootstrapping.
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode="SameStep")
    space, action_space = envs.single_observation_space, envs.single_action_space
    assert isinstance(space, gym.spaces.Dict), f"this reads a Dict of tokens, not {space}: take another id"
    assert isinstance(action_space, gym.spaces.Discrete)
    agent = ActorCritic(space, int(action_space.n), args.width)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    # Storage, (T, B) each: what happened in every step of every environment.
    shape = (args.num_steps, args.num_envs)
    states = torch.zeros((*shape, *space["tokens"].shape), dtype=torch.int64)  # type: ignore[misc]
    actions = torch.zeros(shape, dtype=torch.int64)
    log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))

    observation, _ = envs.reset(seed=args.seed)
    state = agent.encode(observation)
    running = np.zeros(args.num_envs)  # each row's return in its current episode so far
    curve: list[float] = []
    iterations = args.total_timesteps // (args.num_steps * args.num_envs)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - iteration / iterations)
        ended: list[float] = []
        for t in range(args.num_steps):
            with torch.no_grad():
                policy, values[t] = agent(state)
                action = policy.sample()
            states[t], actions[t], log_probs[t] = state, action, policy.log_prob(action)
            observation, reward, terminated, truncated, _ = envs.step(action.numpy())
            done = np.logical_or(terminated, truncated)
            rewards[t], dones[t] = torch.as_tensor(reward), torch.as_tensor(done)
            state = agent.encode(observation)
            running += reward
            ended += running[done].tolist()
            running[done] = 0.0

        advantages = estimate_advantages(args, rewards, dones, values, agent(state)[1].detach())
        columns = (states, actions, log_probs, advantages, advantages + values)
        update(args, agent, optimizer, rng, [x.flatten(0, 1) for x in columns])

        curve.append(float(np.mean(ended)) if ended else float("nan"))
        if log is not None:
            log((iteration + 1) * args.num_steps * args.num_envs, curve[-1])
    envs.close()
    return agent, curve


def estimate_advantages(args: Args, rewards: Tensor, dones: Tensor, values: Tensor, last: Tensor) -> Tensor:
    """Return generalised advantages `(T, B)` (Schulman et al. 2016), from the last step back to the first."""
    advantages, advantage, next_value = torch.zeros_like(rewards), torch.zeros_like(last), last
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - dones[t]
        delta = rewards[t] + args.gamma * next_value * goes_on - values[t]
        advantage = delta + args.gamma * args.gae_lambda * goes_on * advantage
        advantages[t], next_value = advantage, values[t]
    return advantages


def update(
    args: Args, agent: ActorCritic, optimizer: Any, rng: np.random.Generator, batch: list[Tensor]
) -> None:
    """Go over a rollout's states, actions, log-probabilities, advantages, returns (Schulman et al. 2017)."""
    for _ in range(args.update_epochs):
        for rows in np.array_split(rng.permutation(len(batch[0])), args.num_minibatches):
            state, action, old_log_prob, advantage, returns = (x[rows] for x in batch)
            policy, value = agent(state)
            ratio = (policy.log_prob(action) - old_log_prob).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            value_loss = 0.5 * ((value - returns) ** 2).mean()
            loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()


def main() -> None:
    """Train with settings from the command line, and print the mean return as it grows."""
    import tyro

    train_ppo(tyro.cli(Args), lambda tokens, mean: print(f"{tokens:>9,} tokens  return {mean:.3f}"))


if __name__ == "__main__":
    main()
