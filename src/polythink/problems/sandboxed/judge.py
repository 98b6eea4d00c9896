"""The side of the tests: it runs the hidden assertions, with stand-ins for the functions of the program.

Calling a stand-in sends the arguments to the program's process and returns what comes back, built anew as plain data
(`values`). Assertions are thus evaluated where the program is not: it cannot see them, nor change what `==`, `assert`
or `isinstance` do, nor report a success. What is no plain data stays there and is a `Remote` here.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from polythink.problems.sandboxed.values import Closed, Link, TooLong, decode, encode

# Raised by a stand-in, these would end a loop or a generator of a test early, as if all had been compared.
ENDS = (StopIteration, StopAsyncIteration, GeneratorExit)
ENDED = ("killed", "the program ended before it answered")
BAD_REPLY = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class ProgramError(Exception):
    """The program raised something that is no exception of Python's own: SystemExit, for example."""


class Gone(BaseException):
    """(reason, message): the program has ended, or gives no answer that can be read. Not for a test to catch."""


def judge(task: dict[str, Any], report: Link, link: Link) -> None:
    """Run `setup` and each of `assertions` in one namespace that holds stand-ins for `names`; report each as it ends.

    A report is [index of the test, or -1 if the program or the setup failed, reason ("" if it holds), message].
    """
    program = Connection(link)
    namespace: dict[str, Any] = {"__name__": "tests"}
    stand_ins = {name: Remote(program, name) for name in task["names"]}
    failed = _run(program.load, program)
    if not failed[0]:
        namespace |= stand_ins
        failed = _run(lambda: exec(compile(task["setup"], "<setup>", "exec", dont_inherit=True), namespace), program)
    if failed[0]:
        report.send([-1, *failed])
        return
    namespace |= stand_ins  # once more: the setup may hold a stub of what is asked for
    for index, test in enumerate(task["assertions"]):
        report.send([index, *_run(lambda test=test: exec(compile(test, "<test>", "exec"), namespace), program)])


def _run(step: Any, program: Connection) -> tuple[str, str]:
    """Reason and message of what went wrong in that step; two empty texts if nothing did."""
    program.failed = ""
    try:
        step()
    except Gone as gone:
        return gone.args
    except AssertionError as error:
        return program.failed or "assertion", _described(error)
    except MemoryError as error:
        return "memory", _described(error)
    except BaseException as error:  # a test may raise anything, SystemExit too
        return program.failed or "exception", _described(error)
    return "", ""


class Connection:
    """Requests to the program. `failed`: why its last answer was an exception, "" if it was none."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.failed = ""

    def load(self) -> None:
        """Wait until the program's code has run; raises what it raised."""
        self._reply(ends=False)

    def ask(self, do: str, target: str | int, *arguments: Any, **named: Any) -> Any:
        """Have the program do it: the value that comes back, or the exception that it raised."""
        request = {
            "do": do, "target": target, "arguments": [encode(value, _number_of) for value in arguments],
            "named": {name: encode(value, _number_of) for name, value in named.items()},
        }  # fmt: skip
        try:
            self._link.send(request)
        except OSError:
            raise Gone(*ENDED) from None
        reply = self._reply(ends=do == "next")
        try:
            for place, data in dict(reply.get("changed", {})).items():
                _change(arguments[int(place)], decode(data, self._remote))
            return decode(reply["value"], self._remote)
        except BAD_REPLY as error:
            raise Gone("killed", f"its reply is no value: {_described(error)}") from None

    def _reply(self, ends: bool) -> dict[str, Any]:
        self.failed = ""
        try:
            reply = dict(self._link.receive())
            if "failed" not in reply:
                return reply
            reason, names, message = str(reply["failed"]), list(reply["names"]), str(reply["message"])
            kinds = [kind for name in names if (kind := _exception(name, ends))]
        except Closed:
            raise Gone(*ENDED) from None
        except TooLong as error:
            raise Gone("output", str(error)) from None
        except BAD_REPLY as error:
            raise Gone("killed", f"its reply cannot be read: {_described(error)}") from None
        self.failed = next((why for name, why in REASONS.items() if name in names), reason)
        raise kinds[0](message) if kinds else ProgramError(f"{names[:1]} {message}")

    def _remote(self, number: int) -> Remote:
        if not isinstance(number, int):
            raise ValueError("no number")
        return Remote(self, number)


REASONS = {"MemoryError": "memory", "PermissionError": "forbidden"}  # exceptions that have a reason of their own


class Remote:
    """What stays in the program: a function or class of its module, an object, an iterator.

    It equals itself alone: a program does not decide what is equal to its values.
    """

    def __init__(self, program: Connection, target: str | int) -> None:
        object.__setattr__(self, "_ask", program.ask)
        object.__setattr__(self, "_target", target)  # a name of the module, or the number of a value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", self._target, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return self._ask("get", self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self._target, name, value)

    def __iter__(self) -> Iterator[Any]:
        return self._ask("iter", self._target)

    def __next__(self) -> Any:
        return self._ask("next", self._target)


def _number_of(value: Any) -> Any:
    if isinstance(value, Remote):
        return value._target
    raise TypeError(f"{type(value).__name__} cannot be handed to the program: it is no plain data")


def _change(old: Any, new: Any) -> None:
    """Let an argument that the program changed in its process be changed here."""
    if type(old) is not type(new):
        raise TypeError("an argument came back as another type")
    if isinstance(old, list | bytearray):
        old[:] = new
    else:  # a dict, a set, a deque
        old.clear()
        old.extend(new) if hasattr(old, "extend") else old.update(new)


def _exception(name: Any, ends: bool) -> type[Exception] | None:
    """The exception of Python's own of that name that may be raised in a test, if there is one."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, UnicodeError | ExceptionGroup):
        return None  # those two are not made from a message alone
    return None if issubclass(kind, ENDS) and not ends else kind


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
