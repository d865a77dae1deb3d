"""Bugs in the sizes that decide speed: in use, measured, stored, and kept by a run that goes on."""

from __future__ import annotations

from .mutant import Mutant

MODELS = "text_gym/models"
SIZES, OF_SIZES = f"{MODELS}/sizes.py", "tests/models/test_sizes.py::test_"
TUNED, OF_TUNED = f"{MODELS}/tuned.py", "tests/models/test_tuned.py::test_"
TUNING, OF_TUNING = f"{MODELS}/tuning.py", "tests/models/test_tuning.py::test_"
WORKLOAD = "agents/verification/workload.py"
OF_WORKLOAD = "tests/agents/verification/test_workload.py::test_"
OF_TUNE = "tests/cli/test_tune.py::test_"

MUTANTS = [
    Mutant(
        "sizes-of-an-outer-block-are-lost-in-an-inner-one",
        SIZES,
        "        _in_use[kind] = before\n",
        "        _in_use[kind] = DEFAULTS[kind]\n",
        (OF_SIZES + "they_hold_within_the_block_in_every_thread_and_after_an_error_no_longer",),
    ),
    Mutant(
        "sizes-of-one-device-are-those-of-all",
        SIZES,
        'return "cpu" if device.type == "cpu" else "cuda"',
        'return "cpu"',
        (OF_SIZES + "each_kind_of_device_has_its_own",),
    ),
    Mutant(
        "what-chose-a-size-decides-on-it",
        TUNING,
        "race.run([sizes, others[first]], work, until, rounds)",
        "np.tile(screened[:, [0, first + 1]], (8, 1))",
        (OF_TUNING + "noise_alone_changes_hardly_ever_a_default",),
    ),
    Mutant(
        "an-interval-that-holds-one-is-a-gain",
        TUNING,
        "kept = ratio.value <= 1 - LEAST_GAIN and ratio.high < 1",
        "kept = ratio.value <= 1 - LEAST_GAIN",
        (OF_TUNING + "a_gain_has_to_be_larger_than_noise_and_worth_it",),
    ),
    Mutant(
        "any-gain-is-enough",
        TUNING,
        "kept = ratio.value <= 1 - LEAST_GAIN and ratio.high < 1",
        "kept = ratio.high < 1",
        (OF_TUNING + "a_gain_has_to_be_larger_than_noise_and_worth_it",),
    ),
    Mutant(
        "the-interval-of-a-median-is-its-middle-half",
        TUNING,
        "np.count_nonzero(chances <= 0.025)",
        "np.count_nonzero(chances <= 0.25)",
        (OF_TUNING + "the_interval_of_a_median_covers_it",),
    ),
    Mutant(
        "every-size-is-tried-with-the-defaults",
        TUNING,
        "found = _try(race, best, candidate,",
        "found = _try(race, usual, candidate,",
        (OF_TUNING + "each_size_is_tried_with_what_was_kept_before",),
    ),
    Mutant(
        "an-iteration-has-no-say-in-the-end",
        TUNING,
        "best if together.high < 1 else usual",
        "best",
        (OF_TUNING + "what_makes_no_whole_iteration_faster_is_not_used",),
    ),
    Mutant(
        "contestants-come-in-reverse-order-every-time",
        TUNING,
        "[:: 1 if len(seconds) % 2 == 0 else -1]",
        "[::-1]",
        (OF_TUNING + "what_slows_the_machine_down_meanwhile_is_no_gain",),
    ),
    Mutant(
        "sizes-of-another-model-are-taken",
        TUNED,
        "        if content.get(what) != here:\n",
        '        if what != "model" and content.get(what) != here:\n',
        (OF_TUNED + "a_file_for_something_else_is_refused_with_what_it_is_for",),
    ),
    Mutant(
        "sizes-left-out-of-a-file-are-those-of-a-cpu",
        TUNED,
        "return replace(DEFAULTS[device], **values)",
        "return replace(Sizes(), **values)",
        (OF_TUNED + "a_file_may_name_a_few_sizes_and_leave_the_rest_to_the_defaults",),
    ),
    Mutant(
        "sizes-that-ran-out-of-memory-leave-less-to-the-next",
        WORKLOAD,
        '        vars(self._agent).pop("_splitter", None)\n',
        "",
        (OF_WORKLOAD + "sizes_that_run_out_of_memory_leave_nothing_behind",),
    ),
    Mutant(
        "the-clock-does-not-wait-for-the-device",
        WORKLOAD,
        "            return _now(device) - began\n",
        "            return time.perf_counter() - began\n",
        (OF_WORKLOAD + "an_accelerator_is_waited_for_before_the_clock_is_read",),
    ),
    Mutant(
        "a-run-goes-on-with-the-defaults",
        "text_gym/runs/train.py",
        "    if resume and sizes is None:\n",
        "    if resume and sizes is not None:\n",
        (OF_TUNE + "a_run_goes_on_with_the_sizes_that_it_began_with",),
    ),
    Mutant(
        "sizes-are-recorded-and-not-used",
        "text_gym/runs/train.py",
        "    changed = nullcontext() if sizes is None else using(sizes, pick_device(device))\n",
        "    changed = nullcontext()\n",
        (OF_TUNE + "a_run_goes_on_with_the_sizes_that_it_began_with",),
    ),
]
