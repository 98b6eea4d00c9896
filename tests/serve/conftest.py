"""A server of a tiny model that thinks, for the tests of what it answers."""

from __future__ import annotations

import pytest

from helpers.followed import thinker
from helpers.served import served


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with served(thinker, tmp_path_factory.mktemp("thinker"), max_num_seqs=8, max_choices=16) as running:
        yield running
        assert "Traceback" not in running.stderr.read_text()


@pytest.fixture(scope="session")
def client(server):
    with server.client() as opened:
        yield opened
