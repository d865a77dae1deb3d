"""The optimisers of the benchmark: a policy learns from a reward and is evaluated on the way.

All start from the same weights, whatever the seed. Best-of-n, which trains nothing, stands in `cells`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.agents.adapters.sb3.config import SB3Config
from text_gym.agents.adapters.sb3.make import make_sb3
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.sampling.sampler import rollout
from text_gym.agents.training.recorder import Recorder
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, word_counts
from text_gym.errors import ConfigError
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task

from .recipes import content_of
from .settings import Settings
from .start import starting_policy

if TYPE_CHECKING:
    from text_gym.agents.policies.policy import Policy
    from text_gym.viewer.store import RolloutStore


_NOISE = 2_000_003  # seed of the looks, so that all policies meet the same luck
_ROWS = 128  # episodes played side by side
# Optimisers whose algorithm has another name: "best_of_n" is here the one that trains nothing.
_ALGORITHMS = {"distillation": "best_of_n", "dpo": "text_gym.agents.algorithms.online_dpo:OnlineDPO"}


@dataclass(frozen=True)
class Look:
    """A policy's texts on held-out prompts, one each, sampled at temperature 1.

    Args:
        episodes: In the order of the prompts.
        gold: `(n,)` the task's reward, NaN where it has no opinion.
        terms: Its terms, `(n,)` each.
        proxy: `(n,)` the reward under test, in its own unit.
        kl: `(n,)` log-ratios to the starting policy, nats; their mean estimates KL(policy ‖ start).
    """

    episodes: list[Episode]
    gold: FloatArray
    terms: dict[str, FloatArray]
    proxy: FloatArray
    kl: FloatArray

    def point(self, step: int, episodes: int, tokens: int) -> dict[str, Any]:
        """Return a point of the curve as plain data; episodes and tokens are those played in training."""
        return {
            "step": step,
            "episodes": episodes,
            "tokens": tokens,
            "gold": mean_or_none(self.gold),
            "proxy": mean_or_none(self.proxy),
            "kl_nats": mean_or_none(self.kl),
            "length": mean_or_none(word_counts(self.episodes)),
            "perfect": mean_or_none(perfect(self.terms)),
        }


@dataclass(frozen=True)
class Learning:
    """The result of an optimiser's work.

    Args:
        curve: Points, the first before learning, the last at the end.
        looks: The texts of each point.
        episodes: Played in training.
        tokens: Written in them.
    """

    curve: list[dict[str, Any]]
    looks: list[Look]
    episodes: int
    tokens: int


def learn(
    settings: Settings,
    optimiser: str,
    reward: RewardSource,
    scale: float,
    kl_coefficient: float,
    seed: int,
    store: RolloutStore | None = None,
) -> Learning:
    """Optimise a reward, times `scale`, from the starting policy.

    Args:
        settings: Of the benchmark.
        optimiser: A name in `OPTIMISERS`, or of the user's own in the settings.
        reward: The reward under test.
        scale: Factor of the reward that is paid: 1 / standard deviation at the start gives a KL coefficient
            one meaning for all designs.
        kl_coefficient: β, in scaled reward per nat.
        seed: Decides prompts, noise and minibatches.
        store: Keeps rollouts on the way, and beside them the rows of `metrics.jsonl` about them.
    """
    task, policy = settings.load_task(), starting_policy(settings)
    reference = policy.frozen()
    steps = np.linspace(0, settings.iterations, settings.points + 1).round().astype(int).tolist()
    curve: list[dict[str, Any]] = []
    looks: list[Look] = []

    def watch(learner: Policy, step: int, episodes: int, tokens: int) -> None:
        if step in steps:
            last = step == settings.iterations
            count = settings.held_out if last else settings.watched
            looks.append(look(learner, reference, task, count, reward))
            curve.append(looks[-1].point(step, episodes, tokens))

    watch(policy, 0, 0, 0)
    paid = reward if scale == 1 else scale * reward
    train = _train_sb3 if optimiser.startswith("sb3.") else partial(_train, store)
    options = {**settings.optimiser(optimiser), "seed": seed, "kl_coef": kl_coefficient}
    episodes, tokens = train(settings, optimiser, policy, paid, options, watch)
    return Learning(curve, looks, episodes, tokens)


Watch = Callable[[Any, int, int, int], None]  # policy, iteration, episodes and tokens so far


def _train(
    store: RolloutStore | None,
    settings: Settings,
    name: str,
    policy: Policy,
    reward: RewardSource,
    options: dict[str, Any],
    watch: Watch,
) -> tuple[int, int]:
    """Train with one of our own algorithms or the user's; return the episodes and tokens played."""
    own = settings.algorithms.get(name)
    if own is not None and content_of(own.spec) != own.content:
        raise ConfigError(f"{own.spec} was changed while the benchmark ran; give the same command again")
    algorithm = load_algorithm(_ALGORITHMS.get(name, name) if own is None else own.spec)
    env = TextVectorEnv(
        **settings.load_task().env_kwargs(reward=reward),
        num_envs=settings.episodes,
        numbering="global",
        context=policy.context,
    )
    agent = algorithm(
        policy, env, _config(algorithm.config_class, name, {**options, "iterations": settings.iterations})
    )
    if store is not None:
        agent.recorder = Recorder(store.wants, store.write)

    def after_iteration(_: Any, metrics: dict[str, float]) -> None:
        if store is not None and store.wants(agent.iteration):
            store.note(metrics)
        watch(agent.policy, agent.iteration, agent.episodes_played, agent.tokens_played)

    agent.learn(callback=after_iteration)
    return agent.episodes_played, agent.tokens_played


def _train_sb3(
    settings: Settings, name: str, policy: Policy, reward: RewardSource, options: dict[str, Any], watch: Watch
) -> tuple[int, int]:
    """Train with Stable-Baselines3 and a language-model policy; return the episodes and tokens played."""
    from stable_baselines3.common.callbacks import BaseCallback

    task = settings.load_task()
    config = _config(
        SB3Config, name, {**options, "iterations": settings.iterations, "num_envs": settings.episodes}
    )
    model = make_sb3(name.removeprefix("sb3."), task, config, policy=policy, device="cpu", reward=reward)
    size = config.num_envs * (config.n_steps or task.max_tokens)

    class Watcher(BaseCallback):
        """Counts episodes and evaluates the policy after each update."""

        finished = 0

        def _on_step(self) -> bool:
            self.finished += sum("episode" in info for info in self.locals["infos"])
            return True

        def _on_rollout_start(self) -> None:  # the update before it is done
            if self.num_timesteps:
                iteration = self.num_timesteps // size
                watch(self.model.policy.language_model, iteration, self.finished, self.num_timesteps)

    watcher = Watcher()
    model.learn(size * settings.iterations, callback=watcher, log_interval=2**31)
    watch(model.policy.language_model, settings.iterations, watcher.finished, watcher.num_timesteps)
    return watcher.finished, watcher.num_timesteps


def _config(config_class: type[Any], optimiser: str, options: dict[str, Any]) -> Any:
    try:
        return config_class(**options)
    except TypeError as error:
        raise ConfigError(f"{optimiser} has no such setting: {error}") from error


def look(policy: Policy, reference: Policy, task: Task, count: int, reward: RewardSource) -> Look:
    """Let a policy complete held-out prompts, and score the texts by gold and by the reward under test.

    Where there are fewer prompts, they come again, with other luck.
    """
    rows = min(count, _ROWS)
    env = TextVectorEnv(
        **task.env_kwargs(prompts=task.held_out[:count]),
        num_envs=rows,
        shuffle=False,
        numbering="global",
        context=policy.context,
    )
    episodes: list[Episode] = []
    gold, terms, kl = [], [], []
    for first in range(0, count, rows):
        index = np.arange(first, first + rows)  # of the last batch, the surplus is cut
        batch = rollout(policy, env, index, seed=_NOISE)
        texts = (batch.tokens, batch.host_starts, batch.host_lengths)
        ratio = policy.score(*texts) - reference.score(*texts)
        kl.append(ratio.sum(dim=1).double().cpu().numpy())
        gold.append(batch.scores.totals_or_nan)
        terms.append(batch.scores.terms)
        episodes += batch.episodes
    episodes = episodes[:count]
    joined = {k: np.concatenate([np.asarray(part[k], dtype=np.float64) for part in terms]) for k in terms[0]}
    return Look(
        episodes,
        np.concatenate(gold)[:count],
        {name: values[:count] for name, values in joined.items()},
        reward(episodes).totals_or_nan,
        np.concatenate(kl)[:count],
    )


def mean_or_none(values: FloatArray | None) -> float | None:
    """Return the mean of the known values, or None."""
    known = np.zeros(0) if values is None else values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def perfect(terms: dict[str, FloatArray]) -> FloatArray | None:
    """Return gold's term for texts that are right in all respects, if it has one."""
    return next((terms[name] for name in ("perfect", "exact") if name in terms), None)
