"""Data sets of reasoning-gym as tasks: do they load, can they be satisfied, and can a policy learn from them?

    OMP_NUM_THREADS=1 python benchmarks/reasoning_tasks.py --json benchmarks/results/reasoning_tasks.json

Levels 0 and 1 of `text-gym validate` (the laws; right answers and empty texts), then the test of every new
training loop: can it learn a handful by heart? A tiny policy reads right answers to other problems for a
moment, and GRPO gets eight problems and the data set's own judge. A reward that rises says that problems,
tokens, judge and gradient belong together, and nothing of new problems: `learn_reasoning.py` is about those.
Needs `pip install -e '.[reasoning-gym]'`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import Row, save

from text_gym import Task, TextVectorEnv, load_task, validate
from text_gym.agents import GRPO, SFT, GRPOConfig, Policy, SFTConfig, evaluate
from text_gym.tokenizer import PretrainedTokenizer
from text_gym.utils.interval import mean_interval, shown

PROBLEMS, DRAWS = 8, 16
DATASETS: dict[str, dict[str, Any]] = {
    "aiw": {},
    "basic_arithmetic": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "bf": {},
    "binary_alternation": {},
    "calendar_arithmetic": {},
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "coin_flip": {},
    "color_cube_rotation": {},
    "count_bits": {"max_n": 1000},
    "count_primes": {"max_n": 50},
    "course_schedule": {},
    "decimal_chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "family_relationships": {},
    "fraction_simplification": {},
    "gcd": {"max_value": 60},
    "isomorphic_strings": {},
    "lcm": {"max_value": 20},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "max_instances": 5},
    "letter_counting": {"min_words": 2, "max_words": 3},
    "maze": {},
    "number_sequence": {},
    "prime_factorization": {"max_value": 100},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "ransom_note": {},
    "simple_equations": {},
    "simple_geometry": {},
    "spell_backward": {"min_word_len": 3, "max_word_len": 4},
    "syllogism": {},
}


@dataclass(frozen=True)
class Options:
    """Try data sets of reasoning-gym.

    Args:
        only: These alone; the file's rows of others are kept.
        steps: Of fine-tuning, 32 right answers to other problems each.
        iterations: Of GRPO, 8 answers to each problem.
        seed: Of everything.
        json: File for the rows.
    """

    only: tuple[str, ...] = tuple(DATASETS)
    steps: int = 80
    iterations: int = 40
    seed: int = 0
    json: Path | None = None


def short_task(name: str) -> Task:
    """Return a data set as a task with tokens of its own, since most of a question is always the same."""
    task = load_task(f"reasoning_gym:{name}", **DATASETS[name])
    assert task.corpus is not None
    texts = [text for prompt, answer in task.corpus()[0] for text in (prompt.text, answer)]
    tokenizer = PretrainedTokenizer.train(texts, vocab_size=512)
    return load_task(f"reasoning_gym:{name}", tokenizer=tokenizer, **DATASETS[name])


def by_heart(task: Task, options: Options) -> Row:
    """Return the reward of a few problems before and after they were learnt from their judge."""
    assert task.corpus is not None
    pairs, prompts = task.corpus()[0][PROBLEMS:], task.prompts[:PROBLEMS]
    longest = max(len(p.encode(task.tokenizer)) for p in task.prompts)
    policy = Policy.new(
        task.tokenizer, layers=1, context=longest + task.max_tokens, seed=options.seed, device="cpu"
    )
    env = TextVectorEnv(**task.env_kwargs(prompts=prompts), num_envs=8 * PROBLEMS)

    began = time.process_time()
    SFT(policy, pairs, SFTConfig(epochs=options.steps * 32 / len(pairs), seed=options.seed)).learn()
    before = evaluate(policy, env, prompts, episodes_per_prompt=DRAWS, seed=options.seed)
    config = GRPOConfig(iterations=options.iterations, learning_rate=2e-3, kl_coef=0.0, seed=options.seed)
    GRPO(policy, env, config).learn()
    after = evaluate(policy, env, prompts, episodes_per_prompt=DRAWS, seed=options.seed)

    gains = np.asarray(after.rewards) - np.asarray(before.rewards)
    gain = mean_interval(gains.reshape(PROBLEMS, DRAWS).mean(axis=1))
    return {
        "before": before.reward.mean,
        "after": after.reward.mean,
        "gain": gain.summary(),
        "said": shown(gain, sign=True),
        "rises": gain.value >= 0.1 and gain.low > 0,
        "seconds": time.process_time() - began,
    }


def try_dataset(name: str, options: Options) -> Row:
    """Validate a data set, and learn a few of its problems."""
    task = short_task(name)
    report = validate(task, levels=(0, 1), seed=options.seed)
    golden, floor = (report.result(f"semantic.{c}").measured for c in ("oracle_max", "floor_gap"))
    return {
        "dataset": name,
        "parameters": DATASETS[name],
        "golden": golden["oracle_reward"],
        "empty": floor["measured_floor"],
        "levels": {f"L{level}": said for level, said in report.levels.items() if level < 2},
        "broken": {r.check_id: list(r.evidence[:2]) for r in report.results if r.broken},
        "learning": by_heart(task, options),
    }


def kept(file: Path, anew: Sequence[str]) -> list[Row]:
    """Return the rows of a file, without those that are made anew."""
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return [row for row in rows if row["dataset"] not in anew]


def line(row: Row) -> str:
    """Return a row of the table."""
    learnt, levels = row["learning"], row["levels"]
    return (
        f"| {row['dataset']} | {row['golden']:.2f} | {row['empty']:.2f} | {levels['L0']} | {levels['L1']} | "
        f"{learnt['before']:.2f} → {learnt['after']:.2f} | {learnt['said']} |"
    )


def passes(row: Row) -> bool:
    """Return True if a data set holds both levels and is learnt."""
    return bool(row["learning"]["rises"]) and not row["broken"]


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = [] if options.json is None else kept(options.json, options.only)
    print("| data set | golden | empty | L0 | L1 | eight problems | gain |\n|---|---|---|---|---|---|---|")
    for name in options.only:
        rows.append(try_dataset(name, options))
        print(line(rows[-1]), flush=True)
        if options.json is not None:  # after each, so that what was run is kept
            settings = {"steps": options.steps, "iterations": options.iterations, "seed": options.seed}
            save(options.json, sorted(rows, key=lambda row: str(row["dataset"])), **settings)
    print(f"{sum(map(passes, rows))} of {len(rows)} pass L0 and L1 and are learnt by heart")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="reasoning_tasks.py"))
