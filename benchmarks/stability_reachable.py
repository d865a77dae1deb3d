"""How much of the returns' variance a critic could explain at best, measured on a policy that stands still.

What a critic reads are the policy's states and a clock; what of the future they do not tell, no critic knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from stability_runs import Job
from stability_worlds import open_world
from torch import Tensor, nn

from text_gym import TextVectorEnv
from text_gym.agents import Policy, rollout
from text_gym.agents.algorithms.estimators import explained_variance, gae
from text_gym.utils.json_files import write_json

Row = dict[str, Any]
RIDGES = tuple(10.0**power for power in range(-2, 5))  # strengths to choose from
WIDTH, EPOCHS, RATE, MINIBATCH, PATIENCE = 64, 100, 3e-3, 256, 10
_ROWS = 64  # episodes played side by side


def measure_reachable(job: Job, episodes: int) -> Row:
    """Measure at the policy that a run starts from and at its last one; written beside the runs.

    Args:
        job: A run whose policy was kept.
        episodes: To learn from; as many to judge on.
    """
    place = open_world(job.world, job.seed, job.setting)
    found: Row = {"world": job.where, "candidate": job.candidate.text, "seed": job.seed, "episodes": episodes}
    for name, folder in (("start", place.policy), ("after", job.policy)):
        policy = Policy.from_pretrained(folder, device="cpu")
        env = TextVectorEnv(
            **place.task.env_kwargs(reward=place.reward),
            num_envs=min(_ROWS, episodes),
            numbering="global",
            context=policy.context,
        )
        fit = played(policy, env, range(episodes), job.seed)
        found[name] = reachable(fit, played(policy, env, range(episodes, 2 * episodes), job.seed), job.seed)
    folder = job.setting.out / "reachable"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{job.where}-{job.candidate.slug}-{job.seed}.json", found)
    return found


def played(policy: Policy, env: TextVectorEnv, numbers: range, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Let a policy write; what a critic reads and what it is to predict, of each token.

    Returns:
        `(N, D + 2)` float32, states of unit variance and the clock; `(N,)` float32, the rewards still to
        come, without any KL; `(N,)` int64, the number of the token's episode.
    """
    parts = []
    for first in range(numbers.start, numbers.stop, env.num_envs):
        index = np.arange(first, first + env.num_envs)
        batch = rollout(policy, env, index, seed=seed, keep_states=True)
        batch = batch.only(batch.scored & torch.from_numpy(index < numbers.stop))
        assert batch.states is not None
        mask = batch.mask
        _, returns = gae(batch.rewards, torch.zeros_like(batch.rewards), mask, lam=1.0)
        episode, step = mask.nonzero(as_tuple=True)
        clock = torch.stack([2 * step / env.max_tokens - 1, torch.exp(-step / 8)], dim=1)
        states = F.layer_norm(batch.states[mask].float(), batch.states.shape[-1:])
        parts.append((torch.cat([states, clock], dim=1), returns[mask], episode + first))
    read, returns, episodes = (torch.cat(column) for column in zip(*parts, strict=True))
    return read, returns, episodes


def reachable(fit: tuple[Tensor, Tensor, Tensor], judge: tuple[Tensor, Tensor, Tensor], seed: int) -> Row:
    """Explained variance, on other episodes than those to learn from, of a ridge and of a small network.

    What is chosen on the way, the ridge's strength and when the network stops, is chosen on a quarter of the
    episodes to fit. `best` is the better of the two.
    """
    read, returns, episodes = fit
    held = episodes % 4 == 3
    mean, std = returns[~held].mean(), returns[~held].std().clamp_min(1e-6)
    known = (read[~held], (returns[~held] - mean) / std)
    chosen = (read[held], (returns[held] - mean) / std)

    def judged(predict: Any) -> float:
        return share_explained(judge[1], predict(judge[0]) * std + mean)

    ridge, network = judged(_ridge(known, chosen)), judged(_network(known, chosen, seed))
    return {"ridge": ridge, "network": network, "best": max(ridge, network), "tokens": len(judge[1])}


def share_explained(returns: Tensor, values: Tensor) -> float:
    """`explained_variance` of `(N,)` tokens."""
    mask = torch.ones(1, len(returns), dtype=torch.bool)
    return explained_variance(returns[None].double(), values[None].double(), mask)


def _ridge(known: tuple[Tensor, Tensor], chosen: tuple[Tensor, Tensor]) -> Any:
    """Linear regression with the strength of the penalty that does best elsewhere."""

    def wide(read: Tensor) -> Tensor:
        return F.pad(read.double(), (0, 1), value=1.0)

    x, y = wide(known[0]), known[1].double()
    penalty = torch.eye(x.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0  # the constant is free
    weights = [torch.linalg.solve(x.T @ x + strength * penalty, x.T @ y) for strength in RIDGES]
    errors = [float(((wide(chosen[0]) @ w - chosen[1]) ** 2).mean()) for w in weights]
    best = weights[int(np.argmin(errors))]
    return lambda read: (wide(read) @ best).float()


def _network(known: tuple[Tensor, Tensor], chosen: tuple[Tensor, Tensor], seed: int) -> Any:
    """A network of one hidden layer, as it was when it did best elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(known[0].shape[1], WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.1)
    generator = np.random.default_rng(seed)
    best, error, since = {k: v.clone() for k, v in network.state_dict().items()}, np.inf, 0
    for _ in range(EPOCHS):
        order = torch.from_numpy(generator.permutation(len(known[0])))
        for rows in order.split(MINIBATCH):
            optimizer.zero_grad()
            F.mse_loss(network(known[0][rows])[:, 0], known[1][rows]).backward()
            optimizer.step()
        with torch.no_grad():
            now = float(F.mse_loss(network(chosen[0])[:, 0], chosen[1]))
        since += 1
        if now < error:
            best, error, since = {k: v.clone() for k, v in network.state_dict().items()}, now, 0
        if since >= PATIENCE:
            break
    network.load_state_dict(best)
    return torch.no_grad()(lambda read: network(read)[:, 0])
