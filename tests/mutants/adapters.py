"""Bugs in agents/adapters: the KL wrapper, and language models inside other libraries."""

from __future__ import annotations

from .mutant import Mutant

FOLDER, TESTS = "agents/adapters", "tests/agents/adapters"
KL, ACTOR, CLEANRL = f"{FOLDER}/kl_penalty.py", f"{FOLDER}/causal_actor_critic.py", f"{FOLDER}/cleanrl.py"
BUFFER, POLICY = f"{FOLDER}/sb3/buffer.py", f"{FOLDER}/sb3/policy.py"
VEC, STATE, TRL = f"{FOLDER}/sb3/vec_env.py", f"{FOLDER}/sb3/state.py", f"{FOLDER}/trl.py"
OF_KL = (f"{TESTS}/test_kl_penalty.py", f"{TESTS}/sb3/test_kl_penalty.py")
OF_ACTOR = (f"{TESTS}/test_causal_actor_critic.py", f"{TESTS}/sb3/test_policy.py")
OF_BUFFER = (f"{TESTS}/sb3/test_buffer.py", f"{TESTS}/sb3/test_policy.py")
OF_POLICY = (f"{TESTS}/sb3/test_policy.py",)

MUTANTS = [
    # Survivor 6 of the attack of 2026-11-28.
    Mutant(
        "kl-controller-fed-the-sum",
        KL,
        "self.controller.update(float(np.mean(self._finished)), len(self._finished))",
        "self.controller.update(float(np.sum(self._finished)), len(self._finished))",
        OF_KL,
    ),
    Mutant(
        "kl-penalty-is-a-bonus",
        KL,
        "rewards = np.asarray(rewards, dtype=np.float64) - coefficient * log_ratio",
        "rewards = np.asarray(rewards, dtype=np.float64) + coefficient * log_ratio",
        OF_KL,
    ),
    Mutant(
        "kl-of-episodes-runs-on",
        KL,
        "self._episode_kl[ended | redrawn] = self._paid[ended | redrawn] = 0.0",
        "self._episode_kl[redrawn] = self._paid[redrawn] = 0.0",
        OF_KL,
    ),
    Mutant(
        "kl-charged-while-restarting",
        KL,
        "        acting = ~self._over\n",
        "        acting = np.ones_like(self._over)\n",
        OF_KL,
    ),
    Mutant(
        "reference-ignores-the-mask",
        KL,
        "                logits = logits.masked_fill(~allowed, -torch.inf)\n",
        "                pass\n",
        OF_KL,
    ),
    Mutant(
        "redrawn-texts-stay-charged",
        KL,
        "        rewards[redrawn] += self._paid[redrawn]\n",
        "",
        OF_KL,
    ),
    Mutant(
        "reference-keeps-learning",
        KL,
        "self.reference = reference.frozen() if trainable else reference",
        "self.reference = reference",
        OF_KL,
    ),
    Mutant(
        "kl-memory-lost-on-resume",
        KL,
        'self._over, self._finished = np.array(state["over"], dtype=np.bool_), list(state["finished"])',
        'self._over, self._finished = np.array(state["over"], dtype=np.bool_), []',
        (*OF_KL, f"{TESTS}/sb3/test_checkpoint.py"),
    ),
    Mutant(
        "texts-share-states-after-a-fork",
        ACTOR,
        "begins_next = ((ordered[:-1] == ordered[1:]) | (columns >= sizes[:-1, None])).all(axis=1)",
        "begins_next = (ordered[:-1, 0] == ordered[1:, 0]) & (sizes[:-1] <= sizes[1:])",
        OF_ACTOR,
    ),
    Mutant(
        "terminal-values-of-the-states-before",
        ACTOR,
        "            cache.append(self.last.actions)\n",
        "            pass\n",
        OF_ACTOR,
    ),
    Mutant(
        "log-probs-not-of-what-was-drawn",
        ACTOR,
        "                log_probs = probs[:, 0].log()\n",
        "                log_probs = torch.log_softmax(logits, dim=1).amax(dim=1)\n",
        OF_ACTOR,
    ),
    Mutant(
        "critic-trains-the-language-model",
        ACTOR,
        "        with torch.no_grad():\n            states = _states(self.lm[0], tokens, length)\n",
        "        states = _states(self.lm[0], tokens, length)\n",
        (*OF_ACTOR, f"{TESTS}/test_torchrl.py"),
    ),
    Mutant(
        "evaluation-takes-the-plays-draw",
        ACTOR,
        '        if caller == "play":\n            self.last',
        "        if caller:\n            self.last",
        OF_ACTOR,
    ),
    Mutant(
        "cleanrl-bootstraps-past-ends",
        CLEANRL,
        "delta = rewards[t] + args.gamma * next_value * goes_on - values[t]",
        "delta = rewards[t] + args.gamma * next_value - values[t]",
        (f"{TESTS}/test_cleanrl.py",),
    ),
    Mutant(
        "cleanrl-advantages-flow-across-ends",
        CLEANRL,
        "args.gamma * args.gae_lambda * goes_on * advantage",
        "args.gamma * args.gae_lambda * advantage",
        (f"{TESTS}/test_cleanrl.py",),
    ),
    Mutant(
        "cleanrl-returns-run-on",
        CLEANRL,
        "            running[done] = 0.0\n",
        "",
        (f"{TESTS}/test_cleanrl.py",),
    ),
    Mutant(
        "buffer-sequences-across-episodes",
        BUFFER,
        "& (np.asarray(episode_start) == 0)",
        "",
        OF_BUFFER,
    ),
    Mutant(
        "buffer-continues-the-last-rollout",
        BUFFER,
        "            goes_on[:] = False\n",
        "            pass\n",
        OF_BUFFER,
    ),
    Mutant(
        "buffer-first-length-of-the-last-step",
        BUFFER,
        "self._first[~goes_on], self._since[~goes_on] = lengths[~goes_on], self.pos",
        "self._first[:], self._since[~goes_on] = lengths, self.pos",
        OF_BUFFER,
    ),
    Mutant(
        "sb3-states-after-the-action",
        POLICY,
        "at = first[rows] - 1 + nth",
        "at = (first[rows] + nth).clamp_max(tokens.shape[1] - 1)",
        OF_POLICY,
    ),
    Mutant(
        "sb3-cache-survives-fused-steps",
        POLICY,
        "        self._core.clear()  # an update has begun",
        "        pass  # an update has begun",
        OF_POLICY,
    ),
    Mutant(
        "sb3-dropout-in-updates",
        POLICY,
        "return super().train(False)",
        "return super().train(mode)",
        OF_POLICY,
    ),
    Mutant(
        "sb3-every-end-is-a-time-limit",
        VEC,
        'infos[i]["TimeLimit.truncated"] = bool(truncated[i])',
        'infos[i]["TimeLimit.truncated"] = bool(dones[i])',
        (f"{TESTS}/sb3/test_vec_env.py",),
    ),
    Mutant(
        "sb3-infos-of-the-next-episode",
        VEC,
        "                self.reset_infos[i] = newest[i] = {}\n",
        "                self.reset_infos[i] = {}\n",
        (f"{TESTS}/sb3/test_vec_env.py",),
    ),
    Mutant(
        "sb3-optimizer-lost-on-resume",
        STATE,
        '    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})\n',
        "",
        (f"{TESTS}/sb3/test_checkpoint.py",),
    ),
    Mutant(
        "sb3-running-episodes-unpaid-on-resume",
        STATE,
        "        batch.pay_tokens(rows)\n",
        "",
        (f"{TESTS}/sb3/test_checkpoint.py",),
    ),
    Mutant(
        "trl-pays-abstentions",
        TRL,
        "PAID: [float(t) if ok else None for t, ok in zip(scores.totals, judged, strict=True)],",
        "PAID: [float(t) for t, ok in zip(scores.totals, judged, strict=True)],",
        (f"{TESTS}/test_trl.py",),
    ),
    Mutant(
        "trl-log-probs-with-padding",
        TRL,
        '"logprobs": [p[:n] for p, n in zip(log_probs, played.lengths.tolist(), strict=True)],',
        '"logprobs": [p for p, n in zip(log_probs, played.lengths.tolist(), strict=True)],',
        (f"{TESTS}/test_trl.py",),
    ),
    Mutant(
        "trl-plays-the-same-episodes-again",
        TRL,
        "return index + len(self.env.prompts) * fresh",
        "return index + 0 * fresh",
        (f"{TESTS}/test_trl.py",),
    ),
    Mutant(
        "encoder-last-token-of-the-padding",
        f"{FOLDER}/token_encoder.py",
        "last = (there * torch.arange(size, device=ids.device)).amax(dim=1)",
        "last = torch.full((len(ids),), size - 1, device=ids.device)",
        (f"{TESTS}/test_token_encoder.py",),
    ),
    Mutant(
        "reference-mask-of-row-numbers",
        f"{FOLDER}/reference_mask.py",
        "self._lengths[prefixes.rows] = prefixes.lengths",
        "self._lengths[: len(prefixes.lengths)] = prefixes.lengths",
        (f"{TESTS}/test_reference_mask.py",),
    ),
    Mutant(
        "same-step-statistics-skip-a-token",
        f"{FOLDER}/episode_statistics.py",
        "            self.prev_dones = np.zeros_like(self.prev_dones)\n",
        "            pass\n",
        (f"{TESTS}/test_episode_statistics.py",),
    ),
    Mutant(
        "features-of-the-next-episode",
        f"{FOLDER}/features.py",
        "final[i] = _read(self._final, {k: v[None] for k, v in final[i].items()})[0]",
        "final[i] = _read(self._cache, observation)[i]",
        (f"{TESTS}/test_features.py",),
    ),
]
