"""What a caller asks of the engine (`SamplingParams`, `Request`) and what it reports while it works (`Event`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from polythink.engine.controllers import OFF, ControllerName
from polythink.engine.policies import ANSWERS
from polythink.engine.width import FIXED, Width
from polythink.errors import UserError
from polythink.rewards.functions import written
from polythink.run.config import Config
from polythink.trace.finish import JOIN_WHEN
from polythink.trace.modes import MODES, Mode, get_mode
from polythink.trace.production import Dialect
from polythink.trace.rollout import Rollout


class SamplingParams(Config):
    """How a trace is sampled. All budgets are in tokens and are checked before a token is sampled."""

    mode: Literal[tuple(MODES)] = "structured"
    """How paths are drawn and what the join reads: `structured`, `reread`, `sequential`, or a published mode."""
    paths: int = Field(2, ge=1)
    """Paths per block where the runtime forks; where the model declares them, only `path_temperature` looks at it."""
    width: Width = FIXED
    """Paths per block: `fixed` (`paths`), `agreement` (2, `paths` if they disagree), or a "module:function"."""
    max_paths: int = Field(16, ge=1)
    """The most paths of a block that the model declares or opens, or a `width` policy asks for; more are not opened."""
    max_blocks: int = Field(4, ge=0)
    """Blocks in one text: the trace, or a path or summary of it; a fork beyond them ends it (`max_blocks`)."""
    max_depth: int = Field(1, ge=1)
    """Depth of blocks in blocks, where the dialect nests; below it an opening tag is text. 1: no nested blocks."""
    max_main_tokens: int = Field(2048, ge=1)
    """Sampled tokens per stretch of main text."""
    max_path_tokens: int = Field(1024, ge=1)
    """Sampled tokens per path, after its opening; a sampled closing tag counts, blocks inside it do not."""
    max_summary_tokens: int = Field(512, ge=1)
    """Sampled tokens per summary, after its opening; a sampled closing tag counts."""
    max_trace_tokens: int = Field(4096, ge=1)
    """Tokens of the whole response, all paths together, forced tokens and what a join reads again included."""
    fork_at: int | None = Field(None, ge=0)
    """Force the first fork after N tokens of main text; None: where the dialect forks. Nothing in `sequential` mode."""
    join_when: Literal[JOIN_WHEN] = "all"
    """Start the summary after the first path has finished, half of them, or all; nothing in `sequential` mode."""
    controller: ControllerName = OFF
    """What stops or deepens paths while they run: `majority`, `agreement`, `prune`, `deepen`, ..; "module:function"."""
    probe_every: int = Field(32, ge=1)
    """Sampled tokens of a path between two decisions of the `controller`."""
    probe_patience: int = Field(2, ge=1)
    """Probes in a row that must say the same before `agreement` or `prune` stops a path."""
    path_answer: ANSWERS.type = "last"
    """What a path answers: its `last` box, number or word, or a "module:function" of its text; for policies alone."""
    labels: Literal["ordered", "random"] = "ordered"
    """Numbers of numbered paths: 1..P in order, or any P of the dialect's inventory."""
    path_position_stride: NonNegativeInt | Literal["auto"] = 0
    """Positions between the starts of sibling paths; 0: all start together, `auto`: max_path_tokens + 2."""
    length_scaling_above: int | None = Field(None, ge=0)
    """Scale attention after joins of more than N paths; 0: never, None: the number the model was trained with."""
    summary_prefix: str = ""
    """Forced text with which every summary begins; none in `sequential` mode."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy, but where `paths` > 1 paths are still sampled: see `path_temperature`."""
    path_temperature: float | None = Field(None, ge=0)
    """Temperature of paths; None: `temperature`, or 1.0 where that is 0 and `paths` > 1 or `width` is not fixed."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability mass; 1: no limit."""
    top_k: int = Field(0, ge=0)
    """Sample from the K most probable tokens; 0: no limit."""

    @property
    def rules(self) -> Mode:
        """The mode's record."""
        return get_mode(self.mode)

    def most_paths(self, dialect: Dialect) -> int:
        """The largest number of paths that a block may have where the runtime forks."""
        if not dialect.declares_paths and self.width == FIXED:
            return self.paths
        return min(self.max_paths, dialect.inventory or self.max_paths)

    def functions(self) -> list[str]:
        """The functions of one's own that it names, as "module:function"."""
        named = map(written, (self.width, self.controller, self.path_answer))
        return [name for name in named if ":" in name]

    @property
    def stride(self) -> int:
        """Positions between the starts of sibling paths: 0, or at least the longest path with its tags.

        ParaThinker's "flattened" encoding (arXiv 2509.04475, rejected there): m = L + i l_max + t.
        """
        if not self.rules.isolated:
            return 0
        return self.max_path_tokens + 2 if self.path_position_stride == "auto" else self.path_position_stride

    @model_validator(mode="after")
    def _paths_do_not_overlap(self) -> SamplingParams:
        if self.stride and self.stride < self.max_path_tokens + 2:
            raise ValueError(
                f"path_position_stride={self.path_position_stride} lets paths of {self.max_path_tokens} tokens and "
                f"their tags overlap; it must be at least {self.max_path_tokens + 2}"
            )
        return self

    @model_validator(mode="after")
    def _paths_can_be_joined(self) -> SamplingParams:
        if self.join_when != "all" and (self.max_depth > 1 or self.width != FIXED):
            what = f"max_depth={self.max_depth}" if self.max_depth > 1 else "a width that is not fixed"
            raise ValueError(
                f"join_when={self.join_when} truncates paths when others have finished, and with {what} they hold "
                "blocks or are compared, so all must be waited for; use join_when=all"
            )
        if self.stride and self.max_depth > 1:
            raise ValueError(
                f"path_position_stride={self.path_position_stride} cannot set apart paths that hold blocks of any "
                f"length; use max_depth=1 (given {self.max_depth}) or no stride"
            )
        return self

    @model_validator(mode="after")
    def _paths_can_be_probed(self) -> SamplingParams:
        if self.controller == OFF:
            return self
        reasons = {
            f"mode={self.mode} draws paths one after another, and there are none to compare": not self.rules.isolated,
            f"with max_depth={self.max_depth} a path may hold a block that is not joined yet": self.max_depth > 1,
            f"with path_position_stride={self.path_position_stride} a path cannot be deepened": self.stride > 0,
        }
        if found := [reason for reason, holds in reasons.items() if holds]:
            raise ValueError(
                f"controller={written(self.controller)} stops and deepens paths that run at once, but {found[0]}; "
                "use an isolated mode, max_depth=1 and no stride, or controller=none"
            )
        return self

    def temperature_of(self, kind: str) -> float:
        """The temperature of a segment of this kind; `sequential` mode has one for the whole trace.

        Isolated paths without numbers are copies of each other under greedy decoding. So paths are sampled at 1.0 where
        the main text is greedy and `paths` or `width` may ask for several, unless `path_temperature` is given. `paths`
        is looked at in every dialect: with `paths` 1 the paths that a model declares are greedy too.
        """
        if kind != "path" or not self.rules.isolated:
            return self.temperature
        if self.path_temperature is not None:
            return self.path_temperature
        several = self.paths > 1 or self.width != FIXED
        return 1.0 if self.temperature == 0 and several else self.temperature


@dataclass(frozen=True)
class Continuation:
    """A response without blocks, in which tags are tokens like any other, in `sequential` mode.

    It is drawn with the random numbers of segment number `segment` of a trace (of its outermost text, from 1; several
    numbers lead to a segment in a path or summary: that text's own, then the segment's in it), from number `drawn` on.
    """

    segment: int | tuple[int, ...] = 1
    drawn: int = 0


@dataclass(frozen=True)
class Request:
    """One wanted response: the prompt's token ids, and the names that select its random numbers.

    `dialect` defaults to that of the model's settings; another one needs its tags in the tokenizer. `path_prefixes` are
    forced tokens with which the paths of the first block begin, after what opens them: the i-th entry belongs to
    path i. They are refused in `sequential` mode, and where a block cannot have so many paths; those of paths that the
    model does not declare are not used. With `plain` the response is one text without blocks.

    Token ids may be given as any sequence, an array or a tensor of one dimension; they are kept as tuples. `UserError`
    for anything else.
    """

    prompt: tuple[int, ...]
    problem: str = ""
    sample: int = 0
    dialect: str = ""
    path_prefixes: tuple[tuple[int, ...], ...] = ()
    plain: Continuation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _token_ids(self.prompt, "a request's prompt"))
        prefixes = tuple(_token_ids(prefix, "a path's prefix") for prefix in self.path_prefixes)
        object.__setattr__(self, "path_prefixes", prefixes)


def _token_ids(given: Iterable[int], what: str) -> tuple[int, ...]:
    """They are compared and looked up by: hashable, and Python's own integers."""
    if type(given) is tuple and all(type(id) is int for id in given):  # as the package itself gives them
        return given
    try:
        return tuple(index(id) for id in (given.tolist() if hasattr(given, "tolist") else given))
    except TypeError:
        raise UserError(
            f"{what} is {type(given).__name__}, which is no row of token ids; engine.encode_prompt(text) gives them"
        ) from None


def check_fork_at(params: SamplingParams) -> None:
    """`UserError` where `fork_at` was asked for in a mode of one flat text. Ask only where it was named together with
    the mode: a recipe's arms share one record of decoding, of which such a mode leaves it aside."""
    if params.fork_at is not None and not params.rules.isolated:
        raise UserError(
            f"fork_at={params.fork_at} has the runtime open the first block, and in mode {params.mode} the model "
            "itself writes every tag; leave it out, or use mode: structured"
        )


def check_request(given: object) -> None:
    """`UserError` for what is no request, such as a text."""
    if not isinstance(given, Request):
        raise UserError(
            f"{type(given).__name__} is no Request; Request(engine.encode_prompt(text)) makes one of a text"
        )


def params_for_each(
    requests: Sequence[Request], params: SamplingParams | Sequence[SamplingParams]
) -> list[SamplingParams]:
    """The parameters of each request, given those of all or one for each; `UserError` for another number."""
    if isinstance(requests, str | Request):
        raise UserError(f"{type(requests).__name__} is no list; generate takes a list of Requests")
    for request in requests:
        check_request(request)
    each = [params] * len(requests) if isinstance(params, SamplingParams) else list(params)
    if len(each) != len(requests):
        raise UserError(f"{len(requests)} requests and {len(each)} SamplingParams; give one for all or one each")
    return each


@dataclass(frozen=True)
class Event:
    """One step in the life of a request, in order. The last one is "done" and carries the rollout.

    Blocks and segments are numbered as they open in time, which with nested blocks is not text order. The tokens of a
    copy, which a join reads again, are no text: there are no events of them.
    """

    kind: Literal["token", "fork", "join", "cut", "done"]
    request: int  # the id that `Engine.add` returned; in `generate`, the index into its list of requests
    segment: int  # index of the segment in order of opening, the prompt being 0
    block: int  # -1 for main text
    path: int  # 1..P inside a block, 0 elsewhere
    token: int = -1  # "token" only
    forced: bool = False  # "token" only: written by the runtime, not sampled
    logprob: float = 0.0  # "token" only: as in the rollout, natural log; 0.0 for forced ones
    top: tuple[tuple[int, float], ...] = ()  # "token" only: the likeliest tokens and their log-probabilities, if asked
    finish_reason: str = ""  # "cut" only: which budget, or what else, ended the segment
    label: int = 0  # the number in the path's tags, where it has one
    rollout: Rollout | None = None  # "done" only


OnEvent = Callable[[Event], None]
