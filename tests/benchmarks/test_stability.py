"""`benchmarks/stability.py`: tiny runs that resume, and reports against arithmetic done by hand."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import rlhf_world
from text_gym import Task, TextVectorEnv
from text_gym.agents import Policy, PPOConfig
from text_gym.errors import ConfigError, DataError, TextGymError, UnknownNameError
from text_gym.rlhf import rlhf
from text_gym.rlhf.config import RLHFConfig
from text_gym.rlhf.people import simulated_people

Printed = pytest.CaptureFixture[str]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORDS = ("candidates", "peers", "reachable", "report", "runs", "worlds")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's modules by their last word; the script itself is `main`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    modules = {word: importlib.import_module(f"stability_{word}") for word in WORDS}
    modules["main"] = importlib.import_module("stability")
    return type("Parts", (), modules)


@pytest.fixture
def world(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task of three-word texts in place of `products`."""
    folder = tmp_path / "words"
    rlhf_world.policy().save(folder)
    task = dataclasses.replace(rlhf_world.task(), policy=folder)
    for module in (parts.worlds, parts.runs):
        monkeypatch.setattr(module, "load_task", lambda name: task)
        monkeypatch.setattr(module, "CRITERIA", rlhf_world.QUALITY)
    load = Policy.from_pretrained

    def with_words(cls: Any, /, folder: Any, tokenizer: Any = None, **options: Any) -> Policy:
        return load(folder, tokenizer or rlhf_world.TOKENIZER, **options)

    # The words have no file in the policy's folder, as the tokens of `products` have.
    monkeypatch.setattr(Policy, "from_pretrained", classmethod(with_words))
    return task


def options(parts: Any, out: Path, **changes: Any) -> Any:
    tiny = {
        "candidates": ("ppo",),
        "seeds": ("3:5",),
        "iterations": 2,
        "episodes": 8,
        "judge": 4,
        "labels": 16,
    }
    return parts.main.Run(out=out, **(tiny | changes))


# Candidates


def test_candidates_are_read_by_the_types_of_their_settings(parts: Any) -> None:
    found = parts.candidates.parse_candidate("ppo critic=shared  target_kl=none anneal=false epochs=2 lam=1")
    assert found.text == "ppo critic=shared target_kl=none anneal=false epochs=2 lam=1"
    assert found.changes == {"critic": "shared", "target_kl": None, "anneal": False, "epochs": 2, "lam": 1.0}
    assert [type(x) for x in found.changes.values()] == [str, type(None), bool, int, float]
    config = parts.runs.Job("gold0", found, 7, parts.worlds.Setting(Path())).config
    assert config == PPOConfig(
        critic="shared", target_kl=None, anneal=False, epochs=2, lam=1.0, seed=7, kl_coef=0.0
    )
    trl = parts.candidates.parse_candidate("trl.ppo learning_rate=3e-4 whiten_rewards=true")
    assert trl.changes == {"learning_rate": 3e-4, "whiten_rewards": True}
    assert parts.candidates.parse_candidate("grpo model=transformer", "rlhf").changes == {
        "model": "transformer"
    }


@pytest.mark.parametrize(
    ("text", "world", "error", "said"),
    [
        ("", "gold", UnknownNameError, "unknown algorithm ''"),
        ("pop", "gold", UnknownNameError, "did you mean 'ppo'"),
        ("sb3.ppo", "rlhf", UnknownNameError, "unknown algorithm 'sb3.ppo'"),
        ("ppo critik=shared", "gold", UnknownNameError, "did you mean 'critic'"),
        ("ppo critic=shared", "rlhf", UnknownNameError, "setting of RLHFConfig 'critic'"),
        ("ppo critic", "gold", ConfigError, "'critic' is not SETTING=VALUE"),
        ("ppo =3", "gold", ConfigError, "'=3' is not SETTING=VALUE"),
        ("ppo critic=joint", "gold", ConfigError, "critic cannot be 'joint'"),
        ("ppo epochs=2.5", "gold", ConfigError, "epochs cannot be '2.5'; it takes int"),
        ("ppo anneal=maybe", "gold", ConfigError, "anneal cannot be 'maybe'"),
        ("ppo seed=3", "gold", ConfigError, "seed is given by --seeds"),
        ("trl.ppo total_episodes=3", "gold", ConfigError, "given by --iterations"),
    ],
)
def test_candidates_that_make_no_sense(
    parts: Any, text: str, world: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace("(", r"\(")):
        parts.candidates.parse_candidate(text, world)


def test_sb3_learns_as_its_authors_have_it(parts: Any) -> None:
    job = parts.runs.Job("gold", parts.candidates.parse_candidate("sb3.ppo"), 1, parts.worlds.Setting(Path()))
    found = dataclasses.asdict(job.config)
    # As in the documentation of Stable-Baselines3.
    documented = {"learning_rate": 3e-4, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95}
    assert found.items() >= (documented | {"vf_coef": 0.5, "anneal": False, "kl_coef": 0.03}).items()


def test_seeds(parts: Any) -> None:
    assert parts.main.parse_seeds(["7", "100:102", "7"]) == [7, 100, 101]
    for words in (["a"], ["1:b"], ["5:5"], []):
        with pytest.raises(ConfigError, match="seeds"):
            parts.main.parse_seeds(words)


# Runs


def test_runs_are_made_once(
    parts: Any,
    world: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Printed,
) -> None:
    out = tmp_path / "out"
    asked = options(parts, out, candidates=("ppo", "ppo critic=shared"), keep_policy=True)
    assert parts.main.run(asked) == 0
    files = sorted((out / "runs" / "gold").glob("*.json"))
    assert [file.name for file in files] == [
        f"{name}-{seed}.json" for name in ("ppo", "ppo_critic=shared") for seed in (3, 4)
    ]
    rows = [json.loads(file.read_text()) for file in files]
    for row in rows:
        assert row["curves"]["episodes"] == [8, 16]
        assert all(len(column) == 2 for column in row["curves"].values())
        assert abs(row["curves"]["kl"][0]) < 1e-5  # the first batch is the starting policy's
        assert row["before"] == rows[0]["before"]
        assert row["before"]["kl"] == 0 != row["after"]["kl"]
        assert row["curves"]["objective"][1] == pytest.approx(
            row["curves"]["reward"][1] - 0.03 * row["curves"]["kl"][1], rel=1e-3
        )
    assert len({json.dumps(row["curves"]["reward"]) for row in rows}) > 1
    assert len(list((out / "policies" / "gold").glob("*/model.safetensors"))) == 4
    assert "4/4 gold · ppo critic=shared · seed 4: gold" in capsys.readouterr().out

    times = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setattr(parts.main, "run_job", lambda job: pytest.fail("it was there already"))
    assert parts.main.run(asked) == 0
    assert [file.stat().st_mtime_ns for file in files] == times
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"ppo-3\.json was made with iterations=2, not 3"):
        parts.main.run(dataclasses.replace(asked, iterations=3))


def test_a_run_that_fails_costs_no_other(
    parts: Any,
    world: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Printed,
) -> None:
    own = parts.main.run_job

    def sometimes(job: Any) -> Any:
        if job.seed == 3:
            raise OSError("no more disk")
        return own(job)

    monkeypatch.setattr(parts.main, "run_job", sometimes)
    assert parts.main.run(options(parts, tmp_path / "out")) == 1
    assert "1/2 gold · ppo · seed 3: FAILED: OSError: no more disk" in capsys.readouterr().out
    assert [f.name for f in (tmp_path / "out" / "runs" / "gold").iterdir()] == ["ppo-4.json"]


def test_a_learned_reward_is_that_of_the_first_round(parts: Any, world: Task, tmp_path: Path) -> None:
    setting = options(parts, tmp_path / "out").setting()
    parts.worlds.prepare("ngrams", 3, setting)
    people = simulated_people(rlhf_world.GOLD, rlhf_world.QUALITY, seed=0)
    config = RLHFConfig(rounds=1, labels_per_round=16, overlap=0.1, iterations=1, episodes=8, seed=0)
    known: dict[str, Any] = {"criteria": rlhf_world.QUALITY, "device": "cpu", "console": parts.worlds.quiet()}
    rlhf(world, config, people, tmp_path / "cycle", policy=rlhf_world.policy(), **known)
    mine, theirs = (
        {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
        for root in (
            base / "round-1" / "reward_model"
            for base in (tmp_path / "out" / "worlds" / "ngrams-16", tmp_path / "cycle")
        )
    )
    assert mine == theirs
    assert len(mine) > 5  # a model a member
    place = parts.worlds.open_world("ngrams", 3, setting)
    assert place.reward is not place.task.reward


def test_whole_cycles(parts: Any, world: Task, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out"
    parts.main.run(options(parts, out, worlds=("rlhf",), candidates=("rloo",), seeds=("3",), rounds=2))
    row = json.loads((out / "runs" / "rlhf" / "rloo-3.json").read_text())
    assert [r["round"] for r in row["rounds"]] == [1, 2]
    known = [json.loads(line) for line in (out / "rlhf" / "rloo-3" / "rounds.jsonl").read_text().splitlines()]
    assert [r["gold"] for r in row["rounds"]] == [r["gold"] for r in known]
    table = parts.report.tables(parts.report.rows_of(out), out)
    assert f"{known[1]['gold']['mean']:.3f}" in table.splitlines()[-1]


def test_slots_need_data(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        parts.main.run(options(parts, tmp_path, worlds=("slots",)))


# Peers


def test_what_sb3_trained_is_judged(parts: Any, world: Task) -> None:
    policy = rlhf_world.policy()
    config = parts.peers.SB3Config(iterations=3, num_envs=8, batch_size=16, learning_rate=1e-2, kl_coef=0.1)
    curves, trained = parts.peers.run_sb3(world, world.reward, policy, config, episodes=8)
    pairs = zip(policy.parameters(), trained.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert curves["episodes"][-1] >= 24 > curves["episodes"][-2]
    assert all(math.isfinite(x) for name in ("reward", "kl", "explained_variance") for x in curves[name])
    assert abs(curves["kl"][0]) < 1e-4 < abs(curves["kl"][-1])


FAKE = """#!{python}
import json, sys
from pathlib import Path
folder = Path(sys.argv[2])
job = json.loads((folder / "job.json").read_text())
assert (folder / "policy" / "config.json").is_file()
if "fail" in job["changes"]:
    sys.exit("no such setting")
for i in range(job["iterations"]):
    print(json.dumps({{"prompts": job["prompts"][:2], "completions": [[1, 1, 1, {eos}], [2]]}}), flush=True)
    rewards = json.loads(sys.stdin.readline())["rewards"]
    row = {{"reward": sum(rewards) / 2, "kl": 0.5, "objective": 0.0, "truncated": 0.5, "updates": 4.0}}
    print(json.dumps({{"row": row | {{"episodes": 8.0 * i, "seconds": 1.0}}}}), flush=True)
"""


def test_trl_asks_for_rewards(parts: Any, world: Task, tmp_path: Path) -> None:
    (eos,) = world.tokenizer.eos_ids
    python = tmp_path / "python"
    python.write_text(FAKE.format(python=sys.executable, eos=eos))
    python.chmod(0o700)
    good = world.tokenizer.encode("good")[0]
    python.write_text(python.read_text().replace("[1, 1, 1,", f"[{good}, {good}, {good},"))
    config = {"iterations": 2, "seed": 1, "kl_coef": 0.1}
    assert world.policy is not None
    curves, policy = parts.peers.run_trl(world, world.reward, world.policy, config, 8, str(python))
    assert curves["reward"] == [0.5, 0.5]  # three times good is worth 1, something else 0
    assert curves["episodes"] == [0, 8]
    assert all(math.isnan(x) for x in curves["explained_variance"])
    assert policy.vocab_size == rlhf_world.policy().vocab_size
    with pytest.raises(TextGymError, match="no such setting"):
        parts.peers.run_trl(world, world.reward, world.policy, config | {"fail": 1}, 8, str(python))


# Reports


def hand_made(candidate: str, seed: int, gold: float, reward: list[float], kl: list[float]) -> dict[str, Any]:
    n = len(reward)
    curves = {"reward": reward, "kl": kl, "truncated": [0.0] * n, "updates": [4.0] * n, "seconds": [2.0] * n}
    curves |= {"explained_variance": [0.5 - i / 100 for i in range(n)]}
    curves |= {"objective": [r - k / 10 for r, k in zip(reward, kl, strict=True)]}
    curves |= {"episodes": [64.0 * (i + 1) for i in range(n)]}
    judged = {"ci95": [gold, gold], "length": 9.0, "cut": 0.0}
    return {
        "world": "gold", "candidate": candidate, "seed": seed, "settings": {"config": {"seed": seed}},
        "before": {"gold": 0.7, "kl": 0.0} | judged, "after": {"gold": gold, "kl": kl[-1]} | judged,
        "failed": None, "declined": None, "curves": curves,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of one candidate, one of another, by hand."""
    rises = [0.7] * 5 + [0.9, 0.95, 0.97, 0.99, 0.98, 0.98, 0.98]
    rows = [
        hand_made("ppo", 1, 0.97, rises, [0.0] * 6 + [1.0, 30.0, 2.0, 3.0, 3.0, 4.0]),
        hand_made("ppo", 2, 0.94, [0.7] * 12, [1.0] * 12),
        hand_made("ppo critic=shared", 1, 0.96, rises, [0.0] * 12),
    ]
    rows[1]["after"]["kl"] = 50.0
    for row in rows:
        file = tmp_path / "runs" / "gold" / f"{row['candidate']}-{row['seed']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row))
    return tmp_path


def test_figures_of_a_run(parts: Any, folder: Path) -> None:
    first, flat, _ = parts.report.rows_of(folder)
    # 0.95, 0.97 and 0.99 are iterations 7 to 9, and the first three with a mean of 0.96 or more.
    reached = {"reached_iteration": 9, "reached_episodes": 576, "reached_seconds": 18.0}
    assert first.items() >= reached.items()
    assert first["kl_highest"] == 30.0
    assert first["ev_early"] == pytest.approx(0.41)
    assert first["ev_lowest"] == pytest.approx(0.39)
    # The objective is 0.7 at first. Its lowest mean of five is that of the last:
    # (-2.03 + 0.79 + 0.68 + 0.68 + 0.58) / 5 = 0.14.
    assert first["fall"] == pytest.approx(0.14 - 0.7)
    assert flat["reached_iteration"] is None
    assert flat["kl_highest"] == 50.0  # on held-out prompts, after the last update
    assert flat["fall"] == pytest.approx(0.0)


def test_the_table(parts: Any, folder: Path) -> None:
    lines = parts.report.tables(parts.report.rows_of(folder), folder).splitlines()
    assert len(lines) == 4
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    # Shares: one of two runs is at 0.96 or above, and at 0.95; both are above 0.93. KL ends at 4 and at 50.
    assert cells == [
        "gold", "`ppo`", "2", "0.955 (0.940–0.970)", "50 %", "50 %", "100 %", "27.0", "50.0", "9 (1/2)", "18",
        "0.41", "0.39", "−0.560",
    ]  # fmt: skip
    assert "100 % | 100 % | 100 %" in lines[3]  # 0.96 counts


def test_all_that_a_report_writes(parts: Any, folder: Path, capsys: Printed) -> None:
    (folder / "reachable").mkdir()
    row = {"ridge": 0.2, "network": 0.3, "best": 0.3, "tokens": 9}
    about = {"world": "gold", "candidate": "ppo", "seed": 1, "episodes": 4, "start": row, "after": row}
    (folder / "reachable" / "gold-ppo-1.json").write_text(json.dumps(about))
    page = folder / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    figure, file = folder / "figure.png", folder / "results.json"
    assert parts.main.report(parts.main.Report(folder, json=file, figure=figure, docs=page)) == 0
    printed = capsys.readouterr().out.strip()
    assert page.read_text() == f"before\n<!-- table -->\n{printed}\n<!-- /table -->\nafter\n"
    assert "| gold | `ppo` | 1 | 0.20 | 0.30 | 0.30 |" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")
    found = json.loads(file.read_text())
    assert [r["after"]["gold"] for r in found["rows"]] == [0.97, 0.94, 0.96]
    assert not any("curves" in r for r in found["rows"])
    assert found["summaries"][0]["curves"]["kl"][7] == 15.5  # 30 and 1
    assert found["reachable"] == [about]
    page.write_text("no place")
    with pytest.raises(ConfigError, match="no place for the tables"):
        parts.report.fill_docs(page, "text")
    with pytest.raises(DataError, match="there are no runs"):
        parts.report.rows_of(folder / "elsewhere")


# What is reachable


def test_reachable_explained_variance_is_the_share_that_is_no_noise(parts: Any) -> None:
    rng = np.random.default_rng(0)

    def tokens(signal: Any, noise: float) -> Any:
        read = torch.from_numpy(rng.normal(size=(4000, 5))).float()
        returns = signal(read) + noise * torch.from_numpy(rng.normal(size=4000)).float()
        return read, returns, torch.arange(4000) // 10

    def linear(read: Any) -> Any:
        return 3 + 10 * read[:, 0]

    found = parts.reachable.reachable(tokens(linear, 10.0), tokens(linear, 10.0), 0)
    assert found["ridge"] == pytest.approx(0.5, abs=0.04)  # 100 of 200 is signal
    assert found["network"] == pytest.approx(0.5, abs=0.06)

    def curved(read: Any) -> Any:
        return read[:, 0].abs() * 5

    found = parts.reachable.reachable(tokens(curved, 0.1), tokens(curved, 0.1), 0)
    assert found["ridge"] < 0.1
    assert found["best"] == found["network"] > 0.8


def test_a_token_is_worth_what_its_episode_still_gets(parts: Any, world: Task) -> None:
    env = TextVectorEnv(**world.env_kwargs(), num_envs=4, numbering="global")
    policy = rlhf_world.policy()
    read, returns, episodes = parts.reachable.played(policy, env, range(2, 8), seed=1)
    assert sorted(set(episodes.tolist())) == [2, 3, 4, 5, 6, 7]
    assert read.shape == (len(returns), 18)  # 16 units and the clock
    for number in range(2, 8):
        own = returns[episodes == number]
        assert (own == own[0]).all()  # the reward is paid at the end
        assert float(own[0]) in [pytest.approx(k / 3) for k in range(4)]
    assert len(set(returns.tolist())) > 1
    first = read[torch.cat([torch.tensor([True]), episodes[1:] != episodes[:-1]])]
    assert torch.allclose(first[:, -2:], torch.tensor([-1.0, 1.0]))  # the clock at the beginning


def test_reachable_makes_the_runs_that_it_needs(
    parts: Any, world: Task, tmp_path: Path, capsys: Printed
) -> None:
    asked = {
        "out": tmp_path / "out",
        "seeds": ("3",),
        "texts": 16,
        "iterations": 2,
        "episodes": 8,
        "judge": 4,
    }
    assert parts.main.reachable(parts.main.Reachable(**asked)) == 0
    assert "ppo · seed 3, after: best reachable" in capsys.readouterr().out
    (row,) = parts.report.reachable_rows(tmp_path / "out")
    assert row["start"] != row["after"]
    assert row["after"]["best"] == max(row["after"]["ridge"], row["after"]["network"])
