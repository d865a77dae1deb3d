from __future__ import annotations

import html.parser
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.figure_tools import figures_as_data
from text_gym.rlhf.report import write_rlhf_report

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e</p>"


def run_folder(
    folder: Path,
    gold: bool = True,
    text: str = "A mug.",
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A finished run of one round, as far as a report reads it."""
    measure = {"mean": 0.8 if gold else None, "ci95": [0.7, 0.9] if gold else [None, None]}
    change = {"mean": 0.25, "ci95": [0.2, 0.3]}
    row = {
        "round": 1,
        "started_from": 0,
        "kept": 1,
        "verdict": "better",
        "gold_change": change if gold else None,
        "proxy_change": change,
        "objective_before": 0.61,
        "objective_after": 0.62,
        "objective_change": change,
        "since_start": {"measure": "gold" if gold else "objective", "before": 0.5, "after": 0.75, **change},
        "policy_of_iteration": 40,
        "declined": None,
        "cut": 0.06,
        "cut_before": 0.0,
        "kl_before": 0.0,
        "words_before": 18.0,
        "labels": 10,
        "gold": measure,
        "gold_before": measure,
        "proxy": 0.75,
        "proxy_before": 0.7,
        "kl_nats": 2.5,
        "alpha": 0.66,
        "alphas": {"accuracy": 0.66, "clarity": None},
        "new_labels": None,
        "proxy_gold": 0.5 if gold else None,
        "proxy_length": 0.31,
        "gold_length": 0.1 if gold else None,
        "words": 20.0,
    } | changes
    files: dict[str, Any] = {
        "config.json": {
            "task": text,
            "questions": "ratings",
            "choose": "random",
            "seed": 0,
            "rater": "simulated",
            "bias": "none",
            **(options or {}),
        },
        "start/evaluation.json": {"row": {"gold": measure, "words": 18.0, "cut": 0.0}},
        "round-1/evaluation.json": {
            "row": row,
            "points": {"words": [1, 2], "gold": [0.1, 0.2] if gold else [None, None], "proxy": [0.3, 0.1]},
            "samples": [{"prompt": text, "text": text, "proxy": 0.5, "gold": 0.5 if gold else None}],
            "raters": [
                {"rater": text, "answers": 10, "mean": 0.5, "length": 0.4, "longer": None}
                | {"agreement": None, "warnings": [text]}
            ],
            "audit": {
                "findings": [{"bias": "length", "statement": text}],
                "surfaces": [
                    {"name": "length", "edit": text, "effect": {"value": 0.4, "ci95": [0.3, 0.5], "n": 9}}
                    | {"gold": None, "partial": None}
                ],
            },
        },
    }
    for name in ("start", "round-1/training"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "start" / "texts.jsonl").write_text(
        json.dumps({"prompt": text, "completion": text, "reward": 0.5 if gold else None}, ensure_ascii=False)
        + "\n"  # as transcripts are written
    )
    metrics = [{"iteration": i, "reward": 0.1 * i} for i in (1, 2)]
    (folder / "round-1" / "training" / "metrics.jsonl").write_text(
        "".join(json.dumps(m) + "\n" for m in metrics)
    )
    return folder


@pytest.fixture
def undrawn_here() -> Iterator[None]:
    """Draw no figures in this test, which looks at the text."""
    with figures_as_data():
        yield


class Tags(html.parser.HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_numbers_are_in_the_page(tmp_path: Path) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path), 1).read_text())
    for shown in ("0.800 [0.700, 0.900]", "0.750", "2.5", "0.66", "0.31", "0.400 [0.300, 0.500]", "18 → 20"):
        assert shown in page.text, shown
    text = " ".join(page.text.split())
    assert "1 bias" in text
    assert "a" not in [tag for tag, _ in page.found]  # no rollouts were kept
    assert not (tmp_path / "view.html").exists()
    assert "6 %" in text


def words_of(folder: Path) -> str:
    return " ".join(Tags(write_rlhf_report(folder, 1).read_text()).text.split())


@pytest.mark.usefixtures("undrawn_here")
def test_raters_are_blamed_only_where_they_have_a_vice(tmp_path: Path) -> None:
    page = words_of(run_folder(tmp_path / "none"))
    assert "learnt 1 bias Its raters have none: these are the reward model’s own mistakes." in page
    assert "from its raters" not in page
    page = words_of(run_folder(tmp_path / "hype", options={"bias": "hype"}))
    assert "learnt 1 bias from its raters, who have a vice (hype)" in page
    page = words_of(run_folder(tmp_path / "people", options={"rater": "web"}))
    assert "from its raters" not in page
    assert "Its raters have none" not in page


@pytest.mark.usefixtures("undrawn_here")
@pytest.mark.parametrize(
    ("mark", "agreement", "colour", "said"),
    [
        (
            "good",
            {"value": 0.8, "ci95": [0.7, 0.9], "n": 9},
            "verdict good",
            "with gold is 0.80 [0.70, 0.90]",
        ),
        (
            "open",
            {"value": 0.4, "ci95": [0.3, 0.5], "n": 9},
            "verdict open",
            "with gold is 0.40 [0.30, 0.50]",
        ),
        ("open", None, "verdict open", "Nobody knows what it should follow"),
    ],
)
def test_an_audit_without_findings_reassures_only_where_the_model_follows_gold(
    mark: str, agreement: Any, colour: str, said: str, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path)
    file = folder / "round-1" / "evaluation.json"
    content = json.loads(file.read_text())
    content["audit"] |= {"findings": [], "mark": mark, "agreement": agreement}
    file.write_text(json.dumps(content))
    page = Tags(write_rlhf_report(folder, 1).read_text())
    verdicts = [
        own["class"] for tag, own in page.found if tag == "section" and "verdict" in (own.get("class") or "")
    ]
    assert verdicts[-1] == colour
    text = " ".join(page.text.split())
    assert "None of the biases looked for was found" in text
    assert said in text


@pytest.mark.usefixtures("undrawn_here")
def test_a_ruin_is_the_first_thing_that_the_report_says(tmp_path: Path) -> None:
    worse = {"mean": -0.1, "ci95": [-0.15, -0.05]}
    high = {"mean": 0.9, "ci95": [0.85, 0.95]}
    ruined: dict[str, Any] = {
        "gold_before": high,
        "gold_change": worse,
        "objective_change": worse,
        "verdict": "worse",
    }
    told = "The objective fell."
    folder = run_folder(tmp_path, kept=0, cut=0.95, kl_nats=47.0, declined=told, **ruined)
    page = words_of(folder)
    first = "It got worse in round 1: gold 0.900 → 0.800 (difference −0.100 [−0.150, −0.050])"
    assert first in page
    assert page.index(first) < page.index("gold, start") < page.index("The reward model learnt 1 bias")
    assert "95 % of texts cut at the limit; the first policy stands" in page
    assert "worse, given up" in page
    assert told in page
    assert "Now: the first policy, the best so far." in page
    # What stands is shown as it is now: the first policy, not the ruined one.
    assert "gold, now0.900" in page
    assert "18 → 18" in page


def test_nothing_from_outside_and_no_script(tmp_path: Path) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path), 1).read_text())
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in page.found:
        assert not {"src", "href", "onclick"} & set(attributes)
    assert len([1 for tag, _ in page.found if tag == "svg"]) == 7


def test_text_is_escaped(tmp_path: Path) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path, text=HOSTILE), 1).read_text())
    assert "script" not in {tag for tag, _ in page.found}
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 6


@pytest.mark.usefixtures("undrawn_here")
@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\x0b"])
def test_a_text_may_hold_what_unicode_calls_a_line_break(tmp_path: Path, separator: str) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path, text=f"A mug.{separator}Red."), 1).read_text())
    assert page.text.count("Red.") >= 6


def test_without_gold(tmp_path: Path) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path, gold=False), 1).read_text())
    assert "gold" not in page.text
    assert "nan" not in page.text.lower()


@pytest.mark.parametrize("alphas", [{}, {"accuracy": None}])
def test_without_agreement_there_is_no_figure_of_it(tmp_path: Path, alphas: dict[str, None]) -> None:
    page = Tags(write_rlhf_report(run_folder(tmp_path, alpha=None, alphas=alphas), 1).read_text())
    assert len([1 for tag, _ in page.found if tag == "svg"]) == 6
