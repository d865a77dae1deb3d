"""The sentiment task of Ziegler et al. (2019) in small: a real language model learns to review kindly.

    python benchmarks/sentiment.py --model FOLDER --jobs 2

SmolLM2-135M continues beginnings of reviews; the reward is VADER's sentiment of the whole text, from −1 to 1
(Hutto and Gilbert 2014), or a reward model that learnt from 2,000 simulated preferences. Every run is a cell
that leaves a file in `--out`; those that are there are not run again, so that the command may be stopped and
given once more. `python -m tests.real` makes the model. It needs `pip install -e '.[sentiment]'`.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import Row, machine
from sentiment_prompts import prompts
from sentiment_report import gather, write_figure

from text_gym import (
    Episode,
    FunctionReward,
    PretrainedTokenizer,
    RewardSource,
    TextVectorEnv,
    read_transcripts,
    write_transcripts,
)
from text_gym.agents import LoRAPolicy, Policy, evaluate
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.sampling.evaluation import Report
from text_gym.errors import ConfigError
from text_gym.reward_models import RewardModel, RewardTrainer, RewardTrainingConfig
from text_gym.reward_models.learned.backbones import load_classifier, shrink_head
from text_gym.reward_models.people.raters import collect_pairs
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.reward_models.preferences.measures import pair_accuracy
from text_gym.rewards.source import WeightedSum
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json

FOLDER = Path(os.environ.get("TEXT_GYM_SMOLLM2", "~/.cache/text-gym/SmolLM2-135M-Instruct")).expanduser()
CELLS = (
    "start",
    *(f"{algorithm}-{seed}" for algorithm in ("grpo", "ppo") for seed in (1, 2, 3)),
    "rloo-1",
    "grpo-preferences-1",
)
NOISE = 0.2  # of the simulated rater, in units of sentiment: the scale of a logistic
# What differs from an algorithm's defaults, besides what `Options` says.
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"epochs": 1},
    "grpo": {"epochs": 1, "kl_in": "reward", "kl_estimator": "k1"},
    "rloo": {"epochs": 1},
}


@dataclass(frozen=True)
class Options:
    """Teach a language model to review kindly.

    Args:
        model: Folder of SmolLM2-135M-Instruct, which is used as a base model: without its chat template.
        out: Folder of what each cell leaves.
        json: File for the results; not written if None.
        figure: Picture of them; not drawn if None.
        cells: What to run: "start", or an algorithm and a seed, with "-preferences" between them for a reward
            model in place of the scorer.
        jobs: Cells at a time, each a process of one thread.
        iterations: Of each run.
        episodes: Of an iteration.
        tokens: Limit of a text.
        learning_rate: Of AdamW, at the start.
        kl_coef: β, sentiment per nat.
        pairs: Preferences to learn from.
        layers: Of the language model's trunk that the reward model has.
        texts: For each held-out prompt.
        lora: Rank of adapters to learn in; 0 learns all weights.
    """

    model: Path = FOLDER
    out: Path = Path("build/sentiment")
    json: Path | None = None
    figure: Path | None = None
    cells: tuple[str, ...] = CELLS
    jobs: int = 1
    iterations: int = 20
    episodes: int = 48
    tokens: int = 20
    learning_rate: float = 1e-4
    kl_coef: float = 0.02
    pairs: int = 2000
    layers: int = 6
    texts: int = 4
    lora: int = 0


def vader() -> Any:
    """VADER, a lexicon of 7,500 words and a few rules, which comes with its package."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigError("the scorer needs vaderSentiment; pip install -e '.[sentiment]'") from error
    return SentimentIntensityAnalyzer()


def scorer() -> FunctionReward:
    """The reward: VADER's compound sentiment of prompt and completion together, in [−1, 1]."""
    analyzer = vader()

    def sentiment(prompt: str, completion: str) -> float:
        return float(analyzer.polarity_scores(prompt + completion)["compound"])

    return FunctionReward(sentiment)


def world(options: Options, reward: RewardSource, *, held_out: bool = False) -> TextVectorEnv:
    """The environment: beginnings of reviews, to be continued by so many tokens."""
    tokenizer = PretrainedTokenizer.from_pretrained(options.model)
    rows = prompts()[held_out]
    return TextVectorEnv(rows, tokenizer, reward, options.tokens, num_envs=options.episodes)


def judge(policy: Policy, start: Policy, options: Options, gold: RewardSource) -> Report:
    """Texts of the held-out prompts, scored; the noise is the same for every policy."""
    env = world(options, gold, held_out=True)
    return evaluate(policy, env, reference=start, seed=10_000, episodes_per_prompt=options.texts)


def measured(report: Report) -> Row:
    """What a report says, with measures of monotony and some texts."""
    texts = [e.completion for e in report.episodes]
    words = [text.lower().split() for text in texts]
    bigrams = [pair for own in words for pair in itertools.pairwise(own)]
    repeated = [1 - len(set(own)) / len(own) for own in words if own]
    step = max(1, len(texts) // 8)
    return {
        **report.summary("sentiment"),
        "distinct_bigrams": len(set(bigrams)) / max(1, len(bigrams)),
        "repeated_words": sum(repeated) / max(1, len(repeated)),
        "distinct_texts": len(set(texts)) / len(texts),
        "favourites": _favourites(words),
        "samples": [
            {"prompt": e.prompt.text, "completion": e.completion, "sentiment": reward}
            for e, reward in zip(report.episodes[::step], report.rewards[::step].tolist(), strict=True)
        ],
    }


def _favourites(words: Sequence[Sequence[str]]) -> dict[str, float]:
    """The twelve words of the lexicon that stand in most texts, with the share of texts that have them."""
    lexicon = vader().lexicon
    found = Counter(w for own in words for w in {word.strip(".,!?;:") for word in own} if w in lexicon)
    return {word: count / len(words) for word, count in found.most_common(12)}


def begin(options: Options) -> Row:
    """The policy before it learns: its texts of held-out prompts, and those that preferences are about."""
    policy, gold = Policy.from_pretrained(options.model, device="cpu"), scorer()
    env = world(options, gold)
    each = 2 * -(-options.pairs // len(env.prompts))
    found = evaluate(policy, env, seed=20_000, episodes_per_prompt=each)
    write_transcripts(options.out / "texts.jsonl", found.episodes, found.rewards.tolist())
    after = measured(judge(policy, policy, options, gold))
    return {"after": after, "texts": len(found.episodes), "sentiments": found.rewards.tolist()}


def preferences(options: Options, seed: int) -> tuple[RewardSource, Row]:
    """A reward model of pairs of the start's texts, in the scorer's units, and how well it learnt.

    Its trunk is the language model's lowest layers; the embeddings stay as they are. The rater prefers the
    text of higher sentiment, but for logistic noise (Bradley and Terry 1952).
    """
    started = time.process_time()
    model = load_classifier(options.model, new_head=True, num_labels=1)
    model.base_model.layers = model.base_model.layers[: options.layers]
    model.config.num_hidden_layers = options.layers
    model.get_input_embeddings().requires_grad_(False)
    shrink_head(model, seed)
    tokenizer = PretrainedTokenizer.from_pretrained(options.model)
    learner = RewardModel(model, tokenizer, name="preferences", device="cpu")
    gold = scorer()
    episodes: list[Episode] = list(read_transcripts(options.out / "texts.jsonl", tokenizer))
    left, right = episodes[::2], episodes[1::2]
    rater = SimulatedRater(gold, Vices(noise=NOISE), seed=seed)
    pairs = collect_pairs(rater, left[: options.pairs], right[: options.pairs])
    config = RewardTrainingConfig(epochs=3, learning_rate=1e-4, seed=seed)
    trainer = RewardTrainer(learner, pairs, config).learn()
    model.requires_grad_(False)
    learner.normalise(episodes[:512])
    spread = float(gold(episodes[:512]).totals.std())
    env = world(options, gold, held_out=True)
    policy = Policy.from_pretrained(options.model, device="cpu")
    held_out = evaluate(policy, env, seed=30_000, episodes_per_prompt=2).episodes
    truth = SimulatedRater(gold).compare(held_out[::2], held_out[1::2])
    ahead = learner(held_out).totals[::2] - learner(held_out).totals[1::2]
    signs = [(1 if c == "left" else -1) * a for c, a in zip(truth, ahead.tolist(), strict=True) if c != "tie"]
    found = {
        "pairs": len(pairs),
        "noise": NOISE,
        "layers": options.layers,
        "history": trainer.history,
        "agreement": pair_accuracy(torch.tensor(signs).double().numpy(), seed).summary(),
        "processor_seconds": time.process_time() - started,
    }
    return WeightedSum({"learned": (learner, spread)}), found


def learn(cell: str, options: Options) -> Row:
    """One run: its settings, its curve, and what its policy writes of held-out prompts."""
    algorithm, *middle, seed = cell.split("-")
    gold, row = scorer(), {"cell": cell, "algorithm": algorithm, "seed": int(seed)}
    reward: RewardSource = gold
    if middle == ["preferences"]:
        learned, row["reward_model"] = preferences(options, int(seed))
        reward = WeightedSum({"learned": learned, "sentiment": (gold, 0.0)})
    policy = Policy.from_pretrained(options.model, device="cpu")
    if options.lora:
        policy = LoRAPolicy(policy, rank=options.lora)
    kind = load_algorithm(algorithm)
    config = kind.config_class(
        iterations=options.iterations,
        learning_rate=options.learning_rate,
        kl_coef=options.kl_coef,
        seed=int(seed),
        **SETTINGS[algorithm],
    )
    agent = kind(policy, world(options, reward), config)
    curve: list[Row] = []

    def note(agent: Any, metrics: dict[str, float]) -> None:
        kept = {k: float(metrics[k]) for k in ("reward", "reward_std", "kl", "length")}
        kept["sentiment"] = float(metrics.get("reward/sentiment", metrics["reward"]))
        curve.append({**kept, "processor_seconds": time.process_time() - started})
        print(f"{cell} {agent.iteration}: sentiment {kept['sentiment']:.3f}, KL {kept['kl']:.2f}", flush=True)

    started = time.process_time()
    agent.learn(callback=note)
    row |= {"reward": "preferences" if middle else "scorer", "settings": asdict(config), "curve": curve}
    return {**row, "after": measured(judge(policy, agent.reference, options, gold))}


def run(cell: str, options: Options) -> None:
    """Run a cell and write its file."""
    torch.set_num_threads(1)
    load, started = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan"), time.perf_counter()
    before = time.process_time()
    row = begin(options) | {"cell": cell} if cell == "start" else learn(cell, options)
    row |= {
        "processor_seconds": time.process_time() - before,
        "seconds": time.perf_counter() - started,
        "load": load,
        "machine": machine(),
        "options": {k: v for k, v in asdict(options).items() if isinstance(v, (int, float))},
    }
    write_json(options.out / f"{cell}.json", row)
    after = row["after"]
    said = f"sentiment {after['sentiment']['mean']:.3f}, KL {after['kl_nats']:.2f} nats"
    print(f"{cell}: {said}, perplexity {after['perplexity']:.1f} in {row['seconds']:.0f} s", flush=True)
    for sample in after["samples"][:4]:
        print(f"    {harmless(sample['prompt'])} |{harmless(sample['completion'])}", flush=True)


def main(options: Options) -> None:
    """Run the cells that have no file yet, then write the results and draw them."""
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [c for c in options.cells if not (options.out / f"{c}.json").is_file()]
    if options.jobs == 1:
        for cell in missing:
            run(cell, options)
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, spawn) as pool:
            first = [pool.submit(run, cell, options) for cell in missing if "preferences" not in cell]
            if "start" in missing:
                first[missing.index("start")].result()
            # The texts that preferences are about are those of the start.
            later = [pool.submit(run, cell, options) for cell in missing if "preferences" in cell]
            for future in first + later:
                future.result()
    rows = [json.loads((options.out / f"{c}.json").read_text(encoding="utf-8")) for c in options.cells]
    results = gather(rows)
    if options.json is not None:
        write_json(options.json, results)
    if options.figure is not None:
        write_figure(options.figure, results)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="sentiment.py"))
