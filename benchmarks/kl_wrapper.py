"""PPO of other libraries on products through `KLPenalty`: does gold rise while the KL stays small?

    OMP_NUM_THREADS=1 python benchmarks/kl_wrapper.py run --library sb3 --seed 0 --out DIR
    OMP_NUM_THREADS=1 PYTHON_WITH_SKRL benchmarks/kl_wrapper.py run --library skrl --seed 0 --out DIR
    python benchmarks/kl_wrapper.py report --out DIR --json benchmarks/results/kl_wrapper.json
    OMP_NUM_THREADS=1 python benchmarks/kl_wrapper.py bonus --seeds 0 1 2

Both train the shipped policy with the same settings; gold and KL at the end are
`text_gym.agents.evaluate`'s, on the held-out prompts, and owe nothing to what the wrapper reported on
the way. skrl is no dependency of this package; give it an environment of its own (`pip install -e
'.[sb3]' skrl`). `bonus` asks whether the wrapper could do without the policy's log-probabilities, if a
library's entropy bonus stood in for them, in a world whose optimum is known in closed form.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from machine import Row, machine, save
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor

from text_gym import TextVectorEnv, load_task
from text_gym.agents import (
    KLPenalty,
    LanguageModelPolicy,
    Policy,
    SB3VecEnv,
    SequenceRolloutBuffer,
    evaluate,
)
from text_gym.agents.adapters.causal_actor_critic import states_of
from text_gym.agents.adapters.sb3.kl_penalty import sb3_log_probs
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.tasks.enumerable import optimal_policy, trajectories
from text_gym.utils.json_files import write_json

ROWS, BATCH, EPOCHS, RATE, LAMBDA = 64, 512, 4, 3e-4, 0.95  # the defaults of train_sb3 with a language model


class Curve(VectorWrapper):  # type: ignore[type-arg, unused-ignore]  # generic since Gymnasium 1.4
    """Keeps the task's return and the KL of every episode, as the infos tell them, and counts tokens."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.tokens = 0
        self.episodes: list[tuple[int, float, float]] = []

    def step(self, actions: Any) -> Any:
        """As the wrapped environment."""
        result = self.env.step(actions)
        infos = result[4]
        self.tokens += self.num_envs
        for row in np.flatnonzero(infos.get("_episode", np.zeros(0))).tolist():
            returned, kl = infos["episode"]["r"][row], infos["episode_kl"][row]
            self.episodes.append((self.tokens, float(returned), float(kl)))
        return result

    def means(self, size: int) -> list[Row]:
        """Of the episodes that ended in each stretch of so many tokens."""
        table = np.array(self.episodes)
        stretch = (table[:, 0] - 1) // size
        return [
            {"tokens": int((k + 1) * size), "reward": part[:, 1].mean(), "kl": part[:, 2].mean()}
            for k in np.unique(stretch).tolist()
            if len(part := table[stretch == k])
        ]


def run_sb3(env: KLPenalty, curve: Curve, policy: Policy, iterations: int, seed: int) -> Policy:
    """Stable-Baselines3's PPO, as `docs/bring-your-own-algorithm.md` writes it."""
    n_steps = env.unwrapped.max_tokens  # type: ignore[attr-defined]
    sb3_env = SB3VecEnv(curve)
    model: Any = PPO(
        LanguageModelPolicy,
        sb3_env,
        n_steps=n_steps,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        gamma=1.0,
        gae_lambda=LAMBDA,
        learning_rate=LinearSchedule(RATE, 0.0, 1.0),
        policy_kwargs={"language_model": policy, "exact_entropy": False},
        rollout_buffer_class=SequenceRolloutBuffer,
        seed=seed,
        device="cpu",
    )
    sb3_env.follow(model.policy)
    model.learn(iterations * n_steps * ROWS)
    learnt: Policy = model.policy.language_model
    return learnt


def run_skrl(env: KLPenalty, curve: Curve, policy: Policy, iterations: int, seed: int) -> Policy:
    """skrl's PPO with the language model as one model that is both its policy and its value function."""
    from skrl.agents.torch import ppo
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils import set_seed

    set_seed(seed)
    n_steps = env.unwrapped.max_tokens  # type: ignore[attr-defined]
    wrapped: Any = wrap_env(curve, wrapper="gymnasium")
    model = skrl_model(policy, wrapped.observation_space, wrapped.action_space)
    settings = ppo.PPO_CFG(
        rollouts=n_steps,
        learning_epochs=EPOCHS,
        mini_batches=n_steps
        * ROWS
        // (2 * BATCH),  # of steps, not of whole texts as in SB3: larger ones cost less
        discount_factor=1.0,
        gae_lambda=LAMBDA,
        learning_rate=RATE,
        learning_rate_scheduler=torch.optim.lr_scheduler.LinearLR,
        learning_rate_scheduler_kwargs={
            "start_factor": 1.0,
            "end_factor": 0.0,
            "total_iters": iterations * EPOCHS,  # skrl steps the schedule once an epoch
        },
        grad_norm_clip=0.5,
        value_clip=0.0,
        value_loss_scale=0.5,
        experiment={"write_interval": 0, "checkpoint_interval": 0},
    )
    agent = ppo.PPO(
        models={"policy": model, "value": model},
        memory=RandomMemory(memory_size=n_steps, num_envs=ROWS, device="cpu"),
        observation_space=wrapped.observation_space,
        action_space=wrapped.action_space,
        device="cpu",
        cfg=settings,
    )

    def log_probs(observation: Any, actions: Any) -> Tensor:
        """Of the distribution that skrl's model has just drawn from."""
        said: Tensor = agent.policy.distribution(role="policy").log_prob(torch.as_tensor(actions))
        return said

    env.follow(log_probs)
    options = {"headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    trainer: Any = SequentialTrainer(
        env=wrapped, agents=agent, cfg={"timesteps": iterations * n_steps, **options}
    )
    trainer.train()
    return policy


def skrl_model(policy: Policy, observation_space: Any, action_space: Any) -> Any:
    """A language model as skrl's shared model: its head draws tokens, its value head is the critic."""
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
    from skrl.utils.spaces.torch import unflatten_tensorized_space

    class LanguageModel(CategoricalMixin, DeterministicMixin, Model):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
            CategoricalMixin.__init__(self, role="policy")
            DeterministicMixin.__init__(self, role="value")
            self.lm = policy
            self.states = self.shown = torch.zeros(0)
            width = observation_space["tokens"].shape[0]
            self.cache = [PrefixCache(policy, ROWS, width)]  # in a list, since it is no part of the module

        def act(self, inputs: dict[str, Any], *, role: str = "") -> Any:
            mixin = CategoricalMixin if role == "policy" else DeterministicMixin
            return mixin.act(self, inputs, role=role)

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
            """skrl asks for the policy first, then for the values of the same observations."""
            shown = inputs["observations"]
            if role == "value" and shown is self.shown:
                return self.lm.values(self.states)[:, None], {}
            observation = unflatten_tensorized_space(self.observation_space, shown)
            tokens, lengths = observation["tokens"].long(), observation["length"].long()[:, 0]
            self.shown = shown
            if torch.is_grad_enabled():
                self.states = states_of(self.lm, tokens, lengths)
            else:
                self.states = self.cache[0].read(tokens.numpy(), lengths.numpy())
            if role == "value":
                return self.lm.values(self.states)[:, None], {}
            return self.lm.logits(self.states), {}

    return LanguageModel()


def distance(seed: int, tokens: int, beta: float, *, bonus: bool, normalize: bool) -> float:
    """Total variation between what SB3's PPO learns in an enumerable world and the closed-form optimum.

    Args:
        seed: Of world, network and learning.
        tokens: To learn from.
        beta: β.
        bonus: Pay β·log π_ref alone, and let an entropy bonus of weight β do the rest.
        normalize: SB3's `normalize_advantage`.
    """
    task = load_task("enumerable", seed=seed)
    reference = Policy.new(task.tokenizer, layers=1, width=32, context=16, seed=seed, device="cpu")
    episodes = trajectories(task)
    ids = torch.full((len(episodes), 1 + task.max_tokens), task.tokenizer.pad_id)
    for row, e in zip(ids, episodes, strict=True):
        row[: 1 + len(e.completion_ids)] = torch.tensor([*e.prompt_ids, *e.completion_ids])
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])

    def distribution(policy: Policy) -> Any:
        return policy.score(ids, torch.ones_like(lengths), lengths).double().sum(dim=1).exp().numpy()

    best = optimal_policy(distribution(reference), task.reward(episodes).values, beta)
    env = KLPenalty(TextVectorEnv(task=task, num_envs=256, autoreset_mode="SameStep"), reference, beta)
    model: Any = PPO(
        LanguageModelPolicy,
        SB3VecEnv(env),
        policy_kwargs={"language_model": reference},
        rollout_buffer_class=SequenceRolloutBuffer,
        n_steps=12,
        batch_size=1024,
        n_epochs=4,
        learning_rate=LinearSchedule(3e-3, 0.0, 1.0),
        gamma=1.0,
        gae_lambda=1.0,
        ent_coef=beta if bonus else 0.0,
        normalize_advantage=normalize,
        seed=seed,
        device="cpu",
    )
    env.follow(
        (lambda observation, actions: np.zeros(len(actions))) if bonus else sb3_log_probs(model.policy)
    )
    model.learn(tokens)
    return float(np.abs(distribution(model.policy.language_model) - best).sum() / 2)


def compare_bonus(seeds: list[int], tokens: int, beta: float, file: str | None) -> None:
    """Print a line for each way to bring the policy's entropy in."""
    ways = {
        "log-probabilities told": (False, True),
        "log-probabilities told, advantages as they are": (False, False),
        "entropy bonus": (True, True),
        "entropy bonus, advantages as they are": (True, False),
    }
    rows = []
    for name, (bonus, normalize) in ways.items():
        found = [distance(s, tokens, beta, bonus=bonus, normalize=normalize) for s in seeds]
        rows.append({"way": name, "seeds": seeds, "tokens": tokens, "beta": beta, "total_variation": found})
        print(f"{name:48}", *(f"{x:.3f}" for x in found), flush=True)
    if file:
        save(file, rows)


LIBRARIES: dict[str, tuple[str, Callable[..., Policy]]] = {
    "sb3": ("stable-baselines3", run_sb3),
    "skrl": ("skrl", run_skrl),
}


def run(library: str, seed: int, iterations: int, kl_coef: float) -> Row:
    """Train once and measure before and after."""
    package, train = LIBRARIES[library]
    task = load_task("products")
    reference = Policy.from_pretrained(str(task.policy), device="cpu")
    judged = TextVectorEnv(**task.env_kwargs(prompts=task.held_out))

    def measured(policy: Policy) -> Row:
        found = evaluate(policy, judged, reference=reference, seed=seed)
        return found.summary("gold") | {"kl": {"mean": found.kl.mean, "ci95": list(found.kl.ci95)}}

    env = KLPenalty(
        RecordEpisodeStatistics(TextVectorEnv(task=task, num_envs=ROWS, autoreset_mode="SameStep")),
        reference,
        kl_coef,
    )
    curve = Curve(env)
    before = measured(reference)
    load = os.getloadavg()
    started = time.perf_counter()
    policy = train(env, curve, Policy.from_pretrained(str(task.policy), device="cpu"), iterations, seed)
    seconds = time.perf_counter() - started
    return {
        "library": f"{package} {importlib.metadata.version(package)}",
        "seed": seed,
        "iterations": iterations,
        "kl_coef": kl_coef,
        "before": before,
        "after": measured(policy),
        "tokens": curve.tokens,
        "seconds": seconds,
        "load": [load, os.getloadavg()],
        "curve": curve.means(ROWS * task.max_tokens),
        "machine": machine(),
    }


def report(folder: Path, file: str | None) -> None:
    """Print a line for every run in a folder, and gather the runs in one file."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    print("| library | seed | gold before | gold after (95 %) | KL (95 %) | tokens | seconds |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        gold, kl = row["after"]["gold"], row["after"]["kl"]
        print(
            f"| {row['library']} | {row['seed']} | {row['before']['gold']['mean']:.3f} | {gold['mean']:.3f} "
            f"({gold['ci95'][0]:.3f}–{gold['ci95'][1]:.3f}) | {kl['mean']:.2f} "
            f"({kl['ci95'][0]:.2f}–{kl['ci95'][1]:.2f}) | {row['tokens']:,} | {row['seconds']:.0f} |"
        )
    if file:
        save(file, rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="train once, and write DIR/LIBRARY-SEED.json")
    one.add_argument("--library", choices=sorted(LIBRARIES), required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--iterations", type=int, default=100, help="of 64 rows times 64 tokens")
    one.add_argument("--kl-coef", type=float, default=0.05)
    every = commands.add_parser("report", help="a table of all runs in DIR")
    every.add_argument("--json", metavar="FILE", help="gather the runs there")
    bonus = commands.add_parser("bonus", help="the policy's log-probabilities, or an entropy bonus instead?")
    bonus.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    bonus.add_argument("--tokens", type=int, default=100_000)
    bonus.add_argument("--kl-coef", type=float, default=0.2)
    bonus.add_argument("--json", metavar="FILE", help="write the rows there")
    for command in (one, every):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    if args.command == "bonus":
        compare_bonus(args.seeds, args.tokens, args.kl_coef, args.json)
        return
    if args.command == "report":
        report(args.out, args.json)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    row = run(args.library, args.seed, args.iterations, args.kl_coef)
    write_json(args.out / f"{args.library}-{args.seed}.json", row)
    report(args.out, None)


if __name__ == "__main__":
    main()
