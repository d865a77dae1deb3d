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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.console import Console

from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3
from text_gym.agents.adapters.sb3.training import SB3Learner
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.dpo import Preference
from text_gym.agents.policies.lora import LoRAPolicy
from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.checkpoint import Checkpoints, Choice
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError, NonFiniteError, RaterLeftError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import limited_threads, pick_dtype, reward_modules, threads_are_chosen
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task
from text_gym.utils.stopping import Stop, stop_signals
from text_gym.utils.terminal import SafeConsole

from .console import Notes, progress, show_results
from .folder import RunFolder, default_folder
from .job import CHECKPOINTS, TrainingJob, TrainingOutcome, policy_to_begin_with
from .judgement import Judgement, judge_policy, judge_texts
from .loggers import LogName
from .origin import Start
from .preferences import learn_from_pairs

if TYPE_CHECKING:
    from text_gym.agents.adapters.sb3.config import SB3Config
    from text_gym.agents.algorithms.agent import Agent
    from text_gym.agents.algorithms.configs import AgentConfig, DPOConfig


# Takes the run's folder, what stops it, what takes an iteration's metrics, and what says what is waited for.
Learner: TypeAlias = (
    "Callable[[RunFolder, Stop, Callable[[dict[str, float]], bool], Callable[[str], None]], TrainingOutcome]"
)
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
    resume: bool = False,
    accept_changes: bool = False,
    pairs: Sequence[Preference] = (),
    logs: Sequence[LogName] = ("tensorboard",),
    options: Mapping[str, Any] | None = None,
    started: float | None = None,
    loading: AbstractContextManager[object] | None = None,
) -> dict[str, Any]:
    """Train a policy, judge it on the held-out prompts before and after, and write the run's folder.

    It ends with the last policy, or with that of the best checkpoint where its reward − β·KL, on the run's
    own batches, was larger by more than noise (`Checkpoints.take_best`).
    A run that was interrupted, in whatever way, goes on with `resume` from its last checkpoint; on a CPU its
    summary, metrics (`text_gym.agents.TIMES` aside) and policy are then those of the uninterrupted run.

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
        out: Folder for the results; `runs/<task>-<algorithm>-<time>` if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.
        checkpoint_every: Iterations between two checkpoints (and one at the end, however that comes), of
            which the last two and the best one are kept; 0 takes none, and the policy is the last. Of
            algorithms of Stable-Baselines3 the last two are kept.
        keep_rollouts: Iterations to keep token by token and to show in `view.html` (see `RolloutStore`).
        resume: Go on with the run in `out`; the other arguments must be those it was started with. Settings,
            the code and weights of the reward, the data, and the versions of PyTorch, `transformers` and
            text-gym are compared; patch versions and kernels that differ are a warning.
        accept_changes: Go on with what differs all the same; the folder's `started_with.json` keeps a list.
        pairs: Prompt, chosen and rejected text, which `"dpo"` learns from in place of a reward.
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
        NoScoresError: The reward scored no episode of `config.max_unscored` batches in a row; a checkpoint
            was taken.
        SystemExit: SIGTERM or SIGHUP came; a checkpoint was taken.
    """
    started = time.perf_counter() if started is None else started
    if resume and not checkpoint_every:
        raise ConfigError(f"the run in {out} takes no checkpoints (checkpoint_every=0) and cannot be resumed")
    if (algorithm == "dpo") != bool(pairs):
        raise ConfigError("preference pairs are what dpo learns from, and no other algorithm")
    folder = Path(out) if out else default_folder(task.name, algorithm)
    with loading or nullcontext():
        bf16 = pick_dtype(dtype, pick_device(device)) == "bfloat16"
        kept_in = "bfloat16" if bf16 and lora is not None else "float32"
        start = policy_to_begin_with(algorithm, task, policy, device, folder if resume else None, kept_in)
    came_from = None if start is None else Start.of(start, policy, task)
    if lora is not None:
        start = _with_adapter(algorithm, start, lora, not adapter_only, config.seed)
    if start is not None and (bf16 or gradient_checkpointing):
        start.use_less_memory(bf16=bf16 and lora is None, gradient_checkpointing=gradient_checkpointing)
    reward = reward or task.reward
    more: Any = (pairs, generator, keep_rollouts)
    job = TrainingJob(
        algorithm, config, task, reward, start, episodes, limit, device, checkpoint_every, came_from, *more
    )
    settings = job.settings() | ({} if lora is None else {"lora": lora})
    settings |= {} if generator is None else {"generator": generator}
    settings |= {"options": dict(options)} if options else {}
    checked: Any = {"conditions": job.conditions(options), "accept_changes": accept_changes}
    open_folder = partial(RunFolder, folder, settings, logs=logs, resume=resume, **checked)
    return _run(job, open_folder, console or SafeConsole(), started)


def _run(
    job: TrainingJob, open_folder: Callable[[], RunFolder], console: Console, started: float
) -> dict[str, Any]:
    """Learn inside the run's folder, stopping cleanly when asked to, and write and show what came of it."""
    with_agent = _learn_with_sb3 if job.algorithm.startswith("sb3.") else _learn
    learner: Learner = (learn_from_pairs if job.pairs else with_agent)(job)
    models = [*([] if job.policy is None else [job.policy]), *reward_modules(job.reward).values()]
    with (
        nullcontext() if threads_are_chosen() else limited_threads(*models),
        stop_signals() as stop,
        progress(console, job.iterations, bar=not job.reward.interactive) as show,
        open_folder() as run,
        Notes(console, run.note),
    ):
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


def _learn(job: TrainingJob) -> Learner:
    """Return the function that learns with one of our own algorithms."""
    agent_class = load_algorithm(job.algorithm)
    assert job.policy is not None
    _check_end(job)
    env = TextVectorEnv(
        **job.task.env_kwargs(reward=job.reward),
        num_envs=job.episodes,
        limit=job.limit,
        numbering="global",
        context=job.policy.context,
    )
    agent: Agent[Any] = agent_class(job.policy, env, job.config)
    agent.generator = job.make_generator(env.batch.tokens.shape[1])

    def learner(
        run: RunFolder,
        stop: Stop,
        report: Callable[[dict[str, float]], bool],
        stage: Callable[[str], None],
    ) -> TrainingOutcome:
        stage(f"measuring the start on {len(job.task.held_out):,} held-out prompts")
        before, watch = judge_policy(agent.policy, agent.reference, job.task, job.reward), job.gold_watch()
        checkpoints = Checkpoints(run.path / CHECKPOINTS)
        save = _go_on_and_save(agent, run, checkpoints, job.checkpoint_every)
        agent.recorder = job.recorder(run, agent.iteration)

        def after_iteration(_: Agent[Any], metrics: dict[str, float]) -> bool:
            if watch is not None and watch.due(agent.iteration):
                metrics = {**metrics, **watch.look(agent.policy, agent.reference)}
            go_on = report(metrics)
            if job.checkpoint_every and agent.iteration % job.checkpoint_every == 0:
                save()
            return go_on

        stage("training")
        with stop.patience():
            _learn_and_save(agent, job, run, stop, save, after_iteration)
        choice = Choice(agent.iteration, None)
        if stop.signal is None:  # an interrupted run can be resumed from the policy as it is
            choice = checkpoints.take_best(agent)
        if choice.reason is not None:
            LOG.info("%s", choice.reason)
            job.save_policy(run, agent.save)
        stage("measuring the result")
        after = judge_policy(agent.policy, agent.reference, job.task, job.reward)
        first = None if watch is None else watch.first(before)
        return TrainingOutcome(
            before, after, agent.tokens_played, agent.iteration, choice, agent.declined, first
        )

    return learner


def _check_end(job: TrainingJob) -> None:
    """Refuse texts that cannot end to a run that learns nothing from texts which the limit cuts.

    Raises:
        ConfigError: The tokenizer has no EOS id, and the limit truncates.
    """
    made = job.task.env_kwargs()
    if made["tokenizer"].eos_ids or made.get("stop"):
        return
    why = f"the tokenizer has no EOS id: every text runs to the limit of {made['max_tokens']} tokens"
    if job.limit == "truncate":
        raise ConfigError(
            f"{why}, and --limit truncate learns nothing from those; save the tokenizer with its eos_token, "
            "or pass --limit end"
        )
    LOG.warning("%s", why)


def _learn_and_save(
    agent: Agent[Any],
    job: TrainingJob,
    run: RunFolder,
    stop: Stop,
    save: Callable[[], None],
    after_iteration: Callable[[Agent[Any], dict[str, float]], bool],
) -> None:
    """Learn until all iterations are done or somebody stops it; save what was learnt, whatever happens."""
    hopeless = False
    try:
        agent.learn(callback=after_iteration)
    except NonFiniteError:  # the same settings would break it again
        hopeless = True
        raise
    except RaterLeftError as error:  # treated like Ctrl-C
        LOG.info("%s", error)
        if stop.signal is None:
            stop.handle(signal.SIGINT)
    finally:  # an error in the reward must not cost what was learnt so far
        try:
            save()
        finally:
            job.save_policy(run, agent.save)
        unfinished = agent.iteration < job.config.iterations and not agent.stopped
        if job.checkpoint_every and unfinished and not hopeless:
            LOG.info("to go on: text-gym train --resume %s", run.path)


def _go_on_and_save(
    agent: Agent[Any], run: RunFolder, checkpoints: Checkpoints, every: int
) -> Callable[[], None]:
    """Load the agent's last checkpoint, if there is one, and return a function that saves the next ones."""
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
                # The point of an interruption must not decide which policy is the best.
                checkpoints.save(agent)
            else:
                checkpoints.save(agent, *average)
            saved = agent.iteration

    save()  # before the first iteration, too, so that the run keeps its starting policy
    return save


def _learn_with_sb3(job: TrainingJob) -> Learner:
    """Return the function that learns with an algorithm of Stable-Baselines3."""

    def learner(
        run: RunFolder,
        stop: Stop,
        report: Callable[[dict[str, float]], bool],
        stage: Callable[[str], None],
    ) -> TrainingOutcome:
        stage(f"measuring the start on {len(job.task.held_out):,} held-out prompts")
        library = SB3Learner(
            job.algorithm.removeprefix("sb3."),
            job.task,
            job.config,
            policy=job.policy,
            device=job.device,
            reward=job.reward,
            limit=job.limit,
        )
        reference = None if job.policy is None else job.policy.frozen()
        before = _judge_sb3(library, job, reference)
        if job.checkpoint_every:
            library.keep_in(run.path / CHECKPOINTS, job.checkpoint_every, before_save=run.sync)
        run.rewind(library.iteration)
        stage("training")
        with stop.patience():
            try:
                library.learn(report)
            except RaterLeftError as error:  # treated like Ctrl-C
                LOG.info("%s", error)
                if stop.signal is None:
                    stop.handle(signal.SIGINT)
            finally:
                job.save_policy(run, library.save_policy)
                if job.checkpoint_every and library.iteration < job.config.iterations:
                    LOG.info("to go on: text-gym train --resume %s", run.path)
        stage("measuring the result")
        after = _judge_sb3(library, job, reference)
        greedy = evaluate_sb3(library.model, job.task, greedy=True, reference=reference)
        after.summary["greedy"] = greedy.summary("gold" if job.task.has_gold else None)
        tokens, done = library.model.num_timesteps, library.iteration
        return TrainingOutcome(before, after, tokens, done, Choice(done, None))

    return learner


def _judge_sb3(library: SB3Learner, job: TrainingJob, reference: Policy | None) -> Judgement:
    """Judge the policy that a library trains on the held-out prompts."""
    found = evaluate_sb3(library.model, job.task, seed=job.config.seed, reference=reference)
    return judge_texts(found, job.task, job.reward)
