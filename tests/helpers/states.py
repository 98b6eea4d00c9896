"""Trace states that are fed with tokens by hand: the rules of a mode without any model."""

from __future__ import annotations

from collections.abc import Iterable

from polythink.engine.params import Request, SamplingParams
from polythink.engine.tag_ids import TagIds
from polythink.engine.trace_state import TraceState
from polythink.trace.dialect import get_dialect
from polythink.trace.production import Dialect

END, OTHER_END = 1, 2
ENDS = (END, OTHER_END)
A, B, C = 50, 51, 52  # tokens of text
NAMES = {END: "end", OTHER_END: "end2", A: "a", B: "b", C: "c", 10: "\n"}


class Fed:
    """A state, its events, and the branches whose next tokens are wanted."""

    def __init__(
        self,
        kind: type[TraceState],
        dialect: str | Dialect = "parallel_r1",
        prompt: int = 3,
        prefixes: tuple = (),
        **params,
    ) -> None:
        self.dialect, self.events = get_dialect(dialect) if isinstance(dialect, str) else dialect, []
        self.ids = {tag: 100 + i for i, tag in enumerate(self.dialect.tags)}
        self.names = {i: tag for tag, i in self.ids.items()} | NAMES
        context, trained = params.pop("context", 1000), params.pop("trained_paths", 0)
        params = {"mode": "sequential" if kind.__name__.startswith("Seq") else "structured", **params}
        spell = (lambda text: [10] * len(text)), (lambda tokens: " ".join(self.names.get(t, str(t)) for t in tokens))
        tags = TagIds.of(self.dialect, self.ids, ENDS, *spell, params.get("summary_prefix", ""))
        request = Request(tuple(range(60, 60 + prompt)), "p", path_prefixes=prefixes)
        self.state = kind(request, SamplingParams(**params), tags, context, 0, trained, 7, self.events.append)
        self.inputs = self.state.take(1000)

    def feed(self, *tokens: int | str | Iterable) -> Fed:
        """One step per argument: a token for the only wanted branch, or one for each. Tags stand by name."""
        for given in tokens:
            each = [given] if isinstance(given, int | str) else list(given)
            branches = [branch for _, branch in self.inputs.wanted]
            assert len(branches) == len(each), f"{len(branches)} branches want a token"
            for branch, token in zip(branches, each, strict=True):
                self.state.on_token(branch, self.ids.get(token, token), -0.5)
            self.state.join_if_ready()
            self.inputs = self.state.take(1000)
        return self

    @property
    def segments(self) -> list[str]:
        """`kind: tokens (finish_reason)` of each segment; forced tokens stand in brackets."""
        found = []
        for record in self.state.records[1:]:
            words = (self.names.get(token, str(token)) for token in record.tokens)
            text = " ".join(w if s else f"[{w}]" for w, s in zip(words, record.sampled, strict=True))
            found.append(f"{record.kind}: {text} ({record.finish_reason})".replace("\n", "NL"))
        return found

    @property
    def kinds(self) -> list[str]:
        """The events other than tokens."""
        return [event.kind for event in self.events if event.kind != "token"]
