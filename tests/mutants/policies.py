"""Bugs in agents/policies and agents/sampling: log-probabilities, critics, decoding, drawing."""

from __future__ import annotations

from .mutant import Mutant

POLICIES, SAMPLING = "agents/policies", "agents/sampling"
STATES = f"{POLICIES}/states.py"
POLICY, HEAD, CRITIC = f"{POLICIES}/policy.py", f"{POLICIES}/memory.py", f"{POLICIES}/critic.py"
MICRO, LORA = f"{POLICIES}/memory.py", f"{POLICIES}/lora.py"
SAMPLER, ROLLOUT, DECODER = f"{SAMPLING}/sampler.py", f"{SAMPLING}/rollout.py", f"{SAMPLING}/decoder.py"
PREFIX, EVALUATION = f"{SAMPLING}/prefix_cache.py", f"{SAMPLING}/evaluation.py"
OF_AGENT = "tests/agents/algorithms/test_agent.py::test_"
OF_CAUSAL_ACTOR_CRITIC = "tests/agents/adapters/test_causal_actor_critic.py::test_"
OF_CHECKPOINT = "tests/agents/training/test_checkpoint.py::test_"
OF_CRITIC = "tests/agents/policies/test_critic.py::test_"
OF_DECODER = "tests/agents/sampling/test_decoder.py::test_"
OF_EVALUATION = "tests/agents/sampling/test_evaluation.py::test_"
OF_LORA = "tests/agents/policies/test_lora.py::test_"
OF_MEMORY = "tests/agents/policies/test_memory.py::test_"
OF_POLICY = "tests/agents/policies/test_policy.py::test_"
OF_POLICY_GRADIENT = "tests/agents/algorithms/test_policy_gradient.py::test_"
OF_PREFIX_CACHE = "tests/agents/sampling/test_prefix_cache.py::test_"
OF_ROLLOUT = "tests/agents/sampling/test_rollout.py::test_"
OF_SAMPLER = "tests/agents/sampling/test_sampler.py::test_"
OF_STATE_CRITIC = "tests/agents/policies/test_state_critic.py::test_"

MUTANTS = [
    Mutant(
        "log-probs-one-place-late",
        STATES,
        "    return states[rows, at - 1], None\n",
        "    return states[rows, at.clamp_max(states.shape[1] - 1)], None\n",
        (OF_POLICY + "evaluate_says_what_an_unpadded_forward_says",),
    ),
    Mutant(
        "temperature-multiplies",
        POLICY,
        "self.logits(states) / temperature, taken, allowed",
        "self.logits(states) * temperature, taken, allowed",
        (
            OF_POLICY + "temperature_divides_the_logits",
            OF_POLICY + "evaluate_says_what_an_unpadded_forward_says",
            OF_SAMPLER + "stored_log_probs_are_of_the_distribution_drawn_from",
            OF_POLICY_GRADIENT + "where_tokens_are_masked_the_ratio_is_that_of_what_was_drawn_from",
        ),
    ),
    Mutant(
        "masks-of-the-place-in-the-text",
        POLICY,
        "action_masks[rows, steps]",
        "action_masks[rows, (steps - 1).clamp_min(0)]",
        (OF_POLICY_GRADIENT + "where_tokens_are_masked_the_ratio_is_that_of_what_was_drawn_from",),
    ),
    Mutant(
        "padded-vocabulary-is-drawn-from",
        POLICY,
        "logits = logits[..., : self.vocab_size].to(self.dtype)",
        "logits = logits.to(self.dtype)",
        (
            OF_POLICY + "a_model_with_spare_rows_gives_them_no_probability",
            OF_SAMPLER + "ids_beyond_the_tokenizer_are_never_drawn",
        ),
    ),
    Mutant(
        "logits-divided-where-they-are-multiplied",
        POLICY,
        "            logits = logits * times\n",
        "            logits = logits / times\n",
        (
            OF_POLICY + "evaluate_says_what_an_unpadded_forward_says",
            OF_DECODER + "logits_are_the_policys_own",
        ),
    ),
    Mutant(
        "reference-can-be-trained",
        POLICY,
        "        reference.requires_grad_(False)\n",
        "",
        (OF_POLICY + "a_frozen_copy_shares_nothing_and_cannot_be_trained",),
    ),
    Mutant(
        "reference-shares-weights",
        POLICY,
        "reference = copy.deepcopy(self)",
        "reference = copy.copy(self)",
        (OF_POLICY + "a_frozen_copy_shares_nothing_and_cannot_be_trained",),
    ),
    Mutant(
        "score-fills-the-wrong-rows",
        POLICY,
        "                result[here, : said.shape[1]] = said\n",
        "                result[: len(part), : said.shape[1]] = said\n",
        (OF_POLICY + "padding_and_order_and_parts_do_not_matter",),
    ),
    Mutant(
        "padding-id-lost-when-saving",
        POLICY,
        "self.model.config.pad_token_id = self._pad_token_id",
        "self.model.config.pad_token_id = None",
        (OF_POLICY + "what_is_saved_is_an_ordinary_hugging_face_folder",),
    ),
    Mutant(
        "dropout-on-while-checkpointing",
        STATES,
        'layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]',
        "layers = list(model.modules())",
        (OF_POLICY + "dropout_is_off_where_gradients_are_checkpointed_too",),
    ),
    Mutant(
        "value-head-not-loaded",
        POLICY,
        "            load_into(policy.value_head, head)\n",
        "            pass\n",
        (OF_POLICY + "what_is_saved_is_an_ordinary_hugging_face_folder",),
    ),
    Mutant(
        "head-temperature-multiplies",
        HEAD,
        "        logits = logits.mul_(head.scale / head.temperature)\n    return logits",
        "        logits = logits.mul_(head.scale * head.temperature)\n    return logits",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "head-temperature-inside-the-cap",
        HEAD,
        "logits.mul_(head.scale / head.cap).tanh_().mul_(head.cap / head.temperature)",
        "logits.mul_(head.scale / head.cap / head.temperature).tanh_().mul_(head.cap)",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "head-gradient-forgets-the-temperature",
        HEAD,
        "        gradient = gradient.mul_(head.scale / head.temperature)\n    return gradient",
        "        gradient = gradient.mul_(head.scale)\n    return gradient",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "head-gradient-of-the-cap-forgotten",
        HEAD,
        "        gradient = gradient.mul_(1 - (logits * (head.temperature / head.cap)).square_())\n",
        "        pass\n",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "head-entropy-gradient-sign",
        HEAD,
        "along = along - of_entropy[:, None] * (_finite(log_p) + h[:, None])",
        "along = along + of_entropy[:, None] * (_finite(log_p) + h[:, None])",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "head-entropy-gradient-without-entropy",
        HEAD,
        "(_finite(log_p) + h[:, None])",
        "_finite(log_p)",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "tiles-beyond-the-first-rows-overwrite",
        HEAD,
        "matmul(gradient.T, x, out=for_weight[ids], add=rows.start > 0)",
        "matmul(gradient.T, x, out=for_weight[ids], add=False)",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "tile-states-overwritten-by-the-next-ids",
        HEAD,
        "matmul(gradient, weight[ids], out=for_states[rows], add=True)",
        "matmul(gradient, weight[ids], out=for_states[rows], add=False)",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "tile-entropy-without-its-share",
        HEAD,
        "h[rows] = log_w[-1].exp().mul_(torch.stack(inside) - log_w[-1]).sum(dim=0)",
        "h[rows] = log_w[-1].exp().mul_(torch.stack(inside)).sum(dim=0)",
        (
            OF_MEMORY + "values_and_gradients_are_those_of_autograd",
            OF_MEMORY + "uniform_by_hand",
        ),
    ),
    Mutant(
        "token-at-a-tile-border",
        HEAD,
        "here = (tokens >= ids.start) & (tokens < ids.stop)",
        "here = (tokens > ids.start) & (tokens <= ids.stop)",
        (OF_MEMORY + "values_and_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "masked-entropy-is-not-a-number",
        HEAD,
        "return log_probs, -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)",
        "return log_probs, -(log_p.exp() * log_p).sum(-1)",
        (OF_MEMORY + "the_entropy_of_masked_tokens_by_hand",),
    ),
    Mutant(
        "critic-moves-the-policys-trunk",
        CRITIC,
        "self.trunk, self.value_head = copy.deepcopy((policy.model.base_model, policy.value_head))",
        "self.trunk, self.value_head = policy.model.base_model, copy.deepcopy(policy.value_head)",
        (OF_CRITIC + "the_policys_gradient_has_nothing_of_the_critic",),
    ),
    Mutant(
        "critic-scale-ignored-in-play",
        CRITIC,
        "self._predict(self._read(states, mask)) * self.scale[1] + self.scale[0]",
        "self._predict(self._read(states, mask)) + self.scale[0]",
        (
            OF_STATE_CRITIC + "it_follows_returns_that_jump_shrink_and_grow",
            OF_STATE_CRITIC + "equal_returns_are_the_value",
            OF_STATE_CRITIC + "it_reads_the_states_before_tokens",
        ),
    ),
    Mutant(
        "critic-decay-swapped",
        CRITIC,
        "torch.lerp(now, self.scale, self.DECAY)",
        "torch.lerp(self.scale, now, self.DECAY**2)",
        (OF_STATE_CRITIC + "the_scale_is_a_running_mean_and_standard_deviation",),
    ),
    Mutant(
        "critic-targets-in-the-running-unit",
        CRITIC,
        "(found[chosen] - now[0]) / now[1]",
        "(found[chosen] - self.scale[0]) / self.scale[1]",
        (OF_STATE_CRITIC + "targets_are_in_units_of_their_own_batch",),
    ),
    Mutant(
        "critic-replaces-the-newest-batch",
        CRITIC,
        "place, n = int(self.batches) % self.WINDOW, len(chosen)",
        "place, n = min(int(self.batches), self.WINDOW - 1), len(chosen)",
        (OF_STATE_CRITIC + "the_latest_four_batches_are_remembered_whole_where_they_fit",),
    ),
    Mutant(
        "critic-reads-empty-places",
        CRITIC,
        "there = torch.arange(self.TOKENS, device=self.counts.device) < self.counts[:, None]",
        "there = torch.arange(self.TOKENS, device=self.counts.device) <= self.counts[:, None]",
        (OF_STATE_CRITIC + "each_epoch_takes_what_is_remembered_once",),
    ),
    Mutant(
        "outliers-pulled-in-from-above-too",
        CRITIC,
        "return x if low == high else x.clamp_min(low - (high - low))",
        "return x if low == high else x.clamp(low - (high - low), high + (high - low))",
        (OF_STATE_CRITIC + "outliers_by_hand",),
    ),
    Mutant(
        "parts-longer-than-asked",
        MICRO,
        "end if most is None else most",
        "end if most is None else most + 1",
        (
            OF_MEMORY + "no_split_makes_less_work",
            OF_MEMORY + "the_gradient_does_not_depend_on_the_split",
        ),
    ),
    Mutant(
        "parts-longest-first",
        MICRO,
        "    return parts[::-1]\n",
        "    return parts\n",
        (
            OF_MEMORY + "no_split_makes_less_work",
            OF_MEMORY + "widths_are_those_of_the_parts",
        ),
    ),
    Mutant(
        "a-long-row-shares-its-part",
        MICRO,
        "max(1, tokens // longest)",
        "max(2, tokens // longest)",
        (OF_MEMORY + "parts_have_no_more_tokens_than_allowed_but_at_least_a_row",),
    ),
    Mutant(
        "lora-reference-keeps-the-adapter",
        LORA,
        "        layer.enable_adapters(False)\n",
        "        pass\n",
        (OF_LORA + "the_reference_is_the_model_without_its_adapter_and_not_a_second_one",),
    ),
    Mutant(
        "lora-adapter-stays-off",
        LORA,
        "            layer.enable_adapters(True)\n",
        "            pass\n",
        (OF_LORA + "the_reference_is_the_model_without_its_adapter_and_not_a_second_one",),
    ),
    Mutant(
        "lora-merges-twice-the-addition",
        LORA,
        "tensor + addition.to(tensor.dtype)",
        "tensor + 2 * addition.to(tensor.dtype)",
        (OF_LORA + "the_folder_loads_as_any_other",),
    ),
    Mutant(
        "greedy-is-the-first-token",
        SAMPLER,
        "return best.scatter_(1, logits.argmax(dim=1, keepdim=True), 0.0)",
        "return best.scatter_(1, logits.argmin(dim=1, keepdim=True), 0.0)",
        (OF_SAMPLER + "greedy_takes_the_likeliest_token_for_certain",),
    ),
    Mutant(
        "top-k-keeps-one-less",
        SAMPLER,
        "logits < logits.topk(self.top_k).values[:, -1:]",
        "logits <= logits.topk(self.top_k).values[:, -1:]",
        (OF_SAMPLER + "top_k_and_top_p_by_hand",),
    ),
    Mutant(
        "top-p-drops-the-token-that-crosses",
        SAMPLER,
        "dropped = ordered.cumsum(dim=1) - ordered >= self.top_p",
        "dropped = ordered.cumsum(dim=1) >= self.top_p",
        (OF_SAMPLER + "top_k_and_top_p_by_hand",),
    ),
    Mutant(
        "top-p-before-the-temperature",
        SAMPLER,
        "ordered, order = logits.softmax(dim=1).sort(dim=1, descending=True)",
        "ordered, order = (logits * self.temperature).softmax(dim=1).sort(dim=1, descending=True)",
        (
            OF_SAMPLER + "sampling_equals_the_slow_statement",
            OF_SAMPLER + "top_k_and_top_p_by_hand",
        ),
    ),
    Mutant(
        "top-p-scattered-in-sorted-order",
        SAMPLER,
        "logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)",
        "logits.masked_fill(dropped, -torch.inf)",
        (OF_SAMPLER + "top_k_and_top_p_by_hand",),
    ),
    Mutant(
        "noise-of-the-row-not-of-the-episode",
        SAMPLER,
        "noise = uniform(seed, episode_index, batch.max_tokens)",
        "noise = uniform(seed, rows, batch.max_tokens)",
        (OF_SAMPLER + "an_episode_depends_on_seed_and_number_alone",),
    ),
    Mutant(
        "noise-of-neighbouring-seeds-shared",
        SAMPLER,
        "np.array([seed & (2**64 - 1), k], dtype=np.uint64)",
        "np.array([0, (seed + k) & (2**64 - 1)], dtype=np.uint64)",
        (
            OF_SAMPLER + "no_two_seeds_share_their_noise",
            OF_SAMPLER + "noise_is_a_function_of_seed_episode_and_time",
        ),
    ),
    Mutant(
        "noise-not-compacted-with-its-rows",
        SAMPLER,
        "tokens, noise = tokens[index], noise[:, index]",
        "tokens, noise = tokens[index], noise[:, : len(index)]",
        (OF_SAMPLER + "dropping_finished_rows_early_or_late_changes_nothing",),
    ),
    Mutant(
        "record-not-compacted",
        SAMPLER,
        "                record.go_on_with(rows)\n",
        "                record.go_on_with(np.arange(len(rows)))\n",
        (OF_SAMPLER + "dropping_finished_rows_early_or_late_changes_nothing",),
    ),
    Mutant(
        "log-probs-past-the-end-kept",
        SAMPLER,
        "            columns[over] = 0\n",
        "            pass\n",
        (
            OF_ROLLOUT + "a_rollout_is_aligned_to_its_episodes",
            OF_SAMPLER + "log_probs_while_sampling_are_those_of_an_unpadded_forward",
        ),
    ),
    Mutant(
        "last-end-is-a-place-too-early",
        SAMPLER,
        "over = upload(torch.arange(self._batch.max_tokens) >= lengths[:, None], self._device)",
        "over = upload(torch.arange(self._batch.max_tokens) >= lengths[:, None] - 1, self._device)",
        (OF_SAMPLER + "log_probs_while_sampling_are_those_of_an_unpadded_forward",),
    ),
    Mutant(
        "context-not-counting-the-prompt",
        SAMPLER,
        "needed = batch.max_prompt_tokens + batch.max_tokens",
        "needed = batch.max_tokens",
        (OF_SAMPLER + "policy_and_environment_must_fit",),
    ),
    Mutant(
        "inverse-cdf-takes-the-boundary-down",
        SAMPLER,
        "torch.searchsorted(cumulative, target, right=True)",
        "torch.searchsorted(cumulative, target, right=False)",
        (
            OF_SAMPLER + "the_cumulative_distribution_is_inverted",
            OF_SAMPLER + "draws_equal_a_linear_search",
        ),
    ),
    Mutant(
        "blocks-of-the-record-overwrite-each-other",
        SAMPLER,
        "        self._first = steps.stop\n",
        "        self._first = steps.start + BLOCK\n",
        (OF_SAMPLER + "dropping_finished_rows_early_or_late_changes_nothing",),
    ),
    Mutant(
        "reward-one-token-early",
        ROLLOUT,
        "rewards[torch.arange(len(lengths)), lengths.cpu() - 1] +=",
        "rewards[torch.arange(len(lengths)), (lengths.cpu() - 2).clamp_min(0)] +=",
        (OF_ROLLOUT + "the_value_is_paid_on_the_last_token",),
    ),
    Mutant(
        "value-replaces-the-last-tokens-reward",
        ROLLOUT,
        "rewards[torch.arange(len(lengths)), lengths.cpu() - 1] += torch.from_numpy(scores.values)",
        "rewards[torch.arange(len(lengths)), lengths.cpu() - 1] = torch.from_numpy(scores.values)",
        (OF_ROLLOUT + "rewards_of_tokens_are_paid_where_they_arose_and_add_up",),
    ),
    Mutant(
        "cut-texts-are-scored",
        ROLLOUT,
        "return ~self._on_host[2].bool() & torch.from_numpy(",
        "return torch.from_numpy(",
        (
            OF_ROLLOUT + "every_way_to_end_in_a_world_of_three_ids",
            OF_SAMPLER + "nobody_is_asked_about_episodes_that_were_cut_under_truncate",
        ),
    ),
    Mutant(
        "abstentions-are-scored",
        ROLLOUT,
        "return ~self._on_host[2].bool() & torch.from_numpy(~self.scores.abstained)",
        "return ~self._on_host[2].bool()",
        (OF_POLICY_GRADIENT + "an_update_is_that_of_a_batch_without_the_rows_that_were_not_paid",),
    ),
    Mutant(
        "only-forgets-the-rows-of-the-batch",
        ROLLOUT,
        '"rows": places[rows]}',
        '"rows": torch.arange(int(rows.sum()))}',
        (OF_POLICY_GRADIENT + "only_keeps_what_belongs_to_the_rows",),
    ),
    Mutant(
        "only-keeps-the-first-texts",
        ROLLOUT,
        "episodes = [episode for episode, taken in zip(self.episodes, index.tolist(), strict=True) if taken]",
        "episodes = self.episodes[: int(index.sum())]",
        (OF_POLICY_GRADIENT + "only_keeps_what_belongs_to_the_rows",),
    ),
    Mutant(
        "mean-reward-counts-abstentions",
        ROLLOUT,
        '"reward": float(scores.totals[judged].mean())',
        '"reward": float(scores.totals.mean())',
        (OF_POLICY_GRADIENT + "the_mean_reward_is_of_the_texts_that_were_paid",),
    ),
    Mutant(
        "decoder-lengths-not-kept-with-rows",
        DECODER,
        "        self._lengths = self._lengths[rows]\n",
        "        self._lengths = self._lengths[: len(rows)]\n",
        (OF_DECODER + "tokens_read_one_by_one_equal_texts_read_alone",),
    ),
    Mutant(
        "survivors-lose-a-row",
        DECODER,
        "rows[~live[: len(rows)]] = len(rows) + np.flatnonzero(live[len(rows) :])",
        "rows[~live[: len(rows)]] = len(rows) - 1 + np.flatnonzero(live[len(rows) - 1 :])[-1]",
        (OF_DECODER + "survivors_are_all_that_live_and_move_least",),
    ),
    Mutant(
        "sliding-windows-ignored",
        DECODER,
        "    if any(window is not None and window < width for window in windows):\n        return None\n",
        "",
        (
            OF_DECODER + "the_cache_is_chosen_by_what_the_model_is",
            OF_DECODER + "tokens_read_one_by_one_equal_texts_read_alone",
        ),
    ),
    Mutant(
        "left-padding-without-positions",
        DECODER,
        "(columns >= 0).long(), columns.clamp_min(0)",
        "(columns >= 0).long(), torch.arange(tokens.shape[1]).expand(tokens.shape)",
        (OF_DECODER + "tokens_read_one_by_one_equal_texts_read_alone",),
    ),
    Mutant(
        "library-cache-keeps-old-attention",
        DECODER,
        "        self._attention = self._attention[index]\n",
        "        self._attention = self._attention[: len(index)]\n",
        (OF_DECODER + "tokens_read_one_by_one_equal_texts_read_alone",),
    ),
    Mutant(
        "cache-extends-a-changed-prefix",
        PREFIX,
        "goes_on = ((tokens == self._tokens[:, :width]) | unread).all(axis=1) & (self._lengths > 0)",
        "goes_on = self._lengths > 0",
        (OF_PREFIX_CACHE + "rows_that_grow_restart_and_wait_equal_the_uncached_model",),
    ),
    Mutant(
        "cache-survives-training",
        PREFIX,
        "        if weights != self._weights:\n",
        "        if self._weights is None:\n",
        (OF_PREFIX_CACHE + "changed_weights_void_the_cache",),
    ),
    Mutant(
        "cache-steps-overwrite-finished-states",
        PREFIX,
        "        if grown.all():\n            self._states = states\n",
        "        if grown.any():\n            self._states = states\n",
        (OF_PREFIX_CACHE + "rows_that_grow_restart_and_wait_equal_the_uncached_model",),
    ),
    Mutant(
        "cache-finds-a-longer-text",
        PREFIX,
        "same = (self._lengths == n) & (self._tokens",
        "same = (self._lengths >= n) & (self._tokens",
        (
            OF_CAUSAL_ACTOR_CRITIC + "terminal_values_are_those_of_the_texts_alone",
            OF_PREFIX_CACHE + "a_token_appended_to_all_rows_is_found_again_and_not_computed_twice",
        ),
    ),
    Mutant(
        "evaluation-keeps-the-surplus",
        EVALUATION,
        "    episodes = episodes[:total]\n",
        "    episodes = episodes[-total:]\n",
        (OF_EVALUATION + "every_prompt_is_judged_once_and_in_order",),
    ),
    Mutant(
        "perplexity-per-text",
        EVALUATION,
        'np.exp(values["nll"].sum() / values["length"].sum())',
        'np.exp((values["nll"] / values["length"]).mean())',
        (OF_EVALUATION + "kl_and_perplexity_by_hand",),
    ),
    Mutant(
        "perplexity-of-the-policy-itself",
        EVALUATION,
        "nll = -other.sum(dim=1).double().cpu().numpy()",
        "nll = -own.sum(dim=1).double().cpu().numpy()",
        (OF_EVALUATION + "kl_and_perplexity_by_hand",),
    ),
    Mutant(
        "evaluated-kl-of-the-reference",
        EVALUATION,
        "kl = (own - other).sum(dim=1)",
        "kl = (other - own).sum(dim=1)",
        (OF_EVALUATION + "kl_and_perplexity_by_hand",),
    ),
    Mutant(
        "evaluation-shuffles-prompts",
        EVALUATION,
        "        shuffle=False,\n",
        "        shuffle=True,\n",
        (OF_EVALUATION + "every_prompt_is_judged_once_and_in_order",),
    ),
    Mutant(
        "evaluation-truncates-as-training-does",
        EVALUATION,
        '        limit="end",\n',
        "        limit=given.limit,\n",
        (OF_EVALUATION + "texts_are_scored_as_they_stand_whatever_the_limit_means_to_the_environment",),
    ),
]
