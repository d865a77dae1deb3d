from __future__ import annotations

import sys

import numpy as np
import pytest

from text_gym import TextEnv, load_task
from text_gym.bridges.openenv import openenv_app
from text_gym.bridges.session import TaskSession
from text_gym.cli.main import main
from text_gym.errors import ConfigError, EpisodeError, MissingLibraryError, TokenError, UnknownNameError


def replies(env: TextEnv) -> int:
    """How many tokens of the running episode are the environment's."""
    (episode,) = env.vector.episodes(np.zeros(1, dtype=np.int64))
    assert episode.agent_mask is not None
    return int((~episode.agent_mask).sum())


def test_a_session_is_the_environment_played_token_by_token() -> None:
    task = load_task("guess")
    session, env = TaskSession(task), TextEnv(**task.env_kwargs())
    rng = np.random.default_rng(0)
    for seed in range(40):
        answer = session.reset(seed)
        env.reset(seed=seed)
        assert answer.text == env.prompt
        done = False
        while not answer.done:
            text = "".join(rng.choice(list("1234567<?"), size=rng.integers(0, 4)))
            answer = session.step(text)
            total = 0.0
            for token in [*task.tokenizer.encode(text), *task.tokenizer.eos_ids]:
                before = replies(env)
                _, reward, terminated, truncated, _ = env.step(np.int64(token))
                total, done = total + reward, terminated or truncated
                if done or replies(env) > before:
                    break
            assert (answer.reward, answer.done) == (total, done)
        own, (other,) = session.episode, env.vector.episodes(np.zeros(1, dtype=np.int64))
        assert own.completion_ids.tolist() == other.completion_ids.tolist()
        assert own.finish_reason == other.finish_reason


def test_a_last_message_that_nobody_answers_is_not_its_own_reply() -> None:
    session = TaskSession(load_task("guess"))
    session.reset(seed=0)
    answer = session.step("?")  # no guess; EOS behind it ends the conversation
    assert session.episode.turns[-1].role == "assistant"
    assert (answer.text, answer.done) == ("", True)


def test_single_turn_tasks_end_with_the_first_message() -> None:
    task = load_task("reverse")
    session = TaskSession(task, held_out=True)
    prompt = session.reset(seed=3).text
    assert prompt in {p.text for p in task.held_out}
    answer = session.step(prompt[::-1])
    assert (answer.text, answer.done) == ("", True)
    assert answer.reward == pytest.approx(1.0)


def test_the_last_message_ends_with_eos_and_nothing_is_written_behind_a_stop() -> None:
    session = TaskSession(load_task("calculator", digits=1, n_train=4, n_held_out=1))
    prompt = session.reset(seed=0).text
    a, _, b, _ = prompt.split()
    answer = session.step(f"<calc> {a} * {b} </calc> 9 9 9")
    result = answer.text.removeprefix("<result> ").removesuffix(" </result>")
    assert (result.replace(" ", ""), answer.done) == (str(int(a) * int(b)), False)
    assert session.step(result).reward == 1.0
    assert "9 9 9" not in session.episode.completion


def test_mistakes_are_named_and_leave_the_episode_as_it_was() -> None:
    session = TaskSession(load_task("guess"))
    with pytest.raises(EpisodeError, match="reset first"):
        session.step("4")
    session.reset(seed=0)
    with pytest.raises(TokenError, match="not in the vocabulary"):
        session.step("é")
    assert len(session.episode.completion_ids) == 0
    while not session.step("4").done:
        pass
    with pytest.raises(EpisodeError, match="reset first"):
        session.step("4")


def test_a_task_may_be_its_name() -> None:
    here, there = TaskSession("guess"), TaskSession(load_task("guess"))
    assert [here.reset(seed=3), here.say("4")] == [there.reset(seed=3), there.say("4")]
    with pytest.raises(UnknownNameError, match="did you mean 'guess'"):
        TaskSession("gues")
    with pytest.raises(ConfigError, match="name is a string, not list"):
        TaskSession(["guess"])  # type: ignore[arg-type]


def test_what_a_tokenizer_of_the_users_own_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    session = TaskSession("guess")
    session.reset(seed=0)
    monkeypatch.setattr(type(session.task.tokenizer), "encode", lambda self, text: [*"ab"].index(text))
    with pytest.raises(TokenError, match="WordTokenizer cannot encode '4': ValueError: '4' is not in list"):
        session.step("4")
    assert len(session.episode.completion_ids) == 0


def test_a_missing_openenv_and_impossible_options_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openenv", None)
    with pytest.raises(MissingLibraryError, match=r"needs openenv.*text-gym\[openenv\]"):
        openenv_app(load_task("guess"))
    assert main(["serve", "guess", "--port", "0"]) == 2
    assert main(["serve", "gues"]) == 2
    assert "did you mean 'guess'" in capsys.readouterr().err
