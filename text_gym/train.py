"""The main job: train a policy by reinforcement learning, with before and after on held-out prompts.

`train` is what `text-gym train` calls; it can be called from Python alike. It knows files, progress
and tables; how a policy learns is in `text_gym.agents`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from rich.console import Console

from .console import Notes, Sample, progress, show_results
from .data import prompts_from, read_rows
from .errors import ConfigError, DataError, RaterLeftError
from .report import RunFolder, default_folder
from .reward import FunctionReward, RewardSource
from .stopping import Stop, stop_signals
from .task import Task, load_task, split_by_prompt
from .tokenizer import PretrainedTokenizer
from .vector import TextVectorEnv

if TYPE_CHECKING:
    from text_gym.agents import Agent, AgentConfig, Checkpoints, Choice, Policy, Report, SB3Config

Learner: TypeAlias = "Callable[[RunFolder, Stop, Callable[[dict[str, float]], bool]], Outcome]"
LOG = logging.getLogger("text_gym")
SETTINGS = "text_gym.json"  # beside a policy trained here: how its data was read
CHECKPOINTS = "checkpoints"  # in a run's folder


@dataclass(frozen=True)
class Data:
    """Where prompts come from when it is not a task.

    Args:
        data: File (.csv, .tsv, .jsonl, .json, .parquet), folder saved by `datasets`, or hub data set.
        prompt: Column of the prompts.
        reference: Column of reference completions.
        held_out: Share of the distinct prompts that is held out for judging, in (0, 1).
        separator: Text written after each prompt, so that the policy can tell where it ends.
    """

    data: str | None = None
    prompt: str = "prompt"
    reference: str | None = None
    held_out: float = 0.2
    separator: str = "\n"

    def load(self) -> tuple[list[Any], list[Any]]:
        """Prompts to learn on and to judge on."""
        if self.data is None:
            raise ConfigError("pass --data FILE (or the name of a data set)")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it must be between 0 and 1")
        rows = read_rows(self.data)
        train, held_out = split_by_prompt(
            prompts_from(rows, self.prompt, self.reference, self.separator), self.held_out
        )
        if not train or not held_out:
            raise DataError(
                f"{self.data} has too few distinct prompts to hold out {self.held_out:.0%} of them"
            )
        return train, held_out


def load_reward_source(spec: str, prompts: Sequence[Any]) -> RewardSource:
    """A reward by name, `module:function`, `file.py:function`, or folder."""
    from text_gym.reward_models import load_reward

    return load_reward(spec, prompts=prompts)


def resolve_task(
    task: str, data: Data, reward: str | None, policy: str | None, max_tokens: int | None
) -> tuple[Task, RewardSource]:
    """The task to learn (its reward is the gold one) and the reward to optimise.

    Raises:
        ConfigError: Data without a policy or a reward to go with it.
    """
    if data.data is None:
        found = load_task(task)
        if max_tokens is not None:
            found = dataclasses.replace(found, max_tokens=max_tokens)
        return found, load_reward_source(reward, found.prompts) if reward else found.reward
    if policy is None:
        raise ConfigError(
            "--data needs a --policy that can write such texts; make one with `text-gym sft --data …`"
        )
    if reward is None:
        raise ConfigError("--data needs a --reward, e.g. --reward slots; see `text-gym train --help`")
    settings = read_settings(policy)
    given = {f.name: getattr(data, f.name) for f in dataclasses.fields(Data)}
    defaults = {f.name: f.default for f in dataclasses.fields(Data)}
    data = Data(**{k: settings.get(k, v) if v == defaults[k] else v for k, v in given.items()})
    train, held_out = data.load()
    source = load_reward_source(reward, [*train, *held_out])
    found = Task(
        name=Path(str(data.data)).stem,
        prompts=train,
        held_out=held_out,
        tokenizer=PretrainedTokenizer.from_pretrained(policy),
        reward=source,
        max_tokens=max_tokens or int(settings.get("max_tokens", 64)),
    )
    return found, source


def read_settings(policy: str | Path) -> dict[str, Any]:
    """How the data of a policy trained here was read; empty for other policies."""
    file = Path(policy) / SETTINGS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def train(
    algorithm: str,
    config: AgentConfig | SB3Config,
    task: Task,
    *,
    reward: RewardSource | None = None,
    policy: Policy | str | Path | None = None,
    lora: int | None = None,
    adapter_only: bool = False,
    bf16: bool = False,
    gradient_checkpointing: bool = False,
    episodes: int = 64,
    limit: Literal["end", "truncate"] = "end",
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, judge on the held-out prompts before and after, and write the run's folder.

    It ends with the last policy, or with that of the best checkpoint where its reward − β·KL, on the run's
    own batches, was larger by more than noise (`Checkpoints.take_best`).
    A run that was interrupted, in whatever way, goes on with `resume` from its last checkpoint; on a CPU its
    summary, metrics (`text_gym.agents.TIMES` aside) and policy are then those of the uninterrupted run.

    Args:
        algorithm: Name of the algorithm, e.g. `"ppo"`, or `"sb3.ppo"` for that of Stable-Baselines3.
        config: Its settings.
        task: Prompts, held-out prompts and the gold reward.
        reward: What is optimised; the task's gold reward if None.
        policy: Policy, folder or hub model; the task's own if None. Algorithms of
            Stable-Baselines3 start from scratch where there is neither.
        lora: Rank of a LoRA adapter to train in place of the policy's weights (`agents.LoRAPolicy`).
        adapter_only: Save the adapter alone, not merged into the weights.
        bf16: Make matrix products in bfloat16 (`agents.Policy.use_less_memory`).
        gradient_checkpointing: Need less memory for a third more work in updates (likewise).
        episodes: Episodes per iteration (Stable-Baselines3: see `num_envs` and `n_steps` in its config).
        limit: What the token limit means while the policy learns: "end" pays a text as it stands, "truncate"
            learns nothing from a text that was cut (see `TextVectorEnv`). Evaluations pay texts as they
            stand.
        out: Folder for the results; `runs/<task>-<algorithm>-<time>` if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.
        checkpoint_every: Iterations between two checkpoints (and one at the end, however that comes), of
            which the last two and the best one are kept; 0 takes none, and the policy is the last. Algorithms
            of Stable-Baselines3 take none.
        resume: Go on with the run in `out`; the other arguments must be those it was started with.
        options: More to keep in `config.json`: what a command line needs to call this again.

    Returns:
        The summary, as in `summary.json`; `interrupted` tells whether Ctrl-C ended it early.

    Raises:
        ConfigError: The task has no policy, or other tokens than the policy, or `out` holds a run (or, to be
            resumed, none like this one), or is in use by another process.
        NoScoresError: The reward scored no episode of `config.max_unscored` batches in a row; a checkpoint
            was taken.
        SystemExit: SIGTERM or SIGHUP came; a checkpoint was taken.
    """
    if resume and not checkpoint_every:
        raise ConfigError(f"the run in {out} takes no checkpoints (checkpoint_every=0) and cannot be resumed")
    console = console or Console()
    folder = Path(out) if out else default_folder(task.name, algorithm)
    start = _starting_policy(algorithm, task, policy, device, folder if resume else None)
    if lora is not None:
        start = _with_adapter(algorithm, start, lora, not adapter_only, config.seed)
    if start is not None and (bf16 or gradient_checkpointing):
        start.use_less_memory(bf16=bf16, gradient_checkpointing=gradient_checkpointing)
    job = Job(
        algorithm, config, task, reward or task.reward, start, episodes, limit, device, checkpoint_every
    )
    settings = job.settings() | ({} if lora is None else {"lora": lora})
    settings |= {"options": dict(options)} if options else {}
    learner = (_learn_with_sb3 if algorithm.startswith("sb3.") else _learn)(job)
    with (
        stop_signals() as stop,
        progress(console, config.iterations, bar=not job.reward.interactive) as show,
        RunFolder(folder, settings, resume=resume) as run,
        Notes(console, run.note),
    ):

        def after_iteration(metrics: dict[str, float]) -> bool:
            run.log(metrics)
            show(metrics)
            if stop.signal is not None:
                name = signal.Signals(stop.signal).name
                LOG.info("%s: stopping after iteration %d", name, metrics["iteration"])
            return stop.signal is None

        outcome = learner(run, stop, after_iteration)
        summary = {
            "before": outcome.before.summary,
            "after": outcome.after.summary,
            "kl_nats": outcome.after.sampled.kl.mean,
            "seconds": sum(row["seconds"] for row in run.rows),
            "tokens": outcome.tokens,
            "iterations": outcome.iterations,
            "policy_of_iteration": outcome.choice.iteration,
            "objective": outcome.choice.objective,
            "declined": outcome.declined,
            "seed": config.seed,
            "interrupted": stop.signal is not None,
        }
        samples = outcome.samples()
        run.write_samples(samples[:20])
        run.draw_curves(f"{task.name} · {algorithm} · reward {job.reward.name} · seed {config.seed}")
        run.write_json("summary.json", summary)  # last: a run that has one is complete
    show_results(console, summary, samples[:3], folder)
    return summary


def _starting_policy(
    algorithm: str, task: Task, policy: Policy | str | Path | None, device: str, resumed: Path | None
) -> Policy | None:
    """The policy a run starts from: of a run that is resumed, the one that it keeps."""
    from text_gym.agents import Checkpoints, Policy

    library = algorithm.startswith("sb3.")
    if resumed is not None and library:
        raise ConfigError("runs of Stable-Baselines3 take no checkpoints and cannot be resumed")
    if resumed is not None and (resumed / CHECKPOINTS).is_dir():
        kept = Checkpoints(resumed / CHECKPOINTS)
        if kept.newest_state() is not None:
            return kept.reference(task.tokenizer, device)
    policy = policy or task.policy
    if policy is None and not library:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER, or --algorithm sb3.ppo")
    if policy is None:
        return None
    start = policy if isinstance(policy, Policy) else Policy.from_pretrained(policy, device=device)
    if start.tokenizer.fingerprint != task.tokenizer.fingerprint:
        raise ConfigError(
            f"the policy reads and writes other tokens than task {task.name!r}; give it prompts of your own "
            "(--data FILE --reward NAME), or take the task's own policy"
        )
    return start


def _with_adapter(algorithm: str, policy: Policy | None, rank: int, merge: bool, seed: int) -> Policy:
    """A policy that learns in an adapter."""
    from text_gym.agents import LoRAPolicy

    if policy is None or algorithm.startswith("sb3."):
        raise ConfigError("algorithms of Stable-Baselines3 train all weights; leave out --lora")
    return LoRAPolicy(policy, rank, merge=merge, seed=seed)


@dataclass(frozen=True)
class Job:
    """What is to be learnt, by what, from where; the fields are the arguments of `train`."""

    algorithm: str
    config: Any
    task: Task
    reward: RewardSource
    policy: Policy | None
    episodes: int
    limit: Literal["end", "truncate"]
    device: str
    checkpoint_every: int

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0:
            raise ConfigError(f"checkpoint_every is {self.checkpoint_every}; it must be 0 (none) or more")

    def settings(self) -> dict[str, Any]:
        """For `config.json`."""
        return {
            "task": self.task.name,
            "reward": self.reward.name,
            "algorithm": self.algorithm,
            "episodes": self.episodes,
            "limit": self.limit,
            **dataclasses.asdict(self.config),
        }


@dataclass(frozen=True)
class Judgement:
    """A policy on the held-out prompts: texts sampled at temperature 1, and the figures of the summary."""

    sampled: Report
    summary: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What learning gave: judgements, counts, whose policy was kept, and how the objective fell if it did."""

    before: Judgement
    after: Judgement
    tokens: int
    iterations: int
    choice: Choice
    declined: str | None = None

    def samples(self) -> list[Sample]:
        """Prompt, text and reward before, text and reward after, for every held-out prompt."""
        before, after = self.before.sampled, self.after.sampled
        return [
            (b.prompt.text, b.completion, float(r), a.completion, float(s))
            for b, r, a, s in zip(before.episodes, before.rewards, after.episodes, after.rewards, strict=True)
        ]


def _learn(job: Job) -> Learner:
    """Learning by one of our own algorithms."""
    from text_gym.agents import Checkpoints, Choice, load_algorithm

    agent_class = load_algorithm(job.algorithm)
    assert job.policy is not None
    env = TextVectorEnv(
        **job.task.env_kwargs(reward=job.reward),
        num_envs=job.episodes,
        limit=job.limit,
        numbering="global",
        context=job.policy.context,
    )
    agent: Agent[Any] = agent_class(job.policy, env, job.config)

    def learner(run: RunFolder, stop: Stop, report: Callable[[dict[str, float]], bool]) -> Outcome:
        before = judge(agent, job)
        checkpoints = Checkpoints(run.path / CHECKPOINTS)
        save = _go_on_and_save(agent, run, checkpoints, job.checkpoint_every)

        def after_iteration(_: Agent[Any], metrics: dict[str, float]) -> bool:
            go_on = report(metrics)
            if job.checkpoint_every and agent.iteration % job.checkpoint_every == 0:
                save()
            return go_on

        with stop.patience():
            try:
                agent.learn(callback=after_iteration)
            except RaterLeftError as error:  # as good as Ctrl-C
                LOG.info("%s", error)
                if stop.signal is None:
                    stop.handle(signal.SIGINT)
            finally:  # an error in the reward must not cost what was learnt until then
                try:
                    save()
                finally:
                    agent.save(run.path / "policy")
                if job.checkpoint_every and agent.iteration < job.config.iterations and not agent.stopped:
                    LOG.info("to go on: text-gym train --resume %s", run.path)
        choice = Choice(agent.iteration, None)
        if stop.signal is None:  # else it can go on, from the policy as it is
            choice = checkpoints.take_best(agent)
        if choice.reason is not None:
            LOG.info("%s", choice.reason)
            agent.save(run.path / "policy")
        after = judge(agent, job)
        return Outcome(before, after, agent.tokens_played, agent.iteration, choice, agent.declined)

    return learner


def _go_on_and_save(
    agent: Agent[Any], run: RunFolder, checkpoints: Checkpoints, every: int
) -> Callable[[], None]:
    """Bring the agent to its last checkpoint, if there is one; returns what takes the next ones."""
    saved = checkpoints.load(agent)
    if saved is not None:
        LOG.info("resumed after iteration %d", saved)
    elif run.rows:
        LOG.warning("there is no checkpoint in %s: starting again", checkpoints.folder)
    run.rewind(agent.iteration)

    def save() -> None:
        nonlocal saved
        if every and agent.between_iterations and agent.iteration != saved:
            run.sync()
            average = agent.objective.average()
            if average is None or agent.iteration % every:
                # Where a run was interrupted must not decide which of its policies is the best.
                checkpoints.save(agent)
            else:
                checkpoints.save(agent, *average)
            saved = agent.iteration

    save()  # before the first iteration, too: the starting policy goes with the run
    return save


def _learn_with_sb3(job: Job) -> Learner:
    """Learning by an algorithm of Stable-Baselines3."""
    from safetensors.torch import save_model

    from text_gym.agents import Choice, train_sb3

    def learner(run: RunFolder, stop: Stop, report: Callable[[dict[str, float]], bool]) -> Outcome:
        with stop.patience():
            done = train_sb3(
                job.algorithm.removeprefix("sb3."),
                job.task,
                job.config,
                policy=job.policy,
                callback=report,
                device=job.device,
                reward=job.reward,
                limit=job.limit,
            )
            folder = run.path / "policy"
            trained: Any = done.model.policy
            if job.policy is not None:  # what SB3 trained is a copy of it
                trained.language_model.save(folder)
            else:  # SB3's own archives are pickles
                folder.mkdir(parents=True, exist_ok=True)
                save_model(trained, str(folder / "sb3_policy.safetensors"))
        before, after = _judgement(done.before, job), _judgement(done.after, job)
        after.summary["greedy"] = done.greedy.summary()
        return Outcome(before, after, done.tokens, done.iterations, Choice(done.iterations, None))

    return learner


def judge(agent: Agent[Any], job: Job) -> Judgement:
    """An agent's policy on the held-out prompts, sampled and greedy."""
    from text_gym.agents import Sampling, evaluate

    # People are not asked about texts that nothing is learnt from.
    silent = FunctionReward(_no_opinion, abstains=True) if job.task.reward.interactive else None
    gold = TextVectorEnv(**job.task.env_kwargs(prompts=job.task.held_out, reward=silent), shuffle=False)

    def play(greedy: bool) -> Report:
        return evaluate(agent.policy, gold, reference=agent.reference, sampling=Sampling(greedy=greedy))

    judgement = _judgement(play(greedy=False), job)
    judgement.summary["greedy"] = play(greedy=True).summary()
    return judgement


def _judgement(sampled: Report, job: Job) -> Judgement:
    """Gold, its criteria, KL and length; the optimised reward too if it is another one."""
    from text_gym.agents import Measure

    summary = sampled.summary()
    if job.reward is not job.task.reward and not job.reward.interactive:
        scored = job.reward(sampled.episodes)
        proxy = Measure.of(np.where(scored.abstained, np.nan, scored.totals))
        summary["reward"] = {"mean": proxy.mean, "ci95": list(proxy.ci95)}
    return Judgement(sampled, summary)


def _no_opinion(episodes: Sequence[Any]) -> list[None]:
    return [None] * len(episodes)
