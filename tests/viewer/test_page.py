"""The page of a run in a real browser: sums, slider, filters, single tokens, hostile texts, speed."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from tests.kill_harness import TOKENIZER, task
from tests.test_page import BROWSER, FLAGS, contrast_failures, payloads
from text_gym import ByteTokenizer, Episode
from text_gym.agents import GRPOConfig, Policy, PPOConfig
from text_gym.agents.training.recorder import IterationRecord
from text_gym.errors import ConfigError
from text_gym.runs.train import train
from text_gym.viewer.page import write_run_page
from text_gym.viewer.store import RolloutStore, kept_files, read_iteration

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def trained(folder: Path, algorithm: str, config: Any, keep: int, **settings: Any) -> Path:
    policy = Policy.new(TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    quiet = Console(file=io.StringIO())
    train(algorithm, config, task(), policy=policy, out=folder, console=quiet, keep_rollouts=keep, **settings)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GRPOConfig(iterations=5, group_size=4, learning_rate=1e-2)
    return trained(tmp_path_factory.mktemp("run") / "run", "grpo", config, 3, episodes=16, limit="truncate")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page; whatever it says to the console, asks the network or throws fails the test."""
    contexts: list[Any] = []
    heard: list[str] = []

    def open_page(file: Path, width: int = 1280, scheme: Any = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on(
            "request", lambda request: heard.append(request.url) if request.url != file.as_uri() else None
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


def rows_of(run: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row for row in rows}


def slide(page: Page, place: int) -> None:
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    for _ in range(place):
        page.keyboard.press("ArrowRight")


def sums(page: Page) -> dict[str, list[str]]:
    """The table of sums: name -> what is added up, what the metrics say, the remark."""
    rows = page.locator("#sums tbody tr").evaluate_all(
        "rows => rows.map((r) => [...r.cells].map((c) => c.textContent))"
    )
    return {name: rest for name, *rest in rows}


def number(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_tokens_add_up_to_the_metrics(
    run: Path, algorithm: str, tmp_path: Path, opened: Callable[..., Page]
) -> None:
    if algorithm == "ppo":
        run = trained(tmp_path / "run", "ppo", PPOConfig(iterations=2, learning_rate=1e-2), 2, episodes=8)
    page = opened(run / "view.html")
    rows = rows_of(run)
    for place, iteration in enumerate(kept_files(run)):
        slide(page, place)
        assert (
            page.locator("#which").text_content()
            == f"iteration {iteration} ({place + 1} of {len(kept_files(run))})"
        )
        found = sums(page)
        assert {"reward", "kl", "kl_per_token", "length", "truncated", "eos"} <= set(found)
        for name, (here, logged, remark) in found.items():
            assert number(here) == pytest.approx(rows[iteration][name], rel=2e-5, abs=1e-7), name
            assert number(logged) == pytest.approx(rows[iteration][name], rel=2e-5, abs=1e-7), name
            assert remark == "✓ the same"
    assert "add up to what metrics.jsonl says" in (page.locator("#in-short").text_content() or "")


def test_the_iterations_of_a_page_share_its_room(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokens(page: Path) -> list[int]:
        blocks = re.findall(r"<script[^>]*iteration[^>]*>([^<]*)</script>", page.read_text(encoding="utf-8"))
        return [sum(len(e["tokens"]) for e in json.loads(block)["episodes"]) for block in blocks]

    whole = tokens(run / "view.html")
    monkeypatch.setattr("text_gym.viewer.page.MOST_TOKENS", sum(whole) // 2)
    found = tokens(write_run_page(run, tmp_path / "small.html"))
    assert len(found) == len(whole) == 3
    assert 0 < max(found) <= sum(whole) // 2 // 3


def test_sums_that_differ_are_not_called_the_same(
    run: Path, tmp_path: Path, opened: Callable[..., Page]
) -> None:
    other = tmp_path / "run"
    (other / "rollouts").mkdir(parents=True)
    for file in kept_files(run).values():
        (other / "rollouts" / file.name).write_bytes(file.read_bytes())
    lines = [{**row, "kl": row["kl"] * 1.01} for row in rows_of(run).values()]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    page = opened(write_run_page(other))
    found = sums(page)
    assert [name for name, (_, _, remark) in found.items() if remark != "✓ the same"] == ["kl"]
    assert "add up" not in (page.locator("#in-short").text_content() or "")


def test_the_slider_the_colours_and_the_siblings(run: Path, opened: Callable[..., Page]) -> None:
    page = opened(run / "view.html")
    assert page.evaluate("[0, 0.5, -0.00012].map((x) => written(x))") == ["0", "0.5", "−1.20e−4"]
    kept = [read_iteration(file) for file in kept_files(run).values()]
    for place in (2, 0):
        slide(page, place)
        assert page.locator(".group").count() == 4
        assert page.locator(".group .siblings").first.locator(".episode").count() == 4
        texts = page.locator(".tokens").all_text_contents()
        assert texts == ["".join(t or "·" for t in e["tokens"]) for e in kept[place].episodes]
    names = page.locator("#colour option").evaluate_all("all => all.map((o) => o.value)")
    assert names == ["advantage", "kl", "ratio", "entropy", "log_prob", "reward"]
    for name, neutral in (("advantage", 0), ("kl", 0), ("ratio", 1), ("reward", 0)):
        page.select_option("#colour", name)
        classes = page.locator(".token").evaluate_all("all => all.map((t) => [...t.classList].at(-1))")
        values = [x for e in kept[0].episodes for x in e["numbers"][name]]
        wanted = ["token" if x in (None, neutral) else "up" if x > neutral else "down" for x in values]
        assert classes == wanted


def test_filters_and_order(run: Path, opened: Callable[..., Page]) -> None:
    page = opened(run / "view.html")
    episodes = read_iteration(list(kept_files(run).values())[-1]).episodes

    def shown() -> list[str]:
        return [re.sub("·", "", text) for text in page.locator(".tokens").all_text_contents()]

    def texts(keep: Callable[[Any], bool]) -> list[str]:
        return ["".join(e["tokens"]) for e in episodes if keep(e)]

    cut = texts(lambda e: e["finish_reason"] == "length")
    assert 0 < len(cut) < 16
    page.select_option("#ended", "cut")
    assert shown() == cut
    page.select_option("#ended", "unpaid")
    assert shown() == cut  # under limit="truncate"
    page.select_option("#ended", "whole")
    assert shown() == texts(lambda e: e["finish_reason"] != "length")
    page.get_by_role("button", name="reset").click()
    assert len(shown()) == 16
    page.locator("#reward-from").fill("0.05")
    page.locator("#reward-to").fill("1")
    assert shown() == texts(lambda e: e["reward"] is not None and 0.05 <= e["reward"] <= 1)
    page.get_by_role("button", name="reset").click()
    page.locator("#length-to").fill("3")
    assert shown() == texts(lambda e: len(e["tokens"]) <= 3)
    assert page.locator("#count").text_content() == f"{len(shown())} of 16 episodes"
    page.get_by_role("button", name="reset").click()
    page.select_option("#order", "reward-down")
    order = [int(re.findall(r"\d+", t)[0]) - 1 for t in page.locator(".group h3").all_text_contents()]
    paid = [[e["reward"] for e in episodes[4 * g : 4 * g + 4] if e["reward"] is not None] for g in range(4)]
    means = [np.mean(paid[g]) if paid[g] else -np.inf for g in order]
    assert means == sorted(means, reverse=True)


def test_a_tokens_numbers_by_mouse_and_by_keyboard(run: Path, opened: Callable[..., Page]) -> None:
    page = opened(run / "view.html")
    episodes = read_iteration(list(kept_files(run).values())[-1]).episodes
    panel = page.locator("#token")
    assert panel.is_hidden()

    def told() -> dict[str, str]:
        names, values = (panel.locator(tag).all_text_contents() for tag in ("dt", "dd"))
        return dict(zip(names, values, strict=True))

    def wanted(row: int, i: int) -> dict[str, float | None]:
        numbers = episodes[row]["numbers"]
        shown_as = {"KL": "kl", "log-probability": "log_prob"}
        return {name: numbers[shown_as.get(name, name)][i] for name in told()}

    def check(row: int, i: int) -> None:
        assert (
            f"token {i + 1} of {len(episodes[row]['tokens'])}, id {episodes[row]['completion_ids'][i]}"
            in (panel.locator("small").text_content() or "")
        )
        for name, value in wanted(row, i).items():
            shown = told()[name]
            assert (shown == "–") if value is None else number(shown) == pytest.approx(value, rel=6e-3), name

    row = next(i for i, e in enumerate(episodes) if len(e["tokens"]) > 3)
    page.locator(".tokens").nth(row).locator(".token").nth(2).hover()
    check(row, 2)
    page.locator(".tokens").nth(row).focus()
    check(row, 2)  # stays where the mouse was
    page.keyboard.press("ArrowRight")
    check(row, 3)
    page.keyboard.press("Home")
    check(row, 0)
    page.keyboard.press("ArrowLeft")
    check(row, 0)
    page.keyboard.press("End")
    check(row, len(episodes[row]["tokens"]) - 1)
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    page.keyboard.press("Tab")  # a text is one stop, however many tokens it has
    check(row + 1, 0)


def meaningless(iteration: int, episodes: list[Episode], terms: Any, group_size: int = 1) -> IterationRecord:
    """A record of these episodes with numbers of no meaning."""
    width = max(len(e.completion_ids) for e in episodes)
    rng = np.random.default_rng(iteration)
    names = ("advantage", "kl", "ratio", "value", "entropy", "log_prob", "reward")
    columns = {name: rng.normal(size=(len(episodes), width)).astype(np.float32) for name in names}
    return IterationRecord(iteration, group_size, episodes, rng.normal(size=len(episodes)), terms, columns)


def written(folder: Path, episodes: list[Episode], group_size: int = 1, iterations: int = 1) -> Path:
    """The page of a run with these episodes in each iteration."""
    store = RolloutStore(folder, iterations, iterations)
    for number in range(1, iterations + 1):
        store.write(meaningless(number, episodes, {}, group_size))
    return write_run_page(folder)


def test_turns_of_the_environment_stand_apart(tmp_path: Path, opened: Callable[..., Page]) -> None:
    episode = Episode.of("guess", "abcdef", ByteTokenizer())
    mask = np.array([True, True, False, False, True, True, True])
    spoken = dataclasses.replace(episode, agent_mask=mask)
    page = opened(written(tmp_path, [spoken]))
    (row,) = read_iteration(kept_files(tmp_path)[1]).episodes
    kl = meaningless(1, [spoken], {}).columns["kl"][0]  # one number for each of the agent's tokens
    assert row["numbers"]["kl"] == [pytest.approx(x) for x in kl[:2]] + [None] * 2 + [
        pytest.approx(x) for x in kl[2:5]
    ]
    turns = page.locator(".turn").evaluate_all("all => all.map((t) => [t.className, t.textContent])")
    assert turns == [
        ["turn agent", "agentab"], ["turn environment", "environmentcd"], ["turn agent", "agentef■"],
    ]  # fmt: skip
    assert page.locator(".environment .token.up, .environment .token.down").count() == 0
    page.locator(".environment .token").first.hover()
    assert "written by the environment" in (page.locator("#token").text_content() or "")
    assert page.locator("#token dd").count() == 0
    page.select_option("#colour", "kl")
    assert page.locator(".environment .token.up, .environment .token.down").count() == 0
    assert sums(page)["length"][0] == "5"


def test_turns_have_the_roles_of_a_conversation(tmp_path: Path, opened: Callable[..., Page]) -> None:
    episode = Episode.of("guess", "abcdef", ByteTokenizer())
    mask = np.array([True, True, False, False, False, True, True])
    spoken = dataclasses.replace(episode, agent_mask=mask)
    parts = (("assistant", 2), ("tool", 1), ("user", 2), ("assistant", 2))
    spoken.__dict__["turns"] = tuple(SimpleNamespace(role=role, ids=range(n)) for role, n in parts)
    page = opened(written(tmp_path, [spoken]))
    turns = page.locator(".turn").evaluate_all("all => all.map((t) => [t.className, t.textContent])")
    assert turns == [
        ["turn agent", "agentab"], ["turn environment", "toolc"], ["turn environment", "userde"],
        ["turn agent", "agentf■"],
    ]  # fmt: skip


# Layouts

# Gives each coloured token the deepest colour, as one that is not transparent.
DEEPEST = """() => { for (const token of document.querySelectorAll(".token.up, .token.down")) {
  token.style.setProperty("--s", 1);
  const canvas = document.createElement("canvas");
  const drawing = canvas.getContext("2d");
  for (const e of [token.closest(".episode"), token]) {
    drawing.fillStyle = getComputedStyle(e).backgroundColor;
    drawing.fillRect(0, 0, 1, 1);
  }
  token.style.background = `rgb(${[...drawing.getImageData(0, 0, 1, 1).data].slice(0, 3)})`;
} }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_in_any_light_and_on_a_phone(
    run: Path, scheme: str, width: int, opened: Callable[..., Page]
) -> None:
    page = opened(run / "view.html", width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("summary").click()
    page.locator(".tokens").first.focus()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((e) =>
        !(e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.ariaLabel)).length"""
    )
    assert nameless == 0
    page.evaluate(DEEPEST)
    assert contrast_failures(page) == []


# Hostile texts


def check_payloads(folder: Path, count: int, seed: int, opened: Callable[..., Page], parts: int = 1) -> None:
    texts = [t.encode("utf-8", "replace").decode() for t in payloads(count, seed)]
    (folder / "config.json").write_text(json.dumps({"task": texts[0], "algorithm": texts[1]}))
    store = RolloutStore(folder, parts, parts)
    size = count // parts
    for part in range(parts):
        own = range(part * size, (part + 1) * size)
        episodes = [
            Episode.of(texts[-1 - i] + "</script <!--<script ", texts[i], ByteTokenizer()) for i in own
        ]
        store.write(meaningless(part + 1, episodes, {texts[part]: np.ones(size)}))
    page = opened(write_run_page(folder))
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    made = (
        "document.querySelectorAll('.viewer :is(img, svg, iframe, object, style, a, math, template)').length"
    )
    for part in range(parts):
        slide(page, part)
        while page.locator("#more").is_visible():
            page.locator("#more").click()
        page.locator(".tokens").last.focus()
        page.select_option("#colour", "kl" if part % 2 else "ratio")
        assert page.evaluate("window.executed") is None
        assert page.evaluate(made) == 0
        own = range(part * size, (part + 1) * size)
        plain = [i for i in own if texts[i].isascii() and texts[i].isprintable()]
        assert len(plain) > size / 4
        shown = page.locator(".tokens").all_text_contents()
        assert len(shown) == size
        assert [shown[i - own[0]] for i in plain] == [texts[i] + "■" for i in plain]
    assert (
        page.evaluate("document.querySelectorAll('script').length") == 2 + parts
    )  # data, and the page's own


def test_markup_in_texts_is_text(tmp_path: Path, opened: Callable[..., Page]) -> None:
    check_payloads(tmp_path, 60, 0, opened)


@pytest.mark.nightly
def test_markup_is_never_executed_all_night(
    tmp_path: Path, opened: Callable[..., Page], tried: Callable[..., None]
) -> None:
    check_payloads(tmp_path, 2000, 1, opened, parts=5)
    tried("markup in prompts and texts is text on the page of a run and runs nothing", 2000, "payloads")


@pytest.mark.nightly
def test_two_thousand_episodes_open_within_two_seconds(tmp_path: Path, opened: Callable[..., Page]) -> None:
    text = "Say hello to the Tavo Ace 4, a red steel desk."
    episodes = [Episode.of(f"prompt {i // 4}", text, ByteTokenizer()) for i in range(2000)]
    for iterations, some in ((1, episodes), (20, episodes[:100])):
        folder = tmp_path / str(iterations)
        folder.mkdir()
        started = time.perf_counter()
        page = opened(written(folder, some, 4, iterations).resolve())
        page.wait_for_selector(".token")
        took = page.evaluate("performance.now()")
        whole = time.perf_counter() - started
        print(f"{iterations} iterations: {took / 1000:.2f} s to open, {whole:.1f} s with making the page")
        assert took < 2000


# Refusals


def test_iterations_after_an_alarm_are_marked(tmp_path: Path) -> None:
    episodes = [Episode.of("a", "b", ByteTokenizer())]
    written(tmp_path, episodes, iterations=3)
    rows = [{"iteration": i, "alarm": float(i == 3)} for i in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_run_page(tmp_path).read_text(encoding="utf-8")
    assert "iteration 3, after an alarm" in page
    assert page.count("after an alarm") == 1


def test_a_scale_of_nothing_has_no_sign(run: Path, tmp_path: Path, opened: Callable[..., Page]) -> None:
    page = opened(write_run_page(run, tmp_path / "view.html"))
    shown = page.evaluate('() => { column.advantage.limit = 0; showScale(); return $("scale").textContent; }')
    assert shown == "00"


def test_a_run_without_rollouts_is_told_how_to_keep_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--keep-rollouts"):
        write_run_page(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder"):
        write_run_page(tmp_path / "nowhere")
