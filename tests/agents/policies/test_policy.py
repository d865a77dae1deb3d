from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.small_models import (
    KINDS,
    OTHER_KINDS,
    parameters_of,
    plain_forward,
    same_parameters,
    small_model,
    small_policy,
)
from text_gym import ByteTokenizer, PretrainedTokenizer, TextVectorEnv, WordTokenizer
from text_gym.agents import Policy, rollout
from text_gym.errors import ConfigError, DataError, NonFiniteError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def texts(vocab: int = 11, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded random texts with prompts and completions of mixed lengths."""
    rng = np.random.default_rng(seed)
    starts, lengths = np.array([1, 5, 2, 9, 3, 7]), np.array([4, 1, 12, 3, 8, 6])
    tokens = rng.integers(0, vocab, size=(6, 16))
    return torch.from_numpy(tokens), torch.from_numpy(starts), torch.from_numpy(lengths)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", [*KINDS, *OTHER_KINDS, "recurrent_gemma"])
def test_evaluate_says_what_an_unpadded_forward_says(kind: str, dtype: torch.dtype) -> None:
    policy = small_policy(kind, dtype=dtype)
    # They compute some of it in float32.
    in_float32 = kind in ("gpt_neo", "llama4_text", "mamba", "recurrent_gemma")
    tolerance = TOLERANCE[torch.float32 if in_float32 else dtype]
    tokens, starts, lengths = texts()
    with torch.no_grad():
        found = policy.evaluate(tokens, starts, lengths, entropy=True)
        for i, (p, t) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            ids = tokens[i, : p + t]
            log_p, values = (x.to(dtype) for x in plain_forward(policy, ids.tolist(), p))
            expected = {
                "log_probs": log_p[range(t), ids[p:]],
                "values": values,
                "entropy": -(log_p.exp() * log_p).sum(1),
            }
            for name, column in expected.items():
                row = getattr(found, name)[i]
                assert row.dtype == dtype
                assert torch.allclose(row[:t], column, rtol=0, atol=tolerance), name
                assert not row[t:].any()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_a_model_with_spare_rows_gives_them_no_probability(kind: str) -> None:
    tokenizer = WordTokenizer([f"w{i}" for i in range(59)])
    assert tokenizer.vocab_size == 61
    policy = small_policy(kind, tokenizer, rows=64, dtype=torch.float64)
    tokens, starts, lengths = texts(61)
    hidden = policy.hidden(tokens).last_hidden_state
    assert policy.logits(hidden).shape == (*tokens.shape, 61)
    with torch.no_grad():
        found = policy.score(tokens, starts, lengths)
        log_p, _ = plain_forward(policy, tokens[2, :14].tolist(), 2)  # normalised over 61, not 64
    assert torch.allclose(found[2], log_p[range(12), tokens[2, 2:14]], rtol=0, atol=1e-12)


def test_padding_and_order_and_parts_do_not_matter() -> None:
    policy = small_policy(dtype=torch.float64)
    tokens, starts, lengths = texts()
    plain = policy.score(tokens, starts, lengths)
    other_padding = torch.nn.functional.pad(tokens, (0, 9), value=7)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for found in (
        policy.score(other_padding, starts, lengths),
        policy.score(tokens, starts, lengths, rows=1),
        policy.score(tokens, starts, lengths, rows=4),
        policy.score(tokens[order], starts[order], lengths[order])[order.argsort()],
    ):
        assert torch.allclose(found, plain, rtol=0, atol=1e-12)
    assert not plain.requires_grad


def test_temperature_divides_the_logits() -> None:
    policy = small_policy(dtype=torch.float64)
    tokens, starts, lengths = texts()
    with torch.no_grad():
        found = policy.score(tokens, starts, lengths, temperature=0.5)
        logits = policy.model(tokens[:1, :5]).logits[0, 0]
    weights = logits[:11].exp() ** 2
    assert found[0, 0].item() == pytest.approx(math.log(weights[tokens[0, 1]] / weights.sum()), abs=1e-12)


def test_gradients_reach_trunk_head_and_value_head() -> None:
    policy = small_policy()
    said = policy.evaluate(*texts())
    (said.log_probs.sum() + said.values.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


@pytest.mark.parametrize("kind", ["gpt2", "opt", "biogpt"])
def test_dropout_is_off_where_gradients_are_checkpointed_too(kind: str) -> None:
    """GPT-2 drops out in modules, OPT in the layers' own forward pass, BioGPT in the model's as well."""
    rates = {"gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"], "opt": ["dropout", "attention_dropout"]}
    rates["biogpt"] = ["hidden_dropout_prob", "activation_dropout", "attention_probs_dropout_prob"]
    policy = small_policy(kind, **dict[str, Any](dict.fromkeys(rates[kind], 0.5)))
    calm = policy.evaluate(*texts()).log_probs.detach()
    again = policy.use_less_memory(gradient_checkpointing=True).evaluate(*texts()).log_probs
    assert torch.allclose(again, calm, rtol=0, atol=1e-5)
    again.sum().backward()
    assert not any(m.training for m in policy.modules())


def test_dropout_is_off_although_the_model_asks_for_it() -> None:
    policy = small_policy(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    calm = small_policy()
    calm.load_state_dict(policy.state_dict())
    for other in (policy, policy.frozen()):
        assert torch.equal(other.evaluate(*texts()).log_probs, calm.evaluate(*texts()).log_probs)


def test_a_frozen_copy_shares_nothing_and_cannot_be_trained() -> None:
    policy = small_policy()
    reference = policy.frozen()
    before = parameters_of(reference)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    assert same_parameters(reference, before)
    assert not any(p.requires_grad for p in reference.parameters())
    tied = reference.model.get_output_embeddings().weight
    assert tied is reference.model.get_input_embeddings().weight


def test_a_new_policy_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (Policy.new(ByteTokenizer(), width=8, layers=1, heads=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert same_parameters(first, parameters_of(again))
    assert not same_parameters(first, parameters_of(other))
    assert first.context == 256
    assert not first.evaluate(*texts()).values.any()  # the critic starts at 0


def test_model_and_tokenizer_must_belong_together() -> None:
    with pytest.raises(ConfigError, match="258 ids but the model only 12"):
        Policy(small_model(rows=12), ByteTokenizer())


def test_a_head_that_is_not_understood_is_refused() -> None:
    class Doubled(transformers.GPT2LMHeadModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            said = super().forward(*args, **kwargs)
            said.logits = 2 * said.logits
            return said

    model = small_model()
    model.__class__ = Doubled
    with pytest.raises(ConfigError, match='"gpt2"'):
        Policy(model, WordTokenizer("abcdefghi", separator=""))


def tiny_model(kind: str, **more: Any) -> Any:
    """A model of this kind with random weights, of 12 ids and two layers."""
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.AutoConfig.for_model(kind, **sizes, **layers, **more)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", ["bert", "gemma3_text"])
def test_a_model_that_is_not_causal_is_refused(kind: str) -> None:
    """BERT as it is, and Gemma 3 as a model of embeddings: both load as causal language models."""
    more: dict[str, Any] = {} if kind == "bert" else {"head_dim": 4, "use_bidirectional_attention": True}
    model = tiny_model(kind, initializer_range=0.4, **more)
    with pytest.raises(ConfigError, match=f'"{kind}", is not causal'):
        Policy(model, WordTokenizer("abcdefghi", separator=""))


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_longrope_is_read_up_to_the_length_at_which_all_angles_change(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 3.0]}
    rope |= {"original_max_position_embeddings": 16, "factor": 4.0}
    lengths = {"max_position_embeddings": 64, "original_max_position_embeddings": 16}
    model = tiny_model(kind, num_key_value_heads=2, rope_parameters=rope, pad_token_id=None, **lengths)
    assert Policy(model, WordTokenizer("abcdefghi", separator="")).context == 16


def test_mpt_reads_as_many_tokens_as_its_configuration_says_by_another_name() -> None:
    policy = small_policy("mpt")
    assert policy.context == 24
    with pytest.raises(ConfigError, match="the policy has 24"):
        rollout(policy, TextVectorEnv(["abc"], policy.tokenizer, len, 30, num_envs=1), np.arange(1))


def test_what_is_saved_is_an_ordinary_hugging_face_folder(tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer.train(["to be or not to be, that is the question"] * 2, vocab_size=265)
    policy = Policy.new(tokenizer, width=16, layers=2, context=32, seed=3)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    policy.save(tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"

    ids = torch.tensor([[5, 9, 200, 31]])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        # Not the same bits: the policy's activation is one kernel.
        assert torch.allclose(model.eval()(ids).logits, policy.model(ids).logits, rtol=0, atol=1e-5)
    assert model.config.pad_token_id == tokenizer.pad_id
    assert model.config.eos_token_id == tokenizer.eos_ids[0]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs("to be that")["input_ids"] == tokenizer.encode("to be that")

    loaded = Policy.from_pretrained(folder)
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert same_parameters(loaded, parameters_of(policy))
    assert policy.value_head.weight.abs().sum() > 0
    head = folder / "value_head" / "value_head.safetensors"
    assert load_file(head).keys() == {"weight", "bias"}
    assert [f.name for f in folder.glob("*.safetensors")] == [
        "model.safetensors"
    ]  # vLLM reads whatever is there
    assert policy.model.config.pad_token_id is None  # as before saving

    old = head.rename(folder / head.name)  # where versions up to 0.2 wrote it
    head.parent.rmdir()
    assert same_parameters(Policy.from_pretrained(folder), parameters_of(policy))
    policy.save(folder)
    assert head.is_file()
    assert not old.exists()


def test_a_folder_without_a_value_head_starts_with_a_critic_of_zero(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    policy = Policy.from_pretrained(tmp_path, WordTokenizer("abcdefghi", separator=""))
    assert not policy.evaluate(*texts()).values.any()


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    model = tmp_path / "model"
    small_model().save_pretrained(model)
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload()}, model / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        Policy.from_pretrained(model, WordTokenizer("abcdefghi", separator=""))
    assert not marker.exists()


def test_code_in_a_model_folder_is_refused_unread(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    marker = tmp_path / "marker"
    text = config.read_text().replace('"model_type": "gpt2"', '"model_type": "unheard-of"')
    config.write_text(
        text.replace("{", '{"auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},', 1)
    )
    (tmp_path / "code.py").write_text(f"open({str(marker)!r}, 'w').close()")
    with pytest.raises(DataError, match="cannot load"):
        Policy.from_pretrained(tmp_path, WordTokenizer("abcdefghi", separator=""))
    assert not marker.exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        Policy.from_pretrained(tmp_path / "nowhere", ByteTokenizer())


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_nan_is_never_saved(tmp_path: Path, poison: float) -> None:
    names = [name for name, _ in small_policy().named_parameters()]
    for name in names:
        policy = small_policy()
        with torch.no_grad():
            policy.get_parameter(name).view(-1)[-1] = poison
        with pytest.raises(NonFiniteError, match=name.replace(".", r"\.")):
            policy.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_in_bfloat16_still_give_float32_log_probabilities() -> None:
    exact = small_policy(dtype=torch.float64)
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    found = rough.score(*texts())
    assert found.dtype == torch.float32
    difference = (found.double() - exact.score(*texts())).abs()
    assert difference.max() > 0
    assert float(difference.sum() / (found != 0).sum()) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["cohere", "gemma2", "granite"])
def test_a_model_that_scales_its_logits_is_not_refused_for_its_rounding(
    kind: str, dtype: torch.dtype
) -> None:
    for seed in range(5):
        assert small_policy(kind, dtype=dtype, seed=seed, initializer_range=1.0).dtype == torch.float32


# Memory


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradient_from_less_memory(kind: str) -> None:
    policy = small_policy(kind, dtype=torch.float64)

    def gradient() -> tuple[list[torch.Tensor], int]:
        kept = 0

        def keep(x: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            said = policy.evaluate(*texts())
        gradients = torch.autograd.grad((said.log_probs + said.values).sum(), list(policy.parameters()))
        return list(gradients), kept

    expected, much = gradient()
    policy.use_less_memory(gradient_checkpointing=True)
    found, little = gradient()
    assert little < 0.8 * much
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert not any(m.training for m in policy.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_bf16_stays_close_and_weights_stay_in_float32(kind: str) -> None:
    policy, exact = small_policy(kind, initializer_range=0.2), small_policy(kind, initializer_range=0.2)
    policy.use_less_memory(bf16=True)
    found, expected = policy.evaluate(*texts(), entropy=True), exact.evaluate(*texts(), entropy=True)
    gaps = [float((a - b).detach().abs().max()) for a, b in zip(found, expected, strict=True)]
    assert 1e-5 < gaps[0] <= 0.05
    assert gaps[2] <= 0.05
    assert all(column.dtype == torch.float32 for column in found)
    found.log_probs.sum().backward()
    expected.log_probs.sum().backward()
    for ours, theirs in zip(policy.model.parameters(), exact.model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == torch.float32
        assert float((ours.grad - theirs.grad).norm()) <= 0.1 * float(theirs.grad.norm()) + 1e-3


def test_in_bf16_sampling_and_scoring_agree() -> None:
    tokenizer = WordTokenizer("abc", separator="", pad=False)
    policy = small_policy(tokenizer=tokenizer, initializer_range=0.2)
    env = TextVectorEnv(["a", "bcab"], tokenizer, lambda completion: 0.0, 6, num_envs=16)
    rollout(policy, env, np.arange(16))  # what is fastest in float32 must not be taken for bf16
    policy.use_less_memory(bf16=True)
    batch = rollout(policy, env, np.arange(16))
    said = policy.score(batch.tokens, batch.starts, batch.lengths)
    assert torch.allclose(said, batch.log_probs, rtol=0, atol=0.05)
