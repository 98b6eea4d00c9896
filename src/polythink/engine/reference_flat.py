"""The slow twin's modes of one flat text: elements inside elements, as their tags are sampled, by recursion."""

from __future__ import annotations

from polythink.engine.reference_page import Page, limited
from polythink.engine.sampling import stream_key
from polythink.errors import UserError

Drawn = tuple[int, float]


def write_flat(page: Page) -> None:
    """Write the whole trace."""
    if page.request.path_prefixes:
        raise UserError("a sequential trace has no paths to force path_prefixes on")
    _Flat(page).text(("main", -1, 0, 0), 0, page.params.max_main_tokens)


class _Flat:
    """Each method writes one element and returns whether the trace goes on after it."""

    def __init__(self, page: Page) -> None:
        self.page, dialect = page, page.dialect
        self.key = stream_key(page.seed, page.request.problem, page.request.sample, 1)
        self.count = 0
        labels = range(1, dialect.inventory + 1) if dialect.inventory else (0,)
        self.paths = {page.id(dialect.path_tags(n)[0]): n for n in labels}
        self.begins = set(self.paths) if page.opens is None else {page.opens}
        self.joins = page.id(dialect.joining[0].text if dialect.joining else dialect.summary.open)

    def draw(self) -> Drawn:
        self.count += 1
        return self.page.draw(self.key, self.count - 1)

    def text(self, place: tuple[str, int, int, int], depth: int, own: int, first: Drawn | None = None) -> bool:
        """Main text, a path or a summary. `own`: what it may sample; `first`: its opening tag, drawn already."""
        page, inner = self.page, place[0] != "main"
        close = page.close_of(place[0], place[3])
        nests = depth == 0 or (page.dialect.nests and depth < page.params.max_depth)
        segment, blocks = page.open(*place), 0
        limit, cut = limited(own, page.left - inner - (first is not None), page.bound)
        while True:
            if first is not None:
                page.put(*first)
                if first[0] == close:
                    segment.finish_reason = "tag"
                    return True
            first = None
            if limit < 1:
                return self.cut(inner, cut, close)
            token, logprob = self.draw()
            limit -= 1
            if nests and token in self.begins:
                if page.opens is not None or blocks == page.params.max_blocks:
                    page.put(token, logprob)
                segment.finish_reason = "max_blocks" if blocks == page.params.max_blocks else "fork"
                if segment.finish_reason == "max_blocks":
                    return False
                blocks += 1
                if not self.block(depth + 1, (token, logprob) if page.opens is None else None):
                    return False
                segment = page.open(*place)
                limit, cut = limited(limit if inner else own, page.left - inner, page.bound)
                if limit < 1 and (not inner or page.left < 1):
                    page.end(page.bound)
                    return False
                continue
            page.put(token, logprob)
            if token in page.lm.ends:
                page.end("eos")
                return False
            if token == close:
                segment.finish_reason = "tag"
                return True

    def cut(self, inner: bool, reason: str, close: int | None) -> bool:
        """The element has used up its budget."""
        page = self.page
        page.end(reason)
        if not inner or page.left < 1:
            return False
        page.force([close])
        return True

    def block(self, depth: int, first: Drawn | None) -> bool:
        """A block, from what follows its opening tag (or from its first path's) to its summary."""
        page, params, paths = self.page, self.page.params, 0
        number, page.blocks = page.blocks, page.blocks + 1
        limit, cut = limited(params.max_main_tokens, page.left, page.bound)
        while True:
            if first is None and limit < 1:
                page.end(page.bound)
                return False
            token, logprob = first or self.draw()
            first = None
            if token in self.paths and paths == params.max_paths:
                page.put(token, logprob)
                page.end("max_paths")
                return False
            if token in self.paths:
                paths += 1
                place = ("path", number, paths, self.paths[token])
                if not self.text(place, depth, params.max_path_tokens, (token, logprob)):
                    return False
                limit, cut = limited(params.max_main_tokens, page.left, page.bound)
                continue
            if token == self.joins:
                return self.text(("summary", number, 0, 0), depth, params.max_summary_tokens, (token, logprob))
            page.put(token, logprob)
            limit -= 1
            if token in page.lm.ends or limit < 1:
                page.end("eos" if token in page.lm.ends else cut)
                return False
