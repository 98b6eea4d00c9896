"""An arm of an experiment as a recipe, on the command line."""

from __future__ import annotations


def test_the_command_line_takes_and_lists_arms(polythink, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = polythink("train", "parallel-r1-tiny:unseen-tiered", "seed=3", "--dry-run")
    assert (status, err) == (0, "")
    assert out.startswith("name: parallel-r1-tiny/unseen-tiered\n")
    assert polythink("train", "countdown:x", "--dry-run")[0] == 2
    status, _, err = polythink("train", "parallel-r1-tiny:unsen-tiered", "--dry-run")
    assert status == 2
    assert "did you mean 'unseen-tiered'" in err
    listed = " ".join(polythink("recipes")[1].split())
    assert "each a recipe parallel-r1-tiny:ARM: grpo, grpo-easy, sft-seen" in listed
