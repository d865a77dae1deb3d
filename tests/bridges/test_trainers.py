"""Projects for large trainers: what they hold, and that rewards there are the task's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.installed_package import install
from text_gym import Episode, RewardSource, load_task
from text_gym.bridges.trainers import ExportedReward
from text_gym.cli.main import main
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.values import Rewards
from text_gym.tasks.task import NoGold

TEXTS = ("This is a red watch. Order yours today.", "", "Nonsense 🙂 with\x00bytes", "It has a $5 price.")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("projects")
    for to in ("trl", "verl", "openrlhf"):
        assert main(["export", "--to", to, "products", str(folder / to)]) == 0
    return {to: folder / to for to in ("trl", "verl", "openrlhf")}


def load(file: Path) -> Any:
    """Load a module as verl and OpenRLHF do."""
    spec = importlib.util.spec_from_file_location(f"exported_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(project: Path, name: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_rewards_are_those_of_the_task(projects: dict[str, Path]) -> None:
    """Each trainer's own row goes to its function, beside a text; the task is asked about the same prompt."""
    task = load_task("products")
    prompts = list(task.prompts[:3]) * len(TEXTS)
    texts = [text for text in TEXTS for _ in range(3)]
    asked = list(zip(prompts, texts, strict=True))
    expected = task.reward([Episode.of(p, text, task.tokenizer) for p, text in asked]).totals.tolist()
    assert len({round(x, 6) for x in expected}) > 3  # texts of different worth, or this shows nothing

    own = rows(projects["trl"])[:3] * len(TEXTS)
    names = {name: [row[name] for row in own] for name in own[0]}
    prompted = names.pop("prompt")
    found = load(projects["trl"] / "reward.py").reward(prompted, texts, completion_ids=[[]], **names)
    assert found == expected
    talk = [[{"role": "assistant", "content": text}] for text in texts]
    assert load(projects["trl"] / "reward.py").reward(prompted, talk, **names) == expected

    own = rows(projects["verl"])[:3] * len(TEXTS)
    score = load(projects["verl"] / "reward.py").compute_score
    for row, text, worth in zip(own, texts, expected, strict=True):
        truth = row["reward_model"]["ground_truth"]
        for end in ("", "<|im_end|>"):
            given = {"data_source": row["data_source"], "solution_str": text + end, "ground_truth": truth}
            assert score(**given, extra_info=row["extra_info"]) == worth

    own = rows(projects["openrlhf"])[:3] * len(TEXTS)
    shown = [f"<|im_start|>user\n{row['input'][0]['content']}<|im_end|>\n" for row in own]
    queries = [prompt + text + "</s>" for prompt, text in zip(shown, texts, strict=True)]
    said = load(projects["openrlhf"] / "reward.py").reward_func(queries, shown, [r["label"] for r in own])
    assert torch.equal(said["rewards"], torch.tensor(expected))
    assert torch.equal(said["scores"], said["rewards"])
    assert set(said["extra_logs"]) == set(task.reward([Episode.of(prompts[0], "x", task.tokenizer)]).terms)


def test_data_sets_have_all_prompts_and_nothing_held_out_is_learnt(projects: dict[str, Path]) -> None:
    task = load_task("products")
    for to, key in (("trl", "prompt"), ("verl", "prompt"), ("openrlhf", "input")):
        for name, prompts in (("train", task.prompts), ("test", task.held_out)):
            found = [row[key] if to == "trl" else row[key][0]["content"] for row in rows(projects[to], name)]
            assert found == [p.text for p in prompts]
        script = projects[to] / ("train.py" if to == "trl" else "train.sh")
        assert str(task.max_tokens) in script.read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
def test_scripts_give_the_trainer_the_files_of_the_project(projects: dict[str, Path], tmp_path: Path) -> None:
    """A stand-in for Python prints the arguments."""
    (tmp_path / "python3").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    for to in ("verl", "openrlhf"):
        command = ["sh", str(projects[to] / "train.sh"), "more=1"]
        said = subprocess.run(
            command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
        )
        lines = said.stdout.splitlines()
        assert lines[-1] == "more=1"
        named = [line.partition("=")[2] or line for line in lines if str(projects[to]) in line]
        exist = [Path(name) for name in named if Path(name).name != "output"]
        assert {file.name for file in exist} >= {"reward.py", "train.jsonl"}
        assert all(file.is_file() for file in exist)


class Shy(RewardSource):
    name, abstains = "shy", True

    def score(self, episodes: Any) -> Rewards:
        return Rewards.from_scores(np.array([np.nan if not e.completion else 2.0 for e in episodes]))


def test_abstentions_conversations_and_strangers() -> None:
    task = load_task("reverse")
    shy = ExportedReward(replace(task, reward=Shy()))
    ids = [task.prompts[0].id] * 2
    assert shy.trl(["p"] * 2, ["", "a"], ids) == [None, 2.0]
    assert shy.verl("t", "", ids[0]) == 0.0
    assert shy.openrlhf(["p", "pa"], ["p", "p"], ids)["rewards"].tolist() == [0.0, 2.0]
    with pytest.raises(RewardError, match="no prompt with the id 'stranger'; export it again"):
        shy.verl("t", "a", "stranger")
    with pytest.raises(RewardError, match="does not begin with its prompt"):
        shy.openrlhf(["a"], ["p"], ids[:1])
    with pytest.raises(ConfigError, match="is a conversation"):
        ExportedReward.of("guess")
    with pytest.raises(ConfigError, match="no reward of its own"):
        ExportedReward(replace(task, reward=NoGold()))
    twice = [replace(task.prompts[0], columns={"answer": 1}), *task.prompts]
    with pytest.raises(ConfigError, match="two prompts have the id"):
        ExportedReward(replace(task, prompts=twice))


def test_a_task_of_a_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "palette_to_export", {"colours": "colours"})
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", "trl", "colours", "out", "--model", "model"]) == 0
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "from its repository, and palette_to_export 1.2, which has the task:" in readme
    assert "pip install trl datasets\n" in readme
    assert json.dumps(str(tmp_path / "model")) in (tmp_path / "out" / "train.py").read_text("utf-8")


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "products", "--to=verl", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_trl_trains_the_project_it_was_given(
    projects: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's own trainer takes two steps with a tiny model; each reward it logs is the task's."""
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({s: i for i, s in enumerate([*symbols, "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special: Any = {"eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 257, "n_positions": 512, "n_embd": 16, "n_layer": 1, "n_head": 2}
    shape = GPT2Config(**sizes, eos_token_id=256, bos_token_id=256)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path)

    monkeypatch.syspath_prepend(str(projects["trl"]))
    monkeypatch.delitem(sys.modules, "reward", raising=False)
    script = load(projects["trl"] / "train.py")
    exported, asked = sys.modules["reward"].REWARD, []
    score = exported.score

    def watched(ids: Any, texts: Any) -> Rewards:
        rewards: Rewards = score(ids, texts)
        asked.append((list(ids), list(texts), rewards))
        return rewards

    exported.score = watched
    settings = {"max_steps": 2, "use_cpu": True, "max_completion_length": 8, "save_strategy": "no"}
    trainer = script.main(str(tmp_path), **settings)
    assert trainer.state.global_step == 2
    assert len(asked) == 2
    task = load_task("products")
    prompts = {p.id: p for p in task.prompts}
    for (ids, texts, rewards), row in zip(asked, trainer.state.log_history, strict=False):
        own = [Episode.of(prompts[i], text, task.tokenizer) for i, text in zip(ids, texts, strict=True)]
        assert np.array_equal(task.reward(own).totals, rewards.totals)
        assert row["reward"] == pytest.approx(rewards.totals.mean(), abs=1e-6)
