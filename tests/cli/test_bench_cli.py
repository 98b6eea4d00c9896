"""`polythink bench decode`: its last line, and what it says of mistakes."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest

from polythink.bench import machine


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    """The whole of a small benchmark."""
    from polythink.cli.app import app

    file = tmp_path_factory.mktemp("bench") / "result.json"
    patch = pytest.MonkeyPatch()
    patch.setattr(machine, "COPY", {"cpu": 1 << 22})  # the true sizes are ten times the work of everything else
    patch.setattr(machine, "PRODUCT", {"cpu": 128})
    command = (
        "bench decode tiny --cases 1x1,1x4,3xragged --prompt 24 --steps 4 --rounds 1 --threads 1 --device cpu "
        "--backends auto,padded --peers generate,continuous --json"
    )
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        app([*command.split(), "--out", str(file)], standalone_mode=False)
    patch.undo()
    last = json.loads(out.getvalue().splitlines()[-1])
    assert json.loads(file.read_text()) == last
    assert "x floor" in out.getvalue()
    assert "1x4@24" in err.getvalue()
    return last


def test_every_case_has_every_contender_and_nobody_was_left_out(result) -> None:
    assert [case["case"] for case in result["cases"]] == ["1x1@24", "1x4@24", "3xragged@24"]
    assert [case["branches"] for case in result["cases"]] == [1, 4, 6]
    names = {"engine lean", "engine padded", "generate", "continuous"}
    for case in result["cases"]:
        assert (set(case["contenders"]), case["skipped"]) == (names, {})


def test_numbers_fit_together(result) -> None:
    for case in result["cases"]:
        assert 0 < case["floor_ms"] <= case["floor_separate_ms"]
        for name, found in case["contenders"].items():
            assert 0 < found["ms_q25"] <= found["ms"] <= found["ms_q75"]
            assert found["over_floor"] == pytest.approx(found["ms"] / case["floor_ms"])
            assert found["branches"] == case["branches"], "a path ended early: a tag was sampled"
            assert found["tokens_per_s"] == pytest.approx(1000 * case["branches"] / found["ms"])
            assert found["steps"] == 4
            ours = name.startswith("engine")
            assert (found["kv_bytes"] is not None) == ours
            assert (found["join_steps"] is not None) == (ours and case["alone"])
            if ours:
                assert found["kv_bytes"] >= case["kv_needed"] * 0.9  # summaries are not begun, the last tokens not run


def test_ratios_are_those_of_the_cases(result) -> None:
    one, four = result["cases"][:2]
    assert {w["contender"] for w in result["widths"]} == set(one["contenders"])
    for width in result["widths"]:
        name = width["contender"]
        assert (width["paths"], width["prompt"]) == (4, 24)
        assert width["ratio"] == pytest.approx(four["contenders"][name]["ms"] / one["contenders"][name]["ms"])
        assert width["over_floor_ratio"] == pytest.approx(width["ratio"] / width["floor_ratio"])
        assert 1 <= width["floor_ratio"] <= 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cases", "8y8"], "no case '8y8'"),
        (["--cases", "0x1"], "has 0 traces"),
        (["--cases", "1x0"], "has 0 paths"),
        (["--cases", ","], "names no case"),
        (["--peers", "lama.cpp"], "did you mean 'llama.cpp'"),
        (["--dtype", "int8"], "no dtype 'int8'"),
        (["--backends", "flet"], "did you mean 'flat'"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--out", "result.txt"], "must end in .json"),
        (["--backends", ",", "--peers", "none"], "nothing to time"),
        (["--steps", "0"], "steps"),
    ],
)
def test_a_mistake_is_one_sentence(polythink, arguments, said) -> None:
    status, out, err = polythink("bench", "decode", "tiny", *arguments)
    assert status == 2
    assert said in err
    assert not out


def test_a_model_that_is_not_there(polythink) -> None:
    status, _, err = polythink("bench", "decode", "0.6", "--peers", "none")
    assert status == 2
    assert "did you mean '0.6b'" in err
