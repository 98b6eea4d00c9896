"""docs/serve.md: its commands work as written, and it names each field that is ignored or refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from polythink.models.build import ModelConfig, new_tokenizer
from polythink.problems.tasks.table import get_task
from polythink.serve.chat import ChatRequest
from polythink.serve.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from polythink.serve.fields import Steering
from polythink.serve.responses import ResponsesRequest

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
COMMANDS = re.findall(r"```bash\n(curl .*?)```", PAGE, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_written(server, command):
    assert "http://127.0.0.1:8000" in command
    here = command.replace("http://127.0.0.1:8000", server.url).replace("curl", "curl -sSf --noproxy '*'")
    answer = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60, check=True).stdout
    if "stream" in command:
        assert answer.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(answer)["usage"]["total_tokens"] > 0


def test_the_model_of_make_smoke_knows_the_words():
    """Its vocabulary is closed: a request of other words is refused."""
    tokenizer = new_tokenizer(ModelConfig(tokenizer="countdown"), "parallel_r1", get_task("countdown").words)
    prompts = re.findall(r'"(?:content|input)": "([^"]*)"', PAGE)
    assert len(prompts) == len(COMMANDS) + 1
    assert all(tokenizer.unk_token_id not in tokenizer(prompt)["input_ids"] for prompt in prompts)
    assert tokenizer.unk_token_id in tokenizer("Make 24")["input_ids"]


REQUESTS = [CompletionRequest, ChatRequest, ResponsesRequest]


@pytest.mark.parametrize("request_model", REQUESTS)
def test_the_page_names_every_field_of_a_request(request_model):
    assert [name for name in request_model.model_fields if f"`{name}`" not in PAGE] == []


def test_the_fields_of_completions_have_a_row_each():
    section = PAGE.partition("## Fields of completions\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert named == CompletionRequest.model_fields.keys() - Steering.model_fields.keys()
    default = section.partition("| field")[0]
    assert f"at most {DEFAULT_MAX_TOKENS} tokens" in " ".join(default.split())
    for name, field in Steering.model_fields.items():  # what asks for blocks
        (value,) = [{"join_when": "all", "mode": "sequential"}.get(name, True if field.annotation is bool else 1)]
        asks = CompletionRequest(prompt="a", **{name: value}).steers
        assert asks == (f"`{name}`" in default.partition("only")[0]), name


@pytest.mark.parametrize("request_model", REQUESTS)
def test_the_page_names_the_fields_that_mean_nothing_or_are_refused(request_model):
    assert all(f"`{name}`" in PAGE for name in request_model.ignored | set(request_model.refused))


def test_the_page_says_which_api_ignores_a_field():
    found = {"completions": set(), "chat": set(), "responses": set()}
    for by, names in re.findall(r"^- by ([a-z ]+): (.*?)(?=^- |\n\n)", PAGE, re.DOTALL | re.MULTILINE):
        for api in found if by == "all three" else by.split(" and "):
            found[api] |= set(re.findall(r"`([a-z_]+)`", names.partition("and a message's")[0]))
    assert found["completions"] == CompletionRequest.ignored
    assert found["chat"] == ChatRequest.ignored
    assert found["responses"] == ResponsesRequest.ignored | {"metadata"}  # which it says again


def test_the_page_names_the_fields_that_say_how_a_trace_is_drawn():
    assert all(f"`{name}`" in PAGE for name in Steering.model_fields)
