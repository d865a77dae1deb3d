"""Signatures tell what this user wrote on this machine; nothing else may pass for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from text_gym.utils.signing import is_signed, sign


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a user who has signed nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "text-gym"


def signed(text: str) -> str:
    found = sign(text)
    assert found is not None
    return found


@pytest.mark.usefixtures("state")
def test_a_signature_holds_for_its_text_alone() -> None:
    signature = signed("a text")
    assert is_signed("a text", signature)
    assert not is_signed("a text.", signature)
    for other in (signature[:-1], signature.upper(), "", "é" * 64, None, 7, [signature]):
        assert not is_signed("a text", other)


def test_another_user_or_machine_has_another_key(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = signed("a text")
    assert signed("a text") == signature  # the key is kept
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not is_signed("a text", signature)
    assert signed("a text") != signature
    assert (state / "key").read_bytes() != (tmp_path / "other" / "text-gym" / "key").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_key_is_for_the_users_eyes_alone(state: Path) -> None:
    signed("a text")
    assert stat.S_IMODE((state / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [file.name for file in state.iterdir()] == ["key"]  # no draft is left


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_keys_that_somebody_else_may_have_put_there_are_not_used(state: Path, tmp_path: Path) -> None:
    signature = signed("a text")
    (tmp_path / "planted").write_bytes((state / "key").read_bytes())
    (state / "key").unlink()
    (state / "key").symlink_to(tmp_path / "planted")
    assert sign("a text") is None
    assert not is_signed("a text", signature)
    (state / "key").unlink()
    (state / "key").write_bytes(b"short")
    assert sign("a text") is None
    moved = state.rename(tmp_path / "moved")
    state.symlink_to(moved)
    assert sign("a text") is None


def test_where_no_key_can_be_kept_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign("a text") is None
    assert not is_signed("a text", "0" * 64)
