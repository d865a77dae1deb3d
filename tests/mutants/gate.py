"""Plant mutants one at a time in a copy of the repository, and see whether their tests catch them."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, get_args

from .mutant import Mutant, mutated

ZYGOTE = Path(__file__).with_name("zygote.py")
SLOW_IMPORTS = (
    *("numpy", "scipy.stats", "matplotlib.figure", "gymnasium.vector"),
    *("torch", "torch.utils.tensorboard", "safetensors.torch", "tokenizers"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.auto.modeling_auto"),
    *("stable_baselines3", "sb3_contrib", "hypothesis.extra.numpy", "tyro", "rich.console", "jinja2"),
)
TIMEOUT = 60  # seconds for one test
# Exceptions that tell of a patch that is no program, not of a bug that a test has seen.
NO_PROGRAM = {"SyntaxError", "IndentationError", "NameError", "ImportError", "ModuleNotFoundError"}
Status = Literal["caught", "survived", "equivalent", "suspect", "broken", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)
GREEN: tuple[Status, ...] = ("caught", "equivalent", "skipped")  # the gate is green if nothing else came out


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Args:
        name: Of the mutant.
        file: Where it was planted.
        status: `caught`: a test failed; `survived`: all passed; `equivalent`: all passed, as they must, for a
            known reason; `suspect`: a fixture failed, and no test has looked; `broken`: nothing can be said,
            `reason` tells why; `skipped`: its tests need a library that is not installed.
        reason: The test that failed and its error, or why there is none.
        seconds: It took, with the tests that were tried without the mutant for its sake.
    """

    name: str
    file: str
    status: Status
    reason: str
    seconds: float = 0.0


class Worker:
    """A copy of the repository with a process that runs tests in it.

    Args:
        root: Of the repository.
        folder: Where the copy goes.
        timeout: Seconds for one test.
        imports: Modules that are imported once for all runs; none of the repository's own.
    """

    def __init__(
        self, root: Path, folder: Path, timeout: int = TIMEOUT, imports: Sequence[str] = SLOW_IMPORTS
    ) -> None:
        self.root = folder / "copy"
        self.timeout = timeout
        self._dates = int(time.time())  # compiled modules are told from stale ones by date and size
        copy_tree(root, self.root)
        paths = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._zygote = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE.read_text(encoding="utf-8"), str(folder), *imports],
            cwd=self.root,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "XDG_CACHE_HOME": str(folder / "cache"),
                "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache/matplotlib")),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        self._zygote.communicate()

    def run(self, tests: Sequence[str], patience: float = 0, every: bool = False) -> dict[str, Any]:
        """Run some tests in the copy as it stands; `zygote.fork` says what comes back.

        Args:
            tests: Arguments for pytest.
            patience: Seconds that a test may take, where that is more than usual.
            every: Go on after a failure.
        """
        timeout = max(self.timeout, round(patience))
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps({"tests": list(tests), "timeout": timeout, "all": every}) + "\n")
        self._zygote.stdin.flush()
        answer = self._zygote.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs tests has ended: {self._zygote.wait()}")
        found: dict[str, Any] = json.loads(answer)
        home = found.get("package")
        if home not in (None, "None") and not Path(home).is_relative_to(self.root):
            raise RuntimeError(f"the tests imported {home}, not the copy in {self.root}")
        return found

    def try_clean(self, tests: Sequence[str]) -> dict[str, tuple[str, float]]:
        """Run tests where no bug is planted; return what is wrong with each, if anything, and its seconds."""
        found = self.run(tests, every=True)
        result: dict[str, tuple[str, float]] = {}
        for test in tests:
            failed = [f for f in found.get("failures", ()) if _belongs(f["test"], test)]
            seconds = sum(s for name, s in found.get("passed", {}).items() if _belongs(name, test))
            own = {**found, "failures": failed, "passed": seconds}
            if not seconds and not failed and len(tests) > 1:  # such as a slow one, left out beside others
                result |= self.try_clean([test])
            elif seconds and not failed and not found["collection"]:
                result[test] = "", seconds
            else:
                result[test] = f"{test} does not pass without the mutant: {_short(own)}", seconds
        return result

    def judge(self, mutant: Mutant, clean: CleanTests) -> Verdict:
        """Plant a mutant, run its tests, and put its file back; a test that failed has to pass without it.

        A test that never came to an end is given more time if it takes long without the mutant, too.
        """
        if missing := [name for name in mutant.needs if importlib.util.find_spec(name) is None]:
            return Verdict(mutant.name, mutant.file, "skipped", f"needs {', '.join(missing)}")
        try:
            found = self._plant(mutant)
            fault, seconds = clean.check(self, mutant, found)
            if not fault and 10 * seconds > self.timeout and _timed_out(found):
                found = self._plant(mutant, 10 * seconds)
        except (ValueError, SyntaxError) as error:
            return Verdict(mutant.name, mutant.file, "broken", str(error))
        if fault:
            return Verdict(mutant.name, mutant.file, "broken", fault)
        return Verdict(mutant.name, mutant.file, *_judged(mutant, found))

    def _plant(self, mutant: Mutant, patience: float = 0) -> dict[str, Any]:
        file = self.root / mutant.file
        clean = file.read_text(encoding="utf-8")
        source = mutated(clean, mutant)
        _check_source(file, source)
        try:
            self._write(file, source)
            return self.run(mutant.tests, patience)
        finally:
            self._write(file, clean)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8")
        self._dates += 1
        os.utime(file, (self._dates, self._dates))


class CleanTests:
    """Tells of tests that failed whether they pass where no bug is planted, and how long they take.

    Args:
        mutants: All that will be judged: tests that they name singly are tried with others of their file.
    """

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._single: dict[str, list[str]] = {}  # by file
        for test in dict.fromkeys(t for m in mutants for t in m.tests if "::" in t):
            self._single.setdefault(test.partition("::")[0], []).append(test)
        self._known: dict[str, tuple[str, float]] = {}

    def check(self, worker: Worker, mutant: Mutant, found: dict[str, Any]) -> tuple[str, float]:
        """Return what is wrong, if anything, with the first test that failed; and its seconds."""
        if not found.get("failures"):
            return "", 0.0
        failed = found["failures"][0]["test"]
        asked = next((t for t in mutant.tests if "::" in t and _belongs(failed, t)), None)
        test = asked or failed
        if test not in self._known:
            others = self._single[test.partition("::")[0]] if asked else [test]
            self._known |= worker.try_clean([t for t in others if t not in self._known])
        return self._known[test]


def _check_source(file: Path, source: str) -> None:
    """Refuse a source that does not compile.

    Raises:
        SyntaxError: It is no Python.
        ValueError: It is no C.
    """
    if file.suffix == ".py":
        ast.parse(source)
    elif file.suffix == ".c":
        command = ["cc", "-fsyntax-only", "-Werror=implicit", "-I", str(file.parent), "-x", "c", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr[-300:])


def _judged(mutant: Mutant, found: dict[str, Any]) -> tuple[Status, str]:
    failures = found.get("failures") or []
    if found.get("killed") or "died" in found or found["collection"]:
        return "broken", _short(found)
    if failures and failures[0]["error"] in NO_PROGRAM:
        return "broken", _short(found)
    if failures and mutant.equivalent:
        return "broken", f"said to be equivalent, but caught: {_short(found)}"
    if failures and failures[0]["when"] != "call" and not mutant.by_fixture:
        return "suspect", f"in {failures[0]['when']}: {_short(found)}"
    if failures:
        return "caught", _short(found)
    if mutant.equivalent:
        return "equivalent", mutant.equivalent
    if not found["passed"]:
        return "broken", "no test ran"
    return "survived", f"{len(found['passed'])} tests passed"


def _belongs(test: str, asked: str) -> bool:
    """Tell whether a test that ran is among those that an argument of pytest asks for."""
    return test == asked or test.startswith((f"{asked}[", f"{asked}::", f"{asked}/"))


def _timed_out(found: dict[str, Any]) -> bool:
    said = found["failures"][0]["said"] if found.get("failures") else ""
    return "Timeout" in said and "pytest-timeout" in said


def _short(found: dict[str, Any]) -> str:
    if found.get("killed"):
        return "killed: it went on past pytest-timeout's limit"
    if "died" in found:
        return f"the process died with status {found['died']}: {found['log']}"
    if found["collection"]:
        return f"not collected: {found['collection']}"
    if not found["failures"]:
        return "no test ran" if not found["passed"] else "passed"
    first = found["failures"][0]
    said = " ".join(first["said"].split())[:160]
    timeout = "(timeout) " if _timed_out(found) else ""
    return f"{timeout}{first['test']}: {said}"


def copy_tree(root: Path, to: Path) -> None:
    """Copy the files of a repository that git does not ignore, links as links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode()
    for name in sorted(set(listed.split("\0")) - {""}):
        source, target = root / name, to / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def run_gate(
    root: Path,
    mutants: Sequence[Mutant],
    *,
    jobs: int = 1,
    timeout: int = TIMEOUT,
    imports: Sequence[str] = SLOW_IMPORTS,
    tell: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Judge mutants, each in isolation; a test that catches one has to pass without it.

    Args:
        root: Of the repository.
        mutants: To plant, one at a time.
        jobs: Copies that work side by side.
        timeout: Seconds for one test.
        imports: Modules that are imported once for all runs.
        tell: Called with each verdict as soon as it is there.

    Returns:
        The verdicts, in the order of the mutants.
    """
    clean = CleanTests(mutants)
    lock = threading.Lock()
    free: SimpleQueue[Worker] = SimpleQueue()

    def judge(mutant: Mutant) -> Verdict:
        worker = free.get()
        begin = time.monotonic()
        try:
            verdict = worker.judge(mutant, clean)
        finally:
            free.put(worker)
        verdict = replace(verdict, seconds=round(time.monotonic() - begin, 1))
        with lock:
            tell(verdict)
        return verdict

    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        workers: list[Worker] = []
        try:
            for i in range(jobs):
                (Path(folder) / str(i)).mkdir()
                workers.append(Worker(root, Path(folder) / str(i), timeout, imports))
                free.put(workers[-1])
            with ThreadPoolExecutor(jobs) as pool:
                return list(pool.map(judge, mutants))
        finally:
            for worker in workers:
                worker.close()
