"""Pushing a policy to a hub: the real client against a server here, which stands for the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest

from text_gym.cli.main import main
from text_gym.errors import ConfigError
from text_gym.runs.hub import check_push

TOKEN = "hf_thisIsASecretToken0123456789"


class Hub(BaseHTTPRequestHandler):
    """Makes repositories and takes commits of small files, as the hub does; or refuses with `status`."""

    status: ClassVar[int] = 200
    asked: ClassVar[list[tuple[str, str]]] = []
    made: ClassVar[dict[str, Any]] = {}
    files: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        here = f"http://{self.headers.get('Host')}"
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        if self.status != 200:
            self.answer({"error": f"no, {self.headers.get('Authorization')}"})
        elif self.path == "/api/repos/create":
            Hub.made = json.loads(body)
            name = f"{self.made.get('organization') or 'me'}/{self.made['name']}"
            self.answer({"url": f"{here}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":  # of the model card
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": f["path"], **mode} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"success": True, "commitUrl": f"{here}/me/reverse/commit/0", "commitOid": "0" * 40})
        else:
            self.send_error(404)

    def answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.status, Hub.made = 200, {}
    Hub.asked.clear()
    Hub.files.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def training(out: Path, *more: str) -> list[str]:
    options = ["--task", "reverse", "--policy", "new", "--iterations", "1", "--episodes", "8"]
    return ["train", *options, "--out", str(out), *more]


def test_a_refusal_keeps_the_run_and_says_what_to_type_and_that_works(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is pushed is the policy with its card, and no path of this machine."""
    hub.status = 403
    out = tmp_path / "my run"
    assert main(training(out, "--push-to-hub", "me/reverse")) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("text-gym: PushError: ")
    assert shown.err.endswith(f"to push it: text-gym push '{out}' me/reverse\n")
    assert len(shown.err.splitlines()) == 1
    assert TOKEN not in shown.out + shown.err
    assert (out / "summary.json").is_file()

    hub.status = 200
    assert main(["push", str(out), "me/reverse"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("/me/reverse\n")
    assert TOKEN not in shown.out + shown.err
    assert {authorization for _, authorization in hub.asked} == {f"Bearer {TOKEN}"}
    assert hub.made["name"] == "reverse"
    assert hub.made.get("visibility", hub.made.get("private")) in ("private", True)  # newer and older clients
    place = out / "policy"
    names = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert set(hub.files) == names
    assert names >= {"README.md", "model.safetensors", "config.json", "text_gym.json"}
    assert "value_head/value_head.safetensors" in names
    for name in names - {"text_gym.json"}:
        assert hub.files[name] == (out / "policy" / name).read_bytes()
    origin = json.loads(hub.files["text_gym.json"])
    assert origin["task"] == "reverse"
    assert origin["start_policy"]["places"] == []
    assert not any(str(tmp_path).encode() in content for content in hub.files.values())


def test_an_address_without_a_hub_is_a_line_too(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def unreachable(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(f"no route to host with Bearer {TOKEN} and {TOKEN}")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    assert main(["push", str(tmp_path), "reverse"]) == 2
    shown = capsys.readouterr()
    assert "OSError: no route to host with [hidden] and [hidden]" in shown.err
    assert TOKEN not in shown.out + shown.err


class RefusedError(Exception):
    """As the hub's library has it: what the hub answered stands beside the first line."""

    server_message = "storage is full"

    def __str__(self) -> str:
        return "409 Conflict\nmore"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RefusedError(), "RefusedError: 409 Conflict; storage is full; to push"),
        (RuntimeError("no upload"), "RuntimeError: no upload; OSError: 403 for http://store/file'; to push"),
    ],
)
def test_the_line_has_what_the_hub_answered_and_no_signed_address(
    error: Exception,
    said: str,
    hub: type[Hub],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refused(self: Any, *args: Any, **kwargs: Any) -> None:
        raise error from OSError("403 for http://store/file?signature=KEY'")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", refused)
    assert main(["push", str(tmp_path), "reverse"]) == 2
    assert said in (shown := capsys.readouterr().err)
    assert "KEY" not in shown


def test_a_token_that_looks_like_any_other_word_is_hidden_too(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refused(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("our hub knows no house-key/2026")

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "house-key/2026")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refused)
    assert main(["push", str(tmp_path), "reverse"]) == 2
    assert "OSError: our hub knows no [hidden];" in capsys.readouterr().err


def test_what_could_not_be_pushed_is_told_before_training(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/b/c", "", "../x", "https://huggingface.co/a/b", "a/b\n", "a--b", "x.git"):
        with pytest.raises(ConfigError, match="write OWNER/NAME"):
            check_push(name)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(training(tmp_path / "run", "--push-to-hub", "me/reverse")) == 2
    assert "run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), "me/reverse"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []
