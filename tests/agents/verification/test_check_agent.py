"""The algorithm of the docs keeps every law; each broken variant breaks the law that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.own_algorithm import code_of_the_page, write_algorithm
from text_gym.agents import GRPO, GRPOConfig, check_agent
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.verification import laws
from text_gym.agents.verification.laws import Law
from text_gym.agents.verification.trial import Trial
from text_gym.errors import CheckError, ConfigError

LAWS: dict[str, Callable[[Trial], str]] = {
    "learning rate": laws.learning_rate,
    "seeds": laws.seeds,
    "abstention": laws.abstention,
    "padding": laws.padding,
    "credit": laws.credit,
    "save and load": laws.save_and_load,
}
LOSS = "loss = -((returns - baseline) * log_probs).mean()"
ONLY = "batch = batch.only(batch.scored)  # what was not judged is no sample\n"
LOG_PROBS = "log_probs = (now.log_probs * batch.mask).sum(dim=1)  # (B,), of whole texts"
IMPORT = "from dataclasses import dataclass\n"
MEMORY = "self.baseline = self.config.decay * baseline + (1 - self.config.decay) * mean"
STATE = '        self.baseline = state["baseline"]\n'
SOME = "keep = {}\n        loss = -((returns - baseline) * log_probs)[keep].mean()"  # a random half

# What is broken: the law that must notice, what it must say, and the change.
BROKEN: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "sign of the advantage": (
        "credit",
        "becomes less likely .* the sign is wrong",
        [(LOSS, LOSS.replace("-(", "(", 1))],
    ),
    "reward of another row": (
        "credit",
        "moves other texts more than itself .* its own reward",
        [("batch.rewards.sum(dim=1)", "batch.rewards.sum(dim=1).roll(1)")],
    ),
    "rewards of nobody": (
        "credit",
        "rewards change nothing",
        [("batch.rewards.sum(dim=1)", "batch.lengths.float()")],
    ),
    "no mask": (
        "padding",
        "padding is learnt from.*batch.mask",
        [
            (IMPORT, IMPORT + "import torch\n"),
            (
                LOG_PROBS,
                "said = torch.log_softmax(self.policy.model(batch.tokens).logits[:, :-1], -1)\n"
                "        log_probs = said.gather(2, batch.tokens[:, 1:, None])[..., 0].sum(dim=1)",
            ),
        ],
    ),
    "learning from what was not judged": ("abstention", "teach something", [(ONLY, "\n")]),
    "learning from what was not judged, up to its end": (
        "abstention",
        "teach something",
        [(ONLY, "\n"), ("batch.rewards.sum(dim=1)", "(batch.rewards * batch.mask).sum(dim=1)")],
    ),
    "a baseline of what was not judged": (
        "abstention",
        "(teach something|what the agent remembers)",
        [
            (ONLY, "judged = batch.scored.float()\n"),
            (LOSS, "loss = -((returns - baseline) * log_probs * judged).sum() / judged.sum()"),
        ],
    ),
    "dividing by what was not judged": (
        "abstention",
        "texts that were not judged count",
        [
            (ONLY, "judged = batch.scored.float()\n"),
            ("mean = float(returns.mean())", "mean = float((returns * judged).sum() / judged.sum())"),
            (LOSS, "loss = -((returns - baseline) * log_probs * judged).mean()"),
            (" | self.track_objective(batch, reference)", ""),
        ],
    ),
    "global random numbers": (
        "seeds",
        "global random state.*global generator",
        [(IMPORT, IMPORT + "import torch\n"), (LOSS, SOME.format("torch.rand(len(returns)) < 0.5"))],
    ),
    "a generator without a seed": (
        "seeds",
        "other weights the second time.*no seed",
        [
            (IMPORT, IMPORT + "import numpy as np\nimport torch\n"),
            (LOSS, SOME.format("torch.from_numpy(np.random.default_rng().random(len(returns)) < 0.5)")),
        ],
    ),
    "a generator of the module": (
        "seeds",
        "RNG changes while an agent learns and outlives it",
        [
            (IMPORT, IMPORT + "import numpy as np\nimport torch\nRNG = np.random.default_rng(0)\n"),
            (LOSS, SOME.format("torch.from_numpy(RNG.random(len(returns)) < 0.5)")),
        ],
    ),
    "a baseline of the class": (
        "seeds",
        r"Moving\.baseline changes while an agent learns and outlives it",
        [(MEMORY, MEMORY.replace("self.baseline", "type(self).baseline"))],
    ),
    "a seed that decides nothing": (
        "seeds",
        "another config.seed gives the same weights",
        [
            (
                "    def state_dict(self):",
                "    def collect(self):\n        import dataclasses\n"
                "        self.config = dataclasses.replace(self.config, seed=0)\n"
                "        return super().collect()\n\n    def state_dict(self):",
            )
        ],
    ),
    "a memory that is not saved": ("save and load", "not what it was", [(STATE, "")]),
    "steps of its own": (
        "learning rate",
        "with learning_rate=0 the policy changes",
        [
            (
                '"grad_norm": self.step(loss)',
                '"grad_norm": [self.policy.zero_grad(), loss.backward()] and '
                "sum(float(p.data.sub_(p.grad * 0.1).sum()) for p in self.policy.model.parameters())",
            )
        ],
    ),
    "no steps": ("learning rate", "no weight changes", [("self.step(loss)", "0.0")]),
}


def trial(spec: str) -> Trial:
    return Trial(load_algorithm(spec), None, seed=0)


@pytest.mark.parametrize("what", BROKEN)
def test_each_broken_variant_breaks_its_law(what: str, tmp_path: Path) -> None:
    law, said, changes = BROKEN[what]
    with pytest.raises(CheckError, match=f"(?s){said}"):
        LAWS[law](trial(write_algorithm(tmp_path, *changes)))


@pytest.mark.nightly
@pytest.mark.parametrize("what", BROKEN)
def test_the_whole_check_names_it(what: str, tmp_path: Path) -> None:
    law, _, changes = BROKEN[what]
    with pytest.raises(CheckError, match=f"BROKEN  {law}"):
        check_agent(write_algorithm(tmp_path, *changes))


def test_the_algorithm_of_the_page_has_forty_lines_and_keeps_every_law(tmp_path: Path) -> None:
    assert len([line for line in code_of_the_page().splitlines() if line.strip()]) <= 40
    found = check_agent(write_algorithm(tmp_path))
    assert [law.name for law in found.laws] == [*LAWS, "closed form"]
    assert found.broken == []
    assert found.laws[-1].said.endswith("it finds the closed form")
    assert str(found).startswith("Moving breaks none of the laws\n  holds   learning rate")


def test_a_wrong_sign_is_caught_by_the_whole_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "ITERATIONS", 30)
    _, _, changes = BROKEN["sign of the advantage"]
    with pytest.raises(CheckError) as caught:
        check_agent(write_algorithm(tmp_path, *changes))
    said = str(caught.value)
    assert said.startswith("Moving breaks 2 of 7 laws")
    assert "BROKEN  credit" in said
    assert "BROKEN  closed form" in said
    assert "it does not climb" in said


@pytest.mark.parametrize(
    "name", ["reinforce", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("ppo", "rloo", "best_of_n"))]
)
def test_our_own_algorithms_keep_the_laws(name: str) -> None:
    assert {n: law(trial(name)) for n, law in LAWS.items()}.keys() == LAWS.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce", "best_of_n"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_our_own_algorithms_keep_all_of_them(name: str, seed: int) -> None:
    check_agent(name, seed=seed)


def test_groups_of_an_odd_size_find_a_batch_that_they_divide() -> None:
    assert Trial(GRPO, GRPOConfig(group_size=5), 0).rows == 50
    with pytest.raises(ConfigError, match="group_size=31"):
        Trial(GRPO, GRPOConfig(group_size=31), 0)


def test_what_an_agent_raises_breaks_the_law_that_was_tried(tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, (LOSS, 'raise ValueError("on purpose")'))
    found = laws.every_law(trial(spec))
    assert [law.holds for law in found] == [False] * 7
    assert found[0] == Law("learning rate", False, "the agent raised ValueError: on purpose")
