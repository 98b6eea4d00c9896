"""Paths of models, checked before torch is imported."""

from __future__ import annotations

import pytest

from polythink.errors import UserError
from polythink.models.place import check_path


def test_a_mistyped_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "smoke" / "sft" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "stages.json").write_text("[]")
    check_path("runs/smoke")
    check_path("Qwen/Qwen3-0.6B")
    with pytest.raises(UserError, match="no model folder 'runs/smok'; did you mean 'runs/smoke'"):
        check_path("runs/smok")
    with pytest.raises(UserError, match="an id on the hub is of the form owner/name"):
        check_path("a/b/c")


def test_only_a_neighbour_that_holds_a_model_is_offered_and_the_folder_makes_no_name_closer(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "data").mkdir(parents=True)
    for missing in ("experiments/date", "experiments/smoke"):
        with pytest.raises(UserError, match=f"no model folder '{missing}', and no other in 'experiments'$"):
            check_path(missing)
    for name, mark in (("own", "config.json"), ("long", "stages.json"), ("stage", "model")):
        (tmp_path / "experiments" / name / mark).mkdir(parents=True)
    with pytest.raises(UserError, match=r"smoke'; known: experiments/long, experiments/own, experiments/stage$"):
        check_path("experiments/smoke")
    with pytest.raises(UserError, match=r"stag'; did you mean 'experiments/stage'\?$"):
        check_path("experiments/stag")
