"""The cycle with its people at a real terminal and at the real page, by scripts that press keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rater_terminal import PROGRAM, ROOT, RaterTerminal
from text_gym import Episode, PretrainedTokenizer, WordTokenizer, as_reward_source
from text_gym.agents import Policy
from text_gym.cli.options.rlhf import read_rlhf
from text_gym.cli.rlhf import run_rlhf
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import LabelCriterion, Question
from text_gym.reward_models.people.simulated import Vices
from text_gym.rlhf.people import BIASES, simulated_people

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WORDS = "a good bad very cheap mug cup and"
TINY = """--labels-per-round 8 --iterations 2 --episodes 8 --members 2 --max-tokens 6 --device cpu""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for prompts and a policy of one's own; nobody knows a gold reward."""
    folder = tmp_path_factory.mktemp("own")
    tokenizer = PretrainedTokenizer.train([WORDS], 300)
    Policy.new(tokenizer, layers=1, width=16, heads=2, context=32, device="cpu").save(folder / "policy")
    rows = [{"prompt": f"{word} mug"} for word in WORDS.split()]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data", str(folder / "data.jsonl"), "--policy", str(folder / "policy"), *TINY]


def mark(n: int) -> int:
    """What a scripted rater presses n-th."""
    return 1 + (n * n + n // 3) % 5


def reward_models(folder: Path) -> dict[str, bytes]:
    files = (f for n in (1, 2) for f in (folder / f"round-{n}" / "reward_model").rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    with LabelStore(folder / "labels.db", create=False) as store:
        return {label.item: dict(label.values) for label in store.labels()}


def test_the_console_and_the_same_answers_again(own_data: list[str], tmp_path: Path) -> None:
    """A person at a terminal rates, leaves in the middle, comes back; the same answers give the same bits."""
    out = tmp_path / "typed"
    arguments = ["rlhf", "--rater", "console", "--rounds", "2", "--name", "ada", "--out", str(out), *own_data]
    pressed = 0
    for leave_after, status in ((10, 130), (48, 0)):
        with RaterTerminal(*arguments) as terminal:
            while pressed < leave_after:
                terminal.wait_for("> ", 60)
                terminal.type(str(mark(pressed)))
                pressed += 1
            if status:
                terminal.wait_for("> ", 60)
                terminal.type("q")
                terminal.wait_for("To go on")
                pressed -= pressed % 3  # a rating is three keys, and saved when it is whole
            assert terminal.wait(120) == status
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows] == [8, 8]
    assert rows[0]["gold"]["mean"] is None
    given = answers(out)
    assert len(given) == 16

    copy = tmp_path / "copy"
    with Replay(given) as replay:
        assert replay.run(["--rounds", "2", "--out", str(copy), *own_data]) == 0
    assert answers(copy) == given
    assert reward_models(copy) == reward_models(out)
    assert len(reward_models(out)) > 8


class Replay:
    """Somebody who gives answers that were given before, through the store and not through a console."""

    def __init__(self, given: dict[str, dict[str, Any]]) -> None:
        self.given = given
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> Replay:
        self.patch.setattr("text_gym.cli.rlhf.person_at_console", lambda name: self.people)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def run(self, arguments: list[str]) -> int:
        return run_rlhf(*read_rlhf(["--rater", "console", *arguments]))

    @contextmanager
    def people(self, store: LabelStore, first: Any) -> Any:
        def ask(among: list[str]) -> None:
            for item in sorted(among):  # another order than the console's
                store.record(item, "bob", self.given[item])

        yield lambda episodes: ask


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this computer")
@pytest.mark.nightly
def test_the_page(own_data: list[str], tmp_path: Path) -> None:
    """A person in a browser rates with the keyboard alone; the cycle goes on as they do."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    out = tmp_path / "clicked"
    arguments = ["rlhf", "--rater", "web", "--port", "0", "--rounds", "2", "--out", str(out), *own_data]
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        link = next(found[0] for line in process.stdout if (found := re.findall(r"http://\S+", line)))
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page()
            page.goto(link)
            page.wait_for_selector("#sign-in:not([hidden])")
            page.keyboard.type("ada")
            page.keyboard.press("Enter")
            for _ in range(4000):
                if process.poll() is not None:
                    break
                if page.evaluate("!document.getElementById('work').hidden && ready()"):
                    page.keyboard.press(str(mark(len(answers(out)))))
                page.wait_for_timeout(20)
            browser.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows] == [8, 8]
    with LabelStore(out / "labels.db", create=False) as store:
        assert {label.rater for label in store.labels()} == {"ada"}


# Simulated people


GOLD = as_reward_source(lambda completion: completion.split().count("good") / 4)
TOKENIZER = WordTokenizer(["good", "bad"])


def marks(bias: Any, texts: list[str], noise: float = 0.0) -> list[float]:
    """What simulated people give texts."""
    from text_gym.reward_models.people.human import HumanRater

    episodes = [Episode.of("good", text, TOKENIZER) for text in texts]
    scale = (LabelCriterion("quality"),)
    with LabelStore(":memory:") as store:
        with simulated_people(GOLD, scale, bias=bias, noise=noise)(store, episodes) as asking:
            found = HumanRater(store, asking(episodes), criteria=scale).rate(episodes)
        return [m["quality"] for m in found]


def test_without_a_vice_marks_are_gold() -> None:
    assert marks("none", ["bad", "good good", "good good good good"]) == [1.0, 3.0, 5.0]


def test_who_likes_length_gives_more_for_more_words() -> None:
    texts = [" ".join(["bad"] * n) for n in (1, 10, 20, 30, 40)]
    assert marks("none", texts) == [1.0] * 5
    found = marks("length", texts)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1.0, 5.0)


def test_every_bias_is_a_vice() -> None:
    for bias, vices in BIASES.items():
        assert Vices(**vices) != Vices() or bias == "none"


def test_two_people_have_noise_of_their_own() -> None:
    scale = (LabelCriterion("quality"),)
    episodes = [Episode.of("good", f"good bad {'bad ' * n}".strip(), TOKENIZER) for n in range(30)]
    with LabelStore(":memory:") as store:
        items = store.put([Question.rating("good", e.completion, scale) for e in episodes], overlap=2)
        with simulated_people(GOLD, scale, noise=0.5)(store, episodes) as asking:
            asking(episodes)(items)
        found = {
            name: [x.values["quality"] for x in store.labels() if x.rater == name]
            for name in ("simulated-1", "simulated-2")
        }
    one, two = found.values()
    assert len(one) == len(two) == 30
    assert one != two
