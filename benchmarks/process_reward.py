"""Process against outcome reward models: best-of-n on sums written out one step a line.

    OMP_NUM_THREADS=1 python benchmarks/process_reward.py --json benchmarks/results/process_reward.json

A clumsy writer adds up digits and errs in one step of five; labels are exact. An outcome model learns from
whole solutions whether the answer is right, a process model from the steps up to the first wrong one, a third
from labels that rollouts give (Math-Shepherd): the same solutions and the same n-gram features for all. They
choose among the writer's solutions of new sums. `--write DIR` writes the data instead, for `text-gym reward
train`.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save

from text_gym import ByteTokenizer, Episode, Prompt
from text_gym.bench.analysis.measures import best_of_n_mean
from text_gym.cli.process_reward import judge_steps
from text_gym.episode import FloatArray
from text_gym.reward_models import ProcessReward, StepLabels
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.preferences.rollouts import label_by_rollouts
from text_gym.utils.interval import mean_interval

Row = dict[str, Any]
CONFIG = NgramConfig(groups=("words",), order=7, alpha=0.1)  # a line such as "17 + 8 = 25" is five words
WHOLE = "\0"  # a delimiter that no solution holds: the solution is one step


@dataclass(frozen=True)
class Options:
    """Compare process and outcome reward models by best-of-n.

    Args:
        solutions: Numbers of solutions to learn from.
        problems: Held-out sums.
        candidates: Solutions of each, of which the best is chosen.
        digits: Of a sum.
        slip: Probability that a step is wrong.
        rollouts: Continuations of each step, for the labels of rollouts.
        seeds: Data, models and candidates of one run each.
        write: Folder for `steps.jsonl` and `outcomes.jsonl` of the first seed; nothing is trained then.
        json: File for the rows.
    """

    solutions: tuple[int, ...] = (1000, 3000)
    problems: int = 20
    candidates: int = 64
    digits: int = 8
    slip: float = 0.2
    rollouts: int = 4
    seeds: tuple[int, ...] = tuple(range(10))
    write: Path | None = None
    json: Path | None = None


def problem(rng: random.Random, digits: int) -> Prompt:
    """A sum to be written out; each has a name of its own."""
    numbers = [rng.randint(1, 9) for _ in range(digits)]
    text = " + ".join(map(str, numbers)) + " is\n"
    return Prompt(text, {"numbers": numbers}, f"{text.strip()} {rng.random()}")


def go_on(rng: random.Random, prompt: Prompt, steps: Sequence[str], slip: float) -> list[str]:
    """Finish a solution as the clumsy writer does, who trusts the last line."""
    numbers = prompt.columns["numbers"]
    total = int(steps[-1].rpartition(" = ")[2]) if steps else numbers[0]
    written = list(steps)
    for number in numbers[len(steps) + 1 :]:
        right = total + number
        wrong = [right + off for off in (-3, -2, -1, 1, 2, 3) if right + off > 0]
        result = rng.choice(wrong) if rng.random() < slip else right
        written.append(f"{total} + {number} = {result}")
        total = result
    return written


def right_steps(steps: Sequence[str]) -> list[bool]:
    """Whether each equation holds."""
    return [sum(map(int, s.partition(" = ")[0].split(" + "))) == int(s.rpartition(" = ")[2]) for s in steps]


def is_right(prompt: Prompt, text: str) -> bool:
    """Whether a solution ends with the sum."""
    return int(text.strip().rpartition(" = ")[2]) == int(sum(prompt.columns["numbers"]))


def labelled(prompt: Prompt, steps: Sequence[str]) -> StepLabels:
    """The steps up to the first wrong one, as in PRM800K (Lightman et al. 2023)."""
    right = right_steps(steps)
    end = right.index(False) + 1 if False in right else len(right)
    return StepLabels(prompt, tuple(steps[:end]), tuple(map(float, right[:end])))


def by_rollouts(
    solutions: Sequence[tuple[Prompt, list[str]]], rng: random.Random, options: Options
) -> list[StepLabels]:
    """Labels that the writer's own rollouts give, up to the first step from which nobody gets there."""

    def write(prompts: list[Prompt], texts: list[str]) -> list[str]:
        begun = [text.splitlines() for text in texts]
        ended = [go_on(rng, p, steps, options.slip) for p, steps in zip(prompts, begun, strict=True)]
        return ["\n".join(new[len(old) :]) for new, old in zip(ended, begun, strict=True)]

    found = label_by_rollouts(solutions, write, is_right, rollouts=options.rollouts, estimate="hard")
    cut = []
    for s in found:
        end = s.labels.index(0.0) + 1 if 0.0 in s.labels else len(s.labels)
        cut.append(StepLabels(s.prompt, s.steps[:end], s.labels[:end]))
    return cut


def outcome(prompt: Prompt, steps: Sequence[str]) -> StepLabels:
    """A whole solution with its outcome, as a solution of one step."""
    text = "\n".join(steps)
    return StepLabels(prompt, (text,), (float(is_right(prompt, text)),))


def majority(texts: Sequence[str], n: int) -> str:
    """The first of `n` texts that has their most frequent answer."""
    answers = [text.rpartition(" = ")[2] for text in texts[:n]]
    return texts[answers.index(Counter(answers).most_common(1)[0][0])]


def run(options: Options, seed: int) -> list[Row]:
    """A row for each number of solutions and each way to choose."""
    rng = random.Random(seed)
    asked = [problem(rng, options.digits) for _ in range(options.problems)]
    pool = [[go_on(rng, p, [], options.slip) for _ in range(options.candidates)] for p in asked]
    episodes = [
        Episode.of(p, "\n".join(steps), ByteTokenizer())
        for p, own in zip(asked, pool, strict=True)
        for steps in own
    ]
    shape = (options.problems, options.candidates)
    right = np.array([is_right(e.prompt, e.completion) for e in episodes], dtype=np.float64).reshape(shape)
    whole = np.array([all(right_steps(e.completion.splitlines())) for e in episodes]).reshape(shape) * 1.0
    ns = [n for n in (1, 4, 16, 64, 256) if n <= options.candidates]
    rows: list[Row] = []

    def add(model: str, count: int | None, proxy: FloatArray, **more: Any) -> None:
        answers = {str(n): best_of_n_mean(proxy.reshape(shape), right, n) for n in ns}
        steps = {str(n): best_of_n_mean(proxy.reshape(shape), whole, n) for n in ns}
        row = {"model": model, "solutions": count, "seed": seed, "answer": answers, "all_steps": steps}
        rows.append(row | more)

    add("any right one", None, right)
    votes = {
        str(n): np.mean(
            [
                is_right(p, majority(["\n".join(s) for s in own], n))
                for p, own in zip(asked, pool, strict=True)
            ]
        )
        for n in ns
    }
    rows.append({"model": "majority", "solutions": None, "seed": seed, "answer": votes, "all_steps": {}})
    written = [
        (p, go_on(rng, p, [], options.slip))
        for p in (problem(rng, options.digits) for _ in range(max(options.solutions)))
    ]
    judged = [labelled(p, go_on(rng, p, [], options.slip)) for p in asked]
    for count in options.solutions:
        mine = written[:count]
        started = time.process_time()
        orm = ProcessReward.fit([outcome(p, s) for p, s in mine], CONFIG, delimiter=WHOLE)
        add("outcome", count, orm(episodes).totals, seconds=time.process_time() - started)
        for name, data in (
            ("process", [labelled(p, s) for p, s in mine]),
            ("process, rollouts", by_rollouts(mine, rng, options)),
        ):
            started = time.process_time()
            terms = (prm := ProcessReward.fit(data, CONFIG))(episodes).terms
            found = judge_steps(prm, judged, seed)
            quality = {k: found[k]["value"] for k in ("step_accuracy", "first_error")}
            seconds = time.process_time() - started
            for aggregate in ("min", "product", "last"):
                add(f"{name}, {aggregate}", count, terms[aggregate], seconds=seconds, **quality)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over seeds with 95 % bootstrap intervals."""
    ns = list(rows[0]["answer"])
    lines = [
        "| chosen by | solutions | " + " | ".join(f"best of {n}" for n in ns) + " | all steps right |",
        "|---" * (len(ns) + 3) + "|",
    ]
    for key in dict.fromkeys((row["model"], row["solutions"]) for row in rows):
        own = [row for row in rows if (row["model"], row["solutions"]) == key]
        cells = [_shown([row["answer"][n] for row in own]) for n in ns]
        cells.append(_shown([row["all_steps"][ns[-1]] for row in own]) if own[0]["all_steps"] else "")
        lines.append(f"| {key[0]} | {key[1] or ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(values: Sequence[float]) -> str:
    found = mean_interval(np.array(values))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def write_data(options: Options, folder: Path) -> None:
    """Write the solutions of the first seed, for the command line."""
    rng = random.Random(options.seeds[0])
    problems = [problem(rng, options.digits) for _ in range(max(options.solutions))]
    solutions = [(p, go_on(rng, p, [], options.slip)) for p in problems]
    folder.mkdir(parents=True, exist_ok=True)
    steps = [labelled(p, s) for p, s in solutions]
    lines = [{"prompt": s.prompt.text, "steps": s.steps, "labels": s.labels} for s in steps]
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [
        {"prompt": p.text, "completion": "\n".join(s), "score": float(is_right(p, "\n".join(s)))}
        for p, s in solutions
    ]
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))


def main(options: Options) -> None:
    """Run everything and print the table, or write the data."""
    if options.write is not None:
        write_data(options, options.write)
        return
    rows: list[Row] = []
    for seed in options.seeds:
        rows += run(options, seed)
        print(f"seed {seed} done, {time.process_time():.0f} s", flush=True)
    print(f"\n{table(rows)}")
    if options.json:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="process_reward.py"))
