"""A conversation as clients send it, as the tokens of a prompt.

A model that was trained in its tokenizer's chat template (`chat: true` in its settings) gets the whole conversation in
that template, the text of its settings' prompt around each message of the user's. Earlier reasoning is handed to the
template, which keeps or drops it. Any other model answers its own prompt, which holds one problem: there a conversation
is a single message of the user's, and more are refused, since the model has never seen one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from polythink.models.settings import PLACEHOLDER
from polythink.serve.body import Body
from polythink.serve.errors import ApiError
from polythink.serve.prompts import LONGEST_TOKEN

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel

Turn = dict[str, str]  # `role`, `content`, and of the assistant's `reasoning_content` where there is some
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXTS = ("text", "input_text", "output_text")
NO_TOOLS = "no tools are called here; take the calls out"


class Part(Body):
    """A part of a message: text."""

    ignored: ClassVar = frozenset({"annotations", "logprobs", "cache_control", "prompt_cache_breakpoint"})
    type: str
    text: str = ""
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    file_id: Any = None
    refusal: Any = None
    detail: Any = None


class Message(Body):
    """One message of a conversation."""

    ignored: ClassVar = frozenset({"name", "annotations", "refusal", "reasoning_details", "id", "status", "phase"})
    refused: ClassVar = {
        "tool_calls": (([],), NO_TOOLS),
        "function_call": ((), NO_TOOLS),
        "tool_call_id": ((), NO_TOOLS),
        "audio": ((), "this model writes text alone; take it out"),
    }
    role: str
    content: str | list[Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


def turn_of(message: Message, number: int, field: str = "messages") -> Turn:
    """A message, number `number` (from 0) of that field, as a chat template takes it."""
    at = f"{field}.{number}"
    if message.role not in ROLES:
        raise ApiError(400, f"{at}.role is {message.role[:40]!r}; use one of {', '.join(ROLES)}", f"{at}.role")
    turn = {"role": ROLES[message.role], "content": text_of(message.content, at)}
    if turn["role"] == "assistant" and (reasoning := message.reasoning_content or message.reasoning):
        turn["reasoning_content"] = reasoning
    if message.content is None and message.role != "assistant":
        raise ApiError(400, f"{at}.content is missing; give a text", f"{at}.content")
    return turn


def text_of(content: str | Sequence[Part] | None, at: str) -> str:
    """The text of a content; its parts come on lines of their own."""
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.type not in TEXTS:
            where = f"{at}.content.{number}.type"
            raise ApiError(400, f"{where} is {part.type[:40]!r}; this model reads text alone", where)
    return "\n".join(part.text for part in content)


def prompt_of(turns: Sequence[Turn], lm: LanguageModel, field: str = "messages") -> tuple[int, ...]:
    """The token ids of a conversation that the assistant is to go on with; `ApiError` or `UserError` for others."""
    if not turns:
        raise ApiError(400, f"{field} is empty; send at least one message of the user's", field)
    if turns[-1]["role"] != "user":
        raise ApiError(400, f"the last message is of role {turns[-1]['role']}; it must be the user's", field)
    long = sum(len(text) for turn in turns for text in turn.values())
    if long > lm.context * LONGEST_TOKEN:
        raise ApiError(400, f"{long} characters cannot fit the model's context of {lm.context} tokens", field)
    if lm.settings.chat:
        return tuple(lm.encode_chat(turns))
    if len(turns) > 1:
        roles = ", ".join(turn["role"] for turn in turns[:6])
        raise ApiError(
            400,
            f"this model has no chat template and answers one message of the user's at a time; {len(turns)} were sent "
            f"({roles})",
            field,
        )
    return tuple(lm.encode_prompt(lm.settings.prompt.replace(PLACEHOLDER, turns[0]["content"])))
