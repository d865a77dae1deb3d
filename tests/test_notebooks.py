"""The notebooks of docs/: pages have their scripts' code, and outputs are HTML that Markdown leaves alone."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*_*.py"))
CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(script: Path) -> list[tuple[bool, str]]:
    """Whether each cell is prose, and its source."""
    _, *parts = CELL.split(script.read_text(encoding="utf-8"))
    prose = [mark is not None for mark in parts[::2]]
    return list(zip(prose, (source.strip() for source in parts[1::2]), strict=True))


class Output(dict[str, str]):
    """An output of a notebook: its parts are attributes and items."""

    __getattr__ = dict.__getitem__


def test_there_are_two_notebooks() -> None:
    assert [script.stem for script in SCRIPTS] == ["first_hour", "look_inside"]
    assert maker().SCRIPTS == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_page_has_the_code_of_its_script(script: Path) -> None:
    page = (FOLDER / f"{script.stem.replace('_', '-')}.md").read_text(encoding="utf-8")
    written = re.findall(r"^```py\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    assert written == [source for prose, source in cells(script) if not prose], "run docs/notebooks/make.py"
    for prose, source in cells(script):
        if prose:
            heading = source.splitlines()[0].removeprefix("# ")
            assert heading in page, "run docs/notebooks/make.py"
    assert "Traceback" not in page
    assert page.count('class="output') >= 8


def test_a_notebook_is_the_same_file_each_time(tmp_path: Path) -> None:
    pytest.importorskip("jupytext", reason="jupytext is not installed")
    made = [maker().write_notebooks(tmp_path / name) for name in ("one", "two")]
    assert [f.read_bytes() for f in made[0]] == [f.read_bytes() for f in made[1]]


def output(**data: Any) -> Any:
    return SimpleNamespace(output_type="display_data", get=lambda name, default: data)


def test_outputs_are_one_line_of_html_each() -> None:
    make = maker()
    shown = make._output(output(**{"text/html": '<p title="x\ny">a\n\nb</p><svg\nwidth="1">\n</svg>'}))
    assert shown == '<div class="output"><p title="x&#10;y">a&#10;&#10;b</p><svg width="1"> </svg></div>'
    assert make._output(output(**{"text/plain": "<a>"})) == '<pre class="output">&lt;a&gt;</pre>'


def test_what_is_printed_stands_together_and_what_went_to_the_log_is_left_out() -> None:
    def stream(name: str, text: str) -> dict[str, str]:
        return Output(output_type="stream", name=name, text=text)

    printed = [stream("stdout", "a <b>\n\n"), stream("stderr", "a warning"), stream("stdout", "  c\n")]
    cell = SimpleNamespace(cell_type="code", source="x", outputs=printed)
    page = maker().page([cell], "x.py")
    assert page.endswith('\n```py\nx\n```\n\n<pre class="output">a &lt;b&gt;&#10;&#10;  c&#10;</pre>\n')
    assert "warning" not in page
