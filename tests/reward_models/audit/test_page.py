from __future__ import annotations

import dataclasses
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from text_gym import ByteTokenizer, Episode, FunctionReward, load_task
from text_gym.reward_models import AuditConfig, Keywords, Length, audit_reward, write_audit
from text_gym.reward_models.audit.page import audit_page
from text_gym.reward_models.audit.result import Audit
from text_gym.tasks.products_corpus import describe_product
from text_gym.tasks.task import Task

CONFIG = AuditConfig(count=24, edited=8, explained=3, words=12)
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e " \' & </div> {{ 7*7 }}'


class Parsed(HTMLParser):
    """The elements of a page that were opened, and whether each was closed in turn."""

    VOID = frozenset({"meta", "br", "path", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.balanced = True
        self.feed(page)
        self.balanced &= not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            self.balanced &= bool(self.open) and self.open.pop() == tag


def products() -> tuple[Task, list[Episode]]:
    """The task and 24 texts on its held-out products."""
    task, rng = load_task("products", n_train=1), random.Random(0)
    return task, [Episode.of(p, describe_product(p, rng), task.tokenizer) for p in task.held_out[:24]]


@pytest.fixture(scope="module")
def found() -> Audit:
    task, episodes = products()
    return audit_reward(2 * Keywords(["today"]) + Length(10, 40), episodes, task.reward, CONFIG)


def test_the_page_needs_nothing_from_outside(found: Audit) -> None:
    page = audit_page(found)
    parsed = Parsed(page)
    assert parsed.balanced
    assert not {"script", "img", "link", "iframe", "form"} & set(parsed.tags)
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href") and value]
    assert all(link.startswith("#") for link in links)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_shows_the_numbers_and_every_figure(found: Audit) -> None:
    page = audit_page(found)
    figures = 4 + bool(found.swaps) + bool(found.stability) + bool(found.parts)
    assert page.count("<svg") == figures >= 5
    for surface in found.surfaces:
        assert surface.name in page
        assert f"{surface.effect.value:.2f}".replace("-0.00", "0.00").replace("-", "−") in page
    for finding in found.findings:
        assert finding.bias in page
    assert "1 findings" not in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page).split()
    shown = sum(bool(e.values["keywords"].any()) for e in found.explanations)  # others have no say
    assert page.count("<details><summary>keywords ") == shown > 0


def test_a_clean_verdict_says_so() -> None:
    task, episodes = products()
    found = audit_reward(task.reward, episodes, task.reward, CONFIG)
    page = audit_page(found)
    assert "<strong>It follows gold, and none of the biases looked for was found.</strong>" in page
    assert 'class="verdict good"' in page
    assert "gold 0." in page  # best of 64
    blind = audit_page(dataclasses.replace(found, gold=None, golds=None, agreement=None, best=None))
    assert "<strong>Nobody knows what this reward should follow" in blind
    assert 'class="verdict open"' in blind
    assert "follows gold" not in blind


def test_model_text_is_only_text() -> None:
    episodes = [
        Episode.of(f"Say {i} {EVIL}", f"{EVIL} text {i}" * (1 + i % 3), ByteTokenizer()) for i in range(12)
    ]
    hostile = FunctionReward(lambda completion: float(len(completion)), name=EVIL)
    page = audit_page(audit_reward(hostile, episodes, None, CONFIG))
    parsed = Parsed(page)
    assert parsed.balanced
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert "49" not in re.findall(r"\b49\b", page.split("<h1>")[1].split("</h1>")[0])


def test_files(found: Audit, tmp_path: Path) -> None:
    page = write_audit(found, tmp_path / "new" / "folder")
    assert page.read_text(encoding="utf-8") == audit_page(found)
    content = json.loads((page.parent / "audit.json").read_text())
    assert content["source"] == found.source
    assert len(content["scores"]) == 24
    assert {f["bias"] for f in content["findings"]} == set(found.biases)
