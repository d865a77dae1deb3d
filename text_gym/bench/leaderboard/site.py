"""Writes the leaderboard as a static site: `index.html`, a page for each submission, and `leaderboard.json`.

No network, no script; texts of submissions are anybody's, and are escaped. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_gym.bench.analysis.results import Results, optimiser_name
from text_gym.bench.analysis.runs import by_seed, falls, mean_of
from text_gym.bench.analysis.statistics import aggregate, mean, mean_of_strata
from text_gym.pages.page import render_page
from text_gym.plot.canvas import to_svg
from text_gym.plot.estimates import intervals
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_atomic

from .checking import Submission
from .ranking import Ranked, Rejected
from .submission import REWARD

_HERE = Path(__file__).parent
_SHOWN_FILE = 20_000  # characters of a reward's source that its page shows
_DRAWN = 40  # submissions in the figure


def write_site(ranked: Sequence[Ranked], rejected: Sequence[Rejected], out: str | Path) -> Path:
    """Write the site; pages of earlier submissions are removed.

    Args:
        ranked: From `rank_submissions`, one at least.
        rejected: Folders without a place.
        out: Folder; made if need be.

    Returns:
        The path of `index.html`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("submission-*.html"):
        old.unlink()
    for entry in ranked:
        write_atomic(out / entry.submission.page, _page(entry))
    first = ranked[0].submission
    values = {
        "ranked": ranked,
        "rejected": rejected,
        "contest": first.contest,
        "seeds": len(first.contest["seeds"]),
        "hardest": first.summary["hardest"],
        "figure": _figure(ranked[:_DRAWN], first.summary["gold_start"]),
        "drawn": _DRAWN,
    }
    write_json(out / "leaderboard.json", _data(ranked, rejected))
    write_atomic(out / "index.html", render_page(_HERE / "index.html", values))
    return out / "index.html"


def _data(ranked: Sequence[Ranked], rejected: Sequence[Rejected]) -> dict[str, Any]:
    return {
        "ranked": [
            {
                "rank": r.rank,
                "tied": r.tied,
                "name": r.submission.name,
                "author": r.submission.content["author"],
            }
            | {"page": r.submission.page, "manifest_sha256": r.submission.digest, **r.submission.summary}
            for r in ranked
        ],
        "rejected": [{"folder": str(r.folder), "reason": r.reason} for r in rejected],
    }


def _figure(ranked: Sequence[Ranked], start: float) -> Any:
    golds, worst = [], []
    for entry in ranked:
        summary = entry.submission.summary
        golds.append(entry.submission.gold)
        worst.append(summary["worst"])
    labels = [harmless(e.submission.name)[:24] for e in ranked]
    name = "gold at the end"
    axes = intervals(
        labels,
        {name: golds},
        worst={name: worst},
        reference=start,
        reference_name="start",
        x_label="gold",
    )
    return to_svg(axes, alt="Gold at the end of each submission, with intervals", page=True)


def _page(entry: Ranked) -> str:
    """Return the page of one submission."""
    submission = entry.submission
    results = Results({"designs": []}, submission.cells)
    settings = []
    for setting, cells in results.settings.items():
        settings.append(
            {
                "optimiser": optimiser_name(setting.optimiser),
                "beta": setting.kl_coefficient,
                "gold": aggregate([by_seed(cells, "gold")], mean),
                "fall": mean_of_strata([falls(cells)]).value,
                "kl": mean_of([cells], "kl_nats").value,
                "worst": min(c["gold"] for c in cells),
            }
        )
    values = {
        "rank": entry.rank,
        "s": submission,
        "c": submission.content,
        "settings": settings,
        "optimiser": optimiser_name,
        "files": _sources(submission),
    }
    return render_page(_HERE / "submission.html", values, filters={"source": _source})


def _sources(submission: Submission) -> Mapping[str, str | None]:
    """Return the text of the reward's files by name; None for those that are no text."""
    found: dict[str, str | None] = {}
    for file in sorted((submission.folder / REWARD).rglob("*")):
        if file.is_file():
            text = None
            if file.suffix == ".py":
                text = file.read_bytes().decode("utf-8", "replace")
            found[file.relative_to(submission.folder).as_posix()] = text
    return found


def _source(text: str) -> str:
    return harmless(text, newlines=True, limit=_SHOWN_FILE)
