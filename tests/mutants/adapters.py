"""Bugs in agents/adapters: the KL wrapper, and language models inside other libraries."""

from __future__ import annotations

from .mutant import Mutant

FOLDER = "agents/adapters"
KL, ACTOR, CLEANRL = f"{FOLDER}/kl_penalty.py", f"{FOLDER}/causal_actor_critic.py", f"{FOLDER}/cleanrl.py"
BUFFER, POLICY = f"{FOLDER}/sb3/buffer.py", f"{FOLDER}/sb3/policy.py"
VEC, STATE, TRL = f"{FOLDER}/sb3/vec_env.py", f"{FOLDER}/sb3/state.py", f"{FOLDER}/trl.py"
OF_CAUSAL_ACTOR_CRITIC = "tests/agents/adapters/test_causal_actor_critic.py::test_"
OF_CLEANRL = "tests/agents/adapters/test_cleanrl.py::test_"
OF_FEATURES = "tests/agents/adapters/test_features.py::test_"
OF_KL_PENALTY = "tests/agents/adapters/test_kl_penalty.py::test_"
OF_REFERENCE_MASK = "tests/agents/adapters/test_reference_mask.py::test_"
OF_SB3_BUFFER = "tests/agents/adapters/sb3/test_buffer.py::test_"
OF_SB3_CHECKPOINT = "tests/agents/adapters/sb3/test_checkpoint.py::test_"
OF_SB3_POLICY = "tests/agents/adapters/sb3/test_policy.py::test_"
OF_SB3_VEC_ENV = "tests/agents/adapters/sb3/test_vec_env.py::test_"
OF_TOKEN_ENCODER = "tests/agents/adapters/test_token_encoder.py::test_"
OF_TRL = "tests/agents/adapters/test_trl.py::test_"

MUTANTS = [
    # Survivor 6 of the attack of 2026-11-28.
    Mutant(
        "kl-controller-fed-the-sum",
        KL,
        "self.controller.update(float(np.mean(self._finished)), len(self._finished))",
        "self.controller.update(float(np.sum(self._finished)), len(self._finished))",
        (OF_KL_PENALTY + "beta_follows_a_hand_worked_sequence",),
    ),
    Mutant(
        "kl-penalty-is-a-bonus",
        KL,
        "rewards = np.asarray(rewards, dtype=np.float64) - coefficient * log_ratio",
        "rewards = np.asarray(rewards, dtype=np.float64) + coefficient * log_ratio",
        (OF_KL_PENALTY + "beta_follows_a_hand_worked_sequence",),
    ),
    Mutant(
        "kl-of-episodes-runs-on",
        KL,
        "self._episode_kl[ended | redrawn] = self._paid[ended | redrawn] = 0.0",
        "self._episode_kl[redrawn] = self._paid[redrawn] = 0.0",
        (OF_KL_PENALTY + "beta_follows_a_hand_worked_sequence",),
    ),
    Mutant(
        "kl-charged-while-restarting",
        KL,
        "        acting = ~self._over\n",
        "        acting = np.ones_like(self._over)\n",
        (
            OF_KL_PENALTY + "every_reward_is_the_tasks_minus_beta_times_the_exact_log_ratio",
            OF_KL_PENALTY + "actions_of_rows_that_only_restart_may_be_anything",
        ),
    ),
    Mutant(
        "reference-ignores-the-mask",
        KL,
        "                logits = logits.masked_fill(~allowed, -torch.inf)\n",
        "                pass\n",
        (OF_KL_PENALTY + "policy_and_reference_are_both_restricted_to_the_mask",),
    ),
    Mutant(
        "redrawn-texts-stay-charged",
        KL,
        "        rewards[redrawn] += self._paid[redrawn]\n",
        "",
        (OF_KL_PENALTY + "a_redrawn_episode_gets_its_penalty_back",),
    ),
    Mutant(
        "reference-keeps-learning",
        KL,
        "self.reference = reference.frozen() if trainable else reference",
        "self.reference = reference",
        (OF_KL_PENALTY + "a_policy_that_learns_is_read_anew_and_the_reference_stays",),
    ),
    Mutant(
        "kl-memory-lost-on-resume",
        KL,
        'self._over, self._finished = np.array(state["over"], dtype=np.bool_), list(state["finished"])',
        'self._over, self._finished = np.array(state["over"], dtype=np.bool_), []',
        (OF_KL_PENALTY + "episodes_that_the_controller_has_not_heard_of_are_remembered",),
    ),
    Mutant(
        "texts-share-states-after-a-fork",
        ACTOR,
        "begins_next = ((ordered[:-1] == ordered[1:]) | (columns >= sizes[:-1, None])).all(axis=1)",
        "begins_next = (ordered[:-1, 0] == ordered[1:, 0]) & (sizes[:-1] <= sizes[1:])",
        (OF_CAUSAL_ACTOR_CRITIC + "texts_that_begin_alike_and_then_part_are_each_read",),
    ),
    Mutant(
        "terminal-values-of-the-states-before",
        ACTOR,
        "            cache.append(self.last.actions)\n",
        "            pass\n",
        (OF_CAUSAL_ACTOR_CRITIC + "terminal_values_are_those_of_the_texts_alone",),
    ),
    Mutant(
        "log-probs-not-of-what-was-drawn",
        ACTOR,
        "                log_probs = probs[:, 0].log()\n",
        "                log_probs = torch.log_softmax(logits, dim=1).amax(dim=1)\n",
        (OF_SB3_POLICY + "log_probs_and_values_equal_the_uncached_model_throughout_learning",),
    ),
    Mutant(
        "critic-trains-the-language-model",
        ACTOR,
        "        with torch.no_grad():\n            states = _states(self.lm[0], tokens, length)\n",
        "        states = _states(self.lm[0], tokens, length)\n",
        ("tests/agents/adapters/test_torchrl.py",),
    ),
    Mutant(
        "evaluation-takes-the-plays-draw",
        ACTOR,
        '        if caller == "play":\n            self.last',
        "        if caller:\n            self.last",
        (
            OF_CAUSAL_ACTOR_CRITIC
            + "values_at_the_end_are_the_plays_although_something_was_predicted_in_between",
        ),
    ),
    Mutant(
        "cleanrl-bootstraps-past-ends",
        CLEANRL,
        "delta = rewards[t] + args.gamma * next_value * goes_on - values[t]",
        "delta = rewards[t] + args.gamma * next_value - values[t]",
        (OF_CLEANRL + "nothing_flows_back_across_an_end",),
    ),
    Mutant(
        "cleanrl-advantages-flow-across-ends",
        CLEANRL,
        "args.gamma * args.gae_lambda * goes_on * advantage",
        "args.gamma * args.gae_lambda * advantage",
        (OF_CLEANRL + "nothing_flows_back_across_an_end",),
    ),
    Mutant(
        "cleanrl-returns-run-on",
        CLEANRL,
        "            running[done] = 0.0\n",
        "",
        (OF_CLEANRL + "it_learns_a_small_copy_task_from_nothing",),
    ),
    Mutant(
        "buffer-sequences-across-episodes",
        BUFFER,
        "& (np.asarray(episode_start) == 0)",
        "",
        (OF_SB3_BUFFER + "sequences_end_with_episodes_and_rollouts_even_where_the_tokens_go_on",),
    ),
    Mutant(
        "buffer-continues-the-last-rollout",
        BUFFER,
        "            goes_on[:] = False\n",
        "            pass\n",
        (OF_SB3_BUFFER + "sequences_end_with_episodes_and_rollouts_even_where_the_tokens_go_on",),
    ),
    Mutant(
        "buffer-first-length-of-the-last-step",
        BUFFER,
        "self._first[~goes_on], self._since[~goes_on] = lengths[~goes_on], self.pos",
        "self._first[:], self._since[~goes_on] = lengths, self.pos",
        (
            OF_SB3_BUFFER + "the_buffer_keeps_every_step_once_in_sequences_of_one_episode",
            OF_SB3_POLICY + "sequences_and_single_observations_are_evaluated_alike",
        ),
    ),
    Mutant(
        "sb3-states-after-the-action",
        POLICY,
        "at = first[rows] - 1 + nth",
        "at = (first[rows] + nth).clamp_max(tokens.shape[1] - 1)",
        (OF_SB3_POLICY + "without_learning_the_ratio_is_one_in_every_minibatch",),
    ),
    Mutant(
        "sb3-cache-survives-fused-steps",
        POLICY,
        "        self._core.clear()  # an update has begun",
        "        pass  # an update has begun",
        (OF_SB3_POLICY + "log_probs_and_values_equal_the_uncached_model_throughout_learning",),
    ),
    Mutant(
        "sb3-dropout-in-updates",
        POLICY,
        "return super().train(False)",
        "return super().train(mode)",
        (OF_SB3_POLICY + "dropout_stays_off_in_the_update",),
    ),
    Mutant(
        "sb3-every-end-is-a-time-limit",
        VEC,
        'infos[i]["TimeLimit.truncated"] = bool(truncated[i])',
        'infos[i]["TimeLimit.truncated"] = bool(dones[i])',
        (OF_SB3_VEC_ENV + "truncation_and_termination_are_told_apart",),
    ),
    Mutant(
        "sb3-infos-of-the-next-episode",
        VEC,
        "                self.reset_infos[i] = newest[i] = {}\n",
        "                self.reset_infos[i] = {}\n",
        (OF_SB3_VEC_ENV + "it_plays_exactly_what_dummy_vec_env_plays",),
    ),
    Mutant(
        "sb3-optimizer-lost-on-resume",
        STATE,
        '    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})\n',
        "",
        (OF_SB3_CHECKPOINT + "a_run_that_fails_anywhere_goes_on_to_the_same_bits",),
    ),
    Mutant(
        "sb3-running-episodes-unpaid-on-resume",
        STATE,
        "        batch.pay_tokens(rows)\n",
        "",
        (OF_SB3_CHECKPOINT + "tokens_that_were_paid_before_are_not_paid_again",),
    ),
    Mutant(
        "trl-pays-abstentions",
        TRL,
        "PAID: [float(t) if ok else None for t, ok in zip(scores.totals, judged, strict=True)],",
        "PAID: [float(t) for t, ok in zip(scores.totals, judged, strict=True)],",
        (OF_TRL + "texts_that_were_cut_are_left_out_under_truncate",),
    ),
    Mutant(
        "trl-log-probs-with-padding",
        TRL,
        "[p[:n] for p, n in zip(log_probs, played.lengths.tolist(), strict=True)]",
        "[p for p, n in zip(log_probs, played.lengths.tolist(), strict=True)]",
        (OF_TRL + "log_probs_are_those_of_the_model_as_it_is_now_without_dropout",),
    ),
    Mutant(
        "trl-plays-the-same-episodes-again",
        TRL,
        "return index + len(self.env.prompts) * fresh",
        "return index + 0 * fresh",
        (OF_TRL + "members_of_a_group_and_later_calls_draw_other_noise_and_a_seed_repeats_them",),
    ),
    Mutant(
        "encoder-last-token-of-the-padding",
        f"{FOLDER}/token_encoder.py",
        "last = (there * torch.arange(size, device=ids.device)).amax(dim=1)",
        "last = torch.full((len(ids),), size - 1, device=ids.device)",
        (OF_TOKEN_ENCODER + "the_last_token_is_read_however_much_padding_follows",),
    ),
    Mutant(
        "reference-mask-of-row-numbers",
        f"{FOLDER}/reference_mask.py",
        "self._lengths[prefixes.rows] = prefixes.lengths",
        "self._lengths[: len(prefixes.lengths)] = prefixes.lengths",
        (OF_REFERENCE_MASK + "only_the_references_top_k_may_be_drawn_at_every_step",),
    ),
    Mutant(
        "same-step-statistics-skip-a-token",
        f"{FOLDER}/episode_statistics.py",
        "            self.prev_dones = np.zeros_like(self.prev_dones)\n",
        "            pass\n",
        ("tests/agents/adapters/test_episode_statistics.py",),
    ),
    Mutant(
        "features-of-the-next-episode",
        f"{FOLDER}/features.py",
        "final[i] = _read(self._final, {k: v[None] for k, v in final[i].items()})[0]",
        "final[i] = _read(self._cache, observation)[i]",
        (OF_FEATURES + "features_are_the_uncached_hidden_states",),
    ),
]
