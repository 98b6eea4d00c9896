"""The plan of a step's attention: which tile of queries reads which pages, and whose partial results belong together.

A tile holds queries that read the same pages: those of one row, which read the row's own pages, or those of all rows
that are attached to one prefix, which read the prefix's. Every page that a query of the tile sees stands in the tile's
list once, with a word that says which of the tile's queries see it; so it is read once for all of them. Lists are cut
into items of about equal length, so that one trace fills a GPU, and the items' partial results are merged per query.

On paper, with 256 programs, 28 layers of 8 key heads of 128 in bfloat16, two query heads to each, 32 tokens drawn (GB
a step: keys and values asked for, of which from memory (each once), partial results written and read, and what reading
every branch's own copy would be):
    1 x 8, prompt 512           0.09, 0.09, 0.04, 0.50
    8 x 8, prompt 512           0.71, 0.71, 0.12, 3.99
    64 x 8, prompt 512          5.64, 5.64, 0.24, 31.9
    64 samples, prompt 2,048    0.71, 0.48, 0.27, 15.3
What is asked for a second time, and partial results, stay in a GPU's cache.

In a plain step (the rows and segments of the step before, one token each) only the pages being written change: the
lists are updated in place. Everything else builds them anew.

Axis legend: N tokens, Q places in the tiles' query lists, T tiles, I items, E entries of the page lists, M partials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polythink.engine.paged.arena import PAGE, Arena, runs
from polythink.engine.paged.upload import Upload
from polythink.engine.step import StepBatch

COUNT_BITS = 5  # an entry of a page list is page << 5 | tokens written, 1..16
ITEM = 5  # numbers of an item: first query, queries, first entry, entries, first partial
NARROW = 64  # packed rows that go into one narrow tile
MOST_QUERIES = 32  # of a tile: bits of a word


@dataclass(frozen=True)
class Tiling:
    """How work is cut. A program of the kernel runs one item for one key head."""

    share: int  # query heads that share a key head: packed rows of a query
    kv_heads: int
    widest: int = 64  # packed rows of a wide tile: for prompts, and for prefixes with many readers
    programs: int = 512  # fill a GPU of 132 multiprocessors, four on each
    least_pages: int = 4  # of a narrow tile's item: two rounds of keys, or one long one

    def items(self, tiles: int) -> int:
        """So many items fill the GPU. Half as many for a lone tile: all their results are merged into few queries."""
        return max(1, self.programs // self.kv_heads // (2 if tiles == 1 else 1))


@dataclass(frozen=True)
class Launch:
    """One launch of the kernel: `items` of them from number `first` on, some of which may be empty."""

    block: int  # packed rows of a tile
    first: int
    items: int


@dataclass(frozen=True, eq=False)
class Placed:
    """A step's tokens with their places."""

    batch: StepBatch
    flat: np.ndarray  # (N,) page x 16 + offset
    stamp: np.ndarray  # (N,)
    size: int  # N, padded
    new: np.ndarray | None  # in a plain step: which tokens began a page


def _ranges(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For runs of these lengths: of each element its run, and its number in the run."""
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - (np.cumsum(count) - count)[run]


def _power(n: int) -> int:
    return 1 << max(int(n) - 1, 0).bit_length()


@dataclass
class Tiles:
    """The tiles of a step, all (T,), and `queries` (Q,): the token of each place."""

    queries: np.ndarray
    row: np.ndarray  # whose pages are read
    first: np.ndarray  # place of the first query
    count: np.ndarray
    wide: np.ndarray  # bool
    own: int  # so many tiles read their queries' own row; the others read a prefix
    narrow_block: int  # packed rows of the narrow tiles

    @classmethod
    def of(cls, arena: Arena, row: np.ndarray, tiling: Tiling) -> Tiles:
        """Cut the queries of each row, and those of each prefix's readers, into tiles of about equal size."""
        starts, counts = runs(row)
        rows = row[starts]
        queries, own = np.arange(len(row)), len(rows)
        prefix = arena.prefix[row]
        reading = np.flatnonzero(prefix >= 0)
        if len(reading):
            order = reading[np.argsort(prefix[reading], kind="stable")]
            of = prefix[order]
            start, count = runs(of)
            rows, counts = np.append(rows, of[start]), np.append(counts, count)
            starts, queries = np.append(starts, len(row) + start), np.append(queries, order)
        packed = counts * tiling.share
        narrow = max(min(NARROW, tiling.widest), _power(tiling.share))
        wide = packed > narrow  # more than one tile, or a wide one
        block = max(16, _power(packed[~wide].max(initial=tiling.share)))
        most = np.where(wide, per_tile(tiling.widest, tiling), per_tile(block, tiling))
        size = -(-counts // -(-counts // most))
        source, number = _ranges(-(-counts // size))
        first = number * size[source]
        own = int(np.searchsorted(source, own))
        return cls(queries, rows[source], starts[source] + first, np.minimum(size[source], counts[source] - first),
                   wide[source], own, block)  # fmt: skip


def per_tile(block: int, tiling: Tiling) -> int:
    """Queries of a tile of that many packed rows."""
    return max(1, min(block // tiling.share, MOST_QUERIES))


@dataclass(eq=False)
class Growth:
    """Where the lists of a plain step may be updated in place."""

    at: np.ndarray  # (N,) the entry of the page that the token was written to
    tile: np.ndarray  # (N,) the token's tile, for its row's own pages
    bit: np.ndarray  # (N,) int32: the word of a page that only this token sees
    tail: np.ndarray  # (T,) where the tile's list ends
    limit: np.ndarray  # (T,) where it must end
    last: np.ndarray  # (T,) place of the tile's last item


class Work:
    """The lists of one kind of layers (all that have this `window`), kept in columns of an `Upload`.

    Columns, int32: `items` (I, 5): first place in `queries`, number of queries, first entry, number of entries, first
    partial; unused items are zero. `queries` (Q,): token numbers. `entries` (E,): page << 5 | tokens written.
    `bits` (E,): bit i: the tile's query i sees the page. `merge_start` (N + 1,) and `merge` (M,): the partials of
    token n are merge[merge_start[n] : merge_start[n + 1]].
    """

    def __init__(self, upload: Upload, tiling: Tiling, window: int | None, name: str) -> None:
        self.upload, self.tiling, self.window, self.name = upload, tiling, window, name
        self.launches: tuple[Launch, ...] = ()
        self.causal = False  # some query must not read all of a page that it sees: stamps are compared
        self.partials = self.parts = 0  # of all tokens; the most of one
        self._version = -1  # the arena's, when the lists were built
        self._growth: Growth | None = None  # where they may be updated in place

    def column(self, name: str) -> np.ndarray:
        return self.upload.host[f"{name}{self.name}"]

    def tensor(self, name: str):
        """A column on the device."""
        return self.upload.device[f"{name}{self.name}"]

    def _table(self) -> np.ndarray:
        """(I, 5): all items that are launched."""
        return self.column("items")[: ITEM * sum(launch.items for launch in self.launches)].reshape(-1, ITEM)

    # --- built anew

    def build(self, arena: Arena, step: Placed) -> None:
        """Fill all columns for a step."""
        batch = step.batch
        tiles = Tiles.of(arena, batch.row, self.tiling)
        seen, place = self._seen(arena, batch, tiles)
        self.causal = self._needs_stamps(arena, batch, seen)
        words = np.bitwise_or.reduceat(seen.astype(np.int64) << place[:, None], tiles.first, axis=0)  # (T, S)
        tile, page, word = self._entries(arena, step, tiles, words)
        length = np.bincount(tile, minlength=len(tiles.row))  # (T,) pages
        spare = np.zeros_like(length)
        if not self.causal:
            spare[: tiles.own] = tiles.count[: tiles.own]
        base = np.cumsum(length + spare) - (length + spare)
        tile_of, begin, pages = self._items(length, tiles.wide)
        partial, merge = self._merges(tiles, tile_of, step.size)
        self.parts = _power(np.diff(merge[0]).max())  # a power of two: the kernel is compiled for it
        self.upload.fit(**{f"{name}{self.name}": size for name, size in (
            ("queries", 2 * step.size), ("entries", int((length + spare).sum())), ("bits", int((length + spare).sum())),
            ("merge_start", step.size + 1), ("merge", len(merge[1])),
        )})  # fmt: skip
        slots = self._place_items(tiles, tile_of, base[tile_of] + begin, pages, partial)
        at = base[tile] + _ranges(length)[1]
        self.column("entries")[at] = page.astype(np.int64) << COUNT_BITS | arena.filled[page]
        self.column("bits")[at] = word.astype(np.uint32).view(np.int32)
        self.column("queries")[: len(tiles.queries)] = tiles.queries
        self.column("merge_start")[: step.size + 1], self.column("merge")[: len(merge[1])] = merge
        self._growth = None
        if not self.causal:
            where, last = np.zeros(arena.capacity, np.int64), np.zeros(len(tiles.row), np.int64)
            own = tile < tiles.own
            where[page[own]] = at[own]
            last[tile_of] = slots  # of several items the last one's stays
            self._growth = Growth(
                at=where[step.flat // PAGE],
                tile=_ranges(tiles.count[: tiles.own])[0],
                bit=(np.uint32(1) << place[: len(step.flat)].astype(np.uint32)).view(np.int32),
                tail=base + length,
                limit=base + length + spare,
                last=last,
            )
        self._version = arena.version

    @staticmethod
    def _seen(arena: Arena, batch: StepBatch, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
        """(Q, S) bool: the segments of the tile's row that each query sees; (Q,) its number in the tile."""
        seen = arena.sees[batch.row, batch.segment]  # (N, S)
        others = tiles.queries[len(batch.row) :]
        if len(others):
            of_prefix = np.zeros((len(others), seen.shape[1]), bool)
            of_prefix[:, 0] = seen[others, 0]
            seen = np.concatenate((seen, of_prefix))
        return seen, _ranges(tiles.count)[1]

    @staticmethod
    def _needs_stamps(arena: Arena, batch: StepBatch, seen: np.ndarray) -> bool:
        """Does some query see the segment of another token of its row in this step?"""
        n = len(batch.row)
        start, count = runs(batch.row)
        seers = np.add.reduceat(seen[:n].astype(np.int32), start, axis=0)  # (rows, S)
        run = np.repeat(np.arange(len(start)), count)
        return bool((seers[run, batch.segment] > 1).any())

    def _entries(
        self, arena: Arena, step: Placed, tiles: Tiles, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tile, page and word of each page that some query of the tile may read, in the order of the tiles."""
        tile, number = _ranges(arena.pages[tiles.row])
        page = arena.listed[tiles.row[tile], number]
        word = words[tile, arena.segment_of[page]]
        chosen = word != 0
        if self.causal:
            latest = np.maximum.reduceat(step.stamp[tiles.queries], tiles.first)
            chosen &= arena.first_stamp[page] <= latest[tile]
        if self.window is not None:
            earliest = np.minimum.reduceat(step.batch.position[tiles.queries], tiles.first)
            chosen &= arena.last_position[page] > earliest[tile] - self.window
        if chosen.all():
            return tile, page, word
        return tile[chosen], page[chosen], word[chosen]

    def _items(self, length: np.ndarray, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut the tiles' lists: of each item its tile, its first page in the list, and its number of pages.

        Items are as long as lets each launch fill the GPU, but not so short that partial results outweigh pages: those
        of 64 rows, written and read, are as many bytes as 8 pages. A tile without pages (its prefix lies before the
        window) has no item.
        """
        tiling, wanted = self.tiling, self.tiling.items(len(length))
        most = np.where(
            wide,
            max(tiling.widest // 4, -(-int(length[wide].sum()) // wanted)),
            max(tiling.least_pages, -(-int(length[~wide].sum()) // wanted)),
        )
        blocks = -(-length // tiling.least_pages)
        parts = np.minimum(-(-length // most), blocks)
        tile, number = _ranges(parts)
        begin = number * blocks[tile] // parts[tile] * tiling.least_pages  # whole blocks
        end = np.minimum((number + 1) * blocks[tile] // parts[tile] * tiling.least_pages, length[tile])
        return tile, begin, end - begin

    @staticmethod
    def _merges(tiles: Tiles, tile_of: np.ndarray, size: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """(I,) the first partial of each item; and the partials of each token, as (starts, list)."""
        count = tiles.count[tile_of]
        item, number = _ranges(count)
        token = tiles.queries[tiles.first[tile_of[item]] + number]
        start = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(token, minlength=size), out=start[1:])
        return np.cumsum(count) - count, (start, np.argsort(token, kind="stable"))

    def _place_items(
        self, tiles: Tiles, tile: np.ndarray, entry: np.ndarray, pages: np.ndarray, partial: np.ndarray
    ) -> np.ndarray:
        """Write the items, narrow ones first, long ones first; returns the place of each."""
        wide = tiles.wide[tile]
        narrow = len(tile) - int(wide.sum())
        least = max(16, _power(self.tiling.items(len(tiles.row))))
        sizes = [max(least, _power(n)) if n else 0 for n in (narrow, len(tile) - narrow)]
        blocks = (tiles.narrow_block, self.tiling.widest)
        self.launches = tuple(
            Launch(block, first, n) for block, first, n in zip(blocks, (0, sizes[0]), sizes, strict=True) if n
        )
        self.upload.fit(**{f"items{self.name}": ITEM * sum(sizes)})
        order = np.lexsort((-pages, wide))
        slots = np.empty(len(tile), np.int64)
        slots[order] = np.arange(len(tile))
        slots[wide] += sizes[0] - narrow
        items = self._table()
        items[:] = 0
        items[slots] = np.stack((tiles.first[tile], tiles.count[tile], entry, pages, partial), 1)
        self.partials = int(tiles.count[tile].sum())
        return slots

    # --- updated in place

    def advance(self, arena: Arena, step: Placed) -> bool:
        """Update the lists for a plain step; False where they must be built anew."""
        grown = self._growth
        if step.new is None or grown is None or self._version != arena.version:
            return False
        entries, new = self.column("entries"), step.new
        if not len(new):
            entries[grown.at] += 1
            return True
        tile = grown.tile[new]
        start, count = runs(tile)
        heads = tile[start]
        if (grown.tail[heads] + count > grown.limit[heads]).any():
            return False
        at = grown.tail[tile] + _ranges(count)[1]
        entries[grown.at] += 1
        entries[grown.at[new]] -= 1
        entries[at] = step.flat[new] // PAGE << COUNT_BITS | 1
        self.column("bits")[at] = grown.bit[new]
        grown.at[new] = at
        grown.tail[heads] += count
        self._table()[grown.last[heads], 3] += count
        return True

    # --- what it reads

    def tokens_read(self) -> tuple[int, int]:
        """Keys that one layer reads in this step, and how many of them are different: a page of several tiles counts
        once."""
        items = self._table()
        item, number = _ranges(items[:, 3])
        entries = self.column("entries")[items[item, 2] + number]
        count = (1 << COUNT_BITS) - 1
        return int((entries & count).sum()), int((np.unique(entries) & count).sum())
