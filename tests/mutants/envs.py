"""Bugs in text_gym/envs: transitions, prompts, streams, masks, observations, infos, checkers."""

from __future__ import annotations

from .mutant import Mutant

FOLDER = "text_gym/envs"
BATCH, STREAMS, MASKS = f"{FOLDER}/episode_batch.py", f"{FOLDER}/streams.py", f"{FOLDER}/masks.py"
PROMPTS, VECTOR, INPUTS = f"{FOLDER}/prompts.py", f"{FOLDER}/vector.py", f"{FOLDER}/inputs.py"
OBSERVATIONS, INFOS, CHECKER = f"{FOLDER}/observations.py", f"{FOLDER}/infos.py", f"{FOLDER}/checker.py"
REWARDS = f"{FOLDER}/reward_checker.py"
OF_CHECKER = "tests/envs/test_checker.py::test_"
OF_EPISODE_BATCH = "tests/envs/test_episode_batch.py::test_"
OF_INFOS = "tests/envs/test_infos.py::test_"
OF_MASKS = "tests/envs/test_masks.py::test_"
OF_OBSERVATIONS = "tests/envs/test_observations.py::test_"
OF_POLICY_GRADIENT = "tests/agents/algorithms/test_policy_gradient.py::test_"
OF_PROMPTS = "tests/envs/test_prompts.py::test_"
OF_REWARD_CHECKER = "tests/envs/test_reward_checker.py::test_"
OF_STREAMS = "tests/envs/test_streams.py::test_"
OF_VECTOR = "tests/envs/test_vector.py::test_"

MUTANTS = [
    Mutant(
        "eos-at-the-limit-is-a-cut",
        BATCH,
        "        cut &= ~ended\n",
        "",
        (OF_VECTOR + "endings_by_hand",),
    ),
    Mutant(
        "one-token-more-than-the-limit",
        BATCH,
        "cut = remaining <= 0",
        "cut = remaining < 0",
        (OF_EPISODE_BATCH + "a_batch_by_hand",),
    ),
    Mutant(
        "stop-string-in-the-prompt",
        BATCH,
        "tail = self.tokens[i, max(self._turn_starts[i], self.lengths[i] - window) : self.lengths[i]]",
        "tail = self.tokens[i, max(0, self.lengths[i] - window) : self.lengths[i]]",
        (OF_VECTOR + "a_stop_string_in_the_prompt_or_begun_there_ends_nothing",),
    ),
    Mutant(
        "stop-strings-longer-than-the-window",
        BATCH,
        "window = 4 * max(map(len, self.stop)) + 8",
        "window = min(map(len, self.stop))",
        (
            OF_VECTOR + "a_stop_string_of_four_byte_characters_is_found",
            OF_VECTOR + "stop_strings_end_the_episode_and_are_left_out",
        ),
    ),
    Mutant(
        "the-first-listed-stop-string-counts",
        BATCH,
        "self._stopped_by[i] = min(found, key=lambda s: (text.find(s), -len(s)))",
        "self._stopped_by[i] = found[0]",
        (OF_VECTOR + "of_several_stop_strings_in_one_token_the_first_counts",),
    ),
    Mutant(
        "stopped-by-the-episode-before",
        BATCH,
        '            self._stopped_by[row] = ""\n        self._paid[rows] = 0.0\n',
        "            pass\n        self._paid[rows] = 0.0\n",
        (OF_EPISODE_BATCH + "a_row_forgets_the_episode_before",),
    ),
    Mutant(
        "paid-tokens-of-the-episode-before",
        BATCH,
        "        self._paid[rows] = 0.0\n        self._stale = True\n",
        "        self._stale = True\n",
        (OF_EPISODE_BATCH + "a_row_forgets_the_episode_before",),
    ),
    Mutant(
        "tokens-of-the-episode-before-stay",
        BATCH,
        "        self.tokens[rows] = found\n",
        "        self.tokens[rows, : self.max_prompt_tokens] = found[:, : self.max_prompt_tokens]\n",
        (OF_EPISODE_BATCH + "a_row_forgets_the_episode_before",),
    ),
    Mutant(
        "masks-not-asked-again",
        BATCH,
        "        self.done[rows] = ended\n        self._stale = True\n",
        "        self.done[rows] = ended\n",
        (
            OF_MASKS + "minimum_length_forbids_eos_until_it_is_reached",
            OF_MASKS + "masked_vector_environment_equals_single_ones",
        ),
    ),
    Mutant(
        "cut-texts-are-paid",
        BATCH,
        "asked = (~truncated).nonzero()[0]",
        "asked = np.arange(len(truncated))",
        (OF_VECTOR + "nobody_is_asked_about_a_text_that_was_cut",),
    ),
    Mutant(
        "scores-spread-to-the-first-rows",
        "text_gym/rewards/values.py",
        "            every[places] = column\n",
        "            every[: len(column)] = column\n",
        (OF_EPISODE_BATCH + "a_batch_is_scored_at_once_and_without_texts_that_were_cut",),
    ),
    Mutant(
        "last-token-pays-everything-again",
        "text_gym/rewards/tokens.py",
        "left: FloatArray = scores.values + last - (paid - earlier)",
        "left: FloatArray = scores.values + last + earlier",
        (
            OF_EPISODE_BATCH + "token_and_last_rewards_sum_to_what_the_episode_is_worth",
            OF_VECTOR + "per_token_rewards_are_paid_on_their_tokens_if_causal_and_else_at_the_end",
        ),
    ),
    Mutant(
        "what-was-paid-stays-paid",
        "text_gym/rewards/tokens.py",
        "left: FloatArray = scores.values + last - (paid - earlier)",
        "left: FloatArray = scores.values + last",
        (OF_VECTOR + "the_last_step_takes_back_what_was_paid_for_earlier_tokens",),
    ),
    Mutant(
        "steps-counted-from-zero",
        BATCH,
        "steps=lengths - self.starts[rows],",
        "steps=lengths - self.starts[rows] - 1,",
        (OF_VECTOR + "the_vectorised_token_rewards_are_the_per_token_rewards",),
    ),
    Mutant(
        "neighbouring-streams-share-prompts",
        "text_gym/episode.py",
        "return hash64(seeds.astype(np.uint64))",
        "return seeds.astype(np.uint64) * _GAMMA",
        (
            OF_EPISODE_BATCH + "neighbouring_streams_have_nothing_in_common",
            OF_EPISODE_BATCH + "stream_keys_are_splitmix64",
        ),
    ),
    Mutant(
        "groups-of-one-size-only",
        BATCH,
        "episode_index // self._group_size",
        "episode_index % self._group_size",
        (OF_EPISODE_BATCH + "the_group_size_may_change_between_episodes",),
    ),
    Mutant(
        "long-prompts-lose-their-end",
        PROMPTS,
        "ids = ids[left <= most]",
        "ids = ids[np.repeat(counts, counts) - left < most]",
        (OF_PROMPTS + "long_prompts_lose_their_left_end_if_asked",),
    ),
    Mutant(
        "context-of-the-prompt-alone",
        PROMPTS,
        "if context is not None and width + max_tokens > context:",
        "if context is not None and width > context:",
        (OF_PROMPTS + "prompts_that_do_not_fit",),
    ),
    Mutant(
        "all-rows-share-one-stream",
        STREAMS,
        'range(self.num_rows) if self.numbering == "per_env" else [0] * self.num_rows',
        "[0] * self.num_rows",
        (OF_STREAMS + "rows_have_streams_of_their_own_or_share_one",),
    ),
    Mutant(
        "global-numbers-by-row",
        STREAMS,
        "            index = index + np.arange(len(rows))\n",
        "            index = index + rows\n",
        (OF_STREAMS + "rows_have_streams_of_their_own_or_share_one",),
    ),
    Mutant(
        "a-chosen-episode-comes-again",
        STREAMS,
        "            self._next[rows] = index + 1\n",
        "            self._next[rows] = index\n",
        (OF_STREAMS + "streams_go_on_after_what_was_chosen",),
    ),
    Mutant(
        "abstentions-in-a-row-never-reset",
        STREAMS,
        "self._in_a_row + len(redrawn) if len(redrawn) == len(rows) else 0",
        "self._in_a_row + len(redrawn)",
        (
            OF_STREAMS + "redraws_are_counted_by_row_and_given_up",
            OF_VECTOR + "one_judged_episode_in_between_and_redrawing_goes_on",
        ),
    ),
    Mutant(
        "masks-combined-by-or",
        MASKS,
        "self.first.allowed(prefixes) & self.second.allowed(prefixes)",
        "self.first.allowed(prefixes) | self.second.allowed(prefixes)",
        (OF_MASKS + "masks_by_hand",),
    ),
    Mutant(
        "eos-one-token-too-early",
        MASKS,
        "short = prefixes.lengths - prefixes.starts < self.tokens",
        "short = prefixes.lengths - prefixes.starts < self.tokens - 1",
        (OF_MASKS + "masks_by_hand",),
    ),
    Mutant(
        "minimum-counts-the-prompt",
        MASKS,
        "short = prefixes.lengths - prefixes.starts < self.tokens",
        "short = prefixes.lengths < self.tokens",
        (OF_MASKS + "masks_by_hand",),
    ),
    Mutant(
        "allowed-tokens-forget-eos",
        MASKS,
        "self._mask[[*wanted, *tokenizer.eos_ids]] = True",
        "self._mask[[*wanted]] = True",
        (OF_MASKS + "masks_by_hand",),
    ),
    Mutant(
        "grammar-goes-on-from-another-text",
        MASKS,
        "if matcher is None or ids[: len(read)] != read:",
        "if matcher is None or len(ids) < len(read):",
        (OF_MASKS + "a_grammar_reads_a_rows_text_anew_where_it_is_another_one",),
    ),
    Mutant(
        "a-cut-is-terminated-too",
        VECTOR,
        "terminated = batch.done & ~truncated",
        "terminated = batch.done.copy()",
        (OF_VECTOR + "endings_by_hand",),
    ),
    Mutant(
        "tokens-of-all-rows-to-those-that-go-on",
        VECTOR,
        "            tokens = tokens[rows]\n",
        "            tokens = tokens[: len(rows)]\n",
        (OF_VECTOR + "conforms_to_sync_vector_env",),
    ),
    Mutant(
        "final-observation-of-the-next-episode",
        VECTOR,
        "        self._begin_next(rows)\n        result = put(",
        "        result = put(",
        (OF_VECTOR + "conforms_to_sync_vector_env",),
        more=(
            (
                "        last = self.observer.rows(rows)\n",
                "        self._begin_next(rows)\n        last = self.observer.rows(rows)\n",
            ),
        ),
    ),
    Mutant(
        "cut-texts-lose-their-token-rewards",
        VECTOR,
        "going_on = rows[~ended | batch.truncated[rows]]",
        "going_on = rows[~ended]",
        (
            OF_VECTOR + "nobody_is_asked_about_a_text_that_was_cut",
            OF_VECTOR + "all_paths_of_a_world_of_three_ids",
        ),
    ),
    Mutant(
        "idle-rows-restart",
        VECTOR,
        "            ended = np.setdiff1d(ended, idle)\n",
        "            pass\n",
        (
            OF_VECTOR + "a_row_that_is_over_may_wait_and_may_not_go_on",
            OF_VECTOR + "rows_that_wait_are_as_if_the_step_had_not_been",
        ),
    ),
    Mutant(
        "redrawn-count-survives-reset",
        VECTOR,
        "        self._redraws.since_judged[rows] = 0\n",
        "",
        (OF_VECTOR + "a_reset_begins_to_count_redrawn_episodes_anew",),
    ),
    Mutant(
        "ids-shown-from-the-left",
        OBSERVATIONS,
        "        places = batch.starts[rows, None] + self._steps\n        ids =",
        "        places = batch.starts[rows, None] + self._steps\n"
        "        places = np.where(self._steps < 0, self._steps + batch.max_prompt_tokens, places)\n"
        "        ids =",
        (OF_OBSERVATIONS + "ids_by_hand",),
    ),
    Mutant(
        "ids-show-what-was-there-before",
        OBSERVATIONS,
        "ids[(places < 0) | (places >= batch.lengths[rows, None])] = batch.tokenizer.vocab_size",
        "ids[(places < 0) | (places > batch.lengths[rows, None])] = batch.tokenizer.vocab_size",
        (
            OF_OBSERVATIONS + "ids_by_hand",
            OF_OBSERVATIONS + "ids_are_the_tokens_of_the_episode_and_tell_what_remains",
        ),
    ),
    Mutant(
        "observations-are-views",
        OBSERVATIONS,
        "return {k: v.copy() for k, v in views.items()} if self.copy else views",
        "return views",
        (
            OF_VECTOR + "conforms_to_sync_vector_env",
            OF_OBSERVATIONS + "gymnasiums_checker_has_nothing_to_say",
            OF_VECTOR + "zero_copy_observations_have_the_same_values",
        ),
    ),
    Mutant(
        "infos-of-rows-that-have-none",
        INFOS,
        "        if mask is None or not mask[row]:\n",
        "        if mask is None:\n",
        (
            OF_INFOS + "a_row_without_infos_has_none",
            OF_INFOS + "infos_are_those_of_gymnasium_row_by_row_and_come_back",
        ),
    ),
    Mutant(
        "terms-of-the-wrong-rows",
        INFOS,
        "{k: np.asarray(v)[judged] for k, v in scores.terms.items()}",
        "{k: np.asarray(v)[: int(judged.sum())] for k, v in scores.terms.items()}",
        (
            OF_VECTOR + "conforms_to_sync_vector_env",
            OF_VECTOR + "an_episode_without_an_opinion_returns_nothing_and_says_so",
        ),
    ),
    Mutant(
        "ignored-tokens-are-refused",
        INPUTS,
        "        wrong[ignored] = False\n",
        "",
        (OF_VECTOR + "ids_of_rows_that_restart_are_ignored",),
    ),
    Mutant(
        "token-id-v-is-taken",
        INPUTS,
        "if tokens.view(np.uint64).max() >= vocab_size:",
        "if tokens.view(np.uint64).max() > vocab_size:",
        (
            OF_VECTOR + "wrong_actions_change_nothing",
            OF_VECTOR + "the_error_names_row_id_and_range",
        ),
    ),
    Mutant(
        "checker-takes-both-endings",
        CHECKER,
        "    if terminated and truncated:\n",
        "    if False:\n",
        (OF_CHECKER + "a_broken_environment_is_told_what_to_mend",),
    ),
    Mutant(
        "checker-forgets-the-order-of-episodes",
        REWARDS,
        "i = _differs(source([episodes[j] for j in rows]), rewards, rows, tolerance)",
        "i = _differs(source(episodes), rewards, range(n), tolerance)",
        (OF_REWARD_CHECKER + "a_reward_that_depends_on_something_else",),
    ),
    Mutant(
        "checker-forgets-single-episodes",
        REWARDS,
        "if _differs(source([episode]), rewards, [j], tolerance) is not None:",
        "if _differs(source(episodes), rewards, range(len(episodes)), tolerance) is not None:",
        (OF_REWARD_CHECKER + "a_reward_that_depends_on_something_else",),
    ),
    Mutant(
        "checker-forgets-abstentions",
        REWARDS,
        "and found.abstained[i] == wanted.abstained[j]",
        "",
        (OF_REWARD_CHECKER + "an_opinion_that_depends_on_the_batch_is_found_although_it_is_worth_nothing",),
    ),
]
