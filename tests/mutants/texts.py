"""Bugs in tokenizers, episodes, data, and text_gym/utils: intervals, display, sealed folders, locks."""

from __future__ import annotations

from .mutant import Mutant

TOKENIZER, EPISODE, DATA = "text_gym/tokenizer.py", "text_gym/episode.py", "text_gym/data.py"
UTILS = "text_gym/utils"
DISPLAY, INTERVAL, SEALED = f"{UTILS}/display.py", f"{UTILS}/interval.py", f"{UTILS}/sealed.py"
LOCKING, STOPPING, JSON = f"{UTILS}/locking.py", f"{UTILS}/stopping.py", f"{UTILS}/json_files.py"
LIMITS, PROCESSES = f"{UTILS}/limits.py", f"{UTILS}/processes.py"
OF_DATA = "tests/test_data.py::test_"
OF_DISPLAY = "tests/utils/test_display.py::test_"
OF_EPISODE = "tests/test_episode.py::test_"
OF_INTERVAL = "tests/utils/test_interval.py::test_"
OF_JSON_FILES = "tests/utils/test_json_files.py::test_"
OF_LIMITS = "tests/utils/test_limits.py::test_"
OF_SEALED = "tests/utils/test_sealed.py::test_"
OF_STOPPING = "tests/utils/test_stopping.py::test_"
OF_TASK = "tests/tasks/test_task.py::test_"
OF_TOKENIZER = "tests/test_tokenizer.py::test_"
OF_VECTOR = "tests/envs/test_vector.py::test_"

MUTANTS = [
    # Survivors 7, 8, 15 and 16 of the attack of 2026-11-28.
    Mutant(
        "only-the-first-eos-id-of-a-model",
        TOKENIZER,
        'eos_ids = [*(eos if isinstance(eos, list) else [eos]), special["eos"]]',
        'eos_ids = [*(eos[:1] if isinstance(eos, list) else [eos]), special["eos"]]',
        (OF_TOKENIZER + "every_end_of_text_that_a_model_names_ends_an_episode",),
    ),
    Mutant(
        "eos-ids-of-generation-config-ignored",
        TOKENIZER,
        'eos = generation.get("eos_token_id")',
        "eos = None",
        (OF_TOKENIZER + "every_end_of_text_that_a_model_names_ends_an_episode",),
    ),
    Mutant(
        "fingerprint-ignores-ids",
        TOKENIZER,
        "return _digest(sorted(self.backend.get_vocab(with_added_tokens=True).items()))",
        "return _digest(sorted(self.backend.get_vocab(with_added_tokens=True)))",
        (OF_TOKENIZER + "fingerprints_tell_the_ids_of_the_same_tokens_apart",),
    ),
    Mutant(
        "fingerprint-of-words-ignores-their-order",
        TOKENIZER,
        "self.fingerprint = _digest([self.words, separator, pad])",
        "self.fingerprint = _digest([sorted(self.words), separator, pad])",
        (OF_TOKENIZER + "fingerprints_tell_vocabularies_apart",),
    ),
    Mutant(
        "vocabulary-with-a-gap-counted",
        TOKENIZER,
        "self.vocab_size = max(vocabulary.values()) + 1",
        "self.vocab_size = len(vocabulary)",
        (OF_TOKENIZER + "a_gap_in_the_ids_belongs_to_the_vocabulary",),
    ),
    Mutant(
        "line-separators-shown-raw",
        DISPLAY,
        '_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})',
        '_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})',
        (OF_DISPLAY + "by_hand",),
    ),
    Mutant(
        "display-cuts-nothing",
        DISPLAY,
        "        text = text[:limit]\n",
        "        pass\n",
        (OF_DISPLAY + "a_long_text_is_cut_and_says_by_how_much",),
    ),
    Mutant(
        "special-tokens-added-to-prompts",
        TOKENIZER,
        "self.backend.encode(text, add_special_tokens=False)",
        "self.backend.encode(text)",
        (OF_TOKENIZER + "special_tokens_that_a_tokenizer_would_add_are_left_out",),
    ),
    Mutant(
        "copies-take-eos-written-out-as-eos",
        TOKENIZER,
        "        self.backend.encode_special_tokens = splits\n",
        "        pass\n",
        (OF_TOKENIZER + "fingerprints_tell_vocabularies_apart",),
    ),
    Mutant(
        "trained-tokenizer-takes-eos-written-out",
        TOKENIZER,
        "        backend.encode_special_tokens = True\n",
        "",
        (
            OF_TOKENIZER + "any_text_comes_back",
            OF_TOKENIZER + "special_tokens_have_ids_zero_and_one",
            OF_TOKENIZER + "fingerprints_tell_vocabularies_apart",
        ),
    ),
    Mutant(
        "bytes-broken-across-utf-8-vanish",
        TOKENIZER,
        'return text.decode("utf-8", errors="replace")',
        'return text.decode("utf-8", errors="ignore")',
        (OF_TOKENIZER + "any_bytes_have_a_text_and_special_ids_have_none",),
    ),
    Mutant(
        "eos-is-part-of-the-text",
        EPISODE,
        "            del ids[-1]\n",
        "            pass\n",
        (OF_TOKENIZER + "an_environment_masks_by_length_and_trains_on_the_real_eos",),
    ),
    Mutant(
        "cut-at-the-last-stop-string",
        EPISODE,
        "text[: text.find(self.stop, begin)]",
        "text[: text.rfind(self.stop, begin)]",
        (
            OF_EPISODE + "the_completion_leaves_eos_and_the_stop_string_out",
            OF_VECTOR + "a_stop_string_in_the_middle_of_a_token_ends_the_text_there",
        ),
    ),
    Mutant(
        "cut-texts-are-whole",
        EPISODE,
        'return self.finish_reason in ("eos", "stop", "reply")',
        "return self.finish_reason is not None",
        (OF_EPISODE + "an_episode_is_done_once_it_has_a_reason_and_whole_unless_it_was_cut",),
    ),
    Mutant(
        "torn-transcripts-end-with-eos",
        "text_gym/transcripts.py",
        'torn = reason not in ("eos", "stop") and bool(whole.tokenizer.eos_ids)',
        "torn = False",
        (
            OF_EPISODE + "transcripts_of_another_tokenizer_keep_the_texts_and_not_the_ids",
            OF_EPISODE + "endings_and_origin_are_kept",
        ),
    ),
    Mutant(
        "ids-of-another-tokenizer-kept",
        "text_gym/transcripts.py",
        'if row.get("tokenizer") != tokenizer.fingerprint:',
        'if not row.get("tokenizer"):',
        (OF_EPISODE + "transcripts_of_another_tokenizer_keep_the_texts_and_not_the_ids",),
    ),
    Mutant(
        "json-lines-split-at-line-separators",
        DATA,
        "enumerate(file, 1)",
        "enumerate(file.read().splitlines(), 1)",
        (OF_DATA + "lines_of_json_end_at_line_feeds_alone",),
    ),
    Mutant(
        "split-by-row-not-by-id",
        DATA,
        'hashlib.sha256(f"{seed}\\n{p.id}".encode())',
        'hashlib.sha256(f"{seed}\\n{p.text}{p.columns}".encode())',
        (OF_TASK + "an_id_stays_on_its_side_whatever_its_texts_are",),
    ),
    Mutant(
        "split-ignores-the-seed",
        DATA,
        'hashlib.sha256(f"{seed}\\n{p.id}".encode())',
        "hashlib.sha256(p.id.encode())",
        (OF_TASK + "a_split_has_about_the_share_asked_for_and_follows_the_seed",),
    ),
    Mutant(
        "split-may-be-empty",
        DATA,
        '        border = min(max(border, lowest + b"\\0"), highest)\n',
        "        pass\n",
        (OF_TASK + "a_split_shares_no_prompt_loses_none_and_keeps_the_order",),
    ),
    Mutant(
        "a-prompt-keeps-its-last-reference",
        DATA,
        'cast("dict[str, Any]", known.columns).setdefault("references", []).append(reply)',
        'cast("dict[str, Any]", known.columns)["references"] = [reply]',
        (OF_DATA + "references_of_one_prompt_are_gathered",),
    ),
    Mutant(
        "interval-of-ninety-percent",
        INTERVAL,
        "np.quantile(drawn, [0.025, 0.975], method=quantiles)",
        "np.quantile(drawn, [0.05, 0.95], method=quantiles)",
        (OF_INTERVAL + "the_bootstrap_is_scipys",),
    ),
    Mutant(
        "resamples-without-replacement",
        INTERVAL,
        "g[rng.integers(len(g), size=(count, len(g)))]",
        "rng.permuted(np.tile(g, (count, 1)), axis=1)",
        (OF_INTERVAL + "the_bootstrap_is_scipys",),
    ),
    Mutant(
        "groups-resampled-together",
        INTERVAL,
        "groups = [np.arange(observations)] if isinstance(observations, int) else list(observations)",
        "groups = [\n        np.arange(observations) if isinstance(observations, int)"
        " else np.concatenate(list(observations))\n    ]",
        (OF_INTERVAL + "few_observations_are_resampled_in_every_way",),
    ),
    Mutant(
        "every-resample-but-one",
        INTERVAL,
        "choices = [g[np.indices([len(g)] * len(g)).reshape(len(g), -1).T] for g in groups]",
        "choices = [g[np.indices([len(g)] * len(g)).reshape(len(g), -1).T[1:]] for g in groups]",
        (OF_INTERVAL + "few_observations_are_resampled_in_every_way",),
    ),
    Mutant(
        "correlation-of-values-not-ranks",
        INTERVAL,
        "ranks = rankdata(columns[:, rows], axis=-1)",
        "ranks = columns[:, rows].astype(float)",
        (OF_INTERVAL + "partial_correlations_against_residuals",),
    ),
    Mutant(
        "partial-correlation-without-controls",
        INTERVAL,
        "left = pair - cross @",
        "left = pair - 0 * cross @",
        (OF_INTERVAL + "partial_correlations_against_the_first_order_formula",),
    ),
    Mutant(
        "mean-with-not-a-number",
        INTERVAL,
        "known = values[~np.isnan(values)]",
        "known = np.nan_to_num(values)",
        (OF_INTERVAL + "means_and_their_intervals",),
    ),
    Mutant(
        "altered-bytes-of-the-same-length",
        SEALED,
        '        if digest != sealed["sha256"]:\n',
        '        if digest != sealed["sha256"] and size != sealed["bytes"]:\n',
        (OF_SEALED + "any_change_of_a_file_is_detected",),
    ),
    Mutant(
        "an-altered-manifest-is-taken",
        SEALED,
        "intact = bool(_render(manifest) == text)",
        'intact = bool(manifest["files"])',
        (OF_SEALED + "a_format_of_the_future_is_not_taken_for_damage",),
    ),
    Mutant(
        "replaced-folder-not-restored",
        SEALED,
        "        if not folder.exists():\n            old.rename(folder)\n",
        "        if folder.exists():\n            old.rename(folder)\n",
        (OF_SEALED + "at_whatever_call_it_fails_the_old_folder_stays_or_the_new_one_is_there",),
    ),
    Mutant(
        "half-written-file-appears",
        SEALED,
        '    partial = _beside(file, "partial")\n',
        "    partial = file\n",
        (OF_SEALED + "a_small_file_is_old_or_new",),
    ),
    Mutant(
        "lock-file-removed-while-another-waits",
        LOCKING,
        "if os.path.samestat(os.fstat(stream.fileno()), self.file.stat()):",
        "if stream:",
        ("tests/utils/test_locking.py::test_a_file_that_its_holder_has_just_removed_locks_nothing",),
    ),
    Mutant(
        "second-signal-waits-too",
        STOPPING,
        "if not self._patient or self.signal is not None:",
        "if not self._patient:",
        (OF_STOPPING + "a_second_signal_does_not_wait",),
    ),
    Mutant(
        "status-of-the-signal-alone",
        STOPPING,
        "raise SystemExit(128 + int(number or 0))",
        "raise SystemExit(int(number or 0))",
        (OF_STOPPING + "work_in_progress_is_ended_first",),
    ),
    Mutant(
        "ignored-signals-are-caught",
        STOPPING,
        "if signal.getsignal(number) is not signal.SIG_IGN:",
        "if signal.getsignal(number) is not None:",
        (OF_STOPPING + "handlers_are_put_back_and_nohup_is_respected",),
    ),
    Mutant(
        "infinity-in-json",
        JSON,
        "if isinstance(value, float) and not math.isfinite(value):",
        "if isinstance(value, float) and math.isnan(value):",
        (OF_JSON_FILES + "numbers_that_json_lacks_become_null_at_any_depth",),
    ),
    Mutant(
        "sandbox-inherits-keys",
        LIMITS,
        "kept = {k: os.environ[k] for k in sorted(_INHERITED) if k in os.environ}",
        "kept = dict(os.environ)",
        (OF_LIMITS + "a_sandboxed_process_inherits_no_keys",),
    ),
    Mutant(
        "refusal-read-without-its-kind",
        LIMITS,
        "if limit is not None and _lifted(limits)[limit]:",
        "if limit is not None and not _lifted(limits)[limit]:",
        (OF_LIMITS + "a_refusal_is_blamed_on_its_limit_unless_that_was_lifted",),
    ),
]
