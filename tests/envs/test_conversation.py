"""Conversations in the environment: turns, replies, limits, rewards, failures, and the same in every mode."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from tests.worlds import PerToken
from text_gym import (
    ByteTokenizer,
    Episode,
    EpisodeBatch,
    EpisodeOptions,
    MinLength,
    Prompt,
    Reply,
    TextEnv,
    TextVectorEnv,
    WordTokenizer,
    read_transcripts,
    write_transcripts,
)
from text_gym.errors import ConfigError, RespondentError
from text_gym.respondents import ReplyWithin, reply_generator

WORDS = WordTokenizer("abcd.!", separator="")  # ids 0-5, EOS 6, padding 7
A, B, C, D, STOP, BANG, EOS = range(7)


class Script:
    """Replies `!` and the number of the turn in letters, pays that number, and notes what it was asked."""

    def __init__(self, ends_at: int = 99, texts: Sequence[Any] = ("!a", "!bb", "!", "!a", "!a")) -> None:
        self.ends_at, self.texts = ends_at, texts
        self.heard: list[list[str]] = []

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        replies = []
        for episode in episodes:
            turn = sum(t.role == "assistant" for t in episode.turns)
            assert episode.turns[-1].role == "assistant"
            assert episode.finish_reason is None
            self.heard.append([t.text for t in episode.turns])
            replies.append(Reply(self.texts[turn - 1], reward=float(turn), ends=turn == self.ends_at))
        return replies


class Chance:
    """Replies letters drawn from the episode's generator, and 0.5 for each."""

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        return [
            Reply(g.integers(0, 4, size=1 + int(g.integers(3))).tolist(), reward=float(g.random()))
            for g in generators
        ]


def batch_of(rows: int = 1, max_tokens: int = 8, respondent: Any = None, **options: Any) -> EpisodeBatch:
    options = {"turn_stop": ".", "max_turns": 4, **options}
    talk = EpisodeOptions(respondent=respondent or Script(), **options)
    batch = EpisodeBatch(["ab"], WORDS, lambda completion: 0.25, max_tokens, rows, talk)
    batch.begin(np.arange(rows), np.zeros(rows, dtype=np.int64), np.arange(rows))
    return batch


def play(batch: EpisodeBatch, tokens: Sequence[int]) -> list[float]:
    """Write tokens into row 0 while its episode runs, and return what each was paid by replies."""
    paid = []
    for token in tokens:
        batch.advance(np.array([0]), np.array([token]))
        assert batch.conversation is not None
        paid.append(float(batch.conversation.rewards[0]))
    return paid


def test_a_reply_stands_behind_the_turn_that_it_answers() -> None:
    batch = batch_of()
    paid = play(batch, [C, STOP, D, D, STOP, EOS])
    (episode,), scores = batch.score(np.array([0]))
    assert episode.completion == "c.!add.!bb"
    roles = ["assistant", "user", "assistant", "user", "assistant"]
    assert [t.role for t in episode.turns] == roles
    assert [t.text for t in episode.turns] == ["c", "!a", "dd", "!bb", ""]
    assert [t.reward for t in episode.turns] == [1.0, 0.0, 2.0, 0.0, 0.0]
    assert np.concatenate([t.ids for t in episode.turns]).tolist() == episode.completion_ids.tolist()
    assert episode.agent_mask is not None
    assert episode.agent_mask.astype(int).tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert episode.agent_ids.tolist() == [C, STOP, D, D, STOP, EOS]
    assert batch.conversation is not None
    assert batch.conversation.agent[0, 2:13].tolist() == episode.agent_mask.tolist()
    assert episode.finish_reason == "eos"
    assert paid == [0, 1, 0, 0, 2, 0]  # on the last token of the turn that is replied to
    assert scores.per_token is not None
    assert scores.per_token[0].tolist() == [0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert scores.values.tolist() == [0.25]
    assert batch.last_rewards(np.array([0]), scores).tolist() == [0.25]
    assert batch.attention_mask[0].sum() == batch.lengths[0] == 2 + 11


@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_a_reply_ends_an_episode_under_both_meanings_of_the_limit(limit: str) -> None:
    batch = batch_of(respondent=Script(ends_at=2), limit=limit, max_turns=2, max_tokens=4)
    play(batch, [C, STOP, D, STOP])  # the last turn and the last token allowed, and yet no cut
    (episode,) = batch.episodes(np.array([0]))
    assert batch.done[0]
    assert not batch.truncated[0]
    assert (episode.finish_reason, episode.completion, episode.whole) == ("reply", "c.!ad.!bb", True)


@pytest.mark.parametrize("limit", ["end", "truncate"])
@pytest.mark.parametrize(
    ("options", "tokens", "text"),
    [
        ({"max_turns": 2}, [C, STOP, D, STOP], "c.!ad.!bb"),
        (
            {"max_tokens": 4},
            [C, STOP, D, STOP],
            "c.!ad.!bb",
        ),  # a turn that ends on the last token is replied to
        ({"max_tokens": 3}, [C, STOP, D], "c.!ad"),
        ({"max_context": 10}, [C, STOP, D, STOP], "c.!ad."),  # "!bb" would be the 11th token
        ({"max_context": 11}, [C, STOP, D, STOP], "c.!ad.!bb"),  # and now nothing is left for the agent
        ({"max_context": 10}, [C, STOP, D, D, D, D], "c.!adddd"),
    ],
)
def test_three_limits(limit: str, options: dict[str, Any], tokens: list[int], text: str) -> None:
    options = {"max_tokens": 8, **options}
    batch = batch_of(limit=limit, **options)
    play(batch, tokens[:-1])
    assert not batch.done[0]
    assert batch.remaining[0] > 0
    play(batch, tokens[-1:])
    (episode,), scores = batch.score(np.array([0]))
    assert batch.done[0]
    assert batch.truncated[0] == (limit == "truncate")
    assert (episode.finish_reason, episode.completion) == ("length", text)
    assert scores.values.tolist() == [0.25 if limit == "end" else 0.0]


def test_what_may_follow_and_what_stops_is_asked_of_the_running_turn_alone() -> None:
    # The environment writes what stops a turn and an episode; and every turn has its shortest length.
    batch = batch_of(respondent=Script(texts=["d.", "d.", "d."]), stop="d", mask=MinLength(1))
    assert not batch.action_masks()[0, EOS]
    play(batch, [C])
    assert batch.action_masks()[0, EOS]
    play(batch, [STOP])
    assert not batch.done[0]
    assert not batch.action_masks()[0, EOS]
    play(batch, [C])
    assert not batch.done[0]
    assert batch.action_masks()[0, EOS]
    play(batch, [D])
    (episode,) = batch.episodes(np.array([0]))
    assert (episode.finish_reason, episode.completion) == ("stop", "c.d.c")
    assert [t.text for t in episode.turns] == ["c", "d.", "c"]


def test_a_stop_string_of_turns_is_looked_for_in_the_running_turn_alone() -> None:
    # The reply ends as the stop string begins, and the agent goes on as it ends.
    batch = batch_of(respondent=Script(texts=["a.", "!", "!"]), turn_stop="..")
    play(batch, [C, STOP, STOP, STOP, C])
    (episode,) = batch.episodes(np.array([0]))
    assert [t.text for t in episode.turns] == ["c", "a.", ".c"]
    play(batch, [STOP, STOP])
    (episode,) = batch.episodes(np.array([0]))
    assert [t.text for t in episode.turns] == ["c", "a.", ".c", "!"]


def test_a_turn_that_is_longer_than_what_is_searched_has_its_whole_text() -> None:
    batch = batch_of(max_tokens=80)
    play(batch, [C, *[D] * 60, STOP])
    (episode,) = batch.episodes(np.array([0]))
    assert [t.text for t in episode.turns] == ["c" + 60 * "d", "!a"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda episode: pickle.loads(pickle.dumps(episode))])
def test_episodes_of_conversations_can_be_copied_and_stay_as_they_were(copied: Any) -> None:
    batch = batch_of(max_tokens=80)
    play(batch, [C, *[D] * 60, STOP, D])
    (episode,) = batch.episodes(np.array([0]))
    batch.begin(np.arange(1), np.zeros(1, dtype=np.int64), np.arange(1))
    play(batch, [C, STOP, STOP])
    for found in (copied(episode), episode):
        turns = [(t.role, t.text, t.ids.tolist(), t.reward) for t in found.turns]
        long = ("assistant", "c" + 60 * "d", [C, *[D] * 60, STOP], 1.0)
        assert turns == [long, ("user", "!a", WORDS.encode("!a"), 0.0), ("assistant", "d", [D], 0.0)]
        assert found.prompt_ids.tolist() == WORDS.encode("ab")
        assert found.completion == "c" + 60 * "d" + ".!ad"
        assert found.agent_mask is not None
        assert found.agent_mask.astype(int).tolist() == 62 * [1] + 2 * [0] + [1]
    with pytest.raises(AttributeError, match="'Episode' object has no attribute 'turn'"):
        _ = episode.turn  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'Turn' object has no attribute 'id'"):
        _ = episode.turns[0].id  # type: ignore[attr-defined]


def test_a_copied_conversation_goes_on_by_itself() -> None:
    batch = batch_of()
    play(batch, [C, STOP])
    twin = copy.deepcopy(batch)
    played = [play(batch, [D, STOP]), play(twin, [STOP, D])]
    assert played == [[0.0, 2.0], [2.0, 0.0]]
    assert [b.episodes(np.array([0]))[0].completion for b in (batch, twin)] == ["c.!ad.!bb", "c.!a.!bbd"]


def test_ids_of_a_reply_may_be_whole_numbers_of_any_kind() -> None:
    for kind in (float, np.int32, np.float32):
        batch = batch_of(respondent=Script(texts=[[kind(C), kind(D)]]))
        play(batch, [C, STOP])
        assert batch.episodes(np.array([0]))[0].completion == "c.cd"


def test_a_stop_string_may_end_with_a_character_of_several_tokens() -> None:
    talk = EpisodeOptions(respondent=Script(), turn_stop="é", max_turns=2)
    batch = EpisodeBatch(["ab"], ByteTokenizer(), lambda completion: 0.0, 8, 1, talk)
    batch.begin(np.arange(1), np.zeros(1, dtype=np.int64), np.arange(1))
    play(batch, [97, *"é".encode()])
    (episode,) = batch.episodes(np.array([0]))
    assert [t.text for t in episode.turns] == ["a", "!a"]


def test_what_a_reply_paid_is_kept_while_other_rows_go_on() -> None:
    batch = batch_of(2)
    talk = batch.conversation
    assert talk is not None
    seen = []
    for row, token in ((0, STOP), (1, C), (0, D), (1, C)):
        batch.advance(np.array([row]), np.array([token]))
        seen.append((talk.rewards.tolist(), talk.paid.tolist()))
    assert seen == [([1, 0], [0, 0]), ([1, 0], [0, 0]), ([0, 0], [1, 0]), ([0, 0], [1, 0])]


def test_without_a_stop_string_eos_ends_turns() -> None:
    batch = batch_of(turn_stop=(), respondent=Script(ends_at=2))
    play(batch, [C, EOS, EOS])
    (episode,) = batch.episodes(np.array([0]))
    assert [t.text for t in episode.turns] == ["c", "!a", "", "!bb"]
    assert episode.finish_reason == "reply"


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_many_conversations_are_single_ones_side_by_side(mode: str) -> None:
    options: dict[str, Any] = {"respondent": Chance(), "turn_stop": ".", "max_turns": 3, "limit": "truncate"}
    parts = ([{"prompt": "a"}, {"prompt": "bcd"}], WORDS, lambda completion: len(completion), 7)
    native = TextVectorEnv(*parts, 4, autoreset_mode=mode, **options)
    singles = SyncVectorEnv([lambda: TextEnv(*parts, **options)] * 4, autoreset_mode=mode)
    found = [native.reset(seed=5)[0], singles.reset(seed=5)[0]]
    actions = np.random.default_rng(0).choice([A, STOP, BANG, EOS], p=[0.3, 0.4, 0.15, 0.15], size=(60, 4))
    for action in actions:
        steps = [env.step(action) for env in (native, singles)]
        found += [steps[0][0], steps[1][0]]
        for mine, theirs in zip(steps[0][1:4], steps[1][1:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        over = steps[0][2] | steps[0][3]
        if mode == "Disabled" and over.any():
            found += [env.reset(options={"reset_mask": over})[0] for env in (native, singles)]
    for mine, theirs in zip(found[::2], found[1::2], strict=True):
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_an_episode_is_a_function_of_its_number_and_the_actions() -> None:
    texts = []
    for numbers in (np.array([3]), np.arange(1, 6)):
        options = EpisodeOptions(respondent=Chance(), turn_stop=".", max_turns=9)
        batch = EpisodeBatch(["ab"], WORDS, lambda completion: 0.0, 8, len(numbers), options)
        rows = np.arange(len(numbers))
        batch.begin(rows, np.full(len(rows), 7), numbers)
        for token in (C, STOP, D, STOP, STOP):
            batch.advance(rows, np.full(len(rows), token))
        texts.append(batch.episodes(rows))
    alone, among = texts[0][0], next(e for e in texts[1] if e.index == 3)
    assert alone.completion_ids.tolist() == among.completion_ids.tolist()
    assert len({e.completion for e in texts[1]}) > 1
    assert len({reply_generator(alone, turn).random() for turn in range(5)}) == 5
    drawn = reply_generator(alone, 2)
    assert (
        drawn.integers(0, 4, size=1 + int(drawn.integers(3))).tolist() != []
    )  # asked again, as often as one likes
    assert alone.turns[2].reward == float(drawn.random())


class Broken(Script):
    """Fails in one way for the episode of one number, if it is asked about it alone or with others."""

    def __init__(self, how: str, number: int = 1) -> None:
        super().__init__()
        self.how, self.number = how, number

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> Any:
        replies: list[Any] = super().respond(episodes, generators)
        for i, episode in enumerate(episodes):
            if episode.index != self.number:
                continue
            if self.how == "raises":
                raise OSError("the line is dead")
            if self.how == "count":
                return replies[1:]
            bad: dict[str, Any] = {
                "type": "text", "text": Reply(cast("Any", None)), "id": Reply([99]),
                "reward": Reply("a", float("nan")),
                "role": Reply("a", role="assistant"), "word": Reply("z"),
                "ends": Reply("a", ends=cast("Any", 1)),
            }  # fmt: skip
            replies[i] = bad[self.how]
        return replies


@pytest.mark.parametrize("how", ["raises", "count", "type", "text", "id", "reward", "role", "word", "ends"])
@pytest.mark.parametrize("on_bad_reply", ["raise", "drop"])
def test_a_respondent_that_fails_is_named_and_harms_its_own_episode_alone(
    how: str, on_bad_reply: str
) -> None:
    batch = batch_of(3, respondent=Broken(how), on_bad_reply=on_bad_reply)
    rows = np.arange(3)
    if on_bad_reply == "raise":
        with pytest.raises(RespondentError, match="Broken"):
            batch.advance(rows, np.full(3, STOP))
    else:
        batch.advance(rows, np.full(3, STOP))
    if how == "count":  # nobody knows whose replies they are
        assert batch.done.all()
        return
    assert batch.done.tolist() == batch.truncated.tolist() == [False, True, False]
    others = batch.episodes(np.array([0, 2]))
    assert [e.completion for e in others] == [".!a", ".!a"]
    batch.advance(np.array([0, 2]), np.full(2, EOS))
    _, scores = batch.score(rows)
    assert scores.totals.tolist() == [1.25, 0.0, 1.25]


def test_impossible_settings_are_refused() -> None:
    for options, said in (
        ({"max_turns": None}, "max_turns"),
        ({"turn_stop": ""}, "turn_stop"),
        ({"max_turns": 0}, "max_turns"),
        ({"on_bad_reply": "x"}, "on_bad_reply"),
        ({"respondent": object()}, "respond"),
    ):
        with pytest.raises(ConfigError, match=said):
            batch_of(**options)
    with pytest.raises(ConfigError, match="respondent"):
        EpisodeOptions(max_turns=3)


class Hangs:
    """Never answers."""

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        threading.Event().wait(5)
        return []


def test_a_respondent_that_hangs_is_named_after_its_time() -> None:
    batch = batch_of(respondent=ReplyWithin(Hangs(), 0.05))
    with pytest.raises(RespondentError, match=r"Hangs took longer than 0.05 s"):
        batch.advance(np.array([0]), np.array([STOP]))
    assert batch.truncated[0]
    batch = batch_of(respondent=ReplyWithin(Script(), 5.0))
    play(batch, [STOP])
    assert batch.episodes(np.array([0]))[0].completion == ".!a"


def test_conversations_are_kept_as_transcripts_with_their_turns(tmp_path: Path) -> None:
    batch = batch_of()
    play(batch, [C, STOP, D, D, STOP, EOS])
    (episode,) = batch.episodes(np.array([0]))
    write_transcripts(tmp_path / "talk.jsonl", [episode])
    (again,) = read_transcripts(tmp_path / "talk.jsonl", WORDS)
    assert again.completion == episode.completion
    assert again.agent_ids.tolist() == episode.agent_ids.tolist()
    for mine, theirs in zip(episode.turns, again.turns, strict=True):
        assert (mine.role, mine.text, mine.reward) == (theirs.role, theirs.text, theirs.reward)
        assert mine.ids.tolist() == theirs.ids.tolist()


def test_transcripts_with_half_a_character_are_kept_and_read(tmp_path: Path) -> None:
    file, tokenizer = tmp_path / "talk.jsonl", ByteTokenizer()
    write_transcripts(file, [Episode.of(Prompt("a\ud800", {"of": "\udfff"}), "b", tokenizer)])
    file.write_text(file.read_text("utf-8"), "utf-8-sig")  # as some editors save it
    (again,) = read_transcripts(file, tokenizer)
    assert (again.prompt.text, again.prompt.columns, again.completion) == ("a?", {"of": "?"}, "b")


def test_a_reward_between_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Reply\.reward"):
        TextVectorEnv(["a"], WORDS, PerToken(causal=True), 4, respondent=Script(), turn_stop=".", max_turns=2)


def test_the_parts_of_a_completion_have_what_ended_each_turn(tmp_path: Path) -> None:
    """Where a stop string is all that the agent says, `Turn.text` is empty."""
    batch = batch_of(max_tokens=5)
    play(batch, [A, STOP, B, EOS])
    (episode,) = batch.episodes(np.zeros(1, dtype=np.int64))
    assert [t.text for t in episode.turns] == ["a", "!a", "b"]
    assert episode.turn_texts == ["a.", "!a", "b"]
    assert episode.talk == (("assistant", "a."), ("user", "!a"), ("assistant", "b"))
    for times in (1, 2):
        write_transcripts(tmp_path / "talks.jsonl", [episode], append=True)
        rows = [json.loads(line) for line in (tmp_path / "talks.jsonl").read_text().splitlines()]
        assert [[t["said"] for t in row["turns"]] for row in rows] == [["a.", "!a", "b"]] * times
