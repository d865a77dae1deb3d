from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode, Prompt, Turn
from text_gym.errors import ConfigError, SandboxError, ToolError
from text_gym.tools.expression import calculate
from text_gym.tools.tool import Tool
from text_gym.utils.limits import SandboxLimits

NO_IDS = np.zeros(0, dtype=np.int64)


def said(text: str) -> Episode:
    turns = (
        Turn("assistant", "<calc>1+1", NO_IDS),
        Turn("tool", "2", NO_IDS),
        Turn("assistant", text, NO_IDS),
    )
    return Episode(Prompt("Q"), NO_IDS, NO_IDS, ByteTokenizer(), turns=turns)


def awkward(text: str) -> object:
    if text == "raise":
        raise KeyError("no such thing")
    if text == "refuse":
        raise ToolError("ask otherwise")
    if text == "exit":
        raise SystemExit(3)
    return {"long": "x" * 5000, "none": None}.get(text, text)


@pytest.mark.parametrize(
    ("turn", "reply"),
    [
        ("I ask: <calc>6 * 7", "<result>42</result>"),
        ("<calc>6 * 7</calc>", "<result>42</result>"),
        ("<calc>1<calc>2+3", "<result>5</result>"),  # the last call is the one that the turn ends with
        ("<calc>1\n+1", "<error>'1\\n+1' is no expression</error>"),
        ("<calc>1/0", "<error>division by zero</error>"),
        ("<calc>", "<error>'' is no expression</error>"),
        ("6 * 7", "<error>there is no <calc> before </calc></error>"),
        ("<calc>2**10**9", "<error>a number of more than 4096 bits</error>"),
    ],
)
def test_the_last_call_of_the_turn_is_answered(turn: str, reply: str) -> None:
    tool = Tool(calculate, "calc", sandbox=False)
    (found,) = tool.respond([said(turn)], [np.random.default_rng(0)])
    assert (found.text, found.role, found.ends, found.reward) == (reply, "tool", False, 0.0)
    assert tool.turn_stop == "</calc>"


def test_what_a_function_does_wrong_is_an_error_in_the_reply() -> None:
    tool = Tool(awkward, result="[{}]", error="! {}", sandbox=False)
    assert tool.run("<tool>raise") == "! KeyError: 'no such thing'"
    assert tool.run("<tool>refuse") == "! ask otherwise"
    assert tool.run("<tool>exit") == "! SystemExit: 3"
    assert tool.run("<tool>long") == "! a result of more than 2000 characters"
    assert tool.run("<tool>none") == "[None]"
    assert tool.run("<tool>{}") == "[{}]"


WORDS = ("fork", "write", "network", "hang", "die", "memory", "other")
HOSTILE = """
import os, socket, time

def act(text):
    if text == "fork":
        return os.fork()
    if text == "write":
        open("/tmp/text-gym-was-here", "w")
    if text == "network":
        socket.socket()
    if text == "hang":
        time.sleep(60)
    if text == "die":
        os._exit(3)
    if text == "memory":
        return len(bytes(1 << 40))
    raise ValueError("told\\x1b[31m" + text)
"""


def test_a_hostile_tool_is_contained_and_its_errors_are_replies(tmp_path: Path) -> None:
    file = tmp_path / "hostile.py"
    file.write_text(HOSTILE)
    tool = Tool(f"{file}:act", limits=SandboxLimits(seconds=1.0, memory=1 << 30))
    began = time.monotonic()
    replies = {word: tool.run(f"<tool>{word}") for word in WORDS}
    tool.close()
    assert time.monotonic() - began < 30
    assert not Path("/tmp/text-gym-was-here").exists()
    assert replies["other"] == "<error>ValueError: told\\x1b[31mother</error>"
    assert "took longer than 1 s" in replies["hang"]
    assert "process died" in replies["die"]
    assert all(reply.startswith("<error>") and str(tmp_path) not in reply for reply in replies.values())


def test_a_file_that_cannot_be_loaded_is_its_owners_error(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import no_such_library\n")
    with pytest.raises(SandboxError, match="no_such_library"):
        Tool(f"{file}:act").run("<tool>1")


def test_tools_are_pickled_with_their_sandbox_left_behind() -> None:
    tool = Tool(calculate, "calc", sandbox=True)
    assert tool.run("<calc>1/0") == "<error>division by zero</error>"
    copy = pickle.loads(pickle.dumps(tool))
    assert copy.run("<calc>2+2") == "<result>4</result>"
    tool.close()
    copy.close()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="tag is 'a b'"):
        Tool(calculate, "a b", sandbox=False)
    with pytest.raises(ConfigError, match="result is 'x'"):
        Tool(calculate, result="x", sandbox=False)
    with pytest.raises(ConfigError, match="is a name"):
        Tool("math:sqrt", sandbox=False)
    with pytest.raises(ConfigError, match="cannot be found by name"):
        Tool(lambda text: text, sandbox=True)
    with pytest.raises(ConfigError, match="function is 5, which cannot be called"):
        Tool(5, sandbox=False)  # type: ignore[arg-type]
