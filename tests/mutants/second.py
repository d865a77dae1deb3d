"""A second set of 30 bugs, all over the package, by somebody who had not read the others."""

from __future__ import annotations

from .mutant import Mutant

ALGORITHMS, SAMPLING = "tests/agents/algorithms", "tests/agents/sampling"
CPU, ENVS, REWARDS = "tests/models/cpu", "tests/envs", "tests/rewards"

MUTANTS = [
    # Environments, prompts and conversations.
    Mutant(
        "short-prompts-are-said-to-have-lost-tokens",
        "text_gym/envs/prompts.py",
        "self.dropped = written - self.lengths",
        "self.dropped = written - self.width",
        (f"{ENVS}/test_prompts.py",),
    ),
    Mutant(
        "conversations-of-later-chunks-are-read-from-the-first",
        "text_gym/prompts.py",
        "_read(self[start + i])",
        "_read(self[i])",
        ("tests/test_prompts.py",),
    ),
    Mutant(
        "batches-of-another-encode-are-inherited",
        "text_gym/encoding.py",
        'return "encode_batch" in vars(kind)',
        'return hasattr(kind, "encode_batch")',
        ("tests/test_encoding.py",),
    ),
    Mutant(
        "global-stream-goes-on-from-the-last-number-not-the-largest",
        "text_gym/envs/streams.py",
        "self._next[:] = index.max() + 1",
        "self._next[:] = index[-1] + 1",
        (f"{ENVS}/test_streams.py",),
    ),
    Mutant(
        "stop-strings-are-sought-in-as-many-tokens-as-characters",
        "text_gym/envs/episode_batch.py",
        "window = 4 * max(map(len, self.stop)) + 8",
        "window = max(map(len, self.stop)) + 8",
        (f"{ENVS}/test_episode_batch.py",),
    ),
    Mutant(
        "shortest-json-leaves-no-room-for-eos",
        "text_gym/envs/masks.py",
        "if len(shortest) + 1 > max_tokens:",
        "if len(shortest) > max_tokens:",
        (f"{ENVS}/test_masks.py",),
    ),
    Mutant(
        "a-character-that-a-message-has-stands-for-a-special-token",
        "text_gym/chat.py",
        "range(0xF0000, 0xFFFFE) if chr(i) not in contents)",
        "range(0xF0000, 0xFFFFE))",
        ("tests/test_chat.py",),
    ),
    Mutant(
        "turns-of-a-row-share-their-columns",
        "text_gym/data.py",
        "chat.prompt(asked, separator, dict(columns))",
        "chat.prompt(asked, separator, columns)",
        ("tests/test_data.py",),
    ),
    # Sampling.
    Mutant(
        "one-step-past-the-end-is-recorded",
        "agents/sampling/sampler.py",
        "torch.arange(self._batch.max_tokens) >= lengths[:, None]",
        "torch.arange(self._batch.max_tokens) > lengths[:, None]",
        (f"{SAMPLING}/test_sampler.py", f"{SAMPLING}/test_rollout.py"),
    ),
    Mutant(
        "eight-bit-rollouts-are-read-again-at-temperature-one",
        "agents/sampling/sampler.py",
        "read_again(policy, batch, sampling.temperature, keep_states, masks)",
        "read_again(policy, batch, 1.0, keep_states, masks)",
        (f"{SAMPLING}/test_rollout_weights.py",),
    ),
    Mutant(
        "seeds-of-a-generator-forget-the-seed",
        "agents/sampling/generators.py",
        "keys = (np.array([seed & (2**64 - 1), k], dtype=np.uint64) for k in episode_index.tolist())",
        "keys = (np.array([0, k], dtype=np.uint64) for k in episode_index.tolist())",
        (f"{SAMPLING}/test_generators.py",),
    ),
    Mutant(
        "gap-to-the-generator-is-shared-with-padding",
        "agents/sampling/generators.py",
        "(theirs - ours).abs().sum() / int((batch.lengths - batch.starts).sum())",
        "(theirs - ours).abs().mean()",
        (f"{SAMPLING}/test_generators.py",),
    ),
    Mutant(
        "one-window-of-attention-is-overlooked-without-the-other",
        "agents/sampling/decoder.py",
        "if any(window is not None and window < width for window in windows):",
        "if all(window is not None and window < width for window in windows):",
        (f"{SAMPLING}/test_decoder.py",),
    ),
    # Algorithms, policies, training.
    Mutant(
        "kl-far-below-its-target-is-not-clipped",
        "agents/algorithms/estimators.py",
        "min(max(kl / self.target - 1.0, -0.2), 0.2)",
        "min(kl / self.target - 1.0, 0.2)",
        (f"{ALGORITHMS}/test_estimators.py",),
    ),
    Mutant(
        "rounding-noise-of-a-large-constant-is-whitened",
        "agents/algorithms/estimators.py",
        "torch.finfo(x.dtype).eps * (1 + mean.abs())",
        "torch.finfo(x.dtype).eps",
        (f"{ALGORITHMS}/test_estimators.py",),
    ),
    Mutant(
        "weights-stay-in-bfloat16-after-an-error",
        "agents/sampling/decoder.py",
        "    try:\n        yield\n    finally:\n        for",
        "    yield\n    if kept:\n        for",
        ("tests/agents/sampling/test_precision.py",),
    ),
    Mutant(
        "value-head-of-an-old-version-stays-beside-the-model",
        "agents/policies/heads.py",
        "(folder / FILE).unlink(missing_ok=True)",
        "(folder / FOLDER / FILE).with_suffix('.tmp').unlink(missing_ok=True)",
        ("tests/agents/policies/test_policy.py",),
    ),
    Mutant(
        "parts-of-an-update-are-planned-larger-than-the-batch",
        "agents/training/memory_plan.py",
        "tokens = min(rows, s.micro_batch_size) * width",
        "tokens = s.micro_batch_size * width",
        ("tests/agents/training/test_memory_plan.py",),
    ),
    # Rewards and reward models.
    Mutant(
        "cache-forgets-the-first-not-the-least-recently-used",
        "text_gym/rewards/cache.py",
        "            for key in known:\n                self._kept.move_to_end(key)\n",
        "",
        (f"{REWARDS}/test_cache.py",),
    ),
    Mutant(
        "length-counts-tokens-that-the-agent-did-not-write",
        "text_gym/rewards/transforms.py",
        "else int(m.sum()) for e, m",
        "else len(m) for e, m",
        (f"{REWARDS}/test_transforms.py",),
    ),
    Mutant(
        "queueing-again-lowers-how-many-answers-are-wanted",
        "reward_models/labels/store.py",
        "max(found[5], priority), max(found[6], overlap))",
        "max(found[5], priority), overlap)",
        ("tests/reward_models/labels/test_store.py",),
    ),
    Mutant(
        "lowest-mark-of-zero-in-a-rubric-is-the-default",
        "reward_models/judge/criteria.py",
        'if row.get(k) not in (None, "")}',
        "if row.get(k)}",
        ("tests/reward_models/judge/test_judge.py::test_a_judge_described_by_environment_variables",),
    ),
    Mutant(
        "ordinal-thresholds-start-at-the-share-strictly-below",
        "reward_models/learned/losses.py",
        "(column <= level).mean()",
        "(column < level).mean()",
        ("tests/reward_models/learned/test_losses.py",),
    ),
    Mutant(
        "page-takes-back-the-first-answer-given-not-the-latest",
        "reward_models/page/static/page.js",
        "  delete values[name]; // the latest comes last: undo takes it first\n",
        "",
        ("tests/test_page.py::test_every_key_of_the_help",),
    ),
    # The bench, runs, rounds of RLHF, adapters.
    Mutant(
        "degrees-of-freedom-are-those-of-the-largest-sample",
        "text_gym/bench/analysis/statistics.py",
        "counts[np.isfinite(values[g]).any(axis=0)].min()) - 1",
        "counts[np.isfinite(values[g]).any(axis=0)].max()) - 1",
        ("tests/bench/analysis/test_statistics.py",),
    ),
    Mutant(
        "first-look-at-the-kl-is-of-all-texts",
        "text_gym/runs/judgement.py",
        "before.sampled.episode_kl[:count].mean()",
        "before.sampled.episode_kl.mean()",
        ("tests/runs/test_judgement.py",),
    ),
    Mutant(
        "objective-before-a-round-forgets-beta",
        "text_gym/rlhf/measures.py",
        '"objective": totals - beta * kl}',
        '"objective": totals - kl}',
        ("tests/rlhf/test_measures.py",),
    ),
    Mutant(
        "new-episode-that-goes-on-from-the-last-by-chance-is-joined-to-it",
        "agents/adapters/sb3/buffer.py",
        " & (np.asarray(episode_start) == 0)",
        "",
        ("tests/agents/adapters/sb3/test_buffer.py",),
    ),
    # Kernels.
    Mutant(
        "values-of-large-gates-get-the-gradient-of-clipped-ones",
        "text_gym/models/cpu/kernels.c",
        "of_values[j] = slopes[j] * gates[j] * gate(gates[j]);",
        "of_values[j] = slopes[j] * h * s;",
        (f"{CPU}/test_kernels.py", f"{CPU}/test_operators.py"),
    ),
    Mutant(
        "scales-of-a-last-narrow-panel-have-no-room",
        "text_gym/models/cpu/int8.py",
        "panels = scales + 4 * self._width * -(-outputs // self._width)",
        "panels = scales + 4 * self._width * (outputs // self._width)",
        (f"{CPU}/test_int8.py",),
    ),
]
