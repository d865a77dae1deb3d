"""Bugs in text_gym/models/cpu: the kernels in C, and what calls them."""

from __future__ import annotations

from .mutant import Mutant

C = "text_gym/models/cpu/kernels.c"
GPT2, CACHE = "text_gym/models/cpu/gpt2.py", "text_gym/models/cpu/gpt2_cache.py"
CACHE_OF_KERNELS = "text_gym/models/cpu/kernel_cache.py"
KERNELS, FAST = "text_gym/models/cpu/kernels.py", "text_gym/models/cpu/fast_path.py"
PACKING = "text_gym/models/cpu/packing.py"
OF_DECODER = "tests/agents/sampling/test_decoder.py::test_"
OF_FAST_PATH = "tests/models/cpu/test_fast_path.py::test_"
OF_GPT2 = "tests/models/cpu/test_gpt2.py::test_"
OF_GPT2_CACHE = "tests/models/cpu/test_gpt2_cache.py::test_"
OF_KERNELS = "tests/models/cpu/test_kernels.py::test_"
OF_PACKING = "tests/models/cpu/test_packing.py::test_"
OF_KV_CACHE = "tests/models/test_kv_cache.py::test_"

MUTANTS = [
    # Survivor 1 of the attack of 2026-11-28, and its forward twin, which was caught by luck.
    Mutant(
        "c-attention-backward-tail-not-zeroed",
        C,
        "for (int64_t j = padded(n, STRIP); j < all; j++) w[j] = s[j] = 0;",
        ";",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-attention-tail-not-zeroed",
        C,
        "for (int64_t j = padded(seen + c, STRIP); j < seen + count - 1; j++) w[j] = 0;",
        ";",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-product-leaves-out-the-rows-that-fill-no-tile",
        C,
        "for (; n > 0 && i + n <= end; i += n)",
        "for (; n > 0 && i + n < end; i += n)",
        (OF_KERNELS + "products_are_those_of_float64",),
    ),
    # Survivor 2.
    Mutant(
        "c-product-leaves-out-the-last-row",
        C,
        "end = rows * (part + 1) / parts;\n        multiply_rows(",
        "end = begin + rows / parts;\n        multiply_rows(",
        (OF_KERNELS + "no_row_is_left_out_between_threads",),
    ),
    # Survivor 3.
    Mutant(
        "c-draw-threads-share-scratch",
        C,
        "float *weights = scratch + part * (width + width / 64 + 1);",
        "float *weights = scratch;",
        (OF_KERNELS + "two_threads_give_the_same_bits_as_one_every_time",),
    ),
    Mutant(
        "c-layer-norm-epsilon-outside-the-root",
        C,
        "        float scale = 1.0f / sqrtf(squares / width + epsilon);\n",
        "        float scale = 1.0f / (sqrtf(squares / width) + epsilon);\n",
        (OF_GPT2_CACHE + "reading_equals_that_without_kernels",),
    ),
    Mutant(
        "c-layer-norm-sample-variance",
        C,
        "        float scale = 1.0f / sqrtf(squares / width + epsilon);\n",
        "        float scale = 1.0f / sqrtf(squares / (width - 1) + epsilon);\n",
        (OF_GPT2_CACHE + "reading_equals_that_without_kernels",),
    ),
    Mutant(
        "c-exponential-of-large-numbers",
        C,
        "x > 88.0f ? 88.0f : x;",
        "x > 8.0f ? 8.0f : x;",
        (
            OF_KERNELS + "gelu_equals_pytorchs_in_float64_even_where_it_saturates",
            OF_KERNELS + "gelu_is_flat_or_straight_far_out",
        ),
    ),
    Mutant(
        "c-gelu-slope-without-its-gate",
        C,
        "out[i] = gradient[i] * (s + h * s * (1.0f - s) *",
        "out[i] = gradient[i] * (s + s * (1.0f - s) *",
        (OF_KERNELS + "gelu_equals_pytorchs_in_float64_even_where_it_saturates",),
    ),
    Mutant(
        "c-softmax-without-its-maximum",
        C,
        "exponential((w[j + l] - highest) * scale);",
        "exponential(w[j + l] * scale);",
        (
            OF_KERNELS + "attention_is_its_definition",
            OF_GPT2_CACHE + "reading_equals_that_without_kernels",
        ),
    ),
    Mutant(
        "c-attention-sees-one-key-less",
        C,
        "n = p->columns[which] + 1, sharing",
        "n = p->columns[which] > 0 ? p->columns[which] : 1, sharing",
        (OF_GPT2_CACHE + "reading_equals_that_without_kernels",),
    ),
    Mutant(
        "c-keys-remembered-at-their-number",
        C,
        "int64_t to = ((p->rows[i] * p->groups + h) * p->room + p->columns[i]) * size;",
        "int64_t to = ((p->rows[i] * p->groups + h) * p->room + i) * size;",
        (OF_GPT2_CACHE + "reading_equals_that_without_kernels",),
    ),
    Mutant(
        "c-panel-tail-not-cleared",
        C,
        "if (columns < WIDE) memset(panel, 0, inputs * WIDE * sizeof *panel);",
        ";",
        (OF_KERNELS + "products_are_those_of_float64",),
        equivalent="sums of the columns past the end are never copied out of `edge`; NaN there stays there",
    ),
    Mutant(
        "c-product-restarts-its-sum-each-block",
        C,
        "for (int64_t k = 0; k < inputs; k += DEEP, from = out, of_from = outputs)",
        "for (int64_t k = 0; k < inputs; k += DEEP)",
        (OF_KERNELS + "products_are_those_of_float64",),
    ),
    Mutant(
        "c-product-of-no-inputs-is-old-memory",
        C,
        "for (int64_t i = 0; inputs == 0 && i < rows; i++)",
        "for (int64_t i = 0; inputs < 0 && i < rows; i++)",
        (OF_KERNELS + "a_product_over_nothing_is_zero_or_what_it_is_added_to",),
    ),
    Mutant(
        "c-chunk-of-tokens-skips-one",
        C,
        "if (n == SOME) read_tokens(t, p, tokens, asked, out, scratch, n), n = 0;",
        "if (n == SOME) read_tokens(t, p, tokens, asked, out, scratch, n - 1), n = 0;",
        (OF_GPT2_CACHE + "more_tokens_than_are_read_at_a_time_are_all_read",),
    ),
    Mutant(
        "c-last-layer-asks-by-place",
        C,
        "attend(&p, which[i], qkv + which[i] * of_qkv,",
        "attend(&p, i, qkv + which[i] * of_qkv,",
        (OF_GPT2_CACHE + "reading_equals_that_without_kernels",),
    ),
    Mutant(
        "c-later-queries-see-no-more-keys",
        C,
        "soften(w, seen + c, t->scale, &highest);",
        "soften(w, seen, t->scale, &highest);",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-log-sum-without-scale",
        C,
        "= highest * t->scale + logf(sum);",
        "= highest + logf(sum);",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-backward-without-the-mean",
        C,
        "s[j + l] = w[j + l] * (s[j + l] - mean) * t->scale;",
        "s[j + l] = w[j + l] * s[j + l] * t->scale;",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-key-gradients-of-the-first-eight-only",
        C,
        "spread(slopes, some, keys_sum, all, m, wide);",
        "if (i == 0) spread(slopes, some, keys_sum, all, m, wide);",
        (OF_KERNELS + "attention_is_its_definition",),
    ),
    Mutant(
        "c-draw-takes-the-boundary-down",
        C,
        "while (block < blocks - 1 && passed + sums[block] <= target)",
        "while (block < blocks - 1 && passed + sums[block] < target)",
        (OF_KERNELS + "a_number_on_the_border_of_two_tokens_draws_the_second",),
    ),
    Mutant(
        "c-draw-of-probability-zero",
        C,
        "        if (weights[j] > 0) likely = j;\n"
        "        if (j >= 64 * block && passed > target && weights[j] > 0) break;",
        "        likely = j;\n        if (j >= 64 * block && passed >= target) break;",
        (
            OF_KERNELS + "edges_of_u_draw_what_has_probability_and_nan_stays_in_range",
            OF_KERNELS + "draws_are_those_of_the_softmax",
        ),
    ),
    Mutant(
        "c-probability-of-the-block",
        C,
        "*prob = (float)(weights[likely] / total);",
        "*prob = (float)(weights[likely] / sums[block]);",
        (OF_KERNELS + "draws_are_those_of_the_softmax",),
    ),
    Mutant(
        "gpt2-last-layer-asks-one-too-far",
        GPT2,
        "drawn, rows * size + starts[rows] - 1 + steps",
        "drawn, rows * size + starts[rows] + steps",
        (OF_GPT2 + "states_and_gradients_are_the_models_own",),
    ),
    Mutant(
        "gpt2-last-queries-see-their-next-token",
        GPT2,
        "drawn = Queries(lengths.cumsum(0) - lengths, lengths, starts - 1, size)",
        "drawn = Queries(lengths.cumsum(0) - lengths, lengths, starts, size)",
        (OF_GPT2 + "states_and_gradients_are_the_models_own",),
    ),
    Mutant(
        "gpt2-tied-gradient-overwritten",
        GPT2,
        "return of_weight.index_add_(0, tokens.flatten(), of_rows.flatten(0, 1)), None",
        "return torch.zeros_like(of_weight).index_add_(0, tokens.flatten(), of_rows.flatten(0, 1)), None",
        (OF_GPT2 + "a_policys_gradients_are_those_of_autograd",),
    ),
    Mutant(
        "gpt2-ragged-gradients-uninitialised",
        GPT2,
        "found = [(torch.zeros_like if ctx.texts.ragged else torch.empty_like)(x) for x in qkv]",
        "found = [torch.full_like(x, 7.0) for x in qkv]",
        (
            OF_GPT2 + "states_and_gradients_are_the_models_own",
            OF_GPT2 + "padding_and_neighbours_change_nothing",
        ),
    ),
    Mutant(
        "gpt2-residual-forgotten-after-attention",
        GPT2,
        "x = x + torch.addmm(block.projection_bias, attended, block.projection)",
        "x = torch.addmm(block.projection_bias, attended, block.projection)",
        (OF_GPT2 + "states_and_gradients_are_the_models_own",),
    ),
    Mutant(
        "cache-keeps-packed-old-weights",
        CACHE_OF_KERNELS,
        '        """Implement `KVCache`."""\n        self._weights = None\n',
        '        """Implement `KVCache`."""\n',
        (OF_KV_CACHE + "a_renewed_cache_reads_with_the_weights_as_they_are",),
    ),
    Mutant(
        "cache-keep-by-place-not-by-row",
        CACHE_OF_KERNELS,
        "self._rows = self._rows[torch.from_numpy(rows)]",
        "self._rows = torch.from_numpy(rows)",
        (
            OF_KV_CACHE + "rows_may_be_dropped_before_anything_was_appended",
            OF_KV_CACHE + "rows_read_in_a_batch_equal_texts_read_alone",
        ),
    ),
    Mutant(
        "cache-prefill-of-all-rows",
        CACHE_OF_KERNELS,
        "memory = self._rows if rows is None else self._rows[torch.from_numpy(rows)]",
        "memory = self._rows[: len(tokens)]",
        (OF_GPT2_CACHE + "some_rows_are_read_anew_in_their_own_places",),
    ),
    Mutant(
        "cache-decoding-looks-at-void-places",
        CACHE,
        "        weights.view(n, block.heads, 1, -1).add_(mask)\n",
        "        pass\n",
        (
            OF_KV_CACHE + "rows_read_in_a_batch_equal_texts_read_alone",
            OF_DECODER + "tokens_read_one_by_one_equal_texts_read_alone",
        ),
    ),
    Mutant(
        "c-packing-turns-with-neighbours-for-middles",
        C,
        "high[i] = low[i] + HALF / 2;",
        "high[i] = low[i] + 1;",
        (OF_KERNELS + "packing_keeps_each_number_however_the_matrix_lies",),
    ),
    Mutant(
        "c-packing-turns-both-halves-of-a-panel-to-its-first",
        C,
        "turn_block(matrix + k + (j + c) * right, right, panel + k * WIDE + c);",
        "turn_block(matrix + k + (j + c) * right, right, panel + k * WIDE);",
        (OF_KERNELS + "packing_keeps_each_number_however_the_matrix_lies",),
    ),
    Mutant(
        "c-packing-leaves-out-the-inputs-after-the-last-block",
        C,
        "for (; k < inputs; k++)\n                for (int64_t c = 0; c < columns; c++)",
        "for (; k < inputs / HALF * HALF; k++)\n                for (int64_t c = 0; c < columns; c++)",
        (OF_KERNELS + "packing_keeps_each_number_however_the_matrix_lies",),
    ),
    Mutant(
        "pack-ignores-strides",
        KERNELS,
        "self._pack(matrix.data_ptr(), *matrix.stride(), to, inputs, matrix.shape[1])",
        "self._pack(matrix.data_ptr(), matrix.shape[1], 1, to, inputs, matrix.shape[1])",
        (OF_KERNELS + "products_are_those_of_float64",),
    ),
    Mutant(
        "fast-path-with-dropout",
        FAST,
        '(m.training and getattr(m, "p", 0.0) > 0) or getattr(m, "gradient_checkpointing", False)',
        'getattr(m, "gradient_checkpointing", False)',
        (OF_FAST_PATH + "updates_with_dropout_or_gradient_checkpointing_go_through_the_models_own_code",),
    ),
    Mutant(
        "fast-path-takes-hooks",
        GPT2,
        "        and not (m._forward_hooks or m._forward_pre_hooks)\n",
        "",
        (
            OF_DECODER + "hooks_are_not_passed_over",
            OF_FAST_PATH + "only_plain_models_have_a_path",
        ),
    ),
    Mutant(
        "c-turned-rows-of-all-tiles-are-the-first-ones",
        C,
        "TILE(straight + (i - first) * deep, 1, ROWS, n);",
        "TILE(straight, 1, ROWS, n);",
        (OF_KERNELS + "products_are_those_of_float64",),
    ),
    Mutant(
        "c-shared-beginning-forgets-the-gradient-of-all-but-its-last-text",
        C,
        "memset(keys_sum + begin * wide, 0, (keys - begin) * wide * sizeof *keys_sum);",
        "memset(keys_sum, 0, keys * wide * sizeof *keys_sum);",
        (OF_KERNELS + "texts_that_begin_alike_attend_as_if_alone",),
    ),
    Mutant(
        "c-shared-beginning-is-as-long-as-its-queries",
        C,
        "*shared = t->firsts[first] + t->counts[first];",
        "*shared = t->counts[first];",
        ("tests/models/cpu/test_llama.py::test_states_and_gradients_are_those_of_float64",),
    ),
    Mutant(
        "packing-takes-prompts-with-the-same-first-token-for-equal",
        PACKING,
        "trees.setdefault(table[row, :start].tobytes(), []).append(row)",
        "trees.setdefault(table[row, :1].tobytes(), []).append(row)",
        (OF_PACKING + "each_state_comes_from_the_tokens_before_it",),
    ),
    Mutant(
        "packing-lets-a-prompts-last-token-see-only-the-first-one",
        PACKING,
        "np.where(is_prompt, counts - 1, firsts)",
        "np.where(is_prompt, 0, firsts)",
        (OF_PACKING + "each_state_comes_from_the_tokens_before_it",),
    ),
    Mutant(
        "packing-reads-a-shared-prompt-for-each-of-its-texts",
        PACKING,
        "trees.setdefault(table[row, :start].tobytes(), []).append(row)",
        "trees.setdefault(table[row, :start].tobytes() + bytes([row]), []).append(row)",
        (OF_PACKING + "equal_prompts_are_read_once_and_last_tokens_never",),
    ),
]
