"""The settings of text environments: what an episode is, and how a vector environment plays many of them.

They are checked when they are made. The parts that an environment cannot do without (prompts, tokenizer,
reward, token limit) are no settings; they are arguments of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import numpy as np

from text_gym.errors import ArgumentError, ConfigError, excerpt
from text_gym.respondents import Respondent
from text_gym.rewards.files import load_from_module
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import OnBadReward
from text_gym.tasks.task import Task, load_task, task_parameters
from text_gym.tokenizer import Tokenizer
from text_gym.utils.user_code import split_place

from .masks import ActionMask


@dataclass(frozen=True)
class EpisodeOptions:
    """The settings of an episode: its prompt, the tokens it may hold, what ends it and what pays.

    An EOS or stop string on the last allowed token is an end like any other, under both meanings of `limit`.
    A text that is cut has the `finish_reason` "length", and under `limit="end"` a reward may look at that.
    Never is a text both paid and `truncated`: an agent would add the value of the state after it to its
    reward, so that never stopping would pay twice. Under `limit="truncate"` the agents of `text_gym.agents`
    leave texts that were cut out of their updates; other libraries bootstrap from the value of a state in
    which nobody ever acts, which therefore nobody trains. Per-token rewards of a causal source are paid under
    both meanings, up to the cut.

    With a `respondent` an episode is a conversation, see `text_gym.respondents`: where the agent's token ends
    a turn, the reply is appended before the step returns. Each of its limits (`max_turns`, `max_context` and
    the tokens that the agent may write) follows `limit`; a turn that ends at one is still replied to.

    Args:
        stop: Strings that end an episode as EOS does; the completion leaves them out.
        limit: What the token limit means. "end": it belongs to the task; the text is paid as it stands, the
            step is `terminated`. "truncate": a text that the limit cut is no sample of the problem; the step
            is `truncated`, and the text is neither scored nor paid.
        mask: Which tokens may come next.
        on_bad_reward: `"raise"`, or `"drop"`: a bad reward counts as an abstention.
        shuffle: False takes prompts in order (evaluation); True draws them uniformly (training).
        group_size: Consecutive episode numbers that share a prompt (GRPO, RLOO).
        max_prompt_tokens: `P`; the longest prompt's length if None.
        on_long_prompt: `"error"`, or `"truncate"`: drop tokens on the left.
        context: Largest `P + T` that the policy can read, in tokens, if there is such a limit.
        respondent: Answers the agent's turns; None where nobody does.
        turn_stop: Strings that end a turn of the agent. A chat model's end-of-turn id ends one too, and where
            there is neither, EOS does and not the episode.
        max_turns: The most turns that the agent has in an episode.
        max_context: `P + C`, the most tokens of prompt and conversation together. By default replies may take
            32 tokens a turn beside the agent's. A reply that does not fit is left out.
        on_bad_reply: What becomes of an episode whose respondent failed, which ends there: `"raise"`, or
            `"drop"`: it is `truncated` and not scored, whatever `limit` says, and the others go on.

    Raises:
        ConfigError: A setting that makes no sense; its name and value are told.
    """

    stop: str | Sequence[str] = ()
    limit: Literal["end", "truncate"] = "end"
    mask: ActionMask | None = None
    on_bad_reward: OnBadReward = "raise"
    shuffle: bool = True
    group_size: int = 1
    max_prompt_tokens: int | None = None
    on_long_prompt: Literal["error", "truncate"] = "error"
    context: int | None = None
    respondent: Respondent | None = None
    turn_stop: str | Sequence[str] = ()
    max_turns: int | None = None
    max_context: int | None = None
    on_bad_reply: Literal["raise", "drop"] = "raise"

    def __post_init__(self) -> None:
        for name in ("stop", "turn_stop"):
            value: Any = getattr(self, name)
            if not isinstance(value, Iterable) or not all(isinstance(stop, str) for stop in value):
                raise ConfigError(f"{name} is {value!r}; it must be a string or a sequence of strings")
        if "" in self.stop_strings:
            raise ConfigError("an empty stop string would end every episode at once")
        self._check_conversation()
        check_choice("limit", self.limit, ["end", "truncate"])
        check_choice("on_bad_reward", self.on_bad_reward, ["raise", "drop"])
        check_choice("on_long_prompt", self.on_long_prompt, ["error", "truncate"])
        check_count("group_size", self.group_size)

    def _check_conversation(self) -> None:
        check_choice("on_bad_reply", self.on_bad_reply, ["raise", "drop"])
        if "" in self.turn_stop_strings:
            raise ConfigError("an empty string in turn_stop would end every turn at once")
        for name in ("max_turns", "max_context"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        masks = all(callable(getattr(self.mask, name, None)) for name in ("bind", "allowed"))
        if self.mask is not None and (isinstance(self.mask, type) or not masks):
            raise ConfigError(f"mask is {excerpt(repr(self.mask))}; pass an ActionMask, such as MinLength(2)")
        if self.respondent is None:
            for name in ("turn_stop", "max_turns", "max_context"):
                if getattr(self, name):
                    raise ConfigError(f"{name} is of conversations: pass a respondent too, or leave it out")
        elif not callable(getattr(self.respondent, "respond", None)):
            raise ConfigError(
                f"respondent is {type(self.respondent).__name__}, which has no method "
                "respond(episodes, generators); see text_gym.Respondent"
            )

    def for_measuring(self, texts: int, context: int | None) -> EpisodeOptions:
        """Return the same kind of episodes with prompts in order, `texts` of each, every text scored.

        Args:
            texts: Of each prompt, one after the other.
            context: What the policy that is measured can read, in tokens.
        """
        rest: dict[str, Any] = {"max_prompt_tokens": None, "on_long_prompt": "error", "context": context}
        return replace(self, limit="end", shuffle=False, group_size=texts, **rest)

    @property
    def turn_stop_strings(self) -> tuple[str, ...]:
        """Return the strings that end a turn as a tuple; a single one may be given as a plain string."""
        return (self.turn_stop,) if isinstance(self.turn_stop, str) else tuple(self.turn_stop)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Return the stop strings as a tuple; a single one may be given as a plain string."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


@dataclass(frozen=True)
class VectorOptions:
    """The settings of a vector environment: episode numbers, autoreset, and what it shows.

    Which prompt an episode gets depends on its stream's seed and its number `k` in the stream alone. As in
    Gymnasium's `SyncVectorEnv`, `reset(seed=s)` gives row `i` the stream of seed `s + i`; with
    `numbering="global"` all rows draw from the one stream of seed `s` (the next free `k` goes to the next row
    that restarts), so that the same episodes are played for any `num_envs`.

    An episode without an opinion returns 0: its last step takes back what a causal source was paid for
    earlier tokens. To an agent that knows nothing of `reward_abstained` that is a reward like any other, so
    a judge that is down looks like a judge that hates everything. With `on_abstain="redraw"` such an
    episode does not end: in the same step its row begins the next episode of its stream, neither terminated
    nor truncated, with return 0 so far. Every episode then ends judged, and an abstention is worth what a
    new episode is worth. The info of such a step has `redrawn` (how often that happened in the row since
    its last judged end) and, as that of a reset, `prompt` and `episode_index`; the observation is the new
    episode's first one. `redrawn` of the environment counts all. Agents of `text_gym.agents` play whole
    episodes and leave those out that were not judged, either way.

    Args:
        numbering: `"per_env"` or `"global"`, see above.
        on_abstain: `"pay_zero"`, or `"redraw"`: go on with a new episode instead; see above.
        on_masked: `"raise"` refuses a forbidden token, `"allow"` takes it: the mask is advice then.
        copy: False returns views of the buffers, overwritten by the next `step` or `reset`: only for
            agents that keep no reference to an observation.
        info_texts: False leaves `prompt` and `completion` out of info: Gymnasium's `NumpyToTorch` and the
            like convert every array in info and stop at one of strings.
        observation: What `reset` and `step` show. `"tokens"`: a `Dict` of tokens, attention mask, length and
            remaining tokens, see `TextVectorEnv`. `"ids"`: a `MultiDiscrete` of `P + T` ids, the prompt
            ending at place `P` and the completion beginning there; `V` stands in empty places. `"onehot"`:
            the same as a `Box` of `(P + T) * V` float32, 0 in empty places, up to 65,536 numbers. `"text"`:
            prompt and completion so far as a bounded `Text`. Only `"tokens"` holds the action mask; with the
            others read it from info or `action_masks()`.
        infos: `"changing"`: each key where it has something to say. `"constant"`: every key in every row at
            every reset and step, of the same types; what has nothing to say is 0, False or "" (`prompt` and
            `episode_index` are those of the episode in the row), and `reward_terms` are left out, since their
            names are known only once a text was scored. `"numbers"`: the same without the texts, which is
            what any library can store, and the default of registered ids. `"none"`: nothing. Under
            `SAME_STEP`, `final_obs` and `final_info` come at episodes' ends all the same, as Gymnasium says.

    Raises:
        ConfigError: A setting that makes no sense; its name and value are told.
    """

    numbering: Literal["per_env", "global"] = "per_env"
    on_abstain: Literal["pay_zero", "redraw"] = "pay_zero"
    on_masked: Literal["raise", "allow"] = "raise"
    copy: bool = True
    info_texts: bool = True
    observation: Literal["tokens", "ids", "onehot", "text"] = "tokens"
    infos: Literal["changing", "constant", "numbers", "none"] = "changing"

    def __post_init__(self) -> None:
        check_choice("observation", self.observation, ["tokens", "ids", "onehot", "text"])
        check_choice("infos", self.infos, ["changing", "constant", "numbers", "none"])
        check_choice("numbering", self.numbering, ["per_env", "global"])
        check_choice("on_abstain", self.on_abstain, ["pay_zero", "redraw"])
        check_choice("on_masked", self.on_masked, ["raise", "allow"])


def sort_options(
    task: Task | str | None, options: Mapping[str, Any]
) -> tuple[Task | None, EpisodeOptions, VectorOptions]:
    """Sort keyword arguments of an environment by whose they are: the episodes', its own, or the task's.

    Args:
        task: A task, or the name of one that takes parameters.
        options: Fields of `EpisodeOptions` and `VectorOptions`, and parameters of the named task.

    Raises:
        ConfigError: One that makes no sense; an `ArgumentError` for one that is nobody's.
        UnknownNameError: There is no such task.
    """
    if "limit_terminates" in options:
        instead = "leave it out" if options["limit_terminates"] else 'write limit="truncate"'
        raise ConfigError(
            f"limit_terminates is gone; {instead}: by default the token limit ends an episode "
            '(limit="end"); under limit="truncate" a text that it cuts is truncated and not paid'
        )
    if "fixed_horizon" in options:
        raise ConfigError(
            "fixed_horizon is gone: an episode ends where its text does; leave it out, and for batches of "
            "equally long episodes pad what you collect"
        )
    if "max_episode_steps" in options:
        raise ArgumentError(
            "got an unexpected keyword argument 'max_episode_steps'; the token limit belongs to the episode, "
            f"so that its text is paid: write max_tokens={options['max_episode_steps']}"
        )
    rest = dict(options)
    groups = (EpisodeOptions, VectorOptions)
    found = [{field.name: rest.pop(field.name) for field in fields(g) if field.name in rest} for g in groups]
    if isinstance(task, str):
        own = task_parameters(task)
        try:
            task = load_task(task, **rest)
        except TypeError as error:
            raise ArgumentError(f"task {task!r}: {error}{_nearest(rest, own)}") from error
    elif rest:
        raise ArgumentError(
            f"got an unexpected keyword argument {next(iter(rest))!r}{_nearest(rest)}; the environment has "
            "no such parameter, and no task was named that could have it"
        )
    if task is not None and not isinstance(task, Task):
        raise ConfigError(f"task is {excerpt(repr(task))}; it must be a Task or a task's name")
    talk = {} if task is None else task.conversation()
    return task, EpisodeOptions(**talk | found[0]), VectorOptions(**found[1])


def episode_parts(
    task: Task | None, prompts: Any, tokenizer: Any, reward: Any, max_tokens: int | None
) -> tuple[Any, Any, Any, int]:
    """Return prompts, tokenizer, reward and token limit: those given, or the task's where one is None.

    Raises:
        ConfigError: One is missing.
    """
    if task is not None:
        prompts = task.prompts if prompts is None else prompts
        tokenizer = task.tokenizer if tokenizer is None else tokenizer
        reward = task.reward if reward is None else reward
        max_tokens = task.max_tokens if max_tokens is None else max_tokens
    if prompts is None or tokenizer is None or reward is None or max_tokens is None:
        raise ConfigError("pass prompts, tokenizer, reward and max_tokens, or task=, a task that has them")
    return prompts, tokenizer, named_reward(reward) if isinstance(reward, str) else reward, max_tokens


def named_reward(spec: str) -> RewardSource:
    """Import the reward that `"module:name"` stands for: a source, a function, or what makes a source.

    A reward that is given by its name keeps an environment's spec serialisable.

    Raises:
        ConfigError: Another form of name, or no reward stands there.
        DataError: There is no such module.
        UnknownNameError: There is no such name in it.
        RewardError: The module raised.
    """
    place = split_place(spec)
    if place is None or place[0].endswith(".py"):
        raise ConfigError(
            f"reward is {spec!r}; by name it is 'module:function' of something that can be imported. Pass "
            f"text_gym.reward_models.load_reward({spec!r}) for files and for rewards of this package"
        )
    return load_from_module(*place, None, {})


def _nearest(names: Iterable[str], own: Iterable[str] = ()) -> str:
    """Suggest the argument, or the task's own parameter, that the first of these names may have meant."""
    options = [field.name for group in (EpisodeOptions, VectorOptions) for field in fields(group)]
    known = ["prompts", "tokenizer", "reward", "max_tokens", "render_mode", *own, *options]
    found = [near for name in names for near in get_close_matches(name, known, n=1)]
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of the choices with a `ConfigError`."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose {', '.join(map(repr, choices))}")


def check_count(name: str, value: object) -> None:
    """Refuse anything but a whole number of at least 1 with a `ConfigError`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")


Decode: TypeAlias = Callable[[list[int]], str]
NEVER, ENDS, MAYBE, UNKNOWN = range(4)  # what tokens do to a turn: MAYBE end it, by a stop string


class TurnEnds:
    """What ends the agent's turns in a conversation: an id, or a string of `turn_stop`.

    Args:
        options: They say which strings do.
        tokenizer: Its chat template may have an id that does.

    Attributes:
        ids: The ids that end a turn.
        effects: What each token does to a turn, as far as is known; 0 if it never ends one.

    Raises:
        ConfigError: Nothing would end a turn.

    >>> from text_gym import ByteTokenizer
    >>> from text_gym.respondents import ReplyWithin
    >>> anybody = ReplyWithin(respondent=..., seconds=1)  # nobody is asked here
    >>> options = EpisodeOptions(turn_stop=".", respondent=anybody, max_turns=2)
    >>> ends = TurnEnds(options, ByteTokenizer())
    >>> ends.close([*b"Hi."]), ends.close([*b"Hi"])
    ('Hi', None)
    """

    def __init__(self, options: EpisodeOptions, tokenizer: Tokenizer) -> None:
        self.ids = _end_ids(options, tokenizer)
        self._decode, self._stops = tokenizer.decode, options.turn_stop_strings
        self._silent = {*self.ids, *tokenizer.eos_ids}
        self._last_chars = {stop[-1] for stop in self._stops}
        # A stop string may begin inside a token and a character may take four byte tokens. Most turns are no
        # longer than this, so that what is read to find their end is their text.
        self._window = 4 * max(map(len, self._stops), default=0) + 32
        joint, effect = getattr(tokenizer, "separator", ""), UNKNOWN if self._stops else NEVER
        if any(char.isspace() or char in joint for char in self._last_chars):
            effect = MAYBE  # what stands between tokens may complete it
        self.effects = bytearray([effect]) * tokenizer.vocab_size
        for token in self.ids:
            self.effects[token] = ENDS

    def close(self, ids: list[int]) -> str | Decode | None:
        """Return the text of a turn that its last token ends, or what decodes it; None if it goes on."""
        effect = self.effects[ids[-1]]
        if effect == UNKNOWN:
            effect = self._find_effect(ids[-1])
        if effect == MAYBE:
            text = self._until_stop(self._decode(ids[-self._window :]))
            return text if text is None or len(ids) <= self._window else self.text
        return self.text if effect == ENDS else None

    def text(self, ids: list[int], stop: str = "") -> str:
        """Return the text of a turn without what ended it.

        Args:
            ids: All of its tokens.
            stop: A string that ended the episode, if one did.
        """
        text = self._decode(ids[:-1] if ids and ids[-1] in self._silent else ids)
        found = self._until_stop(text, stop)
        return text if found is None else found

    def _find_effect(self, token: int) -> int:
        """Find out, once, what a token does to a turn; MAYBE if it may complete a stop string."""
        # Only a token with the last character of a stop string completes one, or a part of a character.
        text = self._decode([token])
        can = "\ufffd" in text or not self._last_chars.isdisjoint(text)
        self.effects[token] = effect = MAYBE if can else NEVER
        return effect

    def _until_stop(self, text: str, stop: str = "") -> str | None:
        """Return the text before the first stop string of turns, or of another; None if there is none."""
        if stop or len(self._stops) == 1:
            end = text.find(stop or self._stops[0])
        else:
            end = min((at for string in self._stops if (at := text.find(string)) >= 0), default=-1)
        return None if end < 0 else text[:end]


def _end_ids(options: EpisodeOptions, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that end a turn: a chat template's own, or EOS where nothing else would.

    Raises:
        ConfigError: There are none, and no stop string of turns.
    """
    chat = getattr(tokenizer, "chat", None)
    if chat is not None and chat.end_of_turn is not None:
        return (int(chat.end_of_turn),)
    if options.turn_stop_strings:
        return ()
    if not tokenizer.eos_ids:
        raise ConfigError(
            "nothing ends a turn: the tokenizer has no EOS id; pass turn_stop, a string that does"
        )
    return tuple(tokenizer.eos_ids)
