"""Programs in the sandbox: what they may do, what becomes of those that do harm or cheat, and what is left of them."""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path

import pytest

from helpers.hostile import (
    BURDEN,
    CHEATS,
    HARM,
    KINDS,
    RIGHT,
    TEST,
    Hostile,
    left_processes,
    ordinary,
    program,
    strays,
    victim_folder,
)
from helpers.plain_program import run_plain
from polythink.problems import sandbox as module
from polythink.problems.sandbox import REASONS, Limits, Outcome, Sandbox, Test

SECONDS, PATIENT = 0.25, 60.0  # deadlines of programs that overrun it, and of all others
SLACK = 30.0  # seconds over the deadline until a program must have been ended, on a busy machine
MARK = "hostile-test"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder that no program may change; afterwards it is as it was, and there are no new files anywhere."""
    victim, before = victim_folder(tmp_path_factory.mktemp("victims")), strays(MARK)
    yield victim
    assert strays(MARK) == before
    assert not victim.changed()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(1, Limits(PATIENT)) as sandbox:
        yield sandbox


def run(sandbox: Sandbox, source: str, test: Test = TEST, **limits) -> Outcome:
    sandbox.limits = Limits(**{"seconds": PATIENT, **limits})
    return sandbox.run(source, test)


def check(sandbox: Sandbox, hostile: Hostile, places, **limits) -> None:
    seconds = SECONDS if "timeout" in hostile.reasons else PATIENT
    started = time.monotonic()
    outcome = run(sandbox, hostile.source, seconds=seconds, **limits)
    assert hostile.allows(outcome), outcome
    assert time.monotonic() - started < seconds + SLACK
    assert left_processes(sandbox) == []
    assert not places.changed()
    (keeper,) = [keeper for keeper in sandbox._idle.queue if keeper]
    assert os.listdir(keeper._folder) == []  # the program's working directory is gone


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_programs(sandbox: Sandbox, places, kind: str):
    check(sandbox, program(kind, MARK, places.folder, inside=len(kind) % 2 == 0), places)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*HARM, *BURDEN])
def test_hostile_programs_that_hide_it(sandbox: Sandbox, places, kind: str):
    check(sandbox, program(kind, MARK, places.folder, inside=len(kind) % 2 == 1, swallow=True), places)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this system has no filter")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_programs_where_the_kernel_has_no_filter(sandbox: Sandbox, places, kind: str):
    check(sandbox, program(kind, MARK, places.folder, inside=len(kind) % 2 == 0), places, filter=False)


def test_there_are_many_kinds():
    assert len(KINDS) == len(set(KINDS)) > 100
    assert set().union(*(program(kind, "", Path()).reasons for kind in KINDS)) == {*REASONS, ""}


def test_what_is_missing_without_a_filter_is_said_once(sandbox: Sandbox):
    module._warn_unfiltered.cache_clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert all(run(sandbox, RIGHT, filter=False).passed for _ in range(2))
    assert ["no filter for system calls" in str(warning.message) for warning in warned] == [True]


# ---- what a program is asked, and what it can answer ----


def passes(sandbox: Sandbox, source: str, *assertions: str, names: str = "f", setup: str = "", given: str = "") -> bool:
    outcome = run(sandbox, source, Test(assertions, tuple(names.split()), setup, given))
    return outcome.passed


def test_share_and_first_reason(sandbox: Sandbox):
    outcome = run(sandbox, "def f(x):\n    return [0, 1, None, 9][x]", Test(
        ("assert f(0) == 0", "assert f(2) == 4", "assert f(3) == 9", "assert f(9) == 81"), ("f",)))  # fmt: skip
    assert outcome.holds == (True, False, True, False)
    assert (outcome.reason, outcome.share, outcome.passed) == ("assertion", 0.5, False)


def test_what_is_left_undone_does_not_hold(sandbox: Sandbox):
    source = "def f(x):\n    while x == 3: pass\n    return x * x"
    outcome = run(sandbox, source, seconds=1.0)
    assert (outcome.holds, outcome.reason) == ((True, False, False), "timeout")


@pytest.mark.slow
def test_a_program_that_is_ended_has_not_ended_before(sandbox: Sandbox):
    reasons = {run(sandbox, "import time\ntime.sleep(1000)", seconds=0.1).reason for _ in range(60)}
    assert reasons == {"timeout"}


@pytest.mark.parametrize(
    "value",
    [
        None, True, -7, 2**53, -(7**400), 0.1, -0.0, float("inf"), "text \ud800 \0", b"\x00\xff", bytearray(b"a"),
        1 - 2j, (1, (2, [3])), [[], [None]], {1: "a", (2, 3): {4}}, {1, 2.5}, frozenset({"a"}), range(3, 9, 2), {},
        set(), (),
    ],
)  # fmt: skip
def test_plain_data_goes_there_and_back(sandbox: Sandbox, value):
    shown = "float('inf')" if value == float("inf") else repr(value)
    kind = f"type(f({shown})) is type({shown})"
    assert passes(sandbox, "def f(x):\n    return x", f"assert f({shown}) == {shown}\nassert {kind}")


def test_types_go_there_and_back(sandbox: Sandbox):
    source = "def f(values, kind):\n    return [v for v in values if type(v) is not kind]\ndef g(): return len"
    assert passes(sandbox, source, "assert f((4, 7.7, 1.2), int) == [7.7, 1.2]", "assert f([bool], type) == []")
    assert not passes(sandbox, source, "assert g() == len", names="g")


def test_long_numbers_go_there_and_back(sandbox: Sandbox):  # longer than Python writes in decimal
    assert passes(sandbox, "def f(x):\n    return x", "assert f(-(10 ** 5000)) == -(10 ** 5000)")


def test_types_of_the_library(sandbox: Sandbox):
    source = (
        "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
        "def f(x): return [Counter(x), defaultdict(int, a=1), OrderedDict(a=1), deque(x), Decimal('0.1'),"
        " Fraction(1, 3), namedtuple('P', 'x y')(1, 2)]"
    )
    setup = "from collections import deque\nfrom decimal import Decimal\nfrom fractions import Fraction"
    expected = "[{'a': 2}, {'a': 1}, {'a': 1}, deque('aa'), Decimal('0.1'), Fraction(1, 3), (1, 2)]"
    assert passes(sandbox, source, f"assert f('aa') == {expected}", setup=setup)


def test_objects_functions_and_iterators_stay_there(sandbox: Sandbox):
    source = (
        "class Pair:\n    def __init__(self, a, b=0): self.a, self.b = a, b\n"
        "    def sum(self): return self.a + self.b\n"
        "def total(pairs): return sum(p.sum() for p in pairs)\ndef adder(n): return lambda x: x + n\n"
        "def squares(n):\n    for i in range(n): yield i * i"
    )
    assert passes(
        sandbox, source, "assert total([Pair(1, 2), Pair(3, b=4)]) == 10",
        "p = Pair(1)\np.b = 5\nassert p.sum() == p.a + 5 == 6", "assert adder(2)(3) == 5",
        "assert list(squares(4)) == [0, 1, 4, 9]", "assert next(squares(1)) == 0",
        "assert sorted(squares(3), reverse=True)[0] == 4", names="Pair total adder squares",
    )  # fmt: skip


def test_arguments_are_changed_in_place(sandbox: Sandbox):
    source = "def f(x, **more):\n    x.sort()\n    return len(x)"
    assert passes(sandbox, source, "a = [3, 1, 2]\nassert f(a) == 3\nassert a == [1, 2, 3]")
    assert passes(sandbox, "def f(x):\n    x['a'] = 1", "d = {}\nassert f(d) is None\nassert d == {'a': 1}")


def test_exceptions_that_a_test_expects(sandbox: Sandbox):
    expects = "try:\n    f(-1)\n    fine = False\nexcept ValueError as e:\n    fine = 'small' in str(e)\nassert fine"
    assert passes(sandbox, "class Small(ValueError): pass\ndef f(x): raise Small('too small')", expects)
    assert not passes(sandbox, "def f(x): raise KeyError('too small')", expects)
    assert not passes(sandbox, "import os\ndef f(x): os._exit(0)", expects)


def test_given_code_and_a_stub_in_the_setup(sandbox: Sandbox):
    given = 'import math\ndef half(x): return x / 2\ndef f(x):\n    """The square root of half of x."""\n'
    source = "from __future__ import annotations\ndef f(x): return math.sqrt(half(x))"
    assert passes(sandbox, source, "assert f(8) == half(4)", setup=given, given=given)


@pytest.mark.parametrize("ends", ["StopIteration", "GeneratorExit", "StopAsyncIteration", "IndexError"])
@pytest.mark.parametrize(
    "assertion",
    [
        "assert all(y == 1 for y in map(f, [1, 2]))",
        "for y in map(f, [1]): assert False",
        "assert list(map(f, [1])) == []",
    ],
)
def test_an_exception_does_not_end_a_test_early(sandbox: Sandbox, ends: str, assertion: str):
    assert not passes(sandbox, f"def f(x): raise {ends}", assertion)


def test_tests_that_cannot_be_run_hold_for_nobody(sandbox: Sandbox):
    assert run(sandbox, RIGHT, Test(("assert f(2) == 4",), ("f",), "import numpy")).reason == "exception"
    outcome = run(sandbox, RIGHT, Test(("assert f(lambda: 1)", "assert f(2) == 4"), ("f",)))
    assert outcome.holds == (False, True)
    assert "cannot be handed to the program" in outcome.message


def test_the_same_program_gets_the_same_verdict(sandbox: Sandbox):
    source = "import random\ndef f(x): return (list({'a', 'b', 'c', 'd'}), random.random(), hash('x'))"
    found = set()
    for _ in range(2):
        sandbox.close()  # another keeper
        found.add(run(sandbox, source, Test(("raise Exception(f(0))",), ("f",))).message)
    assert len(found) == 1


def test_what_a_program_prints_is_kept_up_to_a_bound(sandbox: Sandbox):
    assert run(sandbox, f"print('hello')\n{RIGHT}").output == "hello\n"
    assert len(run(sandbox, f"print('x' * 100_000)\n{RIGHT}").output) == 4096


# ---- the slow twin ----


def agree(sandbox: Sandbox, source: str, seconds: float) -> None:
    limits = Limits(seconds)
    twin, outcome = run_plain(source, TEST, limits), run(sandbox, source, seconds=seconds)
    assert (outcome.holds, outcome.reason) == (twin.holds, twin.reason), source


@pytest.mark.slow
def test_verdicts_are_those_of_a_fresh_interpreter(sandbox: Sandbox):
    rng = random.Random(0)
    for source in {ordinary(rng).source for _ in range(25)}:
        agree(sandbox, source, PATIENT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["loop", "sleep", "catastrophic regex", "sum in C", "list", "bytes", "recursion", "SystemExit", "os._exit(0)"],
)
def test_verdicts_on_burdens_are_those_of_a_fresh_interpreter(sandbox: Sandbox, kind: str):
    hostile = program(kind, MARK, Path(), inside=kind != "loop")
    agree(sandbox, hostile.source, SECONDS if hostile.reasons == ("timeout",) else PATIENT)


def test_no_cheat_holds_a_single_assertion_that_it_should_not(sandbox: Sandbox):
    for kind, (source, _) in CHEATS.items():
        if "x * x" not in source:
            assert not any(run(sandbox, source, seconds=5).holds), kind
