"""`text-gym play`: be the policy yourself, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from text_gym.cli.options.play import PlayOptions
from text_gym.envs.single import TextEnv
from text_gym.errors import ConfigError, TextGymError, UnknownNameError
from text_gym.tasks.task import env_ids, task_names
from text_gym.tokenizer import Tokenizer
from text_gym.utils.display import counted, harmless
from text_gym.utils.terminal import SafeConsole, typed_lines

HELP = """\
  any text   append its tokens, one step each
  #42        append token id 42
  .          end the episode with EOS
  ?text      show the ids of a text
  :obs       show the observation
  :reset     start the next episode
  :help      this help
  :quit      leave"""


def run_play(options: PlayOptions) -> int:
    """Run `text-gym play`."""
    import gymnasium as gym

    name = options.task or "text_gym/Products-v0"
    if name in task_names():
        env = TextEnv(task=name)
    elif name in gym.registry:
        made = gym.make(name, infos="changing").unwrapped
        if not isinstance(made, TextEnv):
            raise ConfigError(f"{name} is not a text environment")
        env = made
    else:
        raise UnknownNameError("environment", name, [*env_ids(), *task_names()])
    play(env, SafeConsole(), typed_lines(), options.seed)
    return 0


def play(env: TextEnv, console: Console, lines: Iterator[str], seed: int | None = None) -> float:
    """Play episodes until the input ends or `:quit`.

    Args:
        env: The environment.
        console: Where to show it.
        lines: What the person types, without line ends.
        seed: Of the environment.

    Returns:
        The last finished episode's return (nan if there was none).
    """
    console.print(Text(f"You are the policy.\n{HELP}"))
    total, last = 0.0, float("nan")
    observation, info = env.reset(seed=seed)
    done, steps = False, 0
    _show_start(env, console, info)
    for line in lines:
        command = line.strip()
        if command == ":quit":
            break
        if command == ":help":
            console.print(Text(HELP))
        elif command == ":reset":
            observation, info = env.reset()
            total, done, steps = 0.0, False, 0
            _show_start(env, console, info)
        elif command == ":obs":
            length = int(observation["length"][0])
            console.print(
                f"length {length}, tokens {observation['tokens'][:length].tolist()}", highlight=False
            )
            if "action_mask" in observation:
                console.print(
                    f"allowed ids {np.flatnonzero(observation['action_mask']).tolist()}", highlight=False
                )
        elif command.startswith("?"):
            console.print(f"{_encode(env.vector.tokenizer, line.strip()[1:], console)}", highlight=False)
        elif done:
            console.print("the episode is over: :reset starts the next one, :quit leaves")
        else:
            for token in _tokens(env.vector.tokenizer, line, console):
                end = int(observation["length"][0]) + 1  # of what will be written by the person
                try:
                    observation, reward, terminated, truncated, info = env.step(np.int64(token))
                except TextGymError as error:
                    console.print(Text(str(error), style="red"))
                    break
                total, steps = total + reward, steps + 1
                done = terminated or truncated
                _show_step(env, console, steps, token, reward, terminated, truncated)
                if observation["length"][0] > end:
                    reply = observation["tokens"][end : observation["length"][0]].tolist()
                    said = harmless(env.vector.tokenizer.decode(reply), newlines=True)
                    console.print(Text.assemble(("reply", "bold"), f"  {said}"))
                if done:
                    last = total
                    _show_end(console, total, info)
                    break
    return last


def _tokens(tokenizer: Tokenizer, line: str, console: Console) -> Sequence[int]:
    """Return the ids a typed line stands for."""
    command = line.strip()
    if command == ".":
        if not tokenizer.eos_ids:
            console.print("this tokenizer has no EOS: the token limit ends the episode")
        return tokenizer.eos_ids[:1]
    if re.fullmatch(r"#-?[0-9]{1,18}", command):  # more digits are no int64
        return [int(command[1:])]
    return _encode(tokenizer, line, console)


def _encode(tokenizer: Tokenizer, text: str, console: Console) -> list[int]:
    try:
        return tokenizer.encode(text)
    except TextGymError as error:
        console.print(Text(str(error), style="red"))
        return []


def _show_start(env: TextEnv, console: Console, info: dict[str, object]) -> None:
    vector = env.vector
    console.print(
        Text.assemble(
            ("\nstate", "bold"),
            f"  {harmless(str(info['prompt']))}\n"
            f"       {counted(int(vector.batch.starts[0]), 'prompt token')}; "
            f"action: one of {vector.tokenizer.vocab_size} ids; at most {vector.max_tokens} steps",
        )
    )


def _show_step(
    env: TextEnv, console: Console, step: int, token: int, reward: float, terminated: bool, truncated: bool
) -> None:
    text = harmless(env.vector.tokenizer.decode([token])) or "<special>"
    flags = " terminated" if terminated else " truncated" if truncated else ""
    console.print(
        Text(f"  step {step:3d}  action {token:5d} {text!r:14s} reward {reward:+.3f}{flags}"), soft_wrap=True
    )


def _show_end(console: Console, total: float, info: dict[str, object]) -> None:
    console.print(
        Text.assemble((f"return {total:.3f}", "bold"), f"  {harmless(str(info.get('completion', '')))}")
    )
    terms = info.get("reward_terms")
    if isinstance(terms, dict):
        console.print(Text("  " + "  ".join(f"{name} {value:.3f}" for name, value in terms.items())))
