"""Bugs of `text_gym.reward_models.judge` and `audit`: budgets, retries, verdicts, effects, attributions."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_ENDPOINT, _JUDGE = "reward_models/judge/endpoint.py", "reward_models/judge/judge.py"
_EFFECTS, _SCORING = "reward_models/audit/effects.py", "reward_models/audit/scoring.py"
_VERDICT, _BEST = "reward_models/audit/verdict.py", "reward_models/audit/best_of_n.py"
_ATTRIBUTION, _PROBES = "reward_models/audit/attribution.py", "reward_models/audit/probes.py"
_OF_ENDPOINT = ("tests/reward_models/judge/test_endpoint.py",)
_OF_JUDGE = ("tests/reward_models/judge/test_judge.py",)
_OF_EFFECTS = ("tests/reward_models/audit/test_effects.py",)
_OF_SCORING = ("tests/reward_models/audit/test_scoring.py",)
_OF_VERDICT = ("tests/reward_models/audit/test_verdict.py",)
_OF_BEST = ("tests/reward_models/audit/test_best_of_n.py",)
_OF_ATTRIBUTION = ("tests/reward_models/audit/test_attribution.py",)
_OF_PROBES = ("tests/reward_models/audit/test_probes.py",)

MUTANTS = [
    Mutant(
        "a-repeated-request-is-free",
        _ENDPOINT,
        "        self._reserve()\n        headers",
        "        headers",
        _OF_ENDPOINT,
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
        _OF_ENDPOINT,
    ),
    Mutant(
        "tokens-counted-twice",
        _ENDPOINT,
        "        self._count(tokens=tokens)\n",
        "        self._count(tokens=tokens)\n        self._count(tokens=tokens)\n",
        _OF_ENDPOINT,
    ),
    Mutant(
        "only-the-answers-tokens-count",
        _ENDPOINT,
        'usage.get("total_tokens")',
        'usage.get("completion_tokens")',
        _OF_ENDPOINT,
    ),
    Mutant(
        "retry-after-is-ignored",
        _ENDPOINT,
        "pause = max(self._pause(attempt), error.retry_after)",
        "pause = self._pause(attempt)",
        _OF_ENDPOINT,
    ),
    Mutant(
        "misconfiguration-is-retried",
        _ENDPOINT,
        "if status in _TRANSIENT or status >= 500:",
        "if status in _TRANSIENT or status >= 400:",
        _OF_ENDPOINT,
    ),
    Mutant(
        "too-many-requests-is-final",
        _ENDPOINT,
        "frozenset({408, 425, 429, 500",
        "frozenset({408, 425, 500",
        _OF_ENDPOINT,
    ),
    Mutant(
        "key-stands-in-the-error",
        _ENDPOINT,
        '            text = text.replace(key, "[key]")  # an endpoint may quote it in an error\n',
        "            pass\n",
        _OF_ENDPOINT,
    ),
    Mutant(
        "redirects-carry-the-key",
        _ENDPOINT,
        "follow_redirects=False",
        "follow_redirects=True",
        _OF_ENDPOINT,
    ),
    Mutant(
        "waits-do-not-double",
        _ENDPOINT,
        "self.wait * 2.0**attempt *",
        "self.wait *",
        _OF_ENDPOINT,
    ),
    Mutant(
        "judge-swap-is-not-averaged",
        _JUDGE,
        "preference[i] = one if one == 1 - two else 0.5",
        "preference[i] = one",
        _OF_JUDGE,
    ),
    Mutant(
        "judge-takes-the-swapped-verdict-as-it-is",
        _JUDGE,
        "preference[i] = one if one == 1 - two else 0.5",
        "preference[i] = one if one == two else 0.5",
        _OF_JUDGE,
    ),
    Mutant(
        "two-ties-are-a-flip",
        _JUDGE,
        "flipped[i] = one == two != 0.5",
        "flipped[i] = one == two",
        _OF_JUDGE,
    ),
    Mutant(
        "flips-over-pairs-without-a-verdict",
        _JUDGE,
        "return float(self.flipped[judged].mean()) if judged.any()",
        "return float(self.flipped.mean()) if judged.any()",
        _OF_JUDGE,
    ),
    Mutant(
        "a-failed-question-scores-0",
        _JUDGE,
        "scores = np.full((len(episodes), len(self.criteria)), np.nan)",
        "scores = np.zeros((len(episodes), len(self.criteria)))",
        _OF_JUDGE,
    ),
    Mutant(
        "scores-by-the-replys-order",
        _JUDGE,
        "return {name: float(found[name]) for name in criteria}",
        "return {name: float(value) for name, value in found.items() if name in criteria}",
        _OF_JUDGE,
    ),
    Mutant(
        "scores-out-of-range-pass",
        _JUDGE,
        "        if not criterion.low <= value <= criterion.high:\n            return None\n",
        "",
        _OF_JUDGE,
    ),
    Mutant(
        "true-is-a-score-of-1",
        _JUDGE,
        "if isinstance(value, bool) or not isinstance(value, (int, float)):",
        "if not isinstance(value, (int, float)):",
        _OF_JUDGE,
    ),
    Mutant(
        "judge-scale-from-0",
        _JUDGE,
        "values = (scores - low) / (high - low) @",
        "values = scores / high @",
        _OF_JUDGE,
    ),
    Mutant(
        "judge-weights-not-normalised",
        _JUDGE,
        "@ (weights / weights.sum())",
        "@ weights",
        _OF_JUDGE,
    ),
    Mutant(
        "delimiter-can-be-guessed",
        _JUDGE,
        "mark = secrets.token_hex(16)",
        'mark = "text"',
        _OF_JUDGE,
    ),
    Mutant(
        "interval-without-the-correction",
        _EFFECTS,
        "student.ppf(1 - FAMILY / 2 / max(1, tests), n - 1)",
        "student.ppf(1 - FAMILY / 2, n - 1)",
        _OF_EFFECTS,
    ),
    Mutant(
        "interval-of-the-population",
        _EFFECTS,
        "values.std(ddof=1) / n**0.5)",
        "values.std() / n**0.5)",
        _OF_EFFECTS,
    ),
    Mutant(
        "second-stage-on-the-texts-of-the-first",
        _EFFECTS,
        "hosts = own.hosts[_FIRST : _FIRST + _SECOND]",
        "hosts = own.hosts[:_SECOND]",
        _OF_EFFECTS,
    ),
    Mutant(
        "a-part-is-its-own-peer",
        _EFFECTS,
        "near = [self.scores[h, i] for i in same[start : start + _NEAREST + 1] if i != part]",
        "near = [self.scores[h, i] for i in same[start : start + _NEAREST + 1]]",
        _OF_EFFECTS,
    ),
    Mutant(
        "peers-of-any-gold",
        _EFFECTS,
        "groups.setdefault(keys[i].tobytes(), []).append(i)",
        'groups.setdefault(b"", []).append(i)',
        _OF_EFFECTS,
    ),
    Mutant(
        "unearned-if-one-term-of-gold-is-still",
        _EFFECTS,
        "return all(change * self.effect.value",
        "return any(change * self.effect.value",
        (*_OF_EFFECTS, "tests/reward_models/audit/test_audit.py"),
    ),
    Mutant(
        "ties-do-not-beat",
        _SCORING,
        "np.where(np.isnan(scores), np.nan, (below + up_to) / (2 * len(real)))",
        "np.where(np.isnan(scores), np.nan, below / len(real))",
        _OF_SCORING,
    ),
    Mutant(
        "one-long-text-refuses-the-batch",
        _SCORING,
        "        if len(episodes) == 1:\n            return np.full((1, 1 + len(terms)), np.nan)\n",
        "        if len(episodes):\n            return np.full((len(episodes), 1 + len(terms)), np.nan)\n",
        _OF_SCORING,
    ),
    Mutant(
        "one-prompt-fills-the-audit",
        _SCORING,
        "    order.sort(key=lambda i: turn[i])  # stable\n",
        "",
        _OF_SCORING,
    ),
    Mutant(
        "best-of-n-without-replacement",
        _BEST,
        "return float(((upper**n - lower**n) / counts)[place] @ values)",
        "return float(((upper ** (n - 1) - lower ** (n - 1)) / counts)[place] @ values)",
        _OF_BEST,
    ),
    Mutant(
        "best-of-n-change-is-not-paired",
        _BEST,
        "found: FloatArray = best(rows) - golds[rows].mean(axis=1)",
        "found: FloatArray = best(rows) - mean",
        _OF_BEST,
    ),
    Mutant(
        "leave-one-out-adds-the-whole",
        _ATTRIBUTION,
        "column[start] - column[start + 1 : end] for name",
        "column[start + 1 : end] - column[start] for name",
        _OF_ATTRIBUTION,
    ),
    Mutant(
        "leave-one-out-is-off",
        _ATTRIBUTION,
        'rest = "".join(pieces[:i] + pieces[i + 1 :])',
        'rest = "".join(pieces)',
        _OF_ATTRIBUTION,
    ),
    Mutant(
        "leave-one-out-drops-the-rest",
        _ATTRIBUTION,
        'rest = "".join(pieces[:i] + pieces[i + 1 :])',
        'rest = "".join(pieces[:i])',
        _OF_ATTRIBUTION,
    ),
    Mutant(
        "gradients-without-the-scales-weights",
        _ATTRIBUTION,
        " * torch.tensor(model.scales.weight) / sum(model.scales.weight)",
        "",
        _OF_ATTRIBUTION,
    ),
    Mutant(
        "verdict-without-an-interval",
        _VERDICT,
        "sure = effect.low > 0 or effect.high < 0",
        "sure = True",
        (*_OF_VERDICT, "tests/reward_models/audit/test_audit.py"),
    ),
    Mutant(
        "swap-counts-though-gold-swaps-too",
        _VERDICT,
        "fair = s.gold is None or s.gold.value < EFFECT / 2",
        "fair = True",
        (*_OF_VERDICT, "tests/reward_models/audit/test_audit.py"),
    ),
    Mutant(
        "a-null-ruler-that-gold-likes-is-named",
        _VERDICT,
        "if n.beaten.low > 0.5 and (n.gold is None or n.gold.value <= 0.5):",
        "if n.beaten.low > 0.5:",
        (*_OF_VERDICT, "tests/reward_models/audit/test_audit.py"),
    ),
    Mutant(
        "swapped-words-inside-others",
        _PROBES,
        'return rf"(?<!\\w){re.escape(word)}(?!\\w)"',
        "return re.escape(word)",
        _OF_PROBES,
    ),
    Mutant(
        "swap-leaves-the-prompt",
        _PROBES,
        'prompt = Prompt(change(old.text), columns, f"{old.id} (swapped)")',
        'prompt = Prompt(old.text, columns, f"{old.id} (swapped)")',
        _OF_PROBES,
    ),
]
