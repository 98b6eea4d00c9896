"""How transformers calls a model: the cache under either of its names, and no keyword lost in silence.

The library named the cache `past_key_values` up to 5.23 and names it `cache` since. A forward that takes the other name
and puts the rest into `**kwargs` would read the last token alone, as if nothing stood before it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields

from transformers.modeling_outputs import CausalLMOutputWithPast

CACHE_NAMES = ("cache", "past_key_values")
# The name under which the installed version gives the cache and reads it in outputs.
CACHE_NAME = next(name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)})


def library_call(forward: Callable) -> Callable:
    """Decorate a forward that has a `cache`: it is taken under both names, and an unknown keyword is a `TypeError`.

    An unknown keyword that is None asks for nothing and is left out.
    """
    known = inspect.signature(forward).parameters
    assert "cache" in known, forward

    @functools.wraps(forward)
    def called(self, *args, **kwargs):
        if (older := kwargs.pop("past_key_values", None)) is not None:
            if kwargs.pop("cache", None) is not None:
                raise TypeError("both `cache` and `past_key_values` are given, two names of one argument; give one")
            kwargs["cache"] = older
        unknown = [name for name in kwargs if name not in known]
        if asked := [name for name in unknown if kwargs[name] is not None]:
            raise TypeError(
                f"{type(self).__name__} has no argument {', '.join(map(repr, asked))}, so it would not heed it; "
                f"leave it out. There are: {', '.join(name for name in known if name != 'self')}"
            )
        return forward(self, *args, **{name: value for name, value in kwargs.items() if name in known})

    return called
