"""The file of sizes that `text-gym tune` found, which says for which machine, device and model they are.

It is refused anywhere else: a size that was not measured here is one more guess.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from text_gym.errors import ConfigError, UnknownNameError
from text_gym.json_text import read_object
from text_gym.utils.json_files import write_json
from text_gym.utils.signing import private_folder

from .runtime import cores
from .sizes import DEFAULTS, Sizes, kind_of

_FORMAT = 1
_MEASURE = "measure them with `text-gym tune`"


@dataclass(frozen=True)
class TunedFor:
    """What sizes are measured for.

    Args:
        device: The kind of device, `"cpu"` or `"cuda"`.
        machine: The processor with its cores and threads, or the accelerator with its memory.
        model: Architecture and shape.
    """

    device: str
    machine: str
    model: str

    @classmethod
    def of(cls, device: torch.device, config: Any) -> TunedFor:
        """Describe this machine and a model.

        Args:
            device: Where the model runs.
            config: The model's configuration of `transformers`.
        """
        text = config.get_text_config()
        shape = f"{text.num_hidden_layers} layers of width {text.hidden_size}, {text.vocab_size:,} ids"
        return cls(kind_of(device), _machine(device), f"{config.model_type}, {shape}")

    def file(self) -> Path:
        """Return the file in the user's cache folder that holds the sizes for this subject.

        Raises:
            ConfigError: There is no cache folder that is private to the user.
        """
        folder = private_folder("XDG_CACHE_HOME", ".cache")
        if folder is None:
            raise ConfigError(
                "there is no cache folder to keep sizes in; name a file: --out FILE, --sizes FILE"
            )
        digest = hashlib.sha256("\0".join(asdict(self).values()).encode()).hexdigest()[:12]
        return folder / f"sizes-{self.device}-{digest}.json"


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    return f"{_processor_name()}, {cores()} cores, {threads} thread{'s' * (threads > 1)}"


def _processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_sizes(sizes: Sizes, subject: TunedFor, measured: str, file: str | Path | None = None) -> Path:
    """Write sizes with what they are for, and return the file: the one for `tuned` if none is named.

    Args:
        sizes: What was found.
        subject: What for.
        measured: On which batch and when, for a reader.
        file: Where to.
    """
    place = subject.file() if file is None else Path(file)
    write_json(place, {"format": _FORMAT, **asdict(subject), "measured": measured, "sizes": asdict(sizes)})
    return place


def read_sizes(file: str | Path | None, subject: TunedFor) -> Sizes:
    """Read sizes; one that the file leaves out is the default.

    Args:
        file: Where from; None is the file in the cache folder.
        subject: What they have to be for.

    Raises:
        ConfigError: There is no such file, it is broken or has other content, is for another machine, device
            or model, or a size is unknown or out of range.
    """
    place = subject.file() if file is None else Path(file)
    if file is None and not place.is_file():
        raise ConfigError(
            f"no sizes were measured on this machine ({subject.machine}) for this model ({subject.model}); "
            f"{_MEASURE}, or leave --sizes out"
        )
    content = read_object(place, ConfigError, _MEASURE)
    if content.get("format") != _FORMAT:
        raise ConfigError(f"{place} is no file of sizes that this version reads; {_MEASURE}")
    for what, here in asdict(subject).items():
        if content.get(what) != here:
            raise ConfigError(
                f"the sizes in {place} are for another {what}, {content.get(what)!r}, and this is {here!r}; "
                f"{_MEASURE}"
            )
    try:
        return sizes_from(content.get("sizes"), subject.device)
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{place}: {error}; {_MEASURE}") from error


def sizes_from(values: object, device: str) -> Sizes:
    """Make sizes of plain data, as it is in a file or in the settings of a run.

    Args:
        values: By name; what is left out is the default.
        device: The kind of device whose defaults they are.

    Raises:
        UnknownNameError: There is no such size; the nearest name is suggested.
        ConfigError: They are no numbers by name, or one is out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"sizes are numbers by name, and not {values!r}")
    known = [f.name for f in fields(Sizes)]
    for name in values:
        if name not in known:
            raise UnknownNameError("size", name, known)
    return replace(DEFAULTS[device], **values)
