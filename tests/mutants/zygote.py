"""A process that has imported what is slow to import, and forks itself for each run of some tests.

It is started inside a copy of the repository, with a folder for what it writes and the names of modules to
import, and reads one request a line: `{"tests": [...], "timeout": 60, "all": false}`; the answer is one line
as well. Unless all is true, a run ends with the first test that fails. A fork has imported nothing of the
package itself, so that it meets the sources as they stand at that moment, and what one run does to its
process cannot reach the next.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Generator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck

PROFILE = "gate"  # of hypothesis: no test may fail because the machine is slow, or by chance
GRACE = 20  # seconds after pytest-timeout's own limit


class Notes:
    """A plugin of pytest that writes down which tests passed and which failed, and of what."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.passed: dict[str, float] = {}  # the seconds of each
        self.failures: list[dict[str, str]] = []
        self.collection = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave slow sweeps out, unless nothing else was asked for."""
        items[:] = [item for item in items if item.get_closest_marker("nightly") is None] or items

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.passed and report.when == "call":
            self.passed[item.nodeid] = report.duration
        elif report.failed and call.excinfo is not None:
            said = call.excinfo.exconly()
            self.failures.append(
                {"test": item.nodeid, "error": call.excinfo.typename, "said": said[:300], "when": call.when}
            )
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collection = str(report.longrepr)[-300:]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        home = getattr(sys.modules.get("text_gym"), "__file__", None)
        found = {
            "passed": self.passed,
            "failures": self.failures,
            "collection": self.collection,
            "package": str(home),
        }
        self.file.write_text(json.dumps(found), encoding="utf-8")


def run_tests(tests: list[str], timeout: int, every: bool, notes: Path, log: Path) -> int:
    """Run some tests in this process, `every` one or up to a failure; what they print goes to a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, descriptor)
    return int(
        pytest.main(
            [
                *([] if every else ["-x"]),
                *("-q", "-n", "0", "-p", "no:cacheprovider", "-m", "", f"--hypothesis-profile={PROFILE}"),
                *(f"--timeout={timeout}", "--timeout-method=signal"),
                *(f"--basetemp={notes.with_name('basetemp')}", "--no-header", "--tb=line", "--", *tests),
            ],
            plugins=[Notes(notes)],
        )
    )


def fork(tests: list[str], timeout: int, every: bool, folder: Path) -> dict[str, Any]:
    """Run some tests in a fork of this process, which is killed if it outlives its limit.

    Args:
        tests: Arguments for pytest.
        timeout: Seconds for each test; a run may take three times that, and some seconds more; where every
            test is run, as often as there are tests.
        every: Go on after a failure.
        folder: For what the run writes.

    Returns:
        What `Notes` wrote, or `{"killed": True}`, or `{"died": status}`.
    """
    notes, log = folder / "notes.json", folder / "log.txt"
    notes.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            status = run_tests(tests, timeout, every, notes, log)
        finally:
            os._exit(status)
    end = time.monotonic() + (max(3, len(tests)) if every else 3) * timeout + GRACE
    ended = 0
    try:
        while not ended and time.monotonic() < end:
            ended, code = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the processes that its tests left behind, too
            os.killpg(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)
        return {"killed": True}
    if not notes.exists():
        return {"died": os.waitstatus_to_exitcode(code), "log": log.read_text(errors="replace")[-300:]}
    found: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Answer requests until there are no more."""
    folder = Path(sys.argv[1])
    sys.path[0] = os.getcwd()  # where tests go elsewhere, it is still the copy that they import from
    for name in sys.argv[2:]:
        with contextlib.suppress(ModuleNotFoundError):  # an extra
            importlib.import_module(name)
    hypothesis.settings.register_profile(
        PROFILE, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    gc.freeze()  # pytest collects garbage at the end of each run, and need not look through all this
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(fork(request["tests"], request["timeout"], request["all"], folder)), flush=True)


if __name__ == "__main__":
    main()
