from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.reward_model_tools import TOKENIZER, WORDS, small_reward_model
from tests.small_models import small_policy
from text_gym import Episode, FunctionReward, Rewards, as_reward_source, as_trl_reward
from text_gym.errors import RewardError
from text_gym.reward_models import Keywords, Length


def test_a_source_is_called_by_trls_contract() -> None:
    source = as_reward_source(lambda prompt, completion, answer: float(completion == answer))
    found = as_trl_reward(source)(
        prompts=["1+1=", "2+2="], completions=["2", "5"], completion_ids=[[1], [2]], answer=["2", "4"]
    )
    assert found == [1.0, 0.0]
    assert type(found) is list


def test_a_composite_is_one_too() -> None:
    source = Length(1, 2) + 0.5 * Keywords(["please"])
    assert as_trl_reward(source)(prompts=["Ask:"], completions=["yes please"]) == [1.5]


def test_no_opinion_is_none() -> None:
    shy = FunctionReward(lambda completion: None if completion == "?" else 1.0, abstains=True, name="shy")
    reward = as_trl_reward(shy)
    assert reward(prompts=["a", "b"], completions=["?", "!"]) == [None, 1.0]
    assert reward.__name__ == "shy"


def test_it_pickles() -> None:
    reward = pickle.loads(pickle.dumps(as_trl_reward(Length(1, 2))))
    assert reward(prompts=["a"], completions=["b c"]) == [1.0]


def test_terms_are_logged() -> None:
    def terms(episodes: Sequence[Episode]) -> Rewards:
        import numpy as np

        values = np.array([1.0, 2.0])
        return Rewards(values, terms={"a": values * 10, "b": np.array([math.nan, 4.0])})

    logged: dict[str, float] = {}
    source = FunctionReward(terms, name="mine")
    found = as_trl_reward(source)(
        prompts=["p", "q"], completions=["x", "y"], log_metric=logged.__setitem__, trainer_state=object()
    )
    assert found == [1.0, 2.0]
    assert logged == {"mine/a": 15.0, "mine/b": 4.0}


def test_conversations_are_their_contents() -> None:
    source = as_reward_source(
        lambda prompt, completion: float(prompt == "be kind\nhi" and completion == "hello")
    )
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert as_trl_reward(source)(
        prompts=[prompt], completions=[[{"role": "assistant", "content": "hello"}]]
    ) == [1.0]


def test_faults_have_names() -> None:
    reward = as_trl_reward(Length())
    with pytest.raises(RewardError, match="'length': prompts is"):
        reward(prompts=["a"], completions=["b", "c"])
    with pytest.raises(RewardError, match="'length': answer is"):
        reward(prompts=["a"], completions=["b"], answer=["1", "2"])
    with pytest.raises(RewardError, match="neither text nor conversation"):
        reward(prompts=[4], completions=["b"])


def test_a_trl_style_function_plugs_in_here() -> None:
    def reward(
        prompts: list[str], completions: list[str], answer: list[str], **kwargs: Any
    ) -> list[float | None]:
        return [None if a is None else float(a in c) for c, a in zip(completions, answer, strict=True)]

    source = as_reward_source(FunctionReward(reward, abstains=True))
    found = source([Episode.of("q", "it is 4", TOKENIZER, answer="4"), Episode.of("q", "5", TOKENIZER)])
    assert found.values.tolist() == [1.0, 0.0]
    assert found.abstained.tolist() == [False, True]


def test_one_step_of_trls_grpo(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import datasets
    import torch
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    policy = small_policy(tokenizer=TOKENIZER)
    policy.save(tmp_path / "policy")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "policy")
    learned = small_reward_model()
    scripted = 0.5 * Keywords(["good", "cats"]) + Length(1, 5)
    config = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    data = datasets.Dataset.from_list(
        [{"prompt": " ".join(WORDS[i : i + 3]), "topic": "cats"} for i in range(8)]
    )
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[as_trl_reward(learned), as_trl_reward(scripted)],
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.reward_func_names == ["learned", "sum"]
    logged = trainer.state.log_history[0]
    assert math.isfinite(logged["rewards/learned/mean"])
    assert "sum/length" in str(sorted(logged))
    assert not torch.equal(model.transformer.h[0].mlp.c_fc.weight, before)
