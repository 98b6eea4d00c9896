"""What is asked of the engine, and what it tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from polythink.run.config import Config
from polythink.trace.finish import JOIN_WHEN


class SamplingParams(Config):
    """How a trace is drawn. All budgets are in tokens and are checked before drawing."""

    mode: Literal["structured", "sequential"] = "structured"
    paths: int = Field(2, ge=1)  # paths per block (`structured`; in `sequential` mode the model decides)
    max_blocks: int = Field(4, ge=0)  # opening one more ends the trace, recorded as a cut
    max_main_tokens: int = Field(2048, ge=1)  # each stretch of main text
    max_path_tokens: int = Field(1024, ge=1)  # each path, behind its opening tag; a closing tag that is drawn counts
    max_summary_tokens: int = Field(512, ge=1)  # each summary, in the same way
    max_trace_tokens: int = Field(4096, ge=1)  # the whole response, forced tokens included
    fork_at: int | None = Field(None, ge=0)  # force the first fork behind so many main tokens; None: the dialect's way
    join_when: Literal[JOIN_WHEN] = (
        "all"  # which path ends its block: the first to be through, that of the half, the last
    )
    labels: Literal["ordered", "random"] = "ordered"  # numbers of numbered paths: 1..P, or any of the inventory
    # from path to path in positions; 0: paths restart together, auto: the most tokens of a path with its tags
    path_position_stride: NonNegativeInt | Literal["auto"] = 0
    length_scaling_above: int | None = Field(
        None, ge=0
    )  # joins of more paths scale attention; 0: none, None: as trained
    summary_prefix: str = ""  # forced text with which every summary begins
    temperature: float = Field(1.0, ge=0)  # 0 is greedy
    path_temperature: float | None = Field(None, ge=0)  # of paths alone; None: `temperature`, and 1.0 if that is 0
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)  # 0: no limit

    @property
    def stride(self) -> int:
        """What sets the paths of a block apart in position: 0, or no less than the tokens of a path with its tags.

        ParaThinker's "flattened" encoding (arXiv 2509.04475, rejected there): m = L + i l_max + t.
        """
        if self.mode == "sequential":
            return 0
        return self.max_path_tokens + 2 if self.path_position_stride == "auto" else self.path_position_stride

    @model_validator(mode="after")
    def _paths_do_not_overlap(self) -> SamplingParams:
        if self.stride and self.stride < self.max_path_tokens + 2:
            raise ValueError(
                f"path_position_stride={self.path_position_stride} lets paths of {self.max_path_tokens} tokens and their tags "
                f"overlap; it must be at least {self.max_path_tokens + 2}"
            )
        return self

    def temperature_of(self, kind: str) -> float:
        """The temperature of a segment of this kind; in `sequential` mode there is one for the whole trace.

        Isolated paths without numbers are copies of each other under greedy decoding, so when the main text is greedy
        and several isolated paths are drawn they are sampled at 1.0, unless `path_temperature` says otherwise.
        """
        if kind != "path" or self.mode == "sequential":
            return self.temperature
        if self.path_temperature is not None:
            return self.path_temperature
        return 1.0 if self.temperature == 0 and self.paths > 1 else self.temperature


@dataclass(frozen=True)
class Request:
    """One response wanted: the prompt's token ids, and the names under which its random numbers are drawn.

    `dialect` is that of the model's settings if left out; another one needs its tags in the tokenizer. `path_prefixes` are
    forced tokens with which the paths of the first block begin, behind their opening tags: path i takes the i-th. In
    `sequential` mode there must be none.
    """

    prompt: tuple[int, ...]
    problem: str = ""
    sample: int = 0
    dialect: str = ""
    path_prefixes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Event:
    """One thing that happened to one request while it was drawn, in order."""

    kind: Literal["token", "fork", "join", "cut", "done"]
    request: int  # index into the list of requests
    segment: int  # index of the segment in order of opening
    block: int
    path: int
    token: int = -1  # "token" only
    forced: bool = False  # "token" only
    finish_reason: str = ""  # "cut" only: which budget
    label: int = 0  # the path's number, where it has one


OnEvent = Callable[[Event], None]
