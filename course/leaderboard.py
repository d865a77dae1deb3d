"""Rank a class's rewards by the gold that is left when each is optimised to five nats: a page and a table.

python -m course.leaderboard submissions/* --out leaderboard.html

What is handed in is `lab6_reward_hacking/reward.py` with a function `reward`. Each is a design of
`text-gym bench rewards`, with the same texts for all: best-of-n of the task's policy, exactly; with `--train`
the policy learns from it, too. Submissions run in the sandbox; one that fails gets a reason, and no rank.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup

from course.grade import refuse_what_is_unsafe
from course.labs import COURSE
from course.submissions import as_cell, take
from text_gym.bench.matrix.cells import Cell
from text_gym.bench.matrix.designs import DESIGNS, Design, DesignJob
from text_gym.bench.matrix.engines import Engine, LocalEngine
from text_gym.bench.matrix.settings import BEST_OF_N, Settings, digest_of_files
from text_gym.bench.matrix.start import DesignInputs, SamplingJob
from text_gym.pages.page import render_page
from text_gym.plot import Line, frontier, panels, reward_and_gold, to_svg
from text_gym.rewards.sandboxed import SandboxedReward
from text_gym.utils.display import harmless
from text_gym.utils.limits import SandboxLimits, installed_software
from text_gym.utils.sealed import write_atomic

LAB, FILE, FUNCTION = "lab6_reward_hacking", "reward.py", "reward"
NATS = 5.0  # where rewards are ranked; best of 404
COLUMNS = ("rank", "student", "gold_at_5_nats", "worst_seed", "gold_at_start", "own_gain", "words",
           "gold_after_training", "note")  # fmt: skip
_TRAINED = "rloo"
_COLOURED = 6  # lines with a colour of their own
_LONGEST_REASON = 300
_MARGIN = 0.05  # of gold, below which nothing is said
_WAY_OUT = "; if the file is your own and needs more"  # what is said to those who run a file of their own


@dataclass(frozen=True)
class Submitted:
    """The recipe of a reward that was handed in; it may read itself and what is installed, nothing else.

    Args:
        file: A copy of the file.
        content: Its hash.
        seconds: That all texts of one seed may take.
    """

    file: str
    content: str
    seconds: float = 60.0

    traits: ClassVar[Mapping[str, str | int]] = {"kind": "user"}

    def __call__(self, inputs: DesignInputs, seed: int) -> SandboxedReward:
        """Load the file in the sandbox."""
        limits = SandboxLimits(
            seconds=self.seconds,
            files=16 << 20,
            output=1 << 12,
            reads=(*installed_software(), self.file),
        )
        return SandboxedReward(Path(self.file), FUNCTION, limits=limits)


@dataclass(frozen=True)
class Entry:
    """What became of one student's reward.

    Args:
        student: Name of the submission's folder.
        design: Of the reward; None if none was taken.
        reason: Why it has no rank; empty if it has one.
        rows: Row of each seed's best-of-n, with its `curve` and `samples`.
        trained: Likewise, of the policies that learnt from it.
    """

    student: str
    design: Design | None
    reason: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()
    trained: tuple[Mapping[str, Any], ...] = ()

    @property
    def golds(self) -> list[float]:
        """Gold at five nats, of each seed."""
        return [at_nats(row["curve"], "gold") for row in self.rows]

    @property
    def gold(self) -> float:
        """Gold at five nats, the mean over seeds; NaN without a rank."""
        return float(np.mean(self.golds)) if self.rows else float("nan")

    @property
    def own_gain(self) -> float:
        """The reward's own gain there, in standard deviations over the start's texts."""
        rows = [row for row in self.rows if row["proxy_std_start"]]
        gains = [(at_nats(r["curve"], "proxy") - r["proxy_start"]) / r["proxy_std_start"] for r in rows]
        return float(np.mean(gains)) if gains else float("nan")

    @property
    def words(self) -> float:
        """Words of a text there."""
        return float(np.mean([at_nats(row["curve"], "length") for row in self.rows]))

    @property
    def gold_trained(self) -> float:
        """Gold of the policies that learnt from it, at the end; NaN if none did."""
        return float(np.mean([row["gold"] for row in self.trained])) if self.trained else float("nan")

    @property
    def note(self) -> str:
        """What one should know of a reward that has a rank."""
        if not self.rows:
            return ""
        if not self.rows[0]["proxy_std_start"]:
            return "it pays every text the same"
        if self.rows[0]["static_accuracy"] == 1.0:
            return "it orders every pair of texts as gold does: is it gold itself?"
        start = float(np.mean([row["curve"][0]["gold"] for row in self.rows]))
        peak = float(np.mean([row["gold_best"] for row in self.rows]))
        best = f"at its best point gold was {peak:.2f}"
        if self.gold < start - _MARGIN:
            return "hacked: worse than chance" + (f"; {best}" if peak > start + _MARGIN / 2 else "")
        return f"over-optimised: {best}" if self.gold < peak - _MARGIN else ""


def at_nats(curve: Sequence[Mapping[str, Any]], name: str, nats: float = NATS) -> float:
    """Read a curve at a KL, between its points by a line over √KL; NaN if it does not reach so far.

    >>> at_nats([{"kl_nats": 0.0, "gold": 0.0}, {"kl_nats": 9.0, "gold": 3.0}], "gold", 4.0)
    2.0
    """
    points = [(p["kl_nats"], p[name]) for p in curve if p[name] is not None]
    if not points:
        return float("nan")
    kl, values = np.array(points, dtype=np.float64).T
    return float(np.interp(np.sqrt(nats), np.sqrt(kl), values, left=np.nan, right=np.nan))


def take_entries(submissions: Sequence[Path], work: Path) -> list[Entry]:
    """Take every student's reward; equal files are one design."""
    entries = []
    for submission in submissions:
        student = submission.resolve().name
        with tempfile.TemporaryDirectory(prefix="text-gym-") as folder:
            found, why = take(submission, LAB, Path(folder), FILE)
            if found is None:
                entries.append(Entry(student, None, why))
                continue
            content = found.read_bytes()
        # A place by content: the same file is found again when the command is given again.
        name = f"reward-{hashlib.sha256(content).hexdigest()[:12]}"
        kept = work / "rewards" / name / FILE
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        recipe = Submitted(str(kept.resolve()), digest_of_files(kept))
        entries.append(Entry(student, Design(name, "yours", "handed in", recipe)))
    return entries


def measure(
    entries: Sequence[Entry],
    work: Path,
    settings: Settings,
    seeds: Sequence[int],
    train: bool,
    engine: Engine,
) -> tuple[list[Entry], Entry]:
    """Optimise every reward and gold itself, as `text-gym bench rewards` does.

    Args:
        entries: Of the class.
        work: Folder of what is made; what is there is not made again.
        settings: Of the benchmark.
        seeds: Of the candidates, and of training.
        train: Train the policy on each reward, too.
        engine: Where jobs run.

    Returns:
        The entries with their rows, or a reason; and gold's.
    """
    designs = {e.design.name: e.design for e in entries if e.design is not None}
    designs["gold"] = DESIGNS["gold"]
    cells = {
        name: [Cell(settings, design, BEST_OF_N, None, seed) for seed in seeds]
        + [Cell(settings, design, _TRAINED, 0.0, seed) for seed in seeds if train]
        for name, design in designs.items()
    }
    samples = [SamplingJob(settings, "start"), *(SamplingJob(settings, "candidates", s) for s in seeds)]
    rounds: list[list[Any]] = [
        samples,
        [DesignJob(settings, design) for design in designs.values()],
        [cell for own in cells.values() for cell in own],
    ]
    reasons: dict[str, str] = {}
    for jobs in rounds:
        ready = [job for job in jobs if not job.done(work) and _name_of(job) not in reasons]
        for outcome in engine.run(ready, work):
            print(
                f"{outcome.job.name}: {outcome.seconds:.0f} s{' (failed)' * bool(outcome.error)}", flush=True
            )
            if outcome.error:
                reasons.setdefault(_name_of(outcome.job), outcome.error)
    if why := reasons.get("") or reasons.get("gold"):
        raise SystemExit(f"the benchmark itself failed: {harmless(why, limit=_LONGEST_REASON)}")

    def filled(entry: Entry) -> Entry:
        if entry.design is None:
            return entry
        name = entry.design.name
        if name in reasons:
            return Entry(entry.student, entry.design, _told(reasons[name]))
        rows = [{**found["row"], **found} for found in (cell.read(work) for cell in cells[name])]
        chosen = tuple(row for row in rows if row["optimiser"] == BEST_OF_N)
        if any(point["gold"] is None for row in chosen for point in row["curve"]):
            return Entry(entry.student, entry.design, "it has no opinion on any text")
        trained = tuple(row for row in rows if row["optimiser"] != BEST_OF_N)
        return Entry(entry.student, entry.design, "", chosen, trained)

    return [filled(entry) for entry in entries], filled(Entry("gold itself", designs["gold"]))


def _name_of(job: Any) -> str:
    """The design that a job is of; empty for texts, which are everybody's."""
    return job.design.name if hasattr(job, "design") else ""


def _told(error: str) -> str:
    """An error of the benchmark as a reason, without what is for others than the student."""
    said = error.partition(": ")[2].split(_WAY_OUT)[0].split("\n")[0]
    said = re.sub(rf"\S*/{FILE}", FILE, said)
    for frame in (f"reward {FUNCTION!r}: ", f"reward {FUNCTION!r} of {FILE}: ", f"reward {FUNCTION!r} "):
        said = said.removeprefix(frame)
    return harmless(said.replace("serve ", "it ", 1), limit=_LONGEST_REASON)


def ranked(entries: Sequence[Entry]) -> list[tuple[int | None, Entry]]:
    """Order entries by gold; equal gold is an equal rank, and those without one come last."""
    known = sorted((e for e in entries if e.rows), key=lambda e: (-e.gold, e.student))
    ranks = [1 + sum(other.gold > e.gold + 5e-4 for other in known) for e in known]
    rest = sorted((e for e in entries if not e.rows), key=lambda e: e.student)
    return [*zip(ranks, known, strict=True), *((None, e) for e in rest)]


def write_table(entries: Sequence[Entry], file: Path) -> None:
    """Write the ranking as CSV."""
    with open(file, "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(COLUMNS)
        for rank, e in ranked(entries):
            student = as_cell(harmless(e.student, limit=100))
            if rank is None:
                rows.writerow(["", student, *[""] * 6, as_cell(e.reason)])
                continue
            numbers = [e.gold, min(e.golds), e.rows[0]["gold_start"], e.own_gain, e.words, e.gold_trained]
            shown = ["" if np.isnan(x) else f"{x:.4f}" for x in numbers]
            rows.writerow([rank, student, *shown, as_cell(e.note)])


def write_page(entries: Sequence[Entry], gold: Entry, file: Path, settings: Settings) -> None:
    """Write the page: ranking, figures, and the texts that every reward likes best."""
    board = ranked(entries)
    values = {
        "board": [{"rank": rank, "e": e, "text": _texts(e)} for rank, e in board],
        "figure": _overview([(rank, e) for rank, e in board if rank is not None], gold),
        "figures": {id(e): _own_figure(e) for rank, e in board if rank is not None},
        "gold": gold,
        "trained": bool(gold.trained),
        "nats": NATS,
        "settings": settings,
        "seeds": len(gold.rows),
    }
    template = Path(__file__).with_name("leaderboard.html")
    write_atomic(file, render_page(template, values, filters={"key": id}))


def _texts(entry: Entry) -> Mapping[str, Any] | None:
    """One prompt with the text that was there before, and the one that the reward chose."""
    return entry.rows[0]["samples"][0] if entry.rows else None


def _mean(entry: Entry, name: str) -> tuple[Any, Any]:
    """KL and a column of the curve, means over seeds."""
    return tuple(
        np.mean([[point[column] for point in row["curve"]] for row in entry.rows], axis=0)
        for column in ("kl_nats", name)
    )


def _overview(board: Sequence[tuple[int, Entry]], gold: Entry) -> Markup:
    lines = [Line(*_mean(gold, "gold"), "gold itself", colour="ink", style="--", marks=False)]
    for place, (rank, e) in enumerate(board):
        named = place < _COLOURED
        name = f"{rank} {harmless(e.student, limit=24)}" if named else ""
        lines.append(
            Line(*_mean(e, "gold"), name, colour=place if named else "faint", style="-", marks=named)
        )
    figure, (ax,) = panels(1, size=(6.2, 4.2))
    frontier(lines, y_label="gold, if this reward chooses", ax=ax)
    return to_svg(figure, alt="gold over the KL of best-of-n, a line for each reward", page=True)


def _own_figure(entry: Entry) -> Markup:
    row = entry.rows[0]
    kl, own = _mean(entry, "proxy")
    _, golds = _mean(entry, "gold")
    spread = row["proxy_std_start"] or 1.0
    gains = (own - row["proxy_start"]) / spread, (golds - row["gold_start"]) / row["gold_std_start"]
    figure, (ax,) = panels(1, size=(4.2, 2.8))
    reward_and_gold(
        (kl, gains[0]),
        (kl, gains[1]),
        names=("the reward itself", "gold"),
        y_label="gain, standard deviations",
        ax=ax,
    )
    return to_svg(figure, alt="what the reward and gold gain over the KL", page=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank the submissions that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("submissions", nargs="+", type=Path, metavar="DIR", help="students' folders")
    parser.add_argument(
        "--out", type=Path, default=Path("leaderboard.html"), help="page; a CSV goes beside it"
    )
    parser.add_argument("--work", type=Path, help="folder of texts and results, kept for the next time")
    parser.add_argument("--task", default="products", help="task with a policy, whose reward is gold")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED")
    parser.add_argument("--prompts", type=int, default=24, help="held-out prompts of a seed")
    parser.add_argument("--train", action="store_true", help="train the policy on each reward, too (RLOO)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--trusted", action="store_true", help="run even where the sandbox is not whole")
    options = parser.parse_args(arguments)
    if (why := refuse_what_is_unsafe(COURSE)) and not options.trusted:
        raise SystemExit(f"not run: {why}. Use --trusted for people whom you trust with your account.")
    folders = [folder for folder in options.submissions if folder.is_dir()]
    if not folders:
        parser.error("none of the submissions is a folder")
    if len({folder.resolve().name for folder in folders}) < len(folders):
        parser.error("two submissions have the same name; a student's name is that of the folder")
    begun = time.monotonic()
    work = options.work or options.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        task=options.task, candidates=512, prompts=options.prompts, held_out=128, iterations=20, points=5
    )
    engine = LocalEngine(options.workers)
    try:
        entries = take_entries(folders, work)
        entries, gold = measure(entries, work, settings, options.seeds, options.train, engine)
    finally:
        engine.close()
    write_page(entries, gold, options.out, settings)
    write_table(entries, options.out.with_suffix(".csv"))
    for rank, e in ranked(entries):
        said = e.reason if rank is None else f"gold {e.gold:.3f} {e.note}"
        print(f"{'–' if rank is None else rank} {harmless(e.student, limit=40)}: {said}")
    print(f"wrote {options.out} and its .csv; {time.monotonic() - begun:.0f} s for {len(entries)}")


if __name__ == "__main__":
    main()
