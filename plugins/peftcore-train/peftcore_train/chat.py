"""Conversations: how a chat template writes them, and which part of it the assistant says."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import Field, field_validator

from peftcore import ConfigError, DataError, Strict, nearest
from peftcore_train.data import Row

Message = Mapping[str, Any]
#: First and last character of a part of a text.
Span = tuple[int, int]

_MARKS = re.compile(r"\{%-?\s*generation\b")
_ASSISTANT = "assistant"
#: What no template writes by itself: two answers that differ from their first letter on.
_PROBES = ("A", "B")


class TemplateConfig(Strict):
    """Fields of tasks that write conversations as a template does."""

    tools_column: str = Field(
        "tools", description="Column of the tools of a conversation; rows may be without it."
    )
    chat_template: str | None = Field(
        None,
        description="A Jinja template, or a file that holds one; the tokenizer's own if not given.",
    )
    chat_options: dict[str, Any] = Field(
        {}, description="What else the template is told, such as `enable_thinking: false`."
    )

    @field_validator("chat_template")
    @classmethod
    def _read(cls, given: str | None) -> str | None:
        """Take the text of a file, so that a trained adapter does not need the file."""
        if given is None or "{" in given:
            return given
        try:
            return Path(given).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{given} is neither a template nor a file that can be read ({error})"
            ) from error


class ChatConfig(TemplateConfig):
    """Fields of tasks that read conversations."""

    messages_column: str = Field("messages", description="Column of the conversation.")


@dataclass(frozen=True)
class Conversation:
    """What one row holds.

    Attributes:
        messages: the turns, each with a role.
        tools: descriptions of the tools that the assistant may call, or None.
        where: file and line, for messages.
    """

    messages: list[Message]
    tools: list[Mapping[str, Any]] | None
    where: str

    @property
    def answers(self) -> list[int]:
        """Numbers of the assistant's turns."""
        return [i for i, m in enumerate(self.messages) if m["role"] == _ASSISTANT]

    def up_to(self, count: int) -> "Conversation":
        """Return the first turns."""
        return Conversation(self.messages[:count], self.tools, self.where)

    def and_then(self, text: str) -> "Conversation":
        """Return the conversation with one more turn of the assistant."""
        turn = {"role": _ASSISTANT, "content": text}
        return Conversation([*self.messages, turn], self.tools, self.where)


def conversation(row: Row, config: ChatConfig, *, answered: bool = True) -> Conversation:
    """Return the conversation of a row.

    Args:
        row: the row.
        config: names of its columns.
        answered: there must be a turn of the assistant; else those at the end are left out.

    Raises:
        DataError: it is no list of turns, or none of them is the assistant's.
    """
    column = config.messages_column
    given = row.column(column)
    if not isinstance(given, list) or not given:
        raise DataError(
            f"{row.where}: column {column!r} holds {str(given)[:80]!r}, which is no list of turns."
        )
    messages = [_message(turn, f"{row.where}: {column}[{i}]") for i, turn in enumerate(given)]
    found = Conversation(messages, _tools(row, config.tools_column), row.where)
    if answered and not found.answers:
        roles = ", ".join(dict.fromkeys(str(m["role"]) for m in messages))
        raise DataError(
            f"{row.where}: no turn of column {column!r} has the role assistant, so there is nothing"
            f" to learn. Its roles: {roles}."
        )
    if not answered:
        while messages and messages[-1]["role"] == _ASSISTANT:
            messages.pop()
    return found


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{where} is no turn: a turn has a role and a content.")
    role, content, calls = turn.get("role"), turn.get("content"), turn.get("tool_calls")
    if not isinstance(role, str) or not role:
        has = ", ".join(map(str, turn)) or "nothing"
        raise DataError(f"{where} has no role.{nearest('role', turn)} It has: {has}.")
    if not isinstance(content, str | list) and not (content is None and calls):
        raise DataError(f"{where} has the content {content!r}, which is no text.")
    if calls is None:
        return turn
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError(f"{where} has tool_calls that are no list of calls.")
    return {**turn, "tool_calls": [_call(call, where) for call in calls]}


def _call(call: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return a call whose arguments are a mapping, as templates write them out."""
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    if not isinstance(inner.get("arguments"), str):
        return call
    read = {**inner, "arguments": _json(inner["arguments"], f"{where}: the arguments of a call")}
    return {**call, "function": read} if inner is function else read


def _tools(row: Row, column: str) -> list[Mapping[str, Any]] | None:
    if column not in row.values:
        return None
    given = row.values[column]
    if isinstance(given, str):
        given = _json(given, f"{row.where}: column {column!r}")
    if not isinstance(given, list) or not given or not all(isinstance(t, dict) for t in given):
        raise DataError(
            f"{row.where}: column {column!r} holds {str(given)[:80]!r}, which is no list of tools."
            " Leave the column out of rows that have none."
        )
    return given


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{what} cannot be read as JSON: {error}.") from None


class Template:
    """A chat template with the tokenizer that it belongs to.

    Raises:
        ConfigError: neither the tokenizer nor the recipe has a template.
    """

    def __init__(self, config: TemplateConfig, tokenizer: Any, source: str):
        if config.chat_template is None and not tokenizer.chat_template:
            raise ConfigError(
                f"backbone.source {source}: its tokenizer has no chat template. Give one as"
                " task.chat_template, a Jinja text or the path of a file."
            )
        self.given = config.chat_template
        self.options = config.chat_options
        self.tokenizer = tokenizer
        added = map(str, tokenizer.added_tokens_decoder.values())
        self.special = (*tokenizer.all_special_tokens, *added)

    def written(self, chat: Conversation, *, prompt: bool = False) -> str:
        """Return a conversation as text.

        Args:
            chat: the conversation.
            prompt: let the assistant's next turn begin at the end.

        Raises:
            DataError: the template refuses it.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat.messages, tools=chat.tools, chat_template=self.given, tokenize=False,
                add_generation_prompt=prompt, **self.options,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"{chat.where}: the chat template refuses this conversation: {error}"
            ) from error
        return text

    def prompt(self, chat: Conversation) -> str:
        """Return the text after which the assistant speaks next.

        Where a template does not write how its turn begins, that is what any answer would have in
        common, without blanks at its end, which belong to the first word.
        """
        if chat.messages:
            plain, begun = self.written(chat), self.written(chat, prompt=True)
            if begun != plain:
                return begun
        answers = [self.written(chat.and_then(text)) for text in _PROBES]
        common = commonprefix(answers).rstrip(" ")  # noqa: RUF071  (characters are meant)
        return common if not chat.messages or len(common) > len(plain) else plain

    def spoken(self, chat: Conversation, *, last: bool = False) -> tuple[str, list[Span]]:
        """Return a conversation as text, and where in it the assistant speaks.

        Where the template marks that itself, it is believed. Else a turn goes from where
        generation would begin to the end of the conversation so far, without blanks that follow a
        special token there, since generation ends with that token.

        Args:
            chat: the conversation.
            last: the last turn of the assistant alone.

        Raises:
            DataError: turns are written otherwise once others follow.
        """
        text = self.written(chat)
        if _MARKS.search(self._text(chat)):
            spans = self._marked(chat)
            return text, spans[-1:] if last else spans
        turns = chat.answers[-1:] if last else chat.answers
        return text, [self._turn(chat, turn, text) for turn in turns]

    def _turn(self, chat: Conversation, turn: int, text: str) -> Span:
        before = self.prompt(chat.up_to(turn))
        after = text if turn + 1 == len(chat.messages) else self.written(chat.up_to(turn + 1))
        begins, stays = after.startswith(before), text.startswith(after)
        if not (begins and stays):
            how = "once other turns follow" if begins else "than it begins"
            raise DataError(
                f"{chat.where}: the chat template writes turn {turn} of the assistant otherwise"
                f" {how}, so that what is learned would not be what is generated. Say task.turns:"
                " each, give a template that marks the assistant's turns with {% generation %} as"
                " task.chat_template, or tell this one more with task.chat_options."
            )
        return len(before), len(before) + len(self._ended(after[len(before) :]))

    def _ended(self, said: str) -> str:
        """Return a turn without blanks after its last special token."""
        bare = said.rstrip()
        return bare if bare.endswith(self.special) else said

    def _text(self, chat: Conversation) -> str:
        found: str = self.tokenizer.get_chat_template(self.given, chat.tools)
        return found

    def _marked(self, chat: Conversation) -> list[Span]:
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [{k: v for k, v in m.items() if v is not None} for m in chat.messages]
        _, (spans,) = render_jinja_template(
            [messages], tools=chat.tools, chat_template=self._text(chat),
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **self.options},
        )  # fmt: skip
        if not spans:
            raise DataError(
                f"{chat.where}: the chat template marks nothing of this conversation with"
                " {% generation %}. Give one that marks the assistant's turns as"
                " task.chat_template, or one that marks none."
            )
        return [(int(start), int(end)) for start, end in spans]

    def tokens(self, text: str, spans: Sequence[Span], source: str) -> tuple[list[int], list[bool]]:
        """Return the tokens of a text, and for each whether it begins in one of the spans.

        The template writes the special tokens, so the tokenizer adds none.

        Raises:
            ConfigError: the tokenizer does not tell where its tokens are.
        """
        if not self.tokenizer.is_fast:
            raise ConfigError(
                f"backbone.source {source}: its tokenizer does not tell where in a text its tokens"
                " are. Save a fast one beside the weights (tokenizer.json)."
            )
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        said = [any(a <= start < b for a, b in spans) for start, _ in encoded["offset_mapping"]]
        return list(encoded["input_ids"]), said


def each_turn(row: Row, config: ChatConfig) -> list[Row]:
    """Return a row for every turn of the assistant, with the turns before it.

    A row that is no conversation stays as it is, for the check of rows to say so.
    """
    try:
        answers = conversation(row, config).answers
    except DataError:
        return [row]
    turns = row.values[config.messages_column]
    return [
        Row({**row.values, config.messages_column: turns[: answer + 1]}, row.where)
        for answer in answers
    ]
