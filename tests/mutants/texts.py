"""Bugs in tokenizers, episodes, data, and text_gym/utils: intervals, display, sealed folders, locks."""

from __future__ import annotations

from .mutant import Mutant

TOKENIZER, EPISODE, DATA = "text_gym/tokenizer.py", "text_gym/episode.py", "text_gym/data.py"
UTILS, TESTS = "text_gym/utils", "tests/utils"
DISPLAY, INTERVAL, SEALED = f"{UTILS}/display.py", f"{UTILS}/interval.py", f"{UTILS}/sealed.py"
LOCKING, STOPPING, JSON = f"{UTILS}/locking.py", f"{UTILS}/stopping.py", f"{UTILS}/json_files.py"
LIMITS, PROCESSES = f"{UTILS}/limits.py", f"{UTILS}/processes.py"
OF_TOKENIZER = ("tests/test_tokenizer.py",)
OF_INTERVAL = (f"{TESTS}/test_interval.py",)
OF_SEALED = (f"{TESTS}/test_sealed.py",)

MUTANTS = [
    # Survivors 7, 8, 15 and 16 of the attack of 2026-11-28.
    Mutant(
        "only-the-first-eos-id-of-a-model",
        TOKENIZER,
        "eos_ids = eos if isinstance(eos, list) else [eos]",
        "eos_ids = eos[:1] if isinstance(eos, list) else [eos]",
        OF_TOKENIZER,
    ),
    Mutant(
        "eos-ids-of-generation-config-ignored",
        TOKENIZER,
        'eos = generation.get("eos_token_id", special["eos"])',
        'eos = special["eos"]',
        OF_TOKENIZER,
    ),
    Mutant(
        "fingerprint-ignores-ids",
        TOKENIZER,
        "return _digest(sorted(self.backend.get_vocab(with_added_tokens=True).items()))",
        "return _digest(sorted(self.backend.get_vocab(with_added_tokens=True)))",
        OF_TOKENIZER,
    ),
    Mutant(
        "fingerprint-of-words-ignores-their-order",
        TOKENIZER,
        "self.fingerprint = _digest([self.words, separator, pad])",
        "self.fingerprint = _digest([sorted(self.words), separator, pad])",
        OF_TOKENIZER,
    ),
    Mutant(
        "vocabulary-with-a-gap-counted",
        TOKENIZER,
        "self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1",
        "self.vocab_size = len(backend.get_vocab(with_added_tokens=True))",
        OF_TOKENIZER,
    ),
    Mutant(
        "line-separators-shown-raw",
        DISPLAY,
        '_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})',
        '_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})',
        (f"{TESTS}/test_display.py",),
    ),
    Mutant(
        "display-cuts-nothing",
        DISPLAY,
        "        text = text[:limit]\n",
        "        pass\n",
        (f"{TESTS}/test_display.py",),
    ),
    Mutant(
        "special-tokens-added-to-prompts",
        TOKENIZER,
        "self.backend.encode(text, add_special_tokens=False)",
        "self.backend.encode(text)",
        OF_TOKENIZER,
    ),
    Mutant(
        "copies-take-eos-written-out-as-eos",
        TOKENIZER,
        "        self.backend.encode_special_tokens = splits\n",
        "        pass\n",
        OF_TOKENIZER,
    ),
    Mutant(
        "trained-tokenizer-takes-eos-written-out",
        TOKENIZER,
        "        backend.encode_special_tokens = True\n",
        "",
        OF_TOKENIZER,
    ),
    Mutant(
        "bytes-broken-across-utf-8-vanish",
        TOKENIZER,
        'return text.decode("utf-8", errors="replace")',
        'return text.decode("utf-8", errors="ignore")',
        OF_TOKENIZER,
    ),
    Mutant(
        "eos-is-part-of-the-text",
        EPISODE,
        "            del ids[-1]\n",
        "            pass\n",
        ("tests/test_episode.py", *OF_TOKENIZER),
    ),
    Mutant(
        "cut-at-the-last-stop-string",
        EPISODE,
        "text[: text.find(self.stop)]",
        "text[: text.rfind(self.stop)]",
        ("tests/test_episode.py", "tests/envs/test_episode_batch.py"),
    ),
    Mutant(
        "cut-texts-are-whole",
        EPISODE,
        'return self.finish_reason in ("eos", "stop")',
        "return self.finish_reason is not None",
        ("tests/test_episode.py", "tests/tasks/test_products.py"),
    ),
    Mutant(
        "torn-transcripts-end-with-eos",
        EPISODE,
        'torn = reason not in ("eos", "stop") and bool(whole.tokenizer.eos_ids)',
        "torn = False",
        ("tests/test_episode.py",),
    ),
    Mutant(
        "ids-of-another-tokenizer-kept",
        EPISODE,
        'if row.get("tokenizer") != tokenizer.fingerprint:',
        'if not row.get("tokenizer"):',
        ("tests/test_episode.py",),
    ),
    Mutant(
        "json-lines-split-at-line-separators",
        DATA,
        'enumerate(_text(path).split("\\n"), 1)',
        "enumerate(_text(path).splitlines(), 1)",
        ("tests/test_data.py",),
    ),
    Mutant(
        "split-by-row-not-by-id",
        DATA,
        'hashlib.sha256(f"{seed}\\n{p.id}".encode())',
        'hashlib.sha256(f"{seed}\\n{p.text}{p.columns}".encode())',
        ("tests/tasks/test_task.py",),
    ),
    Mutant(
        "split-ignores-the-seed",
        DATA,
        'hashlib.sha256(f"{seed}\\n{p.id}".encode())',
        "hashlib.sha256(p.id.encode())",
        ("tests/tasks/test_task.py",),
    ),
    Mutant(
        "split-may-be-empty",
        DATA,
        '        border = min(max(border, ordered[0] + b"\\0"), ordered[-1])\n',
        "        pass\n",
        ("tests/tasks/test_task.py",),
    ),
    Mutant(
        "a-prompt-keeps-its-last-reference",
        DATA,
        'columns.setdefault("references", []).append(row[reference])',
        'columns["references"] = [row[reference]]',
        ("tests/test_data.py",),
    ),
    Mutant(
        "interval-of-ninety-percent",
        INTERVAL,
        "np.quantile(drawn, [0.025, 0.975], method=quantiles)",
        "np.quantile(drawn, [0.05, 0.95], method=quantiles)",
        OF_INTERVAL,
    ),
    Mutant(
        "resamples-without-replacement",
        INTERVAL,
        "g[rng.integers(len(g), size=(count, len(g)))]",
        "rng.permuted(np.tile(g, (count, 1)), axis=1)",
        OF_INTERVAL,
    ),
    Mutant(
        "groups-resampled-together",
        INTERVAL,
        "groups = [np.arange(observations)] if isinstance(observations, int) else list(observations)",
        "groups = [\n        np.arange(observations) if isinstance(observations, int)"
        " else np.concatenate(list(observations))\n    ]",
        OF_INTERVAL,
    ),
    Mutant(
        "every-resample-but-one",
        INTERVAL,
        "choices = [g[np.indices([len(g)] * len(g)).reshape(len(g), -1).T] for g in groups]",
        "choices = [g[np.indices([len(g)] * len(g)).reshape(len(g), -1).T[1:]] for g in groups]",
        OF_INTERVAL,
    ),
    Mutant(
        "correlation-of-values-not-ranks",
        INTERVAL,
        "ranks = rankdata(columns[:, rows], axis=-1)",
        "ranks = columns[:, rows].astype(float)",
        OF_INTERVAL,
    ),
    Mutant(
        "partial-correlation-without-controls",
        INTERVAL,
        "left = pair - cross @",
        "left = pair - 0 * cross @",
        OF_INTERVAL,
    ),
    Mutant(
        "mean-with-not-a-number",
        INTERVAL,
        "known = values[~np.isnan(values)]",
        "known = np.nan_to_num(values)",
        OF_INTERVAL,
    ),
    Mutant(
        "altered-bytes-of-the-same-length",
        SEALED,
        '        if digest != sealed["sha256"]:\n',
        '        if digest != sealed["sha256"] and size != sealed["bytes"]:\n',
        OF_SEALED,
    ),
    Mutant(
        "an-altered-manifest-is-taken",
        SEALED,
        "intact = bool(_render(manifest) == text)",
        'intact = bool(manifest["files"])',
        OF_SEALED,
    ),
    Mutant(
        "replaced-folder-not-restored",
        SEALED,
        "        if not folder.exists():\n            old.rename(folder)\n",
        "        if folder.exists():\n            old.rename(folder)\n",
        OF_SEALED,
    ),
    Mutant(
        "half-written-file-appears",
        SEALED,
        '    partial = _beside(file, "partial")\n',
        "    partial = file\n",
        OF_SEALED,
    ),
    Mutant(
        "lock-file-removed-while-another-waits",
        LOCKING,
        "if os.path.samestat(os.fstat(stream.fileno()), self.file.stat()):",
        "if stream:",
        (f"{TESTS}/test_locking.py",),
    ),
    Mutant(
        "second-signal-waits-too",
        STOPPING,
        "if not self._patient or self.signal is not None:",
        "if not self._patient:",
        (f"{TESTS}/test_stopping.py",),
    ),
    Mutant(
        "status-of-the-signal-alone",
        STOPPING,
        "raise SystemExit(128 + int(number or 0))",
        "raise SystemExit(int(number or 0))",
        (f"{TESTS}/test_stopping.py",),
    ),
    Mutant(
        "ignored-signals-are-caught",
        STOPPING,
        "if signal.getsignal(number) is not signal.SIG_IGN:",
        "if signal.getsignal(number) is not None:",
        (f"{TESTS}/test_stopping.py",),
    ),
    Mutant(
        "infinity-in-json",
        JSON,
        "if isinstance(value, float) and not math.isfinite(value):",
        "if isinstance(value, float) and math.isnan(value):",
        (f"{TESTS}/test_json_files.py",),
    ),
    Mutant(
        "sandbox-inherits-keys",
        LIMITS,
        "kept = {k: os.environ[k] for k in sorted(_INHERITED) if k in os.environ}",
        "kept = dict(os.environ)",
        (f"{TESTS}/test_limits.py", f"{TESTS}/test_sandbox.py"),
    ),
    Mutant(
        "refusal-read-without-its-kind",
        LIMITS,
        "if limit is not None and _lifted(limits)[limit]:",
        "if limit is not None and not _lifted(limits)[limit]:",
        (f"{TESTS}/test_limits.py", f"{TESTS}/test_sandbox.py"),
    ),
]
