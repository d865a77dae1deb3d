"""Bugs of `text_gym.reward_models.learned` and `preferences`: losses, splits, ensembles, scales, measures."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TRAINING, _LOSSES = "reward_models/learned/training.py", "reward_models/learned/losses.py"
_ENSEMBLES, _SCALES = "reward_models/learned/ensembles.py", "reward_models/learned/scales.py"
_MODEL, _NGRAMS = "reward_models/learned/model.py", "reward_models/learned/ngrams.py"
_FEATURES = "reward_models/learned/ngram_features.py"
_MEASURES, _OPINIONS = "reward_models/preferences/measures.py", "reward_models/preferences/opinions.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/reward_models/{test}" for test in tests)


MUTANTS = [
    Mutant(  # survivor 4
        "pairs-learnt-on-the-validation-prompts",
        _TRAINING,
        "return Pairs(self.model, kept), Pairs(self.model, judged)",
        "return Pairs(self.model, pairs), Pairs(self.model, judged)",
        _by("learned/test_training.py::test_nothing_is_learnt_from_the_prompts_that_epochs_are_judged_by"),
    ),
    Mutant(  # survivor 4
        "ratings-learnt-on-the-validation-prompts",
        _TRAINING,
        "train = Marks(self.model, learnt, self.config.loss)",
        "train = Marks(self.model, marked, self.config.loss)",
        _by("learned/test_training.py::test_nothing_is_learnt_from_the_prompts_that_epochs_are_judged_by"),
    ),
    Mutant(  # survivor 14
        "dropout-while-epochs-are-judged",
        _TRAINING,
        "        model.eval()\n        losses = ",
        "        losses = ",
        _by("learned/test_training.py::test_epochs_are_learnt_with_dropout_and_judged_without"),
    ),
    Mutant(
        "dropout-off-after-the-first-epoch",
        _TRAINING,
        "        model.train()\n        return sum(losses)",
        "        return sum(losses)",
        _by("learned/test_training.py::test_epochs_are_learnt_with_dropout_and_judged_without"),
    ),
    Mutant(
        "last-epoch-is-kept",
        _TRAINING,
        "        model.load_state_dict(kept)\n",
        "",
        _by("learned/test_training.py::test_the_weights_of_the_best_epoch_stay"),
    ),
    Mutant(
        "best-epoch-by-training-loss",
        _TRAINING,
        'if row["validation_loss"] < best[0]:\n                    best = (row["validation_loss"], epoch)',
        'if row["loss"] < best[0]:\n                    best = (row["loss"], epoch)',
        _by("learned/test_training.py::test_the_weights_of_the_best_epoch_stay"),
    ),
    Mutant(
        "validation-loss-weighted-by-rows",
        _TRAINING,
        "losses = [float(self.validation.loss(part)) * self.validation.weight(part) for part in parts]",
        "losses = [float(self.validation.loss(part)) * len(part) for part in parts]",
        _by("learned/test_training.py::test_pairs_weigh_the_same_in_a_validation_of_many_batches_and_of_one"),
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
        _by("learned/test_training.py::test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing"),
    ),
    Mutant(
        "weight-decay-on-biases",
        _TRAINING,
        '{"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}',
        '{"params": [p for p in parameters if p.ndim < 2], "weight_decay": self.config.weight_decay}',
        _by("learned/test_training.py::test_matrices_decay_and_nothing_else"),
    ),
    Mutant(
        "bradley-terry-sign",
        _LOSSES,
        "loss = -F.logsigmoid(shifted)",
        "loss = -F.logsigmoid(-shifted)",
        _by("learned/test_losses.py::test_bradley_terry_and_its_gradient_in_closed_form"),
    ),
    Mutant(
        "margin-helps-the-chosen-text",
        _LOSSES,
        "shifted = ahead if margin is None else ahead - margin",
        "shifted = ahead if margin is None else ahead + margin",
        _by("learned/test_losses.py::test_bradley_terry_and_its_gradient_in_closed_form"),
    ),
    Mutant(
        "tie-counts-as-half-a-win",
        _LOSSES,
        "-0.5 * (F.logsigmoid(ahead) + F.logsigmoid(-ahead))",
        "-0.5 * F.logsigmoid(ahead)",
        _by("learned/test_losses.py::test_bradley_terry_and_its_gradient_in_closed_form"),
    ),
    Mutant(
        "weights-not-normalised",
        _LOSSES,
        "return (weight * loss).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)",
        "return (weight * loss).mean()",
        _by("learned/test_losses.py::test_weights_count_like_copies"),
    ),
    Mutant(
        "pairs-swapped-in-the-batch",
        _LOSSES,
        "rewards[::2] - rewards[1::2], self.ties[index]",
        "rewards[1::2] - rewards[::2], self.ties[index]",
        _by("learned/test_losses.py::test_the_loss_of_pairs_is_that_of_their_scores"),
    ),
    Mutant(
        "missing-marks-count-as-0",
        _LOSSES,
        "weights = np.array([[r.weight] for r in ratings]) * ~np.isnan(self.values)",
        "weights = np.array([[r.weight] for r in ratings]) * np.ones_like(self.values)",
        _by("learned/test_losses.py::test_the_squared_loss_is_on_standardised_marks_that_are_there"),
    ),
    Mutant(
        "validation-marks-standardised-by-themselves",
        _LOSSES,
        "self.mean, self.std = like.mean, like.std",
        "self.mean, self.std = np.nanmean(self.values, axis=0), np.nanstd(self.values, axis=0) + 1e-9",
        _by("learned/test_losses.py::test_marks_to_judge_by_are_on_the_scale_of_those_to_learn_from"),
    ),
    Mutant(
        "ordinal-level-reaches-its-own-threshold",
        _LOSSES,
        "above = (self.marks[index, c, None] > levels[:-1])",
        "above = (self.marks[index, c, None] >= levels[:-1])",
        _by("learned/test_losses.py::test_the_ordinal_loss_by_hand"),
    ),
    Mutant(
        "outputs-are-not-put-back-on-the-scale",
        _LOSSES,
        "factor, offset = self.std, self.mean",
        "factor, offset = self.std, np.zeros_like(self.mean)",
        _by("learned/test_losses.py::test_the_squared_loss_is_on_standardised_marks_that_are_there"),
    ),
    Mutant(
        "ensemble-pays-for-disagreement",
        _ENSEMBLES,
        "values = values - self.k * std\n",
        "values = values + self.k * std\n",
        _by("learned/test_ensembles.py::test_mean_minus_k_std_by_hand"),
    ),
    Mutant(
        "disagreement-is-unweighted",
        _ENSEMBLES,
        "np.sqrt(self.weights @ (stacked - mean) ** 2)",
        "stacked.std(axis=0)",
        _by("learned/test_ensembles.py::test_mean_minus_k_std_by_hand"),
    ),
    Mutant(
        "ensemble-abstains-only-with-all-members",
        _ENSEMBLES,
        "abstained = np.any([rewards.abstained",
        "abstained = np.all([rewards.abstained",
        _by("learned/test_ensembles.py::test_abstention_and_chance_come_from_the_members"),
    ),
    Mutant(
        "all-members-get-one-resample",
        _ENSEMBLES,
        "        drawn = dict.fromkeys(prompts, 1)\n",
        "        drawn = dict.fromkeys(prompts, 1)\n        rng = np.random.default_rng(seed)\n",
        _by("learned/test_bagging.py::test_members_get_prompts_drawn_with_replacement"),
    ),
    Mutant(
        "members-resample-opinions-not-prompts",
        _ENSEMBLES,
        "            dataclasses.replace(o, weight=o.weight * drawn[o.prompt.id])\n"
        "            for o in ordered\n            if drawn[o.prompt.id]\n",
        "            dataclasses.replace(o, weight=o.weight * n)\n"
        "            for o, n in zip(ordered, np.bincount(rng.integers(len(ordered), size=len(ordered)),\n"
        "                            minlength=len(ordered)).tolist())\n            if n\n",
        _by("learned/test_bagging.py::test_members_get_prompts_drawn_with_replacement"),
    ),
    Mutant(
        "order-of-opinions-matters",
        _ENSEMBLES,
        "ordered = sorted(opinions, key=_key)",
        "ordered = list(opinions)",
        _by("learned/test_bagging.py::test_the_order_of_answers_does_not_matter"),
    ),
    Mutant(
        "scales-by-the-samples-std",
        _SCALES,
        "mean, std = raw.mean(axis=0), raw.std(axis=0)",
        "mean, std = raw.mean(axis=0), raw.std(axis=0, ddof=1)",
        _by("learned/test_scales.py::test_standardised"),
    ),
    Mutant(
        "scales-offset-sign",
        _SCALES,
        "tuple((-mean / std).tolist())",
        "tuple((mean / std).tolist())",
        _by("learned/test_scales.py::test_standardised"),
    ),
    Mutant(
        "criteria-weights-ignored",
        _SCALES,
        "weights = np.array(self.weight) / sum(self.weight)",
        "weights = np.ones(len(self.weight)) / len(self.weight)",
        _by("learned/test_scales.py::test_rewards_by_hand"),
    ),
    Mutant(
        "rewards-in-the-order-of-lengths",
        _MODEL,
        "result[rows] = self.outputs(",
        "result[i : i + len(rows)] = self.outputs(",
        _by("learned/test_model.py::test_the_score_of_a_text_depends_on_no_batch"),
    ),
    Mutant(
        "padding-is-read",
        _MODEL,
        "padded([[1] * len(t.ids) for t in texts], 0)",
        "padded([[1] * len(t.ids) for t in texts], 1)",
        _by("learned/test_model.py::test_a_classifier_that_was_not_made_here"),
    ),
    Mutant(
        "long-prompt-loses-its-end",
        _MODEL,
        "before[len(before) - min(room, len(before)) :]",
        "before[:room]",
        _by("learned/test_model.py::test_long_texts_lose_the_start_of_the_prompt_only"),
    ),
    Mutant(
        "text-without-its-eos",
        _MODEL,
        "            after += self.tokenizer.eos_ids[:1]\n",
        "",
        _by("learned/test_model.py::test_the_logits_are_those_of_transformers"),
    ),
    Mutant(
        "ridge-without-centred-intercept",
        _NGRAMS,
        "return found[0], y_mean - float(x_mean @ found[0])",
        "return found[0], y_mean",
        _by("learned/test_ngrams.py::test_ridge_solves_the_normal_equations"),
    ),
    Mutant(
        "ridge-ignores-weights-of-the-rows",
        _NGRAMS,
        "y_mean, root = x.T @ share, float(y @ share), np.sqrt(weight)",
        "y_mean, root = x.T @ share, float(y @ share), np.ones_like(weight)",
        _by("learned/test_ngrams.py::test_ridge_solves_the_normal_equations"),
    ),
    Mutant(
        "ngram-gradient-forgets-ties",
        _NGRAMS,
        "slope = -expit(-ahead) + tie * 0.5",
        "slope = -expit(-ahead)",
        _by("learned/test_ngrams.py::test_the_gradient_of_bradley_and_terry_vanishes_at_the_weights"),
    ),
    Mutant(
        "ngram-margin-sign",
        _NGRAMS,
        "        ahead = x @ v - margin\n",
        "        ahead = x @ v + margin\n",
        _by("learned/test_ngrams.py::test_the_gradient_of_bradley_and_terry_vanishes_at_the_weights"),
    ),
    Mutant(
        "five-folds-are-one",
        _NGRAMS,
        "split_within(ratings, 0.2, seed * 5 + fold)",
        "split_within(ratings, 0.2, seed)",
        _by("learned/test_ngrams.py::test_the_penalty_is_judged_on_five_parts_of_the_prompts"),
    ),
    Mutant(
        "penalty-judged-on-what-was-learnt",
        _NGRAMS,
        "v, b = ridge(x[rows], y[rows], weight[rows], alpha)",
        "v, b = ridge(x, y, weight, alpha)",
        _by("learned/test_ngrams.py::test_marks_that_follow_from_nothing_get_the_largest_penalty"),
    ),
    Mutant(
        "counts-are-not-damped",
        _FEATURES,
        "kept = [(index[f], math.log1p(c)) for",
        "kept = [(index[f], float(c)) for",
        _by("learned/test_ngram_features.py::test_rows_have_length_one_group_by_group"),
    ),
    Mutant(  # survivor 12
        "ece-bins-from-0-to-1",
        _MEASURES,
        "((confidence - 0.5) * 2 * bins)",
        "(confidence * bins)",
        _by("preferences/test_measures.py::test_bins_are_as_wide_as_a_tenth_of_what_confidences_can_be"),
    ),
    Mutant(
        "ece-by-bin-not-by-choice",
        _MEASURES,
        "float((gaps * self.count).sum() / self.count.sum())",
        "float(gaps.mean())",
        _by("preferences/test_measures.py::test_ece_by_hand"),
    ),
    Mutant(
        "equal-rewards-count-as-wrong",
        _MEASURES,
        'right = (np.sign(_numbers("differences", ahead)) + 1) / 2',
        'right = (_numbers("differences", ahead) > 0).astype(float)',
        _by("preferences/test_measures.py::test_agreement_counts_equal_rewards_half"),
    ),
    Mutant(
        "probability-is-too-sure",
        _MEASURES,
        "np.tanh(np.asarray(ahead, dtype=np.float64) / 2)",
        "np.tanh(np.asarray(ahead, dtype=np.float64))",
        _by("preferences/test_measures.py::test_probabilities_without_overflow"),
    ),
    Mutant(
        "inner-split-is-the-outer-one",
        _OPINIONS,
        "return split_opinions(opinions, held_out, -1 - seed)",
        "return split_opinions(opinions, held_out, seed)",
        _by("preferences/test_opinions.py::test_no_prompt_is_on_both_sides"),
    ),
    Mutant(
        "ratings-of-two-raters-make-a-pair",
        _OPINIONS,
        "groups.setdefault((o.prompt.id, o.rater), [])",
        'groups.setdefault((o.prompt.id, ""), [])',
        _by("preferences/test_opinions.py::test_pairs_of_ratings_compare_within_prompt_and_rater"),
    ),
    Mutant(
        "lower-mark-is-chosen",
        _OPINIONS,
        "better, worse = (a, b) if ahead >= 0 else (b, a)",
        "better, worse = (b, a) if ahead >= 0 else (a, b)",
        _by("preferences/test_opinions.py::test_pairs_of_ratings_compare_within_prompt_and_rater"),
    ),
    Mutant(
        "ties-become-likes",
        _OPINIONS,
        "        if not p.tie\n        for text, label",
        "        for text, label",
        _by("preferences/test_opinions.py::test_likes_and_pairs"),
    ),
]
