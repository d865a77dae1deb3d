"""The Python in README.md and docs/ runs, tables of figures are the code's or of results, the site builds."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urljoin, urlsplit

import gymnasium as gym
import pytest

from text_gym import Episode, TextEnv, load_task
from text_gym.bench import Settings
from text_gym.bench.matrix.designs import load_design
from text_gym.bench.matrix.start import DesignInputs
from text_gym.tasks.task import ENV_IDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python(?: title=\S+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> list[tuple[int, str]]:
    """Line number and text of every Python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in code_of(page):
        # Blank lines in front make a traceback name the page's own lines.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_blocks_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code = '```python\nx = 1\n\ny = 2\n```\n```sh\nls\n```\n```python title="z.py"\nz = 3\n```\n'
    page.write_text(f"# A\n\n{code}")
    assert code_of(page) == [(3, "x = 1\n\ny = 2\n"), (11, "z = 3\n")]
    assert all(code_of(p) for p in PAGES if p.name in ("README.md", "bring-your-own-algorithm.md"))


def test_pages_link_to_files_that_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([\w./-]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# docs/glossary.md


def test_every_term_of_the_glossary_is_linked_from_another_page() -> None:
    glossary = ROOT / "docs" / "glossary.md"
    terms = re.findall(r"^## (.+)$", glossary.read_text(encoding="utf-8"), re.MULTILINE)
    assert terms == sorted(terms, key=lambda term: term.lower().replace("–", "-"))
    anchors = {re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-") for term in terms}
    others = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page != glossary)
    linked = set(re.findall(r"glossary\.md#([\w-]+)", others))
    assert anchors - linked == set(), "explained, and linked from nowhere"
    assert linked - anchors == set(), "linked, and not explained"


# docs/how-fast.md


def test_the_tables_of_speeds_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "how-fast.md").read_text(encoding="utf-8")
    assert script("make").speed_page(text) == text, "run python docs/make.py"
    assert text.count("<!-- table") == text.count("| --- |\n") == 8


# docs/your-library.md


def test_the_table_of_libraries_is_that_of_the_rows() -> None:
    text = (ROOT / "docs" / "your-library.md").read_text(encoding="utf-8")
    assert script("make").library_page(text) == text, "run python docs/make.py"


def test_the_numbers_for_trust_are_those_that_were_found() -> None:
    text = (ROOT / "docs" / "how-it-is-tested.md").read_text(encoding="utf-8")
    for page in (script("make").trust_page, script("make").mutants_page):
        assert page(text) == text, "run python docs/make.py"
    rows = json.loads((ROOT / "benchmarks/results/trust.json").read_text(encoding="utf-8"))
    for test, row in rows.items():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
        assert row["failed"] == 0, test


# docs/sentiment.md


def test_the_tables_of_the_sentiment_page_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "sentiment.md").read_text(encoding="utf-8")
    assert script("make").sentiment_page(text) == text, "run python docs/make.py"
    assert text.count("| --- |\n") == 3


# docs/course.md, docs/course/graded.md


def test_the_table_of_what_the_gold_of_e2e_says_is_that_of_the_results() -> None:
    text = (ROOT / "docs" / "benchmark-rewards.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "benchmarks/results/e2e_gold.json").read_text(encoding="utf-8"))
    assert f"the {found['texts']} held-out descriptions" in text
    rows = {row["kind"]: row for row in found["rows"]}
    shown = {"human, of another restaurant": "human, of another representation"}
    shown["a list of the values, with commas"] = "list of the values"
    for line in ("human", *shown, "first half of the words", "said twice", "every second word"):
        row = rows[shown.get(line, line)]
        assert f"| {line} | {row['gold']:.3f} | {row['accuracy']:.3f} | {row['fluency']:.3f} |" in text
    both = json.loads((ROOT / "benchmarks/results/rewards-both.json").read_text(encoding="utf-8"))["counts"]
    products = {"on products only": "on A only", "on E2E only": "on B only"}
    for word in ("on both", "opposite", *products, "cannot be told"):
        assert f"| {word} | {both[products.get(word, word)]}: " in text
    for kind in ("words in random order", "the prompt itself", "empty"):
        assert f"{rows[kind]['gold']:.3f}" == "0.000"


def test_the_table_of_the_labs_times_is_that_of_the_results() -> None:
    text = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    assert script("make").course_page(text) == text, "run python docs/make.py"
    assert all(f"| {n} " in text for n in range(1, 9))


def test_the_course_is_graded_from_nothing_in_order() -> None:
    hour = script("first_hour")
    found = list(hour.steps((ROOT / "docs" / "course" / "graded.md").read_text(encoding="utf-8")))
    assert {step.kind for step in found} == {"command"}
    commands = " ".join(step.what for step in found)
    places = [
        commands.find(part)
        for part in ("--student", "pytest", "cp course/lab2", "--junitxml", "course.grade")
    ]
    assert places == sorted(places)
    assert places[0] >= 0


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="grading needs the sandbox")
@pytest.mark.timeout(1800)
def test_the_course_can_be_graded_from_nothing(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "docs" / "first_hour.py"), "--folder", str(tmp_path / "graded")]
    page = str(ROOT / "docs" / "course" / "graded.md")
    done = subprocess.run([*program, "--page", page], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


# docs/first-hour.md


def test_the_replay_finds_what_a_page_says_and_a_command_does_not() -> None:
    hour = script("first_hour")
    assert doctest.testmod(hour).failed == 0
    step = hour.Step("command", "train", "gold 0.71 … 0.99\n…\n  after (gold 1.00): any text\nsaved in out\n")
    assert step.missing("…\ngold 0.7 (start)  0.98\n  after (gold 0.9): another\nsaved in out") is None
    assert step.missing("gold 0.7 then 0.98\n  after (gold 0.9): another") == "saved in out"
    assert (
        step.missing("saved in out\ngold 0.7 then 0.98\n  after (gold 0.9): x") == "saved in out"
    )  # the order
    assert step.missing("silver 0.7\nsaved in out") == "gold 0.71 … 0.99"


def test_the_first_hour_has_its_steps_in_order() -> None:
    hour = script("first_hour")
    found = list(hour.steps((ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")))
    files = {step.what for step in found if step.kind == "file"}
    commands = [step.what for step in found if step.kind == "command"]
    assert files == {"exclaims.py", "places.py"}
    words = [command.split()[:2] for command in commands if command.startswith("text-gym")]
    assert [word for _, word in words] == ["train", "train", "sft", "train", "rlhf"]


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_first_hour_can_be_replayed(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "docs" / "first_hour.py"), "--folder", str(tmp_path / "hour")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


# mkdocs.yml


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("material", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    return subprocess.run(
        [*program, "--site-dir", str(site)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.timeout(1200)
def test_the_site_needs_no_network(site: Path) -> None:
    pages = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*", page)
        assert loaded == [], name
        assert "arithmatex" not in page, f"{name} has a formula that is not MathML"
    assert "<math" in pages["concepts/kl/index.html"]
    for package, file in script("make").API.items():
        module = importlib.import_module(package)
        page = pages[f"{file.removesuffix('.md')}/index.html"]
        assert [n for n in module.__all__ if f'id="{package}.{n}"' not in page] == []


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value is not None:
                self.links.append(value)


def links_into_nothing(folder: Path) -> list[str]:
    """Every link of the pages in a folder that leads to no file of it, or to no anchor of a page."""
    files = {f"/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*") if file.is_file()}
    pages = {name: Page(file) for name, file in files.items() if name.endswith(".html")}
    found = []
    for name, page in pages.items():
        for link in page.links:
            to = urlsplit(urljoin(name, link))
            if to.scheme or to.netloc:
                continue
            path = unquote(to.path) + ("index.html" if to.path.endswith("/") else "")
            target = pages.get(path)
            anchor = unquote(to.fragment)
            if path not in files or (anchor and (target is None or anchor not in target.anchors)):
                found.append(f"{name}: {link}")
    return found


def test_links_into_nothing_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/#x">1</a><a href="a/#y">2</a><img src="b.png"><a href="#z">3</a><a href="https://b">4</a>'
    )
    (tmp_path / "a" / "index.html").write_text('<h2 id="x">X</h2><a href="..">5</a><a href="../c/">6</a>')
    assert links_into_nothing(tmp_path) == [
        "/index.html: a/#y",
        "/index.html: b.png",
        "/index.html: #z",
        "/a/index.html: ../c/",
    ]


@pytest.mark.timeout(1200)
def test_every_link_and_anchor_of_the_site_resolves(site: Path) -> None:
    assert links_into_nothing(site) == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the built site is served, on this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(1200)
def test_search_finds_what_is_searched_without_a_network(address: str) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=flags).new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        box, found = page.get_by_role("textbox", name="Search"), page.locator(".md-search-result__link").first
        for _ in range(20):  # what is typed before the page listens is lost
            box.fill("")
            box.press_sequentially("telescopes")
            with suppress(api.TimeoutError):
                found.wait_for(timeout=3_000)
                break
        found.click()
        page.wait_for_url("**/concepts/gae/**")
        assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


@pytest.mark.parametrize("fault", ["[a](other.md)", "[a](index.md#nowhere)", "![a](none.png)"])
def test_a_strict_build_fails_at_a_link_into_nothing(fault: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nnav: [index.md]\nhooks: []\n")
    (tmp_path / "docs" / "site.css").touch()
    (tmp_path / "docs" / "index.md").write_text("# A page\n\n[itself](index.md#a-page)\n")
    assert build(config, tmp_path / "site").returncode == 0
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n{fault}\n")
    assert build(config, tmp_path / "site").returncode != 0


# docs/benchmark-rewards.md


def test_the_own_reward_of_the_page_is_a_design_as_it_stands(tmp_path: Path) -> None:
    (_, code), *_ = code_of(ROOT / "docs" / "benchmark-rewards.md")
    file = tmp_path / "warm.py"
    file.write_text(code, encoding="utf-8")
    assert len([line for line in code.splitlines() if line]) <= 10
    design = load_design(str(file))
    assert design.name == "warm"
    prompt = load_task("products").held_out[0]
    texts = [f"You and your {prompt.columns['price']}.", "The best."]
    source = design.make(DesignInputs(Settings(), tmp_path), 0)
    assert source(
        [Episode.of(prompt, t, load_task("products").tokenizer) for t in texts]
    ).totals.tolist() == [2, -1]


# docs/classic-tasks.md

TABLE_ROW = re.compile(r"^\| `(text_gym/[\w-]+)` \|(.*)\|$", re.MULTILINE)


def classic_table() -> dict[str, list[str]]:
    pages = ("classic-tasks.md", "conversations.md")
    text = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in pages)
    return {found[1]: [cell.strip() for cell in found[2].split("|")] for found in TABLE_ROW.finditer(text)}


def test_the_table_has_every_task_whose_random_return_is_known() -> None:
    known = []
    for env_id in ENV_IDS:
        env = gym.make(env_id).unwrapped
        assert isinstance(env, TextEnv)
        assert env.vector.task is not None
        if env.vector.task.random_return is not None:
            known.append(env_id)
    assert sorted(classic_table()) == sorted(known)


@pytest.mark.parametrize("env_id", classic_table())
def test_the_figures_of_the_table_are_those_of_the_code(env_id: str) -> None:
    state, action, reward, optimum, random_return = classic_table()[env_id]
    env = gym.make(env_id).unwrapped
    assert isinstance(env, TextEnv)
    task = env.vector.task
    assert task is not None
    assert task.random_return is not None
    assert state
    assert reward
    assert action.endswith(f"V = {task.tokenizer.vocab_size}")
    assert float(optimum) == pytest.approx(task.optimum, abs=5e-5)
    assert random_return == f"{task.random_return:.4f}"
