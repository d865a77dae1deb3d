"""Planted bugs of rewards on actors, of scoring while others are played, and of exported projects."""

from __future__ import annotations

from .mutant import Mutant

_REMOTE, _OVERLAP = "text_gym/rewards/remote.py", "agents/sampling/overlap.py"
_TRAINERS = "text_gym/bridges/trainers.py"
_OF_REMOTE, _OF_OVERLAP = (
    "tests/rewards/test_remote.py::test_",
    "tests/agents/sampling/test_overlap.py::test_",
)
_OF_TRAINERS = "tests/bridges/test_trainers.py::test_"

MUTANTS = [
    Mutant(
        "what-raises-is-asked-again",
        _REMOTE,
        "if not died or attempt == self.restarts or closed != self._closed:",
        "if attempt == self.restarts or closed != self._closed:",
        (_OF_REMOTE + "a_source_that_raises_is_not_asked_again_and_its_place_is_told",),
    ),
    Mutant(
        "an-actor-for-each-chunk",
        _REMOTE,
        "free.put(worker if worker is not None and worker.alive else None)",
        "free.put(None)",
        (_OF_REMOTE + "no_more_chunks_than_actors_are_under_way_whoever_asks",),
    ),
    Mutant(
        "memory-of-an-actor-not-kept",
        _REMOTE,
        "        self.source.load_state_dict(state)\n",
        "",
        (_OF_REMOTE + "one_actor_keeps_its_memory_through_death_and_resumption",),
    ),
    Mutant(
        "rewards-in-the-order-of-the-chunks",
        _OVERLAP,
        "[places[row] for row in rows.tolist()]",
        "list(range(len(rows)))",
        (_OF_OVERLAP + "a_rollout_is_the_same_and_scored_while_it_is_played",),
    ),
    Mutant(
        "earlier-attempts-count",
        _OVERLAP,
        "for place, row in enumerate(order.tolist())}",
        "for place, row in reversed(list(enumerate(order.tolist())))}",
        (_OF_OVERLAP + "what_was_said_of_an_earlier_attempt_does_not_count",),
    ),
    Mutant(
        "scored-with-gradients",
        _OVERLAP,
        "with torch.no_grad():  # a setting of each thread",
        "with torch.enable_grad():",
        (_OF_OVERLAP + "a_rollout_is_the_same_and_scored_while_it_is_played",),
    ),
    Mutant(
        "a-judge-of-batches-is-asked-early",
        _OVERLAP,
        "least = EARLY * even if playing else 0.0",
        "least = 0.0",
        (_OF_OVERLAP + "where_texts_are_what_costs_scoring_and_playing_overlap",),
    ),
    Mutant(
        "what-waits-goes-to-the-first-free-thread",
        _OVERLAP,
        "waiting / in_flight",
        "waiting",
        (_OF_OVERLAP + "where_texts_are_what_costs_scoring_and_playing_overlap",),
    ),
    Mutant(
        "the-end-of-play-starts-no-calls",
        _OVERLAP,
        "            self._playing = False\n            self._start_calls()",
        "            self._playing = False",
        (_OF_OVERLAP + "a_rollout_is_the_same_and_scored_while_it_is_played",),
        by_fixture=True,
    ),
    Mutant(
        "calls-of-one-size-tell-what-a-call-costs",
        _OVERLAP,
        "if spread < 0.01 * weight * squares:",
        "if spread < 0:",
        (_OF_OVERLAP + "the_cost_of_a_call_is_found",),
    ),
    Mutant(
        "another-source-costs-what-the-last-one-did",
        _OVERLAP,
        "if source is not batch.reward:",
        "if source is None:",
        (_OF_OVERLAP + "what_is_known_of_calls_is_kept_for_the_next_rollout_of_the_same_source",),
    ),
    Mutant(
        "nothing-is-scored-before-the-end",
        "agents/sampling/sampler.py",
        "                scoring.look(rows)\n",
        "                pass\n",
        (_OF_OVERLAP + "the_first_finished_episodes_are_scored_before_the_last_token_is_drawn",),
    ),
    Mutant(
        "nothing-is-read-before-all-are-scored",
        "agents/sampling/sampler.py",
        "columns = columns | meanwhile(assemble(batch, columns, batch.episodes(every), nothing))",
        "scoring.finish(mine)\n"
        "            columns = columns | meanwhile(assemble(batch, columns, batch.episodes(every), nothing))",
        (_OF_OVERLAP + "while_the_last_texts_are_scored_the_others_are_read",),
    ),
    Mutant(
        "what-has-been-read-is-read-again",
        "agents/algorithms/agent.py",
        "if batch.reference_log_probs is not None:",
        "if batch.reference_log_probs is not None and self.world is not None:",
        (_OF_OVERLAP + "training_takes_the_same_steps",),
    ),
    Mutant(
        "a-critic-apart-does-not-read-ahead",
        "agents/algorithms/ppo.py",
        "({} if self.critic is None else",
        "({} if self.config.overlap_scoring else",
        (_OF_OVERLAP + "training_takes_the_same_steps",),
    ),
    Mutant(
        "a-process-whose-replies-paid-nothing-has-no-rewards-of-tokens",
        "text_gym/rewards/calls.py",
        "np.zeros(len(e.completion_ids)) if tokens is None else tokens",
        "np.zeros(0) if tokens is None else tokens",
        (
            "tests/agents/sampling/test_together.py::test_conversations_whose_replies_paid_in_one_process_alone",
        ),
    ),
    Mutant(
        "running-statistics-over-parts",
        "text_gym/rewards/transforms.py",
        "    batch_invariant = False\n",
        "",
        (_OF_OVERLAP + "sources_that_need_the_whole_batch_are_refused",),
    ),
    Mutant(
        "marks-of-the-end-are-text",
        _TRAINERS,
        "return text.removesuffix(mark)",
        "return text",
        (_OF_TRAINERS + "rewards_are_those_of_the_task",),
    ),
    Mutant(
        "prompts-of-another-row",
        _TRAINERS,
        '"reward_model": {"style": "rule", "ground_truth": prompt.id}',
        '"reward_model": {"style": "rule", "ground_truth": "Vela Zen 5"}',
        (_OF_TRAINERS + "rewards_are_those_of_the_task",),
    ),
]
