"""llama.cpp through llama-cpp-python, at the level of batches: a file of weights, and a context that decodes.

A context is a memory of cells, as `memory.py` tells.

Axis legend: N tokens of a batch, W wanted tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from polythink.engine.llama.memory import BLOCK, MOST_SEQUENCES
from polythink.errors import UserError, did_you_mean

BATCH = 512  # tokens that a context runs at once; more are several batches
F32 = 0  # GGML_TYPE_F32
NEEDED = "llama.cpp runs through llama-cpp-python, which is not installed: pip install llama-cpp-python"


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level, text, data):
    """llama.cpp reports to nobody."""


@cache
def library() -> ModuleType:
    """llama_cpp, ready and quiet; `UserError` where it is not installed or has another interface."""
    try:
        import llama_cpp
    except ImportError as error:
        raise UserError(NEEDED) from error
    if not hasattr(llama_cpp, "llama_memory_seq_cp"):
        raise UserError(
            f"llama-cpp-python {llama_cpp.__version__} has no llama_memory_seq_cp: pip install -U llama-cpp-python"
        )
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp


class Weights:
    """A GGUF file that llama.cpp has loaded (mapped into memory); all layers on the GPU with `gpu`."""

    def __init__(self, file: str | Path, gpu: bool = False) -> None:
        api = library()
        params = api.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu else 0
        self.file, self.model = Path(file), api.llama_model_load_from_file(str(file).encode(), params)
        if not self.model:
            raise UserError(
                f"llama.cpp cannot load {str(file)!r}: it is damaged, or of an architecture that this "
                "llama-cpp-python does not know (pip install -U llama-cpp-python)"
            )
        self.vocabulary: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.recurrent = bool(api.llama_model_is_recurrent(self.model) or api.llama_model_is_hybrid(self.model))
        self.encodes = bool(api.llama_model_has_encoder(self.model))
        self.float32 = self.meta("general.file_type") == "0"

    def meta(self, key: str) -> str:
        """A value of the file's metadata as text; empty where there is none."""
        buffer = ctypes.create_string_buffer(256)
        n = library().llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return buffer.value.decode() if n >= 0 else ""

    def facts(self) -> dict[str, str]:
        """For a result's provenance: `model` (its file), `weights` (a hash of it), `dtype`."""
        with self.file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
        return {"model": str(self.file), "weights": digest, "dtype": "float32" if self.float32 else self.kind}

    @property
    def kind(self) -> str:
        """The type of most weights, as llama.cpp calls it."""
        buffer = ctypes.create_string_buffer(128)
        library().llama_model_desc(self.model, buffer, len(buffer))
        return buffer.value.decode()

    def cells(self, size: int, exact: bool) -> Context:
        """A context of so many cells, for as many sequences as there may be."""
        return Context(self, size, exact=exact)

    def slot_bytes(self, exact: bool) -> int:
        """Bytes of a token's keys and values over all layers, and of what is stored with them."""
        context, sizes = Context(self, BLOCK, sequences=1, exact=exact), []
        for first, last in ((0, 1), (1, 17)):
            n = last - first
            context.decode(np.zeros(n), np.arange(first, last), np.zeros(n), np.zeros(n))
            sizes.append(library().llama_state_seq_get_size(context._context, 0))
        context.close()
        return -(-(sizes[1] - sizes[0]) // 16)

    def __del__(self) -> None:
        if getattr(self, "model", None):
            library().llama_model_free(self.model)


class Context:
    """Cells and what runs batches over them. `exact`: keys, values and attention in float32; otherwise llama.cpp's
    defaults, float16 and flash attention."""

    def __init__(self, weights: Weights, size: int, sequences: int = MOST_SEQUENCES, exact: bool = True) -> None:
        api = library()
        self.weights, self.size, self.sequences, self.exact = weights, -(-size // BLOCK) * BLOCK, sequences, exact
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = self.size, sequences, True
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.swa_full = True  # cells outside of a sliding window are kept: a path may still fork before them
        params.no_perf = True
        if exact:
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.type_k = params.type_v = F32
        self._context = api.llama_init_from_model(weights.model, params)
        if not self._context:
            raise UserError(f"llama.cpp makes no context of {self.size} cells: too little memory, or no such attention")
        self._memory = api.llama_get_memory(self._context)
        self._columns()

    def _columns(self) -> None:
        """A batch whose columns are numpy arrays."""
        api = library()
        self.token, self.position, self.sequence = (np.zeros(BATCH, np.int32) for _ in range(3))
        self.wanted, self._ones = np.zeros(BATCH, np.int8), np.ones(BATCH, np.int32)
        places = self.sequence.ctypes.data + 4 * np.arange(BATCH, dtype=np.uint64)
        self._places = places.astype(np.uint64)

        def pointer(column: np.ndarray, kind):
            return ctypes.cast(column.ctypes.data, ctypes.POINTER(kind))

        self._batch = api.llama_batch(
            n_tokens=0, token=pointer(self.token, api.llama_token), embd=None,
            pos=pointer(self.position, api.llama_pos), n_seq_id=pointer(self._ones, ctypes.c_int32),
            seq_id=pointer(self._places, ctypes.POINTER(api.llama_seq_id)), logits=pointer(self.wanted, ctypes.c_int8),
        )  # fmt: skip

    def decode(self, token: np.ndarray, position: np.ndarray, sequence: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Run (N,) tokens; logits (W, V) float32 after those where `wanted` (N,) is true. Copied: they stay."""
        parts = []
        for first in range(0, len(token), BATCH):
            n = min(BATCH, len(token) - first)
            for column, values in ((self.token, token), (self.position, position), (self.sequence, sequence),
                                   (self.wanted, wanted)):  # fmt: skip
                column[:n] = values[first : first + n]
            self._batch.n_tokens = n
            if status := library().llama_decode(self._context, self._batch):
                raise RuntimeError(f"llama_decode of {n} tokens failed with status {status}")
            count = int(np.count_nonzero(self.wanted[:n]))
            if count:
                logits = library().llama_get_logits(self._context)
                parts.append(np.ctypeslib.as_array(logits, (count, self.weights.vocabulary)).copy())
        return np.concatenate(parts) if parts else np.empty((0, self.weights.vocabulary), np.float32)

    def copy(self, source: int, target: int, first: int = 0) -> None:
        """The cells of one sequence from a position on belong to another one too."""
        library().llama_memory_seq_cp(self._memory, source, target, first, -1)

    def drop(self, sequence: int) -> None:
        """The sequence is empty; cells of no other one are free."""
        library().llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def last(self, sequence: int) -> int:
        """The last position of a sequence; -1: it is empty."""
        return library().llama_memory_seq_pos_max(self._memory, sequence)

    def clear(self) -> None:
        """All sequences are empty."""
        library().llama_memory_clear(self._memory, False)

    def grown(self, size: int) -> Context:
        """A context of more cells, with what this one holds; this one is closed."""
        api = library()
        length = api.llama_state_get_size(self._context)
        state = (ctypes.c_uint8 * length)()
        written = api.llama_state_get_data(self._context, state, length)
        self.close()
        larger = Context(self.weights, size, self.sequences, self.exact)
        if api.llama_state_set_data(larger._context, state, written) != written:
            raise RuntimeError("llama.cpp does not take its own state again")
        return larger

    def close(self) -> None:
        """Free the memory."""
        if getattr(self, "_context", None):
            library().llama_free(self._context)
            self._context = None

    def __del__(self) -> None:
        self.close()


def types() -> dict[str, int]:
    """The types in which llama.cpp can write weights, in its own names (q8_0, q4_k_m, ..), and their numbers."""
    from gguf import LlamaFileType  # llama.cpp's own list: it is known without llama-cpp-python

    prefix = "MOSTLY_"
    names = sorted(type_.name for type_ in LlamaFileType if type_.name.startswith(prefix))
    return {name.removeprefix(prefix).lower(): LlamaFileType[name].value for name in names}


def check_type(kind: str) -> None:
    """`UserError` for a type that llama.cpp does not know."""
    if kind.lower() not in types():
        raise UserError(f"llama.cpp writes no type {kind!r}{did_you_mean(kind, types())}")


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file with its weights in another type. `UserError` where llama.cpp does not know it, or cannot."""
    check_type(kind)
    api = library()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread = types()[kind.lower()], torch.get_num_threads()
    if api.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise UserError(f"llama.cpp cannot write these weights as {kind}; try another type, such as q8_0")
