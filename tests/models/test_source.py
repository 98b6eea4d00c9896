"""Where a model's files come from, and what is known of those that are not there."""

from __future__ import annotations

import pytest
from huggingface_hub import _CACHED_NO_EXIST
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from polythink.errors import UserError
from polythink.models import source as source_module
from polythink.models.place import ModelPlace
from polythink.models.source import Source


@pytest.mark.parametrize("said", ["by the cache", "by the hub", "by nobody"])
def test_settings_of_the_hub_are_absent_only_where_the_hub_says_so(monkeypatch, caplog, said):
    """Transformers fetches no `polythink.json`: a cache may hold all but it, and the model's mode would be lost."""

    def fetch(folder, name, local_files_only):
        if said == "by the hub":
            raise EntryNotFoundError("404")
        raise LocalEntryNotFoundError("no route to host")

    monkeypatch.setattr(source_module, "hf_hub_download", fetch)
    known = _CACHED_NO_EXIST if said == "by the cache" else None
    monkeypatch.setattr(source_module, "try_to_load_from_cache", lambda name, file: known)
    place = ModelPlace("some/model")
    assert Source("some/model", place, offline=True).side_file("polythink.json") is None
    assert ("some/model: the cache holds no polythink.json, and the hub cannot be asked" in caplog.text) == (
        said == "by nobody"
    )
    if said == "by nobody":
        with pytest.raises(UserError, match=r"cannot fetch polythink.json of the model 'some/model': no route"):
            Source("some/model", place).side_file("polythink.json")
