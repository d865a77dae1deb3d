"""The card beside a saved policy: what it says, and that no text in it breaks out, parsed as Markdown is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard as HubCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from text_gym import load_task
from text_gym.agents import Policy
from text_gym.cli.main import main
from text_gym.runs.model_card import ModelCard, write_model_card
from text_gym.runs.origin import Start, write_origin

pytestmark = pytest.mark.usefixtures("undrawn")

HOSTILE = (
    "`` |<script>alert(1)</script>|\x1b[31m\u202e](http://evil)\n\n# A heading\n```\n---\n![x](http://evil)"
)
FIGURES = {"mean": 0.5, "ci95": [0.25, 0.75]}


def tokens(text: str) -> list[Token]:
    """All tokens of a Markdown text without its front matter, those inside lines too."""
    body = text.split("---\n", 2)[2]
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    return [t for token in found for t in (token, *(token.children or ()))]


def card(**changes: Any) -> ModelCard:
    side = {"gold": FIGURES, "kl_nats": 1.0, "length_tokens": 5.0, "terminated": 1.0}
    summary = {"before": side, "after": side, "iterations": 3, "policy_of_iteration": 3, "interrupted": False}
    given: dict[str, Any] = {"algorithm": "ppo", "settings": {"seed": 3}, "reward": "answer"}
    return ModelCard(**given | {"summary": summary} | changes)


def test_no_text_of_others_leaves_its_place(tmp_path: Path) -> None:
    start = Start("0" * 64, "float32", ({"hub": HOSTILE},))
    write_origin(tmp_path, {"task": HOSTILE}, 8, start, HOSTILE)
    side = {HOSTILE: FIGURES, "kl_nats": 1.0, "length_tokens": 5.0, "terminated": 1.0}
    text = write_model_card(
        tmp_path,
        card(
            algorithm=HOSTILE,
            reward=HOSTILE,
            settings={HOSTILE: HOSTILE},
            summary={"before": side, "after": side},
            samples=[(HOSTILE, HOSTILE, {HOSTILE: 1.0}, HOSTILE, {})],
        ),
    ).read_text()
    found = tokens(text)
    assert not [t.type for t in found if t.type in ("html_inline", "html_block", "link_open", "image")]
    headings = [found[i + 1].content for i, t in enumerate(found) if t.type == "heading_open"]
    assert headings[0].startswith("A policy of text-gym, trained by ")
    assert headings[1:] == ["Figures", "Texts on held-out prompts", "How to load it", "Settings"]
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = [i for i, t in enumerate(found) if t.type == "tr_open"]
    assert len(rows) == 1 + 1 + 3
    for i in rows:
        cells = next(n for n, t in enumerate(found[i:]) if t.type == "tr_close")
        assert sum(t.type in ("th_open", "td_open") for t in found[i : i + cells]) == 3
    metadata: Any = HubCard(text).data
    assert metadata.tags == ["text-gym", "reinforcement-learning"]
    assert metadata.base_model is None


def test_it_says_what_the_policy_is_and_names_no_path(tmp_path: Path) -> None:
    settings = {"data": str(tmp_path / "secret" / "mails.csv"), "prompt": "subject"}
    start = Start("ab" * 32, "float32", ({"folder": str(tmp_path / "start")},))
    write_origin(tmp_path, settings, 32, start, str(tmp_path / "mine.py") + ":f")
    text = write_model_card(tmp_path, card(reward=str(tmp_path / "mine.py") + ":f")).read_text()
    assert "- Learnt on: data `mails.csv`, column `subject`, at most 32 tokens a text" in text
    assert "- Reward optimised: `mine.py:f`" in text
    assert "| `gold` | 0.500 (0.250 to 0.750) | 0.500 (0.250 to 0.750) |" in text
    assert str(tmp_path) not in text
    hub = Start("ab" * 32, "float32", ({"hub": "owner/model"},))
    write_origin(tmp_path, {"task": "sort"}, 8, hub)
    text = write_model_card(tmp_path, card(summary=None)).read_text()
    metadata: Any = HubCard(text).data
    assert metadata.base_model == "owner/model"
    assert "Figures" not in text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "reverse"
    options = ["--task", "reverse", "--policy", "new", "--iterations", "1", "--episodes", "8"]
    assert main(["train", *options, "--out", str(out)]) == 0
    return out


def test_a_run_writes_one_with_the_figures_of_its_summary(run: Path) -> None:
    text = (run / "policy" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    for when in ("before", "after"):
        low, high = summary[when]["gold"]["ci95"]
        assert f"{summary[when]['gold']['mean']:.3f} ({low:.3f} to {high:.3f})" in text
    assert '"algorithm": "ppo"' in text


@pytest.mark.parametrize("kind", ["words of a task", "own tokenizer"])
def test_its_python_loads_the_policy(kind: str, run: Path, tmp_path: Path) -> None:
    folder = run / "policy"
    if kind == "own tokenizer":
        shipped = load_task("products").policy
        assert shipped is not None
        folder = shutil.copytree(shipped, tmp_path / "policy")
        write_origin(folder, {"task": "products"}, 64, None)
        write_model_card(folder, card())
    text = (folder / "README.md").read_text()
    code = next(t.content for t in tokens(text) if t.type == "fence" and t.info == "python")
    space: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(folder)), space)  # our own lines, with no text of others in them
    assert isinstance(space["policy"], Policy)
    task = load_task("reverse" if kind == "words of a task" else "products")
    assert space["policy"].vocab_size == task.tokenizer.vocab_size
