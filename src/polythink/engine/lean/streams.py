"""CUDA streams of captures and of branches in a graph: the same for all captures, which take turns."""

from __future__ import annotations

import threading
from functools import cache

import torch

_WARM = threading.local()  # the devices whose streams are warm for this thread: libraries have a handle for each


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    return tuple(torch.cuda.Stream(device) for _ in range(3))


def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a capture that is to begin in this thread, warm, as its side streams are."""
    known = _WARM.__dict__.setdefault("devices", set())
    if device not in known:
        for stream in _streams(device):
            warm(stream)
        known.add(device)
    return _streams(device)[0]


def side_streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """Two streams beside the one of a capture."""
    return _streams(device)[1:]


def warm(stream: torch.cuda.Stream) -> None:
    """Let the libraries take their own memory for this stream, which must not come from a graph's pool."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(16, 16, dtype=dtype, device=stream.device)
            torch.addmm(x[0], x, x @ x)
