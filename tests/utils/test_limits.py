from __future__ import annotations

import errno
from typing import Any

import pytest

from text_gym.errors import ConfigError
from text_gym.utils.limits import UNLIMITED, SandboxLimits, as_error, environment_of, missing_limits


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["seconds", "memory", "files", "output", "answer"])
def test_a_limit_is_a_positive_number(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"limit {name} must be positive"):
        SandboxLimits(**{name: value})  # type: ignore[arg-type]


def test_an_answer_always_has_a_limit() -> None:
    assert SandboxLimits(seconds=None, memory=None, files=None, output=None).answer > 0
    with pytest.raises(TypeError):
        SandboxLimits(answer=None)  # type: ignore[arg-type]


def test_a_sandboxed_process_inherits_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("LANG", "C.UTF-8")
    found = environment_of(SandboxLimits(), "/own")
    assert "secret" not in str(dict(found))
    assert found["TMPDIR"] == found["TEMP"] == found["TMP"] == "/own"
    assert found["OMP_NUM_THREADS"] == "3"  # as the user chose it; one thread where nobody chose
    assert found["LANG"] == "C.UTF-8"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment_of(SandboxLimits(), "/own")["OMP_NUM_THREADS"] == "1"
    assert environment_of(UNLIMITED, "/own")["OPENAI_API_KEY"] == "secret"


OS_ERROR = ["builtins.OSError", "builtins.Exception"]
NO_FILES, MAY_START = SandboxLimits(files=None), SandboxLimits(processes=True)


@pytest.mark.parametrize(
    ("number", "limit", "lifted"),
    [
        (errno.ENETDOWN, "network", SandboxLimits(network=True)),
        (errno.EAGAIN, "processes", MAY_START),
        (errno.EACCES, "files", NO_FILES),
        (errno.EFBIG, "files", NO_FILES),
        (errno.EPERM, "permission", MAY_START),
        (errno.ENOMEM, "memory", SandboxLimits(memory=None)),
    ],
)
def test_a_refusal_is_blamed_on_its_limit_unless_that_was_lifted(
    number: int, limit: str, lifted: SandboxLimits
) -> None:
    found = {"types": OS_ERROR, "message": "no", "errno": number, "place": "f.py:3"}
    error = as_error("f", found, SandboxLimits())
    assert error.limit == limit
    assert str(error).startswith("f raised OSError: no (f.py:3); ")
    assert error.hint
    assert str(error).endswith(error.hint)
    assert as_error("f", found, lifted).limit is None
    assert as_error("f", {**found, "types": ["builtins.ValueError"]}, SandboxLimits()).limit is None


@pytest.mark.parametrize("found", [None, [], "x", {}, {"types": 3}, {"types": [1, None]}, {"errno": "12"}])
def test_whatever_a_worker_says_makes_an_error(found: Any) -> None:
    error = as_error("f", found, SandboxLimits())
    assert error.limit is None
    assert str(error).startswith("f raised Exception: ")


def test_what_a_worker_says_is_harmless_on_a_terminal() -> None:
    said = str(
        as_error("f", {"types": ["builtins.KeyError"], "message": "\x1b[2J\u202e" + "x" * 5000}, UNLIMITED)
    )
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said) < 1200


def test_limits_that_nobody_asked_for_are_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"files": "no Landlock", "network": "no seccomp", "signals": "no seccomp"}
    monkeypatch.setattr("text_gym.utils.limits._unavailable", lambda: lacking)
    assert missing_limits(SandboxLimits()) == lacking
    assert set(missing_limits(SandboxLimits(files=None))) == {"network", "signals"}
    assert missing_limits(UNLIMITED) == {}
