"""Is the model able to scale its attention, where a request needs that: asked once, and before anything is sampled."""

from __future__ import annotations

from polythink.engine.backends.base import LocalBackend
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError


class Scaling:
    """What a backend can scale, in any thread; only the first question waits for the one that steps."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self._refusal: str | None = None  # None: it has not been asked yet

    def refusal(self) -> str:
        """Why the model cannot scale its attention; "" where it can."""
        if self._refusal is None:
            try:
                self.backend.check_scaling()
                self._refusal = ""
            except UserError as error:
                self._refusal = str(error)
        return self._refusal

    def check(self, state: TraceState) -> None:
        """`UserError` where attention would have to be scaled and the model cannot."""
        rules, trained, paths = state.params.rules, state.trained_paths, state.params.most_paths(state.tags.dialect)
        forks = rules.isolated and not rules.rereads and not state.request.plain
        if forks and 0 < trained < paths and (why := self.refusal()):
            raise UserError(
                f"{why}; or set length_scaling_above: 0, and the join of {paths} paths, more than {trained}, "
                "is not scaled"
            )
