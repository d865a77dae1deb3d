"""A cell of the matrix optimises one design in one way from one seed, and measures the result.

A cell's file depends on its settings alone: no time, no machine load. So matrices can be killed and resumed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from text_gym.agents.algorithms.best_of_n import best_of_n_kl_bound
from text_gym.bench.analysis.measures import best_of_n_mean, distinct, says_twice, self_bleu
from text_gym.bench.analysis.results import rollouts_page
from text_gym.episode import Episode, FloatArray, word_counts
from text_gym.rewards.source import RewardSource
from text_gym.utils.json_files import write_json
from text_gym.viewer.page import keeps_rollouts, write_run_page
from text_gym.viewer.store import RolloutStore

from .designs import Design, DesignJob
from .optimisers import Look, learn, mean_or_none, perfect
from .settings import BEST_OF_N, Settings, digest
from .start import DesignInputs, SampledTexts, SamplingJob

SHOWN = 8  # prompts whose texts are kept
_COMPARED = 64  # texts of self-BLEU


@dataclass(frozen=True)
class Cell:
    """The job that runs one cell.

    Args:
        settings: Of the benchmark.
        design: What is optimised.
        optimiser: By what: a name in `OPTIMISERS` or of the user's own, or `best_of_n`.
        kl_coefficient: β, in standard deviations of the reward at the start per nat; None for best-of-n.
        seed: Decides everything that is random.
        keep_rollouts: Iterations whose episodes are kept and shown on a page; the results are the same.
    """

    settings: Settings
    design: Design
    optimiser: str
    kl_coefficient: float | None
    seed: int
    keep_rollouts: int = 0

    @property
    def name(self) -> str:
        """The cell's name in messages."""
        task = f"{self.settings.task} · " if self.settings.what == "agents" else ""
        beta = "" if self.kl_coefficient is None else f" · β {self.kl_coefficient:g}"
        return f"{task}{self.design.name} · {self.optimiser}{beta} · seed {self.seed}"

    @property
    def design_job(self) -> DesignJob:
        """The job that prepares the design."""
        return DesignJob(self.settings, self.design, self.seed if self.design.trained else 0)

    @property
    def key(self) -> str:
        """A hash of everything the results depend on."""
        own = self.settings.to_dict()
        shared = [own[k] for k in ("iterations", "episodes", "points", "watched", "held_out")]
        how = [self.optimiser, self.settings.optimiser(self.optimiser), self.kl_coefficient, self.seed]
        if self.settings.code(self.optimiser) is not None:
            how.append(self.settings.code(self.optimiser))
        if self.optimiser == BEST_OF_N:
            shared = [SamplingJob(self.settings, "candidates", self.seed).key]
        return digest([self.design_job.key, shared, how, self.design.name])

    @property
    def place(self) -> str:
        """The path of the results in the folder."""
        return f"cells/{self.key}.json"

    @property
    def needs(self) -> list[str]:
        """The files that must exist before."""
        own = (
            [SamplingJob(self.settings, "candidates", self.seed).place] if self.optimiser == BEST_OF_N else []
        )
        return [*self.design_job.needs, *self.design_job.makes, *own]

    @property
    def makes(self) -> list[str]:
        """The files that exist afterwards, the page about its rollouts if some were kept."""
        kept = self.keep_rollouts and self.optimiser != BEST_OF_N and not self.optimiser.startswith("sb3.")
        return [self.place, *([rollouts_page(self.key)] if kept else [])]

    def done(self, folder: Path) -> bool:
        """True if the results exist."""
        return (folder / self.place).is_file()

    def run(self, folder: Path) -> None:
        """Optimise, measure, and write the results atomically."""
        inputs = DesignInputs(self.settings, folder)
        reward, static = self.design_job.load(inputs), self.design_job.read(folder)
        chosen = self.optimiser == BEST_OF_N
        found = _choose(self, inputs, reward) if chosen else _learn(self, reward, static, folder)
        row = {**_empty_row(self), **_static(static, inputs), **found["row"]}
        row["over_optimisation"] = _gap(row)
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        content = {"row": row, "curve": found["curve"], "samples": found["samples"]}
        made_by = {"fingerprint": self.design.fingerprint, "code": self.settings.code(self.optimiser)}
        write_json(folder / self.place, {**content, **made_by})

    def read(self, folder: Path) -> dict[str, Any]:
        """Read what `run` wrote."""
        return dict(json.loads((folder / self.place).read_text(encoding="utf-8")))


COLUMNS = (
    "task", "design", "group", "optimiser", "kl_coefficient", "n", "seed", "gold", "gold_start",
    "gold_std_start", "gold_best", "proxy", "proxy_start", "proxy_std_start", "kl_nats", "kl_kind", "length",
    "length_start", "diversity", "distinct_1", "distinct_2", "self_bleu", "repetitive", "repetitive_start",
    "perfect", "perfect_start",
    "terminated", "static_accuracy", "null_rulers", "over_optimisation", "episodes", "tokens",
)  # fmt: skip


def _empty_row(cell: Cell) -> dict[str, Any]:
    """Make a row with all columns in order, filled in with the cell's identity."""
    return {
        **dict.fromkeys(COLUMNS),
        "task": cell.settings.task,
        "design": cell.design.name,
        "group": cell.design.group,
        "optimiser": cell.optimiser,
        "kl_coefficient": cell.kl_coefficient,
        "seed": cell.seed,
    }


def _static(static: dict[str, Any], inputs: DesignInputs) -> dict[str, Any]:
    """Fill in the columns known before anything is optimised."""
    start = inputs.start
    return {
        "gold_start": mean_or_none(start.gold),
        "gold_std_start": float(np.nanstd(start.gold)),
        **{f"gold_{name}_start": mean_or_none(values) for name, values in _criteria(start.terms).items()},
        "length_start": mean_or_none(start.words),
        "perfect_start": mean_or_none(perfect(start.terms)),
        "repetitive_start": mean_or_none(_repetitive(start.episodes)),
        **{k: static[k] for k in ("proxy_start", "proxy_std_start", "static_accuracy", "null_rulers")},
    }


def _learn(cell: Cell, reward: RewardSource, static: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Optimise by reinforcement learning, and write the page about the rollouts that are kept."""
    spread = static["proxy_std_start"]
    scale = 1 / spread if spread and cell.settings.what == "rewards" else 1.0
    how = (cell.settings, cell.optimiser, reward, scale, float(cell.kl_coefficient or 0.0), cell.seed)
    with TemporaryDirectory() as run:
        store = None
        if len(cell.makes) > 1:
            store = RolloutStore(run, cell.keep_rollouts, cell.settings.iterations)
        found = learn(*how, store)
        if keeps_rollouts(run):
            (folder / cell.makes[1]).parent.mkdir(exist_ok=True)
            write_run_page(run, folder / cell.makes[1], cell.name)
    best, last = _best(found.curve), found.looks[-1]
    row = {
        "gold_best": found.curve[best]["gold"],
        "kl_nats": mean_or_none(last.kl),
        "kl_kind": "estimate",
        "episodes": found.episodes,
        "tokens": found.tokens,
        **_measures(last.episodes, last.gold, last.proxy, last.terms),
    }
    samples = _samples({"start": found.looks[0], "best": found.looks[best], "end": last})
    return {"row": row, "curve": found.curve, "samples": samples}


def _choose(cell: Cell, inputs: DesignInputs, reward: RewardSource) -> dict[str, Any]:
    """Optimise by best-of-n, averaging exactly over all ways to draw n candidates."""
    texts = inputs.candidates(cell.seed)
    proxy = reward(texts.episodes).totals_or_nan.reshape(texts.gold.shape)
    most = texts.gold.shape[1]
    sizes = [n for n in (2**i for i in range(most.bit_length())) if n <= most]
    done = perfect(texts.terms)
    columns = {"gold": texts.gold, "proxy": proxy, "length": texts.words, "perfect": done}
    curve: list[dict[str, Any]] = []
    for n in sizes:
        known = {k: None if v is None else best_of_n_mean(proxy, v, n) for k, v in columns.items()}
        curve.append({"step": n, "episodes": 0, **known, "kl_nats": best_of_n_kl_bound(n)})
    best = _best(curve)
    picks = {n: np.argmax(np.where(np.isnan(proxy), -np.inf, proxy)[:, :n], axis=1) for n in sizes}
    looks = {
        when: _picked(texts, proxy, picks[n])
        for when, n in (("start", 1), ("best", sizes[best]), ("end", sizes[-1]))
    }
    end = looks["end"]
    row = {
        **_measures(end.episodes, end.gold, end.proxy, end.terms),
        **{f"gold_{k}": best_of_n_mean(proxy, v, sizes[-1]) for k, v in _criteria(texts.terms).items()},
        **{k: v for k, v in curve[-1].items() if k not in ("step", "episodes")},
        "terminated": best_of_n_mean(proxy, texts.terminated, sizes[-1]),
        "repetitive": best_of_n_mean(proxy, _repetitive(texts.episodes).reshape(proxy.shape), sizes[-1]),
        "gold_best": curve[best]["gold"],
        "kl_kind": "bound",
        "n": sizes[-1],
        "episodes": 0,
    }
    return {"row": row, "curve": curve, "samples": _samples(looks)}


def _best(curve: Sequence[dict[str, Any]]) -> int:
    """Return the point with the highest gold."""
    return int(np.argmax([-np.inf if point["gold"] is None else point["gold"] for point in curve]))


def _picked(texts: SampledTexts, proxy: FloatArray, place: Any) -> Look:
    """Return the candidates at these indices, one per prompt."""
    rows = np.arange(len(place))
    return Look(
        [texts.episodes[i * texts.gold.shape[1] + j] for i, j in enumerate(place.tolist())],
        texts.gold[rows, place],
        {name: values[rows, place] for name, values in texts.terms.items()},
        proxy[rows, place],
        np.full(len(place), np.nan),
    )


def _measures(
    episodes: Sequence[Episode], gold: FloatArray, proxy: FloatArray, terms: dict[str, FloatArray]
) -> dict[str, Any]:
    """Measure the final texts."""
    texts = [e.completion for e in episodes]
    pairs = distinct(texts, 2)
    return {
        "gold": mean_or_none(gold),
        "proxy": mean_or_none(proxy),
        "length": mean_or_none(word_counts(episodes)),
        "diversity": pairs,
        "distinct_1": distinct(texts, 1),
        "distinct_2": pairs,
        "self_bleu": self_bleu(texts[:_COMPARED]),
        "repetitive": mean_or_none(_repetitive(episodes)),
        "perfect": mean_or_none(perfect(terms)),
        "terminated": float(np.mean([e.whole for e in episodes])),
        **{f"gold_{name}": mean_or_none(values) for name, values in _criteria(terms).items()},
    }


def _repetitive(episodes: Sequence[Episode]) -> FloatArray:
    """Mark the texts that repeat a phrase with 1, `(n,)`."""
    return np.array([float(says_twice(e.completion)) for e in episodes])


def _criteria(terms: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: values for name, values in terms.items() if name not in ("perfect", "exact")}


def _gap(row: dict[str, Any]) -> float | None:
    """Return how much more the proxy gained than gold, in standard deviations over the starting texts."""
    spread, own = row["gold_std_start"], row["proxy_std_start"]
    if not spread or not own or row["gold"] is None or row["proxy"] is None:
        return None
    return float((row["proxy"] - row["proxy_start"]) / own - (row["gold"] - row["gold_start"]) / spread)


def _samples(looks: dict[str, Look]) -> list[dict[str, Any]]:
    """Return the texts of the first few prompts as plain data."""
    result = []
    for i, episode in enumerate(looks["start"].episodes[:SHOWN]):
        texts = [
            {
                "when": when,
                "text": seen.episodes[i].completion,
                "gold": float(seen.gold[i]),
                "proxy": float(seen.proxy[i]),
                "words": len(seen.episodes[i].completion.split()),
                "terminated": seen.episodes[i].whole,
            }
            for when, seen in looks.items()
        ]
        result.append({"prompt": episode.prompt.text, "texts": texts})
    return result
