"""Starts processes with the environment variables that `torchrun` sets, without its seconds of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(ranks: int, arguments: Sequence[str], **env: str) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` as so many ranks; output of each, errors included, is piped."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**shared, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(ranks), **env},
            **pipes,
        )
        for r in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float) -> list[tuple[int | None, str]]:
    """Wait for all; return each one's exit status, None if it had to be killed, and what it said."""
    found: list[tuple[int | None, str]] = []
    for process in processes:
        try:
            said, _ = process.communicate(timeout=seconds)
            found.append((process.returncode, said))
        except subprocess.TimeoutExpired:
            process.kill()
            found.append((None, process.communicate()[0]))
    return found
