"""Planted bugs of several processes that learn together."""

from __future__ import annotations

from .mutant import Mutant

_WORLD, _TOGETHER = "text_gym/models/world.py", "agents/sampling/together.py"
_GRADIENTS, _OF_GRADIENTS = "text_gym/models/gradients.py", "tests/models/test_gradients.py::test_"
_OF_WORLD = "tests/models/test_world.py::test_"
_OF_SHARES = "tests/agents/training/test_together.py::test_"
_EQUAL = (_OF_WORLD + "two_processes_learn_what_one_does",)

MUTANTS = [
    Mutant(
        "gradients-that-other-work-left-while-waiting",
        _GRADIENTS,
        "                p.grad = mine[p]",
        "                pass",
        (_OF_GRADIENTS + "gradients_of_other_work_done_while_waiting_are_not_taken_for_these",),
    ),
    Mutant(
        "sum-of-two-is-what-the-other-sent",
        _WORLD,
        "tensor.add_(self._wait",
        "tensor.copy_(self._wait",
        (_OF_WORLD + "two_ranks_add_up_by_one_message_each",),
    ),
    Mutant(
        "sum-of-two-lost-where-the-layout-is-another",
        _WORLD,
        "tensor.add_(self._wait(work, theirs).view_as(tensor))",
        "(mine.add_(self._wait(work, theirs)), tensor)[1]",
        (_OF_WORLD + "two_ranks_add_up_by_one_message_each",),
    ),
    Mutant(
        "a-piece-of-work-before-every-wait",
        _WORLD,
        "while not work.is_completed() and next(self.meanwhile, _DONE) is not _DONE:",
        "while next(self.meanwhile, _DONE) is not _DONE and not work.is_completed():",
        (_OF_WORLD + "pieces_of_work_are_done_while_others_are_waited_for",),
    ),
    Mutant(
        "critic-learns-only-while-the-policy-waits",
        "agents/algorithms/ppo.py",
        "        for _ in fit:\n            pass\n",
        "",
        (
            "tests/agents/policies/test_state_critic.py::test_returns_that_depend_on_the_prompt_alone_are_explained",
        ),
    ),
    Mutant(
        "gradients-of-other-processes-forgotten",
        _GRADIENTS,
        "p.grad = gradient.view_as(p)",
        "p.grad = p.grad",
        (_OF_GRADIENTS + "sums_are_of_all_passes",),
    ),
    Mutant(
        "gradients-averaged-over-processes",
        _GRADIENTS,
        "p.grad = gradient.view_as(p)",
        "p.grad = gradient.view_as(p) / self._world.size",
        _EQUAL,
    ),
    Mutant(
        "buckets-sent-in-each-process-own-order",
        _GRADIENTS,
        "            while len(self._sent) < len(missing) and not missing[len(self._sent)]:\n"
        "                self._send(self._buckets[len(self._sent)])",
        "            if not missing[number]:\n                self._send(self._buckets[number])",
        (_OF_GRADIENTS + "ranks_send_buckets_in_one_order_whatever_their_backward_passes_do",),
    ),
    Mutant(
        "buckets-sent-while-gradients-are-missing",
        _GRADIENTS,
        "len(self._expected.intersection(bucket)) for",
        "min(1, len(self._expected.intersection(bucket))) for",
        (_OF_GRADIENTS + "a_bucket_waits_for_all_of_its_gradients",),
    ),
    Mutant(
        "hooks-stay-after-the-last-pass",
        _GRADIENTS,
        "                hook.remove()",
        "                pass",
        (_OF_GRADIENTS + "passes_outside_the_block_send_nothing",),
    ),
    Mutant(
        "weights-without-gradient-delay-the-others-for-ever",
        _GRADIENTS,
        "self._expected = {*known}",
        "self._expected = {*self._trained}",
        (_OF_GRADIENTS + "a_weight_without_gradient_delays_the_others_once",),
    ),
    Mutant(
        "places-of-gradients-depend-on-the-step-before",
        _GRADIENTS,
        "self._expected = {*known}",
        "self._expected = {*known}\n        self._buckets = list(_buckets(known)) or [[]]",
        (_OF_GRADIENTS + "a_gradient_is_sent_at_the_same_place_in_every_step",),
    ),
    Mutant(
        "gradients-that-come-for-the-first-time-forgotten",
        _GRADIENTS,
        "if p not in self._expected]))",
        "if p is None]))",
        (_OF_GRADIENTS + "a_gradient_that_comes_after_its_bucket_has_gone_is_added_up",),
    ),
    Mutant(
        "gradients-sent-after-the-first-of-several-passes",
        "agents/algorithms/policy_gradient.py",
        "part is parts[-1]",
        "part is parts[0]",
        _EQUAL,
    ),
    Mutant(
        "minibatch-divided-by-its-share",
        "agents/algorithms/policy_gradient.py",
        "            rows = rows[share_rows(self.world, self.policy, ends, lengths)]\n",
        "            rows = rows[share_rows(self.world, self.policy, ends, lengths)]\n"
        "            episodes = len(rows)\n",
        (_OF_WORLD + "two_processes_learn_what_one_does",),
    ),
    Mutant(
        "errors-of-shards-that-name-no-process",
        _WORLD,
        'if not isinstance(error, dist.DistError) and "gloo/transport" not in said:',
        "if not isinstance(error, dist.DistError):",
        (_OF_WORLD + "errors_of_other_collectives_name_the_process",),
    ),
    Mutant(
        "every-error-blamed-on-others",
        _WORLD,
        'if not isinstance(error, dist.DistError) and "gloo/transport" not in said:',
        "if not isinstance(error, RuntimeError):",
        (_OF_WORLD + "errors_of_other_collectives_name_the_process",),
    ),
    Mutant(
        "gradients-that-one-process-has-forgotten",
        _GRADIENTS,
        'if "1" in has]',
        'if "0" not in has]',
        (_OF_GRADIENTS + "gradients_and_messages_are_exchanged_at_once",),
    ),
    Mutant(
        "completions-as-cheap-as-prompts",
        "agents/training/together.py",
        "(12 * config.hidden_size + 6 * ends) + head)",
        "(12 * config.hidden_size + 6 * ends))",
        (_OF_SHARES + "rows_are_shared_out_by_the_work_of_blocks_attention_and_output_layer",),
    ),
    Mutant(
        "reference-known-for-own-rows-only",
        "agents/training/together.py",
        "    world.fill([whole], here)\n",
        "",
        _EQUAL,
    ),
    Mutant(
        "what-others-guessed-is-added",
        _WORLD,
        "            whole.zero_()\n",
        "",
        _EQUAL,
    ),
    Mutant(
        "everybody-scores-everything",
        _TOGETHER,
        "if remembers(batch.reward) else mine",
        "if remembers(batch.reward) else every",
        _EQUAL,
    ),
    Mutant(
        "groups-torn-between-processes",
        _WORLD,
        "units * rank // self.size * unit for rank",
        "units * unit * rank // self.size for rank",
        (_OF_WORLD + "shares_divide_everything_in_whole_units",),
    ),
    Mutant(
        "last-share-beyond-the-end",
        _WORLD,
        "return slice(begin, min(end, n))",
        "return slice(begin, end + unit)",
        (_OF_WORLD + "shares_divide_everything_in_whole_units",),
    ),
    Mutant(
        "rows-balanced-by-number-and-not-by-work",
        _WORLD,
        "middles = work[order].cumsum(0) - work[order] / 2\n"
        "        return order[(middles * self.size / work.sum()).long() == self.rank]",
        "return order[torch.arange(len(order)) * self.size // len(order) == self.rank]",
        (_OF_WORLD + "balanced_shares_are_of_like_rows_and_differ_by_less_than_the_largest",),
    ),
    Mutant(
        "work-counted-to-its-end-and-the-last-row-nobodys",
        _WORLD,
        "cumsum(0) - work[order] / 2",
        "cumsum(0)",
        (_OF_WORLD + "balanced_shares_are_of_like_rows_and_differ_by_less_than_the_largest",),
    ),
    Mutant(
        "a-letter-one-byte-too-long-is-cut",
        _WORLD,
        "if max(sizes) > LETTER:",
        "if max(sizes) > LETTER + 1:",
        (_OF_WORLD + "all_get_what_each_says_long_or_short",),
    ),
    Mutant(
        "a-second-exchange-by-those-alone-whose-letters-are-long",
        _WORLD,
        "if max(sizes) > LETTER:",
        "if len(mine) > LETTER:",
        (_OF_WORLD + "all_get_what_each_says_long_or_short",),
    ),
    Mutant(
        "a-wait-whose-time-is-up-counts-as-done",
        _WORLD,
        "            work.wait(timedelta(seconds=seconds))\n        return bool(work.is_completed())",
        "            work.wait(timedelta(seconds=seconds))\n        return True",
        (_OF_WORLD + "a_collective_is_waited_for_until_it_is_over_or_the_time_is",),
    ),
    Mutant(
        "texts-that-others-have-decoded-unheard",
        _TOGETHER,
        "episodes[row].know(text)",
        "episodes[row].decoded",
        (
            "tests/agents/sampling/test_together.py::test_both_know_all_rewards_and_texts_and_none_is_decoded_twice",
        ),
    ),
    Mutant(
        "noise-of-the-first-rows-for-all-processes",
        "agents/sampling/sampler.py",
        "np.arange(len(noise))[rows].tolist()",
        "range(len(np.arange(len(noise))[rows]))",
        _EQUAL,
    ),
    Mutant(
        "other-tokens-remembered-than-their-returns",
        "agents/policies/critic.py",
        "self._read(states, mask, chosen)",
        "self._read(states, mask)[:n]",
        (
            "tests/agents/policies/test_state_critic.py"
            "::test_the_latest_four_batches_are_remembered_whole_where_they_fit",
        ),
    ),
]
