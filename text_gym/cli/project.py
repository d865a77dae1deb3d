"""`text-gym init` writes a package with a task in it; `tasks` lists tasks, `serve` and `export` offer one.

The files of the package stand in `template/`, and those that `export` writes for TRL, verl or OpenRLHF in
`exported/`; what a reward says there is in `bridges/trainers.py`. Nothing of them is made up or run here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import keyword
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

from text_gym.bridges.openenv import serve_task
from text_gym.bridges.trainers import ExportedReward
from text_gym.cli.options.project import ExportTaskOptions, InitOptions, ServeOptions, TasksOptions
from text_gym.data import anchored
from text_gym.errors import ConfigError, DataError, TextGymError, excerpt
from text_gym.tasks.installed import env_id, installed_tasks, load_installed, package_of
from text_gym.tasks.task import TASKS, load_task, task_names
from text_gym.utils.display import harmless

TEMPLATE = Path(__file__).parent / "template"
# Where each file of the template goes.
FILES = {
    "readme.txt": "README.md",
    "pyproject.txt": "pyproject.toml",
    "gitignore.txt": ".gitignore",
    "package.txt": "$name/__init__.py",
    "task.txt": "$name/task.py",
    "reward.txt": "$name/reward.py",
    "test.txt": "tests/test_$name.py",
    "ci.txt": ".github/workflows/ci.yml",
}
LONGEST_NAME = 50
# Names that Windows does not give to folders; `tests` has a folder of its own in the package.
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    "tests",
    *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)),
}
EXPORTED = Path(__file__).parent / "exported"
_FUNCTIONS = {
    "trl": '''def reward(prompts, completions, **columns):
    """One of the `reward_funcs` of GRPOTrainer; the column `prompt_id` says which prompt it is."""
    return REWARD.trl(prompts, completions, **columns)''',
    "verl": '''def compute_score(data_source, solution_str, ground_truth, extra_info=None, **more):
    """The `custom_reward_function`; `ground_truth` says which prompt it is."""
    return REWARD.verl(data_source, solution_str, ground_truth, extra_info, **more)''',
    "openrlhf": '''def reward_func(queries, prompts, labels, **more):
    """The function of `--remote_rm_url`; a label says which prompt it is."""
    found = REWARD.openrlhf(queries, prompts, labels, **more)
    logs = {name: from_numpy(term) for name, term in found["extra_logs"].items()}
    rewards = from_numpy(found["rewards"])
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}''',
}
# Of each trainer: its name, what is installed, its script, and what to know.
_TRAINERS = {
    "trl": ("TRL", "trl datasets", "train.py", "text-gym's own tests run this project with TRL 1.16."),
    "verl": (
        "verl",
        "verl vllm",
        "train.sh",
        "The conventions are those of verl's sources in 2026; text-gym's tests call the reward as verl does, "
        "but have no GPU to run verl on. Versions before 0.5 read parquet alone: "
        '`pandas.read_json("train.jsonl", lines=True).to_parquet("train.parquet")`. A text on which the '
        "reward abstains is worth 0.",
    ),
    "openrlhf": (
        "OpenRLHF",
        "openrlhf[vllm]",
        "train.sh",
        "The conventions are those of OpenRLHF's sources in 2026; text-gym's tests call the reward as it "
        "does, but have no GPU to run it on. Later versions name the options otherwise "
        "(`--reward.remote_url` for `--remote_rm_url`, and so on). A text on which the reward abstains is "
        "worth 0.",
    ),
}


def run_init(options: InitOptions) -> int:
    """Run `text-gym init`."""
    folder = Path(options.name if options.out is None else options.out)
    check_name(options.name)
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another name, or another folder with --out")
    write_package(options.name, folder)
    print(
        f"wrote {folder}: a task, its reward, a test of both\n"
        f'  pip install -e "{folder}[test]" && python -m pytest {shlex.quote(str(folder))}\n'
        "  text-gym tasks"
    )
    return 0


def check_name(name: str) -> None:
    """Refuse a name that cannot be both a task's and a package's.

    Raises:
        ConfigError: It is no plain name in small letters, or it means something already.
    """
    shown = excerpt(name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > LONGEST_NAME:
        plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789")[:LONGEST_NAME]
        hint = f", such as {plain}" if plain and plain != name else ""
        raise ConfigError(
            f"{shown} cannot be the name of a Python package; take up to {LONGEST_NAME} small letters, "
            f"digits and underscores, a letter first{hint}"
        )
    if keyword.iskeyword(name) or name in RESERVED:
        raise ConfigError(f"{shown} is a reserved word; choose another name, such as my_{name}")
    if name in task_names():
        raise ConfigError(f"there is a task {shown} already; choose another name, such as my_{name}")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise ConfigError(
            f"there is a Python package {shown} already; choose another name, such as my_{name}"
        )


def write_package(name: str, folder: Path) -> None:
    """Write the package of a task, complete or not at all.

    Args:
        name: Name of the task and of the package.
        folder: A folder that does not exist; folders around it are made.

    Raises:
        DataError: It cannot be written.
    """
    values = {
        "name": name,
        "distribution": name.replace("_", "-"),
        "env_id": str(env_id(name)),
        "version": ".".join(importlib.metadata.version("text-gym").split(".")[:2]),
    }
    with _new_folder(folder) as place:
        for source, target in FILES.items():
            _fill_in(TEMPLATE / source, values, place / Template(target).substitute(values))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write in, which takes this one's name once all is written; else nothing is left.

    Raises:
        DataError: It cannot be written.
    """
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _fill_in(template: Path, values: Mapping[str, object], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = Template(template.read_text(encoding="utf-8")).substitute(values)
    file.write_text(text, encoding="utf-8", newline="\n")


def run_tasks(options: TasksOptions) -> int:
    """Run `text-gym tasks`."""
    rows = [(name, "text-gym", _first_sentence(TASKS[name])) for name in TASKS]
    for name, points in installed_tasks().items():
        packages = ", ".join(map(package_of, points))
        if name in TASKS:
            rows.append((name, packages, "hidden by the task of text-gym that has the same name"))
            continue
        try:
            rows.append((name, packages, _first_sentence(load_installed(name))))
        except TextGymError as error:
            rows.append((name, packages, str(error)))
    shown = [tuple(map(harmless, row)) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    for name, package, about in shown:
        print(f"{name:{widths[0]}}  {package:{widths[1]}}  {about}")
    return 0


def _first_sentence(maker: object) -> str:
    """Return the first sentence of the docstring of what makes a task."""
    if isinstance(maker, str):
        module, _, function = maker.partition(":")
        maker = getattr(import_module(module), function)
    return (inspect.getdoc(maker) or "(it says nothing about itself)").split("\n\n")[0].replace("\n", " ")


def run_serve(options: ServeOptions) -> int:
    """Offer a task as an environment of OpenEnv, until the program is interrupted.

    Raises:
        ConfigError: A port or a number of sessions that there cannot be.
    """
    if not 0 < options.port < 65536:
        raise ConfigError(f"port is {options.port}; it must be from 1 to 65535")
    if options.sessions < 1:
        raise ConfigError(f"sessions is {options.sessions}; it must be at least 1")
    task = load_task(options.task)
    serve_task(
        task, host=options.host, port=options.port, held_out=options.held_out, sessions=options.sessions
    )
    return 0


def run_export_task(options: ExportTaskOptions) -> int:
    """Run `text-gym export`."""
    folder = Path(options.out or f"{options.task}-{options.to}")
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another folder")
    model = str(anchored(options.model))  # the script runs in the project's folder
    write_project(ExportedReward.of(options.task), options.to, folder, model)
    command = "python train.py" if options.to == "trl" else "sh train.sh"
    print(f"wrote {folder}: prompts, reward and script; see its README.md")
    print(f"  cd {shlex.quote(str(folder))} && {command}")
    return 0


def write_project(reward: ExportedReward, to: str, folder: Path, model: str) -> None:
    """Write the project of a task for a trainer, complete or not at all.

    Args:
        reward: Of the task.
        to: trl, verl or openrlhf.
        folder: A folder that does not exist; folders around it are made.
        model: The model that learns.

    Raises:
        DataError: It cannot be written.
    """
    script = _TRAINERS[to][2]
    values = _values(reward, to, model)
    files = {"reward.txt": "reward.py", f"{to}.txt": script, "readme.txt": "README.md"}
    with _new_folder(folder) as place:
        for source, target in files.items():
            _fill_in(EXPORTED / source, values, place / target)
        for name, held_out in (("train", False), ("test", True)):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in reward.rows(to, held_out))
            (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def _values(reward: ExportedReward, to: str, model: str) -> dict[str, Any]:
    task = reward.task
    trainer, requirements, script, note = _TRAINERS[to]
    package = "" if task.name in TASKS else "".join(map(package_of, installed_tasks().get(task.name, [])))
    return {
        "task": task.name,
        "task_literal": json.dumps(task.name),
        "to": to,
        "trainer": trainer,
        "function": _FUNCTIONS[to],
        "imports": "from torch import from_numpy\n" if to == "openrlhf" else "",
        "model_literal": json.dumps(model),
        "model_shell": shlex.quote(model),
        "max_tokens": task.max_tokens,
        "train": f"{len(task.prompts):,}",
        "test": f"{len(task.held_out):,}",
        "requirements": requirements,
        "more": f", and {package}, which has the task" if package else "",
        "script": script,
        "command": f"python {script}" if to == "trl" else f"sh {script}",
        "note": note,
    }
