"""Measures each round of `rlhf`: gold, proxy, KL, agreement, length, and what the reward pays for.

Rows are plain data and hold no times of day: the same answers give the same rows. Nothing is learnt here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.agents.sampling.evaluation import Measure, evaluate
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, share_cut, word_counts
from text_gym.reward_models.audit.audit import AuditConfig, audit_reward
from text_gym.reward_models.labels.questions import PREFERENCE, Question
from text_gym.reward_models.people.agreement import measure_agreement
from text_gym.rewards.source import RewardSource
from text_gym.utils.interval import spearman
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import read_about, write_atomic

from .folder import EVALUATION, TEXTS
from .verdict import OBJECTIVE, judge_difference

if TYPE_CHECKING:
    from text_gym.agents.sampling.evaluation import Report

    from .folder import RLHFFolder


ROUNDS = "rounds.jsonl"
_EDITED = 64  # texts that the audit edits
_SHOWN = 8  # samples in the report


def measure_start(run: RLHFFolder) -> None:
    """Evaluate the first policy on the held-out prompts: its texts and how good they are."""
    report = _play(run, 0)
    run.save_texts(run.at(0) / TEXTS, report.episodes, report.rewards.tolist())
    known = {
        "gold": _plain(report.reward),
        "words": float(word_counts(report.episodes).mean()),
        "kl_nats": report.kl.mean,
        "cut": share_cut(report.episodes),
    }
    write_json(run.at(0) / EVALUATION, {"row": known, "starts_from": 0, "points": _points(report, None)})


def measure_round(
    run: RLHFFolder, number: int, reward: RewardSource, opinions: Sequence[Any]
) -> dict[str, Any]:
    """Measure a finished round, write its `evaluation.json`, the last of its files, and return its row."""
    report = _play(run, number)
    run.save_texts(run.at(number) / TEXTS, report.episodes, report.rewards.tolist())
    started_from = run.started_from(number)
    last = run.evaluation(started_from)["row"]
    proxy = reward(report.episodes)
    judged = _judge(run, number, reward, report, proxy.totals)
    length = word_counts(report.episodes)
    raters = _raters(run, number)
    audit = _audit(run, number, reward, report.episodes)
    row = {
        "round": number,
        "started_from": started_from,
        **judged,
        "labels": raters["labels"],
        "opinions": len(opinions),
        "gold_before": last["gold"],
        "gold": _plain(report.reward),
        "criteria": {name: _plain(measure) for name, measure in report.terms.items()},
        "proxy": float(proxy.totals.mean()),
        "disagreement": float(proxy.terms["std"].mean()),
        "kl_before": last["kl_nats"],
        "kl_nats": report.kl.mean,
        "cut_before": last["cut"],
        "cut": share_cut(report.episodes),
        "alpha": raters["alpha"],
        "alphas": raters["alphas"],
        "new_labels": _rank(*_predicted(run, number, opinions)),
        "proxy_gold": _rank(proxy.totals, report.rewards),
        "proxy_length": _rank(proxy.totals, length),
        "gold_length": _rank(report.rewards, length),
        "words_before": last["words"],
        "words": float(length.mean()),
        "biases": [f["bias"] for f in audit["findings"]],
    }
    evaluation = {
        "row": row,
        "starts_from": row["kept"],  # the round whose policy the next round starts from
        "points": _points(report, proxy.totals),
        "samples": _samples(report.episodes[:_SHOWN], proxy.totals, report.rewards),
        "raters": raters["profiles"],
        "audit": audit,
    }
    write_json(run.at(number) / EVALUATION, evaluation)
    return row


def _judge(
    run: RLHFFolder, number: int, reward: RewardSource, report: Report, proxy: FloatArray
) -> dict[str, Any]:
    """Judge whether the round made the policy better, and decide which policy is kept.

    A round's policy is kept unless its objective, by the newest reward model, on the texts of the held-out
    prompts, is below that of the policy it started from by more than the interval of the paired difference.
    Gold has no say in that: people who ask people do not have it. Where it is known, it decides the verdict.
    """
    told, start = read_about(run.at(number) / "policy"), run.started_from(number)
    beta = told["kl_coef"]

    def known(round_: int) -> dict[str, FloatArray]:
        points = run.evaluation(round_)["points"]
        totals = reward(run.texts(run.at(round_) / TEXTS)).totals
        kl, gold = (np.array(points[name], dtype=np.float64) for name in ("kl", "gold"))
        return {"gold": gold, "proxy": totals, "objective": totals - beta * kl}

    first, before = known(0), known(start)
    after = {"gold": report.rewards, "proxy": proxy, "objective": proxy - beta * report.episode_kl}
    changes = {name: _change(before[name], after[name]) for name in after}
    has_gold = changes["gold"]["mean"] is not None
    kept = start if judge_difference(changes["objective"]) == "worse" else number
    decisive = "gold" if has_gold else "objective"
    end = (after if kept == number else before)[decisive]
    since_start = {
        "measure": "gold" if has_gold else OBJECTIVE,
        "before": float(np.nanmean(first[decisive])),
        "after": float(np.nanmean(end)),
        **_change(first[decisive], end),
    }
    return {
        "kept": kept,
        "verdict": judge_difference(changes[decisive]),
        "gold_change": changes["gold"] if has_gold else None,
        "proxy_before": float(before["proxy"].mean()),
        "proxy_change": changes["proxy"],
        "objective_before": float(before["objective"].mean()),
        "objective_after": float(after["objective"].mean()),
        "objective_change": changes["objective"],
        "since_start": since_start,
        "policy_of_iteration": told["policy_of_iteration"],
        "declined": told["declined"],
    }


def _change(before: FloatArray, after: FloatArray) -> dict[str, Any]:
    """Return the mean paired difference with its bootstrap interval; None if it is not known."""
    found = Measure.of(after - before)
    few = np.isfinite(after - before).sum() < 2  # a single pair has no spread
    mean = None if math.isnan(found.mean) else found.mean
    return {"mean": mean, "ci95": [None, None] if few else list(found.ci95)}


def write_rows(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Write the rows of the first rounds to `rounds.jsonl`, one per line, and return them."""
    rows = []
    for number in range(1, rounds + 1):
        text = (folder / f"round-{number}" / EVALUATION).read_text(encoding="utf-8")
        rows.append(json.loads(text)["row"])
    write_atomic(folder / ROUNDS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [_with_nan(row) for row in rows]


def _play(run: RLHFFolder, number: int) -> Report:
    """Evaluate the policy after a round on the held-out prompts, with the KL to the first one."""
    env = TextVectorEnv(**run.task.env_kwargs(prompts=run.task.held_out), shuffle=False)
    return evaluate(run.policy(number), env, reference=run.policy(0), seed=run.config.seed)


def _raters(run: RLHFFolder, number: int) -> dict[str, Any]:
    """Summarise the raters: number of answers, agreement by criterion and on average, and profiles."""
    pool = run.texts(run.at(number) / "candidates.jsonl")
    about = json.loads((run.at(number) / "questions.json").read_text(encoding="utf-8"))["about"]
    if run.config.questions == "pairs":
        asked = [Question.about("comparison", [pool[a], pool[b]], (PREFERENCE,)) for a, b in about]
    else:
        asked = [Question.about("rating", [pool[i]], run.scales) for i in about]
    standing = run.store.standing([q.id for q in asked])
    labels = [label for q in asked for label in standing.get(q.id, ()) if label.answered]
    result: dict[str, Any] = {"labels": len(labels), "alpha": None, "alphas": {}, "profiles": []}
    if find_spec("krippendorff") is None:
        return result
    found = measure_agreement(labels)
    alphas = {name.partition("/")[2]: alpha for name, alpha in found.alpha.items()}
    known = [a for a in alphas.values() if not math.isnan(a)]
    profiles = [
        {"rater": p.rater, "answers": p.answers, "mean": p.mean, "length": p.length, "longer": p.longer}
        | {"agreement": p.agreement, "warnings": p.warnings}
        for p in found.raters
    ]
    return result | {
        "alpha": float(np.mean(known)) if known else None,
        "alphas": alphas,
        "profiles": profiles,
    }


def _predicted(run: RLHFFolder, number: int, opinions: Sequence[Any]) -> tuple[FloatArray, FloatArray]:
    """Compare people's answers with what the previous reward model, which had not seen them, predicted."""
    if number == 1 or not opinions:
        return np.zeros(0), np.zeros(0)
    pool = run.texts(run.at(number) / "candidates.jsonl")
    episodes = {(e.prompt.text, e.completion): e for e in pool}
    reward = run.reward(number - 1)
    if run.config.questions == "ratings":
        own = [episodes[o.prompt.text, o.completion] for o in opinions]
        marks = [float(np.mean(list(o.values.values()))) for o in opinions]
        return reward(own).totals, np.array(marks)
    clear = [o for o in opinions if not o.tie]
    if not clear:
        return np.zeros(0), np.zeros(0)
    sides = [
        reward([episodes[o.prompt.text, t] for o, t in zip(clear, texts, strict=True)]).totals
        for texts in ([o.chosen for o in clear], [o.rejected for o in clear])
    ]
    ahead = np.concatenate([sides[0] - sides[1], sides[1] - sides[0]])
    return ahead, np.repeat([1.0, 0.0], len(clear))


def _audit(run: RLHFFolder, number: int, reward: RewardSource, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Audit what the reward pays for on the round's texts, beside gold where it is known."""
    texts = [*run.texts(run.at(number) / "candidates.jsonl"), *episodes]
    gold = None if run.task.reward.abstains else run.task.reward
    if len({e.completion for e in texts}) < _EDITED:  # too few to say anything
        return {"findings": [], "surfaces": [], "mark": "open", "agreement": None}
    # Single words are left to `text-gym reward audit`: they would take longer than all the rest.
    config = AuditConfig(count=4 * _EDITED, edited=_EDITED, explained=0, words=0, seed=run.config.seed)
    found = audit_reward(reward, texts, gold, config, explain=False)
    surfaces = [
        {
            "name": s.name,
            "edit": s.edit,
            "effect": s.effect.summary(),
            "gold": None if s.gold is None else s.gold.summary(),
            "partial": None if s.partial is None else s.partial.summary(),
        }
        for s in found.surfaces
    ]
    named = [f for f in found.findings if f.kind in ("bias", "gold")]  # noise is not a bias
    return {
        "findings": [{"bias": f.bias, "statement": f.statement} for f in named],
        "surfaces": surfaces,
        "mark": found.mark,
        "agreement": None if found.agreement is None else found.agreement.summary(),
    }


def _points(report: Report, proxy: FloatArray | None) -> dict[str, list[float] | None]:
    """Return the points of a scatter plot, one per text."""
    return {
        "words": word_counts(report.episodes).tolist(),
        "gold": report.rewards.tolist(),
        "proxy": None if proxy is None else proxy.tolist(),
        "kl": report.episode_kl.tolist(),
    }


def _samples(episodes: Sequence[Episode], proxy: FloatArray, gold: FloatArray) -> list[dict[str, Any]]:
    return [
        {"prompt": e.prompt.text, "text": e.completion, "proxy": float(p), "gold": float(g)}
        for e, p, g in zip(episodes, proxy, gold, strict=False)
    ]


def _rank(x: FloatArray, y: FloatArray) -> float | None:
    """Return Spearman's correlation, or None where it is undefined."""
    found = spearman(x, y)
    return None if math.isnan(found) else found


def _plain(measure: Any) -> dict[str, Any]:
    return {"mean": measure.mean, "ci95": list(measure.ci95)}


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's null means back into NaN."""
    for name in ("gold", "gold_before"):
        if row[name]["mean"] is None:
            row[name] = {"mean": math.nan, "ci95": [math.nan, math.nan]}
    return row
