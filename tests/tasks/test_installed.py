from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from tests.installed_package import install
from text_gym import TextEnv, TextVectorEnv, check_text_env, load_task
from text_gym.envs.single import register_envs
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.tasks.installed import env_id
from text_gym.tasks.task import TASKS, env_ids, task_names


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; modules and Gymnasium ids of what a test installs there are gone after it."""
    monkeypatch.syspath_prepend(tmp_path)
    modules, ids = set(sys.modules), set(gym.registry)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    for name in set(gym.registry) - ids:
        del gym.registry[name]


def test_an_installed_task_is_found_by_name_and_its_code_runs_only_then(site: Path) -> None:
    install(site, "palette", {"colours": "colours"})
    assert task_names()[-1] == "colours"
    register_envs()
    assert "colours/Colours-v0" in gym.registry
    assert "palette" not in sys.modules
    task = load_task("colours", wanted="blue")
    assert "palette" in sys.modules
    assert task.settings == {"task": "colours", "task_arguments": {"wanted": "blue"}}


def test_gymnasium_makes_its_environments(site: Path) -> None:
    install(site, "palette", {"colours": "colours"})
    register_envs()
    env = gym.make("colours/Colours-v0", wanted="blue")
    env.reset(seed=0)
    _, reward, *_ = env.step(3)
    _, paid, terminated, *_ = env.step(4)
    assert (reward, paid, terminated) == (0, 1, True)
    check_text_env(TextEnv(task="colours"), steps=50)
    flat = gym.make("colours/Colours-onehot-v0")  # for programs that take an id and nothing else
    assert isinstance(flat.observation_space, gym.spaces.Box)
    assert flat.reset(seed=0)[1] == {}
    envs = gym.make_vec("colours/Colours-v0", num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(envs.unwrapped, TextVectorEnv)
    register_envs()  # twice is as good as once


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import no_such_module\n",
            r"ModuleNotFoundError: No module named 'no_such_module' \(.*bad\.py, line 1\)",
        ),
        ("\nimport sys\nsys.exit('enough')\n", r"SystemExit: enough \(.*bad\.py, line 3\)"),
        ("def other():\n    pass\n", "AttributeError: .*'colours'"),
        ("def colours():\n    return 1 / 0\n", r"ZeroDivisionError: .*bad\.py, line 2\)"),
        ("def colours():\n    return 'a task'\n", "returned a str, not a text_gym.Task"),
        ("colours = 7\n", "'int' object is not callable"),
        ("def colours(:\n", "SyntaxError"),
        ("raise ValueError('two\\nlines \\x1b[31m')\n", r"ValueError: two\\nlines \\x1b\[31m"),
    ],
)
def test_a_broken_package_is_named_and_breaks_nothing_else(site: Path, code: str, said: str) -> None:
    install(site, "bad", {"broken": "colours"}, code=code)
    install(site, "palette", {"colours": "colours"})
    with pytest.raises(ConfigError, match=said) as caught:
        load_task("broken")
    assert "installed package bad 1.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    register_envs()
    assert load_task("colours").name == "colours"
    assert load_task("copy").name == "copy"
    with pytest.raises(ConfigError, match=r"bad 1\.2"):
        gym.make("broken/Broken-v0")


def test_a_wrong_parameter_is_the_callers_mistake(site: Path) -> None:
    install(site, "palette", {"colours": "colours"})
    with pytest.raises(ConfigError, match=r"task 'colours': .*shade") as caught:
        TextEnv(task="colours", shade=3)
    assert "palette" not in str(caught.value)


def test_a_task_of_two_packages_names_both(site: Path) -> None:
    install(site, "palette", {"colours": "colours"})
    install(site, "paintbox", {"colours": "colours"}, version="3.0")
    with pytest.raises(ConfigError, match=r"(?=.*palette 1\.2)(?=.*paintbox 3\.0).*uninstall all but one"):
        load_task("colours")


def test_built_in_tasks_are_not_replaced(site: Path) -> None:
    install(site, "palette", {"copy": "colours"})
    assert load_task("copy").tokenizer.vocab_size == 4
    assert task_names() == list(TASKS)
    assert "copy/Copy-v0" not in env_ids()
    assert "palette" not in sys.modules


def test_names_that_nobody_has_are_answered_with_installed_ones_too(site: Path) -> None:
    install(site, "palette", {"colours": "colours"})
    with pytest.raises(UnknownNameError, match="did you mean 'colours'"):
        load_task("colors")


def test_names_that_gymnasium_does_not_take_have_no_id(site: Path) -> None:
    install(site, "palette", {"of two words": "colours", "sea-blue": "colours"})
    assert [env_id(name) for name in ("of two words", "a.b", "ß", "")] == [None] * 4
    register_envs()
    assert "sea-blue/SeaBlue-v0" in gym.registry
    assert load_task("of two words").name == "colours"
