"""Credit along tokens (`credit: path`): a path's tokens learn from whether it was right, the others from the trace.

For one problem, take every path, of every block at every depth, of every graded rollout of its group. A path's result
is 1 if its own answer is right (`Grader.grade_path`), otherwise 0, also where it states none: a path does not earn the
trace's reward by keeping silent. Its advantage is that of GRPO over this set of results:

    A(path) = (result - mean) / std        (scale_rewards: false: without std; mean: divided by the mean)

so that the advantages of a group's paths sum to 0 before `negative_scale`. A token that stands in paths belongs to the
innermost; the summary of a block inside a path is text of that path. Main text and the summaries of outermost blocks
keep the advantage of the trace's reward, and so does a rollout without paths.

By hand: two rollouts, the first right with paths (right, wrong), the second wrong with (wrong, wrong). The results
1 0 0 0 have the mean 1/4 and the deviation sqrt((9 + 1 + 1 + 1) / 16 / 3) = 1/2: the right path gets 3/2, each wrong
one -1/2, in both rollouts; main text and summary get +-1/sqrt(2) from the rewards 1, -1.

Where all paths of a group are alike, their tokens learn nothing; the group counts as one without spread only if its
rewards are all equal too.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.trace.layout import standing
from polythink.trace.rollout import Rollout
from polythink.train.config import PolicyConfig
from polythink.train.loss import group_advantages

Chain = tuple[int, int]  # (block, path), as in `layout.Piece`


def paths_that_hold(rollout: Rollout) -> list[tuple[Chain, ...]]:
    """For each segment the paths in which it stands, the innermost first; () for main text and its summaries."""
    outer = standing([piece.chain for piece in rollout.pieces() if piece.kind != "copy"])

    def holders(chain: Chain) -> tuple[Chain, ...]:
        if chain[0] < 0:
            return ()
        return ((chain,) if chain[1] else ()) + holders(outer[chain[0]])

    return [holders((s.block, s.path)) if s.tokens else () for s in rollout.segments]


def path_texts(rollout: Rollout) -> dict[Chain, str]:
    """The text of each path, with its tags, and with the blocks that stand inside it."""
    texts: dict[Chain, str] = {}
    for segment, holders in zip(rollout.segments, paths_that_hold(rollout), strict=True):
        for chain in holders:
            texts[chain] = texts.get(chain, "") + segment.text
    return texts


def grade_paths(rollouts: Sequence[Rollout], problems: Sequence[Problem], grader: Grader) -> list[dict[Chain, bool]]:
    """Of each rollout, whether each of its paths is right; `problems` names the one that each rollout answers."""
    texts = [path_texts(rollout) for rollout in rollouts]
    asked = [(text, problem) for own, problem in zip(texts, problems, strict=True) for text in own.values()]
    with ThreadPoolExecutor(max_workers=grader.workers) as pool:
        verdicts = iter(list(pool.map(lambda pair: grader.grade_path(*pair) is True, asked)))
    return [{chain: next(verdicts) for chain in own} for own in texts]


def path_credit(
    rollouts: Sequence[Rollout],
    right: Sequence[dict[Chain, bool]],
    graded: Sequence[bool],
    advantage_PG: torch.Tensor,
    config: PolicyConfig,
) -> tuple[list[list[float]], torch.Tensor]:
    """The advantage of each segment of each rollout, and (P,) bool: groups whose paths all have the same result.

    `right`: of each rollout whether each path is right; `advantage_PG`: that of the traces.
    """
    group_size, segments, alike = advantage_PG.shape[1], [], []
    for p, whole in enumerate(advantage_PG.tolist()):
        own = slice(p * group_size, (p + 1) * group_size)
        paths = path_advantages(right[own], graded[own], config.scale_rewards, config.negative_scale)
        segments += [credit_segments(*one) for one in zip(rollouts[own], whole, paths, strict=True)]
        alike.append(not any(value for one in paths for value in one.values()))
    return segments, torch.tensor(alike)


def path_advantages(
    right: Sequence[dict[Chain, bool]], graded: Sequence[bool], scale_rewards: bool | str, negative_scale: float
) -> list[dict[Chain, float]]:
    """The advantage of every path of one group's rollouts; 0 for those of rollouts that were not graded."""
    advantages = [dict.fromkeys(own, 0.0) for own in right]
    known = [(i, chain) for i, own in enumerate(right) if graded[i] for chain in own]
    if len(known) > 1:
        results = torch.tensor([[float(right[i][chain]) for i, chain in known]])
        values, _ = group_advantages(results, scale_rewards, negative_scale)
        for (i, chain), value in zip(known, values[0].tolist(), strict=True):
            advantages[i][chain] = value
    return advantages


def credit_segments(rollout: Rollout, advantage: float, paths: dict[Chain, float]) -> list[float]:
    """The advantage of each segment of a rollout: its innermost path's, otherwise the rollout's own."""
    return [paths[holders[0]] if holders else advantage for holders in paths_that_hold(rollout)]
