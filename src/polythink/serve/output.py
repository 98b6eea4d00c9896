"""The output items of a response as JSON objects, and the events that tell them as they grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polythink.engine.params import Event
from polythink.serve.choices import LEAST
from polythink.serve.fields import new_id
from polythink.serve.items import Change, Item
from polythink.serve.prompts import Spelling as TokenSpelling

ItemEvent = tuple[str, dict[str, Any]]  # type, and the facts besides its number
PREFIXES = {"message": "msg"}  # of ids; others: "rs"


class Output:
    """`logprobs`: the answer's tokens carry them; `marks`: an item says in `polythink` what it is of."""

    def __init__(self, tokens: TokenSpelling, logprobs: bool, marks: bool) -> None:
        self.tokens, self.logprobs, self.marks = tokens, logprobs, marks
        self._ids: dict[Item, str] = {}

    def id(self, item: Item) -> str:
        return self._ids.setdefault(item, new_id(PREFIXES.get(item.kind, "rs")).replace("-", "_"))

    @staticmethod
    def empty(index: int) -> Item:
        """The message of a trace that ended without an answer."""
        return Item("message", index, closed=True)

    # --- objects

    def item(self, item: Item, status: str) -> dict[str, Any]:
        """An item as it stands. `status`: that of the response."""
        found: dict[str, Any] = {"id": self.id(item), "type": "message" if item.kind == "message" else "reasoning"}
        found["status"] = self._status(item, status)
        if item.kind == "message":
            found |= {"role": "assistant", "content": [self._part(item)]}
        elif item.kind == "summary":
            found |= {"summary": [self._part(item)], "content": []}
        else:
            found |= {"summary": [], "content": [self._part(item)]}
        if self.marks:
            found["polythink"] = {"kind": item.kind, "path": item.path, "label": item.label, "finish_reason": item.cut}
        return found

    @staticmethod
    def _status(item: Item, status: str) -> str:
        if not item.closed:
            return "incomplete" if status == "incomplete" else "in_progress"
        cut = item.cut or (item.kind == "message" and status == "incomplete")
        return "incomplete" if cut else "completed"

    def _part(self, item: Item) -> dict[str, Any]:
        if item.kind == "message":
            return {
                "type": "output_text",
                "text": item.text,
                "annotations": [],
                "logprobs": self._logprobs(item.events),
            }
        return {"type": "summary_text" if item.kind == "summary" else "reasoning_text", "text": item.text}

    def _logprobs(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        if not self.logprobs:
            return []
        own = [(self._token(e.token, e.logprob), [self._token(*top) for top in e.top]) for e in events]
        return [{**token, "top_logprobs": top} for token, top in own]

    def _token(self, id: int, logprob: float) -> dict[str, Any]:
        own = self.tokens.bytes_of(id) or []  # the API knows no null here
        return {"token": self.tokens.of(id), "logprob": max(logprob, LEAST), "bytes": own}

    # --- events

    def events(self, change: Change, status: str) -> Iterator[ItemEvent]:
        """The events of a change, in order. `status`: that of the response."""
        item = change.item
        at = {"output_index": item.index, "item_id": self.id(item)}
        place = {**at, ("summary_index" if item.kind == "summary" else "content_index"): 0}
        part = "reasoning_summary_part" if item.kind == "summary" else "content_part"
        text = {"message": "output_text", "summary": "reasoning_summary_text"}.get(item.kind, "reasoning_text")
        logprobs = {"logprobs": self._logprobs(change.events)} if item.kind == "message" else {}
        if change.kind == "open":
            bare = Item(item.kind, item.index, item.path, item.label)
            shell = {**self.item(bare, "in_progress"), "id": at["item_id"], "content": []}
            shell |= {"summary": []} if item.kind != "message" else {}
            yield "response.output_item.added", {"output_index": item.index, "item": shell}
            yield f"response.{part}.added", {**place, "part": self._part(bare)}
        elif change.kind == "grow":
            yield f"response.{text}.delta", {**place, "delta": change.text, **logprobs}
        else:
            logprobs = {"logprobs": self._logprobs(item.events)} if item.kind == "message" else {}
            yield f"response.{text}.done", {**place, "text": item.text, **logprobs}
            yield f"response.{part}.done", {**place, "part": self._part(item)}
            yield "response.output_item.done", {"output_index": item.index, "item": self.item(item, status)}
