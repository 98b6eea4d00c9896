"""The check that a .gguf file passes before the engine uses it, and how its backend is made.

There is no masked forward of its weights to compare with. So decoding is compared with itself: a path in a trace with
the same path alone in a plain text, before and after its sibling has changed; a join of one path with a plain text; and
a join of two paths with that of the same paths in the other order, and with that of others, from which it must differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from polythink.engine.backends.llama_cpp import LlamaCppBackend
from polythink.engine.chain_check import SelfCheckFailed, logprob_error, within
from polythink.engine.llama.native import Weights
from polythink.engine.step import StepBatch
from polythink.engine.tree_check import decoded_tree, tree
from polythink.errors import UserError
from polythink.models.forward import TOLERANCE, difference
from polythink.models.vocabulary import Vocabulary

# of the logits' spread. With quantised weights llama.cpp rounds what it multiplies them with to 8 bits, and one number
# that is rounded the other way reaches all that come after it; measured: 0.07
ROUNDED = 0.15
DEPENDENT = "longrope"  # a rotary scaling that is chosen by the number of cells


def llama_backend(lm: Vocabulary, fast: bool = False) -> LlamaCppBackend:
    """The checked backend of a .gguf file. `UserError` for a file or a model that it cannot run."""
    file: Path | None = getattr(lm.model, "gguf_file", None)
    if file is None:
        raise UserError(
            "the llama_cpp backend runs a .gguf file: give one (`polythink export MODEL FILE.gguf` writes a model as "
            "one), or leave the backend out"
        )
    weights = Weights(file, gpu=torch.cuda.is_available())
    refuse(lm, weights)
    backend = LlamaCppBackend(lm, weights, fast)
    try:
        check(backend)
    except SelfCheckFailed as error:
        raise UserError(f"{str(file)!r} fails the fork/join self-check and cannot be used ({error})") from error
    return backend


def refuse(lm: Vocabulary, weights: Weights) -> None:
    """`UserError` for what is known not to work."""
    name = f"{weights.file.name} ({weights.meta('general.architecture')})"
    size = lm.model.config.get_text_config().vocab_size
    if weights.recurrent or weights.encodes:
        raise UserError(
            f"{name} has recurrent layers or an encoder, which the llama_cpp backend does not run; leave the backend "
            "out, and transformers runs it"
        )
    if weights.meta(f"{weights.meta('general.architecture')}.rope.scaling.type") == DEPENDENT:
        raise UserError(
            f"{name} has rotary scaling of the kind {DEPENDENT!r}, which llama.cpp chooses by the size of its memory, "
            "so a trace would depend on its batch mates; use a model without it"
        )
    if weights.vocabulary != size:
        raise UserError(f"{name} has {weights.vocabulary} tokens, and its tokenizer {size}; convert the model again")
    if lm.settings.thoughts:
        raise UserError("llama.cpp has no place for thought embeddings; leave the backend out")


def check(backend: LlamaCppBackend) -> None:
    """Raises `SelfCheckFailed` unless decoding agrees with itself.

    `logprob_error` is then how far log-probabilities are from those of a plain text, run at once; in the fast mode, how
    far from those of the exact one.
    """
    vocabulary = backend.lm.model.config.get_text_config().vocab_size
    exact = TOLERANCE[torch.bfloat16 if backend.fast else torch.float32]
    tolerance = exact if backend.source.float32 else ROUNDED
    ids = torch.randint(vocabulary, (13,), generator=torch.Generator().manual_seed(0))
    prompt, first, second, join, other = (part.tolist() for part in ids.split([3, 3, 2, 2, 3]))
    one, two, changed, turned = (
        _decoded(backend, prompt, paths, join)
        for paths in ((first,), (first, second), (other, second), (second, first))
    )
    plain = _plain(backend, prompt + first + join)
    within("a join of one path and a plain text", torch.cat((one[1], one[2])), plain[len(prompt) :], tolerance)
    within("a path inside a trace and the same path alone", two[1], one[1], tolerance)
    alone = _plain(backend, prompt + second)[len(prompt) :]
    within("a path inside a trace and the same path alone", two[2], alone, tolerance)
    within("a path before and after its sibling changed", changed[2], two[2], tolerance)
    within("a join of two paths in either order", turned[3], two[3], tolerance)
    if min(difference(x, two[3]) for x in (one[2], changed[3])) < tolerance:
        raise SelfCheckFailed("a join does not depend on all of its paths")
    if backend.fast:
        exact = LlamaCppBackend(backend.lm, backend.source)
        pairs = [(torch.cat(two), torch.cat(_decoded(exact, prompt, (first, second), join)))]
    else:
        pairs = [(torch.cat((one[1], one[2])), plain[len(prompt) :]), (two[2], alone), (turned[3], two[3])]
    backend.logprob_error = logprob_error(*(torch.cat(column) for column in zip(*pairs, strict=True)))


def _decoded(
    backend: LlamaCppBackend, prompt: list[int], paths: Sequence[list[int]], join: list[int]
) -> list[torch.Tensor]:
    """Logits of the prompt, of each path and of the join, run as the engine does it."""
    logits = decoded_tree(backend, tree(prompt, paths, join, (0,) * len(paths)))
    return list(logits.split([len(prompt), *map(len, paths), len(join)]))


def _plain(backend: LlamaCppBackend, text: list[int]) -> torch.Tensor:
    """Logits (T, V) of a text in one segment, run at once."""
    with backend.hold():
        try:
            backend.open(0, 0, ())
            return backend.logits(StepBatch.every(text, [0] * len(text), range(len(text))))
        finally:
            backend.clear()
