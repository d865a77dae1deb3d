"""Bugs of conversations: borders of turns, masks, credit, limits, caches and seeds."""

from __future__ import annotations

from .mutant import Mutant

TALK, BATCH = "text_gym/envs/conversation.py", "text_gym/envs/episode_batch.py"
ROLLOUT, PLAY = "agents/sampling/rollout.py", "agents/sampling/dialogue.py"
LABELS, PERSON = "reward_models/labels/", "text_gym/bridges/person.py"
OF_LABELS, OF_PERSON = "tests/reward_models/labels/", "tests/bridges/test_person.py::test_"
TALK_PAGE, OF_TALK_PAGE = "text_gym/cli/play/page.py", "tests/cli/play/test_page.py::test_"
OF_TALK = "tests/envs/test_conversation.py::test_"
OF_PLAY = "tests/agents/sampling/test_dialogue.py::test_"

MUTANTS = [
    Mutant(
        "turn-paid-on-its-reply",
        TALK,
        "            rewards[end - 1] += turn.reward\n",
        "            rewards[min(end, len(rewards) - 1)] += turn.reward\n",
        (OF_TALK + "a_reply_stands_behind_the_turn_that_it_answers",),
    ),
    Mutant(
        "replies-count-as-the-agents",
        TALK,
        "            self.attention_mask[row, begin:end] = 1\n",
        "            self.attention_mask[row, begin:end] = self.agent[row, begin:end] = 1\n",
        (OF_TALK + "a_reply_stands_behind_the_turn_that_it_answers",),
    ),
    Mutant(
        "stop-string-of-a-reply-ends-the-episode",
        BATCH,
        "max(self._turn_starts[i], self.lengths[i] - window)",
        "max(self.starts[i], self.lengths[i] - window)",
        (OF_TALK + "what_may_follow_and_what_stops_is_asked_of_the_running_turn_alone",),
    ),
    Mutant(
        "mask-sees-the-turns-before",
        BATCH,
        "self.tokens[rows], self._turn_starts[rows], self.lengths[rows]",
        "self.tokens[rows], self.starts[rows], self.lengths[rows]",
        (OF_TALK + "what_may_follow_and_what_stops_is_asked_of_the_running_turn_alone",),
    ),
    Mutant(
        "turn-at-the-token-limit-without-reply",
        TALK,
        "        over &= ~ended | cut\n",
        "        over &= ~ended\n",
        (OF_TALK + "three_limits",),
    ),
    Mutant(
        "replies-use-up-no-context",
        TALK,
        "max(0, min(int(self.remaining[row]), left))",
        "max(0, int(self.remaining[row]))",
        (OF_TALK + "three_limits",),
    ),
    Mutant(
        "one-turn-more-than-the-limit",
        TALK,
        "written >= most",
        "written > most",
        (OF_TALK + "three_limits",),
    ),
    Mutant(
        "ended-by-a-reply-and-cut",
        TALK,
        "return ends, bool(at_limit) and not ends",
        "return ends, bool(at_limit)",
        (OF_TALK + "a_reply_ends_an_episode_under_both_meanings_of_the_limit",),
    ),
    Mutant(
        "every-turn-has-the-same-generator",
        "text_gym/respondents.py",
        "np.array([0, 0, 0, turn + 1], dtype=np.uint64)",
        "np.array([0, 0, 0, 1], dtype=np.uint64)",
        (OF_TALK + "an_episode_is_a_function_of_its_number_and_the_actions",),
    ),
    Mutant(
        "every-episode-has-the-same-generator",
        "text_gym/respondents.py",
        "np.array([seed & (2**64 - 1), index], dtype=np.uint64)",
        "np.array([seed & (2**64 - 1), 0], dtype=np.uint64)",
        (OF_TALK + "an_episode_is_a_function_of_its_number_and_the_actions",),
    ),
    Mutant(
        "replies-count-as-turns-in-seeds",
        TALK,
        "turns = [e.agent_turns for e in episodes]",
        "turns = [len(e.turns) for e in episodes]",
        (OF_TALK + "an_episode_is_a_function_of_its_number_and_the_actions",),
    ),
    Mutant(
        "replies-to-the-wrong-rows",
        TALK,
        "zip(\n            places.tolist(), asked.tolist(), speaking, replies, strict=True\n        )",
        "zip(\n            places.tolist(), asked.tolist(), speaking, replies[::-1], strict=True\n        )",
        (OF_TALK + "many_conversations_are_single_ones_side_by_side",),
    ),
    Mutant(
        "one-failed-reply-ends-all",
        TALK,
        "if len(episodes) == 1 or error.__cause__ is None:",
        "if True:",
        (OF_TALK + "a_respondent_that_fails_is_named_and_harms_its_own_episode_alone",),
    ),
    Mutant(
        "turns-paid-again-at-the-end",
        BATCH,
        "return scores.totals - self.conversation.paid[rows]",
        "return scores.totals",
        (OF_TALK + "a_reply_stands_behind_the_turn_that_it_answers",),
    ),
    Mutant(
        "turns-paid-on-every-token-after-them",
        TALK,
        "        self.paid[rows] += self.rewards[rows]\n        self.rewards[rows] = 0.0\n",
        "        self.paid[rows] += self.rewards[rows]\n",
        (OF_TALK + "a_reply_stands_behind_the_turn_that_it_answers",),
    ),
    Mutant(
        "columns-without-the-gaps",
        "agents/policies/policy.py",
        "starts[rows] + steps if starts.ndim == 1 else starts[rows, steps]",
        "starts[rows] + steps if starts.ndim == 1 else starts[rows, 0] + steps",
        (OF_PLAY + "log_probabilities_are_those_of_the_agents_tokens_alone",),
    ),
    Mutant(
        "states-without-the-gaps",
        "agents/policies/columns.py",
        "(spans.cumsum(0) - spans - firsts)[:, None] + columns[:, : own.shape[1]]",
        "(spans.cumsum(0) - spans)[:, None] + torch.arange(own.shape[1])",
        (OF_PLAY + "log_probabilities_are_those_of_the_agents_tokens_alone",),
    ),
    Mutant(
        "drawn-before-the-reply-was-read",
        PLAY,
        "np.nonzero(live & (read == batch.lengths[rows]))",
        "np.nonzero(live)",
        (OF_PLAY + "a_rollout_says_what_a_policy_without_a_cache_says",),
    ),
    Mutant(
        "every-token-drawn-with-the-first-noise",
        PLAY,
        "draw(chosen_from, noise[places])",
        "draw(chosen_from, noise[places - upload(written[turns], device)])",
        (OF_PLAY + "drawn_conversations_have_the_probabilities_of_the_listed_ones",),
    ),
    Mutant(
        "rewards-not-moved-to-the-agents-tokens",
        ROLLOUT,
        "np.cumsum(episode.agent_mask) - 1",
        "np.minimum(np.arange(len(rewards)), len(own) - 1)",
        (OF_PLAY + "what_a_reply_is_paid_falls_to_the_agents_token_before_it",),
    ),
    Mutant(
        "credit-from-the-first-turn-on",
        "agents/algorithms/groups.py",
        "worth = to_go.gather(1, here.to(torch.int64).argmax(dim=1, keepdim=True))[:, 0]",
        "worth = rewards.sum(dim=1)",
        (OF_PLAY + "credit_by_turns_compares_turns_of_the_same_number",),
    ),
    Mutant(
        "ratio-of-the-conversation-for-each-turn",
        "agents/algorithms/rloo.py",
        'turn_sums(log_ratio, old["turns"]).exp()',
        "log_ratio.sum(dim=1, keepdim=True).exp().expand_as(log_ratio)",
        (OF_PLAY + "credit_by_turns_of_rloo_steps_along_the_policy_gradient_of_turns",),
    ),
    Mutant(
        "turns-are-no-part-of-a-questions-id",
        LABELS + "questions.py",
        'return json.dumps({"criteria": criteria, "turns": self.turns} if self.turns else criteria)',
        "return json.dumps(criteria)",
        (OF_LABELS + "test_questions.py::test_the_turns_of_a_conversation_are_part_of_what_is_asked",),
    ),
    Mutant(
        "single-texts-have-another-id-than-before",
        LABELS + "questions.py",
        '{"criteria": criteria, "turns": self.turns} if self.turns else criteria',
        '{"criteria": criteria, "turns": self.turns}',
        (OF_LABELS + "test_questions.py::test_single_texts_have_the_id_that_old_stores_hold",),
    ),
    Mutant(
        "a-store-with-conversations-of-the-older-version",
        LABELS + "store.py",
        "            if question.turns:",
        "            if False:",
        (OF_LABELS + "test_store.py::test_a_store_is_of_the_older_version_until_a_conversation_comes",),
    ),
    Mutant(
        "context-of-a-turn-with-the-turn-itself",
        LABELS + "turns.py",
        "asked = (*self.asked, *self.said[:i])",
        "asked = (*self.asked, *self.said[: i + 1])",
        (OF_LABELS + "test_turns.py",),
    ),
    Mutant(
        "context-of-a-turn-without-the-replies",
        LABELS + "turns.py",
        "            before += text\n",
        '            before += text if role == "assistant" else ""\n',
        (OF_LABELS + "test_turns.py::test_a_transcript_has_exact_turns",),
    ),
    Mutant(
        "best-text-with-the-turns-of-the-left-one",
        LABELS + "formats.py",
        "turns=(talks[0], talks[1 + best], talks[1 + i]) if talks else ()",
        "turns=(talks[0], talks[1], talks[2]) if talks else ()",
        (OF_LABELS + "test_formats.py::test_pairs_of_conversations_are_trls_and_come_back_exactly",),
    ),
    Mutant(
        "person-asked-for-a-reply-that-does-not-fit",
        PERSON,
        "self.room - len(episode.completion_ids)",
        "self.room",
        (OF_PERSON + "what_is_no_reply_is_asked_again",),
    ),
    Mutant(
        "person-who-left-is-asked-about-the-next-episode",
        PERSON,
        "            self.left = True\n",
        "",
        (OF_PERSON + "whoever_left_is_not_asked_again",),
    ),
    Mutant(
        "line-answers-whatever-is-asked",
        TALK_PAGE,
        "if not self._asking or number != self._number or",
        "if not self._asking or",
        (OF_TALK_PAGE + "a_line_answers_only_the_question_that_is_asked",),
    ),
    Mutant(
        "closed-page-comes-back-with-a-late-request",
        TALK_PAGE,
        "            if tab not in self._closed:\n",
        "            if tab:\n",
        (OF_TALK_PAGE + "a_page_that_is_closed_is_left_and_one_loaded_anew_is_not",),
    ),
    Mutant(
        "turns-as-markup",
        "text_gym/cli/play/talk.js",
        '  item.append(element("p", row.text));\n',
        '  item.append(element("p"));\n  item.lastElementChild.innerHTML = row.text;\n',
        ("tests/test_page.py::test_markup_that_a_policy_says_is_never_executed",),
    ),
]
