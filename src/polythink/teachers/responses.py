"""What an answer of a chat endpoint means: a whole response, or a failure by name (the names: `endpoint.py`).

A response is whole if its `finish_reason` is `stop`. Its text is `content`: a string, or a list of parts of which the
text parts are joined and the thinking parts are not. `reasoning_content` and `reasoning` are never part of a response.
A server of ours shows no tags in them; asked to `return_events` it tells the segments, and they are the response.
"""

from __future__ import annotations

import re
from typing import Any

from polythink.run.server_words import one_line
from polythink.teachers.teacher import TeacherError

WHOLE = ("stop",)
CUT = ("length", "max_tokens", "model_length")
BROKEN = ("abort", "aborted", "error", "cancelled", "canceled")  # the server's mishap: another try may be whole
TEXTS, THOUGHTS = ("text", "output_text"), ("thinking", "reasoning")  # types of the parts of a content


def text_of(choice: dict[str, Any]) -> str:
    """The text of a whole response; `TeacherError` if it is not one. `choice` is the first of the answer's `choices`.

    `LookupError`, `TypeError` or `AttributeError` if the choice does not have the form of one.
    """
    message, finish = choice["message"], choice.get("finish_reason")
    thoughts = _text(message.get("reasoning_content") or message.get("reasoning"))
    trace = _trace(choice)
    text = _joined(message.get("content") if trace is None else trace)
    word, said = str(finish).lower(), f"finish_reason {finish!r}"[:100]  # "none" where the server does not say
    if word in CUT:
        raise TeacherError("truncated", said, permanent=True, text=text or thoughts or "")
    if word not in WHOLE:
        name = re.sub(r"[^a-z0-9]+", "_", word[:30]).strip("_") or "other"
        own = word in BROKEN
        raise TeacherError(f"finish_{name}", said, permanent=not own, refused=not own, text=text)
    if text:
        return text
    if thoughts:
        raise TeacherError(
            "reasoning_only", "all text is in reasoning_content", permanent=True, refused=True, text=thoughts
        )
    if refusal := _text(message.get("refusal")):
        raise TeacherError("refusal", one_line(refusal), permanent=True, refused=True, text=refusal)
    raise TeacherError("empty", said)


def _trace(choice: dict[str, Any]) -> str | None:
    """The trace with its tags, where `polythink serve` tells its segments; without what a join reads again."""
    segments = (choice.get("polythink") or {}).get("segments")
    return None if segments is None else "".join(part["text"] for part in segments if part["kind"] != "copy")


def _joined(content: Any) -> str | None:
    """The text of a message's content: a string, nothing, or the text parts of a list."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if unknown := {part["type"] for part in content} - {*TEXTS, *THOUGHTS}:
            raise TeacherError("malformed", one_line(f"the content has parts of type {unknown}"))
        content = "".join(part["text"] for part in content if part["type"] in TEXTS)
    if content is not None and _text(content) is None:
        raise TeacherError("malformed", "the content is not a text")
    return content


def _text(content: Any) -> str | None:
    """A string that can be written to a file: without lone surrogates, which JSON can contain. None if it is none."""
    try:
        content.encode("utf-8")
    except (AttributeError, UnicodeEncodeError):
        return None
    return content
