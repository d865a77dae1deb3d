"""Bugs of `text_gym.rewards`: sums, gates, transforms, caches, calls and workers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SOURCE, _VALUES = "text_gym/rewards/source.py", "text_gym/rewards/values.py"
_TRANSFORMS, _CALLS = "text_gym/rewards/transforms.py", "text_gym/rewards/calls.py"
_CACHE, _SHAPING = "text_gym/rewards/cache.py", "text_gym/rewards/shaping.py"
_COMPOSE = ("tests/rewards/test_compose.py",)
_OF_TRANSFORMS = ("tests/rewards/test_transforms.py",)
_OF_VALUES = ("tests/rewards/test_values.py",)
_OF_CALLS = ("tests/rewards/test_calls.py",)
_OF_CACHE = ("tests/rewards/test_cache.py",)

MUTANTS = [
    Mutant(  # survivor 9
        "sum-loses-the-offset",
        _SOURCE,
        "if type(source) is Scale and source.offset == 0:",
        "if type(source) is Scale:",
        _COMPOSE,
    ),
    Mutant(
        "difference-is-a-sum",
        _SOURCE,
        "*((s, sign * w) for s, w in _addends(right))",
        "*((s, w) for s, w in _addends(right))",
        _COMPOSE,
    ),
    Mutant(
        "flat-sum-forgets-weights",
        _SOURCE,
        "return [(source.source, source.factor)]",
        "return [(source.source, 1.0)]",
        _COMPOSE,
    ),
    Mutant(
        "sum-abstains-with-any-part",
        _SOURCE,
        "abstained &= rewards.abstained",
        "abstained |= rewards.abstained",
        _COMPOSE,
        more=(
            (
                "abstained = np.ones(len(episodes), dtype=np.bool_)",
                "abstained = np.zeros(len(episodes), bool)",
            ),
        ),
    ),
    Mutant(
        "per-token-rewards-unweighted",
        _SOURCE,
        "[a + weight * b for a, b in zip(per_token",
        "[a + b for a, b in zip(per_token",
        _COMPOSE,
    ),
    Mutant(
        "drop-is-not-passed-to-the-parts",
        _SOURCE,
        "rewards, weight = source(episodes, on_bad_reward), self.weights[name]",
        "rewards, weight = source(episodes), self.weights[name]",
        _COMPOSE,
    ),
    Mutant(
        "composite-deterministic-if-any-part-is",
        _SOURCE,
        "self.deterministic = all(",
        "self.deterministic = any(",
        _COMPOSE,
    ),
    Mutant("composite-causal-if-any-part-is", _SOURCE, "self.causal = all(", "self.causal = any(", _COMPOSE),
    Mutant(
        "scaled-per-token-rewards-get-the-offset-each",
        _SOURCE,
        "tuple(self.factor * t for t in rewards.per_token)",
        "tuple(self.factor * t + self.offset for t in rewards.per_token)",
        _COMPOSE,
    ),
    Mutant(
        "a-reward-may-end-the-program",
        _SOURCE,
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        ("tests/rewards/test_source.py",),
    ),
    Mutant(
        "a-token-reward-may-end-the-program",
        "text_gym/rewards/tokens.py",
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        ("tests/rewards/test_tokens.py",),
    ),
    Mutant(
        "dropped-token-rewards-are-paid",
        "text_gym/rewards/tokens.py",
        "rewards = np.where(bad, 0.0, rewards)",
        "rewards = np.nan_to_num(rewards)",
        ("tests/rewards/test_tokens.py",),
    ),
    Mutant(
        "abstention-is-0-in-the-terms",
        _VALUES,
        "return {name: rewards.totals_or_nan, **inner}",
        "return {name: rewards.totals, **inner}",
        _COMPOSE,
    ),
    Mutant(
        "abstention-pays-its-tokens",
        _VALUES,
        "return tuple(np.zeros_like(a) if mute else a for a, mute in zip(arrays, abstained, strict=True))",
        "return arrays",
        _COMPOSE + _OF_VALUES,
    ),
    Mutant(
        "abstention-pays-its-value",
        _VALUES,
        "    values[abstained] = 0.0\n",
        "",
        _COMPOSE + _OF_VALUES,
        more=(
            (
                "            if abstained[i]:\n                continue\n",
                "            if abstained[i]:\n                values[i] = float(item)\n"
                "                continue\n",
            ),
        ),
    ),
    Mutant(
        "rewards-beyond-float32-pass",
        _VALUES,
        "_LARGEST = float(np.finfo(np.float32).max)",
        "_LARGEST = float(np.finfo(np.float64).max)",
        _OF_VALUES,
    ),
    Mutant(
        "none-is-an-opinion-of-0",
        _VALUES,
        "elif source.abstains and (item is None or math.isnan(number)):\n                abstained[i] = True",
        "elif source.abstains and (item is None or math.isnan(number)):\n                values[i] = 0.0",
        _OF_VALUES,
    ),
    Mutant(
        "totals-forget-per-token-rewards",
        _TRANSFORMS,
        "return replace(rewards, values=totals - paid)",
        "return replace(rewards, values=totals)",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "reference-std-of-the-sample",
        _TRANSFORMS,
        "float(totals.mean()), float(totals.std()))",
        "float(totals.mean()), float(totals.std(ddof=1)))",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "reference-counts-abstentions-as-0",
        _TRANSFORMS,
        "        rewards = source(episodes)\n        totals = rewards.totals[~rewards.abstained]",
        "        rewards = source(episodes)\n        totals = rewards.totals",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "running-variance-without-the-shift-of-means",
        _TRANSFORMS,
        "            self._squares += delta**2 * self.count * n / (self.count + n)\n",
        "",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "running-statistics-count-abstentions",
        _TRANSFORMS,
        "        totals = rewards.totals[~rewards.abstained]\n        if len(totals):",
        "        totals = rewards.totals\n        if len(totals):",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "running-statistics-forget-the-squares",
        _TRANSFORMS,
        'self._squares = float(rest.pop("squares"))',
        'rest.pop("squares")',
        (*_OF_TRANSFORMS, "tests/rewards/test_sandboxed.py"),
    ),
    Mutant(
        "penalty-above-the-threshold",
        _TRANSFORMS,
        "np.where(below, penalty, margin))",
        "np.where(below, margin, penalty))",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "length-counts-the-environments-tokens",
        _TRANSFORMS,
        "len(e.completion_ids) if m is None else int(m.sum()) for e, m",
        "len(e.completion_ids) for e, m",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "gate-opens-above-the-threshold-only",
        _TRANSFORMS,
        "is_open = asked.totals >= self.threshold",
        "is_open = asked.totals > self.threshold",
        _COMPOSE,
    ),
    Mutant(
        "shut-gate-abstains-with-its-source",
        _TRANSFORMS,
        "asked.abstained | (is_open & paid.abstained)",
        "asked.abstained | paid.abstained",
        _COMPOSE,
    ),
    Mutant(
        "gate-counts-an-abstained-condition-as-shut",
        _TRANSFORMS,
        "asked.abstained | (is_open & paid.abstained)",
        "is_open & paid.abstained",
        _COMPOSE,
    ),
    Mutant(
        "unknown-term-is-worth-0",
        _TRANSFORMS,
        "abstained = rewards.abstained | np.isnan(values)",
        "abstained = rewards.abstained",
        _OF_TRANSFORMS,
    ),
    Mutant(
        "cache-key-without-columns",
        _CALLS,
        "return (prompt.id, prompt.text, columns, episode",
        "return (prompt.id, prompt.text, episode",
        _OF_CACHE,
    ),
    Mutant(
        "cache-key-without-the-ending",
        _CALLS,
        "ids, mask, ending, on_bad_reward)",
        "ids, mask, on_bad_reward)",
        _OF_CACHE,
    ),
    Mutant(
        "cache-key-without-ids",
        _CALLS,
        "episode.completion, ids, mask,",
        "episode.completion, mask,",
        _OF_CACHE,
    ),
    Mutant(
        "cache-forgets-the-oldest-not-the-least-used",
        _CACHE,
        "                self._kept.move_to_end(key)\n",
        "                pass\n",
        _OF_CACHE,
    ),
    Mutant(
        "cache-keeps-abstentions",
        _CACHE,
        "if not isinstance(key, int) and not known[key].abstained.any())",
        "if not isinstance(key, int))",
        _OF_CACHE,
    ),
    Mutant(
        "retry-waits-linearly",
        _CALLS,
        "min(self.wait * 2**attempt, self.longest)",
        "min(self.wait * (attempt + 1), self.longest)",
        _OF_CALLS,
    ),
    Mutant(
        "retry-after-mistakes",
        _CALLS,
        "if attempt == self.attempts - 1 or not self._transient(error):",
        "if attempt == self.attempts - 1:",
        _OF_CALLS,
    ),
    Mutant(
        "retry-looks-at-the-first-cause-only",
        _CALLS,
        "            error = error.__cause__\n        return False",
        "            return isinstance(error.__cause__, self.on)\n        return False",
        _OF_CALLS,
    ),
    Mutant(
        "parallel-in-order-of-arrival",
        _CALLS,
        "[future.result() for future in futures]",
        "[future.result() for future in as_completed(futures)]",
        _OF_CALLS,
        more=(
            (
                "from concurrent.futures import ThreadPoolExecutor",
                "from concurrent.futures import ThreadPoolExecutor, as_completed",
            ),
        ),
    ),
    Mutant(
        "a-term-a-batch-lacks-is-0",
        _CALLS,
        "b.terms.get(name, np.full(len(b), np.nan))",
        "b.terms.get(name, np.zeros(len(b)))",
        _OF_CALLS,
    ),
    Mutant(
        "potential-of-the-end-is-kept",
        _SHAPING,
        "            if e.done:\n                phi[-1] = 0.0\n",
        "",
        ("tests/rewards/test_shaping.py",),
    ),
    Mutant(
        "discount-on-the-older-potential",
        _SHAPING,
        "self.gamma * phi[1:] - phi[:-1]",
        "phi[1:] - self.gamma * phi[:-1]",
        ("tests/rewards/test_shaping.py",),
    ),
    Mutant(
        "trl-is-told-0-for-no-opinion",
        "text_gym/rewards/trl.py",
        "[float(t) if ok else None for t, ok",
        "[float(t) for t, ok",
        ("tests/rewards/test_trl.py",),
    ),
    Mutant(
        "worker-loses-the-agents-mask",
        "text_gym/rewards/worker.py",
        "            agent_mask=mask,\n",
        "            agent_mask=None,\n",
        ("tests/rewards/test_sandboxed.py", "tests/rewards/test_calls.py"),
    ),
    Mutant(
        "worker-sends-tokenizers-once-even-if-new",
        "text_gym/rewards/worker.py",
        "new = {k: v for k, v in tokenizers.items() if k not in self._known}",
        "new = {} if self._known else tokenizers",
        ("tests/rewards/test_sandboxed.py", "tests/rewards/test_calls.py"),
    ),
]
