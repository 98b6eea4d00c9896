"""The slow twin of the sandbox: a fresh `python -I` for each program, which runs its assertions in one namespace.

For programs without tricks: this one believes what it is told.
"""

from __future__ import annotations

import json
import subprocess
import sys

from polythink.problems.sandbox import Limits, Outcome, Test

SCRIPT = """
import json, os, resource, sys
job = json.load(sys.stdin)
report = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for name, bound in (("AS", job["memory"]), ("CORE", 0), ("FSIZE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (bound, bound))
space = {"__name__": "program"}


def attempt(text, phase):
    try:
        code = compile(text, "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        return "memory" if isinstance(error, MemoryError) else phase
    try:
        exec(code, space)
    except MemoryError:
        return "memory"
    except PermissionError:
        return "forbidden"
    except AssertionError:
        return "assertion" if phase == "assertion" else "exception"
    except BaseException:
        return "exception"
    return ""


for text in (job["setup"], job["given"], job["program"]):
    reason = attempt(text, "syntax")
    if reason:
        break
for assertion in job["assertions"]:
    print(json.dumps(reason or attempt(assertion, "assertion")), file=report, flush=True)
os._exit(0)
"""


def run_plain(program: str, test: Test, limits: Limits) -> Outcome:
    """What the sandbox's `run` says of a program without tricks."""
    job = {"program": program, "setup": test.setup, "given": test.given, "assertions": test.assertions}
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    end = "killed"
    try:
        said, _ = process.communicate(json.dumps({**job, "memory": limits.memory}), timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        end = "timeout"
        process.kill()
        said, _ = process.communicate()
    reasons = [json.loads(line) for line in said.splitlines()]
    reasons += [end] * (len(test.assertions) - len(reasons))
    return Outcome(tuple(not reason for reason in reasons), next(filter(None, reasons), ""))
