"""The partners of the conversations in this folder."""

import pytest
from node_peers import NodePeers


@pytest.fixture(scope="session")
def node_peers(request: pytest.FixtureRequest) -> NodePeers:
    """Packages of JavaScript peers, installed once and kept in pytest's cache."""
    cache = request.config.cache
    assert cache is not None
    return NodePeers.installed(cache.mkdir("node-peers"))
