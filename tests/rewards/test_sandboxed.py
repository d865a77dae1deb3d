from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode, Prompt, RewardSource
from text_gym.errors import ConfigError, RewardError
from text_gym.reward_models import load_reward
from text_gym.rewards.sandboxed import SandboxedReward
from text_gym.utils.confinement import unavailable
from text_gym.utils.limits import SandboxLimits

needs_limits = pytest.mark.skipif(
    bool(unavailable()), reason=f"cannot be limited here: {sorted(unavailable())}"
)
TOKENIZER = ByteTokenizer()
FILE = '''
import json, os, socket, sys, time
from pathlib import Path
import numpy as np
from text_gym import RewardSource, Rewards

LENGTHS = json.loads((Path(__file__).parent / "lengths.json").read_text())

def by_length(prompt, completion, answer):
    return LENGTHS[str(len(completion))] + len(prompt) / 3 + (completion == answer)

def where(completion):
    return os.getpid()

class Everything(RewardSource):
    """Values, per-token rewards, terms, abstentions, a failure, and a memory."""
    name, abstains, causal, deterministic = "everything", True, True, False
    costly = True
    def __init__(self, scale=1.0):
        self.scale, self.seen = scale, 0
    def score(self, episodes):
        self.seen += len(episodes)
        self._last_failure = f"saw {self.seen}"
        values = np.array([self.scale / 3 * len(e.completion) + e.index for e in episodes])
        abstained = np.array([e.completion == "" for e in episodes])
        masked = np.array([0.0 if e.agent_mask is None else e.agent_mask.sum() for e in episodes])
        per_token = tuple(np.linspace(0, 0.1, len(e.completion_ids)) for e in episodes)
        terms = {"masked": masked, "prompt": [len(e.prompt_ids) for e in episodes]}
        return Rewards(values, per_token, terms, abstained)
    def state_dict(self):
        return {"seen": self.seen}
    def load_state_dict(self, state):
        self.seen = state["seen"]

def harm(completion):
    if completion == "write":
        Path(__file__).write_text("harm")
    if completion == "call":
        socket.create_connection(("127.0.0.1", 1))
    if completion == "hang":
        time.sleep(60)
    if completion == "die":
        os._exit(9)
    if completion == "leave":
        sys.exit(1)
    return float(len(completion))

def lie(completion):
    import text_gym.rewards.worker as worker
    answers = {"none": None, "few": {"values": []}, "words": {"values": ["a"]}, "list": [1]}
    base = {"per_token": None, "terms": {}, "abstained": [], "last_failure": None}
    answer = answers[completion]
    worker.serve._answer = lambda *_: base | answer if isinstance(answer, dict) else answer
    return 1.0
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lengths.json").write_text(
        "".join(["{", ", ".join(f'"{i}": {i / 7}' for i in range(30)), "}"])
    )
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def episodes() -> list[Episode]:
    texts = ["", "a", "böse \ud83d", "the answer", "x" * 20]
    found = []
    for i, text in enumerate(texts):
        episode = Episode.of(
            Prompt("Say:" + "!" * i, {"answer": "the answer", "more": (1, b"2")}), "abc", TOKENIZER
        )
        changed = {
            "index": i,
            "seed": 3,
            "agent_mask": None if i % 2 else np.array([True, False, True, False]),
        }
        episode.__dict__.update(changed, completion=text)
        found.append(episode)
    return found


def text(completion: str) -> list[Episode]:
    return [Episode.of("Say:", completion, TOKENIZER)]


@pytest.mark.parametrize("name", ["by_length", "Everything"])
def test_rewards_are_those_of_the_file_bit_for_bit(file: Path, name: str) -> None:
    inside, outside = (load_reward(f"{file}:{name}", sandbox=sandbox) for sandbox in (True, False))
    assert isinstance(inside, SandboxedReward)
    assert not isinstance(outside, SandboxedReward)
    for flag in ("name", "deterministic", "abstains", "causal", "interactive", "costly"):
        assert getattr(inside, flag) == getattr(outside, flag)
    for _ in range(2):
        found, expected = inside(episodes()), outside(episodes())
        assert found.values.tobytes() == expected.values.tobytes()
        assert found.abstained.tolist() == expected.abstained.tolist()
        assert {k: list(v) for k, v in found.terms.items()} == {k: list(v) for k, v in expected.terms.items()}
        assert (found.per_token is None) == (expected.per_token is None)
        for one, two in zip(found.per_token or (), expected.per_token or (), strict=True):
            assert one.tobytes() == two.tobytes()
        assert inside.last_failure == outside.last_failure


def test_a_file_runs_in_another_process_unless_one_says_otherwise(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pid(source: RewardSource) -> int:
        return int(source(text("x")).values[0])

    before = set(sys.modules)
    source = load_reward(f"{file}:where")
    assert pid(source) != os.getpid()
    assert pid(source) == pid(source)
    assert not [name for name in set(sys.modules) - before if "mine" in name]
    assert pid(load_reward(f"{file}:where", sandbox=False)) == os.getpid()
    monkeypatch.setenv("TEXT_GYM_SANDBOX", "0")
    assert pid(load_reward(f"{file}:where")) == os.getpid()
    assert pid(load_reward(f"{file}:where", sandbox=True)) != os.getpid()


def test_its_memory_is_saved_and_taken_up(file: Path) -> None:
    first = load_reward(f"{file}:Everything", scale=2.0)
    first(episodes())
    assert first.state_dict() == {"seen": 5}
    second = pickle.loads(pickle.dumps(first))
    assert second.state_dict() == {"seen": 0}  # a copy starts another process
    second.load_state_dict(first.state_dict())
    second(episodes())
    assert second.last_failure == "saw 10"
    assert second(episodes()).values[1] == 2.0 / 3 + 1


@needs_limits
def test_harm_is_contained_and_named(file: Path) -> None:
    source = SandboxedReward(file, "harm", limits=SandboxLimits(seconds=0.5))
    assert source.missing == {}
    cases = {
        "write": r"reward 'harm' raised PermissionError: .*may write only to its temporary folder",
        "call": r"reward 'harm' raised OSError.*; the sandbox gives no network.*--no-sandbox",
        "hang": r"reward 'harm' took longer than 0\.5 s for 1 episodes",
        "die": r"reward 'harm': .*its worker process died \(exit code 9\)",
        "leave": r"reward 'harm' raised SystemExit: 1 at .*mine\.py",
    }
    for completion, words in cases.items():
        with pytest.raises(RewardError, match=words):
            source(text(completion))
        assert source(text("four")).values.tolist() == [4]  # the run goes on
    assert file.read_text() == FILE


@pytest.mark.parametrize("lie", ["none", "few", "words", "list"])
def test_answers_are_checked_here_not_there(file: Path, lie: str) -> None:
    source = load_reward(f"{file}:lie")
    assert source(text(lie)).values.tolist() == [1]
    with pytest.raises(RewardError, match="reward 'lie'"):
        source(text(lie))


def test_a_file_that_cannot_be_loaded_in_a_sandbox_says_how_to_go_on(file: Path) -> None:
    file.write_text("import os\nos._exit(1)\n")
    with pytest.raises(RewardError, match=r"process died.*--no-sandbox"):
        load_reward(f"{file}:f")
    file.write_text("import os\nkey = os.environ['MY_API_KEY']\n")
    with pytest.raises(RewardError, match=r"raised KeyError: 'MY_API_KEY'.*--no-sandbox"):
        load_reward(f"{file}:f")


def test_classes_learn_from_the_prompts(file: Path) -> None:
    file.write_text(
        "from text_gym import RewardSource\n"
        "class Fitted(RewardSource):\n"
        "    def __init__(self, n=0):\n        self.n = n\n"
        "    @classmethod\n    def fit(cls, prompts, n=0):\n        return cls(n + len(list(prompts)))\n"
        "    def score(self, episodes):\n        return [self.n] * len(episodes)\n"
    )
    prompts = (Prompt(p) for p in "abc")
    assert load_reward(f"{file}:Fitted", prompts=prompts, n=10)(text("x")).values.tolist() == [13]
    with pytest.raises(ConfigError, match="it takes"):
        load_reward(f"{file}:Fitted", prompts=[], m=1)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: 2 * s - 1])
def test_sandboxed_rewards_nest(file: Path, wrap: Callable[[RewardSource], RewardSource]) -> None:
    inside, outside = (wrap(load_reward(f"{file}:by_length", sandbox=s)) for s in (True, False))
    assert inside(episodes()).values.tobytes() == outside(episodes()).values.tobytes()
