"""Bugs in agents/algorithms: advantages, KL, clipping, groups, pairs, the loop that all agents share."""

from __future__ import annotations

from .mutant import Mutant

FOLDER = "agents/algorithms"
ESTIMATORS, GROUPS = f"{FOLDER}/estimators.py", f"{FOLDER}/groups.py"
AGENT, PG = f"{FOLDER}/agent.py", f"{FOLDER}/policy_gradient.py"
GRADIENTS = "text_gym/models/runtime.py"
PPO, GRPO, RLOO = f"{FOLDER}/ppo.py", f"{FOLDER}/grpo.py", f"{FOLDER}/rloo.py"
REINFORCE, BEST = f"{FOLDER}/reinforce.py", f"{FOLDER}/best_of_n.py"
DPO, SFT = f"{FOLDER}/dpo.py", f"{FOLDER}/sft.py"
ONLINE_DPO = f"{FOLDER}/online_dpo.py"
OF_AGENT = "tests/agents/algorithms/test_agent.py::test_"
OF_BEST_OF_N = "tests/agents/algorithms/test_best_of_n.py::test_"
OF_CHECKPOINT = "tests/agents/training/test_checkpoint.py::test_"
OF_CHECK_AGENT = "tests/agents/verification/test_check_agent.py::test_"
OF_CRITIC = "tests/agents/policies/test_critic.py::test_"
OF_DPO = "tests/agents/algorithms/test_dpo.py::test_"
OF_ONLINE_DPO = "tests/agents/algorithms/test_online_dpo.py::test_"
OF_GROUPS = "tests/agents/algorithms/test_groups.py::test_"
OF_GRPO = "tests/agents/algorithms/test_grpo.py::test_"
OF_ESTIMATORS = "tests/agents/algorithms/test_estimators.py::test_"
OF_MEMORY = "tests/agents/policies/test_memory.py::test_"
OF_POLICY_GRADIENT = "tests/agents/algorithms/test_policy_gradient.py::test_"
OF_PPO = "tests/agents/algorithms/test_ppo.py::test_"
OF_REINFORCE = "tests/agents/algorithms/test_reinforce.py::test_"
OF_RLOO = "tests/agents/algorithms/test_rloo.py::test_"
OF_RUNTIME = "tests/models/test_runtime.py::test_"
OF_SFT = "tests/agents/algorithms/test_sft.py::test_"
OF_STATE_CRITIC = "tests/agents/policies/test_state_critic.py::test_"

MUTANTS = [
    Mutant(
        "gae-bootstraps-past-the-end",
        ESTIMATORS,
        "next_value = torch.where(mask[:, t], values[:, t], 0.0)",
        "next_value = values[:, t]",
        (OF_ESTIMATORS + "gae_by_hand",),
    ),
    Mutant(
        "gae-forgets-lambda",
        ESTIMATORS,
        "delta + gamma * lam * following",
        "delta + gamma * following",
        (OF_ESTIMATORS + "gae_is_its_definition",),
    ),
    Mutant(
        "gae-value-not-discounted",
        ESTIMATORS,
        "rewards[:, t] + gamma * next_value - values[:, t]",
        "rewards[:, t] + next_value - values[:, t]",
        (OF_ESTIMATORS + "gae_is_its_definition",),
    ),
    Mutant(
        "returns-are-the-advantages",
        ESTIMATORS,
        "torch.where(mask, advantages + values, torch.zeros_like(values))",
        "torch.where(mask, advantages, torch.zeros_like(values))",
        (OF_ESTIMATORS + "gae_is_its_definition",),
    ),
    Mutant(
        "whiten-over-padding",
        ESTIMATORS,
        "std = masked_mean((x - mean) ** 2, mask).sqrt()",
        "std = ((x - mean) ** 2).mean().sqrt()",
        (OF_ESTIMATORS + "a_constant_added_to_the_reward_leaves_whitened_advantages_alone",),
    ),
    Mutant(
        "whiten-bessel",
        ESTIMATORS,
        "std = masked_mean((x - mean) ** 2, mask).sqrt()",
        "std = (((x - mean) ** 2 * mask).sum() / (mask.sum() - 1)).sqrt()",
        (OF_ESTIMATORS + "whiten_gives_mean_zero_and_deviation_one_over_real_tokens",),
    ),
    Mutant(
        "masked-mean-over-all-places",
        ESTIMATORS,
        "return (x * mask).sum() / mask.sum()",
        "return (x * mask).mean()",
        (OF_ESTIMATORS + "a_constant_added_to_the_reward_leaves_whitened_advantages_alone",),
    ),
    Mutant(
        "explained-variance-of-values",
        ESTIMATORS,
        "variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)",
        "variance = masked_mean((values - masked_mean(values, mask)) ** 2, mask)",
        (OF_PPO + "the_kl_and_explained_variance_reported",),
    ),
    Mutant(
        "kl-k1-sign",
        ESTIMATORS,
        "ratio = log_probs - reference_log_probs",
        "ratio = reference_log_probs - log_probs",
        (OF_ESTIMATORS + "estimators_by_hand",),
    ),
    Mutant(
        "kl-k3-of-the-inverse-ratio",
        ESTIMATORS,
        "return torch.expm1(-ratio) + ratio",
        "return torch.expm1(ratio) - ratio",
        (OF_ESTIMATORS + "estimators_by_hand",),
    ),
    Mutant(
        "kl-k2-not-halved",
        ESTIMATORS,
        "return ratio**2 / 2",
        "return ratio**2",
        (OF_ESTIMATORS + "estimators_by_hand",),
    ),
    Mutant(
        "kl-controller-unclipped",
        ESTIMATORS,
        "error = min(max(kl / self.target - 1.0, -0.2), 0.2)",
        "error = kl / self.target - 1.0",
        (OF_ESTIMATORS + "the_controller_moves_beta_towards_the_target_in_bounded_steps",),
    ),
    Mutant(
        "kl-controller-sign",
        ESTIMATORS,
        "self.coefficient *= 1.0 + error * episodes / self.horizon",
        "self.coefficient *= 1.0 - error * episodes / self.horizon",
        (OF_ESTIMATORS + "the_controller_moves_beta_towards_the_target_in_bounded_steps",),
    ),
    Mutant(
        "kl-controller-counts-batches",
        ESTIMATORS,
        "error * episodes / self.horizon",
        "error / self.horizon",
        (OF_ESTIMATORS + "the_controller_moves_beta_towards_the_target_in_bounded_steps",),
    ),
    # Survivor 5 of the attack of 2026-11-28.
    Mutant(
        "kl-controller-fed-per-token",
        PG,
        "self.kl.update(kl, len(batch.tokens))",
        "self.kl.update(kl / float(batch.lengths.float().mean()), len(batch.tokens))",
        (OF_PPO + "beta_follows_the_kl_of_whole_episodes",),
    ),
    Mutant(
        "beta-adapted-before-the-objective",
        PG,
        "        objective = self.track_objective(batch, reference)\n"
        "        self.kl.update(kl, len(batch.tokens))\n",
        "        self.kl.update(kl, len(batch.tokens))\n"
        "        objective = self.track_objective(batch, reference)\n",
        (OF_POLICY_GRADIENT + "the_objective_is_under_the_beta_that_was_played",),
    ),
    # Survivor 17.
    Mutant(
        "same-minibatches-every-iteration",
        PG,
        "config.minibatches, (config.seed, self.iteration)",
        "config.minibatches, (config.seed, 0)",
        (OF_POLICY_GRADIENT + "minibatches_are_others_in_every_epoch_iteration_and_seed",),
    ),
    Mutant(
        "same-minibatches-every-epoch",
        PG,
        "    for _ in range(epochs if episodes else 0):\n        order = generator.permutation(episodes)\n",
        "    order = generator.permutation(episodes)\n    for _ in range(epochs if episodes else 0):\n",
        (OF_POLICY_GRADIENT + "minibatches_are_others_in_every_epoch_iteration_and_seed",),
    ),
    Mutant(
        "micro-batches-average-over-themselves",
        PG,
        "share = Part(batch.mask[here, :width], tokens, episodes)",
        "share = Part.whole(batch.mask[here, :width])",
        (OF_MEMORY + "the_gradient_does_not_depend_on_the_split",),
    ),
    Mutant(
        "micro-batch-gradients-overwritten",
        PG,
        "            self.optimizer.zero_grad(set_to_none=True)\n"
        "            seen = []\n            for part in parts:\n",
        "            seen = []\n            for part in parts:\n"
        "                self.optimizer.zero_grad(set_to_none=True)\n",
        (OF_PPO + "the_gradient_ignores_order_padding_and_the_number_of_parts",),
    ),
    Mutant(
        "micro-batch-columns-of-other-rows",
        PG,
        "known = {name: column[here, :width]",
        "known = {name: column[part, :width]",
        (OF_POLICY_GRADIENT + "where_tokens_are_masked_the_ratio_is_that_of_what_was_drawn_from",),
    ),
    Mutant(
        "approx-kl-sign",
        PG,
        "part.per_token(torch.expm1(log_ratio) - log_ratio)",
        "part.per_token(log_ratio)",
        (OF_PPO + "the_clipped_surrogate_by_hand",),
    ),
    Mutant(
        "evaluate-forgets-temperature",
        PG,
        "            temperature=self.config.temperature,\n",
        "",
        (OF_PPO + "at_learning_rate_zero_nothing_moves_in_any_epoch",),
    ),
    Mutant(
        "evaluate-forgets-masks",
        PG,
        "action_masks=None if batch.action_masks is None else batch.action_masks[here],",
        "action_masks=None,",
        (OF_POLICY_GRADIENT + "where_tokens_are_masked_the_ratio_is_that_of_what_was_drawn_from",),
    ),
    Mutant(
        "reported-kl-per-token",
        PG,
        '"kl_per_token": kl / float(batch.host_lengths.float().mean()),',
        '"kl_per_token": kl,',
        (OF_PPO + "the_kl_and_explained_variance_reported",),
    ),
    Mutant(
        "ppo-kl-sign-in-the-reward",
        PPO,
        "rewards = rewards - self.kl.coefficient * kl * mask",
        "rewards = rewards + self.kl.coefficient * kl * mask",
        (OF_PPO + "the_expected_first_step_is_the_exact_policy_gradient",),
    ),
    Mutant(
        "ppo-surrogate-takes-the-larger",
        PPO,
        "surrogate = torch.minimum(",
        "surrogate = torch.maximum(",
        (OF_PPO + "the_clipped_surrogate_by_hand",),
    ),
    Mutant(
        "ppo-clip-higher-below",
        PPO,
        "ratio.clamp(1 - config.clip, 1 + (config.clip_higher or config.clip))",
        "ratio.clamp(1 - (config.clip_higher or config.clip), 1 + config.clip)",
        (OF_PPO + "the_clipped_surrogate_by_hand",),
    ),
    Mutant(
        "ppo-value-clip-takes-the-smaller",
        PPO,
        "error = torch.maximum(error,",
        "error = torch.minimum(error,",
        (OF_PPO + "the_value_loss_by_hand",),
    ),
    Mutant(
        "ppo-value-clip-around-returns",
        PPO,
        'move = (now.values - old["values"]).clamp',
        'move = (now.values - old["returns"]).clamp',
        (OF_PPO + "the_value_loss_by_hand",),
    ),
    Mutant(
        "ppo-entropy-is-a-cost",
        PPO,
        "loss = loss - self.entropy_weight()",
        "loss = loss + self.entropy_weight()",
        (OF_PPO + "entropy_and_kl_terms_by_hand",),
    ),
    Mutant(
        "ppo-target-kl-stops-at-once",
        PPO,
        "if steps and config.target_kl is not None",
        "if config.target_kl is not None",
        (OF_POLICY_GRADIENT + "a_minibatch_that_is_refused_ends_the_epochs",),
    ),
    Mutant(
        "ppo-learns-from-unpaid-texts",
        PPO,
        "config, batch = self.config, batch.only(batch.scored)",
        "config = self.config",
        (OF_POLICY_GRADIENT + "an_update_is_that_of_a_batch_without_the_rows_that_were_not_paid",),
    ),
    Mutant(
        "ppo-critic-targets-whitened",
        PPO,
        "            advantages = whiten(advantages, mask)\n",
        "            advantages = whiten(advantages, mask)\n"
        "            returns = advantages + batch.values\n",
        (
            OF_PPO + "a_constant_added_to_every_reward_changes_no_whitened_update",
            OF_STATE_CRITIC + "returns_that_depend_on_the_prompt_alone_are_explained",
        ),
    ),
    Mutant(
        "ppo-detached-critic-learns-first-batch-only",
        PPO,
        "np.random.default_rng((self.config.seed, self.iteration, i))",
        "np.random.default_rng((self.config.seed, i))",
        (OF_STATE_CRITIC + "what_it_reads_and_in_which_order_is_another_in_every_iteration",),
    ),
    Mutant(
        "ppo-head-learns-at-the-trunk-speed",
        PPO,
        '{"params": head, "lr": config.learning_rate * config.value_lr_factor}',
        '{"params": head, "lr": config.learning_rate}',
        (OF_PPO + "the_value_head_learns_at_a_speed_of_its_own",),
    ),
    Mutant(
        "ppo-separate-critic-unused-in-play",
        PPO,
        "return replace(batch, values=self._values(batch))",
        "return batch",
        (OF_CRITIC + "in_play_values_are_the_critics_and_not_those_of_the_policys_head",),
    ),
    # A near miss: by-hand tests had one group.
    Mutant(
        "grpo-std-over-the-batch",
        GRPO,
        "spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()",
        "spread = (centred.square().sum() / present.sum()).sqrt().expand_as(mean)",
        (OF_GRPO + "each_group_has_its_own_mean_and_deviation",),
    ),
    Mutant(
        "grpo-mean-over-the-batch",
        GRPO,
        "mean = (returns * present).sum(dim=1, keepdim=True) / count\n",
        "mean = ((returns * present).sum() / present.sum()).expand_as(count)\n",
        (OF_GRPO + "each_group_has_its_own_mean_and_deviation",),
    ),
    Mutant(
        "grpo-absent-episodes-count-as-zero",
        GRPO,
        "count = present.sum(dim=1, keepdim=True).clamp(min=1)",
        "count = torch.full_like(present.sum(dim=1, keepdim=True), present.shape[1])",
        (OF_GRPO + "advantages_by_hand",),
    ),
    Mutant(
        "grpo-sample-std",
        GRPO,
        "spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()",
        "spread = (centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()",
        (OF_GRPO + "advantages_by_hand",),
    ),
    Mutant(
        "grpo-rounding-noise-amplified",
        GRPO,
        "constant = spread <= 8 * torch.finfo(returns.dtype).eps * (1 + mean.abs())",
        "constant = spread == 0",
        (OF_GRPO + "equal_returns_carry_no_preference_however_their_mean_is_rounded",),
    ),
    Mutant(
        "grpo-constant-normaliser-is-the-batch-width",
        GRPO,
        "return part.per_episode(x) / self.env.max_tokens",
        "return part.per_episode(x) / part.mask.shape[1]",
        (OF_GRPO + "length_normalisation_by_hand",),
    ),
    Mutant(
        "grpo-kl-loss-sign",
        GRPO,
        "loss = loss + self.kl.coefficient * self.average(kl, part)",
        "loss = loss - self.kl.coefficient * self.average(kl, part)",
        (OF_GRPO + "the_kl_in_the_loss_by_hand",),
    ),
    Mutant(
        "grpo-kl-loss-of-old-policy",
        GRPO,
        'kl = estimate_kl(now.log_probs, old["reference"]',
        'kl = estimate_kl(old["log_probs"], old["reference"]',
        (OF_GRPO + "the_kl_in_the_loss_has_a_gradient",),
    ),
    Mutant(
        "groups-by-place-after-dropping",
        GROUPS,
        "rows = torch.arange(len(rewards)) if batch.rows is None else batch.rows.cpu()",
        "rows = torch.arange(len(rewards))",
        (OF_POLICY_GRADIENT + "groups_are_of_the_episodes_that_were_paid",),
    ),
    Mutant(
        "groups-interleaved",
        GROUPS,
        "upload(rows % group_size, rewards.device)",
        "upload(rows // group_size % group_size, rewards.device)",
        (OF_GROUPS + "returns_stand_in_the_row_of_their_prompt_and_nowhere_else",),
    ),
    Mutant(
        "rloo-baseline-includes-itself",
        RLOO,
        "return (returns - mean) * present * count / (count - 1).clamp(min=1)",
        "return (returns - mean) * present",
        (OF_RLOO + "advantages_by_hand",),
    ),
    Mutant(
        "rloo-baseline-of-the-whole-batch",
        RLOO,
        "mean = (returns * present).sum(dim=1, keepdim=True) / count.clamp(min=1)",
        "mean = ((returns * present).sum() / present.sum()).expand_as(count)",
        (
            OF_RLOO + "advantages_by_hand",
            OF_RLOO + "groups_sum_to_zero_and_ignore_a_constant",
            OF_POLICY_GRADIENT + "groups_are_of_the_episodes_that_were_paid",
        ),
    ),
    Mutant(
        "rloo-ratio-per-token",
        RLOO,
        "ratio = log_ratio.sum(dim=1, keepdim=True).exp().expand_as(log_ratio)",
        "ratio = log_ratio.exp()",
        (OF_RLOO + "the_ratio_is_that_of_the_whole_completion",),
    ),
    Mutant(
        "rloo-advantage-not-shared-out",
        RLOO,
        "leave_one_out(returns, present)[places][:, None] / batch.lengths[:, None] * mask",
        "leave_one_out(returns, present)[places][:, None] * mask",
        (OF_POLICY_GRADIENT + "groups_are_of_the_episodes_that_were_paid",),
    ),
    Mutant(
        "reinforce-baseline-knows-this-batch",
        REINFORCE,
        "        return past\n",
        "        return self.moving_average\n",
        (OF_REINFORCE + "the_moving_average_by_hand",),
    ),
    Mutant(
        "reinforce-decay-swapped",
        REINFORCE,
        "self.config.decay * past + (1 - self.config.decay) * mean",
        "(1 - self.config.decay) * past + self.config.decay * mean",
        (OF_REINFORCE + "the_moving_average_by_hand",),
    ),
    Mutant(
        "reinforce-average-lost-on-resume",
        REINFORCE,
        '        self.moving_average = state["moving_average"]\n',
        "",
        (
            OF_REINFORCE + "the_moving_average_by_hand",
            OF_CHECK_AGENT + "our_own_algorithms_keep_the_laws",
            OF_CHECKPOINT + "run_twice_or_resumed_the_bits_are_the_same",
        ),
    ),
    Mutant(
        "reinforce-loss-per-token",
        REINFORCE,
        "loss = policy_loss = -part.per_episode(surrogate)",
        "loss = policy_loss = -part.per_token(surrogate)",
        (OF_REINFORCE + "the_expected_step_is_the_exact_policy_gradient",),
    ),
    Mutant(
        "best-of-n-unjudged-may-win",
        BEST,
        "return rewards.masked_fill(~judged, -torch.inf).argmax(dim=1)",
        "return rewards.masked_fill(~judged, 0.0).argmax(dim=1)",
        (OF_BEST_OF_N + "the_best_is_chosen_and_the_first_among_equals",),
    ),
    Mutant(
        "best-of-n-surplus-kept",
        BEST,
        "rewards = np.concatenate(found)[:total].reshape(-1, n)",
        "rewards = np.concatenate(found)[-total:].reshape(-1, n)",
        (OF_BEST_OF_N + "many_prompts_are_played_in_parts",),
    ),
    Mutant(
        "best-of-n-kl-bound-off",
        BEST,
        "return math.log(n) - (n - 1) / n",
        "return math.log(n) - 1 / n",
        (OF_BEST_OF_N + "the_kl_bound_holds_and_is_reached_by_many_equally_likely_texts",),
    ),
    Mutant(
        "best-of-n-loss-per-token",
        BEST,
        "return -said.log_probs.sum() / len(rows)",
        "return -said.log_probs.sum() / batch.lengths[rows].sum()",
        (OF_BEST_OF_N + "only_the_best_of_each_prompt_is_learnt",),
    ),
    Mutant(
        "dpo-chosen-and-rejected-swapped",
        DPO,
        "self.sequences, self.starts = chosen[0] + rejected[0], chosen[1] + rejected[1]",
        "self.sequences, self.starts = rejected[0] + chosen[0], rejected[1] + chosen[1]",
        (OF_DPO + "metrics_and_gradient_against_plain_forward_passes",),
    ),
    Mutant(
        "dpo-pairs-with-the-wrong-rejected",
        DPO,
        "rows = [*pairs, *(i + len(self.sequences) // 2 for i in pairs)]",
        "rows = [*pairs, *(i + len(self.sequences) // 2 for i in sorted(pairs))]",
        (
            OF_DPO + "metrics_and_gradient_against_plain_forward_passes",
            OF_DPO + "a_bradley_terry_rater_leads_to_the_optimum_of_rlhf",
        ),
    ),
    Mutant(
        "dpo-beta-forgotten",
        DPO,
        "chosen, rejected = self.config.beta * log_ratio.view(2, -1)",
        "chosen, rejected = log_ratio.view(2, -1)",
        (OF_DPO + "metrics_and_gradient_against_plain_forward_passes",),
    ),
    Mutant(
        "dpo-smoothing-swapped",
        DPO,
        "-(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)",
        "-label_smoothing * F.logsigmoid(margin) - (1 - label_smoothing) * F.logsigmoid(-margin)",
        (
            OF_DPO + "label_smoothing_is_the_same_as_wrong_labels",
            OF_DPO + "the_loss_by_hand",
        ),
    ),
    Mutant(
        "dpo-mean-log-prob-per-token",
        DPO,
        "return policy.evaluate(*padded(policy, sequences, starts)).log_probs.sum(dim=1)",
        "return policy.evaluate(*padded(policy, sequences, starts)).log_probs.mean(dim=1)",
        (OF_DPO + "metrics_and_gradient_against_plain_forward_passes",),
    ),
    Mutant(
        "sft-learns-the-prompt",
        SFT,
        "        starts.append(len(ids))\n",
        "        starts.append(1)\n",
        (OF_SFT + "the_first_gradient_is_that_of_the_loss_by_hand",),
    ),
    Mutant(
        "sft-never-learns-eos",
        SFT,
        "sequence = ids + prompt.encode_completion(completion, tokenizer)",
        "sequence = ids + prompt.encode_completion(completion, tokenizer)[:-1]",
        (OF_SFT + "completion_loss_is_the_mean_over_completion_tokens",),
    ),
    Mutant(
        "sft-dropout-stays-on",
        SFT,
        "        finally:\n            policy.eval()\n",
        "        finally:\n            pass\n",
        (OF_SFT + "dropout_is_on_while_training_only",),
    ),
    Mutant(
        "sft-loss-per-sequence",
        SFT,
        "loss = self._loss(mine) / tokens",
        "loss = self._loss(mine) / len(rows)",
        (OF_SFT + "the_loss_of_a_step_is_that_of_its_batch_before_the_step",),
    ),
    Mutant(
        "sft-warmup-one-step-late",
        SFT,
        "done = step / len(batches)\n",
        "done = (step + 1) / len(batches)\n",
        (OF_SFT + "the_learning_rate_warms_up_and_decays",),
    ),
    Mutant(
        "completion-loss-averages-prompts-too",
        SFT,
        "return nll / (sum(map(len, sequences)) - sum(starts))",
        "return nll / sum(map(len, sequences))",
        (OF_SFT + "completion_loss_is_the_mean_over_completion_tokens",),
    ),
    Mutant(
        "anneal-one-iteration-late",
        AGENT,
        "share = 1.0 - self.iteration / max(1, config.iterations)",
        "share = 1.0 - (self.iteration + 1) / max(1, config.iterations)",
        (
            OF_AGENT + "what_is_learnt_after_a_batch_without_scores_is_what_the_schedule_says",
            OF_AGENT + "callbacks_see_every_iteration_and_may_stop",
        ),
    ),
    Mutant(
        "warmup-begins-at-zero",
        AGENT,
        "warm = min(1.0, (self.iteration + 1) / max(1, config.warmup))",
        "warm = min(1.0, self.iteration / max(1, config.warmup))",
        (
            OF_AGENT + "what_is_learnt_after_a_batch_without_scores_is_what_the_schedule_says",
            OF_AGENT + "callbacks_see_every_iteration_and_may_stop",
        ),
    ),
    Mutant(
        "one-clip-for-all-networks",
        GRADIENTS,
        "scale_gradients(network.parameters(), most, norm)",
        "scale_gradients([p for n in networks for p in n.parameters()], most, norm)",
        (
            OF_CRITIC + "large_errors_of_the_critic_do_not_make_the_policys_steps_smaller",
            OF_AGENT + "gradients_are_cut_to_their_norm",
        ),
    ),
    Mutant(
        "kl-coefficient-lost-on-resume",
        AGENT,
        '        self.kl.coefficient = state["kl_coefficient"]\n',
        "",
        (
            OF_CHECKPOINT + "run_twice_or_resumed_the_bits_are_the_same",
            OF_CHECKPOINT + "what_is_saved_is_all_of_it",
        ),
    ),
    Mutant(
        "reward-memory-lost-on-resume",
        AGENT,
        '        self.reward.load_state_dict(state["reward"])\n',
        "",
        (
            OF_CHECKPOINT + "the_memory_of_nested_rewards_finds_its_way_back",
            OF_CHECKPOINT + "run_twice_or_resumed_the_bits_are_the_same",
        ),
    ),
    Mutant(
        "failed-batch-stays-in-the-rewards-memory",
        AGENT,
        "            self.reward.load_state_dict(remembered)\n            raise\n",
        "            raise\n",
        (OF_CHECKPOINT + "a_reward_that_fails_at_any_moment_costs_nothing",),
    ),
    Mutant(
        "the-same-episodes-every-iteration",
        AGENT,
        "index = self.episodes_played + np.arange(self.env.num_envs)",
        "index = np.arange(self.env.num_envs)",
        (OF_AGENT + "episodes_go_on_from_iteration_to_iteration",),
    ),
    Mutant(
        "unscored-batches-never-forgotten",
        AGENT,
        "            self.unscored_batches = 0\n",
        "            pass\n",
        (
            OF_AGENT + "nothing_is_learnt_from_a_batch_without_scores",
            OF_AGENT + "learning_stops_after_several_batches_without_scores",
        ),
    ),
    Mutant(
        "reference-scored-at-temperature-one",
        AGENT,
        "score = partial(reference.score, temperature=self.config.temperature)",
        "score = reference.score",
        (OF_PPO + "at_learning_rate_zero_nothing_moves_in_any_epoch",),
    ),
    Mutant(
        "reference-may-change",
        AGENT,
        '            check_unchanged(self.reference, self._reference_was, "the reference policy")\n',
        "",
        (OF_RUNTIME + "a_reference_that_learns_along_is_caught",),
    ),
    Mutant(
        "online-dpo-labels-swapped",
        ONLINE_DPO,
        "wrong = torch.sigmoid(-gaps)",
        "wrong = torch.sigmoid(gaps)",
        (OF_ONLINE_DPO + "the_loss_is_that_of_dpo_with_the_labels_of_a_bradley_terry_rater",),
    ),
    Mutant(
        "online-dpo-pairs-of-equals",
        ONLINE_DPO,
        "    apart = gaps > 0\n",
        "    apart = gaps >= 0\n",
        (
            OF_ONLINE_DPO + "the_best_and_the_worst_of_each_prompt_are_a_pair",
            OF_ONLINE_DPO + "nothing_is_learnt_where_nothing_is_better",
        ),
    ),
    Mutant(
        "online-dpo-worst-of-those-not-judged",
        ONLINE_DPO,
        "choose_best(-returns, present)",
        "returns.argmin(dim=1)",
        (OF_ONLINE_DPO + "texts_that_were_not_judged_are_in_no_pair",),
    ),
    Mutant(
        "online-dpo-without-its-reference",
        ONLINE_DPO,
        "(said.log_probs.sum(dim=1) - told)",
        "(said.log_probs.sum(dim=1))",
        (OF_ONLINE_DPO + "the_loss_is_that_of_dpo_with_the_labels_of_a_bradley_terry_rater",),
    ),
]
