"""Gymnasium's own tests of environments, run on our ids from a checkout of Gymnasium."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from text_gym.tasks.task import ENV_IDS

ROOT = Path(__file__).parent.parent
SOURCE = os.environ.get("GYMNASIUM_SOURCE", "")
# test_rendering.py is left out: it demands pictures (rgb_array) of every environment.
FILES = ("tests/envs/test_envs.py", "tests/envs/test_action_dim_check.py")


def run_gymnasiums_tests(*options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "gymnasium_plugin",
            "-p",
            "no:cacheprovider",
            *options,
            *FILES,
        ],
        cwd=SOURCE,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(not SOURCE, reason="set GYMNASIUM_SOURCE to a checkout of Gymnasium")
def test_gymnasiums_own_tests_pass_on_our_ids() -> None:
    done = run_gymnasiums_tests("-v")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for env_id in ENV_IDS:
        assert f"test_all_env_api[{env_id}] PASSED" in done.stdout
        assert f"test_pickle_env[{env_id}] PASSED" in done.stdout
    assert "CartPole" not in done.stdout
