"""Agent: the loop all algorithms share; a subclass says only how a rollout becomes a better policy."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from text_gym.agents.environments import AgentEnv, as_config, as_policy, as_text_vector_env
from text_gym.agents.policies.policy import Policy
from text_gym.agents.policies.sharded import ShardedWeights
from text_gym.agents.sampling.evaluation import complete
from text_gym.agents.sampling.generators import Generator, check_int8_rollout
from text_gym.agents.sampling.overlap import check_overlap
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.agents.training.checkpoint import Checkpoints
from text_gym.agents.training.diagnostics import Advisor, Objective, never_scored, why_unscored
from text_gym.agents.training.hacking import HackingDetector
from text_gym.agents.training.metrics import Metrics
from text_gym.agents.training.progress import training_progress
from text_gym.agents.training.recorder import Recorder
from text_gym.agents.training.tensors import make_optimizer
from text_gym.agents.training.together import begin_alike, check_shares, score_in_shares, shard_agent
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Prompt, share_cut
from text_gym.errors import ConfigError, NonFiniteError, NoScoresError
from text_gym.models.runtime import (
    allow_tf32,
    check_before_iteration,
    check_separate,
    check_unchanged,
    clip_each,
    fingerprint,
    keep_freed_memory,
    limited_threads,
    memory_mib,
    reward_modules,
    unchanged,
)
from text_gym.models.world import World
from text_gym.rewards.source import RewardSource

from .configs import AgentConfig
from .estimators import KLController
from .groups import play_in_groups

LOG = logging.getLogger("text_gym")
Callback = Callable[["Agent[Any]", Metrics], "bool | None"]
ConfigT = TypeVar("ConfigT", bound=AgentConfig)


class Agent(ABC, Generic[ConfigT]):
    """A policy that learns in an environment; the base of every algorithm, ours and yours.

    An algorithm is an `update` and its settings, a frozen dataclass derived from `AgentConfig`. It takes
    steps by `self.step(loss)`, and adds what it remembers to `state_dict` and `load_state_dict`. The page
    "Bring your own algorithm" has one of 34 lines; `check_agent` tries what has to hold.

    Args:
        policy: The policy to train, in place; or the folder of a saved one.
        env: Its `num_envs` is the episodes `B` an iteration; `as_text_vector_env` says what else it may be.
        config: The algorithm's settings; its defaults if None.
        reference: The policy to stay close to; a frozen copy of `policy` as it is now if None.
        generator: Who writes with the policy's weights, e.g. a `VLLMGenerator`; None is the policy itself.

    Attributes:
        networks: The networks that are trained, by name, the policy first; `step` clips each by itself.
        iteration: Iterations done.
        unscored_batches: Batches in a row, up to the last one, of which the reward source scored no episode.
        between_iterations: False during an update, and after one that failed: no checkpoint can be taken.
        objective: reward − β·KL on the batches so far; silent where an algorithm does not know its KL.
        world: The processes that it learns together with; None where it learns alone.
        declined: How the objective fell, in a sentence, or None; with `on_decline="stop"` the agent stops.
        recorder: Records what updates do to tokens, for the viewer of runs; None, as it is, records nothing.
        detector: Looks at every batch for signs that the reward is hacked; None, as it is, looks at nothing.

    Raises:
        NonFiniteError: A weight of the reference is NaN or infinite.
        GuardError: Reference or reward model share trained weights with the policy.
        ConfigError: The environment's `num_envs` is not a multiple of `config.group_size`.
    """

    config_class: ClassVar[type[AgentConfig]] = AgentConfig

    def __init__(
        self,
        policy: Policy | str | Path,
        env: AgentEnv,
        config: ConfigT | None = None,
        reference: Policy | None = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        keep_freed_memory()
        self.config: ConfigT = as_config(config, self.config_class)  # type: ignore[assignment]
        self.env = env = as_text_vector_env(env)
        self.policy = policy = as_policy(policy, env)
        allow_tf32(policy.device)
        self.networks: dict[str, nn.Module] = {"policy": policy}
        self.reference = reference or policy.frozen()
        self.reference.check_finite()
        check_separate(policy, {"the reference policy": self.reference, **reward_modules(self.reward)})
        self.optimizer = make_optimizer(self.parameter_groups(), policy.device)
        if self.config.group_size > 1:
            play_in_groups(env, self.config.group_size)
        self.kl = KLController(self.config.kl_coef, self.config.kl_target)
        if self.config.rollout_weights == "int8":
            check_int8_rollout(policy, generator)
        if self.config.overlap_scoring:
            check_overlap(self.reward)
        self.sampling, self.generator = Sampling(temperature=self.config.temperature), generator
        self.advisor, self.objective = Advisor(), Objective()
        self.world: World | None = None
        self.shards: ShardedWeights | None = None
        self.declined: str | None = None
        self.recorder: Recorder | None = None
        self.detector: HackingDetector | None = None
        self.iteration = self.episodes_played = self.tokens_played = self.unscored_batches = 0
        self.between_iterations = True
        self._reference_was = fingerprint(self.reference)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(iteration {self.iteration}, {self.episodes_played:,} episodes played)"

    def join(self, world: World, *, shard: bool = False) -> None:
        """Learn together with other processes, each of which has an agent like this one.

        They begin with what rank 0 has. Each plays, scores and differentiates its share of every batch;
        batches, metrics and steps are those of one alone, but for the order in which gradients are added.

        Args:
            world: The processes.
            shard: Divide the weights among them (FSDP2). All then call `predict` and `save` together.

        Raises:
            ConfigError: The episodes cannot be divided, or a generator writes them; or it cannot be sharded.
        """
        check_shares(self, world)
        self.world = world
        begin_alike(self, world)
        if shard:
            self.shards, self.optimizer = shard_agent(self, self.parameter_groups)
        self._reference_was = fingerprint(self.reference)

    @abstractmethod
    def update(self, batch: Rollout) -> Metrics:
        """Learn from `batch.only(batch.scored)`; return metrics (where it tracks an objective, `kl` too)."""

    def learn(
        self, iterations: int | None = None, callback: Callback | None = None, *, progress: bool = False
    ) -> Agent[ConfigT]:
        """Play and update until `config.iterations` (or this many more) are done.

        Args:
            iterations: How many; None means what is left of `config.iterations`.
            callback: Called after every iteration with agent and metrics; learning stops at False.
            progress: Show live curves in a notebook, a bar in a terminal, a line now and then elsewhere.

        Raises:
            RewardError: The reward source failed; nothing was updated from that batch.
            NoScoresError: It scored nothing in `config.max_unscored` batches in a row; `learn` may go on.
            NonFiniteError: A weight, loss or gradient was NaN or infinite; the weights are those before it.
            GuardError: Dropout is on, or reference or reward model were changed along with the policy.
        """
        last = self.config.iterations if iterations is None else self.iteration + iterations
        telling = nullcontext() if self.world is None else self.world.telling()
        with telling, training_progress(True, last) if progress else nullcontext() as show:
            while self.iteration < last and not self.stopped:
                metrics = self._iterate()
                if show is not None:
                    show(metrics)
                leave = callback is not None and callback(self, metrics) is False
                if leave if self.world is None else self.world.any(leave):
                    break
                if self.unscored_batches >= self.config.max_unscored:
                    raise NoScoresError(never_scored(self.env, self.unscored_batches))
        return self

    @property
    def stopped(self) -> bool:
        """True once the agent learns no further because its objective fell."""
        return self.declined is not None and self.config.on_decline == "stop"

    def _iterate(self) -> Metrics:
        """Play a batch, learn from it, count it, and check that nothing changed that should not."""
        started = time.perf_counter()
        check_before_iteration(self.networks, self.reference, reward_modules(self.reward))
        batch = self._collect_or_restore()
        played = time.perf_counter()
        self._set_learning_rate()
        self.between_iterations = False
        if batch.scored.any():
            self.unscored_batches = 0
            with unchanged(reward_modules(self.reward)), limited_threads(*self.networks.values()):
                metrics = self.update(batch) if self.recorder is None else self.recorder.update(self, batch)
            check_unchanged(self.reference, self._reference_was, "the reference policy")
        else:
            metrics = self._skip()
        self.iteration += 1
        self.episodes_played += len(batch.episodes)
        self.tokens_played += batch.num_tokens
        metrics |= {**batch.metrics(), "unscored_batches": self.unscored_batches}
        if not self.unscored_batches:
            for advice in self.advisor.look(batch, metrics, self.kl.coefficient):
                LOG.warning("iteration %d: %s", self.iteration, advice)
        if self.detector is not None:
            metrics |= self.detector.look(batch, self.iteration)
        if self.objective.declined and self.declined is None:
            self.declined = self.objective.sentence(self.iteration, metrics["kl"], share_cut(batch.episodes))
            LOG.warning("%s%s", self.declined, "; learning stops here" if self.stopped else "")
        self.between_iterations = True
        seconds = time.perf_counter() - started
        counts = {"iteration": self.iteration, "episodes": self.episodes_played, "tokens": self.tokens_played}
        times = {"seconds": seconds, "rollout_seconds": played - started}
        times |= {"tokens_per_second": batch.num_tokens / seconds}
        return metrics | counts | times | memory_mib(self.policy.device)

    def _skip(self) -> Metrics:
        """Count a batch without scores and learn nothing from it; warn about the first in a row."""
        self.unscored_batches += 1
        if self.unscored_batches == 1:
            LOG.warning("%s: %s; nothing is learnt from them", self.where, why_unscored(self.env))
        return {"updates": 0, "kl_coef": self.kl.coefficient}

    def _collect_or_restore(self) -> Rollout:
        """Play; if that fails, make the reward source forget the attempt."""
        try:
            remembered = self.reward.state_dict()
        except ConfigError:  # out of reach in another process, as a checkpoint will say
            return self.collect()
        try:
            return self.collect()
        except BaseException:
            self.reward.load_state_dict(remembered)
            raise

    def collect(self) -> Rollout:
        """Play the next `B` episodes of the stream `config.seed`."""
        index = self.episodes_played + np.arange(self.env.num_envs)
        how: dict[str, Any] = {"seed": self.config.seed, "sampling": self.sampling, "world": self.world}
        how |= {"keep_states": self.reads_states, "generator": self.generator, "meanwhile": self.read_ahead}
        how |= {"weights": self.config.rollout_weights, "overlap_scoring": self.config.overlap_scoring}
        return rollout(self.whole_policy(), self.env, index, **how)

    def whole_policy(self) -> Policy:
        """Return the policy; where its weights are sharded, a whole copy, for which all call this."""
        return self.policy if self.shards is None else self.shards.policy()

    def predict(self, prompts: Sequence[Prompt | str], *, greedy: bool = True, seed: int = 0) -> list[str]:
        """Complete prompts with the policy as it is now."""
        how: dict[str, Any] = {"temperature": self.config.temperature, "greedy": greedy, "seed": seed}
        return complete(self.whole_policy(), self.env, prompts, **how)

    def save(self, folder: str | Path, *, resumable: bool = False) -> None:
        """Write the policy as a Hugging Face folder.

        Args:
            folder: Where.
            resumable: Add a checkpoint, about four times as large, from which `load` goes on as this agent.
        """
        policy = self.whole_policy()
        if self.shards is None or self.world is None or self.world.rank == 0:
            policy.save(folder)
        if resumable:
            Checkpoints(Path(folder) / "checkpoints", keep=1).save(self, overwrite=True)

    @classmethod
    def load(
        cls, folder: str | Path, env: TextVectorEnv, config: Any = None, device: str = "auto"
    ) -> Agent[Any]:
        """Make an agent that goes on from a saved policy.

        A folder saved as `resumable` restores everything: reference, optimizer, counters, the reward source's
        memory and, if none is given, the configuration. Any other policy is both start and reference.
        """
        checkpoints = Checkpoints(Path(folder) / "checkpoints", keep=1)
        state = checkpoints.newest_state() or {"dtype": "float32", "settings": {}}
        own = (Path(folder) / "tokenizer.json").is_file()  # byte and word tokenizers have no file
        tokenizer = None if own else env.tokenizer
        policy = Policy.from_pretrained(folder, tokenizer, device=device, dtype=state["dtype"])
        config = config or cls.config_class(**state["settings"])
        if "agent" not in state:
            return cls(policy, env, config)
        agent = cls(policy, env, config, checkpoints.reference(env.tokenizer, device).requires_grad_(False))
        checkpoints.load(agent)
        return agent

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides weights and the optimizer's state, as plain JSON data.

        A subclass that remembers more adds it here and in `load_state_dict`. There is no random generator in
        it: prompts, noise and minibatches are functions of `config.seed` and of these counters.
        """
        return {
            "iteration": self.iteration,
            "episodes_played": self.episodes_played,
            "tokens_played": self.tokens_played,
            "unscored_batches": self.unscored_batches,
            "kl_coefficient": self.kl.coefficient,
            "advice": dict(self.advisor.lasted),
            "objective": self.objective.state_dict(),
            "declined": self.declined,
            "detector": None if self.detector is None else self.detector.state_dict(),
            "reward": self.reward.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.reward.load_state_dict(state["reward"])
        self.iteration, self.unscored_batches = state["iteration"], state.get("unscored_batches", 0)
        self.episodes_played, self.tokens_played = state["episodes_played"], state["tokens_played"]
        self.kl.coefficient = state["kl_coefficient"]
        self.advisor.lasted = dict(state["advice"])
        self.objective = Objective.of(state.get("objective"))  # checkpoints of earlier versions have none
        self.declined = state.get("declined")
        if self.detector is not None and state.get("detector") is not None:
            self.detector.load_state_dict(state["detector"])

    def settings(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return {"algorithm": type(self).__name__.lower(), **asdict(self.config)}

    # For subclasses
    reads_states = False  # whether rollouts keep the policy's states

    def read_ahead(self, batch: Rollout) -> dict[str, Tensor]:
        """Compute columns of a rollout, `(B, T)`, by name, while its last rewards are awaited."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: `params`, the full learning rate `lr`, `warmup` (True if absent)."""
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        return [{"params": trained, "lr": self.config.learning_rate}]

    def reference_log_probs(self, batch: Rollout) -> Tensor:
        """Score the batch's tokens with the reference policy: log-probabilities `(B, T)`, in nats."""
        if batch.reference_log_probs is not None:
            return batch.reference_log_probs
        reference = self.reference if self.shards is None else self.shards.reference()
        score = partial(reference.score, temperature=self.config.temperature)
        if self.world is not None:
            return score_in_shares(self.world, batch, self.policy, score)
        return score(batch.tokens, batch.host_starts, batch.host_lengths, action_masks=batch.action_masks)

    def track_objective(self, batch: Rollout, reference: Tensor) -> Metrics:
        """Add the policy's own texts to `objective` and return its metrics; to be called before β is adapted.

        Args:
            batch: `B` episodes.
            reference: `(B, T)`, nats, as `reference_log_probs` gave them.
        """
        kl = ((batch.log_probs - reference) * batch.mask).sum(dim=1).double().cpu().numpy()
        return self.objective.add(batch, kl, self.kl.coefficient, self.iteration, self.env.batch.group_size)

    def step(self, loss: Tensor) -> float:
        """Take one optimizer step down the gradient of a loss, a number.

        The gradient of each network is clipped to `max_grad_norm` separately.

        Returns:
            The norm of the policy's gradient before clipping.

        Raises:
            NonFiniteError: The loss or a gradient is not finite; the weights are untouched.
        """
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss.item()} in {self.where}; nothing was updated")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_each(list(self.networks.values()), self.config.max_grad_norm, self.iteration + 1)
        self.optimizer.step()
        return norm

    @property
    def where(self) -> str:
        """The iteration in progress, for errors."""
        return f"iteration {self.iteration + 1}"

    @property
    def reward(self) -> RewardSource:
        """The source of the environment's rewards."""
        return self.env.batch.reward

    def _set_learning_rate(self) -> None:
        config = self.config
        share = 1.0 - self.iteration / max(1, config.iterations) if config.anneal else 1.0
        warm = min(1.0, (self.iteration + 1) / max(1, config.warmup))
        for group, full in zip(self.optimizer.param_groups, self.parameter_groups(), strict=True):
            group["lr"] = full["lr"] * max(0.0, share) * (warm if full.get("warmup", True) else 1.0)
