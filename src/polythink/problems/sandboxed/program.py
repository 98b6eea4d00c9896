"""The side of the program: it runs a model's code and answers calls of its functions. Nothing here can be trusted.

The process is confined (`keeper.confine`) before the code is even compiled. Of the tests it only ever sees the
arguments of one call after the other; what it does to this module, to builtins or to its pipe changes what it answers,
and the answers are judged elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import ModuleType
from typing import Any

from polythink.problems.sandboxed.values import Closed, Link, TooLong, decode, encode

NAME = "program"  # of the module; not __main__: a guarded main does not run
MUTABLE = ("dict", "set", "deque", "bytearray")  # tags of arguments that a call may change, besides lists


def serve(sources: list[str], link: Link) -> None:
    """Run the texts of code in one module, say how that went, and answer requests until the other side closes."""
    module = ModuleType(NAME)
    sys.modules[NAME] = module
    phase = "syntax"
    try:
        codes = [compile(source, "<program>", "exec", dont_inherit=True) for source in sources]
        phase = "exception"
        for code in codes:
            exec(code, module.__dict__)
        reply: dict[str, Any] = {"loaded": True}
    except BaseException as error:  # SystemExit and the like too: an end of the program is no success
        reply = _failure(error, phase)
    held: list[Any] = []  # what is not plain data, by number: objects of the program's classes, functions, iterators
    while True:
        _flush()
        try:
            _send(reply, link)
            request = link.receive()
        except (Closed, OSError):
            os._exit(0)
        try:
            reply = _answer(request, module, held)
        except BaseException as error:
            reply = _failure(error, "exception")


def _send(reply: dict[str, Any], link: Link) -> None:
    try:
        link.send(reply)
    except TooLong as error:
        link.send(_failure(error, "output"))


def _answer(request: dict[str, Any], module: ModuleType, held: list[Any]) -> dict[str, Any]:
    """Do what is asked: `call` a function (of the module by its name, or one that is held), `get` or `set` an
    attribute, `iter` or `next`."""

    def hold(value: Any) -> int:
        held.append(value)
        return len(held) - 1

    def find(target: str | int) -> Any:
        if isinstance(target, int):
            return held[target]
        if target not in module.__dict__:
            raise NameError(f"name {target!r} is not defined")
        return module.__dict__[target]

    subject, given = find(request["target"]), request["arguments"]
    arguments = [decode(item, find) for item in given]
    named = {name: decode(value, find) for name, value in request["named"].items()}
    if request["do"] != "call":
        action = {"get": getattr, "set": setattr, "iter": iter, "next": next}[request["do"]]
        return {"value": encode(action(subject, *arguments), hold)}
    value = encode(subject(*arguments, **named), hold)
    after = {str(i): new for i, old in enumerate(given) if _mutable(old) and (new := encode(arguments[i], hold)) != old}
    return {"value": value, "changed": after}


def _mutable(data: Any) -> bool:
    return isinstance(data, list) or (isinstance(data, dict) and next(iter(data)) in MUTABLE)


def _failure(error: BaseException, phase: str) -> dict[str, Any]:
    """The name of the exception's type and its message. Both may be the program's own, so they may raise too."""
    names, message = ["Exception"], ""
    with contextlib.suppress(BaseException):
        names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        message = str(error)[:200]
    return {"failed": phase, "names": names, "message": message}


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # it may be the program's own stream, or closed
            stream.flush()
