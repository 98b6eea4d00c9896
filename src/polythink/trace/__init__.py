"""Traces: the one room that knows the tags. Imports without torch."""

from polythink.trace.dialect import DIALECTS, PARALLEL_R1, Dialect, get_dialect
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.trace.modes import MODES, Mode, get_mode
from polythink.trace.parse import TraceError, parse
from polythink.trace.render import render
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import rollout_statistics, statistics
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Block, Plan, Trace
from polythink.trace.validity import RULES, Verdict, check

__all__ = [
    "DIALECTS",
    "MODES",
    "PARALLEL_R1",
    "RULES",
    "Block",
    "Dialect",
    "Layout",
    "Mode",
    "Piece",
    "Plan",
    "Rollout",
    "Segment",
    "Trace",
    "TraceError",
    "Verdict",
    "check",
    "get_dialect",
    "get_mode",
    "lay_out",
    "parse",
    "pieces_of",
    "render",
    "rollout_statistics",
    "statistics",
]
