"""Servers for the tests of delivery."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.notify_servers import JsonServer


@pytest.fixture
def json_server() -> Iterator[JsonServer]:
    server = JsonServer()
    yield server
    server.close()
