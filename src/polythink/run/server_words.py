"""What a server says of an error, in its own words: in the body, in a status within the body, in Retry-After."""

from __future__ import annotations

import datetime
import json
import re
from email.utils import parsedate_to_datetime
from typing import Any

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
