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
    assert result.stdout.splitlines()[0] == (
        "1 of 4 traces are valid under the rule strict, 3 with a block (dialect parallel_r1, by the tags)"
    )
    counts = {line.split()[1]: int(line.split()[0]) for line in result.stdout.splitlines()[1:]}
    assert counts == {"too_few_paths": 2, "ok": 1, "path_not_open": 1}


def test_check_as_json(traces):
    file = traces(GOOD, ONE_PATH)
    result = run("check", file, "--field", "text", "--rule", "reference", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "file": str(file), "field": "text", "rule": "reference", "rows": 2, "valid": 1, "invalid": 1,
        "dialect": "parallel_r1", "with_block": 2, "reasons": {"ok": 1, "too_few_paths": 1},
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
    title, *lines = run("show", traces("plain", GOOD), "--row", 1).stdout.splitlines()
    assert title == "row 1, column text (dialect parallel_r1, by the tags)"
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


def test_show_writes_no_drawing_under_a_name_of_something_else(traces, tmp_path):
    with pytest.raises(UserError, match=r"trace\.png: the name must end in \.svg"):
        run("show", traces(GOOD), "--svg", tmp_path / "trace.png")
    linked = tmp_path / "linked.svg"
    linked.symlink_to(source := traces(GOOD))
    with pytest.raises(UserError, match=r"is the file that is read, .*; give another --svg"):
        run("show", source, "--svg", linked, "--overwrite")


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
    assert run("show", file, "--row", 1, "--field", "text").stdout.splitlines()[1:] == ["plain"]


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
    back = run("convert", out, "--field", "trace", "--to", "parathinker", "--out", source, "--overwrite")
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
    back = run("convert", out, "--field", "trace", "--to", "parallel_r1", "--out", source, "--overwrite")
    assert back.exit_code == 0
    assert json.loads(source.read_text()) == rows[0]
    assert run("check", out, "--field", "trace", "--dialect", "parathinker").exit_code == 0


# ---- files that are there ----

NUMBERED = "so <think3>left</think3><think1>right</think1><summary>join</summary> end"


def convert(source, out, *more):
    return run("convert", source, "--field", "text", "--to", "parathinker:4", "--out", out, *more)


@pytest.mark.parametrize("kind", ["same", "spelling", "symlink", "hardlink"])
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_conversion_never_writes_over_its_own_input(traces, tmp_path, kind, more):
    source = traces(GOOD)
    before, out = source.read_bytes(), tmp_path / "other.jsonl"
    if kind == "symlink":
        out.symlink_to(source)
    elif kind == "hardlink":
        out.hardlink_to(source)
    else:
        (tmp_path / "sub").mkdir()
        out = source if kind == "same" else tmp_path / "sub" / ".." / source.name
    with pytest.raises(UserError, match="is the file that is read"):
        convert(source, out, *more)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == sorted({source.name, out.name})


def test_an_existing_file_is_replaced_only_when_asked(traces, tmp_path):
    source, out = traces(GOOD), tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"out\.jsonl exists; give another --out, or add --overwrite"):
        convert(source, out)
    assert out.read_text() == "mine"
    assert convert(traces(ONE_PATH[:20], name="cut.jsonl"), out, "--overwrite").exit_code == 1
    assert out.read_text() == "mine", "no row could be written"
    assert convert(source, out, "--overwrite").exit_code == 0
    assert "<think1>left way</think1>" in out.read_text()
    drawing = tmp_path / "trace.svg"
    drawing.write_text("mine")
    with pytest.raises(UserError, match=r"trace\.svg exists; give another --svg, or"):
        run("show", source, "--svg", drawing)
    assert run("show", source, "--svg", drawing, "--overwrite").exit_code == 0
    assert "drawn to" in run("show", source, "--svg", tmp_path / "new.svg").stdout


def test_nothing_is_written_where_nothing_can_be(traces, tmp_path):
    out = tmp_path / "out.jsonl"
    result = convert(traces("<Parallel>", GOOD[:30]), out)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"0 of 2 traces written to {out}, which is not made")
    assert not out.exists()
    for name, words in (("out.txt", r"must end in \.jsonl"), ("traces.jsonl/out.jsonl", "is not a folder")):
        with pytest.raises(UserError, match=words):
            convert(traces(GOOD), tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        convert(traces(GOOD), tmp_path / "folder.jsonl", "--overwrite")


# ---- the dialect ----


def test_the_dialect_is_found_by_the_tags_and_said(traces, tmp_path):
    file = traces(NUMBERED, NUMBERED.replace("think3", "think40"), "plain")
    found = run("check", file, "--field", "text")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[0] == (
        "3 of 3 traces are valid under the rule strict, 2 with a block (dialect parathinker:40, by the tags)"
    )
    title, *_ = run("show", file).stdout.splitlines()
    assert title == "row 0, column text (dialect parathinker, by the tags)"
    done = run("convert", file, "--field", "text", "--to", "parallel_r1", "--out", tmp_path / "out.jsonl")
    assert done.exit_code == 0
    assert "3 of 3 traces written" in done.stdout
    assert "2 with a block (dialect parathinker:40, by the tags, to parallel_r1)" in done.stdout
    texts = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(text.count("<Path>") == 2 for text in texts[:2])
    assert "think" not in "".join(texts)


@pytest.mark.parametrize(
    ("text", "named"), [(NUMBERED, "parallel_r1"), (GOOD, "parathinker"), (GOOD, "parathinker:64")]
)
def test_a_dialect_that_disagrees_with_all_tags_is_refused(traces, tmp_path, text, named):
    file, out = traces(text, "plain", text), tmp_path / "out.jsonl"
    other = "parathinker" if named == "parallel_r1" else "parallel_r1"
    words = f"no text of .* holds a block of {named}, and [12] hold the tags of {other}: add --dialect {other}"
    for command in (("check", file), ("convert", file, "--to", "parallel_r1", "--out", out)):
        with pytest.raises(UserError, match=words):
            run(*command, "--field", "text", "--dialect", named)
    with pytest.raises(UserError, match=words):
        run("show", file, "--dialect", named)
    assert not out.exists()


def test_single_traces_in_another_dialect_are_counted_as_such(traces, tmp_path):
    file = traces(GOOD, NUMBERED, GOOD, "plain")
    found = run("check", file, "--field", "text")
    assert found.exit_code == 1
    assert [line.split() for line in found.stdout.splitlines()[1:]] == [["3", "ok"], ["1", "foreign_tags"]]
    done = convert(file, tmp_path / "out.jsonl")
    assert done.exit_code == 1
    assert "1  foreign_tags" in done.stdout
    assert "think3" not in (tmp_path / "out.jsonl").read_text()


def test_a_column_without_blocks_is_not_fine(traces, tmp_path):
    file = traces("plain", "text about <summary> and <think>")
    result = run("check", file, "--field", "text", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["with_block"] == 0
    assert "no trace in the column 'text' has a block: nothing was checked" in result.stderr
    with pytest.raises(UserError, match="holds a block: there is nothing to convert"):
        convert(file, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("bad", [r'{"text": "\ud83d"}', '{"text": ' + "[" * 3000 + "]" * 3000 + "}", '{"text": 5}'])
def test_a_row_that_cannot_be_used_is_named_before_anything_is_printed(traces, tmp_path, bad):
    file = traces(*[GOOD] * 3)
    file.write_text(file.read_text() + bad + "\n")
    for command in (("check", "--each"), ("convert", "--to", "parathinker", "--out", tmp_path / "out.jsonl")):
        with pytest.raises(UserError, match=r"traces\.jsonl, line 4") as caught:
            run(command[0], file, "--field", "text", *command[1:])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_show_prefers_a_column_that_parses(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Begin with <Parallel> and write <Path>.", "text": GOOD}))
    assert run("show", file).stdout.startswith("row 0, column text (")
