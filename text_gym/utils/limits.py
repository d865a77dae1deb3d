"""The limits of a sandbox, those the platform cannot enforce, and the errors for hitting one.

Nothing here enforces anything: `confinement` does so from the inside, `processes` from the outside.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError, SandboxError

from .confinement import unavailable
from .display import harmless

LOG = logging.getLogger(__name__)
# What a sandboxed process inherits of the environment: no keys or tokens.
_INHERITED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
    *("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"),
}
# Threads and their heaps reserve address space: on a large machine numpy alone would use up the memory.
_FEW_THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "4",
}
# Which limit an operating system's refusal stands for, by the number that the worker saw.
_REFUSALS = {
    errno.ENETDOWN: "network",
    errno.EAGAIN: "processes",
    errno.EACCES: "files",
    errno.EFBIG: "files",
    errno.EPERM: "permission",
    errno.ENOMEM: "memory",
}
_MEANING = {
    "network": "the sandbox gives no network",
    "processes": "the sandbox lets it start no process",
    "files": "in the sandbox it may write only to its temporary folder (`tempfile`), and only so much",
    "memory": "the sandbox gives it no more memory",
    "permission": "the sandbox refuses signals to others, changes of mode or owner, and administration",
}


@dataclass(frozen=True)
class SandboxLimits:
    """The resources a sandboxed function or command may use.

    Args:
        seconds: Of one call; None for no limit. Imports at the start have two minutes of their own.
        memory: Bytes of address space; None for no limit. GPU drivers reserve far more than they use.
        files: Bytes that may lie in the private temporary folder, the only place that can be written to;
            None lets it write wherever you may.
        output: Bytes printed in one call, shown on standard error as they come, control characters written
            out; None leaves standard error to the worker.
        answer: Bytes of one answer.
        network: Allow sockets.
        processes: Allow it to start processes, to signal them and others, and what else needs privileges.
        environment: Pass the whole environment on, with the keys and tokens in it.
        reads: The only files and folders it may read from; None for all that you may read. Names of files
            elsewhere can still be listed. `installed_software` is what Python itself needs.
    """

    seconds: float | None = 60.0
    memory: int | None = 4 << 30
    files: int | None = 256 << 20
    output: int | None = 1 << 20
    answer: int = 16 << 20
    network: bool = False
    processes: bool = False
    environment: bool = False
    reads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "reads" or isinstance(value, bool) or (value is None and field.name != "answer"):
                continue
            if not 0 < value < math.inf:
                raise ConfigError(f"limit {field.name} must be positive and finite, not {value!r}")


def installed_software() -> tuple[str, ...]:
    """Where Python, the packages installed for it, this package and the system's libraries are read from.

    >>> any(Path(__file__).is_relative_to(place) for place in installed_software())
    True
    """
    own = Path(__file__).resolve().parents[1]  # its folders may be links to others, as in a checkout
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()]
    places += [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    places += [str(own), *(str(folder.resolve()) for folder in own.iterdir() if folder.is_dir())]
    places += ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc", "/proc", "/sys"]
    return tuple(sorted({place for place in places if os.path.exists(place)}))


UNLIMITED = SandboxLimits(None, None, None, None, (1 << 32) - 1, True, True, True)


def _lifted(limits: SandboxLimits) -> dict[str, bool]:
    return {
        "memory": limits.memory is None,
        "files": limits.files is None and limits.reads is None,
        "network": limits.network,
        **dict.fromkeys(("processes", "signals", "permission"), limits.processes),
    }


def missing_limits(limits: SandboxLimits) -> dict[str, str]:
    """The limits asked for that this machine cannot enforce, each with the reason; said once in the log."""
    lifted = _lifted(limits)
    missing = {name: why for name, why in _unavailable().items() if not lifted.get(name, False)}
    _say_once(tuple(missing.items()))
    return missing


_unavailable = lru_cache(1)(unavailable)


@lru_cache(16)
def _say_once(missing: tuple[tuple[str, str], ...]) -> None:
    if missing:
        LOG.warning("the sandbox cannot limit %s", "; ".join(f"{name} ({why})" for name, why in missing))


def environment_of(limits: SandboxLimits, folder: str) -> Mapping[str, str]:
    """The environment of a sandboxed process whose temporary folder is `folder`."""
    if limits.environment:
        return dict(os.environ)
    kept = {k: os.environ[k] for k in sorted(_INHERITED) if k in os.environ}
    return _FEW_THREADS | kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR"), folder)


def as_error(name: str, found: Any, limits: SandboxLimits) -> SandboxError:
    """The error that a worker described; everything in the description is its own choice."""
    found = found if isinstance(found, dict) else {}
    named = found.get("types")
    types = tuple(t for t in named if isinstance(t, str))[:20] if isinstance(named, list) else ()
    types = types or ("builtins.Exception",)
    message, place, number = (found.get(key) for key in ("message", "place", "errno"))
    limit = "memory" if "builtins.MemoryError" in types else None
    if "builtins.OSError" in types and isinstance(number, int):
        limit = _REFUSALS.get(number)
    if limit is not None and _lifted(limits)[limit]:
        limit = None
    kind = types[0].removeprefix("builtins.")
    text = f"{kind}: {message}" + (f" ({place})" if place else "")
    hint = _MEANING[limit] if limit else ""
    if limit == "files" and limits.reads is not None:
        hint += "; and it may read only what it was given and what is installed"
    said = f"{name} raised {harmless(text, limit=1000)}" + (f"; {hint}" if hint else "")
    return SandboxError(said, limit, types, hint)
