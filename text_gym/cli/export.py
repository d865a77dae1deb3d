"""`text-gym export` writes a task as a project for TRL, verl or OpenRLHF.

The files stand in `exported/`, and what a reward says there in `bridges/trainers.py`; nothing is run here.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Any

from text_gym.bridges.trainers import ExportedReward
from text_gym.cli.options.project import ExportTaskOptions
from text_gym.data import anchored
from text_gym.errors import ConfigError, DataError
from text_gym.tasks.installed import installed_tasks, package_of
from text_gym.tasks.task import TASKS

FILES = Path(__file__).parent / "exported"
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
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for source, target in files.items():
            text = Template((FILES / source).read_text(encoding="utf-8")).substitute(values)
            (partial / target).write_text(text, encoding="utf-8", newline="\n")
        for name, held_out in (("train", False), ("test", True)):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in reward.rows(to, held_out))
            (partial / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


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
