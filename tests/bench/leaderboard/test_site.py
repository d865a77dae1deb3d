"""The site loads nothing, runs nothing, and escapes what anybody wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.bench.report.test_report import Tags
from tests.bench_submissions import forged
from text_gym.bench.leaderboard.ranking import judge_submissions, rank_submissions
from text_gym.bench.leaderboard.site import write_site

EVIL = "<script>alert(1)</script>\x1b[31m\u202e"


@pytest.fixture(scope="module")
def site(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("site")
    evil = Path(shutil.copytree(made["hackable"], here / "evil"))
    texts = {"name": EVIL, "author": EVIL, "note": EVIL, "command": EVIL, "versions": {EVIL: EVIL}}
    forged(evil, lambda about: about | texts | {"machine": {"processor": EVIL}}, "submission.json")
    (here / "<b>broken").mkdir()
    accepted, rejected = judge_submissions([made["gold"], evil, here / "<b>broken"])
    (here / "out").mkdir()
    (here / "out/submission-old.html").write_text("an earlier one")
    return write_site(rank_submissions(accepted), rejected, here / "out")


def test_ranks_intervals_and_reasons_are_shown(site: Path) -> None:
    page = Tags(site.read_text())
    board = json.loads((site.parent / "leaderboard.json").read_text())
    assert [(e["rank"], e["tied"]) for e in board["ranked"]] == [(1, 0), (2, 0)]
    for entry in board["ranked"]:
        low, high = entry["gold"]["ci95"]
        assert f"{entry['gold']['value']:.3f} [{low:.3f}, {high:.3f}]" in page.plain
        assert entry["answer"] in page.plain
    assert "has no manifest.json" in page.plain


def test_every_page_is_inert_and_every_link_leads_to_a_page(site: Path) -> None:
    pages = {f.name for f in site.parent.glob("*.html")}
    assert len(pages) == 3  # the earlier submission's is gone
    for name in pages:
        text = (site.parent / name).read_text()
        page = Tags(text)
        assert not {"script", "link", "img", "iframe", "object", "b2"} & {tag for tag, _ in page.found}
        assert "default-src 'none'" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        links = {a["href"] for tag, a in page.found if tag == "a"}
        assert links <= pages
    evil = [
        Tags((site.parent / n).read_text()).text.count("<script>alert(1)</script>") for n in sorted(pages)
    ]
    assert sorted(evil)[-1] >= 6  # name, author, note, command, versions, the reward's source: as texts
