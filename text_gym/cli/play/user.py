"""`text-gym play --as user`: a policy plays the agent, and a person at the console or page answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.bridges.person import PersonRespondent, holds_controls
from text_gym.chat import with_system
from text_gym.cli.options.play import PlayOptions
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, PromptError, RaterLeftError, RespondentError
from text_gym.runs.origin import load_policy
from text_gym.tasks.task import Task, env_ids, load_task
from text_gym.transcripts import write_transcripts
from text_gym.utils.terminal import SafeConsole, typed_lines

if TYPE_CHECKING:
    from .page import TalkPage

_TOKENS = 1024  # that the policy writes in a talk without a task, where nobody says another number


def run_talk(options: PlayOptions) -> int:
    """Run `text-gym play --as user`."""
    if not options.web:
        talk(options, PersonRespondent(typed_lines(), SafeConsole()))
        return 0
    with make_talk_page(options) as page:
        talk(options, page.person)
    return 0


def make_talk_page(options: PlayOptions, **settings: Any) -> TalkPage:
    """Make the page of `--web` without serving it yet.

    Args:
        options: Its port.
        settings: Further arguments of `TalkPage`.

    Raises:
        ConfigError: The web server is not installed, or the port is not to be had.
    """
    try:
        from text_gym.cli.play.page import TalkPage
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs {error.name}; install it with: pip install starlette uvicorn"
        ) from error
    return TalkPage(SafeConsole(), port=options.port, **settings)


def talk(options: PlayOptions, person: PersonRespondent) -> int:
    """Play conversations with a policy until the person leaves.

    A conversation in whose middle the person leaves is over, and kept nowhere.

    Args:
        options: Whose turn it is to be.
        person: Who answers it.

    Returns:
        The number of conversations that came to their end.

    Raises:
        ConfigError: There is no policy, it has other tokens than the task, nobody answers in the task, or,
            without a task, the policy is no chat model.
        RespondentError: The policy's chat template rewrites what was said before.
        DataError: A finished conversation could not be written.
    """
    task = None if options.task is None else _task(options.task)
    place = options.policy or (None if task is None else task.policy)
    if place is None:
        raise ConfigError(f"task {options.task!r} ships no policy; pass --policy FOLDER")
    policy = load_policy(place, options.device, task)
    if task is not None and policy.tokenizer.fingerprint != task.tokenizer.fingerprint:
        raise ConfigError(
            f"the policy reads and writes other tokens than task {task.name!r}; talk to it without a --task, "
            "or pass one that learnt the task"
        )
    if task is None and getattr(policy.tokenizer, "chat", None) is None:
        raise ConfigError(
            f"{place} is no chat model: it has no chat template that says where its turns end. Pass --task, "
            "or a chat model (often called -Instruct or -it)"
        )
    person.begin(f"You are the user; the policy is {place}.", None if task is None else task.respondent)
    finished, midway = 0, False
    try:
        while True:
            env = (
                _free_talk(options, policy, person)
                if task is None
                else _of_task(options, policy, task, person)
            )
            person.room, midway = env.batch.room, True
            played = rollout(
                policy,
                env,
                np.array([finished if task is not None else 0]),
                seed=options.seed + (0 if task is not None else finished),
                sampling=Sampling(options.temperature),
            )
            _end(options, person, played)
            finished, midway = finished + 1, False
            if task is not None:
                person.pause()
    except (RaterLeftError, KeyboardInterrupt, RespondentError) as error:
        if isinstance(error, RespondentError) and not isinstance(error.__cause__, RaterLeftError):
            raise
    kept = f", all of them in {options.out}" if options.out and finished else ""
    dropped = "; the one in the middle is dropped" if midway else ""
    person.end(f"\nyou left; conversations that came to their end: {finished}{kept}{dropped}")
    return finished


def _task(name: str) -> Task:
    arguments: Mapping[str, Any] = env_ids().get(name, {"task": name})
    task = load_task(**{"name" if k == "task" else k: v for k, v in arguments.items()})
    if task.respondent is None:
        raise ConfigError(
            f"nobody answers in task {name!r}, it is no conversation; be its policy (text-gym play --task "
            f"{name}), or take guess, mastermind, shop, calculator or repair"
        )
    return task


def _of_task(options: PlayOptions, policy: Policy, task: Task, person: PersonRespondent) -> TextVectorEnv:
    """Return the environment in which the person sits in the place of the task's respondent."""
    own = task.env_kwargs(respondent=person, max_tokens=options.max_tokens)
    return TextVectorEnv(**own, num_envs=1, context=policy.context)


def _free_talk(options: PlayOptions, policy: Policy, person: PersonRespondent) -> TextVectorEnv:
    """Ask for the first message, and return the environment of a talk that begins with it."""
    person.show_prompt = False
    person.say("\na new conversation: what do you say first?")
    context = policy.context or 4 * _TOKENS
    while True:
        text = person.read().strip()
        if text == ":help":
            person.say(person.help)
            continue
        if not text or text.startswith(":"):
            person.say("type what you say first; :help shows the commands", "problem")
            continue
        if holds_controls(text):
            person.say("that message holds control characters (an arrow key?): type it again", "problem")
            continue
        messages = with_system([{"role": "user", "content": text}], options.system)
        try:
            prompt = Prompt.from_messages(messages, policy.tokenizer)
            length = len(prompt.encode(policy.tokenizer))
        except PromptError as error:
            Prompt.from_messages(
                [{"role": "user", "content": "Hi."}], policy.tokenizer
            )  # raises if always so
            person.say(f"that message cannot be used: {error}", "problem")
            continue
        if length + 2 <= context:
            break
        person.say(f"that message is too long for the context: {length} tokens of {context}", "problem")
    person.heard("user", text)
    return TextVectorEnv(
        [prompt],
        policy.tokenizer,
        lambda episodes: [0.0] * len(episodes),
        min(options.max_tokens or _TOKENS, context - length),
        num_envs=1,
        respondent=person,
        max_context=context,
    )


def _end(options: PlayOptions, person: PersonRespondent, played: Rollout) -> None:
    """Keep a conversation, and then show how it ended."""
    (episode,) = played.episodes
    if episode.turns[-1].role == "assistant":
        person.show(*episode.talk[-1])  # nobody was asked about it
    reasons = {"eos": "the policy ended it", "length": "it is at its limit", "reply": "the reply ended it"}
    reward = float(played.scores.totals[0])
    worth = "" if options.task is None else f"; reward {reward:.3f}"
    rewards: Sequence[float] | None = None if options.task is None else [reward]
    if options.out is not None:
        try:
            write_transcripts(options.out, [episode], rewards, append=True)
        except OSError as error:
            raise DataError(f"{options.out}: the conversation was not written ({error})") from error
    person.say(
        f"the conversation is over: {reasons.get(episode.finish_reason or '', 'it stopped')}{worth}", "over"
    )
    if options.out is not None:
        person.say(f"saved in {options.out}", "saved")
