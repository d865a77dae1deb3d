from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bench_folder import DESIGNS, write_benchmark
from tests.figure_tools import figures_as_data
from text_gym.bench.report.report import write_report
from text_gym.errors import ConfigError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e</p>$\\frac$"
FEW = ["gold", "keywords", "pairs-128"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tags(html.parser.HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.plain = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_benchmark(tmp_path_factory.mktemp("bench"))
    (made / "rollouts").mkdir()  # of one run, which is not the worst of its setting
    (made / "rollouts" / f"{sorted((made / 'cells').iterdir())[0].stem}.html").touch()
    write_report(made)
    return made


def test_the_page_has_the_numbers(folder: Path) -> None:
    page = Tags((folder / "report.html").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    best = summary["designs"][0]["budgets"]["5"]["gold"]
    low, high = best["ci95"]
    for shown in (
        f"{best['value']:.2f} [{low:.2f}, {high:.2f}]",
        "9 reward designs",
        "189 runs",
        "with probability 75 %, not 95 %",
        "Are “pairs-128”, “clean-512” over-optimised when each is optimised at β = 0?",
        "text-gym bench rewards --budget small",
        "a processor",
        "never ends: 20 % of the texts end by themselves",
    ):
        assert shown in page.plain, shown
    for design in DESIGNS:
        assert page.plain.count(design) > 3
    assert not re.search(r"\bnan\b", page.plain)


def test_pages_of_kept_rollouts_are_linked(folder: Path) -> None:
    links = [
        attrs.get("href") or ""
        for tag, attrs in Tags((folder / "report.html").read_text()).found
        if tag == "a"
    ]
    pages = [f"rollouts/{file.name}" for file in (folder / "rollouts").iterdir()]
    assert [link for link in links if not link.startswith("#")] == pages


def test_files_beside_the_page(folder: Path) -> None:
    names = {f.name for f in (folder / "figures").iterdir()}
    assert names == {
        f"{n}.png" for n in ("ranking", "frontier", "ends", "best_of_n", "length", "accuracy", "null_rulers")
    }


def test_nothing_from_outside_and_only_the_known_script(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Tags(text)
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 1
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(tags)
    for _, attributes in page.found:
        assert not {"src", "onclick", "onload"} & set(attributes)
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert target.startswith(("#", "rollouts/"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in page.found if tag == "meta" and "http-equiv" in a]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_ids_are_unique(folder: Path) -> None:
    ids = [a["id"] for _, a in Tags((folder / "report.html").read_text()).found if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    files = ("report.html", "summary.json", "figures/ranking.png", "figures/frontier.png")
    made = []
    for name in ("a", "b"):
        here = write_benchmark(tmp_path / name, FEW[:1], ["ppo"], [0.0, 0.3], [0, 1])
        write_report(here)
        made.append([(here / f).read_bytes() for f in files])
    assert made[0] == made[1]


def test_what_models_and_users_wrote_is_escaped(tmp_path: Path) -> None:
    here = write_benchmark(tmp_path, FEW, ["ppo"], [0.0], [0, 1], text=HOSTILE)
    text = write_report(here).read_text()
    page = Tags(text)
    assert [tag for tag, _ in page.found].count("script") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert page.text.count("<script>alert(1)</script>") >= 10


@pytest.mark.parametrize(
    ("optimisers", "seeds"), [(["ppo"], [0]), (["best_of_n"], [0, 1]), (["ppo", "best_of_n"], [0])]
)
def test_a_matrix_that_is_not_finished(tmp_path: Path, optimisers: list[str], seeds: list[int]) -> None:
    here = write_benchmark(tmp_path, FEW, optimisers, [0.0], seeds)
    page = Tags(write_report(here).read_text())
    assert f"{3 * len(optimisers) * len(seeds)} runs" in page.plain
    assert ("A single run has no interval" in page.plain) == (len(seeds) == 1)
    assert not re.search(r"\bnan\b", page.plain)


def test_a_design_without_finished_runs_is_shown_as_having_none(tmp_path: Path) -> None:
    here = write_benchmark(tmp_path, FEW, ["ppo"], [0.0], [0, 1])
    gone = FEW[-1]
    for file in (here / "cells").iterdir():
        if json.loads(file.read_text())["row"]["design"] == gone:
            file.unlink()
    text = write_report(here).read_text()
    (row,) = [row for row in text.split("<tr") if "no run has finished" in row]
    assert f">{gone}</td>" in row
    assert row.count("<td") == 13


def test_columns_that_older_rows_lack(tmp_path: Path) -> None:
    here = write_benchmark(tmp_path, FEW, ["ppo"], [0.0], [0, 1])
    for file in (here / "cells").iterdir():
        cell = json.loads(file.read_text())
        names = ("gold", "design", "task", "optimiser", "kl_coefficient", "seed")
        file.write_text(json.dumps({"row": {n: cell["row"][n] for n in names}, "curve": cell["curve"]}))
    assert not re.search(r"\bnan\b", Tags(write_report(here).read_text()).plain)


@pytest.fixture(scope="module")
def yours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    optimisers = ["best_of_n", "ppo", "grpo", "rloo"]
    made = write_benchmark(
        tmp_path_factory.mktemp("yours"), ["gold", "keywords", "hackable", "fine", "unstable"], optimisers
    )
    with figures_as_data():
        write_report(made)
    return made


def test_your_designs_are_judged_first(yours: Path) -> None:
    page = Tags((yours / "report.html").read_text())
    (answer, *_) = re.findall(r'<span class="verdict">([^<]*)</span>', (yours / "report.html").read_text())
    assert answer == "Hacked."
    order = [page.plain.index(f"Does “{d}” hold") for d in ("hackable", "fine", "unstable")]
    assert order == sorted(order)
    assert order[-1] < page.plain.index("Each design of the suite")
    texts = page.plain[page.plain.index("Texts, and what went wrong") :]
    assert texts.index("hackable, ") < texts.index("keywords, ")
    findings = json.loads((yours / "summary.json").read_text())["findings"]
    assert [f["design"] for f in findings[:6]] == ["hackable"] * 6
    assert {"answer", "alarm", "p", "p_holm"} <= set(findings[0])


def test_failures_stand_beside_the_interquartile_mean(yours: Path) -> None:
    page = Tags((yours / "report.html").read_text())
    summary = json.loads((yours / "summary.json").read_text())
    end = next(d for d in summary["designs"] if d["name"] == "unstable")["at_least"]["gold"]
    assert end["value"] > 0.95  # of nine runs the two that failed are left out
    assert end["mean"] == pytest.approx((7 * 0.985 + 0.41 + 0.44) / 9, abs=0.02)
    assert end["worst"] == pytest.approx(0.41, abs=0.011)
    assert (end["below_start"], end["n"], end["seeds"]) == (2, 9, 3)
    assert "Unstable: 2 of 9 runs failed." in page.plain
    assert page.plain.count("2 of 9") >= 3
    text = (yours / "report.html").read_text()
    assert re.search(
        rf">{end['worst']:.2f}</td><td[^>]*><span class=\"failed\">2 of 9<", text
    )  # in the table
    assert "answers rest on 95 % intervals" in page.plain


def test_the_fits_and_the_ends_are_told_apart(yours: Path) -> None:
    page = Tags((yours / "report.html").read_text())
    fits = page.plain[page.plain.index("The frontier") : page.plain.index("The end of runs")]
    assert "d (α − β log d)" in fits
    assert "reinforcement learning" in fits
    ends = page.plain[page.plain.index("The end of runs") :]
    assert "gold at the end" in ends
    assert "Does a KL penalty move the frontier" in page.plain
    assert "spend more KL than best-of-n" in page.plain


def test_at_most_four_prompts_are_shown_unless_another_has_a_symptom(tmp_path: Path) -> None:
    here = write_benchmark(tmp_path, ["fine"], ["ppo"], [0.0], [0])
    (file,) = (here / "cells").iterdir()
    cell = json.loads(file.read_text())
    sample = cell["samples"][0]
    cell["samples"] = [sample | {"prompt": f"prompt number {i}"} for i in range(8)]
    file.write_text(json.dumps(cell))
    with figures_as_data():
        page = Tags(write_report(here).read_text()).plain
    assert [f"number {i}" in page for i in range(8)] == [True] * 4 + [False] * 4
    odd = sample | {
        "prompt": "prompt number 6",
        "texts": [dict(t, text="so so so so so so") for t in sample["texts"]],
    }
    cell["samples"][6] = odd
    file.write_text(json.dumps(cell))
    with figures_as_data():
        page = Tags(write_report(here).read_text()).plain
    assert [f"number {i}" in page for i in range(8)] == [True] * 4 + [False, False, True, False]


def test_agents(tmp_path: Path) -> None:
    here = write_benchmark(
        tmp_path, ["gold"], ["ppo", "grpo", "rloo"][:2], [0.05], tasks=["copy", "sort"], what="agents"
    )
    page = Tags(write_report(here).read_text())
    assert "Algorithms on 2 tasks" in page.plain
    assert "copy: is PPO, first by mean gold, better than GRPO, the next?" in page.plain
    assert "Probability that a run" in page.plain


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_report(tmp_path)


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def test_sorting_and_filtering(chromium: Browser, folder: Path) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    table = page.locator("table.sortable").first

    def column(n: int) -> list[str]:
        return [
            t.split()[0].replace("−", "-")
            for t in table.locator(f"tbody tr td:nth-child({n})").all_inner_texts()
        ]

    assert column(2) == [str(i) for i in range(1, 10)]
    table.get_by_role("button", name="over-optimisation").click()
    over = [float(v) for v in column(10)]
    assert over == sorted(over, reverse=True)
    table.get_by_role("button", name="over-optimisation").click()
    assert [float(v) for v in column(10)] == sorted(over)
    table.get_by_role("button", name="design").click()
    assert column(1) == sorted(column(1))
    page.get_by_text("Every setting").click()
    page.get_by_label("filter").fill("grpo keywords")
    shown = page.locator("#all tbody tr:visible").all_inner_texts()
    assert len(shown) == 3  # coefficients
    assert all("keywords" in t and "GRPO" in t for t in shown)
    assert errors == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_without_the_script(
    chromium: Browser, folder: Path, scheme: str
) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 800},
        java_script_enabled=False,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator("input.filter").is_hidden()  # it could do nothing
    assert page.locator("h1").is_visible()
    context.close()
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_long_names_of_settings_leave_room_for_their_values_on_a_phone(
    chromium: Browser, tmp_path: Path
) -> None:
    here = write_benchmark(tmp_path, ["gold"], ["rloo"], [0.0])
    config = json.loads((here / "config.json").read_text())
    config["contents"] = {"products": {"tokens of an episode, at most": 64, "held-out prompts": "a" * 64}}
    (here / "config.json").write_text(json.dumps(config))
    write_report(here)
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto((here / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    widths = page.locator("#settings ~ dl dd").evaluate_all("all => all.map((one) => one.clientWidth)")
    assert len(widths) > 5
    assert min(widths) > 150
    page.close()
