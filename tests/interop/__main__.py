"""Try other libraries from their own first lines, each in an environment of its own.

python -m tests.interop [NAME ...] [--folder FOLDER] [--seeds 0 1 2] [--steps N] [--only TITLE ...]

For each library an environment is made (once; `--fresh` makes it anew), the blocks of its section in
`docs/your-library.md` are run there, recipes with each seed on each environment, and a row is written to
`benchmarks/results/interop/NAME.json`. `python docs/make.py` makes the page's table of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from datetime import date
from pathlib import Path
from typing import Any

from .block import load
from .library import ROOT, Library

HERE = Path(__file__).resolve().parent
RESULTS = ROOT / "benchmarks" / "results" / "interop"
VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def names() -> list[str]:
    """Return the libraries there are: the files of this folder that define one."""
    return [f.stem for f in sorted(HERE.glob("*.py")) if "\nLIBRARY = " in f.read_text(encoding="utf-8")]


def environment(name: str, library: Library, folder: Path, *, fresh: bool) -> Path:
    """Make an environment with the library and this text-gym; return its Python."""
    home = folder / name
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    made = home / "made.json"
    wanted = json.dumps([library.requirements, library.extras])
    if not fresh and made.exists() and made.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    package = f"{ROOT}[{','.join(library.extras)}]" if library.extras else str(ROOT)
    # PyTorch first: a later requirement without a version would take the newest, with CUDA.
    for wish in (["torch==2.13.0"], [*library.requirements, "--editable", package]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wish], check=True)
    made.write_text(wanted, encoding="utf-8")
    return python


def run_block(python: Path, home: Path, name: str, title: str, *options: str) -> dict[str, Any]:
    """Run a block in a process of its own; what it finds, or `error` with the last line of its complaint."""
    out = home / "found.json"
    out.unlink(missing_ok=True)
    work = home / "work"
    work.mkdir(exist_ok=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    program: list[str | Path] = [python, "-m", "tests.interop.block", name, title, out, *options]
    done = subprocess.run(
        program, cwd=work, env=variables, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    if done.returncode or not out.exists():
        print(done.stderr[-4000:], file=sys.stderr)
        return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1]}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def try_library(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run the blocks of a library's section, and return its row."""
    library = load(name)
    python = environment(name, library, args.folder, fresh=args.fresh)
    home = args.folder / name
    done = subprocess.run(
        [python, "-c", VERSIONS, *library.shown], check=True, capture_output=True, text=True
    )
    row: dict[str, Any] = {
        "library": library.title,
        "date": date.today().isoformat(),
        "versions": json.loads(done.stdout),
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "blocks": {},
        "recipes": [],
    }
    recipes = {r.title: r for r in library.recipes}
    for title in library.blocks():
        if args.only and title not in args.only:
            continue
        if title not in recipes:
            found = run_block(python, home, name, title)
            row["blocks"][title] = found.get("error", "runs")
            print(f"{name}: {title}: {row['blocks'][title]}", flush=True)
            continue
        for env_id in recipes[title].env_ids:
            for seed in args.seeds:
                steps = [] if args.steps is None else ["--steps", str(args.steps)]
                found = run_block(python, home, name, title, "--env-id", env_id, "--seed", str(seed), *steps)
                row["recipes"].append({"title": title, "env_id": env_id, "seed": seed, **found})
                print(f"{name}: {row['recipes'][-1]}", flush=True)
    return row


def keep(file: Path, row: dict[str, Any], only: list[str] | None) -> None:
    """Write a row; what an earlier one says of blocks that were not run now stays."""
    if only and file.exists():
        old = json.loads(file.read_text(encoding="utf-8"))
        row["blocks"] = old["blocks"] | row["blocks"]
        row["recipes"] = [r for r in old["recipes"] if r["title"] not in only] + row["recipes"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Try the libraries that the command line names; status 1 if a block of any did not run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "text-gym" / "interop"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names())}; all of them if none")
    parser.add_argument("--folder", type=Path, default=cache, help="where the environments are made")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="train for so many steps; the row is not kept")
    parser.add_argument(
        "--only", nargs="+", metavar="TITLE", help="run these blocks and keep the rest of the row"
    )
    args = parser.parse_args()
    unknown = set(args.names) - set(names())
    if unknown:
        parser.error(f"no library {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    args.folder = args.folder.expanduser().resolve()
    failed = False
    for name in args.names or names():
        began = time.monotonic()
        row = try_library(name, args)
        print(f"{name}: {time.monotonic() - began:.0f} s")
        failed |= any(said != "runs" for said in row["blocks"].values())
        failed |= any("error" in run for run in row["recipes"])
        if args.steps is None:
            keep(RESULTS / f"{name}.json", row, args.only)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
