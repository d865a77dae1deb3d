"""The main job: train a policy by reinforcement learning, with before and after on held-out prompts.

`train` is what `text-gym train` calls; it can be called from Python alike. It knows files, progress
and tables; how a policy learns is in `text_gym.agents`.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console

from text_gym.agents.algorithms.dpo import Preference
from text_gym.agents.policies.lora import LoRAPolicy
from text_gym.agents.policies.policy import Policy
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import limited_threads, pick_dtype, reward_modules, threads_are_chosen
from text_gym.models.sizes import Sizes, kind_of, unlike_defaults, using
from text_gym.models.tuned import sizes_from
from text_gym.models.world import local_device, meeting
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task
from text_gym.utils.sealed import naming_full_disk
from text_gym.utils.stopping import stop_signals
from text_gym.utils.terminal import SafeConsole

from .console import Notes, progress, show_results
from .folder import RunFolder, default_folder, read_config
from .job import Learner, TrainingJob, policy_to_begin_with
from .learners import follow, learn_with_agent, learn_with_sb3, make_agent
from .loggers import LogName
from .origin import Start
from .preferences import follow_pairs, learn_from_pairs

if TYPE_CHECKING:
    from text_gym.agents.adapters.sb3.config import SB3Config
    from text_gym.agents.algorithms.configs import AgentConfig, DPOConfig


LOG = logging.getLogger("text_gym")


def train(
    algorithm: str,
    config: AgentConfig | SB3Config | DPOConfig,
    task: Task,
    *,
    reward: RewardSource | None = None,
    policy: Policy | str | Path | None = None,
    lora: int | None = None,
    adapter_only: bool = False,
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
    generator: Literal["vllm"] | None = None,
    episodes: int = 64,
    limit: Literal["end", "truncate"] = "end",
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    checkpoint_every: int = 10,
    keep_rollouts: int = 0,
    watch: Sequence[RewardSource] = (),
    stop_on_alarm: bool = False,
    resume: bool = False,
    accept_changes: bool = False,
    pairs: Sequence[Preference] = (),
    shard: bool = False,
    sizes: Sizes | None = None,
    logs: Sequence[LogName] = ("tensorboard",),
    options: Mapping[str, Any] | None = None,
    started: float | None = None,
    loading: AbstractContextManager[object] | None = None,
) -> dict[str, Any]:
    """Train a policy, judge it on the held-out prompts before and after, and write the run's folder.

    It ends with the last policy, or with that of the best checkpoint where its reward − β·KL, on the run's
    own batches, was larger by more than noise (`Checkpoints.take_best`).
    A run that was interrupted, in whatever way, goes on with `resume` from its last checkpoint; on a CPU its
    summary, metrics (but for seconds and memory) and policy are then those of the uninterrupted run.

    Args:
        algorithm: Name of the algorithm, e.g. `"ppo"`, `"sb3.ppo"` for that of Stable-Baselines3, `"dpo"`,
            which learns from pairs, or your own (see `agents.load_algorithm`).
        config: Its settings.
        task: Prompts, held-out prompts and the task's own reward, which is gold (`NoGold()` for none).
        reward: What is optimised; the task's own reward if None. While it is another one, gold is looked at
            now and then on 64 held-out prompts (`gold` and `gold_kl` in metrics.jsonl, `GoldWatch`), which
            changes nothing in the training.
        policy: Policy, folder or hub model; the task's own if None. Algorithms of
            Stable-Baselines3 start from scratch where there is neither.
        lora: Rank of a LoRA adapter to train in place of the policy's weights (`agents.LoRAPolicy`).
        adapter_only: Save the adapter alone, not merged into the weights.
        dtype: `float32`; `bfloat16`, in which matrices are multiplied while the weights stay in float32, or,
            with an adapter, the weights under it are kept; `auto` is bfloat16 on GPUs that have it.
        gradient_checkpointing: Need less memory for a third more work in updates (likewise).
        generator: Who writes the texts that are learnt from: vLLM, or the policy itself if None.
        episodes: Episodes per iteration (Stable-Baselines3: see `num_envs` and `n_steps` in its config).
        limit: What the token limit means while the policy learns: "end" pays a text as it stands, "truncate"
            learns nothing from a text that was cut (see `TextVectorEnv`). Evaluations pay texts as they
            stand.
        out: Folder for the results; `runs/<task>-<algorithm>-<time>-<process>` if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.
        checkpoint_every: Iterations between two checkpoints (and one at the end, however that comes), of
            which the last two and the best one are kept; 0 takes none, and the policy is the last. Of
            algorithms of Stable-Baselines3 the last two are kept.
        keep_rollouts: Iterations to keep token by token and to show in `view.html` (see `RolloutStore`).
        watch: Criteria that the reward does not contain, which should not fall while it rises: what
            `HackingDetector` looks at beside the texts and the reward's own terms.
        stop_on_alarm: Stop learning at its first alarm.
        resume: Go on with the run in `out`; the other arguments must be those it was started with. Settings,
            the code and weights of the reward, the data, and the versions of PyTorch, `transformers` and
            text-gym are compared; patch versions and kernels that differ are a warning.
        accept_changes: Go on with what differs all the same; the folder's `started_with.json` keeps a list.
        pairs: Prompt, chosen and rejected text, which `"dpo"` learns from in place of a reward.
        shard: Divide the weights among the processes that torchrun started (FSDP2). Checkpoints hold them
            whole, so that a run is resumed with or without, by any number of processes. Gold is not looked at
            meanwhile.
        sizes: Sizes in place of the defaults, such as `text-gym tune` finds; a run that goes on keeps those
            that it began with.
        logs: Where else the rows of `metrics.jsonl` go as they are made (see `runs.loggers`).
        options: More to keep in `config.json`: what a command line needs to call this again.
        started: When the command began, on the clock of `time.perf_counter`; the wall seconds that are shown
            at the end count from there. None is now.
        loading: A display of the wait for PyTorch and the policy; it is closed once they are loaded.

    Returns:
        The summary, as in `summary.json`; `interrupted` tells whether Ctrl-C ended it early.

    Raises:
        ConfigError: The task has no policy, or other tokens than the policy, or `out` holds a run (or, to be
            resumed, none), or is in use by another process.
        ChangedRunError: The run to be resumed was started with something else; what differs is named.
        NotSavedError: The disk of `out` is full, read-only or broken.
        NoScoresError: The reward scored no episode of `config.max_unscored` batches in a row; a checkpoint
            was taken.
        SystemExit: SIGTERM or SIGHUP came; a checkpoint was taken.
    """
    started = time.perf_counter() if started is None else started
    device = local_device(device)
    if resume and not checkpoint_every:
        raise ConfigError(f"the run in {out} takes no checkpoints (checkpoint_every=0) and cannot be resumed")
    if (algorithm == "dpo") != bool(pairs):
        raise ConfigError("preference pairs are what dpo learns from, and no other algorithm")
    folder = Path(out) if out else default_folder(task.name, algorithm)
    with loading or nullcontext():
        bf16 = pick_dtype(dtype, pick_device(device)) == "bfloat16"
        kept_in = "bfloat16" if bf16 and lora is not None else "float32"
        start = policy_to_begin_with(algorithm, task, policy, device, folder if resume else None, kept_in)
    if resume and sizes is None:
        sizes = recorded_sizes(folder, pick_device(device))
    came_from = None if start is None else Start.of(start, policy, task)
    if lora is not None:
        start = _with_adapter(algorithm, start, lora, not adapter_only, config.seed)
    if start is not None and (bf16 or gradient_checkpointing):
        start.use_less_memory(bf16=bf16 and lora is None, gradient_checkpointing=gradient_checkpointing)
    reward = reward or task.reward
    more: Any = (pairs, generator, keep_rollouts, watch, stop_on_alarm)
    job = TrainingJob(
        algorithm, config, task, reward, start, episodes, limit, device, checkpoint_every, came_from, *more
    )
    job = replace(job, sizes=sizes)
    settings = job.settings() | ({} if lora is None else {"lora": lora})
    settings |= {"options": dict(options)} if options else {}
    checked: Any = {"conditions": job.conditions(options), "accept_changes": accept_changes}
    open_folder = partial(RunFolder, folder, settings, logs=logs, resume=resume, **checked)
    changed = nullcontext() if sizes is None else using(sizes, pick_device(device))
    with changed, meeting(device) as world:
        if world is None:
            if shard and not resume:
                raise ConfigError("shard divides weights among processes; start some by torchrun")
            return _run(job, folder, open_folder, console or SafeConsole(), started)
        job = replace(job, world=world, shard=shard)
        if world.rank == 0:
            return _run(job, folder, open_folder, console or SafeConsole(), started)
        return follow_pairs(job, world) if job.pairs else follow(make_agent(job), job, world)


def _run(
    job: TrainingJob, folder: Path, open_folder: Callable[[], RunFolder], console: Console, started: float
) -> dict[str, Any]:
    """Learn inside the run's folder, stopping cleanly when asked to, and write and show what came of it."""
    with_agent = learn_with_sb3 if job.algorithm.startswith("sb3.") else learn_with_agent
    learner: Learner = (learn_from_pairs if job.pairs else with_agent)(job)
    models = [*([] if job.policy is None else [job.policy]), *reward_modules(job.reward).values()]
    with (
        naming_full_disk(folder),
        nullcontext() if threads_are_chosen() else limited_threads(*models),
        stop_signals() as stop,
        progress(console, job.iterations, bar=not job.reward.interactive) as show,
        open_folder() as run,
        Notes(console, run.note),
    ):
        if job.sizes is not None:
            LOG.info("sizes: %s", unlike_defaults(job.sizes, pick_device(job.device)))
        for note in run.logs.notes:
            LOG.info("%s", note)
        for change in run.changes:
            LOG.warning("%s", change)

        def after_iteration(metrics: dict[str, float]) -> bool:
            run.log(metrics)
            show(metrics)
            if stop.signal is not None:
                name = signal.Signals(stop.signal).name
                LOG.info("%s: stopping after iteration %d", name, metrics["iteration"])
            return stop.signal is None

        try:
            outcome = learner(run, stop, after_iteration, show.stage)
        except NonFiniteError:
            LOG.info("the run cannot go on with these settings: begin anew, with a smaller learning rate")
            raise
        show.stage("drawing the curves")
        summary = outcome.summary() | {
            "seconds": sum(row["seconds"] for row in run.rows),
            "seed": job.config.seed,
            "interrupted": stop.signal is not None,
        }
        samples = outcome.samples(job)
        run.write_samples(samples[:20])
        run.draw_curves(job.title, job.reward.name, outcome.first_look)
        job.write_card(run, summary, samples)
        job.write_view(run)
        run.write_json("summary.json", summary)  # written last: a run that has one is complete
    show_results(console, summary, samples[:3], run.path, time.perf_counter() - started)
    return summary


def _with_adapter(algorithm: str, policy: Policy | None, rank: int, merge: bool, seed: int) -> Policy:
    """Wrap a policy so that it learns in an adapter."""
    if policy is None or algorithm.startswith("sb3."):
        raise ConfigError("algorithms of Stable-Baselines3 train all weights; leave out --lora")
    return LoRAPolicy(policy, rank, merge=merge, seed=seed)


def recorded_sizes(folder: Path, device: torch.device) -> Sizes | None:
    """Return the sizes that a run was started with; None for the defaults.

    Raises:
        ConfigError: Its settings hold sizes that this version does not know.
    """
    if not (folder / "config.json").is_file():
        return None
    found = read_config(folder).get("sizes")
    return None if found is None else sizes_from(found, kind_of(device))
