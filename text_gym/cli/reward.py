"""Runs `text-gym reward train` and `text-gym reward score`: opinions in, a model and its figures out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from text_gym.cli.options.reward import RewardScoreOptions, RewardTrainOptions
from text_gym.cli.process_reward import train_process_reward
from text_gym.data import read_rows
from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import pick_dtype
from text_gym.models.world import World, local_device, meeting
from text_gym.reward_models.learned.configs import NgramConfig, RewardTrainingConfig
from text_gym.reward_models.learned.ensembles import Ensemble
from text_gym.reward_models.learned.model import RewardModel
from text_gym.reward_models.learned.ngrams import NgramModel
from text_gym.reward_models.learned.training import RewardTrainer
from text_gym.reward_models.loading import load_reward
from text_gym.reward_models.preferences.measures import mark_correlation, measure_calibration, pair_accuracy
from text_gym.reward_models.preferences.opinions import Opinions, PreferencePair, Rating, split_opinions
from text_gym.rewards.source import RewardSource
from text_gym.tokenizer import ByteTokenizer, PretrainedTokenizer
from text_gym.transcripts import read_transcripts
from text_gym.utils.display import started_by_torchrun
from text_gym.utils.json_files import write_json
from text_gym.utils.terminal import SafeConsole

_TOKENIZER = ByteTokenizer()  # learned models read text, so any tokenizer will do to carry it


def run_reward_train(options: RewardTrainOptions, config: NgramConfig | RewardTrainingConfig) -> int:
    """Run `text-gym reward train`."""
    train_reward(options, config)
    return 0


def run_reward_score(options: RewardScoreOptions) -> int:
    """Run `text-gym reward score`."""
    rescore(options)
    return 0


def train_reward(
    options: RewardTrainOptions,
    config: NgramConfig | RewardTrainingConfig,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a reward model, evaluate it on held-out prompts, and save it in `options.out`.

    Of several processes each learns from its share of every batch; the first one judges, writes and prints.

    Returns:
        What is written to `summary.json`, with 95 % bootstrap intervals on the held-out prompts: accuracy
        and calibration for pairs, Spearman for each criterion of ratings, what `judge_steps` finds for
        steps. In another process than the first, nothing.
    """
    out = Path(options.out)
    if (out / "summary.json").exists():
        raise ConfigError(f"{out} already holds a reward model; choose another --out")
    if options.kind == "ngrams" and started_by_torchrun():
        raise ConfigError("an n-gram model learns in one process; start it without torchrun")
    if options.steps is not None:
        return train_process_reward(options, config, console or SafeConsole())
    options = replace(options, device=local_device(options.device))
    dtype = pick_dtype(options.dtype, pick_device(options.device))
    opinions, criteria = options.load()
    train, held_out = _split(opinions, options.held_out, config.seed)
    with meeting(options.device) as world:
        quiet = world is not None and world.rank > 0
        console = SafeConsole(quiet=True) if quiet else console or SafeConsole()
        started = time.perf_counter()
        learning = partial(_member, options, config, dtype, train, criteria, console, world)
        members = [learning(i) for i in range(options.members)]
        seconds = time.perf_counter() - started
        return (
            {}
            if quiet
            else _judge_and_save(options, config, members, dtype, train, held_out, seconds, console)
        )


def _judge_and_save(
    options: RewardTrainOptions,
    config: NgramConfig | RewardTrainingConfig,
    members: Sequence[NgramModel | RewardModel],
    dtype: str,
    train: Opinions,
    held_out: Opinions,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    """Judge the model that `members` make on the held-out opinions, and write the folder."""
    out = Path(options.out)
    source: Any = members[0]
    if len(members) > 1:
        source = Ensemble(members, options.k, penalty=options.penalty)
    result = judge_reward(source, held_out, config.seed)
    figure = result.pop("figure", None)
    if options.normalise:
        for member in members:
            member.normalise(_episodes(train))
    source.save(out)
    summary = {
        "kind": options.kind,
        "members": options.members,
        "dtype": dtype,
        "opinions": len(train),
        "held_out_opinions": len(held_out),
        "held_out_prompts": len({o.prompt.id for o in held_out}),
        **result,
        "seconds": seconds,
        "seed": config.seed,
    }
    if figure is not None:
        figure.draw(out / "calibration.png", f"{out.name}, held-out prompts")
    write_json(out / "summary.json", summary)  # last: what was interrupted before it can be done again
    _show(console, summary, out)
    return summary


def judge_reward(source: RewardSource, opinions: Opinions, seed: int = 0) -> dict[str, Any]:
    """Measure how well a reward agrees with opinions.

    Args:
        source: The reward.
        opinions: Pairs, or ratings whose criteria are the source's terms (or its value, if there is but one).
        seed: Decides the resamples of the intervals.

    Returns:
        Of pairs: `accuracy`, `calibration` and `figure`, a `Calibration` to be drawn (ties are left out). Of
        ratings: `criteria`, for each of which `spearman`.
    """
    pairs = [o for o in opinions if isinstance(o, PreferencePair) and not o.tie]
    if pairs:
        totals = source(_episodes(pairs)).totals
        ahead = totals[::2] - totals[1::2]
        found = measure_calibration(ahead)
        return {
            "accuracy": pair_accuracy(ahead, seed).summary(),
            "calibration": found.summary(),
            "figure": found,
        }
    ratings = [o for o in opinions if isinstance(o, Rating)]
    rewards = source(_episodes(ratings))
    names = list(dict.fromkeys(c for r in ratings for c in r.values))
    result = {}
    for name in names:
        predicted = rewards.terms.get(name, rewards.totals)
        rows = [i for i, r in enumerate(ratings) if name in r.values]
        marks = np.array([ratings[i].values[name] for i in rows])
        result[name] = {"spearman": mark_correlation(predicted[rows], marks, seed).summary()}
    return {"criteria": result}


def rescore(options: RewardScoreOptions, console: Console | None = None) -> list[dict[str, Any]]:
    """Score the transcripts with the reward and write the rows to `options.out`.

    Raises:
        ConfigError: The reward is not deterministic: it would not say tomorrow what it says today.
    """
    console = console or SafeConsole()
    rows = read_rows(options.transcripts)
    tokenizer = PretrainedTokenizer.from_pretrained(options.policy) if options.policy else _TOKENIZER
    episodes = list(read_transcripts(options.transcripts, tokenizer))
    source = load_reward(options.reward, prompts=_distinct(episodes))
    if not source.deterministic:
        raise ConfigError(
            f"reward {source.name!r} is not deterministic: scoring stored texts with it again means nothing; "
            "use a deterministic one"
        )
    result: list[dict[str, Any]] = []
    for i in range(0, len(episodes), 256):
        found = source(episodes[i : i + 256])
        for j, total in enumerate(found.totals):
            terms = {name: float(term[j]) for name, term in found.terms.items() if np.isfinite(term[j])}
            own = {"reward": None if found.abstained[j] else float(total), "terms": terms}
            result.append({**rows[i + j], **own, "reward_source": source.name})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in result]
    Path(options.out).write_text("".join(lines), encoding="utf-8")
    values = [row["reward"] for row in result if row["reward"] is not None]
    mean = f"mean {np.mean(values):.4f}" if values else "no opinion on any"
    old = [(r.get("reward"), new["reward"]) for r, new in zip(rows, result, strict=True)]
    both = np.array([pair for pair in old if None not in pair], dtype=np.float64).reshape(-1, 2)
    rank = (
        f"; Spearman with the stored reward {mark_correlation(both[:, 0], both[:, 1]).value:.3f}"
        if len(both)
        else ""
    )
    console.print(
        Text(f"{len(result)} texts scored by {source.name}: {mean}{rank}; written to {options.out}")
    )
    return result


def _member(
    options: RewardTrainOptions,
    config: Any,
    dtype: str,
    train: Opinions,
    criteria: Sequence[str],
    console: Console,
    world: World | None,
    number: int,
) -> NgramModel | RewardModel:
    """Train the ensemble's member with this number."""
    own = replace(config, seed=config.seed + number)
    if options.kind == "ngrams":
        return NgramModel.fit(train if options.members == 1 else _resampled(train, own.seed), criteria, own)
    if options.model is not None:
        model = RewardModel.from_backbone(options.model, criteria, seed=own.seed, device=options.device)
    else:
        texts = [text for e in _episodes(train) for text in (e.prompt.text, e.completion)]
        tokenizer = PretrainedTokenizer.train(texts, 1024)
        longest = max(len(tokenizer.encode(e.prompt.text + e.completion)) for e in _episodes(train))
        context = max(128, -(-longest * 3 // 2 // 32) * 32)
        model = RewardModel.new(tokenizer, criteria, context=context, seed=own.seed, device=options.device)

    def report(row: dict[str, float]) -> None:
        losses = f"loss {row['loss']:.3f}, validation {row['validation_loss']:.3f}"
        console.print(f"member {number}, epoch {row['epoch']:.0f}: {losses}", highlight=False)

    model.bf16 = dtype == "bfloat16"
    trainer = RewardTrainer(model, train, own)
    trainer.world = world
    trainer.learn(report)
    model.bf16 = False  # it is judged as it will be used
    return model


def _split(opinions: Opinions, held_out: float, seed: int) -> tuple[Opinions, Opinions]:
    pairs = [o for o in opinions if isinstance(o, PreferencePair)]
    if pairs:
        return split_opinions(pairs, held_out, seed)
    return split_opinions([o for o in opinions if isinstance(o, Rating)], held_out, seed)


def _resampled(opinions: Sequence[Any], seed: int) -> list[Any]:
    """Resample the opinions by prompt, with replacement (bagging, Breiman 1996)."""
    groups: dict[str, list[Any]] = {}
    for o in opinions:
        groups.setdefault(o.prompt.id, []).append(o)
    names = list(groups)
    drawn = np.random.default_rng(seed).integers(len(names), size=len(names))
    return [o for i in drawn for o in groups[names[i]]]


def _episodes(opinions: Opinions) -> list[Episode]:
    """Return the texts the opinions are about; pairs give chosen and rejected in turn."""
    texts = [
        (o.prompt, text)
        for o in opinions
        for text in ((o.chosen, o.rejected) if isinstance(o, PreferencePair) else (o.completion,))
    ]
    return [Episode.of(prompt, text, _TOKENIZER) for prompt, text in texts]


def _distinct(episodes: Sequence[Episode]) -> list[Prompt]:
    return list({e.prompt.id: e.prompt for e in episodes}.values())


def _show(console: Console, summary: dict[str, Any], out: Path) -> None:
    table = Table(title="Held-out prompts (95 % interval)", title_justify="left")
    for heading in ("", "value", "interval", "n"):
        table.add_column(heading)

    def add(name: str, found: dict[str, Any]) -> None:
        low, high = found["ci95"]
        table.add_row(Text(name), f"{found['value']:.3f}", f"{low:.3f} to {high:.3f}", str(found["n"]))

    if "accuracy" in summary:
        add("agreement with the raters", summary["accuracy"])
        table.add_row("calibration error (ECE)", f"{summary['calibration']['ece']:.3f}", "", "")
    for name, found in summary.get("criteria", {}).items():
        add(f"Spearman, {name}", found["spearman"])
    console.print(table)
    console.print(Text(f"{summary['seconds']:.1f} s; saved in {out}; use it with --reward {out}"))
