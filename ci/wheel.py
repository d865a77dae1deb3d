"""Build wheel and sdist, check them, and use the wheel where nothing else of text-gym is.

python ci/wheel.py [--out FOLDER] [--environment FOLDER]

The first command of the README runs from the wheel in an empty folder and must learn; the package that
`text-gym init` writes is installed and tested there. Needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLD = 0.98  # held-out gold that the README's first command reaches; its seeds end at 0.984 to 0.993
LINKS = ("text_gym/agents", "text_gym/reward_models")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, show what it says, and return it; its failure ends the program."""
    began = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TEXT_GYM_SANDBOX")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    words = " ".join(Path(str(word)).name for word in command)
    print(f"-- {words[:100]}: {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-6000:]}\nstatus {done.returncode}: {words}")
    return done.stdout


def environment(folder: Path) -> tuple[Path, Path]:
    """Make an environment; return its Python and the folder of its programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    return programs / "python", programs


def contents(wheel: Path) -> dict[str, int]:
    """Return the checksum of every file in a wheel but for the list of checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {i.filename: i.CRC for i in archive.infolist() if not i.filename.endswith("/RECORD")}


def tracked() -> list[str]:
    """Return the names of the files under version control, relative to the root."""
    # Whoever runs this need not own the checkout.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"git does not list the files of {ROOT}: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]


def requirements() -> list[str]:
    """Return what pyproject.toml needs for a build."""
    found = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert found is not None
    return [str(name) for name in json.loads(found[1])]


def build(python: Path, out: Path) -> Path:
    """Build the sdist and a wheel from it, and compare with the wheel of the sources; return the wheel."""
    run(python, "-m", "pip", "install", "--quiet", "build", "twine", *requirements(), cwd=out)
    sources = out / "sources"
    for name in tracked():
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, sources / name)
    # First as in a checkout on Windows, without the links of text_gym/, then with what the links stand for.
    command = (python, "-m", "build", "--no-isolation")
    run(*command, "--outdir", out / "dist", sources, cwd=out)
    run(*command, "--wheel", "--outdir", out / "direct", sources, cwd=out)
    for link in LINKS:
        shutil.copytree(ROOT / Path(link).name, sources / link, dirs_exist_ok=True)
    shutil.rmtree(sources / "build", ignore_errors=True)
    run(*command, "--wheel", "--outdir", out / "linked", sources, cwd=out)
    (wheel,), (sdist,) = (out / "dist").glob("*.whl"), (out / "dist").glob("*.tar.gz")
    for other in ("direct", "linked"):
        (again,) = (out / other).glob("*.whl")
        differing = dict(set(contents(wheel).items()) ^ set(contents(again).items()))
        if differing:
            raise SystemExit(f"the {other} wheel differs from the sdist's: {', '.join(sorted(differing))}")
    check_complete(wheel)
    with tarfile.open(sdist) as archive:
        links = [m.name for m in archive if m.issym() or m.islnk()]
    if links:
        raise SystemExit(f"the sdist has links: {', '.join(links)}")
    run(python, "-m", "twine", "check", "--strict", wheel, sdist, cwd=out)
    for file in (wheel, sdist):
        print(f"   {file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return wheel


def check_complete(wheel: Path) -> None:
    """Check that every file of the packages under version control is in the wheel."""
    listed = [name for name in tracked() if name.startswith(("text_gym/", "agents/", "reward_models/"))]
    homes = {name if name.startswith("text_gym") else f"text_gym/{name}" for name in listed} - set(LINKS)
    missing = {name for name in homes - set(contents(wheel)) if not name.endswith("README.md")}
    if missing:
        raise SystemExit(f"the wheel lacks {', '.join(sorted(missing))}")


def use(wheel: Path, folder: Path, bare: Path) -> None:
    """Install the wheel into an environment of its own and do in an empty folder what a newcomer does.

    Args:
        wheel: To be installed.
        folder: An empty folder.
        bare: Where the environment is made; the wheel and what it needs are all that it has in the end.
    """
    python, programs = environment(bare)
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    place = run(python, "-c", "import text_gym; print(text_gym.__file__)", cwd=folder).strip()
    if not Path(place).resolve().is_relative_to(bare.resolve()):
        raise SystemExit(f"text_gym was imported from {place}")
    run(python, "-m", "pip", "check", cwd=folder)
    size = sum(file.stat().st_size for file in bare.rglob("*") if not file.is_symlink())
    print(f"   the environment has {size / 1e9:.1f} GB")
    command = programs / "text-gym"
    run(command, "train", "--out", "run", cwd=folder)
    gold = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))["after"]["gold"]["mean"]
    print(f"   gold {gold:.3f}")
    if gold < GOLD:
        raise SystemExit(f"the README's first command ended at gold {gold:.3f}, below {GOLD}")
    run(command, "init", "my_task", cwd=folder)
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
        "-e",
        "my_task[test]",
        cwd=folder,
    )
    if "skipped" in run(python, "-m", "pytest", "-q", cwd=folder / "my_task"):
        raise SystemExit("a test of the new package was skipped: text-gym does not find its task")
    listed = run(command, "tasks", cwd=folder)
    if not any(line.startswith("my_task ") and "my-task 0.1.0" in line for line in listed.splitlines()):
        raise SystemExit(f"text-gym tasks does not list the new task:\n{listed}")
    run(command, "check", "my_task", cwd=folder)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "my-task", cwd=folder)


def main() -> None:
    """Build, check and use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep sdist and wheel in this folder")
    parser.add_argument("--environment", type=Path, help="make the environment here, and keep it")
    parser.add_argument("--build-only", action="store_true", help="do not use the wheel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="text-gym-wheel-") as temporary:
        folder = Path(temporary).resolve()
        python, _ = environment(folder / "tools")
        wheel = build(python, folder)
        if not options.build_only:
            (folder / "empty").mkdir()
            use(wheel, folder / "empty", (options.environment or folder / "bare").resolve())
        if options.out is not None:
            shutil.copytree(wheel.parent, options.out, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
