"""What an answer of a chat endpoint means: a whole response, or a failure by name (the names: `endpoint.py`).

A response is whole if its `finish_reason` is `stop`. Its text is `content`: a string, or a list of parts of which the
text parts are joined and the thinking parts are not. `reasoning_content` and `reasoning` are never part of a response.
"""

from __future__ import annotations

import datetime
import json
import re
from email.utils import parsedate_to_datetime
from typing import Any

from polythink.teachers.teacher import TeacherError

WHOLE = ("stop",)
CUT = ("length", "max_tokens", "model_length")
BROKEN = ("abort", "aborted", "error", "cancelled", "canceled")  # the server's mishap: another try may be whole
TEXTS, THOUGHTS = ("text", "output_text"), ("thinking", "reasoning")  # types of the parts of a content
LONGEST_WAIT = 365 * 86400.0  # seconds; a larger Retry-After means the same: not in this run

NO_CREDIT = (
    "insufficient_quota", "insufficient_balance", "insufficient_credits", "exceeded_current_quota_error",
    "billing_hard_limit_reached", "billing_not_active", "arrearage",
)  # fmt: skip
NO_CREDIT_WORDS = re.compile(
    r"insufficient (account )?(balance|credits?|funds)|(balance|credits?) is too low"
    r"|(out of|not enough) (credits?|funds)|payment required|in arrears|余额不足|欠费",
    re.IGNORECASE,
)


def text_of(choice: dict[str, Any]) -> str:
    """The text of a whole response; `TeacherError` if it is not one. `choice` is the first of the answer's `choices`.

    `LookupError`, `TypeError` or `AttributeError` if the choice does not have the form of one.
    """
    message, finish = choice["message"], choice.get("finish_reason")
    thoughts = _text(message.get("reasoning_content") or message.get("reasoning"))
    text = _joined(message.get("content"))
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


# ---- errors in the server's words ----


def error_of(body: Any) -> Any:
    """The error that an answer holds, although its status is 200; None if there is none."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        return first.get("error") or body.get("error")
    return body if body.get("object") == "error" else body.get("error")


def status_of(error: Any) -> int | None:
    """The HTTP status that an error within an answer names as its code."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch(r"[45][0-9][0-9]", code) else None


def words_of(body: str) -> str:
    """The message in an error's body, on one line: what the JSON says, or the text of a page."""
    try:
        found = _message(json.loads(body))
    except (ValueError, RecursionError):
        found = None
    return one_line(found or re.sub(r"<[^<>]*>", " ", body))


def _message(found: Any) -> str | None:
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return next((message for item in found if (message := _message(item))), None)
    if isinstance(found, dict):
        keys = ("error", "message", "detail", "errors", "msg", "error_description", "title")
        return next((message for key in keys if (message := _message(found.get(key)))), None)
    return None


def one_line(text: str, longest: int = 300) -> str:
    """The beginning of a text without line ends and characters that move a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * longest]).split())[:longest]


def no_credit(body: str) -> bool:
    """Whether an error says that the account cannot pay: some servers say so under 400, 403 or 429."""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        error = {}
    codes = set()
    for part in (error, error.get("error")) if isinstance(error, dict) else ():
        if isinstance(part, dict):
            codes |= {str(part.get(key)).lower() for key in ("code", "type")}
    return bool(codes & set(NO_CREDIT) or NO_CREDIT_WORDS.search(words_of(body)))


def retry_after(value: str | None) -> float | None:
    """Seconds to wait according to a Retry-After header in either form (RFC 9110): seconds, or a date.

    None for anything else, such as a negative number.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value.strip()):
        return min(float(value), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        seconds = (when - datetime.datetime.now(datetime.UTC)).total_seconds()
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_WAIT)
