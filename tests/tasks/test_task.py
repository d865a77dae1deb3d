from __future__ import annotations

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import Prompt, Task, TextEnv, TextVectorEnv, load_task, split_by_prompt
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.tasks.task import ENV_IDS, TASKS


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_what_an_environment_needs(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.prompts
    assert task.held_out
    env = TextVectorEnv(**task.env_kwargs(), num_envs=2)
    env.reset(seed=0)
    assert env.max_tokens == task.max_tokens
    assert (task.optimum is None) or task.optimum > (task.random_return or 0.0)


def test_overrides_win_and_none_means_the_tasks_own() -> None:
    task = load_task("copy", length=2)
    kwargs = task.env_kwargs(max_tokens=9, prompts=None, stop="b")
    assert (kwargs["max_tokens"], kwargs["prompts"], kwargs["stop"]) == (9, task.prompts, "b")


def test_a_task_says_how_it_is_made_again_and_what_cannot_be_said_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_task("products").settings == {"task": "products"}
    task = load_task("copy", length=2)
    assert task.settings == {"task": "copy", "task_arguments": {"length": 2}}
    assert load_task(task.settings["task"], **task.settings["task_arguments"]).prompts == task.prompts

    def made(ratio: object) -> Task:
        return load_task("sort")

    monkeypatch.setitem(TASKS, "mine", made)
    assert load_task("mine", ratio=0.5).settings == {"task": "mine", "task_arguments": {"ratio": 0.5}}
    assert load_task("mine", ratio={1, 2}).settings == {}


def test_every_id_is_registered_with_both_entry_points() -> None:
    for env_id, kwargs in ENV_IDS.items():
        spec = gym.spec(env_id)
        assert spec.kwargs == {"infos": "numbers"} | kwargs
        assert kwargs["task"] in TASKS
        assert (spec.entry_point, spec.vector_entry_point) == (
            "text_gym.envs.single:TextEnv",
            "text_gym.envs.vector:TextVectorEnv",
        )


def test_unknown_tasks_and_parameters() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'reverse'"):
        load_task("revers")
    with pytest.raises(ConfigError, match=r"lenght.*did you mean 'length'"):
        TextEnv(task="reverse", lenght=3)


PROMPTS = st.lists(st.text(max_size=3), min_size=1, max_size=30).map(lambda ts: [Prompt(t) for t in ts])


@given(PROMPTS, st.integers(0, 5))
def test_a_split_shares_no_prompt_loses_none_and_keeps_the_order(prompts: list[Prompt], seed: int) -> None:
    train, held_out = split_by_prompt(prompts, 0.4, seed)
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert sorted(p.id for p in train + held_out) == sorted(p.id for p in prompts)
    positions = [next(i for i, q in enumerate(prompts) if q is p) for p in train]
    assert positions == sorted(positions)
    if len({p.id for p in prompts}) > 1:
        assert train
        assert held_out


def test_which_side_a_prompt_is_on_does_not_depend_on_the_others() -> None:
    prompts = [Prompt(str(i)) for i in range(200)]
    everyone, half = ({p.id for p in split_by_prompt(ps)[1]} for ps in (prompts, prompts[::2]))
    assert half == everyone & {p.id for p in prompts[::2]}


def test_an_id_stays_on_its_side_whatever_its_texts_are() -> None:
    several = [Prompt(f"text {i}", {"row": i}, id=str(i % 60)) for i in range(240)]
    others = [Prompt(f"another {i}", id=str(i)) for i in range(60)]
    sides = [
        ({p.id for p in train}, {p.id for p in held})
        for train, held in map(split_by_prompt, (several, others))
    ]
    assert sides[0] == sides[1]
    assert 0 < len(sides[0][1]) < 60


def test_a_split_has_about_the_share_asked_for_and_follows_the_seed() -> None:
    prompts = [Prompt(str(i)) for i in range(5000)]
    held_out = split_by_prompt(prompts, 0.2)[1]
    assert 0.2 - 4 * 0.0057 < len(held_out) / 5000 < 0.2 + 4 * 0.0057  # 4 standard errors
    assert held_out != split_by_prompt(prompts, 0.2, seed=1)[1]


def test_a_task_is_no_name() -> None:
    with pytest.raises(ConfigError, match="name is a string, not Task; a Task needs no loading"):
        load_task(load_task("copy"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("env_id", "task"),
    [
        ("text_gym/Reverse-v0", "'reverse'"),
        ("text_gym/Sort-onehot-v0", "'sort'"),
        ("text_gym/SparseReverse-v0", "'reverse' with sparse=True"),
    ],
)
def test_an_id_is_no_name_and_its_task_is_told(env_id: str, task: str) -> None:
    with pytest.raises(ConfigError, match=f"{env_id} is the id of an environment.*; the task is {task}$"):
        load_task(env_id)
