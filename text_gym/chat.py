"""A model's chat template: it renders conversations as the text that the model was trained to continue.

A conversation is a list of messages, `{"role": "user", "content": "Hi"}`, as in `transformers` and TRL. The
template's special tokens become special ids; the same characters inside a message stay characters, so that a
message can neither end a turn nor begin one. Tools, images and switches for thinking are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import ConfigError, PromptError, excerpt

if TYPE_CHECKING:
    import tokenizers

Messages: TypeAlias = "Sequence[Mapping[str, str]]"
Talk: TypeAlias = "tuple[tuple[str, str], ...]"  # turns by role and text; may be a key, as messages may not
ROLES = ("system", "developer", "user", "assistant", "tool")
TEMPLATE = "chat_template.jinja"
# Keys of a message with text of their own, which some templates write.
_NOT_READ = ("tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "thinking")
_PROBE = {"role": "assistant", "content": "Yes."}
_DATE = "26 Jul 2024"  # Llama's own default: a run that is resumed tomorrow must have the same prompts


def as_messages(value: Any) -> tuple[dict[str, str], ...]:
    """Check a conversation as files have it, and return its messages with `role` and `content` alone.

    Raises:
        PromptError: It is no list of messages of text, or has a role that there is not; its number is named.

    >>> as_messages([{"role": "user", "content": "Hi", "name": None}])
    ({'role': 'user', 'content': 'Hi'},)
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not len(value):
        raise PromptError(f"{excerpt(repr(value))} is no conversation: a list of messages was expected")
    found = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise PromptError(
                f'message {i} is {excerpt(repr(message))}; expected {{"role": "user", "content": "…"}}'
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise PromptError(
                f"message {i} has the role {excerpt(str(role), 40)}; there are {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise PromptError(f"message {i} has the content {excerpt(repr(content))}, which is not a text")
        more = [key for key in _NOT_READ if message.get(key)]
        if more:
            raise PromptError(f"message {i} has {more[0]!r}, which is not supported; only texts are")
        found.append({"role": role, "content": content})
    return tuple(found)


def as_talk(value: Any) -> Talk:
    """Check a conversation as files have it, and return its turns by role and text.

    Raises:
        PromptError: As `as_messages`.
    """
    return tuple((m["role"], m["content"]) for m in as_messages(value))


def messages_of(talk: Talk) -> list[dict[str, str]]:
    """Undo `as_talk`."""
    return [{"role": role, "content": text} for role, text in talk]


def transcript(asked: Talk, said: Talk) -> tuple[str, str]:
    r"""Write a conversation as two plain texts, what was asked and what was said, without a chat template.

    Together they are the whole conversation, a line or more a turn. A message can pretend to be two, which in
    a chat template it cannot.

    Args:
        asked: The turns before the assistant's first one that is judged.
        said: That one, and all that follow.

    Raises:
        PromptError: What was said does not begin with the assistant's turn.

    >>> transcript((("user", "Hi"),), (("assistant", "Ho"), ("user", "Bye")))
    ('user: Hi\nassistant: ', 'Ho\nuser: Bye')
    """
    if not said or said[0][0] != "assistant":
        raise PromptError(
            "a reply begins with a turn of the assistant's; put what stands before it in the prompt"
        )
    lines = ["".join(f"{role}: {text}\n" for role, text in asked) + "assistant: ", said[0][1]]
    return lines[0], lines[1] + "".join(f"\n{role}: {text}" for role, text in said[1:])


def with_system(messages: Messages, system: str | None) -> tuple[Mapping[str, str], ...]:
    """Put a system prompt before a conversation, unless it begins with one of its own."""
    own = messages[0]["role"] in ("system", "developer")
    first = () if system is None or own else ({"role": "system", "content": system},)
    return (*first, *messages)


def default_template(found: Any) -> str | None:
    """Choose among a tokenizer's chat templates: one text, a mapping, or a list of `name` and `template`."""
    if isinstance(found, list):
        found = {t.get("name"): t.get("template") for t in found if isinstance(t, Mapping)}
    if isinstance(found, Mapping):
        found = found.get("default")
    return found if isinstance(found, str) and found else None


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        source: The template in Jinja; `transformers` runs it in a sandbox.
        backend: The tokenizer.
        special_tokens: Special tokens that the template may name, such as `bos_token`.
    """

    def __init__(
        self, source: str, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self.source, self.backend = source, backend
        self.special_tokens = dict(special_tokens or {})
        self._special = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if t.special}

    def render(self, messages: Messages, *, reply: bool = True) -> str:
        """Render a conversation as text.

        Args:
            messages: The messages.
            reply: Let the text end where the assistant's reply begins (`add_generation_prompt`).

        Raises:
            PromptError: The template refuses the conversation, or is broken.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            names: dict[str, Any] = {"date_string": _DATE, **self.special_tokens}
            found: Any = render_jinja_template(
                [[dict(m) for m in messages]],
                chat_template=self.source,
                add_generation_prompt=reply,
                **names,
            )
        except Exception as error:  # whatever the template does
            roles = ", ".join(m["role"] for m in messages)
            raise PromptError(
                f"the model's chat template refuses a conversation of {roles}: {excerpt(str(error), 200)}"
            ) from error
        return str(found[0][0])

    def check(self, messages: Messages) -> None:
        """Refuse a template that rewrites the conversation's beginning as it goes on, or leaves a part out.

        What a model has read cannot change while it writes: each rendering, up to a reply, with the reply,
        and so on to the end, must begin with the one before it.

        Raises:
            PromptError: The message and the first character that differ are named.
        """
        whole = self.render(messages)
        for i, message in enumerate(messages):
            if message["content"].strip() not in whole:
                raise PromptError(
                    f"the model's chat template leaves out or rewrites message {i} ({message['role']}), "
                    f"{excerpt(message['content'])}; leave it out, or pass a text in place of messages"
                )
        before = ""
        talk = [*messages, _PROBE]
        for i, message in enumerate(talk):
            if message["role"] != "assistant":
                continue
            for text in (self.render(talk[:i]), self.render(talk[: i + 1], reply=False)):
                if not text.startswith(before):
                    raise _rewritten(i, before, text)
                before = text

    @cached_property
    def end_of_turn(self) -> int | None:
        """The id of the special token that the template writes after a reply; None if it writes none."""
        try:
            ids = self.encode_reply([{"role": "user", "content": "Hi."}], _PROBE["content"])
        except PromptError:
            return None
        return next((i for i in ids if i in self._special), None)

    def encode(self, messages: Messages) -> list[int]:
        """Encode a conversation up to where the assistant's reply begins.

        Raises:
            PromptError: The template refuses it, or special tokens written in a message cannot be encoded as
                characters.
        """
        marks = self._marks(messages)
        return self._ids(self.render(_marked(messages, marks)), marks)

    def encode_reply(self, messages: Messages, reply: str) -> list[int]:
        """Encode what the template writes for a reply: the reply, the end of the turn, and what follows it.

        Raises:
            PromptError: As `encode`; or the rendering with the reply does not begin with that without it.
        """
        return self.encode_turns(messages, [{"role": "assistant", "content": reply}])

    def encode_turns(self, messages: Messages, said: Messages) -> list[int]:
        """Encode what the template writes for the turns after a prompt, the assistant's being the first.

        Raises:
            PromptError: As `encode`; or the rendering with the turns does not begin with that without them.
        """
        talk: Messages = [*messages, *said]
        marks = self._marks(talk)
        talk = _marked(talk, marks)
        before, whole = self.render(talk[: len(messages)]), self.render(talk, reply=False)
        if not whole.startswith(before):
            raise _rewritten(len(messages), before, whole)
        return self._ids(whole[len(before) :], marks)

    def encode_answer(
        self, messages: Messages, reply: str, answer: Mapping[str, str], *, closed: bool, go_on: bool
    ) -> list[int]:
        """Encode what stands between one reply of the assistant and the next: an answer to it.

        Args:
            messages: The conversation before the reply.
            reply: What the assistant wrote; it is rendered to find the place behind it, and never encoded.
            answer: The message that answers it.
            closed: The assistant wrote the end-of-turn id itself.
            go_on: The assistant's next reply follows.

        Raises:
            PromptError: As `encode`; or the template rewrites what was said before, or leaves the answer out.
        """
        talk: Messages = [*messages, {"role": "assistant", "content": reply}, answer]
        marks = self._marks(talk)
        talk = _marked(talk, marks)
        asked, said = self.render(talk[:-2]), self.render(talk[:-1], reply=False)
        whole = self.render(talk, reply=go_on)
        for number, before, after in ((len(talk) - 2, asked, said), (len(talk) - 1, said, whole)):
            if not after.startswith(before):
                raise _rewritten(number, before, after)
        content = talk[-2]["content"].strip()
        at = said.find(content, len(asked))
        if at < 0:
            raise PromptError(
                f"the model's chat template leaves out or rewrites the assistant's {excerpt(content)}"
            )
        heard = talk[-1]["content"].strip()
        other = {**talk[-1], "content": heard + heard}
        if heard not in whole[len(said) :] and self.render([*talk[:-1], other], reply=go_on) == whole:
            raise PromptError(
                f"the model's chat template leaves out what the {answer['role']} says, "
                f"{excerpt(answer['content'])}"
            )
        ids = self._ids(whole[at + len(content) :], marks)
        if closed and self.end_of_turn in ids:
            ids = ids[ids.index(self.end_of_turn) + 1 :]
        return ids

    def _marks(self, messages: Messages) -> dict[str, str]:
        """Choose a character that no message has for each special token that a message has."""
        contents = "\0".join(m["content"] for m in messages)
        found = sorted((t for t in self._special.values() if t in contents), key=len, reverse=True)
        free = (chr(i) for i in range(0xF0000, 0xFFFFE) if chr(i) not in contents)  # private use
        return dict(zip(found, free, strict=False))

    def _ids(self, text: str, marks: Mapping[str, str]) -> list[int]:
        """Encode a rendering; a mark is encoded as the characters of the special token it stands for."""
        with self._special_tokens(as_text=False):
            found = self.backend.encode(text, add_special_tokens=False)
        if not any(mark in text for mark in marks.values()):
            return list(found.ids)
        result: list[int] = []
        run: list[int] = []  # of ids between two special tokens, and where its text begins
        start = 0
        for i, (begin, end) in zip([*found.ids, None], [*found.offsets, (len(text), 0)], strict=True):
            if i is not None and i not in self._special:
                run.append(i)
                continue
            result += self._unmarked(text[start:begin], run, marks)
            result += [] if i is None else [i]
            run, start = [], end
        return result

    def _unmarked(self, text: str, ids: list[int], marks: Mapping[str, str]) -> list[int]:
        """Encode text between special tokens as the characters that its marks stand for.

        Raises:
            PromptError: The tokenizer encodes the text differently on its own, or makes a special token.
        """
        if not any(mark in text for mark in marks.values()):
            return ids
        plain = text.translate({ord(mark): token for token, mark in marks.items()})
        with self._special_tokens(as_text=True):
            alone = self.backend.encode(text, add_special_tokens=False).ids
            result: list[int] = self.backend.encode(plain, add_special_tokens=False).ids
        if alone != ids or not self._special.keys().isdisjoint(result):
            raise PromptError(
                f"a message holds the special token {', '.join(marks)}, which this tokenizer cannot encode "
                f"as characters, in {excerpt(plain)}; remove it from the message"
            )
        return result

    @contextmanager
    def _special_tokens(self, *, as_text: bool) -> Iterator[None]:
        """Let the tokenizer read special tokens as text, or as what they are."""
        before = self.backend.encode_special_tokens
        self.backend.encode_special_tokens = as_text
        try:
            yield
        finally:
            self.backend.encode_special_tokens = before


def chat_of(tokenizer: Any) -> ChatTemplate:
    """Return a tokenizer's chat template.

    Raises:
        ConfigError: It has none, or there is no tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(
            "the prompts are conversations, and there is no model whose chat template could render them: "
            "name a chat model (often called -Instruct or -it; on the command line with --model), or pass "
            "prompts that are texts"
        )
    chat: ChatTemplate | None = getattr(tokenizer, "chat", None)
    if chat is None:
        raise ConfigError(
            "the prompts are conversations, and the tokenizer has no chat template to render them by: take a "
            "chat model (often called -Instruct or -it), or put its chat_template.jinja beside "
            "tokenizer.json, or pass prompts that are texts"
        )
    return chat


def _marked(messages: Messages, marks: Mapping[str, str]) -> list[dict[str, str]]:
    """Put its mark in the place of each special token inside messages."""
    found = [dict(m) for m in messages]
    for token, mark in marks.items():
        for message in found:
            message["content"] = message["content"].replace(token, mark)
    return found


def _rewritten(message: int, before: str, after: str) -> PromptError:
    """Make the error of a template that rewrites what it wrote, once a message is added."""
    pairs = zip_longest(before, after)
    at = next(k for k, (a, b) in enumerate(pairs) if a != b)
    return PromptError(
        f"the model's chat template is not prefix-preserving: with message {message} of the conversation its "
        f"text changes at character {at}, from {excerpt(before[at : at + 40])} to "
        f"{excerpt(after[at : at + 40])}. Leave out the assistant's earlier messages, or pass the "
        "prompt as a text"
    )
