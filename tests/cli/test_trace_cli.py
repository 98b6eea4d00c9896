"""`polythink trace check` and `trace show`: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from helpers.program import invoke
from polythink.cli.trace import app
from polythink.errors import UserError
from polythink.problems.extract import extract

GOOD = "so <Parallel><Path>left way</Path><Path>right way</Path></Parallel>\n<Summary>the join</Summary> the end"
ONE_PATH = "<Parallel><Path>a</Path></Parallel><Summary>s</Summary>"


def run(*arguments, width: int = 80):
    return invoke(app, *arguments, env={"COLUMNS": str(width)})


@pytest.fixture
def traces(tmp_path):
    def write(*texts, name: str = "traces.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)))
        return path

    return write


# ---- check ----


def test_check_counts_the_reasons(traces):
    result = run("check", traces(GOOD, ONE_PATH, "</Path>", ONE_PATH), "--field", "text", "--rule", "strict")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "1 of 4 traces are valid under the rule strict"
    counts = {line.split()[1]: int(line.split()[0]) for line in result.stdout.splitlines()[1:]}
    assert counts == {"too_few_paths": 2, "ok": 1, "path_not_open": 1}


def test_check_as_json(traces):
    file = traces(GOOD, ONE_PATH)
    result = run("check", file, "--field", "text", "--rule", "reference", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "file": str(file), "field": "text", "rule": "reference", "rows": 2, "valid": 1, "invalid": 1,
        "reasons": {"ok": 1, "too_few_paths": 1},
    }  # fmt: skip


def test_check_each_prints_one_json_line_a_row(traces):
    result = run("check", traces(GOOD, ONE_PATH, "</Path>"), "--field", "text", "--rule", "stack", "--each")
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"row": 0, "valid": True, "reason": "ok"},
        {"row": 1, "valid": True, "reason": "ok"},
        {"row": 2, "valid": False, "reason": "not_open"},
    ]


def test_the_output_goes_to_stdout_while_stderr_is_a_terminal(traces):
    """A progress bar on the terminal must not take the lines that are written to a file."""
    command = ["check", str(traces(GOOD, ONE_PATH)), "--field", "text", "--each", "--json"]
    terminal, stderr = os.openpty()
    try:
        program = [sys.executable, "-c", "from polythink.cli.trace import app; app()", *command]
        result = subprocess.run(program, stdout=subprocess.PIPE, stderr=stderr, timeout=120, check=False)
    finally:
        os.close(stderr)
        os.close(terminal)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 3


def test_each_and_json_together_end_with_the_counts(traces):
    *rows, counts = run("check", traces(GOOD, GOOD), "--field", "text", "--each", "--json").stdout.splitlines()
    assert len(rows) == 2
    assert json.loads(counts)["reasons"] == {"ok": 2}


def test_check_ends_with_0_if_all_are_valid(traces):
    result = run("check", traces(GOOD, "plain"), "--field", "text")
    assert result.exit_code == 0
    assert "2 of 2 traces are valid under the rule strict" in result.stdout


@pytest.mark.parametrize(("rule", "valid", "status"), [("strict", 239, 1), ("stack", 241, 0), ("reference", 241, 0)])
def test_check_reads_the_real_parquet_file(shared_data, rule, valid, status):
    file = shared_data / "parallel_gsm8k.parquet"
    result = run("check", file, "--field", "trace_compact", "--rule", rule, "--json")
    counts = json.loads(result.stdout)
    assert result.exit_code == status
    assert (counts["rows"], counts["valid"], counts["reasons"]["ok"]) == (241, valid, valid)
    assert sum(counts["reasons"].values()) == 241


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--field", "text", "--rule", "strickt"), "no validity rule 'strickt'; did you mean 'strict'?"),
        (("--field", "txt"), "row 0 of .* has no field 'txt'; did you mean 'text'?"),
        (("--field", "id"), "row 0 of .*: field 'id' is of type int; a trace must be a string"),
        (("--field", "text", "--dialect", "parallel-r1"), "no dialect 'parallel-r1'; did you mean 'parallel_r1'?"),
    ],
)
def test_wrong_names_are_user_errors(traces, arguments, words):
    with pytest.raises(UserError, match=re.escape(words).replace(r"\.\*", ".*")):
        run("check", traces(GOOD), *arguments)


def test_a_row_that_is_not_text_or_not_json_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(UserError, match=r"row 1 of .*: field 'text' is null"):
        run("check", file, "--field", "text")
    file.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        run("check", file, "--field", "text")
    file.write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        run("check", file, "--field", "text")


def test_a_missing_file_and_an_unknown_kind_of_file(tmp_path):
    for command in (("check", "--field", "text"), ("show",)):
        with pytest.raises(UserError, match="no file"):
            run(command[0], tmp_path / "none.jsonl", *command[1:])
        with pytest.raises(UserError, match=r"must end in \.jsonl or \.parquet"):
            run(command[0], tmp_path / "none.txt", *command[1:])


def test_the_field_must_be_named(traces):
    result = CliRunner().invoke(app, ["check", str(traces(GOOD))])
    assert result.exit_code == 2
    assert "--field" in result.output


# ---- show ----


def test_show_draws_the_paths_side_by_side_and_the_summary_below(traces):
    lines = run("show", traces("plain", GOOD), "--row", 1).stdout.splitlines()
    assert lines[0].strip() == "so"
    assert lines[-1].strip() == "the end"
    ways = next(line for line in lines if "left way" in line)
    assert "right way" in ways
    names = next(line for line in lines if "path 1" in line)
    assert names.index("path 2") == ways.index("right way")
    assert "├" in lines[lines.index(ways) + 1]
    assert "┴" in lines[lines.index(ways) + 1]  # the paths join
    assert any("the join" in line for line in lines[lines.index(ways) :])


def test_show_puts_paths_below_one_another_where_there_is_no_room(traces):
    block = "<Parallel>" + "".join(f"<Path>p{i}</Path>" for i in range(1, 9)) + "</Parallel><Summary>s</Summary>"
    file = traces(block)
    wide = run("show", file, width=300).stdout.splitlines()
    assert sum("path " in line for line in wide) == 1
    narrow = run("show", file, width=60).stdout.splitlines()
    assert sum("path " in line for line in narrow) == 4
    assert max(map(len, narrow)) <= 60
    assert all(any(f"p{i} " in line for line in narrow) for i in range(1, 9))


def test_show_draws_nested_blocks_inside_their_path(traces):
    inner = "<Parallel><Path>in one</Path><Path>in two</Path></Parallel>\n<Summary>inner join</Summary>"
    output = run("show", traces(GOOD.replace("left way", f"left {inner} way")), width=140).stdout
    line = next(line for line in output.splitlines() if "in one" in line)
    assert "in two" in line
    assert line.count("│") == 6  # three lines of the inner table, three of the outer one


def test_show_survives_the_deepest_nesting_on_a_narrow_terminal(traces):
    text = "x"
    for _ in range(20):
        text = f"<Parallel><Path>{text}</Path><Path>b</Path></Parallel><Summary>s</Summary>"
    assert run("show", traces(text), width=40).exit_code == 0


def test_show_prints_text_as_it_is_but_no_control_characters(traces):
    output = run("show", traces("[red]x[/red] \x1b[31my \ud800 " + GOOD)).stdout
    assert "[red]x[/red]" in output
    assert "\x1b" not in output
    assert "\N{REPLACEMENT CHARACTER}[31my" in output


def test_show_writes_the_drawing_to_a_file(traces, tmp_path):
    assert run("show", traces(GOOD), "--svg", tmp_path / "trace.svg").exit_code == 0
    assert (tmp_path / "trace.svg").read_text().count(">path ") == 2
    segments = [{"kind": "main", "block": -1, "path": 0, "text": "so 1"}]
    (tmp_path / "samples.jsonl").write_text(json.dumps({"question": "0 + 1", "text": "so 1", "segments": segments}))
    assert run("show", tmp_path / "samples.jsonl", "--field", "text", "--svg", tmp_path / "row.svg").exit_code == 0
    assert ">0 + 1<" in (tmp_path / "row.svg").read_text()


def test_show_finds_the_column_with_a_block(shared_data):
    file = shared_data / "parallel_gsm8k.parquet"
    row = pyarrow.parquet.read_table(file)["trace"][3].as_py()
    output = run("show", file, "--row", 3).stdout
    assert row.strip().splitlines()[-1] in output


def test_show_says_what_is_wrong(traces):
    file = traces(GOOD, "plain", ONE_PATH)
    with pytest.raises(UserError, match="has no row 3; it has 3, counted from 0"):
        run("show", file, "--row", 3)
    with pytest.raises(UserError, match=r"no column of row 1 of .* holds a block; name one with --field: id, text"):
        run("show", file, "--row", 1)
    with pytest.raises(
        UserError, match=r"line 1, column 25: .* the block opened at line 1, column 1: .*1 of at least 2"
    ):
        run("show", file, "--row", 2)
    assert run("show", file, "--row", 1, "--field", "text").stdout.strip() == "plain"


def test_show_passes_over_a_column_with_a_reasoning_models_tags(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {"question": "<think> what </think>", "trace": "<think1>left</think1><summary>the join</summary>"}
    file.write_text(json.dumps(row))
    assert "the join" in run("show", file, "--dialect", "parathinker").stdout


def test_an_answer_in_the_summary_is_not_lost_by_conversion(tmp_path):
    block = "<think1>a</think1><think2>b</think2><summary>{}</summary>"
    before = [block.format(r"so \boxed{3}"), block.format(r"so \boxed{3}") + r" no, \boxed{4}", block.format("none")]
    before += [block.format("Final Answer: 5"), block.format("Final Answer: 5}")]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"trace": text}) + "\n" for text in before))
    found = run("convert", source, "--field", "trace", "--dialect", "parathinker", "--to", "parallel_r1", "--out", out)
    after = [json.loads(line)["trace"] for line in out.read_text().splitlines()]
    assert [extract(text) for text in after] == ["3", "4", None, "5"]
    assert [text.partition("</Summary>")[2] for text in after] == [
        r" \boxed{ 3 }",
        r" no, \boxed{4}",
        "",
        r" \boxed{ 5 }",
    ]
    assert found.stdout.split()[-2:] == ["1", "answer"]
    back = run("convert", out, "--field", "trace", "--to", "parathinker", "--out", source)
    assert back.exit_code == 0
    assert json.loads(source.read_text().splitlines()[0])["trace"] == before[0] + r" \boxed{ 3 }"


def test_traces_are_converted_and_what_cannot_be_is_counted(tmp_path):
    nested = (
        "<Parallel><Path>a</Path><Path><Parallel><Path>b</Path><Path>c</Path></Parallel>\n<Summary>s</Summary></Path>"
    )
    rows = [
        {"id": 1, "trace": "x<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>y"},
        {"id": 2, "trace": "<Parallel><Path>a</Path>"},
        {"id": 3, "trace": nested + "</Parallel>\n<Summary>t</Summary>"},
        {"id": 4, "trace": "x<Parallel><Path>a</Path><Path>a <summary></Path></Parallel>\n<Summary>s</Summary>y"},
        {"id": 5, "trace": "x<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary> a </think3>"},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    found = run("convert", source, "--field", "trace", "--to", "parathinker", "--out", out)
    assert found.exit_code == 1
    assert "1 of 5 traces written" in found.stdout
    assert [line.split() for line in found.stdout.splitlines()[1:]] == [
        ["2", "tag_in_text"], ["1", "cut_in_block"], ["1", "nested"]
    ]  # fmt: skip
    (kept,) = map(json.loads, out.read_text().splitlines())
    assert kept == {"id": 1, "trace": "x<think1>a</think1><think2>b</think2><summary>s</summary>y"}
    back = run("convert", out, "--field", "trace", "--dialect", "parathinker", "--to", "parallel_r1", "--out", source)
    assert back.exit_code == 0
    assert json.loads(source.read_text()) == rows[0]
    assert run("check", out, "--field", "trace", "--dialect", "parathinker").exit_code == 0
