"""The main job: train a policy by reinforcement learning, with before and after on held-out prompts.

`train` is what `text-gym train` calls; it can be called from Python alike. It knows files, progress
and tables; how a policy learns is in `text_gym.agents`.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .data import prompts_from, read_rows
from .display import harmless
from .errors import ConfigError, DataError
from .report import RunFolder, default_folder
from .reward import RewardSource
from .task import Task, load_task, split_by_prompt
from .tokenizer import PretrainedTokenizer
from .vector import TextVectorEnv

if TYPE_CHECKING:
    from text_gym.agents import Agent, AgentConfig, Policy, Report

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
    config: AgentConfig,
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
        algorithm: Name of the algorithm, e.g. `"ppo"`.
        config: Its settings.
        task: Prompts, held-out prompts and the gold reward.
        reward: What is optimised; the task's gold reward if None.
        policy: Policy, folder or hub model; the task's own if None.
        episodes: Episodes per iteration.
        out: Folder for the results; `runs/<task>-<algorithm>-<time>` if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.

    Returns:
        The summary, as in `summary.json`; `interrupted` tells whether Ctrl-C ended it early.
    """
    from text_gym.agents import Policy, load_algorithm

    console = console or Console()
    agent_class = load_algorithm(algorithm)
    reward = reward or task.reward
    if policy is None and task.policy is None:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER")
    if not isinstance(policy, Policy):
        policy = Policy.from_pretrained(policy or str(task.policy), device=device)
    env = TextVectorEnv(
        **task.env_kwargs(reward=reward),
        num_envs=episodes,
        numbering="global",
        context=policy.context,
    )
    agent: Agent[Any] = agent_class(policy, env, config)
    folder = Path(out) if out else default_folder(task.name, algorithm)
    run_config = {"task": task.name, "reward": reward.name, "episodes": episodes, **agent.settings()}
    with RunFolder(folder, run_config) as run, _stop_on_interrupt() as stopped:
        before = judge(agent, task, reward)
        started = time.perf_counter()
        with _progress(console, config.iterations) as report:

            def after_iteration(_: Agent[Any], metrics: dict[str, float]) -> bool:
                run.log(metrics)
                report(metrics)
                return not stopped

            agent.learn(callback=after_iteration)
        seconds = time.perf_counter() - started
        policy.save(run.path / "policy")
        after = judge(agent, task, reward)
        summary = {
            "before": before.summary,
            "after": after.summary,
            "kl_nats": after.sampled.kl.mean,
            "seconds": seconds,
            "tokens": agent.tokens_played,
            "iterations": agent.iteration,
            "seed": config.seed,
            "interrupted": bool(stopped),
        }
        run.write_json("summary.json", summary)
        samples = [
            (b.prompt.text, b.completion, float(rb), a.completion, float(ra))
            for b, rb, a, ra in zip(
                before.sampled.episodes,
                before.sampled.rewards,
                after.sampled.episodes,
                after.sampled.rewards,
                strict=True,
            )
        ]
        run.write_samples(samples[:20])
        run.draw_curves(f"{task.name} · {algorithm} · reward {reward.name} · seed {config.seed}")
    show_results(console, summary, samples[:3], run.path)
    return summary


@dataclass(frozen=True)
class Judgement:
    """A policy on the held-out prompts: sampled at temperature 1, and greedy."""

    sampled: Report
    summary: dict[str, Any]


def judge(agent: Agent[Any], task: Task, reward: RewardSource) -> Judgement:
    """Gold, its criteria, KL and length on the held-out prompts; the optimised reward if it is another."""
    from text_gym.agents import Measure, Sampling, evaluate

    gold = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), shuffle=False)

    def play(greedy: bool) -> Report:
        return evaluate(agent.policy, gold, reference=agent.reference, sampling=Sampling(greedy=greedy))

    sampled = play(greedy=False)
    summary = sampled.summary()
    if reward is not task.reward:
        proxy = Measure.of(reward(sampled.episodes).totals)
        summary["reward"] = {"mean": proxy.mean, "ci95": list(proxy.ci95)}
    summary["greedy"] = play(greedy=True).summary()
    return Judgement(sampled, summary)


def show_results(
    console: Console,
    summary: Mapping[str, Any],
    samples: Sequence[tuple[str, str, float, str, float]],
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
            table.add_row(escape(name), _interval(before[name]), _interval(value))
    for name, label in (
        ("kl_nats", "KL, nats per episode"),
        ("perplexity", "perplexity, under the reference"),
        ("length_tokens", "length, tokens"),
        ("terminated", "ended by EOS"),
    ):
        table.add_row(label, f"{before[name]:.2f}", f"{after[name]:.2f}")
    if "perfect" in after:
        low, high = before["greedy"]["perfect"]["mean"], after["greedy"]["perfect"]["mean"]
        table.add_row("perfect, greedy", f"{low:.3f}", f"{high:.3f}")
    console.print(table)
    for prompt, text_before, gold_before, text_after, gold_after in samples:
        console.print(f"\n[dim]{escape(harmless(prompt.strip(), newlines=True))}[/dim]")
        console.print(f"  before ({gold_before:.2f}): {escape(harmless(text_before))}")
        console.print(f"  after  ({gold_after:.2f}): {escape(harmless(text_after))}")
    console.print(
        f"\n{summary['tokens']:,} tokens in {summary['seconds']:.0f} s; "
        f"results in [bold]{escape(str(folder))}[/bold]"
    )


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
    status = (
        f"reward {metrics['reward']:.3f}  KL {metrics['kl']:.2f} nats  "
        f"{metrics['tokens_per_second']:,.0f} tokens/s"
    )
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
