"""The record in a run's folder of what the run was started with, compared with what there is now.

It is signed with the user's key: code that a folder names runs unasked only if this user made the folder on
this machine. What is compared is said in `conditions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from text_gym.errors import ChangedRunError, ConfigError, UntrustedRunError
from text_gym.json_text import read_object
from text_gym.reward_models.names import PREFIXES
from text_gym.utils.display import harmless
from text_gym.utils.json_files import _render, write_json
from text_gym.utils.signing import is_signed, sign
from text_gym.utils.user_code import file_of, split_place

RECORD = "started_with.json"
_FORMAT = 1
_MISSING = "nothing"
_VERSION, _KERNELS = "version of ", "compiled kernels"
_SPECS = {"algorithm": "algorithm", "reward": "reward", "gold": "gold reward"}  # option -> what it names


class Change(NamedTuple):
    """One thing that is not what a run was started with."""

    what: str
    before: str
    now: str

    @property
    def grave(self) -> bool:
        """True if results before and after do not belong together; kernels and patch versions only round."""
        if self.what.startswith(_VERSION):
            return self.before.split(".")[:2] != self.now.split(".")[:2]
        return self.what != _KERNELS

    def __str__(self) -> str:
        return f"{self.what}: {_short(self.before)} before, {_short(self.now)} now"


def start_record(folder: Path, config: Mapping[str, Any], conditions: Mapping[str, str]) -> None:
    """Write the record of a run that begins."""
    content = {"format": _FORMAT, "config": json.loads(_render(config)), "conditions": dict(conditions)}
    _write(folder, {**content, "accepted": []}, signed=True)


def go_on(
    folder: Path,
    config: Mapping[str, Any],
    conditions: Mapping[str, str],
    *,
    accept_changes: bool = False,
    growing: bool = False,
) -> list[str]:
    """Compare a run's record with what there is now, before the run goes on; return notes for its log.

    Changes that are accepted are added to the record, which knows from then on what there is now.

    Args:
        folder: The run's.
        config: Its settings now, as in `config.json`.
        conditions: What else there is now.
        accept_changes: Go on all the same.
        growing: Settings are compared elsewhere, and further conditions may join the old ones.

    Raises:
        ChangedRunError: Something differs that matters; everything that does is named.
        ConfigError: The record cannot be read.
    """
    record = read_record(folder)
    if record is None:
        return [
            f"{harmless(str(folder))} has no {RECORD}: an older text-gym made it, and nobody can tell "
            "whether reward, data and versions are those it was started with"
        ]
    given = json.loads(_render(config))
    changes = [] if growing else list(differences(record["config"], given))
    changes += _compare(record["conditions"], conditions, growing=growing)
    check_changes(folder, [c for c in changes if c.grave], accept_changes)
    notes = [f"not what the run was started with: {harmless(str(change))}" for change in changes]
    kept = {**record["conditions"], **conditions} if growing else dict(conditions)
    content = {**record, "config": given, "conditions": kept}
    if changes:
        content["accepted"] = [*record["accepted"], *map(list, changes)]
    if content != record:
        _write(folder, content, signed=_is_own(record))
    return notes


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the settings that differ, as they are in `config.json`."""
    return _compare(_flat(before), _flat(json.loads(_render(now))))


def check_changes(folder: str | Path, changes: Sequence[Change], accept_changes: bool) -> None:
    """Refuse changes that were not accepted.

    Raises:
        ChangedRunError: Naming them all.
    """
    if changes and not accept_changes:
        named = "; ".join(harmless(str(change)) for change in changes)
        raise ChangedRunError(
            f"the run in {folder} was started with something else ({named}); give that back, or go on with "
            "what there is now: --accept-changes, in Python accept_changes=True",
            changes,
        )


def check_trust(
    folder: str | Path,
    options: Mapping[str, Any],
    *,
    trusted: bool = False,
    accept_changes: bool = False,
    sandbox: bool = True,
) -> None:
    """Refuse to run what a folder's `config.json` names, unless this user made the folder or trusts it.

    It is compared with the record before any of it runs.

    Args:
        folder: The run's.
        options: Those in its `config.json`.
        trusted: The user says so.
        accept_changes: Run it although it is other code than the run was started with.
        sandbox: Rewards from files run in the sandbox.

    Raises:
        UntrustedRunError: The folder is from elsewhere; what would run is named.
        ChangedRunError: The code is not what it was.
        ConfigError: The record cannot be read.
    """
    record, named = read_record(Path(folder)), _code_of(options)
    upload = options.get("push_to_hub")
    if not named and not upload:
        return
    known = (record or {}).get("config", {}).get("options") or {}
    own = record is not None and _is_own(record)
    own = own and named == _code_of(known) and upload == known.get("push_to_hub")
    if not own and not trusted:
        boxed = {what for what, spec in named.items() if sandbox and what != "algorithm" and _is_file(spec)}
        would = [f"run {k} {v}{' (in the sandbox)' * (k in boxed)}" for k, v in named.items()]
        would += [f"upload the policy to {upload}"] if upload else []
        raise UntrustedRunError(
            f"{folder} was not made by you on this machine, or was altered since, and to go on with it would "
            f"{harmless('; '.join(would))}. Look at that first; if it may be done, add --trust {folder}"
        )
    changes = [
        Change(f"code of the {what}", before, code)
        for what, spec in named.items()
        for before in [str((record or {}).get("conditions", {}).get(f"code of the {what}", ""))]
        for code in [code_at(spec)]
        if record is not None and code is not None and code not in before.split(", ")
    ]
    check_changes(folder, changes, accept_changes)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a folder's record; None if there is none, because an older version made the folder.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    found = read_object(file, ConfigError, "restore it from a copy, or begin anew")
    kinds = {"config": dict, "conditions": dict, "accepted": list}
    if found.get("format") != _FORMAT or any(not isinstance(found.get(k), v) for k, v in kinds.items()):
        raise ConfigError(f"{file} is no record of a run that this version of text-gym can read")
    return found


def code_at(spec: str) -> str | None:
    """Name and hash the file of `module:name` or `file.py:name`, and run nothing; None if there is none."""
    place = split_place(spec)
    file = None if place is None else file_of(place[0])
    return None if file is None else describe_file(file)


def describe_file(file: Path) -> str:
    """Return a file's name with the SHA-256 of its content, so that it may stand anywhere."""
    return f"{file.name} sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def _code_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what names code, a file or a module, by what it is; names of ours, folders and stores do not."""
    found = {what: options.get(option) for option, what in _SPECS.items()}
    found |= {f"criterion {i}": spec for i, spec in enumerate(options.get("watch") or (), 1)}
    return {
        what: spec
        for what, spec in found.items()
        if isinstance(spec, str) and split_place(spec) is not None and not spec.startswith(PREFIXES)
    }


def _is_file(spec: str) -> bool:
    return spec.rpartition(":")[0].endswith(".py")


def _write(folder: Path, content: Mapping[str, Any], *, signed: bool) -> None:
    plain = {k: v for k, v in content.items() if k != "signature"}
    write_json(folder / RECORD, {**plain, "signature": sign(_canonical(plain)) if signed else None})


def _is_own(record: Mapping[str, Any]) -> bool:
    """Return True if this user wrote the record on this machine, and nobody changed it."""
    return is_signed(_canonical(record), record.get("signature"))


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in record.items() if k != "signature"}, sort_keys=True)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], *, growing: bool = False) -> Iterator[Change]:
    for what in {**before, **now}:
        old, new = before.get(what, _MISSING), now.get(what, _MISSING)
        if old != new and not (growing and _MISSING in (old, new)):
            yield Change(what, str(old), str(new))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def _short(value: str) -> str:
    """Cut hashes to what can be compared by eye."""
    words = (w[:23] + "…" if w.startswith("sha256:") and len(w) > 23 else w for w in value.split(" "))
    shown = " ".join(words)
    return shown if len(shown) <= 200 else shown[:199] + "…"
