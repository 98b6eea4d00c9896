"""What the Responses API's bodies and events must have: facts of Open Responses (2026-04-24) and of OpenAI's client.

`check_schema` compares with the specification's own OpenAPI file, where `POLYTHINK_OPEN_RESPONSES` says where it lies.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

PATH = os.environ.get("POLYTHINK_OPEN_RESPONSES", "")

RESPONSE = {  # fields that a response always has, null or not
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
}  # fmt: skip
EVENTS = {  # fields of each event besides `type` and `sequence_number`
    "response.created": {"response"},
    "response.in_progress": {"response"},
    "response.completed": {"response"},
    "response.incomplete": {"response"},
    "response.failed": {"response"},
    "response.output_item.added": {"output_index", "item"},
    "response.output_item.done": {"output_index", "item"},
    "response.content_part.added": {"item_id", "output_index", "content_index", "part"},
    "response.content_part.done": {"item_id", "output_index", "content_index", "part"},
    "response.output_text.delta": {"item_id", "output_index", "content_index", "delta", "logprobs"},
    "response.output_text.done": {"item_id", "output_index", "content_index", "text", "logprobs"},
    "response.reasoning_text.delta": {"item_id", "output_index", "content_index", "delta"},
    "response.reasoning_text.done": {"item_id", "output_index", "content_index", "text"},
    "response.reasoning_summary_part.added": {"item_id", "output_index", "summary_index", "part"},
    "response.reasoning_summary_part.done": {"item_id", "output_index", "summary_index", "part"},
    "response.reasoning_summary_text.delta": {"item_id", "output_index", "summary_index", "delta"},
    "response.reasoning_summary_text.done": {"item_id", "output_index", "summary_index", "text"},
}
# the file of 2026-04-24 still has an older name of these two, which OpenAI's client and later editions do not know
RENAMED = {"response.reasoning_text.delta": "response.reasoning.delta", "response.reasoning_text.done": "response.reasoning.done"}  # fmt: skip # noqa: E501


@lru_cache
def specification() -> dict[str, Any]:
    return json.loads(Path(PATH).read_text())["components"]["schemas"]


def event_schemas() -> dict[str, str]:
    """The name of the schema of each event, by its type."""
    kinds = {name: schema for name, schema in specification().items() if name.endswith("StreamingEvent")}
    return {kind: name for name, schema in kinds.items() for kind in schema["properties"]["type"]["enum"]}


def check_schema(value: Any, name: str) -> None:
    """AssertionError where a value does not fit the schema of that name."""
    found = mistakes(value, specification()[name], name)
    assert not found, found[0]


def mistakes(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    """As much of JSON Schema as the specification uses."""
    if "$ref" in schema:
        return mistakes(value, specification()[schema["$ref"].rpartition("/")[2]], at)
    found = [each for part in schema.get("allOf", ()) for each in mistakes(value, part, at)]
    for choice in ("oneOf", "anyOf"):
        tried = [mistakes(value, part, at) for part in schema.get(choice, ())]
        if tried and all(tried):
            found += [f"{at} fits none of {choice}: {min(tried, key=len)[0]}"]
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
             "null": type(None)}  # fmt: skip
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [*found, f"{at} is {value!r}, not of type {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at} is {value!r}, not one of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{at} lacks {name}" for name in schema.get("required", ()) if name not in value]
        for name, part in schema.get("properties", {}).items():
            found += mistakes(value[name], part, f"{at}.{name}") if name in value else []
    if isinstance(value, list) and "items" in schema:
        found += [each for i, item in enumerate(value) for each in mistakes(item, schema["items"], f"{at}[{i}]")]
    return found
