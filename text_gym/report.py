"""The folder of a run: configuration, metrics, summary, samples, curves and the policy.

Everything a run leaves is plain text, PNG, safetensors or TensorBoard events; nothing is pickled.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import ConfigError

Metrics = Mapping[str, float]

# Panels of curves.png: title, unit of the vertical axis, metrics drawn.
PANELS = (
    ("Reward", "reward per episode", ("reward",)),
    ("Criteria", "mean per episode", ("reward/",)),
    ("KL to the reference policy", "nats per episode", ("kl",)),
    ("Length", "completion tokens", ("length",)),
)


class RunFolder:
    """Writes a run's files; rows reach the disk as they are made.

    Args:
        folder: Where; made if need be.
        config: What the run was started with.
        tensorboard: Write TensorBoard events too.

    Raises:
        ConfigError: The folder already holds a run.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], *, tensorboard: bool = True) -> None:
        self.path = Path(folder)
        if (self.path / "metrics.jsonl").exists():
            raise ConfigError(f"{self.path} already holds a run; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json("config.json", config)
        self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path))
        self.rows: list[dict[str, float]] = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        if self._events is not None:
            self._events.close()

    def log(self, metrics: Metrics) -> None:
        """Append one iteration's metrics."""
        self.rows.append(dict(metrics))
        self._metrics.write(json.dumps(_finite(metrics)) + "\n")
        self._metrics.flush()
        if self._events is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._events.add_scalar(name, value, int(metrics.get("iteration", len(self.rows))))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        write_json(self.path / name, content)

    def write_samples(self, samples: Sequence[tuple[str, str, float, str, float]]) -> None:
        """Write `samples.md`: prompt, text and reward before, text and reward after."""
        parts = ["# Samples on held-out prompts\n"]
        for i, (prompt, before, gold_before, after, gold_after) in enumerate(samples, 1):
            parts += [f"## {i}\n", _fence(prompt), f"Before ({gold_before:.2f}):\n", _fence(before)]
            parts += [f"After ({gold_after:.2f}):\n", _fence(after)]
        (self.path / "samples.md").write_text("\n".join(parts), encoding="utf-8")

    def draw_curves(self, title: str) -> Path:
        """Draw `curves.png`: reward, criteria, KL and length over the iterations."""
        file = self.path / "curves.png"
        draw_curves(self.rows, file, title)
        return file


def draw_curves(rows: Sequence[Metrics], file: str | Path, title: str) -> None:
    """Draw the panels of a run over its iterations into a PNG."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    for axes, (name, unit, wanted) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        keys = [
            k
            for k in (rows[0] if rows else {})
            if k in wanted or any(k.startswith(w) and w.endswith("/") for w in wanted)
        ]
        for key in keys:
            x = [row["iteration"] for row in rows]
            y = [row.get(key, math.nan) for row in rows]
            axes.plot(x, y, linewidth=1.6, label=key.removeprefix("reward/"))
        axes.set(title=name, xlabel="iteration", ylabel=unit)
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend(fontsize="small")
        if not keys:
            axes.text(0.5, 0.5, "this reward names no criteria", ha="center", transform=axes.transAxes)
    figure.savefig(str(file), dpi=120)


def write_json(file: str | Path, content: Any) -> None:
    """Write plain data as JSON; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str)
    Path(file).write_text(text + "\n", encoding="utf-8")


def default_folder(task: str, algorithm: str) -> Path:
    """`runs/<task>-<algorithm>-<time>`."""
    return Path("runs") / f"{Path(task).stem}-{algorithm}-{time.strftime('%Y%m%d-%H%M%S')}"


def _fence(text: str) -> str:
    """A code block that no text can close."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}text\n{text.rstrip()}\n{ticks}\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: write null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
