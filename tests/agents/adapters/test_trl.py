"""`TRLEnvironment` by TRL's contract; the trainer is a stand-in, and `python -m tests.interop trl` trains."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from string import ascii_letters
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from text_gym import (
    AllowedTokens,
    ByteTokenizer,
    Episode,
    FunctionReward,
    MinLength,
    Prompt,
    Reply,
    TextVectorEnv,
    load_task,
)
from text_gym.agents import Policy
from text_gym.agents.adapters.trl import TRLEnvironment, environment_factory
from text_gym.bridges.text_envs import from_text_env
from text_gym.errors import ConfigError, EpisodeError, MissingLibraryError, PromptError, TokenError

PROMPTS = [Prompt("ab", {"wanted": "x"}), Prompt("c", {"wanted": "yy"}), Prompt("def", {"wanted": "z"})]
TOKENIZER = ByteTokenizer()


def pay(completion: str, wanted: str) -> float | None:
    """Pays by the prompt's column, and knows nothing of texts without a letter."""
    return len(wanted) + completion.count(wanted[0]) / 10 if completion else None


def make_env(**kwargs: Any) -> TRLEnvironment:
    reward = FunctionReward(pay, abstains=True)
    return TRLEnvironment(TextVectorEnv(PROMPTS, TOKENIZER, reward, 5, num_envs=2, **kwargs))


def make_trainer(step: int = 0, **args: Any) -> Any:
    policy = Policy.new(TOKENIZER, layers=1, width=16, context=16, dropout=0.5, device="cpu")
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0} | args
    return SimpleNamespace(
        model=policy.model.train(),
        processing_class=TOKENIZER,
        args=SimpleNamespace(**settings),
        state=SimpleNamespace(global_step=step),
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, num_processes=1, process_index=0),
    )


def log_probs(model: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> list[float]:
    """Of the tokens of one text, by a plain forward pass."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, :, : TOKENIZER.vocab_size]
    model.train(training)
    log_p = torch.log_softmax(logits / temperature, dim=1)
    return [float(log_p[len(prompt) - 1 + t, token]) for t, token in enumerate(completion)]


def asked(group: int = 4) -> list[str]:
    return [p.text for p in (PROMPTS[2], PROMPTS[0], PROMPTS[1]) for _ in range(group)]


def test_every_row_begins_with_its_prompt_and_is_paid_by_its_columns() -> None:
    env, prompts = make_env(), asked()
    found = env.rollout_func(prompts, make_trainer())
    assert found["prompt_ids"] == [list(text.encode()) for text in prompts]
    for prompt, ids, paid in zip(prompts, found["completion_ids"], found["environment_reward"], strict=True):
        text = TOKENIZER.decode(ids)
        wanted = {"ab": "x", "c": "yy", "def": "z"}[prompt]
        assert 1 <= len(ids) <= 5
        assert paid == (len(wanted) + text.count(wanted[0]) / 10 if text else None)
    logged: dict[str, float] = {}
    fields = {k: v for k, v in found.items() if k.startswith("environment")}
    reward = env.reward(prompts=prompts, completions=[""] * 12, log_metric=logged.__setitem__, **fields)
    assert reward == found["environment_reward"]
    assert env.reward.__name__ == "pay"


def test_members_of_a_group_and_later_calls_draw_other_noise_and_a_seed_repeats_them() -> None:
    env, trainer = make_env(), make_trainer()
    first, again = (env.rollout_func(asked(), trainer)["completion_ids"] for _ in range(2))
    trainer.state.global_step = 1
    later = env.rollout_func(asked(), trainer)["completion_ids"]
    texts = {tuple(ids) for ids in first + again + later if len(ids) > 2}
    assert len(texts) == sum(len(ids) > 2 for ids in first + again + later)
    assert make_env().rollout_func(asked(), make_trainer())["completion_ids"] == first
    assert make_env().rollout_func(asked(), make_trainer(seed=1))["completion_ids"] != first


@pytest.mark.parametrize(("temperature", "own_code"), [(1.0, False), (0.7, False), (1.0, True)])
def test_log_probs_are_those_of_the_model_as_it_is_now_without_dropout(
    temperature: float, own_code: bool
) -> None:
    """The fast path knows no dropout; a model with a hook is read by its own code, which does."""
    env, trainer = make_env(stop=list("abcdefghijklmnopqrstuvwxyz")), make_trainer(temperature=temperature)
    if own_code:
        trainer.model.transformer.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=0.05, fused=True)
    for _ in range(2):
        found = env.rollout_func(asked(8), trainer)
        assert len(set(map(len, found["completion_ids"]))) > 1
        assert trainer.model.training
        for prompt, ids, said in zip(
            found["prompt_ids"], found["completion_ids"], found["logprobs"], strict=True
        ):
            assert said == pytest.approx(log_probs(trainer.model, prompt, ids, temperature), abs=1e-5)
        trainer.model(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
        optimizer.step()


def test_masks_and_stop_strings_are_the_environments() -> None:
    env = make_env(mask=MinLength(3) & AllowedTokens(texts=["a", "b"]), stop=["aa"])
    found = env.rollout_func(asked(8), make_trainer())
    texts = [TOKENIZER.decode(ids) for ids in found["completion_ids"]]
    assert {c for text in texts for c in text} == {"a", "b"}
    assert all("aa" not in text[:-1] for text in texts)
    assert any(len(ids) == 5 for ids in found["completion_ids"])
    assert any(text.endswith("aa") and len(text) < 5 for text in texts)


def test_texts_that_were_cut_are_left_out_under_truncate() -> None:
    found = make_env(limit="truncate").rollout_func(asked(), make_trainer())
    cut = [len(ids) == 5 and ids[-1] not in TOKENIZER.eos_ids for ids in found["completion_ids"]]
    assert any(cut)
    assert all(paid is None for paid, torn in zip(found["environment_reward"], cut, strict=True) if torn)


class Shouts:
    """Answers every turn with two exclamation marks."""

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        return [Reply("!!") for _ in episodes]


def make_talk() -> TRLEnvironment:
    """Every letter ends a turn, so that replies are frequent."""
    turns: dict[str, Any] = {"turn_stop": list(ascii_letters), "max_turns": 3, "max_context": 16}
    return make_env(respondent=Shouts(), **turns)


def test_replies_are_masked_and_have_no_log_probs() -> None:
    trainer = make_trainer()
    found = make_talk().rollout_func(asked(8), trainer)
    heard = 0
    for prompt, ids, mask, said in zip(
        *(found[k] for k in ("prompt_ids", "completion_ids", "env_mask", "logprobs")), strict=True
    ):
        wanted: list[int] = []
        while len(wanted) < len(ids):  # what the agent writes up to a letter, and then the reply
            ends = chr(ids[len(wanted)]) in ascii_letters
            wanted += [1, 0, 0] if ends else [1]
        assert mask == wanted
        heard += wanted.count(0)
        plain = log_probs(trainer.model, prompt, ids)
        assert said == pytest.approx([p * m for p, m in zip(plain, wanted, strict=True)], abs=1e-5)
    assert heard > 20


def test_what_does_not_fit_is_named() -> None:
    env = make_env()
    with pytest.raises(PromptError, match="no prompt of the environment"):
        env.rollout_func(["unknown"], make_trainer())
    with pytest.raises(ConfigError, match="give the trainer its rollout_func too"):
        env.reward(prompts=["ab"], completions=[""])
    with pytest.raises(ConfigError, match="not a SyncVectorEnv"):
        TRLEnvironment(gym.make_vec("CartPole-v1", vectorization_mode="sync"))
    twice = [Prompt("ab", {"wanted": "x"}), Prompt("ab", {"wanted": "y"})]
    with pytest.raises(PromptError, match="stands twice with different columns"):
        TRLEnvironment(TextVectorEnv(twice, TOKENIZER, pay, 5))
    other = make_trainer()
    other.processing_class = Policy.from_pretrained(str(load_task("products").policy)).tokenizer
    with pytest.raises(ConfigError, match="other tokens"):
        env.rollout_func(["ab"], other)
    if importlib.util.find_spec("datasets") is None:
        with pytest.raises(MissingLibraryError, match=r'pip install "text-gym\[trl\]"'):
            env.dataset()
    else:
        assert env.dataset()[0] == {"wanted": "x", "prompt": "ab"}


def test_a_factory_has_the_methods_that_trl_looks_for_and_one_tool() -> None:
    """TRL lists the class's functions: `reset`, `get_reward`, and all others without `_` are tools."""
    found = environment_factory(load_task("guess"))
    assert [name for name, _ in inspect.getmembers(found, inspect.isfunction) if name[0] != "_"] == [
        "get_reward",
        "reset",
        "say",
    ]
    assert found.__name__ == "guess"
    utils = pytest.importorskip("transformers.utils")
    schema = utils.get_json_schema(found().say)["function"]
    assert schema["parameters"]["required"] == ["text"]
    assert schema["parameters"]["properties"]["text"]["type"] == "string"


@pytest.mark.parametrize("name", ["guess", "shop", "reverse"])
def test_a_factory_pays_what_the_environment_pays_token_by_token(name: str) -> None:
    """The oracle is the native environment, stepped by the ids of the same words, then by EOS to the end."""
    task, rng = load_task(name), np.random.default_rng(1)
    factory = environment_factory(task)
    instances = [factory(), factory()]
    words = [task.tokenizer.decode([i]).strip() for i in range(task.tokenizer.vocab_size)]
    words = [w for w in words if w and i_can_write(task.tokenizer, w)]
    for seed in range(12):
        said = [str(w) for w in rng.choice(words, size=int(rng.integers(0, 4)))]
        env = TextVectorEnv(**task.env_kwargs(), num_envs=1, autoreset_mode="Disabled")
        env.reset(seed=seed)
        wanted, over, heard = 0.0, False, 0
        for turn in [*said, *[""] * 40]:
            for token in [*task.tokenizer.encode(turn), *task.tokenizer.eos_ids[:1]]:
                if over:
                    break
                _, reward, terminated, _, _ = env.step([int(token)])
                wanted, over = wanted + float(reward[0]), bool(terminated[0])
                (episode,) = env.episodes(np.zeros(1, dtype=np.int64))
                answers = sum(t.role != "assistant" for t in episode.turns)
                if answers > heard:
                    heard = answers
                    break
        for instance in instances:  # of one group
            assert instance.reset(seed=seed, prompt=[]) == episode.prompt.text
            for turn in said:
                try:
                    instance.say(turn)
                except EpisodeError:  # it was over; TRL tells the model so
                    break
            assert instance.get_reward() == pytest.approx(wanted)
            assert instance.get_reward() == pytest.approx(wanted)


def i_can_write(tokenizer: Any, word: str) -> bool:
    try:
        return bool(tokenizer.encode(word))
    except TokenError:
        return False


class Echo:
    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        return "Hello.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"{action}!", 1.0, action == "bye", False, {}


def test_a_factory_puts_the_line_end_back_and_names_mistakes() -> None:
    env = environment_factory(from_text_env(Echo, n_train=2, n_held_out=1, max_turns=4))()
    env.reset(seed=0)
    with pytest.raises(EpisodeError, match="a message is a text, not int '7'"):
        env.say(7)
    assert env.say("one") == "one!\n"
    assert env.say("bye\n") == "bye!\n"
    with pytest.raises(EpisodeError, match="reset first"):
        env.say("more")
    assert env.get_reward() == 2.0
    with pytest.raises(ConfigError, match="'seed' is a whole number, not '1'"):
        env.reset(seed="1")
