"""Bugs in text_gym/tasks and text_gym/models: rewards that are known exactly, laws, guards, loading."""

from __future__ import annotations

from .mutant import Mutant

FOLDER = "text_gym/tasks"
CLASSIC, ENUMERABLE = f"{FOLDER}/classic.py", f"{FOLDER}/enumerable.py"
PRODUCTS, JSON = f"{FOLDER}/products.py", f"{FOLDER}/json_format.py"
RUNTIME, KV = "text_gym/models/runtime.py", "text_gym/models/kv_cache.py"
OF_ADDING = "tests/tasks/test_adding.py::test_"
OF_BRACKETS = "tests/tasks/test_brackets.py::test_"
OF_CLASSIC = "tests/tasks/test_classic.py::test_"
OF_COPYING = "tests/tasks/test_copying.py::test_"
OF_COUNTING = "tests/tasks/test_counting.py::test_"
OF_ENUMERABLE = "tests/tasks/test_enumerable.py::test_"
OF_FILLING = "tests/tasks/test_filling.py::test_"
OF_JSON_FORMAT = "tests/tasks/test_json_format.py::test_"
OF_KV_CACHE = "tests/models/test_kv_cache.py::test_"
OF_LORA = "tests/agents/policies/test_lora.py::test_"
OF_PRODUCTS = "tests/tasks/test_products.py::test_"
OF_RUNTIME = "tests/models/test_runtime.py::test_"
OF_VECTOR = "tests/envs/test_vector.py::test_"

MUTANTS = [
    Mutant(
        "answers-are-one-place-short",
        CLASSIC,
        " + [episode.tokenizer.eos_ids]\n",
        "\n",
        (OF_CLASSIC + "the_answer_is_read_by_the_tokenizer_of_the_episode",),
    ),
    Mutant(
        "exact-without-the-end",
        CLASSIC,
        "exact[i] = sum(right) == places",
        "exact[i] = sum(right) >= places - 1",
        (OF_COPYING + "laws",),
    ),
    Mutant(
        "prefix-paid-for-the-token-before",
        CLASSIC,
        "step = np.minimum(batch.steps, ids.shape[1]) - 1",
        "step = np.maximum(np.minimum(batch.steps, ids.shape[1]) - 2, 0)",
        (OF_VECTOR + "the_vectorised_token_rewards_are_the_per_token_rewards",),
    ),
    Mutant(
        "answers-of-other-prompts-remembered",
        CLASSIC,
        "if self._answers is None or self._answers[0] is not batch.prompts:",
        "if self._answers is None:",
        (OF_CLASSIC + "one_reward_pays_the_tokens_of_several_environments",),
    ),
    Mutant(
        "random-return-without-eos-place",
        CLASSIC,
        "places = np.array(lengths) + 1.0",
        "places = np.array(lengths) + 0.0",
        (OF_COPYING + "laws",),
    ),
    Mutant(
        "held-out-inputs-are-trained-on",
        CLASSIC,
        "train = [p for i, p in enumerate(problems) if i not in chosen]",
        "train = problems",
        (OF_COPYING + "causal_and_split",),
    ),
    Mutant(
        "bracket-closers-in-order",
        f"{FOLDER}/brackets.py",
        "pending = opening[bracket] + pending",
        "pending = pending + opening[bracket]",
        (OF_BRACKETS + "laws",),
    ),
    Mutant(
        "sum-one-digit-short",
        f"{FOLDER}/adding.py",
        'total = written(sum(int(number, base) for number in text.split("+")), digits + 1)',
        'total = written(sum(int(number, base) for number in text.split("+")), digits)',
        (OF_ADDING + "sums_worked_by_hand",),
    ),
    Mutant(
        "count-leaves-out-the-last",
        f"{FOLDER}/counting.py",
        "for i in range(first, second + 1))",
        "for i in range(first, second))",
        (OF_COUNTING + "laws",),
    ),
    Mutant(
        "sort-by-alphabet",
        f"{FOLDER}/sorting.py",
        "sorted(text, key=symbols.index)",
        "sorted(text)",
        ("tests/tasks/test_sorting.py",),
    ),
    Mutant(
        "phrase-in-the-prompts-order",
        f"{FOLDER}/filling.py",
        "*sorted(text.split(), key=words.index)",
        "*text.split()",
        (OF_FILLING + "laws",),
    ),
    Mutant(
        "optimum-divided-by-beta-twice",
        ENUMERABLE,
        "reference * np.exp((rewards - rewards.max()) / beta)",
        "reference * np.exp((rewards - rewards.max()) * beta)",
        (OF_ENUMERABLE + "no_distribution_beats_the_closed_form",),
    ),
    Mutant(
        "best-of-n-of-one-less",
        ENUMERABLE,
        "chosen = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n",
        "chosen = upto ** (n - 1) - np.concatenate([[0.0], upto[:-1]]) ** (n - 1)",
        (OF_ENUMERABLE + "the_best_of_n_by_all_the_ways_to_draw_them",),
    ),
    Mutant(
        "kl-of-the-other-direction",
        ENUMERABLE,
        "policy[written] * np.log(policy[written] / reference[written])",
        "reference[written] * np.log(reference[written] / policy[written])",
        (OF_ENUMERABLE + "distances_against_scipy_and_a_search_over_all_sets",),
    ),
    Mutant(
        "ties-count-as-wins",
        ENUMERABLE,
        "wins = (np.sign(rewards[:, None] - rewards[None, :]) + 1) / 2",
        "wins = (rewards[:, None] >= rewards[None, :]) * 1.0",
        (OF_ENUMERABLE + "the_win_rate_by_every_pair_of_texts",),
    ),
    Mutant(
        "group-law-with-sample-std",
        ENUMERABLE,
        "group.std(axis=0), np.inf)",
        "group.std(axis=0, ddof=1), np.inf)",
        (OF_ENUMERABLE + "advantages_by_every_group",),
    ),
    Mutant(
        "dpo-law-forgets-the-other-label",
        ENUMERABLE,
        "losses = preferences * np.logaddexp(0, -margins) + preferences.T * np.logaddexp(0, margins)",
        "losses = preferences * np.logaddexp(0, -margins)",
        (OF_ENUMERABLE + "a_search_for_the_least_loss_of_dpo_ends_at_the_optimum_of_rlhf",),
    ),
    Mutant(
        "cut-trajectories-are-missing",
        ENUMERABLE,
        "    return finished + running\n",
        "    return finished\n",
        (OF_ENUMERABLE + "forty_trajectories_all_different_and_rightly_ended",),
    ),
    Mutant(
        "accuracy-is-the-recall",
        PRODUCTS,
        "return 2 * correct / (len(said) + len(english.SLOTS))",
        "return correct / len(english.SLOTS)",
        (OF_PRODUCTS + "accuracy_by_hand",),
    ),
    Mutant(
        "repeated-mentions-are-free",
        PRODUCTS,
        "repeats = max(0, repeats) + sum(max(0, slots.count(s) - 2) for s in set(slots))",
        "repeats = max(0, repeats)",
        (OF_PRODUCTS + "a_third_mention_of_a_slot_is_a_repetition",),
    ),
    Mutant(
        "torn-texts-are-clear",
        PRODUCTS,
        "end = (1.0 if whole else 0.5) *",
        "end =",
        (OF_PRODUCTS + "a_missing_end_halves_and_a_cut_halves_again",),
    ),
    Mutant(
        "benefit-of-any-audience",
        PRODUCTS,
        'addressed = {m.sentence for m in mentions if m.slot == "audience" and m.value == audience}',
        'addressed = {m.sentence for m in mentions if m.slot == "audience"}',
        (
            OF_PRODUCTS + "persuasiveness_by_hand",
            OF_PRODUCTS + "every_property_pays",
        ),
    ),
    Mutant(
        "pressure-from-the-first-you",
        PRODUCTS,
        "max(0, yous - 2)",
        "yous",
        (OF_PRODUCTS + "persuasiveness_by_hand",),
    ),
    Mutant(
        "shortest-phrase-first",
        PRODUCTS,
        "options.sort(key=lambda option: -len(option[0]))",
        "options.sort(key=lambda option: len(option[0]))",
        (OF_PRODUCTS + "reading_finds_the_longest_values_on_word_boundaries",),
        equivalent="no phrase of the lexicon begins another one",
    ),
    Mutant(
        "products-on-both-sides",
        PRODUCTS,
        "prompts=prompts[n_held_out:],",
        "prompts=prompts,",
        (OF_PRODUCTS + "splits_share_no_product",),
    ),
    Mutant(
        "json-torn-texts-paid",
        JSON,
        "        if not episode.whole:\n            return 0.0, 0.0, 0.0, 0.0\n",
        "",
        (OF_JSON_FORMAT + "a_text_that_was_cut_is_not_finished",),
    ),
    Mutant(
        "json-duplicate-keys-hidden",
        JSON,
        "len(asked_for) / len(value) if value else 0.0",
        "len(asked_for) / len(dict(value)) if value else 0.0",
        (OF_JSON_FORMAT + "rewards_by_hand",),
    ),
    Mutant(
        "dropout-in-attention-overlooked",
        RUNTIME,
        "parts = [module, *module.children()]",
        "parts = [module]",
        (OF_RUNTIME + "attention_dropout_of_gpt2_hides_behind_a_module_that_is_off",),
    ),
    Mutant(
        "guard-compares-only-the-first-weight",
        RUNTIME,
        "zip(model.named_parameters(), before, fingerprint(model), strict=True)",
        "list(zip(model.named_parameters(), before, fingerprint(model), strict=True))[:1]",
        (
            OF_RUNTIME + "a_reward_model_that_learns_along_is_caught",
            OF_RUNTIME + "a_reference_that_learns_along_is_caught",
        ),
    ),
    Mutant(
        "infinite-weights-pass",
        RUNTIME,
        "if torch.isfinite(total_norm(weights) if divided else nn.utils.get_total_norm(weights)):",
        "if not torch.isnan(total_norm(weights) if divided else nn.utils.get_total_norm(weights)):",
        (OF_RUNTIME + "a_weight_that_is_not_finite_is_named",),
    ),
    Mutant(
        "rewards-inside-rewards-unguarded",
        RUNTIME,
        "                search(value)\n",
        "                pass\n",
        (OF_RUNTIME + "networks_inside_rewards_are_found",),
    ),
    Mutant(
        "shared-frozen-weights-refused",
        RUNTIME,
        "trained = {id(p) for p in policy.parameters() if p.requires_grad}",
        "trained = {id(p) for p in policy.parameters()}",
        (OF_LORA + "only_adapter_and_value_head_are_trained",),
    ),
    Mutant(
        "kv-cache-looks-past-its-end",
        KV,
        "beyond = torch.from_numpy(self._columns[:width] > at[:, None])",
        "beyond = torch.from_numpy(self._columns[:width] > at[:, None] + 1)",
        (OF_KV_CACHE + "rows_read_in_a_batch_equal_texts_read_alone",),
    ),
    Mutant(
        "kv-cache-new-columns-not-cleared",
        KV,
        "                self._keys[:, :, self._used : width] = 0\n"
        "                self._values[:, :, self._used : width] = 0\n",
        "                self._keys[:, :, self._used : width] = float('nan')\n"
        "                self._values[:, :, self._used : width] = float('nan')\n",
        (
            OF_KV_CACHE + "what_lay_in_new_memory_is_never_looked_at",
            OF_KV_CACHE + "rows_read_in_a_batch_equal_texts_read_alone",
        ),
    ),
    Mutant(
        "kv-cache-keep-in-order",
        KV,
        "            self._values[target, :, : self._used] = self._values[source, :, : self._used]\n",
        "",
        (OF_KV_CACHE + "rows_read_in_a_batch_equal_texts_read_alone",),
    ),
    Mutant(
        "threads-raised",
        RUNTIME,
        "now = min(before, worthwhile_threads(models))",
        "now = worthwhile_threads(models)",
        (OF_RUNTIME + "a_smaller_choice_stays_and_an_error_changes_nothing",),
        more=(
            (
                "    if now < before:\n        torch.set_num_threads(now)\n",
                "    torch.set_num_threads(now)\n",
            ),
        ),
    ),
    Mutant(
        "quota-rounded-down",
        RUNTIME,
        "return -(-int(quota) // int(period)) if int(quota) > 0 else None",
        "return int(quota) // int(period) if int(quota) > 0 else None",
        (OF_RUNTIME + "cores_are_those_the_process_may_use",),
    ),
]
