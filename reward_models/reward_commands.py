"""What `text-gym reward train` and `text-gym reward score` do: opinions in, a model and its figures out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from text_gym import ByteTokenizer, Episode, PretrainedTokenizer, Prompt, RewardSource, read_transcripts
from text_gym.data import read_rows
from text_gym.errors import ConfigError
from text_gym.options import parse, value_of
from text_gym.report import write_json

from .ensembles import Ensemble
from .loading import load_reward
from .measures import agreement, calibration, spearman
from .ngram_features import NgramConfig
from .ngrams import NgramModel
from .preference_files import read_pairs, read_ratings
from .preferences import PreferencePair, Rating, split_opinions
from .saved import SETTINGS

if TYPE_CHECKING:
    from .learned import RewardModel
    from .training import RewardTrainingConfig

Opinions = Sequence[PreferencePair] | Sequence[Rating]
_TOKENIZER = ByteTokenizer()  # learned models read text; what carries it there does not matter


@dataclass(frozen=True)
class RewardTrainOptions:
    """Train a reward model on preference pairs or ratings, and judge it on held-out prompts.

    Args:
        pairs: File or data set of pairs: columns prompt, chosen, rejected and, if there, margin, tie, weight.
        ratings: File or data set of ratings: a row a completion, a column a criterion.
        prompt: Column of the prompts.
        completion: Column of the completions (ratings).
        chosen: Column of the better completions (pairs).
        rejected: Column of the worse ones (pairs).
        criteria: Columns of the marks, separated by commas (ratings).
        kind: ngrams (linear, trains in seconds) or transformer; transformer if a model is given, else ngrams.
        model: Folder or hub model whose trunk a transformer starts from; a small new GPT-2 if left out.
        members: Size of the ensemble; members differ in seed and, for ngrams, in the prompts they learn from.
        k: The ensemble pays mean - k standard deviations of its members.
        held_out: Share of the prompts to judge on, in (0, 1).
        normalise: Scale the reward to mean 0 and standard deviation 1 on the texts that were learnt from.
        out: Folder for the model, summary.json and calibration.png.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    pairs: str | None = None
    ratings: str | None = None
    prompt: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    criteria: str = "score"
    kind: Literal["ngrams", "transformer"] | None = None
    model: str | None = None
    members: int = 1
    k: float = 0.0
    held_out: float = 0.2
    normalise: bool = False
    out: str = "reward-model"
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.pairs is None) == (self.ratings is None):
            raise ConfigError("pass --pairs FILE or --ratings FILE, one of them")
        if self.members < 1:
            raise ConfigError(f"members is {self.members}; an ensemble needs one at least")
        if self.model is not None and self.kind == "ngrams":
            raise ConfigError("an n-gram model starts from no --model")

    def load(self) -> tuple[Opinions, tuple[str, ...]]:
        """The opinions, and the criteria that they are about."""
        if self.pairs is not None:
            columns = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
            return read_pairs(self.pairs, **columns), ("reward",)
        assert self.ratings is not None
        criteria = tuple(c.strip() for c in self.criteria.split(",") if c.strip())
        ratings = read_ratings(self.ratings, criteria, prompt=self.prompt, completion=self.completion)
        return ratings, criteria


@dataclass(frozen=True)
class RewardScoreOptions:
    """Score stored transcripts again: text-gym reward score FILE --reward SOURCE --out FILE.

    Args:
        transcripts: JSON lines with prompt and completion, as `text-gym evaluate --transcripts` writes them.
        reward: A deterministic reward: a name, module:function, file.py:function, or a folder.
        out: JSON-lines file for the same rows with the new reward and its terms.
        policy: Folder or hub model whose tokenizer the token ids belong to; for rewards that look at tokens.
    """

    transcripts: Positional[str]
    reward: str
    out: str
    policy: str | None = None


def read_reward_train(argv: list[str]) -> tuple[RewardTrainOptions, NgramConfig | RewardTrainingConfig]:
    """Options of `text-gym reward train`, and settings of the kind of model."""
    kind = value_of(argv, "--kind", "transformer" if value_of(argv, "--model", "") else "ngrams")
    config_class: type[Any] = NgramConfig
    if kind == "transformer":
        from .training import RewardTrainingConfig

        config_class = RewardTrainingConfig
    options, config = parse("reward train", argv, RewardTrainOptions, config_class)
    return replace(options, kind=kind), config


def run_reward_train(options: RewardTrainOptions, config: NgramConfig | RewardTrainingConfig) -> int:
    """Run `text-gym reward train`."""
    train_reward(options, config)
    return 0


def read_reward_score(argv: list[str]) -> tuple[RewardScoreOptions]:
    """Options of `text-gym reward score`."""
    (options,) = parse("reward score", argv, RewardScoreOptions)
    return (options,)


def run_reward_score(options: RewardScoreOptions) -> int:
    """Run `text-gym reward score`."""
    rescore(options)
    return 0


def train_reward(
    options: RewardTrainOptions,
    config: NgramConfig | RewardTrainingConfig,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, judge on held-out prompts, and save the model in `options.out`.

    Returns:
        What is written to `summary.json`: accuracy and calibration for pairs, Spearman for each criterion of
        ratings, with 95 % bootstrap intervals, on the held-out prompts.
    """
    console = console or Console()
    out = Path(options.out)
    if (out / SETTINGS).exists():
        raise ConfigError(f"{out} already holds a reward model; choose another --out")
    opinions, criteria = options.load()
    train, held_out = _split(opinions, options.held_out, config.seed)
    started = time.perf_counter()
    members = [_member(options, config, train, criteria, i, console) for i in range(options.members)]
    seconds = time.perf_counter() - started
    source: Any = members[0] if len(members) == 1 else Ensemble(members, options.k)
    result = judge_reward(source, held_out, config.seed)
    figure = result.pop("figure", None)
    if options.normalise:
        for member in members:
            member.normalise(_episodes(train))
    source.save(out)
    summary = {
        "kind": options.kind,
        "members": options.members,
        "opinions": len(train),
        "held_out_opinions": len(held_out),
        "held_out_prompts": len({o.prompt.id for o in held_out}),
        **result,
        "seconds": seconds,
        "seed": config.seed,
    }
    write_json(out / "summary.json", summary)
    if figure is not None:
        figure.draw(out / "calibration.png", f"{out.name}, held-out prompts")
    _show(console, summary, out)
    return summary


def judge_reward(source: RewardSource, opinions: Opinions, seed: int = 0) -> dict[str, Any]:
    """How well a reward agrees with opinions.

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
        found = calibration(ahead)
        return {"accuracy": agreement(ahead, seed).summary(), "calibration": found.summary(), "figure": found}
    ratings = [o for o in opinions if isinstance(o, Rating)]
    rewards = source(_episodes(ratings))
    names = list(dict.fromkeys(c for r in ratings for c in r.values))
    result = {}
    for name in names:
        predicted = rewards.terms.get(name, rewards.totals)
        rows = [i for i, r in enumerate(ratings) if name in r.values]
        marks = np.array([ratings[i].values[name] for i in rows])
        result[name] = {"spearman": spearman(predicted[rows], marks, seed).summary()}
    return {"criteria": result}


def rescore(options: RewardScoreOptions, console: Console | None = None) -> list[dict[str, Any]]:
    """Score the transcripts with the reward and write the rows to `options.out`.

    Raises:
        ConfigError: The reward is not deterministic: it would not say tomorrow what it says today.
    """
    console = console or Console()
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
        f"; Spearman with the stored reward {spearman(both[:, 0], both[:, 1]).value:.3f}" if len(both) else ""
    )
    console.print(
        Text(f"{len(result)} texts scored by {source.name}: {mean}{rank}; written to {options.out}")
    )
    return result


def _member(
    options: RewardTrainOptions,
    config: Any,
    train: Opinions,
    criteria: Sequence[str],
    number: int,
    console: Console,
) -> NgramModel | RewardModel:
    """The ensemble's member of this number."""
    own = replace(config, seed=config.seed + number)
    if options.kind == "ngrams":
        return NgramModel.fit(train if options.members == 1 else _resampled(train, own.seed), criteria, own)
    from .learned import RewardModel
    from .training import RewardTrainer

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

    RewardTrainer(model, train, own).learn(report)
    return model


def _split(opinions: Opinions, held_out: float, seed: int) -> tuple[Opinions, Opinions]:
    pairs = [o for o in opinions if isinstance(o, PreferencePair)]
    if pairs:
        return split_opinions(pairs, held_out, seed)
    return split_opinions([o for o in opinions if isinstance(o, Rating)], held_out, seed)


def _resampled(opinions: Sequence[Any], seed: int) -> list[Any]:
    """Opinions on as many prompts, drawn with replacement (Breiman 1996)."""
    groups: dict[str, list[Any]] = {}
    for o in opinions:
        groups.setdefault(o.prompt.id, []).append(o)
    names = list(groups)
    drawn = np.random.default_rng(seed).integers(len(names), size=len(names))
    return [o for i in drawn for o in groups[names[i]]]


def _episodes(opinions: Opinions) -> list[Episode]:
    """The texts that the opinions are about; of pairs, chosen and rejected in turn."""
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
