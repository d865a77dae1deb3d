"""What a release consists of: versions, packages, extras, dependencies, and checks that call one another."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from importlib.metadata import metadata, version
from pathlib import Path
from types import ModuleType

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ABOUT = metadata("text-gym")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(extra: str | None) -> list[Requirement]:
    """What the package needs, or what an extra of it adds."""
    found = [Requirement(line) for line in ABOUT.get_all("Requires-Dist") or []]
    marked = [r for r in found if "extra ==" in str(r.marker)]
    return (
        [r for r in marked if f'extra == "{extra}"' in str(r.marker)]
        if extra
        else [r for r in found if r not in marked]
    )


def test_all_say_one_version() -> None:
    (said,) = re.findall(r'^version = "(.*)"$', PROJECT, re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == said
    assert version("text-gym") == said


def test_every_package_of_the_repository_is_listed() -> None:
    """An sdist and a checkout without links have the same packages as this one."""
    program = "import setuptools; setuptools.setup = lambda packages, **_: print(*packages); import setup"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed")
    found = {
        ".".join(["text_gym", *([] if top == "text_gym" else [top]), *folder.relative_to(ROOT / top).parts])
        for top in ("text_gym", "agents", "reward_models")
        for folder in {file.parent for file in (ROOT / top).rglob("__init__.py")}
        if top != "text_gym" or not {"agents", "reward_models"} & set(folder.relative_to(ROOT).parts)
    }
    assert set(done.stdout.split()) == found, done.stderr


def test_extras_name_packages_and_one_another() -> None:
    extras = set(ABOUT.get_all("Provides-Extra") or [])
    named = {name for r in requirements("dev") if r.name == "text-gym" for name in r.extras}
    assert named
    assert named <= extras
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "text_gym").rglob("*.py")]:
        for found in re.findall(r"\.\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert set(found.split(",")) - {"test"} <= extras, page


def test_the_versions_tested_are_within_the_bounds_and_bounds_are_given() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in PYTHONS:
        here = {"python_version": python, "python_full_version": f"{python}.9"}
        found: dict[str, list[Requirement]] = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate(here):
                found.setdefault(canonicalize_name(pin.name), []).append(pin)
        assert [name for name, several in found.items() if len(several) > 1] == []
        for needed in requirements(None):
            (pin,) = found[canonicalize_name(needed.name)]
            assert needed.specifier, needed
            assert needed.specifier.contains(str(pin.specifier).removeprefix("=="), prereleases=True), needed


def test_no_page_installs_from_an_index_what_is_not_there() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    sources = [f for top in ("text_gym", "agents", "reward_models") for f in (ROOT / top).rglob("*.*")]
    for file in [*pages, *(f for f in sources if f.suffix in (".py", ".html", ".js", ".txt"))]:
        assert not re.search(r"pip install '?\"?text.gym", file.read_text(encoding="utf-8")), file


# Checks that call one another


def test_the_workflow_runs_the_commands_of_ci_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    tests = workflow["jobs"]["tests"]
    assert tests["strategy"]["matrix"]["python"] == list(PYTHONS)
    commands = [step["run"] for step in tests["steps"] if "run" in step]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    wanted = re.findall(r"^\.venv/bin/(?:python -m )?(\w+ ?.*)$", script, re.MULTILINE)
    assert [command.removeprefix("python -m ") for command in commands] == wanted
    classifiers = [c.rpartition(" :: ")[2] for c in ABOUT.get_all("Classifier") or [] if ":: 3." in c]
    assert classifiers == list(PYTHONS)
    called = {
        command
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for command in [step.get("run", "")]
    }
    for command in called:
        for file in re.findall(r"\bci/[\w.]+", command):
            assert (ROOT / file).exists(), command


def test_the_site_is_built_so_that_a_warning_fails_it() -> None:
    """With --quiet MkDocs does not make the warnings that --strict counts."""
    (command,) = re.findall(r"mkdocs build[^#\n]*", (ROOT / "ci" / "slow").read_text(encoding="utf-8"))
    assert command.split() == ["mkdocs", "build", "--strict"]


@pytest.mark.skipif(os.name == "nt", reason="a script of bash")
def test_slow_parts_without_files_are_skipped_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    script = tmp_path / "ci" / "slow"
    script.write_text((ROOT / "ci" / "slow").read_text(encoding="utf-8"), encoding="utf-8")
    script.chmod(0o755)
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "== wheel",
        "== docs",
        "== first-hour",
        "== course",
        "== notebooks",
        "== labs",
    ]
    assert done.stdout.count("skipped, there is no") == 6
    (tmp_path / "ci" / "wheel.py").write_text("raise SystemExit(3)\n")
    assert subprocess.run([script, "wheel"], capture_output=True, check=False).returncode == 3
    assert subprocess.run([script, "weel"], capture_output=True, check=False).returncode == 2


def test_notes_of_a_release(tmp_path: Path) -> None:
    notes = load(ROOT / "ci" / "notes.py")
    files = {
        "pyproject.toml": 'version = "1.2.0"\n',
        "CITATION.cff": "version: 1.2.0\n",
        "README.md": "clone it\n",
        "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.0] - 2027-01-31\n- new\n\n## [1.1.0] - 2026-12-01\n- old",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert notes.faults(tmp_path, "1.2.0") == []
    assert notes.notes(tmp_path, "1.2.0") == "- new"
    assert notes.notes(tmp_path, "1.1.0") == "- old"
    assert len(notes.faults(tmp_path, "1.3.0")) == 3
    (tmp_path / "README.md").write_text("git clone https://example.org/OWNER/x\n")
    (tmp_path / "CHANGELOG.md").write_text(
        files["CHANGELOG.md"].replace("[Unreleased]\n", "[Unreleased]\n\n- newer\n")
    )
    said = notes.faults(tmp_path, "1.2.0")
    assert ["README.md still has OWNER" in said[0], "under Unreleased" in said[1], len(said)] == [
        True,
        True,
        2,
    ]
    assert notes.faults(tmp_path, "1.2.0", published=False) == said[1:]


def test_what_is_unreleased_moves_under_a_version_and_a_day(tmp_path: Path) -> None:
    notes = load(ROOT / "ci" / "notes.py")
    file = tmp_path / "CHANGELOG.md"
    file.write_text(
        "# Changelog\n\n## [Unreleased]\n\n- new µ\n\n## [1.1.0] - 2026-12-01\n- old\n", encoding="utf-8"
    )
    notes.move(tmp_path, "1.2.0", date(2027, 1, 31))
    assert file.read_text(encoding="utf-8") == (
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2027-01-31\n\n- new µ\n\n"
        "## [1.1.0] - 2026-12-01\n- old\n"
    )
    assert [notes.notes(tmp_path, v) for v in ("Unreleased", "1.2.0", "1.1.0")] == ["", "- new µ", "- old"]
    for again, said in (("1.2.0", "already"), ("1.3.0", "nothing under Unreleased")):
        with pytest.raises(SystemExit, match=said):
            notes.move(tmp_path, again, date(2027, 2, 1))


def test_the_notes_of_this_repository_can_be_printed(tmp_path: Path) -> None:
    """A release of what stands here: its notes are the changelog's, complete and with their headings."""
    for name in ("pyproject.toml", "CITATION.cff", "README.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "ci").mkdir()
    program = shutil.copyfile(ROOT / "ci" / "notes.py", tmp_path / "ci" / "notes.py")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = version("text-gym")
    if f"## [{released}] - " in changelog:  # what came after it is of the next one
        head, _, rest = changelog.partition("## [Unreleased]\n")
        rest = rest[rest.index("## [") :]
        (tmp_path / "CHANGELOG.md").write_text(f"{head}## [Unreleased]\n\n{rest}", encoding="utf-8")
    moved = [] if f"## [{released}] - " in changelog else ["--move", "2026-11-28"]
    command = [sys.executable, str(program), f"v{released}", "--unpublished", *moved]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert {"### Added", "### Changed", "### Fixed"} <= set(done.stdout.splitlines())
    assert "## [" not in done.stdout
