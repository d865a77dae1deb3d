"""The whole cycle of reinforcement learning from human feedback: write, ask, learn a reward, improve.

Everything is a file in one folder, and each step's files appear at once: whoever was stopped, however that
came, goes on by the same call and ends with the same result. Who answers is decided in `people`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from rich.console import Console
from rich.text import Text

from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.sampler import rollout
from text_gym.agents.training.checkpoint import Checkpoints
from text_gym.agents.training.recorder import Recorder
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import ConfigError
from text_gym.reward_models.labels.store import LabelStore
from text_gym.reward_models.learned.configs import NgramConfig, RewardTrainingConfig
from text_gym.reward_models.learned.ensembles import bagged
from text_gym.reward_models.learned.model import RewardModel
from text_gym.reward_models.learned.ngrams import NgramModel
from text_gym.reward_models.learned.training import RewardTrainer
from text_gym.reward_models.people.acquisition import (
    Pool,
    choose_pairs,
    choose_texts,
    member_scores,
    split_budget,
)
from text_gym.reward_models.people.human import HumanRater
from text_gym.reward_models.people.raters import collect_pairs, collect_ratings
from text_gym.reward_models.preferences.files import write_opinions
from text_gym.rewards.source import RewardSource
from text_gym.runs.conditions import conditions
from text_gym.runs.console import Notes, progress
from text_gym.runs.folder import RunFolder, check_settings
from text_gym.runs.model_card import ModelCard, write_model_card
from text_gym.runs.origin import Start, load_policy, write_origin
from text_gym.runs.record import go_on, start_record
from text_gym.tasks.task import NoGold, Task
from text_gym.utils.display import counted
from text_gym.utils.json_files import write_json
from text_gym.utils.locking import FolderLock
from text_gym.utils.sealed import write_atomic, write_sealed
from text_gym.utils.terminal import SafeConsole
from text_gym.viewer.store import RolloutStore

from .config import RLHFConfig
from .folder import EVALUATION, TEXTS, RLHFFolder, is_sealed
from .measures import measure_round, measure_start, write_rows
from .report import write_rlhf_report
from .verdict import policy_name

if TYPE_CHECKING:
    from text_gym.reward_models.labels.questions import LabelCriterion
    from text_gym.reward_models.learned.ensembles import Ensemble
    from text_gym.reward_models.preferences.opinions import PreferencePair, Rating


Asker: TypeAlias = "Callable[[Sequence[str]], None]"
# Called with the store and texts of the first policy; a context manager that yields the function to ask
# people about given texts.
People: TypeAlias = (
    "Callable[[LabelStore, Sequence[Episode]], AbstractContextManager[Callable[[Sequence[Episode]], Asker]]]"
)
STORE = "labels.db"
_ROWS = 64  # episodes played side by side


def rlhf(
    task: Task,
    config: RLHFConfig,
    people: People,
    out: str | Path,
    *,
    policy: Policy | str | Path | None = None,
    criteria: Sequence[LabelCriterion] | None = None,
    device: str = "auto",
    console: Console | None = None,
    options: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    keep_rollouts: int = 0,
) -> list[dict[str, Any]]:
    """Run the cycle, or resume the one in a folder.

    Args:
        task: Prompts, held-out prompts, and its own reward, gold, to judge by; `NoGold` where there is none.
        config: The settings.
        people: Who is asked; see `people`.
        out: Folder for `report.html`, `labels.db`, `rounds.jsonl`; of each round `reward_model` and `policy`.
        policy: Policy, folder or hub model to start from; the task's own if None.
        criteria: What texts are rated for; accuracy, clarity and persuasiveness if None.
        device: `auto`, `cpu`, `cuda`, …
        console: Where to print.
        options: More to keep in `config.json`; a run can be resumed only with the same.
        accept_changes: Resume a run although settings, data, gold or versions differ (as `runs.train.train`).
        keep_rollouts: Iterations of each round whose episodes are kept token by token and shown in
            `view.html`, to which the report leads (as `runs.train.train`).

    Returns:
        The rows of `rounds.jsonl`.

    Raises:
        ConfigError: There is no policy to start from, or `out` is in use.
        ChangedRunError: `out` holds a run that was started with something else; what differs is named.
        RaterLeftError: The people left before a round's questions were answered; their answers are saved.
    """
    folder = Path(out)
    if not isinstance(policy, Policy) and not is_sealed(folder / "start" / "policy"):
        policy = first_policy(task, policy, device)  # where there is none, no folder is left behind
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        settings = {"task": task.name, **dataclasses.asdict(config), **(options or {})}
        del settings["rounds"]
        made = load_algorithm(config.algorithm)
        found = conditions(task, task.reward, algorithm=made, specs={"reward": (options or {}).get("gold")})
        notes = []
        if (folder / "config.json").exists():
            check_settings(folder, settings, accept_changes)
            notes = go_on(folder, settings, found, accept_changes=accept_changes)
        else:
            start_record(folder, settings, found)
        write_json(folder / "config.json", settings)
        console = console or SafeConsole()
        for note in notes:
            console.print(Text(note, style="yellow"))
        with LabelStore(folder / STORE) as store, Notes(console, lambda message: None):
            cycle = Cycle(task, config, folder, store, criteria, device)
            cycle.console, cycle.keep_rollouts = console, keep_rollouts
            return cycle.run(people, policy)
    finally:
        lock.release()


def first_policy(task: Task, policy: str | Path | None, device: str) -> Policy:
    """Load the policy to start from, the task's own if None.

    Raises:
        ConfigError: The task ships none.
    """
    found = policy or task.policy
    if found is None:
        raise ConfigError(
            f"task {task.name!r} ships no policy; pass --policy FOLDER (make one with `text-gym sft`)"
        )
    return load_policy(found, device, task)


class Cycle(RLHFFolder):
    """The steps of one run, each of which is skipped if its files exist; made by `rlhf`."""

    console: Console = SafeConsole()
    keep_rollouts = 0  # iterations of each round

    def run(self, people: People, policy: Policy | str | Path | None) -> list[dict[str, Any]]:
        """Run the rounds that are not done yet and return the rows of all."""
        self.start(policy)
        todo = [n for n in self.numbers() if not (self.at(n) / EVALUATION).exists()]
        if todo:
            with people(self.store, self.texts(self.at(0) / TEXTS)) as asking:
                for number in todo:
                    self.round(number, asking)
        rows = write_rows(self.folder, self.config.rounds)
        write_rlhf_report(self.folder, self.config.rounds)
        return rows

    def round(self, number: int, asking: Callable[[Sequence[Episode]], Asker]) -> None:
        """Run one round."""
        self.say(f"round {number} of {self.config.rounds}: {counted(self.config.labels_per_round, 'label')}")
        pool = self.write(number)
        chosen = self.choose(number, pool)
        opinions = self.ask(number, pool, chosen, asking(pool))
        reward = self.fit(number)
        self.improve(number, reward)
        row = measure_round(self, number, reward, opinions)
        gold = row["gold"]["mean"]
        shown = "" if gold != gold else f"gold {row['gold_before']['mean']:.3f} → {gold:.3f}, "
        self.say(
            f"round {number}: {shown}proxy {row['proxy_before']:.3f} → {row['proxy']:.3f}, "
            f"KL {row['kl_nats']:.1f} nats, {row['words']:.0f} words: {row['verdict']}"
        )
        if row["kept"] != number:
            self.say(f"round {number}: given up; {policy_name(row['kept'])} is the best so far")
        write_rows(self.folder, number)
        write_rlhf_report(self.folder, number)

    # The steps

    def start(self, policy: Policy | str | Path | None) -> None:
        """Save the first policy and measure how good it is."""
        if not is_sealed(self.at(0) / "policy"):
            if not isinstance(policy, Policy):
                policy = first_policy(self.task, policy, self.device)
            self.at(0).mkdir(exist_ok=True)
            self.save_policy(0, policy)
        if not (self.at(0) / EVALUATION).exists():
            measure_start(self)

    def write(self, number: int) -> list[Episode]:
        """Let the current policy write the texts from which questions are chosen."""
        file = self.at(number) / "candidates.jsonl"
        if not file.exists():
            self.at(number).mkdir(exist_ok=True)
            self.save_texts(file, self.sample(number))
        return self.texts(file)

    def sample(self, number: int) -> list[Episode]:
        """Let the policy write `candidates` texts for each question, or as many as random choice needs."""
        config, policy = self.config, self.policy(self.started_from(number))
        questions, _ = split_budget(config.labels_per_round, config.overlap or 0.0)
        each = config.least_candidates if config.choose == "random" else config.candidates
        env = TextVectorEnv(
            **self.task.env_kwargs(reward=NoGold()),
            num_envs=_ROWS,
            numbering="global",
            group_size=each,
            context=policy.context,
        )
        episodes: list[Episode] = []
        asked = set(self.asked(number))
        fresh: set[tuple[str, str]] = set()
        while len(fresh) < questions * each and len(episodes) < questions * config.candidates:
            index = len(episodes) + np.arange(_ROWS)
            episodes += rollout(policy, env, index, seed=config.stream(number, "texts")).episodes
            fresh = {(e.prompt.text, e.completion) for e in episodes} - asked
        return episodes

    def choose(self, number: int, pool: Sequence[Episode]) -> dict[str, Any]:
        """Choose what to ask: indices of texts or pairs, and how many of the first get two raters."""
        file = self.at(number) / "questions.json"
        if not file.exists():
            config = self.config
            scores: FloatArray | None = None
            if config.choose != "random" and number > 1:
                scores = member_scores(self.reward(number - 1), pool)
            known = Pool(pool, scores, frozenset(self.asked(number)))
            count, shared = split_budget(config.labels_per_round, config.overlap or 0.0)
            choosing = choose_pairs if config.questions == "pairs" else choose_texts
            chosen = choosing(known, count, config.choose, config.stream(number, "choice"))
            write_json(file, {"about": chosen, "shared": min(shared, len(chosen))})
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def ask(
        self, number: int, pool: Sequence[Episode], chosen: Mapping[str, Any], ask: Asker
    ) -> list[Rating] | list[PreferencePair]:
        """Ask people, wait until all questions are answered, and save the answers as opinions."""
        file = self.at(number) / "opinions.jsonl"
        if not file.exists():
            bare = [_without_columns(e) for e in pool]
            found: list[Any] = []
            about, shared, start = chosen["about"], chosen["shared"], self.started_from(number)
            for part, overlap in ((about[:shared], 2), (about[shared:], 1)):
                rater = HumanRater(
                    self.store, ask, criteria=self.scales, overlap=overlap, policy=f"round {start}"
                )
                if self.config.questions == "pairs":
                    left, right = ([bare[pair[side]] for pair in part] for side in (0, 1))
                    found += collect_pairs(rater, left, right)
                else:
                    found += collect_ratings(rater, [bare[i] for i in part])
            partial = file.with_suffix(".partial.jsonl")
            write_opinions(partial, found)
            write_atomic(file, partial.read_text(encoding="utf-8"))
            partial.unlink()
        return self.opinions(number)

    def fit(self, number: int) -> Ensemble:
        """Train the reward model on all opinions so far."""
        folder = self.at(number) / "reward_model"
        if not is_sealed(folder):
            opinions = [o for n in range(1, number + 1) for o in self.opinions(n)]
            self.say(f"round {number}: learning what was liked, from {len(opinions)} opinions")
            write_sealed(folder, fit_reward(self, opinions).save)
        return self.reward(number)

    def improve(self, number: int, reward: RewardSource) -> None:
        """Optimise the reward model with a KL penalty to the first policy, and keep the best policy."""
        if is_sealed(self.at(number) / "policy"):
            return
        folder, policy = self.at(number) / "training", self.policy(self.started_from(number))
        env = TextVectorEnv(
            **self.task.env_kwargs(reward=reward),
            num_envs=self.config.episodes,
            limit=self.config.limit,
            numbering="global",
            context=policy.context,
        )
        algorithm: Any = load_algorithm(self.config.algorithm)
        agent = algorithm(policy, env, self.config.agent_config(number), self.policy(0).frozen())
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        resume = (folder / "metrics.jsonl").exists()
        with (
            RunFolder(folder, {"round": number}, logs=(), resume=resume) as run,
            progress(self.console, self.config.iterations) as show,
        ):
            if checkpoints.load(agent) is None:
                checkpoints.save(agent)  # the round's starting policy may be its best
            run.rewind(agent.iteration)
            if self.keep_rollouts:
                store = RolloutStore(folder, self.keep_rollouts, self.config.iterations)
                store.rewind(agent.iteration)
                agent.recorder = Recorder(store.wants, store.write)

            def after_iteration(_: Any, metrics: dict[str, float]) -> None:
                run.log(metrics)
                show(metrics)
                if agent.iteration % 10 == 0:
                    run.sync()
                    checkpoints.save(agent, *(agent.objective.average() or ()))

            agent.learn(callback=after_iteration)
        choice = checkpoints.take_best(agent)
        if choice.reason is not None:
            self.say(f"round {number}: {choice.reason}")
        about = {
            "policy_of_iteration": choice.iteration,
            "objective": choice.objective,
            "declined": agent.declined,
            "kl_coef": agent.kl.coefficient,
        }
        self.save_policy(number, agent.policy, about)
        shutil.rmtree(checkpoints.folder, ignore_errors=True)

    def save_policy(self, number: int, policy: Policy, about: Any = None) -> None:
        """Seal the policy after a round, with its origin: the first policy, number 0."""
        start = Start.of(policy if number == 0 else self.policy(0), None).at(self.at(0) / "policy")

        def fill(folder: Path) -> None:
            policy.save(folder)
            write_origin(folder, self.task.settings, self.task.max_tokens, start)
            reward = f"what people liked, learnt in {number} rounds" if number else None
            settings = {"round": number, **dataclasses.asdict(self.config)}
            del settings["rounds"]  # how many follow says nothing of this policy, and may change
            write_model_card(folder, ModelCard("rlhf", settings, reward))

        write_sealed(self.at(number) / "policy", fill, about)

    def say(self, message: str) -> None:
        """Report progress."""
        self.console.print(message, highlight=False, markup=False)


def fit_reward(run: RLHFFolder, opinions: Sequence[Any]) -> Ensemble:
    """Train an ensemble on opinions; the same opinions give the same bits."""
    config = run.config
    pairs = config.questions == "pairs"
    criteria = ("reward",) if pairs else tuple(c.name for c in run.scales)
    start = run.texts(run.at(0) / TEXTS) if pairs else []

    def member(own: list[Any], number: int) -> RewardSource:
        model: NgramModel | RewardModel
        if config.model == "ngrams":
            model = NgramModel.fit(own, criteria, NgramConfig(seed=number))
        else:
            model = _transformer(run, own, criteria, number)
        if pairs:  # pairs fix neither the level of the reward nor its unit, which is the raters' noise
            model.normalise(start)
        return model

    return bagged(member, list(opinions), members=config.members, k=config.pessimism, seed=config.seed)


def _transformer(run: RLHFFolder, opinions: list[Any], criteria: Sequence[str], seed: int) -> RewardModel:
    """Train a reward model on the trunk of the first policy."""
    model = RewardModel.from_backbone(run.at(0) / "policy", criteria, seed=seed, device=run.device)
    RewardTrainer(model, opinions, RewardTrainingConfig(epochs=12, patience=3, seed=seed)).learn()
    return model


def _without_columns(episode: Episode) -> Episode:
    """Strip the prompt's columns, which raters do not see and which could share a criterion's name."""
    bare = dataclasses.replace(episode, prompt=Prompt(episode.prompt.text, {}, episode.prompt.id))
    bare.__dict__["completion"] = episode.completion
    return bare
