"""`polythink data coldstart` as a user types it. That it asks an endpoint: tests/problems/test_coldstart.py."""

from __future__ import annotations

import pytest

from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl


def test_the_synthetic_teacher_makes_a_table_and_data(polythink, tmp_path):
    sets = ("countdown-easy:train", "countdown-hard:train")
    command = ("data", "coldstart", *sets, "--teacher", "countdown", "--limit", 40, "--out", tmp_path / "cold")
    status, out, err = polythink(*command)
    assert (status, err) == (0, "")
    assert "| countdown-easy |" in out
    assert "100.0%" in out
    table = read_json(tmp_path / "cold/table.json")
    assert [line["problems"] for line in table] == ["countdown-easy", "countdown-hard"]
    assert [line["jobs"] for line in table] == [40, 40]
    kept = read_jsonl(tmp_path / "cold/kept.jsonl")
    assert len(kept) == sum(line["kept"] for line in table) > 40
    assert {row["prompt"] for row in kept} == {"countdown_parallel"}
    # a second time nothing is asked, and everything is as it was
    before = {path: path.read_bytes() for path in (tmp_path / "cold").iterdir()}
    assert polythink(*command) == (0, out, "")
    assert {path: path.read_bytes() for path in (tmp_path / "cold").iterdir()} == before


MISTAKES = [
    ((), "needs either --endpoint URL or --teacher NAME"),
    (("--teacher", "countdown", "--endpoint", "http://h/v1"), "needs either --endpoint URL or --teacher NAME"),
    (("--teacher", "countdwn"), "no teacher 'countdwn'; did you mean 'countdown'?"),
    (("--teacher", "countdown", "--model", "m"), "--model and --key-env belong to --endpoint"),
    (("--endpoint", "http://h/v1"), "--endpoint needs --model NAME"),
    (("--endpoint", "h:1", "--model", "m"), "must be an address like http://localhost:8000/v1"),
    (("--endpoint", "http://h/v1", "--model", "m", "--key-env", "NO_SUCH_KEY"), "variable NO_SUCH_KEY"),
    (("--teacher", "countdown", "--rule", "strikt"), "no validity rule 'strikt'; did you mean 'strict'?"),
    (("--teacher", "countdown", "--prompt", "paralell"), "no prompt 'paralell'; did you mean 'parallel'?"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_are_one_line_and_status_2(polythink, tmp_path, options, message):
    out = tmp_path / "cold"
    status, _, err = polythink("data", "coldstart", "countdown-easy:train", "--limit", 2, "--out", out, *options)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_an_unwritable_folder_and_problems_of_another_kind(polythink, tmp_path):
    (tmp_path / "file").write_text("")
    command = ("data", "coldstart", "countdown-easy:train", "--limit", 2, "--teacher", "countdown", "--out")
    status, _, err = polythink(*command, tmp_path / "file")
    assert status == 2
    assert err.startswith("polythink: cannot write ")
    (tmp_path / "math.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    out = tmp_path / "cold"
    status, _, err = polythink("data", "coldstart", tmp_path / "math.jsonl", "--teacher", "countdown", "--out", out)
    assert (status, err) == (
        2,
        "polythink: '1 + 1?' is not a countdown question; give numbers and a target, as in '9 8 5 -> 5'\n",
    )
