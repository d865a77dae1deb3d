"""Bugs of `text_gym.reward_models.learned` and `preferences`: losses, splits, ensembles, scales, measures."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TRAINING, _LOSSES = "reward_models/learned/training.py", "reward_models/learned/losses.py"
_ENSEMBLES, _SCALES = "reward_models/learned/ensembles.py", "reward_models/learned/scales.py"
_MODEL, _NGRAMS = "reward_models/learned/model.py", "reward_models/learned/ngrams.py"
_FEATURES = "reward_models/learned/ngram_features.py"
_MEASURES, _OPINIONS = "reward_models/preferences/measures.py", "reward_models/preferences/opinions.py"
_OF_TRAINING = ("tests/reward_models/learned/test_training.py",)
_OF_LOSSES = ("tests/reward_models/learned/test_losses.py",)
_OF_ENSEMBLES = (
    "tests/reward_models/learned/test_ensembles.py",
    "tests/reward_models/learned/test_bagging.py",
)
_OF_SCALES = ("tests/reward_models/learned/test_scales.py",)
_OF_MODEL = ("tests/reward_models/learned/test_model.py",)
_OF_NGRAMS = ("tests/reward_models/learned/test_ngrams.py",)
_OF_FEATURES = ("tests/reward_models/learned/test_ngram_features.py",)
_OF_MEASURES = ("tests/reward_models/preferences/test_measures.py",)
_OF_OPINIONS = ("tests/reward_models/preferences/test_opinions.py",)

MUTANTS = [
    Mutant(  # survivor 4
        "pairs-learnt-on-the-validation-prompts",
        _TRAINING,
        "return Pairs(self.model, kept), Pairs(self.model, judged)",
        "return Pairs(self.model, pairs), Pairs(self.model, judged)",
        _OF_TRAINING,
    ),
    Mutant(  # survivor 4
        "ratings-learnt-on-the-validation-prompts",
        _TRAINING,
        "train = Marks(self.model, learnt, self.config.loss)",
        "train = Marks(self.model, marked, self.config.loss)",
        _OF_TRAINING,
    ),
    Mutant(  # survivor 14
        "dropout-while-epochs-are-judged",
        _TRAINING,
        "        model.eval()\n        losses = ",
        "        losses = ",
        _OF_TRAINING,
    ),
    Mutant(
        "dropout-off-after-the-first-epoch",
        _TRAINING,
        "        model.train()\n        return sum(losses)",
        "        return sum(losses)",
        _OF_TRAINING,
    ),
    Mutant(
        "last-epoch-is-kept",
        _TRAINING,
        "        model.load_state_dict(kept)\n",
        "",
        _OF_TRAINING,
    ),
    Mutant(
        "best-epoch-by-training-loss",
        _TRAINING,
        'if row["validation_loss"] < best[0]:\n                    best = (row["validation_loss"], epoch)',
        'if row["loss"] < best[0]:\n                    best = (row["loss"], epoch)',
        _OF_TRAINING,
    ),
    Mutant(
        "validation-loss-weighted-by-rows",
        _TRAINING,
        "losses = [float(self.validation.loss(part)) * self.validation.weight(part) for part in parts]",
        "losses = [float(self.validation.loss(part)) * len(part) for part in parts]",
        _OF_TRAINING,
        more=(
            (
                "max(sum(self.validation.weight(part) for part in parts), 1e-30)",
                "max(len(self.validation), 1e-30)",
            ),
        ),
    ),
    Mutant(
        "learning-rate-rises-after-the-warmup",
        _TRAINING,
        "0.5 * (1 + math.cos(",
        "0.5 * (1 - math.cos(",
        _OF_TRAINING,
    ),
    Mutant(
        "weight-decay-on-biases",
        _TRAINING,
        '{"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}',
        '{"params": [p for p in parameters if p.ndim < 2], "weight_decay": self.config.weight_decay}',
        _OF_TRAINING,
    ),
    Mutant(
        "bradley-terry-sign",
        _LOSSES,
        "loss = -F.logsigmoid(shifted)",
        "loss = -F.logsigmoid(-shifted)",
        _OF_LOSSES,
    ),
    Mutant(
        "margin-helps-the-chosen-text",
        _LOSSES,
        "shifted = ahead if margin is None else ahead - margin",
        "shifted = ahead if margin is None else ahead + margin",
        _OF_LOSSES,
    ),
    Mutant(
        "tie-counts-as-half-a-win",
        _LOSSES,
        "-0.5 * (F.logsigmoid(ahead) + F.logsigmoid(-ahead))",
        "-0.5 * F.logsigmoid(ahead)",
        _OF_LOSSES,
    ),
    Mutant(
        "weights-not-normalised",
        _LOSSES,
        "return (weight * loss).sum() / weight.sum().clamp_min(torch.finfo(loss.dtype).tiny)",
        "return (weight * loss).mean()",
        _OF_LOSSES,
    ),
    Mutant(
        "pairs-swapped-in-the-batch",
        _LOSSES,
        "rewards[::2] - rewards[1::2], self.ties[index]",
        "rewards[1::2] - rewards[::2], self.ties[index]",
        (*_OF_LOSSES, *_OF_TRAINING),
    ),
    Mutant(
        "missing-marks-count-as-0",
        _LOSSES,
        "weights = np.array([[r.weight] for r in ratings]) * ~np.isnan(self.values)",
        "weights = np.array([[r.weight] for r in ratings]) * np.ones_like(self.values)",
        (*_OF_LOSSES, *_OF_TRAINING),
    ),
    Mutant(
        "validation-marks-standardised-by-themselves",
        _LOSSES,
        "self.mean, self.std = like.mean, like.std",
        "self.mean, self.std = np.nanmean(self.values, axis=0), np.nanstd(self.values, axis=0) + 1e-9",
        (*_OF_LOSSES, *_OF_TRAINING),
    ),
    Mutant(
        "ordinal-level-reaches-its-own-threshold",
        _LOSSES,
        "above = (self.marks[index, c, None] > levels[:-1])",
        "above = (self.marks[index, c, None] >= levels[:-1])",
        (*_OF_LOSSES, *_OF_TRAINING),
    ),
    Mutant(
        "outputs-are-not-put-back-on-the-scale",
        _LOSSES,
        "factor, offset = self.std, self.mean",
        "factor, offset = self.std, np.zeros_like(self.mean)",
        (*_OF_LOSSES, *_OF_TRAINING),
    ),
    Mutant(
        "ensemble-pays-for-disagreement",
        _ENSEMBLES,
        "Rewards(values - self.k * std, terms=",
        "Rewards(values + self.k * std, terms=",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "disagreement-is-unweighted",
        _ENSEMBLES,
        "np.sqrt(self.weights @ (stacked - mean) ** 2)",
        "stacked.std(axis=0)",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "ensemble-abstains-only-with-all-members",
        _ENSEMBLES,
        "abstained = np.any([rewards.abstained",
        "abstained = np.all([rewards.abstained",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "all-members-get-one-resample",
        _ENSEMBLES,
        "        drawn = dict.fromkeys(prompts, 1)\n",
        "        drawn = dict.fromkeys(prompts, 1)\n        rng = np.random.default_rng(seed)\n",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "members-resample-opinions-not-prompts",
        _ENSEMBLES,
        "            dataclasses.replace(o, weight=o.weight * drawn[o.prompt.id])\n"
        "            for o in ordered\n            if drawn[o.prompt.id]\n",
        "            dataclasses.replace(o, weight=o.weight * n)\n"
        "            for o, n in zip(ordered, np.bincount(rng.integers(len(ordered), size=len(ordered)),\n"
        "                            minlength=len(ordered)).tolist())\n            if n\n",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "order-of-opinions-matters",
        _ENSEMBLES,
        "ordered = sorted(opinions, key=_key)",
        "ordered = list(opinions)",
        _OF_ENSEMBLES,
    ),
    Mutant(
        "scales-by-the-samples-std",
        _SCALES,
        "mean, std = raw.mean(axis=0), raw.std(axis=0)",
        "mean, std = raw.mean(axis=0), raw.std(axis=0, ddof=1)",
        _OF_SCALES,
    ),
    Mutant(
        "scales-offset-sign",
        _SCALES,
        "tuple((-mean / std).tolist())",
        "tuple((mean / std).tolist())",
        _OF_SCALES,
    ),
    Mutant(
        "criteria-weights-ignored",
        _SCALES,
        "weights = np.array(self.weight) / sum(self.weight)",
        "weights = np.ones(len(self.weight)) / len(self.weight)",
        _OF_SCALES,
    ),
    Mutant(
        "rewards-in-the-order-of-lengths",
        _MODEL,
        "result[rows] = self.outputs(",
        "result[i : i + len(rows)] = self.outputs(",
        _OF_MODEL,
    ),
    Mutant(
        "padding-is-read",
        _MODEL,
        "padded([[1] * len(t.ids) for t in texts], 0)",
        "padded([[1] * len(t.ids) for t in texts], 1)",
        _OF_MODEL,
    ),
    Mutant(
        "long-prompt-loses-its-end",
        _MODEL,
        "before[len(before) - min(room, len(before)) :]",
        "before[:room]",
        _OF_MODEL,
    ),
    Mutant(
        "text-without-its-eos",
        _MODEL,
        "            after += self.tokenizer.eos_ids[:1]\n",
        "",
        _OF_MODEL,
    ),
    Mutant(
        "ridge-without-centred-intercept",
        _NGRAMS,
        "return found[0], y_mean - float(x_mean @ found[0])",
        "return found[0], y_mean",
        _OF_NGRAMS,
    ),
    Mutant(
        "ridge-ignores-weights-of-the-rows",
        _NGRAMS,
        "y_mean, root = x.T @ share, float(y @ share), np.sqrt(weight)",
        "y_mean, root = x.T @ share, float(y @ share), np.ones_like(weight)",
        _OF_NGRAMS,
    ),
    Mutant(
        "ngram-gradient-forgets-ties",
        _NGRAMS,
        "slope = -expit(-ahead) + tie * 0.5",
        "slope = -expit(-ahead)",
        _OF_NGRAMS,
    ),
    Mutant(
        "ngram-margin-sign",
        _NGRAMS,
        "        ahead = x @ v - margin\n",
        "        ahead = x @ v + margin\n",
        _OF_NGRAMS,
    ),
    Mutant(
        "five-folds-are-one",
        _NGRAMS,
        "split_within(ratings, 0.2, seed * 5 + fold)",
        "split_within(ratings, 0.2, seed)",
        _OF_NGRAMS,
    ),
    Mutant(
        "penalty-judged-on-what-was-learnt",
        _NGRAMS,
        "v, b = ridge(x[rows], y[rows], weight[rows], alpha)",
        "v, b = ridge(x, y, weight, alpha)",
        _OF_NGRAMS,
    ),
    Mutant(
        "counts-are-not-damped",
        _FEATURES,
        "kept = [(index[f], math.log1p(c)) for",
        "kept = [(index[f], float(c)) for",
        (*_OF_FEATURES, *_OF_NGRAMS),
    ),
    Mutant(  # survivor 12
        "ece-bins-from-0-to-1",
        _MEASURES,
        "((confidence - 0.5) * 2 * bins)",
        "(confidence * bins)",
        _OF_MEASURES,
    ),
    Mutant(
        "ece-by-bin-not-by-choice",
        _MEASURES,
        "float((gaps * self.count).sum() / self.count.sum())",
        "float(gaps.mean())",
        _OF_MEASURES,
    ),
    Mutant(
        "equal-rewards-count-as-wrong",
        _MEASURES,
        'right = (np.sign(_numbers("differences", ahead)) + 1) / 2',
        'right = (_numbers("differences", ahead) > 0).astype(float)',
        _OF_MEASURES,
    ),
    Mutant(
        "probability-is-too-sure",
        _MEASURES,
        "np.tanh(np.asarray(ahead, dtype=np.float64) / 2)",
        "np.tanh(np.asarray(ahead, dtype=np.float64))",
        _OF_MEASURES,
    ),
    Mutant(
        "inner-split-is-the-outer-one",
        _OPINIONS,
        "return split_opinions(opinions, held_out, -1 - seed)",
        "return split_opinions(opinions, held_out, seed)",
        (*_OF_OPINIONS, *_OF_TRAINING),
    ),
    Mutant(
        "ratings-of-two-raters-make-a-pair",
        _OPINIONS,
        "groups.setdefault((o.prompt.id, o.rater), [])",
        'groups.setdefault((o.prompt.id, ""), [])',
        _OF_OPINIONS,
    ),
    Mutant(
        "lower-mark-is-chosen",
        _OPINIONS,
        "better, worse = (a, b) if ahead >= 0 else (b, a)",
        "better, worse = (b, a) if ahead >= 0 else (a, b)",
        _OF_OPINIONS,
    ),
    Mutant(
        "ties-become-likes",
        _OPINIONS,
        "        if not p.tie\n        for text, label",
        "        for text, label",
        _OF_OPINIONS,
    ),
]
