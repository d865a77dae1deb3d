"""Bugs in text_gym/tasks and text_gym/models: rewards that are known exactly, laws, guards, loading."""

from __future__ import annotations

from .mutant import Mutant

FOLDER, TESTS = "text_gym/tasks", "tests/tasks"
CLASSIC, ENUMERABLE = f"{FOLDER}/classic.py", f"{FOLDER}/enumerable.py"
PRODUCTS, JSON = f"{FOLDER}/products.py", f"{FOLDER}/json_format.py"
RUNTIME, KV = "text_gym/models/runtime.py", "text_gym/models/kv_cache.py"
OF_CLASSIC = (f"{TESTS}/test_classic.py",)
OF_ENUMERABLE = (f"{TESTS}/test_enumerable.py",)
OF_PRODUCTS = (f"{TESTS}/test_products.py",)
OF_JSON = (f"{TESTS}/test_json_format.py",)

MUTANTS = [
    Mutant(
        "answers-are-one-place-short",
        CLASSIC,
        " + [episode.tokenizer.eos_ids]\n",
        "\n",
        OF_CLASSIC,
    ),
    Mutant(
        "exact-without-the-end",
        CLASSIC,
        "exact[i] = sum(right) == places",
        "exact[i] = sum(right) >= places - 1",
        OF_CLASSIC,
    ),
    Mutant(
        "prefix-paid-for-the-token-before",
        CLASSIC,
        "step = np.minimum(batch.steps, ids.shape[1]) - 1",
        "step = np.maximum(np.minimum(batch.steps, ids.shape[1]) - 2, 0)",
        OF_CLASSIC,
    ),
    Mutant(
        "answers-of-other-prompts-remembered",
        CLASSIC,
        "if self._answers is None or self._answers[0] is not batch.prompts:",
        "if self._answers is None:",
        OF_CLASSIC,
    ),
    Mutant(
        "random-return-without-eos-place",
        CLASSIC,
        "places = np.array(lengths) + 1.0",
        "places = np.array(lengths) + 0.0",
        OF_CLASSIC,
    ),
    Mutant(
        "held-out-inputs-are-trained-on",
        CLASSIC,
        "train = [p for i, p in enumerate(problems) if i not in chosen]",
        "train = problems",
        OF_CLASSIC,
    ),
    Mutant(
        "bracket-closers-in-order",
        f"{FOLDER}/brackets.py",
        "pending = opening[bracket] + pending",
        "pending = pending + opening[bracket]",
        (f"{TESTS}/test_brackets.py",),
    ),
    Mutant(
        "sum-one-digit-short",
        f"{FOLDER}/adding.py",
        'total = written(sum(int(number, base) for number in text.split("+")), digits + 1)',
        'total = written(sum(int(number, base) for number in text.split("+")), digits)',
        (f"{TESTS}/test_adding.py",),
    ),
    Mutant(
        "count-leaves-out-the-last",
        f"{FOLDER}/counting.py",
        "for i in range(first, second + 1))",
        "for i in range(first, second))",
        (f"{TESTS}/test_counting.py",),
    ),
    Mutant(
        "sort-by-alphabet",
        f"{FOLDER}/sorting.py",
        "sorted(text, key=symbols.index)",
        "sorted(text)",
        (f"{TESTS}/test_sorting.py",),
    ),
    Mutant(
        "phrase-in-the-prompts-order",
        f"{FOLDER}/filling.py",
        "*sorted(text.split(), key=words.index)",
        "*text.split()",
        (f"{TESTS}/test_filling.py",),
    ),
    Mutant(
        "optimum-divided-by-beta-twice",
        ENUMERABLE,
        "reference * np.exp((rewards - rewards.max()) / beta)",
        "reference * np.exp((rewards - rewards.max()) * beta)",
        OF_ENUMERABLE,
    ),
    Mutant(
        "best-of-n-of-one-less",
        ENUMERABLE,
        "chosen = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n",
        "chosen = upto ** (n - 1) - np.concatenate([[0.0], upto[:-1]]) ** (n - 1)",
        OF_ENUMERABLE,
    ),
    Mutant(
        "kl-of-the-other-direction",
        ENUMERABLE,
        "policy[written] * np.log(policy[written] / reference[written])",
        "reference[written] * np.log(reference[written] / policy[written])",
        OF_ENUMERABLE,
    ),
    Mutant(
        "ties-count-as-wins",
        ENUMERABLE,
        "wins = (np.sign(rewards[:, None] - rewards[None, :]) + 1) / 2",
        "wins = (rewards[:, None] >= rewards[None, :]) * 1.0",
        OF_ENUMERABLE,
    ),
    Mutant(
        "group-law-with-sample-std",
        ENUMERABLE,
        "group.std(axis=0), np.inf)",
        "group.std(axis=0, ddof=1), np.inf)",
        OF_ENUMERABLE,
    ),
    Mutant(
        "dpo-law-forgets-the-other-label",
        ENUMERABLE,
        "losses = preferences * np.logaddexp(0, -margins) + preferences.T * np.logaddexp(0, margins)",
        "losses = preferences * np.logaddexp(0, -margins)",
        (*OF_ENUMERABLE, "tests/agents/algorithms/test_dpo.py"),
    ),
    Mutant(
        "cut-trajectories-are-missing",
        ENUMERABLE,
        "    return finished + running\n",
        "    return finished\n",
        OF_ENUMERABLE,
    ),
    Mutant(
        "accuracy-is-the-recall",
        PRODUCTS,
        "return 2 * correct / (len(said) + len(english.SLOTS))",
        "return correct / len(english.SLOTS)",
        OF_PRODUCTS,
    ),
    Mutant(
        "repeated-mentions-are-free",
        PRODUCTS,
        "repeats = max(0, repeats) + sum(max(0, slots.count(s) - 2) for s in set(slots))",
        "repeats = max(0, repeats)",
        OF_PRODUCTS,
    ),
    Mutant(
        "torn-texts-are-clear",
        PRODUCTS,
        "end = (1.0 if whole else 0.5) *",
        "end =",
        OF_PRODUCTS,
    ),
    Mutant(
        "benefit-of-any-audience",
        PRODUCTS,
        'addressed = {m.sentence for m in mentions if m.slot == "audience" and m.value == audience}',
        'addressed = {m.sentence for m in mentions if m.slot == "audience"}',
        OF_PRODUCTS,
    ),
    Mutant(
        "pressure-from-the-first-you",
        PRODUCTS,
        "max(0, yous - 2)",
        "yous",
        OF_PRODUCTS,
    ),
    Mutant(
        "shortest-phrase-first",
        PRODUCTS,
        "options.sort(key=lambda option: -len(option[0]))",
        "options.sort(key=lambda option: len(option[0]))",
        OF_PRODUCTS,
    ),
    Mutant(
        "products-on-both-sides",
        PRODUCTS,
        "prompts=prompts[n_held_out:],",
        "prompts=prompts,",
        OF_PRODUCTS,
    ),
    Mutant(
        "json-torn-texts-paid",
        JSON,
        "        if not episode.whole:\n            return 0.0, 0.0, 0.0, 0.0\n",
        "",
        OF_JSON,
    ),
    Mutant(
        "json-duplicate-keys-hidden",
        JSON,
        "len(asked_for) / len(value) if value else 0.0",
        "len(asked_for) / len(dict(value)) if value else 0.0",
        OF_JSON,
    ),
    Mutant(
        "dropout-in-attention-overlooked",
        RUNTIME,
        "parts = [module, *module.children()]",
        "parts = [module]",
        ("tests/models/test_runtime.py",),
    ),
    Mutant(
        "guard-compares-only-the-first-weight",
        RUNTIME,
        "zip(model.named_parameters(), before, fingerprint(model), strict=True)",
        "list(zip(model.named_parameters(), before, fingerprint(model), strict=True))[:1]",
        ("tests/models/test_runtime.py",),
    ),
    Mutant(
        "infinite-weights-pass",
        RUNTIME,
        "if torch.isfinite(nn.utils.get_total_norm(list(model.parameters()))):",
        "if not torch.isnan(nn.utils.get_total_norm(list(model.parameters()))):",
        ("tests/models/test_runtime.py",),
    ),
    Mutant(
        "rewards-inside-rewards-unguarded",
        RUNTIME,
        "                search(value)\n",
        "                pass\n",
        ("tests/models/test_runtime.py",),
    ),
    Mutant(
        "shared-frozen-weights-refused",
        RUNTIME,
        "trained = {id(p) for p in policy.parameters() if p.requires_grad}",
        "trained = {id(p) for p in policy.parameters()}",
        ("tests/models/test_runtime.py", "tests/agents/policies/test_lora.py"),
    ),
    Mutant(
        "kv-cache-looks-past-its-end",
        KV,
        "beyond = torch.from_numpy(self._columns[:width] > at[:, None]).to(self._device)",
        "beyond = torch.from_numpy(self._columns[:width] > at[:, None] + 1).to(self._device)",
        ("tests/models/test_kv_cache.py", "tests/agents/sampling/test_decoder.py"),
    ),
    Mutant(
        "kv-cache-new-columns-not-cleared",
        KV,
        "                self._keys[:, :, self._used : width] = 0\n"
        "                self._values[:, :, self._used : width] = 0\n",
        "                self._keys[:, :, self._used : width] = float('nan')\n"
        "                self._values[:, :, self._used : width] = float('nan')\n",
        ("tests/models/test_kv_cache.py", "tests/agents/sampling/test_decoder.py"),
    ),
    Mutant(
        "kv-cache-keep-in-order",
        KV,
        "            self._values[target, :, : self._used] = self._values[source, :, : self._used]\n",
        "",
        ("tests/models/test_kv_cache.py", "tests/agents/sampling/test_decoder.py"),
    ),
    Mutant(
        "threads-raised",
        RUNTIME,
        "now = min(before, worthwhile_threads(models))",
        "now = worthwhile_threads(models)",
        ("tests/models/test_runtime.py",),
    ),
    Mutant(
        "quota-rounded-down",
        RUNTIME,
        "return -(-int(quota) // int(period)) if int(quota) > 0 else None",
        "return int(quota) // int(period) if int(quota) > 0 else None",
        ("tests/models/test_runtime.py",),
    ),
]
