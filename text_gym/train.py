"""The main job: train a policy by reinforcement learning, with before and after on held-out prompts.

`train` is what `text-gym train` calls; it can be called from Python alike. It knows files, progress
and tables; how a policy learns is in `text_gym.agents`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .data import prompts_from, read_rows
from .display import harmless
from .errors import ConfigError, DataError
from .report import RunFolder, default_folder
from .reward import RewardSource
from .task import Task, load_task, split_by_prompt
from .tokenizer import PretrainedTokenizer
from .vector import TextVectorEnv

if TYPE_CHECKING:
    from text_gym.agents import Agent, AgentConfig, Policy, Report, SB3Config

Sample = tuple[str, str, float, str, float]  # prompt, text before, its reward, text after, its reward
Learner: TypeAlias = "Callable[[Path, Callable[[dict[str, float]], bool]], Outcome]"
SETTINGS = "text_gym.json"  # beside a policy trained here: how its data was read


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
    episodes: int = 64,
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, judge on the held-out prompts before and after, and write the run's folder.

    Args:
        algorithm: Name of the algorithm, e.g. `"ppo"`, or `"sb3.ppo"` for that of Stable-Baselines3.
        config: Its settings.
        task: Prompts, held-out prompts and the gold reward.
        reward: What is optimised; the task's gold reward if None.
        policy: Policy, folder or hub model; the task's own if None. Algorithms of
            Stable-Baselines3 start from scratch where there is neither.
        episodes: Episodes per iteration (Stable-Baselines3: see `num_envs` and `n_steps` in its config).
        out: Folder for the results; `runs/<task>-<algorithm>-<time>` if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.

    Returns:
        The summary, as in `summary.json`; `interrupted` tells whether Ctrl-C ended it early.
    """
    from text_gym.agents import Policy

    console = console or Console()
    reward = reward or task.reward
    library = algorithm.startswith("sb3.")
    if policy is None and task.policy is None and not library:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER, or --algorithm sb3.ppo")
    policy = policy or task.policy
    if policy is not None and not isinstance(policy, Policy):
        policy = Policy.from_pretrained(policy, device=device)
    job = Job(algorithm, config, task, reward, policy, episodes, device)
    folder = Path(out) if out else default_folder(task.name, algorithm)
    learn = _learn_with_sb3 if library else _learn
    with _stop_on_interrupt() as stopped, _progress(console, config.iterations) as report:
        learner = learn(job)
        with RunFolder(folder, job.settings()) as run:

            def after_iteration(metrics: dict[str, float]) -> bool:
                run.log(metrics)
                report(metrics)
                return not stopped

            outcome = learner(run.path / "policy", after_iteration)
            summary = {
                "before": outcome.before.summary,
                "after": outcome.after.summary,
                "kl_nats": outcome.after.sampled.kl.mean,
                "seconds": outcome.seconds,
                "tokens": outcome.tokens,
                "iterations": outcome.iterations,
                "seed": config.seed,
                "interrupted": bool(stopped),
            }
            run.write_json("summary.json", summary)
            samples = outcome.samples()
            run.write_samples(samples[:20])
            run.draw_curves(f"{task.name} · {algorithm} · reward {reward.name} · seed {config.seed}")
    show_results(console, summary, samples[:3], folder)
    return summary


@dataclass(frozen=True)
class Job:
    """What is to be learnt, by what, from where; the fields are the arguments of `train`."""

    algorithm: str
    config: Any
    task: Task
    reward: RewardSource
    policy: Policy | None
    episodes: int
    device: str

    def settings(self) -> dict[str, Any]:
        """For `config.json`."""
        return {
            "task": self.task.name,
            "reward": self.reward.name,
            "algorithm": self.algorithm,
            "episodes": self.episodes,
            **dataclasses.asdict(self.config),
        }


@dataclass(frozen=True)
class Judgement:
    """A policy on the held-out prompts: texts sampled at temperature 1, and the figures of the summary."""

    sampled: Report
    summary: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What learning gave."""

    before: Judgement
    after: Judgement
    seconds: float
    tokens: int
    iterations: int

    def samples(self) -> list[Sample]:
        """Prompt, text and reward before, text and reward after, for every held-out prompt."""
        before, after = self.before.sampled, self.after.sampled
        return [
            (b.prompt.text, b.completion, float(r), a.completion, float(s))
            for b, r, a, s in zip(before.episodes, before.rewards, after.episodes, after.rewards, strict=True)
        ]


def _learn(job: Job) -> Learner:
    """Learning by one of our own algorithms."""
    from text_gym.agents import load_algorithm

    agent_class = load_algorithm(job.algorithm)
    assert job.policy is not None
    env = TextVectorEnv(
        **job.task.env_kwargs(reward=job.reward),
        num_envs=job.episodes,
        numbering="global",
        context=job.policy.context,
    )
    agent: Agent[Any] = agent_class(job.policy, env, job.config)

    def learner(folder: Path, callback: Callable[[dict[str, float]], bool]) -> Outcome:
        before = judge(agent, job)
        started = time.perf_counter()
        try:
            agent.learn(callback=lambda _, metrics: callback(metrics))
        finally:  # an error in the reward must not cost what was learnt until then
            agent.save(folder)
        seconds = time.perf_counter() - started
        after = judge(agent, job)
        return Outcome(before, after, seconds, agent.tokens_played, agent.iteration)

    return learner


def _learn_with_sb3(job: Job) -> Learner:
    """Learning by an algorithm of Stable-Baselines3."""
    from safetensors.torch import save_model

    from text_gym.agents import train_sb3

    def learner(folder: Path, callback: Callable[[dict[str, float]], bool]) -> Outcome:
        run = train_sb3(
            job.algorithm.removeprefix("sb3."),
            job.task,
            job.config,
            policy=job.policy,
            callback=callback,
            device=job.device,
            reward=job.reward,
        )
        if job.policy is not None:
            job.policy.save(folder)
        else:  # SB3's own archives are pickles
            folder.mkdir(parents=True, exist_ok=True)
            save_model(run.model.policy, str(folder / "sb3_policy.safetensors"))
        before, after = _judgement(run.before, job), _judgement(run.after, job)
        after.summary["greedy"] = run.greedy.summary()
        return Outcome(before, after, run.seconds, run.tokens, run.iterations)

    return learner


def judge(agent: Agent[Any], job: Job) -> Judgement:
    """An agent's policy on the held-out prompts, sampled and greedy."""
    from text_gym.agents import Sampling, evaluate

    gold = TextVectorEnv(**job.task.env_kwargs(prompts=job.task.held_out), shuffle=False)

    def play(greedy: bool) -> Report:
        return evaluate(agent.policy, gold, reference=agent.reference, sampling=Sampling(greedy=greedy))

    judgement = _judgement(play(greedy=False), job)
    judgement.summary["greedy"] = play(greedy=True).summary()
    return judgement


def _judgement(sampled: Report, job: Job) -> Judgement:
    """Gold, its criteria, KL and length; the optimised reward too if it is another one."""
    from text_gym.agents import Measure

    summary = sampled.summary()
    if job.reward is not job.task.reward:
        proxy = Measure.of(job.reward(sampled.episodes).totals)
        summary["reward"] = {"mean": proxy.mean, "ci95": list(proxy.ci95)}
    return Judgement(sampled, summary)


def show_results(
    console: Console,
    summary: Mapping[str, Any],
    samples: Sequence[Sample],
    folder: Path,
) -> None:
    """Print the table before → after and a few texts."""
    before, after = summary["before"], summary["after"]
    table = Table(
        title="Held-out prompts, sampled at temperature 1 (mean, 95 % interval)", title_justify="left"
    )
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in after.items():
        if isinstance(value, Mapping) and "ci95" in value:
            table.add_row(Text(name), _interval(before[name]), _interval(value))
    for name, label in (
        ("kl_nats", "KL, nats per episode"),
        ("perplexity", "perplexity, under the reference"),
        ("length_tokens", "length, tokens"),
        ("terminated", "ended by EOS"),
    ):
        if not math.isnan(after[name]):
            table.add_row(label, f"{before[name]:.2f}", f"{after[name]:.2f}")
    if "perfect" in after and "greedy" in before:
        low, high = before["greedy"]["perfect"]["mean"], after["greedy"]["perfect"]["mean"]
        table.add_row("perfect, greedy", f"{low:.3f}", f"{high:.3f}")
    console.print(table)
    for prompt, text_before, gold_before, text_after, gold_after in samples:
        console.print(Text("\n" + harmless(prompt.strip(), newlines=True), style="dim"))
        console.print(Text(f"  before ({gold_before:.2f}): {harmless(text_before)}"))
        console.print(Text(f"  after  ({gold_after:.2f}): {harmless(text_after)}"))
    console.print(Text(f"\n{summary['tokens']:,} tokens in {summary['seconds']:.0f} s; results in {folder}"))


def _interval(measure: Mapping[str, Any]) -> str:
    low, high = measure["ci95"]
    return f"{measure['mean']:.3f} [{low:.3f}, {high:.3f}]".replace("[", r"\[")


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """A bar with reward, KL, speed and time left; plain lines where there is no terminal."""
    if not console.is_terminal:

        def line(metrics: Mapping[str, float]) -> None:
            done = int(metrics["iteration"])
            if done % max(1, total // 10) == 0 or done == total:
                console.print(_status(metrics), highlight=False)

        yield line
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=total, status="")
        yield lambda metrics: progress.update(
            bar, completed=metrics["iteration"], status=_status(metrics, brief=True)
        )


def _status(metrics: Mapping[str, float], brief: bool = False) -> str:
    known = not math.isnan(metrics.get("kl", math.nan))
    kl = f"KL {metrics['kl']:.2f} nats  " if known else ""
    status = f"reward {metrics['reward']:.3f}  {kl}{metrics['tokens_per_second']:,.0f} tokens/s"
    return status if brief else f"iteration {int(metrics['iteration'])}  {status}"


@contextmanager
def _stop_on_interrupt() -> Iterator[list[int]]:
    """Collects Ctrl-C: the first one asks for a stop after the iteration, a second one interrupts."""
    stopped: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: the caller's business
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
