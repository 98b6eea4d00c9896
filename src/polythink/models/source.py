"""A model's files, read by transformers: from a folder, the hub, or a .gguf file, whose weights are de-quantised."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils import quantization_config

from polythink.errors import UserError
from polythink.models import gguf
from polythink.models.gguf_header import read_header, read_rotary, settings_in
from polythink.models.gguf_rotary import is_scaled, scaled_parameters
from polythink.models.place import GGUF, ModelPlace, check_packages, check_path, gguf_files, model_folder, place_of
from polythink.models.settings import SETTINGS_FILE, ModelSettings, in_short, read_settings

log = logging.getLogger(__name__)
GgufConfig = getattr(quantization_config, "GgufConfig", None)  # of releases that can leave weights packed
READING = (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError)
# what transformers' reader of .gguf files raises besides, where a file is cut or lacks what a model needs
READING_GGUF = (*READING, AttributeError, IndexError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Source:
    """Where a model is read from. `offline`: a name on the hub is read from the hub's cache alone."""

    path: str  # as it was given
    place: ModelPlace
    offline: bool = False

    @classmethod
    def of(cls, path: str) -> Source:
        """The source that the path names. `UserError` for one that is not there, or that holds no model."""
        check_path(path)
        check_packages(path)
        place = place_of(path)
        if place.local and place.file is None:
            place = ModelPlace(str(model_folder(Path(place.folder))))
        return cls(path, place, offline=not place.local and _only_cached(path, place))

    def __post_init__(self) -> None:
        if self.place.local and not (Path(self.place.folder) / (self.place.file or "config.json")).is_file():
            found = gguf_files(self.place.folder)
            hint = f"it holds {found[0]!r}: give that file" if found else (
                "give a model's own folder, such as RUN/sft/model"
            )  # fmt: skip
            raise UserError(f"the folder {self.path!r} has no config.json, so it is no model; {hint}")

    def side_file(self, name: str) -> Path | None:
        """One of polythink's own files beside the weights, None where there is none. A .gguf file has none.

        A file of the hub is absent where the hub says so, or has said so to the cache. Where the cache alone can be
        asked and does not know, that is logged; a download that fails is a `UserError`.
        """
        if self.place.file:
            return None
        if self.place.local:
            return file if (file := Path(self.place.folder) / name).is_file() else None
        try:
            return Path(hf_hub_download(self.place.folder, name, local_files_only=self.offline))
        except LocalEntryNotFoundError as error:  # neither on this machine, nor was the hub's answer that it has none
            if try_to_load_from_cache(self.place.folder, name) is _CACHED_NO_EXIST:
                return None
            if not self.offline:
                raise UserError(f"cannot fetch {name} of the model {self.path!r}: {in_short(error)}") from error
            log.warning(
                "%s: the cache holds no %s, and the hub cannot be asked whether the model has one; it is read as a "
                "model without it", self.path, name,
            )  # fmt: skip
            return None
        except EntryNotFoundError:
            return None

    def settings(self) -> ModelSettings | None:
        """What the model's `polythink.json`, or its .gguf file, says of its use; None: neither does."""
        if self.place.file:
            return settings_in(self.gguf_file)
        file = self.side_file(SETTINGS_FILE)
        return None if file is None else read_settings(file)

    def described(self) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig, GenerationConfig]:
        """Tokenizer, configuration, and how transformers would generate: what can be known without the weights."""
        with self._reading():
            tokenizer = self._tokenizer()
            config = AutoConfig.from_pretrained(self.place.folder, **self._how)
            if self.place.file:
                gguf.not_quantised(config)
                for name, value in self._passed_over(to_run=False).items():
                    setattr(config, name, value)
            generation = self._generation(config)
        _give_end(tokenizer, generation)
        return tokenizer, config, generation

    def _generation(self, config: PreTrainedConfig) -> GenerationConfig:
        if self.place.file is None:
            with suppress(OSError):  # no such file: what transformers makes of the shape
                return GenerationConfig.from_pretrained(self.place.folder, local_files_only=self.offline)
        generation = GenerationConfig.from_model_config(config)
        if self.place.file:
            gguf.end_as_said(generation, self._header())
        return generation

    def read(self, dtype: str | None) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        """Tokenizer and model, in that type; None: as saved, float32 for a .gguf file."""
        dtype = dtype or ("float32" if self.place.file else "auto")
        with self._reading():
            tokenizer = self._tokenizer()
            # attention: transformers takes SDPA where the model has it
            model = AutoModelForCausalLM.from_pretrained(
                self.place.folder, dtype=dtype, **self._how, **self._passed_over(), **self._whole()
            )
        if self.place.file:
            gguf.not_quantised(model)
            gguf.end_as_said(model.generation_config, self._header())
            model.name_or_path = model.config.name_or_path = self.path
        _give_end(tokenizer, model.generation_config)
        return tokenizer, model

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        header = self._header() if self.place.file else None  # first: it says what is wrong with a file that is none
        if header is not None and (own := gguf.own_tokenizer(header)):
            return own
        tokenizer = AutoTokenizer.from_pretrained(self.place.folder, **self._how)
        if header is not None:
            gguf.split_as_said(tokenizer, header, self.path)
        return tokenizer

    def _header(self) -> dict[str, Any]:
        return read_header(self.gguf_file)

    @property
    def gguf_file(self) -> Path | None:
        """The .gguf file on this machine; None where the source is none."""
        folder, file = self.place
        if file is None:
            return None
        return (
            Path(folder) / file
            if self.place.local
            else Path(hf_hub_download(folder, file, local_files_only=self.offline))
        )

    @property
    def _how(self) -> dict[str, Any]:
        return {"local_files_only": self.offline} | ({"gguf_file": self.place.file} if self.place.file else {})

    def _passed_over(self, to_run: bool = True) -> dict[str, Any]:
        """What a .gguf file says of the configuration, and transformers' reader does not take from it.

        `UserError` for a rotary scaling that transformers has no word for, unless the model is not run here.
        """
        if not self.place.file:
            return {}
        header, tensors = self._header(), read_rotary(self.gguf_file)
        found = gguf.passed_over(header)
        if not (found or tensors or is_scaled(header)):
            return {}
        config = AutoConfig.from_pretrained(self.place.folder, **self._how)
        try:
            found |= scaled_parameters(
                header, tensors, found.get("rope_parameters", getattr(config, "rope_parameters", None))
            )
        except UserError as error:
            if to_run:
                raise UserError(f"cannot load a model from {self.path!r}: {error}") from None
        return {name: value for name, value in found.items() if hasattr(config, name)}

    def _whole(self) -> dict[str, Any]:
        """What makes transformers de-quantise all weights, which newer releases would leave packed."""
        if self.place.file is None or GgufConfig is None:
            return {}
        return {"quantization_config": GgufConfig(dequantize=True)}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        errors, once = (READING_GGUF, gguf.read_once) if self.place.file else (READING, nullcontext)
        try:
            with quietly(), once():
                yield
        except errors as error:
            raise UserError(f"cannot load a model from {self.path!r}: {in_short(error)}") from error


def _give_end(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> None:
    """Give a tokenizer that names no end token the one with which transformers would end a response."""
    ends = getattr(generation, "eos_token_id", None)
    end = next(iter(ends), None) if isinstance(ends, list) else ends
    if tokenizer.eos_token_id is None and end is not None and 0 <= end < len(tokenizer):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)


def _only_cached(path: str, place: ModelPlace) -> bool:
    """Whether to read a model of the hub from the cache alone. `UserError` for a name that holds no model.

    transformers retries for most of a minute before it says that the hub cannot be reached, hence one request first.
    """
    try:
        info = HfApi().model_info(place.folder, timeout=5)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"no model folder {path!r}, and the hub has no model of that name (or a private one; log in to use it)"
        ) from error
    except Exception as error:  # which one depends on the HTTP client of the installed huggingface_hub
        if isinstance(try_to_load_from_cache(place.folder, place.file or "config.json"), str):
            return True
        raise UserError(
            f"no model folder {path!r}, and the hub cannot be asked for a model of that name ({in_short(error)})"
        ) from error
    _check_files(path, place, [file.rfilename for file in getattr(info, "siblings", None) or ()])
    return False


def _check_files(path: str, place: ModelPlace, files: list[str]) -> None:
    """`UserError` for a model of the hub without the .gguf file, or with nothing but such files where none is named."""
    there = sorted(name for name in files if name.lower().endswith(GGUF))
    named = ", ".join(f"{place.folder}:{name}" for name in there[:8])
    if place.file and files and place.file not in files:
        raise UserError(f"the hub's {place.folder} has no file {place.file!r}; it has {named or 'no .gguf file'}")
    if not place.file and there and "config.json" not in files:
        raise UserError(f"the hub's {path!r} holds .gguf files alone; name one of them: {named}")


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars of transformers, which it draws even where there is no terminal."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
