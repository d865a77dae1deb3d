"""The main job: train a policy by reinforcement learning, with before and after on held-out prompts.

`train` is what `text-gym train` calls; it can be called from Python alike. It knows files, progress
and tables; how a policy learns is in `text_gym.agents`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.console import Console

from .console import Notes, progress, show_results
from .data import prompts_from, read_rows
from .errors import ConfigError, DataError, RaterLeftError
from .judgement import GoldWatch, Judgement, judge, judge_texts
from .origin import Start, is_plain_name, read_origin, write_origin
from .report import RunFolder, Sample, default_folder
from .reward import RewardSource
from .stopping import Stop, stop_signals
from .task import NoGold, Task, load_task, split_by_prompt
from .tokenizer import PretrainedTokenizer
from .vector import TextVectorEnv

if TYPE_CHECKING:
    from text_gym.agents import Agent, AgentConfig, Checkpoints, Choice, Policy, SB3Config

Learner: TypeAlias = "Callable[[RunFolder, Stop, Callable[[dict[str, float]], bool]], Outcome]"
LOG = logging.getLogger("text_gym")
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
        gold: Reward that is the data's own, as a task has one: what texts are judged by, whatever is
            optimised. A name, module:function, file.py:function, or the folder of a reward model; none if
            left out.
    """

    data: str | None = None
    prompt: str = "prompt"
    reference: str | None = None
    held_out: float = 0.2
    separator: str = "\n"
    gold: str | None = None

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
    """The task to learn, whose own reward is gold, and the reward to optimise.

    Raises:
        ConfigError: Data without a policy or a reward to go with it, or gold for a task that has its own.
    """
    if data.data is None:
        if data.gold is not None:
            raise ConfigError(
                f"task {task!r} has a reward of its own, which is gold; --gold is for --data. To optimise "
                "another reward pass --reward"
            )
        found = load_task(task)
        if max_tokens is not None:
            found = dataclasses.replace(found, max_tokens=max_tokens)
        return found, load_reward_source(reward, found.prompts) if reward else found.reward
    if policy is None:
        raise ConfigError(
            "--data needs a --policy that can write such texts; make one with `text-gym sft --data …`"
        )
    data = with_settings(data, read_origin(policy))
    if reward is None and data.gold is None:
        raise ConfigError(
            "--data needs a --reward to optimise, e.g. --reward slots (see `text-gym train --help`), or a "
            "reward of its own: --gold slots"
        )
    found = data_task(data, policy, max_tokens)
    if reward is None or reward == data.gold:
        return found, found.reward
    return found, load_reward_source(reward, [*found.prompts, *found.held_out])


def data_task(data: Data, policy: str, max_tokens: int | None) -> Task:
    """The task that data is for a policy; its own reward is `data.gold`, or `NoGold`."""
    train, held_out = data.load()
    settings = {
        **dataclasses.asdict(data),
        "data": anchored(data.data),
        "gold": anchored(data.gold, reward=True),
    }
    return Task(
        name=Path(str(data.data)).stem,
        prompts=train,
        held_out=held_out,
        tokenizer=PretrainedTokenizer.from_pretrained(policy),
        reward=load_reward_source(data.gold, [*train, *held_out]) if data.gold else NoGold(),
        max_tokens=max_tokens or int(read_origin(policy).get("max_tokens", 64)),
        settings=settings,
    )


def with_settings(data: Data, settings: Mapping[str, Any]) -> Data:
    """Data with what a policy's folder knows of it wherever nothing was given.

    Gold is taken over only by name: a file or module that a folder names is not run unless you name it.
    """
    known = {f.name: (getattr(data, f.name), f.default) for f in dataclasses.fields(Data)}
    found = {k: settings.get(k, v) if v == default else v for k, (v, default) in known.items()}
    if found["gold"] != data.gold and not is_plain_name(found["gold"]):
        if found["gold"] is not None:
            LOG.warning("the gold reward of this policy's data was %s; pass --gold to use it", found["gold"])
        found["gold"] = data.gold
    return Data(**found)


def anchored(spec: str | None, reward: bool = False) -> str | None:
    """A file or folder, or a function of a file, with an absolute path; anything else as it is.

    Rewards without `.py` and without a separator of folders are names, whatever lies here.
    """
    place, colon, rest = (spec or "").partition(":")
    by_name = reward and not place.endswith(".py") and os.sep not in place
    return f"{Path(place).resolve()}{colon}{rest}" if place and not by_name and Path(place).exists() else spec


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
        task: Prompts, held-out prompts and the task's own reward, which is gold (`NoGold()` for none).
        reward: What is optimised; the task's own reward if None. While it is another one, gold is looked at
            now and then on 64 held-out prompts (`gold` and `gold_kl` in metrics.jsonl, `GoldWatch`), which
            changes nothing in the training.
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
    came_from = None if start is None else Start.of(start, policy, task)
    if lora is not None:
        start = _with_adapter(algorithm, start, lora, not adapter_only, config.seed)
    if start is not None and (bf16 or gradient_checkpointing):
        start.use_less_memory(bf16=bf16, gradient_checkpointing=gradient_checkpointing)
    job = Job(
        algorithm,
        config,
        task,
        reward or task.reward,
        start,
        episodes,
        limit,
        device,
        checkpoint_every,
        came_from,
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
        samples = outcome.samples(job)
        run.write_samples(samples[:20])
        title = f"{task.name} · {algorithm} · reward {job.reward.name} · seed {config.seed}"
        run.draw_curves(title, job.reward.name, outcome.first_look)
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
    """What is to be learnt, by what, from where; the fields are the arguments of `train`.

    `came_from` says which policy `policy` was before anything was learnt.
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

    def save_policy(self, run: RunFolder, save: Callable[[Path], None]) -> None:
        """Write the policy of a run, and what it comes from."""
        folder, start = run.path / "policy", self.came_from
        save(folder)
        if start is not None and self.checkpoint_every and not self.algorithm.startswith("sb3."):
            start = start.also_at(run.path / CHECKPOINTS / "reference")
        write_origin(folder, self.task.settings, self.task.max_tokens, start, self.reward.name)

    def gold_watch(self) -> GoldWatch | None:
        """What looks at gold while the policy learns; None where gold is what is optimised, or unknown."""
        gold = self.task.reward
        if self.reward is gold or not self.task.has_gold or gold.interactive or self.policy is None:
            return None
        return GoldWatch(self.task, self.episodes, self.config.iterations, self.policy.context)


@dataclass(frozen=True)
class Outcome:
    """What learning gave: judgements, counts, whose policy was kept, and how the objective fell if it did.

    `first_look` is that of `GoldWatch` before learning, where there is one.
    """

    before: Judgement
    after: Judgement
    tokens: int
    iterations: int
    choice: Choice
    declined: str | None = None
    first_look: dict[str, float] | None = None

    def samples(self, job: Job) -> list[Sample]:
        """Prompt, text and rewards before, text and rewards after, for every held-out prompt."""

        def side(judgement: Judgement, i: int) -> tuple[str, dict[str, float]]:
            text = judgement.sampled.episodes[i].completion
            return text, judgement.scores(i, job.task, job.reward)

        prompts = [e.prompt.text for e in self.before.sampled.episodes]
        return [(p, *side(self.before, i), *side(self.after, i)) for i, p in enumerate(prompts)]


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
        before, watch = judge(agent.policy, agent.reference, job.task, job.reward), job.gold_watch()
        checkpoints = Checkpoints(run.path / CHECKPOINTS)
        save = _go_on_and_save(agent, run, checkpoints, job.checkpoint_every)

        def after_iteration(_: Agent[Any], metrics: dict[str, float]) -> bool:
            if watch is not None and watch.due(agent.iteration):
                metrics = {**metrics, **watch.look(agent.policy, agent.reference)}
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
                    job.save_policy(run, agent.save)
                if job.checkpoint_every and agent.iteration < job.config.iterations and not agent.stopped:
                    LOG.info("to go on: text-gym train --resume %s", run.path)
        choice = Choice(agent.iteration, None)
        if stop.signal is None:  # else it can go on, from the policy as it is
            choice = checkpoints.take_best(agent)
        if choice.reason is not None:
            LOG.info("%s", choice.reason)
            job.save_policy(run, agent.save)
        after = judge(agent.policy, agent.reference, job.task, job.reward)
        first = None if watch is None else watch.first(before)
        return Outcome(before, after, agent.tokens_played, agent.iteration, choice, agent.declined, first)

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
            trained: Any = done.model.policy

            def save(folder: Path) -> None:
                if job.policy is not None:  # what SB3 trained is a copy of it
                    trained.language_model.save(folder)
                else:  # SB3's own archives are pickles
                    folder.mkdir(parents=True, exist_ok=True)
                    save_model(trained, str(folder / "sb3_policy.safetensors"))

            job.save_policy(run, save)
        before, after = (judge_texts(r, job.task, job.reward) for r in (done.before, done.after))
        after.summary["greedy"] = done.greedy.summary("gold" if job.task.has_gold else None)
        return Outcome(before, after, done.tokens, done.iterations, Choice(done.iterations, None))

    return learner
