"""Bugs of `text_gym.reward_models.judge` and `audit`: budgets, retries, verdicts, effects, attributions."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_ENDPOINT, _JUDGE = "reward_models/judge/endpoint.py", "reward_models/judge/judge.py"
_CRITERIA, _REPLIES = "reward_models/judge/criteria.py", "reward_models/judge/replies.py"
_EFFECTS, _SCORING = "reward_models/audit/effects.py", "reward_models/audit/scoring.py"
_VERDICT, _BEST = "reward_models/audit/verdict.py", "reward_models/audit/best_of_n.py"
_ATTRIBUTION, _PROBES = "reward_models/audit/attribution.py", "reward_models/audit/probes.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/reward_models/{test}" for test in tests)


MUTANTS = [
    Mutant(
        "a-repeated-request-is-free",
        _ENDPOINT,
        "        self._reserve()\n        headers",
        "        headers",
        _by("judge/test_endpoint.py::test_budgets_stop_before_the_request"),
        more=(
            (
                "        body = self._body(messages)\n",
                "        body = self._body(messages)\n        self._reserve()\n",
            ),
        ),
    ),
    Mutant(
        "budget-of-one-call-more",
        _ENDPOINT,
        "if limit is not None and used >= limit:",
        "if limit is not None and used > limit:",
        _by("judge/test_endpoint.py::test_budgets_stop_before_the_request"),
    ),
    Mutant(
        "tokens-counted-twice",
        _ENDPOINT,
        "        self._count(tokens=tokens)\n",
        "        self._count(tokens=tokens)\n        self._count(tokens=tokens)\n",
        _by("judge/test_endpoint.py::test_an_answer_and_what_it_cost"),
    ),
    Mutant(
        "only-the-answers-tokens-count",
        _ENDPOINT,
        'usage.get("total_tokens")',
        'usage.get("completion_tokens")',
        _by("judge/test_endpoint.py::test_an_answer_and_what_it_cost"),
    ),
    Mutant(
        "retry-after-is-ignored",
        _ENDPOINT,
        "pause = max(self._pause(attempt), error.retry_after)",
        "pause = self._pause(attempt)",
        _by("judge/test_endpoint.py::test_retry_after_is_honoured_up_to_a_limit"),
    ),
    Mutant(
        "misconfiguration-is-retried",
        _ENDPOINT,
        "if status in _TRANSIENT or status >= 500:",
        "if status in _TRANSIENT or status >= 400:",
        _by("judge/test_endpoint.py::test_lasting_faults_are_not_asked_again"),
    ),
    Mutant(
        "too-many-requests-is-final",
        _ENDPOINT,
        "frozenset({408, 425, 429, 500",
        "frozenset({408, 425, 500",
        _by("judge/test_endpoint.py::test_passing_faults_are_asked_again"),
    ),
    Mutant(
        "key-stands-in-the-error",
        _ENDPOINT,
        "        text = without_secret(text, key)  # an endpoint may quote it in an error\n",
        "",
        _by("judge/test_endpoint.py::test_the_key_is_sent_and_nowhere_else"),
    ),
    Mutant(
        "redirects-carry-the-key",
        _ENDPOINT,
        "follow_redirects=False",
        "follow_redirects=True",
        _by("judge/test_endpoint.py::test_lasting_faults_are_not_asked_again"),
    ),
    Mutant(
        "waits-do-not-double",
        _ENDPOINT,
        "self.wait * 2.0**attempt *",
        "self.wait *",
        _by("judge/test_endpoint.py::test_waits_double_from_attempt_to_attempt"),
    ),
    Mutant(
        "judge-swap-is-not-averaged",
        _JUDGE,
        "preference[i] = one if one == 1 - two else 0.5",
        "preference[i] = one",
        _by("judge/test_judge.py::test_pairs_are_judged_in_both_orders"),
    ),
    Mutant(
        "judge-takes-the-swapped-verdict-as-it-is",
        _JUDGE,
        "preference[i] = one if one == 1 - two else 0.5",
        "preference[i] = one if one == two else 0.5",
        _by("judge/test_judge.py::test_pairs_are_judged_in_both_orders"),
    ),
    Mutant(
        "two-ties-are-a-flip",
        _JUDGE,
        "flipped[i] = one == two != 0.5",
        "flipped[i] = one == two",
        _by("judge/test_judge.py::test_pairs_are_judged_in_both_orders"),
    ),
    Mutant(
        "flips-over-pairs-without-a-verdict",
        _CRITERIA,
        "return float(self.flipped[judged].mean()) if judged.any()",
        "return float(self.flipped.mean()) if judged.any()",
        _by("judge/test_judge.py::test_pairs_without_a_verdict_count_for_no_flip"),
    ),
    Mutant(
        "a-failed-question-scores-0",
        _JUDGE,
        "scores = np.full((len(episodes), len(self.criteria)), np.nan)",
        "scores = np.zeros((len(episodes), len(self.criteria)))",
        _by("judge/test_judge.py::test_a_spent_budget_raises_or_abstains"),
    ),
    Mutant(
        "scores-by-the-replys-order",
        _REPLIES,
        "{name: _score(found[name], criterion) for name, criterion in criteria.items()}",
        "{name: _score(found[name], criteria[name]) for name in found if name in criteria}",
        _by("judge/test_judge.py::test_criteria_have_ranges_and_weights"),
    ),
    Mutant(
        "scores-out-of-range-pass",
        _REPLIES,
        "        if not criterion.low <= value <= criterion.high:\n            return None\n",
        "",
        _by("judge/test_replies.py::test_only_exact_replies_are_scores"),
    ),
    Mutant(
        "true-is-a-score-of-1",
        _REPLIES,
        "if isinstance(value, bool) or not isinstance(value, (int, float)):",
        "if not isinstance(value, (int, float)):",
        _by("judge/test_replies.py::test_only_exact_replies_are_scores"),
    ),
    Mutant(
        "judge-scale-from-0",
        _CRITERIA,
        "values = (scores - low) / (high - low) @",
        "values = scores / high @",
        _by("judge/test_judge.py::test_criteria_have_ranges_and_weights"),
    ),
    Mutant(
        "judge-weights-not-normalised",
        _CRITERIA,
        "@ (weights / weights.sum())",
        "@ weights",
        _by("judge/test_judge.py::test_criteria_have_ranges_and_weights"),
    ),
    Mutant(
        "delimiter-can-be-guessed",
        _JUDGE,
        "mark = secrets.token_hex(16)",
        'mark = "text"',
        _by("judge/test_judge.py::test_delimiters_are_new_each_time"),
    ),
    Mutant(
        "interval-without-the-correction",
        _EFFECTS,
        "student.ppf(1 - FAMILY / 2 / max(1, tests), n - 1)",
        "student.ppf(1 - FAMILY / 2, n - 1)",
        _by("audit/test_effects.py::test_intervals_against_scipy"),
    ),
    Mutant(
        "interval-of-the-population",
        _EFFECTS,
        "values.std(ddof=1) / n**0.5)",
        "values.std() / n**0.5)",
        _by("audit/test_effects.py::test_intervals_against_scipy"),
    ),
    Mutant(
        "second-stage-on-the-texts-of-the-first",
        _EFFECTS,
        "hosts = own.hosts[_FIRST : _FIRST + _SECOND]",
        "hosts = own.hosts[:_SECOND]",
        _by("audit/test_effects.py::test_the_effect_of_a_word_that_no_text_has"),
    ),
    Mutant(
        "a-part-is-its-own-peer",
        _EFFECTS,
        "near = [self.scores[h, i] for i in same[start : start + _NEAREST + 1] if i != part]",
        "near = [self.scores[h, i] for i in same[start : start + _NEAREST + 1]]",
        _by("audit/test_effects.py::test_only_words_of_equal_gold_are_compared"),
    ),
    Mutant(
        "peers-of-any-gold",
        _EFFECTS,
        "groups.setdefault(keys[i].tobytes(), []).append(i)",
        'groups.setdefault(b"", []).append(i)',
        _by("audit/test_effects.py::test_only_words_of_equal_gold_are_compared"),
    ),
    Mutant(
        "unearned-if-one-term-of-gold-is-still",
        _EFFECTS,
        "return all(change * self.effect.value",
        "return any(change * self.effect.value",
        _by("audit/test_effects.py::test_an_effect_is_unearned_only_if_no_term_of_gold_shares_it"),
    ),
    Mutant(
        "ties-do-not-beat",
        _SCORING,
        "np.where(np.isnan(scores), np.nan, (below + up_to) / (2 * len(real)))",
        "np.where(np.isnan(scores), np.nan, below / len(real))",
        _by("audit/test_scoring.py::test_shares_of_real_texts_that_are_beaten"),
    ),
    Mutant(
        "one-long-text-refuses-the-batch",
        _SCORING,
        "        if len(episodes) == 1:\n            return np.full((1, 1 + len(terms)), np.nan)\n",
        "        if len(episodes):\n            return np.full((len(episodes), 1 + len(terms)), np.nan)\n",
        _by("audit/test_scoring.py::test_texts_that_a_source_refuses"),
    ),
    Mutant(
        "one-prompt-fills-the-audit",
        _SCORING,
        "    order.sort(key=lambda i: turn[i])  # stable\n",
        "",
        _by("audit/test_scoring.py::test_texts_of_different_prompts_first_in_an_order_of_the_seed_alone"),
    ),
    Mutant(
        "best-of-n-without-replacement",
        _BEST,
        "return float(((upper**n - lower**n) / counts)[place] @ values)",
        "return float(((upper ** (n - 1) - lower ** (n - 1)) / counts)[place] @ values)",
        _by("audit/test_best_of_n.py::test_the_expectation_over_all_draws"),
    ),
    Mutant(
        "best-of-n-change-is-not-paired",
        _BEST,
        "found: FloatArray = best(rows) - golds[rows].mean(axis=1)",
        "found: FloatArray = best(rows) - mean",
        _by("audit/test_best_of_n.py::test_the_change_is_of_the_same_texts"),
    ),
    Mutant(
        "leave-one-out-adds-the-whole",
        _ATTRIBUTION,
        "column[start] - column[start + 1 : end] for name",
        "column[start + 1 : end] - column[start] for name",
        _by("audit/test_attribution.py::test_a_words_value_is_what_the_text_loses_without_it"),
    ),
    Mutant(
        "leave-one-out-is-off",
        _ATTRIBUTION,
        'rest = "".join(pieces[:i] + pieces[i + 1 :])',
        'rest = "".join(pieces)',
        _by("audit/test_attribution.py::test_a_words_value_is_what_the_text_loses_without_it"),
    ),
    Mutant(
        "leave-one-out-drops-the-rest",
        _ATTRIBUTION,
        'rest = "".join(pieces[:i] + pieces[i + 1 :])',
        'rest = "".join(pieces[:i])',
        _by("audit/test_attribution.py::test_a_words_value_is_what_the_text_loses_without_it"),
    ),
    Mutant(
        "gradients-without-the-scales-weights",
        _ATTRIBUTION,
        " * torch.tensor(model.scales.weight) / sum(model.scales.weight)",
        "",
        _by("audit/test_attribution.py::test_integrated_gradients_add_up"),
    ),
    Mutant(
        "verdict-without-an-interval",
        _VERDICT,
        "sure = effect.low > 0 or effect.high < 0",
        "sure = True",
        _by("audit/test_verdict.py::test_parts"),
    ),
    Mutant(
        "swap-counts-though-gold-swaps-too",
        _VERDICT,
        "fair = s.gold is None or s.gold.value < EFFECT / 2",
        "fair = True",
        _by("audit/test_verdict.py::test_swaps_and_unstable_edits"),
    ),
    Mutant(
        "a-null-ruler-that-gold-likes-is-named",
        _VERDICT,
        "if n.beaten.low > 0.5 and (n.gold is None or n.gold.value <= 0.5):",
        "if n.beaten.low > 0.5:",
        _by("audit/test_verdict.py::test_null_rulers"),
    ),
    Mutant(
        "swapped-words-inside-others",
        _PROBES,
        'return rf"(?<!\\w){re.escape(word)}(?!\\w)"',
        "return re.escape(word)",
        _by("audit/test_probes.py::test_words_are_swapped_where_there_is_no_column"),
    ),
    Mutant(
        "swap-leaves-the-prompt",
        _PROBES,
        'prompt = Prompt(change(old.text), columns, f"{old.id} (swapped)")',
        'prompt = Prompt(old.text, columns, f"{old.id} (swapped)")',
        _by("audit/test_probes.py::test_values_of_columns_are_swapped_everywhere"),
    ),
]
