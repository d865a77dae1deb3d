"""Uploads a saved policy to the Hugging Face Hub; nothing is sent that names a path of this machine.

The library is imported when it is asked for. Tokens are its own business, and are never shown.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError, PushError
from text_gym.utils.display import harmless, without_secret

from .saved_policy import ORIGIN, holds_model, policy_folder, read_origin

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_SIGNED = re.compile(r"(https?://[^\s?']+)\?[^\s']*")  # an address of storage, whose query is a key to it
_SECRET = re.compile(r"hf_\w+|Bearer +\S+", re.IGNORECASE)


def check_push(name: str) -> None:
    """Check, before anything is trained, that a policy could be pushed under this name.

    Raises:
        ConfigError: The name is none, or there is no `huggingface_hub`, or no token.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".ipynb")):
        raise ConfigError(f"--push-to-hub {name}: write OWNER/NAME, or NAME for one of your own")
    if _hub().get_token() is None:
        raise ConfigError("--push-to-hub needs a token of the hub; run `hf auth login`, or set HF_TOKEN")


def push_policy(folder: str | Path, name: str) -> str:
    """Upload a policy's folder, model card included; a repository that is not there is made, a private one.

    Args:
        folder: A policy's, or a run's.
        name: `OWNER/NAME`, or `NAME` for one of your own.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: There is no policy, or what `check_push` finds.
        PushError: The hub refused, or could not be reached; the folder is untouched.
    """
    check_push(name)
    place = Path(policy_folder(folder))
    if not holds_model(place):
        raise ConfigError(f"{folder} holds no policy; pass the folder of a policy, or of a run")
    hub = _hub()
    found = [p for p in place.iterdir() if p.name != ORIGIN] + list((place / "value_head").glob("*"))
    files = sorted(p for p in found if p.is_file())
    operations = [hub.CommitOperationAdd(p.relative_to(place).as_posix(), str(p)) for p in files]
    origin = json.dumps(_without_paths(read_origin(place)), indent=2).encode()
    operations.append(hub.CommitOperationAdd(ORIGIN, origin))
    try:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        made = api.create_repo(name, private=True, exist_ok=True)
        api.create_commit(made.repo_id, operations, commit_message="Policy of text-gym")
    except Exception as error:
        again = shlex.join(["text-gym", "push", str(folder), name])
        raise PushError(
            f"the policy in {place} is saved, and was not pushed to {name}: {_said(error)}; to push it: "
            + again
        ) from error
    return str(made)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("to push to the hub: pip install huggingface_hub") from error
    return huggingface_hub


def _without_paths(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return an origin that names files and folders by their own name alone."""
    start = origin.get("start_policy")
    if isinstance(start, Mapping):
        places = [p for p in start.get("places", []) if "folder" not in p]
        origin = {**origin, "start_policy": {**start, "places": places}}
    found = dict(origin)
    for key in ("data", "gold"):
        if isinstance(origin.get(key), str) and os.path.isabs(origin[key]):
            found[key] = re.split(r"[/\\]", origin[key])[-1]
    return found


def _said(error: Exception) -> str:
    """Return on one line what the hub said, without anything like a token or a signed address."""
    told = [_first_line(error)]
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):  # of an upload that broke off
        told.append(_first_line(error.__cause__))
    answer = getattr(error, "server_message", None)
    if isinstance(answer, str) and answer.strip():
        told.append(answer.strip().splitlines()[0])
    said = _SIGNED.sub(r"\1", _SECRET.sub("[hidden]", "; ".join(dict.fromkeys(told))))
    token = _hub().get_token()
    return harmless(without_secret(said, token or "", "[hidden]"), limit=300)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
