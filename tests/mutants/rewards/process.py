"""Bugs of process rewards: steps, their labels and pay; of the fits that are told apart by held-out error."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STEPS, _PROCESS = "reward_models/learned/steps.py", "reward_models/learned/process.py"
_ROLLOUTS, _CLI = "reward_models/preferences/rollouts.py", "text_gym/cli/process_reward.py"
_FRONTIER = "text_gym/bench/analysis/frontier.py"
_OF_STEPS, _OF_PROCESS = (f"tests/reward_models/learned/test_{name}.py::" for name in ("steps", "process"))
_OF_FRONTIER = "tests/bench/analysis/test_frontier.py::"

MUTANTS = [
    Mutant(
        "step-read-one-token-late",
        _STEPS,
        "        ends.append(len(after) - 1)\n",
        "        ends.append(min(len(after), sum(map(len, steps)) - 1))\n",
        (_OF_STEPS + "test_steps_end_where_their_own_ids_do",),
    ),
    Mutant(
        "cut-prompt-leaves-the-ends-where-they-were",
        _STEPS,
        "    if model.context is not None:\n        before = before[max(0,",
        "    places = [len(before) + end for end in ends]\n"
        "    if model.context is not None:\n        before = before[max(0,",
        (_OF_STEPS + "test_a_long_prompt_loses_its_start_and_long_steps_are_refused",),
        more=(("[len(before) + end for end in ends])", "places)"),),
    ),
    Mutant(
        "step-that-is-not-finished-is-paid",
        _PROCESS,
        "split_steps(e.completion, self.delimiter, over=e.done)",
        "split_steps(e.completion, self.delimiter)",
        (_OF_PROCESS + "test_a_prefix_is_paid_as_the_whole_is",),
    ),
    Mutant(
        "progress-pays-the-worth-itself",
        _PROCESS,
        "[np.diff(w, prepend=0.0) for w in worth[self.aggregate]]",
        "worth[self.aggregate]",
        (_OF_PROCESS + "test_every_step_is_paid_on_its_last_token",),
    ),
    Mutant(
        "step-sees-itself-as-context",
        _PROCESS,
        "for s in steps[:i]), step)",
        "for s in steps[: i + 1]), step)",
        ("tests/reward_models/learned/test_process.py::test_a_step_gets_all_before_it_as_its_prompt",),
    ),
    Mutant(
        "weights-of-solutions-ignored",
        _PROCESS,
        "slope = weight * (expit(z) - y)",
        "slope = expit(z) - y",
        (_OF_PROCESS + "test_weights_count",),
        more=(
            (
                "float(weight @ (np.logaddexp(0, z) - y * z) + 0.5",
                "float((np.logaddexp(0, z) - y * z).sum() + 0.5",
            ),
        ),
    ),
    Mutant(
        "batches-come-back-sorted-by-length",
        _PROCESS,
        "return np.concatenate([found[i] for i in range(len(encoded))])",
        "return np.concatenate([found[i] for i in order])",
        (_OF_PROCESS + "test_solutions_of_a_batch_keep_their_order",),
    ),
    Mutant(
        "last-step-is-labelled-by-rollouts-of-the-one-before",
        _ROLLOUTS,
        "labels.append(float(is_right(prompt, delimiter.join(steps))))",
        "labels.append(labels[-1])",
        (
            "tests/reward_models/preferences/test_rollouts.py::test_a_label_is_how_often_rollouts_from_the_step_end_well",
        ),
    ),
    Mutant(
        "solution-without-errors-has-one-in-its-last-step",
        _CLI,
        "return int(np.argmin(np.append(right, False)))",
        "return int(np.argmin(right))",
        ("tests/cli/test_process_reward.py::test_the_first_error_is_found_where_it_is",),
    ),
    Mutant(
        "uncertainty-is-the-deviation-after-all",
        "reward_models/learned/ensembles.py",
        "values = values - self.k * std**2",
        "values = values - self.k * std  # twice",
        ("tests/reward_models/learned/test_ensembles.py::test_the_worst_member_and_the_variance_by_hand",),
    ),
    Mutant(
        "held-out-seed-is-fitted-too",
        _FRONTIER,
        "*(p for s, p in seeds.items() if s != seed)]",
        "*(p for s, p in seeds.items())]",
        (_OF_FRONTIER + "test_a_seed_is_predicted_by_the_others_alone",),
    ),
    Mutant(
        "extrapolation-is-judged-by-all-points",
        _FRONTIER,
        "judged = own if near >= 1 else own[own[:, 0] > border]",
        "judged = own",
        (_OF_FRONTIER + "test_extrapolation_is_fitted_to_near_points_and_judged_by_far_ones",),
    ),
]
