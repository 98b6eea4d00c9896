"""CUDA streams for branches of a graph."""

from __future__ import annotations

from functools import cache

import torch


@cache
def side_streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """Two streams beside the one of a capture. Call this before a capture begins: see `warm`."""
    streams = torch.cuda.Stream(device), torch.cuda.Stream(device)
    for stream in streams:
        warm(stream)
    return streams


def warm(stream: torch.cuda.Stream) -> None:
    """Let the libraries take their own memory for this stream, which must not come from a graph's pool."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(16, 16, dtype=dtype, device=stream.device)
            torch.addmm(x[0], x, x @ x)
