"""Paths of models, checked before torch is imported."""

from __future__ import annotations

import pytest

from polythink.errors import UserError
from polythink.models.place import check_path


def test_a_mistyped_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    check_path("runs/smoke")
    check_path("Qwen/Qwen3-0.6B")
    with pytest.raises(UserError, match="no model folder 'runs/smok'; did you mean 'runs/smoke'"):
        check_path("runs/smok")
    with pytest.raises(UserError, match="an id on the hub is of the form owner/name"):
        check_path("a/b/c")
