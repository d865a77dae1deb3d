"""Bugs in agents/training and agents/verification: checkpoints, the objective, advice, exact quantities."""

from __future__ import annotations

from .mutant import Mutant

TRAINING, VERIFICATION = "agents/training", "agents/verification"
CHECKPOINT, FOLDER = f"{TRAINING}/checkpoint.py", f"{TRAINING}/checkpoint_folder.py"
DIAGNOSTICS, TENSORS = f"{TRAINING}/diagnostics.py", f"{TRAINING}/tensors.py"
EXACT, LAWS = f"{VERIFICATION}/exact.py", f"{VERIFICATION}/laws.py"
OF_CHECKPOINT = "tests/agents/training/test_checkpoint.py::test_"
OF_CHECK_AGENT = "tests/agents/verification/test_check_agent.py::test_"
OF_DIAGNOSTICS = "tests/agents/training/test_diagnostics.py::test_"
OF_EXACT = "tests/agents/verification/test_exact.py::test_"
OF_TENSORS = "tests/agents/training/test_tensors.py::test_"
HACKING, OF_HACKING = f"{TRAINING}/hacking.py", "tests/agents/training/test_hacking.py::test_"
GAUGES, OF_GAUGES = f"{TRAINING}/gauges.py", "tests/agents/training/test_gauges.py::test_"

MUTANTS = [
    Mutant(
        "alarm-without-a-rise-of-the-reward",
        HACKING,
        "self.alarm is None and (self._risen or against):",
        "self.alarm is None:",
        (OF_HACKING + "texts_may_change_where_the_reward_stays_and_the_reward_may_rise_where_they_stay",),
    ),
    Mutant(
        "drift-that-went-back-is-still-in-the-sum",
        GAUGES,
        "sign: max(0.0, total + sign * errors - SLACK)",
        "sign: max(0.0, total + abs(errors) - SLACK)",
        (OF_GAUGES + "what_went_the_other_way_before_is_no_evidence",),
    ),
    Mutant(
        "texts-of-a-prompt-count-by-themselves",
        GAUGES,
        "    sums = np.bincount(group, values - mean)\n    count = len(names)\n",
        "    sums = values - mean\n    count = len(values)\n",
        (OF_GAUGES + "the_error_of_a_mean_counts_prompts_and_not_texts",),
    ),
    Mutant(
        "selection-between-prompts-not-within-them",
        GAUGES,
        "(x - (np.bincount(group, x) / count)[group] for x in (values, rewards))",
        "(x - x.mean() for x in (values, rewards))",
        (OF_GAUGES + "products_are_those_of_deviations_within_prompts",),
    ),
    Mutant(
        "every-batch-is-bet-on-anew-with-all-there-is",
        GAUGES,
        "(bet + fresh) * math.exp(",
        "(bet + 1.0) * math.exp(",
        (
            OF_GAUGES + "the_winnings_of_one_batch_are_the_formula",
            OF_GAUGES + "nobody_gets_rich_where_the_reward_selects_for_the_criterion",
        ),
    ),
    Mutant(
        "no-share-has-to-be-selected-for",
        GAUGES,
        "(products - self.kappa * np.abs(products)).sum()",
        "products.sum()",
        (OF_GAUGES + "the_winnings_of_one_batch_are_the_formula",),
    ),
    Mutant(
        "moving-towards-golden-texts-is-a-drift",
        GAUGES,
        "off = self.now - min(max(self.now, self.low), self.high)",
        "off = self.now - self.mean",
        (OF_GAUGES + "what_moves_towards_golden_texts_has_not_left_its_range",),
    ),
    Mutant(
        "criteria-that-golden-texts-fail-are-watched",
        HACKING,
        "golden.mean() < start.mean() - 2 * error",
        "golden.mean() < start.mean() - 99 * error",
        (OF_HACKING + "criteria_that_golden_texts_fail_are_left_out",),
    ),
    Mutant(
        "resumed-detector-bets-anew",
        HACKING,
        "            test.load_state_dict(saved)\n",
        "            pass\n",
        (OF_HACKING + "a_resumed_detector_goes_on_where_it_was",),
    ),
    Mutant(
        "every-term-of-the-reward-is-a-criterion",
        HACKING,
        "            if along > GOES_ALONG * spread:\n",
        "            if spread > 0:\n",
        (OF_HACKING + "a_term_that_went_along_with_the_reward_and_falls_is_named",),
    ),
    Mutant(
        "resumed-detector-forgets-its-sums",
        HACKING,
        '        self.gauges = {name: Gauge.of(gauge) for name, gauge in state["gauges"].items()}\n',
        "",
        (OF_HACKING + "a_resumed_detector_goes_on_where_it_was",),
    ),
    Mutant(
        "starting-texts-know-themselves",
        HACKING,
        "measure_texts(start, self._seen, least=2)",
        "measure_texts(start, self._seen, least=1)",
        (OF_HACKING + "what_is_new_in_the_start_is_measured_without_the_text_itself",),
    ),
    Mutant(
        "optimizer-starts-anew-on-resume",
        CHECKPOINT,
        "        load_optimizer(agent, saved)\n",
        "",
        (OF_CHECKPOINT + "run_twice_or_resumed_the_bits_are_the_same",),
    ),
    Mutant(
        "checkpoint-of-half-an-update",
        CHECKPOINT,
        "        if not agent.between_iterations:\n",
        "        if False:\n",
        (OF_CHECKPOINT + "nothing_is_saved_in_the_middle_of_an_update",),
    ),
    Mutant(
        "checkpoint-of-another-reference-taken",
        CHECKPOINT,
        '        if state["reference"] != agent.reference.digest():\n',
        '        if not state["reference"]:\n',
        (OF_CHECKPOINT + "a_checkpoint_of_something_else_is_refused_and_changes_nothing",),
    ),
    Mutant(
        "best-is-the-newest",
        CHECKPOINT,
        "return max(scores, key=lambda folder: scores[folder], default=None)",
        "return max(scores, default=None)",
        (OF_CHECKPOINT + "the_last_ones_and_the_best_stay",),
    ),
    Mutant(
        "best-of-equals-is-the-latest",
        CHECKPOINT,
        "            best = max(scores, key=lambda folder: scores[folder])\n",
        "            best = max(reversed(scores), key=lambda folder: scores[folder])\n",
        (OF_CHECKPOINT + "the_best_of_equals_is_the_earliest",),
    ),
    Mutant(
        "a-damaged-checkpoint-is-the-best",
        CHECKPOINT,
        "                del scores[best]\n                continue\n",
        "                return best\n",
        (OF_CHECKPOINT + "the_best_is_the_one_that_is_intact",),
    ),
    Mutant(
        "best-taken-within-noise",
        CHECKPOINT,
        "if not found.exceeds(last, errors=2.0):",
        "if not found.exceeds(last, errors=0.0):",
        (OF_CHECKPOINT + "the_best_policy_is_taken_where_it_is_better_by_more_than_noise",),
    ),
    Mutant(
        "best-compared-under-its-own-beta",
        CHECKPOINT,
        'return Objective.of(state.get("agent", {}).get("objective")).average(coefficient)',
        'return Objective.of(state.get("agent", {}).get("objective")).average()',
        (OF_CHECKPOINT + "objectives_are_compared_under_the_beta_in_force",),
    ),
    Mutant(
        "the-best-is-pruned",
        FOLDER,
        "            if folder != best:\n                shutil.rmtree(folder, ignore_errors=True)\n",
        "            shutil.rmtree(folder, ignore_errors=True)\n",
        (OF_CHECKPOINT + "the_last_ones_and_the_best_stay",),
    ),
    Mutant(
        "one-checkpoint-too-few-stays",
        FOLDER,
        "for folder in found[: -self.keep]:",
        "for folder in found[: -self.keep + 1 or None]:",
        (OF_CHECKPOINT + "the_last_ones_and_the_best_stay",),
    ),
    Mutant(
        "oldest-intact-checkpoint-is-taken",
        FOLDER,
        "for folder in reversed(self._all()):",
        "for folder in self._all():",
        (OF_CHECKPOINT + "a_damaged_one_is_passed_over_and_named",),
    ),
    Mutant(
        "all-damaged-starts-from-nothing",
        FOLDER,
        "        if damaged:\n            raise CheckpointError(",
        "        if damaged and set_aside is None:\n            raise CheckpointError(",
        (OF_CHECKPOINT + "where_none_is_intact_nothing_is_made_up",),
    ),
    Mutant(
        "optimizer-state-by-order-of-names",
        TENSORS,
        "index = {names[id(parameter)]: i for i, parameter in enumerate(trained)}",
        "index = {name: i for i, name in enumerate(sorted(names.values()))}",
        (OF_TENSORS + "a_fresh_optimizer_takes_up_the_state_of_another",),
    ),
    Mutant(
        "objective-forgets-beta",
        DIAGNOSTICS,
        "return ObjectiveEstimate(self.reward - coefficient * self.kl,",
        "return ObjectiveEstimate(self.reward - self.kl,",
        (OF_DIAGNOSTICS + "a_batch_by_hand",),
    ),
    Mutant(
        "objective-covariance-sign",
        DIAGNOSTICS,
        "self.reward_var - 2 * coefficient * self.covariance",
        "self.reward_var + 2 * coefficient * self.covariance",
        (OF_DIAGNOSTICS + "a_batch_by_hand",),
    ),
    Mutant(
        "objective-error-of-texts-in-groups",
        DIAGNOSTICS,
        "        if len(names) == 1:\n",
        "        if len(names) >= 1:\n",
        (OF_DIAGNOSTICS + "episodes_of_a_prompt_count_as_one_observation",),
    ),
    Mutant(
        "objective-population-variance",
        DIAGNOSTICS,
        "((len(names) - 1) * len(rewards) ** 2)",
        "(len(names) * len(rewards) ** 2)",
        (OF_DIAGNOSTICS + "a_batch_by_hand",),
    ),
    Mutant(
        "objective-error-of-an-average",
        DIAGNOSTICS,
        "(rows[:, 2:].sum(axis=0) / n**2)",
        "(rows[:, 2:].sum(axis=0) / n)",
        (OF_DIAGNOSTICS + "the_average_is_over_the_last_five_batches",),
    ),
    Mutant(
        "objective-start-is-the-last-batch",
        DIAGNOSTICS,
        "        if self._start is None:\n            self._start, self.began",
        "        if self._start is None or not self.below:\n            self._start, self.began",
        (OF_DIAGNOSTICS + "a_planted_ruin_is_seen_after_five_iterations_in_a_row",),
    ),
    Mutant(
        "objective-patience-never-reset",
        DIAGNOSTICS,
        "self.below = self.below + 1 if low else 0",
        "self.below = self.below + 1 if low else self.below",
        (
            OF_DIAGNOSTICS + "a_planted_ruin_is_seen_after_five_iterations_in_a_row",
            OF_DIAGNOSTICS + "noise_rarely_trips_it",
        ),
    ),
    Mutant(
        "objective-counts-abstentions",
        DIAGNOSTICS,
        "        scored = ~batch.scores.abstained\n",
        "        scored = np.ones_like(batch.scores.abstained)\n",
        (OF_DIAGNOSTICS + "what_was_not_scored_is_left_out",),
    ),
    Mutant(
        "objective-memory-lost-on-resume",
        DIAGNOSTICS,
        '            made._recent = [BatchMeans(*batch) for batch in state["recent"]]\n',
        "",
        (OF_DIAGNOSTICS + "its_state_is_plain_data_and_comes_back",),
    ),
    Mutant(
        "errors-added-not-squared",
        DIAGNOSTICS,
        "errors * math.hypot(self.se, other.se)",
        "errors * (self.se + other.se)",
        (
            OF_DIAGNOSTICS + "less_than_the_tolerance_or_more_noise_than_that_does_not_trip",
            OF_DIAGNOSTICS + "a_planted_ruin_is_seen_after_five_iterations_in_a_row",
        ),
    ),
    Mutant(
        "advice-repeats-itself",
        DIAGNOSTICS,
        "                self.lasted[name] += 1\n",
        "                self.lasted[name] = 0\n",
        (OF_DIAGNOSTICS + "each_sign_is_explained_once_after_three_iterations",),
    ),
    Mutant(
        "advice-of-interrupted-signs",
        DIAGNOSTICS,
        "self.lasted[name] = self.lasted.get(name, 0) + 1 if message else 0",
        "self.lasted[name] = self.lasted.get(name, 0) + bool(message)",
        (
            OF_DIAGNOSTICS + "what_is_no_sign_of_trouble",
            OF_DIAGNOSTICS + "each_sign_is_explained_once_after_three_iterations",
        ),
    ),
    Mutant(
        "advice-collapse-with-one-prompt",
        DIAGNOSTICS,
        "if len(prompts) < 2 or len(batch.episodes) < 8",
        "if len(batch.episodes) < 8",
        (OF_DIAGNOSTICS + "what_is_no_sign_of_trouble",),
    ),
    Mutant(
        "advice-equal-rewards-of-abstentions",
        DIAGNOSTICS,
        "totals = batch.scores.totals[batch.scored.numpy()]",
        "totals = batch.scores.totals",
        (OF_DIAGNOSTICS + "equal_rewards_are_seen_although_some_texts_were_not_judged",),
    ),
    Mutant(
        "exact-log-probs-count-the-prompt",
        EXACT,
        "written[row, len(episode.prompt_ids) : len(text)] = own",
        "written[row, : len(text)] = True",
        (
            OF_EXACT + "texts_have_the_probabilities_of_one_text_alone",
            OF_EXACT + "prompts_may_have_different_lengths_and_tokens_a_temperature",
        ),
    ),
    Mutant(
        "exact-gradient-without-probabilities",
        EXACT,
        "value = (probabilities * weights * log_probs).sum()",
        "value = (weights * log_probs).sum()",
        (OF_EXACT + "the_gradient_is_that_of_the_objective_by_central_differences",),
    ),
    Mutant(
        "exact-gradient-kl-sign",
        EXACT,
        "weights = weights - beta * (log_probs - said)",
        "weights = weights + beta * (log_probs - said)",
        (OF_EXACT + "the_gradient_is_that_of_the_objective_by_central_differences",),
    ),
    Mutant(
        "law-of-padding-changes-nothing",
        LAWS,
        "other = torch.where(after, (batch.tokens + 1) % trial.task.tokenizer.vocab_size, batch.tokens)",
        "other = batch.tokens",
        (OF_CHECK_AGENT + "each_broken_variant_breaks_its_law",),
    ),
    Mutant(
        "law-of-credit-passes-a-wrong-sign",
        LAWS,
        "    if mean < -0.2:\n",
        "    if mean < -2:\n",
        (OF_CHECK_AGENT + "each_broken_variant_breaks_its_law",),
    ),
    Mutant(
        "law-of-abstention-garbles-nothing",
        LAWS,
        "inside = rows[:, None] & batch.mask",
        "inside = rows[:, None] & ~batch.mask",
        (OF_CHECK_AGENT + "each_broken_variant_breaks_its_law",),
    ),
    Mutant(
        "law-of-seeds-in-one-world",
        LAWS,
        "    if run(2) != first:\n",
        "    if run(1) != first:\n",
        (OF_CHECK_AGENT + "each_broken_variant_breaks_its_law",),
    ),
]
