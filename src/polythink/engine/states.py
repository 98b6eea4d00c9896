"""The trace state of a request, wherever its tokens come from: its kind, its tags, and how attention is scaled."""

from __future__ import annotations

from collections.abc import Callable

from polythink.engine.params import Event, Request, SamplingParams, check_request
from polythink.engine.plain import PlainState
from polythink.engine.sequential import SequentialState
from polythink.engine.structured import StructuredState
from polythink.engine.tag_ids import TagIds
from polythink.engine.trace_state import TraceState
from polythink.models.settings import ModelSettings
from polythink.models.tags import tag_ids
from polythink.models.vocabulary import Vocabulary
from polythink.trace.dialect import get_dialect


class States:
    """Makes the states of requests to one model. Tags are looked up once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._tags: dict[tuple[str, str], TagIds] = {}  # by dialect and summary_prefix

    def of(
        self,
        request: Request,
        params: SamplingParams,
        context: int,
        seed: int = 0,
        id: int = 0,
        emit: Callable[[Event], None] | None = None,
    ) -> TraceState:
        """`UserError` for a request that cannot be sampled with these parameters."""
        check_request(request)
        vocabulary, isolated = self.vocabulary, params.rules.isolated
        for ids in (request.prompt, *request.path_prefixes):
            vocabulary.check_ids(ids)
        if isolated and not request.plain:
            vocabulary.require_tags()
        kind = PlainState if request.plain else StructuredState if isolated else SequentialState
        tags = self.tags(request.dialect, params.summary_prefix)
        return kind(request, params, tags, context, seed, trained_paths(vocabulary.settings, params), id, emit)

    def tags(self, dialect: str, prefix: str) -> TagIds:
        """The tags of a dialect ("": that of the model's settings), with this `summary_prefix`."""
        if (dialect, prefix) not in self._tags:
            v = self.vocabulary
            wanted = get_dialect(dialect) if dialect else v.dialect
            ids = v.tag_ids if wanted == v.dialect else tag_ids(v.tokenizer, wanted)
            self._tags[dialect, prefix] = TagIds.of(wanted, ids, v.ends, v.encode, v.decode, prefix)
        return self._tags[dialect, prefix]


def trained_paths(settings: ModelSettings, params: SamplingParams) -> int:
    """With more paths than this, attention is scaled after a join of their own keys and values; 0: never."""
    above = params.length_scaling_above
    return settings.trained_paths if above is None else above
