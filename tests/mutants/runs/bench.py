"""Bugs of `text_gym.bench` and of the intervals under it: clusters, corrections, pairs, budgets, cells."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STATISTICS, _INTERVAL = "text_gym/bench/analysis/statistics.py", "text_gym/utils/interval.py"
_COMPARE, _COMPARISONS = "text_gym/bench/analysis/compare.py", "text_gym/bench/analysis/comparisons.py"
_FRONTIER, _OUTCOMES = "text_gym/bench/analysis/frontier.py", "text_gym/bench/analysis/outcomes.py"
_MEASURES, _VERDICTS = "text_gym/bench/analysis/measures.py", "text_gym/bench/analysis/verdicts.py"
_RUNS, _RESULTS = "text_gym/bench/analysis/runs.py", "text_gym/bench/analysis/results.py"
_OWN, _SAMPLES = "text_gym/bench/analysis/own_algorithms.py", "text_gym/bench/analysis/samples.py"
_SUMMARY = "text_gym/bench/analysis/summary.py"
_CELLS, _MATRIX = "text_gym/bench/matrix/cells.py", "text_gym/bench/matrix/matrix.py"
_BUDGETS, _FOLDER = "text_gym/bench/matrix/budgets.py", "text_gym/bench/matrix/folder.py"
_OPTIMISERS, _RECIPES = "text_gym/bench/matrix/optimisers.py", "text_gym/bench/matrix/recipes.py"
_FLUENCY, _E2E = "text_gym/bench/gold/fluency.py", "text_gym/bench/gold/e2e.py"
_SETTINGS, _ACROSS = "text_gym/bench/matrix/settings.py", "text_gym/bench/analysis/across.py"
_START, _DESIGNS = "text_gym/bench/matrix/start.py", "text_gym/bench/matrix/designs.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/{test}" for test in tests)


MUTANTS = [
    Mutant(
        "strata-resampled-one-by-one",
        _STATISTICS,
        "    return [np.flatnonzero(labels == label) for label in np.unique(labels)]",
        "    return [np.array([row]) for row in range(len(values))]",
        _by("bench/analysis/test_statistics.py::test_seeds_are_drawn_in_all_strata_together"),
    ),
    Mutant(
        "seeds-joined-whatever-they-share",
        _STATISTICS,
        "        labels[np.isin(labels, joined)] = joined[0]\n",
        "        labels[:] = 0\n",
        _by("bench/analysis/test_statistics.py::test_few_runs_are_resampled_in_every_way_once"),
    ),
    Mutant(
        "bootstrap-of-runs-not-seeds",
        _STATISTICS,
        "        return np.asarray(statistic(values[rows].reshape(len(rows), -1)))",
        "        rng = np.random.default_rng(seed)\n"
        "        drawn = rng.integers(len(values), size=(*rows.shape, values.shape[1]))\n"
        "        cells = values[drawn, np.arange(values.shape[1])]\n"
        "        return np.asarray(statistic(cells.reshape(len(rows), -1)))",
        _by("bench/analysis/test_statistics.py::test_seeds_are_drawn_in_all_strata_together"),
    ),
    Mutant(
        "contrast-of-the-population",
        _STATISTICS,
        "shares = factors * np.sqrt(counts / (counts - 1)) / counts",
        "shares = factors / counts",
        _by("bench/analysis/test_statistics.py::test_one_sample_has_students_interval"),
    ),
    Mutant(
        "contrast-of-paired-runs-unpaired",
        _STATISTICS,
        "variance = sum(parts)",
        "variance = float(np.nansum((shares * (values - np.nanmean(values, axis=0))) ** 2))",
        _by("bench/analysis/test_statistics.py::test_students_interval_is_that_of_the_seeds_means"),
    ),
    Mutant(
        "freedom-of-all-seeds",
        _STATISTICS,
        "least = [int(counts[np.isfinite(values[g]).any(axis=0)].min()) - 1 for g in groups]",
        "least = [len(g) for g in groups]",
        _by("bench/analysis/test_statistics.py::test_one_sample_has_students_interval"),
    ),
    Mutant(
        "p-is-one-sided",
        _STATISTICS,
        "chance = 2 * float(t.sf(abs(value) / spread, freedom))",
        "chance = float(t.sf(abs(value) / spread, freedom))",
        _by("bench/analysis/test_statistics.py::test_students_interval_is_that_of_the_seeds_means"),
    ),
    Mutant(
        "iqm-cuts-one-end-only",
        _STATISTICS,
        "inside = (place >= left) & (place < n - left)",
        "inside = (place >= left) & (place < n)",
        _by("bench/analysis/test_statistics.py::test_iqm_is_the_mean_of_the_middle_half"),
    ),
    Mutant(
        "improvement-counts-ties-as-wins",
        _STATISTICS,
        "wins = np.sign(b[:, :, None] - a[:, None, :])",
        "wins = np.where(b[:, :, None] >= a[:, None, :], 1.0, -1.0) + 0 * (b[:, :, None] - a[:, None, :])",
        _by("bench/analysis/test_statistics.py::test_improvement_is_the_mean_over_strata"),
    ),
    Mutant(
        "improvement-of-a-over-b",
        _STATISTICS,
        "wins = np.sign(b[:, :, None] - a[:, None, :])",
        "wins = np.sign(a[:, :, None] - b[:, None, :])",
        _by("bench/analysis/test_statistics.py::test_improvement_is_the_mean_over_strata"),
    ),
    Mutant(
        "best-point-of-each-run",
        _STATISTICS,
        "kl, gold = np.mean(kl, axis=0), np.mean(gold, axis=0)",
        "kl, gold = np.min(kl, axis=0), np.max(gold, axis=0)",
        _by("bench/analysis/test_statistics.py::test_best_within_by_looking_at_every_point"),
    ),
    Mutant(
        "target-reached-at-the-next-point",
        _STATISTICS,
        "return float(episodes[i - 1] + share * (episodes[i] - episodes[i - 1]))",
        "return float(episodes[i])",
        _by("bench/analysis/test_statistics.py::test_episodes_until"),
    ),
    Mutant(
        "one-seed-has-an-interval",
        _STATISTICS,
        "return not values.size or int(np.isfinite(values).sum(axis=0).min()) < 2",
        "return not values.size or int(np.isfinite(values).sum(axis=0).min()) < 1",
        _by("bench/analysis/test_statistics.py::test_contrasts_of_too_little"),
    ),
    Mutant(
        "interval-of-90-percent",
        _INTERVAL,
        "np.quantile(drawn, [0.025, 0.975], method=quantiles)",
        "np.quantile(drawn, [0.05, 0.95], method=quantiles)",
        _by("utils/test_interval.py::test_the_bootstrap_is_scipys"),
    ),
    Mutant(
        "groups-are-not-drawn-by-themselves",
        _INTERVAL,
        "yield np.concatenate([g[rng.integers(len(g), size=(count, len(g)))] for g in groups], axis=1)",
        "every = np.concatenate(groups)\n"
        "        yield every[rng.integers(len(every), size=(count, len(every)))]",
        _by("utils/test_interval.py::test_groups_are_drawn_each_by_itself"),
    ),
    Mutant(
        "draws-without-replacement",
        _INTERVAL,
        "g[rng.integers(len(g), size=(count, len(g)))]",
        "rng.permuted(np.tile(g, (count, 1)), axis=1)",
        _by("utils/test_interval.py::test_the_bootstrap_is_scipys"),
    ),
    Mutant(
        "partial-correlation-is-plain",
        _INTERVAL,
        "    if rest.shape[1]:\n",
        "    if rest.shape[1] > 99:\n",
        _by("utils/test_interval.py::test_partial_correlations_against_residuals"),
    ),
    Mutant(
        "ranks-are-values",
        _INTERVAL,
        "ranks = rankdata(columns[:, rows], axis=-1)",
        "ranks = columns[:, rows]",
        _by("utils/test_interval.py::test_correlations_against_scipy"),
    ),
    Mutant(
        "holm-without-the-monotone-step",
        _VERDICTS,
        "largest = max(largest, min(1.0, (len(known) - rank) * p))",
        "largest = min(1.0, (len(known) - rank) * p)",
        _by("bench/analysis/test_verdicts.py::test_holms_adjustment_rejects_what_his_procedure_rejects"),
    ),
    Mutant(
        "holm-is-bonferroni",
        _VERDICTS,
        "min(1.0, (len(known) - rank) * p)",
        "min(1.0, len(known) * p)",
        _by("bench/analysis/test_verdicts.py::test_how_many_questions_are_asked"),
    ),
    Mutant(
        "holm-counts-what-was-not-tested",
        _VERDICTS,
        "min(1.0, (len(known) - rank) * p)",
        "min(1.0, (len(chances) - rank) * p)",
        _by("bench/analysis/test_verdicts.py::test_how_many_questions_are_asked"),
    ),
    Mutant(
        "a-small-sure-effect-is-a-yes",
        _VERDICTS,
        "if effect.low > 0 and effect.value >= margin:",
        "if effect.low > 0:",
        _by("bench/analysis/test_verdicts.py::test_verdicts"),
    ),
    Mutant(
        "minus-keeps-the-ends",
        _VERDICTS,
        "low=-interval.high, high=-interval.low",
        "low=-interval.low, high=-interval.high",
        _by("bench/analysis/test_verdicts.py::test_minus_turns_the_interval"),
    ),
    Mutant(
        "difference-of-a-to-b",
        _COMPARE,
        "{s: second[s] - first[s] for s in seeds}",
        "{s: first[s] - second[s] for s in seeds}",
        _by("bench/analysis/test_compare.py::test_differences_are_paired_by_seed"),
    ),
    Mutant(
        "unpaired-weights-swapped",
        _COMPARE,
        "weights += [share] if seeds else [-share, share]",
        "weights += [share] if seeds else [share, -share]",
        _by("bench/analysis/test_compare.py::test_other_seeds_are_not_paired"),
    ),
    Mutant(
        "student-has-no-say",
        _COMPARE,
        "if difference.low > 0 and student.low > 0:",
        "if difference.low > 0:",
        _by("bench/analysis/test_compare.py::test_a_verdict_needs_students_interval_too"),
    ),
    Mutant(
        "clean-and-biased-rater-swapped",
        _COMPARISONS,
        'found[setting] = {y.row["seed"]: value(y, measure) - value(x, measure) for x, y in pairs}',
        'found[setting] = {y.row["seed"]: value(x, measure) - value(y, measure) for x, y in pairs}',
        _by("bench/analysis/test_comparisons.py::test_the_length_biased_rater"),
    ),
    Mutant(
        "frontier-over-kl-not-its-root",
        _FRONTIER,
        'return np.sqrt(np.maximum(cell.along("kl_nats"), 0.0)), cell.along("gold")',
        'return np.maximum(cell.along("kl_nats"), 0.0), cell.along("gold")',
        _by("bench/analysis/test_frontier.py::test_the_coefficients_are_found_again"),
    ),
    Mutant(
        "peak-of-rl-without-its-beta",
        _FRONTIER,
        "return math.exp(alpha / beta - 1) if alpha / beta < 50 else None",
        "return math.exp(alpha / beta) if alpha / beta < 50 else None",
        _by("bench/analysis/test_frontier.py::test_the_coefficients_are_found_again"),
    ),
    Mutant(
        "gain-in-the-runs-own-unit",
        _FRONTIER,
        "points = np.stack([d, (gold - gold[0]) / scale], axis=1)",
        "points = np.stack([d, (gold - gold[0])], axis=1)",
        _by("bench/analysis/test_frontier.py::test_the_coefficients_are_found_again"),
    ),
    Mutant(
        "gold-beyond-the-other-curve-counts",
        _FRONTIER,
        "inside = (own > 0) & (own >= first) & (own <= d[-1]) & np.isfinite(own_gold)",
        "inside = (own > 0) & (own >= first) & np.isfinite(own_gold)",
        _by("bench/analysis/test_frontier.py::test_whether_reinforcement_learning_spends_more_kl"),
    ),
    Mutant(
        "hacked-though-its-own-score-fell",
        _OUTCOMES,
        'return [c for c in self.failed if value(c, "proxy_change") > 0]',
        "return list(self.failed)",
        _by("bench/analysis/test_outcomes.py::test_two_failures_among_nine_are_named"),
    ),
    Mutant(
        "one-run-of-a-seed-is-sure",
        _OUTCOMES,
        'several = len({c.row["seed"] for c in pressed.failed}) > 1',
        "several = len(pressed.failed) > 1",
        _by("bench/analysis/test_outcomes.py::test_a_hackable_design_is_said_to_be_hacked"),
    ),
    Mutant(
        "equal-gold-counts-as-a-pair",
        _MEASURES,
        "known = (apart != 0) & ~np.isnan(apart) & ~np.isnan(said)",
        "known = ~np.isnan(apart) & ~np.isnan(said)",
        _by("bench/analysis/test_measures.py::test_gold_pair_accuracy_by_hand"),
    ),
    Mutant(
        "best-of-n-of-the-first-n",
        _MEASURES,
        "return np.array([math.comb(r, n - 1) / math.comb(k, n) for r in range(k)])",
        "return np.array([math.comb(r + 1, n) / math.comb(k, n) for r in range(k)])",
        _by(
            "bench/analysis/test_measures.py::test_best_of_n_averages_over_prompts_and_ranks_the_unjudged_last"
        ),
    ),
    Mutant(
        "candidates-without-a-score-rank-first",
        _MEASURES,
        "proxy = np.where(np.isnan(proxy), -np.inf, proxy)\n    weights",
        "proxy = np.where(np.isnan(proxy), np.inf, proxy)\n    weights",
        _by(
            "bench/analysis/test_measures.py::test_best_of_n_averages_over_prompts_and_ranks_the_unjudged_last"
        ),
    ),
    Mutant(
        "self-bleu-counts-itself",
        _MEASURES,
        "min(c, table[g][1] if c == table[g][0] else table[g][0])",
        "min(c, table[g][0])",
        _by("bench/analysis/test_measures.py::test_self_bleu_is_that_of_sacrebleu"),
    ),
    Mutant(
        "fall-from-each-runs-own-best",
        _RUNS,
        "{s: points[last] - points[best] for s, points",
        "{s: points[last] - max(points.values()) for s, points",
        _by(
            "bench/analysis/test_runs.py::test_a_run_falls_from_where_the_mean_is_best_and_not_from_its_own_best"
        ),
    ),
    Mutant(
        "curves-averaged-over-steps-of-the-first-run",
        _RUNS,
        "steps = [s for s in by_step[0] if all(s in points for points in by_step)]",
        "steps = [s for s in by_step[0] if any(s in points for points in by_step[1:] or by_step)]",
        _by("bench/analysis/test_runs.py::test_of_three_runs_one_may_be_cut_short"),
    ),
    Mutant(
        "own-algorithm-at-its-own-tokens",
        _OWN,
        "return min(ends) if ends and",
        "return max(ends) if ends and",
        _by("bench/analysis/test_own_algorithms.py::test_gold_is_read_where_the_run_of_fewest_tokens_ends"),
    ),
    Mutant(
        "equal-if-one-interval-is-narrow",
        _OWN,
        "elif all(e.low > -ALGORITHM_MARGIN and e.high < ALGORITHM_MARGIN for e in both):",
        "elif any(e.low > -ALGORITHM_MARGIN and e.high < ALGORITHM_MARGIN for e in both):",
        _by("bench/analysis/test_own_algorithms.py::test_a_verdict_needs_both_intervals"),
    ),
    Mutant(
        "cells-of-an-older-design-count",
        _RESULTS,
        'return design in (None, content.get("fingerprint")) and code == content.get("code")',
        'return code == content.get("code")',
        _by("bench/matrix/test_folder.py::test_a_design_of_another_content_takes_the_place_of_the_old_one"),
    ),
    Mutant(
        "two-rows-of-one-key-pass",
        _RESULTS,
        "        if first != i:\n",
        "        if first > i:\n",
        _by("bench/analysis/test_results.py::test_files_that_are_no_leaderboards"),
    ),
    Mutant(
        "mean-of-the-runs-that-reached-the-target",
        _SUMMARY,
        "            if reached == len(cells)\n",
        "            if reached\n",
        _by("bench/analysis/test_summary.py::test_the_mean_is_of_runs_that_all_reached_the_target"),
    ),
    Mutant(
        "copied-words-of-the-start-are-a-symptom",
        _SAMPLES,
        "if share >= least and share > measure(first) + RISE:",
        "if share >= least:",
        _by("bench/analysis/test_samples.py::test_what_was_so_at_the_start_is_no_symptom"),
    ),
    Mutant(
        "likeness-to-texts-of-the-same-prompt",
        _SAMPLES,
        "others = [shared(own, other) for q, other in words if q != prompt]",
        "others = [shared(own, other) for q, other in words if other is not own]",
        _by("bench/analysis/test_samples.py::test_texts_of_one_prompt_may_be_alike"),
    ),
    Mutant(
        "all-cells-share-a-seed",
        _CELLS,
        "scale, float(cell.kl_coefficient or 0.0), cell.seed)",
        "scale, float(cell.kl_coefficient or 0.0), 0)",
        _by("bench/matrix/test_cells.py::test_what_was_learnt_is_what_the_agent_learns_by_itself"),
    ),
    Mutant(
        "cell-key-without-the-coefficient",
        _CELLS,
        "self.settings.optimiser(self.optimiser), self.kl_coefficient, self.seed]",
        "self.settings.optimiser(self.optimiser), self.seed]",
        _by("bench/matrix/test_cells.py::test_keys_follow_from_all_that_results_depend_on"),
    ),
    Mutant(
        "cell-key-without-the-users-code",
        _CELLS,
        "            how.append(self.settings.code(self.optimiser))\n",
        "            pass\n",
        _by("bench/matrix/test_budgets.py::test_ones_own_agents_run_beside_the_others_with_as_many_seeds"),
    ),
    Mutant(
        "over-optimisation-in-raw-units",
        _CELLS,
        '(row["proxy"] - row["proxy_start"]) / own - (row["gold"] - row["gold_start"]) / spread)',
        '(row["proxy"] - row["proxy_start"]) - (row["gold"] - row["gold_start"]))',
        _by("bench/matrix/test_cells.py::test_over_optimisation_is_the_gain_of_proxy_without_gold"),
    ),
    Mutant(
        "best-by-proxy",
        _CELLS,
        'return int(np.argmax([-np.inf if point["gold"] is None else point["gold"] for point in curve]))',
        'return int(np.argmax([-np.inf if point["proxy"] is None else point["proxy"] for point in curve]))',
        _by("bench/matrix/test_cells.py::test_the_best_point_is_that_of_gold"),
    ),
    Mutant(
        "reward-is-not-brought-to-one-unit",
        _CELLS,
        "scale = 1 / spread if spread and",
        "scale = 1.0 if spread and",
        _by("bench/matrix/test_cells.py::test_what_was_learnt_is_what_the_agent_learns_by_itself"),
    ),
    Mutant(
        "finished-jobs-run-again",
        _MATRIX,
        "ready = [j for j in jobs if not j.done(folder.path)]",
        "ready = list(jobs)",
        _by("bench/matrix/test_matrix.py::test_a_second_call_does_nothing_and_changes_nothing"),
    ),
    Mutant(
        "failed-cells-are-no-error",
        _MATRIX,
        "        if failed:\n",
        "        if failed and not rows:\n",
        _by("bench/matrix/test_matrix.py::test_a_failing_design_is_named_and_tried_again"),
    ),
    Mutant(
        "best-of-n-once-for-each-coefficient",
        _BUDGETS,
        "    if optimiser == BEST_OF_N:\n        return (None,)\n",
        "    if optimiser == BEST_OF_N:\n        return tuple(betas)\n",
        _by("bench/matrix/test_budgets.py::test_dimensions_can_be_replaced"),
    ),
    Mutant(
        "seeds-option-ignored",
        _BUDGETS,
        "coefficients(optimiser, betas), seeds or SEEDS[budget])",
        "coefficients(optimiser, betas), SEEDS[budget])",
        _by("bench/matrix/test_budgets.py::test_dimensions_can_be_replaced"),
    ),
    Mutant(
        "other-settings-extend-the-folder",
        _FOLDER,
        "            for key in set(value) & set(found.get(name, {})):\n",
        "            for key in ():\n",
        _by("bench/matrix/test_folder.py::test_other_settings_are_refused_by_name"),
    ),
    Mutant(
        "tree-of-a-changed-design-stays",
        _FOLDER,
        'return {**given, "tree": known.get("tree") if same else None}',
        'return {**given, "tree": known.get("tree")}',
        _by("bench/matrix/test_folder.py::test_a_design_of_another_content_takes_the_place_of_the_old_one"),
    ),
    Mutant(
        "looks-have-other-luck-each-time",
        _OPTIMISERS,
        "batch = rollout(policy, env, index, seed=_NOISE)",
        "batch = rollout(policy, env, index, seed=_NOISE + int(np.random.default_rng().integers(9**9)))",
        _by(
            "bench/matrix/test_optimisers.py",
            "bench/matrix/test_cells.py::test_the_same_cell_gives_the_same_bytes",
        ),
    ),
    Mutant(
        "kl-from-reference-to-policy",
        _OPTIMISERS,
        "ratio = policy.score(*texts) - reference.score(*texts)",
        "ratio = reference.score(*texts) - policy.score(*texts)",
        _by("bench/matrix/test_optimisers.py"),
    ),
    Mutant(
        "raters-see-held-out-prompts",
        _START,
        'prompts = (task.prompts if self.use == "pool" else task.held_out)[:count]',
        "prompts = task.held_out[:count]",
        _by("bench/matrix/test_start.py::test_raters_see_training_prompts_and_designs_are_judged_on_others"),
    ),
    Mutant(
        "candidates-share-a-seed",
        _START,
        "seed=_SEED + 7 * self.seed + len(self.use))",
        "seed=_SEED + len(self.use))",
        _by(
            "bench/matrix/test_start.py::test_the_same_job_gives_the_same_bytes_and_another_seed_other_texts"
        ),
    ),
    Mutant(
        "learned-models-share-a-rater",
        _RECIPES,
        "Vices(noise=self.noise, length=self.length, hype=self.hype), seed=seed",
        "Vices(noise=self.noise, length=self.length, hype=self.hype), seed=0",
        _by("bench/matrix/test_recipes.py::test_each_seed_has_a_rater_of_its_own"),
    ),
    Mutant(
        "changed-reward-is-used-silently",
        _RECIPES,
        "        if content_of(self.spec) != self.content:\n",
        "        if not self.spec:\n",
        _by("bench/matrix/test_recipes.py::test_a_given_reward_is_that_of_the_file_as_it_was"),
    ),
    Mutant(
        "design-key-without-the-seed",
        _DESIGNS,
        "self.design.fingerprint, self.seed if self.design.trained else None])",
        "self.design.fingerprint])",
        _by(
            "bench/matrix/test_designs.py::test_a_trained_design_is_kept_and_loaded_and_a_model_for_each_seed"
        ),
    ),
    Mutant(
        "discounted-mass-not-shared-out",
        _FLUENCY,
        "DISCOUNT * self._followers[history] * shorter",
        "DISCOUNT * shorter",
        _by("bench/gold/test_fluency.py::test_probabilities_after_every_history_sum_to_one"),
    ),
    Mutant(
        "repetition-costs-half-only",
        _FLUENCY,
        "fresh(tokens) ** 2",
        "fresh(tokens)",
        _by("bench/gold/test_fluency.py::test_human_texts_score_high_and_broken_or_repeated_ones_low"),
    ),
    Mutant(
        "shortest-names-found-first",
        _FLUENCY,
        "key=lambda n: (-len(n), n)",
        "key=lambda n: (len(n), n)",
        _by("bench/gold/test_fluency.py::test_names_are_one_word_and_the_longest_is_found_first"),
    ),
    Mutant(
        "reordered-representations-leak",
        _E2E,
        "held_out = [p for p in held_out if slots_of(p) not in learnt]",
        "held_out = [p for p in held_out if p.text not in {q.text for q in train}]",
        _by("bench/gold/test_e2e.py::test_a_representation_in_another_order_does_not_leak"),
    ),
    Mutant(
        "gold-is-the-mean-of-its-terms",
        _E2E,
        "return Rewards(said.values * fluency, terms=terms)",
        "return Rewards((said.values + fluency) / 2, terms=terms)",
        _by(
            "bench/gold/test_e2e.py::test_a_list_of_the_slots_is_accurate_and_not_fluent",
            "bench/gold/test_e2e.py::test_gold_is_accuracy_times_fluency",
        ),
    ),
    Mutant(
        "texts-do-not-depend-on-the-data",
        _SETTINGS,
        '        return found if self.data is None else {**found, "data": _fingerprint(Path(self.data))}\n',
        "        return found\n",
        _by(
            "bench/matrix/test_user_data.py::test_all_start_from_the_policy_that_was_made_or_from_the_given_one"
        ),
    ),
    Mutant(
        "findings-agree-whatever-goes-wrong",
        _ACROSS,
        'same = (a["verdict"], bool(a.get("alarm"))) == (b["verdict"], bool(b.get("alarm")))',
        'same = a["verdict"] == b["verdict"]',
        _by(
            "bench/analysis/test_across.py::test_one_verdict_that_stands_for_different_things_is_not_the_same"
        ),
    ),
    Mutant(
        "findings-matched-by-name-alone",
        _ACROSS,
        "alike[0] if len(alike) == asked == 1 else None",
        "alike[0] if alike else None",
        _by(
            "bench/analysis/test_across.py::test_questions_are_matched_by_their_words_and_single_ones_by_name"
        ),
    ),
    Mutant(
        "dpo-counts-as-reinforcement-learning",
        _RESULTS,
        "setting.kl_coefficient is not None and setting.optimiser not in _NO_RL",
        "setting.kl_coefficient is not None",
        _by("bench/analysis/test_findings.py::test_only_reinforcement_learning_is_held_against_best_of_n"),
    ),
    Mutant(
        "distillation-repeated-for-every-coefficient",
        _BUDGETS,
        "        return (0.0,)\n",
        "        return tuple(betas)\n",
        _by("bench/matrix/test_budgets.py::test_dpo_needs_a_penalty_and_distillation_has_none"),
    ),
]
