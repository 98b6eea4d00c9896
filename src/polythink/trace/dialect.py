"""A dialect: the tags and rules of one published trace format. Data, not code."""

from __future__ import annotations

from dataclasses import dataclass

from polythink.run.errors import UserError, nearest


@dataclass(frozen=True)
class Dialect:
    """Six tags and what surrounds them. `gap` is what the runtime writes between a closed block and its summary."""

    name: str
    block_open: str
    block_close: str
    path_open: str
    path_close: str
    summary_open: str
    summary_close: str
    gap: str
    min_paths: int

    @property
    def tags(self) -> tuple[str, ...]:
        return (
            self.block_open, self.block_close, self.path_open, self.path_close, self.summary_open, self.summary_close,
        )  # fmt: skip


# Parallel-R1 (arXiv 2509.07980): <Parallel><Path>..</Path><Path>..</Path></Parallel>\n<Summary>..</Summary>
PARALLEL_R1 = Dialect(
    name="parallel_r1",
    block_open="<Parallel>",
    block_close="</Parallel>",
    path_open="<Path>",
    path_close="</Path>",
    summary_open="<Summary>",
    summary_close="</Summary>",
    gap="\n",
    min_paths=2,
)

DIALECTS = {d.name: d for d in (PARALLEL_R1,)}


def get_dialect(name: str) -> Dialect:
    """The dialect of that name; `UserError` names the nearest one otherwise."""
    if name not in DIALECTS:
        raise UserError(f"no dialect {name!r}{nearest(name, DIALECTS)}")
    return DIALECTS[name]
