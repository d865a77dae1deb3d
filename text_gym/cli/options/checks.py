"""Checks of options that need no PyTorch: what is cheap and wrong is told at once, before anything is loaded.

Only what is certainly wrong is refused here; everything is checked again by those who use it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from text_gym.data import Data, check_source
from text_gym.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from text_gym.reward_models.names import PREFIXES, REWARD_NAMES
from text_gym.runs.saved_policy import holds_model, policy_folder
from text_gym.tasks.task import task_names, unknown_task
from text_gym.utils.json_files import spare_database
from text_gym.utils.user_code import split_place

NEW = "new"  # instead of a policy: one that is made from nothing
HEADS = 4  # of attention, in a new policy
TUNED = "tuned"  # instead of a file of sizes: the one of this machine and model
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DEVICE = re.compile(r"auto|cpu|mps|xpu|cuda(:\d+)?")
# Device files of CUDA and ROCm: NVIDIA's driver, WSL, Jetson, AMD's driver.
_GPU_FILES = ("nvidia*", "dxg", "nvhost*", "nvmap", "kfd")


def at_least(least: int, **values: float | None) -> None:
    """Refuse options below a bound; one that was left out is None.

    Raises:
        ConfigError: An option is too small; it is named as it is typed.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")


def check_task(name: str | None) -> None:
    """Refuse a task that does not exist.

    Raises:
        UnknownNameError: The nearest name is suggested.
        ConfigError: It is the id of an environment, whose task is named.
    """
    if name is not None and name not in task_names():
        raise unknown_task(name)


def check_data(source: str | None, option: str = "data") -> None:
    """Refuse a file of data that is not there, or of an unknown kind.

    Raises:
        DataError: Naming the file.
    """
    if source is not None:
        if not source:
            raise DataError(f"--{option} is empty; pass the name of a file or data set")
        check_source(source)


def check_learning(task: str, data: Data, policy: str | None) -> None:
    """Refuse data that no policy goes with, a gold reward for a task, which has its own, and missing files.

    Raises:
        TextGymError: Naming the option, and what to do.
    """
    if data.data is None:
        check_task(task)
        if data.gold is not None:
            raise ConfigError(
                f"task {task!r} has a reward of its own, which is gold; --gold is for --data. To optimise "
                "another reward pass --reward"
            )
    elif policy in (None, NEW):
        raise ConfigError(
            "--data needs a --policy that can write such texts; make one with `text-gym sft --data "
            f"{data.data} --completion COLUMN`"
        )
    check_data(data.data)
    check_chat(data)
    check_reward(data.gold, "gold")
    check_policy(policy)


def check_chat(data: Data) -> None:
    """Refuse a system prompt or a chat template for a task, whose prompts are what they are.

    Raises:
        ConfigError: Naming the option.
    """
    if data.data is None and (data.chat or data.system is not None):
        option = "chat" if data.chat else "system"
        raise ConfigError(f"--{option} is for --data; a task's prompts are what they are")


def check_reward(spec: str | None, option: str = "reward") -> None:
    """Refuse a reward that is no name of ours, no folder, and no function of a file or module that is there.

    Raises:
        UnknownNameError: The nearest name is suggested.
        DataError: There is no such file or module.
        ConfigError: No name after the file.
    """
    check_code(option, spec)
    if spec is not None and spec.startswith("judge:"):
        check_policy(spec.removeprefix("judge:"), option)
    if spec is None or spec.startswith(PREFIXES) or spec in REWARD_NAMES or Path(spec).is_dir():
        return
    found = split_place(spec)
    if found is None:
        raise UnknownNameError("reward", spec, REWARD_NAMES)
    top = found[0].partition(".")[0]
    here = Path(f"{top}.py").is_file() or Path(top).is_dir()  # the working directory is looked into, too
    if not found[0].endswith(".py") and not here and top.isidentifier() and find_spec(top) is None:
        raise DataError(f"--{option} {spec}: there is no module {top}; is it installed?")


def check_code(option: str, spec: str | None) -> None:
    """Refuse a `file.py:name` whose file is not there, and a file without a name.

    Raises:
        ConfigError: No name after the file.
        DataError: There is no such file.
    """
    found = None if spec is None or spec.startswith(PREFIXES) else split_place(spec)
    if found is not None and found[0].endswith(".py") and not Path(found[0]).is_file():
        raise DataError(f"--{option} {spec}: there is no file {found[0]}")
    if found is None and spec is not None and spec.endswith(".py"):
        raise ConfigError(f"which name in {spec}? Write --{option} {spec}:NAME")


def check_new_policy(policy: str | None, layers: int, width: int) -> None:
    """Refuse a shape that no new policy can have.

    Raises:
        ConfigError: Naming the option.
    """
    at_least(1, layers=layers, width=width)
    if policy == NEW and width % HEADS:
        raise ConfigError(
            f"--width is {width}; it must be a multiple of {HEADS}, the number of attention heads"
        )


def check_policy(policy: str | None, option: str = "policy", hub: bool = True) -> None:
    """Refuse a policy that is neither a folder with a model nor, if `hub`, something that a hub could hold.

    Raises:
        DataError: Naming the place.
    """
    if policy is None or policy == NEW:
        return
    place = Path(policy_folder(policy))
    if place.is_dir():
        if not holds_model(place):
            raise DataError(
                f"--{option} {policy}: the folder holds no policy (no config.json or adapter_config.json); "
                "pass the folder that `text-gym sft` or `text-gym train` wrote"
            )
    elif place.is_file():
        raise DataError(f"--{option} {policy} is a file; pass the folder of a policy, or a hub model's name")
    elif not hub:
        raise DataError(f"--{option} {policy}: there is no such folder{did_you_mean(policy)}")
    elif not _HUB_NAME.fullmatch(policy):
        raise DataError(
            f"--{option} {policy}: there is no such folder, and it is no hub model's name (OWNER/NAME)"
            f"{did_you_mean(policy)}"
        )


def check_device(device: str) -> None:
    """Refuse a device that no PyTorch on this machine can have.

    Raises:
        ConfigError: An unknown name, or a device that this machine or this PyTorch is certain to lack.
    """
    if not _DEVICE.fullmatch(device):
        raise ConfigError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:1")
    missing = None
    if device == "mps":
        missing = "it has no float64, in which tokens are drawn"
    if device.startswith("cuda"):
        missing = _why_no_cuda()
    if missing is not None:
        raise ConfigError(f"--device {device}: {missing}; pass --device cpu, or leave it out")


def _why_no_cuda() -> str | None:
    """Say why CUDA cannot be here; None where it may be."""
    try:
        built = version("torch")
    except PackageNotFoundError:
        built = ""
    if sys.platform == "darwin":
        return "there is no CUDA on macOS"
    if built.endswith("+cpu"):
        return f"the installed PyTorch ({built}) is built without CUDA"
    if sys.platform == "linux" and not any(True for name in _GPU_FILES for _ in Path("/dev").glob(name)):
        return "this machine shows no GPU"
    return None


def check_out_folder(out: str | None, option: str = "out") -> None:
    """Refuse a folder to write to that is a file, or that cannot be made or written.

    Raises:
        ConfigError: Naming it.
    """
    if out is None:
        return
    with _naming_bad_path(out, option):
        place = next(place for place in (Path(out), *Path(out).parents) if place.exists())
    if not place.is_dir():
        raise ConfigError(f"--{option} {out}: {place} is a file; choose a folder")
    _check_writable(place, out, option)


def check_file(option: str, file: str | None) -> None:
    """Refuse a file to write to that is a folder, or whose folder is not there or cannot be written.

    Raises:
        ConfigError: Naming it.
    """
    if file is None:
        return
    folder = Path(file).parent
    with _naming_bad_path(file, option):
        if Path(file).is_dir():
            raise ConfigError(f"--{option} {file} is a folder; pass the name of a file in it")
        if not folder.is_dir():
            raise ConfigError(f"--{option} {file}: there is no folder {folder}; make it first")
        spare_database(file)
    _check_writable(folder, file, option)


@contextmanager
def _naming_bad_path(path: str, option: str) -> Iterator[None]:
    """Name the option whose path the system cannot look at: a name is too long, or a folder is closed."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--{option} {path}: {error.strerror}; choose another place") from error


def _check_writable(folder: Path, path: str, option: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--{option} {path}: you may not write to {folder}; choose another place")


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Refuse a temperature, top-k or top-p that no text can be drawn with.

    Raises:
        ConfigError: Naming it.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"--temperature is {temperature}; it must be positive, or pass --greedy")
    at_least(0, top_k=top_k)
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p is {top_p}; it must be in (0, 1]")


def check_sizes(place: str | None) -> None:
    """Refuse a file of sizes that is not there.

    Raises:
        ConfigError: Naming it.
    """
    if place not in (None, TUNED) and not Path(str(place)).is_file():
        raise ConfigError(f"--sizes {place}: there is no such file; `text-gym tune` makes one")
