from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tests.reward_model_tools import TOKENIZER, episodes, pairs, ratings
from tests.small_models import small_policy
from text_gym import Episode, Prompt, as_reward_source, load_task, write_transcripts
from text_gym.cli.main import main
from text_gym.cli.options.reward import RewardTrainOptions, read_reward_train
from text_gym.cli.reward import _resampled, judge_reward
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import Ensemble, PreferencePair, load_reward
from text_gym.reward_models.preferences.files import read_ratings, write_opinions
from text_gym.reward_models.preferences.opinions import split_opinions


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_opinions(tmp_path / "pairs.jsonl", pairs(40))
    rows = [{"mr": r.prompt.text, "ref": r.completion, **r.values} for r in ratings(30)]
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_ratings_become_a_model_and_a_summary(files: Path) -> None:
    out = files / "model"
    columns = ["--prompt", "mr", "--completion", "ref", "--criteria", "style,brevity"]
    assert (
        main(["reward", "train", "--ratings", str(files / "ratings.csv"), *columns, "--out", str(out)]) == 0
    )
    summary = json.loads((out / "summary.json").read_text())
    model = load_reward(str(out))
    given = read_ratings(files / "ratings.csv", ["style", "brevity"], prompt="mr", completion="ref")
    _, held_out = split_opinions(given, 0.2, 0)
    found = model([Episode.of(r.prompt, r.completion, TOKENIZER) for r in held_out])
    for name in ("style", "brevity"):
        expected = scipy.stats.spearmanr(found.terms[name], [r.values[name] for r in held_out])[0]
        measured = summary["criteria"][name]["spearman"]
        assert measured["value"] == pytest.approx(expected)
        assert measured["ci95"][0] <= measured["value"] <= measured["ci95"][1]
        assert measured["n"] == len(held_out) == summary["held_out_opinions"]
        assert measured["value"] > 0.9


@pytest.mark.parametrize("members", [1, 2])
def test_pairs_become_a_transformer_or_an_ensemble_of_them(files: Path, members: int) -> None:
    small_policy(tokenizer=TOKENIZER).save(files / "policy")
    out = files / "model"
    words = f"--model {files / 'policy'} --members {members} --epochs 2 --k 0.5 --normalise --device cpu"
    assert (
        main(["reward", "train", "--pairs", str(files / "pairs.jsonl"), "--out", str(out), *words.split()])
        == 0
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kind"] == "transformer"
    assert 0 <= summary["accuracy"]["value"] <= 1
    assert summary["calibration"]["ece"] >= 0
    assert (out / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    model = load_reward(str(out))
    assert isinstance(model, Ensemble) == (members == 2)
    again = main(
        ["reward", "train", "--pairs", str(files / "pairs.jsonl"), "--out", str(out), *words.split()]
    )
    assert again == 2  # it holds a model already


def test_ensembles_of_ngrams_differ(files: Path) -> None:
    varied = [
        PreferencePair(p.prompt, f"a good text {i % 5}", f"a bad text {i % 3}")
        for i, p in enumerate(pairs(40))
    ]
    write_opinions(files / "varied.jsonl", varied)
    words = f"reward train --pairs {files / 'varied.jsonl'} --members 3 --out {files / 'model'}"
    assert main(words.split()) == 0
    model = load_reward(str(files / "model"))
    assert model(episodes("a good text about cats")).terms["std"][0] > 0


def test_the_figures_are_those_of_the_definitions() -> None:
    reward = load_reward("length", low=1, high=3)
    opinions = [*pairs(3)]
    found = judge_reward(reward, opinions)
    assert found["accuracy"]["value"] == 0.5  # both texts have three words
    marks = judge_reward(reward, ratings(2))["criteria"]
    assert np.isnan(marks["style"]["spearman"]["value"])  # all texts have four words


def test_stored_transcripts_get_the_reward_they_had(tmp_path: Path) -> None:
    task = load_task("products")
    texts = ("Meet the {name}, a {colour} {category}. Get yours now.", "This is a {category} for {audience}.")
    whole = [Episode.of(p, t.format(**p.columns), task.tokenizer) for p in task.held_out[:12] for t in texts]
    stored = [
        Episode(e.prompt, e.prompt_ids, e.completion_ids[:9], task.tokenizer, finish_reason="length")
        if i % 3
        else e
        for i, e in enumerate(whole)
    ]
    rewards = task.reward(stored).values
    write_transcripts(tmp_path / "old.jsonl", stored, rewards.tolist())
    reward = "text_gym.tasks.products:ProductsReward"
    words = f"reward score {tmp_path / 'old.jsonl'} --reward {reward} --out {tmp_path / 'new.jsonl'}"
    assert main(words.split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == rewards.tolist()
    assert [row["terms"]["clarity"] for row in rows] == task.reward(stored).terms["clarity"].tolist()
    assert {row["reward_source"] for row in rows} == {"products"}
    assert rows[1]["completion_ids"] == stored[1].completion_ids.tolist()


def test_tokens_are_kept_where_their_tokenizer_is_named(tmp_path: Path) -> None:
    small_policy(tokenizer=TOKENIZER).save(tmp_path / "policy")
    (tmp_path / "own.py").write_text("def tokens(episode):\n    return len(episode.completion_ids)\n")
    stored = [Episode.of(Prompt("p:"), "cats about dogs", TOKENIZER)]
    write_transcripts(tmp_path / "old.jsonl", stored)
    files = f"{tmp_path / 'old.jsonl'} --out {tmp_path / 'new.jsonl'}"
    words = f"reward score {files} --reward {tmp_path / 'own.py'}:tokens"
    assert main([*words.split(), "--policy", str(tmp_path / "policy")]) == 0
    assert json.loads((tmp_path / "new.jsonl").read_text())["reward"] == len(stored[0].completion_ids)


def test_chance_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dice.py").write_text(
        "from text_gym import FunctionReward\n"
        "source = FunctionReward(lambda completion: 1.0, name='my-dice', deterministic=False)\n"
    )
    write_transcripts(tmp_path / "old.jsonl", episodes("cats"))
    files = f"{tmp_path / 'old.jsonl'} --out {tmp_path / 'new.jsonl'}"
    words = f"reward score {files} --reward {tmp_path / 'dice.py'}:source"
    assert main(words.split()) == 2
    assert "'my-dice' is not deterministic" in capsys.readouterr().err
    assert not (tmp_path / "new.jsonl").exists()


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="one of them"):
        RewardTrainOptions()
    with pytest.raises(ConfigError, match="one of them"):
        RewardTrainOptions(pairs="a", ratings="b")
    with pytest.raises(ConfigError, match="needs one at least"):
        RewardTrainOptions(pairs="a", members=0)
    with pytest.raises(ConfigError, match="does not start from a --model"):
        RewardTrainOptions(pairs="a", model="b", kind="ngrams")


@pytest.mark.parametrize("option", ["pairs", "ratings"])
def test_files_of_opinions_are_looked_for_before_anything_is_done(option: str, tmp_path: Path) -> None:
    for name, said in (("", f"--{option} is empty"), ("nowhere.csv", "nowhere.csv: no such file")):
        with pytest.raises(DataError, match=said):
            read_reward_train([f"--{option}", name, "--out", str(tmp_path / "out")])


def test_agreement_counts_the_chosen_text_ahead_and_leaves_ties_out() -> None:
    reward = as_reward_source(lambda completion: float(completion.count("good")))
    tie = PreferencePair(Prompt("text about birds:"), "a bad text", "a good text", tie=True)
    (other,) = pairs(1)
    wrong = PreferencePair(other.prompt, other.rejected, other.chosen)
    found = judge_reward(reward, [*pairs(3), wrong, tie])
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.75, 4)


def test_members_learn_from_prompts_drawn_with_all_their_opinions() -> None:
    given = ratings(12)  # three of each prompt
    drawn = _resampled(given, seed=1)
    counts = Counter(r.prompt.id for r in drawn)
    assert len(drawn) == len(given)
    assert set(counts.values()) >= {3, 6}
    assert all(count % 3 == 0 for count in counts.values())


def test_a_text_without_an_opinion_has_no_reward(tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "from text_gym import FunctionReward\n"
        "source = FunctionReward(lambda completion: None if 'dogs' in completion else 2.0, abstains=True)\n"
    )
    write_transcripts(tmp_path / "old.jsonl", episodes("cats", "dogs"))
    files = f"{tmp_path / 'old.jsonl'} --out {tmp_path / 'new.jsonl'}"
    assert main(f"reward score {files} --reward {tmp_path / 'shy.py'}:source --no-sandbox".split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == [2.0, None]
