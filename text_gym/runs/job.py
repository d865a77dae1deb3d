"""A training run as data: the job it is given, and the outcome it leaves; `train` does the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.dpo import Preference
from text_gym.agents.own_algorithms import short_name
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.vllm_generator import VLLMGenerator
from text_gym.agents.training.checkpoint import Checkpoints, Choice
from text_gym.agents.training.hacking import LEAST_TEXTS, HackingDetector
from text_gym.agents.training.recorder import Recorder
from text_gym.episode import Episode
from text_gym.errors import ConfigError
from text_gym.models.sizes import Sizes
from text_gym.models.world import World
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task
from text_gym.utils.stopping import Stop
from text_gym.viewer.page import keeps_rollouts, write_run_page
from text_gym.viewer.store import RolloutStore

from .conditions import conditions, reward_conditions
from .folder import RunFolder, Sample
from .judgement import GoldWatch, Judgement
from .model_card import ModelCard, write_model_card
from .origin import Start, load_policy, write_origin

CHECKPOINTS = "checkpoints"  # in a run's folder


@dataclass(frozen=True)
class TrainingJob:
    """Everything a run needs in order to learn; the fields are the arguments of `train`.

    `came_from` says which policy `policy` was before anything was learnt. With `pairs` the reward is what
    texts are judged by, and not what is optimised.
    """

    algorithm: str
    config: Any
    task: Task
    reward: RewardSource
    policy: Policy | None
    episodes: int
    limit: Literal["end", "truncate"]
    device: str
    checkpoint_every: int
    came_from: Start | None = None
    pairs: Sequence[Preference] = ()
    generator: Literal["vllm"] | None = None
    keep_rollouts: int = 0
    watch: Sequence[RewardSource] = ()
    stop_on_alarm: bool = False
    world: World | None = None
    shard: bool = False
    sizes: Sizes | None = None

    def __post_init__(self) -> None:
        if self.keep_rollouts < 0:
            raise ConfigError(f"keep_rollouts is {self.keep_rollouts}; it must be 0 (none) or more")
        if self.keep_rollouts and (self.pairs or self.algorithm.startswith("sb3.")):
            raise ConfigError(f"rollouts of {self.algorithm} cannot be kept; leave out keep_rollouts")
        if (self.watch or self.stop_on_alarm) and (self.pairs or self.algorithm.startswith("sb3.")):
            raise ConfigError(f"texts of {self.algorithm} are not watched; leave out watch and stop_on_alarm")
        if self.checkpoint_every < 0:
            raise ConfigError(f"checkpoint_every is {self.checkpoint_every}; it must be 0 (none) or more")
        if self.generator is not None and (self.pairs or self.algorithm.startswith("sb3.")):
            raise ConfigError(f"{self.algorithm} plays no texts by a generator; leave out generator")
        if self.shard and (self.pairs or self.algorithm.startswith("sb3.")):
            raise ConfigError(f"the weights of {self.algorithm} cannot be sharded; leave out shard")
        if self.shard and self.keep_rollouts:
            raise ConfigError("a run with sharded weights keeps no rollouts; leave out one of the two")
        if self.world is not None and self.algorithm.startswith("sb3."):
            raise ConfigError(f"{self.algorithm} learns in one process; start it without torchrun")

    @property
    def optimised(self) -> str | None:
        """The name of the reward that is optimised; None where preference pairs are learnt from."""
        return None if self.pairs else self.reward.name

    @property
    def iterations(self) -> int:
        """The number of iterations there will be; of preference pairs, the optimizer steps."""
        return int(self.config.steps(len(self.pairs)) if self.pairs else self.config.iterations)

    @property
    def title(self) -> str:
        """What is learnt, by which algorithm, from what, in one line."""
        source = f"{len(self.pairs):,} pairs" if self.pairs else f"reward {self.reward.name}"
        return f"{self.task.name} · {short_name(self.algorithm)} · {source} · seed {self.config.seed}"

    def settings(self) -> dict[str, Any]:
        """Return the settings for `config.json`."""
        played = {"reward": self.reward.name, "episodes": self.episodes, "limit": self.limit}
        asked = {
            "generator": self.generator,
            "watch": [source.name for source in self.watch],
            "stop_on_alarm": self.stop_on_alarm,
            "sizes": None if self.sizes is None else dataclasses.asdict(self.sizes),
        }
        return {
            "task": self.task.name,
            "algorithm": self.algorithm,
            **({"pairs": len(self.pairs)} if self.pairs else played),
            **dataclasses.asdict(self.config),
            **{name: value for name, value in asked.items() if value},
        }

    def conditions(self, specs: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Return what else the results depend on; `specs` says how things were named on a command line."""
        library = self.algorithm.startswith("sb3.")
        found = conditions(
            self.task,
            self.reward,
            algorithm=None if library or self.pairs else load_algorithm(self.algorithm),
            specs=specs,
            libraries=("stable-baselines3",) if library else (),
        )
        named = (specs or {}).get("watch") or [None] * len(self.watch)
        for i, (source, spec) in enumerate(zip(self.watch, named, strict=True), 1):
            found |= reward_conditions(f"criterion {i}", source, spec)
        return found

    def save_policy(self, run: RunFolder, save: Callable[[Path], None]) -> None:
        """Write the policy of a run, with its origin and its model card."""
        folder, start = run.path / "policy", self.came_from
        save(folder)
        if start is not None and (run.path / CHECKPOINTS / "reference").is_dir():
            start = start.also_at(run.path / CHECKPOINTS / "reference")
        write_origin(folder, self.task.settings, self.task.max_tokens, start, self.optimised)
        self.write_card(run)

    def write_card(
        self, run: RunFolder, summary: Mapping[str, Any] | None = None, samples: Sequence[Sample] = ()
    ) -> None:
        """Write the model card beside the policy; figures and texts as far as they are known."""
        settings = {**self.settings(), "algorithm": short_name(self.algorithm)}
        card = ModelCard(settings["algorithm"], settings, self.optimised, summary, samples)
        write_model_card(run.path / "policy", card)

    def recorder(self, run: RunFolder, iteration: int) -> Recorder | None:
        """Make the recorder that keeps rollouts after this iteration; None if none are kept."""
        if not self.keep_rollouts:
            return None
        store = RolloutStore(run.path, self.keep_rollouts, self.iterations)
        store.rewind(iteration)
        return Recorder(store.wants, store.write)

    def detector(self, start: Sequence[Episode]) -> HackingDetector | None:
        """Make the detector of reward hacking, from texts of the policy as it is; None if these are too few.

        Raises:
            ConfigError: There are too few, and criteria to be watched or an alarm to stop at.
        """
        if len(start) < LEAST_TEXTS and not self.watch and not self.stop_on_alarm:
            return None
        return HackingDetector(start, self.watch, self.task.golden, self.reward)

    def write_view(self, run: RunFolder) -> None:
        """Write the page of the rollouts that were kept, if there are any."""
        if keeps_rollouts(run.path):
            write_run_page(run.path)

    def make_generator(self, tokens: int) -> VLLMGenerator | None:
        """Make the generator that plays texts of at most so many tokens; None for the policy itself."""
        if self.generator is None or self.policy is None:
            return None
        dtype = "bfloat16" if self.policy.bf16 else self.policy.weights_dtype
        return VLLMGenerator(self.policy, dtype=dtype, max_model_len=tokens)

    def gold_watch(self) -> GoldWatch | None:
        """Make the watch that measures gold during training; None if gold is optimised itself or unknown.

        Sharded weights are not watched: no process has all of them while they learn.
        """
        gold = self.task.reward
        if self.shard:
            return None
        if self.reward is gold or not self.task.has_gold or gold.interactive or self.policy is None:
            return None
        return GoldWatch(self.task, self.episodes, self.iterations, self.policy.context)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of learning: judgements, counts, whose policy was kept, and whether the objective fell.

    `first_look` is that of `GoldWatch` before learning, where there is one.
    """

    before: Judgement
    after: Judgement
    tokens: int
    iterations: int
    choice: Choice
    declined: str | None = None
    first_look: dict[str, float] | None = None
    alarm: str | None = None

    def summary(self) -> dict[str, Any]:
        """Return the fields of `summary.json` that learning determines."""
        return {
            "before": self.before.summary,
            "after": self.after.summary,
            "kl_nats": self.after.sampled.kl.mean,
            "tokens": self.tokens,
            "iterations": self.iterations,
            "policy_of_iteration": self.choice.iteration,
            "objective": self.choice.objective,
            "declined": self.declined,
            "hacking_alarm": self.alarm,
        }

    def samples(self, job: TrainingJob) -> list[Sample]:
        """Collect prompt, text and rewards before, and text and rewards after, for every held-out prompt."""

        def side(judgement: Judgement, i: int) -> tuple[str, dict[str, float]]:
            return _shown(judgement.sampled.episodes[i]), judgement.scores(i, job.task, job.reward)

        prompts = [e.prompt.text for e in self.before.sampled.episodes]
        return [(p, *side(self.before, i), *side(self.after, i)) for i, p in enumerate(prompts)]


def policy_to_begin_with(
    algorithm: str,
    task: Task,
    policy: Policy | str | Path | None,
    device: str,
    resumed: Path | None,
    dtype: str,
) -> Policy | None:
    """Load the policy a run starts from; a resumed run keeps a copy of it.

    Args:
        algorithm: Name of the algorithm.
        task: The task, whose own policy it is if none is given.
        policy: Policy, folder or hub model.
        device: Where to.
        resumed: The folder of a run that goes on.
        dtype: Of its weights.

    Raises:
        ConfigError: There is no policy, it has other tokens than the task, or the run cannot be resumed.
    """
    library = algorithm.startswith("sb3.")
    if resumed is not None and algorithm == "dpo":
        raise ConfigError("runs of dpo take no checkpoints and cannot be resumed; begin anew")
    if resumed is not None and not library and (resumed / CHECKPOINTS).is_dir():
        kept = Checkpoints(resumed / CHECKPOINTS)
        if kept.newest_state() is not None:
            return kept.reference(task.tokenizer, device)
    policy = policy or task.policy
    if policy is None and not library:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy new, or --policy FOLDER")
    if policy is None:
        return None
    start = policy if isinstance(policy, Policy) else load_policy(policy, device, task, dtype)
    if start.weights_dtype == "float32":
        start.model.to(getattr(torch, dtype))
    if start.tokenizer.fingerprint != task.tokenizer.fingerprint:
        raise ConfigError(
            f"the policy reads and writes other tokens than task {task.name!r}; give it prompts of your own "
            "(--data FILE --reward NAME), or take the task's own policy"
        )
    return start


def _shown(episode: Episode) -> str:
    """Return an episode's text; in a conversation the replies stand in brackets, with who wrote them."""
    if not episode.turns:
        return episode.completion
    texts = ((turn.role, episode.tokenizer.decode(turn.ids.tolist())) for turn in episode.turns)
    return " ".join(text if role == "assistant" else f"[{role}: {text}]" for role, text in texts)


# Takes the run's folder, what stops it, what takes an iteration's metrics, and what says what is waited for.
Learner: TypeAlias = Callable[
    [RunFolder, Stop, Callable[[dict[str, float]], bool], Callable[[str], None]], TrainingOutcome
]
