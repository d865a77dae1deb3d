"""Slides of the labs: Markdown in `decks`, with the labs' own figures, made into HTML and PDF.

Pandoc makes one HTML file of each deck, which needs no network: figures and style are in it, and formulas are
MathML. A Chromium, if there is one, prints it as a PDF.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from course.labs import COURSE

DECKS = COURSE / "instructor" / "decks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
_FIGURE = re.compile(r"\(figures/(\w+)\.svg\)")
_FUNCTION = re.compile(
    r'(<mi mathvariant="normal">(?:log|max|min|arcsin)</mi>)(<mo>\u2061</mo>)?'
    r"((?:</?mrow>)*)(<mo[^>]*>[(\[])?"
)
# A student's script, with its figures as drawings that can be enlarged.
_DRAW = (
    "import runpy, sys; sys.path.insert(0, '..'); import figures; "
    "figures.ENDING = 'svg'; runpy.run_path('pictures.py')"
)


def figures_of(deck: str) -> set[str]:
    """Name the figures that a deck shows."""
    return set(_FIGURE.findall(deck))


def find_pandoc() -> str:
    """Find pandoc on the path or in the package pypandoc_binary.

    Raises:
        SystemExit: It is in neither.
    """
    if found := shutil.which("pandoc"):
        return found
    try:
        import pypandoc  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return str(pypandoc.get_pandoc_path())
    except (ImportError, OSError) as error:
        raise SystemExit("slides are made by pandoc: pip install pypandoc_binary") from error


def find_browser() -> str | None:
    """Find a Chromium on the path, to print with; None if there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def draw(folder: Path) -> None:
    """Run a solved lab's script of pictures, as a student would; `figures/` in its folder gets SVGs."""
    _run([sys.executable, "-c", _DRAW], folder, f"pictures.py of {folder.name}")


def write_deck(pandoc: str, deck: Path, folder: Path, page: Path) -> None:
    """Make one HTML file of a deck.

    Args:
        pandoc: The program.
        deck: Markdown; a heading of the first level begins a slide.
        folder: Where `figures/` is.
        page: The file to write.
    """
    command = [pandoc, str(deck.resolve()), "--to", "dzslides", "--slide-level", "1", "--standalone"]
    command += ["--mathml", "--embed-resources", "--css", str(deck.with_name("style.css").resolve())]
    _run([*command, "--output", str(page)], folder, f"pandoc, on {deck.name},")
    page.write_text(spaced(page.read_text(encoding="utf-8")), encoding="utf-8")


def spaced(html: str) -> str:
    """Put a thin space after the names of functions in formulas, where no bracket follows them.

    TeX does so, and browsers do not.
    """

    def space(found: re.Match[str]) -> str:
        name, applied, rows, bracket = found.groups(default="")
        return name + applied + ("" if bracket else '<mspace width="0.17em"></mspace>') + rows + bracket

    return _FUNCTION.sub(space, html)


def print_page(browser: str, page: Path, pdf: Path) -> None:
    """Print an HTML file as PDF."""
    with tempfile.TemporaryDirectory(prefix="text-gym-browser-") as profile:
        options = ["--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium refuses its sandbox to root
            options.append("--no-sandbox")
        _run(
            [browser, *options, f"--user-data-dir={profile}", f"--print-to-pdf={pdf}", page.as_uri()],
            page.parent,
            f"{browser}, printing {page.name},",
        )


def _run(command: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    if done.returncode != 0:
        raise SystemExit(f"{what} failed:\n{done.stderr.strip()[-2000:]}")
