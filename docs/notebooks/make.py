"""Make the notebooks of the docs from their scripts, and the site's pages from what they put out.

python docs/notebooks/make.py ipynb      writes build/notebooks/*.ipynb, without outputs
python -m pytest -o addopts= --nbmake --overwrite build/notebooks      runs them and keeps their outputs
python docs/notebooks/make.py pages      writes docs/notebooks/*.md and build/notebooks/*.html

The scripts are the sources (jupytext, percent format). It needs the extra `notebook`.
"""

from __future__ import annotations

import argparse
import html
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "build" / "notebooks"
SCRIPTS = sorted(set(HERE.glob("*.py")) - {Path(__file__).resolve()})
HEAD = "<!-- Made by docs/notebooks/make.py from {name}; the numbers are those of one run. -->\n"
REPOSITORY = "https://github.com/OWNER/text-gym/blob/main/docs/"


def write_notebooks(folder: Path = BUILT) -> list[Path]:
    """Write a notebook without outputs for every script, and return their files."""
    import jupytext

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for script in SCRIPTS:
        files.append(folder / f"{script.stem}.ipynb")
        notebook = jupytext.read(script)
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # random ids would make another file each time
        jupytext.write(notebook, files[-1])
    return files


def write_pages(folder: Path = BUILT) -> list[Path]:
    """Write a page of the site and an HTML file for every notebook that was run, and return the pages."""
    import nbformat
    from nbconvert import HTMLExporter

    pages = []
    for script in SCRIPTS:
        notebook = nbformat.read(folder / f"{script.stem}.ipynb", as_version=4)
        whole, _ = HTMLExporter().from_notebook_node(notebook)
        (folder / f"{script.stem}.html").write_text(whole, encoding="utf-8")
        pages.append(HERE / f"{script.stem.replace('_', '-')}.md")
        pages[-1].write_text(page(notebook.cells, script.name), encoding="utf-8")
    return pages


def page(cells: list[Any], name: str) -> str:
    """Return the page of a notebook: its prose, its code, and below each piece what it put out."""
    parts = [HEAD.format(name=name)]
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(_local(cell.source))
        else:
            parts.append(f"```py\n{cell.source}\n```")
            printed = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
            parts += [_printed(printed)] if printed else []
            parts += [_output(output) for output in cell.outputs if output.output_type != "stream"]
    return "\n\n".join(parts) + "\n"


def _local(markdown: str) -> str:
    """Turn links to the docs in the repository, which a notebook needs, into those between pages."""
    return markdown.replace(REPOSITORY, "../")


def _output(output: Any) -> str:
    """Return what a cell displayed as one line of HTML, in which Markdown finds nothing of its own."""
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return '<p class="output soft">(Here the widget asks its questions.)</p>'
    if "text/html" in data:
        return f'<div class="output">{_one_line("".join(data["text/html"]))}</div>'
    return _printed("".join(data.get("text/plain", "")))


def _printed(text: str) -> str:
    return f'<pre class="output">{_one_line(html.escape(text))}</pre>'


def _one_line(markup: str) -> str:
    """Write line feeds of texts as character references; those of pictures and styles mean nothing."""
    return re.sub(r"(<(?P<tag>style|svg)\b.*?</(?P=tag)>)|\n", _line_feed, markup, flags=re.DOTALL)


def _line_feed(found: re.Match[str]) -> str:
    return found[1].replace("\n", " ") if found[1] else "&#10;"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ipynb", "pages"])
    made = write_notebooks() if parser.parse_args().what == "ipynb" else write_pages()
    print(*made, sep="\n")
