"""Bugs of `text_gym.rewards`: sums, gates, transforms, caches, calls and workers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SOURCE, _VALUES = "text_gym/rewards/source.py", "text_gym/rewards/values.py"
_TRANSFORMS, _CALLS = "text_gym/rewards/transforms.py", "text_gym/rewards/calls.py"
_CACHE, _SHAPING = "text_gym/rewards/cache.py", "text_gym/rewards/shaping.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/rewards/{test}" for test in tests)


MUTANTS = [
    Mutant(  # survivor 9
        "sum-loses-the-offset",
        _SOURCE,
        "if type(source) is Scale and source.offset == 0:",
        "if type(source) is Scale:",
        _by("test_compose.py::test_a_part_without_an_opinion_changes_no_sum"),
    ),
    Mutant(
        "difference-is-a-sum",
        _SOURCE,
        "*((s, sign * w) for s, w in _addends(right))",
        "*((s, w) for s, w in _addends(right))",
        _by("test_compose.py::test_operators"),
    ),
    Mutant(
        "flat-sum-forgets-weights",
        _SOURCE,
        "return [(source.source, source.factor)]",
        "return [(source.source, 1.0)]",
        _by("test_compose.py::test_operators"),
    ),
    Mutant(
        "sum-abstains-with-any-part",
        _SOURCE,
        "abstained &= rewards.abstained",
        "abstained |= rewards.abstained",
        _by("test_compose.py::test_a_part_that_abstains_adds_nothing"),
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
        _by("test_compose.py::test_per_token_rewards_are_summed_token_by_token"),
    ),
    Mutant(
        "drop-is-not-passed-to-the-parts",
        _SOURCE,
        "rewards, weight = source(episodes, on_bad_reward), self.weights[name]",
        "rewards, weight = source(episodes), self.weights[name]",
        _by("test_compose.py::test_a_bad_part_is_named_and_can_be_dropped"),
    ),
    Mutant(
        "composite-deterministic-if-any-part-is",
        _SOURCE,
        '(("deterministic", "causal"), all)',
        '(("causal",), all), (("deterministic",), any)',
        _by("test_compose.py::test_composites_know_what_they_are_made_of"),
    ),
    Mutant(
        "composite-causal-if-any-part-is",
        _SOURCE,
        '(("deterministic", "causal"), all)',
        '(("deterministic",), all), (("causal",), any)',
        _by("test_compose.py::test_per_token_rewards_are_summed_token_by_token"),
    ),
    Mutant(
        "scaled-per-token-rewards-get-the-offset-each",
        _SOURCE,
        "tuple(self.factor * t for t in rewards.per_token)",
        "tuple(self.factor * t + self.offset for t in rewards.per_token)",
        _by("test_compose.py::test_scale"),
    ),
    Mutant(
        "a-reward-may-end-the-program",
        _SOURCE,
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        _by("test_source.py::test_a_reward_that_exits_does_not_end_the_program"),
    ),
    Mutant(
        "a-token-reward-may-end-the-program",
        "text_gym/rewards/tokens.py",
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        _by("test_tokens.py::test_token_rewards_that_raise_are_wrapped"),
    ),
    Mutant(
        "dropped-token-rewards-are-paid",
        "text_gym/rewards/tokens.py",
        "rewards = np.where(bad, 0.0, rewards)",
        "rewards = np.nan_to_num(rewards)",
        _by("test_tokens.py::test_a_bad_token_reward_that_is_dropped_pays_nothing_and_its_neighbour_is_paid"),
    ),
    Mutant(
        "abstention-is-0-in-the-terms",
        _VALUES,
        "return {name: rewards.totals_or_nan, **inner}",
        "return {name: rewards.totals, **inner}",
        _by("test_compose.py::test_a_part_that_abstains_adds_nothing"),
    ),
    Mutant(
        "abstention-pays-its-tokens",
        _VALUES,
        "return tuple(np.zeros_like(a) if mute else a for a, mute in zip(arrays, abstained, strict=True))",
        "return arrays",
        _by("test_compose.py::test_abstention_pays_nothing_in_any_composition"),
    ),
    Mutant(
        "abstention-pays-its-value",
        _VALUES,
        "    values[abstained] = 0.0\n",
        "",
        _by("test_compose.py::test_scale"),
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
        _by("test_values.py::test_a_bad_reward_is_refused_with_its_place_or_dropped"),
    ),
    Mutant(
        "none-is-an-opinion-of-0",
        _VALUES,
        "elif source.abstains and (item is None or math.isnan(number)):\n                abstained[i] = True",
        "elif source.abstains and (item is None or math.isnan(number)):\n                values[i] = 0.0",
        _by("test_values.py::test_none_and_nan_are_no_opinion_if_the_source_says_so"),
    ),
    Mutant(
        "totals-forget-per-token-rewards",
        _TRANSFORMS,
        "return replace(rewards, values=totals - paid)",
        "return replace(rewards, values=totals)",
        _by("test_transforms.py::test_clip_limits_the_total_and_pays_the_rest_at_the_end"),
    ),
    Mutant(
        "reference-std-of-the-sample",
        _TRANSFORMS,
        "float(totals.mean()), float(totals.std()))",
        "float(totals.mean()), float(totals.std(ddof=1)))",
        _by("test_transforms.py::test_standardize_gives_mean_0_and_std_1_on_the_reference"),
    ),
    Mutant(
        "reference-counts-abstentions-as-0",
        _TRANSFORMS,
        "        rewards = source(episodes)\n        totals = rewards.totals[~rewards.abstained]",
        "        rewards = source(episodes)\n        totals = rewards.totals",
        _by("test_transforms.py::test_standardize_by_hand"),
    ),
    Mutant(
        "running-variance-without-the-shift-of-means",
        _TRANSFORMS,
        "            self._squares += delta**2 * self.count * n / (self.count + n)\n",
        "",
        _by("test_transforms.py::test_running_statistics_are_those_of_all_seen"),
    ),
    Mutant(
        "running-statistics-count-abstentions",
        _TRANSFORMS,
        "        totals = rewards.totals[~rewards.abstained]\n        if len(totals):",
        "        totals = rewards.totals\n        if len(totals):",
        _by("test_transforms.py::test_running_standardize_declares_itself"),
    ),
    Mutant(
        "running-statistics-forget-the-squares",
        _TRANSFORMS,
        'self._squares = float(rest.pop("squares"))',
        'rest.pop("squares")',
        _by("test_transforms.py::test_running_statistics_go_on_where_they_were_saved"),
    ),
    Mutant(
        "penalty-above-the-threshold",
        _TRANSFORMS,
        "np.where(below, penalty, margin))",
        "np.where(below, margin, penalty))",
        _by("test_transforms.py::test_penalty_maps_scores_to_rewards_and_penalties"),
    ),
    Mutant(
        "length-counts-the-environments-tokens",
        _TRANSFORMS,
        "len(e.completion_ids) if m is None else int(m.sum()) for e, m",
        "len(e.completion_ids) for e, m",
        _by("test_transforms.py::test_a_length_counts_the_tokens_of_the_agent_alone"),
    ),
    Mutant(
        "gate-opens-above-the-threshold-only",
        _TRANSFORMS,
        "is_open = asked.totals >= self.threshold",
        "is_open = asked.totals > self.threshold",
        _by("test_compose.py::test_gate_pays_only_if"),
    ),
    Mutant(
        "shut-gate-abstains-with-its-source",
        _TRANSFORMS,
        "asked.abstained | (is_open & paid.abstained)",
        "asked.abstained | paid.abstained",
        _by("test_compose.py::test_gate_honours_abstentions"),
    ),
    Mutant(
        "gate-counts-an-abstained-condition-as-shut",
        _TRANSFORMS,
        "asked.abstained | (is_open & paid.abstained)",
        "is_open & paid.abstained",
        _by("test_compose.py::test_gate_honours_abstentions"),
    ),
    Mutant(
        "unknown-term-is-worth-0",
        _TRANSFORMS,
        "abstained = rewards.abstained | np.isnan(values)",
        "abstained = rewards.abstained",
        _by("test_transforms.py::test_an_unknown_term_is_no_opinion"),
    ),
    Mutant(
        "cache-key-without-columns",
        _CALLS,
        "return (prompt.id, prompt.text, columns, episode",
        "return (prompt.id, prompt.text, episode",
        _by("test_cache.py::test_cache_tells_apart_what_a_source_may_see"),
    ),
    Mutant(
        "cache-key-without-the-ending",
        _CALLS,
        "ids, mask, turns, ending, on_bad_reward)",
        "ids, mask, turns, on_bad_reward)",
        _by("test_cache.py::test_cache_tells_apart_what_a_source_may_see"),
    ),
    Mutant(
        "cache-key-without-ids",
        _CALLS,
        "episode.completion, ids, mask,",
        "episode.completion, mask,",
        _by("test_cache.py::test_cache_tells_apart_what_a_source_may_see"),
    ),
    Mutant(
        "cache-forgets-the-oldest-not-the-least-used",
        _CACHE,
        "                self._kept.move_to_end(key)\n",
        "                pass\n",
        _by("test_cache.py::test_cache_asks_once"),
    ),
    Mutant(
        "cache-keeps-abstentions",
        _CACHE,
        "if not isinstance(key, int) and not known[key].abstained.any())",
        "if not isinstance(key, int))",
        _by("test_cache.py::test_cache_remembers_no_abstentions"),
    ),
    Mutant(
        "retry-waits-linearly",
        _CALLS,
        "min(self.wait * 2**attempt, self.longest)",
        "min(self.wait * (attempt + 1), self.longest)",
        _by("test_calls.py::test_retry_waits_longer_each_time"),
    ),
    Mutant(
        "retry-after-mistakes",
        _CALLS,
        "if attempt == self.attempts - 1 or not self._transient(error):",
        "if attempt == self.attempts - 1:",
        _by("test_calls.py::test_retry_gives_up_and_spares_mistakes"),
    ),
    Mutant(
        "retry-looks-at-the-first-cause-only",
        _CALLS,
        "            error = error.__cause__\n        return False",
        "            return isinstance(error.__cause__, self.on)\n        return False",
        _by("test_calls.py"),
    ),
    Mutant(
        "parallel-in-order-of-arrival",
        _CALLS,
        "[future.result() for future in futures]",
        "[future.result() for future in as_completed(futures)]",
        _by("test_calls.py::test_parallel_keeps_the_order"),
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
        _by("test_calls.py"),
    ),
    Mutant(
        "potential-of-the-end-is-kept",
        _SHAPING,
        "            if e.done:\n                phi[-1] = 0.0\n",
        "",
        _by("test_shaping.py::test_discounted_shaping_telescopes"),
    ),
    Mutant(
        "discount-on-the-older-potential",
        _SHAPING,
        "self.gamma * phi[1:] - phi[:-1]",
        "phi[1:] - self.gamma * phi[:-1]",
        _by("test_shaping.py::test_discounted_shaping_telescopes"),
    ),
    Mutant(
        "trl-is-told-0-for-no-opinion",
        "text_gym/rewards/trl.py",
        "[float(t) if ok else None for t, ok",
        "[float(t) for t, ok",
        _by("test_trl.py::test_no_opinion_is_none"),
    ),
    Mutant(
        "worker-loses-the-agents-mask",
        "text_gym/rewards/worker.py",
        "            agent_mask=mask,\n",
        "            agent_mask=None,\n",
        _by("test_sandboxed.py::test_rewards_are_those_of_the_file_bit_for_bit"),
    ),
    Mutant(
        "worker-sends-tokenizers-once-even-if-new",
        "text_gym/rewards/worker.py",
        "new = {k: v for k, v in tokenizers.items() if k not in self._known}",
        "new = {} if self._known else tokenizers",
        _by("test_calls.py::test_a_worker_learns_of_a_second_tokenizer"),
    ),
]
