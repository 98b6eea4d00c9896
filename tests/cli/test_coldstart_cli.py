"""`polythink data coldstart` as a user types it. What it makes of an endpoint's answers: tests/teachers."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from helpers.chat_server import ChatServer, chat, server  # noqa: F401
from helpers.coldstart import arguments, command, record
from helpers.program import run_forked
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


@pytest.mark.parametrize(
    ("options", "prompt", "blocks"),
    [
        (("--style", "sequential"), "countdown_sequential", False),
        (("--style", "parallel"), "countdown_parallel", True),
        (("--prompt", "countdown_sequential"), "countdown_sequential", False),  # the style that the prompt asks for
        (("--prompt", "none", "--style", "sequential"), "none", False),  # a prompt that leaves it open
        (("--prompt", "none"), "none", True),
    ],
)
def test_a_synthetic_teacher_does_as_the_style_and_the_prompt_say(polythink, tmp_path, options, prompt, blocks):
    line = ("data", "coldstart", "countdown-mini:train", "--limit", 8, "--teacher", "countdown", *options)
    status, _, err = polythink(*line, "--out", tmp_path / "cold")
    assert (status, err) == (0, "")
    kept = read_jsonl(tmp_path / "cold/kept.jsonl")
    assert {(row["prompt"], "<Parallel>" in row["trace"]) for row in kept} == {(prompt, blocks)}


MISTAKES = [
    ((), "needs either --endpoint URL or --teacher NAME"),
    (("--teacher", "countdown", "--endpoint", "http://h/v1"), "needs either --endpoint URL or --teacher NAME"),
    (("--teacher", "countdwn"), "no teacher 'countdwn'; did you mean 'countdown'?"),
    (("--teacher", "countdown", "--model", "m"), "--model and --key-env belong to --endpoint"),
    (("--endpoint", "http://h/v1"), "--endpoint needs --model NAME"),
    (("--endpoint", "h:1", "--model", "m"), "must be an address like http://localhost:8000/v1"),
    (("--endpoint", "http://h/v1", "--model", "m", "--key-env", "NO_SUCH_KEY"), "variable NO_SUCH_KEY"),
    (("--paths", 2, "--endpoint", "http://h/v1"), "--paths belongs to --teacher, which was not given"),
    (("--style", "parallel", "--endpoint", "http://h/v1"), "--style belongs to --teacher, which was not given"),
    (("--teacher", "countdown", "--style", "sequental"), "no style 'sequental' of demonstrations; did you mean"),
    (
        ("--teacher", "countdown", "--style", "parallel", "--prompt", "countdown_sequential"),
        "the prompt countdown_sequential asks for sequential responses, and the teacher's style is parallel",
    ),
    (
        ("--teacher", "countdown", "--style", "sequential", "--prompt", "countdown_parallel"),
        "the prompt countdown_parallel asks for parallel responses, and the teacher's style is sequential",
    ),
    (("--teacher", "attribution"), "attribution needs paths with numbers, dialect parallel_r1 has none"),
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


# ---- an endpoint that does not do what it should ----

INSTEAD_OF_A_RUN = [
    (("--extra", "top_p"), "override 'top_p' must look like key=value"),
    (("--extra", "stream=true"), "--endpoint: extra: stream cannot be given here: responses are read as a whole"),
    (("--extra", "n=4"), "extra: n cannot be given here"),
    (("--extra", "model=x"), "extra: model cannot be given here"),
    (("--extra", "x=.nan"), "extra: cannot be sent as JSON"),
    (("--key-header", "a b"), "--endpoint: key_header"),
]


def asking(server: ChatServer, out, n: int = 12) -> tuple:  # noqa: F811
    return ("data", "coldstart", "countdown-easy:train", "--limit", n, "--out", out, "--endpoint", server.base,
            "--model", "teacher", "--prompt", "none", "--concurrency", 3)  # fmt: skip


@pytest.mark.parametrize(("options", "message"), INSTEAD_OF_A_RUN)
def test_mistakes_about_the_request(polythink, server, tmp_path, options, message):  # noqa: F811
    status, _, err = polythink(*asking(server, tmp_path / "cold"), *options)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "cold").exists()
    assert not server.requests


def test_fields_of_the_request_are_left_out_and_added(polythink, server, tmp_path, monkeypatch):  # noqa: F811
    """What models of OpenAI need that refuse `max_tokens` and a temperature."""
    record(server, 12)
    refusal = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    server.acts = lambda number, request: f"error:400:{json.dumps(refusal)}" if "max_tokens" in request else None
    status, out, err = polythink(*asking(server, tmp_path / "cold"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "Unsupported parameter: 'max_tokens'" in err
    assert "--extra NAME=VALUE" in err
    options = ("--extra", "max_tokens=null", "--extra", "max_completion_tokens=700", "--extra", "temperature=null",
               "--extra", "chat_template_kwargs.enable_thinking=false")  # fmt: skip
    monkeypatch.setenv("TEACHER_KEY", "sk-1")
    status, out, _ = polythink(*asking(server, tmp_path / "cold"), *options, "--key-env", "TEACHER_KEY",
                               "--key-header", "api-key")  # fmt: skip
    assert status == 0
    assert "| countdown-easy |   12 |        12 |      100.0% |" in out
    request = server.requests[-1]
    assert {name: request.get(name) for name in ("max_completion_tokens", "chat_template_kwargs")} == {
        "max_completion_tokens": 700, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert "temperature" not in request
    assert server.headers[-1]["api-key"] == "sk-1"


def test_the_limit_of_refusals_can_be_raised(polythink, server, tmp_path):  # noqa: F811
    chosen = record(server, 20)
    for problem in chosen[:12]:
        server.plan[problem.question] = ["status:413"]
    status, out, _ = polythink(*asking(server, tmp_path / "cold", 20), "--give-up-early", 15)
    assert status == 0
    assert "error: http_413 12" in out


def test_nothing_kept_is_no_success(polythink, server, tmp_path):  # noqa: F811
    record(server, 3)
    server.acts = lambda number, request: f"text:{json.dumps(chat('I do not know'))}"
    for _ in range(2):  # the second time nothing is asked
        status, out, err = polythink(*asking(server, tmp_path / "cold", 3))
        assert status == 2
        assert "| answer: unparsed 3 |" in out
        assert err == (
            f"polythink: nothing was kept of 3: answer: unparsed 3; {tmp_path / 'cold'} holds all that came\n"
        )
    assert len(server.requests) == 3


@pytest.mark.parametrize("n", [3, 40])
def test_a_dead_endpoint_ends_soon_and_is_no_success(polythink, server, tmp_path, n):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    line = [base if word == server.base else word for word in asking(server, tmp_path / "cold", n)]
    status, _, err = polythink(*line)
    assert status == 2
    assert f"{base}/chat/completions: [Errno 111] Connection refused" in err
    assert err.count("\n") == 1
    rows = read_jsonl(tmp_path / "cold/all.jsonl")
    assert len(rows) <= 5 + 2 * 3
    assert {len(row["retried"]) for row in rows} <= {0, 1, 2}, "no long waits for a server that has never answered"
    assert not any(row["permanent"] for row in rows)


PROXIES = [{"ALL_PROXY": "socks5://127.0.0.1:1"}, {"NO_PROXY": "localhost,::1/128"}, {"HTTPS_PROXY": "foo://x"}]


@pytest.mark.slow
@pytest.mark.parametrize("environment", PROXIES)
def test_proxies_that_cannot_be_used_are_one_sentence(server, tmp_path, environment, monkeypatch):  # noqa: F811
    for name, value in {"NO_PROXY": "", **environment}.items():
        monkeypatch.setenv(name, value)
    status, out, err = run_forked(*arguments(server, tmp_path / "cold", 3))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    (name, value), *_ = environment.items()
    assert f"{name}={value}" in err
    assert not (tmp_path / "cold").exists()


@pytest.mark.slow
def test_an_empty_account_and_the_same_command_after_topping_up(server, tmp_path):  # noqa: F811
    record(server, 60)
    server.acts = lambda number, request: (
        'error:402:{"error": {"message": "Insufficient Balance"}}' if number > 10 else None
    )
    out = tmp_path / "cold"
    status, said, err = run_forked(*arguments(server, out, 60))
    assert (status, said, err.count("\n")) == (2, "", 1)
    assert "the account cannot pay for more requests (the server says: Insufficient Balance)" in err
    server.acts = lambda number, request: None
    server.asked.clear()
    done = subprocess.run(command(server, out, 60), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.asked.total() == len(server.asked) == 50
    assert len(read_jsonl(out / "kept.jsonl")) == 60
