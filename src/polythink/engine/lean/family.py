"""What the lean forward must know of a model of the Llama family, read off the loaded transformers module.

A `Family` refers to the module's very parameters: nothing is copied, so that a trainer's update is seen at once. What
the lean forward does not compute is refused (`Unfit`), never ignored: only modules of known classes with known parts
are read, without hooks, adapters, quantised or sharded weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks
from transformers.activations import ACT2FN

from polythink.models.thoughts import MODULE_NAME, Thoughts, thoughts_of


class Unfit(NotImplementedError):
    """The model is not a plain one of the Llama family; the message says what it has beside that."""


class Linear(NamedTuple):
    weight: nn.Parameter  # (out, in)
    bias: nn.Parameter | None  # (out,)


class Norm(NamedTuple):
    """x / rms(x) * (offset + weight)."""

    weight: nn.Parameter
    eps: float
    offset: float  # 1 in Gemma, whose weights are stored around 0


class Rotary(NamedTuple):
    frequencies: torch.Tensor  # (D / 2,)
    stretch: float  # factor on cosine and sine (YaRN)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder layer. Norms that a family does not have are None."""

    index: int
    before_attention: Norm
    query: Linear
    key: Linear
    value: Linear
    query_norm: Norm | None  # of each head, before rotation
    key_norm: Norm | None
    rotary: int | None  # index into `Family.rotaries`; None: queries and keys are not rotated
    scaling: float
    window: int | None  # keys further back than this are not read
    out: Linear
    after_attention: Norm | None  # of what is added to the stream (Gemma 2, 3)
    before_mlp: Norm
    gate: Linear
    up: Linear
    down: Linear
    after_mlp: Norm | None


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The model from token to logits. `embedding` and `head` are its modules; only the head may carry hooks."""

    embedding: nn.Embedding
    layers: tuple[Layer, ...]
    rotaries: tuple[Rotary, ...]
    norm: Norm  # before the head
    head: nn.Linear
    cap: float | None  # logits become cap * tanh(logits / cap)
    activation: str  # of the gate: "silu", "gelu" or "gelu_tanh"
    heads: int
    kv_heads: int
    head_dim: int
    thoughts: Thoughts | None  # its table, where it has one, is added to keys and values


@dataclass(frozen=True)
class _Kind:
    """How the classes of one family of transformers are named and what tells it from Llama."""

    prefix: str
    inner: str = "Model"
    head_norms: bool = False
    four_norms: bool = False
    offset: float = 0.0
    windows: str = ""  # "": none; "layers": by `layer_types`; "all": in every layer
    rotary_by_layer: bool = False  # one basis for each kind of layer


_KINDS = {
    "llama": _Kind("Llama"),
    "mistral": _Kind("Mistral", windows="all"),
    "qwen2": _Kind("Qwen2", windows="layers"),
    "qwen3": _Kind("Qwen3", head_norms=True, windows="layers"),
    "smollm3": _Kind("SmolLM3", windows="layers"),
    "gemma": _Kind("Gemma", offset=1.0),
    "gemma2": _Kind("Gemma2", four_norms=True, offset=1.0, windows="layers"),
    "gemma3_text": _Kind(
        "Gemma3", "TextModel", head_norms=True, four_norms=True, offset=1.0, windows="layers", rotary_by_layer=True
    ),
}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_STEADY = ("default", "linear", "llama3", "yarn")  # rotary scalings whose frequencies no forward changes
_FOUR = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def describe(model: nn.Module) -> Family:
    """The model as a `Family`; `Unfit` where it is none. Takes a quarter of a millisecond per layer."""
    return _Reader(model).family()


class _Reader:
    """Reads one model. Each `_part` checks that the module is of the class and has the parts that are known."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.config = model, model.config
        kind = _KINDS.get(getattr(self.config, "model_type", ""))
        if kind is None:
            raise Unfit(f"{self.config.model_type} is not of the Llama family")
        self.kind = kind
        self.place = f"transformers.models.{self.config.model_type.removesuffix('_text')}."
        self.thoughts = thoughts_of(model)
        for name in ("_global_forward_hooks", "_global_forward_pre_hooks"):
            if getattr(hooks, name, None):
                raise Unfit("hooks on the forward of all modules")

    def family(self) -> Family:
        model, config, kind = self.model, self.config, self.kind
        if getattr(config, "attn_logit_softcapping", None):
            raise Unfit("a soft cap on attention scores")
        if getattr(config, "use_bidirectional_attention", None):
            raise Unfit("attention that is not causal")
        self._part(model, f"{kind.prefix}ForCausalLM", {"model", "lm_head"}, {MODULE_NAME})
        inner = model.model
        self._part(inner, f"{kind.prefix}{kind.inner}", {"embed_tokens", "layers", "norm", "rotary_emb"})
        self._plain(inner.layers, nn.ModuleList)
        if len(inner.layers) != config.num_hidden_layers:
            raise Unfit(f"{len(inner.layers)} layers, of which {config.num_hidden_layers} run")
        names, rotaries = self._rotaries(inner.rotary_emb)
        attention = inner.layers[0].self_attn
        return Family(
            embedding=self._embedding(inner.embed_tokens),
            layers=tuple(self._layer(i, layer, names) for i, layer in enumerate(inner.layers)),
            rotaries=rotaries,
            norm=self._norm(inner.norm),
            head=self._head(model.lm_head),
            cap=getattr(config, "final_logit_softcapping", None),
            activation=self._activation(inner.layers[0].mlp.act_fn),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            thoughts=self.thoughts,
        )

    # --- parts

    def _layer(self, index: int, layer: nn.Module, rotaries: dict[str, int]) -> Layer:
        kind = self.kind
        norms = {"input_layernorm", "post_attention_layernorm"} | (set(_FOUR) if kind.four_norms else set())
        self._part(layer, f"{kind.prefix}DecoderLayer", {"self_attn", "mlp"} | norms)
        attention, mlp = layer.self_attn, layer.mlp
        head_norms = {"q_norm", "k_norm"} if kind.head_norms else set()
        self._part(attention, f"{kind.prefix}Attention", {f"{x}_proj" for x in "qkvo"} | head_norms)
        self._part(mlp, f"{kind.prefix}MLP", {"gate_proj", "up_proj", "down_proj", "act_fn"})
        if attention.layer_idx != index or attention.head_dim != self.model.model.layers[0].self_attn.head_dim:
            raise Unfit("layers that share keys or differ in their heads")
        if mlp.act_fn is not self.model.model.layers[0].mlp.act_fn:
            self._activation(mlp.act_fn)
        after_attention, before_mlp, after_mlp = (
            (self._norm(getattr(layer, name)) for name in _FOUR)
            if kind.four_norms
            else (None, self._norm(layer.post_attention_layernorm), None)
        )
        return Layer(
            index=index,
            before_attention=self._norm(layer.input_layernorm),
            query=self._linear(attention.q_proj),
            key=self._linear(attention.k_proj),
            value=self._linear(attention.v_proj),
            query_norm=self._norm(attention.q_norm) if kind.head_norms else None,
            key_norm=self._norm(attention.k_norm) if kind.head_norms else None,
            rotary=self._rotary_of(index, attention, rotaries),
            scaling=attention.scaling,
            window=self._window(index, attention),
            out=self._linear(attention.o_proj),
            after_attention=after_attention,
            before_mlp=before_mlp,
            gate=self._linear(mlp.gate_proj),
            up=self._linear(mlp.up_proj),
            down=self._linear(mlp.down_proj),
            after_mlp=after_mlp,
        )

    def _window(self, index: int, attention: nn.Module) -> int | None:
        """As the model's own masks have it; the attention must have been told the same."""
        windows, config = self.kind.windows, self.config
        if windows == "layers":
            kind = config.layer_types[index]
            if kind not in ("full_attention", "sliding_attention"):
                raise Unfit(f"{kind} in a layer")
            window = config.sliding_window if kind == "sliding_attention" else None
            if getattr(attention, "sliding_window", None) != window:
                raise Unfit("attention with a sliding window that it is not told of")
            return window
        return config.sliding_window if windows == "all" else None

    def _rotary_of(self, index: int, attention: nn.Module, rotaries: dict[str, int]) -> int | None:
        if self.kind.rotary_by_layer:
            return rotaries[self.config.layer_types[index]]
        return 0 if getattr(attention, "use_rope", True) else None

    def _rotaries(self, rotary: nn.Module) -> tuple[dict[str, int], tuple[Rotary, ...]]:
        """The bases, and which kind of layer has which."""
        self._part(rotary, f"{self.kind.prefix}RotaryEmbedding", set())
        names = sorted(set(self.config.layer_types)) if self.kind.rotary_by_layer else [""]
        types = [rotary.rope_type[name] for name in names] if self.kind.rotary_by_layer else [rotary.rope_type]
        found = []
        for name, kind in zip(names, types, strict=True):
            if kind not in _STEADY:
                raise Unfit(f"rotary scaling of the kind {kind!r}")
            before = f"{name}_" if name else ""
            frequencies = getattr(rotary, f"{before}inv_freq")
            if 2 * len(frequencies) != self.model.model.layers[0].self_attn.head_dim:
                raise Unfit("heads that are rotated in part")
            found.append(Rotary(frequencies, getattr(rotary, f"{before}attention_scaling")))
        return {name: i for i, name in enumerate(names)}, tuple(found)

    def _activation(self, function: nn.Module) -> str:
        name = getattr(self.config, "hidden_activation", None) or self.config.hidden_act
        if name not in _ACTIVATIONS or type(function) is not type(ACT2FN[name]):
            raise Unfit(f"the activation {name!r}")
        self._plain(function, type(function))
        return _ACTIVATIONS[name]

    def _embedding(self, module: nn.Module) -> nn.Embedding:
        scaled = f"{self.kind.prefix}TextScaledWordEmbedding"
        if type(module) is not nn.Embedding:
            self._part(module, scaled, set())
        self._plain(module, type(module), ("weight",))
        if module.max_norm is not None:
            raise Unfit("embeddings of a bounded norm")
        return module

    def _head(self, module: nn.Module) -> nn.Linear:
        """May carry hooks: whoever calls the head honours them."""
        self._plain(module, nn.Linear, ("weight", "bias"), hooked=True)
        return module

    def _linear(self, module: nn.Module) -> Linear:
        self._plain(module, nn.Linear, ("weight", "bias"))
        return Linear(module.weight, module.bias)

    def _norm(self, module: nn.Module) -> Norm:
        self._part(module, f"{self.kind.prefix}RMSNorm", set())
        self._plain(module, type(module), ("weight",))
        eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
        return Norm(module.weight, eps, self.kind.offset)

    # --- checks

    def _part(self, module: nn.Module, name: str, parts: set[str], optional: set[str] = frozenset()) -> None:
        """The class of that name in the family's own file, with these parts."""
        kind = type(module)
        if kind.__name__ != name or not kind.__module__.startswith(self.place):
            raise Unfit(f"{kind.__module__}.{kind.__name__} where {name} is known")
        found = {part for part, value in module._modules.items() if value is not None}
        if not parts <= found <= parts | optional:
            raise Unfit(f"{name} with other parts than known: {', '.join(sorted(found ^ parts))}")
        if module._parameters.keys() - {"weight"}:
            raise Unfit(f"{name} with parameters of its own: {', '.join(sorted(module._parameters))}")
        self._unhooked(module)

    def _plain(self, module: nn.Module, kind: type, parameters: tuple[str, ...] = (), hooked: bool = False) -> None:
        """Exactly of that class, with ordinary parameters."""
        if type(module) is not kind:
            raise Unfit(f"{type(module).__name__} where {kind.__name__} is known")
        for name, parameter in module._parameters.items():
            if name not in parameters or (parameter is not None and type(parameter) is not nn.Parameter):
                raise Unfit(f"a parameter {name} of {kind.__name__} of the type {type(parameter).__name__}")
        self._unhooked(module, hooked)

    def _unhooked(self, module: nn.Module, hooked: bool = False) -> None:
        """No hooks but those of the thought embeddings, which the lean forward applies itself."""
        if "forward" in module.__dict__:
            raise Unfit(f"a changed forward of {type(module).__name__}")
        for hook in () if hooked else (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if self.thoughts is None or getattr(hook, "__self__", None) is not self.thoughts:
                raise Unfit(f"a hook on {type(module).__name__}")
