"""Writes the model card beside a saved policy: a README.md as the Hugging Face Hub shows it.

Names and texts in it may come from anybody: they stand in code spans and code blocks that they cannot leave.
No path of this machine is in it: a card is made to be published.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from text_gym.utils.display import harmless
from text_gym.utils.json_files import _finite
from text_gym.utils.sealed import write_atomic

from .folder import Sample, fence, named
from .judgement import rows_of
from .saved_policy import ORIGIN, read_origin

CARD = "README.md"
_TAG = re.compile(r"[a-z][a-z0-9_.-]{0,40}")
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_SHOWN = 3  # sample texts


@dataclass(frozen=True)
class ModelCard:
    """What there is to say of a policy that its folder does not say already.

    Args:
        algorithm: How it was trained, e.g. `"ppo"`.
        settings: The algorithm's settings, and others that decide what was learnt.
        reward: Name of what was optimised, if it was a reward.
        summary: With `before` and `after`, as in `summary.json`; None while they are not measured.
        samples: Texts on held-out prompts, before and after.
    """

    algorithm: str
    settings: Mapping[str, Any]
    reward: str | None = None
    summary: Mapping[str, Any] | None = None
    samples: Sequence[Sample] = ()


def write_model_card(folder: str | Path, card: ModelCard) -> Path:
    """Write `README.md` beside a policy and its origin; the same policy gets the same text."""
    place = Path(folder)
    origin = read_origin(place)
    parts = [
        _metadata(card, origin),
        f"# A policy of text-gym, trained by {_code(card.algorithm)}\n",
        _description(card, origin),
        *_figures(card.summary),
        *_samples(card.samples),
        "## How to load it\n",
        _loading(place, origin),
        "## Settings\n",
        fence(json.dumps(_finite(dict(card.settings)), indent=2, default=str), "json"),
        f"Made by text-gym {version('text-gym')}; `{ORIGIN}` says which task or data it belongs to.\n",
    ]
    file = place / CARD
    write_atomic(file, "\n".join(parts))
    return file


def _metadata(card: ModelCard, origin: Mapping[str, Any]) -> str:
    tags = ["text-gym", *([card.algorithm] if _TAG.fullmatch(card.algorithm) else [])]
    tags += ["reinforcement-learning"] if card.reward is not None else []
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    places = (origin.get("start_policy") or {}).get("places", [])
    hub = next((p["hub"] for p in places if _HUB_NAME.fullmatch(str(p.get("hub", "")))), None)
    lines += [] if hub is None else [f"base_model: {json.dumps(hub)}"]
    return "\n".join([*lines, "---", ""])


def _description(card: ModelCard, origin: Mapping[str, Any]) -> str:
    """Say what it writes, what it was optimised for, and what it started from, one line each."""
    data, task = origin.get("data"), origin.get("task")
    about = "a task made in Python"
    if data is not None:
        about = f"data {_code(Path(str(data)).name)}, column {_code(str(origin.get('prompt', 'prompt')))}"
    elif task is not None:
        about = f"task {_code(str(task))}"
    lines = [f"- Learnt on: {about}, at most {int(origin.get('max_tokens', 0))} tokens a text"]
    if card.reward is not None:
        own_name = re.split(r"[/\\]", card.reward)[-1]
        lines.append(f"- Reward optimised: {_code(own_name)}")
    lines.append(f"- Started from: {_start(origin)}")
    if card.summary is not None:
        kept, done = card.summary.get("policy_of_iteration"), card.summary.get("iterations")
        lines.append(f"- Iterations: {done}; the policy is that after iteration {kept}")
        if card.summary.get("interrupted"):
            lines.append("- The training was interrupted")
    return "\n".join([*lines, ""])


def _start(origin: Mapping[str, Any]) -> str:
    start = origin.get("start_policy")
    if start is None:
        return "random weights"
    place: Mapping[str, Any] = next(iter(start.get("places", [])), {})
    if "task" in place:
        return f"the policy shipped with task {_code(str(place['task']))}"
    if "hub" in place:
        return _code(str(place["hub"]))
    digest = str(start.get("sha256", ""))[:12]
    return f"the policy whose weights have the SHA-256 {_code(digest)}…"


def _figures(summary: Mapping[str, Any] | None) -> list[str]:
    if summary is None:
        return []
    before, after = summary["before"], summary["after"]
    lines = ["| held-out prompts, temperature 1 | before | after |", "|---|---|---|"]
    at_start = rows_of(before)
    for name, value in rows_of(after).items():
        lines.append(f"| {_code(name)} | {_interval(at_start.get(name))} | {_interval(value)} |")
    for name, label in (
        ("kl_nats", "KL to the starting policy, nats per episode"),
        ("length_tokens", "length, tokens"),
        ("terminated", "share ended by EOS"),
    ):
        if not math.isnan(after.get(name, math.nan)):
            lines.append(f"| {label} | {before[name]:.2f} | {after[name]:.2f} |")
    return ["## Figures\n", "Means, with 95 % intervals.\n", "\n".join([*lines, ""])]


def _interval(measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return ""
    low, high = measure["ci95"]
    return f"{measure['mean']:.3f} ({low:.3f} to {high:.3f})"


def _samples(samples: Sequence[Sample]) -> list[str]:
    parts = ["## Texts on held-out prompts\n"] if samples else []
    for prompt, before, scores_before, after, scores_after in samples[:_SHOWN]:
        shown = (
            f"prompt: {prompt.strip()}\n\nbefore{named(scores_before)}: {before}\n\n"
            f"after{named(scores_after)}: {after}"
        )
        parts.append(fence(harmless(shown, newlines=True)))
    return parts


def _loading(folder: Path, origin: Mapping[str, Any]) -> str:
    """Show the lines that load what is in the folder, `FOLDER` being where it is or its name on a hub."""
    if (folder / "sb3_policy.safetensors").is_file():
        return (
            "`sb3_policy.safetensors` holds the weights of a policy of Stable-Baselines3, which is no\n"
            "language model: make the algorithm with the settings below, then load them with\n"
            '`safetensors.torch.load_model(model.policy, "sb3_policy.safetensors")`.\n'
        )
    lines = ["from text_gym.agents import Policy", ""]
    if (folder / "tokenizer.json").is_file():
        lines.append('policy = Policy.from_pretrained("FOLDER")')
    else:  # the words of a task are its own
        lines.insert(0, "from text_gym import load_task")
        name = json.dumps(str(origin.get("task", "TASK")))
        lines.append(f'policy = Policy.from_pretrained("FOLDER", load_task({name}).tokenizer)')
    shell = 'text-gym sample --policy FOLDER "…"\ntext-gym evaluate FOLDER'
    if (folder / "adapter_config.json").is_file():
        shell += "\n# an adapter alone: it needs the model it was made for, and `pip install peft`"
    return fence("\n".join(lines), "python") + "\n" + fence(shell, "sh")


def _code(text: str) -> str:
    """Wrap a text in a code span that it cannot leave, in a table's cell either: `|` becomes `¦`."""
    text = harmless(" ".join(text.split()), limit=200).replace("|", "¦") or " "
    runs = [len(run) for run in re.findall("`+", text)]
    ticks = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"
