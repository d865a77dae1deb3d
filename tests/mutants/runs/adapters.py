"""More bugs of `text_gym.agents.adapters`: what libraries are told, masks, caches, resuming."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_KL, _ACTOR = "agents/adapters/kl_penalty.py", "agents/adapters/causal_actor_critic.py"
_ENCODER, _REFERENCE = "agents/adapters/token_encoder.py", "agents/adapters/reference_mask.py"
_TRL, _MINARI, _CLEANRL = (f"agents/adapters/{name}.py" for name in ("trl", "minari", "cleanrl"))
_STATISTICS, _FIT = "agents/adapters/episode_statistics.py", "agents/adapters/fit.py"
_BUFFER, _POLICY = "agents/adapters/sb3/buffer.py", "agents/adapters/sb3/policy.py"
_VEC_ENV, _STATE = "agents/adapters/sb3/vec_env.py", "agents/adapters/sb3/state.py"
_EVALUATION = "agents/adapters/sb3/evaluation.py"
_OF_MINARI = ("minari", "h5py", "jax")


def _of(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/agents/adapters/{name}.py" for name in names)


MUTANTS = [
    Mutant(  # survivor 5, in the wrapper
        "controller-is-fed-kl-per-token",
        _KL,
        "self._steer(self._episode_kl[ended])",
        "self._steer(log_ratio[ended])",
        _of("test_kl_penalty"),
    ),
    Mutant(
        "reference-over-policy",
        _KL,
        "return np.where(acting, own - other, 0.0)",
        "return np.where(acting, other - own, 0.0)",
        _of("test_kl_penalty"),
    ),
    Mutant(
        "beta-of-after-the-step-is-told",
        _KL,
        "        coefficient = self.controller.coefficient\n        self._episode_kl += log_ratio\n",
        "        coefficient = self.controller.coefficient + 0.0 * self._paid.sum()\n"
        "        self._steer(self._episode_kl[np.asarray(terminated | truncated)] + log_ratio[\n"
        "            np.asarray(terminated | truncated)])\n"
        "        coefficient = self.controller.coefficient\n"
        "        self._episode_kl += log_ratio\n",
        _of("test_kl_penalty"),
        more=(("        self._steer(self._episode_kl[ended])\n", ""),),
    ),
    Mutant(
        "reset-by-hand-keeps-the-episodes-kl",
        _KL,
        "        self._episode_kl[rows] = self._paid[rows] = 0.0\n",
        "",
        _of("test_kl_penalty"),
    ),
    Mutant(
        "caches-outlive-an-update",
        _ACTOR,
        "        for cache in self.caches.values():\n            cache.clear()\n",
        "        pass\n",
        _of("test_causal_actor_critic", "sb3/test_policy"),
    ),
    Mutant(
        "an-evaluation-takes-the-rollouts-cache",
        _ACTOR,
        "cache = self.caches.get(caller)\n",
        'cache = self.caches.get("play")\n',
        (
            "tests/agents/adapters/test_causal_actor_critic.py::"
            "test_a_prediction_in_the_middle_of_a_rollout_does_not_cost_the_rollout_what_it_has_read",
        ),
        more=(("cache = self.caches[caller] = PrefixCache", 'cache = self.caches["play"] = PrefixCache'),),
    ),
    Mutant(
        "states-of-padding",
        _ACTOR,
        "torch.from_numpy(n - 1).to(hidden.device)]",
        "torch.from_numpy(np.full_like(n, n.max() - 1)).to(hidden.device)]",
        _of("test_causal_actor_critic"),
    ),
    Mutant(
        "prefix-of-another-text",
        _ACTOR,
        "family[order] = longest.cumsum() - longest",
        "family[order] = longest.cumsum()",
        _of("test_causal_actor_critic"),
    ),
    Mutant(
        "mask-of-the-allowed-is-inverted",
        _ACTOR,
        "return logits.masked_fill(action_mask.to(logits.device) <= 0, -torch.inf)",
        "return logits.masked_fill(action_mask.to(logits.device) > 0, -torch.inf)",
        _of("test_causal_actor_critic", "sb3/test_masks"),
    ),
    Mutant(
        "padding-is-read-as-eos",
        _ENCODER,
        "        if attention_mask is not None:\n            there =",
        "        if attention_mask is None:\n            there =",
        _of("test_token_encoder"),
    ),
    Mutant(
        "clock-is-not-scaled",
        _ENCODER,
        "self.clock * (remaining.reshape(-1, 1) / self.limit)",
        "self.clock * remaining.reshape(-1, 1)",
        ("tests/agents/adapters/test_token_encoder.py::test_the_clock_goes_from_1_to_0_whatever_the_limit",),
    ),
    Mutant(
        "cut-texts-are-paid-by-trl",
        _TRL,
        "~(played.scores.abstained | played.truncated.cpu().numpy())",
        "~played.scores.abstained",
        _of("test_trl"),
    ),
    Mutant(
        "trl-groups-share-their-noise",
        _TRL,
        "return index + len(self.env.prompts) * fresh",
        "return index + len(self.env.prompts) * block",
        _of("test_trl"),
    ),
    Mutant(
        "trl-plays-with-dropout",
        _TRL,
        "policy = self._policy_of(model.eval(), trainer.processing_class)",
        "policy = self._policy_of(model, trainer.processing_class)",
        (
            "tests/agents/adapters/test_trl.py::"
            "test_log_probs_are_those_of_the_model_as_it_is_now_without_dropout",
        ),
    ),
    Mutant(
        "trl-temperature-ignored",
        _TRL,
        "Sampling(args.temperature, max(0, args.top_k or 0), args.top_p)",
        "Sampling(1.0, max(0, args.top_k or 0), args.top_p)",
        _of("test_trl"),
    ),
    Mutant(
        "minari-returns-the-last-reward",
        _MINARI,
        "returns.append(float(np.sum(recorded.rewards)))",
        "returns.append(float(recorded.rewards[-1]))",
        _of("test_minari"),
        needs=_OF_MINARI,
    ),
    Mutant(
        "minari-stores-what-goes-on-after-its-end",
        _MINARI,
        "if over[-2:] != [False, True]:",
        "if not over[-1]:",
        _of("test_minari"),
        needs=_OF_MINARI,
    ),
    Mutant(
        "cleanrl-clips-to-the-worse-side",
        _CLEANRL,
        "-torch.minimum(ratio * advantage, clipped * advantage).mean()",
        "-torch.maximum(ratio * advantage, clipped * advantage).mean()",
        _of("test_cleanrl"),
    ),
    Mutant(
        "context-shorter-than-the-observation",
        _FIT,
        "if policy.context is not None and width > policy.context:",
        "if policy.context is not None and width > policy.context + 1:",
        _of("test_kl_penalty", "sb3/test_policy"),
    ),
    Mutant(
        "buffer-joins-texts-of-equal-length",
        _BUFFER,
        "goes_on = same.all(axis=1) & (lengths",
        "goes_on = (lengths",
        (
            "tests/agents/adapters/sb3/test_buffer.py::"
            "test_sequences_end_with_episodes_and_rollouts_even_where_the_tokens_go_on",
        ),
    ),
    Mutant(
        "buffer-forgets-the-running-sequences",
        _BUFFER,
        "        if self.pos == self.buffer_size:\n            self._close(np.arange(self.n_envs))\n",
        "        if self.pos == self.buffer_size:\n",
        _of("sb3/test_buffer"),
    ),
    Mutant(
        "sb3-trains-the-policy-it-was-given",
        _POLICY,
        "self.language_model = copy.deepcopy(language_model)",
        "self.language_model = language_model",
        _of("sb3/test_policy"),
    ),
    Mutant(
        "sb3-entropy-of-all-tokens",
        _POLICY,
        "logits = logits.masked_fill(~allowed, -torch.inf)\n        if not self.exact_entropy:",
        "pass\n        if not self.exact_entropy:",
        _of("sb3/test_masks"),
    ),
    Mutant(
        "sb3-limit-is-no-truncation",
        _VEC_ENV,
        '"TimeLimit.truncated"] = bool(truncated[i])',
        '"TimeLimit.truncated"] = False',
        _of("sb3/test_vec_env"),
    ),
    Mutant(
        "sb3-terminal-observation-is-the-next",
        _VEC_ENV,
        'infos[i]["terminal_observation"] = final[i]',
        'infos[i]["terminal_observation"] = {k: v[i] for k, v in observation.items()}',
        _of("sb3/test_vec_env"),
    ),
    Mutant(
        "sb3-resumes-without-the-rewards-memory",
        _STATE,
        '"reward": env.reward.state_dict(),',
        '"reward": {},',
        _of("sb3/test_checkpoint"),
    ),
    Mutant(
        "sb3-resumes-without-numpys-generator",
        _STATE,
        '    np.random.set_state({**generator, "state": state})  # noqa: NPY002\n',
        "",
        _of("sb3/test_checkpoint"),
    ),
    Mutant(
        "sb3-checkpoint-without-the-running-kl",
        _STATE,
        "            penalty.load_state_dict(state, model._last_obs)\n",
        '            penalty.controller.coefficient = state["coefficient"]\n',
        _of("sb3/test_checkpoint"),
    ),
    Mutant(
        "sb3-judged-by-its-second-text",
        _EVALUATION,
        "for i in np.flatnonzero(started).tolist() if i not in finished]",
        "for i in np.flatnonzero(started).tolist()]",
        _of("sb3/test_evaluation"),
    ),
]
